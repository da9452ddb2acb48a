"""What a run costs before it is started: FLOPs, bytes and minutes."""

from __future__ import annotations

import time
from dataclasses import dataclass
from statistics import median

import torch
from IPython.display import Markdown

from picolm_lib.config import PRESETS, PicoConfig, TrainConfig
from picolm_lib.course.plots import BLUE, GREEN, ORANGE, PURPLE, RED, SKY, Picture, canvas, finish
from picolm_lib.course.training.memory import peak_bytes
from picolm_lib.device import GPU_PEAK_TFLOPS, wait_for
from picolm_lib.model.picolm import PicoLM, flops_per_token
from picolm_lib.train.budget import MIN_SECONDS
from picolm_lib.train.estimate import MemoryEstimate
from picolm_lib.train.muon import MuonAdamW, parameter_groups
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
    """Bytes that are held all the time. Muon keeps one float32 per weight, AdamW two."""
    with torch.device("meta"):
        groups = parameter_groups(PicoLM(config))
    count = {kind: sum(p.numel() for g in groups if g["kind"] == kind for p in g["params"])
             for kind in ("muon", "adamw")}
    both = sum(count.values())
    return {"weights": 4 * both, "gradients": 4 * both, "Muon's momentum": 4 * count["muon"],
            "AdamW's two averages": 8 * count["adamw"]}


def muon_flops(config: PicoConfig, iterations: int = 5) -> int:
    """FLOPs of Newton-Schulz in one optimizer step, whatever the batch.

    An iteration multiplies X X^T, the square of that, and that by X: of an (M, N) matrix with
    M <= N, 2 M M N + 2 M M M + 2 M M N FLOPs.
    """
    with torch.device("meta"):
        optimizer = MuonAdamW(parameter_groups(PicoLM(config)))
    shapes = [sorted(matrix.shape) for group in optimizer.param_groups if group["kind"] == "muon"
              for parameter in group["params"]
              for matrix in optimizer.matrices(parameter, group["rows"])]
    return iterations * sum(4 * m * m * n + 2 * m**3 for m, n in shapes)


def predict(shares: tuple[float, float] = (0.10, 0.20)) -> Markdown:
    """What a run of pico, and one of pico8k, would take on a T4: an estimate.

    Args:
        shares: of the T4's peak, the slowest and the fastest that is expected.
    """
    peak = GPU_PEAK_TFLOPS["T4"] * 1e12
    rows = ["| preset | vocabulary | MFLOP per token | of it Muon | memory | tokens/s | minutes "
            "for 39.3 million tokens |", "|---|---|---|---|---|---|---|"]
    for name in ("pico", "pico8k"):
        config, train = PRESETS[name].model, PRESETS[name].train
        muon = muon_flops(config) / (train.batch_size * config.max_seq_len)
        each = flops_per_token(config) + muon
        memory = predicted_memory(config, train, torch.float16)
        slow, fast = (share * peak / each for share in shares)
        rows.append(f"| {name} | {config.vocab_size:,} | {each / 1e6:.0f} | {muon / each:.0%} | "
                    f"{memory / 1e9:.1f} GB | {slow / 1e3:.0f},000 to {fast / 1e3:.0f},000 | "
                    f"{train.max_tokens / fast / 60:.0f} to {train.max_tokens / slow / 60:.0f} |")
    return Markdown("\n".join(rows))


def predicted_memory(config: PicoConfig, train: TrainConfig, dtype: torch.dtype) -> int:
    """Bytes at the peak of a step, as `picolm estimate` counts them."""
    at_once = train.micro_batch_size or train.batch_size
    return MemoryEstimate(config, dtype).memory(1, False, at_once).total


def measured_memory(trainer: Trainer) -> int:
    """Bytes at the peak of a real step: the GPU's own count, or the profiler's on a CPU."""
    if trainer.device.type == "cuda":
        torch.cuda.reset_peak_memory_stats(trainer.device)
        trainer.step()
        return torch.cuda.max_memory_allocated(trainer.device)
    state = [value for states in trainer.optimizer.state.values() for value in states.values()]
    held = sum(tensor.nbytes for tensor in (*trainer.model.parameters(), *state))
    return held + peak_bytes(trainer.step)


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
        axes.legend(loc="upper left", ncols=3, handlelength=1)
        sums.append(start)
    top.set_title(f"{name}: {sums[0]:,.0f} MFLOP per token")
    bottom.set_title(f"what is held all the time, and the logits of {tokens:,} tokens")
    return finish(figure, f"A token of {name} costs {sums[0]:,.0f} MFLOP; the run holds "
                          f"{sum(state_bytes(config).values()) / 1e6:,.0f} MB, and all logits of "
                          f"{tokens:,} tokens would be {held.popitem()[1] / 1e6:,.0f} MB more.")


@dataclass(frozen=True)
class Speed:
    """The speed of a few real steps."""

    tokens_per_second: float
    flops_per_second: float


def measure_steps(trainer: Trainer, steps: int = 5, seconds: float = 5.0) -> Speed:
    """Takes optimizer steps, and the median of their times: others may use the machine, too.

    Args:
        steps, seconds: at least so many, and for at least so long; the first one, which is slower
            than all others, does not count.
    """
    trainer.step()
    wait_for(trainer.device)
    times: list[float] = []
    while len(times) < steps or sum(times) < seconds:
        started = time.monotonic()
        trainer.step()
        wait_for(trainer.device)
        times.append(max(time.monotonic() - started, MIN_SECONDS))
    rate = trainer.batch_tokens / median(times)
    return Speed(rate, rate * trainer.flops)


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
