"""Nothing is lost, nothing false is loaded: flipped bits, cut files, full disks, evil pickles."""

from __future__ import annotations

import errno
import json
import math
import os
import pickle
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from helpers import STORIES, Evil, bpe, isolate, refused, seal, tiny_model_config
from safetensors.torch import load_file

from picolm_lib.config import PicoError, TrainConfig
from picolm_lib.data.tokenizer import MIN_VOCAB_SIZE, train_bpe
from picolm_lib.files import atomic_write_text, disk_errors
from picolm_lib.model.picolm import PicoLM
from picolm_lib.train.checkpoint import (
    FORMAT,
    RunConfig,
    load_config,
    load_resume,
    load_run,
    save_config,
    save_resume,
)
from picolm_lib.train.weights import load_weights, save_weights

CONFIG = tiny_model_config(n_layers=1)


@pytest.fixture(autouse=True)
def isolated(tmp_path, monkeypatch):
    isolate(monkeypatch, tmp_path / "caches")


def random_model(seed: int = 0) -> PicoLM:
    model = PicoLM(CONFIG)
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.copy_(torch.randn(parameter.shape, generator=generator))
    return model


def same(model: PicoLM, other: PicoLM) -> bool:
    state = other.state_dict()
    return all(torch.equal(value, state[name]) for name, value in model.state_dict().items())


def state(number: int) -> dict:
    return {"model": {"w": torch.full((40, 10), float(number))}, "step": number,
            "rng": torch.arange(64, dtype=torch.uint8)}


def save_run(folder: Path) -> PicoLM:
    folder.mkdir(exist_ok=True)
    model = random_model()
    save_config(folder, RunConfig("smoke", CONFIG, TrainConfig()))
    bpe().save_pretrained(folder / "tokenizer")
    save_weights(folder / "model.safetensors", model)
    return model


# --- the weights ---------------------------------------------------------------------------------

def test_weights_come_back_bit_for_bit(tmp_path):
    model, other = random_model(0), random_model(1)
    save_weights(tmp_path / "w", model)
    assert not same(model, other)
    load_weights(tmp_path / "w", other)
    assert same(model, other)


def test_a_run_loads_from_the_meta_device_bit_for_bit(tmp_path):
    model = save_run(tmp_path)
    loaded, tokenizer, config = load_run(tmp_path)
    assert same(model, loaded) and not loaded.training
    assert not any(p.is_meta for p in loaded.parameters()) and not list(loaded.buffers())
    assert tokenizer.get_vocab() == bpe().get_vocab()
    assert config == RunConfig("smoke", CONFIG, TrainConfig())
    tokens = torch.arange(10)[None]
    assert torch.equal(loaded(tokens), model.eval()(tokens))


def test_weights_can_be_stored_in_half_the_space(tmp_path):
    model, other = random_model(), random_model(1)
    save_weights(tmp_path / "w", model)
    save_weights(tmp_path / "half", model, torch.bfloat16)
    assert (tmp_path / "half").stat().st_size < 0.6 * (tmp_path / "w").stat().st_size
    load_weights(tmp_path / "half", other)
    for parameter, stored in zip(model.parameters(), other.parameters(), strict=True):
        assert torch.equal(parameter.to(torch.bfloat16).float(), stored)


def test_weights_are_plain_safetensors(tmp_path):
    model = random_model()
    save_weights(tmp_path / "w", model)
    read = load_file(tmp_path / "w")
    assert read.keys() == model.state_dict().keys()
    assert all(torch.equal(read[name], value) for name, value in model.state_dict().items())


def test_weights_of_another_model_are_refused(tmp_path):
    save_weights(tmp_path / "w", PicoLM(tiny_model_config(n_layers=2)))
    with refused("n_layers 2", "says 1"):
        load_weights(tmp_path / "w", random_model())
    # Of equal shapes, so that the tensors would fit.
    save_weights(tmp_path / "w", random_model(), run="one")
    with refused("another run"):
        load_weights(tmp_path / "w", random_model(), run="two")
    with refused("rope_theta", "restore config.json"):
        load_weights(tmp_path / "w", PicoLM(replace(CONFIG, rope_theta=500.0)))
    with refused("damaged"):
        flip = (tmp_path / "w").read_bytes().replace(b'"one"', b'"two"')
        (tmp_path / "w").write_bytes(flip)
        load_weights(tmp_path / "w", random_model(), run="two")


# --- damage --------------------------------------------------------------------------------------

def flipped(content: bytes, position: int) -> bytes:
    return content[:position] + bytes([content[position] ^ 1]) + content[position + 1:]


