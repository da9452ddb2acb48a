# %% [markdown]
# # 01. Tokenizer
#
# {badge}
#
# After this notebook you can
#
# - write a byte-level BPE yourself, and get exactly the tokens that the fast library gets;
# - say what a vocabulary costs, and compare models with different vocabularies;
# - turn stories into the file of numbers that a language model reads.
#
# **Before you start:** Python, and a little PyTorch (tensors) from section 4 on.
#
# **Time:** about 2 minutes to run on two CPU cores, 1 minute on a T4 (an estimate); two hours if you write
# every part.
#
# {neighbors}

# %% tags=["setup"]
# Generated: see notebooks/build.py

# %% [markdown]
# ## Settings
#
# You do not need to change anything.
#
# The parts that you write are collected in one file, `my_picolm.py`. In Colab, tick `SAVE_TO_DRIVE` to
# keep it on your Google Drive. Otherwise you can download it at the end.

# %%
from picolm_lib.course import my_picolm

SEED = 0  # @param {type:"integer"}
SAVE_TO_DRIVE = False  # @param {type:"boolean"}

my_picolm.start(SAVE_TO_DRIVE)

# %% [markdown]
# ## First, watch words appear
#
# A language model does not read letters, and it does not read words. It reads **tokens**: pieces of text
# that a program found by counting. Below is a story. At 0 merges, every character is a token. Each *merge*
# joins the two tokens that most often stand side by side. Move the slider.

# %%
from picolm_lib.course.tokens.pictures import merge_slider
from picolm_lib.storybook.story import stories

unseen = [story.text for story in stories(200, seed=999)]
merge_slider(unseen[0])

# %% [markdown]
# *What to see: each colored piece is one token, and the newest kind of token is yellow; with more merges,
# frequent words become whole, and so do names that appear again and again.*
#
# Nobody told the program what a word is. You will write it in section 2.

# %% [markdown]
# ## 1. The text
#
# You need text. This course uses two kinds.
#
# **TinyStories** is a dataset of short stories that a large language model wrote with the vocabulary of
# a small child (Ronen Eldan and Yuanzhi Li, 2023). It is on the Hugging Face Hub. The next cell
# downloads its validation stories, 10 MB, and shows one of them.
#
# The **Storybook** comes with this package and needs no network. It is a small world of children, animals
# and things. It writes as many different stories as you ask for, and the same seed gives the same
# stories.

# %%
from picolm_lib.course.tokens import sources

tiny = sources.tinystories(200)
texts = {"Storybook": unseen, "TinyStories": tiny} if tiny else {"Storybook": unseen}
for name, some in texts.items():
    size = sum(len(text.encode()) for text in some)
    print(f"--- {name}: {len(some)} stories, {size / len(some):,.0f} bytes each on average ---")
    print(some[1][:400], "...\n")

# %% [markdown]
# **Predict:** could a model simply have one token per word? What would go wrong? Then run the cell.

# %%
from picolm_lib.course.tokens.pictures import draw_words, say_new_words

print(say_new_words(texts))
draw_words(texts)

# %% [markdown]
# *What to see: both lines fall steeply, from a few frequent words to many rare ones; the line of TinyStories
# goes on further to the right.*
#
# Words are a poor choice: many of them are rare, and there are always new ones. Letters are a poor choice
# too: a story becomes very long, and each token says very little. Something in between works better:
# short pieces for what is rare, whole words for what is frequent.

# %% [markdown]
# ## 2. From bytes to BPE
#
# Start with what a computer stores. In UTF-8, each English letter is one *byte*, a number from 0 to 255.
# Other characters take two to four bytes. So 256 tokens are enough to write any text in any language.

# %% tags=["nbval-check-output"]
for text in ("fox", "é", "狐"):
    print(text, list(text.encode()))

# %% [markdown]
# **Byte pair encoding** (BPE) starts there. It counts all pairs of neighbors, merges the most frequent
# pair into a new token, and counts again. Each merge makes the vocabulary larger by one and the text
# shorter.
#
# The text is split into words first, and a space belongs to the word after it (but not to a digit). A merge never crosses a
# split. The rule below is GPT-2's, with one difference: every digit stands alone. `\p{L}` means a letter
# of any language.

# %% tags=["nbval-check-output"]
from tokenizers import Regex, pre_tokenizers

SPLITTER = pre_tokenizers.Sequence([
    pre_tokenizers.Digits(individual_digits=True),
    pre_tokenizers.Split(Regex(r"'(?:s|t|re|ve|m|ll|d)"         # the end of "it's"
                               r"| ?\p{L}+"                     # a word with the space before it
                               r"| ?\p{N}+"                     # a digit, cut off above
                               r"| ?[^\s\p{L}\p{N}]+"          # punctuation
                               r"|\s+(?!\S)|\s+"),             # what is left: spaces, line breaks
                         "isolated")])


def words_of(text):
    """A text, cut into words."""
    return [word for word, _ in SPLITTER.pre_tokenize_str(text)]

print(words_of("The cat sat on 12 mats. It's a naïve café!"))

# %% [markdown]
# Count by hand. In "The cat sat on 12 mats", how often do `a` and `t` stand side by side? Three times:
# c-at, s-at, m-at-s.
#
# In a real text the same words appear again and again. So each word is stored once, with its count. That
# saves most of the work.

# %% tags=["nbval-check-output"]
from collections import Counter


def count_pairs(words):
    """How often each pair of neighbors occurs. words: {tuple of tokens: how often it occurs}."""
    pairs = Counter()
    for tokens, times in words.items():
        for pair in zip(tokens, tokens[1:]):
            pairs[pair] += times
    return pairs

