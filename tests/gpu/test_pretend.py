"""The pretended GPU behaves as a GPU does where it says so."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from gpu.pretend import MixedDevicesError, NoDeviceError, pretend_gpu
from torch import nn

from picolm_lib.device import choose_precision


@pytest.fixture
def gpu():
    with pretend_gpu() as gpu:
        yield gpu


def test_tensors_are_where_they_were_sent(gpu):
    for tensor in (torch.zeros(2, device="cuda"), torch.zeros(2).to("cuda"), torch.zeros(2).cuda(),
                   torch.zeros(2).to("cuda", torch.float16), torch.zeros(2, device="cuda:0") + 1,
                   torch.zeros_like(torch.ones(2, device="cuda"))):
        assert tensor.device == torch.device("cuda", 0) and tensor.is_cuda and not tensor.is_cpu
    assert torch.zeros(2).device.type == "cpu"
    assert torch.zeros(2, device="cuda").cpu().device.type == "cpu"
    assert not gpu.waits[1:]


def test_two_devices_do_not_mix(gpu):
    there, here = torch.ones(3, device="cuda"), torch.ones(3)
    for mixed in (lambda: there + here, lambda: here * there, lambda: torch.cat([here, there]),
                  lambda: there[here.long()], lambda: here.lerp_(there, 0.5)):
        with pytest.raises(MixedDevicesError, match="cuda:0"):
            mixed()
    assert (there + torch.tensor(2.0)).tolist() == [3, 3, 3]
    here.copy_(there)


def test_numpy_cannot_read_it(gpu):
    tensor = torch.ones(3, device="cuda")
    for read in (tensor.numpy, lambda: np.asarray(tensor), lambda: np.array(tensor)):
        with pytest.raises(TypeError, match="can't convert cuda:0"):
            read()
    assert tensor.cpu().numpy().sum() == 3


@pytest.mark.parametrize("inference", [False, True])
@pytest.mark.parametrize("read", [
    lambda t: t.sum().item(), lambda t: bool(t.sum() > 0), lambda t: float(t[0]),
    lambda t: t.tolist(), lambda t: t.cpu(), lambda t: t.to("cpu"), lambda t: t.nonzero(),
    lambda t: t[t > 0], lambda t: torch.zeros(3).copy_(t), lambda t: torch.equal(t, t)])
def test_reading_is_waiting(gpu, read, inference):
    with torch.inference_mode(inference):
        tensor = torch.ones(3, device="cuda")
        (tensor * 2).sum().log_()
        assert not gpu.waits
        read(tensor)
    assert len(gpu.waits) == 1


def test_the_numbers_are_those_of_a_cpu(gpu):
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(5, 7), nn.GELU(), nn.Linear(7, 3))
    x = torch.randn(4, 5)
    model(x).square().sum().backward()
    gradients = [parameter.grad for parameter in model.parameters()]
    model.zero_grad()
    model.to("cuda")
    model(x.cuda()).square().sum().backward()
    for parameter, gradient in zip(model.parameters(), gradients, strict=True):
        assert parameter.is_cuda and parameter.grad.is_cuda
        assert torch.equal(parameter.grad.cpu(), gradient)


def test_a_tensor_of_the_package_says_where(gpu, monkeypatch):
    monkeypatch.setattr("gpu.pretend.PACKAGE", __file__)
    with pytest.raises(NoDeviceError, match="does not say on which device"):
        torch.zeros(())
    torch.zeros((), device="cpu")
    with torch.device("cpu"):
        torch.zeros(())
    torch.rand(2, generator=torch.Generator())


def test_a_generator_of_the_cpu_draws_nothing_there(gpu):
    generator = torch.Generator().manual_seed(0)
    weights = torch.ones(3, device="cuda")
    for draw in (lambda: torch.rand(2, generator=generator, device="cuda"),
                 lambda: torch.multinomial(weights, 1, generator=generator),
                 lambda: weights.normal_(generator=generator)):
        with pytest.raises(RuntimeError, match="Expected a 'cuda' device type for generator"):
            draw()


def test_a_view_in_inference_mode_is_of_the_tensor_before_it(gpu):
    outside = torch.zeros(2, 3, device="cuda")
    with torch.inference_mode():
        outside[:, :1].repeat(1, 2)
        outside[0] = 1
        assert not outside.T.is_inference() and (outside + 1).is_inference()
    assert outside.tolist() == [[1, 1, 1], [0, 0, 0]]


def test_the_current_device_can_be_chosen(gpu):
    with torch.cuda.device(0), torch.cuda.device("cuda"):
        assert torch.zeros(1, device="cuda").is_cuda


def test_it_is_a_t4_until_it_is_over():
    with pretend_gpu():
        assert choose_precision().dtype == torch.float16
    with pretend_gpu(capability=(9, 0)):
        assert choose_precision().dtype == torch.bfloat16
    assert choose_precision().device.type == "cpu"
