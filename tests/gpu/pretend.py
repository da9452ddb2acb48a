"""A GPU that is not there, so that a machine without one can test what GPU users run.

    with pretend_gpu() as gpu:                # a T4; (8, 0) has bfloat16 units
        model.to("cuda")                      # and whatever else takes a GPU
    gpu.waits                                 # where the CPU waited for the GPU

Its tensors are on cuda:0 for everybody who asks, and the CPU computes them. As on a GPU

- a tensor of the GPU and one of the CPU cannot be combined, unless that one has no dimensions;
- numpy cannot read a tensor of the GPU;
- reading a value means waiting, and every wait is noted with the line that waited;
- a tensor that the package makes must say on which device: one of the CPU, made without a thought,
  is the most frequent fault on a GPU. Turned off by `pretend_gpu(strict=False)`.

Not as on a GPU: speed, memory, kernels and their rounding, random numbers of the GPU, several GPUs.
Autocast is that of a CPU. tests/gpu/run.py is for a real one.
"""

from __future__ import annotations

import traceback
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from types import SimpleNamespace
from typing import Any
from unittest.mock import patch

import torch
from torch import Tensor
from torch.overrides import TorchFunctionMode
from torch.utils._python_dispatch import TorchDispatchMode, return_and_correct_aliasing
from torch.utils._pytree import tree_leaves, tree_map_only

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

    def __init__(self, strict: bool) -> None:
        self.strict = strict
        self.waits: list[str] = []
        """The lines that waited for the GPU, such as "trainer.py:229"."""
        self.leaving = False

    def wait(self) -> None:
        """Notes the line that waits."""
        frame = _caller()
        self.waits.append(f"{Path(frame.filename).name}:{frame.lineno}" if frame else "a test")

    def copy_to_cpu(self, tensor: Tensor) -> Tensor:
        """What `tensor.cpu()` gives."""
        self.leaving = True
        try:
            return aten._to_copy.default(tensor, device=CPU)
        finally:
            self.leaving = False


_gpu = PretendedGpu(strict=False)


def _caller() -> traceback.FrameSummary | None:
    """The innermost line of the package that is at work."""
    for frame in reversed(traceback.extract_stack(limit=60)):
        if frame.filename.startswith(PACKAGE):
            return frame
    return None


def _is(device: object, kind: str) -> bool:
    return str(device).partition(":")[0] == kind if isinstance(
        device, (str, torch.device)) else False


def _compute(func: Callable, args: tuple, kwargs: dict) -> Any:
    """Computes one operation on the CPU; its results are where a GPU would have them."""
    leaves = tree_leaves((args, kwargs))
    tensors = [leaf for leaf in leaves if isinstance(leaf, Tensor)]
    ours = [tensor for tensor in tensors if isinstance(tensor, GpuTensor)]
    if not ours and not any(_is(leaf, "cuda") for leaf in leaves):
        return func(*args, **kwargs)
    others = [t for t in tensors if not isinstance(t, GpuTensor) and t.ndim]
    if ours and others and func not in COPIES:
        places = ", ".join(f"{tuple(t.shape)} on {t.device}" for t in tensors)
        raise MixedDevicesError(f"{func} got {places}")
    to_cpu = func is aten.copy_.default and not isinstance(args[0], GpuTensor)
    by_mask = func is aten.index.Tensor and any(t.dtype == torch.bool for t in tensors[1:])
    if func in READS or by_mask or to_cpu or _gpu.leaving:
        _gpu.wait()
    kwargs.pop("pin_memory", None)
    inside = tree_map_only(GpuTensor, lambda t: t.content, (args, kwargs))
    inside_args, inside_kwargs = tree_map_only(torch.device, lambda device: CPU, inside)
    result = func(*inside_args, **inside_kwargs)
    if _gpu.leaving:
        return result
    if to_cpu:
        return args[0]
    return return_and_correct_aliasing(func, args, kwargs,
                                       tree_map_only(Tensor, GpuTensor, result))


class _Operations(TorchDispatchMode):
    """Makes the GPU's tensors: a factory has no argument that would call `_compute`."""

    def __torch_dispatch__(self, func: Callable, types: Any, args: tuple = (),
                           kwargs: dict | None = None) -> Any:
        return _compute(func, args, kwargs or {})


class _Calls(TorchFunctionMode):
    """Calls in which PyTorch's C++ would notice that there is no GPU."""

    def __torch_function__(self, func: Callable, types: Any, args: tuple = (),
                           kwargs: dict | None = None) -> Any:
        kwargs = dict(kwargs or {})
        if func in FACTORIES and kwargs.get("device") is None:
            self._check()
        if func is Tensor.pin_memory:
            return args[0]
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
        return func(*args, **kwargs)

    def _check(self) -> None:
        # The line that calls, and not one further up: PyTorch's own tensors are its own affair.
        stack = traceback.extract_stack(limit=4)
        frame = next((f for f in reversed(stack) if f.filename != __file__), None)
        if (_gpu.strict and frame and frame.filename.startswith(PACKAGE)
                and frame.name not in MAKES_WEIGHTS):
            raise NoDeviceError(f"{Path(frame.filename).name}:{frame.lineno} makes a tensor and "
                                f"does not say on which device: {frame.line}")


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
    before, _gpu = _gpu, PretendedGpu(strict)
    autocast, enabled, dtype = (torch.autocast.__init__, torch.is_autocast_enabled,
                                torch.get_autocast_dtype)
    properties = SimpleNamespace(name=name, total_memory=int(gib * 2**30), major=capability[0],
                                 minor=capability[1], multi_processor_count=40)
    fakes = {
        "torch.cuda._lazy_init": lambda: None,
        "torch.cuda.is_available": lambda: True,
        "torch.cuda.is_bf16_supported": lambda *_, **__: True,
        "torch.cuda.device_count": lambda: 1,
        "torch.cuda.current_device": lambda: 0,
        "torch.cuda.set_device": lambda device: None,
        "torch.cuda.get_device_capability": lambda device=None: capability,
        "torch.cuda.get_device_name": lambda device=None: name,
        "torch.cuda.get_device_properties": lambda device=None: properties,
        "torch.cuda.mem_get_info": lambda device=None: (properties.total_memory,) * 2,
        "torch.cuda.max_memory_allocated": lambda device=None: 2**30,
        "torch.cuda.memory_allocated": lambda device=None: 2**29,
        "torch.cuda.reset_peak_memory_stats": lambda device=None: None,
        "torch.cuda.synchronize": lambda device=None: None,
        "torch.cuda.empty_cache": lambda: None,
        "torch.cuda.get_rng_state": lambda device=None: torch.zeros(16, dtype=torch.uint8),
        "torch.cuda.set_rng_state": lambda state, device=None: None,
        "torch.autocast.__init__": lambda self, device_type, *args, **kwargs: autocast(
            self, "cpu" if device_type == "cuda" else device_type, *args, **kwargs),
        "torch.is_autocast_enabled": lambda device_type="cpu": enabled("cpu"),
        "torch.get_autocast_dtype": lambda device_type="cpu": dtype("cpu"),
    }
    future = torch.__future__
    with ExitStack() as stack:
        for target, fake in fakes.items():
            stack.enter_context(patch(target, fake))
        # Else Module.to writes into the old parameters, which are of another class.
        stack.callback(future.set_overwrite_module_params_on_conversion,
                       future.get_overwrite_module_params_on_conversion())
        future.set_overwrite_module_params_on_conversion(True)
        stack.enter_context(_Operations())
        stack.enter_context(_Calls())
        try:
            yield _gpu
        finally:
            _gpu = before
