"""What a run's files belong to, so that nothing of another run is continued or overwritten.

Every run has a random name, kept in config.json. Its checkpoints carry that name, the run's
configuration, and what identifies its tokenizer and its data; its weights carry the name and the
model's configuration.
"""

from __future__ import annotations

import os
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any

from picolm_lib.config import LIMITS, PicoConfig, PicoError, TrainConfig
from picolm_lib.data.token_file import TokenFile
from picolm_lib.data.tokenizer import fingerprint
from picolm_lib.files import printable
from picolm_lib.train.checkpoint import RunConfig, has_resume, load_config
from picolm_lib.train.metrics import read_metrics

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerFast

# What may change when a run is resumed. With anything else it would be another run. The data may
# have moved: whether they are the same is seen from their tokens.
MAY_CHANGE = LIMITS | {"data", "micro_batch_size", "device", "dtype", "compile", "parallel",
                       "evals", "eval_tokens", "checkpoint_minutes", "prompt"}
RUN_FILES = ("config.json", "model.safetensors", "resume.pt", "resume", "resume.previous.pt",
             "resume.previous", "metrics.jsonl", "loss.png", "tokenizer")
FOLDERS = ("resume", "resume.previous", "tokenizer")


def identity(run: str, model: PicoConfig, train: TrainConfig, tokenizer: PreTrainedTokenizerFast,
             files: dict[str, TokenFile]) -> dict[str, Any]:
    """What a checkpoint says of the run that it belongs to."""
    return {"run": run, "configuration": _fixed(model, train), "tokenizer": fingerprint(tokenizer),
            "data": {name: [file.count.tokens, file.count.crc32]
                     for name, file in sorted(files.items())}}


def check_identity(saved: dict[str, Any], now: dict[str, Any], folder: Path | None) -> None:
    """Compares what a checkpoint says of its run with the run that resumes from it.

    Raises:
        PicoError: they differ.
    """
    where = repr(str(folder))
    if saved["run"] != now["run"]:
        raise PicoError(f"the checkpoint in {where} belongs to another run than its config.json; "
                        "restore the one that belongs there, or choose another --run.")
    if saved["tokenizer"] != now["tokenizer"]:
        raise PicoError(f"the tokenizer in {where} is not the one that this run was trained with; "
                        "restore it, or choose another --run.")
    # A field that is newer than the checkpoint had its default.
    configuration = {**_fixed(PicoConfig(), TrainConfig()), **saved["configuration"]}
    _compare(configuration, now["configuration"], f"the checkpoint in {where}",
             "restore config.json")
    if saved["data"] != now["data"]:
        raise PicoError(f"the data are not those that the run in {where} has learned from; restore "
                        "them, name their new place with --data, or choose another --run.")


def check_folder(folder: Path, config: RunConfig, resume: bool) -> bool:
    """Checks that a folder is new or contains this run; True where it has a checkpoint.

    A run that ended before its first checkpoint left nothing that could be lost; it starts again.

    Raises:
        PicoError: the folder contains something else, or a run that would be another one.
    """
    where = repr(str(folder))
    there = [name for name in RUN_FILES if os.path.lexists(folder / name)]
    if not there:
        return False
    if "config.json" not in there:
        raise PicoError(f"{where} contains {there[0]} but no config.json of a run, and nothing in "
                        "it is overwritten; restore config.json, or choose another --run.")
    for name in there:
        if os.path.isdir(folder / name) != (name in FOLDERS):
            kind = "folder" if name in FOLDERS else "file"
            raise PicoError(f"{str(folder / name)!r} is not a {kind}; remove it, or choose another "
                            "--run.")
    was = load_config(folder)
    if not has_resume(folder) and not {"model.safetensors", "loss.png"}.isdisjoint(there):
        raise PicoError(f"{where} contains what a run has trained, which is not overwritten, and "
                        "no checkpoint to resume from; restore resume.pt, or choose another --run.")
    if not resume and (has_resume(folder) or read_metrics(folder)):
        raise PicoError(f"{where} already contains a run; add --resume to continue it, or choose "
                        "another --run.")
    if not has_resume(folder):
        return False
    _compare(_fixed(was.model, was.train), _fixed(config.model, config.train),
             f"the run in {where}", "leave --{option} out")
    return True


def _fixed(model: PicoConfig, train: TrainConfig) -> dict[str, Any]:
    fields = {**asdict(model), **asdict(train)}
    return {name: value for name, value in fields.items() if name not in MAY_CHANGE}


def _compare(was: dict[str, Any], now: dict[str, Any], what: str, way_out: str) -> None:
    for name in now:
        if was.get(name) != now[name]:
            values = printable(f"{was.get(name)}, not {now[name]}")
            raise PicoError(f"{what} has {name} {values}; "
                            f"{way_out.format(option=name.replace('_', '-'))}, or choose another "
                            "--run.")
