"""The commands from end to end: what they write, what they print, and mistakes in one line each."""

from __future__ import annotations

import ast
import io
import json
import os
import re
import shutil
import subprocess
import sys
from contextlib import redirect_stderr, redirect_stdout
from pathlib import Path

import pytest
import torch
from helpers import ROOT, SHARED, STORIES, bpe, isolate
from safetensors.torch import load_file

from picolm_lib import config
from picolm_lib.cli import run_command
from picolm_lib.commands.evaluate import evaluate_command
from picolm_lib.commands.story import story_command
from picolm_lib.commands.tokenizer import tokenizer_command
from picolm_lib.commands.train import train_command
from picolm_lib.report import read_metrics
from picolm_lib.tokenizer import load_tokenizer

TINY = ["--preset", "smoke", "--n-layers", "1", "--d-model", "16", "--n-heads", "2",
        "--max-seq-len", "16", "--batch-size", "4", "--dtype", "float32", "--device", "cpu",
        "--evals", "1", "--eval-tokens", "64", "--prompt", "The", "--max-steps", "6"]


@pytest.fixture(scope="module", autouse=True)
def home(tmp_path_factory):
    """A folder with caches, data of every kind and a tokenizer, for all tests of this file."""
    import pyarrow
    import pyarrow.parquet

    folder = tmp_path_factory.mktemp("commands")
    with pytest.MonkeyPatch.context() as monkeypatch:
        isolate(monkeypatch, folder / "caches")
        (folder / "stories.txt").write_text("\n\n".join(STORIES))
        (folder / "stories.jsonl").write_text(
            "".join(json.dumps({"text": story}) + "\n" for story in STORIES))
        pyarrow.parquet.write_table(pyarrow.table({"text": STORIES}), folder / "stories.parquet")
        bpe().save_pretrained(folder / "tokenizer")
        yield folder


def run(command, *argv: object) -> tuple[int, str, str]:
    """Runs a command as its script does: (exit code, output, errors)."""
    out, err, code = io.StringIO(), io.StringIO(), 0
    with pytest.MonkeyPatch.context() as monkeypatch, redirect_stdout(out), redirect_stderr(err):
        monkeypatch.setattr(sys, "argv", ["script", *map(str, argv)])
        try:
            run_command(command)
        except SystemExit as end:
            code = end.code or 0
    return code, out.getvalue(), err.getvalue()


def run_script(*words: object, **environment: str) -> subprocess.CompletedProcess:
    return subprocess.run([sys.executable, *map(str, words)], cwd=ROOT, text=True, check=False,
                          capture_output=True, stdin=subprocess.DEVNULL, env={
                              **os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": str(ROOT),
                              **environment})


def mistake(outcome: tuple[int, str, str]) -> str:
    """The one line on standard error of a command that failed."""
    code, _, errors = outcome
    assert code == 2, errors
    line, = errors.splitlines()
    assert line.startswith("error: ") and line.endswith("."), line
    return line


def train(home: Path, folder: Path, *more: object) -> tuple[int, str, str]:
    return run(train_command, *TINY, "--data", home / "stories.txt", "--tokenizer",
               home / "tokenizer", "--run", folder, *more)


@pytest.fixture(scope="module")
def trained(home):
    """A finished run of six steps."""
    code, _, errors = train(home, home / "trained", "--checkpoint-minutes", "1e-9")
    assert code == 0, errors
    return home / "trained"


# --- options -------------------------------------------------------------------------------------

