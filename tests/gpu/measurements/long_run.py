"""pico's whole run of 39.3 million tokens under the T4's policy, on Storybook text seen once.

TinyStories would be 22 passes over what can travel, and say nothing. The schedule is planned to
end in time (--minutes), with as many tokens as that allows, down to a learning rate of zero.

GPU time on an H100, an estimate: 39.3 million tokens x 240.6 MFLOP are 9.5 PFLOP, 190 seconds at 5%
of 989 TFLOP/s, which the starting of kernels may not allow; 16 evaluations of 65,536 tokens take 5
seconds more. Before it, 10 to 20 seconds for the texts on 16 cores (stories.py). So 4 to 6 minutes;
the texts may take a third of the minutes, and the run has what is left.
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Iterator
from dataclasses import replace

from gpu.measurements.follow import Row, deadline, follow, preset_of
from gpu.measurements.stories import storybook
from gpu.measurements.t4_policy import new_trainer
from gpu.policies import POLICIES, forget

from picolm_lib.config import ORIGINAL_TOKENS

MARGIN = 0.97  # of the minutes: the last evaluation and the writing take some
EVALS = 16


def part(options: argparse.Namespace) -> Iterator[Row]:
    """A row at each evaluation."""
    end, policy = deadline(options), POLICIES[-1]
    model, train = (preset := preset_of(options)).model, preset.train
    tokens = train.max_tokens if options.small else ORIGINAL_TOKENS
    started = time.monotonic()
    text = storybook(options, tokens + 2 * model.max_seq_len, 60 * options.minutes / 3)
    minutes = max(MARGIN * (end - time.monotonic()) / 60, 1e-3)
    train = replace(train, dtype=policy.option, max_minutes=minutes,
                    evals=train.evals if options.small else EVALS,
                    max_tokens=min(tokens, text.one_epoch(model.max_seq_len)))
    forget()
    about = {"policy": policy.name, "text": text.name, "tokens wanted": tokens,
             "texts, s": round(time.monotonic() - started, 1)}
    with policy.kernels():
        yield from follow(new_trainer(model, train, text), end, **about)
