"""The pyramid designer: widths, parameters and FLOPs of an MLP stack, and its flat twin."""

from __future__ import annotations

from dataclasses import dataclass, replace

import torch

from picolm_lib.config import PRESETS, PicoConfig
from picolm_lib.course.plots import BLUE, GREEN, INK, ORANGE, SKY, Picture, canvas, finish
from picolm_lib.course.widgets import Playground, slider
from picolm_lib.model.mlp import MLP, pyramid_widths
from picolm_lib.model.picolm import PicoLM, count_parameters, flops_per_token


@dataclass(frozen=True)
class Stack:
    """The MLPs of all blocks."""

    widths: list[int]
    parameters: int
    flops: int
    """Per token, forward."""


def stack(config: PicoConfig) -> Stack:
    """Widths and cost of a configuration's MLPs."""
    widths = pyramid_widths(config)
    with torch.device("meta"):
        parameters = sum(count_parameters(MLP(config.d_model, width)) for width in widths)
    # Each weight is one multiplication and one addition.
    return Stack(widths, parameters, 2 * parameters)


def flat_twin(config: PicoConfig) -> PicoConfig:
    """The same model with one width for all blocks, and about the same number of parameters."""
    mean = sum(pyramid_widths(config)) / config.n_layers / config.d_model
    return replace(config, mlp_ratio_first=mean, mlp_ratio_last=mean)


def draw_pyramid(narrow: float = 1.5, wide: float = 4.0, layers: int = 12,
                 d_model: int = 384) -> Picture:
    """The MLP widths of a pyramid, beside a flat stack with the same number of parameters."""
    config = PicoConfig(mlp_ratio_first=narrow, mlp_ratio_last=wide, n_layers=layers,
                        d_model=d_model)
    pyramid, flat = stack(config), stack(flat_twin(config))
    figure, axes = canvas(3.8, 1, 2, sharey=True, sharex=True)
    for cell, shape, color, name in ((axes[0], pyramid, BLUE, "pyramid"),
                                     (axes[1], flat, ORANGE, "flat")):
        bars = cell.barh(range(layers), shape.widths, color=color, height=0.75)
        if layers <= 16:
            cell.bar_label(bars, [f" {width:,}" for width in shape.widths])
        cell.set(xlabel="MLP width (features)", xlim=(0, 1.18 * max(pyramid.widths)),
                 yticks=range(0, layers, 1 + layers // 12),
                 title=f"{name}: {shape.parameters / 1e6:.2f} M parameters\n"
                       f"{shape.flops / 1e6:.1f} MFLOP per token")
    axes[0].set_ylabel("block (0 reads first)")
    return finish(figure, f"MLP widths from {pyramid.widths[0]:,} to {pyramid.widths[-1]:,} over "
                          f"{layers} blocks: {pyramid.parameters / 1e6:.2f} million parameters; "
                          f"the flat stack has {flat.parameters / 1e6:.2f} million.")


def pyramid_designer() -> Playground:
    """Sliders over both ends and the number of blocks, for pico's width."""
    return Playground(draw_pyramid,
                      narrow=slider("narrow end (x D)", 1.5, 0.5, 4.0, 0.25),
                      wide=slider("wide end (x D)", 4.0, 0.5, 6.0, 0.25),
                      layers=slider("blocks", 12, 1, 32))


def parameter_counts(name: str) -> dict[str, int]:
    """Parameters of each kind in a preset's model.

    The model is built on the meta device: it has shapes and no memory.
    """
    with torch.device("meta"):
        model = PicoLM(PRESETS[name].model)
    parts = {"embedding": 0, "attention": 0, "mlp": 0, "norms": 0, "output": 0}
    for key, parameter in model.named_parameters():
        parts[_part(key)] += parameter.numel()
    return parts


def parameter_table(*names: str) -> str:
    """Where the parameters of some presets are, as a text table."""
    rows: dict[str, list[str]] = {}
    for name in names:
        parts = parameter_counts(name)
        total = sum(parts.values())
        column = [f"{count:,} ({count / total:.0%})" for count in parts.values()]
        column += [f"{total:,}", f"{flops_per_token(PRESETS[name].model) / 1e6:,.0f}",
                   f"{4 * total / 1e9:.2f}", f"{16 * total / 1e9:.2f}"]
        for label, value in zip([*parts, "all", "MFLOP per trained token", "GB as float32",
                                 "GB with gradients and AdamW"], column, strict=True):
            rows.setdefault(label, []).append(value)
    lines = [f"{'':<28}" + "".join(f"{name:>22}" for name in names)]
    return "\n".join(lines + [f"{label:<28}" + "".join(f"{v:>22}" for v in values)
                              for label, values in rows.items()])


def draw_parameters(*names: str) -> Picture:
    """The shares in that table as bars, one per preset."""
    figure, axes = canvas(1.2 + 0.5 * len(names))
    for row, name in enumerate(names):
        counts = parameter_counts(name)
        total, left = sum(counts.values()), 0.0
        for (part, count), color in zip(counts.items(), (BLUE, ORANGE, GREEN, INK, SKY),
                                        strict=True):
            share = 100 * count / total
            axes.barh(row, share, left=left, height=0.62, color=color,
                      label=part if row == 0 else None)
            if share > 4:
                axes.text(left + share / 2, row, f"{share:.0f}%",
                          horizontalalignment="center", verticalalignment="center",
                          color="white" if color in (BLUE, GREEN) else INK)
            left += share
    axes.set(xlabel="share of the parameters (%)", xlim=(0, 100), yticks=range(len(names)),
             yticklabels=names)
    axes.invert_yaxis()
    figure.legend(loc="outside upper center", ncols=5)
    return finish(figure, "; ".join(
        f"{name}: MLPs {counts['mlp'] / sum(counts.values()):.0%}, embedding and output "
        f"{(counts['embedding'] + counts['output']) / sum(counts.values()):.0%}"
        for name, counts in ((name, parameter_counts(name)) for name in names)) + ".")


def _part(name: str) -> str:
    if name.startswith(("embedding", "output")):
        return name.split(".")[0]
    if "norm" in name:
        return "norms"
    return "attention" if ".attn." in name else "mlp"