@pytest.mark.parametrize(("command", "argv", "words"), [
    (train_command, ["--max-stepps", "3"], ("--max-stepps", "did you mean --max-steps")),
    (train_command, ["--max_stepps=3"], ("--max_stepps", "did you mean --max-steps")),
    (train_command, ["--preset", "nanno"], ("'nanno'", "did you mean nano", "planned")),
    (train_command, ["--preset=picko"], ("'picko'", "did you mean pico")),
    (train_command, ["--max-steps", "many"], ("--max-steps", "many")),
    (train_command, ["--max-steps"], ("--max-steps",)),
    (train_command, ["--max-steps", "-3"], ("max_steps", "-3")),
    (train_command, ["--warmup", "nan"], ("warmup", "finite")),
    (train_command, ["--dtype", "float8"], ("--dtype", "float8", "bfloat16")),
    (train_command, ["--n-heads", "3", "--d-model", "64"], ("n_heads (3)", "d_model (64)")),
    (train_command, ["word"], ("'word'",)),
    (train_command, ["--device", "abacus"], ("'abacus'",)),
    (story_command, ["--temprature", "1"], ("--temprature", "did you mean --temperature")),
    (story_command, ["Once", "upon"], ("'upon'", "quotes")),
    (story_command, ["--temperature", "-1"], ("temperature", "-1")),
    (story_command, ["--temperature", "nan"], ("temperature",)),
    (story_command, ["--top-p", "0"], ("top_p",)),
    (story_command, ["--top-p", "1.5"], ("top_p",)),
    (story_command, ["--top-k", "-1"], ("top_k",)),
    (story_command, ["--min-p", "2"], ("min_p",)),
    (story_command, ["--repetition-penalty", "0"], ("repetition_penalty",)),
    (story_command, ["--max-new-tokens", "0"], ("max_new_tokens",)),
    (story_command, ["--num-samples", "0"], ("num_samples",)),
    (evaluate_command, ["--splitt", "all"], ("--splitt", "did you mean --split")),
    (evaluate_command, ["--split", "test"], ("--split", "test", "validation")),
    (tokenizer_command, ["--vocab", "300"], ("--vocab", "did you mean --vocab-size")),
])
def test_a_mistake_is_answered_in_one_line(tmp_path, monkeypatch, command, argv, words):
    monkeypatch.chdir(tmp_path)
    line = mistake(run(command, *argv))
    assert all(word in line for word in words), line
    assert not list(tmp_path.iterdir())


def test_a_script_answers_in_one_line_too():
    done = run_script("run_train.py", "--max-stepps", "3")
    assert "did you mean" in mistake((done.returncode, done.stdout, done.stderr))


def test_no_library_adds_lines_of_its_own_about_a_damaged_file(tmp_path):
    (tmp_path / "a.jsonl").write_text('{"text": "a"}\n{"text": broken\n')
    done = run_script("run_train.py", "--data", tmp_path / "a.jsonl", "--run", tmp_path / "run")
    assert "a.jsonl" in mistake((done.returncode, done.stdout, done.stderr))


def docstrings(name: str) -> dict[str, str]:
    """What stands below each field of a dataclass of config.py."""
    tree = ast.parse(Path(config.__file__).read_text())
    body = next(node.body for node in tree.body if getattr(node, "name", "") == name)
    return {field.target.id: ast.literal_eval(text.value)
            for field, text in zip(body, body[1:], strict=False)
            if isinstance(field, ast.AnnAssign) and isinstance(text, ast.Expr)}


def help_text(monkeypatch, command, *argv: str) -> str:
    monkeypatch.setenv("COLUMNS", "160")
    code, out, errors = run(command, *argv, "--help")
    assert (code, errors) == (0, "")
    return " ".join(re.sub(r"[│╭╮╰╯─]", " ", out).split())


@pytest.mark.parametrize("preset", config.PRESETS)
def test_help_lists_every_field_with_its_meaning_and_the_presets_value(monkeypatch, preset):
    text = help_text(monkeypatch, train_command, "--preset", preset)
    for part in (config.PRESETS[preset].model, config.PRESETS[preset].train):
        meanings = docstrings(type(part).__name__)
        assert meanings.keys() == vars(part).keys()
        for name, value in vars(part).items():
            default = f"'{value}'" if isinstance(value, str) and " " in value else value
            option = re.escape("--" + name.replace("_", "-"))
            meaning = re.escape(" ".join(meanings[name].split()))
            assert re.search(rf"{option} .{{0,60}}?{meaning} \(default: {default}\)", text), name


def test_help_of_pico_shows_its_vocabulary(monkeypatch):
    assert "49152" in help_text(monkeypatch, train_command, "--preset", "pico")


# --- a run's folder ------------------------------------------------------------------------------

def test_a_run_in_the_folder_is_not_overwritten(home, trained):
    before = {f: f.read_bytes() for f in trained.rglob("*") if f.is_file()}
    assert "already holds a run" in (line := mistake(train(home, trained)))
    assert "--resume" in line and "--run" in line
    assert {f: f.read_bytes() for f in trained.rglob("*") if f.is_file()} == before


