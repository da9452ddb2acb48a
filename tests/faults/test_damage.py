"""Every region of a run's files flipped or cut: the real commands refuse, or nothing changes."""

from __future__ import annotations

import pickle
import shutil

import pytest
import torch
from helpers import Evil, seal
from runs import assert_same, one_line, outcome

STORY = ["The", "--max-new-tokens", 4, "--temperature", 0]
REGIONS = 5


def damaged(content: bytes) -> list[bytes]:
    """Cut and flipped at the head, at the tail, and between."""
    size = len(content)
    places = sorted({0, 9, *(size * i // REGIONS for i in range(1, REGIONS)), size - 20, size - 1})
    flipped = [content[:p] + bytes([content[p] ^ 4]) + content[p + 1:] for p in places]
    return [*flipped, *(content[:p] for p in places)]


@pytest.fixture
def copy(home, whole, name):
    shutil.copytree(home.folder / "whole", home.folder / name)
    yield home.folder / name
    shutil.rmtree(home.folder / name)


def refusal(code: int, run, file: str) -> str:
    """What is wrong with how a command met a damaged file; nothing where it named it in a line."""
    if code != 2 or "Traceback" in run.complained:
        return f"exit code {code}: {run.complained[-600:]}"
    line = one_line(run)
    return "" if line.startswith("error: ") and file in line and line.endswith(".") else line


def test_a_damaged_checkpoint_is_refused_and_the_one_before_goes_on(home, whole, name, copy):
    path = copy / "resume.pt"
    content, wrong = path.read_bytes(), []
    for case in damaged(content):
        path.write_bytes(case)
        code, run = home.train(name, "--resume")
        wrong.append(refusal(code, run, "resume.pt"))
        assert "--resume-previous" in run.complained
    assert not any(wrong), wrong
    code, run = home.train(name, "--resume", "--resume-previous")
    assert code == 0, run.complained
    assert_same(outcome(copy), whole.outcome)


def test_damaged_weights_tell_no_story(home, name, copy):
    path = copy / "model.safetensors"
    wrong = []
    for case in damaged(path.read_bytes()):
        path.write_bytes(case)
        wrong.append(refusal(*home.train(name, *STORY, command="story"), "model.safetensors"))
    assert not any(wrong), wrong
    code, run = home.train(name, "--resume")                         # which writes them anew
    assert code == 0, run.complained
    assert home.train(name, *STORY, command="story")[0] == 0


@pytest.mark.parametrize("file", ["config.json", "tokenizer/tokenizer.json",
                                  "tokenizer/tokenizer_config.json"])
def test_a_damaged_text_file_is_named_or_does_no_harm(home, name, copy, file):
    """These carry no checksum, so another number in them can be as good as the right one."""
    code, right = home.train(name, *STORY, command="story")
    assert code == 0
    content, wrong, refused = (copy / file).read_bytes(), [], 0
    for case in damaged(content):
        (copy / file).write_bytes(case)
        code, run = home.train(name, *STORY, command="story")
        wrong.append(refusal(code, run, file.split("/")[0]) if code else "")
        refused += bool(code)
    assert not any(wrong), wrong
    assert refused >= REGIONS                                        # what is cut, at the least
    (copy / file).write_bytes(content)
    assert home.train(name, *STORY, command="story")[1].said == right.said


def test_damaged_metrics_stop_nobody(home, whole, name, copy):
    path = copy / "metrics.jsonl"
    content = path.read_bytes()
    for case in [*damaged(content), content + b"7\n[]\nnull\n{}\n\xff\xfe\n"]:
        path.write_bytes(case)
        code, run = home.train(name, "--resume")
        assert code == 0, run.complained
        assert_same(outcome(copy)[:2], whole.outcome[:2])


@pytest.mark.parametrize("plain", [True, False], ids=["pickle", "torch"])
def test_a_crafted_resume_file_is_refused_and_runs_nothing(home, name, copy, plain):
    path, touched = copy / "resume.pt", copy / "touched"
    evil = {**torch.load(path, weights_only=True), "model": Evil(touched)}
    if plain:
        path.write_bytes(pickle.dumps(evil))
    else:
        torch.save(evil, path)
    content = seal(path)
    assert not refusal(*home.train(name, "--resume"), "resume.pt")
    assert not touched.exists()
    torch.load(path, weights_only=False) if not plain else pickle.loads(content)
    assert touched.exists()                                          # it would have run


@pytest.mark.parametrize("change", [
    lambda state: state.pop("model"), lambda state: state["model"].popitem(),
    lambda state: state.update(model=3), lambda state: state["progress"].update(steps=3),
    lambda state: state.pop("progress"), lambda state: state.update(optimizer={})])
def test_a_well_formed_checkpoint_of_something_else_is_refused(home, name, copy, change):
    path = copy / "resume.pt"
    state = torch.load(path, weights_only=True)
    change(state)
    torch.save(state, path)
    seal(path)
    assert not refusal(*home.train(name, "--resume"), "resume.pt")
