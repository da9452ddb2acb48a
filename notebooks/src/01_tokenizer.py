# %% [markdown]
# # 01. Tokenizer
#
# {badge}
#
# After this notebook you can
#
# - train a byte-level BPE by hand, and get the very merges that the fast library gets;
# - say what a vocabulary costs, and compare models that have different ones;
# - turn stories into the file of numbers that a language model reads.
#
# **Before you start:** Python, and from section 4 on a little PyTorch (tensors).
#
# **Time:** about 2 minutes to run on two CPU cores, 1 minute on a T4 (an estimate), an hour to read.
#
# {neighbors}

# %% tags=["setup"]
# Generated: see notebooks/build.py

# %% [markdown]
# ## Settings
#
# The preset follows your device. You need not change anything.

# %%
from picolm_lib.course.start import preset_name

PRESET = preset_name()
SEED = 0  # @param {type:"integer"}

# %% [markdown]
# ## First, watch words appear
#
# A language model does not read letters, and it does not read words. It reads **tokens**: pieces of
# text that a program has found by counting. Below is a story. At 0 merges every letter is a token.
# Each *merge* glues the two neighbors together that stand side by side most often. Move the slider.

# %% tags=["cover"]
from picolm_lib.course.tokens.pictures import merge_slider
from picolm_lib.storybook import stories

unseen = [story.text for story in stories(200, seed=999)]
merge_slider(unseen[0])

# %% [markdown]
# *What to see: each colored piece is one token, and the newest kind of token is yellow; with more
# merges, frequent words become whole, and names that come again and again do, too.*
#
# Nobody told the program what a word is. When you have finished this notebook, you have written it.

# %% [markdown]
# ## 1. The text
#
# You need text. This course uses two kinds.
#
# **TinyStories** is a data set of short stories that a large language model has written with the words
# of a small child (Ronen Eldan and Yuanzhi Li, 2023). It lies on the Hugging Face Hub. The next cell
# reads a few stories of it as a stream, without downloading the rest.
#
# The **Storybook** comes with this package and needs no network. It is a small world of children,
# animals and things, and it writes as many different stories as you ask for, the same ones for the same
# seed.

# %%
from picolm_lib.course.tokens import sources

tiny = sources.tinystories(200)
texts = {"Storybook": unseen, "TinyStories": tiny} if tiny else {"Storybook": unseen}
for name, some in texts.items():
    size = sum(len(text.encode()) for text in some)
    print(f"--- {name}: {len(some)} stories, {size / len(some):,.0f} bytes each on average ---")
    print(some[1][:400], "...\n")

# %% [markdown]
# **Predict:** could a model simply have one token per word? Think of a word that comes for the first
# time after training, such as a new name. Then run the cell.

# %%
from picolm_lib.course.tokens.pictures import draw_words, new_words

for name, some in texts.items():
    print(f"{name}: {new_words(some):.1%} of the words in the second half are new")
draw_words(texts)

# %% [markdown]
# *What to see: both lines fall steeply, so a few dozen words make up most of the text, while the right
# end is a long row of words that came once or twice.*
#
# Words are a bad choice: the rare ones are many, and new ones come without end. Letters are a bad
# choice, too: a story becomes very long, and every token says very little. Something in between would
# be good: short pieces for what is rare, whole words for what is frequent.

# %% [markdown]
# ## 2. From bytes to BPE
#
# Begin with what a computer stores. In UTF-8, each letter of English is one *byte*, a number from
# 0 to 255. Other letters take two to four bytes. So 256 tokens are enough to write down any text of
# any language.

# %%
# NBVAL_CHECK_OUTPUT
for text in ("fox", "é", "狐"):
    print(text, list(text.encode()))

# %% [markdown]
# **Byte pair encoding** (BPE) starts there. It counts all pairs of neighbors, merges the most frequent
# pair into a new token, and counts again. Each merge makes the vocabulary larger by one and the text
# shorter.
#
# Words are cut apart first, and a blank belongs to the word after it. A merge never crosses the cut.
# The rule below is that of GPT-2, for English letters. One thing is different: every digit stands
# alone.

# %%
# NBVAL_CHECK_OUTPUT
import re