@pytest.mark.parametrize(("more", "words"), [
    (["--d-model", "32"], ("d_model 16, not 32",)), (["--seed", "5"], ("seed 0, not 5",)),
    (["--data", "storybook"], ("data", "not storybook")),
    (["--preset", "nano"], ("'smoke'", "'nano'"))])
def test_another_configuration_is_refused_by_name(home, trained, more, words):
    line = mistake(train(home, trained, "--resume", *more))
    assert all(word in line for word in words) and "another --run" in line, line


def test_a_run_goes_on_to_a_later_end(home, tmp_path):
    train(home, tmp_path / "run", "--max-steps", 2)
    code, out, _ = run(train_command, "--run", tmp_path / "run", "--resume", "--max-steps", 4)
    assert code == 0 and "going on from step 2" in out
    steps = [m["step"] for m in read_metrics(tmp_path / "run") if m["kind"] == "step"]
    assert steps == [1, 2, 3, 4]


def same_weights(one: Path, other: Path) -> bool:
    a, b = (load_file(folder / "model.safetensors") for folder in (one, other))
    return a.keys() == b.keys() and all(torch.equal(a[name], b[name]) for name in a)


def events(folder: Path) -> list[tuple]:
    return [(m["kind"], m["step"], m["loss"]) for m in read_metrics(folder)]


def test_going_on_with_a_finished_run_changes_nothing(home, trained, tmp_path):
    shutil.copytree(trained, tmp_path / "run")
    code, out, _ = train(home, tmp_path / "run", "--resume")
    assert code == 0 and "going on from step 6" in out
    assert same_weights(tmp_path / "run", trained)
    assert events(tmp_path / "run") == events(trained)


def test_a_run_begins_anew_where_it_was_killed_before_its_first_checkpoint(home, tmp_path):
    train(home, tmp_path / "run")
    (tmp_path / "run" / "resume.pt").unlink()
    code, _, _ = train(home, tmp_path / "run", "--resume")
    steps = [m["step"] for m in read_metrics(tmp_path / "run") if m["kind"] == "step"]
    assert code == 0 and steps == [1, 2, 3, 4, 5, 6]


def test_a_damaged_checkpoint_names_the_one_before_which_then_goes_on(home, trained, tmp_path):
    folder = tmp_path / "run"
    train(home, folder, "--checkpoint-minutes", "1e-9")
    (folder / "resume.pt").write_bytes((folder / "resume.pt").read_bytes()[:-100])
    line = mistake(train(home, folder, "--resume", "--checkpoint-minutes", "1e-9"))
    assert "damaged" in line and "--resume-previous" in line
    code, out, _ = train(home, folder, "--resume", "--resume-previous")
    assert code == 0 and "going on from step" in out
    assert same_weights(folder, trained)


def test_a_limit_that_is_asked_for_lifts_the_presets(trained):
    train_config = json.loads((trained / "config.json").read_text())["train"]
    limits = {name: train_config[name] for name in ("max_tokens", "max_steps", "max_minutes")}
    assert limits == {"max_tokens": 0, "max_steps": 6, "max_minutes": 0}
    last = [m for m in read_metrics(trained) if m["kind"] == "step"][-1]
    assert (last["step"], last["tokens"]) == (6, 6 * 4 * 16)


def test_the_vocabulary_is_the_tokenizers(home, trained, tmp_path):
    assert json.loads((trained / "config.json").read_text())["model"]["vocab_size"] == 300
    line = mistake(train(home, tmp_path / "run", "--vocab-size", 2048))
    assert "300" in line and "2,048" in line and "--tokenizer" in line


def test_a_tokenizer_of_ones_own_goes_into_the_run(home, tmp_path):
    code, _, _ = train(home, tmp_path / "run", "--tokenizer", "bpe:280", "--max-steps", 1)
    assert code == 0 and len(load_tokenizer(str(tmp_path / "run" / "tokenizer"))) == 280


@pytest.fixture(scope="module")
def smoke(home):
    code, out, errors = run(train_command, "--preset", "smoke", "--run", home / "smoke")
    assert code == 0, errors
    return home / "smoke", out


