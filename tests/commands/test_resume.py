"""What a resumed run may change, what it must not, and folders that hold something else.

Whatever is refused is refused in one line, and leaves every file as it was.
"""

from __future__ import annotations

import json
import os
import re
import shutil
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from calls import TINY, events, mistake, run, run_script, same_weights, train
from helpers import STORIES

from picolm_lib.commands.evaluate import evaluate_command
from picolm_lib.commands.export import export_command
from picolm_lib.commands.generate import generate_command
from picolm_lib.commands.main import dispatch
from picolm_lib.commands.train import train_command
from picolm_lib.data.tokenizer import train_bpe
from picolm_lib.train.checkpoint import write_state
from picolm_lib.train.identity import RUN_FILES
from picolm_lib.train.metrics import read_metrics


@pytest.fixture
def copy(trained, tmp_path) -> Path:
    return shutil.copytree(trained, tmp_path / "run")


@pytest.fixture(scope="module")
def other(home) -> Path:
    """A run like `trained`: of the same shape, data and tokenizer, with another end."""
    code, _, errors = train(home, home / "other", "--max-steps", 4)
    assert code == 0, errors
    return home / "other"


def snapshot(folder: Path) -> dict[str, bytes]:
    """All files but the lock and the caches."""
    return {str(f.relative_to(folder)): f.read_bytes() for f in sorted(folder.rglob("*"))
            if f.is_file() and f.name not in (".lock",) and "caches" not in f.parts}


def edit(path: Path, **changes: object) -> None:
    """Changes fields of config.json, wherever they stand."""
    content = json.loads(path.read_text())
    for name, value in changes.items():
        part = next(part for part in (content["model"], content["train"], content) if name in part)
        part[name] = value
    path.write_text(json.dumps(content))


# --- what belongs to another run -----------------------------------------------------------------

SWAPS: dict[str, tuple[Callable[[Path, Path], object], tuple[str, ...]]] = {
    "the checkpoint": (lambda run, other: shutil.copy(other / "resume.pt", run), ("another run",)),
    "config.json": (lambda run, other: shutil.copy(other / "config.json", run), ("another run",)),
    "a seed": (lambda run, _: edit(run / "config.json", seed=5), ("seed 0, not 5", "config.json")),
    "a folder": (lambda run, _: ((run / "loss.png").unlink(), (run / "loss.png").mkdir()),
                 ("loss.png", "not a file")),
    "heads": (lambda run, _: edit(run / "config.json", n_heads=1), ("n_heads 2, not 1",)),
    "a rate": (lambda run, _: edit(run / "config.json", muon_lr=0.5), ("muon_lr 0.01, not 0.5",)),
    "the tokenizer": (lambda run, _: train_bpe(["zz"] * 99 + STORIES, 300).save_pretrained(
        run / "tokenizer"), ("tokenizer", "not the one")),
    "no tokenizer": (lambda run, _: shutil.rmtree(run / "tokenizer"), ("tokenizer", "restore it")),
    "no checkpoint": (lambda run, _: [path.unlink() for path in run.glob("resume*")],
                      ("what a run has trained", "not overwritten")),
    "no config.json": (lambda run, _: (run / "config.json").unlink(), ("no config.json",)),
}


@pytest.mark.parametrize("kind", SWAPS)
def test_what_does_not_belong_together_is_refused(trained, other, copy, kind):
    swap, words = SWAPS[kind]
    swap(copy, other)
    before = snapshot(copy)
    # As it was begun, and by the folder alone.
    line = mistake(run(train_command, "--run", copy, "--resume"))
    assert all(word in line for word in words) and "another --run" in line, line
    assert snapshot(copy) == before


@pytest.mark.parametrize("command", [generate_command, evaluate_command, export_command])
@pytest.mark.parametrize("kind", ["weights", "heads"])
def test_weights_know_their_run_and_their_model(trained, other, copy, tmp_path, command, kind):
    words = ["--out", tmp_path / "out"] if command is export_command else []
    if kind == "weights":
        shutil.copy(other / "model.safetensors", copy)
    else:
        edit(copy / "config.json", n_heads=1)
    line = mistake(run(command, "--run", copy, *words))
    assert "model.safetensors" in line and "config.json" in line
    assert ("another run" in line) == (kind == "weights")


