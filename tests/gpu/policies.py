"""What the checks share: precisions, models and data in two sizes, and how much may differ.

A result is compared with that of a CPU in float32 by the length of their difference, relative to
the length of the latter. How large may it be? In 16 bits each product is summed in float32 and then
rounded, which costs half an epsilon of relative accuracy; a pass of twelve blocks rounds hundreds
of times, at random, and norms keep the errors from growing. Measured on a CPU, against float64, for
pico: 1.6 epsilons for the logits, 2 for Newton-Schulz, 5 for the worst gradient of a parameter. In
float32 every addition of a product is rounded: there it was 11, 20 and 31. `Policy.output` and
`Policy.gradient` allow several times as much, for kernels that add in another order. A TF32
product, with its 10 bits in place of 23, is off by thousands of float32's epsilons.
"""

from __future__ import annotations

import argparse
import copy
import gc
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
import torch.nn.attention
from helpers import bpe
from torch import Tensor
from torch.nn.attention import SDPBackend

from picolm_lib.config import PicoConfig, TrainConfig
from picolm_lib.data.token_file import TokenCounts, TokenFile
from picolm_lib.device import Precision, choose_precision
from picolm_lib.model.fast import kernels_of_a_gpu
from picolm_lib.model.picolm import PicoLM
from picolm_lib.train.trainer import Trainer

Row = dict[str, Any]


@dataclass(frozen=True)
class Policy:
    """A precision, and the kernels that go with it."""

    name: str
    dtype: torch.dtype
    of_a_t4: bool = False

    @property
    def output(self) -> float:
        """How far a result may be from that of a CPU in float32."""
        return torch.finfo(self.dtype).eps * (64 if self.dtype == torch.float32 else 8)

    @property
    def gradient(self) -> float:
        """How far a gradient may be."""
        return self.output * (4 if self.dtype == torch.float32 else 2)

    @property
    def option(self) -> str:
        """As an option of TrainConfig."""
        return str(self.dtype).removeprefix("torch.")

    def precision(self) -> Precision:
        """On the GPU."""
        return choose_precision("cuda", self.option)

    @contextmanager
    def kernels(self) -> Iterator[None]:
        """Those that a T4 has: K and V are copied for every head, and there is no FlashAttention,
        which needs compute capability 8.0."""
        if not self.of_a_t4:
            yield
            return
        with (kernels_of_a_gpu(grouped=False), torch.nn.attention.sdpa_kernel(
                [SDPBackend.EFFICIENT_ATTENTION, SDPBackend.MATH])):
            yield


POLICIES = (Policy("float32", torch.float32), Policy("bfloat16", torch.bfloat16),
            Policy("float16 of a T4", torch.float16, of_a_t4=True))
CPU = Precision(torch.device("cpu"), torch.float32, "the reference")


def forget() -> int:
    """Gives back the GPU's memory that nobody needs, and begins to look for a new peak.

    Returns:
        The bytes that are still allocated; 0 without a GPU.
    """
    gc.collect()
    if not torch.cuda.is_available():
        return 0
    torch.cuda.empty_cache()
    torch.cuda.reset_peak_memory_stats()
    return torch.cuda.memory_allocated()


def compared(check: str, policy: Policy, difference: float, tolerance: float, **more: Any) -> Row:
    """A row of what differs by at most `tolerance`."""
    return {"check": check, "policy": policy.name, "passed": bool(difference <= tolerance),
            "difference": difference, "tolerance": tolerance, **more}


def distance(found: Tensor, wanted: Tensor) -> float:
    """|found - wanted| / |wanted|, of all numbers together."""
    found, wanted = (tensor.detach().cpu().double() for tensor in (found, wanted))
    if torch.equal(found, wanted):  # zeros, too
        return 0.0
    return (torch.linalg.vector_norm(found - wanted) / torch.linalg.vector_norm(wanted)).item()


def farthest(found: dict[str, Tensor], wanted: dict[str, Tensor]) -> tuple[float, str]:
    """The largest distance of two tensors of the same name, and that name."""
    distances = [(distance(found[name], wanted[name]), name) for name in wanted]
    # NaN is not larger than anything, and yet the worst.
    return max(distances, key=lambda pair: (pair[0] != pair[0], pair[0]))


def model_config(options: argparse.Namespace, **changes: Any) -> PicoConfig:
    """pico, or what a test has time for."""
    small = {"vocab_size": 300, "max_seq_len": 32, "n_layers": 2, "d_model": 32, "n_heads": 4,
             "multiple_of": 8}
    return PicoConfig(**{**(small if options.small else {}), **changes})


def random_model(config: PicoConfig, seed: int = 1) -> PicoLM:
    """A model on the CPU whose every weight matters: a new one has zeros and ones that hide what
    they are multiplied with."""
    model, generator = PicoLM(config), torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            noise = torch.randn(parameter.shape, generator=generator)
            if "norm" in name:
                parameter.copy_(1 + 0.2 * noise)
            else:
                parameter.copy_(noise * (0.1 if name.endswith("bias") else
                                         parameter.shape[-1]**-0.5))
    return model


def random_tokens(config: PicoConfig, sequences: int, seed: int = 2) -> tuple[Tensor, Tensor]:
    """(B, T) inputs and (B, T) targets, on the CPU."""
    rows = torch.randint(config.vocab_size, (sequences, config.max_seq_len + 1),
                         generator=torch.Generator().manual_seed(seed))
    return rows[:, :-1].contiguous(), rows[:, 1:].contiguous()


def token_files(config: PicoConfig, windows: int) -> dict[str, TokenFile]:
    """Tokens of which some are more frequent than others, so that there is something to learn."""
    draw = np.random.default_rng(3)
    files = {}
    for split, number in (("train", windows), ("validation", 2)):
        size = number * config.max_seq_len + config.max_seq_len + 1
        ids = (config.vocab_size * draw.random(size)**4).astype(np.uint16)
        files[split] = TokenFile(ids, TokenCounts(1, 4 * size, size))
    return files


def new_trainer(config: PicoConfig, steps: int = 10, folder: Any = None,
                model: PicoLM | None = None, **changes: Any) -> Trainer:
    """A run of so many steps on such tokens, and prompts of a tokenizer that has 300 of them.

    Args:
        model: it is copied.
    """
    train = TrainConfig(**{"max_tokens": 0, "max_steps": steps, "batch_size": 2, "device": "cuda",
                           "prompt": "The", "evals": 1, "eval_tokens": config.max_seq_len,
                           **changes})
    files = token_files(config, windows=3 * train.batch_size)
    return Trainer(config, train, bpe(), files, folder, show=False, model=copy.deepcopy(model))


def settled_scale(config: PicoConfig, policy: Policy, **changes: Any) -> float:
    """A scale of the loss with which no step of float16 will be skipped: a GPU's skipped steps
    would leave it with other batches than the CPU."""
    trainer = new_trainer(config, dtype=policy.option, **changes)
    while trainer.progress.step < 2:
        trainer.step()
    return trainer.scaler.get_scale() / 16


def set_scale(trainer: Trainer, scale: float) -> None:
    """Sets the scale of the loss; 0 leaves it as it is."""
    if scale:
        trainer.scaler.load_state_dict({**trainer.scaler.state_dict(), "scale": scale})
