"""A GPU that is not there, so that a machine without one can test what GPU users run.

    with pretend_gpu() as gpu:                # a T4; (8, 0) has bfloat16 units
        model.to("cuda")                      # and whatever else takes a GPU
    gpu.waits                                 # where the CPU waited for the GPU

Its tensors are on cuda:0 for everybody who asks, and the CPU computes them. As on a GPU

- a tensor of the GPU and one of the CPU cannot be combined, unless that one has no dimensions;
- numpy cannot read a tensor of the GPU;
- a generator of the CPU draws no numbers there;
- reading a value means waiting, and every wait is noted with the line that waited;
- a tensor that the package makes must say on which device: one of the CPU, made without a thought,
  is the most frequent fault on a GPU. Turned off by `pretend_gpu(strict=False)`.

Not as on a GPU: speed, memory that is kept for later, kernels and their rounding, random numbers of
the GPU, several GPUs. Autocast is that of a CPU. tests/gpu/run.py is for a real one.
"""

from __future__ import annotations

import linecache
import sys
from collections.abc import Callable, Iterable, Iterator
from contextlib import ExitStack, contextmanager, nullcontext
from functools import cache
from pathlib import Path
from types import FrameType, FunctionType, SimpleNamespace
from typing import Any
from unittest.mock import patch

import torch
import torch.nn.attention
from gpu.allocations import Allocations
from torch import Tensor
from torch.nn.utils import clip_grad
from torch.overrides import TorchFunctionMode
from torch.utils._python_dispatch import TorchDispatchMode, return_and_correct_aliasing

CPU, GPU = torch.device("cpu"), torch.device("cuda", 0)
PACKAGE = str(Path(__file__).resolve().parents[2] / "picolm_lib")
aten = torch.ops.aten
COPIES = {aten.copy_.default, aten._to_copy.default}
# Their result, or its shape, depends on values, so somebody must wait for them.
READS = {aten._local_scalar_dense.default, aten.item.default, aten.is_nonzero.default,
         aten.nonzero.default, aten.masked_select.default, aten.equal.default,
         aten._unique2.default}
FACTORIES = {torch.arange, torch.as_tensor, torch.empty, torch.eye, torch.full, torch.linspace,
             torch.logspace, torch.normal, torch.ones, torch.rand, torch.randint, torch.randn,
             torch.randperm, torch.scalar_tensor, torch.tensor, torch.tril_indices,
             torch.triu_indices, torch.zeros}
LISTS = {list, tuple}
# Arguments that are on no device.
PLAIN = {bool, float, int, torch.dtype, torch.layout, torch.memory_format, type(None)}
# Modules are made first and moved afterward, so their weights need no device yet.
MAKES_WEIGHTS = {"__init__", "initial_value"}


class MixedDevicesError(RuntimeError):
    """An operation got tensors of the GPU and of the CPU."""


class NoDeviceError(RuntimeError):
    """The package made a tensor and did not say where."""


class GpuTensor(Tensor):
    """A tensor of the pretended GPU. PyTorch's C++ takes it for one of the CPU."""

    device = property(lambda self: GPU)
    is_cuda = property(lambda self: True)
    is_cpu = property(lambda self: False)
    __torch_function__ = torch._C._disabled_torch_function_impl

    @staticmethod
    def __new__(cls, content: Tensor) -> GpuTensor:
        return Tensor._make_wrapper_subclass(
            cls, content.shape, strides=content.stride(), dtype=content.dtype,
            storage_offset=content.storage_offset(), layout=content.layout, device=CPU)

    def __init__(self, content: Tensor) -> None:
        self.content = content
        _gpu.memory.add(content.untyped_storage())

    def __repr__(self) -> str:
        return f"{self.content}, on the GPU"

    def __reduce_ex__(self, protocol: int) -> Any:
        # A file holds the numbers; who loads it says where they go.
        return self.content.__reduce_ex__(protocol)

    @classmethod
    def __torch_dispatch__(cls, func: Callable, types: Any, args: tuple = (),
                           kwargs: dict | None = None) -> Any:
        return _compute(func, args, kwargs or {})


class PretendedGpu:
    """What was seen while it was pretended."""

    def __init__(self, strict: bool, memory: int = 2**40) -> None:
        self.strict = strict
        self.memory = Allocations(memory)
        self.waits: list[str] = []
        """The lines that waited for the GPU, such as "trainer.py:229"."""
        self.leaving = False

    def wait(self) -> None:
        """Notes the line that waits."""
        frame = _caller()
        self.waits.append(_place(frame) if frame else "a test")

    def copy_to_cpu(self, tensor: Tensor) -> Tensor:
        """What `tensor.cpu()` gives."""
        self.leaving = True
        try:
            return aten._to_copy.default(tensor, device=CPU)
        finally:
            self.leaving = False


_gpu = PretendedGpu(strict=False)


