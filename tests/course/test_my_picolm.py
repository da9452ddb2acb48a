"""my_picolm.py: equal to the library without it, and the keeping of the learner's functions."""

from __future__ import annotations

import json
import linecache
import subprocess
import sys
from collections import Counter
from itertools import count
from pathlib import Path
from types import ModuleType, SimpleNamespace

import pytest
import torch
from helpers import ROOT, STORIES, bpe
from hypothesis import given, settings
from hypothesis import strategies as st
from torch.testing import assert_close

from picolm_lib import sampling
from picolm_lib.config import SampleConfig
from picolm_lib.course import drive, my_picolm
from picolm_lib.course.my_picolm import notebook, parts, reference
from picolm_lib.course.my_picolm.keeper import run_file, save_weights
from picolm_lib.course.my_picolm.text import Text, Unreadable
from picolm_lib.data.tokenizer import SPECIAL_TOKENS, encode, plain
from picolm_lib.data.tokenizer import decode as library_decode
from picolm_lib.files import load_tensors, save_tensors
from picolm_lib.model import attention as library_attention
from picolm_lib.model import rope as library_rope
from picolm_lib.train.checkpoint import load_run

CHARACTERS = st.characters(exclude_categories=["Cs"])
TEXTS = st.one_of(st.text(CHARACTERS), st.lists(st.sampled_from(
    [" ", "  ", "\n", "\t", "\u00a0", "'s", "'", "'ll", "1", "23", "\u00bd", "\U00011de0", "cat",
     " dog", "e\u0301", "?!", " \u4e2d", "\U0001f600", "<|endoftext|>", "_"])).map("".join))


def module(text: str) -> ModuleType:
    made = ModuleType("my_picolm")
    exec(compile(text, "my_picolm.py", "exec"), made.__dict__)
    return made


@pytest.fixture(scope="module")
def bundled():
    model, tokenizer, _ = load_run("bundled")
    return model.eval(), tokenizer


@pytest.fixture(scope="module")
def stored(tmp_path_factory):
    """The course's file as a module, and what it reads."""
    path = tmp_path_factory.mktemp("stored") / "my_picolm.safetensors"
    save_weights(path)
    mine = module(parts.template())
    return mine, mine.Stored(path)


# --- The course's functions against the library ---

def test_the_logits_are_those_of_the_library_at_once_and_in_pieces(bundled, stored):
    model, (mine, file) = bundled[0], stored
    ids = torch.randint(6, 2048, (2, 40), device="cpu")
    with torch.no_grad():
        wanted = model(ids)
        assert_close(mine.model(ids, file.weights, file.config, mine.KVCache()), wanted,
                     rtol=1e-4, atol=1e-4)
        cache = mine.KVCache()
        pieces = [mine.model(piece, file.weights, file.config, cache)
                  for piece in ids.split([7, 1, 12, 20], dim=1)]
    assert_close(torch.cat(pieces, dim=1), wanted, rtol=1e-4, atol=1e-4)


@settings(deadline=None, max_examples=150)
@given(text=TEXTS)
def test_any_text_has_the_ids_that_the_library_gives_it(bundled, stored, text):
    mine, file = stored
    ids = mine.encode(text, file.merges)
    assert ids == encode(bundled[1], [text])[0]
    assert mine.decode(ids, file.vocabulary) == text


def test_words_end_where_the_library_ends_them_for_characters_of_all_kinds(bundled, stored):
    cut = plain(bundled[1]).pre_tokenizer.pre_tokenize_str
    codes = [code for code in range(0x20000) if not 0xD800 <= code < 0xE000]
    for start in range(0, len(codes), 100):
        text = "".join(f"a{chr(code)}b {chr(code)} {chr(code)}  " for code in
                       codes[start:start + 100])
        ends = [end for _, (_, end) in cut(text)]
        lengths = map(len, stored[0].words(text))
        place, mine = 0, []
        for length in lengths:
            mine.append(place := place + length)
        assert mine == ends


@settings(deadline=None)
@given(ids=st.lists(st.integers(0, 2047)))
def test_any_ids_have_the_text_that_the_library_gives_them(bundled, stored, ids):
    assert stored[0].decode(ids, stored[1].vocabulary) == library_decode(bundled[1], ids)


def test_merges_are_learned_as_the_library_learns_them(stored):
    mine = stored[0]
    found = Counter(word for text in STORIES for word in mine.words(text))
    words = {tuple(mine.SPECIAL + mine.BYTES.index(byte) for byte in word.encode()): times
             for word, times in found.items()}
    trained = json.loads(bpe(300).backend_tokenizer.to_str())["model"]
    ids = trained["vocab"]
    wanted = {(ids[one], ids[two]): ids[one + two] for one, two in trained["merges"]}
    assert len(SPECIAL_TOKENS) == mine.SPECIAL and len(wanted) == 38
    assert mine.learn_merges(words, 38) == wanted
    # By hand: ab twice, then bc; the smaller pair first; none is left.
    assert mine.learn_merges({(1, 2): 2, (2, 3): 2}, 5, 10) == {(1, 2): 10, (2, 3): 11}
    assert mine.merge([1, 1, 1, 2], (1, 1), 9) == [9, 1, 2]
    assert mine.decode([0, 1], [b"\xc3", b"\xa9"]) == "\u00e9"
    assert mine.decode([0], [b"\xc3"]) == "\ufffd"


