# %% [markdown]
# # 01. Tokenizer
#
# {badge}
#
# After this notebook you can
#
# - train a byte-level BPE by hand, and get exactly the merges that the fast library gets;
# - say what a vocabulary costs, and compare models with different vocabularies;
# - turn stories into the file of numbers that a language model reads.
#
# **Before you start:** Python, and a little PyTorch (tensors) from section 4 on.
#
# **Time:** about 2 minutes to run on two CPU cores, 1 minute on a T4 (an estimate), an hour to read.
#
# {neighbors}

# %% tags=["setup"]
# Generated: see notebooks/build.py

# %% [markdown]
# ## Settings
#
# The preset follows your device. You do not need to change anything.

# %%
from picolm_lib.course.start import preset_name

PRESET = preset_name()
SEED = 0  # @param {type:"integer"}

# %% [markdown]
# ## First, watch words appear
#
# A language model does not read letters, and it does not read words. It reads **tokens**: pieces of text
# that a program found by counting. Below is a story. At 0 merges, every letter is a token. Each *merge*
# joins the two tokens that most often stand side by side. Move the slider.

# %% tags=["cover"]
from picolm_lib.course.tokens.pictures import merge_slider
from picolm_lib.storybook.story import stories

unseen = [story.text for story in stories(200, seed=999)]
merge_slider(unseen[0])

# %% [markdown]
# *What to see: each colored piece is one token, and the newest kind of token is yellow; with more merges,
# frequent words become whole, and so do names that appear again and again.*
#
# Nobody told the program what a word is. By the end of this notebook you will have written it.

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
# **Predict:** could a model simply have one token per word? Think of a word that first appears after
# training, such as a new name. Then run the cell.

# %%
from picolm_lib.course.tokens.pictures import draw_words, new_words

for name, some in texts.items():
    print(f"{name}: {new_words(some):.1%} of the words in the second half are new")
draw_words(texts)

# %% [markdown]
# *What to see: the line falls steeply (with TinyStories, both do), so a few dozen words make up most of
# the text, while the right end is a long tail of words that appear only once or twice.*
#
# Words are a bad choice: most of them are rare, and there are always new ones. Letters are a bad choice
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
# The text is split into words first, and a space belongs to the word after it. A merge never crosses a
# split. The rule below is GPT-2's, for English letters, with one difference: every digit stands alone.

# %% tags=["nbval-check-output"]
import re

RULE = re.compile(r"'(?:s|t|re|ve|m|ll|d)"       # the end of "it's"
                  r"|\d"                         # one digit
                  r"| ?[A-Za-z]+"                # a word with the space before it
                  r"| ?[^\sA-Za-z\d]+"           # punctuation
                  r"|\s+(?!\S)|\s+")             # what is left: spaces, line breaks
print(RULE.findall("The cat sat on 12 mats. It's flat!"))

# %% [markdown]
# Count by hand. In "The cat sat on 12 mats", how often do `a` and `t` stand side by side? Three times:
# c-at, s-at, m-at-s. With "flat" it is four times.
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

sentence = Counter(tuple(word) for word in RULE.findall("The cat sat on 12 mats. It's flat!"))
print(count_pairs(sentence).most_common(1))

# %% [markdown]
# Now the merge itself, and the loop. From here on, tokens are numbers: 0 to 5 are reserved for the special
# tokens of section 4, 6 to 261 are the bytes, and every merge gets the next number.

# %%
def merge(ids, pair, new):
    """Replaces each occurrence of the pair with the new token."""
    out, place = [], 0
    while place < len(ids):
        if tuple(ids[place:place + 2]) == pair:
            out.append(new)
            place += 2
        else:
            out.append(ids[place])
            place += 1
    return tuple(out)

# %%
from picolm_lib.course.tokens.bpe import byte_order
from picolm_lib.data.tokenizer import SPECIAL_TOKENS

SPECIAL = [token.encode() for token in SPECIAL_TOKENS]
BYTES = [bytes([byte]) for byte in byte_order()]            # in the library's own order
ID = {byte: len(SPECIAL) + place for place, byte in enumerate(BYTES)}


