"""`python run_train.py --dry-run`: what a run would need, without data, tokenizer or folder."""

from __future__ import annotations

import math
from collections.abc import Iterable

import torch

from picolm_lib.config import PicoConfig, TrainConfig
from picolm_lib.doctor import DTYPES, GPU_PEAK_TFLOPS
from picolm_lib.mlp import pyramid_widths
from picolm_lib.model import count_parameters, flops_per_token
from picolm_lib.plan import Memory, Plan

GIB = 2**30
COUNTS = (1, 2, 4, 8)
USED = (0.2, 0.4)  # shares of a GPU's peak that runs reach
GPUS = {"T4 (15)": 15, "L4, A10 (24)": 24, "A100 (40)": 40, "A100, H100 (80)": 80}  # GiB
FREE = 0.9  # of a GPU's memory: the rest is for CUDA itself and for gaps between tensors


def print_plan(preset: str, model: PicoConfig, train: TrainConfig) -> None:
    """Prints what training `model` as `train` says would need."""
    dtype = DTYPES.get(train.dtype, torch.bfloat16)
    plan = Plan(model, dtype)
    _print_parameters(preset, plan, train)
    _print_compute(model, train)
    print(f"\nMemory per GPU in GiB, counted on tensors without content; {_name(dtype)} products, "
          "weights in float32.\n")
    _print_memory(plan, train)
    print(f"\nSequences per micro-batch that fit into {FREE:.0%} of a GPU's memory "
          "(0: not even one)\n")
    _print_fits(plan, train)
    print("\nThe largest of all moments counts: pass, or optimizer. FSDP2: two blocks gathered at a"
          "\ntime, and embedding and output layer; Newton-Schulz shared out. Times and memory are"
          "\nestimates: no GPU was asked.")


def _print_parameters(preset: str, plan: Plan, train: TrainConfig) -> None:
    model, widths = plan.model, pyramid_widths(plan.config)
    tables = [count_parameters(model.embedding), count_parameters(model.output)]
    shown = ", ".join(f"{w:,}" for w in widths) if len(widths) <= 6 else (
        f"{widths[0]:,}, {widths[1]:,}, {widths[2]:,}, ..., {widths[-1]:,}")
    print(f"{preset}: {plan.parameters:,} parameters\n"
          f"  embedding      {tables[0]:>15,}\n"
          f"  output layer   {tables[1]:>15,}\n"
          f"  blocks and norm{plan.parameters - sum(tables):>14,}\n"
          f"  MLP widths     {shown} ({len(widths)} blocks)\n"
          f"  vocabulary     {plan.config.vocab_size:,}; a run takes its tokenizer's "
          f"({train.tokenizer})")


def _print_compute(model: PicoConfig, train: TrainConfig) -> None:
    each, step = flops_per_token(model), train.batch_size * model.max_seq_len
    limits = [train.max_tokens, train.max_steps * step]
    total = min((limit for limit in limits if limit), default=0)
    print(f"\n{step:,} tokens per step; {each / 1e6:,.1f} MFLOP per token, "
          f"{_short(each * step / 1e12)} TFLOP per step")
    if not total:
        print("The limit is in minutes, so the number of tokens depends on the machine.")
        return
    print(f"{total:,} tokens in all, {-(-total // step):,} steps, "
          f"{_short(each * total / 1e15)} PFLOP\n\n"
          "Time on one GPU (an estimate), where it reaches this share of its peak\n")
    rows = [[name, *(_duration(each * total / (peak * 1e12 * used)) for used in USED)]
            for name, peak in GPU_PEAK_TFLOPS.items()]
    _table(["GPU", *(f"{used:.0%}" for used in USED)], rows)


def _ways() -> Iterable[tuple[int, bool, str]]:
    for gpus in COUNTS:
        yield from [(gpus, False, "DDP"), (gpus, True, "FSDP2")] if gpus > 1 else [(1, False, "")]


def _print_memory(plan: Plan, train: TrainConfig) -> None:
    parts = list(Memory.__dataclass_fields__)
    rows = []
    for gpus, sharded, way in _ways():
        batch = _micro_batch(train, gpus)
        memory = plan.memory(gpus, sharded, batch)
        values = [getattr(memory, part) for part in parts] + [memory.total]
        rows.append([str(gpus), way, str(batch), *(_short(value / GIB) for value in values)])
    _table(["GPUs", "way", "sequences", *(part.replace("_", " ") for part in parts), "total"], rows)


def _print_fits(plan: Plan, train: TrainConfig) -> None:
    rows = []
    for name, gib in GPUS.items():
        fits = [plan.fits(FREE * gib * GIB, gpus, sharded, max(train.batch_size // gpus, 1))
                for gpus, sharded, _ in _ways()]
        rows.append([name, *map(str, fits)])
    _table(["GPU (GiB)", *(f"{gpus} {way}".strip() for gpus, _, way in _ways())], rows)


def _micro_batch(train: TrainConfig, gpus: int) -> int:
    rows = max(train.batch_size // gpus, 1)
    return min(train.micro_batch_size or rows, rows)


def _table(head: list[str], rows: list[list[str]]) -> None:
    """Prints a Markdown table with aligned columns."""
    widths = [max(map(len, column)) for column in zip(head, *rows, strict=True)]
    for row in (head, ["-" * width for width in widths], *rows):
        print("| " + " | ".join(cell.rjust(width) for cell, width in zip(row, widths, strict=True))
              + " |")


def _duration(seconds: float) -> str:
    unit, length = next((unit, length) for unit, length in (("h", 3600), ("min", 60), ("s", 1))
                        if seconds >= length or length == 1)
    return f"{_short(seconds / length)} {unit}"


def _short(number: float) -> str:
    """Three digits that count."""
    return f"{number:,.{max(0, 2 - math.floor(math.log10(number)))}f}" if number else "0"


def _name(dtype: torch.dtype) -> str:
    return str(dtype).removeprefix("torch.")
