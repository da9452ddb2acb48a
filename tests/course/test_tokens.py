"""What notebook 01 measures and draws, against references."""

from __future__ import annotations

import re
from dataclasses import replace

import pytest
import torch
from helpers import SHARED, STORIES, bpe

from picolm_lib.config import PRESETS
from picolm_lib.course import race
from picolm_lib.course.tokens import bpe as looks
from picolm_lib.course.tokens import (
    comparison,
    end_of_text,
    kinds,
    measured,
    merge_tree,
    patients,
    pictures,
    sources,
    trailing_space,
    vocabulary,
)
from picolm_lib.data.corpus import load_corpus
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
    assert "TinyStories (stored measurement) has" in shown.text
    given = pictures.draw_words({"TinyStories": STORIES})
    assert "stored" not in given.text
    condensed = pictures.condense_words(["a a a b", "b c a"])
    assert condensed["different"] == 3 and condensed["ranks"][0] == 1
    assert condensed["per_million"][0] == round(4e6 / 7, 1)
    assert condensed["rare"] == round(2 / 3, 4) and condensed["top_50"] == 1


def test_compression_is_bytes_per_token():
    shown = pictures.draw_compression(bpe(), {"Little": STORIES})
    size = sum(len(text.encode()) for text in STORIES)
    ratio = size / sum(map(len, encode(bpe(), STORIES)))
    assert f"to {ratio:.2f} (Little) with {len(looks.merges_of(bpe()))}" in shown.text
    assert "TinyStories" not in shown.text, "measured with another tokenizer"


def test_the_first_merges_compress_most():
    bundled = load_tokenizer()
    counts = pictures.merge_counts(bundled)
    assert counts[0] == 0 and counts[-1] == len(looks.merges_of(bundled))
    stored = measured.read("compression")
    assert stored["merges"] == counts
    ours = pictures.ratios(bundled, [story.text for story in stories(20, seed=999)], counts)
    for found in (ours, stored["bytes_per_token"]):
        slopes = [(b - a) / (n - m) for a, b, m, n in
                  zip(found, found[1:], counts, counts[1:], strict=False)]
        # Each merge buys less than the ones before, but for the noise of a small text.
        assert all(later < 1.15 * earlier for earlier, later in
                   zip(slopes, slopes[1:], strict=False)), slopes
        # Half of the rise is there after a fourth of the merges.
        middle = next(r for r, count in zip(found, counts, strict=True) if count >= counts[-1] / 4)
        assert middle - 1 > (found[-1] - 1) / 2
    assert ours[-1] > stored["bytes_per_token"][-1]
    drawn = pictures.draw_compression(bundled, {"Storybook": STORIES})
    assert "TinyStories (stored measurement)" in drawn.text


def test_the_strip_has_a_row_for_each_number_of_merges():
    tokenizer, sentence = load_tokenizer(), "Once upon a time, there was a cat."
    shown = pictures.strip(tokenizer, sentence)
    numbers = [int(n) for n in re.findall(r"merges?: (\d+) tokens:", shown.text)]
    assert numbers == [len(looks.pieces(tokenizer, sentence, count))
                       for count in (0, 5, 20, 100, None)]
    assert numbers[0] == len(sentence) and numbers == sorted(numbers, reverse=True)
    assert shown.html.count("<figure") == 5


def test_a_piece_of_the_stream_shows_a_story_with_both_ends():
    tokenizer = load_tokenizer()
    ids = []
    for text in encode(tokenizer, [story.text for story in stories(20, seed=999)]):
        ids += [tokenizer.eos_token_id, *text]
    shown = pictures.draw_stream(tokenizer, ids, window=32)
    assert shown.html.count("&lt;end&gt;") >= 2
    assert int(re.search(r"(\d+) of the (\d+) tokens are ends", shown.text)[1]) >= 2
    # Windows of the file, not of the excerpt.
    first = int(re.search(r"Windows (\d+) to", shown.html)[1])
    table = looks.token_bytes(tokenizer)
    assert table[ids[32 * (first - 1) + 1]].decode().strip() in shown.html
    # Where there is no whole story, the beginning is shown.
    assert "1 windows" in pictures.draw_stream(tokenizer, ids[:40], window=32).text