def learn_merges(text, count):
    """The vocabulary as a list of bytes, and the merges: {pair: new token}."""
    vocabulary, merges = [*SPECIAL, *BYTES], {}
    words = Counter(tuple(ID[bytes([b])] for b in w.encode()) for w in RULE.findall(text))
    while len(merges) < count and (pairs := count_pairs(words)):
        pair = max(pairs, key=lambda p: (pairs[p], -p[0], -p[1]))  # ties: the older tokens
        merges[pair] = len(vocabulary)
        vocabulary.append(vocabulary[pair[0]] + vocabulary[pair[1]])
        shorter = Counter()
        for ids, times in words.items():
            shorter[merge(ids, pair, merges[pair])] += times
        words = shorter
    return vocabulary, merges

# %% [markdown]
# Train on one story, then on 300. The library's `train_bpe` calls the `tokenizers` package, which is
# written in Rust. Its merges must equal yours, in the same order.

# %%
from picolm_lib.course.start import show_source
from picolm_lib.course.tokens.bpe import merges_of, token_bytes
from picolm_lib.data.tokenizer import MIN_VOCAB_SIZE, train_bpe

for name, text, count in (("one story", unseen[0], 100),
                          ("300 stories", "\n\n".join(s.text for s in stories(300)), 300)):
    vocabulary, merges = learn_merges(text, count)
    library = train_bpe([text], vocab_size=MIN_VOCAB_SIZE + count)
    assert list(merges) == merges_of(library)
    assert vocabulary == token_bytes(library)
    newest = [token.decode() for token in vocabulary[MIN_VOCAB_SIZE:][:12]]
    print(f"{name}: the same {count} merges. The first ones make {newest}")
show_source(train_bpe)

# %% [markdown]
# To *encode* a new text, replay the merges in the order in which they were learned. To *decode*, join the
# bytes of the tokens.

# %%
from picolm_lib.data.tokenizer import encode


def my_encode(text):
    ids = []
    for word in RULE.findall(text):
        tokens = tuple(ID[bytes([byte])] for byte in word.encode())
        for pair, new in merges.items():
            tokens = merge(tokens, pair, new)
        ids += tokens
    return ids

for text in unseen[:10]:
    ids = my_encode(text)
    assert [ids] == encode(library, [text])                 # the library's ids
    assert b"".join(vocabulary[i] for i in ids).decode() == text
print(f"10 stories, the same ids; the last one is {len(text.encode())} bytes or {len(ids)} tokens")

# %% [markdown]
# How much does this compress? The bundled tokenizer learned 1,786 merges from Storybook stories. Below,
# it encodes texts that it has not seen, using only some of its merges.

# %%
from picolm_lib.course.tokens.pictures import draw_compression
from picolm_lib.data.tokenizer import load_tokenizer

bundled = load_tokenizer()
draw_compression(bundled, {name: some[:40] for name, some in texts.items()})

# %% [markdown]
# *What to see: the first merges help on any English text; the later ones are words from its training
# texts, so they help most there.*
#
# **What would go wrong without splitting into words?** Train once more, and let merges cross the splits.

# %%
from picolm_lib.course.tokens.bpe import train_variant

uncut = train_variant((s.text for s in stories(300)), 700, words=False)
longest = sorted(token_bytes(uncut), key=len)[-6:]
print("longest tokens without the split:", [token.decode() for token in longest])
cut = train_variant((s.text for s in stories(300)), 700)
longest_cut = sorted(token_bytes(cut), key=len)[-6:]
print("longest tokens with it:          ", [token.decode() for token in longest_cut])
assert max(map(len, token_bytes(uncut))) > max(map(len, token_bytes(cut)))

# %% [markdown]
# Without the split, half sentences become tokens. They fit these stories and hardly any other text, and
# they take up places in the vocabulary that words could have had.

# %% [markdown]
# ## 3. One story, two tokenizers
#
# The larger presets of this course use the tokenizer of **SmolLM**. It has 49,152 tokens and was trained
# on web pages, textbooks and code. The next cell fetches it from the Hub. Look at the same story in both.
#
# **Predict:** SmolLM's vocabulary is 24 times as large. Does it need half as many tokens for this story?

# %%
from picolm_lib.course.tokens.pictures import draw_tokens

smollm = sources.smollm()
draw_tokens(bundled, unseen[0], "bundled")

# %% [markdown]
# *What to see: almost every word of this little world is one token, together with its space.*

# %%
name = "SmolLM" if len(smollm) == 49_152 else "no Hub, so the bundled one again"
draw_tokens(smollm, unseen[0], name)

