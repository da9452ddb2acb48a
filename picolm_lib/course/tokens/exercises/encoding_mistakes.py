"""Mistakes that people make when they encode a word: one function each."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from itertools import pairwise

from picolm_lib.course.my_picolm.reference import encode_word as encode_rightly
from picolm_lib.course.my_picolm.reference import merge
from picolm_lib.course.tokens.exercises.merging import Ids, Pair, merge_either_order

Merges = Mapping[Pair, int]


def encode_quickly(ids: Ids, merges: Merges) -> Ids:
    """The right answer: looks up only pairs that are in the word."""
    return encode_by(min, ids, merges)


def encode_by(choose: Callable, ids: Ids, merges: Merges) -> Ids:
    """Merges one pair of the word after the other; `choose` says which, by their new ids."""
    ids = list(ids)
    while found := [pair for pair in pairwise(ids) if pair in merges]:
        pair = choose(found, key=lambda pair: merges[pair])
        ids = merge(ids, pair, merges[pair])
    return ids


def encode_latest(ids: Ids, merges: Merges) -> Ids:
    """The merge that was learned last comes first."""
    return encode_by(max, ids, merges)


def encode_once(ids: Ids, merges: Merges) -> Ids:
    """One merge only."""
    found = [p for p in pairwise(ids) if p in merges]
    pair = min(found, key=lambda p: merges[p], default=None)
    return merge(ids, pair, merges[pair]) if pair else list(ids)


def encode_smallest_pair(ids: Ids, merges: Merges) -> Ids:
    """min(pairs) without a key."""
    ids = list(ids)
    while found := [p for p in pairwise(ids) if p in merges]:
        ids = merge(ids, min(found), merges[min(found)])
    return ids


def encode_leftmost(ids: Ids, merges: Merges) -> Ids:
    """The leftmost pair that is in the table."""
    ids = list(ids)
    while places := [i for i in range(len(ids) - 1) if (ids[i], ids[i + 1]) in merges]:
        ids[places[0]:places[0] + 2] = [merges[ids[places[0]], ids[places[0] + 1]]]
    return ids


def encode_one_pass(ids: Ids, merges: Merges) -> Ids:
    """One pass from left to right, each pair merged as it comes."""
    out: Ids = []
    for token in ids:
        if out and (out[-1], token) in merges:
            out[-1] = merges[out[-1], token]
        else:
            out.append(token)
    return out


def encode_longest(ids: Ids, merges: Merges) -> Ids:
    """The longest token that fits, from left to right."""
    spelled: dict[int, tuple[int, ...]] = {i: (i,) for i in ids}
    for (left, right), new in merges.items():
        spelled[new] = spelled.get(left, (left,)) + spelled.get(right, (right,))
    out, place = [], 0
    while place < len(ids):
        fits = [i for i, s in spelled.items() if tuple(ids[place:place + len(s)]) == s]
        out.append(max(fits, key=lambda i: len(spelled[i])))
        place += len(spelled[out[-1]])
    return out


def encode_backwards(ids: Ids, merges: Merges) -> Ids:
    """The table from its end."""
    for pair, new in reversed(list(merges.items())):
        ids = merge(ids, pair, new)
    return list(ids)


def encode_forgets(ids: Ids, merges: Merges) -> Ids:
    """Each merge is applied to the bytes; only the last result is kept."""
    out = list(ids)
    for pair, new in merges.items():
        out = merge(ids, pair, new)
    return out


def encode_first_entry(ids: Ids, merges: Merges) -> Ids:
    """A return within the loop."""
    for pair, new in merges.items():
        return merge(ids, pair, new)
    return list(ids)


def encode_either_order(ids: Ids, merges: Merges) -> Ids:
    """Pairs in either order."""
    for pair, new in merges.items():
        ids = merge_either_order(ids, pair, new)
    return list(ids)


def encode_until_absent(ids: Ids, merges: Merges) -> Ids:
    """A break at the first merge that does not occur in the word."""
    for pair, new in merges.items():
        if pair not in pairwise(ids):
            break
        ids = merge(ids, pair, new)
    return list(ids)


def encode_pairs_of_bytes(ids: Ids, merges: Merges) -> Ids:
    """The pairs are collected once, before any merge."""
    for pair in sorted({p for p in pairwise(ids) if p in merges}, key=lambda p: merges[p]):
        ids = merge(ids, pair, merges[pair])
    return list(ids)


def encode_round_by_round(ids: Ids, merges: Merges) -> Ids:
    """All pairs of a round are merged before it looks again."""
    while found := sorted({p for p in pairwise(ids) if p in merges}, key=lambda p: merges[p]):
        for pair in found:
            ids = merge(ids, pair, merges[pair])
    return list(ids)


def encode_one_look(ids: Ids, merges: Merges) -> Ids:
    """One pass over neighbors; a new token is not looked at again."""
    out, place = [], 0
    while place < len(ids):
        new = merges.get((ids[place], ids[place + 1])) if place + 1 < len(ids) else None
        out.append(ids[place] if new is None else new)
        place += 1 if new is None else 2
    return out


def encode_passes(ids: Ids, merges: Merges) -> Ids:
    """Passes from left to right until nothing changes."""
    while (after := encode_one_look(ids, merges)) != ids:
        ids = after
    return list(ids)


def encode_frequent(ids: Ids, merges: Merges) -> Ids:
    """The most frequent pair of the word first."""
    ids = list(ids)
    while found := [p for p in pairwise(ids) if p in merges]:
        pair = max(found, key=found.count)
        ids = merge(ids, pair, merges[pair])
    return ids


def encode_frequent_smallest(ids: Ids, merges: Merges) -> Ids:
    """The most frequent pair of the word first, and of equal ones the smallest."""
    ids = list(ids)
    while found := [p for p in pairwise(ids) if p in merges]:
        pair = min(found, key=lambda p: (-found.count(p), p))
        ids = merge(ids, pair, merges[pair])
    return ids


def encode_rounds(most: int) -> Callable:
    """At most so many rounds."""
    def encode_word(ids: Ids, merges: Merges) -> Ids:
        for _ in range(most):
            ids = encode_once(ids, merges)
        return list(ids)

    return encode_word


def encode_stops(missing: float) -> Callable:
    """A pair that is not in the table counts as `missing`, and ends the loop if it wins."""
    def encode_word(ids: Ids, merges: Merges) -> Ids:
        ids = list(ids)
        while len(ids) > 1:
            pair = min(pairwise(ids), key=lambda p: merges.get(p, missing))
            if pair not in merges:
                break
            ids = merge(ids, pair, merges[pair])
        return ids

    return encode_word


def encode_looks_at(choose: Callable[[list[Pair]], list[Pair]]) -> Callable:
    """Looks only at a part of the word's pairs."""
    def encode_word(ids: Ids, merges: Merges) -> Ids:
        ids = list(ids)
        while found := [p for p in choose(list(pairwise(ids))) if p in merges]:
            pair = min(found, key=lambda p: merges[p])
            ids = merge(ids, pair, merges[pair])
        return ids

    return encode_word


def encode_while_first(ids: Ids, merges: Merges) -> Ids:
    """Ends as soon as the first pair of the word is not in the table."""
    while len(ids) > 1 and (ids[0], ids[1]) in merges:
        ids = encode_once(ids, merges)
    return list(ids)


def encode_numbers(first: int) -> Callable:
    """The new ids are counted, not read from the table."""
    return lambda ids, merges: encode_rightly(
        ids, {pair: first + number for number, pair in enumerate(merges)})


def encode_with(apply: Callable) -> Callable:
    """Replays the table with another merge."""
    def encode_word(ids: Ids, merges: Merges) -> Ids:
        for pair, new in merges.items():
            ids = apply(ids, pair, new)
        return list(ids)

    return encode_word
