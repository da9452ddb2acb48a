"""What README.md and CONTRIBUTING.md promise: each command runs, each file and target is there.

The README's commands run here one after the other in one folder, as a reader types them, with
options behind them that make the models small. What sets up and tests (make, pip, pytest) is what
.ci/run does.
"""

from __future__ import annotations

import re
import shlex
import subprocess
import sys
from dataclasses import fields

import pytest
from helpers import ROOT, STORIES, isolate
from processes import start

from picolm_lib.commands.main import COMMANDS, main
from picolm_lib.config import PicoConfig, TrainConfig

README, CONTRIBUTING = ((ROOT / name).read_text() for name in ("README.md", "CONTRIBUTING.md"))
MAKEFILE, CI = ((ROOT / name).read_text() for name in ("Makefile", ".ci/run"))
TARGETS = set(re.findall(r"^([a-z-]+):", MAKEFILE, re.MULTILINE))
# First words of a command -> options that make it small.
SMALL_RUN = ["--n-layers", "1", "--d-model", "16", "--n-heads", "2", "--max-seq-len", "64",
             "--batch-size", "4", "--max-steps", "2", "--eval-tokens", "64", "--device", "cpu"]
SMALL = {
    "picolm train --preset nano": [*SMALL_RUN, "--storybook-stories", "200"],
    "picolm train --data": SMALL_RUN,
    "picolm train --run": ["--max-steps", "3"],
    "picolm generate": ["--max-new-tokens", "9", "--device", "cpu"],
    "picolm evaluate": ["--questions", "12", "--device", "cpu"],
    "picolm estimate": [],
    "picolm tokenizer": [],
    "picolm export": [],
    "torchrun": [*SMALL_RUN, "--micro-batch-size", "2", "--data", "my_texts",
                 "--tokenizer", "bpe:300"],
}


def blocks(language: str, text: str = README) -> list[str]:
    return re.findall(rf"^```{language}\n(.+?)^```$", text, re.MULTILINE | re.DOTALL)


def commands(text: str = README) -> list[str]:
    """Lines of all shell blocks, without their comments."""
    return [line.split(" #")[0].strip() for block in blocks("bash", text)
            for line in block.splitlines()]


def test_it_is_short():
    assert len(README.splitlines()) <= 150


def test_setting_up_and_testing_is_what_continuous_integration_does():
    by_hand = [line for line in commands() if not line.startswith(tuple(SMALL))]
    assert [line.split()[0] for line in by_hand] == ["git", "make", "make", "python3", "pip",
                                                     "pytest"]
    assert re.findall(r"^step (\w+)$", CI, re.MULTILINE)[:2] == ["train", "test"]
    assert "-r requirements.txt -c tests/constraints.txt" in by_hand[4]
    assert "--requirement requirements.txt --constraint tests/constraints.txt" in re.sub(
        r"\\\n\s*", "", MAKEFILE)
    assert "run_train.py --preset nano --resume" in MAKEFILE


def test_every_command_runs_as_it_stands(tmp_path, monkeypatch, capsys):
    isolate(monkeypatch, tmp_path / "caches")
    monkeypatch.chdir(tmp_path)
    (tmp_path / "my_texts").mkdir()
    (tmp_path / "my_texts" / "stories.txt").write_text("\n\n".join(STORIES))
    lines = [line for line in commands() if line.startswith(tuple(SMALL))]
    assert {line.split()[1] for line in lines if line.startswith("picolm")} == (
        COMMANDS.keys() - {"bundle"})
    for line in lines:
        words = shlex.split(line) + next(SMALL[key] for key in SMALL if line.startswith(key))
        if words[0] == "torchrun":
            script, options = words.index("run_train.py"), words[words.index("run_train.py") + 1:]
            assert words[:script] == ["torchrun", "--nproc-per-node", "2", "--"]
            done = start(tmp_path, 2, ROOT / "run_train.py", *options)
            assert done.returncode == 0, done.stderr
        else:
            monkeypatch.setattr(sys, "argv", words)
            try:
                main()
            except SystemExit as end:
                assert not end.code, f"{line}: {capsys.readouterr().err}"
    for name in ("runs/nano", "runs/mine", "runs/pico"):
        assert (tmp_path / name / "model.safetensors").exists()
    assert (tmp_path / "my_tokenizer" / "tokenizer.json").exists()
    capsys.readouterr()
    for code in blocks("python"):
        exec(code, {})
    assert capsys.readouterr().out.startswith("Once upon a time")


@pytest.mark.parametrize("text", [README, CONTRIBUTING], ids=["readme", "contributing"])
def test_targets_scripts_links_and_files_exist(text):
    named = set(re.findall(r"(?:^|`)make ([a-z-]+(?: [a-z]+)*)", text, re.MULTILINE))
    assert named and {target for words in named for target in words.split()} <= TARGETS, named
    for script in re.findall(r"python ([\w/]+\.py)", text):
        assert (ROOT / script).exists(), script
    for link in re.findall(r"\]\(([^)#:]+)\)", text):
        assert (ROOT / link).exists(), link
    for path in re.findall(r"(?:^|`|\s)((?:tests|picolm_lib|notebooks|\.ci)/[\w./-]+)", text):
        assert (ROOT / path).exists(), path


def test_options_in_the_text_are_options_of_training():
    known = {field.name.replace("_", "-") for config in (TrainConfig, PicoConfig)
             for field in fields(config)} | {"preset", "run", "resume", "help"}
    named = set(re.findall(r"--([a-z][a-z-]+)", " ".join(re.findall(r"`[^`\n]+`", README))))
    assert len(named) > 5 and named <= known, named - known


def test_what_is_where_names_files_that_are_there():
    tree, folder = README.split("```\nnotebooks/src/")[1].split("```")[0], ROOT / "notebooks"
    for line in tree.splitlines()[1:]:
        name, _, words = line.strip().partition(" ")
        if line[0] != " ":
            folder = ROOT / name
        assert (folder / name if line[0] == " " else folder).exists(), line
        for file in re.findall(r"\w+\.py", words):
            assert (folder / file).exists(), file
        if name in ("model/", "data/", "train/"):
            for module in re.findall(r"(\w+)(?: \([^)]*\))?(?:,|;|$)", words.split("; *_")[0]):
                assert (folder / name / f"{module}.py").exists(), module


def test_contributing_names_what_continuous_integration_runs():
    rows = re.findall(r"^\| `make (test[a-z-]*)` \|", CONTRIBUTING, re.MULTILINE)
    steps = re.findall(r"^step (test[a-z-]*)$", CI, re.MULTILINE)
    assert rows[:len(steps)] == steps
    assert f"the first {['', 'one', 'two', 'three', 'four', 'five'][len(steps)]}" in CONTRIBUTING


def test_the_scripts_are_the_commands():
    """--dry-run, as `run_train.py` has had it, and the help that the README names."""
    for words in (["run_train.py", "--preset", "pico", "--help"], ["inference.py", "--help"]):
        done = subprocess.run([sys.executable, *words], cwd=ROOT, capture_output=True, text=True)
        assert done.returncode == 0 and "usage:" in done.stdout, done.stderr