# %% [markdown]
# *What to see: the count in the title is close to that of the bundled tokenizer, since SmolLM has all of
# these words, too, and its other tokens are not needed here. Without the Hub, it is the same picture
# again.*
#
# A large vocabulary pays on texts that use it. Compare *bytes per token* on several kinds of text. More
# bytes per token means shorter sequences.

# %%
import inspect

kinds = {"Storybook": "\n".join(unseen[:20]), "TinyStories": "\n".join(tiny[:20]),
         "Python": inspect.getsource(sources), "French": "Le renard saute par-dessus le chien.",
         "numbers": "3.14159, 2.71828, 1.41421"}
print(f"{'bytes per token':<18}{'bundled':>9}{'SmolLM':>9}")
for kind, text in kinds.items():
    if text:
        size = len(text.encode())
        ratios = [size / len(ids) for t in (bundled, smollm) for ids in encode(t, [text])]
        print(f"{kind:<18}" + "".join(f"{ratio:>9.2f}" for ratio in ratios))

# %% [markdown]
# The last row is 1.00 in both columns: each digit and each punctuation mark is its own token. Why give up
# compression there? Look at a tokenizer that is allowed to merge digits, trained on random numbers.

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
# With merged digits, neighbors on the number line are split in different ways. For each way, a model
# would have to learn separately which token has the hundreds. With single digits, the position gives the
# value.

# %% [markdown]
# ## 4. The end of a story
#
# A few tokens are not made of bytes. The most important one is the **end of text**, written
# `<|endoftext|>`. It comes before the first story, between stories, and after the last. It has two uses. A
# model that reads it knows that a new story begins. A model that *writes* it has finished.
#
# It is called a *special token*, because merges can never produce it. The bundled vocabulary has five
# more: `<|pad|>` fills up a batch, `<|im_start|>` and `<|im_end|>` mark a turn of a conversation, and
# `<think>` and `</think>` a thought. Stories need none of these five. They are there for fine-tuning, since
# a vocabulary that grows later changes the shape of the model.
#
# The name of a special token, typed as text, is recognized before anything else happens. In a document
# that would be a fault: a page about tokenizers would end in the middle of a sentence. So `encode`, which
# turns documents and prompts into ids, does without. There text is text, and only the library itself
# writes an end of text:

# %% tags=["nbval-check-output"]
for text in ("<|endoftext|>", "<|endofstory|>"):
    print(f"{text}: {len(bundled(text)['input_ids'])} token(s)")
print("id of the end of text:", bundled.eos_token_id)
print("tokens of the same text within a document:", len(encode(bundled, ["<|endoftext|>"])[0]))

# %% [markdown]
# A small trained model comes with the course. Ask it after each token of a story that it has not seen:
# how likely is it that the story is over?
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
# at the end; where it jumps earlier, the story could have ended there as well.*

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
        logits = model(ids)[0, -1]
        logits[tokenizer.eos_token_id] = float("-inf")      # no way to stop
        ids = torch.cat((ids, logits.argmax().view(1, 1)), dim=1)
print(tokenizer.decode(ids[0, length - 20:length]), "[the end]", tokenizer.decode(ids[0, length:]))

# %% [markdown]
# It continues, because some token has to come next. A model that has never seen an end does this with
# every story.

# %% [markdown]
# ## 5. What a vocabulary costs
#
# A model of width D has two matrices with one row of D numbers for each of its V tokens. The *embedding*
# turns a token into a vector. The *output layer* turns a vector back into V scores, one per token, called
# *logits*. Together the two have 2 · V · D parameters.
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
# By hand, for `pico`: V = 49,152 and D = 384. Then count the parameters of the library's model.

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
# through the blocks. It is a trade-off.
#
# ### The fair ruler
#
# To compare two models you need a number that does not depend on the tokenizer. The *loss* does depend on
# it: it is measured per token, in *nats*, natural units of information. A model with large tokens makes
# fewer, harder predictions. **Bits per byte** divides by what stays the same, the bytes of the text:
#
# $$\text{bits per byte} = \frac{\text{loss}}{\ln 2 \cdot \text{bytes per token}}$$
#
# One nat is 1 / ln 2 = 1.4427 bits. By hand: a loss of 2 nats at 4 bytes per token is 2 · 1.4427 / 4 =
# 0.7213 bits per byte. A loss of 1 nat at 1 byte per token is 1.4427. The second loss is smaller, but the
# second model is worse.