def _caller() -> FrameType | None:
    """The innermost line of the package that is at work."""
    frame: FrameType | None = sys._getframe(1)
    while frame and not frame.f_code.co_filename.startswith(PACKAGE):
        frame = frame.f_back
    return frame


def _place(frame: FrameType) -> str:
    return f"{Path(frame.f_code.co_filename).name}:{frame.f_lineno}"


def _is(device: object, kind: str) -> bool:
    return str(device).partition(":")[0] == kind if isinstance(
        device, (str, torch.device)) else False


def _flat(values: Iterable[Any]) -> Iterator[Any]:
    """An operation's arguments, those within lists one by one."""
    for value in values:
        if type(value) in LISTS:
            yield from _flat(value)
        else:
            yield value


def _inside(value: Any) -> Any:
    """An argument as the CPU takes it."""
    kind = type(value)
    if kind is GpuTensor:
        return value.content
    if kind in LISTS:
        return kind(map(_inside, value))
    return CPU if kind is torch.device else value


def _outside(value: Any) -> Any:
    """A result as a GPU gives it."""
    if type(value) in LISTS:
        return type(value)(map(_outside, value))
    if not isinstance(value, Tensor):
        return value
    if value.is_inference() or not torch.is_inference_mode_enabled():
        return GpuTensor(value)
    # The view of a tensor from outside of inference mode.
    with torch.inference_mode(False):
        return GpuTensor(value)


@cache
def _shares(func: Callable) -> bool:
    """Whether an operation gives a view of its argument, or changes it."""
    return any(argument.alias_info for argument in func._schema.arguments)


def _compute(func: Callable, args: tuple, kwargs: dict) -> Any:
    """Computes one operation on the CPU; its results are where a GPU would have them."""
    leaves = [leaf for leaf in _flat((*args, *kwargs.values())) if type(leaf) not in PLAIN]
    ours = any(type(leaf) is GpuTensor for leaf in leaves)
    if not ours and not any(_is(leaf, "cuda") for leaf in leaves):
        return func(*args, **kwargs)
    tensors = [leaf for leaf in leaves if isinstance(leaf, Tensor)]
    others = [t for t in tensors if type(t) is not GpuTensor and t.ndim]
    if ours and others and func not in COPIES:
        places = ", ".join(f"{tuple(t.shape)} on {t.device}" for t in tensors)
        raise MixedDevicesError(f"{func} got {places}")
    # All generators are the CPU's, since a pretended GPU has none.
    if any(type(leaf) is torch.Generator for leaf in leaves):
        raise RuntimeError("Expected a 'cuda' device type for generator but found 'cpu'")
    to_cpu = func is aten.copy_.default and type(args[0]) is not GpuTensor
    by_mask = func is aten.index.Tensor and any(t.dtype == torch.bool for t in tensors[1:])
    if func in READS or by_mask or to_cpu or _gpu.leaving:
        _gpu.wait()
    kwargs.pop("pin_memory", None)
    result = func(*map(_inside, args), **{name: _inside(kwargs[name]) for name in kwargs})
    if _gpu.leaving:
        return result
    if to_cpu:
        return args[0]
    found = _outside(result)
    return return_and_correct_aliasing(func, args, kwargs, found) if _shares(func) else found


class _Operations(TorchDispatchMode):
    """Makes the GPU's tensors: a factory has no argument that would call `_compute`.

    It slows all operations down, those of the CPU, too, so it is there only where one may be made.
    """

    def __torch_dispatch__(self, func: Callable, types: Any, args: tuple = (),
                           kwargs: dict | None = None) -> Any:
        return _compute(func, args, kwargs or {})


class _Calls(TorchFunctionMode):
    """Calls in which PyTorch's C++ would notice that there is no GPU."""

    def __torch_function__(self, func: Callable, types: Any, args: tuple = (),
                           kwargs: dict | None = None) -> Any:
        kwargs = dict(kwargs or {})
        # Generators are of a device, too, and so are the numbers that one of them draws.
        if (func in FACTORIES and kwargs.get("device") is None
                and kwargs.get("generator") is None):
            self._check()
        if func is Tensor.pin_memory:
            return args[0]
        # It would be made in C++, which nobody hears of.
        if func in (torch.tensor, torch.as_tensor) and _is(kwargs.get("device"), "cuda"):
            with _Operations():
                return func(*args, **{**kwargs, "device": CPU}).to(GPU)
        if func is Tensor.cuda:
            func, args = Tensor.to, (args[0], GPU)
        if args and isinstance(args[0], GpuTensor):
            if func in (Tensor.numpy, Tensor.__array__):
                raise TypeError("can't convert cuda:0 device type tensor to numpy. Use "
                                "Tensor.cpu() to copy the tensor to host memory first.")
            target = kwargs.get("device", args[1] if len(args) > 1 else None)
            if func in (Tensor.cpu, Tensor.tolist) or func is Tensor.to and _is(target, "cpu"):
                args = (_gpu.copy_to_cpu(args[0]), *args[1:])
            elif func is Tensor.to and _is(target, "cuda") and len(args) + len(kwargs) == 2:
                return args[0]
        # Without a number, PyTorch would ask the driver for the current one.
        if func is Tensor.to:
            args = tuple(GPU if _is(arg, "cuda") else arg for arg in args)
        if _is(kwargs.get("device"), "cuda"):
            kwargs["device"] = GPU
        # What is written in Python may make tensors by itself.
        makes = (kwargs.get("device") is GPU or func is Tensor.to
                 or isinstance(func, FunctionType))
        with _Operations() if makes else nullcontext():
            return func(*args, **kwargs)

    def _check(self) -> None:
        # The line that calls, and not one further up: PyTorch's own tensors are its own affair.
        frame = sys._getframe(1)
        while frame.f_back and frame.f_code.co_filename == __file__:
            frame = frame.f_back
        code = frame.f_code
        if (_gpu.strict and code.co_filename.startswith(PACKAGE)
                and code.co_name not in MAKES_WEIGHTS):
            line = linecache.getline(code.co_filename, frame.f_lineno).strip()
            raise NoDeviceError(f"{_place(frame)} makes a tensor and does not say on which device: "
                                f"{line}")