def test_parts_of_attention_are_those_of_the_library():
    q, k, v = torch.randn(2, 6, 3, 8), torch.randn(2, 2, 5, 8), torch.randn(2, 2, 5, 8)
    mine = reference.causal_attention(q, reference.expand_kv(k, 6), reference.expand_kv(v, 6))
    assert_close(mine, library_attention.attend(q, k, v))
    tables = reference.rope_tables(torch.arange(90, 97), 8, 10_000.0)
    assert_close(tables, library_rope.rope_tables(torch.arange(90, 97), 8))
    x = torch.randn(2, 7, 3, 8)
    for given_x in (x, x.bfloat16()):
        assert_close(reference.apply_rope(given_x, *tables),
                     library_rope.apply_rope(given_x, *tables))


@settings(deadline=None)
@given(seed=st.integers(0, 10_000), p=st.floats(0.01, 1), k=st.integers(1, 12))
def test_filters_are_those_of_the_library(seed, p, k):
    random = torch.Generator(device="cpu").manual_seed(seed)
    logits = 3 * torch.randn(3, 9, generator=random)
    seen = torch.randint(0, 9, (3, 4), generator=random)
    for name, arguments in (("top_k", (k,)), ("top_p", (p,)), ("min_p", (p,)),
                            ("temperature", (p,)), ("repetition_penalty", (seen, 1 + p))):
        mine, theirs = (getattr(place, f"apply_{name}") for place in (reference, sampling))
        assert torch.equal(mine(logits, *arguments), theirs(logits, *arguments)), name


@pytest.mark.parametrize("options", [
    {}, {"seed": 3, "temperature": 1.2}, {"temperature": 0.0}, {"top_p": 0.7, "seed": 1},
    {"top_k": 3, "repetition_penalty": 1.3, "min_p": 0.0, "tokens": 30}], ids=str)
def test_the_story_is_that_of_the_library(bundled, stored, options):
    mine, file = stored
    same = {key: value for key, value in options.items() if key not in ("seed", "tokens")}
    config = SampleConfig(max_new_tokens=options.get("tokens", 400), **same)
    prompt = "Tom had 12 \u00e9clairs."
    wanted = sampling.stream_text(*bundled, prompt, config, options.get("seed", 0))
    assert list(mine.story(prompt, file, **options)) == list(wanted)


WITHOUT = """
import runpy, sys
sys.modules["picolm_lib"] = None
sys.argv = ["my_picolm.py", *sys.argv[1:]]
runpy.run_path("my_picolm.py", run_name="__main__")
"""


def test_the_file_runs_where_the_library_is_not(bundled, tmp_path):
    (tmp_path / "my_picolm.py").write_text(parts.template(), encoding="utf-8")
    save_weights(tmp_path / "my_picolm.safetensors")
    done = subprocess.run([sys.executable, "-I", "-c", WITHOUT, "Tom saw", "--seed", "5"],
                          cwd=tmp_path, capture_output=True, text=True)
    wanted = "".join(sampling.stream_text(*bundled, "Tom saw", SampleConfig(), 5))
    assert (done.stdout, done.stderr) == (f"{wanted}\n\n0 of 9 parts are yours.\n", "")


def test_what_a_user_can_do_wrong_is_one_line(tmp_path, monkeypatch, capsys):
    mine = module(parts.template())
    mine.__file__ = str(tmp_path / "my_picolm.py")

    def says(*arguments: str) -> str:
        monkeypatch.setattr(sys, "argv", ["my_picolm.py", *arguments])
        with pytest.raises(SystemExit) as stopped:
            mine.main()
        assert capsys.readouterr().out == ""
        return str(stopped.value)

    assert says() == ("error: there is no my_picolm.safetensors beside this file; a notebook of "
                      "the course writes it.")
    weights = tmp_path / "my_picolm.safetensors"
    weights.write_bytes(b"x")
    assert says().startswith("error: my_picolm.safetensors cannot be read (")
    save_tensors(weights, {"a": torch.zeros(2, device="cpu")})
    assert says().startswith("error: my_picolm.safetensors cannot be read (")
    save_weights(weights)
    for arguments, wanted in (
            (["--top-p", "2"], "--top-p must be above 0 and at most 1"),
            (["--temperature", "nan"], "--temperature must be 0 or between 0.001 and 1000"),
            (["--seed", "-1"], "--seed must be between 0 and 2**63 - 1"),
            (["--tokens", "0"], "--tokens must be above 0"),
            (["--tokens", "few"], "argument --tokens: invalid int value: 'few'"),
            (["a b " * 200], "the prompt has 402 tokens, and this model reads at most 255; "
                             "shorten it.")):
        assert says(*arguments) == f"error: {wanted}"
    mine.YOURS += ["RoPE"]
    monkeypatch.setattr(sys, "argv", ["my_picolm.py", "half \udcc3", "--tokens", "1"])
    mine.main()
    said = capsys.readouterr().out
    assert said.startswith("half ?") and said.endswith("\n\n1 of 9 parts is yours: RoPE.\n")


