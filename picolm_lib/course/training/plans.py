"""Which run a learner trains: a new one or one to continue, and how many tokens, before any data.

The minutes become a number of tokens, once, at the beginning. So the schedule is fixed, and a run
that another machine continues ends where it was planned to end.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path
from uuid import uuid4

from picolm_lib.commands.plan import trial
from picolm_lib.config import PRESETS, TINYSTORIES, PicoConfig, PicoError, TrainConfig
from picolm_lib.course.drive import Drive
from picolm_lib.course.training.budget import Speed, measure_steps
from picolm_lib.course.training.folders import CONTINUE, choose_folder, end_of, is_last_damaged
from picolm_lib.data.hub import local_path
from picolm_lib.data.local import HINT
from picolm_lib.data.tokenizer import load_tokenizer
from picolm_lib.train.budget import Progress, TimeBudget
from picolm_lib.train.checkpoint import (
    RunConfig,
    has_resume,
    load_config,
    load_resume,
)
from picolm_lib.train.trainer import Trainer

MOST_MINUTES = 10_000
# Of training and evaluation, unless the learner sets them.
MINUTES = {"pico": 16.0, "pico8k": 16.0, "nano": 1.2}
# Tokens of the last evaluation: 21,990 stories of TinyStories, one in a hundred of the Storybook's.
VALIDATION_TOKENS = {TINYSTORIES: 4_620_000, "storybook": 26_000}


@dataclass(frozen=True)
class Plan:
    """A run, before there are any data for it."""

    config: RunConfig
    folder: Path
    drive: Drive
    speed: Speed
    """Measured on random tokens, which take as long as real ones."""
    sketch: Trainer
    """The run on these random tokens."""
    goes_on: bool
    """Whether an earlier session has begun it."""
    trained: int
    """Tokens that it has trained on."""

    @property
    def minutes_left(self) -> float:
        """An estimate, by the measured speed."""
        left = self.config.train.max_tokens - self.trained
        return left / self.speed.tokens_per_second / 60

    @property
    def minutes_of_evaluation(self) -> float:
        """An estimate, too: a forward pass is a third of a step's work."""
        train = self.config.train
        left = 1 - self.trained / train.max_tokens
        tokens = VALIDATION_TOKENS.get(train.data, 0) + left * (train.evals - 1) * train.eval_tokens
        return tokens / (3 * self.speed.tokens_per_second) / 60

    def describe(self) -> str:
        """What will be trained, how long it will take, and where it is kept."""
        train = self.config.train
        if self.trained >= train.max_tokens:
            return (f"{self.folder} has trained on all of its {train.max_tokens:,} tokens: it is "
                    "only scored again")
        step = train.batch_size * self.config.model.max_seq_len
        run = (f"{self.folder} goes on after {self.trained:,} of {train.max_tokens:,} tokens, with "
               "the settings that it was started with" if self.goes_on else
               f"{self.folder}, a new run of {train.max_tokens:,} tokens")
        steps = -(-(train.max_tokens - self.trained) // step)
        return (f"{run}: {steps:,} steps of {step:,} tokens at "
                f"{self.speed.tokens_per_second:,.0f} tokens/s, about {self.minutes_left:.1f} "
                f"minutes, and about {max(self.minutes_of_evaluation, 0.1):.1f} for evaluations")


def plan_run(preset: str, data: str = "auto", minutes: float = 0.0, seed: int = 0,
             choice: str = CONTINUE, drive: Drive | None = None) -> Plan:
    """Chooses the run, and measures its speed on random tokens. Downloads no data.

    Args:
        preset: the one that sets the model, and the data if `data` is "auto".
        data: "auto", "storybook", a dataset's id on the Hub, or a local file or folder.
        minutes: of training and evaluation; 0 means 16 with pico and pico8k, 1.2 with nano, and
            the preset's own limit with any other.
        choice: CONTINUE, "new", or the name of a run.
        drive: where runs of earlier machines are.

    Raises:
        PicoError: the settings make no run.
    """
    drive = drive or Drive()
    folder = choose_folder(preset, choice, drive)
    goes_on = has_resume(folder)
    if goes_on:
        config = load_config(folder)
        if config.preset != preset:
            raise PicoError(f"{str(folder)!r} contains a run of the preset {config.preset}, not of "
                            f"{preset}; set RUN to another one, or to 'new', and run again from "
                            "Settings.")
        try:
            progress = load_resume(folder, previous=is_last_damaged(folder))["progress"]
        except PicoError as error:
            reason = str(error).split(";")[0]
            raise PicoError(f"{reason}; set RUN to 'new', or to another run, and run again from "
                            "Settings.") from error
        trained = progress["tokens"]
        # Where `picolm train` has planned it in minutes or steps, its end stays, too.
        config = replace(config, train=replace(
            config.train, max_tokens=end_of(config, progress["planned_tokens"]), max_steps=0,
            max_minutes=0.0))
    else:
        try:
            settings = _settings(preset, data, minutes, seed)
        except PicoError as error:
            reason = str(error).split("; use ")[0].rstrip(".")
            for option, field in (("max_minutes", "MINUTES"), ("seed", "SEED")):
                reason = reason.replace(option, field)
            raise PicoError(f"{reason}; change it in Settings, and run again from there."
                            ) from error
        config, trained = RunConfig(preset, *settings, uuid4().hex), 0
    endless = replace(config.train, max_tokens=10**12, max_steps=0, max_minutes=0.0)
    sketch = trial(config.model, endless)
    speed = measure_steps(sketch)
    if config.train.max_minutes:
        config = replace(config, train=_in_tokens(config, speed))
    return Plan(config, folder, drive, speed, sketch, goes_on, trained)


def _settings(preset: str, data: str, minutes: float, seed: int) -> tuple[PicoConfig, TrainConfig]:
    chosen = PRESETS[preset]
    train = replace(chosen.train, seed=seed)
    if data not in ("auto", "storybook"):
        # A name that can be nothing is refused now.
        try:
            local_path(data, HINT)
        except PicoError as error:
            raise PicoError(f"DATA: {error}") from error
    if data not in ("auto", train.data):
        train = replace(train, data=data, tokenizer="bundled8k" if data == TINYSTORIES
                        else "bundled")
    minutes = minutes or MINUTES.get(preset, 0.0)
    if isinstance(minutes, (int, float)) and minutes > MOST_MINUTES:
        raise PicoError(f"max_minutes is {minutes:g}, more than {MOST_MINUTES:,}.")
    if minutes:
        train = replace(train, max_minutes=minutes, max_tokens=0, max_steps=0)
    if train.tokenizer == chosen.train.tokenizer:
        return chosen.model, train
    return replace(chosen.model, vocab_size=len(load_tokenizer(train.tokenizer))), train


def _in_tokens(config: RunConfig, speed: Speed) -> TrainConfig:
    """The same run, with its minutes as a number of tokens."""
    train, step = config.train, config.train.batch_size * config.model.max_seq_len
    step_s = step / speed.tokens_per_second
    if 60 * train.max_minutes < step_s:
        raise PicoError(f"{train.max_minutes:g} minutes are too short: one step takes "
                        f"{step_s:.2g} s here; set MINUTES to more, and run again from Settings.")
    budget = TimeBudget(train, step, VALIDATION_TOKENS.get(train.data, 0),
                        speed.tokens_per_second)
    progress = Progress()
    budget.update(progress)
    return replace(train, max_tokens=budget.total_tokens(progress), max_minutes=0.0)
