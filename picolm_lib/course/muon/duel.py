"""AdamW against Muon: the same small model, the same stories, another rule for hidden matrices.

Each run is the library's own `Trainer`. In the AdamW runs the hidden matrices get AdamW too, with a
learning rate of their own, which is the one that both sides tune. All else stays as it is.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cache
from statistics import median

from torch import nn

from picolm_lib.config import PicoConfig, TrainConfig
from picolm_lib.corpus import load_corpus
from picolm_lib.course.race import Line
from picolm_lib.course.start import preset_name
from picolm_lib.data import TokenFile, prepare
from picolm_lib.evaluate import evaluate
from picolm_lib.model import PicoLM
from picolm_lib.muon import MuonAdamW, parameter_groups
from picolm_lib.tokenizer import load_tokenizer
from picolm_lib.train import Trainer

MODEL = PicoConfig(vocab_size=2_048, max_seq_len=128, n_layers=3, d_model=64, n_heads=4)
STEP = 8 * 128  # tokens per optimizer step
RUN = TrainConfig(storybook_stories=3_000, max_tokens=80 * STEP, batch_size=8, evals=5,
                  momentum_warmup=30)
EVAL_TOKENS = 8_192
MOST_LONGER = 2.0  # a run at equal seconds is at most this much longer


@dataclass(frozen=True)
class Run:
    """How one run went."""

    tokens: list[int]
    bits: list[float]
    """Bits per byte on validation stories, after as many tokens."""

    @property
    def last(self) -> float:
        """Bits per byte at the end."""
        return self.bits[-1]


def is_tiny() -> bool:
    """Whether runs are only there to see that everything works."""
    return preset_name() == "smoke"


@cache
def stories() -> dict[str, TokenFile]:
    """The Storybook as token files, few stories for the preset "smoke"."""
    count = 400 if is_tiny() else RUN.storybook_stories
    return prepare(load_corpus("storybook", count), tokenizer(), show_progress=False)


tokenizer = cache(load_tokenizer)  # reading it takes longer than a short run


def budget() -> int:
    """Tokens of one run: the usual ones, or for the preset "smoke" enough to see that it works."""
    return 6 * STEP if is_tiny() else RUN.max_tokens


def groups(model: PicoLM, rule: str) -> list[dict]:
    """Parameter groups in which the hidden matrices get "muon" or "adamw", at the same name of a
    rate, so that the schedule drives both alike."""
    return [{**group, "kind": rule, "rate": "muon_lr"} if group["kind"] == "muon" else group
            for group in parameter_groups(model)]


def trainer(rule: str = "muon", rate: float = 0.02, seed: int = 0, tokens: int | None = None,
            sort: Callable[[PicoLM, str], list[dict]] = groups) -> Trainer:
    """A run that is ready to start.

    Args:
        rule: of the hidden matrices: "muon" or "adamw".
        rate: their peak learning rate.
        seed: of the initial weights and of the order of the stories.
        tokens: the run's length; None takes `budget()`.
        sort: makes the parameter groups.
    """
    config = replace(RUN, max_tokens=tokens or budget(), seed=seed, muon_lr=rate)
    ready = Trainer(MODEL, config, tokenizer(), stories(), show=False)
    ready.optimizer = MuonAdamW(sort(ready.model, rule), weight_decay=config.weight_decay,
                                betas=(config.adamw_beta1, config.adamw_beta2),
                                dtype=ready.numerics.dtype)
    return ready


def finish_run(ready: Trainer, name: str, evals: int = RUN.evals) -> Run:
    """Trains to the end, evaluating on the way, and prints how far it is."""
    line, total, tokens, bits = Line(), ready.config.max_tokens, [], []
    enough = EVAL_TOKENS // 8 if is_tiny() else EVAL_TOKENS
    while (done := ready.progress.tokens) < total:
        if done % (10 * STEP) == 0:
            line.say(f"{name}: {done:,} of {total:,} tokens")
        ready.step()
        done = ready.progress.tokens
        if done * evals // total > len(bits):
            tokens.append(done)
            bits.append(evaluate(ready.model, stories()["validation"], ready.numerics,
                                 enough).bits_per_byte)
    line.say(f"{name}: {total:,} tokens, {bits[-1]:.3f} bits per byte")
    return Run(tokens, bits)


def sweep(rule: str, rates: Sequence[float], seed: int = 0) -> dict[float, float]:
    """Bits per byte at the end of a run with each learning rate; a line of output per rate."""
    return {rate: finish_run(trainer(rule, rate, seed), f"{rule}, learning rate {rate}", 1).last
            for rate in rates}


def best(swept: Mapping[float, float]) -> float:
    """The learning rate with the fewest bits per byte."""
    return min(swept, key=swept.__getitem__)


def race(rule: str, rate: float, seeds: Sequence[int], tokens: int | None = None) -> list[Run]:
    """One run per seed."""
    return [finish_run(trainer(rule, rate, seed, tokens), f"{rule}, seed {seed}") for seed in seeds]


def step_seconds(rules: Sequence[str] = ("adamw", "muon"), steps: int = 12) -> dict[str, float]:
    """Median seconds of a whole training step under each rule.

    The rules take turns, so a machine that is busy with other things slows down both.
    """
    ready = {rule: trainer(rule, tokens=1_000 * STEP) for rule in rules}
    spent: dict[str, list[float]] = {rule: [] for rule in rules}
    for number in range(steps + 2):
        for rule, one in ready.items():
            started = time.perf_counter()
            one.step()
            if number >= 2:                                          # the first ones are slow
                spent[rule].append(time.perf_counter() - started)
    return {rule: median(seconds) for rule, seconds in spent.items()}


def tokens_in_equal_time(seconds: Mapping[str, float]) -> int:
    """Tokens that AdamW reads in the time in which Muon reads `budget()`: whole steps."""
    longer = min(max(seconds["muon"] / seconds["adamw"], 1.0), MOST_LONGER)
    return round(budget() / STEP * longer) * STEP


def output_by_muon(model: nn.Module, rule: str = "muon") -> list[dict]:
    """A fault: the groups, with the output layer among the hidden matrices."""
    qkv, hidden, tables, vectors = groups(model, rule)
    output = model.output.weight
    return [qkv, {**hidden, "params": [*hidden["params"], output]},
            {**tables, "params": [p for p in tables["params"] if p is not output]}, vectors]
