"""The engine of the checks: whatever a learner writes is answered with a sentence."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch
from exercises import define

from picolm_lib.course.checks import Exercise, Patients, limits
from picolm_lib.course.checks import calls as calling
from picolm_lib.course.checks.counted import Counted
from picolm_lib.course.checks.relations import relation
from picolm_lib.course.checks.values import difference, kind_error, same, shown


def double(numbers: list[int], times: int) -> list[int]:
    return [times * number for number in numbers]


EXERCISE = Exercise(
    reference=double,
    cases=lambda: [([1, 2], 2), ([3], 1), ([], 5), ([1, 2, 3, 4], -3)],
    mistakes={"you added where you should multiply.":
              lambda numbers, times: [times + number for number in numbers]},
    praise="Right, each number.")


def told(body: str, name: str = "double") -> str:
    """What the check says of a function with this body."""
    lines = "".join(f"    {line}\n" for line in body.splitlines())
    return EXERCISE.verdict(define(f"def {name}(numbers, times):\n{lines}", name)).message


def test_it_returns_the_function_to_go_on_with(capsys):
    right = define("def double(numbers, times):\n    return [times * n for n in numbers]", "double")
    assert EXERCISE(right) is right
    assert capsys.readouterr().out == (
        "Right, each number. The notebook goes on with your `double`.\n")
    for body in ("raise NotImplementedError", "return numbers", "return 1 / 0"):
        wrong = define(f"def double(numbers, times):\n    {body}", "double")
        assert EXERCISE(wrong) is double
        assert "goes on with the course's `double`" in capsys.readouterr().out
    assert "Not yet" in EXERCISE.verdict(double).message


def test_a_wrong_answer_shows_the_call_what_was_expected_and_what_came():
    message = told("return [times * n for n in numbers] + [0] * (len(numbers) > 3)")
    assert message.splitlines() == [
        "Not right yet: there is one entry too many at the end.", "",
        "    double(numbers=[1, 2, 3, 4], times=-3)", "    expected: [-3, -6, -9, -12]",
        "    yours:    [-3, -6, -9, -12, 0]",
        "    first difference: 4 entries are expected, yours has 5"]
    assert "you added where you should multiply" in told("return [n + times for n in numbers]")


@pytest.mark.parametrize(("body", "phrase"), [
    ("pass", "needs a `return`"),
    ("print([times * n for n in numbers])", "a caller cannot use what is printed"),
    ("if numbers:\n    return [times * n for n in numbers]", "one way through your function"),
    ("return ...", "Not yet"),
    ("return (times * n for n in numbers)", "generator"),
    ("return map(lambda n: times * n, numbers)", "list(map(...))"),
    ("return tuple(times * n for n in numbers)", "yours is a tuple"),
    ("return torch.tensor(numbers) * times", ".tolist()"),
    ("return {times * n for n in numbers}", "a set"),
    ("return sum(numbers) * times", "a list is expected, yours is a whole number"),
    ("return double", "round brackets"),
    ("return [str(times * n) for n in numbers]", "should be a whole number, one of yours is a str"),
    ("numbers[:] = [times * n for n in numbers]\nreturn numbers", "in place"),
    ("raise NotImplementedError\nreturn numbers", "delete that line"),
    ("out = [times * n for n in numbers]\nraise NotImplementedError", "delete that line"),
    ("for n in numbers:\n    return [times * n]\nreturn []", "`return` stands within the loop"),
    ("sorted(numbers)\nreturn numbers", "`sorted(numbers)` is thrown away"),
    ("return [2 * n for n in numbers]", "never uses `times`"),
    ("while True:\n    pass", "does not end"),
    ("while numbers is not None:\n    times += 1", "does not end"),
    ("return double(numbers, times)", "calls itself without end"),
    ("return numbers[7]", "IndexError"), ("return numbers[7]", "in the line `return numbers[7]`"),
    ("return missing", "NameError"), ("exit()", "ends the whole notebook"),
    ("raise SystemExit(3)", "SystemExit"), ("raise GeneratorExit", "GeneratorExit"),
    ("times + 1\nreturn numbers", "returns its input as it was"),
    ("return [0 * len(numbers) * times]", "answers the same, whatever it is given"),
    ("return [times * n for n in numbers][::-1]", "in reverse order"),
    ("return [times * n for n in numbers][:-1]", "the last entry is missing"),
])
def test_every_answer_gets_its_sentence(body, phrase):
    assert phrase in told(body)


def test_what_is_no_function_and_what_takes_other_arguments():
    assert "round brackets" in EXERCISE.verdict([2, 4]).message
    assert "takes (a)" in EXERCISE.verdict(define("def double(a):\n    return a", "double")).message
    assert "takes (a, b, c)" in EXERCISE.verdict(lambda a, b, c: a).message


def test_an_except_does_not_hide_that_a_loop_never_ends():
    body = "while True:\n    try:\n        times += 1\n    except {}:\n        pass"
    assert "does not end" in told(body.format("Exception"))
    for everything in ("", "BaseException"):
        assert "catches everything" in told(body.format(everything))


def test_a_bare_except_that_cannot_hide_an_end_is_no_mistake():
    for body in ("out = []\nfor n in numbers:\n    try:\n        out.append(n * times)\n"
                 "    except:\n        pass\nreturn out",
                 "out = []\nwhile True:\n    try:\n        out.append(numbers[len(out)] * times)\n"
                 "    except:\n        return out"):
        assert told(body) == "Right, each number."


@pytest.mark.parametrize("code", [
    "@torch.no_grad()\ndef double(numbers, times):\n    while times:\n        pass",
    "class Double:\n    def __call__(self, numbers, times):\n        while times:\n"
    "            pass\ndouble = Double()",
    "import time\ndef double(numbers, times):\n    while times:\n        time.sleep(0.01)"])
def test_a_loop_ends_where_lines_are_not_counted(code, monkeypatch):
    monkeypatch.setattr(limits, "MOST_SECONDS", 0.5)
    monkeypatch.setattr(limits, "MOST_LINES", 10**9)
    assert "end" in EXERCISE.verdict(define(code, "double")).message


def test_a_loop_in_the_last_question_of_a_check_is_ended_too():
    check = replace(EXERCISE, also=lambda answer: answer([1] * 1_000, 2) and None)
    body = "    while len(numbers) > 100:\n        pass\n    return [times * n for n in numbers]"
    assert "does not end" in check.verdict(define(f"def double(numbers, times):\n{body}", "double")
                                           ).message


def test_a_list_that_grows_from_call_to_call_is_seen_as_it_was():
    message = EXERCISE.verdict(define(
        "def double(numbers, times, out=[]):\n    out += [times * n for n in numbers]\n"
        "    return out", "double")).message
    assert "expected: [3]" in message and "yours:    [2, 4, 3]" in message


def test_a_result_of_a_million_entries_is_told_at_once():
    assert "should be a whole number" in told("return [str(times)] * (10**6 + len(numbers))")
    assert len(told("return [0] * (10**6 + len(numbers) * times)")) < 1_000


def test_whole_numbers_of_numpy_are_whole_numbers():
    assert EXERCISE.verdict(lambda numbers, times: [np.int64(times * n) for n in numbers]).passed


def test_a_function_of_the_course_is_not_called_the_learners():
    assert "the course's own" in EXERCISE.verdict(relation).message
    assert EXERCISE.verdict(None).message.startswith("Not yet")


def test_work_in_place_within_a_function_is_no_slip():
    body = ("out = []\ndef walk(i):\n    if i < len(numbers):\n"
            "        out.append(numbers[i] + times)\n        walk(i + 1)\nwalk(0)\nreturn out")
    assert "added where you should multiply" in told(body)


def test_values_that_cannot_be_compared_are_no_traceback():
    class Odd:
        def __eq__(self, other):
            raise RuntimeError("no")

    assert not EXERCISE.verdict(lambda numbers, times: [Odd()]).passed
    assert not EXERCISE.verdict(lambda numbers, times: torch.zeros(2, 2)).passed


def test_what_the_learner_prints_is_shown_only_if_it_is_wrong(capsys):
    assert "hello" in told("print('hello')\nreturn numbers")
    right = define("def double(numbers, times):\n    print('hello')\n"
                   "    return [times * n for n in numbers]", "double")
    EXERCISE(right)
    assert "hello" not in capsys.readouterr().out


@pytest.mark.parametrize(("given", "wanted", "phrase"), [
    (1.0, torch.zeros(3), "yours is one Python number"),
    (torch.zeros(13), 1.0, "yours is a tensor of shape (13,): 13 numbers"),
    (torch.tensor(2.0), 1.0, ".item()"), (np.zeros(2), torch.zeros(2), "torch.from_numpy"),
    ([torch.zeros(2)], torch.zeros(1, 2), "torch.stack"), ([1.0], torch.zeros(1), "torch.tensor"),
    (torch.zeros(()), torch.zeros(3), "sum or mean"), ([1, 2], 3, "with 2 entries"),
    (2.0, 2, "whole number"), (torch.zeros(2, 3), (torch.zeros(3), torch.zeros(3)), "stacked"),
    (torch.zeros(3), (torch.zeros(3), torch.zeros(3)), "yours is only one"),
    ((1, 2, 3), (1, 2), "2 values are expected, yours are 3"),
    ((torch.zeros(2), None), (torch.zeros(2), 1), "number 2: your function returns nothing"),
    (b"a", "a", ".decode()"), (["a"], "a", "joined"), ([1], {1: 2}, "a dictionary is expected"),
    (torch.zeros(2, dtype=torch.float64), torch.zeros(2), "torch.float32"), (1, True, "True or"),
])
def test_kinds_of_values_have_their_sentence(given, wanted, phrase):
    assert phrase in kind_error(given, wanted)


def test_equal_values_are_of_no_wrong_kind():
    for value in (1, 1.5, "a", [1], [], (1, 2), {1: 2}, torch.zeros(2), True, [(1, 2)], [[1], [2]]):
        assert same(value, value) and kind_error(value, value) is None
    assert same(0.1 + 0.2, 0.3) and not same(1.0, 1) and not same(True, 1)
    assert same(np.float32(0.5), 0.5) and same(float("nan"), float("nan"))
    assert not same(torch.zeros(2), torch.zeros(2, 1)) and not same([1], [1, 2])


@pytest.mark.parametrize(("given", "wanted", "text"), [
    (torch.tensor([1.0, 2.0]), torch.tensor([1.0, 3.0]), "1 of 2 numbers differ, the first one at "
     "[1]: 3 is expected, yours is 2"),
    ("abc", "abd", "at character 2: 'd' is expected, yours has 'c'"),
    ("ab", "abd", "at character 2: 'd' is expected, yours has nothing more"),
    ([1, 2], [1, 3], "at [1]: 3 is expected, yours is 2"),
    ({1: 2}, {1: 3}, "1: 3 is expected, yours is 2"), ({}, {1: 3}, "1: 3 is expected, yours has no "
                                                       "such entry"),
    (torch.tensor(1.0), torch.tensor(2.0), ""), (1.0, 2.0, ""),
])
def test_the_first_difference(given, wanted, text):
    assert difference(given, wanted) == text


@pytest.mark.parametrize(("wrong", "phrase"), [
    (lambda x: -x, "the sign is wrong"), (lambda x: 2 * x, "2 times too large"),
    (lambda x: x.T, "transposed"), (lambda x: x.flip(1), "reverse order along axis 1"),
    (lambda x: x.roll(1, 0), "shifted by one place along axis 0"), (lambda x: x * 0, "are 0"),
    (lambda x: x[None], "too many axes"), (lambda x: x.flatten(), "one long row"),
    (lambda x: x[:, :-1], "the end is missing"), (lambda x: x / 0, "nan"),
])
def test_relations_of_tensors(wrong, phrase):
    values = [torch.tensor([[0.0, 1, 2], [3, 4, 6], [5, 9, 7]]), torch.arange(20.0).view(4, 5)]
    outcomes = [calling.Outcome((), wrong(value)) for value in values]
    assert phrase in relation(outcomes, values, [False, False])


def test_a_relation_must_hold_for_every_wrong_answer():
    outcomes = [calling.Outcome((), 2.0), calling.Outcome((), 5.0)]
    assert relation(outcomes, [1.0, 3.0], [False, False]) is None
    assert "twice as large" in relation(outcomes, [1.0, 2.5], [False, False])


def test_a_table_counts_its_look_ups():
    table = Counted({1: 2, 3: 4})
    assert 1 in table and table.get(3) == 4 and table[1] == 2 and table.looked_up == 3
    assert list(table) == [1, 3] and table.looked_up == 5
    assert sorted(table.items()) == [(1, 2), (3, 4)] and table.looked_up == 7
    assert 3 in table.keys() and table.looked_up == 8  # noqa: SIM118


def test_values_are_shown_whole_or_by_their_kind():
    assert shown(torch.arange(3)) == "tensor([0, 1, 2])"
    assert shown(torch.zeros(4, 5)) == "a tensor of shape (4, 5)"
    assert shown((torch.zeros(1), 2)) == "(tensor([0.0]), 2)"
    assert len(shown(list(range(1_000)))) <= 76 and shown(1 / 3) == "0.333333"


@pytest.fixture
def hunt() -> Patients:
    """Numbers as patients: A is 1 too large, B is healthy, C has the wrong sign."""
    return Patients(
        patients={"A": 6, "B": 5, "C": -5}, praise="All three.",
        probes={"size": lambda p: str(abs(p)), "sign": lambda p: str(p > 0),
                "kind": lambda p: "int"},
        faults={"large": "too large", "negative": "wrong sign", "odd": "not even"},
        shows={"large": ("size",), "negative": ("sign",), "odd": ("size",)},
        truth={"A": "large", "B": "healthy", "C": "negative"})


RIGHT = {"A": ("large", "size"), "B": "healthy", "C": ("negative", "sign")}


def test_a_diagnosis_needs_evidence(hunt, capsys):
    assert hunt.verdict({}).message.startswith("Not yet")
    assert hunt.verdict(dict.fromkeys("ABC", ...)).message.startswith("Not yet")
    assert "have not run it on A" in hunt.verdict(RIGHT).message
    for patient in "ABC":
        for probe in ("size", "sign"):
            hunt.probe(patient, probe)
    assert "patient C, sign:\nFalse" in capsys.readouterr().out
    assert hunt.verdict(RIGHT).passed
    hunt(RIGHT)
    assert capsys.readouterr().out == "All three.\n"


@pytest.mark.parametrize(("patient", "said", "phrase"), [
    ("A", "healthy", "you call it healthy. One"), ("A", ("negative", "sign"), "looks healthy"),
    ("A", ("odd", "size"), "not this"), ("A", ("large", "sign"), "cannot show"),
    ("A", ("large", ""), "write the probe"), ("A", ("small", "size"), "is no fault"),
    ("A", ("large", "kind"), "have not run it"), ("B", ("large", "size"), "looks healthy"),
])
def test_a_wrong_diagnosis_is_told_why_and_not_the_right_one(hunt, patient, said, phrase):
    for name in "ABC":
        for probe in ("size", "sign"):
            hunt.probe(name, probe)
    message = hunt.verdict({**RIGHT, patient: said}).message
    assert phrase in message and f"patient {patient}" in message
    if said[0] != "large":
        assert "too large" not in message


def test_a_diagnosis_may_be_written_in_lists_and_capitals(hunt, capsys):
    for patient in "abc":
        for probe in ("Size ", "sign"):
            hunt.probe(patient, probe)
    said = {"A": ["Large", "Size"], "B": ("healthy",), "C": ("negative", "sign ")}
    assert hunt.verdict(said).passed
    hunt.probe(["A"], None)
    assert "Choose a patient of A, B, C" in capsys.readouterr().out


def test_calling_it_healthy_needs_every_telling_probe(hunt):
    hunt.probe("A", "size"), hunt.probe("C", "sign"), hunt.probe("B", "size")
    assert "sign" in hunt.verdict(RIGHT).message
    hunt.probe("B", "sign")
    assert hunt.verdict(RIGHT).passed
