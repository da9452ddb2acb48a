"""Writing `heal`: the repair of a prompt that ends within a token."""

from __future__ import annotations

from collections.abc import Callable

from picolm_lib.course.checks import Exercise

Ids = list[int]
Vocabulary = list[bytes]

# The six special tokens, and then pieces; the last ones are the bytes of é.
VOCABULARY = [b"<|endoftext|>", b"<|pad|>", b"<|im_start|>", b"<|im_end|>", b"<think>",
              b"</think>", b" ", b"a", b" little", b" dog", b"<", b"<b", b"lit", b"l", b"little",
              b" D", b"ll", b"A", b"\xc3", b"\xc3\xa9", b"\xc3\xaf", b"  ", b".",
              b".\n", b"("]


def healed(allowed: Callable[[bytes, bytes], bool] = bytes.startswith, first: int = 6,
           last: int = -1, offset: int = 0) -> Callable:
    """A healing with one part replaced.

    Args:
        allowed: whether a token (first argument) may replace the removed bytes.
        first: the first id that is looked at.
        last: place of the token that is removed.
        offset: is added to each id.
    """
    def heal(ids: Ids, vocabulary: Vocabulary) -> tuple[Ids, Ids]:
        removed = vocabulary[ids[last]]
        rest = ids[:-1] if last == -1 else ids[1:]
        return rest, [i + offset for i in range(first, len(vocabulary))
                      if allowed(vocabulary[i], removed)]

    return heal


def heal_changed(change: Callable[[Ids, Ids, Ids, Vocabulary], object]) -> Callable:
    """The right healing, changed: from ids, rest, allowed, vocabulary."""
    def heal(ids: Ids, vocabulary: Vocabulary) -> object:
        rest, allowed = healed()(ids, vocabulary)
        return change(ids, rest, allowed, vocabulary)

    return heal


def until_misfit(ids: Ids, rest: Ids, allowed: Ids, vocabulary: Vocabulary) -> tuple[Ids, Ids]:
    """Stops at the first token that does not fit, after some did."""
    kept = allowed[:1]
    for i in allowed[1:]:
        if i != kept[-1] + 1:
            break
        kept.append(i)
    return rest, kept


def as_text(compare: Callable[[str, str], bool]) -> Callable[[bytes, bytes], bool]:
    """Compares characters in place of bytes."""
    return lambda token, removed: compare(token.decode(errors="replace"),
                                          removed.decode(errors="replace"))


