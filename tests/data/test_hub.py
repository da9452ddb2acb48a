"""Data and tokenizers by their Hub names, from a small local Hub that fails on purpose.

What is loaded by name must equal what is in a local folder, bit for bit, also after a fault that
passed. A fault that lasts gives one line. A partial download is never used.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Callable, Iterator
from itertools import repeat
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet as pq
import pytest
import torch
from helpers import ROOT, STORIES, bpe
from hub_server import Hub
from hub_visitor import tokenizer
from safetensors.torch import load_file
from tables import write_texts

from picolm_lib.config import SMOLLM, TINYSTORIES
from picolm_lib.data import hub_dataset
from picolm_lib.data.tokenizer import load_tokenizer
from picolm_lib.export import export
from picolm_lib.sampling import SampleConfig, stream_text
from picolm_lib.train.checkpoint import load_run

SPLITS = {"train": STORIES[:30], "validation": STORIES[30:]}
BOTH = [("data", TINYSTORIES), ("tokenizer", SMOLLM)]
LOG_IN = ("`hf auth login`", "HF_TOKEN")


@pytest.fixture(scope="module")
def shelf(tmp_path_factory) -> Path:
    """A dataset and a tokenizer in the layout of the Hub."""
    shelf = tmp_path_factory.mktemp("shelf")
    (shelf / "stories" / "data").mkdir(parents=True)
    (shelf / "stories" / "README.md").write_text("---\nlicense: cdla-sharing-1.0\n---\n")
    for split, texts in SPLITS.items():
        write_texts(shelf / "stories" / "data" / f"{split}-00000-of-00001.parquet", texts)
    bpe().save_pretrained(shelf / "tokens")
    (shelf / "tokens" / "config.json").write_text('{"model_type": "llama"}')  # as a model has it
    return shelf


@pytest.fixture
def expected(shelf) -> dict[str, Any]:
    """What each way of asking must give."""
    return {"data": SPLITS, "stream": SPLITS["validation"][:5],
            "tokenizer": tokenizer(str(shelf / "tokens"))}


@pytest.fixture
def hub(shelf) -> Iterator[Hub]:
    folders = {f"datasets/{TINYSTORIES}": shelf / "stories", f"models/{SMOLLM}": shelf / "tokens"}
    with Hub(folders) as hub:
        yield hub


@pytest.fixture
def python(hub, tmp_path) -> Callable[..., str]:
    """A Python process that knows this Hub alone -> what it wrote to stdout.

    Its time-outs are long, except where the Hub hangs: a busy machine is no fault.
    """
    def python(*arguments: object, **environment: object) -> str:
        kept = {name: value for name, value in os.environ.items()
                if not name.startswith(("HF_", "TRANSFORMERS_"))}
        own = {"HF_ENDPOINT": hub.address, "HF_HOME": tmp_path / "hf", "no_proxy": "*",
               "PICOLM_CACHE": tmp_path / "cache", "PYTHONPATH": ROOT, "OMP_NUM_THREADS": 1,
               "HF_HUB_ETAG_TIMEOUT": 100, "HF_HUB_DOWNLOAD_TIMEOUT": 100, **environment}
        done = subprocess.run([sys.executable, *map(str, arguments)], capture_output=True,
                              text=True, timeout=300, cwd=tmp_path,
                              env={**kept, **{name: str(value) for name, value in own.items()}})
        assert done.returncode == 0, done.stderr
        return done.stdout

    return python


@pytest.fixture
def visit(python) -> Callable[..., list]:
    """Jobs of hub_visitor.py -> for each its outcome, stdout, stderr."""
    script = Path(__file__).with_name("hub_visitor.py")
    return lambda *jobs, **environment: [
        json.loads(line) for line in python(script, json.dumps(jobs), **environment).splitlines()]


def train(**options: object) -> tuple[str, ...]:
    """The job of a short run."""
    return ("train", "--preset=smoke", "--max-steps=2", "--device=cpu",
            *(f"--{name}={value}" for name, value in options.items()))


def saved_config(run: Path) -> dict[str, Any]:
    """The training's options in a run's folder."""
    return json.loads((run / "config.json").read_text())["train"]


NOBODYS = "somebody/Nothing"
EVERY_WAY = [("stream", NOBODYS), train(data=NOBODYS), train(tokenizer=NOBODYS)]


def assert_unreachable(said: list) -> None:
    """The notebook's stream is empty and prints a note; a command ends with one line and code 2."""
    reason = (f"{NOBODYS!r} is no local file or folder, the Hugging Face Hub cannot be reached, "
              "and there is no local copy of it;")
    assert [(outcome, errors or out) for outcome, out, errors in said] == [
        ([], f"note: {reason} the cells below use the Storybook, and stored measurements of "
             "TinyStories.\n"),
        (2, f"error: {reason} use --data storybook or a local file or folder.\n"),
        (2, f"error: {reason} use --tokenizer bundled or a local folder.\n")]


