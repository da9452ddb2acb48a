"""Writing `windows`: inputs, and the same tokens one place later."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

from picolm_lib.course.checks import Exercise


def cut(stream: Tensor, length: int) -> tuple[Tensor, Tensor]:
    """The right answer."""
    count = (len(stream) - 1) // length
    return (stream[:count * length].view(count, length),
            stream[1:count * length + 1].view(count, length))


def changed(change: Callable[[Tensor, Tensor], object]) -> Callable:
    """The right windows, changed into wrong ones."""
    return lambda stream, length: change(*cut(stream, length))


def cut_first(stream: Tensor, length: int) -> tuple[Tensor, Tensor]:
    """Rows of `length`, shifted within themselves."""
    rows = stream[:len(stream) // length * length].view(-1, length)
    return rows[:, :-1], rows[:, 1:]


def sliding(stream: Tensor, length: int) -> tuple[Tensor, Tensor]:
    """A window from every token on."""
    rows = stream.unfold(0, length + 1, 1)
    return rows[:, :-1], rows[:, 1:]


def apart(stream: Tensor, length: int) -> tuple[Tensor, Tensor]:
    """Rows of length + 1 that share nothing."""
    rows = stream[:len(stream) // (length + 1) * (length + 1)].view(-1, length + 1)
    return rows[:, :-1], rows[:, 1:]


def shifted(stream: Tensor, length: int, by: int) -> tuple[Tensor, Tensor]:
    """Targets further ahead, or behind."""
    count = (len(stream) - abs(by)) // length
    first, second = stream[:count * length], stream[abs(by):count * length + abs(by)]
    pair = first.view(count, length), second.view(count, length)
    return pair if by > 0 else pair[::-1]


def no_target(stream: Tensor, length: int) -> tuple[Tensor, Tensor]:
    """N // length windows, cut before it is seen that the last one may have no target."""
    count = len(stream) // length
    return (stream[:count * length].view(count, length),
            stream[1:count * length + 1].view(count, length))


def wrapped(stream: Tensor, length: int) -> tuple[Tensor, Tensor]:
    """N // length windows; the very last target is the stream's first token."""
    count = len(stream) // length
    return (stream[:count * length].view(count, length),
            stream.roll(-1)[:count * length].view(count, length))


