"""An exported run: whole, honest, and of use to somebody who has never heard of this package."""

from __future__ import annotations

import errno
import json
import math
import os
import re
import shutil
import subprocess
import sys
from importlib.metadata import PackageNotFoundError
from pathlib import Path

import pytest
import torch
from helpers import ROOT, SHARED, bpe, refused, tiny_trainer
from safetensors import safe_open
from transformers import (
    AutoModelForCausalLM,
    AutoTokenizer,
    DataCollatorForLanguageModeling,
    pipeline,
)

from picolm_lib.card import _home, last_scores, model_card
from picolm_lib.commands.export import export_command
from picolm_lib.commands.main import run_command
from picolm_lib.evaluate import evaluate
from picolm_lib.export import export, for_transformers
from picolm_lib.sampling import SampleConfig, prompt_ids, stream_text
from picolm_lib.train.checkpoint import RunConfig, load_run, save_config
from picolm_lib.train.metrics import read_metrics
from picolm_lib.train.snapshots import history

PROMPTS = ["The cat saw a red ball.", "The fox", "A"]
GREEDY = SampleConfig(temperature=0, min_p=0)


@pytest.fixture(scope="module")
def run(tmp_path_factory) -> Path:
    """A run of ten steps."""
    folder = tmp_path_factory.mktemp("runs") / "tiny"
    folder.mkdir()
    trainer = tiny_trainer(folder, data=str(folder.parent / "secret.txt"))
    trainer.run()
    save_config(folder, RunConfig("smoke", trainer.model.config, trainer.config))
    bpe().save_pretrained(folder / "tokenizer")
    return folder


@pytest.fixture(scope="module")
def exported(run) -> Path:
    return export(run, run.parent / "exported")


def elsewhere(folder: Path, code: str) -> str:
    """What a Python process prints that cannot import this package."""
    done = subprocess.run(
        [sys.executable, "-c", "import sys; sys.modules['picolm_lib'] = None\n" + code],
        capture_output=True, text=True, cwd=folder, timeout=300, stdin=subprocess.DEVNULL,
        env={**os.environ, "HF_HOME": str(folder / "hf"), "HF_HUB_OFFLINE": "1",
             "OMP_NUM_THREADS": "1"})
    assert done.returncode == 0, done.stderr
    return done.stdout


def test_it_runs_where_this_package_is_not(run, exported, tmp_path):
    shutil.copytree(exported, tmp_path / "model")
    torch.save(torch.arange(1, 11)[None], tmp_path / "prompt.pt")
    said = elsewhere(tmp_path, """
import torch
from transformers import AutoModelForCausalLM, AutoTokenizer, pipeline
prompt = torch.load("prompt.pt", weights_only=True)
try:
    AutoModelForCausalLM.from_pretrained("model", trust_remote_code=False)
except ValueError as error:
    print("refused" if "trust_remote_code" in str(error) else error)
model = AutoModelForCausalLM.from_pretrained("model", trust_remote_code=True)
model.save_pretrained("again")
again = AutoModelForCausalLM.from_pretrained("again", trust_remote_code=True)
assert torch.equal(again(prompt).logits, model(prompt).logits)
torch.save(model(prompt).logits, "logits.pt")
generate = pipeline("text-generation", "model", trust_remote_code=True)
print(generate("The cat", do_sample=False)[0]["generated_text"])
""").splitlines()
    model, tokenizer, _ = load_run(run)
    logits = torch.load(tmp_path / "logits.pt", weights_only=True)
    assert torch.equal(logits, model(torch.arange(1, 11)[None]))
    assert said[0] == "refused"
    assert "\n".join(said[1:]) == "".join(stream_text(model, tokenizer, "The cat", GREEDY))


def test_its_tokenizer_begins_every_text_as_training_did(run, exported):
    model, tokenizer, _ = load_run(run)
    loaded = AutoTokenizer.from_pretrained(exported)
    for prompt in PROMPTS:
        assert loaded(prompt)["input_ids"] == prompt_ids(model.config, tokenizer, prompt)
    batch = loaded(PROMPTS, padding=True, return_tensors="pt")
    assert set(batch) == {"input_ids", "attention_mask"}
    assert batch["attention_mask"][2, 0] == 0 and batch["attention_mask"][:, -1].all()
    assert loaded.model_max_length == model.config.max_seq_len


