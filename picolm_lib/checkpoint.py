"""A run's folder: what is in it, how it is written so that nothing is lost, how it is read.

    config.json           the preset's name, PicoConfig, TrainConfig
    tokenizer/            the tokenizer
    model.safetensors     the weights, for everybody: no pickle, so reading it cannot run code
    resume.pt             everything that the run needs to go on, bit for bit
    resume.previous.pt    the one before, should resume.pt ever be damaged
                          (both are folders where weights are sharded: sharded_checkpoint.py)
    metrics.jsonl         a line per step and per evaluation
    loss.png              the picture of it

Both kinds of checkpoint carry the SHA-256 of their content, and a file that does not match it is
refused: a flipped bit in a weight crashes nothing, it only makes a model worse.
"""

from __future__ import annotations

import hashlib
import json
import shutil
import warnings
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, BinaryIO

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save
from torch import Tensor

from picolm_lib.config import PicoConfig, PicoError, TrainConfig
from picolm_lib.files import disk_errors, replace_text, replacing
from picolm_lib.model import PicoLM
from picolm_lib.tokenizer import load_tokenizer

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerFast

BUNDLED_RUN = Path(__file__).parent / "assets" / "nano"
STATE = "state.pt"  # in a checkpoint that is a folder
DIGEST = hashlib.sha256().digest_size


@dataclass(frozen=True)
class RunConfig:
    """What config.json holds."""

    preset: str
    model: PicoConfig
    train: TrainConfig


def save_config(folder: Path, config: RunConfig) -> None:
    """Writes config.json."""
    replace_text(folder / "config.json", json.dumps(asdict(config), indent=2) + "\n")


def load_config(folder: Path) -> RunConfig:
    """Reads config.json.

    Raises:
        PicoError: the folder holds no run, or its configuration cannot be read.
    """
    path = folder / "config.json"
    if not path.exists():
        raise PicoError(f"{str(folder)!r} holds no run (no config.json in it); check --run.")
    try:
        read = json.loads(path.read_text(encoding="utf-8"))
        return RunConfig(read["preset"], PicoConfig(**read["model"]), TrainConfig(**read["train"]))
    except (ValueError, KeyError, TypeError, PicoError) as error:
        reason = str(error).rstrip(".")
        raise PicoError(f"{str(path)!r} is no configuration of this version ({reason}); put it "
                        "back, or choose another --run.") from error


def save_weights(path: Path, model: PicoLM, dtype: torch.dtype | None = None) -> None:
    """Writes the weights as safetensors, in `dtype` or as they are."""
    save_tensors(path, {name: value.detach().to("cpu", dtype).contiguous()
                        for name, value in model.state_dict().items()})


def save_tensors(path: Path, tensors: dict[str, Tensor]) -> None:
    """Writes tensors as safetensors, with their hash."""
    with replacing(path) as stream:
        stream.write(save(tensors, metadata={"format": "pt", "sha256": _digest(tensors)}))


def load_weights(path: Path, model: PicoLM) -> None:
    """Reads weights into a model, checking their hash.

    Raises:
        PicoError: the file is missing or damaged, belongs to a model of another shape, or holds
            numbers that are none.
    """
    weights = load_tensors(path)
    if not all(tensor.isfinite().all() for tensor in weights.values()):
        raise PicoError(f"the weights in {str(path)!r} are not finite, so they can tell nothing; "
                        "take another run.")
    try:
        model.load_state_dict(weights)
    except RuntimeError as error:
        raise PicoError(f"{str(path)!r} does not fit the model in config.json.") from error


def load_tensors(path: Path) -> dict[str, Tensor]:
    """Reads what `save_tensors` wrote, checking its hash.

    Raises:
        PicoError: the file is missing or damaged.
    """
    if not path.exists():
        raise PicoError(f"there is no {str(path)!r}; the run has not saved its model yet.")
    try:
        with safe_open(path, framework="pt") as file:
            tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
            intact = (file.metadata() or {}).get("sha256") == _digest(tensors)
    except (SafetensorError, OSError, ValueError) as error:
        raise PicoError(f"{str(path)!r} is damaged ({error}).") from error
    if not intact:
        raise PicoError(f"{str(path)!r} is damaged: its content does not match its checksum.")
    return tensors


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
    folder = BUNDLED_RUN if run == "bundled" else Path(run)
    config = load_config(folder)
    own = load_tokenizer(str(folder / "tokenizer"))
    if len(own) != config.model.vocab_size:
        raise PicoError(f"the tokenizer in {str(folder)!r} has {len(own):,} tokens, but its "
                        f"model was trained with {config.model.vocab_size:,}; put back the "
                        "tokenizer that belongs to it.")
    with torch.device("meta"):
        model = PicoLM(config.model)
    model.to_empty(device=device)
    load_weights(folder / "model.safetensors", model)
    return model.eval(), _other_tokenizer(tokenizer, own) if tokenizer else own, config


def _other_tokenizer(name: str, own: PreTrainedTokenizerFast) -> PreTrainedTokenizerFast:
    other = load_tokenizer(name)
    if other.get_vocab() != own.get_vocab():
        raise PicoError(f"the tokenizer {name!r} does not fit this run: it has {len(other):,} "
                        f"tokens, the run's own {len(own):,}, and they must be the same ones; "
                        "leave --tokenizer away.")
    return other


