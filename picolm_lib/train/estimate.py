"""The memory that a training step will need on each GPU, before anything is built.

    picolm estimate --preset planned

One pass of the real loss, forward and backward, runs over fake tensors, which have shapes and no
content, and what is allocated at the same time is counted. So no formula can fall behind the code.

A step needs, in bytes per float32 parameter: 4 for weights, 4 for gradients, 4 for Muon's momentum
or 8 for AdamW's two moments; then what the forward pass saves for the backward pass, which grows
with the micro-batch; then temporary tensors, of the pass or of Newton-Schulz, whichever are more.

Source: Samyam Rajbhandari et al., "ZeRO: Memory Optimizations Toward Training Trillion Parameter
Models", 2020, for the parts and how they are sharded.
"""

from __future__ import annotations

import weakref
from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from picolm_lib.config import PicoConfig
from picolm_lib.model.fast import kernels_of_a_gpu, rows_of_logits
from picolm_lib.model.picolm import PicoLM, count_parameters
from picolm_lib.train.muon import MuonAdamW, parameter_groups

FLOAT = 4  # bytes of a float32: weights, gradients and optimizer state


class Pass(NamedTuple):
    """Bytes of one forward and backward pass, beside weights and gradients."""

    saved: int
    """Saved for the backward pass when the forward pass ends: activations, the weights' copies in
    16 bits, and the output layer's gradient, which loss.py computes ahead."""
    forward: int
    """The peak of the forward pass, such as a chunk of logits beside all that is saved."""
    backward: int
    """The peak of the backward pass."""

    @property
    def work(self) -> int:
        """Temporary tensors at the peak."""
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
        """The peak: Newton-Schulz comes when the pass is over."""
        persistent = self.weights + self.gradients + self.optimizer
        return persistent + max(self.sharing + self.activations + self.work, self.step)


