"""My PicoLM: a small language model in one file.

    python my_picolm.py "Once upon a time"

Functions that you wrote in the notebooks are marked as yours, the others as the course's. It needs
torch, tokenizers and safetensors, and the file my_picolm.safetensors beside it.

Letters: B texts, T new tokens, S tokens in all, D features of a token (d_model), H query heads,
K key and value heads, E features of a head, W width of an MLP, V tokens in the vocabulary.
"""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NoReturn

from safetensors import SafetensorError, safe_open
from tokenizers import Regex, pre_tokenizers

from picolm_lib.course.my_picolm.reference import END, decode, encode_word, generate

# The parts whose functions are all yours.
YOURS: list[str] = []

# ---- Given: from a text to words, and from the file to a story ----

# Ids below 6 stand for no text. After them come the 256 bytes, the printable ones first.
SPECIAL = 6
PRINTABLE = [*range(33, 127), *range(161, 173), *range(174, 256)]
BYTES = PRINTABLE + [byte for byte in range(256) if byte not in PRINTABLE]
# A digit is a word, and so are letters or other signs with one space before them, and spaces.
WORD = r"'(?:s|t|re|ve|m|ll|d)| ?\p{L}+| ?\p{N}+| ?[^\s\p{L}\p{N}]+|\s+(?!\S)|\s+"
SPLITTER = pre_tokenizers.Sequence([pre_tokenizers.Digits(individual_digits=True),
                                    pre_tokenizers.Split(Regex(WORD), "isolated")])


def words(text: str) -> list[str]:
    """The words of a text; no token crosses from one to the next."""
    return [word for word, _ in SPLITTER.pre_tokenize_str(text)]


def encode(text: str, merges: dict[tuple[int, int], int]) -> list[int]:
    """The ids of a text."""
    return [token for word in words(text)
            for token in encode_word([SPECIAL + BYTES.index(byte) for byte in word.encode()],
                                     merges)]


class Stored:
    """What the file beside this one holds: weights by name, shape, merges, each token's bytes."""

    def __init__(self, path: Path) -> None:
        with safe_open(path, framework="pt") as file:
            self.weights = {name: file.get_tensor(name).float() for name in list(file.keys())}
            about = file.metadata()
        self.config: dict[str, Any] = json.loads(about["config"])
        bpe = json.loads(about["tokenizer"])["model"]
        ids = bpe["vocab"]
        self.merges = {(ids[one], ids[two]): ids[one + two] for one, two in bpe["merges"]}
        self.vocabulary = [b""] * SPECIAL + [bytes([byte]) for byte in BYTES]
        for one, two in self.merges:
            self.vocabulary.append(self.vocabulary[one] + self.vocabulary[two])


def read_stored() -> Stored:
    """What is beside this file. Where it cannot be read, the program ends."""
    path = Path(__file__).with_name("my_picolm.safetensors")
    if not path.is_file():
        sys.exit(f"error: there is no {path.name} beside this file; a notebook of the course "
                 "writes it.")
    try:
        return Stored(path)
    except (OSError, SafetensorError, KeyError, TypeError, ValueError) as error:
        sys.exit(f"error: {path.name} cannot be read ({error}); delete it, and let a notebook of "
                 "the course write it again.")


def story(prompt: str, stored: Stored, **settings: Any) -> Iterator[str]:
    """A text that begins with the prompt, piece by piece. `settings` are those of `generate`."""
    # In the training data an end of text comes before every story.
    ids = [END, *encode(prompt, stored.merges)]
    if len(ids) >= stored.config["max_seq_len"]:
        sys.exit(f"error: the prompt has {len(ids)} tokens, and this model reads at most "
                 f"{stored.config['max_seq_len'] - 1}; shorten it.")
    shown = decode(ids, stored.vocabulary)
    yield prompt
    for token in generate(ids, stored.weights, stored.config, **settings):
        ids.append(token)
        text = decode(ids, stored.vocabulary)
        # A character can be spread over several tokens: it is shown when it is whole.
        if not text.endswith("\ufffd"):
            yield text[len(shown):]
            shown = text
    yield decode(ids, stored.vocabulary)[len(shown):]


def whose() -> str:
    """How many parts are yours, and which."""
    names = f": {', '.join(YOURS)}." if YOURS else "."
    return f"{len(YOURS)} of 9 parts {'is' if len(YOURS) == 1 else 'are'} yours{names}"


class Parser(argparse.ArgumentParser):
    """Says in one line what is wrong."""

    def error(self, message: str) -> NoReturn:
        """Ends the program."""
        sys.exit(f"error: {message}")


def read_options() -> argparse.Namespace:
    """What stands on the command line."""
    parser = Parser(description="Tells a story.")
    parser.add_argument("prompt", nargs="?", default="Once upon a time", help="how it begins")
    parser.add_argument("--temperature", type=float, default=0.8, help="0: the likeliest token")
    parser.add_argument("--top-p", type=float, default=1.0, help="keep tokens that reach this")
    parser.add_argument("--tokens", type=int, default=400, help="write at most so many")
    parser.add_argument("--seed", type=int, default=0, help="another seed, another story")
    options = parser.parse_args()
    if options.temperature != 0 and not 0.001 <= options.temperature <= 1000:
        parser.error("--temperature must be 0 or between 0.001 and 1000")
    if not 0 < options.top_p <= 1:
        parser.error("--top-p must be above 0 and at most 1")
    if options.tokens < 1:
        parser.error("--tokens must be above 0")
    if not 0 <= options.seed < 2**63:
        parser.error("--seed must be between 0 and 2**63 - 1")
    # What is no text, such as half of a character, becomes a question mark.
    options.prompt = options.prompt.encode("utf-8", "replace").decode()
    return options


def main() -> None:
    """Tells a story, and says how many of its parts are yours."""
    settings = vars(read_options())
    for piece in story(settings.pop("prompt"), read_stored(), **settings):
        print(piece, end="", flush=True)
    print("\n\n" + whose())


if __name__ == "__main__":
    try:
        main()
    except KeyboardInterrupt:
        print()
