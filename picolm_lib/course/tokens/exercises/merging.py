"""Writing `merge`: the new token in place of a pair."""

from __future__ import annotations

from picolm_lib.course.checks import Exercise
from picolm_lib.course.my_picolm.reference import merge as merge_rightly

Ids = list[int]
Pair = tuple[int, int]


def is_at(ids: Ids, place: int, pair: Pair) -> bool:
    """Whether the pair stands at this place."""
    return tuple(ids[place:place + 2]) == pair


def merge_without_skip(ids: Ids, pair: Pair, new: int) -> Ids:
    """The right one of the pair stays."""
    return [new if is_at(ids, i, pair) else token for i, token in enumerate(ids)]


def merge_right_becomes_new(ids: Ids, pair: Pair, new: int) -> Ids:
    """The left one of the pair stays."""
    return [new if i and is_at(ids, i - 1, pair) else token for i, token in enumerate(ids)]


def merge_without_last(ids: Ids, pair: Pair, new: int) -> Ids:
    """A loop over range(len(ids) - 1) never copies the last token."""
    out, i = [], 0
    while i < len(ids) - 1:
        out.append(new if is_at(ids, i, pair) else ids[i])
        i += 2 if is_at(ids, i, pair) else 1
    return out


def merge_last_twice(ids: Ids, pair: Pair, new: int) -> Ids:
    """The last token is added once more, even if it was merged."""
    out = merge_without_last(ids, pair, new)
    return out + ids[-1:]


def merge_first_only(ids: Ids, pair: Pair, new: int) -> Ids:
    """Stops after the first."""
    for i in range(len(ids)):
        if is_at(ids, i, pair):
            return [*ids[:i], new, *ids[i + 2:]]
    return list(ids)


def merge_last_only(ids: Ids, pair: Pair, new: int) -> Ids:
    """Keeps only what the last occurrence gave."""
    for i in reversed(range(len(ids))):
        if is_at(ids, i, pair):
            return [*ids[:i], new, *ids[i + 2:]]
    return list(ids)


def merge_either_order(ids: Ids, pair: Pair, new: int) -> Ids:
    """(2, 1) is taken for (1, 2)."""
    out: Ids = []
    i = 0
    while i < len(ids):
        hit = is_at(ids, i, pair) or is_at(ids, i, pair[::-1])
        out.append(new if hit else ids[i])
        i += 2 if hit else 1
    return out


def merge_from_the_right(ids: Ids, pair: Pair, new: int) -> Ids:
    """From right to left."""
    return merge_rightly(ids[::-1], pair[::-1], new)[::-1]


def merge_each(ids: Ids, pair: Pair, new: int) -> Ids:
    """Every token that is in the pair, wherever it stands."""
    return [new if token in pair else token for token in ids]


def merge_removes(ids: Ids, pair: Pair, new: int) -> Ids:
    """The pair is gone, and nothing in its place."""
    return [token for token in merge_rightly(ids, pair, new) if token != new]


def merge_keeps_pair(ids: Ids, pair: Pair, new: int) -> Ids:
    """The new token is added to the pair."""
    return [t for token in merge_rightly(ids, pair, new)
            for t in ((*pair, new) if token == new else (token,))]


def merge_new_before_pair(ids: Ids, pair: Pair, new: int) -> Ids:
    """The new token is put before the pair."""
    return [t for token in merge_rightly(ids, pair, new)
            for t in ((new, *pair) if token == new else (token,))]


def merge_overlaps(ids: Ids, pair: Pair, new: int) -> Ids:
    """Each place where the pair begins gives a new token, overlapping ones too."""
    out: Ids = []
    for i, token in enumerate(ids):
        if is_at(ids, i, pair):
            out.append(new)
        elif not (i and is_at(ids, i - 1, pair)):
            out.append(token)
    return out


def merge_in_twos(ids: Ids, pair: Pair, new: int) -> Ids:
    """Looks only at places 0, 2, 4, ..."""
    out: Ids = []
    for i in range(0, len(ids), 2):
        out += [new] if is_at(ids, i, pair) else ids[i:i + 2]
    return out


def merge_skips_three(ids: Ids, pair: Pair, new: int) -> Ids:
    """Skips one token too many after a pair."""
    out, i = [], 0
    while i < len(ids):
        out.append(new if is_at(ids, i, pair) else ids[i])
        i += 3 if is_at(ids, i, pair) else 1
    return out


def merge_if_one_fits(ids: Ids, pair: Pair, new: int) -> Ids:
    """`or` where `and` is meant."""
    out, i = [], 0
    while i < len(ids):
        fits = i + 1 < len(ids) and (ids[i] == pair[0] or ids[i + 1] == pair[1])
        out.append(new if fits else ids[i])
        i += 2 if fits else 1
    return out