sentence = Counter(tuple(word) for word in words_of("The cat sat on 12 mats."))
print(count_pairs(sentence).most_common(1))

# %% [markdown]
# ### You write it: merge (easy, 5 minutes)
#
# From here on, tokens are numbers, called *ids*. A merge joins two tokens that stand side by side into
# one new token. It goes through the text from left to right. A token that has just been merged does not
# take part again.
#
# By hand: in [1, 1, 1] the pair (1, 1) occurs at two places, but they overlap. Only the left one becomes
# the new token: [9, 1].
#
# Delete the line with `raise`, and write your answer in its place. Here and in all exercises, do not change
# the arguments: the caller still needs them. The cell below checks your function. Until it is right, the
# notebook goes on with the course's own, so you can also come back later.

# %%
def merge(ids, pair, new):
    """Replaces every occurrence of a pair with a new token, from left to right.

    ids: list of ints. pair: (left, right). new: int, an id that is not yet in ids or pair.
    Returns a new list of ints. merge([1, 2, 1, 2, 3], (1, 2), 9) is [9, 9, 3].
    """
    raise NotImplementedError  # your code

# %%
from picolm_lib.course.tokens import checks

merge = checks.merge(merge)

# %% [markdown]
# <details><summary>Hint 1</summary>
#
# Walk through the list with a place that you move yourself (`while place < len(ids)`): two steps after a
# merge, one step otherwise.
#
# </details>
# <details><summary>Hint 2</summary>
#
# `ids[place:place + 2]` is a list, and a list is never equal to a tuple. `tuple(...)` makes a tuple of
# it. At the end of the list the slice is shorter, and no error arises.
#
# </details>
# <details><summary>Solution</summary>
#
# ```python
# def merge(ids, pair, new):
#     out, place = [], 0
#     while place < len(ids):
#         if tuple(ids[place:place + 2]) == pair:
#             out.append(new)
#             place += 2
#         else:
#             out.append(ids[place])
#             place += 1
#     return out
# ```
#
# </details>

# %% [markdown]
# ### You write it: learn_merges (medium, 15 minutes)
#
# Count all pairs, merge the most frequent pair in every word, and count again. If two pairs are equally
# frequent, the smaller one wins, as Python compares tuples: (97, 116) comes before (98, 97).
#
# By hand: the words `cab` and `tab`, once each, and `b` alone. The pair (a, b) occurs twice, (c, a) and
# (t, a) once. So `ab` is the first merge, and the words become `c ab` and `t ab`. Then (c, ab) and (t, ab)
# occur once each, and (c, ab) wins, since c has the smaller id.

# %%
def learn_merges(words, count, first_new=262):
    """Learns up to `count` merges.

    words: {tuple of ids: how often this word occurs}.
    Returns {pair: new id} in the order of learning: first_new, first_new + 1, and so on. It ends
    early when no pair is left.
    """
    raise NotImplementedError  # your code

# %%
learn_merges = checks.learn_merges(learn_merges)

# %% [markdown]
# <details><summary>Hint 1</summary>
#
# In a loop: `pairs = count_pairs(words)`, choose the pair, write it into the merges, and replace `words`
# by a new dictionary of the merged words with their old counts. `merge` takes and returns a list, a key
# of `words` is a tuple.
#
# </details>
# <details><summary>Hint 2</summary>
#
# `min(pairs, key=lambda pair: (-pairs[pair], pair))` is the most frequent pair, and of equally frequent
# ones the smallest. `min` of nothing is an error, so look whether there are any pairs first.
#
# </details>
# <details><summary>Solution</summary>
#
# ```python
# def learn_merges(words, count, first_new=262):
#     merges = {}
#     while len(merges) < count and (pairs := count_pairs(words)):
#         pair = min(pairs, key=lambda pair: (-pairs[pair], pair))
#         merges[pair] = first_new + len(merges)
#         words = {tuple(merge(list(ids), pair, merges[pair])): times
#                  for ids, times in words.items()}
#     return merges
# ```
#
# </details>

# %% [markdown]
# Train on one story, then on 300. The ids 0 to 5 are reserved for the special tokens of section 4. The
# 256 bytes have the ids 6 to 261, in the order of the library, which `byte_order()` returns: first the
# bytes that can be printed, then the others. Each merge gets the next id.
#
# The library's `train_bpe` calls the `tokenizers` package, which is written in Rust. Its merges must
# equal yours, in the same order.

# %%
from picolm_lib.course.tokens.bpe import byte_order, merges_of, token_bytes
from picolm_lib.data.tokenizer import MIN_VOCAB_SIZE, SPECIAL_TOKENS, train_bpe

BYTE_ID = {byte: len(SPECIAL_TOKENS) + place for place, byte in enumerate(byte_order())}


def vocabulary_of(merges):
    """The bytes of every token, by id."""
    table = [t.encode() for t in SPECIAL_TOKENS] + [bytes([byte]) for byte in BYTE_ID]
    for left, right in merges:
        table.append(table[left] + table[right])
    return table

for text, count in ((unseen[0], 100), ("\n\n".join(s.text for s in stories(300)), 300)):
    counted = Counter(tuple(BYTE_ID[b] for b in word.encode()) for word in words_of(text))
    merges = learn_merges(counted, count)
    vocabulary = vocabulary_of(merges)
    library = train_bpe([text], vocab_size=MIN_VOCAB_SIZE + count)
    assert list(merges) == merges_of(library) and vocabulary == token_bytes(library)
    newest = [token.decode() for token in vocabulary[MIN_VOCAB_SIZE:][:10]]
    print(f"{len(text):,} characters: the same {count} merges as the library. First: {newest}")