def test_names_on_the_hub_train_as_the_local_folders_do(hub, visit, shelf, tmp_path):
    """Also where every large file breaks off once, and where the Hub is gone the next time."""
    broken = ("GET /*train-*", "GET /*validation-*", "GET */tokenizer.json")
    for file in broken:
        hub.fail(file, ["drop"])
    names = {"data": TINYSTORIES, "tokenizer": SMOLLM}
    said = visit(train(run="local", data=shelf / "stories", tokenizer=shelf / "tokens"),
                 train(run="named", **names))
    assert [hub.asked(f"{file} drop") for file in broken] == [1, 1, 1], hub.log
    hub.close()
    said += visit(train(run="offline", **names), *EVERY_WAY)
    assert [outcome for outcome, _, _ in said[:3]] == [0, 0, 0], said
    assert_unreachable(said[3:])
    local, *others = (load_file(tmp_path / run / "model.safetensors")
                      for run in ("local", "named", "offline"))
    for weights in others:
        torch.testing.assert_close(weights, local, rtol=0, atol=0)


# name -> requests, fault, words of the message
LASTING = {
    "somebody/Unknown": ("", "", ("not on the Hugging Face Hub, or not open to you", *LOG_IN)),
    "somebody/Deleted": ("*", "404 RepoNotFound", ("not on the Hugging Face Hub", *LOG_IN)),
    "somebody/Private": ("*", "401", ("not open to you", *LOG_IN)),
    "somebody/Forbidden": ("*", "403", ("not open to you", *LOG_IN)),
    "somebody/Gated": ("/resolve/*", "403 GatedRepo", ("gated", "ask for access", *LOG_IN)),
    "somebody/Busy": ("*", "503", ("answers with HTTP 503", "try again later")),
}


def test_a_fault_that_lasts_is_one_line_that_names_the_way_out(hub, shelf, visit):
    for name, (requests, fault, _) in LASTING.items():
        if fault:
            hub.repositories[f"datasets/{name}"] = shelf / "stories"
            hub.repositories[f"models/{name}"] = shelf / "tokens"
            hub.fail(f"* *{name}{requests}", repeat(fault))
    jobs = [(job, name) for name in LASTING for job in ("data", "stream", "tokenizer")]
    hints = {"data": "use --data storybook", "stream": "use the Storybook",
             "tokenizer": "use --tokenizer bundled"}
    for (job, name), (outcome, out, errors) in zip(jobs, visit(*jobs), strict=True):
        line = out.rstrip("\n") if job == "stream" else outcome
        assert all(word in line for word in (repr(name), *LASTING[name][2], hints[job])), line
        assert "\n" not in line and not errors, (line, errors)
    # Asked once, or four times if the fault might have passed; then nothing else.
    for name in LASTING:
        assert hub.asked(f"HEAD /api/*/{name} *") == 3 * (4 if name == "somebody/Busy" else 1)
    assert not hub.asked("GET *Busy*")


STREAMED = "somebody/Stories"
PASSING = {
    f"HEAD /api/datasets/{TINYSTORIES}": ["503", "503", "drop"],
    f"GET /datasets/{TINYSTORIES}/*train-*": ["503", "drop"],
    f"HEAD /api/datasets/{STREAMED}": ["drop"],
    f"GET /api/datasets/{STREAMED}/*": ["503"],
    f"GET /datasets/{STREAMED}/*validation-*": ["hang", "drop"],
    f"HEAD /api/models/{SMOLLM}": ["503", "503", "drop"],
    f"GET /{SMOLLM}/*/tokenizer.json": ["hang", "drop"],
}


