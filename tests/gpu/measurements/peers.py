"""A training step beside transformers' Llama of the same shape with fused AdamW.

That is tests/benchmarks/speed_training.py: each model in a process of its own, so that its memory
can be told apart, and they take turns, a step each; the clock is read when the GPU has ended. The
row of a model has its optimizer's share of the step: picolm_lib's is Muon's and AdamW's together
(part "optimizer" takes them apart).

GPU time on an H100, an estimate: 20 turns of two models x 0.1 s, and a start of two processes of 15
seconds, for each preset and mode; compiling takes 30 to 60 seconds for each model. So 1 minute
eager, 3 to 5 minutes compiled.
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Iterator

from gpu.measurements.follow import OUT_OF_MINUTES, Row, deadline
from gpu.policies import forget
from speed_training import LLAMA, OURS, race

from picolm_lib.config import PRESETS
from picolm_lib.device import choose_precision, peak_tflops
from picolm_lib.model.picolm import flops_per_token
from picolm_lib.train.metrics import mfu

RACES = (("pico", "eager"), ("nano", "eager"), ("pico", "compiled"), ("nano", "compiled"))
SEQUENCES = 16  # of a step: pico's micro-batch


def part(options: argparse.Namespace) -> Iterator[Row]:
    """Two rows for each preset and mode: picolm_lib and the Llama."""
    end, device = deadline(options), choose_precision().device
    setting = argparse.Namespace(rivals=(OURS, LLAMA), device="auto", dtype="auto",
                                 repeats=1 if options.small else 20,
                                 sequences=2 if options.small else SEQUENCES)
    for preset, mode in (("smoke", "eager"),) if options.small else RACES:
        flops, peak = flops_per_token(PRESETS[preset].model), peak_tflops(device)
        forget()
        try:
            rows = race(preset, mode, setting, patience=max(end - time.monotonic(), 0))
        except TimeoutError:
            yield {"preset": preset, "mode": mode, "end": OUT_OF_MINUTES}
            return
        for row in rows:
            used = mfu(row["tokens/s"], flops, peak) if row["model"] == OURS else None
            yield row | {"FLOPs per token": flops, "peak TFLOP/s": peak,
                         "MFU": used and round(used, 4)}
