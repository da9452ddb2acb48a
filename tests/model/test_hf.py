"""PicoLM under transformers: the same logits, texts, and gradients, whoever asks for them."""

from __future__ import annotations

from dataclasses import asdict
from pathlib import Path

import pytest
import torch
import torch.nn.functional as F
from helpers import STORIES, bpe, refused, tiny_model_config
from safetensors.torch import load_file, save_file
from transformers import AutoConfig, AutoModelForCausalLM, DynamicCache, StaticCache

from picolm_lib.config import PRESETS
from picolm_lib.model.attention import KVCache
from picolm_lib.model.hf import PicoForCausalLM, PicoLMConfig, visible
from picolm_lib.model.picolm import PicoLM
from picolm_lib.sampling import SampleConfig, filter_logits, generate

EOS = 0
SAMPLING = SampleConfig(temperature=0.9, top_k=40, top_p=0.95, min_p=0.02, repetition_penalty=1.2,
                        max_new_tokens=9)


@pytest.fixture
def model(randomize) -> PicoLM:
    return randomize(PicoLM(tiny_model_config(max_seq_len=32)), std=0.3).eval()


@pytest.fixture
def wrapped(model) -> PicoForCausalLM:
    return PicoForCausalLM.wrap(model, bos_token_id=EOS, eos_token_id=EOS, pad_token_id=EOS)


@pytest.fixture
def folder(wrapped, tmp_path) -> Path:
    wrapped.save_pretrained(tmp_path / "saved")
    return tmp_path / "saved"


@pytest.fixture
def tokens() -> torch.Tensor:
    return torch.randint(1, 300, (3, 11), generator=torch.Generator().manual_seed(5))


def ours(model: PicoLM, prompt: torch.Tensor, config: SampleConfig, stop: int | None = EOS,
         ) -> torch.Tensor:
    """What our own loop appends to the prompts."""
    return torch.stack(list(generate(model, prompt, config, stop, seed=7)), dim=1)


def theirs(wrapped: PicoForCausalLM, prompt: torch.Tensor, new: int = 9, **options) -> torch.Tensor:
    """What transformers' loop appends to the prompts."""
    options = {"do_sample": False, "attention_mask": torch.ones_like(prompt), **options}
    torch.manual_seed(7)
    return wrapped.generate(prompt, max_new_tokens=new, **options)[:, prompt.shape[1]:]


def test_a_saved_folder_loads_with_the_auto_classes(model, folder, tokens):
    loaded = AutoModelForCausalLM.from_pretrained(folder)
    assert type(loaded) is PicoForCausalLM and not loaded.training
    assert torch.equal(loaded(tokens).logits, model(tokens))
    config = AutoConfig.from_pretrained(folder)
    assert config.to_pico() == model.config
    assert (config.hidden_size, config.num_hidden_layers) == (16, 2)


@pytest.mark.parametrize("preset", PRESETS)
def test_every_preset_is_a_configuration_and_back(preset):
    pico = PRESETS[preset].model
    config = PicoLMConfig(**asdict(pico))
    assert config.to_pico() == pico
    assert PicoLMConfig.from_dict(config.to_dict()).to_pico() == pico
    with torch.device("meta"):
        assert PicoForCausalLM(config).num_parameters() == sum(
            p.numel() for p in PicoLM(pico).parameters())


def test_a_configuration_takes_the_names_of_other_models():
    config = PicoLMConfig(hidden_size=64, num_attention_heads=2, max_position_embeddings=128)
    assert (config.d_model, config.n_heads, config.max_seq_len) == (64, 2, 128)
    with refused("d_model", "n_heads"):
        PicoLMConfig(hidden_size=64, num_attention_heads=3)


def test_a_new_model_starts_as_ours_does():
    config = tiny_model_config()
    fresh = PicoForCausalLM(PicoLMConfig(**asdict(config)))
    for name, value in PicoLM(config).state_dict().items():
        assert torch.equal(fresh.model.state_dict()[name], value), name


def test_what_a_checkpoint_lacks_gets_its_value_from_the_table(folder):
    file = folder / "model.safetensors"
    # Copies, because safetensors 0.7 writes over the file in place, under the tensors' feet.
    weights = {name: value.clone() for name, value in load_file(file).items()}
    lacking = ("blocks.0.mlp.up.weight", "blocks.1.mlp.up.weight", "blocks.1.mlp.down.weight",
               "blocks.0.attn_post_norm.weight", "final_norm.weight", "blocks.1.attn.gate")
    for name in lacking:
        del weights[f"model.{name}"]
    save_file(weights, file, metadata={"format": "pt"})
    loaded = AutoModelForCausalLM.from_pretrained(folder).model.state_dict()
    first, last, down, post, norm, gate = (loaded[name] for name in lacking)
    assert first.std() == pytest.approx(0.04, rel=0.2)     # std_first and std_last of the table
    assert last.std() == pytest.approx(0.02, rel=0.2)
    assert (down == 0).all() and (gate == 0).all() and (norm == 1).all()
    assert (post == torch.tensor(0.1)).all()
    for name, value in weights.items():                    # and what it had stays
        assert torch.equal(loaded[name.removeprefix("model.")], value), name