# %% [markdown]
# You have trained a tokenizer. The one that comes with the course, called *bundled*, learned 1,786 merges
# in the same way, from 24,000 stories. Here is one sentence after more and more of its merges, and then
# the merges that make one word.

# %%
from picolm_lib.course.tokens.pictures import strip
from picolm_lib.data.tokenizer import load_tokenizer

bundled = load_tokenizer()
strip(bundled, "One day, the little girl found a red ball in the garden.")

# %% [markdown]
# *What to see: from row to row the same sentence has fewer tokens, until every word is one.*

# %% tags=["cover"]
from picolm_lib.course.tokens.merge_tree import draw_merge_tree

draw_merge_tree(bundled)

# %% [markdown]
# *What to see: at the bottom are the letters; each box above is a token that a merge made, with the number
# of the merge, and a box always has a larger number than the boxes below it.*

# %% [markdown]
# ### You write it: encode_word (easy, 5 minutes)
#
# To *encode* a new word, replay the merges in the order in which they were learned. A merge can only use
# tokens that are there already, so this order finds them all.
#
# By hand: with the merges (1, 3) → 10 and (10, 2) → 13, the word [1, 3, 2] becomes [10, 2], then [13].

# %%
def encode_word(ids, merges):
    """Encodes one word.

    ids: list of ints, the bytes of the word.
    merges: {(left, right): new id}, in the order of learning.
    Returns a list of ints.
    """
    raise NotImplementedError  # your code

# %%
encode_word = checks.encode_word(encode_word)

# %% [markdown]
# <details><summary>Hint 1</summary>
#
# One loop over `merges.items()` and one call of `merge` are enough.
#
# </details>
# <details><summary>Hint 2</summary>
#
# `merge` returns a new list and leaves the old one as it is. Keep its result.
#
# </details>
# <details><summary>Solution</summary>
#
# ```python
# def encode_word(ids, merges):
#     for pair, new in merges.items():
#         ids = merge(ids, pair, new)
#     return ids
# ```
#
# </details>

# %%
from picolm_lib.data.tokenizer import encode


def my_encode(text):
    """The ids of a text, with the merges of the 300 stories."""
    return [token for word in words_of(text)
            for token in encode_word([BYTE_ID[b] for b in word.encode()], merges)]

for text in [*unseen[:5], "A naïve café, 12  mats,\n\nund ein Schluß. 狐"]:
    ids = my_encode(text)
    assert [ids] == encode(library, [text])                 # the library's ids
print(f"6 texts, the same ids as the library; the last one: {len(text.encode())} bytes, "
      f"{len(ids)} tokens")

# %% [markdown]
# ### You write it: decode (medium, 10 minutes)
#
# To get the text back, look up the bytes of the tokens, and read them as UTF-8. But a character such as é
# has two bytes, and a merge may not have joined them. Then its two bytes are in two tokens, and neither
# alone is a character.
#
# A text can also end in the middle of a character, for instance while a model is writing it. Show the
# replacement sign "\ufffd" (�) in its place.
#
# By hand: é is the bytes 195 and 169, b"\xc3" and b"\xa9". With only the first of them, the text ends
# in �.

# %%
def decode(ids, vocabulary):
    """Turns tokens back into text.

    ids: list of ints. vocabulary: list of bytes, one entry per token id.
    Returns a string. Bytes that are not a character become "\ufffd".
    """
    raise NotImplementedError  # your code

# %%
decode = checks.decode(decode)

# %% [markdown]
# <details><summary>Hint 1</summary>
#
# Decoding each token by itself loses every character that is spread over two tokens. What must come
# first?
#
# </details>
# <details><summary>Hint 2</summary>
#
# `b"".join(...)` puts many bytes objects side by side, and `.decode(errors="replace")` shows the
# replacement sign where bytes are no character.
#
# </details>
# <details><summary>Solution</summary>
#
# ```python
# def decode(ids, vocabulary):
#     return b"".join(vocabulary[i] for i in ids).decode("utf-8", errors="replace")
# ```
#
# </details>

# %%
for text in [*unseen[:5], "A naïve café, 12  mats,\n\nund ein Schluß. 狐"]:
    assert decode(my_encode(text), vocabulary) == text      # nothing is ever lost
ids = my_encode("café")
for length in range(1, len(ids) + 1):
    print(f"{ids[:length]!s:<28}{decode(ids[:length], vocabulary)!r}")

# %% [markdown]
# The é appears when its second byte arrives. A chat window that shows each token as soon as it arrives must
# wait in the same way.
#
# How much shorter does this make a text? Below, the bundled tokenizer encodes texts that it has not seen, with
# more and more of its merges.

# %%
from picolm_lib.course.tokens.pictures import draw_compression

draw_compression(bundled, {name: some[:40] for name, some in texts.items()})

# %% [markdown]
# *What to see: on both kinds of text, at least half of the gain comes from the first 450 merges; the
# tokenizer learned from Storybook stories, so the Storybook ends higher.*
#
# **What would go wrong without splitting into words?** Train once more, and let merges cross the splits.

# %%
from picolm_lib.course.tokens.bpe import train_variant

uncut = train_variant((s.text for s in stories(300)), 700, words=False)
longest = sorted(token_bytes(uncut), key=len)[-5:]
print("longest tokens without the split:", [token.decode() for token in longest])
cut = train_variant((s.text for s in stories(300)), 700)
longest_cut = sorted(token_bytes(cut), key=len)[-5:]
print("longest tokens with it:          ", [token.decode() for token in longest_cut])
assert len(longest[-1]) > 2 * len(longest_cut[-1])

