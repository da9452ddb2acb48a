"""How far a run is, and how long it will be: by tokens, by steps, or by minutes.

With a limit in minutes nobody knows the number of steps beforehand, but the schedule needs it. So
it is planned from the measured speed, and planned again after every step until the learning rate
begins to decay. From then on the end is fixed.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass
from itertools import pairwise
from typing import Any

from picolm_lib.config import PicoError, TrainConfig

MIN_SECONDS = 1e-6  # of a step: a clock with coarse ticks may stand still meanwhile
SAFETY_MARGIN = 0.98  # of max_minutes: the rest is for the last checkpoint and for misjudgments
EMA_DECAY = 0.95  # of the measured speed, from step to step: about twenty steps count
STALL_FACTOR = 4  # a step that takes longer than this many usual ones: the machine was asleep


@dataclass
class Progress:
    """How far a run is."""

    step: int = 0
    """Optimizer steps done; skipped ones do not count."""
    tokens: int = 0
    """Tokens trained on."""
    seconds: float = 0.0
    """Spent in optimizer steps."""
    recent_tokens: float = 0.0
    recent_seconds: float = 0.0
    """Moving sums over the last steps, of tokens and of the seconds that all processes agree on.
    Their ratio is the current speed."""
    elapsed: float = 0.0
    """Seconds spent altogether, with evaluations and checkpoints."""
    evaluations: int = 0
    """How many of the run's evaluations are due or done."""
    skipped: int = 0
    """Steps skipped because a loss or gradient was not finite."""
    skipped_in_a_row: int = 0
    planned_tokens: int = 0
    """Where the run ends when max_minutes decides."""
    planned_minutes: float = 0.0
    """The max_minutes of that plan; another one needs another plan."""

    def count_step(self, tokens: int) -> None:
        """Counts an optimizer step over `tokens` tokens; with 0 tokens it was skipped."""
        if tokens:
            self.step += 1
            self.tokens += tokens
            self.skipped_in_a_row = 0
        else:
            self.skipped += 1
            self.skipped_in_a_row += 1

    def record_speed(self, tokens: int, seconds: float) -> None:
        """Takes the tokens and the seconds of the last step into the current speed."""
        if tokens and self.recent_tokens:
            usual = tokens * self.recent_seconds / self.recent_tokens
            seconds = min(seconds, STALL_FACTOR * usual)
        self.recent_tokens = EMA_DECAY * self.recent_tokens + tokens
        self.recent_seconds = EMA_DECAY * self.recent_seconds + seconds

    def state_dict(self) -> dict[str, Any]:
        """All fields, for a checkpoint."""
        return asdict(self)

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Restores what `state_dict` returned."""
        vars(self).update(asdict(Progress(**state)))

    def evaluation_due(self, total_tokens: int, evals: int) -> bool:
        """True `evals` - 1 times at equal distances, each once, even when the plan changes.

        The last evaluation, at the end of the run, is none of these.
        """
        number = self.tokens * evals // total_tokens
        due = self.tokens < total_tokens and number > self.evaluations
        self.evaluations = max(number, self.evaluations)
        return due


@dataclass
class TimeBudget:
    """The length of one run.

    Args:
        config: its limits and its schedule.
        batch_tokens: tokens per optimizer step.
        validation_tokens: tokens that the last evaluation reads.
    """

    config: TrainConfig
    batch_tokens: int
    validation_tokens: int
    initial_speed: float = 0.0
    """Tokens per second, as measured before the first step."""
    measuring_seconds: float = 0.0
    """Time that this measurement took."""
    evaluation_seconds: float = 0.0
    """Time that the last evaluation took."""

    def total_tokens(self, progress: Progress) -> int:
        """Tokens at which the run ends: the first of its limits.

        Raises:
            PicoError: only max_minutes limits the run, and it has not been planned.
        """
        limits = (self.config.max_tokens, self.config.max_steps * self.batch_tokens,
                  progress.planned_tokens if self.config.max_minutes else 0)
        if not any(limits):
            raise PicoError("the length of this run is not known yet; call measure_speed() first.")
        return min(limit for limit in limits if limit)

    def measure(self, run_batch: Callable[[], object], agree: Callable[[float], float]) -> None:
        """Measures the speed before the first step.

        Args:
            run_batch: a pass over a whole batch. It is called twice: the first call is slower than
                all others will be.
            agree: returns the seconds of the main process in every process.
        """
        times = [time.monotonic()]
        for _ in range(2):
            run_batch()
            times.append(time.monotonic())
        first, second = (agree(end - start) for start, end in pairwise(times))
        self.initial_speed = self.batch_tokens / max(second, MIN_SECONDS)
        self.measuring_seconds = first + second

    def update(self, progress: Progress) -> None:
        """Plans a run that is limited in minutes, from what is known now.

        Once the decay has begun, the plan stays.
        """
        minutes = self.config.max_minutes
        if not minutes or self._decay_has_begun(progress):
            return
        # Time may run out at once, as when the machine was asleep. The decay still happens.
        least = 1
        if progress.step:
            least = math.ceil(progress.step / 20) if self.config.decay else 0
        steps = max(self._steps_left(progress), least)
        progress.planned_tokens = progress.tokens + steps * self.batch_tokens
        progress.planned_minutes = minutes

    def _steps_left(self, progress: Progress) -> int:
        config = self.config
        if progress.recent_tokens:
            speed = progress.recent_tokens / progress.recent_seconds
        else:
            speed = self.initial_speed or progress.tokens / progress.elapsed
        # An evaluation is a forward pass alone: a third of a step's work. The last one reads all.
        evaluation = self.evaluation_seconds or config.eval_tokens / (3 * speed)
        evaluations = max(config.evals - 1 - progress.evaluations, 0) * evaluation
        evaluations += self.validation_tokens / (3 * speed)
        end = 60 * config.max_minutes * SAFETY_MARGIN - self.measuring_seconds
        seconds = max(end - evaluations, end / 2) - progress.elapsed
        return round(speed * seconds / self.batch_tokens)

    def _decay_has_begun(self, progress: Progress) -> bool:
        """By the plan, and by the clock: the first plans rest on a few, perhaps slow, passes."""
        stable = 1 - self.config.decay
        return progress.planned_minutes == self.config.max_minutes and (
            progress.tokens > stable * progress.planned_tokens
            and progress.elapsed > stable / 2 * 60 * self.config.max_minutes)