merge = Exercise(
    reference=merge_rightly,
    part="merge",
    cases=lambda: [([1, 2, 3], (1, 2), 9), ([3, 1, 2], (1, 2), 9), ([1, 2, 1, 2, 3], (1, 2), 9),
                   ([2, 1, 2, 1], (1, 2), 9), ([1, 1, 1], (1, 1), 9), ([1, 1, 1, 1, 5], (1, 1), 9),
                   ([1, 3, 2], (1, 2), 9), ([4, 1, 2, 1, 5, 2, 1], (1, 2), 9),
                   ([11, 2, 3], (1, 2), 9), ([1, 25], (1, 2), 9), ([7, 1, 2], (7, 1), 8),
                   ([int(text) for text in ["300", "7", "8", "300", "7"]], (300, 7), 301),
                   ([1, 1, 2], (1, 2), 9),
                   ([7], (1, 2), 9), ([], (1, 2), 9)],
    praise="Right: from left to right, and a token that was just merged takes no part again.",
    mistakes={
        "your function returns its input as it was. Perhaps a list is compared with a tuple: "
        "`[1, 2] == (1, 2)` is False, and a slice of a list is a list.":
            lambda ids, pair, new: list(ids),
        "the right token of the pair is still there. After a merge, go on two places further, not "
        "one.": merge_without_skip,
        "the left token of the pair is still there. Both make way for the new one.":
            merge_right_becomes_new,
        "the last token got lost where it is in no pair: a loop over range(len(ids) - 1) never "
        "copies it.": merge_without_last,
        "the last token is added at the end even where it has just been merged.":
            merge_last_twice,
        "only the first occurrence is merged: go on after it.": merge_first_only,
        "only the last occurrence is merged.": merge_last_only,
        "you merged neighbors in either order: (2, 1) is another pair than (1, 2).":
            merge_either_order,
        "you went from right to left. It shows where pairs overlap, as in [1, 1, 1].":
            merge_from_the_right,
        "you replaced each token that is in the pair, wherever it stands. The two must be "
        "neighbors.": merge_each,
        "you replaced the left token of the pair wherever it stands, without looking at what "
        "follows it.": lambda ids, pair, new: [new if t == pair[0] else t for t in ids],
        "the pair is gone, and the new token is not in its place.": merge_removes,
        "the new token was added, and the pair is still there.": merge_keeps_pair,
        "the new token was put before the pair; it should take the pair's place.":
            merge_new_before_pair,
        "overlapping pairs were both merged: in [1, 1, 1] the token in the middle was used twice.":
            merge_overlaps,
        "you looked only at places 0, 2, 4 and so on. A pair can begin anywhere.":
            merge_in_twos,
        "after a merge you went on three places further: one token got lost.":
            merge_skips_three,
        "your new token is always 9, as in the example. It is `new`.":
            lambda ids, pair, new: merge_rightly(ids, pair, 9),
        "one of the two tokens is enough for you: both must be there, so `and`, not `or`.":
            merge_if_one_fits,
        "you go on two places even where nothing was merged, and lose every second token.":
            lambda ids, pair, new: [new if is_at(ids, i, pair) else ids[i]
                                    for i in range(0, len(ids), 2)],
        "the right token of each pair is still there, and the last token got lost: a loop over "
        "neighbors never copies it.": lambda ids, pair, new: [
            new if both == pair else both[0] for both in zip(ids, ids[1:], strict=False)],
        "you returned how often the pair occurs.":
            lambda ids, pair, new: merge_rightly(ids, pair, new).count(new),
        "you returned the places of the pair.":
            lambda ids, pair, new: [i for i in range(len(ids)) if is_at(ids, i, pair)],
        "the tokens are merged as text: \"1 2\" is found in \"11 2\", too. Compare numbers.":
            lambda ids, pair, new: [int(part) for part in " ".join(map(str, ids)).replace(
                f"{pair[0]} {pair[1]}", str(new)).split()],
        "the last token is never merged: the loop ends one pair too early.":
            lambda ids, pair, new: merge_rightly(ids[:-1], pair, new) + ids[-1:],
        "the first token is never merged: the loop begins one pair too late.":
            lambda ids, pair, new: ids[:1] + merge_rightly(ids[1:], pair, new),
        "the pair itself was put in its place, as one entry. Its place takes `new`.":
            lambda ids, pair, new: [pair if t == new else t
                                    for t in merge_rightly(ids, pair, new)],
        "you merge only where the pair is at the beginning.":
            lambda ids, pair, new: [new, *ids[2:]] if is_at(ids, 0, pair) else list(ids),
        "where the pair does not occur, your function gives another answer than the list itself.":
            lambda ids, pair, new: merge_rightly(ids, pair, new) if new in merge_rightly(
                ids, pair, new) else [],
        "the new token stands at both places of the pair. Two tokens become one.":
            lambda ids, pair, new: [t for token in merge_rightly(ids, pair, new)
                                    for t in ([new, new] if token == new else [token])],
        "you returned only the new tokens. The others stay.":
            lambda ids, pair, new: [t for t in merge_rightly(ids, pair, new) if t == new],
    })