# --- The file ---

def test_the_table_has_the_functions_of_the_reference_in_order():
    text = Text(parts.template())
    assert list(text.spans) == list(parts.FUNCTIONS) == sorted(text.spans, key=text.spans.get)
    headings = [line.split(": ", 1)[1][:-5] for line in text.text.splitlines()
                if line.startswith("# ---- Part")]
    assert headings == list(parts.PARTS) and len(headings) == 9
    assert text.yours == [] and text.used() == []
    assert "picolm_lib" not in text.text


@pytest.mark.parametrize("old, new, says", [
    ("def merge(", "def merge(:(", "not Python (line"), ("YOURS: list", "MINE: list", "YOURS"),
    ("# ---- What your functions use ----\n", "", "separate"),
    ("# swiglu: the course's, until you write it\n", "", "the line before swiglu"),
    ("def swiglu(", "def other(", "0 functions swiglu")])
def test_a_file_that_is_not_one_is_said_to_be_so(old, new, says):
    assert parts.template().count(old) == 1
    with pytest.raises(Unreadable) as caught:
        Text(parts.template().replace(old, new))
    assert says in str(caught.value)


numbers = count()


@pytest.fixture
def cell(monkeypatch, tmp_path):
    """A function that runs a notebook's cell; my_picolm.py is kept in tmp_path/here."""
    names = ModuleType("notebook_of_a_test")
    monkeypatch.setitem(sys.modules, names.__name__, names)
    monkeypatch.setattr(notebook, "_keeper", None)
    monkeypatch.setattr(notebook, "_temporary", [])
    monkeypatch.delenv("PICOLM_PRESET", raising=False)
    (tmp_path / "here").mkdir()
    monkeypatch.chdir(tmp_path / "here")

    def run(source: str) -> SimpleNamespace:
        name = f"<cell {next(numbers)}>"
        linecache.cache[name] = len(source), None, source.splitlines(keepends=True), name
        exec(compile(source, name, "exec", dont_inherit=True), names.__dict__)
        return SimpleNamespace(**vars(names))

    return run


KEPT = "Kept in my_picolm.py."
SWIGLU = "def swiglu(gate, up):\n    return gate.sigmoid() * gate * up\n"
MERGE = '''def merge(ids, pair, new):
    """Mine."""
    text, place = [], 0
    while place < len(ids):
        hit = tuple(ids[place:place + 2]) == pair
        text.append(new if hit else ids[place])
        place += 1 + hit
    return text
'''


def here() -> str:
    return Path("my_picolm.py").read_text(encoding="utf-8")


def test_nothing_is_kept_before_the_start_and_nothing_written_by_it(cell, capsys):
    answer = cell(SWIGLU).swiglu
    assert "run the Settings cell" in my_picolm.keep("swiglu", answer)
    my_picolm.tell()
    my_picolm.offer()
    my_picolm.start()
    assert not list(Path().iterdir())
    said = capsys.readouterr().out
    assert said.count("Settings") == 2
    assert said.endswith("my_picolm.py, beside this notebook: 0 of 9 parts are yours.\n")
    assert my_picolm.keep("swiglu", reference.swiglu) == "" and not list(Path().iterdir())
    assert my_picolm.keep("swiglu", answer) == KEPT
    assert here().count(f"# swiglu: yours\n{SWIGLU}") == 1
    assert here().count('YOURS: list[str] = [\n    "SwiGLU",\n]\n') == 1
    my_picolm.start()
    assert capsys.readouterr().out == "my_picolm.py, beside this notebook: 1 of 9 parts is yours.\n"


def test_in_the_smoke_preset_nothing_is_left_behind(cell, monkeypatch, capsys):
    monkeypatch.setenv("PICOLM_PRESET", "smoke")
    my_picolm.start(save_to_drive=True)
    assert my_picolm.keep("swiglu", cell(SWIGLU).swiglu) == KEPT
    my_picolm.offer()
    assert not list(Path().iterdir())
    said = capsys.readouterr().out
    assert "in a temporary folder" in said and "/" not in said


