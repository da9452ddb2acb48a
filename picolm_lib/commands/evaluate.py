"""`python -m picolm_lib.evaluate`: scores a model on a text, and reads the hallucination meter."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from picolm_lib.checkpoint import load_run
from picolm_lib.cli import parse
from picolm_lib.commands.printing import print_meter, print_scores
from picolm_lib.config import Dtype
from picolm_lib.corpus import Corpus, load_corpus
from picolm_lib.data import prepare
from picolm_lib.doctor import numerics
from picolm_lib.evaluate import evaluate


@dataclass(frozen=True)
class EvaluateOptions:
    """Options of the evaluation."""

    run: str = "bundled"
    """Folder of a trained model, or 'bundled': the nano model that comes with the package."""
    data: str = ""
    """What to score it on (default: the run's own data): as --data of run_train.py."""
    split: Literal["validation", "train", "all"] = "validation"
    """Documents to score: those held back for validation, those for training, or all."""
    tokenizer: str = ""
    """Tokenizer, if not the run's own: a folder or an id on the Hugging Face Hub."""
    max_tokens: int = 0
    """Score only this many tokens (0: all)."""
    questions: int = 600
    """Questions of the hallucination meter (0: leave it out)."""
    device: str = "auto"
    """'auto', 'cpu', 'cuda', 'cuda:1', 'mps'."""
    dtype: Dtype = "auto"
    """Type of the matrix products."""


def evaluate_command(argv: list[str]) -> None:
    """`python -m picolm_lib.evaluate`: scores a model on a text and reads its meter."""
    options = parse(EvaluateOptions, argv, EvaluateOptions(), "python -m picolm_lib.evaluate",
                    "Loss, perplexity, accuracy and bits per byte on any text, and the "
                    "hallucination meter.")
    chosen = numerics(options.device, options.dtype)
    model, tokenizer, config = load_run(options.run, chosen.device, options.tokenizer)
    corpus = load_corpus(options.data or config.train.data, config.train.storybook_stories)
    if options.split == "all":
        documents = corpus.documents
        corpus = Corpus(lambda: (("all", text) for _, text in documents()),
                        corpus.fingerprint + "-all")
    text = prepare(corpus, tokenizer, splits=(options.split,))[options.split]
    scores = evaluate(model, text, chosen, options.max_tokens or None)
    print_scores(scores, f"{options.data or config.train.data}, {options.split}")
    if options.questions:
        print_meter(model, tokenizer, chosen, options.questions)