def test_faults_that_pass_change_nothing_and_leave_a_copy_for_a_hub_that_never_answers(
        hub, visit, shelf, expected):
    hub.repositories[f"datasets/{STREAMED}"] = shelf / "stories"
    for requests, faults in PASSING.items():
        hub.fail(requests, faults)
    # Where this machine stalls, a download times out as it does when the Hub hangs, and one of its
    # four attempts is lost; the faults leave some. The HEAD requests before it keep their long
    # time-out, since one that times out is not repeated.
    jobs = [*BOTH, ("stream", STREAMED)]
    assert visit(*jobs, HF_HUB_DOWNLOAD_TIMEOUT=2) == [[expected[job], "", ""] for job, _ in jobs]
    for requests, faults in PASSING.items():
        for fault in faults:
            assert hub.asked(f"{requests} {fault}") == faults.count(fault), hub.log
    hub.fail("HEAD *", repeat("hang"))
    jobs = [*BOTH, ("stream", TINYSTORIES)]
    said = visit(*jobs, *EVERY_WAY, HF_HUB_ETAG_TIMEOUT=2)
    assert said[:3] == [[expected[job], "", ""] for job, _ in jobs]
    assert_unreachable(said[3:])
    assert hub.asked("HEAD * hang") == len(said), "each asks once"


def test_no_split_is_used_twice_and_others_are_named(hub, visit, shelf, tmp_path):
    for name, splits in {"Four": ("train", "test", "unsupervised", "dev"),
                         "Other": ("validation", "test"), "One": ("stories",)}.items():
        (tmp_path / name / "data").mkdir(parents=True)
        for number, split in enumerate(splits):
            file = tmp_path / name / "data" / f"{split}-00000-of-00001.parquet"
            write_texts(file, STORIES[number::4])
        hub.repositories[f"datasets/somebody/{name}"] = tmp_path / name
    four, other, one, told = [outcome for outcome, _, _ in visit(
        *[("data", f"somebody/{name}") for name in ("Four", "Other", "One")],
        ("notes", "somebody/Four"))]
    # `datasets` takes "dev" for validation, as everybody does.
    assert four == {"train": STORIES[::4], "validation": STORIES[3::4]}
    assert "no split 'train'" in other and "'validation'" in other and "'test'" in other
    assert sorted(one["train"] + one["validation"]) == sorted(STORIES[::4])
    assert len(told) == 1 and "left out: " in told[0] and "test" in told[0]


def test_a_partial_download_is_never_used(hub, visit, expected):
    hub.fail("GET /*train-*", repeat("503"))
    hub.fail("* */tokenizer_config.json", repeat("403"))
    refused = [outcome for outcome, _, _ in visit(*BOTH)]
    assert "HTTP 503" in refused[0] and "not open to you" in refused[1], refused
    assert hub.asked("GET /*validation-* 200") and hub.asked("GET */config.json 200")
    hub.fail("*", repeat("503"))
    refused = [outcome for outcome, _, _ in visit(*BOTH)]
    assert all("no local copy" in outcome for outcome in refused), refused
    hub.faults.clear()
    data, tokenizer = [outcome for outcome, _, _ in visit(*BOTH)]
    assert (data, tokenizer) == (expected["data"], expected["tokenizer"])
    assert hub.asked("GET /*validation-* 200") == 1, "what was complete is not fetched again"


@pytest.fixture
def tinystories(hub, tmp_path) -> Path:
    """The layout of roneneldan/TinyStories: four parts, a hash in each name, and other files."""
    folder = tmp_path / "TinyStories"
    (folder / "data").mkdir(parents=True)
    (folder / "README.md").write_text("---\nlicense: cdla-sharing-1.0\n---\n")
    for name in ("TinyStories-train.txt", "TinyStories-valid.txt", "TinyStoriesV2-GPT4-train.txt"):
        (folder / name).write_text("Nobody reads this.\n" * 10_000)
    for part in range(4):
        # Larger than what is read ahead.
        texts = [f"{text} Then part {part} ended with story {n}."
                 for n in range(1_500) for text in STORIES]
        write_texts(folder / f"data/train-0000{part}-of-00004-2d5a1467fff1081b.parquet", texts)
    write_texts(folder / "data/validation-00000-of-00001-869c898b519ad725.parquet", STORIES)
    hub.repositories[f"datasets/{TINYSTORIES}"] = folder
    return folder