# %% [markdown]
# Without the split, parts of sentences become tokens, and take up places in the vocabulary that words could
# have had.

# %% [markdown]
# ## 3. One story, two tokenizers
#
# The larger presets of this course use the tokenizer of **SmolLM**. It has 49,152 tokens and was trained
# on web pages, textbooks and code. The next cell fetches it from the Hub. Where the Hub cannot be
# reached, you see what was measured with it, and the cells say so.
#
# **Predict:** SmolLM's vocabulary is 24 times as large. Does it need half as many tokens for this story?

# %%
from picolm_lib.course.tokens.kinds import compare_with_stored, draw_smollm, kinds_table
from picolm_lib.course.tokens.pictures import draw_tokens

smollm = sources.smollm()
print(compare_with_stored(smollm))
draw_tokens(bundled, unseen[0], "bundled")

# %% [markdown]
# *What to see: almost every word of this little world is one token, together with its space.*

# %%
draw_smollm(smollm)

# %% [markdown]
# *What to see: the story has as many tokens as before; SmolLM knows these words, too, and its other tokens
# are not needed here.*
#
# A large vocabulary pays on texts that use it. Compare *bytes per token* on five kinds of text. More
# bytes per token means fewer tokens for the same text. bundled8k is the course's own tokenizer of 8,192
# tokens, trained on TinyStories.

# %%
kinds_table(smollm)

# %% [markdown]
# Each tokenizer is good at what it has seen. SmolLM is ahead on code and French. On sums, all three are
# close to one byte per token: each digit is its own token. Why give up compression there? Look at a
# tokenizer that is allowed to merge digits, trained on random numbers.

# %%
import random

draw = random.Random(SEED)
sums = [f"{draw.randrange(10_000)} + {draw.randrange(10_000)}" for _ in range(2_000)]
free = train_variant(sums, 600, single_digits=False)
for number in ("1234", "1235", "12345"):
    print(f"{number:<6} merged: {free.tokenize(number)!s:<24} alone: {bundled.tokenize(number)}")
cuts = {tuple(map(len, free.tokenize(str(n)))) for n in range(1_000, 10_000)}
print("ways to split a number of four digits:", sorted(cuts))
assert len(cuts) > 1

# %% [markdown]
# With merged digits, neighbors on the number line are split in different ways, and a model has to learn
# for each way which token holds the hundreds. With single digits, counting from the right is enough.
# Whether that helps a model calculate is still being studied: Singh and Strouse (2024) found that it
# matters which digits are grouped, and large models exist with either rule.

# %% [markdown]
# ## 4. The end of a story
#
# A few tokens do not stand for text. The most important one is the **end of text**, written
# `<|endoftext|>`. It comes before the first story, between stories, and after the last. A model that
# reads it knows that a new story begins. A model that *writes* it has finished.
#
# It is called a *special token*. The bundled vocabulary has five more: `<|pad|>` fills up a batch,
# `<|im_start|>` and `<|im_end|>` mark a turn of a conversation, and `<think>` and `</think>` a thought.
# Stories need none of these five. They are reserved for fine-tuning.
#
# What if somebody types the name of a special token? The library recognizes it before anything else
# happens. In a document that would be a fault: a page about tokenizers would end in the middle of a
# sentence. So this course's `encode` treats text as text:

# %% tags=["nbval-check-output"]
typed = "<|endoftext|>"
print("the library's own call:", len(bundled(typed)["input_ids"]), "token, the end of text")
print("encode:                ", len(encode(bundled, [typed])[0]), "tokens")

# %% [markdown]
# A small trained model comes with the course. After each token, it gives every token of the vocabulary a
# *probability* of coming next. Ask it along a story that it has not seen: how probable is the end of
# text?
#
# **Predict:** where is that probability high? At every period? At every new paragraph?

# %%
from picolm_lib.course.tokens.end_of_text import (
    draw_ends,
    end_probabilities,
    mean_end_probabilities,
)
from picolm_lib.train.checkpoint import load_run

model, tokenizer, run = load_run("bundled")
draw_ends(end_probabilities(model, tokenizer, unseen[3]))

# %% [markdown]
# *What to see: the probability is near zero for almost all of the story, periods included, and it jumps
# at the end, and once shortly before it.*

# %%
at_end, elsewhere = mean_end_probabilities(model, tokenizer, unseen[:30])
print(f"mean probability at the true ends of 30 stories: {at_end:.1%}, elsewhere: {elsewhere:.2%}")
assert at_end > 20 * elsewhere

# %% [markdown]
# **What would go wrong without it?** Forbid the token, and let the model continue after the last word of
# the story.

# %%
import torch

ids = torch.tensor([[tokenizer.eos_token_id, *encode(tokenizer, unseen[3:4])[0]]])
length = ids.shape[1]
with torch.no_grad():
    while ids.shape[1] < min(length + 40, run.model.max_seq_len):
        scores = model(ids)[0, -1]                          # one score for each token
        scores[tokenizer.eos_token_id] = float("-inf")      # no way to stop
        ids = torch.cat((ids, scores.argmax().view(1, 1)), dim=1)
print(tokenizer.decode(ids[0, length - 20:length]), "[the end]", tokenizer.decode(ids[0, length:]))

