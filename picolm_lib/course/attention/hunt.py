"""The bug hunt of notebook 02: its tests, run on the healthy model and on the patient."""

from __future__ import annotations

import torch
from torch import Tensor

from picolm_lib.course.attention.pictures import draw_symptoms
from picolm_lib.course.attention.record import head_weights_by_distance, record_scores
from picolm_lib.course.attention.variants import patient as make_patient
from picolm_lib.course.attention.variants import without_qk_norm
from picolm_lib.course.plots import Picture
from picolm_lib.model.picolm import PicoLM
from picolm_lib.train.checkpoint import load_run

EQUAL_TOKENS = 40
SCALES = (1, 2, 4, 8)


@torch.no_grad()
def change_before(model: PicoLM, tokens: Tensor, mask: Tensor | None = None) -> float:
    """How far the logits of (T,) tokens, except the last, move when the last token changes.

    Args:
        mask: (T, T), True where a token may see another. None is causal.
    """
    other = tokens.clone()
    other[-1] = (other[-1] + 1) % model.config.vocab_size
    before, after = (model(t[None], mask=mask)[:, :-1] for t in (tokens, other))
    return (after - before).abs().max().item()


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
    """Three tests on a trained model and on the same model with one line of attention wrong.

    Plots A and C also show a control: the healthy model without its mask, and without QK-norm.
    """
    generator = torch.Generator().manual_seed(seed)
    healthy, _, config = load_run(run)
    patient, control = make_patient(load_run(run)[0]), load_run(run)[0]
    without_qk_norm(control)
    tokens = torch.randint(0, config.model.vocab_size, (EQUAL_TOKENS,), generator=generator)
    everything = torch.ones(EQUAL_TOKENS, EQUAL_TOKENS, dtype=torch.bool, device=tokens.device)
    later = (change_before(healthy, tokens), change_before(patient, tokens),
             change_before(healthy, tokens, everything))
    distance = [head_weights_by_distance(model.blocks[0].attn, config.model.rope_theta,
                                         EQUAL_TOKENS) for model in (healthy, patient)]
    # The head that depends most on distance.
    head = distance[0].std(-1).argmax()
    largest = [[largest_score(model, tokens, scale) for scale in SCALES]
               for model in (healthy, patient, control)]
    return draw_symptoms(later, (distance[0][head], distance[1][head]), largest, SCALES)
