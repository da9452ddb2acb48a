"""What a run will need, before anything is built: parameters, FLOPs, time, memory per GPU.

    python run_train.py --preset planned --dry-run

The model is built on the meta device, where tensors have shapes and no content. One pass of the
real loss, forward and backward, runs over such tensors, and what lives at the same time is counted:
so nothing here is a formula that the code may have left behind.

Memory of a training step (bytes per parameter in float32): 4 for weights, 4 for gradients, 4 for
Muon's momentum or 8 for AdamW's two moments; then what the forward pass keeps for the backward
pass, which grows with the micro-batch; then what only lives for a moment. Newton-Schulz has its
moment when the pass is over, so the larger of the two counts.

Source: Samyam Rajbhandari et al., "ZeRO: Memory Optimizations Toward Training Trillion Parameter
Models", 2020, for the parts and how they are shared out.
"""

from __future__ import annotations

import weakref
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cached_property
from typing import NamedTuple

import torch
from torch import Tensor, nn
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from picolm_lib import attention
from picolm_lib.config import PicoConfig
from picolm_lib.loss import CHUNK_ROWS
from picolm_lib.model import PicoLM, count_parameters
from picolm_lib.muon import MuonAdamW, parameter_groups

FLOAT = 4  # bytes of a float32: weights, gradients and optimizer state


class Pass(NamedTuple):
    """Bytes of one forward and backward pass, beside weights and gradients."""

    saved: int
    """Kept for the backward pass when the forward pass ends: activations, the weights' copies in
    16 bits, and the output layer's gradient, which loss.py computes ahead."""
    forward: int
    """The most that lives at once in the forward pass, such as a chunk of logits beside all that is
    saved."""
    backward: int
    """The most in the backward pass."""

    @property
    def work(self) -> int:
        """What lives for a moment, at the worst one."""
        return max(self.forward, self.backward) - self.saved


@dataclass(frozen=True)
class Memory:
    """Bytes on one GPU."""

    weights: int
    gradients: int
    optimizer: int
    sharing: int
    """DDP's buckets, or what FSDP gathers."""
    activations: int
    work: int
    step: int
    """Of the optimizer's step."""

    @property
    def total(self) -> int:
        """The most at once: Newton-Schulz comes when the pass is over."""
        stays = self.weights + self.gradients + self.optimizer
        return stays + max(self.sharing + self.activations + self.work, self.step)