# %% tags=["nbval-check-output"]
import math

for loss, bytes_per_token in ((2.0, 4.0), (1.0, 1.0)):
    print(f"loss {loss}: {loss / (math.log(2) * bytes_per_token):.4f} bits per byte")

# %% [markdown]
# Here is the library's own score for the bundled model, on stories that it has not seen:

# %%
import numpy as np

from picolm_lib.data.token_file import TokenCounts, TokenFile
from picolm_lib.device import choose_precision
from picolm_lib.evaluate import evaluate

ids = [bundled.eos_token_id]
for text in encode(bundled, unseen):
    ids += [*text, bundled.eos_token_id]
size = sum(len(text.encode()) for text in unseen)
new = TokenFile(np.array(ids, dtype=np.uint16), TokenCounts(len(unseen), size, len(ids)))

scores = evaluate(model, new, choose_precision("cpu", "float32"))
mine = scores.loss / (math.log(2) * size / len(ids))
torch.testing.assert_close(mine, scores.bits_per_byte)
print(f"loss {scores.loss:.2f} nats per token, {size / len(ids):.2f} bytes per token, "
      f"{scores.bits_per_byte:.3f} bits per byte")

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
show_source(tokenize_corpus)

# %% [markdown]
# Train and validation never share a story: the hash of its text decides where it goes. The file is not
# loaded but *memory-mapped*: the operating system reads in only the parts that are used. So a corpus can
# be larger than your memory.
#
# What does the model see? Windows of this sequence, all of the same length, in random order.

# %%
from picolm_lib.course.tokens.pictures import draw_stream

draw_stream(bundled, files["train"].tokens[:230].tolist(), window=32)

# %% [markdown]
# *What to see: each color is one window of 32 tokens; windows begin and end in the middle of a sentence,
# and each yellow end-of-text token shows the model where a story begins.*
#
# Cutting through stories looks careless. But it wastes nothing, and every window has the same shape,
# which is what a GPU needs. Each token of a window is a question: what comes next? So the *targets* are
# the inputs, shifted by one.

# %%
from picolm_lib.data.batches import Batches

inputs, targets = Batches(files["train"].tokens, seq_len=8, batch_size=2).next()
assert torch.equal(inputs[:, 1:], targets[:, :-1])          # shifted by one
for given, wanted in zip(inputs[0], targets[0], strict=True):
    print(f"{tokenizer.decode(given)!r:>14} -> {tokenizer.decode(wanted)!r}")

# %% [markdown]
# ## Your turn
#
# Write your answer where the stub raises `NotImplementedError`. The check tells you what went wrong.

# %% [markdown]
# ### Exercise 1: encode without replaying everything (hard, 15 minutes)
#
# `my_encode` tries all merges on every word, although a word has only a few pairs. Write the opposite:
# look at the pairs that are present, apply the merge that was *learned first* (it has the smallest new
# id), and look again, until nothing fits. You can use `merge` from above.

# %%
from picolm_lib.course.tokens import checks


def encode_word(ids, merges):
    """Merges the tokens of one word.

    ids: list of ints. merges: {(left, right): new id}, new ids in the order of learning.
    Returns a list of ints.
    """
    raise NotImplementedError  # your code


checks.encode_word(encode_word)

# %% [markdown]
# <details><summary>Hint 1</summary>
#
# `zip(ids, ids[1:])` gives all pairs. Keep those that are in `merges`. If there are none, you are done.
#
# </details>
# <details><summary>Hint 2</summary>
#
# `min(pairs, key=merges.get)` is the pair that was learned first.
#
# </details>
# <details><summary>Solution</summary>
#
# ```python
# def encode_word(ids, merges):
#     ids = list(ids)
#     while True:
#         pairs = [pair for pair in zip(ids, ids[1:]) if pair in merges]
#         if not pairs:
#             return ids
#         first = min(pairs, key=merges.get)
#         out = []
#         for token in ids:
#             if out and (out[-1], token) == first:
#                 out[-1] = merges[first]
#             else:
#                 out.append(token)
#         ids = out
# ```
#
# </details>

# %% [markdown]
# ### Exercise 2: windows (medium, 10 minutes)
#
# Cut a sequence of ids into windows side by side, each with its targets. If the last window is too short,
# omit it.