@pytest.mark.parametrize("word", [" butterflies", " grandmother", "naïve", " mat"])
def test_the_merge_tree_is_the_librarys(word):
    tokenizer = load_tokenizer()
    roots = merge_tree.merge_tree(tokenizer, word)
    assert [root.piece for root in roots] == [
        looks.token_bytes(tokenizer)[i] for i in encode(tokenizer, [word])[0]]
    table, merges = looks.token_bytes(tokenizer), looks.merges_of(tokenizer)
    nodes = list(roots)
    for node in nodes:
        nodes += node.children
        if node.merge:
            left, right = merges[node.merge - 1]
            assert (table[left], table[right]) == tuple(child.piece for child in node.children)
            assert all(child.merge < node.merge for child in node.children)
        else:
            assert len(node.piece) == 1 and not node.children
    shown = merge_tree.draw_merge_tree(tokenizer, word)
    assert f"joined by {sum(node.merge > 0 for node in nodes)} merges" in shown.text


def test_the_cover_is_one_token():
    assert len(merge_tree.merge_tree(load_tokenizer(), merge_tree.WORD)) == 1


@pytest.mark.parametrize("kind", kinds.texts())
def test_the_kinds_are_measured_as_stored(kind):
    stored, text = measured.read("kinds")["bytes_per_token"][kind], kinds.texts()[kind]
    for name in (kinds.BUNDLED, kinds.BUNDLED_8K):
        tokenizer = load_tokenizer(name)
        number = sum(len(tokenizer.backend_tokenizer.encode(t).ids) for t in text)
        assert stored[name] == pytest.approx(sum(len(t.encode()) for t in text) / number, abs=1e-4)


def test_the_table_of_kinds_says_what_is_stored():
    table = str(kinds.kinds_table().data)
    assert "SmolLM (49,152), stored measurement" in table
    rows = {row.split(" | ")[0].strip("| "): row for row in table.splitlines()[2:7]}
    assert list(rows) == ["Storybook", "TinyStories", "Python code", "French", "sums"]
    # What the text says of it: a large vocabulary pays on the texts that use it, and only there.
    ratios = measured.read("kinds")["bytes_per_token"]
    assert abs(ratios["Storybook"]["SmolLM"] / ratios["Storybook"]["bundled"] - 1) < 0.03
    assert ratios["Python code"]["SmolLM"] > 2 * ratios["Python code"]["bundled"]
    assert ratios["French"]["SmolLM"] > 1.5 * ratios["French"]["bundled"]
    assert ratios["sums"]["bundled"] == 1 and ratios["sums"]["SmolLM"] < 1.2
    assert "stored" in kinds.compare_with_stored(None)
    assert "stored measurement" in kinds.draw_smollm().text


def test_the_stored_pieces_are_the_story():
    stored = measured.read("smollm")
    assert "".join(stored["pieces"]) == next(stories(1, seed=999)).text
    assert stored["size"] == 49_152


def test_sums_are_right():
    for line in kinds.sums(50, seed=1).splitlines():
        left, _, right, _, total = line.split()
        assert int(left) + int(right) == int(total)
    assert kinds.sums() == kinds.sums() != kinds.sums(seed=1)


def test_every_stored_part_says_how_it_was_measured():
    for part in ("kinds", "compression", "smollm", "words", "per_byte"):
        assert "real_tokenizers.py" in measured.about(part)
        assert re.search(r"20\d\d-\d\d-\d\d", measured.about(part))
    assert "vocabulary.py" in measured.about("vocabularies")


def test_flops_per_byte_by_hand():
    found = vocabulary.per_byte(49_152, 4.0)
    # Output layer: two FLOPs per weight forward, four backward.
    assert found.output == pytest.approx(6 * 49_152 * 384 / 4 / 1e6)
    assert found.total == pytest.approx(flops_per_token(PRESETS["pico"].model) / 4 / 1e6)
    trained, smollm = vocabulary.measured_per_byte()
    best = min(trained, key=lambda p: p.total)
    assert best.vocab_size == 4_096 and smollm.total > 1.5 * best.total
    assert trained[0].bytes_per_token == 1
    assert [p.output for p in trained[1:]] == sorted(p.output for p in trained[1:])
    shown = vocabulary.draw_flops_per_byte()
    assert f"least with 4,096 ({best.total:.1f})" in shown.text
    assert f"{smollm.total:.1f} |" in vocabulary.per_byte_table().data


