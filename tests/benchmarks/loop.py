"""What the training loop costs beside a bare one: tokens per second of nano, side by side.

    python tests/benchmarks/loop.py

The bare loop has the same model, optimizer and number format, its batches lie on the device, and it
neither logs nor evaluates nor clips nor counts. Both take turns; the ratio is that of the medians.
"""

from __future__ import annotations

import argparse
import statistics
import tempfile
from dataclasses import replace
from pathlib import Path

from record import clock

from picolm_lib.config import PRESETS
from picolm_lib.data.corpus import load_corpus
from picolm_lib.data.tokenizer import load_tokenizer
from picolm_lib.data.tokens import tokenize_corpus
from picolm_lib.train.metrics import MetricsLogger
from picolm_lib.train.trainer import Trainer


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--steps", type=int, default=40, help="steps per repeat")
    parser.add_argument("--repeats", type=int, default=7)
    options = parser.parse_args()

    preset, tokenizer = PRESETS["nano"], load_tokenizer("bundled")
    files = tokenize_corpus(load_corpus("storybook", preset.train.storybook_stories), tokenizer)
    config = replace(preset.train, evals=1)
    folder = Path(tempfile.mkdtemp())
    full = Trainer(preset.model, config, tokenizer, files, folder, show=True)
    bare = Trainer(preset.model, config, tokenizer, files, show=False)
    batches = [[part.to(bare.device) for part in bare.batches.next()]
               for _ in range(options.steps)]
    logger = MetricsLogger(folder, 0, full.total_tokens)

    def train_full() -> None:
        for _ in range(options.steps):
            logger.step(full.step(), full.total_tokens)

    def train_bare() -> None:
        for inputs, targets in batches:
            with bare.precision.autocast():
                bare.model.loss(inputs, targets).backward()
            bare.optimizer.step()
            bare.optimizer.zero_grad()

    seconds: dict[str, list[float]] = {"bare": [], "full": []}
    for repeat in range(options.repeats + 1):
        for name, train in (("bare", train_bare), ("full", train_full)):
            taken, _ = clock(train)
            if repeat:  # the first one warms up
                seconds[name].append(taken)
    logger.close()
    tokens = options.steps * full.batch_tokens
    speed = {name: tokens / statistics.median(times) for name, times in seconds.items()}
    print(f"{full.precision.dtype} on {full.device}, {options.repeats} x {options.steps} steps\n"
          f"| loop | tokens/s |\n|---|---|\n"
          f"| bare | {speed['bare']:,.0f} |\n| picolm_lib | {speed['full']:,.0f} |\n"
          f"| ratio | {speed['full'] / speed['bare']:.3f} |")


if __name__ == "__main__":
    main()
