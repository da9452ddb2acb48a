"""Writing `learn_merges`: the loop that trains a BPE."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Mapping
from itertools import pairwise

from picolm_lib.course.checks import Exercise
from picolm_lib.course.my_picolm.reference import learn_merges as learn_rightly
from picolm_lib.course.my_picolm.reference import merge
from picolm_lib.course.tokens.exercises.merging import Pair, merge_first_only

Words = Mapping[tuple[int, ...], int]


def count_pairs(words: Words, weighted: bool = True) -> Counter:
    """How often each pair of neighbors occurs."""
    pairs: Counter = Counter()
    for ids, times in words.items():
        for pair in pairwise(ids):
            pairs[pair] += times if weighted else 1
    return pairs


def learn(choose: Callable[[Counter], Pair] | None = None, weighted: bool = True,
          start: Callable[[int], int] = int, step: int = 1, least: int = 0, more: int = 0,
          apply: Callable = merge) -> Callable:
    """A loop that learns merges with one part replaced.

    Args:
        choose: the pair to merge.
        weighted: whether a word counts as often as it occurs.
        start: from first_new to the first id.
        step: from one new id to the next.
        least: ends when the most frequent pair occurs at most so often.
        more: learns so many merges more than asked for.
        apply: the merge of one word.
    """
    choose = choose or (lambda pairs: min(pairs, key=lambda p: (-pairs[p], p)))

    def learn_merges(words: Words, count: int, first_new: int = 262) -> dict[Pair, int]:
        merges: dict[Pair, int] = {}
        for number in range(count + more):
            pairs = count_pairs(words, weighted)
            if not pairs or max(pairs.values()) <= least:
                break
            pair = choose(pairs)
            if pair in merges:
                break
            merges[pair] = start(first_new) + step * number
            words = {tuple(apply(list(ids), pair, merges[pair])): times
                     for ids, times in words.items()}
        return merges

    return learn_merges


def learn_with(rewrite: Callable, value: Callable | None = None) -> Callable:
    """The loop with another way to go on after a merge.

    Args:
        rewrite: the next words, from words, pair, and the new id.
        value: of the pair, from its count and the new id.
    """
    def learn_merges(words: Words, count: int, first_new: int = 262) -> dict[Pair, int]:
        merges: dict[Pair, int] = {}
        for number in range(count):
            pairs = count_pairs(words)
            if not pairs:
                break
            pair = min(pairs, key=lambda p: (-pairs[p], p))
            new = first_new + number
            merges[pair] = value(pairs[pair], new) if value else new
            words = rewrite(words, pair, new)
        return merges

    return learn_merges


def merged(words: Words, pair: Pair, new: int) -> Words:
    """The words after a merge."""
    return {tuple(merge(list(ids), pair, new)): times for ids, times in words.items()}


def learn_once(words: Words, count: int, first_new: int = 262) -> dict[Pair, int]:
    """Counts once, and takes the most frequent pairs of that count."""
    pairs = count_pairs(words)
    best = sorted(pairs, key=lambda p: (-pairs[p], p))[:count]
    return {pair: first_new + number for number, pair in enumerate(best)}


def learn_once_as_counted(words: Words, count: int, first_new: int = 262) -> dict[Pair, int]:
    """The same by Counter.most_common."""
    best = count_pairs(words).most_common(count)
    return {pair: first_new + number for number, (pair, _) in enumerate(best)}


def _words(sentence: str) -> dict[tuple[int, ...], int]:
    words: dict[tuple[int, ...], int] = {}
    for word in sentence.split(" "):
        ids = tuple(word.encode())
        words[ids] = words.get(ids, 0) + 1
    return words


def _no_merge(ids: list[int], pair: tuple[int, int], new: int) -> list[int]:
    return ids


def _in_order(answer: Callable) -> str | None:
    learned = answer(_words("cab tab ab b zz zz zz"), 4)
    if list(learned.values()) == sorted(learned.values()):
        return None
    return "the entries are right, but not in the order of learning: the first merge comes first."


learn_merges = Exercise(
    reference=learn_rightly,
    part="learn_merges",
    also=_in_order,
    cases=lambda: [({(1, 2, 3): 1, (1, 2): 1}, 1), ({(3, 4): 1, (1, 2): 1}, 1),
                   ({(1, 5): 2, (1, 3): 2, (2, 1): 2}, 1, 300), ({(1, 3): 1, (1, 5): 1}, 1),
                   ({(1, 9): 1, (2, 1): 1, (2, 7): 1}, 1),
                   ({(1, 2): 3, (3, 4): 5}, 1),
                   ({(1, 2): 1, (1, 2, 7): 1, (8, 9): 3}, 1), ({(1, 2, 3): 2}, 2),
                   ({(1, 2): 1}, 5), ({(1, 2, 3): 1}, 5, 10), ({(1, 1, 1): 2, (2, 3): 4}, 2, 500),
                   ({(1, 2, 1, 2): 2, (3, 4): 3}, 3), (_words("cab tab ab b zz zz zz"), 6),
                   (_words("the cat sat on the mat and the rat ate that hat"), 8, 300),
                   ({(1, 2): 1}, 0), ({(4,): 9}, 3)],
    praise="Right: count, merge the most frequent pair everywhere, count again.",
    mistakes={
        "you counted once, and took the most frequent pairs of that count. Each merge changes the "
        "words: count again after it.": learn_once,
        "you counted once, with Counter.most_common. Each merge changes the words: count again "
        "after it. Of equally frequent pairs, the smaller one wins.": learn_once_as_counted,
        "of equally frequent pairs you took the largest. The smaller pair wins.":
            learn(lambda p: max(p, key=lambda k: (p[k], k))),
        "of equally frequent pairs you took the one that was counted first. The smaller pair "
        "wins: max and most_common do not look at the pair itself.":
            learn(lambda p: p.most_common(1)[0][0]),
        "of equally frequent pairs you took the one that was counted last. The smaller pair wins.":
            learn(lambda p: max(reversed(list(p)), key=p.__getitem__)),
        "of equally frequent pairs, compare the left token first, then the right one.":
            learn(lambda p: min(p, key=lambda k: (-p[k], k[::-1]))),
        "ties are decided by the left token alone; where it is equal, the smaller right token "
        "wins.": learn(lambda p: min(p, key=lambda k: (-p[k], k[0]))),
        "ties are decided by the sum of the two ids. Compare the pairs as tuples.":
            learn(lambda p: min(p, key=lambda k: (-p[k], sum(k)))),
        "you took the rarest pair. The most frequent one is merged.":
            learn(lambda p: min(p, key=lambda k: (p[k], k))),
        "you took the smallest pair, whatever its count. The most frequent one is merged, and "
        "only ties are decided by the pair.": learn(min),
        "you took the largest pair, whatever its count: max(pairs) compares the pairs "
        "themselves.": learn(max),
        "each word is counted once, however often it occurs. words says how often.":
            learn(weighted=False),
        "your ids begin one too high: the first merge gets first_new itself.":
            learn(start=lambda first: first + 1),
        "your ids begin at 0. They begin at first_new.": learn(start=lambda first: 0),
        "your ids begin at 256, whatever first_new is.": learn(start=lambda first: 256),
        "your ids begin at 262, whatever first_new is.": learn(start=lambda first: 262),
        "every merge got the same id. Each one gets the next.": learn(step=0),
        "you stop when a pair occurs only once. Go on while any pair is left.":
            learn(least=1),
        "you learn one merge too many.": learn(more=1),
        "you learn one merge too few.": learn(more=-1),
        "you return after the first merge. Go on until there are `count` of them, or no pair is "
        "left.": learn(apply=_no_merge),
        "the words stay as they were after a merge, so the same pair wins again, and each time "
        "gets a later id. Replace each word by its merged form.":
            learn_with(lambda words, pair, new: words),
        "after a merge you put the wrong id into the words, always first_new. Put in the new one.":
            lambda words, count, first_new=262: learn_with(
                lambda w, pair, new: merged(w, pair, first_new))(words, count, first_new),
        "after a merge each word counts once: its number is lost. Keep words[ids].":
            learn_with(lambda words, pair, new: dict.fromkeys(merged(words, pair, new), 1)),
        "after a merge, the words without the pair are gone. Keep them as they are.":
            learn_with(lambda words, pair, new: {
                ids: times for ids, times in merged(words, pair, new).items() if new in ids}),
        "after a merge, the words as they were are still there beside the merged ones.":
            learn_with(lambda words, pair, new: {**words, **merged(words, pair, new)}),
        "your values are the counts of the pairs. The value of a pair is the id of the token that "
        "it makes.": learn_with(merged, value=lambda times, new: times),
        "your values are the numbers of the merges, 1, 2, 3. They begin at first_new.":
            learn(start=lambda first: 1),
        "your ids go down. Each one is larger than the one before.": learn(step=-1),
        "ties are decided by the pairs as text. Compare them as tuples of numbers.":
            learn(lambda p: min(p, key=lambda k: (-p[k], str(k)))),
        "ties are decided by the pairs as text, and the largest wins. Compare them as tuples of "
        "numbers, the smallest first.": learn(lambda p: max(p, key=lambda k: (p[k], str(k)))),
        "of equally frequent pairs you took the one with the larger left token.":
            learn(lambda p: min(p, key=lambda k: (-p[k], -k[0], k[1]))),
        "of equally frequent pairs you took the one with the smaller left token, but with the "
        "larger right one.": learn(lambda p: min(p, key=lambda k: (-p[k], k[0], -k[1]))),
        "pairs that overlap are counted once: in (1, 1, 1) the pair (1, 1) stands twice.":
            learn(lambda p: min(p, key=lambda k: (-p[k] + (k[0] == k[1]), k))),
        "you go on with the last word only.": learn_with(
            lambda words, pair, new: dict(list(merged(words, pair, new).items())[-1:])),
        "in each word only the first occurrence of the pair is merged.":
            learn(apply=merge_first_only),
        "keys and values are swapped: {pair: new id}.":
            lambda *a: {v: k for k, v in learn_rightly(*a).items()},
        "your values are counts. The value of a pair is the id of the token that it makes.":
            lambda words, count, first_new=262: dict(count_pairs(words).most_common(count)),
        "you return only the pairs. Return {pair: new id}.":
            lambda *a: list(learn_rightly(*a)),
        "you return one merge, the last one. Collect all of them.":
            lambda *a: dict(list(learn_rightly(*a).items())[-1:]),
    })
