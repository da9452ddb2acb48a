"""Text in colored boxes, with and without the styles that a page may remove."""

from __future__ import annotations

import re
from html import unescape

import pytest

from picolm_lib.course.boxes import token_boxes
from picolm_lib.course.plots import CARD, INK, SMALLEST, TINTS, WIDTH, Drawing, lines, stack

PIECES = ["One", " wo", "rd", ".", "\n", "\n", "<end>", "  &", "\n\n"]


def as_text(html: str, styled: bool) -> str:
    """What a browser shows: words, and line breaks."""
    if styled:
        html = re.sub(r"<i style=\"display:none\">.*?</i>", "", html)
    html = re.sub(r"<br>|</figcaption>|</div>", "\n", html)
    return unescape(re.sub(r"<[^>]*>", "", html)).replace("\xa0", " ")


def test_the_text_is_shown_as_it_is():
    shown = as_text(token_boxes(PIECES, "a title", "a text").html, styled=True)
    assert shown == "a title\nOne word.¶\n¶\n<end>  &¶\n¶\n\n"


def test_without_styles_seams_are_still_seen():
    shown = as_text(token_boxes(PIECES, "", "a text").html, styled=False)
    assert shown == "One| wo|rd|.|¶\n¶\n<end>|  &|¶\n¶\n\n"


def test_lines_break_before_words_only():
    html = token_boxes(PIECES, "", "a text").html
    assert re.findall("<wbr>.*?>([^<]*)<", html) == ["\xa0wo", "\xa0\xa0&amp;"]
    assert " wo" not in html and "overflow-wrap:anywhere" in html


def test_colors_a_frame_and_a_legend():
    html = token_boxes(["a", "b", "c"], "", "a text", ["#111111", "#222222", "#333333"],
                       legend=[("#333333", "the <last> one")], frame=1, lines=4).html
    boxes = re.findall(r'<span style="background:(#\d+);([^"]*)">([abc])<', html)
    assert [(color, letter) for color, _, letter in boxes] == [
        ("#111111", "a"), ("#222222", "b"), ("#333333", "c")]
    assert ["outline" in style for _, style, _ in boxes] == [False, True, False]
    assert "the\xa0&lt;last&gt;\xa0one" in html and "min-height:7em" in html
    first, second = re.findall(r"background:(#\w+);border", token_boxes("ab", "", "x").html)
    assert (first, second) == TINTS[:2]


def test_a_long_text_is_cut_and_says_so():
    html = token_boxes(["abc "] * 1_000, "", "a text", most=40).html
    assert html.count("abc") == 10 and "(and so on: 990 more)" in html
    assert "and so on" not in token_boxes(["abc "] * 10, "", "a text", most=40).html


def test_its_label_is_escaped_and_its_letters_are_large_enough():
    shown = token_boxes(PIECES, "", 'says "a < b"')
    assert '<figure aria-label="says &quot;a &lt; b&quot;"' in shown.html
    assert shown._repr_mimebundle_() == {"text/html": shown.html,
                                         "text/plain": '[picture: says "a < b"]'}
    assert min(map(int, re.findall(r"(\d+)px/", shown.html))) >= 12
    assert f"background:{CARD};color:{INK}" in shown.html


def test_a_picture_has_its_words_and_keeps_its_place_free():
    picture = lines({"a": ([1, 2], [1e-5, 1.0])}, "x", "y", "title", 'says "a"', 3.5, log_y=True)
    alt, width, height = re.search(
        r'^<img alt="(.*?)" src="data:image/png;base64,[^"]+" width="(\d+)" height="(\d+)"',
        picture.html).groups()
    assert (unescape(alt), repr(picture)) == ('says "a"', '[picture: says "a"]')
    assert int(height) / int(width) == pytest.approx(3.5 / WIDTH, abs=0.01)
    assert picture.png.startswith(b"\x89PNG")
    both = stack(picture, token_boxes(["a"], "", "and boxes"))
    assert isinstance(both, Drawing) and both.text == 'says "a" and boxes'
    # On a phone, where the picture is 360 pixels wide.
    assert SMALLEST / 72 * 360 / WIDTH >= 8