def test_a_run_downloads_and_prepares_only_what_it_reads(hub, visit, tinystories, tmp_path):
    """Also when the connection breaks in the middle of a part: only the rest is asked for."""
    first, second, *_ = sorted(tinystories.glob("data/train-*"))
    name, size = str(first.relative_to(tinystories)), first.stat().st_size
    hub.fail("GET /*train-00000*", ["drop"])
    short = train(run="short", data=TINYSTORIES)
    tokenizer = load_tokenizer()
    whole = [id for ids in tokenizer(pq.read_table(first)["text"].to_pylist())["input_ids"]
             for id in (tokenizer.eos_token_id, *ids)]
    said = visit(short, (*short, "--resume"))
    assert [code for code, _, _ in said] == [0, 0], said
    assert hub.asked(f"GET /*{name} 206") == 1 and hub.sent[name] < 1.1 * size, hub.log
    validation = "data/validation-00000-of-00001-869c898b519ad725.parquet"
    assert {path for path in hub.sent if path.endswith((".parquet", ".txt"))} == {name, validation}
    # Two steps of 8 * 64 tokens, and one more step, rounded up to one digit.
    assert saved_config(tmp_path / "short")["data_tokens"] == 2_000
    [files] = (tmp_path / "cache").glob("*-train-validation-2000")
    there = np.fromfile(files / "train.bin", dtype="<u2")
    assert 2_000 <= len(there) < len(whole) and there[:-1].tolist() == whole[:len(there) - 1]
    # A run that needs more goes on to the next part. One in minutes measures its speed first.
    options = {"data-tokens": len(whole) + 1_000}
    timed = [word for word in train(run="timed", data=TINYSTORIES) if "steps" not in word]
    said = visit(train(run="long", data=TINYSTORIES, **options), (*timed, "--max-minutes=0.02"))
    assert [code for code, _, _ in said] == [0, 0], said
    assert {path for path in hub.sent if path.endswith(".parquet")} == {
        name, str(second.relative_to(tinystories)), validation}
    # It may have become faster or slower meanwhile, but not tenfold.
    trained = json.loads((tmp_path / "timed" / "metrics.jsonl").read_text().splitlines()[-1])
    assert 0 < trained["tokens"] < 10 * saved_config(tmp_path / "timed")["data_tokens"]


def test_what_a_run_has_read_is_all_that_its_evaluation_needs(hub, visit, tinystories, tmp_path):
    """Also without a network, and after a commit that changed none of the files."""
    short = train(run="short", data=TINYSTORIES)
    said = visit(short)
    (tinystories / "README.md").write_text("---\nlicense: mit\n---\nAnother text.\n")
    hub.commit = "f" * 40
    evaluate = ("evaluate", "--run=short", "--questions=0", "--device=cpu")
    said += visit((*short, "--resume", "--max-steps=5"), evaluate)
    read = set(hub.sent)
    hub.close()
    said += visit(evaluate)
    assert [code for code, _, _ in said] == [0] * 4, said
    assert said[2][1] == said[3][1] and "loss" in said[3][1]
    assert "train-00001" not in "".join(read), "nothing else was downloaded"


