"""The look of the course's pictures, and the parts that several notebooks draw with.

A picture is drawn by a pure function, without pyplot and its hidden state, and comes back as a
`Picture`: a PNG that every notebook shows, small enough to be kept in the file. Its text says what
it shows, for those who cannot see it.

The colors are those of Masataka Okabe and Kei Ito, "Color Universal Design", 2008, which people
with any kind of color vision tell apart.
"""

from __future__ import annotations

import io
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import matplotlib as mpl
import numpy as np
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from PIL import Image

BLUE, ORANGE, GREEN, RED, PURPLE, SKY, YELLOW, INK = (
    "#0072B2", "#E69F00", "#009E73", "#D55E00", "#CC79A7", "#56B4E9", "#F0E442", "#222222")
CYCLE = (BLUE, ORANGE, GREEN, RED, PURPLE, SKY)
TINTS = ("#D6E8F5", "#FBE8C0", "#CDEBE1", "#F7D9C8", "#F3DEEA", "#E4E4E4")  # behind dark text
WIDTH, DPI, COLORS = 7.0, 144, 96  # inches; dots per inch; colors of the finished PNG
STYLE = {"font.size": 9.5, "axes.titlesize": 10.5, "axes.spines.top": False,
         "axes.spines.right": False, "axes.edgecolor": "#888888", "axes.labelcolor": INK,
         "xtick.color": "#555555", "ytick.color": "#555555", "legend.frameon": False,
         "axes.grid": True, "grid.color": "#E8E8E8", "axes.axisbelow": True,
         "lines.linewidth": 1.8, "axes.prop_cycle": mpl.cycler(color=CYCLE)}


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
                {"image/png": {"width": int(100 * WIDTH)}})


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
    # A drawing has few colors. Naming each once makes the file several times smaller.
    image = Image.fromarray(pixels).convert("RGB").quantize(COLORS, dither=Image.Dither.NONE)
    stream = io.BytesIO()
    image.save(stream, "PNG", optimize=True)
    return Picture(stream.getvalue(), text)


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
    """Labelled curves in one plot.

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


def token_boxes(pieces: Sequence[str], title: str, text: str, columns: int = 76,
                most_rows: int = 14) -> Picture:
    """A text whose pieces have a background of their own, so that each token can be seen.

    Args:
        pieces: the text, cut into tokens. A line break is shown as a sign and breaks the line.
        columns: characters per line.
        most_rows: lines to show; the rest is left away, and the picture says so.
    """
    cells, row, column = [], 0, 0                                    # (row, column, sign, piece)
    for number, piece in enumerate(pieces):
        for sign in piece:
            if column == columns:
                row, column = row + 1, 0
            cells.append((row, column, "¶" if sign == "\n" else sign, number))
            row, column = (row + 1, 0) if sign == "\n" else (row, column + 1)
    rows = min(max((r for r, *_ in cells), default=0) + 1, most_rows)
    cut = any(r >= rows for r, *_ in cells)
    figure, axes = canvas(0.35 + 0.23 * (rows + cut))
    plain(axes).set(xlim=(0, columns), ylim=(rows + cut, 0), title=title)
    for r, c, sign, number in cells:
        if r < rows:
            axes.add_patch(mpl.patches.Rectangle((c, r + 0.06), 1, 0.88, linewidth=0,
                                                 color=TINTS[number % len(TINTS)]))
            axes.text(c + 0.5, r + 0.5, sign, family="monospace", fontsize=9.5, color=INK,
                      horizontalalignment="center", verticalalignment="center")
    if cut:
        axes.text(0, rows + 0.5, "(and so on)", fontsize=9, color="#777777",
                  verticalalignment="center")
    return finish(figure, text)