# --- the data ------------------------------------------------------------------------------------

def test_moved_data_go_on_and_other_data_are_refused(home, trained, copy, tmp_path, monkeypatch):
    assert train(home, tmp_path / "half", "--max-steps", 3)[0] == 0
    edit(tmp_path / "half" / "config.json", data="stories.txt")  # as with a relative path
    shutil.copy(home / "stories.txt", tmp_path)
    monkeypatch.chdir(tmp_path)
    text = "\n\n".join(STORIES)
    before = snapshot(tmp_path / "half")
    more = ["--run", "half", "--resume", "--max-steps", 6]
    for changed in (text.replace("cat", "rat", 1), text + "\n\nOne more.",
                    "\n\n".join(STORIES[::-1])):
        Path("stories.txt").write_text(changed)
        os.utime("stories.txt", ns=(1, 1))
        line = mistake(run(train_command, *more))
        assert "the data are not those" in line and "--data" in line
        assert snapshot(tmp_path / "half") == before
    Path("stories.txt").unlink()
    assert "stories.txt" in mistake(run(train_command, *more))
    Path("moved").mkdir()
    Path("moved/renamed.txt").write_text(text)
    code, out, errors = run(train_command, *more, "--data", "moved")
    assert code == 0 and "resuming from step 3" in out, errors


# --- what may change -----------------------------------------------------------------------------

@pytest.mark.parametrize(("first", "then"), [
    ("bfloat16", "float16"), ("float16", "bfloat16"), ("float16", "float32"),
    ("float32", "float16")])
def test_the_precision_may_change_in_both_directions(home, tmp_path, first, then):
    """A100 today, T4 tomorrow: only float16 scales its gradients."""
    assert train(home, tmp_path, "--dtype", first, "--max-steps", 3)[0] == 0
    code, out, errors = train(home, tmp_path, "--dtype", then, "--resume")
    assert code == 0 and "resuming from step 3" in out, errors
    # A step that float16 skips at first is there twice.
    steps = [m["step"] for m in read_metrics(tmp_path) if m["kind"] == "step" and m["loss"]]
    assert {*steps} >= {1, 2, 3, 4, 5, 6}


def test_compilation_may_be_switched_on_and_off(home, tmp_path, monkeypatch):
    folder = tmp_path / "run"
    assert train(home, folder, "--max-steps", 2)[0] == 0
    calls = []
    monkeypatch.setattr("torch.compile", lambda function: calls.append(1) or function)
    for steps, switch, compiled in ((3, [], False), (4, ["--compile"], True), (5, [], True),
                                    (6, ["--no-compile"], False)):
        calls.clear()
        code, _, errors = train(home, folder, "--resume", "--max-steps", steps, *switch)
        assert code == 0 and bool(calls) == compiled, errors


def test_without_a_compiler_one_line_says_so_and_the_folder_stays_free(home, tmp_path):
    """In a process of its own, since a compiler is looked for once."""
    def attempt(*more: object):
        done = run_script("-c", "from picolm_lib.commands.main import run_command; from picolm_lib."
                          "commands.train import train_command; run_command(train_command)", *TINY,
                          "--data", home / "stories.txt", "--tokenizer", home / "tokenizer",
                          "--run", tmp_path / "run", "--max-steps", 1, *more,
                          CXX="/nothing", PATH=str(Path(sys.executable).parent),
                          TORCHINDUCTOR_CACHE_DIR=str(tmp_path / "inductor"),
                          PICOLM_CACHE=str(tmp_path / "cache"))
        return done.returncode, done.stdout, done.stderr

    line = mistake(attempt("--compile"))
    assert "torch.compile does not work here" in line and "--no-compile" in line
    assert attempt()[0] == 0


# --- the end of a run ----------------------------------------------------------------------------