def test_a_tokenizer_with_a_step_of_its_own_keeps_it():
    if not SHARED.exists():
        pytest.skip("needs ../shared/data")
    model, _, _ = load_run("bundled")
    smollm = AutoTokenizer.from_pretrained(SHARED / "smollm-tokenizer")
    _, prepared = for_transformers(model, smollm)
    text = "One day, 123 birds sang."
    assert prepared(text)["input_ids"] == [smollm.eos_token_id, *smollm(text)["input_ids"]]
    assert smollm.bos_token_id != -1 and smollm(text)["input_ids"][0] != smollm.eos_token_id


def test_a_pad_token_of_the_tokenizers_own_is_kept_so_that_training_sees_the_end_of_text():
    model, tokenizer, _ = load_run("bundled")
    tokenizer.pad_token = tokenizer.convert_ids_to_tokens(300)
    wrapped, prepared = for_transformers(model, tokenizer)
    assert prepared.pad_token_id == wrapped.config.pad_token_id == 300
    assert wrapped.generation_config.pad_token_id == 300 != prepared.eos_token_id
    batch = DataCollatorForLanguageModeling(prepared, mlm=False)(
        [prepared("One day"), prepared("One day, a dog ran home." + prepared.eos_token)])
    assert batch["labels"][1, -1] == prepared.eos_token_id and batch["labels"][0, 0] == -100


def test_a_tokenizer_without_a_pad_token_is_padded_with_the_end_of_text():
    model, tokenizer, _ = load_run("bundled")
    tokenizer.pad_token = None
    wrapped, prepared = for_transformers(model, tokenizer)
    assert prepared.pad_token == prepared.eos_token
    assert wrapped.config.pad_token_id == tokenizer.eos_token_id


def test_a_pipeline_tells_a_batch_as_our_loop_tells_each(tmp_path):
    tell_all = pipeline("text-generation", str(export("bundled", tmp_path / "nano")))
    prompts = ["Once upon a time", "One day, a little girl named Lily found a", "Tom"]
    told = tell_all(prompts, batch_size=3, do_sample=False, max_new_tokens=60)
    model, tokenizer, _ = load_run("bundled")
    for prompt, answers in zip(prompts, told, strict=True):
        alone = "".join(stream_text(model, tokenizer, prompt,
                                    SampleConfig(temperature=0, min_p=0, max_new_tokens=60)))
        assert answers[0]["generated_text"] == alone and len(alone) > 100


def test_by_default_it_samples_as_we_do_and_stops_at_the_end_of_its_context(exported):
    usual = AutoModelForCausalLM.from_pretrained(exported).generation_config
    ours = SampleConfig()
    assert (usual.do_sample, usual.temperature, usual.top_k, usual.top_p, usual.min_p) == (
        True, ours.temperature, ours.top_k, ours.top_p, ours.min_p)
    assert usual.max_length == 16 and usual.eos_token_id == 0


def test_the_card_says_what_the_run_measured(run, exported):
    card = (exported / "README.md").read_text()
    last = [m for m in read_metrics(run) if m["kind"] == "evaluation"][-1]
    trainer = tiny_trainer()
    model, _, _ = load_run(run)
    scores = evaluate(model, trainer.files["validation"], trainer.precision)
    row = next(line for line in card.splitlines() if re.match(r"\| \d+\.\d+ \|", line))
    loss, perplexity, bits = map(float, row.strip("| ").split(" | "))
    assert loss == pytest.approx(scores.loss, abs=1e-4) and last["loss"] == scores.loss
    assert perplexity == pytest.approx(math.exp(scores.loss), abs=1e-3)
    assert bits == pytest.approx(scores.bits_per_byte, abs=1e-4)
    assert f"{scores.predicted:,} tokens of documents" in card
    assert f"{sum(p.numel() for p in model.parameters()):,} parameters" in card
    assert "| tokens, steps | 640, 10 |" in card


