"""pico over one pass of TinyStories under the T4's policy, beside bfloat16 and float32.

The T4's: float16 with a scaled loss, keys and values copied for each head, no FlashAttention. Of
the tokens, the seed and the schedule nothing differs, so the losses can be compared token by token,
also with the run that the course has recorded on a CPU (recorded.py), where the text is the same.
MFU is of the GPU's peak at 16 bits, also in float32.

GPU time on an H100, an estimate: 240.6 MFLOP per token x 1.74 million tokens are 0.42 PFLOP; at 5%
of 989 TFLOP/s 8 seconds in 16 bits, at 30% of the 67 TFLOP/s of float32 21 seconds. With nine
evaluations of 65,536 tokens each, and the texts, 1 to 2 minutes in all.
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Iterator
from dataclasses import replace
from statistics import fmean

from gpu.measurements.follow import OUT_OF_MINUTES, Row, deadline, follow, preset_of
from gpu.measurements.stories import Text, tinystories
from gpu.policies import POLICIES, forget

from picolm_lib.config import TINYSTORIES, PicoConfig, TrainConfig
from picolm_lib.course.training.recorded import recorded
from picolm_lib.train.trainer import Trainer

TOKENS = 1_740_000  # of the recorded run


def part(options: argparse.Namespace) -> Iterator[Row]:
    """The T4's policy, bfloat16, float32: a row at each evaluation."""
    end = deadline(options)
    model, train = (preset := preset_of(options)).model, preset.train
    tokens = train.max_tokens if options.small else TOKENS
    text = tinystories(options, tokens + 2 * model.max_seq_len)
    train = replace(train, max_tokens=min(tokens, text.one_epoch(model.max_seq_len)))
    for policy in reversed(POLICIES):
        if time.monotonic() > end:
            yield {"policy": policy.name, "end": OUT_OF_MINUTES}
            return
        forget()
        with policy.kernels():
            trainer = new_trainer(model, replace(train, dtype=policy.option), text)
            for row in follow(trainer, end, policy=policy.name, text=text.name):
                yield row if options.small else beside_recorded(row)
            del trainer


def new_trainer(model: PicoConfig, train: TrainConfig, text: Text) -> Trainer:
    """A run on a text, whose tokenizer says how large the vocabulary is."""
    return Trainer(replace(model, vocab_size=len(text.tokenizer)), train, text.tokenizer,
                   text.files, show=False)


def beside_recorded(row: Row) -> Row:
    """Adds the mean training loss of the recorded run over the same tokens, where it had these."""
    past = recorded("pico", TINYSTORIES)
    known = dict(past.loss) if past else {}
    losses = [known[tokens] for tokens, _ in row["curve"] if tokens in known]
    if not row["text"].startswith("TinyStories, SmolLM") or len(losses) < len(row["curve"]):
        return row
    return row | {"training loss, recorded on a CPU": losses and round(fmean(losses), 4)}
