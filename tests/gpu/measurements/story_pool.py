"""Storybook stories from all processor cores; what the processes that write them import."""

from __future__ import annotations

import multiprocessing
import os
from collections.abc import Iterator
from itertools import chain, count

from picolm_lib.storybook.story import story

BLOCK = 500  # stories that a process writes at once: 0.15 s


def texts(processes: int | None = None, block: int = BLOCK) -> Iterator[str]:
    """The stories of seed 0 in the order of their index, without end.

    Args:
        processes: how many write; None takes one for every core, of 16 at most: each of them
            imports PyTorch.
    """
    processes = processes or min(16, os.cpu_count() or 1)
    if processes == 1:
        yield from chain.from_iterable(write(start, block) for start in count(0, block))
    with multiprocessing.get_context("spawn").Pool(processes) as pool:
        def wave(number: int) -> list[tuple[int, int]]:
            return [(start * block, block)
                    for start in range(number * processes, (number + 1) * processes)]

        coming = pool.starmap_async(write, wave(0))
        for number in count(1):
            blocks = coming.get()
            # The next ones are written while these are encoded.
            coming = pool.starmap_async(write, wave(number))
            yield from chain.from_iterable(blocks)


def write(start: int, number: int) -> list[str]:
    """`number` stories from index `start` on."""
    return [story(0, index).text for index in range(start, start + number)]
