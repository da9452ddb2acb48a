"""Any valid configuration trains, tells, saves and loads; any other is refused by its field's name.

Derandomized, so that every machine tries the same examples.
"""

from __future__ import annotations

import dataclasses
import json
import math

import pytest
import torch
from helpers import bpe, refused, token_files
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from picolm_lib.config import PicoConfig, PicoError, TrainConfig
from picolm_lib.model.picolm import PicoLM
from picolm_lib.sampling import SampleConfig, generate
from picolm_lib.train.checkpoint import FORMAT, load_config
from picolm_lib.train.trainer import Trainer
from picolm_lib.train.weights import load_weights, save_weights

SETTINGS = settings(derandomize=True, deadline=None, max_examples=25, database=None,
                    suppress_health_check=list(HealthCheck))


@st.composite
def models(draw) -> PicoConfig:
    """Small ones, with every ratio of heads, and numbers from tiny to large."""
    kv_heads, sharing = draw(st.integers(1, 5)), draw(st.integers(1, 4))
    heads = kv_heads * sharing
    std = st.floats(1e-4, 1.0)
    return PicoConfig(
        vocab_size=300, max_seq_len=draw(st.integers(4, 24)), n_layers=draw(st.integers(1, 3)),
        d_model=heads * 2 * draw(st.integers(1, 4)), n_heads=heads, n_kv_heads=kv_heads,
        mlp_ratio_first=draw(st.floats(0.01, 6)), mlp_ratio_last=draw(st.floats(0.01, 6)),
        multiple_of=draw(st.sampled_from([1, 3, 8, 64, 500])),
        rope_theta=draw(st.sampled_from([1e-3, 1.0, 10.0, 1e4, 1e9, 1e30])),
        norm_eps=draw(st.sampled_from([1e-15, 1e-10, 1e-6, 1e-2, 10.0])), init_std=draw(std),
        std_first=draw(std), std_last=draw(std), post_norm_gain=draw(st.floats(1e-3, 10.0)))


@st.composite
def runs(draw) -> TrainConfig:
    micro, parts = draw(st.integers(1, 3)), draw(st.integers(1, 3))
    warmup = draw(st.floats(0, 1))
    share = st.floats(0, 0.999)
    return TrainConfig(
        max_tokens=draw(st.integers(1, 200)), batch_size=micro * parts, micro_batch_size=micro,
        warmup=warmup, decay=draw(st.floats(0, 1 - warmup)), momentum_start=draw(share),
        momentum=draw(share), momentum_warmup=draw(st.integers(0, 5)), adamw_beta1=draw(share),
        adamw_beta2=draw(share), grad_clip=draw(st.sampled_from([0.0, 1e-9, 1.0, 1e9])),
        muon_lr=draw(st.floats(0, 0.05)), adamw_lr=draw(st.floats(0, 0.05)),
        vector_lr=draw(st.floats(0, 0.05)), weight_decay=draw(st.floats(0, 1)),
        seed=draw(st.integers(0, 2**31)), device="cpu", dtype="float32", prompt="",
        evals=draw(st.integers(1, 3)), eval_tokens=draw(st.integers(1, 80)))


# --- valid ---------------------------------------------------------------------------------------

@SETTINGS
@given(models(), runs())
def test_a_valid_configuration_trains_to_the_token(model, run):
    run = dataclasses.replace(run, max_tokens=min(run.max_tokens, 3 * run.batch_size
                                                  * model.max_seq_len))
    trainer, gradients = Trainer(model, run, bpe(), token_files(), show=False), []
    trainer.optimizer.register_step_pre_hook(
        lambda *_: gradients.extend(p.grad for p in trainer.model.parameters()))
    while trainer.progress.tokens < trainer.total_tokens:
        assert math.isfinite(trainer.step()["loss"])
    assert trainer.progress.tokens == run.max_tokens and trainer.progress.skipped == 0
    assert gradients and all(g is not None and g.isfinite().all() for g in gradients)
    assert all(p.isfinite().all() for p in trainer.model.parameters())


@SETTINGS
@given(models(), st.integers(0, 2**31), st.data())
def test_a_valid_model_reads_with_a_cache_what_it_reads_without(model, seed, data):
    torch.manual_seed(seed)
    pico = PicoLM(model, seed).eval()
    with torch.no_grad():
        for parameter in pico.parameters():                          # zeros would hide a fault
            parameter.add_(0.05 * torch.randn(parameter.shape))
    length = data.draw(st.integers(1, model.max_seq_len - 1))
    prompt = torch.randint(300, (2, length))
    told = torch.stack(list(generate(pico, prompt, SampleConfig(temperature=0))), dim=1)
    assert told.shape == (2, model.max_seq_len - length)
    whole = torch.cat((prompt, told), dim=1)
    with torch.no_grad():
        logits = pico(whole[:, :-1])[:, length - 1:]                 # (2, new, V), all at once
    # Rounding differs, so a token may be another one only where it was as likely as the best.
    chosen = logits.gather(2, told[..., None])[..., 0]
    best, spread = logits.amax(-1), logits.std(-1)
    assert (best - chosen <= 1e-3 * (spread + best.abs())).all()


