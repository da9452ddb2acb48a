"""Data and tokenizers by their Hub names, from a small Hub on this machine that fails when told to.

What is asked for by name must be what lies in a local folder, bit for bit, also after a fault that
passed. A fault that lasts is one line. And nothing half downloaded is ever taken for good.
"""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch
from helpers import ROOT, SHARED, STORIES, bpe, isolate
from hub_server import Hub
from hub_visitor import tokenizer
from safetensors.torch import load_file

from picolm_lib.checkpoint import load_run
from picolm_lib.commands.train import train_command
from picolm_lib.config import SMOLLM, TINYSTORIES
from picolm_lib.export import export
from picolm_lib.sampling import SampleConfig, tell

TESTS = Path(__file__).parent
REAL = (SHARED / "tinystories").exists() and (SHARED / "smollm-tokenizer").exists()


@pytest.fixture(scope="module")
def shelf(tmp_path_factory) -> Path:
    """A few stories of TinyStories and the SmolLM tokenizer; without them, those of our own."""
    shelf = tmp_path_factory.mktemp("shelf")
    (shelf / "stories" / "data").mkdir(parents=True)
    (shelf / "stories" / "README.md").write_text("---\nlicense: cdla-sharing-1.0\n---\n")
    for split, texts in (("train", STORIES[:30]), ("validation", STORIES[30:])):
        file = f"{split}-00000-of-00001.parquet"
        table = (pq.read_table(SHARED / "tinystories" / file).slice(0, 2 * len(texts)) if REAL
                 else pa.table({"text": texts}))
        pq.write_table(table, shelf / "stories" / "data" / file)
    if REAL:
        shutil.copytree(SHARED / "smollm-tokenizer", shelf / "tokens")
    else:
        bpe().save_pretrained(shelf / "tokens")
    (shelf / "tokens" / "config.json").write_text('{"model_type": "llama"}')  # as a model has it
    return shelf


@pytest.fixture(scope="module")
def expected(shelf) -> dict[str, Any]:
    """What each way of asking must give, read from the folders without the code that we test."""
    texts = {split: pq.read_table(file)["text"].to_pylist() for split in ("train", "validation")
             for file in (shelf / "stories" / "data").glob(f"{split}-*")}
    return {"data": texts, "stream": texts["validation"][:5],
            "tokenizer": tokenizer(str(shelf / "tokens"))}


@pytest.fixture
def hub(shelf) -> Iterator[Hub]:
    folders = {f"datasets/{TINYSTORIES}": shelf / "stories", f"models/{SMOLLM}": shelf / "tokens"}
    with Hub(folders) as hub:
        yield hub


def python(folder: Path, hub: Hub, *arguments: object, cache: str = "cache",
           ) -> subprocess.CompletedProcess:
    """A Python process of its own that knows this Hub alone, with its caches in a folder."""
    kept = {name: value for name, value in os.environ.items()
            if not name.upper().startswith(("HF_", "TRANSFORMERS_"))
            and not name.lower().endswith("_proxy")}
    return subprocess.run(
        [sys.executable, *map(str, arguments)], capture_output=True, text=True, timeout=300,
        cwd=folder, env={**kept, "HF_ENDPOINT": hub.address, "HF_HOME": str(folder / "hf"),
                         "HF_HUB_ETAG_TIMEOUT": "2", "HF_HUB_DOWNLOAD_TIMEOUT": "2",
                         "PICOLM_CACHE": str(folder / cache), "OMP_NUM_THREADS": "1",
                         "PYTHONPATH": os.pathsep.join([str(ROOT), str(TESTS)])})


@pytest.fixture
def visit(hub, tmp_path) -> Callable[..., list]:
    """Jobs of hub_visitor.py -> for each its outcome, stdout, stderr."""
    def visit(*jobs: tuple[str, ...]) -> list:
        done = python(tmp_path, hub, TESTS / "hub_visitor.py", json.dumps(jobs))
        assert done.returncode == 0 and not done.stderr, done.stderr
        return [json.loads(line) for line in done.stdout.splitlines()]

    return visit