def positions(size: int, number: int = 24) -> list[int]:
    """Some at the beginning, some at the end, the rest spread between."""
    between = [size * i // number for i in range(number)]
    return sorted({0, 1, 7, 8, 9, 40, *between, size - 33, size - 32, size - 31, size - 1})


def test_flipped_or_cut_weights_are_refused(tmp_path):
    path, untouched = tmp_path / "model.safetensors", random_model(1)
    save_weights(path, random_model())
    content = path.read_bytes()
    tag = content.index(b"format")  # '"format":"pt"' says nothing about the weights
    for position in positions(len(content)):
        cases = [content[:position]]
        if position not in range(tag, tag + 12):
            cases.append(flipped(content, position))
        for case in cases:
            path.write_bytes(case)
            model = random_model(1)
            with refused("model.safetensors", "damaged"):
                load_weights(path, model)
            assert same(model, untouched), position


def test_a_flip_in_the_header_is_refused_or_harmless(tmp_path):
    path, original = tmp_path / "w", random_model()
    save_weights(path, original)
    content = path.read_bytes()
    header = 8 + int.from_bytes(content[:8], "little")
    loaded = 0
    for position in range(2, header, 3):
        path.write_bytes(flipped(content, position))
        model = random_model(1)
        try:
            load_weights(path, model)
        except PicoError:
            continue
        loaded += 1
        assert same(model, original), position
    assert loaded <= 4  # of "format":"pt"


def test_a_damaged_checkpoint_does_not_replace_a_good_one(tmp_path):
    """Where a run went on from the one before it, and is killed while it saves again."""
    for number in (1, 2):
        save_resume(tmp_path, state(number))
    (tmp_path / "resume.pt").write_bytes((tmp_path / "resume.pt").read_bytes()[:-99])
    save_resume(tmp_path, state(3))
    steps = [load_resume(tmp_path, previous)["step"] for previous in (False, True)]
    assert steps == [3, 1]


def test_a_cut_or_flipped_resume_file_is_refused(tmp_path):
    save_resume(tmp_path, state(1))
    path = tmp_path / "resume.pt"
    content = path.read_bytes()
    for position in positions(len(content)):
        for case in (content[:position], flipped(content, position)):
            path.write_bytes(case)
            with refused("resume.pt", "damaged"):
                load_resume(tmp_path)
    path.write_bytes(content + b"\0")
    with refused("resume.pt", "damaged"):
        load_resume(tmp_path)
    path.write_bytes(content)
    assert load_resume(tmp_path)["step"] == 1


def test_a_resume_file_comes_back_bit_for_bit(tmp_path):
    save_resume(tmp_path, state(3))
    read = load_resume(tmp_path)
    assert read["step"] == 3
    assert torch.equal(read["model"]["w"], state(3)["model"]["w"])
    assert torch.equal(read["rng"], state(3)["rng"]) and read["rng"].dtype == torch.uint8


def test_a_damaged_last_checkpoint_names_the_one_before(tmp_path):
    for step in (1, 2):
        save_resume(tmp_path, state(step))
    path = tmp_path / "resume.pt"
    path.write_bytes(flipped(path.read_bytes(), 100))
    with refused("resume.pt", "resume.previous.pt", "--resume-previous"):
        load_resume(tmp_path)
    assert load_resume(tmp_path, previous=True)["step"] == 1


def test_two_damaged_checkpoints_name_none(tmp_path):
    for step in (1, 2):
        save_resume(tmp_path, state(step))
    for path in tmp_path.glob("resume*.pt"):
        path.write_bytes(flipped(path.read_bytes(), 50))
    with refused("resume.pt", "no good one"):
        load_resume(tmp_path)


def test_a_damaged_one_before_is_no_reason_to_give_up_a_good_last_one(tmp_path):
    for step in (1, 2):
        save_resume(tmp_path, state(step))
    path = tmp_path / "resume.previous.pt"
    path.write_bytes(flipped(path.read_bytes(), 50))
    with pytest.raises(PicoError) as caught:
        load_resume(tmp_path, previous=True)
    assert "resume.previous.pt' is damaged" in str(caught.value)
    assert "start again" not in str(caught.value)


def test_a_crash_between_the_two_renames_loses_nothing(tmp_path):
    save_resume(tmp_path, state(1))
    (tmp_path / "resume.pt").rename(tmp_path / "resume.previous.pt")
    assert load_resume(tmp_path)["step"] == 1


@pytest.mark.parametrize("plain", [True, False], ids=["pickle", "torch"])
def test_a_pickle_that_runs_code_is_refused_and_does_not_run(tmp_path, plain):
    touched, path = tmp_path / "touched", tmp_path / "resume.pt"
    evil = {"model": Evil(touched), "step": 1}
    if plain:
        path.write_bytes(pickle.dumps(evil))
    else:
        torch.save(evil, path)
    content = seal(path)
    with refused("resume.pt", "not a Simple-PicoLM checkpoint"):
        load_resume(tmp_path)
    assert not touched.exists()
    if plain:  # it would have run
        pickle.loads(content)
        assert touched.exists()



@pytest.mark.parametrize("number", [errno.EACCES, errno.EROFS])
def test_a_closed_folder_gives_one_line(tmp_path, monkeypatch, number):
    def closed(*_):
        raise OSError(number, os.strerror(number))

    monkeypatch.setattr(os, "replace", closed)
    with refused("text", "cannot be written"):
        atomic_write_text(tmp_path / "text", "new")


# --- the rest of the folder ----------------------------------------------------------------------

def test_a_tokenizer_of_another_size_is_refused(tmp_path):
    save_run(tmp_path)
    bpe(MIN_VOCAB_SIZE).save_pretrained(tmp_path / "tokenizer")
    with refused("262", "300", "tokenizer"):
        load_run(tmp_path)


def test_another_tokenizer_is_taken_only_if_it_has_the_same_tokens(tmp_path):
    save_run(tmp_path / "run")
    others = {"same": bpe(), "small": bpe(MIN_VOCAB_SIZE),
              "other": train_bpe(["zz"] * 99 + STORIES, 300)}
    for name, tokenizer in others.items():
        tokenizer.save_pretrained(tmp_path / name)
    assert load_run(tmp_path / "run", tokenizer=str(tmp_path / "same"))[1].get_vocab() == (
        bpe().get_vocab())
    with refused("small", "262", "300"):
        load_run(tmp_path / "run", tokenizer=str(tmp_path / "small"))
    assert len(others["other"]) == 300
    with refused("other", "does not fit"):
        load_run(tmp_path / "run", tokenizer=str(tmp_path / "other"))


@pytest.mark.parametrize(("missing", "words"), [
    ("config.json", ("no run", "--run")), ("tokenizer", ("tokenizer",)),
    ("model.safetensors", ("model.safetensors", "not saved"))])
def test_a_missing_file_is_named(tmp_path, missing, words):
    save_run(tmp_path)
    (tmp_path / missing).rename(tmp_path / "away")
    with refused(*words):
        load_run(tmp_path)


def test_a_folder_without_checkpoints_is_refused(tmp_path):
    with refused("no checkpoint"):
        load_resume(tmp_path)


@pytest.mark.parametrize("content", ["", "{", "[]", "{}", '{"preset": "x", "model": {"depth": 2}}',
                                     '{"preset": "x", "model": {"n_layers": "2"}, "train": {}}'])
def test_a_configuration_that_cannot_be_read_is_named(tmp_path, content):
    (tmp_path / "config.json").write_text(content)
    with refused("config.json"):
        load_config(tmp_path)


@pytest.mark.parametrize("change", [{}, {"format": 2}, {"format": 4}, {"format": "3"}])
def test_a_run_of_another_version_is_refused_with_the_way_out(tmp_path, change):
    save_config(tmp_path, RunConfig("smoke", CONFIG, TrainConfig()))
    path = tmp_path / "config.json"
    written = json.loads(path.read_text())
    assert written.pop("format") == FORMAT == 3
    path.write_text(json.dumps({**written, **change}))
    with refused("config.json", "another version", "train again", "--run"):
        load_config(tmp_path)


def test_a_full_disk_is_found_behind_an_error_of_another_library(tmp_path):
    def hidden(number: int, explicit: bool):
        try:
            raise OSError(number, os.strerror(number))
        except OSError as error:
            if explicit:
                raise RuntimeError("write failed") from error
            raise RuntimeError("write failed")  # noqa: B904

    for explicit in (True, False):
        with refused("disk is full", "file"), disk_errors(tmp_path / "file"):
            hidden(errno.ENOSPC, explicit)
        with pytest.raises(RuntimeError, match="write failed"), disk_errors(tmp_path / "file"):
            hidden(errno.EIO, explicit)
    with refused("no such thing"), disk_errors(tmp_path / "file"):
        raise PicoError("no such thing.")


def test_a_saved_model_that_is_broken_is_refused(tmp_path):
    config = tiny_model_config()
    model = PicoLM(config)
    model.final_norm.weight.data[0] = math.nan
    save_config(tmp_path, RunConfig("smoke", config, TrainConfig()))
    bpe().save_pretrained(tmp_path / "tokenizer")
    save_weights(tmp_path / "model.safetensors", model)
    with refused("model.safetensors", "not finite"):
        load_run(tmp_path)
