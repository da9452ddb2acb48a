"""Which dtype on which device: the policy that keeps a T4 from emulating bf16."""

from __future__ import annotations

import socket

import pytest
import torch
from helpers import refused

from picolm_lib.device import choose_precision, device_report, peak_tflops


@pytest.fixture
def gpu(monkeypatch):
    """Pretends that there is one GPU."""
    def pretend(capability: tuple[int, int], name: str = "Tesla T4") -> None:
        monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
        monkeypatch.setattr(torch.cuda, "device_count", lambda: 1)
        monkeypatch.setattr(torch.cuda, "get_device_capability", lambda device=None: capability)
        monkeypatch.setattr(torch.cuda, "get_device_name", lambda device=None: name)
        # What a T4's driver says: it would emulate it.
        monkeypatch.setattr(torch.cuda, "is_bf16_supported", lambda *args, **kwargs: True)
    return pretend


@pytest.fixture
def cpu(monkeypatch):
    """Pretends that there is no GPU, and a CPU with these units."""
    def pretend(**units: bool) -> None:
        monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
        monkeypatch.setattr(torch.cuda, "device_count", lambda: 0)
        monkeypatch.setattr(torch.backends.mps, "is_available", lambda: False)
        monkeypatch.setattr(torch.cpu, "get_capabilities", lambda: units, raising=False)
    return pretend


@pytest.mark.parametrize("capability", [(6, 0), (7, 0), (7, 5)])
def test_old_gpus_get_float16_with_scaled_gradients_whatever_the_driver_says(gpu, capability):
    gpu(capability)
    chosen = choose_precision()
    assert chosen.device.type == "cuda" and chosen.dtype == torch.float16
    assert chosen.scales_gradients
    assert f"{capability[0]}.{capability[1]}" in chosen.reason


@pytest.mark.parametrize("capability", [(8, 0), (8, 9), (9, 0), (12, 0)])
def test_newer_gpus_get_bfloat16_without_scaling(gpu, capability):
    gpu(capability, "NVIDIA H200")
    chosen = choose_precision()
    assert chosen.dtype == torch.bfloat16 and not chosen.scales_gradients


@pytest.mark.parametrize("unit", ["avx512_bf16", "amx_bf16"])
def test_a_cpu_with_bf16_units_uses_them(cpu, unit):
    cpu(**{unit: True})
    assert choose_precision().device.type == "cpu" and choose_precision().dtype == torch.bfloat16


def test_a_cpu_without_bf16_units_stays_at_float32(cpu):
    cpu(avx2=True, avx512_f=True, avx512_bf16=False, amx_bf16=False)
    chosen = choose_precision()
    assert chosen.dtype == torch.float32 and not chosen.scales_gradients


def test_a_torch_that_cannot_tell_its_cpus_units_stays_at_float32(cpu, monkeypatch):
    cpu()
    monkeypatch.delattr(torch.cpu, "get_capabilities")
    assert choose_precision().dtype == torch.float32


@pytest.mark.parametrize("name", ["float32", "bfloat16", "float16"])
def test_a_dtype_that_is_asked_for_is_taken(cpu, name):
    cpu(avx512_bf16=True)
    assert choose_precision("cpu", name).dtype == getattr(torch, name)


def test_float32_runs_without_autocast_and_bfloat16_with_it(cpu):
    cpu()
    x = torch.ones(2, 2)
    for name in ("float32", "bfloat16"):
        with choose_precision("cpu", name).autocast():
            assert (x @ x).dtype == getattr(torch, name)


def test_an_unknown_dtype_is_refused(cpu):
    cpu()
    with refused("float8", "float16"):
        choose_precision("cpu", "float8")


@pytest.mark.parametrize("name", ["gpu", "cuda:x", "meta", "cuda", "cuda:1", "cpu:1", "mps"])
def test_a_device_that_is_not_there_is_refused(cpu, name):
    cpu()
    with refused(name):
        choose_precision(name)


def test_a_second_gpu_that_is_not_there_is_refused(gpu):
    gpu((8, 0))
    assert choose_precision("cuda:0").device.type == "cuda"
    with refused("cuda:1"):
        choose_precision("cuda:1")


@pytest.mark.parametrize(("name", "peak"), [
    ("Tesla T4", 65), ("NVIDIA A100-SXM4-80GB", 312), ("NVIDIA L4", 121),
    ("NVIDIA GeForce GTX 1650", None)])
def test_peaks_are_those_of_the_data_sheets(gpu, name, peak):
    gpu((7, 5), name)
    assert peak_tflops(torch.device("cuda")) == peak


def test_a_cpu_has_no_known_peak():
    assert peak_tflops(torch.device("cpu")) is None


def test_the_report_says_what_was_chosen_and_why(cpu):
    cpu(avx512_bf16=True)
    text = device_report(seed=7, preset="nano")
    rows = dict(line.split(maxsplit=1) for line in text.splitlines())
    assert rows["dtype"].startswith("bfloat16 (") and rows["device"].startswith("cpu")
    assert rows["torch"] == torch.__version__
    assert rows["seed"] == "7" and rows["preset"] == "nano"


def test_the_report_tells_nothing_about_whose_machine_it_is(cpu):
    cpu()
    text = device_report()
    assert "/" not in text and "\\" not in text
    assert socket.gethostname() not in text