def test_a_final_space_leads_astray():
    model, tokenizer, _ = load_run("bundled")
    table = looks.token_bytes(tokenizer)
    ids = [tokenizer.eos_token_id, *encode(tokenizer, [trailing_space.PROMPT])[0]]
    with torch.no_grad():
        expected = model(torch.tensor([ids], device="cpu"))[0, -1].softmax(-1)
    found = trailing_space.next_probabilities(model, ids)
    torch.testing.assert_close(found, expected)
    girl, space = table.index(b" girl"), table.index(b" ")
    spaced = trailing_space.next_probabilities(model, [*ids, space])
    assert found.argmax() == girl and found[girl] > 0.3 and spaced[girl] < 0.01
    # The next token begins with a space again, so the text has two.
    assert table[trailing_space.greedy(model, [*ids, space], 1)[0]].startswith(b" ")
    shown = trailing_space.draw_trailing_space(model, tokenizer)
    assert f"is {found[girl]:.1%}, and {spaced[girl]:.1%} with a final space" in shown.text
    assert "goes on with \" named\"" in shown.text


def test_healing_gives_the_probability_back():
    model, tokenizer, _ = load_run("bundled")
    table = looks.token_bytes(tokenizer)
    prompt = trailing_space.PROMPT + " "

    def heal(ids, vocabulary):
        assert vocabulary == table and vocabulary[ids[-1]] == b" "
        return ids[:-1], [i for i, token in enumerate(vocabulary)
                          if i > 5 and token.startswith(vocabulary[ids[-1]])]

    ids = [tokenizer.eos_token_id, *encode(tokenizer, [prompt])[0]]
    rest, allowed = heal(ids, table)
    healed = trailing_space.next_probabilities(model, rest, allowed)
    without = trailing_space.next_probabilities(model, rest)
    girl = table.index(b" girl")
    assert healed[girl] == pytest.approx(without[girl].item(), abs=0.01)
    assert healed.sum().item() == pytest.approx(1, abs=1e-4)
    assert healed.nonzero().flatten().tolist() == sorted(set(allowed) & set(
        healed.nonzero().flatten().tolist()))
    shown = trailing_space.heal_and_continue(model, tokenizer, prompt, heal)
    assert f"{len(allowed):,} of 2,048 tokens may come next" in shown.text
    assert f"probability of {healed[girl]:.1%}" in shown.text


ODD_FOR_PATIENTS = [*ODD, "a   1  2 b_c __x ' 's it's", " tail  ", "\t\n x", "<|endoftext|>"]


def test_the_healthy_patient_is_the_library():
    bundled = load_tokenizer()
    letter = next(name for name, fault in patients.TRUTH.items() if fault == patients.HEALTHY)
    healthy = patients.patients()[letter]
    texts = ODD_FOR_PATIENTS + [story.text for story in stories(20, seed=3)]
    for text, ids in zip(texts, encode(bundled, texts), strict=True):
        assert healthy.encode(text) == ids and healthy.decode(ids) == text
    stream = healthy.stream(["A cat.", "A dog."])
    cat, dog = encode(bundled, ["A cat.", "A dog."])
    end = bundled.eos_token_id
    assert stream == [end, *cat, end, *dog, end]


def test_each_fault_shows_in_one_probe_that_the_others_pass():
    assert sorted(patients.TRUTH) == list("ABCDE")
    assert len(set(patients.TRUTH.values())) == 5
    assert len(patients.FAULTS) == 6 and {*patients.TRUTH.values()} - {patients.HEALTHY} < set(
        patients.FAULTS)
    shows = {"broken letters": "accents", "merged digits": "digits", "lost spaces": "spaces",
             "typed end": "typed end"}
    for name, probe in patients.PROBES.items():
        said = {letter: probe(patient) for letter, patient in patients.patients().items()}
        healthy = next(said[x] for x, f in patients.TRUTH.items() if f == patients.HEALTHY)
        different = {patients.TRUTH[letter] for letter in said if said[letter] != healthy}
        assert different == {fault for fault, shown in shows.items() if shown == name}, name


def test_the_faults_nobody_has_would_show():
    class NoEnds(patients.Patient):
        def stream(self, documents):
            return [i for text in documents for i in self.encode(text)]

    class Lowercase(patients.Patient):
        def encode(self, text):
            return super().encode(text.lower())

    healthy = patients.Patient()
    for sick, probe in ((NoEnds(), "two documents"), (Lowercase(), "capitals")):
        assert patients.PROBES[probe](sick) != patients.PROBES[probe](healthy)


