"""The comparison of vocabularies is condensed rightly, and the asset is what its lines say."""

from __future__ import annotations

import math
from itertools import product

import pytest
import vocabulary

from picolm_lib.course.tokens import measured


def line(regime: str, size: int, seed: int, bpb: float, seconds: float = 10.0) -> dict:
    return {"regime": regime, "vocab_size": size, "seed": seed, "bpb": bpb, "loss": 1.0,
            "bytes": 800_000, "window": 100, "processor_seconds": seconds, "machine": "a machine",
            "validation_stories": 60, "torch": "2.9", "date": "2026-01-01"}


def test_the_interval_is_students():
    mean, half = vocabulary.interval([1.0, 2.0, 3.0])
    # The standard deviation of 1, 2, 3 is 1; the point is that of two degrees of freedom.
    assert (mean, half) == (2.0, pytest.approx(4.303 / math.sqrt(3), abs=1e-5))


def test_equal_time_is_that_of_the_largest():
    lines = [line("equal bytes", size, seed, 1.0, seconds) for seed in (0, 1, 2)
             for size, seconds in zip(vocabulary.SIZES, (40, 20, 15, 10), strict=True)]
    assert vocabulary.steps_in_equal_time(262, lines) == vocabulary.STEPS / 4
    assert vocabulary.steps_in_equal_time(2_048, lines) == vocabulary.STEPS


def test_rows_are_means_over_seeds_and_the_largest_counts_for_both():
    lines = [line("equal bytes", size, seed, size / 1_000 + seed) for seed, size in
             product((0, 1, 2), vocabulary.SIZES)]
    lines += [line("equal time", size, seed, 5.0 + seed) for seed, size in
              product((0, 1, 2), vocabulary.SIZES[:-1])]
    rows = vocabulary.condense(lines)["rows"]
    assert [row["bits_per_byte"] for row in rows] == [1.262, 1.512, 2.024, 3.048, 6, 6, 6, 3.048]


def test_the_asset_is_what_the_lines_say():
    assert measured.read("vocabularies") == vocabulary.condense(vocabulary.read())
