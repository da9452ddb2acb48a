"""What data preparation costs beside the bare tokenizer, how much memory it takes, and how long
training waits for data.

    python tests/benchmarks/data.py speed
    python tests/benchmarks/data.py memory --megabytes 100 1000
    python tests/benchmarks/data.py waiting

`speed`: `tokenize_corpus`, from the files of the corpus to the finished token file, against the
tokenizer's own `encode_batch_fast` over the same texts in memory, in the batch size that suits it
best and with its results thrown away. Both take turns in one process; the ratio is that of the
medians. On a busy machine wall time says little, so the ratio of processor seconds is given as
well.

`memory`: writes Storybook text of several sizes, prepares each in a process of its own, and looks
at its memory ten times a second.

`waiting`: the share of an optimizer step that is spent in `Batches.next`, with the token file in
the operating system's cache, and pushed out of it before the first step.

Each writes results/data-*.json and prints it as a table; --tokenizer is SmolLM's by default.
"""

from __future__ import annotations

import argparse
import json
import os
import random
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from dataclasses import replace
from itertools import count
from pathlib import Path

import torch
from record import CORES, clock, write

from picolm_lib.config import PRESETS
from picolm_lib.data.corpus import load_corpus
from picolm_lib.data.token_file import TokenCounts, TokenFile
from picolm_lib.data.tokenizer import load_tokenizer
from picolm_lib.data.tokens import tokenize_corpus
from picolm_lib.storybook import story as storybook
from picolm_lib.train.trainer import Trainer

SHARED = Path(__file__).parents[3] / "shared" / "data"
BATCHES = (64, 256, 1_000, 4_000)


# --- speed ---------------------------------------------------------------------------------------

def speed(options: argparse.Namespace, folder: Path) -> None:
    """`tokenize_corpus` against the bare tokenizer."""
    tokenizer = load_tokenizer(options.tokenizer)
    texts = [text for _, text in load_corpus(options.data).documents()]
    rng = random.Random(0)
    copies = [f"{text} {rng.randrange(10**6)}" for _ in range(options.copies) for text in texts]
    size = sum(len(text.encode()) for text in copies)
    corpora = write_corpora(folder, copies, options.kinds)

    def bare(batch: int, texts: list[str] = copies) -> None:
        for start in range(0, len(texts), batch):
            tokenizer.backend_tokenizer.encode_batch_fast(texts[start:start + batch],
                                                          add_special_tokens=False)

    def bare_ids(batch: int) -> None:
        for start in range(0, len(copies), batch):
            for encoded in tokenizer.backend_tokenizer.encode_batch_fast(
                    copies[start:start + batch], add_special_tokens=False):
                encoded.ids  # noqa: B018

    sample = copies[:len(texts)]
    best = min(BATCHES, key=lambda batch: min(clock(bare, batch, sample)[1] for _ in range(3)))

    def whole(path: Path) -> None:
        os.environ["PICOLM_CACHE"] = str(folder / "cache")
        tokenize_corpus(load_corpus(str(path)), tokenizer, show_progress=False)
        shutil.rmtree(folder / "cache")

    def read(path: Path) -> None:
        for _ in load_corpus(str(path)).documents():
            pass

    tasks: dict[str, tuple[Callable, object]] = {
        "bare tokenizer": (bare, best), "bare tokenizer, ids taken as lists": (bare_ids, best)}
    for kind, path in corpora.items():
        read(path)                                                   # the library's own cache
        tasks |= {f"tokenize_corpus, {kind}": (whole, path), f"only reading, {kind}": (read, path)}
    times: dict[str, list[tuple[float, float]]] = {name: [] for name in tasks}
    loads = []
    for _ in range(options.repeats):
        loads.append(os.getloadavg()[0])
        for name, (task, argument) in tasks.items():
            times[name].append(clock(task, argument))
    rows = [_speed_row(name, taken, times["bare tokenizer"], size) for name, taken in times.items()]
    write("data-speed", rows, megabytes=round(size / 1e6, 1), documents=len(copies),
          batch_of_the_bare_tokenizer=best, repeats=options.repeats,
          load_average=[round(load, 1) for load in loads])


def _speed_row(name: str, taken: list[tuple[float, float]], bare: list[tuple[float, float]],
               size: int) -> dict:
    wall, used = (statistics.median(column) for column in zip(*taken, strict=True))
    bare_wall, bare_used = (statistics.median(column) for column in zip(*bare, strict=True))
    return {"what": name, "seconds": round(wall, 2), "MB/s": round(size / wall / 1e6, 2),
            "speed / bare": round(bare_wall / wall, 3), "processor seconds": round(used, 2),
            "processor seconds / bare": round(used / bare_used, 3),
            "cores busy": f"{used / wall / CORES:.0%}"}


