"""The commands from end to end: what they write, what they print, and mistakes in one line each."""

from __future__ import annotations

import ast
import inspect
import io
import json
import re
import shutil
import sys
import tomllib
from importlib.metadata import version

import pytest
from calls import events, mistake, run, run_script, same_weights, train
from helpers import ROOT, STORIES, bpe

from picolm_lib import config
from picolm_lib.commands import train as train_module
from picolm_lib.commands.bundle import bundle_command
from picolm_lib.commands.estimate import estimate_command
from picolm_lib.commands.evaluate import evaluate_command
from picolm_lib.commands.export import export_command
from picolm_lib.commands.generate import generate_command
from picolm_lib.commands.main import COMMANDS, dispatch
from picolm_lib.commands.tokenizer import tokenizer_command
from picolm_lib.commands.train import train_command
from picolm_lib.data.tokenizer import load_tokenizer
from picolm_lib.train.metrics import read_metrics

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
    (generate_command, ["--temprature", "1"], ("--temprature", "did you mean --temperature")),
    (generate_command, ["Once", "upon"], ("'upon'", "quotes")),
    (generate_command, ["--temperature", "-1"], ("temperature", "-1")),
    (generate_command, ["--temperature", "nan"], ("temperature",)),
    (generate_command, ["--top-p", "0"], ("top_p",)),
    (generate_command, ["--top-p", "1.5"], ("top_p",)),
    (generate_command, ["--top-k", "-1"], ("top_k",)),
    (generate_command, ["--min-p", "2"], ("min_p",)),
    (generate_command, ["--repetition-penalty", "0"], ("repetition_penalty",)),
    (generate_command, ["--max-new-tokens", "0"], ("max_new_tokens",)),
    (generate_command, ["--num-samples", "0"], ("num_samples",)),
    (evaluate_command, ["--splitt", "all"], ("--splitt", "did you mean --split")),
    (evaluate_command, ["--split", "test"], ("--split", "test", "validation")),
    (tokenizer_command, ["--vocab", "300"], ("--vocab", "did you mean --vocab-size")),
    (estimate_command, ["--run", "runs/nano"], ("--run", "picolm estimate --help")),
    (bundle_command, ["--preset", "pico"], ("--preset", "picolm bundle --help")),
    (export_command, ["--dtype", "int8"], ("--dtype", "int8", "bfloat16")),
    (dispatch, ["trian"], ("trian", "did you mean train?", "picolm --help")),
    (dispatch, ["abacus"], ("abacus", "picolm --help")),
    (dispatch, ["--versio"], ("--versio", "did you mean --version?")),
    (dispatch, ["generate", "--temprature", "1"], ("did you mean", "picolm generate --help")),
])
def test_a_mistake_is_answered_in_one_line(tmp_path, monkeypatch, command, argv, words):
    monkeypatch.chdir(tmp_path)
    line = mistake(run(command, *argv))
    assert all(word in line for word in words), line
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("words", [
    ("run_train.py",), ("inference.py",), ("inference.py", "export"), ("-m", "picolm_lib", "train"),
    ("-m", "picolm_lib", "generate"), ("-m", "picolm_lib", "export")], ids=" ".join)
def test_a_program_answers_under_the_name_that_it_was_called_by(words):
    called = " ".join(words) if words[0] != "-m" else f"python {' '.join(words)}"
    done = run_script(*words, "--devise", "cpu")
    line = mistake((done.returncode, done.stdout, done.stderr))
    assert f"see {called} --help." in line and ("--device" in line or "export" in words)
    shown = run_script(*words, "--help")
    assert shown.returncode == 0 and shown.stdout.startswith(f"usage: {called} [-h]")


PICOLM = "import sys; sys.argv[0] = 'bin/picolm'; import picolm_lib.commands.main as m; m.main()"


def test_picolm_lists_its_commands_and_its_version_at_once_without_torch():
    probe = PICOLM + "; print(*(m for m in ('torch', 'transformers') if m in sys.modules))"
    for words in ([], ["--help"], ["-h"]):
        done = run_script("-c", probe, *words)
        assert (done.returncode, done.stderr) == (0, "")
        *lines, heavy = done.stdout.split("\n")[:-1]
        assert lines[0] == "usage: picolm COMMAND [OPTIONS]" and heavy == ""
        assert [line.split()[0] for line in lines if line.startswith("  ")] == list(COMMANDS)
    done = run_script("-c", probe, "--version")
    assert done.stdout == f"picolm {version('simple-picolm')}\n\n"


