"""The models that quality.py compares: nano by our recipe and by the original one, trained alike.

Data, order of the data, tokens and seed are the same. The seed comes from the environment: it is
that of the weights and of the order of the stories. A few checkpoints are kept in
runs/quality, so an interrupted call resumes where it was.
"""

from __future__ import annotations

import json
import os
from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import cache
from pathlib import Path
from typing import Any

import torch.nn.functional as F
from ablations import VariantTrainer
from variants import DEFAULT, FIXED, ORIGINAL, VARIANTS

from picolm_lib.config import PRESETS
from picolm_lib.data.corpus import load_corpus
from picolm_lib.data.token_file import TokenFile
from picolm_lib.data.tokenizer import load_tokenizer
from picolm_lib.data.tokens import tokenize_corpus
from picolm_lib.device import choose_precision
from picolm_lib.evaluate import evaluate
from picolm_lib.model.picolm import PicoLM
from picolm_lib.train.checkpoint import has_resume
from picolm_lib.train.weights import load_weights, save_weights

SEED = int(os.environ.get("SEED", "0"))
RUNS = Path("runs/quality") / f"seed-{SEED}"
RATES = Path("runs/quality/rates")  # chosen with the first seed that asks
CPU = choose_precision("cpu", "float32")
NANO = PRESETS["nano"]
BUDGET = NANO.train.max_tokens
SHARES = (0.01, 0.03, 0.08, 0.16, 0.3, 0.5, 0.75, 1.0)  # of the budget: then weights are kept
SWEPT = BUDGET // 10  # tokens of the runs that choose the learning rates


@dataclass(frozen=True)
class Recipe:
    """How a model is trained."""

    name: str
    variants: tuple[str, ...]
    """Of variants.py; of several, which differ in learning rates, the best is taken."""
    ends: bool = True
    """Whether an end of text stands between the stories."""


def _sweep(variant: str) -> tuple[str, ...]:
    return tuple(name for name in VARIANTS if VARIANTS[name].sweep == variant)


OURS = Recipe("ours", (DEFAULT,))
FAULTY = Recipe("original", _sweep(ORIGINAL), ends=False)
SOUND = Recipe("original, faults fixed", _sweep(FIXED))
RECIPES = (OURS, FAULTY, SOUND)


def kept(path: Path, make: Callable[[], Any]) -> Any:
    """What a file holds, made first if there is none."""
    if not path.exists():
        path.parent.mkdir(parents=True, exist_ok=True)
        text = json.dumps(make())
        path.write_text(text)
    return json.loads(path.read_text())


def without_ends(text: TokenFile, end: int) -> TokenFile:
    """The same stories with nothing between them: a fault that the original's data had."""
    tokens = text.tokens[text.tokens != end]
    return TokenFile(tokens, replace(text.count, tokens=len(tokens)))


@cache
def files(ends: bool = True) -> dict[str, TokenFile]:
    """Both splits of nano's Storybook."""
    tokenizer = load_tokenizer()
    corpus = load_corpus("storybook", NANO.train.storybook_stories)
    both = tokenize_corpus(corpus, tokenizer, show_progress=False)
    return both if ends else {name: without_ends(text, tokenizer.eos_token_id)
                              for name, text in both.items()}


def fresh(variant: str) -> PicoLM:
    """A variant's nano before its training."""
    model = PicoLM(VARIANTS[variant].shape(NANO.model), seed=SEED)
    VARIANTS[variant].change(model)
    return model


def make_trainer(variant: str, ends: bool, tokens: int, folder: Path | None) -> VariantTrainer:
    """A run that is ready to start."""
    model = fresh(variant)
    config = replace(NANO.train, max_tokens=tokens, device="cpu", dtype="float32",
                     seed=SEED, **VARIANTS[variant].run)
    return VariantTrainer(VARIANTS[variant], model.config, config, load_tokenizer(), files(ends),
                          folder, model=model)


@cache
def swept(variant: str, ends: bool) -> float:
    """Bits per byte after a tenth of the budget; this chooses the learning rates."""
    def run() -> float:
        trainer = make_trainer(variant, ends, SWEPT, None)
        while trainer.progress.tokens < SWEPT:
            trainer.step()
        return round(evaluate(trainer.model, files(ends)["validation"], CPU).bits_per_byte, 5)
    return kept(RATES / f"{variant}.json", run)


def chosen(recipe: Recipe) -> str:
    """The recipe's variant with the best learning rates."""
    if len(recipe.variants) == 1:
        return recipe.variants[0]
    return min(recipe.variants, key=lambda name: swept(name, recipe.ends))


def train(recipe: Recipe) -> None:
    """Trains to the end of the budget and keeps every checkpoint."""
    folder = RUNS / recipe.name
    folder.mkdir(parents=True, exist_ok=True)
    trainer = make_trainer(chosen(recipe), recipe.ends, BUDGET, folder)
    if has_resume(folder):
        trainer.resume()
    for checkpoint in checkpoints():
        if trainer.progress.tokens < checkpoint:
            while trainer.progress.tokens < checkpoint:
                trainer.step()
            save_weights(weights_path(recipe, checkpoint), trainer.model)
            trainer.save()
            print(f"{recipe.name}: {trainer.progress.tokens:,} tokens", flush=True)


def checkpoints() -> list[int]:
    """Numbers of tokens after which weights are kept."""
    return [round(share * BUDGET) for share in SHARES]


def weights_path(recipe: Recipe, checkpoint: int) -> Path:
    """The file of a checkpoint."""
    return RUNS / recipe.name / f"{checkpoint:07d}.safetensors"


def load(recipe: Recipe, checkpoint: int, hide: bool = True) -> PicoLM:
    """A trained model, to be given an end of text before each prompt, as all are.

    Args:
        hide: that end of text from a model that has met none.
    """
    model = fresh(chosen(recipe))
    load_weights(weights_path(recipe, checkpoint), model)
    return blind_to_first(model.eval()) if hide and not recipe.ends else model.eval()


def blind_to_first(model: PicoLM) -> PicoLM:
    """Hides the first token: the end of text, which this model has never met in its training.

    A cache then contains one token fewer than were read, so `generate` does without one.
    """
    hidden = model.hidden
    model.hidden = lambda tokens, *rest: F.pad(hidden(tokens[:, 1:], *rest), (0, 0, 1, 0))
    return model