def test_a_finished_run_is_prolonged_and_says_what_becomes_of_its_schedule(home, trained, copy):
    code, out, _ = run(train_command, "--run", copy, "--resume")
    assert code == 0 and "nothing is left to train" in out and "--max-tokens" in out
    assert same_weights(copy, trained) and events(copy) == events(trained)
    code, out, _ = run(train_command, "--run", copy, "--resume", "--max-tokens", 768, "--evals", 4)
    # Half of the run is done: by hand, 2% of it is warm-up, and the last half decays.
    assert code == 0 and "now ends at 768 tokens" in out and "at 100% of its peak" in out
    assert "falls to zero over the last 50%" in out
    steps = [m for m in read_metrics(copy) if m["kind"] == "step"]
    assert [m["step"] for m in steps] == list(range(1, 13)) and steps[-1]["tokens"] == 768
    for metrics in steps[6:]:
        middle = (metrics["tokens"] - 32) / 768
        assert metrics["lr_factor"] == pytest.approx((1 - middle) / 0.5)
    # The last of the first end, the third of four, and the last.
    evaluated = [m["step"] for m in read_metrics(copy) if m["kind"] == "evaluation"]
    assert evaluated == [6, 9, 12]
    assert "nothing is left" in run(train_command, "--run", copy, "--resume", "--max-steps", 3)[1]


# --- data of which only a part is prepared --------------------------------------------------------

@pytest.fixture
def halves(home, tmp_path) -> Callable[..., tuple[int, str, str]]:
    """A short run on data with a validation split, in tmp_path / "run"."""
    data = tmp_path / "data"
    data.mkdir()
    (data / "train.txt").write_text("\n\n".join(STORIES[:30]))
    (data / "validation.txt").write_text("\n\n".join(STORIES[30:]))
    return lambda *more: train(home, tmp_path / "run", "--data", data, *more)


def prepared(folder: Path) -> int:
    return json.loads((folder / "config.json").read_text())["train"]["data_tokens"]


def test_the_part_that_is_prepared_is_the_runs_own(halves, home, tmp_path):
    assert halves()[0] == 0
    # 6 steps of 64 tokens, a step and a window more, rounded up to one digit.
    assert prepared(tmp_path / "run") == 500
    assert "data_tokens 500, not 900" in mistake(halves("--resume", "--data-tokens", 900))
    code, out, _ = halves("--resume", "--max-steps", 200)
    there = re.search(r"reads the ([\d,]+) tokens that it has prepared", out)[1]
    there = int(there.replace(",", ""))
    assert code == 0 and f"prepared {12_800 / there:.1f} times" in out
    assert prepared(tmp_path / "run") == 500
    # What a start without a checkpoint has left is not taken for the user's wish.
    for path in (tmp_path / "run").glob("*"):
        if path.name not in ("config.json", "tokenizer"):
            path.unlink()
    assert halves("--resume", "--max-steps", 20)[0] == 0 and prepared(tmp_path / "run") == 2_000
    line = mistake(train(home, tmp_path / "other", "--data-tokens", 100))
    assert "--data-tokens" in line and "validation split" in line


def test_a_checkpoint_from_before_that_is_resumed(home, copy):
    state = torch.load(copy / "resume.pt", weights_only=True)
    del state["identity"]["configuration"]["data_tokens"]
    write_state(copy / "resume.pt", state)
    saved = json.loads((copy / "config.json").read_text())
    del saved["train"]["data_tokens"]
    (copy / "config.json").write_text(json.dumps(saved))
    assert train(home, copy, "--resume", "--max-steps", 8)[0] == 0


# --- folders that hold something -----------------------------------------------------------------

@pytest.mark.parametrize("name", RUN_FILES)
@pytest.mark.parametrize("resume", [[], ["--resume"]])
def test_what_this_run_did_not_write_is_not_overwritten(home, tmp_path, name, resume):
    (tmp_path / "run").mkdir()
    (tmp_path / "run" / name).write_text('{"name": "my project"}')
    line = mistake(train(home, tmp_path / "run", *resume))
    assert name in line and "choose another --run" in line, line
    assert [path.name for path in (tmp_path / "run").iterdir()] == [name]
    assert (tmp_path / "run" / name).read_text() == '{"name": "my project"}'