# %% [markdown]
# It continues, because some token has to come next. A model that has never seen an end has no way to stop.
#
# ### A space too many
#
# In this vocabulary a space belongs to the word after it. So what happens if you type a space at the end
# of your prompt?
#
# **Predict:** the prompt looks almost the same. Does the model continue in the same way?

# %%
from picolm_lib.course.tokens.trailing_space import PROMPT, draw_trailing_space

print(repr(PROMPT), encode(tokenizer, [PROMPT])[0])
print(repr(PROMPT + " "), encode(tokenizer, [PROMPT + " "])[0])
draw_trailing_space(model, tokenizer)

# %% [markdown]
# *What to see: left, " girl" is the likeliest token; right, after one more space, it is not even among the
# first four, and the text goes on in another way.*
#
# In these stories a space hardly ever stands alone before a word, and each of the likeliest tokens that is a word
# brings a space of its own. So the text now has two spaces and lacks a word. The usual advice is not to end
# a prompt with a space. In exercise 2 you write a repair.

# %% [markdown]
# ## 5. What a vocabulary costs
#
# A model of width D has two matrices with one row of D numbers for each of its V tokens. The *embedding*
# turns a token into a vector. The *output layer* turns a vector back into V scores, one per token. These
# scores are called *logits*. Together the two matrices have 2 · V · D parameters. Many models use one
# matrix for both (*tied* embeddings) and so need half of that. PicoLM does not tie them.
#
# The embedding is only looked up, so it costs no arithmetic. The output layer is a matrix product: 2 · V
# · D FLOPs per token in the forward pass, and twice that in the backward pass. A *FLOP* is one addition
# or multiplication. The logits of a whole batch also have to fit in memory.

# %%
from picolm_lib.course.tokens.vocabulary import vocabulary_cost

vocabulary_cost()

# %% [markdown]
# *What to see: the dot is your choice, and its numbers are above the plots; with 49,152 tokens the two
# matrices are larger than all twelve blocks together, and nearly half of the arithmetic is in the output
# layer.*
#
# By hand, for `pico`, the model that this course trains on a T4: V = 49,152 and D = 384. Then count the parameters of the library's model.

# %% tags=["nbval-check-output"]
from picolm_lib.config import PRESETS
from picolm_lib.course.tokens.vocabulary import cost
from picolm_lib.model.picolm import PicoLM, count_parameters

pico = PRESETS["pico"].model
with torch.device("meta"):                                  # shapes without memory
    pico_model = PicoLM(pico)
tables = count_parameters(pico_model.embedding) + count_parameters(pico_model.output)
print(f"2 x 49,152 x 384 = {2 * 49_152 * 384:,}")
print(f"tables of pico:    {tables:,} of {count_parameters(pico_model):,} parameters")
print(f"float32 logits of 12,288 tokens: {4 * 49_152 * 12_288:,} bytes")
assert cost(49_152).tables == tables and cost(49_152).logits == 4 * 49_152 * 12_288

# %% [markdown]
# So why not use the smallest vocabulary? Because a story then has more tokens, and each one costs a pass
# through the blocks, the twelve layers between the two matrices. So count FLOPs per *byte of text*: FLOPs per
# token, divided by bytes per token. To measure the latter, tokenizers of many sizes were trained on 8,443 stories of
# TinyStories. (The largest has 13,793 tokens: after that, no pair was left.)
#
# **Predict:** the number is high at both ends. Where is it lowest: near 500 tokens, 4,000, or 30,000?

# %%
from picolm_lib.course.tokens.vocabulary import draw_flops_per_byte

draw_flops_per_byte()

# %% [markdown]
# *What to see: with a small vocabulary the blocks are expensive, since they run for every token; with a
# large one the output layer is; the arrow points at the lowest number, near 4,000 tokens, and from 2,000 to
# 8,000 the line is nearly flat.*
#
# This counts arithmetic for the blocks of `pico`; other models have their minimum elsewhere. SmolLM's
# tokenizer learned from other texts. And arithmetic is not everything: the next part asks which model
# predicts better.
#
# ### Comparing models fairly
#
# A model gives the right next token some probability. Its **loss** is minus the natural logarithm of
# that probability, averaged over all tokens: 0 if it was certain, 0.69 for a probability of one half, 2.3
# for one tenth. The unit is the *nat*. One *bit* is ln 2 = 0.6931 nats.
#
# The loss depends on the tokenizer: a model with large tokens makes fewer, harder predictions. **Bits per
# byte** divides by what stays the same, the bytes of the text. By hand: a loss of 2 nats per token at 4
# bytes per token is 2 / 0.6931 / 4 = 0.72 bits per byte. A loss of 1 nat at 1 byte per token is 1.44. The
# second loss is smaller, but the second model is worse.

# %% tags=["nbval-check-output"]
import math

for loss, bytes_per_token in ((2.0, 4.0), (1.0, 1.0)):
    print(f"{loss} nats per token, {bytes_per_token} bytes per token: "
          f"{loss / math.log(2) / bytes_per_token:.2f} bits per byte")

# %% [markdown]
# ### You write it: bits_per_byte (medium, 10 minutes)
#
# You have several documents of different lengths, and the loss of each of their tokens. How many bits
# does the model need for all of them together, divided by the number of all their bytes?

# %%
def bits_per_byte(losses, texts):
    """How many bits a model needs for each byte of several documents, over all of them together.

    losses: for each document a tensor, the loss of each of its tokens in nats.
    texts: the documents, strings.
    Returns a float.
    """
    raise NotImplementedError  # your code

# %%
bits_per_byte = checks.bits_per_byte(bits_per_byte)

