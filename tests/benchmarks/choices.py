"""The measurements behind the defaults: each choice against its rivals, one change at a time.

    python tests/benchmarks/choices.py --data ../shared/data/tinystories --seeds 0 1 2
    python tests/benchmarks/choices.py --table

A small model (6 layers, d 192, 4 heads, 1 KV head, context 256), an own BPE of 4,096 tokens trained
on the training split, 983,040 tokens, bits per byte on the whole validation split at the end. Every
run is a line in results/choices.jsonl, so an interrupted call resumes where it was, and calls may
share the work (--only). --table turns the lines into results/choices.md. A run takes two to five
minutes on two CPU cores.
"""

from __future__ import annotations

import argparse
import datetime
import json
import math
import platform
import statistics
from collections.abc import Callable
from dataclasses import fields
from pathlib import Path

import torch

from picolm_lib.config import PicoConfig, TrainConfig
from picolm_lib.data.cache import tokenizer_for
from picolm_lib.data.corpus import load_corpus
from picolm_lib.data.tokens import tokenize_corpus
from picolm_lib.train.trainer import Trainer

RESULTS = Path(__file__).parent / "results"
LINES = RESULTS / "choices.jsonl"
MODEL = {"vocab_size": 4_096, "n_layers": 6, "d_model": 192, "n_heads": 4, "n_kv_heads": 1,
         "max_seq_len": 256}
RUN = {"max_tokens": 983_040, "evals": 1}


def fuse_qkv(trainer: Trainer) -> None:
    """Newton-Schulz on q, k and v as one matrix."""
    for group in trainer.optimizer.param_groups:
        group["rows"] = None


def scale_by_aspect(trainer: Trainer) -> None:
    """A smaller step for wide matrices, too: sqrt(rows / cols)."""
    trainer.optimizer.scale = lambda rows, cols: math.sqrt(rows / cols)


def scale_by_side(trainer: Trainer) -> None:
    """The same root mean square for every matrix; the square ones keep theirs."""
    trainer.optimizer.scale = lambda rows, cols: math.sqrt(max(rows, cols) / MODEL["d_model"])


def rates(d_model: int, factor: float) -> dict[str, float]:
    """Another width and all learning rates times a factor, at half the tokens."""
    default = TrainConfig()
    return {"d_model": d_model, "max_tokens": 491_520, **{
        name: factor * getattr(default, name) for name in ("muon_lr", "adamw_lr", "vector_lr")}}


DEFAULT = "as in config.py"
# What is changed -> name -> fields of PicoConfig and TrainConfig, or a function of the trainer.
CHOICES: dict[str, dict[str, dict | Callable[[Trainer], None]]] = {
    "default": {DEFAULT: {}},
    "post_norm_gain (0.1)": {str(g): {"post_norm_gain": g} for g in (0.03, 0.3, 1.0)},
    "std_last (0.02)": {str(s): {"std_last": s} for s in (0.01, 0.04)},
    "muon_lr (0.01)": {str(r): {"muon_lr": r} for r in (0.005, 0.02)},
    "adamw_lr (0.012)": {str(r): {"adamw_lr": r} for r in (0.006, 0.024)},
    "vector_lr (0.036)": {str(r): {"vector_lr": r} for r in (0.012, 0.1)},
    "betas of AdamW (0.8, 0.99)": {f"{b1}, {b2}": {"adamw_beta1": b1, "adamw_beta2": b2}
                                   for b1, b2 in ((0.8, 0.95), (0.9, 0.99), (0.9, 0.95))},
    "decay (0.5)": {str(d): {"decay": d} for d in (0.25, 0.75, 0.98)},
    "Muon's momentum (0.85 to 0.9)": {
        "0.9 from the start": {"momentum_start": 0.9}, "0.85 to 0.95": {"momentum": 0.95}},
    "weight_decay (0)": {"0.1": {"weight_decay": 0.1}},
    "batch_size (8)": {str(b): {"batch_size": b} for b in (4, 16)},
    "q, k, v (apart)": {"fused": fuse_qkv},
    "Muon's update scale (sqrt(max(1, r/c)))": {
        "sqrt(r/c)": scale_by_aspect, "sqrt(max(r, c))": scale_by_side},
    "all rates at d 96": {DEFAULT: rates(96, 1), "x 1/2": rates(96, 0.5), "x 2": rates(96, 2)},
    "all rates at d 384": {DEFAULT: rates(384, 1), "x 1/2": rates(384, 0.5), "x 2": rates(384, 2)},
}


