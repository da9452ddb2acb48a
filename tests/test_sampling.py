"""Filters equal transformers' own; generating with a cache equals a naive loop without one."""

from __future__ import annotations

import math
from collections.abc import Generator
from copy import deepcopy
from dataclasses import replace
from functools import partial
from types import SimpleNamespace

import pytest
import torch
from helpers import refused, tiny_model_config
from torch import Tensor, nn
from transformers import LlamaConfig, LlamaForCausalLM
from transformers.generation import logits_process as theirs

from picolm_lib.config import PicoConfig, PicoError
from picolm_lib.course.attention import variants
from picolm_lib.data.tokenizer import MIN_VOCAB_SIZE, encode, train_bpe
from picolm_lib.model.fast import kernels_of_a_gpu
from picolm_lib.model.picolm import PicoLM
from picolm_lib.sampling import (
    SampleConfig,
    apply_min_p,
    apply_repetition_penalty,
    apply_temperature,
    apply_top_k,
    apply_top_p,
    filter_logits,
    generate,
    sample_next_token,
    stream_text,
)

PLAIN = {"temperature": 1.0, "min_p": 0.0}
WORDS = 41


@pytest.fixture
def model(tiny_config, randomize) -> PicoLM:
    return randomize(PicoLM(tiny_config), std=0.1)


@pytest.fixture
def prompt() -> Tensor:
    return torch.randint(97, (3, 5))


def logits_of_many_kinds() -> Tensor:
    plain = torch.randn(40, WORDS)
    rejected = plain.masked_fill(torch.rand(40, WORDS) < 0.5, -math.inf)
    rejected[:, 0] = 0.0
    return torch.cat((plain, 3 * plain, 1e3 * plain, 1e-4 * plain, plain.round(), rejected,
                      plain - 50, torch.zeros(1, WORDS), torch.full((1, WORDS), -1e30)))


FILTERS = [
    *[(partial(apply_temperature, temperature=t), theirs.TemperatureLogitsWarper(t))
      for t in (0.1, 0.8, 3.0)],
    *[(partial(apply_top_k, k=k), theirs.TopKLogitsWarper(k)) for k in (1, 5, WORDS, 1_000)],
    *[(partial(apply_top_p, p=p), theirs.TopPLogitsWarper(p)) for p in (1e-3, 0.3, 0.5, 0.95)],
    *[(partial(apply_min_p, p=p), theirs.MinPLogitsWarper(p)) for p in (0.0, 0.05, 0.5, 1.0)],
]


@pytest.mark.parametrize("mine, their", FILTERS)
def test_filter_equals_that_of_transformers(mine, their):
    logits = logits_of_many_kinds()
    untouched = logits.clone()
    got = mine(logits)
    torch.testing.assert_close(got, their(None, untouched.clone()), rtol=0, atol=0)
    assert torch.equal(logits, untouched)
    assert (got.isfinite().any(dim=-1)).all()                        # never nothing to choose from


@pytest.mark.parametrize("penalty", [0.5, 1.1, 2.0])
def test_repetition_penalty_equals_that_of_transformers(penalty):
    logits = logits_of_many_kinds()
    untouched = logits.clone()
    seen = torch.randint(WORDS, (len(logits), 7))                    # with tokens seen twice
    expected = theirs.RepetitionPenaltyLogitsProcessor(penalty)(seen, logits.clone())
    torch.testing.assert_close(apply_repetition_penalty(logits, seen, penalty), expected)
    assert torch.equal(logits, untouched)


def test_repetition_penalty_makes_negative_logits_less_likely():
    logits, seen = torch.tensor([[-2.0, 3.0, 1.0, 0.0]]), torch.tensor([[0, 1, 0]])
    assert apply_repetition_penalty(logits, seen, 2.0).tolist() == [[-4.0, 1.5, 1.0, 0.0]]