def test_what_only_datasets_can_read_is_read_by_it(hub, visit, tmp_path):
    """Other formats, and files whose README says how to read them."""
    def quoted(text: str) -> str:
        return '"' + text.replace('"', '""') + '"'

    tables = {
        "Table": ("train.csv", "", ["number,text", *(f"{n},{quoted(text)}"
                                                      for n, text in enumerate(STORIES))]),
        "Tabs": ("train.tsv", "", ["text\tlabel", *(f"{quoted(text)}\tx" for text in STORIES)]),
        "Semicolons": ("train.csv", "sep: ;", ["text;label", *(f"{quoted(text)};x"
                                                               for text in STORIES)]),
        "Field": ("train.json", "field: data", [json.dumps(
            {"version": "v0", "data": [{"text": text} for text in STORIES]})]),
        "Lines": ("train.txt", "", STORIES),
        "train[1] odd": ("train.csv", "", ["text", *map(quoted, STORIES)])}
    for name, (file, option, lines) in tables.items():
        folder = tmp_path / name
        folder.mkdir()
        (folder / file).write_text("\n".join(lines) + "\n")
        if option:
            (folder / "README.md").write_text(
                f'---\nconfigs:\n- config_name: default\n  data_files: "{file}"\n  '
                f'{option.replace(";", chr(34) + ";" + chr(34))}\n---\n')
        hub.repositories[f"datasets/somebody/{name.split('[')[0]}"] = folder
    (tmp_path / "train[1] odd" / "train.csv").rename(tmp_path / "train[1] odd" / "train[1] *.csv")
    outcomes = visit(*(("data", f"somebody/{name.split('[')[0]}") for name in tables))
    for name, (outcome, _, _) in zip(tables, outcomes, strict=True):
        assert isinstance(outcome, dict), (name, outcome)
        assert sorted(outcome["train"] + outcome["validation"]) == sorted(STORIES), name


def test_a_dataset_that_cannot_be_used_is_refused_by_its_name(hub, visit, tmp_path):
    files = {"Broken": {"train.jsonl": '{"text": "one"}\nnonsense\n'},
             "Columns": {"train.jsonl": '{"a": "one", "b": "two"}\n'},
             "Several": {"one/train.jsonl": '{"text": "one"}\n', "README.md": (
                 "---\nconfigs:\n- config_name: one\n  data_files: one/*\n"
                 "- config_name: two\n  data_files: one/*\n---\n")},
             "Nothing": {"README.md": "Nothing here."}}
    for name, contents in files.items():
        for path, text in contents.items():
            (tmp_path / name / path).parent.mkdir(parents=True, exist_ok=True)
            (tmp_path / name / path).write_text(text)
        hub.repositories[f"datasets/somebody/{name}"] = tmp_path / name
    said = dict(zip(files, (outcome for outcome, _, _ in visit(
        *(("data", f"somebody/{name}") for name in files))), strict=True))
    for name, line in said.items():
        assert f"'somebody/{name}'" in line and "use --data storybook" in line, line
        assert "\n" not in line and str(tmp_path) not in line and "/snapshots/" not in line, line
    assert "train.jsonl" in said["Broken"] and "line 2" in said["Broken"]
    assert "'one', 'two'" in said["Several"]


def test_a_kept_list_that_is_damaged_or_cannot_be_written_does_no_harm(hub, visit, expected,
                                                                       tmp_path):
    kept = tmp_path / "cache" / "hub" / f"{TINYSTORIES.replace('/', '--')}.json"
    kept.mkdir(parents=True)
    assert visit(("data", TINYSTORIES))[0][0] == expected["data"]
    kept.rmdir()
    assert visit(("data", TINYSTORIES))[0][0] == expected["data"]
    hub.close()
    assert visit(("data", TINYSTORIES))[0][0] == expected["data"]
    whole = json.loads(kept.read_text())
    assert hub_dataset._recall(kept).splits.keys() == SPLITS.keys()
    for damaged in ("", [], None, {**whole, "splits": {"train": [["x"]]}},
                    {**whole, "splits": []}, {"name": "x"}):
        kept.write_text(json.dumps(damaged))
        with pytest.raises((TypeError, ValueError, AttributeError, KeyError)):
            hub_dataset._recall(kept)
    assert "no local copy" in visit(("data", TINYSTORIES))[0][0]


def test_an_exported_model_loads_by_its_name_where_this_package_is_not(hub, python, tmp_path):
    hub.repositories["models/somebody/nano"] = export("bundled", tmp_path / "nano")
    told = python("-c", """
import sys
sys.modules["picolm_lib"] = None
from transformers import pipeline
generate = pipeline("text-generation", "somebody/nano", trust_remote_code=True)
print(generate("Once upon a time", do_sample=False, max_length=40)[0]["generated_text"])
""")
    model, tokenizer, _ = load_run("bundled")
    greedy = SampleConfig(temperature=0, min_p=0)
    expected = "".join(stream_text(model, tokenizer, "Once upon a time", greedy))
    assert len(told) > 80 and expected.startswith(told.rstrip("\n"))
