"""Writing `decode`: bytes to text, also where a character is spread over tokens."""

from __future__ import annotations

import codecs
from collections.abc import Callable

from picolm_lib.course.checks import Exercise
from picolm_lib.course.my_picolm.reference import decode as decode_rightly

Ids = list[int]
Vocabulary = list[bytes]
PIECES = [b"a", b"b", b" c", b"caf", b"\xc3", b"\xa9", b" na", b"\xc3\xaf", b"ve", b"\n",
          b"\xe7\x8b", b"\x90", b"T", b" ", b"\xe7", b"\x8b"]


def decode_each(errors: str) -> Callable:
    """Every token becomes text by itself."""
    return lambda ids, vocabulary: "".join(vocabulary[i].decode(errors=errors) for i in ids)


def decode_whole(how: Callable[[bytes], str]) -> Callable:
    """The bytes of all tokens, read in some way."""
    return lambda ids, vocabulary: how(b"".join(vocabulary[i] for i in ids))


def until_error(data: bytes) -> str:
    """Only what comes before the first bytes that are no character."""
    try:
        return data.decode()
    except UnicodeDecodeError as error:
        return data[:error.start].decode()


def whole_or(otherwise: str) -> Callable[[bytes], str]:
    """All or nothing."""
    def how(data: bytes) -> str:
        try:
            return data.decode()
        except UnicodeDecodeError:
            return otherwise

    return how


def decode_each_or(otherwise: str) -> Callable:
    """Every token by itself, or a sign in its place."""
    return lambda ids, vocabulary: "".join(whole_or(otherwise)(vocabulary[i]) for i in ids)


def whole_or_each(ids: Ids, vocabulary: Vocabulary) -> str:
    """All at once, or, where that fails, token by token."""
    whole = decode_whole(whole_or("failed"))(ids, vocabulary)
    return decode_each("replace")(ids, vocabulary) if whole == "failed" else whole


def two_at_a_time(ids: Ids, vocabulary: Vocabulary) -> str:
    """A token that is no text is read together with the next."""
    text, place = "", 0
    while place < len(ids):
        alone = whole_or("failed")(vocabulary[ids[place]])
        data = b"".join(vocabulary[i] for i in ids[place:place + 2])
        text += data.decode(errors="replace") if alone == "failed" else alone
        place += 2 if alone == "failed" else 1
    return text


