"""Speed of generation: tokens per second by length, and by the number of stories at once."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence

from picolm_lib.course.race import StatusLine
from picolm_lib.device import choose_precision, wait_for


def tokens_per_second(write: Callable[[int], object], counts: Sequence[int], name: str,
                      each: int = 1, repeats: int = 2) -> list[float]:
    """The speed of `write(count)` for every count, the best of some repeats.

    The best is the repeat that other programs on the machine disturbed least.

    Args:
        write: writes `count * each` tokens.
        name: what is shown.
    """
    rates, line = [], StatusLine()
    # The first call warms up.
    write(min(counts))
    for count in counts:
        seconds = []
        for _ in range(repeats):
            started = time.perf_counter()
            write(count)
            wait_for(choose_precision().device)
            seconds.append(time.perf_counter() - started)
        rates.append(count * each / min(seconds))
        line.update(f"{name}: {count} at {rates[-1]:,.0f} tokens per second")
    return rates