def run(changes: dict | Callable[[Trainer], None], seed: int, data: str, model: dict | None = None,
        ) -> dict:
    """Trains once and returns the line for the file."""
    changed = changes if isinstance(changes, dict) else {}
    values = {**MODEL, **RUN, **(model or {}), **changed, "seed": seed, "data": data}
    corpus = load_corpus(data)
    tokenizer = tokenizer_for(f"bpe:{values['vocab_size']}", corpus)
    trainer = Trainer(_take(PicoConfig, values), _take(TrainConfig, values), tokenizer,
                      tokenize_corpus(corpus, tokenizer))
    if callable(changes):
        changes(trainer)
    scores = trainer.run()
    return {"seed": seed, "tokens": trainer.progress.tokens, "bpb": round(scores.bits_per_byte, 5),
            "loss": round(scores.loss, 5), "seconds": round(trainer.progress.seconds, 1),
            "dtype": str(trainer.precision.dtype), "threads": torch.get_num_threads(),
            "machine": platform.machine(), "torch": torch.__version__,
            "date": datetime.date.today().isoformat()}


def _take(config: type, values: dict) -> PicoConfig | TrainConfig:
    names = {field.name for field in fields(config)}
    return config(**{name: value for name, value in values.items() if name in names})


def read() -> list[dict]:
    """All runs so far."""
    return [json.loads(line) for line in LINES.read_text().splitlines()] if LINES.exists() else []


def table(lines: list[dict]) -> str:
    """The runs as Markdown: mean and spread over seeds, and the distance from the default."""
    rows = ["| choice (default) | value | bits per byte | against the default, seed 0 | seeds |",
            "|---|---|---|---|---|"]
    means: dict[tuple[str, str], list[float]] = {}
    for line in sorted(lines, key=lambda line: line["seed"]):
        means.setdefault((line["choice"], line["value"]), []).append(line["bpb"])
    for choice, values in CHOICES.items():
        base = means.get((choice if DEFAULT in values else "default", DEFAULT))
        for value in values:
            bpb = means.get((choice, value))
            if bpb and base:
                spread = f" ± {statistics.stdev(bpb):.4f}" if len(bpb) > 1 else ""
                mean = statistics.mean(bpb)
                # Only a comparison at the same seed is one of the choices and not of the seeds.
                gap = f"{bpb[0] - base[0]:+.4f}" if bpb is not base else ""
                rows.append(f"| {choice} | {value} | {mean:.4f}{spread} | {gap} | {len(bpb)} |")
    return "\n".join(rows) + "\n"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--data", default="../shared/data/tinystories")
    parser.add_argument("--seeds", type=int, nargs="+", default=[0])
    parser.add_argument("--only", nargs="+", help="only these choices")
    parser.add_argument("--table", action="store_true", help="write the table, run nothing")
    options = parser.parse_args()
    for seed in [] if options.table else options.seeds:
        for choice, values in CHOICES.items():
            for value, changes in values.items():
                done = {(line["choice"], line["value"], line["seed"]) for line in read()}
                if (choice, value, seed) in done or (options.only and choice not in options.only):
                    continue
                line = {"choice": choice, "value": value, **run(changes, seed, options.data)}
                with LINES.open("a") as stream:
                    stream.write(json.dumps(line) + "\n")
                print(f"{choice:<28}{value:<28}seed {seed}   {line['bpb']:.4f}", flush=True)
    text = table(read())
    (RESULTS / "choices.md").write_text(HEAD + text)
    print(text)


HEAD = """# The choices behind the defaults

    python tests/benchmarks/choices.py --data ../shared/data/tinystories --seeds 0 1 2 --only default
    python tests/benchmarks/choices.py --data ../shared/data/tinystories

TinyStories (8,443 training stories, 400 validation stories), an own BPE of 4,096 tokens, 6 layers,
d 192, 4 heads, 1 KV head, context 256, 983,040 tokens of training. Bits per byte on the whole
validation split; lower is better. Every row below the first changes one thing. Each run is a line
in choices.jsonl, with its date, number format and torch version.

How to read it: three seeds of the default differ by about 0.003, so a row that differs by less than
0.005 at one seed is a tie. Ties are decided for the simpler or the more cautious value.

The rule that carries the rates from one width to another is to leave them alone. Muon's step is
scaled by sqrt(max(1, rows / cols)), so its effect on a layer's output does not depend on the width.
The rows "all rates at d ..." test it, at 491,520 tokens: half and double the rates lose, or tie, at
half and at double the width.

"""  # noqa: E501

if __name__ == "__main__":
    main()
