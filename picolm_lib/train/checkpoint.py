"""A run's folder: what is in it, how it is written so that nothing is lost, how it is read.

    config.json           the format's version, the run's name, the preset, PicoConfig, TrainConfig
    tokenizer/            the tokenizer
    model.safetensors     the weights, for everybody: no pickle, so reading it cannot run code
    resume.pt             everything that the run needs to continue as if never interrupted
    resume.previous.pt    the one before, in case resume.pt is damaged
                          (both are folders where weights are sharded: checkpoint_distributed.py)
    metrics.jsonl         a line per step and per evaluation
    loss.png              the loss curve

Both kinds of checkpoint carry the SHA-256 of their content: model.safetensors in its header,
resume.pt in its last 32 bytes. And both know the run that they belong to (identity.py).
"""

from __future__ import annotations

import json
import shutil
import warnings
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch

from picolm_lib.config import PicoConfig, PicoError, TrainConfig
from picolm_lib.data.tokenizer import load_tokenizer, read_tokenizer
from picolm_lib.files import (
    ASSETS,
    append_sha256,
    atomic_write,
    atomic_write_text,
    disk_errors,
    ends_with_sha256,
    file_sha256,
    first_line,
)
from picolm_lib.model.picolm import PicoLM
from picolm_lib.train.weights import load_weights

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerFast

FORMAT = 3  # of a run's folder; raised whenever an older one can no longer be read
BUNDLED_RUN = ASSETS / "nano"
STATE = "state.pt"  # in a checkpoint that is a folder


@dataclass(frozen=True)
class RunConfig:
    """The contents of config.json."""

    preset: str
    model: PicoConfig
    train: TrainConfig
    run: str = ""
    """The run's name, drawn at random: its checkpoints and weights carry it, too."""


def save_config(folder: Path, config: RunConfig) -> None:
    """Writes config.json."""
    text = json.dumps({"format": FORMAT, **asdict(config)}, indent=2)
    atomic_write_text(folder / "config.json", text + "\n")


def load_config(folder: Path) -> RunConfig:
    """Reads config.json.

    Raises:
        PicoError: the folder contains no run, or one of another version, or its configuration
            cannot be read.
    """
    path = folder / "config.json"
    if not path.exists():
        raise PicoError(f"{str(folder)!r} contains no run (it has no config.json); check --run.")
    try:
        read = json.loads(path.read_text(encoding="utf-8-sig"))
        preset, version = read["preset"], read.get("format", 1)
        if version == FORMAT:
            return RunConfig(preset, PicoConfig(**read["model"]),
                             TrainConfig(**read["train"]), str(read["run"]))
    except (OSError, ValueError, RecursionError, KeyError, TypeError, AttributeError,
            PicoError) as error:
        reason = first_line(error)
        raise PicoError(f"{str(path)!r} is not a valid configuration ({reason}); restore it, or "
                        "choose another --run.") from error
    raise PicoError(f"{str(path)!r} was written by another version of Simple-PicoLM (format "
                    f"{version!r}, this version reads {FORMAT}); use the version that wrote it, or "
                    "train again with another --run.")


def run_folder(run: str | Path) -> Path:
    """The folder of a run: that of the bundled model where it is called "bundled"."""
    return BUNDLED_RUN if str(run) == "bundled" else Path(run)


def load_run(run: str | Path, device: torch.device | str = "cpu", tokenizer: str = "",
             ) -> tuple[PicoLM, PreTrainedTokenizerFast, RunConfig]:
    """A trained model with its tokenizer.

    Args:
        run: the run's folder, or "bundled".
        device: where the model goes.
        tokenizer: one to use in place of the run's own; it must have the same vocabulary.

    Raises:
        PicoError: something is missing, damaged, or does not fit together.
    """
    folder = run_folder(run)
    config = load_config(folder)
    own = read_tokenizer(folder / "tokenizer")
    if len(own) != config.model.vocab_size:
        raise PicoError(f"the tokenizer in {str(folder)!r} has {len(own):,} tokens, but its "
                        f"model was trained with {config.model.vocab_size:,}; restore the "
                        "tokenizer that belongs to it.")
    with torch.device("meta"):
        model = PicoLM(config.model)
    model.to_empty(device=device)
    load_weights(folder / "model.safetensors", model, config.run)
    return model.eval(), _other_tokenizer(tokenizer, own) if tokenizer else own, config