@contextmanager
def pretend_gpu(capability: tuple[int, int] = (7, 5), name: str = "Tesla T4",
                gib: float = 14.7, strict: bool = True) -> Iterator[PretendedGpu]:
    """Makes torch.cuda say that there is a GPU, and tensors go to it.

    Args:
        capability: its compute capability; that of a T4 has no bfloat16 units.
        name: as torch.cuda.get_device_name tells it.
        gib: its memory.
        strict: whether the package must say for every new tensor on which device.
    """
    global _gpu
    before, _gpu = _gpu, PretendedGpu(strict, int(gib * 2**30))
    memory = _gpu.memory
    autocast, enabled, dtype = (torch.autocast.__init__, torch.is_autocast_enabled,
                                torch.get_autocast_dtype)
    properties = SimpleNamespace(name=name, total_memory=memory.total, major=capability[0],
                                 minor=capability[1], multi_processor_count=40)
    fakes = {
        "torch.cuda._lazy_init": lambda: None,
        "torch.cuda.is_available": lambda: True,
        "torch.cuda.is_bf16_supported": lambda *_, **__: True,
        "torch.cuda.device_count": lambda: 1,
        "torch.cuda.current_device": lambda: 0,
        "torch.cuda.set_device": lambda device: None,
        "torch.cuda._exchange_device": lambda device: 0,
        "torch.cuda._maybe_exchange_device": lambda device: 0,
        "torch.cuda.get_device_capability": lambda device=None: capability,
        "torch.cuda.get_device_name": lambda device=None: name,
        "torch.cuda.get_device_properties": lambda device=None: properties,
        "torch.cuda.mem_get_info": lambda device=None: (memory.total - memory.now, memory.total),
        "torch.cuda.max_memory_allocated": lambda device=None: memory.peak,
        "torch.cuda.memory_allocated": lambda device=None: memory.now,
        "torch.cuda.reset_peak_memory_stats": memory.reset_peak,
        "torch.cuda.set_per_process_memory_fraction": memory.set_fraction,
        "torch.cuda.synchronize": lambda device=None: None,
        "torch.cuda.empty_cache": lambda: None,
        "torch.cuda.get_rng_state": lambda device=None: torch.zeros(
            16, dtype=torch.uint8, device=CPU),
        "torch.cuda.set_rng_state": lambda state, device=None: None,
        # The kernels are those of a CPU, and it has other ones.
        "torch.nn.attention._sdpa_kernel": lambda backends, set_priority=False: None,
        "torch.autocast.__init__": lambda self, device_type, *args, **kwargs: autocast(
            self, "cpu" if device_type == "cuda" else device_type, *args, **kwargs),
        "torch.is_autocast_enabled": lambda device_type="cpu": enabled("cpu"),
        "torch.get_autocast_dtype": lambda device_type="cpu": dtype("cpu"),
    }
    # PyTorch's C++ groups by the device that it sees.
    grouped = clip_grad._group_tensors_by_device_and_dtype
    fakes["torch.nn.utils.clip_grad._group_tensors_by_device_and_dtype"] = lambda lists: {
        (lists[0][indices[0]].device, dtype): (group, indices)
        for (_, dtype), (group, indices) in grouped(lists, with_indices=True).items()}
    future = torch.__future__
    with ExitStack() as stack:
        for target, fake in fakes.items():
            stack.enter_context(patch(target, fake))
        # Else Module.to writes into the old parameters, which are of another class.
        stack.callback(future.set_overwrite_module_params_on_conversion,
                       future.get_overwrite_module_params_on_conversion())
        future.set_overwrite_module_params_on_conversion(True)
        stack.enter_context(_Calls())
        try:
            yield _gpu
        finally:
            _gpu = before