def test_all_filters_in_the_order_of_transformers():
    config = LlamaConfig(vocab_size=WORDS, hidden_size=16, intermediate_size=16,
                         num_hidden_layers=1, num_attention_heads=2, num_key_value_heads=2)
    llama = LlamaForCausalLM(config).eval()
    llama.lm_head.weight.data *= 60
    options = {"temperature": 1.7, "top_k": 12, "top_p": 0.8, "min_p": 0.1,
               "repetition_penalty": 1.8}
    ids = torch.randint(1, WORDS, (16, 9))
    out = llama.generate(ids, attention_mask=torch.ones_like(ids), do_sample=True,
                         max_new_tokens=1, output_scores=True, output_logits=True,
                         return_dict_in_generate=True, pad_token_id=0, **options)
    got = filter_logits(out.logits[0], ids, SampleConfig(**options))
    torch.testing.assert_close(got, out.scores[0], rtol=0, atol=0)
    assert 1 < got.isfinite().sum(-1).float().mean() < 12            # the filters had work to do


@pytest.mark.parametrize("temperature", [0.5, 1.0, 2.0])
def test_draws_follow_the_softmax(temperature):
    config, count = SampleConfig(temperature=temperature, min_p=0.0), 20_000
    logits = torch.tensor([[0.0, 1.0, 2.0, -1.0, -math.inf, 0.5]])
    rows = filter_logits(logits, torch.zeros(1, 1).long(), config).expand(count, -1)
    drawn = sample_next_token(rows, config, torch.Generator().manual_seed(1)).bincount(minlength=6)
    expected = count * (logits[0] / temperature).softmax(-1)
    assert drawn[4] == 0
    possible = expected > 0
    chi_square = ((drawn - expected).square() / expected)[possible].sum()
    assert chi_square < 4 + 5 * math.sqrt(8)                         # 4 degrees of freedom


@pytest.mark.parametrize("point, token", [(0.0, 1), (math.nextafter(1.0, 0.0), 3)])
def test_no_random_number_draws_what_was_rejected(monkeypatch, point, token):
    logits = torch.tensor([[-math.inf, 0.3, -math.inf, -1.7, -math.inf]])
    monkeypatch.setattr("torch.rand", lambda *shape, **options: torch.full((1, 1), point,
                                                                           dtype=torch.float64))
    assert sample_next_token(logits, SampleConfig(temperature=1.0)).item() == token


def test_temperature_zero_takes_the_likeliest():
    logits = logits_of_many_kinds()[:40]
    assert torch.equal(sample_next_token(logits, SampleConfig(temperature=0.0)), logits.argmax(-1))


def collect(tokens: Generator[Tensor, None, str]) -> tuple[Tensor, str]:
    """All that a generator yields, (B, N), and what it returns."""
    found = []
    while True:
        try:
            found.append(next(tokens))
        except StopIteration as end:
            return torch.stack(found, dim=1), end.value


def first_beyond(chances: Tensor, generator: torch.Generator) -> Tensor:
    """A (B, 1) draw by hand: adds up chances until they exceed a random number."""
    drawn = []
    for row, point in zip(chances.tolist(), torch.rand(len(chances), generator=generator,
                                                       dtype=torch.float64).tolist(), strict=True):
        total, token = row[0], 0
        while total <= point * math.fsum(row):
            token += 1
            total += row[token]
        drawn.append([token])
    return torch.tensor(drawn)


@torch.no_grad()
def naive(model: PicoLM, ids: Tensor, count: int, processors: list, seed: int | None) -> Tensor:
    """Reads the whole text again for every token; greedy without a seed."""
    start, generator = ids.shape[1], torch.Generator().manual_seed(seed or 0)
    for _ in range(count):
        logits = model(ids)[:, -1]
        for processor in processors:
            logits = processor(ids, logits)
        token = (logits.argmax(-1, keepdim=True) if seed is None
                 else first_beyond(logits.softmax(-1), generator))
        ids = torch.cat((ids, token), dim=1)
    return ids[:, start:]


def test_greedy_equals_a_naive_loop(model, prompt):
    config = SampleConfig(temperature=0.0, max_new_tokens=20)
    got, _ = collect(generate(model, prompt, config))
    assert torch.equal(got, naive(model, prompt, 20, [theirs.MinPLogitsWarper(0.05)], seed=None))