HELPED = """
import math
import math as m
import torch.nn.functional as functional
from collections import Counter, defaultdict as by_default
from typing import Iterator, Optional

from torch import Tensor, softmax

FEW = {"a": [1, (2.5, None)], "b": -3}
NEVER = math.inf

class Scale:
    factor = m.pi
    def times(self, x):
        return x * self.factor / m.pi

def even(n):
    return n == 0 or odd(n - 1)

def odd(n) -> Optional[Iterator]:
    return n != 0 and even(n - 1)

def swiglu(gate: Tensor, up: Tensor) -> Tensor:
    # A comment.
    def inner(x):
        assert even(4) and FEW["b"] == -3 and len(by_default(int)) == 0 < NEVER
        return functional.silu(Scale().times(x))
    softmax(gate, -1)
    return inner(gate) * up
"""


def test_all_that_a_function_needs_comes_with_it_and_goes_with_it(cell):
    my_picolm.start()
    assert my_picolm.keep("swiglu", cell(HELPED).swiglu) == KEPT
    gate, up = torch.randn(3, 4), torch.randn(3, 4)
    mine = module(here())
    assert_close(mine.swiglu(gate, up), reference.swiglu(gate, up))
    assert (mine.even(6), mine.FEW, mine.NEVER) == (True, {"a": [1, (2.5, None)], "b": -3},
                                                    float("inf"))
    used = [name for item in Text(here()).used() for name in sorted(item.names)]
    assert set(used) == {"m", "functional", "by_default", "softmax", "FEW", "Optional",
                         "NEVER", "Scale", "even", "odd"}
    # What is needed by another function too stays.
    assert my_picolm.keep("rms_norm", cell(
        "def rms_norm(x, gain, eps):\n    even(2)\n"
        "    return functional.rms_norm(x, x.shape[-1:], gain, eps)\n").rms_norm) == KEPT
    assert my_picolm.keep("swiglu", cell(SWIGLU).swiglu) == KEPT
    left = {name for item in Text(here()).used() for name in item.names}
    assert left == {"functional", "even", "odd", "Optional"}
    # Another function uses that helper: of this notebook, then it changes for both.
    changed = "def even(n):\n    return n % 2 == 0\n" + SWIGLU.replace("gate.", "even(2) * gate.")
    assert my_picolm.keep("swiglu", cell(changed).swiglu) == KEPT
    assert here().count("return n % 2 == 0") == 1
    # Of another one, it stays.
    notebook._keeper = None
    my_picolm.start()
    said = my_picolm.keep("swiglu", cell(changed.replace("n % 2", "0 + n % 2")).swiglu)
    assert said == ("Not kept in my_picolm.py: the file already has another even; give yours "
                    "another name.")


def test_a_helper_may_change_with_its_function(cell):
    my_picolm.start()
    source = "def double(x):\n    return {}\n\n" + SWIGLU.replace("gate.", "double(gate).")
    for body in ("x + x", "2 * x", "2 * x  # twice"):
        assert my_picolm.keep("swiglu", cell(source.format(body)).swiglu) == KEPT
        assert here().count("def double") == 1 and f"return {body}\n" in here()


def test_a_function_of_another_name_and_calls_of_other_parts_get_the_files_names(cell):
    my_picolm.start()
    names = cell(MERGE.replace("def merge", "def my_merge"))
    assert my_picolm.keep("merge", names.my_merge) == KEPT
    assert here().count(f"# merge: yours\n{MERGE}") == 1
    source = '''def {}(ids, merges):
    text = f"{{ids}}"
    for pair, new in merges.items():
        ids = my_merge(ids, pair, new)  # \u00e9 my_merge
    return ids if len(merges) < 1 else {}(ids, {{}})
'''
    assert my_picolm.keep("encode_word", cell(source.format("mine", "mine")).mine) == KEPT
    wanted = source.format("encode_word", "encode_word").replace("= my_merge", "= merge")
    assert here().count(f"# encode_word: yours\n{wanted}") == 1
    assert Text(here()).yours == ["merge", "encode_word"] and Text(here()).used() == []
    assert "YOURS: list[str] = []" in here()
    # The check returned the reference under the learner's name.
    names.my_merge = None
    cell("from picolm_lib.course.my_picolm.reference import merge as my_merge")
    assert my_picolm.keep("encode_word", cell(source.format("mine", "mine")).mine) == KEPT
    # A learner's function that did not pass its check: the file's is taken.
    cell(MERGE.replace("Mine", "Not right"))
    assert my_picolm.keep("encode_word", cell(
        "def encode_word(ids, merges):\n    for pair in merges:\n"
        "        ids = merge(ids, pair, merges[pair])\n    return ids\n").encode_word) == KEPT
    assert "Not right" not in here()
    assert module(here()).encode_word([1, 2, 2], {(1, 2): 9, (9, 2): 8}) == [8]


CACHE = """
class Cache:
    '''All in one list.'''

    def __init__(self):
        self.lists = {}

    def update(self, key, value, layer):
        self.lists.setdefault(layer, []).append((key, value))
        keys, values = zip(*self.lists[layer])
        return torch.cat(keys, 2), torch.cat(values, 2)

    def get_seq_length(self):
        return sum(key.shape[2] for key, _ in self.lists.get(0, []))
"""