def test_what_is_left_of_a_run_is_not_overwritten(home, copy):
    for path in (*copy.glob("resume*"), copy / "model.safetensors"):
        path.unlink()
    for words in ([], ["--resume"]):
        line = mistake(train(home, copy, *words))
        assert "not overwritten" in line
    (copy / "loss.png").unlink()  # as where the run was killed before its first checkpoint
    assert "--resume" in mistake(train(home, copy))
    assert train(home, copy, "--resume")[0] == 0


def test_a_start_that_failed_does_not_block_the_corrected_command(home, copy):
    """As where it ran out of memory in its first step: config.json and tokenizer are there."""
    for path in (*copy.glob("resume*"), *(copy / name for name in (
            "model.safetensors", "loss.png", "metrics.jsonl"))):
        path.unlink()
    code, out, errors = train(home, copy, "--batch-size", 2, "--seed", 4)
    assert code == 0 and "resuming" not in out, errors
    assert json.loads((copy / "config.json").read_text())["train"]["batch_size"] == 2


def test_a_refused_start_leaves_no_folder(home, tmp_path):
    for words in (["--data", "/no/such.txt"], ["--tokenizer", "/no/such"], ["--vocab-size", 9]):
        mistake(train(home, tmp_path / "run", *words))
        assert not (tmp_path / "run").exists()
    (tmp_path / "mine").mkdir()
    mistake(train(home, tmp_path / "mine", "--data", "/no/such.txt"))
    assert (tmp_path / "mine").exists()


def test_a_configuration_that_an_editor_has_saved_is_read(home, copy):
    path = copy / "config.json"
    path.write_bytes(b"\xef\xbb\xbf" + path.read_bytes().replace(b"\n", b"\r\n"))
    assert run(train_command, "--run", copy, "--resume")[0] == 0


def test_a_tokenizer_that_the_library_saves_in_another_way_is_the_runs_own(home, tmp_path):
    """The library forgets `legacy`, which decides where a space is put before a text."""
    from tokenizers import Tokenizer, decoders, models, normalizers
    from transformers import LlamaTokenizer

    signs = sorted({*"".join(STORIES), "▁"} - {" "})
    vocabulary = {sign: number for number, sign in enumerate(["<unk>", "<s>", "</s>", *signs])}
    backend = Tokenizer(models.BPE(vocabulary, [], unk_token="<unk>"))
    backend.normalizer = normalizers.Replace(" ", "▁")
    backend.decoder = decoders.Replace("▁", " ")
    LlamaTokenizer(tokenizer_object=backend).save_pretrained(tmp_path / "tokenizer")
    path = tmp_path / "tokenizer" / "tokenizer_config.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), "legacy": True,
                                "tokenizer_class": "LlamaTokenizer", "add_bos_token": True}))
    words = ["--tokenizer", tmp_path / "tokenizer"]
    assert train(home, tmp_path / "run", *words, "--max-steps", 2)[0] == 0
    assert train(home, tmp_path / "run", *words, "--max-steps", 4, "--resume")[0] == 0


def test_evaluations_follow_their_number_as_it_is_now(home, tmp_path):
    assert train(home, tmp_path, "--evals", 12, "--max-steps", 3)[0] == 0
    assert train(home, tmp_path, "--resume", "--evals", 3, "--max-steps", 12)[0] == 0
    evaluated = [m["step"] for m in read_metrics(tmp_path) if m["kind"] == "evaluation"]
    assert evaluated[-3:] == [4, 8, 12]


def test_a_checkpoint_that_is_missing_is_said(home, tmp_path):
    assert train(home, tmp_path, "--checkpoint-minutes", "1e-9")[0] == 0
    (tmp_path / "resume.pt").unlink()
    code, out, _ = run(train_command, "--run", tmp_path, "--resume")
    assert code == 0 and "the last checkpoint is missing" in out