# %% [markdown]
# <details><summary>Hint 1</summary>
#
# Add up the nats of all documents, convert them to bits, and divide by the bytes of all documents.
#
# </details>
# <details><summary>Hint 2</summary>
#
# `len(text)` counts characters. `len(text.encode())` counts bytes. `.item()` makes a Python number of a
# tensor.
#
# </details>
# <details><summary>Solution</summary>
#
# ```python
# def bits_per_byte(losses, texts):
#     nats = sum(loss.sum().item() for loss in losses)
#     return nats / math.log(2) / sum(len(text.encode()) for text in texts)
# ```
#
# </details>

# %% [markdown]
# Here is your function on the bundled model and unseen stories, beside the library's own score. The losses
# come from the model one story at a time. The end of each story counts as one of its tokens.

# %%
import numpy as np
import torch.nn.functional as F

from picolm_lib.data.token_file import TokenCounts, TokenFile
from picolm_lib.device import choose_precision
from picolm_lib.evaluate import evaluate

short = [text for text in unseen if len(encode(bundled, [text])[0]) < run.model.max_seq_len][:64]
streams = [[bundled.eos_token_id, *ids, bundled.eos_token_id] for ids in encode(bundled, short)]
with torch.no_grad():
    losses = [F.cross_entropy(model(torch.tensor([ids[:-1]]))[0], torch.tensor(ids[1:]),
                              reduction="none") for ids in streams]
mine = bits_per_byte(losses, short)
joined = [i for ids in streams for i in ids[:-1]] + [bundled.eos_token_id]
counts = TokenCounts(len(short), sum(len(text.encode()) for text in short), len(joined))
file = TokenFile(np.array(joined, dtype=np.uint16), counts)  # what training reads, see section 6
scores = evaluate(model, file, choose_precision("cpu", "float32"))
print(f"yours: {mine:.3f} bits per byte; the library's: {scores.bits_per_byte:.3f}")
assert abs(mine / scores.bits_per_byte - 1) < 0.25

# %% [markdown]
# They are not equal: the library puts all stories into one sequence and cuts it into *windows*, pieces of the
# same length. So the first tokens of a window are predicted with little text before them. The next section
# shows these windows.

# %% [markdown]
# ## 6. From stories to a file of numbers
#
# Training reads one long sequence of token ids. It is made once and kept in a file:
#
# `<end> story <end> story <end> ... story <end>`
#
# Each id is stored as a *uint16*, a two-byte integer from 0 to 65,535. That is why a vocabulary here
# cannot be larger. By hand: 100 tokens are 200 bytes.

# %%
from picolm_lib.data.corpus import load_corpus
from picolm_lib.data.tokens import tokenize_corpus


def my_stream(tokenizer, documents):
    """All documents as one sequence of ids, with an end before, between and after them."""
    ids = []
    for text in encode(tokenizer, documents):
        ids += [tokenizer.eos_token_id, *text]
    return np.array([*ids, tokenizer.eos_token_id], dtype=np.uint16)

corpus = load_corpus("storybook", 400)
files = tokenize_corpus(corpus, bundled, show_progress=False)
for split, file in files.items():
    documents = list(corpus.split(split))
    np.testing.assert_array_equal(my_stream(bundled, documents), file.tokens)
    print(f"{split}: {len(documents)} stories, {len(file.tokens):,} tokens, "
          f"{file.tokens.nbytes:,} bytes in the file, {file.count.bytes:,} bytes of text")
    assert file.tokens.nbytes == 2 * len(file.tokens)

# %% [markdown]
# Train and validation never share a story: the hash of its text decides where it goes. The file is not
# loaded but *memory-mapped*: the operating system reads in only the parts that are used. So a corpus can
# be larger than your memory.
#
# What does the model see? Windows of this sequence, all of the same length, in random order.

# %%
from picolm_lib.course.tokens.pictures import draw_stream

draw_stream(bundled, files["train"].tokens[:4_000].tolist(), window=32)

# %% [markdown]
# *What to see: the color changes with each window of 32 tokens, often within a sentence; the yellow
# end-of-text tokens show where a story begins and ends.*
#
# Cutting through stories looks careless. But it wastes nothing, and every window has the same shape,
# which is what a GPU needs.
#
# ### You write it: windows (medium, 10 minutes)
#
# Each token of a window is a question: which token comes next? So each window needs *targets*, the same
# tokens one place later. By hand: the stream 5, 6, 7, 8, 9 and the length 2 give the inputs [5, 6] and
# [7, 8], and the targets [6, 7] and [8, 9].

# %%
def windows(stream, length):
    """Cuts a sequence of tokens into windows side by side, each with its targets.

    stream: (N,) tensor of ids. Returns inputs and targets, each (windows, length).
    There are (N - 1) // length windows, since every input needs a target; what is left over is
    omitted.
    """
    raise NotImplementedError  # your code

# %%
windows = checks.windows(windows)

# %% [markdown]
# <details><summary>Hint 1</summary>
#
# Make two sequences first: the inputs, and the same sequence from its second token on.
#
# </details>
# <details><summary>Hint 2</summary>
#
# `.view(count, length)` cuts a sequence of count · length tokens into windows.
#
# </details>
# <details><summary>Solution</summary>
#
# ```python
# def windows(stream, length):
#     count = (len(stream) - 1) // length
#     inputs = stream[:count * length].view(count, length)
#     targets = stream[1:count * length + 1].view(count, length)
#     return inputs, targets
# ```
#
# </details>

