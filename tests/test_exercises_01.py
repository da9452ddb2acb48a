"""Wrong answers to the exercises of notebook 01, as learners write them: each is told its bug."""

from __future__ import annotations

import math

import torch
from helpers import assert_told, each_wrong_answer

from picolm_lib.course.tokens import checks


def merged(ids, pair, new):
    out, i = [], 0
    while i < len(ids):
        if tuple(ids[i:i + 2]) == pair:
            out, i = [*out, new], i + 2
        else:
            out, i = [*out, ids[i]], i + 1
    return out


def one_round(ids, merges):
    known = [p for p in zip(ids, ids[1:], strict=False) if p in merges]
    if known:
        pair = min(known, key=lambda p: merges[p])
        ids = merged(ids, pair, merges[pair])
    return list(ids)


def leftmost(ids, merges):
    ids, i = list(ids), 0
    while i < len(ids) - 1:
        new = merges.get((ids[i], ids[i + 1]))
        if new:
            ids[i:i + 2] = [new]
            i = 0
        else:
            i += 1
    return ids


def latest(ids, merges):
    ids = list(ids)
    while known := [p for p in zip(ids, ids[1:], strict=False) if p in merges]:
        pair = max(known, key=merges.get)
        ids = merged(ids, pair, merges[pair])
    return ids


def last_to_first(ids, merges):
    for pair in list(merges)[::-1]:
        ids = merged(ids, pair, merges[pair])
    return ids


def longest_token(ids, merges):
    def spell(token):
        return next((spell(a) + spell(b) for (a, b), new in merges.items() if new == token),
                    [token])

    out = []
    while ids:
        best = max((new for new in merges.values() if ids[:len(spell(new))] == spell(new)),
                   key=lambda new: len(spell(new)), default=ids[0])
        out, ids = [*out, best], ids[len(spell(best)):]
    return out


def in_place(ids, merges):
    while known := [p for p in zip(ids, ids[1:], strict=False) if p in merges]:
        pair = min(known, key=merges.get)
        ids[:] = merged(ids, pair, merges[pair])
    return ids


def rows(stream, length, shift):
    n = (len(stream) - 1) // length
    cut = [stream[i * length + shift:i * length + shift + length] for i in range(n)]
    return torch.stack(cut)


def shift_after_cutting(stream, length):
    x = torch.stack(stream.split(length)[:len(stream) // length])
    return x[:, :-1], x[:, 1:]


def every_start(stream, length):
    n = len(stream) - length
    return (torch.stack([stream[i:i + length] for i in range(n)]),
            torch.stack([stream[i + 1:i + 1 + length] for i in range(n)]))


def longer_rows(stream, length):
    n = len(stream) // (length + 1)
    x = stream[:n * (length + 1)].reshape(n, length + 1)
    return x[:, :length], x[:, 1:]


def wrap(stream, length):
    x = rows(stream, length, 0)
    return x, torch.cat((x[:, 1:], x[:, :1]), 1)


def total(losses):
    return float(torch.cat(losses).sum())


def size(texts):
    return sum(len(text.encode("utf-8")) for text in texts)


WRONG = {
    "encode_word": [
        (one_round, "go on until"), (leftmost, "leftmost pair"), (latest, "learned last"),
        (last_to_first, "from the last to the first"), (longest_token, "longest token"),
        (in_place, "in place"),
        (lambda ids, merges: [t for t in latest(ids, merges) if t > 9], "answer is"),
        (lambda ids, merges: set(ids), "should be a list"),
    ],
    "windows": [
        (lambda s, n: (rows(s, n, 0), rows(s, n, 0)), "targets are the inputs themselves"),
        (lambda s, n: (rows(s, n, 1), rows(s, n, 0)), "wrong way"),
        (shift_after_cutting, "one token too few"), (every_start, "overlap"),
        (longer_rows, "share nothing"), (wrap, "wrapped around"),
        (lambda s, n: (rows(s, n, 0)[:-1], rows(s, n, 1)[:-1]), "last window"),
        (lambda s, n: (rows(s, n, 0).mT, rows(s, n, 1).mT), "rows and columns"),
        (lambda s, n: torch.stack([rows(s, n, 0), rows(s, n, 1)]), "stacked"),
    ],
    "bits_per_byte": [
        (lambda x, t: total(x) / math.log(2) / sum(map(len, x)), "bits per token"),
        (lambda x, t: total(x) / size(t), "nats per byte"),
        (lambda x, t: total(x) * math.log(2) / size(t), "multiplied by ln 2"),
        (lambda x, t: total(x) / math.log(2) / len("".join(t)), "counted characters"),
        (lambda x, t: sum(total([a]) / math.log(2) / size([b])
                          for a, b in zip(x, t, strict=True)) / len(x), "own ratios"),
        (lambda x, t: torch.cat(x).mean().item() / math.log(2) / size(t), "how many tokens"),
        (lambda x, t: size(t) / (total(x) / math.log(2)), "upside down"),
        (lambda x, t: total(x) / math.log10(2) / size(t), "base 10"),
    ],
}


@each_wrong_answer(WRONG)
def test_a_wrong_answer_is_told_its_bug(exercise, answer, phrase):
    assert_told(getattr(checks, exercise), answer, phrase)