heal = Exercise(
    reference=healed(),
    cases=lambda: [(list(ids), list(VOCABULARY)) for ids in (
        [7, 6], [7, 13], [9, 12], [6, 8, 6], [7, 10], [8, 18], [14, 14], [7, 19], [9, 9, 17],
        [7, 22], [8, 24])],
    praise="Right: the last token may become any token that begins with the same bytes.",
    mistakes={
        "special tokens are among your allowed ones: `<` begins <|endoftext|>, too. Ids 0 to 5 "
        "stand for no text.": healed(first=0),
        "only the removed token itself is allowed. Allowed is each token that *begins* with its "
        "bytes.": healed(lambda token, removed: token == removed),
        "the removed token itself is missing: it begins with its own bytes, and may be right.":
            healed(lambda token, removed: token != removed and token.startswith(removed)),
        "it is the wrong way round: the token must begin with the removed bytes, not the removed "
        "bytes with the token.": healed(lambda token, removed: removed.startswith(token)),
        "you allow tokens that *contain* the removed bytes. They must begin with them.":
            healed(lambda token, removed: removed in token),
        "you allow tokens that *end* with the removed bytes. They must begin with them.":
            healed(bytes.endswith),
        "you compare only the first byte. All removed bytes must be there.":
            healed(lambda token, removed: token[:1] == removed[:1]),
        "you always look for a space. Look for the bytes of the token that was removed.":
            healed(lambda token, removed: token.startswith(b" ")),
        "you compare text in place of bytes: half a character becomes the replacement sign, and "
        "then é no longer begins with its first byte.": healed(as_text(str.startswith)),
        "you compare without capitals: \" D\" does not begin with \" d\".":
            healed(lambda t, r: t.lower().startswith(r.lower())),
        "you stripped the spaces before comparing. They are bytes like the others.":
            healed(lambda t, r: t.strip().startswith(r.strip())),
        "you allow every token.": healed(lambda token, removed: True),
        "you allow the tokens that do *not* begin with the removed bytes.":
            healed(lambda token, removed: not token.startswith(removed)),
        "you left out the first six tokens and counted from 0 again: each of your ids is six too "
        "small.": healed(offset=-6),
        "you took the first token away. Take the last one.": healed(last=0),
        "the last token is still there: return the ids without it.":
            heal_changed(lambda ids, rest, allowed, v: (list(ids), allowed)),
        "you took away two tokens, or every one that is equal to the last. Take only the last.":
            heal_changed(lambda ids, rest, allowed, v: (
                [i for i in ids if i != ids[-1]], allowed)),
        "you took the first token that is equal to the last one: `remove` looks from the left. "
        "Take the last.": heal_changed(lambda ids, rest, allowed, v: (
            [i for n, i in enumerate(ids) if n != ids.index(ids[-1])], allowed)),
        "the two values are swapped: the shorter ids first, then the allowed tokens.":
            heal_changed(lambda ids, rest, allowed, v: (allowed, rest)),
        "you return the allowed tokens' bytes. Return their ids.":
            heal_changed(lambda ids, rest, allowed, v: (rest, [v[i] for i in allowed])),
        "you return True and False for each token. Return the ids of those that are allowed.":
            heal_changed(lambda ids, rest, allowed, v: (
                rest, [i in allowed for i in range(len(v))])),
        "your allowed ids are not in ascending order.":
            heal_changed(lambda ids, rest, allowed, v: (rest, allowed[::-1])),
        "you return the allowed tokens only. The shorter ids are needed, too.":
            heal_changed(lambda ids, rest, allowed, v: allowed),
        "you return the removed token in place of the rest.":
            heal_changed(lambda ids, rest, allowed, v: (ids[-1:], allowed)),
        "you return only the first allowed token. Return all of them.":
            heal_changed(lambda ids, rest, allowed, v: (rest, allowed[:1])),
        "the id 6 is missing: the special tokens are 0 to 5.": healed(first=7),
        "the id 5 is among your allowed ones: it is a special token, too.": healed(first=5),
        "the last entry of the vocabulary is never looked at.": heal_changed(
            lambda ids, rest, allowed, v: (rest, [i for i in allowed if i != len(v) - 1])),
        "you look for the bytes of the whole prompt. Only those of its last token count.":
            heal_changed(lambda ids, rest, allowed, v: (rest, [
                i for i in range(6, len(v)) if v[i].startswith(b"".join(v[k] for k in ids))])),
        "you compare ids. What counts are the bytes: vocabulary[id].":
            heal_changed(lambda ids, rest, allowed, v: (rest, list(range(ids[-1], len(v))))),
        "you look only at ids from the removed one on. Others may begin with its bytes, too.":
            heal_changed(lambda ids, rest, allowed, v: (
                rest, [i for i in allowed if i >= ids[-1]])),
        "you look only at ids above the removed one. Others may begin with its bytes, too, and "
        "itself.":
            heal_changed(lambda ids, rest, allowed, v: (rest, [i for i in allowed if i > ids[-1]])),
        "you stop at the first token that does not fit. The vocabulary is not sorted: look at all.":
            heal_changed(until_misfit),
        "you compare text, where half a character is dropped, and then every token fits. Compare "
        "bytes.": healed(lambda t, r: t.decode(errors="ignore").startswith(
            r.decode(errors="ignore"))),
        "special tokens are among your allowed ones, and you compare text. Compare bytes, and "
        "begin at id 6.": healed(as_text(str.startswith), first=0),
        "you compare characters of latin-1. It works, but for the special tokens: begin at id 6.":
            heal_changed(lambda ids, rest, allowed, v: (rest, sorted(
                [i for i in range(6) if v[i].startswith(v[ids[-1]])] + allowed, reverse=True))),
        "you took the first token away, and return the tokens for the last one.":
            heal_changed(lambda ids, rest, allowed, v: (ids[1:], allowed)),
        "you return the removed token's id in place of the rest: `pop` returns what it removes.":
            heal_changed(lambda ids, rest, allowed, v: (ids[-1], allowed)),
        "you took away two tokens.": heal_changed(
            lambda ids, rest, allowed, v: (ids[:-2], allowed)),
        "you kept only the last token but one.": heal_changed(
            lambda ids, rest, allowed, v: (ids[-2:-1], allowed)),
        "you return the bytes or the text of the rest. Return its ids.": heal_changed(
            lambda ids, rest, allowed, v: (b"".join(v[i] for i in rest), allowed)),
        "you return the bytes of the removed token in place of the rest.": heal_changed(
            lambda ids, rest, allowed, v: (v[ids[-1]], allowed)),
        "your allowed ids are sorted by their bytes. Sort them by id.": heal_changed(
            lambda ids, rest, allowed, v: (rest, sorted(allowed, key=lambda i: v[i]))),
        "your allowed ids are sorted by length. Sort them by id.": heal_changed(
            lambda ids, rest, allowed, v: (rest, sorted(allowed, key=lambda i: len(v[i])))),
        "you compare with the special tokens too, and leave out the removed token: both are wrong. "
        "Begin at id 6, and keep it.": heal_changed(lambda ids, rest, allowed, v: (rest, [
            i for i, t in enumerate(v) if t.startswith(v[ids[-1]]) and i != ids[-1]])),
        "you allow only tokens that are one byte longer. Any token may that begins with the bytes.":
            healed(lambda t, r: t.startswith(r) and len(t) <= len(r) + 1),
        "you always allow the removed token first. The ids are in ascending order.": heal_changed(
            lambda ids, rest, allowed, v: (rest, [ids[-1], *(i for i in allowed if i != ids[-1])])),
        "you return pairs or a dictionary of the allowed tokens. Return a list of ids.":
            heal_changed(lambda ids, rest, allowed, v: (rest, [(i, v[i]) for i in allowed])),
        "you look at the bytes of the *last but one* token, after the last one was taken away. "
        "Remember its bytes first.": heal_changed(lambda ids, rest, allowed, v: (
            rest, healed()(rest, v)[1] if rest else [])),
    })
