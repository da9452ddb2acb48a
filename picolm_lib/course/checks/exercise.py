"""An exercise: a function that the learner writes, and a check that returns the one to go on with.

The check calls the learner's function with small inputs and compares what comes with what the
reference returns. If it is wrong, the check looks for the mistake that returns the same wrong
values, so that its message names the likely bug, and shows the call. The page goes on with the
learner's function if it is right, and with the reference until then.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from types import FunctionType
from typing import Any

import torch

from picolm_lib.course.checks.calls import STUB, Outcome, call, run, shown_call
from picolm_lib.course.checks.relations import relation
from picolm_lib.course.checks.structure import early_return, slip, structure
from picolm_lib.course.checks.values import difference, kind_error, same, shown
from picolm_lib.course.my_picolm.notebook import keep

IN_PLACE = ("whatever it returns, your function changes its input in place, and the caller still "
            "needs it. Make a new value instead.")
OTHER = "the answer is another one for this call."
# Characters that a learner's own prints may take up.
MOST_PRINTED = 1_000


@dataclass(frozen=True)
class Verdict:
    """What a check found. A notebook shows its text."""

    passed: bool
    message: str

    def __repr__(self) -> str:
        return self.message


@dataclass(frozen=True)
class Exercise:
    """A function to write.

    Args:
        reference: a correct one. The page goes on with it until the learner's is right.
        cases: makes the inputs, a list of argument tuples, the same at every call, the simplest
            first. They must be rich enough that each mistake differs from the reference in at
            least one of them.
        mistakes: message -> a function that makes this mistake.
        praise: the message for a correct answer.
        also: says what is wrong with a function whose values are right; None: nothing. It may
            raise whatever the function raises.
        part: the function's name in my_picolm.py, "" if it is not kept there.
    """

    reference: Callable
    cases: Callable[[], list[tuple]]
    mistakes: Mapping[str, Callable]
    praise: str = "Right."
    also: Callable[[Callable], str | None] | None = None
    part: str = ""

    def __call__(self, answer: Callable) -> Callable:
        """Says what is right or wrong, and returns the function to go on with.

        Returns:
            The learner's function if it is right, else the reference.
        """
        verdict = self.verdict(answer)
        name = self._name(answer)
        if not verdict.passed:
            print(f"{verdict}\nUntil yours is right, the notebook goes on with the course's "
                  f"`{name}`.")
            return self.reference
        kept = keep(self.part, answer) if self.part else ""
        print(f"{verdict} The notebook goes on with your `{name}`. {kept}".rstrip())
        return answer

    def verdict(self, answer: Callable) -> Verdict:
        """Checks the learner's function, on the CPU."""
        try:
            with torch.device("cpu"):
                return self._verdict(answer)
        # What a learner returns may raise wherever it is looked at.
        except Exception as error:
            return _no(f"what your function returns cannot be compared ({type(error).__name__}: "
                       f"{error}).")

    def _verdict(self, answer: Callable) -> Verdict:
        module = str(getattr(answer, "__module__", ""))
        if answer is self.reference or module.startswith("picolm_lib."):
            return Verdict(False, "Not yet: this is the course's own function. Write yours in the "
                                  "cell above, run it, and then this one.")
        if answer is None or answer is ...:
            return Verdict(False, f"Not yet: {STUB}")
        if not callable(answer):
            return Verdict(False, f"Not yet: the check needs your function itself, and this is "
                                  f"{shown(answer)}: leave out the round brackets after its name.")
        name, outcomes = self._name(answer), []
        for number, arguments in enumerate(self.cases()):
            outcomes.append(out := call(answer, arguments))
            if out.endless:
                right = self.reference(*self.cases()[number])
                return _no("\n".join([out.error, *self._evidence(name, out, right)]))
        if outcomes[0].unwritten:
            return Verdict(False, f"Not yet: {STUB}")
        wanted = [self.reference(*arguments) for arguments in self.cases()]
        fits = [not out.error and not out.unwritten and _is_right(out, right)
                for out, right in zip(outcomes, wanted, strict=True)]
        if all(fits):
            wrong = next((IN_PLACE for out in outcomes if out.changed), None)
            if wrong is None and self.also is not None:
                also = self.also
                out = run(answer, lambda: also(answer))
                wrong = out.error or out.value
            return _no(wrong) if wrong else Verdict(True, self.praise)
        sentence, place = self._diagnosis(answer, outcomes, wanted, fits)
        return _no("\n".join([sentence, *self._evidence(name, outcomes[place], wanted[place])]))

    def _diagnosis(self, answer: Callable, outcomes: list[Outcome], wanted: list,
                   fits: list[bool]) -> tuple[str, int]:
        """The likely mistake, and the number of the call that shows it."""
        first = fits.index(False)
        values = [i for i, out in enumerate(outcomes) if not fits[i] and not out.error]
        if sentence := slip(answer, outcomes[first].arguments) or self._named(outcomes):
            return sentence, first
        if len(values) > 1 and (sentence := self._named(outcomes, skip_errors=True)):
            return sentence, values[0]
        if sentence := early_return(answer):
            return sentence, first
        for place, (out, right) in enumerate(zip(outcomes, wanted, strict=True)):
            if not fits[place] and (sentence := _general(out, right, outcomes)):
                return sentence, place
        if any(out.changed for out in outcomes):
            return IN_PLACE, first
        sentence = structure(answer, wanted[first]) or relation(outcomes, wanted, fits)
        return sentence or OTHER, first

    def _name(self, answer: Callable) -> str:
        """What the learner calls the function."""
        name = getattr(answer, "__name__", "")
        plain = isinstance(answer, FunctionType) and name.isidentifier()
        return name if plain else self.part or self.reference.__name__

    def _named(self, outcomes: list[Outcome], skip_errors: bool = False) -> str | None:
        """The known mistake that returns the same in every call.

        Args:
            skip_errors: leave out the calls in which the learner's function stopped.
        """
        pairs = [(out, arguments) for out, arguments in zip(outcomes, self.cases(), strict=True)
                 if not (skip_errors and out.error)]
        return next((message for message, mistake in self.mistakes.items()
                     if all(_alike(out, call(mistake, arguments)) for out, arguments in pairs)),
                    None)

    def _evidence(self, name: str, out: Outcome, wanted: Any) -> list[str]:
        """The first call that went wrong, what was expected, what came, where they differ."""
        lines = ["", f"    {shown_call(name, self.reference, out.arguments)}",
                 f"    expected: {shown(wanted)}"]
        if not out.error and not out.unwritten:
            lines.append(f"    yours:    {shown(out.value)}")
            where = difference(out.value, wanted) if kind_error(out.value, wanted) is None else ""
            lines += [f"    first difference: {where}"] if where else []
        if out.printed:
            lines += ["    printed:  " + out.printed.rstrip()[:MOST_PRINTED].replace(
                "\n", "\n              ")]
        return lines


def _no(message: str) -> Verdict:
    return Verdict(False, f"Not right yet: {message}")


def _alike(given: Outcome, mistake: Outcome) -> bool:
    """Whether a known mistake does what the learner's function does."""
    if given.error or mistake.error:
        return bool(given.error) == bool(mistake.error)
    return same(given.value, mistake.value)


def _is_right(outcome: Outcome, wanted: Any) -> bool:
    return same(outcome.value, wanted) and kind_error(outcome.value, wanted) is None


def _general(out: Outcome, wanted: Any, outcomes: list[Outcome]) -> str | None:
    """An error, or a wrong kind of value, in one wrong call."""
    if out.unwritten:
        return "a part of your function still raises NotImplementedError, or returns `...`."
    if out.error:
        return out.error
    error = kind_error(out.value, wanted)
    if out.value is None and out.printed:
        return f"{error} It prints instead, and a caller cannot use what is printed."
    if out.value is None and not all(other.value is None for other in outcomes):
        return ("one way through your function ends without a `return`, so it returns nothing "
                "(None) there.")
    return error
