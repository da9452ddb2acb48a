"""What a run costs before it is started: FLOPs, bytes and minutes."""

from __future__ import annotations

import time
from dataclasses import dataclass

import torch

from picolm_lib.config import PicoConfig
from picolm_lib.course.plots import BLUE, GREEN, ORANGE, PURPLE, RED, SKY, Picture, canvas, finish
from picolm_lib.model.picolm import PicoLM
from picolm_lib.train.muon import parameter_groups
from picolm_lib.train.trainer import Trainer

COLORS = (BLUE, SKY, GREEN, ORANGE, RED, PURPLE)


def flops(config: PicoConfig) -> dict[str, int]:
    """FLOPs of one trained token by part: six per weight, and the causal scores."""
    with torch.device("meta"):
        model = PicoLM(config)
    parts = {"attention": 0, "MLP": 0, "output layer": 0}
    for name, parameter in model.named_parameters():
        if parameter.ndim >= 2 and not name.startswith("embedding"):
            part = ("output layer" if name.startswith("output") else
                    "attention" if ".attn." in name else "MLP")
            parts[part] += 6 * parameter.numel()
    parts["scores"] = 6 * config.n_layers * config.d_model * config.max_seq_len
    return parts


def state_bytes(config: PicoConfig) -> dict[str, int]:
    """Bytes that are needed for the whole run. Muon keeps one float32 per weight, AdamW two."""
    with torch.device("meta"):
        groups = parameter_groups(PicoLM(config))
    count = {kind: sum(p.numel() for g in groups if g["kind"] == kind for p in g["params"])
             for kind in ("muon", "adamw")}
    both = sum(count.values())
    return {"weights": 4 * both, "gradients": 4 * both, "Muon's momentum": 4 * count["muon"],
            "AdamW's two averages": 8 * count["adamw"]}


def draw_budget(config: PicoConfig, tokens: int, name: str) -> Picture:
    """Where the FLOPs of a token go, and where the bytes of a run are.

    Args:
        tokens: of one pass; their float32 logits are drawn beside the bytes of the whole run.
    """
    figure, (top, bottom) = canvas(3.6, 2, 1)
    held = state_bytes(config) | {"all logits, if they were kept": 4 * config.vocab_size * tokens}
    sums = []
    for axes, parts, unit, divide in ((top, flops(config), "MFLOP per trained token", 1e6),
                                      (bottom, held, "MB", 1e6)):
        start = 0.0
        for (part, value), color in zip(parts.items(), COLORS, strict=False):
            axes.barh(0, value / divide, left=start, color=color, label=part, height=0.6)
            start += value / divide
        axes.set(xlabel=unit, yticks=[], ylim=(-0.4, 1.3), xlim=(0, start))
        axes.grid(False)
        axes.legend(loc="upper left", ncols=3, fontsize=8.5, handlelength=1)
        sums.append(start)
    top.set_title(f"{name}: {sums[0]:,.0f} MFLOP per token")
    bottom.set_title(f"what the whole run needs, and the logits of {tokens:,} tokens")
    return finish(figure, f"A token of {name} costs {sums[0]:,.0f} MFLOP; the run needs "
                          f"{sum(state_bytes(config).values()) / 1e6:,.0f} MB, and all logits of "
                          f"{tokens:,} tokens would be {held.popitem()[1] / 1e6:,.0f} MB more.")


@dataclass(frozen=True)
class Speed:
    """The speed of a few real steps."""

    tokens_per_second: float
    flops_per_second: float
    loss: float


def measure_steps(trainer: Trainer, steps: int = 3) -> Speed:
    """Takes a few optimizer steps; the first one is not timed."""
    trainer.step()
    before, started = trainer.progress.tokens, time.monotonic()
    for _ in range(steps):
        loss = trainer.step()["loss"]
    rate = (trainer.progress.tokens - before) / (time.monotonic() - started)
    return Speed(rate, rate * trainer.flops, loss)


def matmul_flops(device: torch.device, dtype: torch.dtype, size: int = 1024) -> float:
    """FLOPs per second of plain matrix products: nearly the best that this machine can do."""
    if device.type == "cuda":
        size *= 4
    a = torch.randn(size, size, device=device).to(dtype)
    best = 0.0
    for _ in range(6):
        started = time.monotonic()
        # item() waits until the product has been computed.
        (a @ a)[0, 0].item()
        best = max(best, 2 * size**3 / (time.monotonic() - started))
    return best