def test_a_resized_vocabulary_keeps_the_old_tokens(model, wrapped, tokens):
    before = model(tokens)
    wrapped.resize_token_embeddings(310)
    after = wrapped(tokens).logits
    assert after.shape[-1] == wrapped.config.vocab_size == 310
    torch.testing.assert_close(after[..., :300], before)
    assert wrapped.get_input_embeddings().weight[300:].std() < 1


@pytest.mark.parametrize("cached", [True, False])
def test_greedy_texts_equal_ours(model, wrapped, tokens, cached):
    mine = ours(model, tokens, SampleConfig(temperature=0, min_p=0, max_new_tokens=9))
    assert torch.equal(theirs(wrapped, tokens, use_cache=cached), mine)


def test_a_static_cache_tells_the_same(model, wrapped, tokens):
    mine = ours(model, tokens, SampleConfig(temperature=0, min_p=0, max_new_tokens=9))
    assert torch.equal(theirs(wrapped, tokens, cache_implementation="static"), mine)


def test_in_every_step_the_filters_leave_the_same_chances(model, wrapped, tokens):
    """The two draw by different means, but from the same probabilities."""
    options = {name: value for name, value in vars(SAMPLING).items() if name != "max_new_tokens"}
    torch.manual_seed(0)
    told = wrapped.generate(tokens, attention_mask=torch.ones_like(tokens), do_sample=True,
                            max_new_tokens=9, pad_token_id=EOS, output_scores=True,
                            return_dict_in_generate=True, **options)
    start = tokens.shape[1]
    for step, scores in enumerate(told.scores):
        seen = told.sequences[:, :start + step]
        mine = filter_logits(model(seen)[:, -1], seen, SAMPLING)
        alive = ~(seen[:, start:] == EOS).any(-1)
        torch.testing.assert_close(mine[alive].softmax(-1), scores[alive].softmax(-1))
        assert (mine[alive].isfinite().sum(-1) < mine.shape[-1]).all()  # they had work to do


def test_padding_at_the_left_changes_no_text(model, wrapped, tokens):
    lengths = (11, 4, 1)
    padded, mask = torch.full_like(tokens, EOS), torch.zeros_like(tokens)
    for row, length in enumerate(lengths):
        padded[row, -length:], mask[row, -length:] = tokens[row, :length], 1
    texts = theirs(wrapped, padded, attention_mask=mask)
    greedy = SampleConfig(temperature=0, min_p=0, max_new_tokens=9)
    for row, length in enumerate(lengths):
        alone = ours(model, tokens[row:row + 1, :length], greedy)[0]
        assert torch.equal(texts[row, :len(alone)], alone), row


def test_padding_leaves_no_trace_and_no_nan(model, wrapped, tokens):
    mask = torch.ones_like(tokens)
    mask[0, :6] = 0
    outcome = wrapped(tokens, attention_mask=mask, labels=tokens.where(mask.bool(), -100))
    assert outcome.logits.isfinite().all()
    torch.testing.assert_close(outcome.logits[:1, 6:], model(tokens[:1, 6:]))
    torch.testing.assert_close(outcome.logits[1:], model(tokens[1:]))
    outcome.loss.backward()
    assert all(p.grad.isfinite().all() for p in wrapped.parameters())


def test_who_sees_whom():
    three, one, mask = torch.ones(1, 3), torch.ones(1, 1), torch.tensor([[0, 1, 1]])
    expected = torch.tensor([[[[1, 0, 0], [0, 1, 0], [0, 1, 1]]]]).bool()
    assert torch.equal(visible(mask, three), expected)
    assert torch.equal(visible(mask, one, past=2), expected[:, :, 2:])
    assert torch.equal(visible(None, one, past=1, static_length=4),
                       torch.tensor([[[[1, 1, 0, 0]]]]).bool())
    assert visible(None, three) is None and visible(torch.ones(1, 3), three) is None


def test_beams_with_and_without_a_cache_agree(wrapped, tokens):
    options = {"num_beams": 4, "early_stopping": True}
    assert torch.equal(theirs(wrapped, tokens, **options),
                       theirs(wrapped, tokens, use_cache=False, **options))


@pytest.mark.parametrize("cache", ["dynamic", "static", "ours"])
def test_every_cache_gives_the_logits_of_one_pass(model, wrapped, tokens, cache):
    caches = {"dynamic": DynamicCache(), "ours": KVCache(32),
              "static": StaticCache(config=wrapped.config, max_cache_len=20)}
    pieces, start = [], 0
    for end in (4, 5, 9, 11):
        pieces.append(wrapped(tokens[:, start:end], past_key_values=caches[cache]).logits)
        start = end
    torch.testing.assert_close(torch.cat(pieces, dim=1), model(tokens))