RULE = re.compile(r"'(?:s|t|re|ve|m|ll|d)"       # the end of "it's"
                  r"|\d"                         # one digit
                  r"| ?[A-Za-z]+"                # a word with the blank before it
                  r"| ?[^\sA-Za-z\d]+"           # signs
                  r"|\s+(?!\S)|\s+")             # what is left: blanks, new lines
print(RULE.findall("The cat sat on 12 mats. It's flat!"))

# %% [markdown]
# Count by hand. In "The cat sat on 12 mats", how often do `a` and `t` stand side by side? Three times:
# c-at, s-at, m-at-s. With "flat" it is four.
#
# In a real text the same words come again and again. So each is kept once, with its count. That saves
# most of the work.

# %%
# NBVAL_CHECK_OUTPUT
from collections import Counter


def count_pairs(words):
    """How often each pair of neighbors comes. words: {tuple of tokens: how often it comes}."""
    pairs = Counter()
    for tokens, times in words.items():
        for pair in zip(tokens, tokens[1:]):
            pairs[pair] += times
    return pairs

sentence = Counter(tuple(word) for word in RULE.findall("The cat sat on 12 mats. It's flat!"))
print(count_pairs(sentence).most_common(1))

# %% [markdown]
# Now the merge itself, and the loop. Tokens are numbers from here on: 0 is kept for the end of a story,
# 1 to 256 are the bytes, and every merge gets the next number.

# %%
def merge(ids, pair, new):
    """Replaces each occurrence of the pair by the new token."""
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

BYTES = [bytes([byte]) for byte in byte_order()]            # in the library's own order
ID = {byte: 1 + place for place, byte in enumerate(BYTES)}


def learn_merges(text, count):
    """The vocabulary as a list of bytes, and the merges: {pair: new token}."""
    vocabulary, merges = [b"<|endoftext|>", *BYTES], {}
    words = Counter(tuple(ID[bytes([b])] for b in w.encode()) for w in RULE.findall(text))
    while len(merges) < count and (pairs := count_pairs(words)):
        pair = max(pairs, key=lambda p: (pairs[p], -p[0], -p[1]))  # a tie: the older tokens
        merges[pair] = len(vocabulary)
        vocabulary.append(vocabulary[pair[0]] + vocabulary[pair[1]])
        shorter = Counter()
        for ids, times in words.items():
            shorter[merge(ids, pair, merges[pair])] += times
        words = shorter
    return vocabulary, merges

# %% [markdown]
# Train on one story, then on 300. The library's `train_bpe` calls the `tokenizers` package, which is
# written in Rust. Its merges must be yours, in the same order.

# %%
from picolm_lib.course.start import show_source
from picolm_lib.course.tokens.bpe import merges_of, token_bytes
from picolm_lib.tokenizer import train_bpe

for name, text, count in (("one story", unseen[0], 100),
                          ("300 stories", "\n\n".join(s.text for s in stories(300)), 300)):
    vocabulary, merges = learn_merges(text, count)
    library = train_bpe([text], vocab_size=257 + count)
    assert list(merges) == merges_of(library)
    assert vocabulary == token_bytes(library)
    newest = [token.decode() for token in vocabulary[257:269]]
    print(f"{name}: the same {count} merges. The first ones make {newest}")
show_source(train_bpe)

# %% [markdown]
# To *encode* a new text, replay the merges in the order in which they were learned. To *decode*, put the
# bytes of the tokens side by side.

# %%
from picolm_lib.tokenizer import encode


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
# How far does it go? The bundled tokenizer has learned 1,791 merges from Storybook stories. Below it is
# asked to write texts that it has not seen, with only some of its merges.

# %%
from picolm_lib.course.tokens.pictures import draw_compression
from picolm_lib.tokenizer import load_tokenizer

bundled = load_tokenizer()
draw_compression(bundled, {name: some[:40] for name, some in texts.items()})

# %% [markdown]
# *What to see: the first merges help on any English text; the later ones are words of the texts that it
# learned from, so they help most there.*
#
# **What would go wrong without the cut into words?** Train once more, and let merges cross it.

# %%
from picolm_lib.course.tokens.bpe import train_variant

