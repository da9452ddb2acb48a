"""What the ideas are worth at pico's size: 10 million tokens of Storybook text, each seen once.

The variants are those of tests/benchmarks/variants.py, in the order of their interest. All have the
same tokens, seed and schedule, so also a run that was cut short can be compared with the default at
equal tokens. The batch is half of the preset's, since its best size grows with the square root of
the tokens (config.py). AdamW alone comes with several learning rates, the best of the small model
first, and only the best one counts. One seed: a difference below 0.004 bits per byte was within the
noise of the small model (ablations.md).

GPU time on an H100, an estimate: 10 million tokens x 240.6 MFLOP are 2.4 PFLOP, 49 seconds at 5% of
989 TFLOP/s; 1,628 steps of 35 ms are 57 seconds. So a minute for each run, 6 minutes for the first
six; with --minutes 4 the first four.
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Iterator
from dataclasses import replace

from ablations import Setting, variant_trainer
from gpu.measurements.follow import OUT_OF_MINUTES, Row, deadline, follow, preset_of
from gpu.measurements.stories import storybook
from gpu.policies import forget
from variants import DEFAULT

NAMES = (DEFAULT, "flat MLP, as many parameters", "no output gate", "no QK-norm",
         "one init std for all depths",
         *(f"AdamW alone, rate {rate}" for rate in (0.000125, 0.0005, 0.00025, 0.00006, 0.001)))
TOKENS, BATCH, EVALS = 10_000_000, 16, 4


def part(options: argparse.Namespace) -> Iterator[Row]:
    """A row at each evaluation of each variant, beside the default at the same tokens."""
    end = deadline(options)
    model, train = (preset := preset_of(options)).model, preset.train
    tokens = train.max_tokens if options.small else TOKENS
    text = storybook(options, tokens + 2 * model.max_seq_len, 60 * options.minutes / 3)
    setting = Setting(model, replace(
        train, batch_size=min(BATCH, train.batch_size), micro_batch_size=0,
        evals=train.evals if options.small else EVALS,
        max_tokens=min(tokens, text.one_epoch(model.max_seq_len))))
    default: dict[int, float] = {}
    for name in NAMES[:2] if options.small else NAMES:
        if time.monotonic() > end:
            yield {"variant": name, "end": OUT_OF_MINUTES}
            return
        forget()
        trainer = variant_trainer(name, setting, 0, text.tokenizer, text.files)
        for row in follow(trainer, end, variant=name, text=text.name):
            if name == DEFAULT:
                default[row["tokens"]] = row["bits per byte"]
            known = default.get(row["tokens"])
            yield row if known is None else row | {
                "bits per byte, minus the default's": round(row["bits per byte"] - known, 4)}
        del trainer