def save_resume(folder: Path, state: dict[str, Any]) -> None:
    """Writes resume.pt; the one before becomes resume.previous.pt."""
    write_state(folder / "resume.new.pt", state)
    replace_last(folder, folder / "resume.new.pt")


def write_state(path: Path, state: dict[str, Any]) -> None:
    """Writes a state, and its SHA-256 at the end."""
    with replacing(path) as stream:
        hashing = _HashingStream(stream)
        try:
            torch.save(state, hashing)
        except RuntimeError:  # torch's writer hides the disk's own error behind one about itself
            if hashing.error:
                raise hashing.error from None
            raise
        stream.write(hashing.digest())


def replace_last(folder: Path, new: Path) -> None:
    """Makes a new checkpoint, a file or a folder, the last one, and the last one the one before.

    A crash at any moment leaves a good one under one of the two names.
    """
    with disk_errors(new):
        if last := find_checkpoint(folder, "resume"):
            shutil.rmtree(folder / "resume.previous", ignore_errors=True)
            if last.is_dir():
                (folder / "resume.previous.pt").unlink(missing_ok=True)
            last.replace(folder / f"resume.previous{last.suffix}")
        new.replace(folder / f"resume{'' if new.is_dir() else '.pt'}")


def find_checkpoint(folder: Path, name: str) -> Path | None:
    """The checkpoint of this name: a folder where several processes wrote it, else a file."""
    paths = (folder / f"{name}.pt", folder / name)
    return next((path for path in paths if path.exists()), None)


def has_resume(folder: Path) -> bool:
    """Whether a run can be gone on with."""
    return bool(find_checkpoint(folder, "resume") or find_checkpoint(folder, "resume.previous"))


def load_resume(folder: Path, previous: bool = False) -> dict[str, Any]:
    """Reads the state of a run.

    Args:
        previous: take the checkpoint before the last one.

    Returns:
        What it holds. Where it is a folder, "folder" names that, and the tensors are still there.

    Raises:
        PicoError: there is none, or it is damaged; the text names one that is good.
    """
    last, before = find_checkpoint(folder, "resume"), find_checkpoint(folder, "resume.previous")
    # A crash between the two renames of replace_last leaves the last good state under this name.
    path, other, flags = ((before, last, "--resume") if previous or not last else
                          (last, before, "--resume --resume-previous"))
    if not path:
        raise PicoError(f"{str(folder)!r} holds no checkpoint to go on from.")
    if is_intact(path):
        try:
            with warnings.catch_warnings(action="ignore"):  # of a pickle that is none of ours
                return _read_state(path) | ({"folder": path} if path.is_dir() else {})
        except Exception as error:
            raise PicoError(f"{str(path)!r} is no checkpoint of this project; it was not "
                            "opened any further.") from error
    if other and is_intact(other):
        raise PicoError(f"{str(path)!r} is damaged; {str(other)!r} is good: go on from there with "
                        f"{flags}.")
    raise PicoError(f"{str(path)!r} is damaged, and there is no good one beside it; start anew with"
                    " another --run.")


def _read_state(path: Path) -> dict[str, Any]:
    return torch.load(path / STATE if path.is_dir() else path, map_location="cpu",
                      weights_only=True)


def is_intact(path: Path) -> bool:
    """True where a checkpoint is as it was written: by the SHA-256 of every file of it."""
    if not path.is_dir():
        return _ends_with_digest(path)
    try:
        shards = _read_state(path)["shards"] if _ends_with_digest(path / STATE) else None
        return shards is not None and all(file_sha256(path / name) == digest
                                          for name, digest in shards.items())
    except (FileNotFoundError, NotADirectoryError):
        return False


def file_sha256(path: Path) -> str:
    """The SHA-256 of a file."""
    with path.open("rb") as stream:
        return hashlib.file_digest(stream, "sha256").hexdigest()


def _ends_with_digest(path: Path) -> bool:
    left = path.stat().st_size - DIGEST
    if left <= 0:
        return False
    sha = hashlib.sha256()
    with path.open("rb") as stream:
        while left and (block := stream.read(min(left, 2**20))):
            sha.update(block)
            left -= len(block)
        return stream.read() == sha.digest()


class _HashingStream:
    """Passes writes on and hashes them on the way."""

    def __init__(self, stream: BinaryIO) -> None:
        self._stream, self._sha = stream, hashlib.sha256()
        self.error: OSError | None = None

    def write(self, data: Any) -> int:
        self._sha.update(data)
        try:
            return self._stream.write(data)
        except OSError as error:
            self.error = error
            raise

    def flush(self) -> None:
        self._stream.flush()

    def digest(self) -> bytes:
        return self._sha.digest()


def _digest(weights: dict[str, Tensor]) -> str:
    sha = hashlib.sha256()
    for name in sorted(weights):
        value = weights[name]
        sha.update(f"{name} {tuple(value.shape)} {value.dtype}".encode())
        sha.update(value.reshape(-1).view(torch.uint8).numpy().data)
    return sha.hexdigest()
