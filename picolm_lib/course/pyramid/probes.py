"""Measures the inside of a model: the scale of the residual stream, activations, gradients."""

from __future__ import annotations

from contextlib import ExitStack

import torch
from torch import Tensor, nn

from picolm_lib.model.init import BY_DEPTH
from picolm_lib.model.picolm import PicoLM
from picolm_lib.train.muon import MuonAdamW, parameter_groups


@torch.no_grad()
def stream_states(model: PicoLM, tokens: Tensor) -> list[Tensor]:
    """The residual stream after the embedding and after every block: (B, T, D) each.

    Args:
        tokens: (B, T) token ids.
    """
    states: list[Tensor] = []
    with ExitStack() as stack:
        first = model.blocks[0].register_forward_pre_hook(
            lambda module, inputs: states.append(inputs[0]))
        stack.callback(first.remove)
        for block in model.blocks:
            handle = block.register_forward_hook(
                lambda module, inputs, output: states.append(output))
            stack.callback(handle.remove)
        model(tokens)
    return states


def stream_scale(model: PicoLM, tokens: Tensor) -> list[float]:
    """The root mean square of the residual stream after the embedding and after every block."""
    return [rms(state) for state in stream_states(model, tokens)]


def rms(x: Tensor) -> float:
    """The root mean square of all numbers of a tensor."""
    return x.float().pow(2).mean().sqrt().item()


@torch.no_grad()
def activations(model: PicoLM, tokens: Tensor) -> list[Tensor]:
    """What goes into each block's `down`: silu(gate) * up, (B, T, W), first block to last."""
    found: list[Tensor] = []
    with ExitStack() as stack:
        for block in model.blocks:
            handle = block.mlp.down.register_forward_pre_hook(
                lambda module, inputs: found.append(inputs[0]))
            stack.callback(handle.remove)
        model(tokens)
    return found


def gradients(model: PicoLM, tokens: Tensor, targets: Tensor) -> dict[str, Tensor]:
    """The gradient of the loss for every parameter, by name. Earlier gradients are cleared."""
    model.zero_grad()
    model.loss(tokens, targets).backward()
    found = {name: p.grad.clone() for name, p in model.named_parameters() if p.grad is not None}
    model.zero_grad()
    return found


def take_steps(model: PicoLM, tokens: Tensor, targets: Tensor, count: int = 1) -> list[float]:
    """Trains on one batch for a few steps at the usual rates; returns the loss before each."""
    optimizer, losses = MuonAdamW(parameter_groups(model)), []
    for _ in range(count):
        loss = model.loss(tokens, targets)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
    optimizer.zero_grad()
    return losses


def dead_parameters(model: PicoLM, tokens: Tensor, targets: Tensor, steps: int = 3) -> list[str]:
    """Names of the parameters whose gradient is exactly zero at each of several training steps.

    One zero is not proof: behind a zero-initialized matrix, gradients are zero at the first step
    but not at the second. The model is trained in the process.
    """
    names = [name for name, _ in model.named_parameters()]
    dead = set(names)
    for number in range(steps):
        found = gradients(model, tokens, targets)
        dead &= {name for name, gradient in found.items() if not gradient.any()}
        if number + 1 < steps:
            take_steps(model, tokens, targets)
    return sorted(dead, key=names.index)


@torch.no_grad()
def naive_init(model: PicoLM, std: float = 0.02, seed: int = 0) -> None:
    """One standard deviation for all matrices, ones for all norms: the baseline for init.py."""
    generator = torch.Generator().manual_seed(seed)
    for name, parameter in model.named_parameters():
        if parameter.ndim < 2:
            parameter.fill_(0.0 if name.endswith("bias") else 1.0)
        else:
            parameter.copy_(std * torch.randn(parameter.shape, generator=generator))


@torch.no_grad()
def zero_last_mlp(model: PicoLM) -> None:
    """A depth-aware std that reaches zero: the last block's gate and up are all zeros."""
    for name, parameter in model.blocks[-1].named_parameters():
        if name.endswith(BY_DEPTH):
            parameter.zero_()


def without_post_norms(model: PicoLM) -> None:
    """Adds the outputs of attention and MLP to the stream without a norm."""
    for block in model.blocks:
        block.attn_post_norm = block.mlp_post_norm = nn.Identity()  # type: ignore[assignment]


def without_pre_norms(model: PicoLM) -> None:
    """Lets attention and MLP read the stream without a norm."""
    for block in model.blocks:
        block.attn_norm = block.mlp_norm = nn.Identity()  # type: ignore[assignment]


def post_norm_gain(model: PicoLM, gain: float) -> None:
    """Sets the gain of all post-norms."""
    for block in model.blocks:
        for norm in (block.attn_post_norm, block.mlp_post_norm):
            nn.init.constant_(norm.weight, gain)