@pytest.mark.parametrize("name", ["", " "])
def test_a_run_needs_a_folder(home, tmp_path, monkeypatch, name):
    monkeypatch.chdir(tmp_path)
    assert "--run" in mistake(train(home, name))
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("kind", ["file", "dangling link", "circle", "long name", "in a file"])
def test_a_place_that_is_no_folder_is_refused(home, tmp_path, kind):
    place = tmp_path / "run"
    if kind in ("file", "in a file"):
        place.write_text("mine")
    elif kind == "dangling link":
        place.symlink_to(tmp_path / "gone" / "gone")
    elif kind == "circle":
        place.symlink_to(place)
    target = {"in a file": place / "run", "long name": tmp_path / ("x" * 300)}.get(kind, place)
    mistake(train(home, target))
    assert kind not in ("file", "in a file") or place.read_text() == "mine"


def test_an_own_file_in_the_folder_stays(home, tmp_path):
    (tmp_path / "notes.txt").write_text("mine")
    assert train(home, tmp_path)[0] == 0
    assert (tmp_path / "notes.txt").read_text() == "mine"


def test_the_tokenizer_is_written_once(home, copy):
    before = {path: path.stat() for path in (copy / "tokenizer").iterdir()}
    assert run(train_command, "--run", copy, "--resume", "--max-steps", 7)[0] == 0
    after = {path: path.stat() for path in (copy / "tokenizer").iterdir()}
    assert {path: (stat.st_ino, stat.st_mtime_ns) for path, stat in before.items()} == {
        path: (stat.st_ino, stat.st_mtime_ns) for path, stat in after.items()}


# --- no foreign code -----------------------------------------------------------------------------

CLASSES = {"unknown": "EvilTokenizer", "known": "PreTrainedTokenizerFast"}


@pytest.fixture(params=CLASSES)
def hostile(request, copy, tmp_path) -> tuple[Path, Path, bool]:
    """A run whose tokenizer brings code, the file which that code makes, whether it is needed."""
    ran, folder = tmp_path / "ran", copy / "tokenizer"
    code = (f"open({str(ran)!r}, 'w')\nfrom transformers import PreTrainedTokenizerFast\n"
            "class EvilTokenizer(PreTrainedTokenizerFast): pass\n")
    for place in (folder, copy):
        (place / "evil.py").write_text(code)
    path = folder / "tokenizer_config.json"
    path.write_text(json.dumps({**json.loads(path.read_text()),
                                "tokenizer_class": CLASSES[request.param],
                                "auto_map": {"AutoTokenizer": [None, "evil.EvilTokenizer"]}}))
    (folder / "config.json").write_text(json.dumps({
        "model_type": "evil", "auto_map": {"AutoConfig": "evil.EvilConfig",
                                           "AutoTokenizer": [None, "evil.EvilTokenizer"]}}))
    return copy, ran, request.param == "unknown"


@pytest.mark.parametrize("command", ["train --resume --max-steps 7", "train --tokenizer",
                                     "generate Hello", "generate Hello --tokenizer", "evaluate",
                                     "evaluate --tokenizer", "export", "estimate --tokenizer"])
def test_code_that_comes_with_a_tokenizer_is_not_run_and_nothing_is_asked(
        home, trained, hostile, tmp_path, monkeypatch, command):
    folder, ran, needed = hostile
    name, *words = command.split()
    if words[-1:] == ["--tokenizer"]:
        words.append(folder / "tokenizer")
        folder = trained
    data, new = ["--data", home / "stories.txt"], ["--run", tmp_path / "new"]
    options = {"train": [*TINY, *data, *new] if folder == trained else ["--run", folder],
               "estimate": data, "export": ["--run", folder, "--out", tmp_path / "out"],
               "evaluate": ["--run", folder, *data, "--questions", 12]}
    monkeypatch.setattr("builtins.input", lambda *_: pytest.fail("something was asked"))
    done = run(lambda argv: dispatch([name, *argv]), *words,
               *options.get(name, ["--run", folder]))
    assert not ran.exists()
    assert (done[0] != 0) == needed, done
    if needed:
        assert "code of its own" in mistake(done) and "trust" not in mistake(done)
        return
    # And nobody is asked to run it who loads what these commands have written.
    for path in (tmp_path / "out", tmp_path / "new"):
        assert not list(path.rglob("evil.py"))
        for written in path.rglob("tokenizer_config.json"):
            assert "auto_map" not in written.read_text()