def words(run: Path, data: object, tokenizer: object) -> list[str]:
    """Options for a run of two steps."""
    options = {"preset": "smoke", "max-seq-len": 16, "d-model": 16, "n-layers": 1, "prompt": "The",
               "max-steps": 2, "evals": 1, "device": "cpu", "dtype": "float32", "data": data,
               "tokenizer": tokenizer, "run": run}
    return [word for name, value in options.items() for word in (f"--{name}", str(value))]


def contents(folder: Path, pattern: str) -> dict[str, bytes]:
    return {file.name: file.read_bytes() for file in folder.rglob(pattern)}


def test_names_on_the_hub_train_as_the_local_folders_do(hub, shelf, tmp_path, monkeypatch):
    """Also where every large file breaks off once, and where the Hub is gone the next time."""
    isolate(monkeypatch, tmp_path / "own")
    train_command(words(tmp_path / "own" / "run", shelf / "stories", shelf / "tokens"))
    broken = ("GET /cdn/*train-*", "GET /cdn/*validation-*", "GET */tokenizer.json")
    for file in broken:
        hub.fail(file, "drop")
    for cache in ("named", "offline"):
        done = python(tmp_path, hub, ROOT / "run_train.py",
                      *words(tmp_path / cache / "run", TINYSTORIES, SMOLLM), cache=cache)
        assert done.returncode == 0, done.stderr
        hub.close()
    assert [hub.asked(f"{file} *") for file in broken] == [2, 2, 2], hub.log
    assert hub.asked("* drop") == 3

    folders = [tmp_path / name for name in ("own", "named", "offline")]
    for pattern, number in (("*.bin", 2), ("tokenizer.json", 1)):
        own, named, offline = (contents(folder, pattern) for folder in folders)
        assert own == named == offline and len(own) == number, (pattern, own.keys())
    own, *others = (load_file(folder / "run" / "model.safetensors") for folder in folders)
    for weights in others:
        torch.testing.assert_close(weights, own, rtol=0, atol=0)


@pytest.mark.parametrize(("job", "name", "small", "large", "faults"), [
    ("data", TINYSTORIES, "* /api/datasets/*", "GET /cdn/*train-*", ("503", "503", "drop")),
    ("stream", TINYSTORIES, "GET /api/datasets/*", "GET /cdn/*validation-*", ("hang", "drop")),
    ("tokenizer", SMOLLM, "* /api/models/*", "GET */tokenizer.json", ("503", "hang", "drop"))])
def test_faults_that_pass_change_nothing(hub, visit, expected, job, name, small, large, faults):
    hub.fail(small, "503", "503")
    hub.fail(large, *faults)
    hub.fail("HEAD /api/*", "drop")
    assert visit((job, name)) == [[expected[job], "", ""]]
    for fault in {"503", "drop", "hang"}:
        assert hub.asked(f"{large} {fault}") == faults.count(fault), hub.log
    assert hub.asked(f"{small} 503") == 2 and hub.asked("HEAD /api/* drop") == 1, hub.log


LOG_IN = ("`hf auth login`", "HF_TOKEN")
LASTING = {  # name -> requests, fault, what is said of it
    "somebody/Unknown": ("", "", ("not on the Hugging Face Hub, or not open to you", *LOG_IN)),
    "somebody/Deleted": ("*", "404 RepoNotFound", ("not on the Hugging Face Hub", *LOG_IN)),
    "somebody/Private": ("*", "401", ("not open to you", *LOG_IN)),
    "somebody/Forbidden": ("*", "403", ("not open to you", *LOG_IN)),
    "somebody/Gated": ("/resolve/*", "403 GatedRepo", ("gated", "ask for access", *LOG_IN)),
    "somebody/Busy": ("*", "503", ("answers with HTTP 503", "try again later")),
    "somebody/Silent": ("*", "hang", ("cannot be reached", "no local copy")),
}


