"""The tests of the bug hunt, made on the healthy model and on the patient."""

from __future__ import annotations

import torch
from torch import Tensor

from picolm_lib.checkpoint import load_run
from picolm_lib.course.attention.pictures import draw_symptoms
from picolm_lib.course.attention.record import head_weights_by_distance, record_scores
from picolm_lib.course.attention.variants import sick
from picolm_lib.course.plots import Picture
from picolm_lib.model import PicoLM

EQUAL_TOKENS = 40
SCALES = (1, 2, 4, 8)


@torch.no_grad()
def change_before(model: PicoLM, tokens: Tensor) -> float:
    """How far the logits of (T,) tokens move, but for the last, when the last token is another."""
    other = tokens.clone()
    other[-1] = (other[-1] + 1) % model.config.vocab_size
    return (model(other[None]) - model(tokens[None]))[:, :-1].abs().max().item()


@torch.no_grad()
def largest_score(model: PicoLM, tokens: Tensor, scale: float) -> float:
    """The largest |score| of the first block with its q, k and v weights multiplied by `scale`."""
    layer = model.blocks[0].attn
    kept = layer.qkv.weight.clone(), layer.qkv.bias.clone()
    layer.qkv.weight.mul_(scale)
    layer.qkv.bias.mul_(scale)
    score = record_scores(model, tokens)[0].abs().max().item()
    layer.qkv.weight.copy_(kept[0])
    layer.qkv.bias.copy_(kept[1])
    return score


def examine(run: str = "bundled", seed: int = 0) -> Picture:
    """Three tests on a trained model and on the same model with one line of attention wrong."""
    generator = torch.Generator().manual_seed(seed)
    healthy, _, config = load_run(run)
    patient = sick(load_run(run)[0])
    tokens = torch.randint(0, config.model.vocab_size, (EQUAL_TOKENS,), generator=generator)
    theta = config.model.rope_theta
    later, distance, largest = [], [], []
    for model in (healthy, patient):
        later.append(change_before(model, tokens))
        weights = head_weights_by_distance(model.blocks[0].attn, theta, EQUAL_TOKENS)
        distance.append(weights[0])                                  # of head 0
        largest.append([largest_score(model, tokens, scale) for scale in SCALES])
    return draw_symptoms(tuple(later), tuple(distance), tuple(largest), SCALES)
