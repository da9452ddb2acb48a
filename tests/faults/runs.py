"""Many real runs of the real command: forked from one server that has imported everything.

Importing torch and its companions takes seconds of a processor. A process that is forked from one
that has done it is as real (its own memory, its own signals, its own exit code) and there at once.
"""

from __future__ import annotations

import json
import multiprocessing
import os
import sys
from contextlib import suppress
from dataclasses import dataclass
from multiprocessing.process import BaseProcess
from pathlib import Path

import torch
from helpers import STORIES, bpe
from safetensors.torch import load_file

from picolm_lib.train.metrics import read_metrics

TIMES = {"seconds", "tokens_per_second", "peak_memory_gib", "mfu"}
OPTIONS = ["--preset", "smoke", "--n-layers", "1", "--d-model", "16", "--n-heads", "2",
           "--max-seq-len", "16", "--batch-size", "4", "--dtype", "float32", "--device", "cpu",
           "--evals", "2", "--eval-tokens", "64", "--prompt", "The", "--max-steps", "6",
           "--checkpoint-minutes", "1e-9"]
PATIENCE_S = 300  # only so that what hangs ends at all

os.environ["PYTHONPATH"] = os.pathsep.join(sys.path)  # else the server cannot import what is ours
SERVER = multiprocessing.get_context("forkserver")
SERVER.set_forkserver_preload(["pytest", "child"])


@dataclass
class Run:
    """A process that runs a command, and what it says."""

    process: BaseProcess
    output: Path

    def ends(self) -> int:
        """Its exit code, once it has ended; minus the signal's number when one ended it."""
        self.process.join(PATIENCE_S)
        if self.process.exitcode is None:
            self.process.kill()
            raise AssertionError(f"it hangs; it said: {self.said}")
        return self.process.exitcode

    def signal(self, number: int) -> None:
        # It may have ended, and its number be free.
        with suppress(ProcessLookupError):
            if self.process.is_alive():
                os.kill(self.process.pid, number)

    @property
    def said(self) -> str:
        return self.output.with_suffix(".out").read_text()

    @property
    def complained(self) -> str:
        """Nothing where it was killed before it had begun."""
        path = self.output.with_suffix(".err")
        return path.read_text() if path.exists() else ""

    @property
    def events(self) -> list[str]:
        """All that it did to the disk; only of a run that was not killed."""
        return json.loads(self.output.with_suffix(".events").read_text())


class Home:
    """A folder with data, a tokenizer, caches, and runs."""

    def __init__(self, folder: Path) -> None:
        from child import run

        self.folder, self.cache, self._run, self._count = folder, folder / "cache", run, 0
        (folder / "stories.txt").write_text("\n\n".join(STORIES))
        bpe().save_pretrained(folder / "tokenizer")

    def start(self, name: str, *more: object, command: str = "train", at: int = 0,
              fault: str = "kill", cache: Path | None = None, setup: str = "") -> Run:
        """Starts a command on the run `name`; `at` and `fault` as in Disk."""
        self._count += 1
        output, cache = self.folder / f"output-{self._count}", cache or self.cache
        argv = ["--run", str(self.folder / name), *map(str, more)]
        if command == "train":
            argv = [*OPTIONS, "--data", str(self.folder / "stories.txt"), "--tokenizer",
                    str(self.folder / "tokenizer"), *argv]
        disk = {"folders": [str(self.folder / name), str(cache)], "at": at, "fault": fault}
        process = SERVER.Process(target=self._run, args=(command, argv, str(output), disk,
                                                         str(cache), setup))
        process.start()
        return Run(process, output)

    def train(self, name: str, *more: object, **how) -> tuple[int, Run]:
        run = self.start(name, *more, **how)
        return run.ends(), run


def one_line(run: Run) -> str:
    """The one line that a command ended with."""
    lines = [line for line in run.complained.splitlines() if line.strip()
             and not line.startswith(("training:", "tokens:"))]           # progress bars
    assert len(lines) == 1, run.complained
    return lines[0]


def outcome(folder: Path) -> tuple[dict, dict, list]:
    """What a finished run has learned, and how, without the times: equal for equal runs."""
    state = torch.load(folder / "resume.pt", weights_only=True)
    del state["rng"]  # global, so others draw from it, too; the run itself does not
    del state["identity"]["run"]  # drawn at random
    for clock in ("seconds", "elapsed", "recent_seconds"):
        del state["progress"][clock]
    metrics = [{k: v for k, v in m.items() if k not in TIMES} for m in read_metrics(folder)]
    return load_file(folder / "model.safetensors"), state, metrics


def assert_same(one: object, other: object, where: str = "") -> None:
    """Equality through dictionaries and lists, down to the last bit of a tensor."""
    if isinstance(one, torch.Tensor):
        assert torch.equal(one, other), where
    elif isinstance(one, dict):
        assert one.keys() == other.keys(), where
        for key in one:
            assert_same(one[key], other[key], f"{where}/{key}")
    elif isinstance(one, (list, tuple)):
        assert len(one) == len(other), where
        for number, pair in enumerate(zip(one, other, strict=True)):
            assert_same(*pair, f"{where}/{number}")
    else:
        assert one == other, where