def test_a_class_is_kept_and_tells_the_same_story(cell, capsys):
    my_picolm.start()
    assert my_picolm.keep("KVCache", cell("import torch\n" + CACHE).Cache) == KEPT
    assert "# KVCache: yours\nclass KVCache:\n    '''All" in here()
    capsys.readouterr()
    my_picolm.tell(tokens=25)
    told = capsys.readouterr().out.split("\n\n")
    bundled_model, tokenizer, _ = load_run("bundled")
    wanted = "".join(sampling.stream_text(bundled_model, tokenizer, "Once upon a time",
                                          SampleConfig(max_new_tokens=25), 0))
    assert told == [*wanted.split("\n\n"), "0 of 9 parts are yours.\nOf shared keys and "
                    "values, with a cache, expand_kv is still the course's.\n"]


@pytest.mark.parametrize("source, says", [
    ("swiglu = lambda gate, up: gate", "swiglu is a lambda; write it with def"),
    ("class A:\n    def swiglu(self, gate, up):\n        return up\nswiglu = A().swiglu",
     "swiglu is a method; write it as a plain function"),
    ("class A:\n    def swiglu(gate, up):\n        return up\nswiglu = A.swiglu",
     "swiglu is defined within A"),
    ("def outer():\n    def swiglu(gate, up):\n        return up\n    return swiglu\n"
     "swiglu = outer()", "swiglu is defined within outer"),
    ("import torch\n@torch.no_grad()\ndef swiglu(gate, up):\n    return up",
     "swiglu is decorated; write it without"),
    ("from functools import cache\n@cache\ndef swiglu(gate, up):\n    return up",
     "swiglu is decorated; write it as a plain function"),
    ("from functools import partial\nimport torch\nswiglu = partial(torch.add, 1)",
     "swiglu is a partial"),
    ("import torch\nswiglu = torch.add", "swiglu is a builtin_function_or_method"),
    ("import numpy as np\ndef swiglu(gate, up):\n    return np.add(gate, up)",
     "it uses numpy, and the file needs only torch"),
    ("from hypothesis import given\ndef swiglu(gate, up):\n    return given(up)",
     "it uses hypothesis, and the file needs only torch"),
    ("from numpy import add\ndef swiglu(gate, up):\n    return add(gate, up)",
     "it uses numpy, and the file needs only torch"),
    ("from picolm_lib.model.mlp import swiglu as theirs\n"
     "def swiglu(gate, up):\n    return theirs(gate, up)", "it uses theirs of picolm_lib"),
    ("import picolm_lib.sampling as s\ndef swiglu(gate, up):\n    return s.REJECTED",
     "it uses s of picolm_lib"),
    ("import torch\nweight = torch.ones(3)\ndef swiglu(gate, up):\n    return gate * weight",
     "it uses weight, a value of the notebook (Tensor)"),
    ("model = object()\ndef swiglu(gate, up):\n    return model", "it uses model, a value of the"),
    ("model = 5\ndef swiglu(gate, up):\n    return model", "the file already has another model"),
    ("STORY = 'x' * 3000\ndef swiglu(gate, up):\n    return STORY",
     "it uses STORY, a value of 3,002 characters"),
    ("def words(text):\n    return text\ndef swiglu(gate, up):\n    return words(up)",
     "the file already has another words; give yours another name"),
    ("import re as json\ndef swiglu(gate, up):\n    return json.I",
     "the file already has another json"),
    ("def swiglu(gate, up):\n    return missing(up)", "it uses missing, which is not defined"),
    ("def swiglu(gate, up):\n    display(up)\n    return up", "it uses display, which only a note"),
    ("steps = 0\ndef swiglu(gate, up):\n    global steps\n    steps += 1\n    return up",
     "it changes the global name steps"),
    ("def mine(x):\n    return x\nother = mine\ndef swiglu(gate, up):\n    return other(up)",
     "it uses other, another name of mine; call mine itself"),
    ("def silly(swiglu, up):\n    return swiglu\nswiglu = silly",
     "in the file silly is called swiglu, which means something else in silly"),
    ("exec('def swiglu(gate, up):\\n    return up')", "the source of swiglu cannot be found"),
    ("class Tools:\n    pass\ndef swiglu(gate, up):\n    return Tools",
     "the source of Tools cannot be found"),
])
def test_what_cannot_be_kept_is_said_in_one_line(cell, source, says):
    my_picolm.start()
    said = my_picolm.keep("swiglu", cell(source).swiglu)
    assert said.startswith(f"Not kept in my_picolm.py: {says}"), said
    assert "\n" not in said and said.endswith(".") and not said.endswith("..")
    assert not Path("my_picolm.py").exists()


