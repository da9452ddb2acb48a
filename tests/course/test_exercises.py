"""The exercises of all notebooks: right answers pass, wrong ones are told their mistake."""

from __future__ import annotations

import importlib
import re

import answers_tokens
import build
import pytest
import torch
from answers import RIGHT, WRONG
from exercises import define, exercises

EXERCISES = [pytest.param(found, id=f"{source.stem[:2]}-{found.name}")
             for source in build.SOURCES for found in exercises(source)]
every_exercise = pytest.mark.parametrize("exercise", EXERCISES)


def run(code: str, name: str):
    return define(re.sub(r"^(\w+ = checks\.|from picolm_lib).*$", "", code, flags=re.MULTILINE),
                  name)


def checks(folder: str):
    return importlib.import_module(f"picolm_lib.course.{folder}.checks")


def test_every_notebook_has_some():
    for source in build.SOURCES:
        assert len(exercises(source)) >= 2, source.stem


@every_exercise
def test_the_solution_passes_and_the_stub_waits(exercise):
    verdict = exercise.check.verdict(run(exercise.solution, exercise.function))
    assert verdict.passed, verdict.message
    verdict = exercise.check.verdict(run(exercise.stub, exercise.function))
    assert not verdict.passed and verdict.message.startswith("Not yet")


@every_exercise
def test_the_checks_tell_their_mistakes_apart(exercise):
    assert len(exercise.check.mistakes) >= 5
    for message, mistake in exercise.check.mistakes.items():
        verdict = exercise.check.verdict(lambda *a, wrong=mistake: (wrong(*a)))
        assert not verdict.passed
        assert message in verdict.message, message


@every_exercise
def test_an_unforeseen_answer_an_error_and_a_changed_input(exercise):
    check, right = exercise.check, run(exercise.solution, exercise.function)
    assert "Not right yet" in check.verdict(lambda *a: "nonsense").message
    assert "KeyError" in check.verdict(lambda *a: {}["x"]).message

    def spoiling(first, *rest):
        answer = right(first, *rest)
        if isinstance(first, torch.Tensor):
            first.add_(1)
        elif isinstance(first, list):
            first.append(0)
        return answer

    first = check.cases()[0][0]
    if isinstance(first, (torch.Tensor, list)):
        assert "in place" in check.verdict(spoiling).message


@pytest.mark.parametrize(("folder", "exercise", "answer", "phrase"), [
    pytest.param(*where, answer, phrase, id=f"{'-'.join(where)}-{phrase}")
    for where, answers in WRONG.items() for answer, phrase in answers])
def test_a_wrong_answer_is_told_its_mistake(folder, exercise, answer, phrase):
    verdict = getattr(checks(folder), exercise).verdict(answer)
    assert not verdict.passed and phrase.lower() in verdict.message.lower(), verdict.message


@pytest.mark.parametrize("where", RIGHT, ids="-".join)
def test_another_right_answer_passes(where):
    verdict = getattr(checks(where[0]), where[1]).verdict(RIGHT[where])
    assert verdict.passed, verdict.message


@pytest.mark.parametrize(("name", "phrase", "code"), answers_tokens.WRONG)
def test_a_learners_wrong_answer_is_told_its_mistake(name, phrase, code):
    verdict = getattr(checks("tokens"), name).verdict(define(code, name.removeprefix("quick_")))
    assert not verdict.passed and phrase in verdict.message, verdict.message


@pytest.mark.parametrize(("name", "code"), answers_tokens.RIGHT)
def test_a_learners_right_answer_passes(name, code):
    verdict = getattr(checks("tokens"), name).verdict(define(code, name.removeprefix("quick_")))
    assert verdict.passed, verdict.message


# folder -> the culprit, and the other suspects with a phrase of what their alibi says.
HUNTS = {"attention": ("rope", {"mask": "plot A", "qk_norm": "plot C"}),
         "pyramid": ("seed", {"pyramid": "plot B", "std": "plot A"}),
         "muon": ("output", {"half": "plot C", "seed": "1.00"}),
         "training": ("leak", {"endless": "left plot", "clip": "dotted"})}


@pytest.mark.parametrize("folder", HUNTS)
def test_a_bug_hunt_acquits_the_innocent_with_what_its_plots_show(folder):
    hunt, (culprit, alibis) = checks(folder).bug_hunt, HUNTS[folder]
    assert hunt(culprit).passed
    for suspect, phrase in alibis.items():
        assert not hunt(suspect).passed and phrase in hunt(suspect).message
    assert "not one of" in hunt("nobody").message
    assert hunt(None).message.startswith("Not yet")
