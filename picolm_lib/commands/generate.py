"""`picolm generate`: writes stories with a trained model."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from dataclasses import dataclass, field

import tyro

from picolm_lib.commands.parse import parse
from picolm_lib.commands.printing import print_story
from picolm_lib.config import Dtype, PicoError, SampleConfig, TrainConfig
from picolm_lib.device import choose_precision
from picolm_lib.sampling import stream_text
from picolm_lib.train.checkpoint import load_run


@dataclass(frozen=True)
class GenerateOptions:
    """Options of the generation."""

    prompt: tyro.conf.Positional[str] = ""
    """How the story begins. Without it, the command asks for prompts."""
    run: str = "bundled"
    """Folder of a trained model, or 'bundled': the nano model that comes with the package."""
    tokenizer: str = ""
    """Tokenizer, if not the run's own: a folder or an id on the Hugging Face Hub."""
    num_samples: int = 1
    """Stories per prompt."""
    seed: int = 0
    """Seed of the first story; the others take the seeds after it."""
    device: str = "auto"
    """'auto', 'cpu', 'cuda', 'cuda:1', 'mps'."""
    dtype: Dtype = "auto"
    """Type of the weights: float32 on a CPU, 16 bits on a GPU, unless you choose."""
    sample: SampleConfig = field(default_factory=SampleConfig)


def generate_command(argv: list[str], prog: str = "picolm generate") -> None:
    """`picolm generate`: writes stories with a trained model."""
    options = parse(GenerateOptions, argv, GenerateOptions(), prog,
                    "Writes stories. Without a prompt it asks for one, again and again.")
    if options.num_samples < 1:
        raise PicoError(f"num_samples must be at least 1, not {options.num_samples}.")
    chosen = choose_precision(options.device, options.dtype)
    model, tokenizer, _ = load_run(options.run, chosen.device, options.tokenizer)
    if options.dtype != "auto" or chosen.device.type != "cpu":
        model.to(chosen.dtype)

    def generate_all(prompt: str) -> None:
        for seed in range(options.seed, options.seed + options.num_samples):
            print_story(stream_text(model, tokenizer, prompt, options.sample, seed))

    if options.prompt:
        generate_all(options.prompt)
        return
    for prompt in _ask():
        try:
            generate_all(prompt)
        except PicoError as error:  # too long: the next one may fit
            print(f"error: {error}", file=sys.stderr)


def _ask() -> Iterator[str]:
    """Prompts that the user types, until the end of the input."""
    default = TrainConfig.prompt
    interactive = sys.stdin.isatty()
    if interactive:
        print(f"Begin a story (Enter: {default!r}; Ctrl-D ends):")
    asked = False
    while True:
        try:
            line = input("> " if interactive else "").strip()
        except EOFError:
            break
        asked = True
        yield line or default
    if not asked and not interactive:
        yield default
