"""The exercises of notebook 01 and the mistakes that people make in them."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping

import torch
from torch import Tensor

from picolm_lib.course.checks import Exercise

Pair = tuple[int, int]
Merges = Mapping[Pair, int]


def _merge(ids: list[int], pair: Pair, new: int) -> list[int]:
    out: list[int] = []
    for i in ids:
        if out and (out[-1], i) == pair:
            out[-1] = new
        else:
            out.append(i)
    return out


def _encode(choose: Callable = min) -> Callable:
    """The encoder; `choose` picks among the merges that fit, by the id of what they make."""
    def encode(ids: list[int], merges: Merges) -> list[int]:
        ids = list(ids)
        while found := [merges[pair] for pair in zip(ids, ids[1:], strict=False) if pair in merges]:
            new = choose(found)
            pair = next(pair for pair, made in merges.items() if made == new)
            ids = _merge(ids, pair, new)
        return ids

    return encode


def _once(ids: list[int], merges: Merges) -> list[int]:
    found = [merges[p] for p in zip(ids, ids[1:], strict=False) if p in merges]
    pair = next((p for p, made in merges.items() if found and made == min(found)), None)
    return _merge(ids, pair, min(found)) if pair else list(ids)


def _first_place(ids: list[int], merges: Merges) -> list[int]:
    ids = list(ids)
    while places := [i for i in range(len(ids) - 1) if (ids[i], ids[i + 1]) in merges]:
        ids[places[0]:places[0] + 2] = [merges[ids[places[0]], ids[places[0] + 1]]]
    return ids


def _longest_first(ids: list[int], merges: Merges) -> list[int]:
    spelled: dict[int, tuple[int, ...]] = {i: (i,) for i in ids}
    for (left, right), new in merges.items():
        spelled[new] = spelled.get(left, (left,)) + spelled.get(right, (right,))
    out, place = [], 0
    while place < len(ids):
        fits = [i for i, s in spelled.items() if tuple(ids[place:place + len(s)]) == s]
        out.append(max(fits, key=lambda i: len(spelled[i])))
        place += len(spelled[out[-1]])
    return out


def _backwards(ids: list[int], merges: Merges) -> list[int]:
    for pair, new in reversed(list(merges.items())):
        ids = _merge(ids, pair, new)
    return list(ids)


def _either_order(ids: list[int], merges: Merges) -> list[int]:
    both = dict(merges)
    for (left, right), new in merges.items():
        both.setdefault((right, left), new)
    ids = list(ids)
    while found := [both[p] for p in zip(ids, ids[1:], strict=False) if p in both]:
        out: list[int] = []
        for i in ids:
            if out and both.get((out[-1], i)) == min(found):
                out[-1] = min(found)
            else:
                out.append(i)
        ids = out
    return ids


# Learned in this order. The words below are chosen so that every mistake in the list encodes one of
# them differently.
MERGES = {(1, 3): 10, (2, 2): 11, (1, 1): 12, (10, 2): 13, (1, 2): 14, (1, 11): 15, (1, 13): 16}
WORDS: list[list[int]] = [[1, 2, 2, 2, 1, 1, 3], [1, 1, 2, 1, 3, 2, 4, 4], [3, 1, 4], [2, 2, 2],
                          [4], []]


encode_word = Exercise(
    reference=_encode(),
    cases=lambda: [(list(word), MERGES) for word in WORDS],
    praise="Right: of all merges that fit, the one that was learned first, again and again.",
    mistakes={
        "you made one merge and stopped. Its result can take part in the next one: continue until "
        "no pair of neighbors is in the table.": _once,
        "you took the leftmost pair that is in the table. The order of learning decides: take the "
        "pair whose merge was learned first, wherever it is.": _first_place,
        "you took the longest token that fits, from left to right. That is another tokenizer: in "
        "BPE the order of learning decides, and a shorter token may win.": _longest_first,
        "you took the merge that was learned last (the largest new id). Take the first one, the "
        "smallest id.": _encode(max),
        "you went through the merges from the last to the first. Start with the first.": _backwards,
        "you merged neighbors in either order. (1, 2) is in the table, (2, 1) is not the same "
        "pair.": _either_order,
        "you only removed the right one of each pair; the left one must become the new token.":
            lambda ids, merges: [i for i, before in zip(ids, [None, *ids], strict=False)
                                 if (before, i) not in merges],
        "you returned only the new tokens. Tokens that are not merged stay.":
            lambda ids, merges: [i for i in _encode()(ids, merges) if i >= 10],
    })


def _windows(stream: Tensor, length: int) -> tuple[Tensor, Tensor]:
    count = (len(stream) - 1) // length
    return (stream[:count * length].view(count, length),
            stream[1:count * length + 1].view(count, length))


def _cut_first(stream: Tensor, length: int) -> tuple[Tensor, Tensor]:
    rows = stream[:len(stream) // length * length].view(-1, length)
    return rows[:, :-1], rows[:, 1:]


def _sliding(stream: Tensor, length: int) -> tuple[Tensor, Tensor]:
    rows = stream.unfold(0, length + 1, 1)
    return rows[:, :-1], rows[:, 1:]


def _apart(stream: Tensor, length: int) -> tuple[Tensor, Tensor]:
    rows = stream[:len(stream) // (length + 1) * (length + 1)].view(-1, length + 1)
    return rows[:, :-1], rows[:, 1:]


def _two_ahead(stream: Tensor, length: int) -> tuple[Tensor, Tensor]:
    count = (len(stream) - 2) // length
    return (stream[:count * length].view(count, length),
            stream[2:count * length + 2].view(count, length))


def _with(change: Callable[[Tensor, Tensor], object]) -> Callable:
    """The right windows, changed into wrong ones."""
    return lambda stream, length: change(*_windows(stream, length))


windows = Exercise(
    reference=_windows,
    cases=lambda: [(torch.randperm(size, generator=torch.Generator().manual_seed(0)), length)
                   for size, length in ((23, 5), (21, 5), (20, 5), (9, 4), (25, 6))],
    praise="Right: each target is the token after its input, also at the end of a window.",
    mistakes={
        "your targets are the inputs themselves. The target of a token is the one after it.":
            _with(lambda x, y: (x, x)),
        "you shifted the wrong way: your inputs are the tokens after the targets.":
            _with(lambda x, y: (y, x)),
        "you looked two tokens ahead: the target is the very next token.": _two_ahead,
        "your windows have one token too few: you cut rows of `length` first, and lost one token "
        "of each by the shift. Shift the whole stream, then cut it.": _cut_first,
        "your windows overlap: each begins one token after the one before. They should be side "
        "by side.": _sliding,
        "you cut rows of length + 1 that share nothing, so one token of each is never an input. "
        "The last target of a window is the first input of the next.": _apart,
        "the last target of a row is wrong: it wrapped around to the row's own first token. It is "
        "the first token of the next window.": _with(lambda x, y: (x, x.roll(-1, 1))),
        "you omitted the last window, though it has all of its targets: there are (N - 1) // "
        "length windows.": _with(lambda x, y: (x[:-1], y[:-1])),
        "rows and columns are swapped: a window is a row, (windows, length).":
            _with(lambda x, y: (x.T, y.T)),
        "return inputs, then targets: two separate tensors, not one stacked tensor.":
            _with(lambda x, y: torch.stack((x, y))),
    })


def _bits(losses: list[Tensor], texts: list[str]) -> float:
    return sum(x.sum().item() for x in losses) / math.log(2) / sum(len(t.encode()) for t in texts)


def _loss_cases() -> list[tuple]:
    generator = torch.Generator().manual_seed(0)
    texts = [["Once upon a time.", "A naïve fox ate crème brûlée."], ["Hi."],
             ["¡Olé!", "A", "The cat sat on the mat, and nothing else happened at all."]]
    return [([3 * torch.rand(1 + len(text) // 4, generator=generator) for text in group], group)
            for group in texts]


bits_per_byte = Exercise(
    reference=_bits,
    cases=_loss_cases,
    praise="Right: all bits of all documents, divided by all their bytes.",
    mistakes={
        "that is bits per token: divide by the bytes of the texts, not by the number of tokens.":
            lambda x, t: torch.cat(x).mean().item() / math.log(2),
        "that is nats per byte: a nat is 1 / ln 2 = 1.44 bits, so divide by math.log(2).":
            lambda x, t: _bits(x, t) * math.log(2),
        "you multiplied by ln 2. There are more bits than nats, so divide.":
            lambda x, t: _bits(x, t) * math.log(2) ** 2,
        "you counted characters. Count bytes: len(text.encode()). A letter such as ï has two "
        "bytes.": lambda x, t: sum(v.sum().item() for v in x) / math.log(2) / sum(map(len, t)),
        "you took the mean over the documents' own ratios, so a short document counts as much as a "
        "long one. Add up all bits and all bytes first.":
            lambda x, t: sum(_bits([v], [s]) for v, s in zip(x, t, strict=True)) / len(t),
        "you took the mean loss and forgot how many tokens there are: add up the losses.":
            lambda x, t: torch.cat(x).mean().item() / math.log(2) / sum(len(s.encode()) for s in t),
        "it is upside down: bits divided by bytes, not bytes by bits.":
            lambda x, t: 1 / _bits(x, t),
        "you used the logarithm to base 10. One nat is 1 / ln 2 bits: math.log(2), the natural "
        "one.": lambda x, t: _bits(x, t) * math.log(2) / math.log10(2),
        "you divided by 8. A byte has 8 bits, but here bits are what the model pays, and bytes are "
        "how long the text is.": lambda x, t: _bits(x, t) / 8,
    })