def test_a_learners_own_cache_goes_into_our_model(model, tokens):
    theirs_, mine = DynamicCache(), KVCache(32)
    for part in tokens.split(4, dim=1):
        assert torch.equal(model(part, theirs_), model(part, mine))
    assert theirs_.get_seq_length() == mine.get_seq_length() == 11


def test_only_the_logits_that_are_asked_for(model, wrapped, tokens):
    everything = model(tokens)
    torch.testing.assert_close(wrapped(tokens, logits_to_keep=2).logits, everything[:, -2:])
    some = torch.tensor([0, 7])
    torch.testing.assert_close(wrapped(tokens, logits_to_keep=some).logits, everything[:, some])
    assert wrapped(tokens, return_dict=False)[0].shape == everything.shape
    assert wrapped(tokens, use_cache=False).past_key_values is None


def test_gradients_equal_ours(model, wrapped, tokens):
    """Against our chunked loss, and both against PyTorch's."""
    labels = tokens.clone()
    labels[0, :5] = -100
    wrapped.train()
    outcome = wrapped(tokens, labels=labels)
    outcome.loss.backward()
    assert outcome.past_key_values is None
    grads = {name: p.grad.clone() for name, p in model.named_parameters()}
    reference = F.cross_entropy(model(tokens)[:, :-1].flatten(0, 1), labels[:, 1:].flatten())
    torch.testing.assert_close(outcome.loss, reference)
    model.zero_grad()
    model.loss(tokens[:, :-1], labels[:, 1:]).backward()
    for name, parameter in model.named_parameters():
        torch.testing.assert_close(grads[name], parameter.grad, msg=name)


def test_the_trainer_fine_tunes_it(wrapped, folder, tmp_path):
    from transformers import DataCollatorForLanguageModeling, Trainer, TrainingArguments

    tokenizer = bpe()
    rows = [{"input_ids": tokenizer(text)["input_ids"][:32]} for text in STORIES]
    collate = DataCollatorForLanguageModeling(tokenizer, mlm=False)
    options = TrainingArguments(
        tmp_path / "tuned", max_steps=30, per_device_train_batch_size=4, learning_rate=1e-2,
        report_to=[], logging_steps=1, save_steps=30, seed=0, use_cpu=True, disable_tqdm=True)
    trainer = Trainer(wrapped, options, collate, rows)
    trainer.train()
    losses = [line["loss"] for line in trainer.state.log_history if "loss" in line]
    assert sum(losses[-5:]) < 0.8 * sum(losses[:5])
    kept = AutoModelForCausalLM.from_pretrained(tmp_path / "tuned" / "checkpoint-30")
    batch = collate(rows[:4])
    torch.testing.assert_close(kept(**batch).loss, wrapped.eval()(**batch).loss)
    assert (tmp_path / "tuned" / "checkpoint-30" / "attention.py").exists()


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_half_precision(model, folder, tokens, dtype):
    half = AutoModelForCausalLM.from_pretrained(folder, dtype=dtype)
    assert {p.dtype for p in half.parameters()} == {dtype}
    logits = half(tokens).logits
    assert logits.dtype == torch.float32                    # the sum over a vocabulary needs it
    error = (logits - model(tokens)).abs().mean() / model(tokens).std()
    assert 0 < error < 0.05
    half.generate(tokens, attention_mask=torch.ones_like(tokens), max_new_tokens=3)


def test_it_can_be_built_without_memory():
    with torch.device("meta"):
        planned = AutoModelForCausalLM.from_config(PicoLMConfig(**asdict(PRESETS["planned"].model)))
    assert all(p.is_meta for p in planned.parameters()) and not list(planned.buffers())


@pytest.mark.parametrize("padded", [False, True])
def test_it_compiles_into_one_graph(model, wrapped, tokens, padded):
    torch._dynamo.reset()
    mask = torch.ones_like(tokens)
    mask[:, :3] = 0 if padded else 1
    compiled = torch.compile(wrapped, fullgraph=True, backend="aot_eager")
    torch.testing.assert_close(
        compiled(tokens, attention_mask=mask, labels=tokens, use_cache=False).loss,
        wrapped(tokens, attention_mask=mask, labels=tokens, use_cache=False).loss)


def test_beyond_its_context_it_stops_with_a_reason(wrapped, tokens):
    with pytest.raises(ValueError, match="33 tokens exceed this model's context of 32"):
        theirs(wrapped, tokens, new=30, eos_token_id=None)
    assert theirs(wrapped, tokens, new=21, eos_token_id=None).shape == (3, 21)


@pytest.mark.parametrize("asked", ["output_attentions", "output_hidden_states"])
def test_what_it_does_not_give_is_said(wrapped, tokens, asked):
    with pytest.raises(ValueError, match="logits only"):
        wrapped(tokens, **{asked: True})