def test_a_function_whose_source_has_changed_is_not_kept(cell, tmp_path, monkeypatch):
    my_picolm.start()
    file = tmp_path / "answers_of_a_test.py"
    file.write_text(SWIGLU)
    monkeypatch.syspath_prepend(tmp_path)
    import answers_of_a_test
    file.write_text(SWIGLU.replace("* up", "* up * 2"))
    linecache.checkcache()
    assert my_picolm.keep("swiglu", answers_of_a_test.swiglu).startswith(
        "Not kept in my_picolm.py: the source of swiglu has changed since it was run")
    assert my_picolm.keep("nonsense", cell(SWIGLU).swiglu).endswith("it has no function nonsense.")


def test_hand_edits_and_other_functions_stay(cell):
    my_picolm.start()
    my_picolm.keep("swiglu", cell(SWIGLU).swiglu)
    edited = here().replace('"""Tells a story, and says', '"""Edited. Tells a story, and says')
    edited = edited.replace("    x = x.float()\n", "    x = x.float()  # by hand\n")
    section = "# ---- What your functions use ----\n\n# Mine.\nMINE = 1\n\n"
    edited = edited.replace("# ---- What your functions use ----\n\n", section)
    Path("my_picolm.py").write_text(edited, encoding="utf-8")
    assert my_picolm.keep("merge", cell(MERGE).merge) == KEPT
    for part in ("Edited. Tells", "# by hand", "# Mine.\nMINE = 1\n", SWIGLU, MERGE):
        assert here().count(part) == 1
    again = here()
    assert my_picolm.keep("merge", cell(MERGE).merge) == KEPT and here() == again


def test_a_file_that_cannot_be_read_is_set_aside(cell, capsys):
    for number, content in enumerate((b"def broken(", b"\xff\xfe", b"x = 1\n")):
        Path("my_picolm.py").write_bytes(content)
        my_picolm.start()
        older = f"my_picolm.older{number + 1 if number else ''}.py"
        said = capsys.readouterr().out
        assert f"It is called {older} from now on" in said and Path(older).read_bytes() == content
    assert my_picolm.keep("swiglu", cell(SWIGLU).swiglu) == KEPT
    Path("my_picolm.py").unlink()
    Path("my_picolm.py").mkdir()
    assert my_picolm.keep("swiglu", cell(SWIGLU).swiglu).startswith("Not kept in my_picolm.py: ")
    my_picolm.start()
    my_picolm.tell()
    said = capsys.readouterr().out
    assert str(Path.cwd()) not in said and said.count("\n") == 2


def test_trouble_in_the_learners_file_is_one_line(cell, capsys):
    my_picolm.start()
    names = cell("def swiglu(gate, up):\n    return gate @ up\n")
    assert my_picolm.keep("swiglu", names.swiglu) == KEPT
    capsys.readouterr()
    my_picolm.tell()
    said = capsys.readouterr().out
    assert said.startswith("my_picolm.py stopped in swiglu (line ") and said.count("\n") == 1
    assert "): RuntimeError: " in said
    my_picolm.tell(temperature=-1)
    assert capsys.readouterr().out.startswith("error: --temperature must be")
    Path("my_picolm.safetensors").write_bytes(b"broken")
    my_picolm.tell("Tom", tokens=1)
    load_tensors(Path("my_picolm.safetensors"))
    Path("my_picolm.py").write_text("import sys\nsys.exit(3)\n")
    assert run_file(Path("my_picolm.py").resolve(), "") == "my_picolm.py stopped: it said nothing"


# --- Colab ---

@pytest.fixture
def colab(cell, monkeypatch, tmp_path):
    """A pretended Colab: what was mounted, downloaded and shown."""
    seen = SimpleNamespace(mounted=[], downloads=[], shown=[], works=True)

    def mount(place: str) -> None:
        seen.mounted.append(place)
        if not seen.works:
            raise RuntimeError("mount failed\nmore")
        Path(place, "MyDrive").mkdir(parents=True, exist_ok=True)

    google = ModuleType("google")
    google.colab = ModuleType("google.colab")
    google.colab.drive = SimpleNamespace(mount=mount)
    google.colab.files = SimpleNamespace(download=seen.downloads.append)
    monkeypatch.setitem(sys.modules, "google", google)
    monkeypatch.setitem(sys.modules, "google.colab", google.colab)
    monkeypatch.delenv("KAGGLE_KERNEL_RUN_TYPE", raising=False)
    monkeypatch.setattr(notebook, "display", seen.shown.append)
    return seen


