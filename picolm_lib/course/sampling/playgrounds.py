"""The sampling playground: sliders over the next token's probabilities and what follows it."""

from __future__ import annotations

from dataclasses import replace
from functools import partial
from typing import Any

import torch
from transformers import PreTrainedTokenizerFast

from picolm_lib.course.boxes import Boxes
from picolm_lib.course.plots import Picture
from picolm_lib.course.sampling.pictures import draw_choice, draw_story
from picolm_lib.course.sampling.probabilities import (
    Choice,
    choose,
    next_logits,
    token_probabilities,
)
from picolm_lib.course.widgets import Playground, slider, steps
from picolm_lib.data.tokenizer import decode
from picolm_lib.model.picolm import PicoLM
from picolm_lib.sampling import SampleConfig, generate, prompt_ids

TEXT_TOKENS = 56
LINES = 7


class Sampler:
    """A model at the end of a prompt, ready to continue it with any settings.

    The prompt is read once, so changing a setting costs only the filters and the drawing.
    """

    def __init__(self, model: PicoLM, tokenizer: PreTrainedTokenizerFast, prompt: str) -> None:
        self.model, self.tokenizer = model, tokenizer
        self.ids = prompt_ids(model.config, tokenizer, prompt)
        self.logits = next_logits(model, self.ids)                   # (1, V)

    def choice(self, seed: int = 0, **settings: Any) -> Choice:
        """The next token under these fields of `SampleConfig`."""
        seen = torch.tensor([self.ids], device=self.logits.device)
        return choose(self.logits, seen, SampleConfig(**settings), seed)

    def write(self, seed: int = 0, **settings: Any) -> list[int]:
        """Token ids of the text that follows; the last one may be the end of text."""
        config = SampleConfig(max_new_tokens=TEXT_TOKENS, **settings)
        prompt = torch.tensor([self.ids], device="cpu")
        tokens = generate(self.model, prompt, config, self.tokenizer.eos_token_id, seed)
        return [int(token) for token in tokens]

    def draw_bars(self, seed: int = 0, **settings: Any) -> Picture:
        """The probabilities before and after the filters."""
        return draw_choice(self.choice(seed, **settings),
                           partial(decode, self.tokenizer, skip_special_tokens=False))

    def draw_text(self, seed: int = 0, **settings: Any) -> Boxes:
        """The text of the seed; each token's color is the model's own probability."""
        return draw_continuation(self.model, self.tokenizer, self.ids, self.write(seed, **settings),
                                 f"The same prompt, continued with seed {seed}", lines=LINES)


def draw_continuation(model: PicoLM, tokenizer: PreTrainedTokenizerFast, prompt: list[int],
                      new: list[int], title: str, lines: int = 0) -> Boxes:
    """A prompt and its new tokens, each new one in the color of the model's own probability."""
    known = token_probabilities(model, prompt + new)[-len(new):]
    pieces = [" <end>" if i == tokenizer.eos_token_id else decode(tokenizer, [i], False)
              for i in prompt[1:] + new]
    return draw_story(pieces, [*[None] * (len(prompt) - 1), *known], title, lines)


def colored_story(model: PicoLM, tokenizer: PreTrainedTokenizerFast, prompt: str,
                  config: SampleConfig, seed: int = 0, most: int = 170) -> Boxes:
    """A story written with some settings, in the colors of the model's own probabilities."""
    ids = prompt_ids(model.config, tokenizer, prompt)
    config = replace(config, max_new_tokens=min(most, config.max_new_tokens))
    start = torch.tensor([ids], device="cpu")
    tokens = generate(model, start, config, tokenizer.eos_token_id, seed)
    new = [int(token) for token in tokens]
    settings = "greedy" if config.temperature == 0 else f"T = {config.temperature:g}, seed {seed}"
    return draw_continuation(model, tokenizer, ids, new, f"How likely was each token? ({settings})")


def sampling_playground(model: PicoLM, tokenizer: PreTrainedTokenizerFast, prompt: str,
                        ) -> Playground:
    """Six sliders: the bars answer at once, the text a moment later."""
    sampler = Sampler(model, tokenizer, prompt)
    return Playground(
        sampler.draw_bars, later=sampler.draw_text,
        temperature=slider("temperature", 1.0, 0.0, 3.0, 0.1),
        top_k=steps("top-k (0 is off)", [0, 1, 2, 3, 5, 10, 20, 50, 100], 0),
        top_p=slider("top-p (1 is off)", 1.0, 0.05, 1.0, 0.05),
        min_p=slider("min-p (0 is off)", 0.05, 0.0, 1.0, 0.05),
        repetition_penalty=slider("repetition penalty", 1.0, 1.0, 2.0, 0.05),
        seed=slider("seed", 0, 0, 50))
