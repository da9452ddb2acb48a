"""Small training runs side by side: does an idea matter, at equal tokens?

Each run is the library's own `Trainer` on the Storybook, with a model small enough for a CPU. Two
runs differ only in fields of `PicoConfig` and `TrainConfig`, or in a function that changes a fresh
model. These runs take seconds and serve to try out an idea; what the ideas are worth was measured
with more care (ablation_results.py).
"""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import cache
from typing import TYPE_CHECKING, Any

from IPython import get_ipython
from IPython.display import display

from picolm_lib.config import PRESETS, PicoConfig, TrainConfig
from picolm_lib.course.start import preset_name
from picolm_lib.data.corpus import load_corpus
from picolm_lib.data.token_file import TokenFile
from picolm_lib.data.tokenizer import load_tokenizer
from picolm_lib.data.tokens import tokenize_corpus
from picolm_lib.evaluate import evaluate
from picolm_lib.model.picolm import PicoLM
from picolm_lib.train.trainer import Trainer

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerFast

MODEL = PicoConfig(vocab_size=2_048, max_seq_len=128, n_layers=4, d_model=96, n_heads=4)
RUN = TrainConfig(storybook_stories=6_000, max_tokens=400_000, batch_size=16, evals=8)
# More than the validation stories have, so all of them are read.
EVAL_TOKENS = 65_536
# Of the preset "smoke": enough to see that everything works.
SMOKE_TOKENS, SMOKE_EVAL_TOKENS = 4 * 16 * 128, 4_096
# Seconds between two signs of life.
SHOW_EVERY = 2.0


@dataclass(frozen=True)
class Curve:
    """How a run went."""

    tokens: list[int]
    bits_per_byte: list[float]
    """On validation stories, after that many tokens."""
    seconds: float
    """Of training, without the evaluations."""
    model: PicoLM
    loss: float
    """At the end, in nats per token, on the same stories."""

    @property
    def last(self) -> float:
        """Bits per byte at the end."""
        return self.bits_per_byte[-1]


class StatusLine:
    """One line of output that is overwritten instead of growing."""

    def __init__(self) -> None:
        inside = get_ipython() is not None
        self._handle = display({"text/plain": ""}, raw=True, display_id=True) if inside else None

    def update(self, text: str) -> None:
        """Replaces the line."""
        if self._handle is not None:
            self._handle.update({"text/plain": text}, raw=True)


# Reading it takes longer than a short run.
bundled_tokenizer = cache(load_tokenizer)


@cache
def token_files(tokenizer: PreTrainedTokenizerFast, stories: int) -> dict[str, TokenFile]:
    """Storybook stories as token files; for the preset "smoke" only a few of them."""
    count = PRESETS["smoke"].train.storybook_stories if is_smoke() else stories
    return tokenize_corpus(load_corpus("storybook", count), tokenizer, show_progress=False)


def is_smoke() -> bool:
    """Whether runs are only there to show that everything works."""
    return preset_name() == "smoke"


def train(trainer: Trainer, name: str, evals: int, eval_tokens: int) -> Curve:
    """Trains to the end, evaluating on the way, and shows how far the run is.

    Args:
        trainer: ready to start; its limit is max_tokens.
        name: what is shown.
        evals: evaluations, evenly spaced; the last one is at the end.
        eval_tokens: validation tokens per evaluation.
    """
    budget, line = trainer.config.max_tokens, StatusLine()
    seen: list[int] = []
    scores: list[float] = []
    loss, started = 0.0, time.monotonic()
    shown = started
    line.update(f"{name}: {budget:,} tokens")
    while trainer.progress.tokens < budget:
        trainer.step()
        done = trainer.progress.tokens
        if time.monotonic() - shown > SHOW_EVERY:
            shown = time.monotonic()
            line.update(f"{name}: {done:,} of {budget:,} tokens, {shown - started:.0f} s")
        if done * evals // budget > len(scores):
            found = evaluate(trainer.model, trainer.files["validation"], trainer.precision,
                             eval_tokens)
            seen.append(done)
            scores.append(found.bits_per_byte)
            loss = found.loss
            line.update(f"{name}: {done:,} of {budget:,} tokens, {scores[-1]:.3f} bits per byte, "
                        f"{time.monotonic() - started:.0f} s")
    return Curve(seen, scores, trainer.progress.seconds, trainer.model, loss)


def run(name: str, change: Callable[[PicoLM], object] | None = None, seed: int = 0,
        tokens: int | None = None, tokenizer: PreTrainedTokenizerFast | None = None,
        **fields: Any) -> Curve:
    """Trains one small model and shows how far it is.

    Args:
        name: what is shown.
        change: changes the fresh model before training.
        seed: of the initial weights and of the order of the stories.
        tokens: to train on; None uses the default budget. The preset "smoke" always uses few.
        tokenizer: None uses the bundled one. Its vocabulary is the model's.
        fields: of PicoConfig or TrainConfig, such as n_kv_heads=4 or decay=0.2.
    """
    tokenizer = tokenizer or bundled_tokenizer()
    of_model = {name: value for name, value in fields.items() if hasattr(MODEL, name)}
    of_run = {name: value for name, value in fields.items() if name not in of_model}
    config = replace(MODEL, **{"vocab_size": len(tokenizer), **of_model})
    budget = SMOKE_TOKENS if is_smoke() else tokens or RUN.max_tokens
    settings = replace(RUN, **{"max_tokens": budget, "seed": seed,
                               "evals": 2 if is_smoke() else RUN.evals, **of_run})
    model = PicoLM(config, seed)
    if change is not None:
        change(model)
    trainer = Trainer(config, settings, tokenizer,
                      token_files(tokenizer, settings.storybook_stories), show=False, model=model)
    return train(trainer, name, settings.evals,
                 SMOKE_EVAL_TOKENS if is_smoke() else EVAL_TOKENS)
