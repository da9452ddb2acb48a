"""Runs that come with the package, to draw the learner's own beside.

pico.json is a run of the preset pico over 1.74 million tokens: 8,443 stories of TinyStories, each
seen once; on one CPU core, in bfloat16, in 48 minutes (2026-11-28, torch 2.13.0):

    picolm train --preset pico --data tinystories/ --tokenizer smollm/ --max-tokens 1740000 --run R
    python -m picolm_lib.course.training.recorded R
"""

from __future__ import annotations

import json
import sys
from dataclasses import asdict, dataclass
from pathlib import Path

from picolm_lib.config import TINYSTORIES
from picolm_lib.files import ASSETS, atomic_write_text
from picolm_lib.train.checkpoint import load_config
from picolm_lib.train.metrics import read_metrics
from picolm_lib.train.snapshots import history

PICO = ASSETS / "pico.json"


@dataclass(frozen=True)
class Recorded:
    """A run by the tokens that it had trained on."""

    label: str
    loss: list[tuple[int, float]]
    """Of training, in nats per token: of every step, or of every few."""
    bits_per_byte: list[tuple[int, float]]
    """On validation documents."""


def recorded(preset: str, data: str) -> Recorded | None:
    """The recorded run of a preset on data, where there is one."""
    if (preset, data) == ("nano", "storybook"):
        past = history()
        return Recorded("recorded: the bundled model", past.curve,
                        [(snapshot.tokens, snapshot.bits_per_byte) for snapshot in past.snapshots])
    if (preset, data) == ("pico", TINYSTORIES):
        read = json.loads(PICO.read_text(encoding="utf-8"))
        return Recorded(read["label"], [tuple(point) for point in read["loss"]],
                        [tuple(point) for point in read["bits_per_byte"]])
    return None


def record(run: Path) -> None:
    """Writes pico.json from the metrics of a run."""
    metrics, train = read_metrics(run), load_config(run).train
    label = f"recorded: one pass over {train.max_tokens / 1e6:.2f} M tokens"
    content = Recorded(label, *([(m["tokens"], round(m[name], 4)) for m in metrics
                                 if m["kind"] == kind and m[name] is not None]
                                for kind, name in (("step", "loss"),
                                                   ("evaluation", "bits_per_byte"))))
    atomic_write_text(PICO, json.dumps(asdict(content)) + "\n")


if __name__ == "__main__":
    record(Path(sys.argv[1]))
