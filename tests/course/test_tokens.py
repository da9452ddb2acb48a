"""What notebook 01 measures and draws, against references."""

from __future__ import annotations

import pytest
import torch
from helpers import SHARED, STORIES, bpe

from picolm_lib.config import PRESETS
from picolm_lib.course import race
from picolm_lib.course.tokens import bpe as looks
from picolm_lib.course.tokens import end_of_text, pictures, sources, vocabulary
from picolm_lib.data.tokenizer import MIN_VOCAB_SIZE, encode, load_tokenizer, train_bpe
from picolm_lib.model.picolm import PicoLM, count_parameters, flops_per_token
from picolm_lib.storybook.story import stories
from picolm_lib.train.checkpoint import load_run

ODD = ["naïve café", "狐 jumps\n\nover  it", "12 mats, 3.5 hats!", ""]


def test_bytes_of_tokens_put_side_by_side_are_the_text():
    for tokenizer in (bpe(), load_tokenizer()):
        table = looks.token_bytes(tokenizer)
        assert len(table) == len(tokenizer)
        for text, ids in zip(ODD + STORIES, encode(tokenizer, ODD + STORIES), strict=True):
            assert b"".join(table[i] for i in ids) == text.encode()


def test_the_byte_order_is_the_librarys():
    every_byte = [bytes([byte]) for byte in looks.byte_order()]
    assert looks.token_bytes(bpe(MIN_VOCAB_SIZE))[6:] == every_byte
    assert sorted(looks.byte_order()) == list(range(256))


def test_merges_make_the_tokens_in_their_order():
    tokenizer = train_bpe(["cab tab ab b "] * 3, MIN_VOCAB_SIZE + 5)
    table = looks.token_bytes(tokenizer)
    merges = looks.merges_of(tokenizer)
    assert [table[left] + table[right] for left, right in merges] == table[MIN_VOCAB_SIZE:]
    # By hand: a + b comes nine times, every other pair at most six times.
    assert table[MIN_VOCAB_SIZE] == b"ab"


def test_pieces_are_the_text_and_fewer_merges_cut_finer():
    tokenizer = load_tokenizer()
    text = next(stories(1, seed=5)).text
    counts = []
    for merges in (0, 10, 100, None):
        cut = looks.pieces(tokenizer, text, merges)
        assert "".join(cut) == text
        counts.append(len(cut))
    assert counts[0] == len(text.encode()) and counts == sorted(counts, reverse=True)
    assert counts[-1] == len(encode(tokenizer, [text])[0])


def test_a_part_of_a_letter_is_shown_as_a_byte():
    assert looks.pieces(bpe(MIN_VOCAB_SIZE), "é") == ["\\xc3", "\\xa9"]
    assert "".join(looks.pieces(bpe(), "<|endoftext|>")) == "<|endoftext|>"


def test_variants_lack_their_rule():
    uncut = looks.train_variant(["a b " * 50], 300, words=False)
    assert any(b"a b" in token for token in looks.token_bytes(uncut))
    assert not any(b"a b" in token for token in looks.token_bytes(train_bpe(["a b " * 50], 300)))
    assert looks.train_variant(["1234"], 300, single_digits=False).tokenize("1234") == ["1234"]
    assert looks.train_variant(["1234"], 300).tokenize("1234") == ["1", "2", "3", "4"]


@pytest.mark.parametrize(("vocab_size", "d_model"), [(8_192, 384), (49_152, 384), (2_048, 128)])
def test_the_cost_is_the_models(vocab_size, d_model):
    from dataclasses import replace

    config = replace(PRESETS["pico"].model, vocab_size=vocab_size, d_model=d_model)
    with torch.device("meta"):
        model = PicoLM(config)
    found = vocabulary.cost(vocab_size, d_model, tokens=100)
    assert found.tables == count_parameters(model.embedding) + count_parameters(model.output)
    assert found.body == sum(p.numel() for p in model.blocks.parameters() if p.ndim >= 2)
    assert found.logits == torch.empty(100, vocab_size, device="meta").nbytes
    output = 6 * count_parameters(model.output)
    assert found.output_share == pytest.approx(output / flops_per_token(config), rel=1e-6)