def test_smoke_trains_from_nothing_and_tells_a_story(smoke):
    folder, out = smoke
    assert {f.name for f in folder.iterdir()} >= {
        "config.json", "metrics.jsonl", "loss.png", "tokenizer", "model.safetensors", "resume.pt"}
    steps = [m for m in read_metrics(folder) if m["kind"] == "step"]
    assert len(steps) == 20 and steps[-1]["loss"] < steps[0]["loss"] - 1
    assert re.search(r"bits per byte +\d\.\d+", out) and "hallucination meter" in out
    assert out.count("Once upon a time") >= 1 and f"--run {folder}" in out
    assert (folder / "loss.png").read_bytes().startswith(b"\x89PNG")


# --- stories, scores, tokenizers -----------------------------------------------------------------

def test_a_trained_model_tells_stories(smoke):
    def tell(*more: object) -> str:
        code, out, errors = run(story_command, "One day", "--run", smoke[0], "--max-new-tokens",
                                12, *more)
        assert (code, errors) == (0, "") and out.startswith("One day")
        return out
    first = tell("--seed", 3)
    assert tell("--seed", 3) == first != tell("--seed", 4)
    assert tell("--seed", 3, "--num-samples", 2) == first + tell("--seed", 4)
    assert tell("--temperature", 0, "--seed", 1) == tell("--temperature", 0, "--seed", 2)


def test_prompts_are_read_from_the_input(smoke, monkeypatch):
    monkeypatch.setattr(sys, "stdin", io.StringIO("A cat\n" + "long " * 99 + "\n\n"))
    code, out, errors = run(story_command, "--run", smoke[0], "--max-new-tokens", 3)
    assert code == 0 and out.startswith("A cat") and "Once upon a time" in out
    assert "context" in errors and len(errors.splitlines()) == 1


def test_a_prompt_longer_than_the_context_is_refused(smoke):
    outcome = run(story_command, "long " * 99, "--run", smoke[0])
    line = mistake(outcome)
    assert "prompt" in line and "64" in line
    assert outcome[1] == ""  # else the terminal shows the error behind half of the prompt


def test_a_story_of_another_tokenizer_is_refused(home, smoke):
    line = mistake(run(story_command, "A", "--run", smoke[0], "--tokenizer", home / "tokenizer"))
    assert "300" in line and "--tokenizer" in line


def test_a_folder_without_a_run_is_refused(tmp_path):
    for command in (story_command, evaluate_command):
        assert "no run" in mistake(run(command, "--run", tmp_path))


@pytest.mark.parametrize("kind", ["txt", "jsonl", "parquet"])
def test_scores_on_any_kind_of_file(home, trained, kind):
    code, out, _ = run(evaluate_command, "--run", trained, "--data", home / f"stories.{kind}",
                       "--split", "all", "--questions", 0)
    tokens = sum(len(bpe()(story)["input_ids"]) for story in STORIES) + len(STORIES) + 1
    assert code == 0 and f"{tokens - 1:,} tokens of" in out
    assert "perplexity" in out and "bits per byte" in out and "hallucination" not in out


def test_scores_on_training_and_validation_documents(home, trained):
    tokens = []
    for split in ("train", "validation"):
        code, out, _ = run(evaluate_command, "--run", trained, "--data", home / "stories.txt",
                           "--split", split, "--questions", 0)
        assert code == 0
        tokens.append(int(re.search(r"([\d,]+) tokens of", out)[1].replace(",", "")))
    assert sum(tokens) == sum(len(bpe()(s)["input_ids"]) for s in STORIES) + len(STORIES)


def test_the_meter_is_read_with_as_many_questions_as_fit(smoke):
    code, out, _ = run(evaluate_command, "--run", smoke[0], "--max-tokens", 64, "--questions", 24)
    assert code == 0 and "64 tokens of storybook" in out
    assert re.search(r"^  all +\d+% +\d+% +100% +\d+$", out, re.MULTILINE), out