def write_corpora(folder: Path, texts: list[str], kinds: list[str]) -> dict[str, Path]:
    """The same documents as files of several kinds."""
    paths = {}
    for kind in kinds:
        paths[kind] = folder / f"stories.{kind}"
        with paths[kind].open("wb") as stream:
            if kind == "parquet":
                import pyarrow
                import pyarrow.parquet
                pyarrow.parquet.write_table(pyarrow.table({"text": texts}), stream,
                                            row_group_size=10_000)
            else:
                stream.writelines(_line(text, kind) for text in texts)
    return paths


def _line(text: str, kind: str) -> bytes:
    line = text + "\n<|endoftext|>\n" if kind == "txt" else json.dumps({"text": text}) + "\n"
    return line.encode()


# --- memory --------------------------------------------------------------------------------------

def memory(options: argparse.Namespace, folder: Path) -> None:
    """Peak memory of a process that prepares corpora of several sizes."""
    rows = []
    for megabytes in options.megabytes:
        if shutil.disk_usage(folder).free < 5e6 * megabytes:
            sys.exit(f"{folder} has no room for {megabytes} MB of text and what is made of it.")
        for kind in options.kinds:
            path = folder / f"stories.{kind}"
            size = write_stories(path, 10**6 * megabytes)
            rows.append({"kind": kind, "MB of text": round(size / 1e6),
                         **watch(path, options.tokenizer, folder)})
            print(rows[-1], flush=True)
    write("data-memory", rows)


def write_stories(path: Path, size: int) -> int:
    """Storybook text of at least `size` bytes; returns its bytes.

    Generated once, the stories come again and again, each time with another number in front, so
    that all documents differ.
    """
    told, written = [story.text for story in storybook.stories(60_000)], 0
    with path.open("wb") as stream:
        for number in count():
            text = f"Story {number}.\n\n{told[number % len(told)]}"
            stream.write(_line(text, path.suffix[1:]))
            written += len(text.encode())
            if written >= size:
                return written


PREPARE = """
import sys
from picolm_lib.data.corpus import load_corpus
from picolm_lib.data.tokens import tokenize_corpus
from picolm_lib.data.tokenizer import load_tokenizer
tokenizer = load_tokenizer(sys.argv[2])
files = tokenize_corpus(load_corpus(sys.argv[1]), tokenizer, show_progress=False)
print(sum(file.count.bytes for file in files.values()))
"""