def test_the_merge_slider_says_what_it_shows():
    ground = pictures.merge_slider("cab tab ab b " * 3)
    ground.sliders["merges"].value = 0
    assert ground.picture.text == "The text in 39 tokens after 0 merges."
    ground.sliders["merges"].value = 1  # "ab" comes nine times
    assert ground.picture.text == "The text in 30 tokens after 1 merges."


def test_the_chance_of_an_end_is_the_models():
    model, tokenizer, run = load_run("bundled")
    text = next(stories(1, seed=999)).text
    probabilities = end_of_text.end_probabilities(model, tokenizer, text)
    ids = torch.tensor([[tokenizer.eos_token_id, *encode(tokenizer, [text])[0]]])
    with torch.no_grad():
        for place in (1, 10, ids.shape[1] - 1):
            logits = model(ids[:, :place + 1])[0, -1]
            expected = (logits[tokenizer.eos_token_id] - logits.logsumexp(0)).exp().item()
            assert probabilities[place - 1] == pytest.approx(expected, abs=1e-4)
    assert len(probabilities) == ids.shape[1] - 1
    assert end_of_text.draw_ends(probabilities).text.startswith(
        f"The probability of an end is {probabilities[-1]:.0%}")
    at_end, elsewhere = end_of_text.mean_end_probabilities(model, tokenizer, [text, text])
    assert at_end == pytest.approx(probabilities[-1])
    assert elsewhere == pytest.approx(sum(probabilities[:-1]) / (len(probabilities) - 1))
    too_long = [text, text * 5]
    assert end_of_text.mean_end_probabilities(model, tokenizer, too_long) == pytest.approx(
        (at_end, elsewhere))


def test_words_and_their_counts():
    assert pictures.words("The cat's hat. THE cat!") == ["the", "cat's", "hat", "the", "cat"]
    assert pictures.new_words(["a b", "c d", "a e", "f b"]) == pytest.approx(2 / 4)
    shown = pictures.draw_words({"Little": STORIES, "None": ["one word one"]})
    assert "None has 2 different words in 1 stories" in shown.text


def test_compression_is_bytes_per_token():
    shown = pictures.draw_compression(bpe(), {"Little": STORIES})
    size = sum(len(text.encode()) for text in STORIES)
    ratio = size / sum(map(len, encode(bpe(), STORIES)))
    assert f"to {ratio:.2f} (Little) with {len(looks.merges_of(bpe()))}" in shown.text


def test_a_race_with_another_tokenizer(monkeypatch, tmp_path):
    monkeypatch.setenv("PICOLM_PRESET", "smoke")
    monkeypatch.setenv("PICOLM_CACHE", str(tmp_path))
    monkeypatch.setattr(race, "SMOKE_TOKENS", 2 * 16 * 128)
    race.token_files.cache_clear()
    curve = race.run("bytes", tokenizer=bpe(MIN_VOCAB_SIZE), n_layers=1, d_model=16, n_heads=2)
    assert curve.model.embedding.num_embeddings == MIN_VOCAB_SIZE
    # A token is one byte, but for the ends: bits per byte is a little more than bits per token.
    assert curve.last == pytest.approx(curve.loss / 0.6931, rel=0.01) and curve.last > curve.loss


def test_without_the_hub_one_line_says_so(capsys, monkeypatch):
    import datasets
    import huggingface_hub

    monkeypatch.setattr(datasets.config, "HF_HUB_OFFLINE", True)
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_OFFLINE", True)
    assert sources.tinystories(3, "nobody/nothing") == []
    assert len(sources.smollm("nobody/nothing")) == 2_048
    said = capsys.readouterr().out.strip().splitlines()
    assert len(said) == 2 and all(line.startswith("note: ") for line in said), said


@pytest.mark.skipif(not SHARED.exists(), reason="the shared data are not here")
def test_with_the_shared_data_both_are_there():
    some = sources.tinystories(5, str(SHARED / "tinystories"))
    assert len(some) == 5 and all(len(text) > 100 for text in some)
    assert len(sources.smollm(str(SHARED / "smollm-tokenizer"))) == 49_152