uncut = train_variant((s.text for s in stories(300)), 700, words=False)
longest = sorted(token_bytes(uncut), key=len)[-6:]
print("longest tokens without the cut:", [token.decode() for token in longest])
cut = train_variant((s.text for s in stories(300)), 700)
longest_cut = sorted(token_bytes(cut), key=len)[-6:]
print("longest tokens with it:        ", [token.decode() for token in longest_cut])
assert max(map(len, token_bytes(uncut))) > max(map(len, token_bytes(cut)))

# %% [markdown]
# Without the cut, half sentences become tokens. They fit these stories and hardly any other text, and
# the places in the vocabulary are lost for words.

# %% [markdown]
# ## 3. One story, two tokenizers
#
# The larger presets of this course use the tokenizer of **SmolLM**, with 49,152 tokens, trained on web
# pages, textbooks and code. The next cell fetches it from the Hub. Look at the same story in both.
#
# **Predict:** SmolLM's vocabulary is 24 times as large. Does it need half as many tokens for this story?

# %%
from picolm_lib.course.tokens.pictures import draw_tokens

smollm = sources.smollm()
draw_tokens(bundled, unseen[0], "bundled")

# %% [markdown]
# *What to see: almost every word of this little world is one token, with its blank.*

# %%
draw_tokens(smollm, unseen[0], "SmolLM")

# %% [markdown]
# *What to see: the count in the title is close to that of the bundled tokenizer, since both have all of
# these words; SmolLM's other tokens lie idle here.*
#
# A large vocabulary pays on texts that use it. Compare *bytes per token* on several kinds of text. More
# means shorter sequences.

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
# The last row is 1.00 in both columns: each digit and each sign is a token of its own. Why give up
# compression there? Look at a tokenizer that may merge digits, trained on random numbers.

# %%
import random

draw = random.Random(SEED)
sums = [f"{draw.randrange(10_000)} + {draw.randrange(10_000)}" for _ in range(2_000)]
free = train_variant(sums, 600, single_digits=False)
for number in ("1234", "1235", "12345"):
    print(f"{number:<6} merged: {free.tokenize(number)!s:<24} alone: {bundled.tokenize(number)}")
cuts = {tuple(map(len, free.tokenize(str(n)))) for n in range(1_000, 10_000)}
print("ways to cut a number of four digits:", sorted(cuts))
assert len(cuts) > 1

# %% [markdown]
# With merged digits, neighbors on the number line are cut in different ways. A model would have to learn
# anew, for each way, which token holds the hundreds. With single digits, the place tells the value.

# %% [markdown]
# ## 4. The end of a story
#
# One token is not made of bytes: the **end of text**, written `<|endoftext|>`. It stands before the
# first story, between stories, and after the last. It has two uses. A model that reads it knows that a
# new story begins. And a model that *writes* it has finished.
#
# It is called a *special token*, because the merges can never make it. Its name, typed as text, is found
# before anything else happens:

# %%
# NBVAL_CHECK_OUTPUT
for text in ("<|endoftext|>", "<|endofstory|>"):
    print(f"{text}: {len(bundled(text)['input_ids'])} token(s)")
print("id of the end of text:", bundled.eos_token_id)

# %% [markdown]
# A small trained model comes with the course. Ask it after each token of a story that it has not seen:
# how likely is it that the story is over?
#
# **Predict:** where is the chance high? At every full stop? At every new paragraph?

# %%
from picolm_lib.checkpoint import load_run
from picolm_lib.course.tokens.ends import draw_ends, end_chances, ends_apart

model, tokenizer, run = load_run("bundled")
draw_ends(end_chances(model, tokenizer, unseen[3]))

# %% [markdown]
# *What to see: the chance is near zero for almost all of the story, full stops included, and it jumps at
# the end; where it jumps earlier, the story could have ended there as well.*

# %%
at_end, elsewhere = ends_apart(model, tokenizer, unseen[:30])
print(f"mean chance at the true ends of 30 stories: {at_end:.1%}, elsewhere: {elsewhere:.2%}")
assert at_end > 20 * elsewhere

# %% [markdown]
# **What would go wrong without it?** Forbid the token, and let the model tell on after the last word of
# the story.

# %%
import torch

