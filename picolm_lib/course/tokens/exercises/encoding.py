"""Writing `encode_word`: replaying the merges, and doing so without going through all of them."""

from __future__ import annotations

from collections.abc import Callable
from itertools import takewhile

from picolm_lib.course.checks import Exercise
from picolm_lib.course.checks.counted import Counted
from picolm_lib.course.my_picolm.reference import encode_word as encode_rightly
from picolm_lib.course.tokens.exercises.encoding_mistakes import (
    encode_backwards,
    encode_either_order,
    encode_first_entry,
    encode_forgets,
    encode_frequent,
    encode_frequent_smallest,
    encode_latest,
    encode_leftmost,
    encode_longest,
    encode_looks_at,
    encode_numbers,
    encode_once,
    encode_one_look,
    encode_one_pass,
    encode_pairs_of_bytes,
    encode_passes,
    encode_quickly,
    encode_round_by_round,
    encode_rounds,
    encode_smallest_pair,
    encode_stops,
    encode_until_absent,
    encode_while_first,
    encode_with,
)
from picolm_lib.course.tokens.exercises.merging import (
    is_at,
    merge_first_only,
    merge_from_the_right,
    merge_without_skip,
)

# Learned in this order. The words are chosen so that each mistake encodes one of them differently.
MERGES = {(1, 3): 10, (2, 2): 11, (1, 1): 12, (10, 2): 13, (1, 2): 14, (1, 11): 15, (1, 13): 16,
          (2, 1): 17, (7, 8): 18, (5, 5): 19, (18, 9): 20, (8, 9): 21, (20, 5): 22, (4, 3): 23,
          (9, 9): 2_000, (2_000, 2_000): 2_001, (2_001, 2_001): 2_002, (6, 4): 2_003}
WORDS: list[list[int]] = [[1, 3], [4, 1, 3, 2], [1, 3, 1, 3], [1, 2, 2], [3, 1, 4], [2, 2, 2],
                          [1, 2, 2, 2, 1, 1, 3], [1, 1, 2, 1, 3, 2, 4, 4], [1, 1, 1, 2], [4], [],
                          [2, 1, 5],
                          [7, 8, 9], [7, 8, 9, 5, 5], [4, 3, 4], [9, 9, 9, 9, 9, 9, 9, 9],
                          [5, 5, 7, 8, 6, 1, 3, 6, 2, 2, 6, 4, 3], [1, 1, 3, 2], [6, 4],
                          [5, 7, 8, 5, 1, 1], [9, 9, 3], [7, 8, 9, 9],
                          [1, 3, 6, 2, 2, 6, 1, 1, 6, 5, 5, 6, 7, 8, 6, 4, 3, 6, 9, 9]]
