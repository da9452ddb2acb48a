"""Text in colored boxes, such as tokens. It is HTML: it wraps, and can be read aloud and copied."""

from __future__ import annotations

from collections.abc import Sequence
from html import escape

from picolm_lib.course.plots import CARD, INK, PAGE_WIDTH, RED, TINTS, Drawing

LINE_HEIGHT = 1.75
CARD_STYLE = (f"max-width:{PAGE_WIDTH}px;box-sizing:border-box;margin:0 0 4px;padding:10px 12px;"
              f"border-radius:8px;background:{CARD};color:{INK};overflow-wrap:anywhere")
TITLE_STYLE = "font:600 14px/1.4 sans-serif;margin:0 0 6px;text-align:left"
TEXT_STYLE = f"font:14px/{LINE_HEIGHT} monospace"
LEGEND_STYLE = "font:13px/1.8 sans-serif;margin-top:6px"
SEAM = "border-right:1px solid #A5A5A0"
# Where a page removes styles, as GitHub may, it is what separates the tokens. Elsewhere it is
# neither shown nor read aloud nor copied.
SEPARATOR = '<i style="display:none">|</i>'
NO_BREAK = "\N{NO-BREAK SPACE}"


class Boxes(Drawing):
    """A finished text in boxes."""


def token_boxes(pieces: Sequence[str], title: str, text: str, colors: Sequence[str] | None = None,
                legend: Sequence[tuple[str, str]] = (), frame: int | None = None,
                most: int = 1_200, lines: int = 0) -> Boxes:
    """A text in which every token has its own background color.

    Args:
        pieces: the text, cut into tokens. A line break is shown as a sign and breaks the line.
            Other lines break before a space; only a word that is wider than the page breaks inside.
        text: one sentence that says what is shown.
        colors: the background of each piece, light enough for dark letters; None cycles through
            the default ones.
        legend: (color, what it means) pairs, shown below the text.
        frame: the number of a piece that gets a frame.
        most: characters to show; the rest is omitted, and the drawing says so.
        lines: height in lines, at least, so that nothing jumps when a slider moves.
    """
    colors = colors or [TINTS[number % len(TINTS)] for number in range(len(pieces))]
    shown, length = [], 0
    for number, (piece, color) in enumerate(zip(pieces, colors, strict=True)):
        length += len(piece)
        if length > most:
            shown.append(f" (and so on: {len(pieces) - number:,} more)")
            break
        style = f"background:{color}" + f";{SEAM}" * (len(pieces) > 1)
        if number == frame:
            style += f";outline:2px solid {RED}"
        if number and not pieces[number - 1].endswith("\n"):
            shown.append(SEPARATOR)
        shown.append("<wbr>" * piece.startswith(" ")
                     + f'<span style="{style}">{_signs(piece)}</span>')
    parts = [f'<div style="{TEXT_STYLE};min-height:{LINE_HEIGHT * lines:g}em">'
             f'{"".join(shown)}</div>']
    if title:
        parts.insert(0, f'<figcaption style="{TITLE_STYLE}">{escape(title)}</figcaption>')
    if legend:
        parts.append(f'<div style="{LEGEND_STYLE}">' + " ".join(
            f'<span style="background:{color};border:1px solid #A5A5A0">{3 * NO_BREAK}</span>'
            + (NO_BREAK + escape(meaning)).replace(" ", NO_BREAK) + NO_BREAK
            for color, meaning in legend) + "</div>")
    return Boxes(f'<figure aria-label="{escape(text)}" style="{CARD_STYLE}">{"".join(parts)}'
                 "</figure>", text)


def _signs(piece: str) -> str:
    """A token as HTML; its leading spaces stay with it when the line breaks."""
    word = piece.lstrip(" ")
    spaces = NO_BREAK * (len(piece) - len(word))
    return spaces + escape(word).replace("\n", "¶<br>")
