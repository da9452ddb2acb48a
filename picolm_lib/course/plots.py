"""The look of the course's pictures, and the parts that several notebooks draw with.

A picture is drawn by a pure function, without pyplot and its hidden state, and is returned as a
`Picture`: a PNG that any notebook can show, small enough to be stored in the file. Its text says
what it shows, for people who cannot see it.

The colors are those of Masataka Okabe and Kei Ito, "Color Universal Design", 2008. People with any
kind of color vision can distinguish them.
"""

from __future__ import annotations

import io
from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import cache
from typing import Any

import matplotlib as mpl
import numpy as np
from matplotlib import font_manager
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from matplotlib.rcsetup import cycler
from matplotlib.ticker import NullLocator
from PIL import Image, ImageDraw, ImageFont

BLUE, ORANGE, GREEN, RED, PURPLE, SKY, YELLOW, INK = (
    "#0072B2", "#E69F00", "#009E73", "#D55E00", "#CC79A7", "#56B4E9", "#F0E442", "#222222")
CYCLE = (BLUE, ORANGE, GREEN, RED, PURPLE, SKY)
TINTS = ("#D6E8F5", "#FBE8C0", "#CDEBE1", "#F7D9C8", "#F3DEEA", "#E4E4E4")  # behind dark text
# Inches; dots per inch; colors of the finished PNG.
WIDTH, DPI, COLORS = 7.0, 144, 96
# Of token_boxes, in pixels.
TITLE_HEIGHT, LINE_HEIGHT = 44, 33
STYLE: dict[Any, Any] = {"font.size": 9.5, "axes.titlesize": 10.5, "axes.spines.top": False,
         "axes.spines.right": False, "axes.edgecolor": "#888888", "axes.labelcolor": INK,
         "xtick.color": "#555555", "ytick.color": "#555555", "legend.frameon": False,
         "axes.grid": True, "grid.color": "#E8E8E8", "axes.axisbelow": True,
         "lines.linewidth": 1.8, "axes.prop_cycle": cycler(color=CYCLE)}


@dataclass(frozen=True)
class Picture:
    """A finished picture."""

    png: bytes = field(repr=False)
    text: str
    """What the picture shows, in one sentence."""

    def __repr__(self) -> str:
        return f"[picture: {self.text}]"

    def _repr_mimebundle_(self, include: Any = None, exclude: Any = None) -> tuple[dict, dict]:
        return ({"image/png": self.png, "text/plain": repr(self)},
                {"image/png": {"width": int(100 * WIDTH), "alt": self.text}})


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
    with mpl.rc_context(STYLE):
        canvas = FigureCanvasAgg(figure)
        canvas.draw()
        pixels = np.asarray(canvas.buffer_rgba())
    return _png(Image.fromarray(pixels), text)


def stack(*pictures: Picture) -> Picture:
    """Pictures one below the other, as one."""
    images = [Image.open(io.BytesIO(picture.png)).convert("RGB") for picture in pictures]
    whole = Image.new("RGB", (max(i.width for i in images), sum(i.height for i in images)), "white")
    top = 0
    for image in images:
        whole.paste(image, (0, top))
        top += image.height
    stream = io.BytesIO()
    whole.quantize(COLORS, dither=Image.Dither.NONE).save(stream, "PNG", optimize=True)
    return Picture(stream.getvalue(), " ".join(picture.text for picture in pictures))


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
    axes.bar_label(drawn, [f" {value:.3f}" for value in shares.values()], fontsize=9)
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
    figure, axes = canvas(0.9 + 0.25 * len(points))
    for row, (middle, half) in enumerate(points.values()):
        color = "#777777" if abs(middle) <= half else RED if middle > 0 else BLUE
        axes.errorbar(middle, row, xerr=half, fmt="o", color=color, markersize=5, capsize=3,
                      markerfacecolor="white" if abs(middle) <= half else color, linewidth=1.4)
    far = [middle + side * half for middle, half in points.values() for side in (-1, 1)]
    steps = (0.01, 0.02, 0.05, 0.2, 1.0)
    ticks = [*(-step for step in steps[::-1]), 0.0, *steps]
    left = max([tick for tick in ticks if tick <= min(far)], default=min(far))
    right = min([tick for tick in ticks if tick >= max(far)], default=max(far))
    axes.axvline(0, color=INK, linewidth=1)
    axes.set_xscale("symlog", linthresh=linear)
    axes.set_xticks(ticks, [f"{tick:+g}" if tick else "0" for tick in ticks], minor=False)
    axes.xaxis.set_minor_locator(NullLocator())
    axes.tick_params(axis="x", labelsize=8)
    axes.set(xlabel=x, title=title, yticks=range(len(points)), yticklabels=list(points),
             ylim=(len(points) - 0.4, -0.6),
             xlim=(1.1 * min(left, -linear), 1.1 * max(right, linear)))
    return finish(figure, text)