def padded(stream: Tensor, length: int) -> tuple[Tensor, Tensor]:
    """What is left over becomes a window filled up with zeros."""
    count = -(-(len(stream) - 1) // length)
    more = stream.new_zeros(count * length + 1 - len(stream))
    return cut(torch.cat((stream, more)), length)


def padded_apart(stream: Tensor, length: int) -> tuple[Tensor, Tensor]:
    """Inputs and targets are filled up each by itself."""
    count = -(-(len(stream) - 1) // length)
    more = stream.new_zeros(count * length + 1 - len(stream))
    return (torch.cat((stream[:-1], more)).view(count, length),
            torch.cat((stream[1:], more)).view(count, length))


def targets_cut_alone(stream: Tensor, length: int) -> tuple[Tensor, Tensor]:
    """Inputs from N // length windows, targets from (N - 1) // length."""
    count = len(stream) // length
    return stream[:count * length].view(count, length), cut(stream, length)[1]


def short_rows(stream: Tensor, length: int) -> tuple[Tensor, Tensor]:
    """(N - 1) // length rows, shifted within themselves."""
    rows = cut(stream, length)[0]
    return rows[:, :-1], rows[:, 1:]


def next_window(stream: Tensor, length: int) -> tuple[Tensor, Tensor]:
    """The window after each window."""
    rows = stream[:len(stream) // length * length].view(-1, length)
    return rows[:-1], rows[1:]


def from_the_end(stream: Tensor, length: int) -> tuple[Tensor, Tensor]:
    """What is left over is dropped at the beginning."""
    count = (len(stream) - 1) // length
    return cut(stream[len(stream) - 1 - count * length:], length)


def one_late(stream: Tensor, length: int) -> tuple[Tensor, Tensor]:
    """Inputs from place 1, targets from place 2."""
    count = (len(stream) - 2) // length
    return cut(stream[1:count * length + 2], length)


def whole_rows(stream: Tensor, length: int) -> Tensor:
    """Rows of length + 1 that share their end."""
    return stream.unfold(0, length + 1, length)


def every_token(stream: Tensor, length: int) -> tuple[Tensor, Tensor]:
    """As many windows as there should be, but each a token after the one before."""
    count = (len(stream) - 1) // length
    rows = stream.unfold(0, length + 1, 1)[:count]
    return rows[:, :-1], rows[:, 1:]


def columns(stream: Tensor, length: int) -> tuple[Tensor, Tensor]:
    """The stream runs down the columns."""
    count = (len(stream) - 1) // length
    return (stream[:count * length].view(length, count).T,
            stream[1:count * length + 1].view(length, count).T)


windows = Exercise(
    reference=cut,
    cases=lambda: [(torch.randperm(size, generator=torch.Generator("cpu").manual_seed(0),
                                   device="cpu"), length)
                   for size, length in ((7, 3), (9, 4), (23, 5), (21, 5), (20, 5), (25, 6),
                                        (10, 1))],
    praise="Right: each target is the token after its input, also at the end of a window.",
    mistakes={
        "your targets are the inputs themselves. The target of a token is the one after it.":
            changed(lambda x, y: (x, x)),
        "your inputs are the targets themselves.": changed(lambda x, y: (y, y)),
        "you swapped the two: return inputs, then targets, which are one token later.":
            changed(lambda x, y: (y, x)),
        "you looked two tokens ahead: the target is the very next token.":
            lambda s, n: shifted(s, n, 2),
        "your targets are a whole window later, not one token.":
            lambda s, n: shifted(s, n, n),
        "your windows have one token too few: you cut rows of `length` first, and lost one token "
        "of each by the shift. Shift the whole stream, then cut it.": cut_first,
        "your windows overlap: each begins one token after the one before. They should be side "
        "by side.": sliding,
        "you cut rows of length + 1 that share nothing, so one token of each is never an input. "
        "The last target of a window is the first input of the next.": apart,
        "the last target of a row is wrong: it wrapped around to the row's own first token. It is "
        "the first token of the next window.": changed(lambda x, y: (x, x.roll(-1, 1))),
        "you cut N // length windows. Where N is a multiple of length, the last window then has "
        "no target for its last token: there are (N - 1) // length windows.": no_target,
        "the last target of all is the stream's first token: nothing follows the last token, so "
        "there are only (N - 1) // length windows.": wrapped,
        "the very last target is the first token: the targets were rolled after they were cut. "
        "Shift the stream, then cut it.": changed(
            lambda x, y: (x, x.flatten().roll(-1).view_as(x))),
        "window number i begins at token i. It begins at token i * length.": every_token,
        "the targets are shifted by two places.": changed(lambda x, y: (
            x, torch.cat((y.flatten()[1:], y.flatten()[:1])).view_as(y))),
        "there are N // length windows of inputs, but (N - 1) // length of targets: both have the "
        "second number.": targets_cut_alone,
        "you filled up the last window with zeros. If it is too short, it is omitted.": padded,
        "you filled up what is left over with zeros. It is omitted.": padded_apart,
        "you omitted the last window, though it has all of its targets: there are (N - 1) // "
        "length windows.": changed(lambda x, y: (x[:-1], y[:-1])),
        "you omitted the first window.": changed(lambda x, y: (x[1:], y[1:])),
        "rows and columns are swapped: a window is a row, (windows, length).":
            changed(lambda x, y: (x.T, y.T)),
        "the stream runs down your columns. It should run along the rows: `.view(count, length)`, "
        "without a transpose.": columns,
        "your targets are the tokens before their inputs. They are the tokens after them.":
            lambda s, n: (cut(s, n)[0], s.roll(1)[:len(cut(s, n)[0]) * n].view(-1, n)),
        "you swapped numbers and places: your targets are the ids plus one, not the tokens one "
        "place later.": changed(lambda x, y: (x, x + 1)),
        "you cut rows of `length` first, so their inputs and targets have one token too few. Shift "
        "the whole stream, then cut it.": short_rows,
        "(length, windows) is the wrong shape: a window is a row, so it is (windows, length).":
            changed(lambda x, y: (x.reshape(x.shape[::-1]), y.reshape(y.shape[::-1]))),
        "only the token after each window is its target. Every token of a window has one: the "
        "targets have the shape of the inputs.": changed(lambda x, y: (x, y[:, -1])),
        "only the token after each window is its target. Every token of a window has a target, so "
        "the targets have the shape of the inputs.": changed(lambda x, y: (x, y[:, -1:])),
        "your targets are the next window, and the last window is gone. They are the same tokens, "
        "one place later.": changed(lambda x, y: (x[:-1], x[1:])),
        "you cut from the end of the stream, so what is left over is missing at its beginning. "
        "Cut from the beginning.": from_the_end,
        "you began with the second token: the inputs begin at place 0.": one_late,
        "you left out the last token of the stream, though it is the last target.":
            lambda s, n: cut(s[:-1], n),
        "your windows are in reverse order.": changed(lambda x, y: (x.flip(0), y.flip(0))),
        "the tokens within your windows are in reverse order.":
            changed(lambda x, y: (x.flip(1), y.flip(1))),
        "you return one window too many axes: (1, windows, length).":
            changed(lambda x, y: (x[None], y[None])),
        "you return windows of length + 1, which hold inputs and targets together. Separate them: "
        "the first `length` tokens of each, and its last ones.": whole_rows,
        "your windows overlap by half. They should be side by side.": lambda s, n: tuple(
            part.unfold(0, n, max(n // 2, 1)) for part in (s[:-1], s[1:])),
        "the targets alone are padded with a zero at the end. Where there is no target, there is "
        "no window.": lambda s, n: tuple(part[:len(s) // n * n].view(-1, n) for part in (
            s, torch.cat((s[1:], s.new_zeros(1))))),
        "return inputs and targets as two separate tensors, not one stacked tensor.":
            changed(lambda x, y: torch.stack((x, y))),
        "return two tensors; yours are two lists of windows. `torch.stack` makes a tensor of a "
        "list.": changed(lambda x, y: (list(x), list(y))),
        "return two tensors, not one pair for each window.":
            changed(lambda x, y: list(zip(x, y, strict=True))),
        "you return only the first window.": changed(lambda x, y: (x[0], y[0])),
        "you return the inputs only. Their targets are needed, too.": changed(lambda x, y: x),
        "your tensors are in one long row: cut them into (windows, length).":
            changed(lambda x, y: (x.flatten(), y.flatten())),
        "your numbers are floats. Ids stay integers.":
            changed(lambda x, y: (x.float(), y.float())),
    })