@SETTINGS
@given(models(), st.integers(0, 2**31))
def test_a_valid_model_is_saved_and_loaded_bit_for_bit(tmp_path_factory, model, seed):
    path = tmp_path_factory.mktemp("weights") / "model.safetensors"
    saved, loaded = PicoLM(model, seed), PicoLM(model, seed + 1)
    save_weights(path, saved)
    load_weights(path, loaded)
    assert all(torch.equal(value, loaded.state_dict()[name])
               for name, value in saved.state_dict().items())


# --- invalid -------------------------------------------------------------------------------------

VALID = {PicoConfig: PicoConfig(), TrainConfig: TrainConfig(), SampleConfig: SampleConfig()}
FIELDS = [(kind, field.name) for kind in VALID for field in dataclasses.fields(kind)]
MAY_BE_ZERO = {"max_tokens", "max_steps", "max_minutes", "micro_batch_size", "muon_lr", "adamw_lr",
               "vector_lr", "weight_decay", "warmup", "decay", "momentum_start", "momentum",
               "momentum_warmup", "grad_clip", "seed", "adamw_beta1", "adamw_beta2", "temperature",
               "top_k", "min_p"}
ABSURD = st.one_of(st.none(), st.lists(st.integers(), max_size=2), st.dictionaries(
    st.text(max_size=2), st.integers(), max_size=1), st.binary(max_size=3), st.just(1j))


def wrong_values(kind: type, name: str) -> st.SearchStrategy:
    """Values that this field cannot have, whatever the others are."""
    value = getattr(VALID[kind], name)
    if isinstance(value, bool):
        return st.one_of(ABSURD, st.integers(), st.floats(), st.text())
    if isinstance(value, str):
        return st.one_of(ABSURD, st.integers(), st.floats(), st.booleans())
    below = st.integers(max_value=-1 if name in MAY_BE_ZERO else 0)
    numbers = [below, st.booleans(), st.text(), st.just("2"),
               st.sampled_from([math.nan, math.inf, -math.inf])]
    if isinstance(value, int):
        numbers += [st.floats().filter(lambda x: x != x or x != int(x) if math.isfinite(x)
                                       else True), st.just(2.5), st.just(2.0)]
    else:
        numbers.append(st.floats(max_value=-1e-9))
    return st.one_of(ABSURD, *numbers)


@pytest.mark.parametrize(("kind", "name"), FIELDS, ids=lambda part: getattr(part, "__name__", part))
def test_a_field_that_is_wrong_is_named(kind, name):
    @SETTINGS
    @given(wrong_values(kind, name))
    def check(value):
        with refused(name):
            kind(**{name: value})
    check()


@SETTINGS
@given(st.integers(1, 40), st.integers(1, 12), st.integers(1, 12))
def test_widths_that_do_not_divide_are_named_and_all_others_accepted(width, heads, kv_heads):
    fits = width % heads == 0 and heads % kv_heads == 0 and width // heads % 2 == 0
    try:
        PicoConfig(d_model=width, n_heads=heads, n_kv_heads=kv_heads)
    except PicoError as error:
        assert not fits and ("n_heads" in str(error) or "n_kv_heads" in str(error))
    else:
        assert fits


@pytest.mark.parametrize(("part", "name", "value"), [
    ("model", "n_layers", 2.5), ("model", "n_layers", "2"), ("model", "rope_theta", None),
    ("train", "compile", 1), ("train", "seed", True), ("train", "prompt", 3),
    ("train", "dtype", "float8")])
def test_a_configuration_file_with_a_wrong_value_names_it(tmp_path, part, name, value):
    plain = {"format": FORMAT, "preset": "smoke", "model": dataclasses.asdict(PicoConfig()),
             "train": dataclasses.asdict(TrainConfig())}
    plain[part][name] = value
    (tmp_path / "config.json").write_text(json.dumps(plain))
    with refused("config.json", name):
        load_config(tmp_path)


@SETTINGS
@given(st.fixed_dictionaries({field.name: st.one_of(st.just(field.default), st.floats(),
                                                     st.integers(-9, 10**6)) for field in
                              dataclasses.fields(SampleConfig)}))
def test_how_to_sample_is_checked_or_works(fields):
    try:
        config = SampleConfig(**fields)
    except PicoError as error:
        assert any(name in str(error) for name in fields)
        return
    pico = PicoLM(PicoConfig(vocab_size=300, max_seq_len=6, n_layers=1, d_model=4, n_heads=1))
    torch.nn.init.normal_(pico.output.weight, std=30.0, generator=torch.Generator().manual_seed(0))
    tokens = list(generate(pico, torch.tensor([[1, 2]]), config, seed=0))
    assert len(tokens) == min(4, config.max_new_tokens)
    assert all(0 <= token.item() < 300 for token in tokens)