def watch(path: Path, tokenizer: str, folder: Path) -> dict:
    """Prepares a corpus in a process of its own; returns the peaks of its memory, by quarters."""
    import psutil

    caches = folder / "caches"
    environment = {**os.environ, "PICOLM_CACHE": str(caches / "picolm"),
                   "HF_DATASETS_CACHE": str(caches / "datasets")}
    started = time.monotonic()
    process = psutil.Popen([sys.executable, "-c", PREPARE, str(path), tokenizer], env=environment,
                           stdout=subprocess.PIPE, text=True)
    samples: list[tuple[float, float]] = []
    while process.poll() is None:
        try:
            samples.append(_resident(process.pid))
            used = sum(process.cpu_times()[:2])
        except (psutil.NoSuchProcess, FileNotFoundError, KeyError):      # it has just ended
            break
        time.sleep(0.1)
    seconds = time.monotonic() - started
    process.communicate()
    shutil.rmtree(caches)
    if process.returncode:
        sys.exit("the preparation failed.")
    quarter = max(len(samples) // 4, 1)
    own = [own for own, _ in samples]
    return {"peak, own (MiB)": round(max(own)),
            "own by quarters": [round(max(own[i:i + quarter]))
                                for i in range(0, 4 * quarter, quarter) if own[i:i + quarter]],
            "peak, mapped files (MiB)": round(max(mapped for _, mapped in samples)),
            "seconds": round(seconds), "cores busy": f"{used / seconds / CORES:.0%}",
            "load average": round(os.getloadavg()[0], 1)}


def _resident(pid: int) -> tuple[float, float]:
    """MiB of a process in memory: its own, and pages of files, which can be dropped at any time."""
    lines = dict(line.split(":", 1) for line in Path(f"/proc/{pid}/status").read_text().splitlines()
                 if line.startswith(("RssAnon", "RssFile")))
    return tuple(int(lines[name].split()[0]) / 1024 for name in ("RssAnon", "RssFile"))


# --- waiting -------------------------------------------------------------------------------------

def waiting(options: argparse.Namespace, folder: Path) -> None:
    """The share of a step in which the training loop waits for its batch."""
    rows = []
    for name, preset in PRESETS.items():
        if name not in options.presets:
            continue
        tokenizer = load_tokenizer("bundled" if preset.model.vocab_size == 2_048
                                   else options.tokenizer)
        os.environ["PICOLM_CACHE"] = str(folder / "cache")
        files = tokenize_corpus(load_corpus(options.data), tokenizer, show_progress=False)
        path = enlarge(files["train"], folder / f"{name}.bin", 10**6 * options.megabytes)
        import numpy as np
        big = TokenFile(np.memmap(path, dtype="<u2", mode="r"),
                        TokenCounts(1, 1, path.stat().st_size))
        model = replace(preset.model, vocab_size=len(tokenizer))
        trainer = Trainer(model, replace(preset.train, evals=1), tokenizer,
                          {**files, "train": big}, show=False)
        for state in ("warm", "cold"):
            rows.append({"preset": name, "token file": state,
                         **waits(trainer, path, state == "cold", options.steps[name != "nano"])})
    write("data-waiting", rows, megabytes_of_token_file=options.megabytes)


def enlarge(file: TokenFile, path: Path, size: int) -> Path:
    """A token file of `size` bytes: the same tokens again and again."""
    with path.open("wb") as stream:
        while stream.tell() < size:
            stream.write(file.tokens.tobytes())
        stream.flush()
        os.fsync(stream.fileno())  # pages that are not on the disk yet cannot be pushed out
    return path


def waits(trainer: Trainer, path: Path, cold: bool, steps: int) -> dict:
    """Median seconds of a batch and of the step around it."""
    original, taken, whole = trainer.batches.next, [], []

    def timed() -> tuple[torch.Tensor, torch.Tensor]:
        started = time.monotonic()
        batch = original()
        taken.append(time.monotonic() - started)
        return batch

    path.read_bytes()
    trainer.batches.next = timed
    for step in range(steps + 1):
        if cold and not step:  # from then on every window is still on the disk
            push_out(trainer.batches.tokens, path)
        started = time.monotonic()
        trainer.step()
        whole.append(time.monotonic() - started)
    trainer.batches.next = original
    wait, step = statistics.median(taken[1:]), statistics.median(whole[1:])
    return {"batch (ms)": round(1e3 * wait, 3), "step (ms)": round(1e3 * step, 1),
            "waiting": f"{wait / step:.3%}"}


def push_out(tokens, path: Path) -> None:
    """Drops a mapped file from this process's memory and from the operating system's cache."""
    import mmap

    base = tokens
    while not isinstance(base, mmap.mmap):
        base = base.base
    base.madvise(mmap.MADV_DONTNEED)
    with path.open("rb") as stream:
        os.posix_fadvise(stream.fileno(), 0, 0, os.POSIX_FADV_DONTNEED)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n\n")[0])
    kinds = parser.add_subparsers(dest="part", required=True)
    for name, function in (("speed", speed), ("memory", memory), ("waiting", waiting)):
        part = kinds.add_parser(name, help=function.__doc__)
        part.add_argument("--data", default=str(SHARED / "tinystories"))
        part.add_argument("--tokenizer", default=str(SHARED / "smollm-tokenizer"))
        part.set_defaults(function=function)
        if name == "speed":
            part.add_argument("--kinds", nargs="+", default=["txt", "jsonl", "parquet"],
                              choices=["txt", "jsonl", "parquet"])
            part.add_argument("--copies", type=int, default=3, help="of the data, each different")
            part.add_argument("--repeats", type=int, default=5)
        if name == "memory":
            part.add_argument("--kinds", nargs="+", default=["txt"], choices=["txt", "jsonl"])
            part.add_argument("--megabytes", type=int, nargs="+", default=[100, 1_000])
        if name == "waiting":
            part.add_argument("--megabytes", type=int, default=500, help="of the token file")
            part.add_argument("--presets", nargs="+", default=["nano", "pico"])
            part.add_argument("--steps", type=int, nargs=2, default=[30, 3],
                              help="of nano, and of larger presets")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        options.function(options, Path(folder))


if __name__ == "__main__":
    main()
