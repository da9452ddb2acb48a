"""What a vocabulary costs: parameters, FLOPs and memory of embedding and output layer."""

from __future__ import annotations

from dataclasses import dataclass, replace
from functools import cache

from IPython.display import Markdown
from matplotlib.ticker import NullLocator

from picolm_lib.config import PRESETS
from picolm_lib.course.plots import BLUE, GREEN, INK, ORANGE, SKY, Picture, canvas, finish
from picolm_lib.course.tokens import measured
from picolm_lib.course.widgets import Playground, steps
from picolm_lib.data.tokenizer import MIN_VOCAB_SIZE
from picolm_lib.model.picolm import flops_per_token

SIZES = [MIN_VOCAB_SIZE, 512, 1_024, 2_048, 4_096, 8_192, 16_384, 32_768, 49_152, 65_536, 131_072]
# Of the BPEs that were trained on TinyStories. The sample has fewer merges than the last needs.
TRAINED = [MIN_VOCAB_SIZE, 512, 1_024, 2_048, 4_096, 8_192, 16_384]


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
    chosen, sizes = cost(vocab_size, d_model, tokens), range(0, SIZES[-1] + 1, 2_048)
    all_costs = [cost(size, d_model, tokens) for size in sizes]
    figure, axes = canvas(3.4, 1, 3)
    axes[0].plot(sizes, [c.tables / 1e6 for c in all_costs], color=ORANGE)
    axes[0].axhline(chosen.body / 1e6, color=BLUE)
    axes[0].text(SIZES[-1], chosen.body / 1e6, "12 blocks", color=BLUE, ha="right", va="bottom")
    axes[1].plot(sizes, [100 * c.output_share for c in all_costs], color=ORANGE)
    axes[2].plot(sizes, [c.logits / 1e9 for c in all_costs], color=GREEN)
    numbers = (f"{chosen.tables / 1e6:.3g} M", f"{chosen.output_share:.0%}",
               f"{chosen.logits / 1e9:.3g} GB")
    titles = (f"{numbers[0]} parameters\nin the two matrices", f"{numbers[1]} of the FLOPs\nin "
              "the output layer", f"{numbers[2]} of logits\nfor {tokens:,} tokens")
    heights = (chosen.tables / 1e6, 100 * chosen.output_share, chosen.logits / 1e9)
    for cell, title, height, label in zip(axes, titles, heights, (
            "millions of parameters", "percent of the FLOPs", "gigabytes"), strict=True):
        cell.plot([vocab_size], [height], "o", color=INK, markersize=7)
        cell.set(xlabel="vocabulary", ylabel=label, title=title, ylim=(0, None),
                 xlim=(0, 1.06 * SIZES[-1]), xticks=(0, 50_000, 100_000))
        cell.set_xticklabels(("0", "50k", "100k"))
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


@dataclass(frozen=True)
class PerByte:
    """Training FLOPs for one byte of text, counted, in millions."""

    vocab_size: int
    bytes_per_token: float
    blocks: float
    output: float

    @property
    def total(self) -> float:
        """Of the whole model."""
        return self.blocks + self.output


def per_byte(vocab_size: int, bytes_per_token: float) -> PerByte:
    """Training FLOPs of pico for one byte of text, with another vocabulary."""
    config = replace(PRESETS["pico"].model, vocab_size=vocab_size)
    output = 6 * vocab_size * config.d_model
    blocks = flops_per_token(config) - output
    return PerByte(vocab_size, bytes_per_token, blocks / bytes_per_token / 1e6,
                   output / bytes_per_token / 1e6)


def measured_per_byte() -> tuple[list[PerByte], PerByte]:
    """BPEs that were trained on TinyStories, by size, and SmolLM; bytes per token as measured."""
    stored = measured.read("per_byte")
    return [per_byte(*row) for row in stored["trained"]], per_byte(*stored["smollm"])


def per_byte_table() -> Markdown:
    """The same as a table."""
    trained, smollm = measured_per_byte()
    lines = ["| vocabulary | bytes per token | blocks | output layer | MFLOPs per byte |",
             "|---|---|---|---|---|"]
    lines += [f"| {name}{p.vocab_size:,} | {p.bytes_per_token:.2f} | {p.blocks:.1f} | "
              f"{p.output:.1f} | {p.total:.1f} |"
              for name, p in [*(("", p) for p in trained), ("SmolLM: ", smollm)]]
    return Markdown("\n".join(lines) + "\n")


def draw_flops_per_byte() -> Picture:
    """Training FLOPs per byte of text against the vocabulary, blocks and output layer apart."""
    trained, smollm = measured_per_byte()
    best = min(trained, key=lambda p: p.total)
    # What the picture is there to show: too small and too large both cost more.
    assert trained[0].total > best.total < trained[-1].total < smollm.total
    assert smollm.bytes_per_token < trained[-1].bytes_per_token
    sizes = [p.vocab_size for p in trained]
    figure, axes = canvas(3.6)
    axes.stackplot(sizes, [p.blocks for p in trained], [p.output for p in trained],
                   colors=(SKY, ORANGE), labels=("12 blocks", "output layer"))
    axes.plot(sizes, [p.total for p in trained], "o-", color=INK, markersize=4)
    axes.bar([smollm.vocab_size], [smollm.blocks], width=0.16 * smollm.vocab_size, color=SKY)
    axes.bar([smollm.vocab_size], [smollm.output], bottom=[smollm.blocks], color=ORANGE,
             width=0.16 * smollm.vocab_size)
    axes.annotate(f"SmolLM\n{smollm.total:.0f}", (smollm.vocab_size, smollm.total), (0, 4),
                  textcoords="offset points", ha="center", color=INK)
    axes.annotate(f"least: {best.total:.1f}\nat {best.vocab_size:,} tokens",
                  (best.vocab_size, best.total), (0, 42), textcoords="offset points", ha="center",
                  color=INK, arrowprops={"arrowstyle": "->", "color": INK})
    axes.annotate(f"  {trained[0].total:.0f}", (trained[0].vocab_size, trained[0].total),
                  color=INK)
    axes.set(xscale="log", xlabel="vocabulary (tokens, on a logarithmic axis)",
             ylabel="million FLOPs per byte", ylim=(0, 1.08 * trained[0].total),
             title="pico's training FLOPs for one byte of TinyStories (counted)")
    axes.set_xticks(ticks := [262, 1_024, 4_096, 16_384, 49_152], [f"{t:,}" for t in ticks])
    axes.xaxis.set_minor_locator(NullLocator())
    axes.legend(loc="upper center")
    return finish(figure, f"{trained[0].total:.0f} million FLOPs per byte with {sizes[0]} tokens, "
                          f"least with {best.vocab_size:,} ({best.total:.1f}), "
                          f"{trained[-1].total:.1f} with {sizes[-1]:,}, {smollm.total:.1f} with "
                          f"SmolLM's {smollm.vocab_size:,}. This is counted arithmetic, not time.")
