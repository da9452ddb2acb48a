"""AdamW against Muon: the same small model, the same stories, two optimizers for hidden matrices.

Each run is the library's own `Trainer`. In the AdamW runs the hidden matrices get AdamW too, with a
learning rate of their own, which is the one that both sides tune. Everything else is equal.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from statistics import median

from picolm_lib.config import PicoConfig, TrainConfig
from picolm_lib.course.race import Curve, bundled_tokenizer, is_smoke, token_files, train
from picolm_lib.device import wait_for
from picolm_lib.model.picolm import PicoLM
from picolm_lib.train.muon import parameter_groups
from picolm_lib.train.trainer import Trainer

MODEL = PicoConfig(vocab_size=2_048, max_seq_len=128, n_layers=3, d_model=64, n_heads=4)
STEP = 8 * 128  # tokens per optimizer step
RUN = TrainConfig(storybook_stories=3_000, max_tokens=80 * STEP, batch_size=8, evals=5,
                  momentum_warmup=30)
EVAL_TOKENS, SMOKE_EVAL_TOKENS = 8_192, 1_024
MAX_RATIO = 2.0  # a run at equal seconds is at most this many times longer


def budget() -> int:
    """Tokens of one run; for the preset "smoke" just enough to see that it works."""
    return 6 * STEP if is_smoke() else RUN.max_tokens


def groups(model: PicoLM, rule: str) -> list[dict]:
    """Parameter groups in which the hidden matrices get "muon" or "adamw".

    They keep their role, and with it their learning rate, so that the schedule drives both equally.
    """
    return [{**group, "kind": rule} if group["kind"] == "muon" else group
            for group in parameter_groups(model)]


def trainer(rule: str = "muon", rate: float = 0.02, seed: int = 0, tokens: int | None = None,
            sort: Callable[[PicoLM, str], list[dict]] = groups) -> Trainer:
    """A run that is ready to start.

    Args:
        rule: optimizer of the hidden matrices: "muon" or "adamw".
        rate: their peak learning rate.
        seed: of the initial weights and of the order of the stories.
        tokens: the run's length; None takes `budget()`.
        sort: makes the parameter groups.
    """
    config = replace(RUN, max_tokens=tokens or budget(), seed=seed, muon_lr=rate)
    tokenizer = bundled_tokenizer()
    return Trainer(MODEL, config, tokenizer, token_files(tokenizer, RUN.storybook_stories),
                   show=False, groups=lambda model: sort(model, rule))


def finish_run(ready: Trainer, name: str, evals: int = RUN.evals) -> Curve:
    """Trains to the end, evaluating on the way, and shows how far it is."""
    return train(ready, name, evals, SMOKE_EVAL_TOKENS if is_smoke() else EVAL_TOKENS)


def sweep(rule: str, rates: Sequence[float], seed: int = 0) -> dict[float, float]:
    """Bits per byte at the end of a run with each learning rate; one line of output per rate."""
    return {rate: finish_run(trainer(rule, rate, seed), f"{rule}, learning rate {rate}", 1).last
            for rate in rates}


def best(swept: Mapping[float, float]) -> float:
    """The learning rate with the fewest bits per byte."""
    return min(swept, key=swept.__getitem__)


def race(rule: str, rate: float, seeds: Sequence[int], tokens: int | None = None) -> list[Curve]:
    """One run per seed."""
    return [finish_run(trainer(rule, rate, seed, tokens), f"{rule}, seed {seed}") for seed in seeds]


def step_seconds(rules: Sequence[str] = ("adamw", "muon"), steps: int = 12) -> dict[str, float]:
    """Median seconds of a whole training step under each rule.

    The rules take turns, so a machine that is busy with other work slows both down.
    """
    ready = {rule: trainer(rule, tokens=1_000 * STEP) for rule in rules}
    spent: dict[str, list[float]] = {rule: [] for rule in rules}
    for number in range(steps + 2):
        for rule, one in ready.items():
            started = time.perf_counter()
            one.step()
            wait_for(one.device)
            # The first steps are slow: they allocate memory.
            if number >= 2:
                spent[rule].append(time.perf_counter() - started)
    return {rule: median(seconds) for rule, seconds in spent.items()}


def tokens_in_equal_time(seconds: Mapping[str, float]) -> int:
    """Tokens that AdamW reads in the time in which Muon reads `budget()`: whole steps."""
    ratio = min(max(seconds["muon"] / seconds["adamw"], 1.0), MAX_RATIO)
    return round(budget() / STEP * ratio) * STEP


def output_by_muon(model: PicoLM, rule: str = "muon") -> list[dict]:
    """A bug: the groups, with the output layer among the hidden matrices."""
    qkv, hidden, tables, vectors = groups(model, rule)
    output = model.output.weight
    return [qkv, {**hidden, "params": [*hidden["params"], output]},
            {**tables, "params": [p for p in tables["params"] if p is not output]}, vectors]
