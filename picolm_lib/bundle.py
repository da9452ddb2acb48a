"""Makes the bundled tokenizer and model: the files in assets/, which are in the repository.

    python -m picolm_lib.bundle

A byte-level BPE is trained on the Storybook, then the nano preset with it, longer than `make train`
does. The weights are stored in bfloat16, half the size, for a loss that differs in the fourth
digit; four earlier moments of the same run are kept in int8 (snapshots.py). An interrupted run goes
on where it was.
"""

from __future__ import annotations

import json
import sys
from dataclasses import asdict, replace
from pathlib import Path
from statistics import fmean
from typing import Any

import torch

from picolm_lib.checkpoint import (
    BUNDLED_RUN,
    load_config,
    load_run,
    load_weights,
    save_config,
    save_weights,
)
from picolm_lib.cli import run_command
from picolm_lib.commands.train import train_command
from picolm_lib.config import PRESETS
from picolm_lib.corpus import load_corpus
from picolm_lib.data import TokenFile, prepare
from picolm_lib.doctor import numerics
from picolm_lib.evaluate import Scores, evaluate
from picolm_lib.files import replace_text
from picolm_lib.model import PicoLM
from picolm_lib.report import read_metrics
from picolm_lib.snapshots import FOLDER, History, Snapshot, load_snapshot, save_snapshot
from picolm_lib.tokenizer import BUNDLED, train_bpe
from picolm_lib.train import Trainer

RUN = Path("runs/bundled")
TOKENS = 8_000_000
SHARES = (0.01, 0.05, 0.2, 0.5)  # of TOKENS, after which a snapshot is kept
GROWTH = 1.045  # from a point of the loss curve to the next, in steps


def bundle(argv: list[str]) -> None:
    """Trains and saves all; `argv` goes to run_train.py."""
    nano = PRESETS["nano"]
    corpus = load_corpus("storybook", nano.train.storybook_stories)
    if not RUN.exists():
        train_bpe(corpus.split("train"), nano.model.vocab_size).save_pretrained(BUNDLED)
    train_command(["--preset", "nano", "--run", str(RUN), "--max-tokens", str(TOKENS), "--resume",
                   *argv], keep_snapshots)
    model, tokenizer, config = load_run(RUN)
    save_weights(BUNDLED_RUN / "model.safetensors", model, torch.bfloat16)
    save_config(BUNDLED_RUN, replace(config, train=replace(config.train, tokenizer="bundled")))
    write_history(prepare(corpus, tokenizer)["validation"])
    size = sum(f.stat().st_size for f in BUNDLED_RUN.rglob("*") if f.is_file())
    print(f"{BUNDLED_RUN.name}: {size / 1e6:.2f} MB", file=sys.stderr)


def keep_snapshots(trainer: Trainer, line: dict[str, Any]) -> None:
    """Keeps the weights in the run's folder, as they are, when a share of the tokens is reached."""
    for share in SHARES:
        path = snapshot_path(share)
        if line["kind"] == "step" and line["tokens"] >= share * TOKENS and not path.exists():
            path.parent.mkdir(exist_ok=True)
            save_weights(path, trainer.model)


def snapshot_path(share: float) -> Path:
    """Where the run keeps a snapshot."""
    return RUN / "snapshots" / f"{round(100 * share):03d}.safetensors"


def write_history(validation: TokenFile) -> None:
    """Stores the snapshots in int8, measures what was stored, and writes history.json."""
    steps = [m for m in read_metrics(RUN) if m["kind"] == "step" and m["loss"] is not None]
    ends = sorted({min(int(GROWTH**power), len(steps)) for power in range(400)})
    curve = [(steps[end - 1]["tokens"], round(fmean(m["loss"] for m in steps[begin:end]), 4))
             for begin, end in zip([0, *ends], ends, strict=False)]
    FOLDER.mkdir(exist_ok=True)
    moments: list[Snapshot] = []
    for share in SHARES:
        model = PicoLM(load_config(RUN).model)
        load_weights(snapshot_path(share), model)
        save_snapshot(FOLDER / snapshot_path(share).name, model)
        moments.append(_moment(snapshot_path(share).name, steps, share, model, validation))
    moments.append(_moment("", steps, 1.0, load_run(RUN)[0], validation))
    for _ in range(2):  # the stored ones are found by the list, then measured and written into it
        text = json.dumps(asdict(History(curve, moments)))
        replace_text(FOLDER / "history.json", text + "\n")
        stored = [_score(load_snapshot(number), validation) for number in range(len(moments))]
        moments = [replace(moment, loss=round(s.loss, 5), bits_per_byte=round(s.bits_per_byte, 5))
                   for moment, s in zip(moments, stored, strict=True)]


def _moment(file: str, steps: list[dict], share: float, model: PicoLM,
            validation: TokenFile) -> Snapshot:
    step = next(m for m in steps if m["tokens"] >= share * TOKENS)
    loss = round(_score(model, validation).loss, 5)
    return Snapshot(file, step["step"], step["tokens"], loss, 0.0, loss)


def _score(model: PicoLM, validation: TokenFile) -> Scores:
    return evaluate(model, validation, numerics("cpu", "float32"))


if __name__ == "__main__":
    run_command(bundle)
