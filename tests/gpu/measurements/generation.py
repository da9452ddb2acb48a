"""Generation beside transformers: tests/benchmarks/speed_generation.py.

GPU time on an H100, an estimate: a token takes 5 to 10 ms, since the starting of kernels decides;
128 tokens x 3 models x 4 turns are 15 seconds for each preset and batch, 1 minute in all.
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Iterator

from gpu.measurements.follow import OUT_OF_MINUTES, Row, deadline
from gpu.policies import forget
from speed_generation import race

RACES = (("pico", 1), ("pico", 16), ("nano", 1), ("nano", 16))


def part(options: argparse.Namespace) -> Iterator[Row]:
    """Three rows for each preset and batch: this package, its export, and a Llama."""
    end = deadline(options)
    setting = argparse.Namespace(device="auto", dtype="auto", repeats=1 if options.small else 3)
    for preset, batch in (("smoke", 2),) if options.small else RACES:
        if time.monotonic() > end:
            yield {"preset": preset, "batch": batch, "end": OUT_OF_MINUTES}
            return
        forget()
        yield from race(preset, batch, setting)
