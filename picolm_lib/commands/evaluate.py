"""`picolm evaluate`: scores a model on a text, and runs the hallucination meter."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from picolm_lib.commands.parse import parse
from picolm_lib.commands.printing import print_meter, print_notes, print_scores
from picolm_lib.config import Dtype
from picolm_lib.data.corpus import Corpus, load_corpus
from picolm_lib.data.tokens import tokenize_corpus
from picolm_lib.device import choose_precision
from picolm_lib.evaluate import evaluate
from picolm_lib.train.checkpoint import load_run


@dataclass(frozen=True)
class EvaluateOptions:
    """Options of the evaluation."""

    run: str = "bundled"
    """Folder of a trained model, or 'bundled': the nano model that comes with the package."""
    data: str = ""
    """Text to score, as --data of picolm train (empty: the run's own data)."""
    split: Literal["validation", "train", "all"] = "validation"
    """Documents to score: the validation documents, those for training, or all."""
    tokenizer: str = ""
    """Tokenizer, if not the run's own: a folder or an id on the Hugging Face Hub."""
    max_tokens: int = 0
    """Score only this many tokens (0: all)."""
    questions: int = 600
    """Questions of the hallucination meter (0: skip it)."""
    device: str = "auto"
    """'auto', 'cpu', 'cuda', 'cuda:1', 'mps'."""
    dtype: Dtype = "auto"
    """Type of the matrix products."""


def evaluate_command(argv: list[str], prog: str = "picolm evaluate") -> None:
    """`picolm evaluate`: scores a model on a text and runs the hallucination meter."""
    options = parse(EvaluateOptions, argv, EvaluateOptions(), prog,
                    "Prints loss, perplexity, accuracy and bits per byte on any text, and the "
                    "hallucination meter.")
    chosen = choose_precision(options.device, options.dtype)
    model, tokenizer, config = load_run(options.run, chosen.device, options.tokenizer)
    corpus = load_corpus(options.data or config.train.data, config.train.storybook_stories)
    print_notes(corpus)
    if options.split == "all":
        documents = corpus.documents
        corpus = Corpus(lambda: (("all", text) for _, text in documents()),
                        corpus.fingerprint + "-all")
    # Of its own data, what the run has prepared.
    prepared = 0 if options.data else config.train.data_tokens
    text = tokenize_corpus(corpus, tokenizer, splits=(options.split,),
                           data_tokens=prepared)[options.split]
    scores = evaluate(model, text, chosen, options.max_tokens or None)
    print_scores(scores, f"{options.data or config.train.data} ({options.split})")
    if options.questions:
        print_meter(model, tokenizer, chosen, options.questions)