class NoCache(nn.Module):
    """Attention as a learner may write it: causal, one head, and without any use of the cache."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.qkv = nn.Linear(width, 3 * width)

    def forward(self, x: Tensor, cos: Tensor, sin: Tensor, cache=None, mask=None) -> Tensor:
        q, k, v = self.qkv(x)[:, None].chunk(3, dim=-1)              # (B, 1, T, D)
        return nn.functional.scaled_dot_product_attention(q, k, v, is_causal=True)[:, 0]


def other_mlps(model: PicoLM) -> None:
    for block in model.blocks:
        block.mlp = nn.Sequential(nn.Linear(32, 48), nn.GELU(), nn.LayerNorm(48),
                                  nn.Linear(48, 32))


def attention_without_cache(model: PicoLM, *layers: int) -> None:
    for layer in layers:
        model.blocks[layer].attn = NoCache(32)


def hooked(model: PicoLM) -> None:
    model.embedding.register_forward_hook(lambda module, inputs, output: output / 7)


def shared_attention(model: PicoLM) -> None:
    model.blocks[1].attn = model.blocks[0].attn


def repeated_block(model: PicoLM) -> None:
    model.blocks.insert(1, model.blocks[0])


def attention_twice(model: PicoLM) -> None:
    """As many places in the cache as blocks, and yet one block keeps nothing."""
    second = deepcopy(model.blocks[0].attn)
    second.layer_idx = 17

    def twice(x, *arguments):
        return first(x, *arguments) + second(x, *arguments)

    first = model.blocks[0].attn.forward
    model.blocks[0].attn.forward = twice
    attention_without_cache(model, 1)


def replaced_forward(model: PicoLM) -> None:
    forward = model.forward
    model.forward = lambda *arguments: -forward(*arguments)


CHANGES = {
    "shared attention": shared_attention, "a block twice": repeated_block,
    "attention twice": attention_twice, "another forward": replaced_forward,
    "a hook on the model": lambda model: model.register_forward_hook(lambda m, i, logits: -logits),
    "nothing": lambda model: None, "a hook": hooked, "no RoPE": variants.without_rope,
    "no QK-norm": variants.without_qk_norm, "patient": variants.patient, "other MLPs": other_mlps,
    "no cache anywhere": lambda model: attention_without_cache(model, 0, 1, 2),
    "no cache in the first layer": lambda model: attention_without_cache(model, 0),
    "no cache in the last layer": lambda model: attention_without_cache(model, 2)}


@pytest.mark.parametrize("kv_heads", [1, 2, 4])
@pytest.mark.parametrize("change", CHANGES)
def test_generate_runs_the_model_that_it_is_given(change, kv_heads, tiny_config, randomize):
    plain = randomize(PicoLM(replace(tiny_config, n_kv_heads=kv_heads)), std=0.3)
    # Many prompts: a wrong cache changes the likeliest token only now and then.
    model, ids = deepcopy(plain), torch.randint(97, (16, 5))
    CHANGES[change](model)
    config = SampleConfig(temperature=0.0, max_new_tokens=25)
    expected = naive(model, ids, 25, [], seed=None)
    assert torch.equal(collect(generate(model, ids, config))[0], expected)
    same = torch.equal(expected, naive(plain, ids, 25, [], seed=None))
    assert same == (change == "nothing"), "a change must change the text"
    assert len(expected.unique()) > 5, "the text is not one word again and again"
    with kernels_of_a_gpu(grouped=False):                            # as on a T4
        assert torch.equal(collect(generate(model, ids, config))[0], expected)


@pytest.mark.parametrize("autocast", [False, True])
def test_in_16_bits_generate_is_as_near_as_the_model(model, prompt, autocast):
    """The likeliest token of 16 bits, or one that is as likely to within their precision."""
    if not autocast:
        model.bfloat16()
    with torch.autocast("cpu", torch.bfloat16, enabled=autocast), torch.no_grad():
        got, _ = collect(generate(model, prompt, SampleConfig(0.0, max_new_tokens=20)))
        logits = model(torch.cat((prompt, got), dim=1))[:, prompt.shape[1] - 1:-1]  # (B, N, V)
    lost = logits.amax(-1) - logits.gather(-1, got[..., None])[..., 0]
    assert lost.max() < 0.03 * logits.std()


def test_sampling_equals_a_naive_loop_with_the_same_draws(model, prompt):
    config = SampleConfig(0.9, top_k=30, top_p=0.95, min_p=0.01, repetition_penalty=1.3,
                          max_new_tokens=20)
    processors = [theirs.RepetitionPenaltyLogitsProcessor(1.3),
                  theirs.TemperatureLogitsWarper(0.9), theirs.TopKLogitsWarper(30),
                  theirs.TopPLogitsWarper(0.95), theirs.MinPLogitsWarper(0.01)]
    got, _ = collect(generate(model, prompt, config, seed=4))
    assert torch.equal(got, naive(model, prompt, 20, processors, seed=4))


def test_rows_of_a_batch_do_not_disturb_each_other(model, prompt):
    config = SampleConfig(temperature=0.0, repetition_penalty=1.5, max_new_tokens=15)
    together, _ = collect(generate(model, prompt, config))
    for row in range(3):
        alone, _ = collect(generate(model, prompt[row:row + 1], config))
        assert torch.equal(together[row:row + 1], alone)


def test_seed_decides_the_tokens(model, prompt):
    config = SampleConfig(max_new_tokens=20)
    one, same, other, anew, again = (collect(generate(model, prompt, config, seed=seed))[0]
                                     for seed in (3, 3, 4, None, None))
    assert torch.equal(one, same)
    assert not torch.equal(one, other)
    assert not torch.equal(anew, again)


def test_stopped_rows_repeat_the_stop_until_all_have(tiny_config, randomize):
    small = randomize(PicoLM(type(tiny_config)(vocab_size=5, max_seq_len=64, n_layers=1,
                                               d_model=16, n_heads=2)), std=0.1)
    start, config = torch.tensor([[0], [1], [2], [3]]), SampleConfig(max_new_tokens=60, **PLAIN)
    endless, reason = collect(generate(small, start, config, seed=2))
    assert reason == "max_new_tokens" and endless.shape == (4, 60)
    first = [row.index(4) for row in endless.tolist()]
    assert len(set(first)) > 1                                       # they do not end together
    got, reason = collect(generate(small, start, config, stop=4, seed=2))
    assert reason == "end of text"
    for row, end in enumerate(first):
        rest = [4] * (max(first) - end)
        assert got[row].tolist() == endless[row, :end + 1].tolist() + rest


@pytest.mark.parametrize("length, limit, count, reason", [
    (5, 10, 10, "max_new_tokens"), (5, 400, 27, "context"), (31, 400, 1, "context"),
    (31, 1, 1, "max_new_tokens"), (5, 27, 27, "max_new_tokens")])
def test_why_it_ended(model, length, limit, count, reason):
    tokens = generate(model, torch.ones(1, length).long(), SampleConfig(max_new_tokens=limit))
    got, said = collect(tokens)
    assert (got.shape[1], said) == (count, reason)


@pytest.mark.parametrize("length", [0, 32, 40])
def test_prompt_without_tokens_or_without_room_is_refused(model, length):
    with pytest.raises(PicoError, match=f"{length} tokens.*holds 32"):
        next(generate(model, torch.ones(1, length).long(), SampleConfig()))


def test_story_without_room_is_refused_before_it_begins(tiny_config):
    tokenizer = train_bpe(["a"], MIN_VOCAB_SIZE)
    # With the end of text, the prompt has 32 tokens.
    story = stream_text(PicoLM(tiny_config), tokenizer, "b" * 31, SampleConfig())
    with pytest.raises(PicoError, match="32 tokens.*holds 32"):
        next(story)


BAD = {"temperature": (-0.1, math.nan, math.inf), "top_k": (-1,), "top_p": (0.0, 1.5, math.nan),
       "min_p": (-0.1, 1.1, math.nan), "repetition_penalty": (0.0, -1.0, math.nan, math.inf),
       "max_new_tokens": (0, -3)}


@pytest.mark.parametrize("name, value", [(n, v) for n, values in BAD.items() for v in values])
def test_bad_values_are_refused_by_name(name, value):
    with pytest.raises(PicoError, match=f"^{name} must be"):
        SampleConfig(**{name: value})


TEXT = "Grüße, käse! 😀🦊 naïve → Ende 日本"


def told(monkeypatch, prompt: str, ids: list[int], tokenizer) -> tuple[list[str], str, list]:
    """The pieces of a story whose tokens are given, why it ended, and what generate was asked."""
    asked = []

    def fake(model, tokens, config, stop, seed):
        asked.append((tokens.tolist(), stop, seed))
        for token in ids:
            yield torch.tensor([token])
        return "the reason"

    monkeypatch.setattr("picolm_lib.sampling.generate", fake)
    model = SimpleNamespace(config=PicoConfig(max_seq_len=999))
    pieces, story = [], stream_text(model, tokenizer, prompt, SampleConfig(), seed=7)
    while True:
        try:
            pieces.append(next(story))
        except StopIteration as end:
            return pieces, end.value, asked


@pytest.mark.parametrize("vocab_size", [262, 290])
@pytest.mark.parametrize("prompt", ["Über ", "", "🦊"])
def test_pieces_join_to_the_story_and_never_split_a_character(monkeypatch, prompt, vocab_size):
    tokenizer = train_bpe([TEXT] * 3, vocab_size)
    (ids,) = encode(tokenizer, [TEXT])
    pieces, reason, asked = told(monkeypatch, prompt, [*ids, tokenizer.eos_token_id], tokenizer)
    assert "".join(pieces) == prompt + TEXT
    assert pieces[0] == prompt and reason == "the reason"
    assert not any("\ufffd" in piece for piece in pieces)
    assert sum(bool(piece) for piece in pieces[1:]) > 5              # it is told bit by bit
    eos = tokenizer.eos_token_id
    assert asked == [([[eos, *encode(tokenizer, [prompt])[0]]], eos, 7)]


def test_story_cut_within_a_character_ends_with_what_there_is(monkeypatch):
    tokenizer = train_bpe(["a"], MIN_VOCAB_SIZE)  # bytes and nothing else
    (ids,) = encode(tokenizer, ["ok 😀"])
    pieces, *_ = told(monkeypatch, "So: ", ids[:-1], tokenizer)
    assert "".join(pieces) == "So: " + tokenizer.decode(ids[:-1])
    assert "".join(pieces[:-1]) == "So: ok "


def test_story_from_a_model_is_its_tokens_decoded(tiny_config, randomize):
    tokenizer = train_bpe([TEXT] * 3, 290)
    model = randomize(PicoLM(type(tiny_config)(vocab_size=290, max_seq_len=32, n_layers=1,
                                               d_model=16, n_heads=2)), std=0.1)
    ids = [tokenizer.eos_token_id, *encode(tokenizer, ["Ende"])[0]]
    drawn, _ = collect(generate(model, torch.tensor([ids]), SampleConfig(),
                                tokenizer.eos_token_id, seed=2))
    story = "".join(stream_text(model, tokenizer, "Ende", SampleConfig(), seed=2))
    assert story == tokenizer.decode([*ids, *drawn[0].tolist()], skip_special_tokens=True)


@pytest.mark.parametrize("temperature", [0.0, 1.0])
def test_logits_that_overflow_tell_no_story(randomize, temperature):
    model = randomize(PicoLM(tiny_model_config()))
    model.output.weight.data *= 1e30
    model.final_norm.weight.data *= 1e20
    with refused("not finite"):
        list(generate(model, torch.tensor([[1, 2]]), SampleConfig(temperature=temperature)))