def test_pyproject_makes_the_script_picolm():
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    assert project["scripts"] == {"picolm": "picolm_lib.commands.main:main"}


@pytest.mark.parametrize("name", COMMANDS)
def test_every_command_has_its_module_and_help(monkeypatch, name):
    text = help_text(monkeypatch, dispatch, name)
    assert text.startswith(f"usage: picolm {name} [-h]")


def test_dry_run_prints_what_estimate_prints():
    options = ["--preset", "smoke", "--batch-size", 4, "--max-steps", 7]
    estimated, dry = run(estimate_command, *options), run(train_command, *options, "--dry-run")
    assert estimated == dry and estimated[0] == 0
    assert "1,792 tokens in total, 7 steps" in estimated[1]


def test_no_option_is_needed_to_train_nano(monkeypatch, tmp_path):
    monkeypatch.chdir(tmp_path)
    seen = []

    def make_trainer(options, *_):
        seen.append(options)
        raise config.PicoError("That is enough.")

    monkeypatch.setattr(train_module, "_make_trainer", make_trainer)
    assert mistake(run(train_command)) == "error: That is enough."
    assert (seen[0].preset, seen[0].run) == ("nano", "runs/nano")
    assert seen[0].train == config.PRESETS["nano"].train


def test_no_library_adds_lines_of_its_own_about_a_damaged_file(tmp_path):
    (tmp_path / "a.jsonl").write_text('{"text": "a"}\n{"text": broken\n')
    done = run_script("run_train.py", "--data", tmp_path / "a.jsonl", "--run", tmp_path / "run")
    assert "a.jsonl" in mistake((done.returncode, done.stdout, done.stderr))


def docstrings(kind: type) -> dict[str, str]:
    """What stands below each field of a dataclass."""
    body = ast.parse(inspect.getsource(kind)).body[0].body
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
        meanings = docstrings(type(part))
        assert meanings.keys() == vars(part).keys()
        for name, value in vars(part).items():
            default = f"'{value}'" if isinstance(value, str) and " " in value else value
            option = re.escape("--" + name.replace("_", "-"))
            meaning = re.escape(" ".join(meanings[name].split()))
            assert re.search(rf"{option}[ ,].{{0,60}}?{meaning} \(default: {default}\)", text), name


# --- a run's folder ------------------------------------------------------------------------------

def test_a_run_in_the_folder_is_not_overwritten(home, trained):
    before = {f: f.read_bytes() for f in trained.rglob("*") if f.is_file()}
    assert "already contains a run" in (line := mistake(train(home, trained)))
    assert "--resume" in line and "--run" in line
    assert {f: f.read_bytes() for f in trained.rglob("*") if f.is_file()} == before


@pytest.mark.parametrize(("more", "words"), [
    (["--d-model", "32"], ("d_model 16, not 32",)), (["--seed", "5"], ("seed 0, not 5",)),
    (["--data", "storybook"], ("the data are not those", "--data")),
    (["--preset", "nano"], ("'smoke'", "'nano'"))])
def test_another_configuration_is_refused_by_name(home, trained, more, words):
    line = mistake(train(home, trained, "--resume", *more))
    assert all(word in line for word in words) and "another --run" in line, line


def test_a_run_continues_to_a_later_end(home, tmp_path):
    train(home, tmp_path / "run", "--max-steps", 2)
    code, out, _ = run(train_command, "--run", tmp_path / "run", "--resume", "--max-steps", 4)
    assert code == 0 and "resuming from step 2" in out
    steps = [m["step"] for m in read_metrics(tmp_path / "run") if m["kind"] == "step"]
    assert steps == [1, 2, 3, 4]


def test_resuming_a_finished_run_changes_nothing(home, trained, tmp_path):
    shutil.copytree(trained, tmp_path / "run")
    code, out, _ = train(home, tmp_path / "run", "--resume")
    assert code == 0 and "resuming from step 6" in out
    assert same_weights(tmp_path / "run", trained)
    assert events(tmp_path / "run") == events(trained)


