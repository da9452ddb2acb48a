"""`picolm bundle`: trains the bundled tokenizer and model, the files in picolm_lib/assets/nano.

A byte-level BPE is trained on the Storybook, then the nano preset with it, longer than `make train`
does, and in float32, so that the result does not depend on what the machine's CPU or GPU is fast
at. The weights are stored in bfloat16: half the size, and a loss that differs in the fourth digit.
Four snapshots of the same run are stored in int8 (snapshots.py). An interrupted run is resumed.
"""

from __future__ import annotations

import json
import sys
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from statistics import fmean
from typing import Any

import torch

from picolm_lib.commands.parse import parse
from picolm_lib.commands.train import train_command
from picolm_lib.config import PRESETS
from picolm_lib.data.corpus import load_corpus
from picolm_lib.data.token_file import TokenFile
from picolm_lib.data.tokenizer import BUNDLED, train_bpe
from picolm_lib.data.tokens import tokenize_corpus
from picolm_lib.device import choose_precision
from picolm_lib.evaluate import Scores, evaluate
from picolm_lib.files import atomic_write_text
from picolm_lib.model.picolm import PicoLM
from picolm_lib.train.checkpoint import BUNDLED_RUN, load_config, load_run, save_config
from picolm_lib.train.metrics import read_metrics
from picolm_lib.train.snapshots import FOLDER, History, Snapshot, load_snapshot, save_snapshot
from picolm_lib.train.trainer import Trainer
from picolm_lib.train.weights import load_weights, save_weights

RUN = Path("runs/bundled")
TOKENS = 8_000_000
SHARES = (0.01, 0.05, 0.2, 0.5)  # of TOKENS, after which a snapshot is kept
GROWTH = 1.045  # of the step, from a point of the loss curve to the next


@dataclass(frozen=True)
class BundleOptions:
    """Options of the training."""

    device: str = "auto"
    """'auto', 'cpu', 'cuda', 'cuda:1', 'mps'."""


def bundle_command(argv: list[str], prog: str = "picolm bundle") -> None:
    """`picolm bundle`: trains the bundled tokenizer and model, and saves both."""
    options = parse(BundleOptions, argv, BundleOptions(), prog,
                    "Trains the tokenizer and the model that come with the package, in about ten "
                    "minutes. Run it at the root of the repository.")
    nano = PRESETS["nano"]
    corpus = load_corpus("storybook", nano.train.storybook_stories)
    if not RUN.exists():
        train_bpe(corpus.split("train"), nano.model.vocab_size).save_pretrained(BUNDLED)
    train_command(["--preset", "nano", "--run", str(RUN), "--max-tokens", str(TOKENS), "--resume",
                   "--dtype", "float32", "--device", options.device], listener=keep_snapshots)
    model, tokenizer, config = load_run(RUN)
    save_weights(BUNDLED_RUN / "model.safetensors", model, torch.bfloat16)
    save_config(BUNDLED_RUN, replace(config, train=replace(config.train, tokenizer="bundled")))
    write_history(tokenize_corpus(corpus, tokenizer)["validation"])
    size = sum(f.stat().st_size for f in BUNDLED_RUN.rglob("*") if f.is_file())
    print(f"{BUNDLED_RUN.name}: {size / 1e6:.2f} MB", file=sys.stderr)


def keep_snapshots(trainer: Trainer, line: dict[str, Any]) -> None:
    """Saves the weights in the run's folder when a share of the tokens is reached."""
    for share in SHARES:
        path = snapshot_path(share)
        if line["kind"] == "step" and line["tokens"] >= share * TOKENS and not path.exists():
            path.parent.mkdir(exist_ok=True)
            save_weights(path, trainer.model)


def snapshot_path(share: float) -> Path:
    """Where the run keeps a snapshot."""
    return RUN / "snapshots" / f"{round(100 * share):03d}.safetensors"


def write_history(validation: TokenFile) -> None:
    """Stores the snapshots in int8, scores them, and writes history.json and metrics.jsonl."""
    steps = [m for m in read_metrics(RUN) if m["kind"] == "step" and m["loss"] is not None]
    ends = sorted({min(int(GROWTH**power), len(steps)) for power in range(400)})
    curve = [(steps[end - 1]["tokens"], round(fmean(m["loss"] for m in steps[begin:end]), 4))
             for begin, end in zip([0, *ends], ends, strict=False)]
    FOLDER.mkdir(exist_ok=True)
    snapshots: list[Snapshot] = []
    for share in SHARES:
        model = PicoLM(load_config(RUN).model)
        load_weights(snapshot_path(share), model)
        save_snapshot(FOLDER / snapshot_path(share).name, model)
        snapshots.append(_snapshot(snapshot_path(share).name, steps, share, model, validation))
    snapshots.append(_snapshot("", steps, 1.0, load_run(RUN)[0], validation))
    # load_snapshot finds the stored weights by history.json, so that is written first without
    # their scores and then with them.
    for _ in range(2):
        text = json.dumps(asdict(History(curve, snapshots)))
        atomic_write_text(FOLDER / "history.json", text + "\n")
        stored = [_score(load_snapshot(number), validation) for number in range(len(snapshots))]
        snapshots = [replace(snapshot, loss=round(scores.loss, 5),
                             bits_per_byte=round(scores.bits_per_byte, 5))
                     for snapshot, scores in zip(snapshots, stored, strict=True)]
    _write_last_evaluation(snapshots[-1], stored[-1])


def _write_last_evaluation(last: Snapshot, scores: Scores) -> None:
    """Writes metrics.jsonl: the last evaluation, with the scores of the stored weights."""
    evaluation = {"kind": "evaluation", "step": last.step, "tokens": last.tokens,
                  "perplexity": scores.perplexity, **asdict(scores), "loss": last.loss,
                  "bits_per_byte": last.bits_per_byte}
    atomic_write_text(FOLDER.parent / "metrics.jsonl", json.dumps(evaluation) + "\n")


def _snapshot(file: str, steps: list[dict], share: float, model: PicoLM,
              validation: TokenFile) -> Snapshot:
    step = next(m for m in steps if m["tokens"] >= share * TOKENS)
    loss = round(_score(model, validation).loss, 5)
    return Snapshot(file, step["step"], step["tokens"], loss, 0.0, loss)


def _score(model: PicoLM, validation: TokenFile) -> Scores:
    return evaluate(model, validation, choose_precision("cpu", "float32"))
