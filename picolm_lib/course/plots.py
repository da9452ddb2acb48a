"""The look of the course's pictures, and the parts that several notebooks draw with.

A picture is drawn by a pure function, without pyplot and its hidden state, and is returned as a
`Picture`: HTML around a PNG that is small enough to be stored in the notebook. Its text says what
it shows, for people who cannot see it.

The colors are those of Masataka Okabe and Kei Ito, "Color Universal Design", 2008. People with any
kind of color vision can distinguish them.
"""

from __future__ import annotations

import base64
import io
import re
from collections.abc import Sequence
from dataclasses import dataclass, field
from html import escape
from typing import Any

import matplotlib as mpl
import numpy as np
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from matplotlib.legend import Legend
from matplotlib.rcsetup import cycler
from matplotlib.text import Text
from matplotlib.ticker import LogFormatterMathtext, LogFormatterSciNotation, NullLocator
from PIL import Image

BLUE, ORANGE, GREEN, RED, PURPLE, SKY, YELLOW, INK = (
    "#0072B2", "#E69F00", "#009E73", "#D55E00", "#CC79A7", "#56B4E9", "#F0E442", "#222222")
CYCLE = (BLUE, ORANGE, GREEN, RED, PURPLE, SKY)
TINTS = ("#D6E8F5", "#FBE8C0", "#CDEBE1", "#F7D9C8", "#F3DEEA", "#E4E4E4")  # behind dark text
# Behind everything: readable on a light and on a dark page.
CARD = "#F8F8F5"
# Inches; pixels on the page; dots per inch of the PNG; its colors.
WIDTH, PAGE_WIDTH, DPI, COLORS = 7.0, 700, 144, 96
# In points, of all text: on a phone, where a picture is 360 pixels wide, 8 pixels.
SMALLEST = 11.3
STYLE: dict[Any, Any] = {
    "font.size": SMALLEST, "axes.titlesize": 12, "axes.labelcolor": INK,
    "xtick.color": "#555555", "ytick.color": "#555555", "axes.formatter.min_exponent": 4,
    "figure.facecolor": CARD, "axes.facecolor": CARD, "axes.edgecolor": "#888888",
    "axes.spines.top": False, "axes.spines.right": False,
    "axes.grid": True, "grid.color": "#E2E2DF", "axes.axisbelow": True,
    "lines.linewidth": 1.8, "axes.prop_cycle": cycler(color=CYCLE)}


@dataclass(frozen=True, repr=False)
class Drawing:
    """What a cell or a playground shows."""

    html: str
    text: str
    """What it shows, in one sentence."""

    def __repr__(self) -> str:
        return f"[picture: {self.text}]"

    def _repr_mimebundle_(self, include: Any = None, exclude: Any = None) -> dict[str, str]:
        return {"text/html": self.html, "text/plain": repr(self)}


@dataclass(frozen=True, repr=False)
class Picture(Drawing):
    """A finished picture. JupyterLab and GitHub have no alt text for images, except in HTML."""

    png: bytes = field(repr=False)


def canvas(height: float = 3.2, rows: int = 1, columns: int = 1, **options: Any,
           ) -> tuple[Figure, Any]:
    """An empty figure in the course's style, and its axes.

    Args:
        height: in inches; the width is always that of a notebook's column, 7 inches.
        options: for `Figure.subplots`, such as sharey=True or width_ratios=(2, 1).

    Returns:
        The figure, and one Axes or an array of them, as `Figure.subplots` does.
    """
    with mpl.rc_context(STYLE):
        figure = Figure(figsize=(WIDTH, height), dpi=DPI, layout="constrained")
        return figure, figure.subplots(rows, columns, **options)


def finish(figure: Figure, text: str) -> Picture:
    """Draws the figure into a PNG.

    Args:
        text: one sentence that says what it shows.
    """
    for words in figure.findobj(Text):
        words.set_fontsize(max(SMALLEST, words.get_fontsize()))
    for legend in figure.findobj(Legend):
        legend.get_frame().set(facecolor=CARD, edgecolor="none")
    for axes in figure.axes:
        for axis in (axes.xaxis, axes.yaxis):
            if isinstance(axis.get_major_formatter(), LogFormatterSciNotation):
                axis.set_major_formatter(_PowerOfTen())
    with mpl.rc_context(STYLE):
        canvas = FigureCanvasAgg(figure)
        canvas.draw()
        pixels = np.asarray(canvas.buffer_rgba())
    # A drawing has few colors, so a palette makes the file several times smaller. By coverage: then
    # the color of a single dot is kept, too.
    small = Image.fromarray(pixels).convert("RGB").quantize(COLORS, Image.Quantize.MAXCOVERAGE,
                                                            dither=Image.Dither.NONE)
    # The card keeps its exact color.
    palette, place = small.getpalette() or [], 3 * int(np.asarray(small)[0, 0])
    palette[place:place + 3] = bytes.fromhex(CARD[1:])
    small.putpalette(palette)
    stream = io.BytesIO()
    small.save(stream, "PNG", optimize=True)
    # Width and height keep the place of the picture free, so that nothing jumps when it changes.
    html = (f'<img alt="{escape(text)}" src="data:image/png;base64,'
            f'{base64.b64encode(stream.getvalue()).decode()}" width="{PAGE_WIDTH}" '
            f'height="{PAGE_WIDTH * small.height // small.width}" '
            'style="display:block;max-width:100%;height:auto;margin:0 0 4px;border-radius:8px">')
    return Picture(html, text, stream.getvalue())