ids = torch.tensor([[tokenizer.eos_token_id, *encode(tokenizer, unseen[3:4])[0]]])
told = ids.shape[1]
with torch.no_grad():
    while ids.shape[1] < min(told + 40, run.model.max_seq_len):
        logits = model(ids)[0, -1]
        logits[tokenizer.eos_token_id] = float("-inf")      # no way to stop
        ids = torch.cat((ids, logits.argmax().view(1, 1)), dim=1)
print(tokenizer.decode(ids[0, told - 20:told]), "[the end]", tokenizer.decode(ids[0, told:]))

# %% [markdown]
# It goes on, because something must come. A model that has never seen an end would do so with every
# story.

# %% [markdown]
# ## 5. What a vocabulary costs
#
# A model of width D has two tables with one row of D numbers for each of its V tokens. The *embedding*
# turns a token into a vector. The *output layer* turns a vector back into V scores, one per token; they
# are called *logits*. The tables have 2 · V · D parameters.
#
# The embedding is only looked up, so it costs no arithmetic. The output layer is a product: 2 · V · D
# FLOPs per token forward, and twice that backward. A *FLOP* is one addition or multiplication. And the
# logits of a whole batch have to be held in memory.

# %%
from picolm_lib.course.tokens.vocabulary import vocabulary_cost

vocabulary_cost()

# %% [markdown]
# *What to see: the dot is your choice, and its numbers stand above the plots; with 49,152 tokens the two
# tables are larger than all twelve blocks together, and nearly half of the arithmetic is in the output
# layer.*
#
# By hand, for `pico`: V = 49,152 and D = 384. Then count the parameters of the library's model.

# %%
# NBVAL_CHECK_OUTPUT
from picolm_lib.config import PRESETS
from picolm_lib.course.tokens.vocabulary import cost
from picolm_lib.model import PicoLM, count_parameters

pico = PRESETS["pico"].model
with torch.device("meta"):                                  # shapes without memory
    pico_model = PicoLM(pico)
tables = count_parameters(pico_model.embedding) + count_parameters(pico_model.output)
print(f"2 x 49,152 x 384 = {2 * 49_152 * 384:,}")
print(f"tables of pico:    {tables:,} of {count_parameters(pico_model):,} parameters")
print(f"float32 logits of 12,288 tokens: {4 * 49_152 * 12_288:,} bytes")
assert cost(49_152).tables == tables and cost(49_152).logits == 4 * 49_152 * 12_288

# %% [markdown]
# So why not take the smallest vocabulary? Because then a story has more tokens, and each costs a pass
# through the blocks. It is a trade.
#
# ### The fair ruler
#
# To compare two models you need a number that does not depend on the tokenizer. The *loss* does: it is
# counted per token, in *nats*, natural units of information. A model with large tokens makes fewer,
# harder guesses. **Bits per byte** divides by what stays the same, the bytes of the text:
#
# $$\text{bits per byte} = \frac{\text{loss}}{\ln 2 \cdot \text{bytes per token}}$$
#
# One nat is 1 / ln 2 = 1.4427 bits. By hand: a loss of 2 nats at 4 bytes per token is 2 · 1.4427 / 4 =
# 0.7213 bits per byte. A loss of 1 nat at 1 byte per token is 1.4427. The second loss is smaller, and the
# second model is worse.

# %%
# NBVAL_CHECK_OUTPUT
import math

for loss, bytes_per_token in ((2.0, 4.0), (1.0, 1.0)):
    print(f"loss {loss}: {loss / (math.log(2) * bytes_per_token):.4f} bits per byte")

# %% [markdown]
# And the library's own score of the bundled model, on stories that it has not seen:

# %%
import numpy as np

from picolm_lib.data import Count, TokenFile
from picolm_lib.doctor import numerics
from picolm_lib.evaluate import evaluate

ids = [bundled.eos_token_id]
for text in encode(bundled, unseen):
    ids += [*text, bundled.eos_token_id]
size = sum(len(text.encode()) for text in unseen)
new = TokenFile(np.array(ids, dtype=np.uint16), Count(len(unseen), size, len(ids)))