# %%
stream = torch.from_numpy(files["train"].tokens.astype(np.int64))
inputs, targets = windows(stream, 8)
print(f"{len(inputs):,} windows of 8 tokens. The questions of the first one:")
for given, target in zip(inputs[0], targets[0], strict=True):
    print(f"{bundled.decode(given)!r:>16} -> {bundled.decode(target)!r}")

# %% [markdown]
# In training, the library's `Batches` shuffles the windows, and in each *epoch*, one pass through the
# file, it begins to cut at another place. Which place does it choose first? Your function finds it.

# %%
from picolm_lib.data.batches import Batches

batch = torch.cat(Batches(files["train"].tokens, seq_len=8, batch_size=16).next(), dim=1).tolist()
for start in range(8):
    mine = torch.cat(windows(stream[start:], 8), dim=1).tolist()
    found = sum(row in mine for row in batch)
    print(f"cut from place {start} on: {found} of the batch's 16 windows found among yours")
    if found == 16:
        break
assert found == 16

# %% [markdown]
# ## Your turn
#
# Two exercises that go beyond what you have seen.

# %% [markdown]
# ### Exercise 1: encode without replaying everything (hard, 15 minutes)
#
# SmolLM has 48,900 merges, and many words have five letters. Replaying all merges goes through 48,900
# entries for these five letters. Do it the other way round: look at the pairs that are present in the
# word, apply the one that was *learned first* (it has the smallest new id), and look again, until no pair
# of the word is in the table. Your function must not go through the whole table: the check counts the
# look-ups. You can use `merge`. In `my_picolm.py` it takes the place of your `encode_word`.

# %%
def quick_encode_word(ids, merges):
    """Encodes one word, looking up only pairs that are in it.

    ids: list of ints.
    merges: {(left, right): new id}; a merge that was learned later has a larger id.
    Returns a list of ints.
    """
    raise NotImplementedError  # your code

# %%
quick_encode_word = checks.quick_encode_word(quick_encode_word)

# %% [markdown]
# <details><summary>Hint 1</summary>
#
# `zip(ids, ids[1:])` gives all pairs of the word. Keep those that are in `merges`. If there are none, you
# are done.
#
# </details>
# <details><summary>Hint 2</summary>
#
# `min(pairs, key=merges.get)` is the pair that was learned first. `min(pairs)` is not.
#
# </details>
# <details><summary>Solution</summary>
#
# ```python
# def quick_encode_word(ids, merges):
#     ids = list(ids)
#     while pairs := [pair for pair in zip(ids, ids[1:]) if pair in merges]:
#         first = min(pairs, key=merges.get)
#         ids = merge(ids, first, merges[first])
#     return ids
# ```
#
# </details>

# %% [markdown]
# ### Exercise 2: heal a prompt (medium, 15 minutes)
#
# A prompt that ends with a space continues badly, as section 4 showed. The repair: take the last token
# away, and let the model choose again, but only among the tokens whose bytes *begin* with the bytes that
# you took away. After "there was a " with its final space, that last token is " ", and the allowed tokens
# are " ", " little", " dog" and so on. (A prompt that ends in the middle of a word is repaired only if its
# unfinished word is a single token.)

# %%
def heal(ids, vocabulary):
    """Takes the last token of a prompt away, and says which tokens may replace it.

    ids: list of ints, at least two. vocabulary: list of bytes, one entry per token id.
    Ids 0 to 5 are special tokens: they stand for no text, and are never allowed.
    Returns (ids without the last one, list of the allowed token ids in ascending order).
    """
    raise NotImplementedError  # your code

# %%
heal = checks.heal(heal)

# %% [markdown]
# <details><summary>Hint 1</summary>
#
# `bytes` objects have `startswith`, as strings do. Compare bytes, not text: half a character is no text.
#
# </details>
# <details><summary>Hint 2</summary>
#
# The loop over the ids begins at 6. `ids[:-1]` is a new list without the last entry.
#
# </details>
# <details><summary>Solution</summary>
#
# ```python
# def heal(ids, vocabulary):
#     removed = vocabulary[ids[-1]]
#     allowed = [i for i in range(6, len(vocabulary)) if vocabulary[i].startswith(removed)]
#     return ids[:-1], allowed
# ```
#
# </details>

# %%
from picolm_lib.course.tokens.trailing_space import heal_and_continue

heal_and_continue(model, tokenizer, PROMPT + " ", heal)

# %% [markdown]
# *What to see: after the healing, the likeliest token has again about the probability that it has without
# the final space, and the story goes on as it should.*

# %% [markdown]
# ## Bug hunt
#
# Five tokenizers, A to E, look alike. One of them is healthy, and each of the others has one fault of
# this list (not every fault occurs). None of them stops with an error, and a training run would not
# notice. Examine them with probes of your choice.

# %%
from picolm_lib.course.tokens.exercises.hunt import hunt

for fault, meaning in hunt.faults.items():
    print(f"{fault:<16}{meaning}")
print("\nprobes:", ", ".join(hunt.probes))

# %%
hunt.probe("A", "compression")
hunt.probe("A", "accents")

# %% [markdown]
# Write a diagnosis for each patient: its fault, and a probe that you ran on it and that shows the fault,
# as in `"A": ("lowercase", "capitals")`. For the healthy one, write `"healthy"`, after you have run every
# probe that could show a fault.

# %%
diagnosis = {"A": ..., "B": ..., "C": ..., "D": ..., "E": ...}

hunt(diagnosis)

