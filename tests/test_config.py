"""A configuration that exists is a valid one."""

from __future__ import annotations

import pytest
from helpers import refused

from picolm_lib.config import PRESETS, PicoConfig, TrainConfig

TABLE = {  # layers, d_model, heads, KV heads, head_dim, vocabulary, sequence
    "smoke": (2, 64, 2, 1, 32, 2_048, 64),
    "nano": (4, 128, 4, 1, 32, 2_048, 256),
    "pico": (12, 384, 4, 1, 96, 49_152, 384),
    "pico8k": (12, 384, 4, 1, 96, 8_192, 384),
    "planned": (32, 1_280, 10, 5, 128, 32_768, 4_096),
}


@pytest.mark.parametrize("name", TABLE)
def test_presets_are_the_designs_models(name):
    m = PRESETS[name].model
    assert TABLE[name] == (m.n_layers, m.d_model, m.n_heads, m.n_kv_heads, m.head_dim,
                           m.vocab_size, m.max_seq_len)
    assert (m.mlp_ratio_first, m.mlp_ratio_last, m.std_first) == (1.5, 4.0, 0.04)
    assert 0 < m.std_last < m.std_first


def test_presets_train_on_the_designs_data():
    sources = {name: (p.train.data, p.train.tokenizer) for name, p in PRESETS.items()}
    assert sources["smoke"] == sources["nano"] == ("storybook", "bundled")
    assert sources["pico"] == ("roneneldan/TinyStories", "HuggingFaceTB/SmolLM-135M")
    assert sources["pico8k"] == ("roneneldan/TinyStories", "bundled8k")


def test_pico_trains_on_the_original_projects_tokens():
    for name in ("pico", "pico8k"):
        assert PRESETS[name].train.max_tokens == 800 * 49_152


@pytest.mark.parametrize(("fields", "words"), [
    ({"d_model": 100, "n_heads": 3}, ("d_model (100)", "n_heads (3)")),
    ({"n_heads": 4, "n_kv_heads": 3}, ("n_heads (4)", "n_kv_heads (3)")),
    ({"d_model": 12, "n_heads": 4}, ("3", "even")),
    ({"n_heads": 2, "n_kv_heads": 4}, ("n_kv_heads (4)",)),
    ({"vocab_size": 0}, ("vocab_size",)),
    ({"n_layers": -1}, ("n_layers", "-1")),
    ({"max_seq_len": 0}, ("max_seq_len",)),
    ({"n_kv_heads": 0}, ("n_kv_heads",)),
    ({"std_last": 0.0}, ("std_last",)),
    ({"post_norm_gain": 0.0}, ("post_norm_gain",)),
    ({"norm_eps": -1e-6}, ("norm_eps",)),
    ({"rope_theta": float("nan")}, ("rope_theta", "finite")),
    ({"mlp_ratio_last": float("inf")}, ("mlp_ratio_last", "finite")),
])
def test_an_invalid_model_is_refused_by_name(fields, words):
    with refused(*words):
        PicoConfig(**fields)


@pytest.mark.parametrize(("fields", "words"), [
    ({"max_tokens": 0}, ("no end", "max_tokens", "max_steps", "max_minutes")),
    ({"batch_size": 8, "micro_batch_size": 3}, ("batch_size (8)", "micro_batch_size", "3")),
    ({"batch_size": 8, "micro_batch_size": 16}, ("batch_size (8)", "16")),
    ({"batch_size": 0}, ("batch_size",)),
    ({"max_tokens": -1}, ("max_tokens", "negative")),
    ({"max_steps": -1}, ("max_steps", "negative")),
    ({"max_minutes": -0.5}, ("max_minutes", "negative")),
    ({"max_minutes": float("inf")}, ("max_minutes", "finite")),
    ({"muon_lr": float("nan")}, ("muon_lr", "finite")),
    ({"adamw_lr": -1e-3}, ("adamw_lr", "negative")),
    ({"weight_decay": -0.1}, ("weight_decay",)),
    ({"grad_clip": -1.0}, ("grad_clip",)),
    ({"seed": -1}, ("seed",)),
    ({"warmup": 1.5}, ("warmup", "1.5")),
    ({"decay": -0.1}, ("decay",)),
    ({"warmup": 0.6, "decay": 0.5}, ("warmup (0.6)", "decay (0.5)")),
    ({"momentum": 1.0}, ("momentum",)),
    ({"momentum_start": -0.1}, ("momentum_start",)),
    ({"evals": 0}, ("evals",)),
    ({"eval_tokens": 0}, ("eval_tokens",)),
    ({"checkpoint_minutes": 0.0}, ("checkpoint_minutes",)),
    ({"storybook_stories": 0}, ("storybook_stories",)),
])
def test_an_invalid_run_is_refused_by_name(fields, words):
    with refused(*words):
        TrainConfig(**fields)


@pytest.mark.parametrize("fields", [{"max_steps": 3}, {"max_minutes": 0.1}])
def test_any_one_limit_is_enough(fields):
    assert TrainConfig(max_tokens=0, **fields).max_tokens == 0