scores = evaluate(model, new, numerics("cpu", "float32"))
mine = scores.loss / (math.log(2) * size / len(ids))
torch.testing.assert_close(mine, scores.bits_per_byte)
print(f"loss {scores.loss:.2f} nats per token, {size / len(ids):.2f} bytes per token, "
      f"{scores.bits_per_byte:.3f} bits per byte")

# %% [markdown]
# ## 6. From stories to a file of numbers
#
# Training reads one long row of token ids. It is made once and kept in a file:
#
# `<end> story <end> story <end> ... story <end>`
#
# Each id is written as a *uint16*, a whole number of two bytes, from 0 to 65,535. That is why a vocabulary
# here may not be larger. By hand: 100 tokens are 200 bytes.

# %%
from picolm_lib.corpus import load_corpus
from picolm_lib.data import prepare


def my_stream(tokenizer, documents):
    """All documents as one row of ids, with an end before, between and after them."""
    ids = []
    for text in encode(tokenizer, documents):
        ids += [tokenizer.eos_token_id, *text]
    return np.array([*ids, tokenizer.eos_token_id], dtype=np.uint16)

corpus = load_corpus("storybook", 400)
files = prepare(corpus, bundled, show_progress=False)
for split, file in files.items():
    documents = list(corpus.split(split))
    np.testing.assert_array_equal(my_stream(bundled, documents), file.tokens)
    print(f"{split}: {len(documents)} stories, {len(file.tokens):,} tokens, "
          f"{file.tokens.nbytes:,} bytes in the file, {file.count.bytes:,} bytes of text")
    assert file.tokens.nbytes == 2 * len(file.tokens)
show_source(prepare)

# %% [markdown]
# Train and validation never share a story: the hash of its text decides where it goes. The file is not
# loaded but *mapped into memory*: the operating system brings in the parts that are read. So a corpus may
# be larger than your memory.
#
# What does the model see? Windows of the row, all of one length, in random order.

# %%
from picolm_lib.course.tokens.pictures import draw_stream

draw_stream(bundled, files["train"].tokens[:230].tolist(), window=32)

# %% [markdown]
# *What to see: each color is one window of 32 tokens; windows begin and end in the middle of a sentence,
# and the yellow ends tell the model where a story begins.*
#
# Cutting through stories looks careless. It wastes nothing, and every window has the same shape, which is
# what a GPU wants. Each token of a window is a question: what comes next? So the *targets* are the inputs,
# moved by one.

# %%
from picolm_lib.batches import Batches

inputs, targets = Batches(files["train"].tokens, seq_len=8, batch_size=2).next()
assert torch.equal(inputs[:, 1:], targets[:, :-1])          # moved by one
for given, wanted in zip(inputs[0], targets[0], strict=True):
    print(f"{tokenizer.decode(given)!r:>14} -> {tokenizer.decode(wanted)!r}")

# %% [markdown]
# ## Your turn
#
# Write your answer where the stub raises `NotImplementedError`. The check says what went wrong.

# %% [markdown]
# ### Exercise 1: encode without replaying everything (hard, 15 minutes)
#
# `my_encode` tries all merges on every word, although a word has only a few pairs. Write the other way:
# look at the pairs that are there, make the merge that was *learned first* (it has the smallest new id),
# and look again, until nothing fits. Use `merge` from above.

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
# `zip(ids, ids[1:])` gives all pairs. Keep those that are in `merges`. None left? Then you are done.
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
# Cut a row of ids into windows side by side, each with its targets. The last window may be too short; leave
# it away.

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
# Make two rows first: the inputs, and the same row from its second token on.
#
# </details>
# <details><summary>Hint 2</summary>
#
# `.view(count, length)` cuts a row of count · length tokens into windows.
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
# Here are several documents, and the loss of each of their tokens. How many bits per byte are that in all?

# %%
def bits_per_byte(losses, texts):
    """losses: a tensor per document, nats of each of its tokens. texts: the documents.

    Returns a float.
    """
    raise NotImplementedError  # your code


checks.bits_per_byte(bits_per_byte)

# %% [markdown]
# <details><summary>Hint 1</summary>
#
# Add up all nats of all documents, turn them into bits, and divide by all bytes.
#
# </details>
# <details><summary>Hint 2</summary>
#
# `len(text)` counts letters. `len(text.encode())` counts bytes.
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
# Put in a text of your own, of a few hundred letters. Try one in which a word comes often, one in another
# language, one without blanks.

