"""What a vocabulary costs: parameters, FLOPs and memory of embedding and output layer."""

from __future__ import annotations

from dataclasses import dataclass, replace
from functools import cache

from picolm_lib.config import PRESETS
from picolm_lib.course.plots import BLUE, GREEN, INK, ORANGE, Picture, canvas, finish
from picolm_lib.course.widgets import Playground, steps
from picolm_lib.data.tokenizer import MIN_VOCAB_SIZE
from picolm_lib.model.picolm import flops_per_token

SIZES = [MIN_VOCAB_SIZE, 512, 1_024, 2_048, 4_096, 8_192, 16_384, 32_768, 49_152, 65_536, 131_072]


@dataclass(frozen=True)
class Cost:
    """What a model with this vocabulary costs."""

    body: int
    """Parameters of the matrices in the blocks."""
    tables: int
    """Parameters of embedding and output layer."""
    output_share: float
    """The output layer's share of the FLOPs of a trained token."""
    logits: int
    """Bytes of the float32 logits of one batch."""


@cache
def _body_flops(d_model: int, seq_len: int) -> tuple[int, int]:
    """FLOPs per token of pico's blocks at another width, and parameters of their matrices."""
    config = replace(PRESETS["pico"].model, d_model=d_model, vocab_size=1, max_seq_len=seq_len)
    # Without the output layer.
    flops = flops_per_token(config) - 6 * d_model
    return flops, (flops - 6 * config.n_layers * d_model * seq_len) // 6


def cost(vocab_size: int, d_model: int = 384, tokens: int = 12_288) -> Cost:
    """The cost of a vocabulary for pico's 12 blocks.

    Args:
        d_model: width of the model.
        tokens: of a batch whose logits are all in memory at once.
    """
    flops, parameters = _body_flops(d_model, PRESETS["pico"].model.max_seq_len)
    output = 6 * vocab_size * d_model
    return Cost(parameters, 2 * vocab_size * d_model, output / (output + flops),
                4 * vocab_size * tokens)


def draw_cost(vocab_size: int = 49_152, d_model: int = 384, tokens: int = 12_288) -> Picture:
    """Parameters, FLOPs and memory by the size of the vocabulary."""
    chosen, all_costs = cost(vocab_size, d_model, tokens), [cost(v, d_model, tokens) for v in SIZES]
    figure, axes = canvas(3.1, 1, 3)
    axes[0].plot(SIZES, [c.tables / 1e6 for c in all_costs], color=ORANGE,
                 label="embedding and\noutput layer")
    axes[0].axhline(chosen.body / 1e6, color=BLUE, label="the 12 blocks")
    axes[0].legend(fontsize=8)
    axes[1].plot(SIZES, [100 * c.output_share for c in all_costs], color=ORANGE)
    axes[2].plot(SIZES, [c.logits / 1e9 for c in all_costs], color=GREEN)
    numbers = (f"{chosen.tables / 1e6:.3g} M", f"{chosen.output_share:.0%}",
               f"{chosen.logits / 1e9:.3g} GB")
    heights = (chosen.tables / 1e6, 100 * chosen.output_share, chosen.logits / 1e9)
    for cell, number, height, label in zip(
            axes, numbers, heights, ("parameters (millions)", "FLOPs in the output layer (%)",
                                     "float32 logits (GB)"), strict=True):
        cell.plot([vocab_size], [height], "o", color=INK, markersize=7)
        cell.set(xscale="log", xlabel="vocabulary (tokens)", ylabel=label, title=number,
                 ylim=(0, None))
    return finish(figure, f"With {vocab_size:,} tokens and width {d_model}, embedding and output "
                          f"layer have {numbers[0]} parameters, {numbers[1]} of the FLOPs are in "
                          f"the output layer, and the logits of {tokens:,} tokens take "
                          f"{numbers[2]}.")


def vocabulary_cost() -> Playground:
    """Sliders over the vocabulary, the model's width and the tokens of a batch."""
    return Playground(draw_cost,
                      vocab_size=steps("vocabulary (tokens)", SIZES, 49_152),
                      d_model=steps("width of the model", [128, 256, 384, 768, 1_280], 384),
                      tokens=steps("tokens at once", [1_536, 3_072, 6_144, 12_288, 24_576], 12_288))