decode = Exercise(
    reference=decode_rightly,
    part="decode",
    cases=lambda: [(list(ids), list(PIECES)) for ids in (
        [0, 1, 2], [3, 4, 5], [3, 4, 5, 6, 7, 8], [12, 0, 2, 9], [10, 11, 0], [3, 4], [0, 10],
        [4, 0, 4, 5], [5, 0], [2, 13, 2], [1, 1, 0], [14, 15, 11, 0], [0, 14, 15],
        [3, 4, 5, 4], [])],
    praise="Right: first all bytes, then the text. A character may be spread over tokens.",
    mistakes={
        "you decode each token by itself, so a character whose bytes are in two tokens is lost. "
        "Join all bytes first, then decode once.": decode_each("replace"),
        "you decode each token by itself and ignore what is no character, so an é in two tokens "
        "vanishes. Join all bytes first, then decode once.": decode_each("ignore"),
        "you decode each token by itself, and half a character stops it. Join all bytes first, "
        "then decode once.": decode_each("strict"),
        "bytes that are no character stop your function. Show the replacement sign in their place: "
        "errors=\"replace\".": decode_whole(bytes.decode),
        "bytes that are no character vanish without a trace. Show the replacement sign in their "
        "place: errors=\"replace\", not \"ignore\".":
            decode_whole(lambda data: data.decode(errors="ignore")),
        "bytes that are no character are written as \\xc3. Show the replacement sign: "
        "errors=\"replace\".": decode_whole(lambda d: d.decode(errors="backslashreplace")),
        "bytes that are no character became others: errors=\"replace\" gives the replacement "
        "sign.": decode_whole(lambda data: data.decode(errors="surrogateescape")),
        "there is a question mark where the replacement sign should be.":
            decode_whole(lambda data: data.decode(errors="replace").replace("\ufffd", "?")),
        "bytes that are no character are cut off, and what follows them, too. Show the replacement "
        "sign in their place: errors=\"replace\".":
            decode_whole(until_error),
        "you read each byte as a character (latin-1 or chr). In UTF-8, é is two bytes.":
            decode_whole(lambda data: data.decode("latin-1")),
        "you read the bytes as ASCII, which has no é.":
            decode_whole(lambda data: data.decode("ascii", errors="replace")),
        "you drop everything that is not ASCII.":
            decode_whole(lambda data: data.decode("ascii", errors="ignore")),
        "you turned the bytes into a string with str(), which writes them down as b'...'. Use "
        "`.decode`.": decode_whole(str),
        "you turned each token into a string with str(), which writes bytes down as b'...'. Join "
        "the bytes, then `.decode`.": lambda ids, v: "".join(str(v[i]) for i in ids),
        "you look up the places 0, 1, 2 and so on, not the ids: vocabulary[ids[i]].":
            lambda ids, v: decode_rightly(list(range(len(ids))), v),
        "you put a space between the tokens. A space that belongs there is in the tokens already.":
            lambda ids, v: b" ".join(v[i] for i in ids).decode(errors="replace"),
        "you took away spaces or line breaks at the ends. They are part of the text.":
            decode_whole(lambda data: data.decode(errors="replace").strip()),
        "you took the ids themselves for characters. vocabulary[id] holds the bytes.":
            lambda ids, v: "".join(map(chr, ids)),
        "where one character is broken, the whole text becomes one replacement sign. Only the "
        "broken bytes do: errors=\"replace\".": decode_whole(whole_or("\ufffd")),
        "where one character is broken, the whole text is lost. Only the broken bytes become a "
        "replacement sign: errors=\"replace\".": decode_whole(whole_or("")),
        "where one character is broken, you decode each token by itself, and then other characters "
        "that are spread over tokens are lost, too. Decode all bytes once, with "
        "errors=\"replace\".": whole_or_each,
        "broken bytes in the middle become a replacement sign, but at the end of the text they "
        "vanish.": decode_whole(
            lambda data: codecs.getincrementaldecoder("utf-8")("replace").decode(data)),
        "you join a token that is no text with the next one only. A character can be spread over "
        "three or four tokens: join all bytes first, then decode once.": two_at_a_time,
        "you read the bytes as UTF-16. They are UTF-8.":
            decode_whole(lambda data: data.decode("utf-16", errors="replace")),
        "you read the bytes as cp1252 (Windows). They are UTF-8.":
            decode_whole(lambda data: data.decode("cp1252", errors="replace")),
        "each token counts once, in the order of the ids: a set keeps neither order nor "
        "repetitions.": lambda ids, v: decode_rightly(sorted(set(ids)), v),
        "broken bytes became a question mark in place of the replacement sign \\ufffd.":
            decode_each_or("?"),
        "the tokens are in reverse order.": lambda ids, v: decode_rightly(ids[::-1], v),
        "there is a line break between the tokens. The tokens hold all spaces and line breaks.":
            lambda ids, v: b"\n".join(v[i] for i in ids).decode(errors="replace"),
        "there is something added at the end of the text, such as a line break.":
            lambda ids, v: decode_rightly(ids, v) + "\n",
        "your text is all in small letters.": lambda ids, v: decode_rightly(ids, v).lower(),
        "only the first token is decoded.": lambda ids, v: decode_rightly(ids[:1], v),
        "only the last token is decoded: the text has to grow in the loop (+=).":
            lambda ids, v: decode_rightly(ids[-1:], v),
        "you write the ids into the text. vocabulary[id] holds the bytes.":
            lambda ids, v: " ".join(map(str, ids)),
        "you return the bytes as numbers.":
            lambda ids, v: list(b"".join(v[i] for i in ids)),
        "you return bytes. They are no text yet: decode them.": lambda ids, v: b"".join(
            v[i] for i in ids),
        "you return a list of pieces. Join their bytes, and decode once.":
            lambda ids, v: [v[i].decode(errors="replace") for i in ids],
        "you return a list of bytes. Join them, and decode once.": lambda ids, v: [
            v[i] for i in ids],
        "each token counts only once, though it may come again.":
            lambda ids, v: decode_rightly(list(dict.fromkeys(ids)), v),
        "the tokens are in the order of their ids. Keep the order of the text.":
            lambda ids, v: decode_rightly(sorted(ids), v),
        "the last token is missing.": lambda ids, v: decode_rightly(ids[:-1], v),
        "the first token is missing.": lambda ids, v: decode_rightly(ids[1:], v),
        "you look up the id after the right one: ids count from 0.":
            lambda ids, v: decode_rightly([i + 1 for i in ids], [*v, b""]),
        "you look up the id before the right one: ids count from 0.":
            lambda ids, v: decode_rightly([i - 1 for i in ids], v),
        "you decode the whole vocabulary, not the tokens of ids.":
            lambda ids, v: decode_rightly(list(range(len(v))), v),
    })