class Plan:
    """Counts for one model.

    Args:
        config: the model.
        dtype: of the matrix products.
    """

    def __init__(self, config: PicoConfig, dtype: torch.dtype = torch.bfloat16) -> None:
        self.config, self.dtype = config, dtype
        with torch.device("meta"):
            self.model = PicoLM(config)
        self.parameters = count_parameters(self.model)
        self._passes: dict[int, Pass] = {}

    @cached_property
    def optimizer(self) -> int:
        """Bytes of the optimizer's state: one momentum of Muon's, two moments and a count of
        AdamW's."""
        return sum(FLOAT * (p.numel() if group["kind"] == "muon" else 2 * p.numel() + 1)
                   for group in parameter_groups(self.model) for p in group["params"])

    @cached_property
    def step_work(self) -> int:
        """Bytes that live for a moment in the optimizer's step: updates and Newton-Schulz of all
        hidden matrices, or the denominators of AdamW, which a GPU computes all together."""
        with _fake():
            groups = parameter_groups(_without_content(self.model))
            muon = MuonAdamW([g for g in groups if g["kind"] == "muon"], dtype=self.dtype)
            for parameter in (p for group in muon.param_groups for p in group["params"]):
                parameter.grad = torch.empty_like(parameter)
            muon.step()                                              # makes its state
            with Alive() as alive:
                muon.step()
        others = sum(p.numel() for g in groups if g["kind"] == "adamw" for p in g["params"])
        return max(alive.peak, FLOAT * others)

    def one_pass(self, sequences: int) -> Pass:
        """A pass over a micro-batch of this many sequences.

        Two small ones are counted. All sizes are a constant and so much per sequence, once there
        are enough rows for three of loss.py's chunks, so the others follow (within half a percent,
        since a last chunk may be a part of one).
        """
        small = -(-3 * CHUNK_ROWS // self.config.max_seq_len)
        if sequences <= 2 * small:
            return self._count(sequences)
        one, two = self._count(small), self._count(2 * small)
        steps = (sequences - small) / small
        return Pass(*(round(a + steps * (b - a)) for a, b in zip(one, two, strict=True)))

    def _count(self, sequences: int) -> Pass:
        if sequences not in self._passes:
            with _fake(), kernels_of_a_gpu():
                self._passes[sequences] = count_pass(_without_content(self.model), sequences,
                                                     self.dtype)
        return self._passes[sequences]

    def memory(self, gpus: int, sharded: bool, sequences: int) -> Memory:
        """Memory of each of several GPUs.

        Args:
            gpus: N.
            sharded: FSDP2; if not, DDP, or nothing of both on a single GPU.
            sequences: of a micro-batch, on each GPU.
        """
        share = gpus if sharded else 1
        size, one = FLOAT * self.parameters, self.one_pass(sequences)
        sharing = self._gathered() if sharded and gpus > 1 else size if gpus > 1 else 0
        return Memory(-(-size // share), -(-size // share), -(-self.optimizer // share),
                      sharing, one.saved, one.work, -(-self.step_work // share))

    def _gathered(self) -> int:
        """The root's weights (embedding, output layer), two blocks, and gradients of root and block
        before they are shared out, all in float32."""
        blocks = sorted(count_parameters(block) for block in self.model.blocks)[-2:]
        root = self.parameters - sum(count_parameters(block) for block in self.model.blocks)
        return FLOAT * (2 * root + sum(blocks) + blocks[-1])

    def fits(self, limit: float, gpus: int, sharded: bool, sequences: int) -> int:
        """The largest micro-batch whose memory is at most `limit` bytes.

        Returns:
            `sequences` or a half, a quarter, ... of it, since micro-batches divide a batch; 0 where
            even one sequence is too much.
        """
        while sequences and self.memory(gpus, sharded, sequences).total > limit:
            sequences //= 2
        return sequences


def count_pass(model: PicoLM, sequences: int, dtype: torch.dtype) -> Pass:
    """Runs one pass of a model that has gradients already, as from an earlier micro-batch.

    Args:
        model: on the CPU, where the dtype of a GPU's autocast works too. Its tensors may be fake.
    """
    for parameter in model.parameters():
        parameter.grad = torch.empty_like(parameter)
    tokens = torch.zeros(sequences, model.config.max_seq_len, dtype=torch.long)
    saved: dict[int, torch.UntypedStorage] = {}
    owned = {parameter.untyped_storage()._cdata for parameter in model.parameters()}

    def keep(tensor: Tensor) -> Tensor:
        storage = tensor.untyped_storage()
        if storage._cdata not in owned:
            saved[storage._cdata] = storage
        return tensor

    with Alive() as alive:
        with (torch.autograd.graph.saved_tensors_hooks(keep, lambda tensor: tensor),
              torch.autocast("cpu", dtype, enabled=dtype != torch.float32)):
            loss = model.loss(tokens, tokens)
        kept = sum(storage.nbytes() for storage in saved.values())
        saved.clear()
        forward, alive.peak = alive.peak, alive.now
        loss.backward()
    return Pass(kept, forward, alive.peak)


class Alive(TorchDispatchMode):
    """Bytes of the storages that were made under it: those that live, and the most at once."""

    def __init__(self) -> None:
        super().__init__()
        self.now, self.peak = 0, 0
        self._known: set[int] = set()

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        before = {leaf.untyped_storage()._cdata for leaf in tree_leaves((args, kwargs or {}))
                  if isinstance(leaf, Tensor)}
        result = func(*args, **(kwargs or {}))
        for leaf in tree_leaves(result):
            if isinstance(leaf, Tensor):
                storage = leaf.untyped_storage()
                if storage._cdata not in before | self._known:
                    self._known.add(storage._cdata)
                    self.now += storage.nbytes()
                    weakref.finalize(storage, self._gone, storage._cdata, storage.nbytes())
        self.peak = max(self.peak, self.now)
        return result

    def _gone(self, key: int, size: int) -> None:
        self._known.discard(key)
        self.now -= size


@contextmanager
def kernels_of_a_gpu(grouped: bool = True) -> Iterator[None]:
    """Lets attention choose as on a GPU: always scaled_dot_product_attention.

    Its kernel for CPUs keeps what FlashAttention and the memory-efficient kernel keep: queries,
    keys, values, output and one number per row of scores; never the T x T scores.

    Args:
        grouped: whether heads share keys and values. Below compute capability 8.0 they are copied
            for each head first, and the copies are saved in place of the fused qkv: 0.6% more for
            pico, less for planned, so the plan leaves that out.
    """
    short, takes = attention.SHORT, attention.takes_grouped_kv
    attention.SHORT, attention.takes_grouped_kv = 0, lambda _: grouped
    try:
        yield
    finally:
        attention.SHORT, attention.takes_grouped_kv = short, takes


def _fake():
    """Tensors made within have a shape, a dtype and a device, and no content."""
    from torch._subclasses.fake_tensor import FakeTensorMode

    return FakeTensorMode()


def _without_content(meta: PicoLM) -> PicoLM:
    """A model on the CPU, as far as fake tensors are anywhere."""
    with torch.device("meta"):
        model = PicoLM(meta.config)
    for module in model.modules():
        for name, parameter in module._parameters.items():
            if parameter is not None:
                module._parameters[name] = nn.Parameter(torch.empty(parameter.shape, device="cpu"))
    return model