# %% [markdown]
# <details><summary>Hint 1</summary>
#
# First find out what healthy looks like: run one probe on all five patients, in a loop.
#
# </details>
# <details><summary>Hint 2</summary>
#
# A tokenizer must give back exactly the text that went in. Look for texts that are not like the stories:
# accents, numbers, more than one space, capitals, the names of special tokens.
#
# </details>
# <details><summary>Solution</summary>
#
# ```python
# for name in hunt.probes:
#     for patient in hunt.patients:
#         hunt.probe(patient, name)
# diagnosis = {"A": ("merged digits", "digits"), "B": "healthy", "C": ("broken letters", "accents"),
#              "D": ("typed end", "typed end"), "E": ("lost spaces", "spaces")}
# hunt(diagnosis)
# ```
#
# </details>

# %% [markdown]
# ## Playground
#
# Enter a text of your own, a few hundred letters long. Try one in which a word appears often, one in
# another language, and one without spaces.

# %%
MY_TEXT = "She sells seashells. The shells she sells are seashells."  # @param {type:"string"}

merge_slider(MY_TEXT)

# %% [markdown]
# *What to see: pieces that repeat grow into one token, whether or not they are words.*

# %% [markdown]
# ## Does it matter?
#
# Train the same small model with three vocabularies: bytes only, 512, and 2,048 tokens. To be fair, all
# of them read the same *bytes of text*, and their windows hold the same number of bytes. Each runs twice,
# with two seeds. The gap between two seeds shows how large the noise is.
#
# **Predict:** which has the lowest loss per token? Which has the fewest bits per byte? And which takes
# longest? (With PICOLM_PRESET=smoke, the runs are so short that their numbers mean nothing.)

# %%
from picolm_lib.course.tokens import comparison

runs = comparison.compare(seed=SEED)

# %%
both = runs + comparison.compare(seed=SEED + 1)
comparison.table(both)

# %%
comparison.draw(both)

# %% [markdown]
# *What to see: each color is a vocabulary, with one line per seed; the larger the vocabulary, the fewer bits
# per byte after the same text.*

# %%
for name, key in (("loss per token", lambda run: run.curve.loss),
                  ("bits per byte", lambda run: run.curve.last)):
    means = {size: sum(key(run) for run in both if run.vocab_size == size) / 2
             for size in comparison.SIZES}
    print(f"{name}, best first:", sorted(means, key=means.get))

# %% [markdown]
# The loss per token ranks the models the other way round: it compares predictions of different size. And
# the smaller vocabularies take longer for the same text, since they need more tokens. The last column of
# the table says how much text each could have read in the time of the slowest.
#
# The course measured this with three times as much text and three seeds:

# %%
from picolm_lib.course.tokens.comparison import draw_vocabularies

draw_vocabularies()

# %% [markdown]
# *What to see: with each doubling, the bits per byte fall, after the same text and after the same time, and
# no two 95% intervals of a kind overlap.*
#
# These are models of under a million parameters and a little world of about a thousand words, which
# 2,048 tokens cover nearly completely. The models with more tokens also have more parameters. So this says
# little about larger models and richer text, where the costs of section 5 matter more.

# %% [markdown]
# ## Your model
#
# The functions that passed their checks are in `my_picolm.py`. The file needs nothing of this course: it
# is the whole model, with the course's parts where yours are still missing. Here it tells a story. The
# words of the prompt go through `encode_word` and `merge`, and what you read comes out of `decode`: yours,
# or the course's until then.

# %%
my_picolm.tell("Once upon a time")

# %%
my_picolm.offer()

# %% [markdown]
# ## Recap
#
# - A text is a sequence of bytes; BPE merges the most frequent pair of neighbors, again and again.
# - Encoding replays the merges in order; decoding joins the bytes first, so nothing is ever lost.
# - A space belongs to the word after it, and the end-of-text token lets a model stop.
# - A vocabulary costs twice: the output layer per token, and the number of tokens per text.
# - Bits per byte compares models with different tokenizers; the loss per token does not.

# %% [markdown]
# ## Three questions
#
# **1.** You type a word that never appeared in any story. What does the tokenizer do?
#
# <details><summary>Answer</summary>
#
# It splits the word into smaller pieces, down to single bytes if needed. Nothing is unknown to it.
#
# </details>
#
# **2.** A friend's model has a loss of 0.9 nats per token, yours has 1.8. Is theirs better?
#
# <details><summary>Answer</summary>
#
# You cannot know until you ask for bytes per token. If their tokens are single bytes and yours have 4
# bytes each, yours is better: 0.65 against 1.30 bits per byte.
#
# </details>
#
# **3.** Why can a token file not store a vocabulary of 100,000 tokens?
#
# <details><summary>Answer</summary>
#
# The largest uint16 is 65,535. Larger ids would need four bytes each.
#
# </details>

# %% [markdown]
# ## Experiment
#
# Train a tokenizer of 1,024 tokens on a text of your own, some pages long: `train_bpe([text], 1_024)`.
# Look at its longest tokens with `token_bytes`. Which of them reveal what your text is about?

# %% [markdown]
# ## References
#
# - Rico Sennrich, Barry Haddow and Alexandra Birch, "Neural Machine Translation of Rare Words with Subword
#   Units", 2016.
# - Alec Radford et al., "Language Models are Unsupervised Multitask Learners", 2019 (bytes, and the rule
#   for words).
# - Ronen Eldan and Yuanzhi Li, "TinyStories: How Small Can Language Models Be and Still Speak Coherent
#   English?", 2023.
# - Loubna Ben Allal et al., "SmolLM: blazingly fast and remarkably powerful", 2024.
# - Aaditya K. Singh and DJ Strouse, "Tokenization counts: the impact of tokenization on arithmetic in
#   frontier LLMs", 2024.
#
# {neighbors}
