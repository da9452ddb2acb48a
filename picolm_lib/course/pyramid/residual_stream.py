"""The playground of notebook 03: the residual stream of a random model, and what affects it."""

from __future__ import annotations

import math
from dataclasses import dataclass
from functools import cache

import torch
import torch.nn.functional as F

from picolm_lib.config import PicoConfig
from picolm_lib.course.plots import BLUE, Picture, canvas, finish
from picolm_lib.course.pyramid import probes
from picolm_lib.course.widgets import Playground, slider, steps
from picolm_lib.model.picolm import PicoLM

NORMS = ("before and after", "before", "after", "none")
TOKENS, VOCABULARY = 32, 128
BOTTOM, TOP = 1e-2, 1e3  # of the axis


@dataclass(frozen=True)
class Stream:
    """The stream after the embedding and after every block."""

    scale: list[float]
    """Root mean square; infinity or NaN where float32 overflowed."""
    similarity: list[float]
    """Cosine similarity with the embedding, the mean over tokens."""


@cache
def measure(blocks: int, std: float, gain: float, norms: str) -> Stream:
    """The stream of a model with random weights.

    Args:
        blocks: number of blocks.
        std: standard deviation of all matrices.
        gain: of the post-norms, where there are any.
        norms: one of NORMS.
    """
    model = PicoLM(PicoConfig(vocab_size=VOCABULARY, max_seq_len=TOKENS, n_layers=blocks,
                              d_model=96, n_heads=4))
    probes.naive_init(model, std)
    probes.post_norm_gain(model, gain)
    if norms in ("before", "none"):
        probes.without_post_norms(model)
    if norms in ("after", "none"):
        probes.without_pre_norms(model)
    tokens = torch.randint(VOCABULARY, (2, TOKENS), generator=torch.Generator().manual_seed(0))
    states = probes.stream_states(model, tokens)
    similarity = [F.cosine_similarity(states[0], x, dim=-1).mean().item() for x in states]
    return Stream([probes.rms(x) for x in states], similarity)


def draw_stream(blocks: int = 12, std: float = 0.05, gain: float = 1.0,
                norms: str = NORMS[0]) -> Picture:
    """Scale of the stream and its similarity to the embedding, beside the initial settings."""
    figure, (left, right) = canvas(3.2, 1, 2)
    for settings, style in (((12, 0.05, 1.0, NORMS[0]), {"color": "#888888", "linestyle": "--",
                                                         "label": "initial settings"}),
                            ((blocks, std, gain, norms), {"color": BLUE, "marker": "o",
                                                          "markersize": 4, "label": "now"})):
        found = measure(*settings)
        left.plot(found.scale, **style)
        right.plot(found.similarity, **style)
    left.set(yscale="log", ylim=(BOTTOM, TOP), xlabel="blocks passed (0: the embedding)",
             ylabel="rms of the stream", title="Its scale")
    right.set(ylim=(-0.05, 1.05), xlabel="blocks passed (0: the embedding)",
              ylabel="cosine with the embedding", title="What is left of the token itself")
    for cell in (left, right):
        cell.set_xticks(range(0, max(blocks, 12) + 1, 2 if blocks <= 12 else 4))
    left.legend(loc="lower right")
    end = (f"the stream has the scale {found.scale[-1]:.3g}, and its cosine with the embedding is "
           f"{found.similarity[-1]:.2f}" if math.isfinite(found.scale[-1])
           else "the stream is too large for float32")
    return finish(figure, f"Norms: {norms}. After {blocks} blocks {end}.")


def stream_playground() -> Playground:
    """Sliders over the norms, the spread of the weights, the post-norms' gain and the depth."""
    return Playground(draw_stream,
                      norms=steps("norms", list(NORMS), NORMS[0]),
                      std=slider("std of the weights", 0.05, 0.01, 0.20, 0.01),
                      gain=slider("post-norm gain", 1.0, 0.0, 1.0, 0.05),
                      blocks=slider("blocks", 12, 1, 24))
