"""The bug hunt of notebook 03: a patient and its symptoms."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import torch
from torch import Tensor

from picolm_lib.config import PicoConfig
from picolm_lib.course.attention.record import attention_maps
from picolm_lib.course.plots import BLUE, CYCLE, ORANGE, Picture, canvas, finish
from picolm_lib.course.pyramid.probes import activations, rms
from picolm_lib.model.init import BY_DEPTH, ZERO, depth_std
from picolm_lib.model.picolm import PicoLM, count_parameters

SEEN = 24  # tokens of the text in which the last token looks back


@dataclass(frozen=True)
class Symptoms:
    """What three tests find in a model before training."""

    activation_rms: list[float]
    """Root mean square of silu(gate) * up, block by block."""
    parameters: list[int]
    """Of each block."""
    looks: Tensor
    """(L, T): where the last token looks, in head 0 of every block."""


@torch.no_grad()
def patient(config: PicoConfig, seed: int = 0) -> PicoLM:
    """A model with one bug. Do not look before you have named your suspect."""
    model = PicoLM(config, seed)
    for layer, block in enumerate(model.blocks):
        # The bug: this line belongs before the loop.
        generator = torch.Generator().manual_seed(seed + 1)
        for name, parameter in block.named_parameters():
            if parameter.ndim > 1 and not f"blocks.{layer}.{name}".endswith(ZERO):
                std = depth_std(config, layer) if name.endswith(BY_DEPTH) else config.init_std
                parameter.copy_(std * torch.randn(parameter.shape, generator=generator))
    return model


def symptoms(model: PicoLM, tokens: Tensor) -> Symptoms:
    """The three tests, with (B, T) token ids."""
    return Symptoms([rms(inside) for inside in activations(model, tokens)],
                    [count_parameters(block) for block in model.blocks],
                    attention_maps(model, tokens[0, :SEEN])[:, 0, -1])


def examine(config: PicoConfig, tokens: Tensor) -> Picture:
    """Three tests on a healthy model and on the patient, both before training."""
    return draw_symptoms({name: symptoms(model, tokens) for name, model in (
        ("healthy", PicoLM(config)), ("patient", patient(config)))})


def draw_symptoms(found: Mapping[str, Symptoms]) -> Picture:
    """The three tests of the bug hunt, for a healthy model and the patient.

    Args:
        found: name of the model -> its symptoms.
    """
    figure, ((active, size), looks) = canvas(5.4, 2, 2)
    spreads = []
    for place, (name, model) in enumerate(found.items()):
        style = {"color": (BLUE, ORANGE)[place], "marker": "os"[place], "label": name,
                 "linestyle": ("-", "--")[place]}
        blocks = range(len(model.parameters))
        active.plot(blocks, model.activation_rms, **style)
        size.plot(blocks, [count / 1e3 for count in model.parameters], **style)
        # Earlier blocks get thicker lines, so that equal curves stay visible.
        for block, weights in enumerate(model.looks):
            looks[place].plot(weights.numpy(), color=CYCLE[block % len(CYCLE)],
                              linewidth=5.5 / (1 + block), label=f"block {block}")
        looks[place].set(xlabel="position of the token looked at", ylabel="weight (share)",
                         title=f"C. The last token, {name}")
        looks[place].legend(handlelength=1, ncols=2)
        spreads.append((model.looks - model.looks[0]).abs().max().item())
    top = 1.45 * max(model.looks.max().item() for model in found.values())
    for cell in looks:
        cell.set_ylim(0, top)
    active.set(xlabel="block", ylabel="rms of silu(gate) · up", xticks=blocks, ylim=(0, None),
             title="A. Activations inside the MLPs")
    size.set(xlabel="block", ylabel="parameters (thousands)", xticks=blocks, ylim=(0, None),
             title="B. Size of the blocks")
    active.legend()
    size.legend()
    return finish(figure, "Three tests of a healthy model and the patient. Between blocks, weights "
                          "of the last token differ by up to " + " and ".join(
                              f"{spread:.2f} ({name})" for name, spread in
                              zip(found, spreads, strict=True)) + ".")
