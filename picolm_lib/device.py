"""Device and precision: which device a run uses, in which dtype it computes, and why.

This module chooses the dtype of training, evaluation and generation. Three cases matter:

    GPU of compute capability >= 8.0, CPU with bf16 units   bfloat16
    older GPU (the T4 of a free Colab is 7.5)               float16, gradients scaled
    anything else                                           float32

A T4 has no bf16 units, yet `torch.cuda.is_bf16_supported()` returns True for it, because bf16 is
emulated there, slowly. So the compute capability decides, never that function.
"""

from __future__ import annotations

import os
import platform
from collections.abc import Callable
from dataclasses import dataclass
from importlib.metadata import PackageNotFoundError, version
from typing import TypeVar, cast

import torch

from picolm_lib.config import PicoError
from picolm_lib.files import first_line

Function = TypeVar("Function", bound=Callable)
DTYPES = {"float32": torch.float32, "bfloat16": torch.bfloat16, "float16": torch.float16}

# Dense tensor-core peaks in TFLOP/s at 16 bits, from NVIDIA's data sheets.
GPU_PEAK_TFLOPS = {"T4": 65, "V100": 125, "A10": 125, "L4": 121, "A100": 312, "L40S": 362,
                   "H100": 989, "H200": 989}


@dataclass(frozen=True)
class Precision:
    """How a run computes on one device."""

    device: torch.device
    dtype: torch.dtype
    """Of the matrix products, in the model and in Newton-Schulz."""
    reason: str
    """Why this dtype, in a few words."""

    @property
    def scales_gradients(self) -> bool:
        """True for float16: small gradients underflow in it, so the loss is scaled up first."""
        return self.dtype == torch.float16

    def autocast(self) -> torch.autocast:
        """The context of a forward pass; for float32 it does nothing."""
        return torch.autocast(self.device.type, self.dtype, enabled=self.dtype != torch.float32)

    def to_device(self, *tensors: torch.Tensor) -> list[torch.Tensor]:
        """Copies CPU tensors to the device; to a GPU from pinned memory, without waiting."""
        if self.device.type != "cuda":
            return [tensor.to(self.device) for tensor in tensors]
        return [tensor.pin_memory().to(self.device, non_blocking=True) for tensor in tensors]


def choose_precision(device: str = "auto", dtype: str = "auto") -> Precision:
    """Chooses the device and the dtype of the matrix products.

    Args:
        device: "auto" (a GPU where there is one), or what torch.device takes.
        dtype: "auto" (the table above), "float32", "bfloat16" or "float16".

    Raises:
        PicoError: the device does not exist here, or a name is unknown.
    """
    where = _device(device)
    if dtype != "auto":
        if dtype not in DTYPES:
            raise PicoError(f"unknown dtype {dtype!r}; choose auto, {', '.join(DTYPES)}.")
        return Precision(where, DTYPES[dtype], "requested")
    if where.type == "cuda":
        major, minor = torch.cuda.get_device_capability(where)
        if major >= 8:
            return Precision(where, torch.bfloat16, f"compute capability {major}.{minor} has bf16")
        return Precision(where, torch.float16, f"compute capability {major}.{minor} has no bf16")
    if where.type == "cpu" and cpu_has_bf16():
        return Precision(where, torch.bfloat16, "this CPU has bf16 units")
    return Precision(where, torch.float32, f"no fast 16-bit units known for this {where.type}")


def wait_for(device: torch.device) -> None:
    """Waits until a GPU has computed what it was asked to: only then may a clock be read."""
    if device.type == "cuda":
        torch.cuda.synchronize(device)


def compiled(function: Function, device: torch.device) -> Function:
    """torch.compile, after it has compiled something small.

    Raises:
        PicoError: it cannot, for want of a compiler for example.
    """
    try:
        torch.compile(lambda x: x.sin() + 1)(torch.zeros(16, device=device))
    # It raises its own kinds, which differ between releases.
    except Exception as error:
        raise PicoError(f"torch.compile does not work here ({first_line(error)}); install what it "
                        "needs, such as a C++ compiler, or train with --no-compile.") from error
    return cast("Function", torch.compile(function))


def cpu_has_bf16() -> bool:
    """True where the CPU multiplies bfloat16 matrices in hardware."""
    # torch.cpu.get_capabilities is newer than the oldest torch that the package runs on.
    known: dict[str, bool] = getattr(torch.cpu, "get_capabilities", dict)()
    return any(known.get(unit, False) for unit in ("avx512_bf16", "amx_bf16", "bf16"))


def peak_tflops(device: torch.device) -> float | None:
    """The GPU's 16-bit peak in TFLOP/s, or None where it is not known."""
    if device.type != "cuda":
        return None
    name = torch.cuda.get_device_name(device).replace("-", " ").split()
    return next((float(GPU_PEAK_TFLOPS[word]) for word in name if word in GPU_PEAK_TFLOPS), None)


def peak_memory_gib(device: torch.device) -> float:
    """Peak memory of the run so far in GiB: of the GPU, or of this process where there is none."""
    if device.type == "cuda":
        return torch.cuda.max_memory_allocated(device) / 2**30
    if platform.system() == "Windows":  # no `resource` module there
        return 0.0
    import resource

    unit = 1 if platform.system() == "Darwin" else 1024
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit / 2**30


def device_report(device: str = "auto", dtype: str = "auto", **more: object) -> str:
    """A table of versions, device and dtype; `more` adds rows, such as seed=0 and preset="nano".

    Raises:
        PicoError: as in choose_precision.
    """
    chosen = choose_precision(device, dtype)
    name = (torch.cuda.get_device_name(chosen.device) if chosen.device.type == "cuda"
            else f"{platform.machine()}, {os.cpu_count()} cores, {torch.get_num_threads()} threads")
    rows = {"picolm_lib": _version("simple-picolm"), "python": platform.python_version(),
            "torch": torch.__version__, "transformers": _version("transformers"),
            "device": f"{chosen.device} ({name})",
            "dtype": f"{str(chosen.dtype).removeprefix('torch.')} ({chosen.reason})", **more}
    return "\n".join(f"{key:<13}{value}" for key, value in rows.items())


def _device(name: str) -> torch.device:
    if name == "auto":
        if torch.cuda.is_available():
            return torch.device("cuda")
        return torch.device("mps" if torch.backends.mps.is_available() else "cpu")
    try:
        device = torch.device(name)
    except RuntimeError:
        raise PicoError(f"unknown device {name!r}; choose auto, cpu, cuda or mps.") from None
    there = {"cpu": 1, "cuda": torch.cuda.device_count(),
             "mps": int(torch.backends.mps.is_available())}.get(device.type, 0)
    if (device.index or 0) >= there:
        raise PicoError(f"this machine has no device {name!r}; choose another --device, or auto.")
    return device


def _version(package: str) -> str:
    try:
        return version(package)
    except PackageNotFoundError:
        return "not installed"