# %%
MY_TEXT = "She sells seashells. The shells she sells are seashells."  # @param {type:"string"}

merge_slider(MY_TEXT)

# %% [markdown]
# *What to see: pieces that come back grow into one token, whether or not they are words.*

# %% [markdown]
# ## Does it matter?
#
# Train the same small model three times on the same number of tokens: with bytes alone, with 512 tokens and
# with 2,048 tokens. The last one runs twice, with two seeds. The gap between those two is noise.
#
# **Predict:** which has the lowest loss per token? And the fewest bits per byte? (With the preset `smoke`,
# runs are so short that their numbers mean nothing.)

# %%
from picolm_lib.course import race
from picolm_lib.data import tokenizer_for

TOKENS = 150_000
two_thousand = load_corpus("storybook", 2_000)
tokenizers = {name: tokenizer_for(f"bpe:{size}", two_thousand)
              for name, size in (("257 (bytes)", 257), ("512", 512), ("2,048", 2_048))}
curves = {name: race.run(name, tokenizer=tokenizers[name], tokens=TOKENS)
          for name in ("257 (bytes)", "512")}

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
# When this notebook was built, bytes and 2,048 tokens ended at about the same loss per token, and 512 tokens
# at a higher one. Whoever compares losses per token would call the first two equal. By the fair ruler they
# are almost a factor of four apart: about 1.7, 1.0 and 0.45 bits per byte, and the seeds differ by far less.
#
# Why so much? At the same number of tokens, larger ones have read four times as much text, and a window of
# 128 tokens reaches back four times as far. The last column shows what it costs: the largest output layer
# makes a step slower, but not by much. So at equal work the larger vocabulary wins here. Do not expect that
# of every further doubling: this little world has about a thousand words, and 2,048 tokens hold nearly all
# of them.

# %% [markdown]
# ## Recap
#
# - A text is bytes; BPE merges the most frequent pair of neighbors, again and again.
# - Encoding replays the merges in their order; decoding puts bytes side by side, so nothing is ever lost.
# - Digits stand alone, so that the place tells the value; the end of text lets a model stop.
# - The vocabulary costs 2 · V · D parameters, and the output layer much of the arithmetic.
# - Bits per byte compares models with different tokenizers; the loss per token does not.

# %% [markdown]
# ## Three questions
#
# **1.** You type a word that no story has ever had. What does the tokenizer do?
#
# <details><summary>Answer</summary>
#
# It writes the word in smaller pieces, single bytes if need be. Nothing is unknown to it.
#
# </details>
#
# **2.** A friend's model has a loss of 0.9 nats per token, yours has 1.8. Is theirs better?
#
# <details><summary>Answer</summary>
#
# You cannot know before you ask for bytes per token. If theirs are bytes and yours have 4 bytes each, yours
# is better: 0.65 against 1.30 bits per byte.
#
# </details>
#
# **3.** Why may a token file not hold a vocabulary of 100,000 tokens?
#
# <details><summary>Answer</summary>
#
# A uint16 ends at 65,535. Larger ids would need four bytes each.
#
# </details>

# %% [markdown]
# ## Experiment
#
# Train a tokenizer of 1,024 tokens on a text of yours: `tokenizer_for("bpe:1024",
# load_corpus("my_texts/"))`. Look at its longest tokens with `token_bytes`. Which of them tell what your text
# is about?

# %% [markdown]
# ## References
#
# - Rico Sennrich, Barry Haddow and Alexandra Birch, "Neural Machine Translation of Rare Words with Subword
#   Units", 2016.
# - Alec Radford et al., "Language Models are Unsupervised Multitask Learners", 2019 (bytes, and the rule for
#   words).
# - Ronen Eldan and Yuanzhi Li, "TinyStories: How Small Can Language Models Be and Still Speak Coherent
#   English?", 2023.
# - Loubna Ben Allal et al., "SmolLM: blazingly fast and remarkably powerful", 2024.
# - Aaditya K. Singh and DJ Strouse, "Tokenization counts: the impact of tokenization on arithmetic in frontier
#   LLMs", 2024.
#
# {neighbors}
