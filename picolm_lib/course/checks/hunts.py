"""Bug hunts: the learner examines, names a suspect, and shows evidence."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

from picolm_lib.course.checks.exercise import Verdict

HEALTHY = "healthy"


@dataclass(frozen=True)
class BugHunt:
    """A bug to find among suspects.

    Args:
        culprit: the right suspect.
        alibis: the other suspects -> what the plots would show if one of them were the bug.
        praise: the message for the right answer.
    """

    culprit: str
    alibis: Mapping[str, str]
    praise: str

    def __call__(self, suspect: str | None) -> Verdict:
        """Checks the name of a suspect."""
        if suspect is None or suspect is ... or suspect == "":
            return Verdict(False, "Not yet: name your suspect in this cell, then run it again.")
        name = str(suspect).strip().lower()
        if name == self.culprit:
            return Verdict(True, self.praise)
        if name in self.alibis:
            return _no(self.alibis[name])
        names = ", ".join(sorted([self.culprit, *self.alibis]))
        return _no(f"{suspect!r} is not one of the suspects: {names}.")


@dataclass
class Patients:
    """Several patients, one of them healthy, and probes to examine them with.

    A diagnosis is a fault *and* a probe that was run on this patient and shows it. So one cannot
    guess through the list.

    Args:
        patients: name -> patient.
        probes: name -> a function that examines a patient and returns what it sees.
        faults: name -> the fault in a sentence; more than the patients have.
        shows: fault -> the probes that show it.
        truth: patient -> its fault, or "healthy".
        praise: the message for the right diagnosis.
    """

    patients: Mapping[str, Any]
    probes: Mapping[str, Callable[[Any], str]]
    faults: Mapping[str, str]
    shows: Mapping[str, tuple[str, ...]]
    truth: Mapping[str, str]
    praise: str
    _run: set[tuple[str, str]] = field(default_factory=set)

    def probe(self, patient: str, name: str) -> None:
        """Runs a probe on a patient and prints what it sees."""
        patient, name = str(patient).strip().upper(), str(name).strip().lower()
        if patient not in self.patients or name not in self.probes:
            print(f"Choose a patient of {', '.join(self.patients)}, and a probe of "
                  f"{', '.join(self.probes)}.")
            return
        self._run.add((patient, name))
        print(f"patient {patient}, {name}:\n{self.probes[name](self.patients[patient])}")

    def __call__(self, diagnosis: Mapping[str, Any]) -> None:
        """Prints what is right or wrong about a diagnosis."""
        print(self.verdict(diagnosis))

    def verdict(self, diagnosis: Mapping[str, Any]) -> Verdict:
        """Checks a diagnosis: {patient: (fault, probe that shows it)}, or ("healthy", "")."""
        said = diagnosis if isinstance(diagnosis, Mapping) else {}
        if any(said.get(name) is None or said[name] is ... or said[name] == ""
               for name in self.patients):
            return Verdict(False, "Not yet: examine the patients, write a fault and a probe for "
                                  f"each of {', '.join(self.patients)}, then run this cell again.")
        for name in self.patients:
            words = [said[name]] if isinstance(said[name], str) else list(said[name])
            fault, probe = (str(word).strip().lower() for word in [*words, "", ""][:2])
            if problem := self._problem(name, fault, probe):
                return _no(f"patient {name}: {problem}")
        return Verdict(True, self.praise)

    def _problem(self, name: str, fault: str, probe: str) -> str | None:
        """What is wrong with one diagnosis; it does not tell the right one."""
        if fault != HEALTHY and fault not in self.faults:
            return f"{fault!r} is no fault of the list: {', '.join(self.faults)}, {HEALTHY}."
        if fault == HEALTHY:
            missing = [other for other in self._telling() if (name, other) not in self._run]
            if missing:
                return (f"you call it healthy, and have not run every probe that could show a "
                        f"fault: {', '.join(missing)}.")
            return None if self.truth[name] == HEALTHY else (
                "you call it healthy. One of its probes shows otherwise: compare each with what "
                "the others show.")
        if probe not in self.probes:
            return (f"write the probe that shows it, as in ({fault!r}, 'the probe'): one of "
                    f"{', '.join(self.probes)}.")
        if (name, probe) not in self._run:
            return f"you name the probe {probe!r}, and have not run it on {name}."
        if probe not in self.shows[fault]:
            return f"the probe {probe!r} cannot show this fault: {self.faults[fault]}"
        if self.truth[name] == fault:
            return None
        healthy = next(n for n in self.patients if self.truth[n] == HEALTHY)
        if self.probes[probe](self.patients[name]) == self.probes[probe](self.patients[healthy]):
            return f"under the probe {probe!r} it looks healthy, so this is no evidence."
        return (f"the probe {probe!r} does show that something is wrong here, but it is not this: "
                f"{self.faults[fault]} Read once more what it shows.")

    def _telling(self) -> list[str]:
        """One probe for each fault."""
        return sorted({self.shows[fault][0] for fault in self.faults})


def _no(message: str) -> Verdict:
    return Verdict(False, f"Not right yet: {message}")