def token_boxes(pieces: Sequence[str], title: str, text: str, colors: Sequence[str] | None = None,
                columns: int = 76, most_rows: int = 14) -> Picture:
    """A text in which every token has its own background color.

    It is drawn letter by letter on a grid, without axes, so that a slider can redraw it at once.

    Args:
        pieces: the text, cut into tokens. A line break is shown as a sign and breaks the line.
        colors: the background of each piece, light enough for dark letters; None cycles through
            the default ones.
        columns: characters per line.
        most_rows: lines to show; the rest is omitted, and the picture says so.
    """
    colors = colors or [TINTS[number % len(TINTS)] for number in range(len(pieces))]
    # Each cell is (row, column, sign, color, gap).
    cells, row, column = [], 0, 0
    for piece, color in zip(pieces, colors, strict=True):
        for place, sign in enumerate(piece, start=1):
            if column == columns:
                row, column = row + 1, 0
            # In pixels: a wider seam between tokens.
            gap = 3 if place == len(piece) else 1
            cells.append((row, column, "¶" if sign == "\n" else sign, color, gap))
            row, column = (row + 1, 0) if sign == "\n" else (row, column + 1)
    rows = min(max((r for r, *_ in cells), default=0) + 1, most_rows)
    cut = any(r >= rows for r, *_ in cells)
    image = Image.new("RGB", (int(WIDTH * DPI), TITLE_HEIGHT + LINE_HEIGHT * (rows + cut)), "white")
    brush, letters = ImageDraw.Draw(image), _font("DejaVu Sans Mono", 21)
    brush.text((image.width / 2, TITLE_HEIGHT / 2), title, INK, _font("DejaVu Sans", 21), "mm")
    for r, c, sign, color, gap in cells:
        if r < rows:
            left, top = c * image.width / columns, TITLE_HEIGHT + r * LINE_HEIGHT
            right, bottom = left + image.width / columns, top + LINE_HEIGHT
            brush.rectangle((round(left), top + 2, round(right) - gap, bottom - 2), color)
            brush.text(((left + right) / 2, bottom - 10), sign, INK, letters, "ms")
    if cut:
        brush.text((0, image.height - 10), "(and so on)", "#777777", letters, "ls")
    return _png(image, text)


@cache
def _font(name: str, size: int) -> ImageFont.FreeTypeFont:
    """One of the fonts that come with matplotlib; the size is in pixels."""
    return ImageFont.truetype(font_manager.findfont(name), size)


def _png(image: Image.Image, text: str) -> Picture:
    # A drawing has few colors, so a palette makes the file several times smaller. By coverage: then
    # the color of a single dot is kept, too.
    small = image.convert("RGB").quantize(COLORS, Image.Quantize.MAXCOVERAGE,
                                          dither=Image.Dither.NONE)
    stream = io.BytesIO()
    small.save(stream, "PNG", optimize=True)
    return Picture(stream.getvalue(), text)
