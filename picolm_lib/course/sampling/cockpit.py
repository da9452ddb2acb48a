"""The sampling cockpit: sliders over the next token's chances and over the text that follows."""

from __future__ import annotations

from dataclasses import replace

import torch
from transformers import PreTrainedTokenizerFast

from picolm_lib.course.plots import Picture
from picolm_lib.course.sampling.chances import Choice, chances_of, choose, next_logits
from picolm_lib.course.sampling.pictures import draw_choice, draw_story
from picolm_lib.course.widgets import Playground, slider, steps
from picolm_lib.model import PicoLM
from picolm_lib.sampling import SampleConfig, generate, prompt_ids

TEXT_TOKENS = 56
ROWS = 7


class Cockpit:
    """A model at the end of a prompt, ready to go on with any settings.

    The prompt is read once, so a change of the settings costs only the filters and the drawing.
    """

    def __init__(self, model: PicoLM, tokenizer: PreTrainedTokenizerFast, prompt: str) -> None:
        self.model, self.tokenizer = model, tokenizer
        self.ids = prompt_ids(model.config, tokenizer, prompt)
        self.logits = next_logits(model, self.ids)                   # (1, V)

    def choice(self, seed: int = 0, **settings: float) -> Choice:
        """The next token under these fields of `SampleConfig`."""
        return choose(self.logits, torch.tensor([self.ids]), SampleConfig(**settings), seed)

    def write(self, seed: int = 0, **settings: float) -> list[int]:
        """Token ids of the text that follows; an end of text may be the last."""
        config = SampleConfig(max_new_tokens=TEXT_TOKENS, **settings)
        tokens = generate(self.model, torch.tensor([self.ids]), config,
                          self.tokenizer.eos_token_id, seed)
        return [token.item() for token in tokens]

    def draw_bars(self, seed: int = 0, **settings: float) -> Picture:
        """The chances before and after the filters."""
        return draw_choice(self.choice(seed, **settings), self.tokenizer.decode)

    def draw_text(self, seed: int = 0, **settings: float) -> Picture:
        """The text of the seed; each token's color is the model's own probability."""
        new = self.write(seed, **settings)
        chances = [None] * (len(self.ids) - 1) + chances_of(self.model, self.ids + new)[-len(new):]
        return draw_story(pieces(self.tokenizer, self.ids[1:] + new), chances,
                          f"The same prompt, continued with seed {seed}", rows=ROWS)


def pieces(tokenizer: PreTrainedTokenizerFast, ids: list[int]) -> list[str]:
    """Every token as text; the end of text as a word."""
    return [" <end>" if i == tokenizer.eos_token_id else tokenizer.decode([i]) for i in ids]


def colored_story(model: PicoLM, tokenizer: PreTrainedTokenizerFast, prompt: str,
                  config: SampleConfig, seed: int = 0, most: int = 170) -> Picture:
    """A story told with some settings, in the colors of the model's own probabilities."""
    ids = prompt_ids(model.config, tokenizer, prompt)
    config = replace(config, max_new_tokens=min(most, config.max_new_tokens))
    told = generate(model, torch.tensor([ids]), config, tokenizer.eos_token_id, seed)
    new = [token.item() for token in told]
    chances = [None] * (len(ids) - 1) + chances_of(model, ids + new)[-len(new):]
    settings = "greedy" if config.temperature == 0 else f"T = {config.temperature:g}, seed {seed}"
    return draw_story(pieces(tokenizer, ids[1:] + new), chances,
                      f"How likely was each token? ({settings})")


def sampling_cockpit(model: PicoLM, tokenizer: PreTrainedTokenizerFast, prompt: str) -> Playground:
    """Six sliders: the bars answer at once, the text a moment later."""
    cockpit = Cockpit(model, tokenizer, prompt)
    return Playground(
        cockpit.draw_bars, later=cockpit.draw_text,
        temperature=slider("temperature", 1.0, 0.0, 3.0, 0.1),
        top_k=steps("top-k (0 is off)", [0, 1, 2, 3, 5, 10, 20, 50, 100], 0),
        top_p=slider("top-p (1 is off)", 1.0, 0.05, 1.0, 0.05),
        min_p=slider("min-p (0 is off)", 0.05, 0.0, 1.0, 0.05),
        repetition_penalty=slider("repetition penalty", 1.0, 1.0, 2.0, 0.05),
        seed=slider("seed", 0, 0, 50))
