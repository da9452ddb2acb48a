"""How long a run is: by tokens, by steps, or by minutes, which need a measured speed.

With a limit in minutes nobody knows the number of steps beforehand, but the schedule needs it. So
it is planned from the speed of two passes, and planned anew before every step, until the decay of
the learning rate begins: from then on the end stands.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

from picolm_lib.config import TrainConfig

PUNCTUALITY = 0.98  # of max_minutes: the rest is for the last checkpoint and what was misjudged
FADING = 0.95  # from step to step, of the measured speed: about twenty steps count
SLEEPING = 4  # times as long as the steps before: that was no step, the machine slept meanwhile


@dataclass
class Progress:
    """How far a run is."""

    step: int = 0
    tokens: int = 0
    seconds: float = 0.0
    """Spent in optimizer steps."""
    recent_tokens: float = 0.0
    recent_seconds: float = 0.0
    """Of the last steps, older ones counting less: their ratio is the speed now, by the clock that
    all processes share."""
    elapsed: float = 0.0
    """Spent in all, evaluations and checkpoints included."""
    evaluations: int = 0
    """How many of the run's evaluations are behind it."""
    skipped: int = 0
    skipped_in_a_row: int = 0
    planned_tokens: int = 0
    """Where the run ends when max_minutes decides; fixed once the decay has begun."""
    planned_minutes: float = 0.0
    """The max_minutes of that plan."""

    def notice(self, tokens: int, seconds: float) -> None:
        """A step is done."""
        if tokens and self.recent_tokens:
            usual = tokens * self.recent_seconds / self.recent_tokens
            seconds = min(seconds, SLEEPING * usual)
        self.recent_tokens = FADING * self.recent_tokens + tokens
        self.recent_seconds = FADING * self.recent_seconds + seconds


@dataclass
class Pace:
    """The plan of one run, from what was measured so far."""

    batch_tokens: int
    validation_tokens: int
    rate_at_first: float = 0.0
    """Tokens per second of the warm-up."""
    warming: float = 0.0
    """Seconds that the warm-up took."""
    evaluating: float = 0.0
    """Seconds that the last evaluation took."""

    def plan(self, config: TrainConfig, progress: Progress) -> int:
        """Tokens at which the run ends: the first of its limits."""
        if config.max_minutes and not self._decay_has_begun(config, progress):
            # Time may be over all at once, as when a machine slept; the decay comes all the same.
            least = (math.ceil(progress.step / 20) if config.decay else 0) if progress.step else 1
            steps = max(self._steps_left(config, progress), least)
            progress.planned_tokens = progress.tokens + steps * self.batch_tokens
            progress.planned_minutes = config.max_minutes
        limits = (config.max_tokens, config.max_steps * self.batch_tokens,
                  progress.planned_tokens if config.max_minutes else 0)
        return min(limit for limit in limits if limit)

    def _steps_left(self, config: TrainConfig, progress: Progress) -> int:
        rate = (progress.recent_tokens / progress.recent_seconds if progress.recent_tokens
                else self.rate_at_first or progress.tokens / progress.elapsed)
        # Evaluations read, forward only: a third of a step's work. The last one reads all.
        look = self.evaluating or config.eval_tokens / (3 * rate)
        looks = max(config.evals - 1 - progress.evaluations, 0) * look
        looks += self.validation_tokens / (3 * rate)
        end = 60 * config.max_minutes * PUNCTUALITY - self.warming
        left = max(end - looks, end / 2) - progress.elapsed
        return round(rate * left / self.batch_tokens)

    @staticmethod
    def _decay_has_begun(config: TrainConfig, progress: Progress) -> bool:
        """By the plan, and by the clock: the first plans rest on a few, perhaps slow, passes."""
        stable = 1 - config.decay
        return progress.planned_minutes == config.max_minutes and (
            progress.tokens > stable * progress.planned_tokens
            and progress.elapsed > stable / 2 * 60 * config.max_minutes)