ENCODING: dict[str, Callable] = {
    "you made one merge and stopped. Its result can take part in the next one: continue until no "
    "merge fits. If you have a loop, does each round begin afresh?": encode_once,
    "you took the leftmost pair that is in the table. The order of learning decides: the merge "
    "that was learned first comes first, wherever its pair stands.": encode_leftmost,
    "you went through the word once, from left to right, and merged what came. The order of "
    "learning decides, not the place.": encode_one_pass,
    "you took the longest token that fits, from left to right. That is another tokenizer: in BPE "
    "the order of learning decides, and a shorter token may win.": encode_longest,
    "you took the smallest pair, not the one that was learned first: min(pairs) and sorted(merges) "
    "compare the ids in the pairs. What counts is the new id, merges[pair].": encode_smallest_pair,
    "you took the merge that was learned last (the largest new id). Take the first one, the "
    "smallest id.": encode_latest,
    "you went through the merges from the last to the first. Start with the first.":
        encode_backwards,
    "you merged neighbors in either order. (1, 2) is in the table, (2, 1) is not the same pair.":
        encode_either_order,
    "each merge is applied to the word as it was, so the merges before it are lost. Go on with "
    "the result: `ids = merge(ids, ...)`.": encode_forgets,
    "you return after the first entry of the table: the return is within the loop.":
        encode_first_entry,
    "only the first occurrence of each pair is merged.": encode_with(merge_first_only),
    "your function returns its input as it was. Perhaps the result of `merge` is not kept, as in "
    "`ids = merge(ids, pair, new)`, or its arguments are in another order; `items()` gives first "
    "the pair and then the new id.":
        lambda ids, merges: list(ids),
    "you stop at the first merge that does not occur in the word. Skip it, and go on.":
        encode_until_absent,
    "you looked for pairs once, before the first merge. A merge makes new pairs: look again after "
    "it.": encode_pairs_of_bytes,
    "you apply all pairs that you found before you look again. A merge may make a pair that was "
    "learned earlier than the others: look again after each.": encode_round_by_round,
    "you went through the word once, from left to right. The order of learning decides, and a new "
    "token can be merged again.": encode_one_look,
    "you go through the word from left to right, again and again. The order of learning decides, "
    "not the place.": encode_passes,
    "you took the pair that is most frequent in this word. What counts is which merge was learned "
    "first.": encode_frequent,
    "you took the pair that is most frequent in this word, and of equal ones the smallest. What "
    "counts is which merge was learned first.": encode_frequent_smallest,
    "you stop looking at the first pair that is not in the table. Go on with the next pair.":
        encode_looks_at(lambda pairs: list(takewhile(MERGES.__contains__, pairs))),
    "you added 6 to the ids. They are token ids already.":
        lambda ids, merges: encode_rightly([i + 6 for i in ids], merges),
    "you stop after three merges. Go on until no merge fits.": encode_rounds(3),
    "you stop after four merges. Go on until no merge fits.": encode_rounds(4),
    "you stop after five merges. Go on until no merge fits.": encode_rounds(5),
    "pairs that are not in the table count as the smallest, so they win and end the loop. Let them "
    "count as infinite: float(\"inf\").": encode_stops(0),
    "pairs that are not in the table count as 1,000, and there are ids above that. Let them count "
    "as infinite: float(\"inf\").": encode_stops(1_000),
    "the last pair of the word is never looked at: the loop ends too early.":
        encode_looks_at(lambda pairs: pairs[:-1]),
    "the first pair of the word is never looked at: the loop begins too late.":
        encode_looks_at(lambda pairs: pairs[1:]),
    "you look at the first pair of the word only.": encode_looks_at(lambda pairs: pairs[:1]),
    "you stop as soon as the first pair of the word is not in the table. Look at all of them.":
        encode_while_first,
    "you look only at places 0, 2, 4 and so on. A pair can begin anywhere.":
        encode_looks_at(lambda pairs: pairs[::2]),
    "you merged from right to left. It shows where pairs overlap, as in [1, 1, 1].":
        encode_with(merge_from_the_right),
    "the new ids are counted from 262. They are in the table: merges[pair].": encode_numbers(262),
    "the new ids are counted from 256. They are in the table: merges[pair].": encode_numbers(256),
    "the first merge of the table is never applied.":
        lambda ids, merges: encode_rightly(ids, dict(list(merges.items())[1:])),
    "the last merge of the table is never applied.":
        lambda ids, merges: encode_rightly(ids, dict(list(merges.items())[:-1])),
    "you put a pair in the word, where its new id should be.":
        lambda ids, merges: [next((p for p, new in merges.items() if new == i), i)
                             for i in encode_rightly(ids, merges)],
    "you removed the right one of each pair; the left one must become the new token.":
        encode_with(lambda ids, pair, new: [t for i, t in enumerate(ids)
                                                if not (i and is_at(ids, i - 1, pair))]),
    "the right one of each pair is still there.": encode_with(merge_without_skip),
    "you returned only the new tokens. Tokens that are not merged stay.":
        lambda ids, merges: [i for i in encode_rightly(ids, merges) if i >= 10],
    "you returned the merges that fit, not the word.":
        lambda ids, merges: [merges[p] for p in zip(ids, ids[1:], strict=False) if p in merges],
    "the last token got lost: a loop over neighbors never copies it.":
        lambda ids, merges: encode_rightly(ids, merges)[:-1],
}

encode_word = Exercise(
    reference=encode_rightly,
    part="encode_word",
    cases=lambda: [(list(word), dict(MERGES)) for word in WORDS],
    praise="Right: the merges in the order in which they were learned.",
    mistakes=ENCODING)


def _looks_up_little(answer: Callable) -> str | None:
    word = WORDS[6]
    table = Counted({pair: new + 100_000 for pair, new in MERGES.items()}
                     | {(1_000 + i, i): 200_000 + i for i in range(5_000)})
    answer(list(word), table)
    # A right answer looks at each pair of the word two or three times, once per merge.
    most = 5 * len(word) ** 2
    if table.looked_up <= most:
        return None
    return (f"the result is right, but your function goes through the whole table: "
            f"{table.looked_up:,} look-ups in {len(table):,} merges for a word of {len(word)} "
            f"tokens. Look up only the pairs of the word; {most} look-ups are plenty.")


quick_encode_word = Exercise(
    reference=encode_quickly,
    part="encode_word",
    also=_looks_up_little,
    cases=lambda: [(list(word), dict(MERGES)) for word in WORDS],
    praise="Right, and without going through the table: of all pairs that are there, the one that "
           "was learned first, again and again.",
    mistakes=ENCODING)