def test_a_run_starts_again_where_it_was_killed_before_its_first_checkpoint(home, tmp_path):
    train(home, tmp_path / "run")
    (tmp_path / "run" / "resume.pt").unlink()
    for name in ("model.safetensors", "loss.png"):
        assert "not overwritten" in mistake(train(home, tmp_path / "run", "--resume"))
        (tmp_path / "run" / name).unlink()
    code, _, _ = train(home, tmp_path / "run", "--resume")
    steps = [m["step"] for m in read_metrics(tmp_path / "run") if m["kind"] == "step"]
    assert code == 0 and steps == [1, 2, 3, 4, 5, 6]


def test_a_damaged_checkpoint_names_the_one_before_which_then_resumes(home, trained, tmp_path):
    folder = tmp_path / "run"
    train(home, folder, "--checkpoint-minutes", "1e-9")
    (folder / "resume.pt").write_bytes((folder / "resume.pt").read_bytes()[:-100])
    line = mistake(train(home, folder, "--resume", "--checkpoint-minutes", "1e-9"))
    assert "damaged" in line and "--resume-previous" in line
    code, out, _ = train(home, folder, "--resume", "--resume-previous")
    assert code == 0 and "resuming from step" in out
    assert same_weights(folder, trained)


def test_a_limit_that_is_given_overrides_the_presets(trained):
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


def test_smoke_trains_from_nothing_and_writes_a_story(smoke):
    folder, out = smoke
    assert {f.name for f in folder.iterdir()} >= {
        "config.json", "metrics.jsonl", "loss.png", "tokenizer", "model.safetensors", "resume.pt"}
    steps = [m for m in read_metrics(folder) if m["kind"] == "step"]
    assert len(steps) == 20 and steps[-1]["loss"] < steps[0]["loss"] - 1
    assert re.search(r"bits per byte +\d\.\d+", out) and "hallucination meter" in out
    assert out.count("Once upon a time") >= 1 and f"--run {folder}" in out
    assert (folder / "loss.png").read_bytes().startswith(b"\x89PNG")


# --- stories, scores, tokenizers -----------------------------------------------------------------

def test_a_trained_model_writes_stories(smoke):
    def write(*more: object) -> str:
        code, out, errors = run(generate_command, "One day", "--run", smoke[0], "--max-new-tokens",
                                12, *more)
        assert (code, errors) == (0, "") and out.startswith("One day")
        return out
    first = write("--seed", 3)
    assert write("--seed", 3) == first != write("--seed", 4)
    assert write("--seed", 3, "--num-samples", 2) == first + write("--seed", 4)
    assert write("--temperature", 0, "--seed", 1) == write("--temperature", 0, "--seed", 2)


def test_prompts_are_read_from_the_input(smoke, monkeypatch):
    monkeypatch.setattr(sys, "stdin", io.StringIO("A cat\n" + "long " * 99 + "\n\n"))
    code, out, errors = run(generate_command, "--run", smoke[0], "--max-new-tokens", 3)
    assert code == 0 and out.startswith("A cat") and "Once upon a time" in out
    assert "context" in errors and len(errors.splitlines()) == 1


def test_a_prompt_longer_than_the_context_is_refused(smoke):
    outcome = run(generate_command, "long " * 99, "--run", smoke[0])
    line = mistake(outcome)
    assert "prompt" in line and "64" in line
    assert outcome[1] == ""  # else the terminal shows the error behind half of the prompt


def test_a_story_of_another_tokenizer_is_refused(home, smoke):
    line = mistake(run(generate_command, "A", "--run", smoke[0], "--tokenizer", home / "tokenizer"))
    assert "300" in line and "--tokenizer" in line


def test_a_folder_without_a_run_is_refused(tmp_path):
    for command in (generate_command, evaluate_command):
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


def test_the_meter_runs_with_as_many_questions_as_fit(smoke):
    code, out, _ = run(evaluate_command, "--run", smoke[0], "--max-tokens", 64, "--questions", 24)
    assert code == 0 and "64 tokens of storybook" in out
    assert re.search(r"^  all +\d+% +\d+% +100% +\d+$", out, re.MULTILINE), out


def test_a_tokenizer_is_trained_and_saved_but_never_over_another(home, tmp_path):
    options = ("--data", home / "stories.txt", "--vocab-size", 280, "--out", tmp_path / "t")
    code, out, _ = run(tokenizer_command, *options)
    assert code == 0 and "280 tokens" in out and f"--tokenizer {tmp_path / 't'}" in out
    assert len(load_tokenizer(str(tmp_path / "t"))) == 280
    assert "there already" in mistake(run(tokenizer_command, *options))