def assert_told(outcome: object, out: str, errors: str, way: str, words: tuple[str, ...]) -> None:
    """A command ends with one line and code 2; the notebook's stream is empty and gives a note."""
    line, begin = (out, "note: ") if way == "stream" else (errors, "error: ")
    assert outcome == ([] if way == "stream" else 2), line
    assert line.startswith(begin) and line.endswith(".\n") and line.count("\n") == 1, line
    way_out = {"--data": "use --data storybook or a local file or folder.", "stream":
               "use the Storybook", "--tokenizer": "use --tokenizer bundled or a local folder."}
    assert all(word in line for word in (*words, way_out[way])), line


def every_way(name: str) -> dict[str, tuple[str, ...]]:
    """Jobs that ask for a name."""
    run = ("train", "--preset", "smoke", "--run", "run")
    return {"stream": ("stream", name), "--data": (*run, "--data", name),
            "--tokenizer": (*run, "--tokenizer", name)}


def test_a_fault_that_lasts_is_one_line_that_names_the_way_out(hub, shelf, visit):
    for name, (requests, fault, _) in LASTING.items():
        if fault:
            hub.repositories[f"datasets/{name}"] = shelf / "stories"
            hub.repositories[f"models/{name}"] = shelf / "tokens"
            hub.fail(f"* *{name}{requests}", fault, always=True)
    jobs = {(name, way): job for name in LASTING for way, job in every_way(name).items()}
    for (name, way), told in zip(jobs, visit(*jobs.values()), strict=True):
        assert_told(*told, way, (repr(name), *LASTING[name][2]))
    for name in LASTING:  # asked once, or four times where it might have passed; then left alone
        assert hub.asked(f"HEAD /api/*/{name} *") == 3 * (4 if name == "somebody/Busy" else 1)
    assert not hub.asked("GET *Busy*") and not hub.asked("GET *Silent*")


def test_where_nothing_listens_one_line_says_so(hub, visit):
    hub.close()
    ways = every_way(TINYSTORIES)
    for way, told in zip(ways, visit(*ways.values()), strict=True):
        assert_told(*told, way, (repr(TINYSTORIES), "cannot be reached", "no local copy"))


def test_half_a_download_is_never_taken_for_good(hub, visit, expected):
    asked = [("data", TINYSTORIES), ("tokenizer", SMOLLM)]
    hub.fail("GET /cdn/*validation-*", "503", always=True)
    hub.fail("* */tokenizer_config.json", "403", always=True)
    refused = [outcome for outcome, _, _ in visit(*asked)]
    assert "HTTP 503" in refused[0] and "not open to you" in refused[1], refused
    assert hub.asked("GET /cdn/*train-* 200") and hub.asked("GET */config.json 200")

    hub.heal()
    hub.fail("*", "503", always=True)  # now it is the caches that are asked
    refused = [outcome for outcome, _, _ in visit(*asked)]
    assert all("no local copy" in outcome for outcome in refused), refused

    hub.heal()
    assert [outcome for outcome, _, _ in visit(*asked)] == [expected[job] for job, _ in asked]
    assert not hub.asked("GET /cdn/*train-*"), "what was complete is not fetched again"


@pytest.mark.skipif(not REAL, reason="TinyStories and the SmolLM tokenizer are not here")
def test_these_are_the_real_ones(expected):
    assert expected["tokenizer"][1] == 49_152
    assert all(len(text) > 100 for text in expected["stream"])


def test_an_exported_model_loads_by_its_name_where_this_package_is_not(hub, tmp_path):
    hub.repositories["models/somebody/nano"] = export("bundled", tmp_path / "nano")
    done = python(tmp_path, hub, "-c", """
import sys
sys.modules["picolm_lib"] = None
from transformers import pipeline
tell = pipeline("text-generation", "somebody/nano", trust_remote_code=True)
print(tell("Once upon a time", do_sample=False, max_length=40)[0]["generated_text"])
""")
    assert done.returncode == 0, done.stderr
    model, tokenizer, _ = load_run("bundled")
    greedy = SampleConfig(temperature=0, min_p=0)
    assert len(done.stdout) > 80
    assert "".join(tell(model, tokenizer, "Once upon a time", greedy)).startswith(
        done.stdout.rstrip("\n"))
    assert hub.asked("GET */model.safetensors *") and hub.asked("GET */attention.py 200")