class _PowerOfTen(LogFormatterMathtext):
    """1e-5 for ten to the power of minus five: an exponent above the line would be too small."""

    def __call__(self, x: float, pos: int | None = None) -> str:
        return re.sub(r"\$\\mathdefault{(?:10\^{(-?\d+)}|(.*?))}\$",
                      lambda found: f"1e{found[1]}" if found[1] else found[2],
                      super().__call__(x, pos))


def stack(*drawings: Drawing) -> Drawing:
    """Drawings one below the other, as one."""
    return Drawing("".join(drawing.html for drawing in drawings),
                   " ".join(drawing.text for drawing in drawings))


def plain(axes: Axes) -> Axes:
    """Axes without frame, ticks and grid, for drawings that are not plots."""
    axes.set_axis_off()
    axes.grid(False)
    return axes


def lines(curves: dict[str, tuple[Sequence[float], Sequence[float]]], x: str, y: str, title: str,
          text: str, height: float = 3.2, log_x: bool = False, log_y: bool = False) -> Picture:
    """Labeled curves in one plot.

    Args:
        curves: name -> (x values, y values).
        x, y: labels of the axes, with their units.
        text: see `finish`.
    """
    figure, axes = canvas(height)
    for name, (xs, ys) in curves.items():
        axes.plot(xs, ys, marker="o" if len(xs) < 15 else None, markersize=4, label=name)
    axes.set(xlabel=x, ylabel=y, title=title, xscale="log" if log_x else "linear",
             yscale="log" if log_y else "linear")
    axes.legend()
    return finish(figure, text)


def bars(shares: dict[str, float], unit: str, title: str) -> Picture:
    """A few numbers as bars, each with its value."""
    figure, axes = canvas(0.9 + 0.36 * len(shares))
    drawn = axes.barh(list(shares), list(shares.values()), height=0.6, color=BLUE)
    axes.bar_label(drawn, [f" {value:.3f}" for value in shares.values()])
    axes.set(xlabel=unit, title=title, xlim=(0, 1.15 * max(shares.values())))
    axes.invert_yaxis()
    axes.grid(False)
    return finish(figure, "; ".join(f"{name}: {value:.3f} {unit}"
                                    for name, value in shares.items()) + ".")


def intervals(points: dict[str, tuple[float, float]], x: str, title: str, text: str,
              linear: float = 0.02) -> Picture:
    """Differences as points with intervals, one row each; those that exclude zero are filled.

    Args:
        points: name -> (difference, half the width of its interval).
        x: label of the axis, with its unit.
        linear: the axis is linear up to this value on both sides, and logarithmic beyond it, so
            that small differences can be seen beside large ones.
    """
    figure, axes = canvas(1.0 + 0.26 * len(points))
    for row, (middle, half) in enumerate(points.values()):
        color = "#777777" if abs(middle) <= half else RED if middle > 0 else BLUE
        axes.errorbar(middle, row, xerr=half, fmt="o", color=color, markersize=5, capsize=3,
                      markerfacecolor="white" if abs(middle) <= half else color, linewidth=1.4)
    far = [middle + side * half for middle, half in points.values() for side in (-1, 1)]
    # As many as there is room for.
    steps = (0.02, 0.1, 1.0) if max(map(abs, far)) > 0.1 else (0.01, 0.02, 0.06)
    ticks = [*(-step for step in steps[::-1]), 0.0, *steps]
    axes.axvline(0, color=INK, linewidth=1)
    axes.set_xscale("symlog", linthresh=linear)
    axes.set_xticks(ticks, [f"{tick:+g}" if tick else "0" for tick in ticks], minor=False)
    axes.xaxis.set_minor_locator(NullLocator())
    # Across the whole picture: the axes are narrow beside long names.
    figure.supxlabel(x)
    figure.suptitle(title)
    axes.set(yticks=range(len(points)), yticklabels=list(points),
             ylim=(len(points) - 0.4, -0.6),
             xlim=(1.1 * min(*far, -linear), 1.1 * max(*far, linear)))
    return finish(figure, text)