def test_vocabularies_are_compared_at_equal_bytes(monkeypatch, tmp_path):
    monkeypatch.setenv("PICOLM_CACHE", str(tmp_path))
    monkeypatch.setenv("PICOLM_PRESET", "nano")
    monkeypatch.setattr(comparison, "STORIES", 60)
    monkeypatch.setattr(race, "MODEL", replace(race.MODEL, n_layers=1, d_model=16, n_heads=2))
    race.token_files.cache_clear()
    runs = comparison.compare(sizes=(MIN_VOCAB_SIZE, 400), steps=2)
    text = list(load_corpus("storybook", 60).split("train"))
    for run in runs:
        tokenizer = train_bpe(text, run.vocab_size)
        size = sum(len(t.encode()) for t in text)
        assert run.bytes_per_token == pytest.approx(size / sum(map(len, encode(tokenizer, text))))
        assert run.bytes_read[-1] == pytest.approx(2 * 8 * 384, rel=0.01)
        assert run.curve.model.config.max_seq_len == round(384 / run.bytes_per_token)
    assert runs[0].curve.tokens[-1] > 1.5 * runs[1].curve.tokens[-1]
    table = comparison.table(runs).data
    assert "| 262 (bytes) |" in table and f"{runs[1].curve.last:.3f}" in table
    assert f"400: {runs[1].curve.last:.3f}" in comparison.draw(runs).text
    race.token_files.cache_clear()


def test_the_stored_comparison_is_drawn():
    rows = measured.read("vocabularies")["rows"]
    assert all(row["seeds"] == 3 for row in rows)
    by_bytes, by_time = ([row for row in rows if row["regime"] == regime]
                         for regime in ("equal bytes", "equal time"))
    sizes = [row["vocab_size"] for row in by_bytes]
    assert sizes == [row["vocab_size"] for row in by_time] == [262, 512, 1_024, 2_048]
    read = [row["kilobytes"] for row in by_bytes]
    assert max(read) - min(read) < 0.01 * max(read)
    for row in rows:
        assert f"{row['bits_per_byte']:.3f} ± {row['half_width']:.3f}" in (
            comparison.draw_vocabularies().text)
    # What the text says: more tokens are better here, at equal bytes and at equal time.
    for row, larger in [*zip(by_bytes, by_bytes[1:], strict=False),
                        *zip(by_time, by_time[1:], strict=False)]:
        assert row["bits_per_byte"] - row["half_width"] > (
            larger["bits_per_byte"] + larger["half_width"])


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
    assert sources.smollm("nobody/nothing") is None
    said = capsys.readouterr().out.strip().splitlines()
    assert len(said) == 2 and all(line.startswith("note: ") for line in said), said


@pytest.mark.skipif(not SHARED.exists(), reason="the shared data are not here")
def test_the_stored_numbers_of_the_real_ones_are_right():
    some = sources.tinystories(400, str(SHARED / "tinystories"))
    assert len(some) == 400 and all(len(text) > 100 for text in some)
    smollm = sources.smollm(str(SHARED / "smollm-tokenizer"))
    assert smollm is not None and len(smollm) == 49_152
    assert "the stored numbers on all" in kinds.compare_with_stored(smollm)
    stored = measured.read("kinds")
    for name, tokenizer in ((kinds.BUNDLED, load_tokenizer()), (kinds.SMOLLM, smollm),
                            (kinds.BUNDLED_8K, load_tokenizer("bundled8k"))):
        found = kinds.measure(tokenizer, some)
        assert found == pytest.approx({kind: row[name] for kind, row in
                                       stored["bytes_per_token"].items()}, abs=2e-4)
    story = next(stories(1, seed=999)).text
    assert measured.read("smollm")["pieces"] == looks.pieces(smollm, story)
    assert "stored" not in kinds.draw_smollm(smollm).text
    assert "stored measurement |" not in kinds.kinds_table(smollm).data
    words = measured.read("words")
    assert pictures.condense_words(some[:200]) == {
        name: words[name] for name in words if name not in ("about", "stories")}
    kept = measured.read("compression")
    found = pictures.ratios(load_tokenizer(), some[:40], kept["merges"][::5])
    assert found == pytest.approx(kept["bytes_per_token"][::5], abs=1e-4)
    corpus = load_corpus(str(SHARED / "tinystories"))
    small = train_bpe(corpus.split("train"), 300)
    rows = dict(measured.read("per_byte")["trained"])
    ratio = comparison.bytes_per_token(small, some)
    assert rows[262] == 1 < ratio < rows[512]