# %%
def windows(stream, length):
    """stream: (N,) ids. Returns inputs and targets, each (windows, length).

    There are (N - 1) // length windows, since every input needs a target.
    """
    raise NotImplementedError  # your code


checks.windows(windows)

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

# %% [markdown]
# ### Exercise 3: bits per byte (medium, 10 minutes)
#
# You have several documents, and the loss of each of their tokens. How many bits per byte is that over
# all of them?

# %%
def bits_per_byte(losses, texts):
    """losses: for each document a tensor, the nats of its tokens. texts: the documents.

    Returns a float.
    """
    raise NotImplementedError  # your code


checks.bits_per_byte(bits_per_byte)

# %% [markdown]
# <details><summary>Hint 1</summary>
#
# Add up the nats of all documents, convert them to bits, and divide by the bytes of all documents.
#
# </details>
# <details><summary>Hint 2</summary>
#
# `len(text)` counts characters. `len(text.encode())` counts bytes.
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
# Train the same small model three times on the same number of tokens: with bytes only, with a vocabulary
# of 512, and with one of 2,048. The last one runs twice, with two seeds. The gap between those two is
# noise.
#
# **Predict:** which has the lowest loss per token? And the fewest bits per byte? (With the preset
# `smoke`, the runs are so short that their numbers mean nothing.)

# %%
from picolm_lib.course import race
from picolm_lib.data.cache import tokenizer_for

TOKENS = 150_000
two_thousand = load_corpus("storybook", 2_000)
tokenizers = {name: tokenizer_for(f"bpe:{size}", two_thousand)
              for name, size in (("262 (bytes)", MIN_VOCAB_SIZE), ("512", 512), ("2,048", 2_048))}
curves = {name: race.run(name, tokenizer=tokenizers[name], tokens=TOKENS)
          for name in ("262 (bytes)", "512")}

# %%
largest = tokenizers["2,048"]
curves["2,048"] = race.run("2,048", tokenizer=largest, tokens=TOKENS)
again = race.run("2,048, other seed", tokenizer=largest, tokens=TOKENS, seed=1)

# %%
from picolm_lib.course.plots import bars

titles = ("nats per token", "bits per byte", "text read (MB)")
print(f"{'vocabulary':<12}{titles[0]:>16}{titles[1]:>15}{titles[2]:>16}{'seconds':>9}")
for name, curve in curves.items():
    per_token = curve.loss / (math.log(2) * curve.last)     # bytes per token, from the formula
    print(f"{name:<12}{curve.loss:>16.2f}{curve.last:>15.3f}"
          f"{per_token * curve.tokens[-1] / 1e6:>16.2f}{curve.seconds:>9.0f}")
print(f"two seeds of 2,048 differ by {abs(again.last - curves['2,048'].last):.3f} bits per byte")
bars({name: curve.last for name, curve in curves.items()}, "bits per byte",
     "After the same number of tokens (lower is better)")

# %% [markdown]
# *What to see: the order of the bars is not the order of the losses per token in the table above.*
#
# When this notebook was built, bytes and 2,048 tokens ended at about the same loss per token, and 512
# tokens at a higher one. If you compared losses per token, you would call the first two equal. Measured
# fairly, they are almost a factor of four apart: about 1.7, 1.1 and 0.46 bits per byte. The seeds differ
# by far less.
#
# Why so much? With the same number of tokens, the model with larger tokens has read four times as much
# text, and its window of 128 tokens reaches back four times as far. The last column shows the cost: in a
# model this small, the larger output layer takes no time that stands out from the noise. So for equal
# work, the larger vocabulary wins here. Do not expect this from every further doubling: this little world
# has about a thousand words, and 2,048 tokens cover nearly all of them.

# %% [markdown]
# ## Recap
#
# - A text is a sequence of bytes; BPE merges the most frequent pair of neighbors, again and again.
# - Encoding replays the merges in order; decoding joins the bytes, so nothing is ever lost.
# - Digits stand alone, so that their position gives their value; the end-of-text token lets a model stop.
# - The vocabulary costs 2 · V · D parameters, and the output layer much of the arithmetic.
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
# Train a tokenizer of 1,024 tokens on a text of your own:
# `tokenizer_for("bpe:1024", load_corpus("my_texts/"))`. Look at its longest tokens with `token_bytes`.
# Which of them reveal what your text is about?

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