def test_a_file_on_drive_is_taken_up_and_every_change_is_copied(cell, colab, monkeypatch, capsys,
                                                                tmp_path):
    my_picolm.start(save_to_drive=True)
    my_picolm.keep("swiglu", cell(SWIGLU).swiglu)
    there = tmp_path / "here" / "drive" / "MyDrive" / drive.FOLDER
    assert {path.name for path in there.iterdir()} == {"my_picolm.py", "my_picolm.safetensors"}
    assert (there / "my_picolm.py").read_text() == here()
    my_picolm.offer()
    assert "are in MyDrive/picolm" in capsys.readouterr().out and not colab.shown
    # Another machine, with the same Drive.
    (tmp_path / "second").mkdir()
    (tmp_path / "here" / "drive").rename(tmp_path / "second" / "drive")
    monkeypatch.chdir(tmp_path / "second")
    my_picolm.start(save_to_drive=True)
    assert "in MyDrive/picolm: 1 of 9 parts is yours." in capsys.readouterr().out
    # Drive is declined; what is kept meanwhile is added when it is there again.
    colab.works = False
    my_picolm.start(save_to_drive=True)
    assert "note: Drive is not available (mount failed).\n" in capsys.readouterr().out
    my_picolm.keep("merge", cell(MERGE).merge)
    colab.works = True
    my_picolm.start(save_to_drive=True)
    kept = Text(Path("drive/MyDrive/picolm/my_picolm.py").read_text())
    assert kept.yours == ["merge", "swiglu"] and kept.text == here()
    Path("drive/MyDrive/picolm/my_picolm.py").write_text("not one")
    my_picolm.start(save_to_drive=True)
    assert "note: the my_picolm.py on Drive could not be taken up" in capsys.readouterr().out
    # It is the learner's, and may be mended: nothing is written over it.
    my_picolm.keep("merge", cell(MERGE).merge)
    my_picolm.offer()
    assert Path("drive/MyDrive/picolm/my_picolm.py").read_text() == "not one"
    # One that has another version of a function is kept beside it.
    other = kept.text.replace("def swiglu(gate, up):\n", "def swiglu(gate, up):\n    # older\n")
    Path("drive/MyDrive/picolm/my_picolm.py").write_text(other)
    my_picolm.start(save_to_drive=True)
    assert "# older" not in Path("drive/MyDrive/picolm/my_picolm.py").read_text()
    assert "# older" in "".join(path.read_text() for path in Path("drive/MyDrive/picolm").glob(
        "my_picolm.older*.py"))


@pytest.mark.parametrize("version", [7, 8])
def test_an_uploaded_file_is_added(cell, colab, version, capsys):
    my_picolm.start()
    assert not colab.mounted and "upload it here" in capsys.readouterr().out
    my_picolm.keep("rms_norm", cell("def rms_norm(x, gain, eps):\n    return x\n").rms_norm)
    [box] = colab.shown
    button, said = box.children
    first = Text(parts.template())
    written = SimpleNamespace(source=SWIGLU, uses={})
    other = first.put("swiglu", written).encode()

    def upload(content: bytes) -> str:
        file = {"content": content if version == 7 else memoryview(content), "name": "x.py"}
        value = {"x.py": {"metadata": {}, **file}} if version == 7 else (file,)
        # As the widget's own value would change.
        for handler in button._trait_notifiers["value"]["change"]:
            if getattr(handler, "__name__", "") == "take":
                handler({"new": value})
        return said.value

    assert upload(other) == "Taken up: 2 of 9 parts are yours."
    assert Text(here()).yours == ["rms_norm", "swiglu"]
    before = here()
    assert upload(b"print(1)") == ("It was not taken up: it has 0 functions merge.")
    assert upload(b"\xff") == "It was not taken up: it is not UTF-8." and here() == before
    my_picolm.offer()
    button = colab.shown[-1]
    assert "until Colab takes it back" in capsys.readouterr().out
    button.click()
    assert [Path(path).name for path in colab.downloads] == ["my_picolm.py",
                                                            "my_picolm.safetensors"]


def test_functions_of_two_files_whose_helpers_clash_are_named(cell, colab, tmp_path):
    my_picolm.start()
    helper = "def helper(x):\n    return x * {}\n\n"
    my_picolm.keep("swiglu", cell(helper.format(1) + SWIGLU.replace("* up", "* helper(up)")).swiglu)
    mine = here().encode()
    Path("my_picolm.py").unlink()
    my_picolm.keep("rms_norm", cell(
        helper.format(2) + "def rms_norm(x, gain, eps):\n    return helper(x)\n").rms_norm)
    assert notebook.take_up(mine) == ("Taken up: 1 of 9 parts is yours. Run the checks of rms_norm "
                                      "again.")
    assert "helper(x)" in Path("my_picolm.older.py").read_text()


IN_IPYTHON = f"""
from IPython.core.interactiveshell import InteractiveShell
shell = InteractiveShell.instance()
for source in ("from picolm_lib.course import my_picolm; my_picolm.start()",
               {"import torch" + CACHE!r} + "print(my_picolm.keep('KVCache', Cache))",
               "def helper(x):\\n    return x\\n" + {SWIGLU.replace("* up", "* helper(up)")!r},
               "%precision 3\\ndef helper(x):\\n    return 2 * x / 2\\n"
               "print(my_picolm.keep('swiglu', swiglu))",
               "%time my_picolm.tell(tokens=3)"):
    shell.run_cell(source).raise_error()
"""