def _other_tokenizer(name: str, own: PreTrainedTokenizerFast) -> PreTrainedTokenizerFast:
    other = load_tokenizer(name)
    if other.get_vocab() != own.get_vocab():
        raise PicoError(f"the tokenizer {name!r} does not fit this run: it has {len(other):,} "
                        f"tokens, the run's own {len(own):,}, and they must be the same ones; "
                        "omit --tokenizer.")
    return other


def save_resume(folder: Path, state: dict[str, Any]) -> None:
    """Writes resume.pt; the one before becomes resume.previous.pt."""
    write_state(folder / "resume.new.pt", state)
    replace_last(folder, folder / "resume.new.pt")


def write_state(path: Path, state: dict[str, Any]) -> None:
    """Writes a state, followed by the SHA-256 of all bytes before it."""
    with atomic_write(path) as stream:
        torch.save(state, stream)
        append_sha256(stream)


def replace_last(folder: Path, new: Path) -> None:
    """Renames the last checkpoint to the previous one, and a new file or folder to the last one.

    A crash at any moment leaves a good one under one of the two names. A damaged one, which the
    run did not resume from, does not replace a good one.
    """
    with disk_errors(new):
        last = find_checkpoint(folder, "resume")
        if last and (is_intact(last) or not find_checkpoint(folder, "resume.previous")):
            shutil.rmtree(folder / "resume.previous", ignore_errors=True)
            if last.is_dir():
                (folder / "resume.previous.pt").unlink(missing_ok=True)
            last.replace(folder / f"resume.previous{last.suffix}")
        elif last and last.is_dir():
            shutil.rmtree(last)
        new.replace(folder / f"resume{'' if new.is_dir() else '.pt'}")


def find_checkpoint(folder: Path, name: str) -> Path | None:
    """The checkpoint of this name: a folder where several processes wrote it, else a file."""
    paths = (folder / f"{name}.pt", folder / name)
    return next((path for path in paths if path.exists()), None)


def has_resume(folder: Path) -> bool:
    """Whether a run can be resumed."""
    return bool(find_checkpoint(folder, "resume") or find_checkpoint(folder, "resume.previous"))


def load_resume(folder: Path, previous: bool = False) -> dict[str, Any]:
    """Reads the state of a run.

    Args:
        previous: take the checkpoint before the last one.

    Returns:
        Its content. Where it is a folder, the tensors are still there, and "folder" is its path.

    Raises:
        PicoError: there is none, or it is damaged; the message names one that is good.
    """
    last, before = find_checkpoint(folder, "resume"), find_checkpoint(folder, "resume.previous")
    # A crash between the two renames of replace_last leaves the last good state under this name.
    path, other, flags = ((before, last, "--resume") if previous or not last else
                          (last, before, "--resume --resume-previous"))
    if not path:
        raise PicoError(f"{str(folder)!r} contains no checkpoint to resume from.")
    if is_intact(path):
        try:
            # torch warns of a pickle that it did not write; the error below says enough.
            with warnings.catch_warnings(action="ignore"):
                return _read_state(path) | ({"folder": path} if path.is_dir() else {})
        except Exception as error:
            raise PicoError(f"{str(path)!r} is not a Simple-PicoLM checkpoint, so it was not read; "
                            "resume another run.") from error
    if other and is_intact(other):
        raise PicoError(f"{str(path)!r} is damaged; {str(other)!r} is good: continue from there "
                        f"with {flags}.")
    raise PicoError(f"{str(path)!r} is damaged, and there is no good one beside it; start again "
                    "with another --run.")


def _read_state(path: Path) -> dict[str, Any]:
    return torch.load(path / STATE if path.is_dir() else path, map_location="cpu",
                      weights_only=True)


def is_intact(path: Path) -> bool:
    """True where a checkpoint is as it was written: by the SHA-256 of every file of it."""
    if not path.is_dir():
        return ends_with_sha256(path)
    try:
        shards = _read_state(path)["shards"] if ends_with_sha256(path / STATE) else None
        return shards is not None and all(file_sha256(path / name) == digest
                                          for name, digest in shards.items())
    except (FileNotFoundError, NotADirectoryError):
        return False