def test_the_cards_own_lines_of_code_work(tmp_path):
    """Of the bundled model, which has learned not to end a story at once: the lines sample."""
    card = (export("bundled", tmp_path / "nano") / "README.md").read_text()
    said = elsewhere(tmp_path, re.search(r"```python\n(.*?)```", card, re.DOTALL)[1])
    assert said.startswith("Once upon a time") and len(said) > 100


def test_a_run_without_an_evaluation_claims_nothing(run, tmp_path):
    shutil.copytree(run, tmp_path / "young")
    (tmp_path / "young" / "metrics.jsonl").unlink()
    model, tokenizer, config = load_run(tmp_path / "young")
    card = model_card("young", tmp_path / "young", model, tokenizer, config)
    assert "no scores" in card and "perplexity" not in card


def test_the_bundled_models_card_has_the_numbers_of_its_history():
    last = history().snapshots[-1]
    scores = last_scores("bundled")
    assert (scores["loss"], scores["tokens"]) == (last.loss, last.tokens)


def test_nothing_tells_where_the_run_was_made(run, exported):
    """Its data were a local file, whose name and folder are nobody's business."""
    for path in exported.rglob("*"):
        content = path.read_bytes()
        assert b"secret" not in content and str(run.parent).encode() not in content, path.name
    assert "local files" in (exported / "README.md").read_text()


def test_a_checkout_that_is_not_installed_knows_its_address(monkeypatch):
    """As on a machine where nothing can be installed."""
    installed = _home()

    def missing(name: str) -> None:
        raise PackageNotFoundError(name)

    monkeypatch.setattr("picolm_lib.card.metadata", missing)
    assert _home() == installed and installed.startswith("https://github.com/")


def test_all_the_code_is_there_and_nothing_more(exported):
    there = {path.name for path in exported.glob("*.py")}
    for name in there:
        text = (exported / name).read_text()
        assert text == (ROOT / "picolm_lib" / "model" / name).read_text()
        assert {f"{found}.py" for found in re.findall(r"^from \.(\w+) import", text, re.M)} <= there
        assert not re.search(r"^\s*(from|import) picolm_lib", text, re.M), name
    # transformers up to 5.9 copies only what the first file imports itself
    direct = set(re.findall(r"^from \.(\w+) import", (exported / "hf.py").read_text(), re.M))
    assert {f"{name}.py" for name in direct} | {"hf.py"} == there


def test_half_precision_is_stored_as_such(run, tmp_path):
    folder = export(run, tmp_path / "half", torch.bfloat16)
    with safe_open(folder / "model.safetensors", "pt") as file:
        assert {file.get_tensor(name).dtype for name in file.keys()} == {torch.bfloat16}  # noqa: SIM118
    assert json.loads((folder / "config.json").read_text())["dtype"] == "bfloat16"


def test_a_folder_that_is_there_is_left_alone(run, tmp_path):
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "letter.txt").write_text("dear")
    with refused("mine", "--out"):
        export(run, tmp_path / "mine")
    assert [p.name for p in tmp_path.rglob("*")] == ["mine", "letter.txt"]


def test_a_full_disk_leaves_nothing_half_done(run, tmp_path, monkeypatch):
    def full(*_, **__):
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr("transformers.PreTrainedTokenizerBase.save_pretrained", full)
    with refused("full", "new"):
        export(run, tmp_path / "new")
    assert not list(tmp_path.iterdir())


def test_the_command(run, tmp_path, monkeypatch, capsys):
    out = tmp_path / "out"
    monkeypatch.setattr(sys, "argv", ["export", "--run", str(run), "--out", str(out)])
    run_command(export_command)
    assert str(out) in capsys.readouterr().out and (out / "model.safetensors").exists()
    with pytest.raises(SystemExit) as end:
        run_command(export_command)
    said = capsys.readouterr().err
    assert end.value.code == 2 and said.startswith("error: ") and said.count("\n") == 1
