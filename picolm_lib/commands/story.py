"""`python inference.py`: tells stories."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from dataclasses import dataclass, field

import tyro

from picolm_lib.checkpoint import load_run
from picolm_lib.cli import parse
from picolm_lib.commands.export import export_command
from picolm_lib.commands.printing import print_story
from picolm_lib.config import Dtype, PicoError
from picolm_lib.doctor import numerics
from picolm_lib.sampling import SampleConfig, tell


@dataclass(frozen=True)
class StoryOptions:
    """Options of inference.py."""

    prompt: tyro.conf.Positional[str] = ""
    """What the story begins with. Without it, inference.py asks for prompts."""
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


def story_command(argv: list[str]) -> None:
    """`python inference.py`: tells stories; `python inference.py export` exports the model."""
    if argv[:1] == ["export"]:
        return export_command(argv[1:])
    options = parse(StoryOptions, argv, StoryOptions(), "inference.py",
                    "Tells stories. Without a prompt it asks for one, again and again. "
                    "'inference.py export --help': a model for the transformers library.")
    if options.num_samples < 1:
        raise PicoError(f"num_samples must be at least 1, not {options.num_samples}.")
    chosen = numerics(options.device, options.dtype)
    model, tokenizer, _ = load_run(options.run, chosen.device, options.tokenizer)
    if options.dtype != "auto" or chosen.device.type != "cpu":
        model.to(chosen.dtype)

    def tell_all(prompt: str) -> None:
        for seed in range(options.seed, options.seed + options.num_samples):
            print_story(tell(model, tokenizer, prompt, options.sample, seed))

    if options.prompt:
        tell_all(options.prompt)
        return
    for prompt in _ask():
        try:
            tell_all(prompt)
        except PicoError as error:  # too long: the next one may fit
            print(f"error: {error}", file=sys.stderr)


def _ask() -> Iterator[str]:
    """Prompts that the user types, until the end of the input."""
    default = "Once upon a time"
    watched = sys.stdin.isatty()
    if watched:
        print(f"Begin a story (Enter: {default!r}; Ctrl-D ends):")
    asked = False
    while True:
        try:
            line = input("> " if watched else "").strip()
        except EOFError:
            break
        asked = True
        yield line or default
    if not asked and not watched:
        yield default