def test_cells_of_ipython_are_kept(tmp_path):
    done = subprocess.run([sys.executable, "-c", IN_IPYTHON], cwd=tmp_path, text=True,
                          capture_output=True, env={"PYTHONPATH": str(ROOT), "HOME": str(tmp_path),
                                                    "OMP_NUM_THREADS": "1"})
    assert done.returncode == 0, done.stderr
    assert done.stdout.count(KEPT) == 2 and "1 of 9 parts is yours: SwiGLU." in done.stdout
    text = Text((tmp_path / "my_picolm.py").read_text())
    assert text.yours == ["KVCache", "swiglu"] and "return 2 * x / 2" in text.text


def test_what_is_missing_of_a_part_that_is_begun_is_said():
    assert parts.count_sentence([]) == "0 of 9 parts are yours."
    assert parts.count_sentence(["rms_norm"]) == "1 of 9 parts is yours."
    assert parts.count_sentence(["merge", "decode"]) == (
        "0 of 9 parts are yours. Of the tokenizer's merges, learn_merges, encode_word are still "
        "the course's.")
    assert parts.count_sentence(["rope_tables", "swiglu"]) == (
        "1 of 9 parts is yours. Of RoPE, apply_rope is still the course's.")


def test_what_was_changed_by_hand_is_set_aside_before_it_is_replaced(cell, capsys):
    my_picolm.start()
    assert my_picolm.keep("swiglu", cell(SWIGLU).swiglu) == KEPT
    assert my_picolm.keep("swiglu", cell(SWIGLU).swiglu) == KEPT
    assert not list(Path().glob("my_picolm.older*"))
    by_hand = here().replace("def swiglu(gate, up):\n", "def swiglu(gate, up):\n    # by hand\n")
    assert by_hand != here()
    Path("my_picolm.py").write_text(by_hand)
    capsys.readouterr()
    assert my_picolm.keep("swiglu", cell(SWIGLU).swiglu) == KEPT
    assert "another swiglu; that file is called my_picolm.older.py" in capsys.readouterr().out
    assert Path("my_picolm.older.py").read_text() == by_hand and "by hand" not in here()


def test_statements_of_ones_own_stay(cell):
    my_picolm.start()
    assert my_picolm.keep("swiglu", cell(SWIGLU).swiglu) == KEPT
    Path("my_picolm.py").write_text(here().replace(parts.USED, parts.USED + "\nassert True\n"))
    assert my_picolm.keep("swiglu", cell(SWIGLU).swiglu) == KEPT and "assert True" in here()


def test_after_a_file_that_cannot_be_read_the_notebooks_functions_are_there_again(cell, capsys):
    my_picolm.start()
    assert my_picolm.keep("swiglu", cell(SWIGLU).swiglu) == KEPT
    good = here()
    Path("my_picolm.py").write_text(good + "def (")
    my_picolm.start()
    assert "my_picolm.older.py" in capsys.readouterr().out
    my_picolm.offer()
    assert here() == good
    # Editors of Windows begin a file with a mark.
    Path("my_picolm.py").write_text(good, encoding="utf-8-sig")
    my_picolm.start()
    assert len(list(Path().glob("my_picolm.older*"))) == 1


def test_what_a_function_imports_by_itself_must_be_there_too(cell):
    my_picolm.start()
    for line in ("import numpy as np", "from picolm_lib.files import first_line"):
        said = my_picolm.keep("swiglu", cell(SWIGLU.replace(
            "):\n", f"):\n    {line}\n", 1)).swiglu)
        assert "the file needs only torch" in said
    assert my_picolm.keep("swiglu", cell(SWIGLU.replace(
        "):\n", "):\n    import math\n", 1)).swiglu) == KEPT


def test_a_helper_that_only_has_the_name_of_a_part_is_not_taken_for_it(cell):
    my_picolm.start()
    names = cell("def block(x):\n    return x\n" + SWIGLU.replace("gate.", "block(gate)."))
    assert "another function of that name" in my_picolm.keep("swiglu", names.swiglu)


def test_a_file_that_ends_in_exit_stops_nothing(cell):
    my_picolm.start()
    assert my_picolm.keep("swiglu", cell(SWIGLU).swiglu) == KEPT
    Path("my_picolm.py").write_text(here() + "\nprint('end')\nsys.exit(0)\n")
    assert "stops with SystemExit" in my_picolm.keep("swiglu", cell(SWIGLU).swiglu)
    my_picolm.tell(5)


def test_a_name_of_pythons_own_and_a_number_without_end_are_refused(cell):
    my_picolm.start()
    for line in ("max = 2", "BIG = 10**5000"):
        name = line.split()[0]
        source = f"{line}\n" + SWIGLU.replace("gate.", f"({name} and gate).")
        assert "Not kept" in my_picolm.keep("swiglu", cell(source).swiglu)
