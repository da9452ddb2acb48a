"""`picolm estimate`: what a training run would need, without training anything."""

from __future__ import annotations

import math
from collections import Counter, defaultdict
from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import Literal

import torch
from tqdm import tqdm

from picolm_lib.commands.parse import explicitly_set, override_limits, parse, preset_of
from picolm_lib.commands.printing import print_notes
from picolm_lib.config import DEFAULT_PRESET, PRESETS, PicoConfig, TrainConfig
from picolm_lib.data.cache import bpe_size
from picolm_lib.data.corpus import load_corpus
from picolm_lib.data.tokenizer import encode, load_tokenizer
from picolm_lib.device import DTYPES, GPU_PEAK_TFLOPS
from picolm_lib.files import printable
from picolm_lib.model.mlp import pyramid_widths
from picolm_lib.model.picolm import count_parameters, flops_per_token
from picolm_lib.train.estimate import Memory, MemoryEstimate

GIB = 2**30
# Documents of a split whose tokens are counted.
SAMPLE = 1_000
COUNTS = (1, 2, 4, 8)
USED = (0.2, 0.4)  # shares of a GPU's peak that runs reach
GPUS = {"T4 (15)": 15, "L4, A10 (24)": 24, "A100 (40)": 40, "A100, H100 (80)": 80}  # GiB
FREE = 0.9  # of a GPU's memory: the rest is for CUDA itself and for gaps between tensors


@dataclass(frozen=True)
class EstimateOptions:
    """Options of the estimate: those of the training."""

    preset: Literal[tuple(PRESETS)] = DEFAULT_PRESET  # type: ignore[valid-type]
    """Named set of defaults for all other options."""
    model: PicoConfig = field(default_factory=PicoConfig)
    train: TrainConfig = field(default_factory=TrainConfig)


def estimate_command(argv: list[str], prog: str = "picolm estimate") -> None:
    """`picolm estimate`: what a training run would need, and what --data would read."""
    name, preset = preset_of(argv)
    options = parse(EstimateOptions, argv, EstimateOptions(name, preset.model, preset.train), prog,
                    "Trains nothing. Prints the parameters and FLOPs of a training run, and "
                    "estimates of its time and of its memory per GPU. With --data, it also reads "
                    "those and prints what they are.")
    print_estimate(options.preset, options.model, override_limits(argv, options.train),
                   "data" in explicitly_set(argv))


def print_data(train: TrainConfig) -> None:
    """Prints what the data of a run are: files, documents, bytes and tokens of each split."""
    # Refused now rather than after reading all.
    size_later = bpe_size(train.tokenizer)
    tokenizer = load_tokenizer(train.tokenizer) if size_later is None else None
    corpus = load_corpus(train.data, train.storybook_stories)
    print(f"data: {printable(train.data)}")
    print_notes(corpus)
    documents, size = Counter[str](), Counter[str]()
    samples: dict[str, list[str]] = defaultdict(list)
    stride = Counter[str]()
    for split, text in tqdm(corpus.documents(), "data", unit=" documents", delay=1.0,
                            unit_scale=True):
        # From all over the data: every second, every fourth document, and so on.
        if documents[split] % 2**stride[split] == 0:
            samples[split].append(text)
        if len(samples[split]) == 2 * SAMPLE:
            samples[split] = samples[split][::2]
            stride[split] += 1
        documents[split] += 1
        size[split] += len(text.encode())
    for reason, number in corpus.skipped.items():
        print(f"skipped: {number:,} documents ({reason})")
    rows = []
    for split, sample in samples.items():
        tokens = "?"
        if tokenizer:
            ratio = sum(map(len, encode(tokenizer, sample))) / len("".join(sample).encode())
            tokens = f"{round(ratio * size[split]) + documents[split] + 1:,}"
        rows.append([split, f"{documents[split]:,}", f"{size[split]:,}", tokens])
    print()
    _table(["split", "documents", "bytes", "tokens"], rows)
    print(f"\nTokens of the tokenizer {printable(train.tokenizer)}, "
          + ("which is trained on the data first.\n" if size_later else
             f"estimated from up to {2 * SAMPLE:,} documents of each split.\n"))


def print_estimate(preset: str, model: PicoConfig, train: TrainConfig, data: bool = False) -> None:
    """Prints what training `model` with the options `train` would need.

    Args:
        data: whether to read the data, too, and to print what they are.
    """
    if data:
        print_data(train)
    dtype = DTYPES.get(train.dtype, torch.bfloat16)
    plan = MemoryEstimate(model, dtype)
    _print_parameters(preset, plan, train)
    _print_compute(model, train)
    print("\nMemory per GPU in GiB, counted in a pass over tensors without data; products in "
          f"{_name(dtype)}, weights in float32.\n")
    _print_memory(plan, train)
    print(f"\nSequences per micro-batch that fit into {FREE:.0%} of a GPU's memory "
          "(0: not even one)\n")
    _print_fits(plan, train)
    print("\nThe total is the peak, in the pass or in the optimizer's step. FSDP2 gathers two "
          "blocks\nat a time, and embedding and output layer, and distributes Newton-Schulz. Times "
          "and\nmemory are estimates: no GPU was used.")


def _print_parameters(preset: str, plan: MemoryEstimate, train: TrainConfig) -> None:
    model, widths = plan.model, pyramid_widths(plan.config)
    tables = [count_parameters(model.embedding), count_parameters(model.output)]
    shown = ", ".join(f"{w:,}" for w in widths) if len(widths) <= 6 else (
        f"{widths[0]:,}, {widths[1]:,}, {widths[2]:,}, ..., {widths[-1]:,}")
    print(f"{preset}: {plan.parameters:,} parameters\n"
          f"  embedding      {tables[0]:>15,}\n"
          f"  output layer   {tables[1]:>15,}\n"
          f"  blocks and norm{plan.parameters - sum(tables):>14,}\n"
          f"  MLP widths     {shown} ({len(widths)} blocks)\n"
          f"  vocabulary     {plan.config.vocab_size:,}; a run takes that of its tokenizer "
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
    print(f"{total:,} tokens in total, {-(-total // step):,} steps, "
          f"{_short(each * total / 1e15)} PFLOP\n\n"
          "Time on one GPU (an estimate), where it reaches this share of its peak\n")
    rows = [[name, *(_duration(each * total / (peak * 1e12 * used)) for used in USED)]
            for name, peak in GPU_PEAK_TFLOPS.items()]
    _table(["GPU", *(f"{used:.0%}" for used in USED)], rows)


def _ways() -> Iterable[tuple[int, bool, str]]:
    for gpus in COUNTS:
        yield from [(gpus, False, "DDP"), (gpus, True, "FSDP2")] if gpus > 1 else [(1, False, "")]


def _print_memory(plan: MemoryEstimate, train: TrainConfig) -> None:
    parts = list(Memory.__dataclass_fields__)
    rows = []
    for gpus, sharded, way in _ways():
        batch = _micro_batch(train, gpus)
        memory = plan.memory(gpus, sharded, batch)
        values = [getattr(memory, part) for part in parts] + [memory.total]
        rows.append([str(gpus), way, str(batch), *(_short(value / GIB) for value in values)])
    columns = [part.replace("_", " ") for part in parts]
    _table(["GPUs", "strategy", "sequences", *columns, "total"], rows)


def _print_fits(plan: MemoryEstimate, train: TrainConfig) -> None:
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
    """Three significant digits."""
    return f"{number:,.{max(0, 2 - math.floor(math.log10(number)))}f}" if number else "0"


def _name(dtype: torch.dtype) -> str:
    return str(dtype).removeprefix("torch.")
