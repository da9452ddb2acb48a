"""What several commands print."""

from __future__ import annotations

from collections.abc import Callable, Generator
from typing import TYPE_CHECKING

from picolm_lib.data.corpus import Corpus
from picolm_lib.device import Precision
from picolm_lib.evaluate import Scores, hallucination_meter
from picolm_lib.model.picolm import PicoLM
from picolm_lib.storybook.story import questions

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerFast

METER_SEED = 10_000_019  # of the meter's stories; those of the training corpus have seed 0


def print_story(pieces: Generator[str, None, str]) -> None:
    """Prints a story while it is generated, and why it stopped where that is not its end."""
    def ending() -> Generator[str, None, None]:
        reason = yield from pieces
        if reason == "context":
            yield "\n[the model's context is full]"
        elif reason == "max_new_tokens":
            yield "\n[stopped by --max-new-tokens]"

    for piece in ending():
        print(piece, end="", flush=True)
    print("\n", flush=True)


def print_notes(corpus: Corpus, say: Callable[[str], object] = print) -> None:
    """Prints which files are read, and what is left out and why."""
    for note in corpus.notes:
        say(note)


def print_scores(scores: Scores, text: str) -> None:
    """Prints the scores of a model on a text, which `text` describes."""
    print(f"\n{scores.predicted:,} tokens of {text}\n"
          f"  loss            {scores.loss:.4f} nats per token\n"
          f"  perplexity      {scores.perplexity:.3f}\n"
          f"  accuracy        {scores.accuracy:.1%} of tokens predicted correctly\n"
          f"  bits per byte   {scores.bits_per_byte:.4f}")


def print_meter(model: PicoLM, tokenizer: PreTrainedTokenizerFast, chosen: Precision,
                 number: int) -> None:
    """Asks a model `number` questions about stories that it has never seen, and prints a table."""
    asked = questions(number, METER_SEED)
    readings = hallucination_meter(model, tokenizer, asked, chosen)
    print("\nhallucination meter: share of a story's facts that the model keeps\n"
          "  fact       kept  chance  ceiling  questions")
    for kind, reading in readings.items():
        print(f"  {kind:<9}{reading.kept:>6.0%}{reading.chance:>8.0%}{reading.ceiling:>9.0%}"
              f"{reading.questions:>11,}")
