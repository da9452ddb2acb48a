"""Errors in a learner's function as sentences: what Python says, where, and what it means."""

from __future__ import annotations

from collections.abc import Callable

from picolm_lib.course.checks.sources import place_of

# Kind of error, a part of its text -> what it usually means.
HINTS: list[tuple[type[BaseException], str, str]] = [
    (ValueError, "empty", "There was nothing left to choose from: see that before, and end there."),
    (ValueError, "not in list", "`index` looks for a value and returns its place; with square "
                                "brackets, a place gives its value."),
    (ValueError, "unpack", "The number of names on the left is not that of the values."),
    (RuntimeError, "changed", "A dictionary must not change while a loop goes through it: make a "
                              "new one."),
    (RuntimeError, "each tensor to be equal size", "`torch.stack` needs equal lengths; `torch.cat` "
                                                   "puts tensors of any length end to end."),
    (RuntimeError, "invalid for input of size", "`view` needs exactly as many numbers as the shape "
                                                "has places: cut off what is left over first."),
    (RuntimeError, "must match", "Tensors of different shapes are combined. If their lengths may "
                                 "differ, work on each by itself first."),
    (LookupError, "unknown encoding", "The first argument of `decode` is the encoding; give others "
                                      "by name, as in errors=\"replace\"."),
    (TypeError, "must be bytes", "A number or a string stands where bytes are needed: look up the "
                                 "bytes of the id first."),
    (TypeError, "not int", "An id is a number: look up what it stands for first."),
    (RuntimeError, "cannot be converted to Scalar", "Several numbers are still there, where one is "
                                                    "needed."),
    (RuntimeError, "oolean value of Tensor", "An `if` or `and` needs one truth value, and these "
                                             "are several: `.any()` or `.all()`."),
    (TypeError, "unhashable", "A list cannot be a key, nor be looked up in a dictionary or set: "
                              "make a tuple of it."),
    (TypeError, "expected str instance, bytes", "Bytes are joined by bytes: `b\"\".join`."),
    (TypeError, "bytes-like object", "Bytes and strings do not mix: decode the bytes, or encode "
                                     "the string."),
    (TypeError, "can only concatenate str", "Strings and bytes do not mix: decode the bytes, or "
                                            "begin with b\"\"."),
    (ValueError, "expected sequence of length", "The rows have different lengths: the last one is "
                                                "too short."),
    (TypeError, "'NoneType'", "Something is None that should have a value: `.get` returns None for "
                              "what is not there, and `append` and `sort` always return None."),
    (TypeError, "not str", "Bytes and strings do not mix: decode the bytes, or encode the string."),
    (TypeError, "object is not callable", "A value is called like a function. If it is a name of "
                                          "Python's own, such as `len` or `list`, a cell has given "
                                          "it a value: `del` takes that back."),
    (TypeError, "not subscriptable", "Square brackets follow something that has no entries."),
    (TypeError, "not iterable", "A loop goes through something that has no entries."),
    (TypeError, "list indices", "A place in a list is a whole number."),
    (TypeError, "unsupported operand", "The two sides do not fit together: print what they are."),
    (TypeError, "slice indices", "A place is a whole number: `//` gives one, and `/` a float."),
    (TypeError, "interpreted as an integer", "A count is a whole number: `//` gives one, and `/` a "
                                             "float."),
    (AttributeError, "'list' object", "It is a list already, and lists have no such method."),
    (AttributeError, "'str' object", "It is a string already, and strings have no such method."),
    (AttributeError, "'bytes' object", "It is bytes already, and they have no such method."),
    (AttributeError, "'int' object", "It is one number, not several."),
    (AttributeError, "'tuple' object", "A tuple cannot be changed, and has no such method."),
    (AttributeError, "", "This kind of value has no such method: print what it is."),
    (UnboundLocalError, "", "A variable is read before it has a value in this function."),
    (NameError, "", "Is the name spelled as where it was made?"),
    (IndexError, "", "A place is asked for that is not there: look at where the counting ends."),
    (KeyError, "", "An entry is asked for that is not there: ask with `in` first, or use `.get`."),
    (UnicodeDecodeError, "", "These bytes are not whole characters, or not all of them are there."),
    (UnicodeEncodeError, "", "This encoding has no such character."),
    (ZeroDivisionError, "", "What is divided by is 0 for this input."),
]


def sentence_of(error: BaseException, answer: Callable) -> str:
    """An error in the learner's function as a sentence."""
    text = " ".join(str(error).split())
    text = text if len(text) < 200 else text[:196] + " ..."
    hint = next((" " + hint for kind, part, hint in HINTS
                 if isinstance(error, kind) and part in text), "")
    said = f"{type(error).__name__}: {text}" if text else type(error).__name__
    return f"your function stopped with {said}{place_of(error, answer)}.{hint}"