def test_a_tokenizer_is_trained_and_saved_but_never_over_another(home, tmp_path):
    options = ("--data", home / "stories.txt", "--vocab-size", 280, "--out", tmp_path / "t")
    code, out, _ = run(tokenizer_command, *options)
    assert code == 0 and "280 tokens" in out and f"--tokenizer {tmp_path / 't'}" in out
    assert len(load_tokenizer(str(tmp_path / "t"))) == 280
    assert "already holds" in mistake(run(tokenizer_command, *options))


# --- the power goes, the Hub is away -------------------------------------------------------------

DRIVER = """
import os, signal, sys
from picolm_lib import checkpoint
from picolm_lib.cli import run_command
from picolm_lib.commands.train import train_command

moment, left = sys.argv.pop(1), 3

def third_time():
    global left
    left -= 1
    return left == 0

def die():
    os.kill(os.getpid(), signal.SIGKILL)

real_save, real_replace = checkpoint.torch.save, os.replace

def save(state, stream):
    if moment == "half written" and third_time():
        stream.write(b"PK" * 1000)
        stream.flush()
        die()
    real_save(state, stream)

def replace(source, target):
    real_replace(source, target)
    name = {"between renames": "resume.previous.pt", "before the weights": "resume.pt"}.get(moment)
    if os.path.basename(target) == name and third_time():
        die()

checkpoint.torch.save, os.replace = save, replace
run_command(train_command)
"""


@pytest.mark.parametrize("moment", ["half written", "between renames", "before the weights"])
def test_a_run_killed_within_a_checkpoint_goes_on_to_the_same_bits(home, trained, tmp_path,
                                                                  moment):
    (tmp_path / "driver.py").write_text(DRIVER)
    options = [*TINY, "--data", home / "stories.txt", "--tokenizer", home / "tokenizer",
               "--run", tmp_path / "run", "--checkpoint-minutes", "1e-9"]
    done = run_script(tmp_path / "driver.py", moment, *options)
    assert done.returncode == -9, done.stderr
    killed = [m["step"] for m in read_metrics(tmp_path / "run")]
    code, out, errors = run(train_command, *options, "--resume")
    assert code == 0 and "going on from step" in out, errors
    assert 2 <= int(re.search(r"going on from step (\d+)", out)[1]) <= killed[-1] < 6
    assert same_weights(tmp_path / "run", trained)
    assert events(tmp_path / "run") == events(trained)
    assert not list((tmp_path / "run").glob("*.part"))


@pytest.mark.parametrize("options", [
    ["--data", "somebody/something", "--tokenizer", "bundled"],
    ["--data", "storybook", "--tokenizer", "somebody/something"]])
def test_a_hub_that_cannot_be_reached_gives_one_line_and_the_way_out(tmp_path, options):
    offline = {name: "" for name in os.environ if "proxy" in name.lower()}
    done = run_script("run_train.py", *options, "--run", tmp_path / "run", "--preset", "smoke",
                      HF_HUB_OFFLINE="", HF_ENDPOINT="http://127.0.0.1:9", **offline)
    line = mistake((done.returncode, done.stdout, done.stderr))
    assert "Hub cannot be reached" in line and "somebody/something" in line
    assert ("--data storybook" if "bundled" in options else "--tokenizer bundled") in line


@pytest.mark.skipif(not (SHARED / "tinystories").exists()
                    or not (SHARED / "smollm-tokenizer").exists(),
                    reason="TinyStories and the SmolLM tokenizer are not here")
def test_two_steps_on_tinystories_with_smollms_tokenizer(tmp_path):
    import pyarrow.parquet

    (tmp_path / "data").mkdir()
    for split, number in (("train", 60), ("validation", 6)):
        name = f"{split}-00000-of-00001.parquet"
        table = pyarrow.parquet.read_table(SHARED / "tinystories" / name)
        pyarrow.parquet.write_table(table.slice(0, number), tmp_path / "data" / name)
    code, out, errors = run(train_command, *TINY, "--data", tmp_path / "data", "--tokenizer",
                            SHARED / "smollm-tokenizer", "--run", tmp_path / "run", "--d-model",
                            32, "--max-seq-len", 32, "--max-steps", 2)
    assert code == 0, errors
    assert "hallucination" not in out and "bits per byte" in out
    assert json.loads((tmp_path / "run" / "config.json").read_text())["model"]["vocab_size"] == (
        49_152)