class MemoryEstimate:
    """The memory of one model's training step.

    Args:
        config: the model.
        dtype: of the matrix products.
        loss: of a model, tokens and targets.
    """

    def __init__(self, config: PicoConfig, dtype: torch.dtype = torch.bfloat16,
                 loss: Callable[[PicoLM, Tensor, Tensor], Tensor] = PicoLM.loss) -> None:
        self.config, self.dtype, self.loss = config, dtype, loss
        with torch.device("meta"):
            self.model = PicoLM(config)
        self.parameters = count_parameters(self.model)
        self._passes: dict[int, Pass] = {}

    @cached_property
    def optimizer(self) -> int:
        """Bytes of its state: Muon's momentum, or AdamW's two moments and a count."""
        return sum(FLOAT * (p.numel() if group["kind"] == "muon" else 2 * p.numel() + 1)
                   for group in parameter_groups(self.model) for p in group["params"])

    @cached_property
    def step_work(self) -> int:
        """Bytes of temporary tensors in the optimizer's step: updates and Newton-Schulz of all
        hidden matrices, or the denominators of AdamW, which a GPU computes all at once."""
        with FakeTensorMode():
            groups = parameter_groups(_without_content(self.model))
            muon = MuonAdamW([g for g in groups if g["kind"] == "muon"], dtype=self.dtype)
            for parameter in (p for group in muon.param_groups for p in group["params"]):
                parameter.grad = torch.empty_like(parameter)
            muon.step()  # allocates its state
            with AllocationTracker() as tracker:
                muon.step()
        others = sum(p.numel() for g in groups if g["kind"] == "adamw" for p in g["params"])
        return max(tracker.peak, FLOAT * others)

    def one_pass(self, sequences: int) -> Pass:
        """A pass over a micro-batch of this many sequences.

        Two small ones are counted and the others extrapolated: from three of loss.py's chunks on,
        all sizes grow linearly, up to half a percent.
        """
        with kernels_of_a_gpu():
            rows = rows_of_logits(self.config.vocab_size, torch.device("cpu"))
        small = -(-3 * rows // self.config.max_seq_len)
        if sequences <= 2 * small:
            return self._count(sequences)
        one, two = self._count(small), self._count(2 * small)
        steps = (sequences - small) / small
        return Pass(*(round(a + steps * (b - a)) for a, b in zip(one, two, strict=True)))

    def _count(self, sequences: int) -> Pass:
        if sequences not in self._passes:
            with FakeTensorMode(), kernels_of_a_gpu():
                self._passes[sequences] = count_pass(_without_content(self.model), sequences,
                                                     self.dtype, self.loss)
        return self._passes[sequences]

    def memory(self, gpus: int, sharded: bool, sequences: int) -> Memory:
        """Memory on each of several GPUs.

        Args:
            gpus: how many.
            sharded: FSDP2; if not, DDP, or neither on a single GPU.
            sequences: of a micro-batch, on each GPU.
        """
        shards = gpus if sharded else 1
        size, one = FLOAT * self.parameters, self.one_pass(sequences)
        sharing = 0 if gpus == 1 else self._gathered() if sharded else size
        return Memory(-(-size // shards), -(-size // shards), -(-self.optimizer // shards),
                      sharing, one.saved, one.work, -(-self.step_work // shards))

    def _gathered(self) -> int:
        """The root's weights (embedding, output layer), two blocks, and gradients of root and block
        before they are scattered, all in float32."""
        blocks = sorted(count_parameters(block) for block in self.model.blocks)[-2:]
        root = self.parameters - sum(count_parameters(block) for block in self.model.blocks)
        return FLOAT * (2 * root + sum(blocks) + blocks[-1])

    def fits(self, limit: float, gpus: int, sharded: bool, sequences: int) -> int:
        """The largest micro-batch that needs at most `limit` bytes.

        Returns:
            `sequences` or a half, a quarter, ... of it, since micro-batches divide a batch; 0 where
            even one sequence is too much.
        """
        while sequences and self.memory(gpus, sharded, sequences).total > limit:
            sequences //= 2
        return sequences


def count_pass(model: PicoLM, sequences: int, dtype: torch.dtype,
               loss: Callable[[PicoLM, Tensor, Tensor], Tensor] = PicoLM.loss) -> Pass:
    """Runs one pass of a model that has gradients already, as from an earlier micro-batch.

    Args:
        model: on the CPU, where the dtype of a GPU's autocast works too. Its tensors may be fake.
    """
    for parameter in model.parameters():
        parameter.grad = torch.empty_like(parameter)
    tokens = torch.zeros(sequences, model.config.max_seq_len, dtype=torch.long, device="cpu")
    saved: dict[int, torch.UntypedStorage] = {}
    owned = {parameter.untyped_storage()._cdata for parameter in model.parameters()}

    def keep(tensor: Tensor) -> Tensor:
        storage = tensor.untyped_storage()
        if storage._cdata not in owned:
            saved[storage._cdata] = storage
        return tensor

    with AllocationTracker() as tracker:
        with (torch.autograd.graph.saved_tensors_hooks(keep, lambda tensor: tensor),
              torch.autocast("cpu", dtype, enabled=dtype != torch.float32)):
            value = loss(model, tokens, tokens)
        kept = sum(storage.nbytes() for storage in saved.values())
        saved.clear()
        forward, tracker.peak = tracker.peak, tracker.now
        value.backward()
    return Pass(kept, forward, tracker.peak)


class AllocationTracker(TorchDispatchMode):
    """Bytes of the storages allocated within: those alive now, and the peak."""

    def __init__(self) -> None:
        super().__init__()
        self.now, self.peak = 0, 0
        self._known: set[int] = set()

    def __torch_dispatch__(self, func: Callable, types: Any, args: tuple = (),
                           kwargs: dict | None = None) -> Any:
        before = {leaf.untyped_storage()._cdata for leaf in tree_leaves((args, kwargs or {}))
                  if isinstance(leaf, Tensor)}
        result = func(*args, **(kwargs or {}))
        for leaf in tree_leaves(result):
            if isinstance(leaf, Tensor):
                storage = leaf.untyped_storage()
                if storage._cdata not in before | self._known:
                    self._known.add(storage._cdata)
                    self.now += storage.nbytes()
                    weakref.finalize(storage, self._freed, storage._cdata, storage.nbytes())
        self.peak = max(self.peak, self.now)
        return result

    def _freed(self, key: int, size: int) -> None:
        self._known.discard(key)
        self.now -= size


def _without_content(meta: PicoLM) -> PicoLM:
    """The same model on the CPU, of fake tensors, within a FakeTensorMode."""
    with torch.device("meta"):
        model = PicoLM(meta.config)
    for module in model.modules():
        for name, parameter in module.named_parameters(recurse=False):
            setattr(module, name, nn.Parameter(torch.empty(parameter.shape, device="cpu")))
    return model
