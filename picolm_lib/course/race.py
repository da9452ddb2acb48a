"""Small training runs side by side: does an idea matter, at equal tokens?

Each run is the library's own `Trainer` on the Storybook, with a model small enough for a CPU. What
differs between two runs is said in one place: fields of `PicoConfig` and `TrainConfig`, or a
function that changes a fresh model. These are runs of seconds, to try an idea; what the ideas are
worth was measured with more care (evidence.py).
"""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import cache
from typing import TYPE_CHECKING

from IPython import get_ipython
from IPython.display import display

from picolm_lib.config import PRESETS, PicoConfig, TrainConfig
from picolm_lib.corpus import load_corpus
from picolm_lib.course.start import preset_name
from picolm_lib.data import TokenFile, prepare
from picolm_lib.evaluate import evaluate
from picolm_lib.model import PicoLM
from picolm_lib.tokenizer import load_tokenizer
from picolm_lib.train import Trainer

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerFast

RUNNER = PicoConfig(vocab_size=2_048, max_seq_len=128, n_layers=4, d_model=96, n_heads=4)
RUN = TrainConfig(storybook_stories=6_000, max_tokens=400_000, batch_size=16, evals=8)
EVAL_TOKENS = 65_536  # more than the validation stories have: all are read
TINY_TOKENS, TINY_EVAL = 4 * 16 * 128, 4_096  # enough to see that everything works


@dataclass(frozen=True)
class Curve:
    """How a run went."""

    tokens: list[int]
    bits_per_byte: list[float]
    """On validation stories, after as many tokens."""
    seconds: float
    """Of training, without the evaluations."""
    model: PicoLM
    loss: float = 0.0
    """At the end, in nats per token, on the same stories."""

    @property
    def last(self) -> float:
        """Bits per byte at the end."""
        return self.bits_per_byte[-1]


class Line:
    """One line of output that is written anew instead of growing."""

    def __init__(self) -> None:
        inside = get_ipython() is not None
        self._handle = display({"text/plain": ""}, raw=True, display_id=True) if inside else None

    def say(self, text: str) -> None:
        """Replaces the line."""
        if self._handle is not None:
            self._handle.update({"text/plain": text}, raw=True)


@cache
def _bundled() -> PreTrainedTokenizerFast:
    return load_tokenizer()


@cache
def _stories(tokenizer: PreTrainedTokenizerFast) -> dict[str, TokenFile]:
    count = PRESETS["smoke"].train.storybook_stories if _tiny() else RUN.storybook_stories
    return prepare(load_corpus("storybook", count), tokenizer, show_progress=False)


def _tiny() -> bool:
    return preset_name() == "smoke"


def eval_tokens() -> int:
    """Validation tokens per evaluation; for the preset "smoke" only a few of them."""
    return TINY_EVAL if _tiny() else EVAL_TOKENS


def run(name: str, change: Callable[[PicoLM], object] | None = None, seed: int = 0,
        tokens: int | None = None, tokenizer: PreTrainedTokenizerFast | None = None,
        **fields: object) -> Curve:
    """Trains one small model and says how far it is.

    Args:
        name: what is printed.
        change: does something to the fresh model before training.
        seed: of the initial weights and of the order of the stories.
        tokens: to train on; None takes the usual budget. The smoke preset always takes few.
        tokenizer: None takes the bundled one. Its vocabulary is the model's.
        fields: of PicoConfig or TrainConfig, such as n_kv_heads=4 or decay=0.2.
    """
    tokenizer = tokenizer or _bundled()
    of_model = {name: value for name, value in fields.items() if hasattr(RUNNER, name)}
    of_run = {name: value for name, value in fields.items() if name not in of_model}
    config = replace(RUNNER, **{"vocab_size": len(tokenizer), **of_model})
    budget = TINY_TOKENS if _tiny() else tokens or RUN.max_tokens
    train = replace(RUN, **{"max_tokens": budget, "seed": seed,
                            "evals": 2 if _tiny() else RUN.evals, **of_run})
    model = PicoLM(config, seed)
    if change is not None:
        change(model)
    files, line = _stories(tokenizer), Line()
    trainer = Trainer(config, train, tokenizer, files, show=False, model=model)
    seen, scores, loss, started = [], [], 0.0, time.monotonic()
    while trainer.progress.tokens < budget:
        trainer.step()
        done = trainer.progress.tokens
        if done * train.evals // budget > len(scores):
            seen.append(done)
            found = evaluate(trainer.model, files["validation"], trainer.numerics, eval_tokens())
            scores.append(found.bits_per_byte)
            loss = found.loss
            line.say(f"{name}: {done:,} of {budget:,} tokens, {scores[-1]:.3f} bits per byte, "
                     f"{time.monotonic() - started:.0f} s")
    return Curve(seen, scores, trainer.progress.seconds, trainer.model, loss)
