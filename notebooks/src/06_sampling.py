# %% [markdown]
# # 06. Sampling
#
# {badge}
#
# After this notebook you can
#
# - turn a vector of logits into a token in six ways, and say what each one is good for;
# - write the loop that generates a story, with a cache, in batches, and with a proper end;
# - measure what the settings cost: loops, nonsense, and forgotten facts.
#
# **Before you start:** Python, and a little PyTorch (tensors, softmax). You do not need the other
# notebooks: a trained model comes with the course.
#
# **Time:** about 3 minutes to run on two CPU cores, 2 minutes on a T4 (an estimate), an hour to read.
#
# {neighbors}

# %% tags=["setup"]
# Generated: see notebooks/build.py

# %% [markdown]
# ## Settings
#
# `RUN` is the model. `"bundled"` comes with the course. If you have trained one yourself, enter its
# folder here, such as `"runs/nano"`, and everything below is about *your* model.

# %%
from picolm_lib.course.start import preset_name

PRESET = preset_name()
RUN = "bundled"  # @param {type:"string"}
PROMPT = ("Once upon a time, there was a little girl named Lily. She loved to run and jump. "
          "She loved to")
SEED = 0  # @param {type:"integer"}
QUICK = PRESET == "smoke"  # fewer stories and questions

# %% [markdown]
# ## First, play with the settings
#
# A language model does not write. It gives a probability to every token that could come next: 2,048 of
# them here. *Sampling* chooses one token, then the next, and the next. That is all that lies between a
# model and a story, and it has a handful of settings. Move the sliders.

# %% tags=["cover"]
import torch

from picolm_lib.course.sampling.playgrounds import sampling_playground
from picolm_lib.device import choose_precision
from picolm_lib.train.checkpoint import load_run

device = choose_precision().device
model, tokenizer, run = load_run(RUN, device)
sampling_playground(model, tokenizer, PROMPT)

# %% [markdown]
# *What to see: gray bars are the model's own probabilities, blue ones what the settings make of them, and
# orange is the token that the seed draws, or the group of others that it is in; below, the text continues
# with it, and colored tokens surprised the model.*
#
# Three things to try:
#
# - Set the temperature to 0, and move the seed. Nothing changes any more.
# - Set min-p to 0 and the temperature to 2. Read the text. Then bring min-p back.
# - Raise the repetition penalty. Which bars fall, and where did those words appear before?
#
# By the end of this notebook you will know what every slider does, because you will have built it.

# %% [markdown]
# ## 1. Logits, probabilities, and greedy decoding
#
# The model's last layer gives one number to every token: its **logit**. *Softmax* turns logits into
# probabilities: take e to the power of each, and divide by the sum. The larger the logit, the larger the
# probability. All probabilities add up to 1.
#
# Two letters for shapes from here on: B stories at once, V tokens in the vocabulary. So logits are (B,
# V).
#
# The simplest choice is **greedy**: always take the likeliest token. Here are numbers that you can check
# with a calculator:

# %% tags=["nbval-check-output"]
small = torch.tensor([[2.0, 1.0, 0.0, -1.0]])               # (B, V): one story, four tokens
powers = small.exp()
print([round(value, 4) for value in powers[0].tolist()], "sum", round(powers.sum().item(), 4))
print([round(value, 4) for value in small.softmax(-1)[0].tolist()])
print("greedy takes token", small.argmax(-1).item())

# %% [markdown]
# Now a whole story. Each token is colored by the probability that the model gave it.

# %%
from picolm_lib.course.sampling.playgrounds import colored_story
from picolm_lib.sampling import SampleConfig

START = "Once upon a time"
colored_story(model, tokenizer, START, SampleConfig(temperature=0))

# %% [markdown]
# *What to see: most tokens are white, so they were nearly certain; the model only hesitates where a story
# could really continue in another way: a name, a color, a thing, a place.*
#
# Build the loop. It reads the text, picks a token, appends it, and starts over. `pick` is a function, so
# that you can use the same loop for every way of choosing.

# %%
@torch.no_grad()
def my_loop(model, text, count, pick):
    """Appends `count` tokens to (B, T) token ids; pick(logits, text) chooses (B,) tokens."""
    for _ in range(count):
        logits = model(text)[:, -1].float()                 # (B, V): only the last position
        text = torch.cat((text, pick(logits, text)[:, None]), dim=1)
    return text

def greedy(logits, text):
    return logits.argmax(-1)

# %%
from picolm_lib.course.start import show_source
from picolm_lib.sampling import generate, prompt_ids, sample_next_token

ids = torch.tensor([prompt_ids(run.model, tokenizer, START)], device=device)  # (1, T)
room = run.model.max_seq_len - ids.shape[1]                 # tokens that fit into the context
library = list(generate(model, ids, SampleConfig(temperature=0, max_new_tokens=min(40, room))))
mine = my_loop(model, ids, len(library), greedy)
torch.testing.assert_close(mine[:, ids.shape[1]:], torch.stack(library, dim=1))
print(tokenizer.decode(mine[0, 1:]))
show_source(sample_next_token)

# %% [markdown]
# The same tokens. The library's `sample_next_token` is greedy if the temperature is 0. Otherwise it lays
# the probabilities end to end on a line from 0 to 1, picks a random point on it, and takes the token
# there.
#
# **What goes wrong with greedy?** Two things. First, there is no randomness in it: the same prompt always
# gives the same story. Second, it can get stuck in a **loop**. If the likeliest continuation leads back
# to a place that looks the same, the model repeats itself indefinitely. Well-trained models rarely do
# that on texts like those they were trained on. So train a weak model, for just a few seconds.
#
# **Predict:** which of the two texts repeats itself, the greedy one or the one drawn at random?

# %%
from picolm_lib.course import race
from picolm_lib.course.sampling.stories import repeated

weak = race.run("a weak model", tokens=60_000).model.eval().to(device)

def at_random(logits, text):
    return torch.multinomial(logits.softmax(-1), 1)[:, 0]

torch.manual_seed(SEED)
first = torch.tensor([prompt_ids(weak.config, tokenizer, "Tom")], device=device)
for name, pick in (("greedy", greedy), ("at random", at_random)):
    text = my_loop(weak, first, 100, pick)[0].tolist()
    print(f"\n{name}, {repeated(text):.0%} of all 4-grams occurred before:")
    print(tokenizer.decode(text[1:])[:330].replace("\n", " "))

# %% [markdown]
# A *4-gram* is four tokens in a row. `repeated` gives the share of a text's 4-grams that occurred in it
# before. Greedy decoding goes around in circles. Drawing at random breaks the circle, at the price of
# mistakes. The rest of this notebook looks for the middle ground.

# %% [markdown]
# ## 2. Temperature
#
# Divide all logits by a number T, the **temperature**, before softmax. Differences between logits grow
# if T is below 1, and shrink if T is above 1. So
#
# - T near 0: the likeliest token takes everything, as in greedy;
# - T = 1: the model's own probabilities;
# - T very large: all tokens are equally likely, nonsense included.
#
# By hand: with T = 0.5, the logits (2, 1, 0, −1) become (4, 2, 0, −2).
#
# **Predict:** does the first token's probability, 0.64 at T = 1, double at T = 0.5?

# %% tags=["nbval-check-output"]
for T in (0.5, 1.0, 2.0):
    print(T, [round(value, 4) for value in (small / T).softmax(-1)[0].tolist()])

# %% [markdown]
# Now the same with the model's real logits at the end of the prompt from above. It is one vector, and you
# will use it from here on.

# %%
from picolm_lib.course.sampling.pictures import draw_temperatures
from picolm_lib.course.sampling.probabilities import next_logits

seen = torch.tensor([prompt_ids(run.model, tokenizer, PROMPT)])       # (1, S)
logits = next_logits(model, seen[0].tolist())               # (1, V)
draw_temperatures(logits, (0.5, 1, 2), tokenizer.decode)

# %% [markdown]
# *What to see: a low temperature favors the first token, a high one evens them out; and at T = 2 the gray
# bar has grown, which is the thousands of tokens that are hardly ever right.*

# %%
from transformers.generation import logits_process as theirs

from picolm_lib.sampling import apply_temperature


def my_temperature(logits, T):
    return logits / T

for T in (0.5, 2.0):
    torch.testing.assert_close(my_temperature(logits, T), apply_temperature(logits, T))
    torch.testing.assert_close(my_temperature(logits, T),
                               theirs.TemperatureLogitsWarper(T)(None, logits))
show_source(apply_temperature)

# %% [markdown]
# It equals the library's, and also that of the `transformers` library. Dividing by zero does not work, so
# the library treats T = 0 as a separate case.
#
# **What goes wrong with temperature alone?** Turn it up, and read:

# %%
HOT = SampleConfig(temperature=2.0, min_p=0)
colored_story(model, tokenizer, START, HOT, SEED, most=90)

# %% [markdown]
# *What to see: dark tokens, each of them drawn from the long tail of unlikely ones; after one of them,
# the next words make no sense either, because the model has never seen such a beginning.*

# %% [markdown]
# ## 3. Cutting off the tail: top-k, top-p, min-p
#
# One unlikely token does no harm. But there are thousands of them, and together they have some
# probability at every step. So cut them off before you draw. Three rules are common:
#
# - **top-k** keeps the k likeliest tokens;
# - **top-p** keeps the likeliest tokens that together reach the probability p;
# - **min-p** keeps tokens that are at least p times as likely as the likeliest one.
#
# The rejected logits become minus infinity, and their probabilities exactly 0. Two places in a story show
# how the rules differ. After "Lily had" the model is sure. After "She loved to" many words are right.

# %%
from functools import partial

from picolm_lib.course.sampling.pictures import draw_cuts
from picolm_lib.sampling import apply_min_p, apply_top_k, apply_top_p

SURE = "Once upon a time, there was a little girl named Lily. One day, Lily had"
sure = next_logits(model, prompt_ids(run.model, tokenizer, SURE))
draw_cuts({"... One day, Lily had": sure, "... She loved to": logits},
          {"top-k 10": partial(apply_top_k, k=10), "top-p 0.9": partial(apply_top_p, p=0.9),
           "min-p 0.05": partial(apply_min_p, p=0.05)})

# %% [markdown]
# *What to see: a fixed k is too large on the left and too small on the right; top-p and min-p adapt to
# the model: few tokens where it is sure, many where it is not.*
#
# By hand, with five probabilities: 0.5, 0.2, 0.15, 0.1, 0.05.
#
# **Predict:** how many tokens remain with top-p 0.75? With min-p 0.25? Then run the cell.

# %% tags=["nbval-check-output"]
five = torch.tensor([[0.5, 0.2, 0.15, 0.1, 0.05]])
print("running sum     ", [round(value, 2) for value in five.cumsum(-1)[0].tolist()])
print("top-p 0.75 keeps", int(apply_top_p(five.log(), 0.75).isfinite().sum()))
print("0.25 * largest  ", 0.25 * five.max().item())
print("min-p 0.25 keeps", int(apply_min_p(five.log(), 0.25).isfinite().sum()))

# %% [markdown]
# 0.5 + 0.2 is less than 0.75, so the third token must stay, although the sum then exceeds 0.75. Now build
# all three.

# %%
def my_top_k(logits, k):
    kth = logits.sort(dim=-1, descending=True).values[:, k - 1:k]     # (B, 1): the k-th largest
    return logits.masked_fill(logits < kth, float("-inf"))

def my_top_p(logits, p):
    order = logits.argsort(dim=-1, descending=True)                   # (B, V): likeliest first
    probs = logits.gather(1, order).softmax(-1)
    before = probs.cumsum(-1) - probs                       # the sum over likelier tokens
    rejected = torch.zeros_like(before, dtype=torch.bool).scatter(1, order, before >= p)
    return logits.masked_fill(rejected, float("-inf"))

def my_min_p(logits, p):
    probs = logits.softmax(-1)
    return logits.masked_fill(probs < p * probs.max(-1, keepdim=True).values, float("-inf"))

# %%
for mine, library, warper, value in (
        (my_top_k, apply_top_k, theirs.TopKLogitsWarper, 10),
        (my_top_p, apply_top_p, theirs.TopPLogitsWarper, 0.9),
        (my_min_p, apply_min_p, theirs.MinPLogitsWarper, 0.05)):
    kept = mine(logits, value)
    torch.testing.assert_close(kept, library(logits, value))
    torch.testing.assert_close(kept, warper(value)(None, logits))
    print(f"{mine.__name__}: {int(kept.isfinite().sum())} tokens of {logits.shape[1]:,} remain")
show_source(apply_top_p)

# %% [markdown]
# The library sorts in the opposite order and sums from the unlikely end. That is the same rule, and where
# two probabilities are equal it decides as `transformers` does.
#
# **What would go wrong without a cut?** Measure the tail along a real story: the probability that min-p
# 0.05 would cut off at every step.
#
# **Predict:** the tail has well under one percent at a typical step. How likely is it that a story of
# this length draws *no* token from it?

# %%
from picolm_lib.storybook.story import stories

text = next(stories(1, seed=999)).text                      # one that the model has never seen
tokens = prompt_ids(run.model, tokenizer, text[:700])
with torch.no_grad():
    rows = model(torch.tensor([tokens], device=device))[0].float().cpu()      # (T, V)
for T in (1.0, 1.5, 2.0):
    probs = (rows / T).softmax(-1)
    tail = probs.masked_fill(my_min_p(rows, 0.05).isfinite(), 0).sum(-1)    # (T,)
    print(f"T = {T}: tail {tail.mean():.2%} on average (median {tail.median():.2%}), "
          f"a story of {len(rows)} tokens without it: {(1 - tail).prod():.1%}")

# %% [markdown]
# The risk is small, but it is there at every step. At T = 1, about half of such stories or more contain
# an odd token; at T = 1.5 nearly all do, and at T = 2 all of them. That is why sampling usually comes
# with a cut, and why a cut lets you use a higher temperature.

# %% [markdown]
# ## 4. Repetition penalty
#
# Here is another way out of loops: make tokens less likely that have already occurred. The **repetition
# penalty** r, above 1, changes the logits of all seen tokens:
#
# - a positive logit is *divided* by r;
# - a negative logit is *multiplied* by r.
#
# Both make it smaller. Dividing everything is the classic bug: −1 / 2 is −0.5, which is *more* than −1.
# The token that should become less likely becomes more likely, and nothing crashes.
#
# By hand, with r = 2, for tokens 0 and 1 of (3, −1, 0.5):

# %% tags=["nbval-check-output"]
from picolm_lib.sampling import apply_repetition_penalty

three, both = torch.tensor([[3.0, -1.0, 0.5]]), torch.tensor([[0, 1]])
print("penalized     ", apply_repetition_penalty(three, both, 2.0)[0].tolist())
print("with the bug  ", three.scatter(1, both, three.gather(1, both) / 2.0)[0].tolist())

# %%
def my_penalty(logits, seen, r):
    """Makes the (B, S) tokens `seen` less likely."""
    score = logits.gather(1, seen)                          # (B, S): one per seen token
    score = torch.where(score > 0, score / r, score * r)
    return logits.scatter(1, seen, score)

def with_bug(logits, seen, r):
    return logits.scatter(1, seen, logits.gather(1, seen) / r)

torch.testing.assert_close(my_penalty(logits, seen, 1.3),
                           apply_repetition_penalty(logits, seen, 1.3))
torch.testing.assert_close(my_penalty(logits, seen, 1.3),
                           theirs.RepetitionPenaltyLogitsProcessor(1.3)(seen, logits))
negative = logits.gather(1, seen) < 0
print(f"{int(negative.sum())} of {seen.shape[1]} seen tokens have a negative logit here")
show_source(apply_repetition_penalty)

# %% [markdown]
# Now give both to the weak model, greedy as before. Then make the bug visible with a trick. Softmax does
# not change if you subtract the same number from all logits: the probabilities stay the same. So a model
# might as well give logits that are all negative. Subtract 20.
#
# **Predict:** which of the four bars is the longest?

# %%
from picolm_lib.course.plots import bars


def loops(change):
    """How much of three greedy texts of the weak model is repetition."""
    shares = []
    for name in ("Tom", "Lily", "The"):
        first = torch.tensor([prompt_ids(weak.config, tokenizer, name)], device=device)
        text = my_loop(weak, first, 60, lambda logits, text: change(logits, text).argmax(-1))
        shares.append(repeated(text[0].tolist()))
    return 100 * sum(shares) / len(shares)

torch.testing.assert_close((logits - 20).softmax(-1), logits.softmax(-1))     # the same
bars({"no penalty": loops(lambda logits, text: logits),
      "penalty 1.3": loops(partial(my_penalty, r=1.3)),
      "with the bug": loops(partial(with_bug, r=1.3)),
      "with the bug, logits - 20": loops(lambda z, text: with_bug(z - 20, text, 1.3))},
     "4-grams that occurred before (%)", "Greedy texts of the weak model")

# %% [markdown]
# *What to see: the penalty all but removes the repetition; the version with the bug looks fine too, until
# the same probabilities come from negative logits: then it rewards what it should penalize.*
#
# That is how the bug hides. The likeliest tokens often have positive logits, and there both versions
# agree. It does harm in a model whose logits are lower.
#
# **What goes wrong with the penalty?** A story *must* repeat things: the hero's name, the color of the
# ball, the word "the". The penalty cannot distinguish a loop from a memory. You will measure what that
# costs in "Does it matter?".

# %% [markdown]
# ## 5. The loop: seed, cache, batch, end
#
# The library's `generate` does what `my_loop` does, and four things more:
#
# - a **seed** makes the draws repeatable;
# - a **KV cache** keeps what the model has read, so each step reads only one token;
# - a **batch** generates B stories at once;
# - the story **ends** at the end-of-text token, or when the context is full.
#
# It applies all filters in a fixed order: repetition penalty, temperature, top-k, top-p, min-p.
#
# It is a *generator*: it yields each token as soon as it is drawn. Its return value says why it ended.
# Collect both:

# %%
def collect(tokens):
    """All tokens of a generator, (B, N), and why it ended."""
    kept = []
    while True:
        try:
            kept.append(next(tokens))
        except StopIteration as end:
            return torch.stack(kept, dim=1), end.value

config = SampleConfig(temperature=0.9, min_p=0.05, repetition_penalty=1.1)
dice = torch.Generator().manual_seed(SEED)

def pick(logits, text):
    logits = my_min_p(my_temperature(my_penalty(logits, text, 1.1), 0.9), 0.05)
    return sample_next_token(logits, config, dice)

# %%
library, reason = collect(generate(model, ids, config, tokenizer.eos_token_id, SEED))
mine = my_loop(model, ids, library.shape[1], pick)[:, ids.shape[1]:]
torch.testing.assert_close(mine, library)
print(f"{library.shape[1]} tokens, the same in both; it ended because of: {reason}")
print(tokenizer.decode(library[0])[-60:])
show_source(generate)

# %% [markdown]
# Your filters, your loop, the library's seed: the same story, token by token, without any cache. The
# library's loop calls the same model with the `KVCache` of notebook 02, so it reads each token only once.
#
# The last token is the end of text. The model has learned to write it, because in training it came after
# every story. Without such a token in the data, no story could end.
#
# ### A batch
#
# Four stories at once. They do not end together, so finished ones wait: their rows are filled with the
# end of text.

# %%
many, reason = collect(generate(model, ids.expand(4, -1), SampleConfig(), tokenizer.eos_token_id,
                                SEED))
stop = tokenizer.eos_token_id
for row in many.tolist():
    length = row.index(stop) if stop in row else len(row)
    assert all(token == stop for token in row[length:])     # nothing comes after the end
    print(f"{length:>4} tokens: ...{tokenizer.decode(row[:length])[-56:]!r}")

# %% [markdown]
# ### How fast is it?
#
# A cache makes each step cheaper; a batch makes more of each step. Measure whole stories in tokens per
# second, once with `generate` and once with `my_loop`, which has no cache.
#
# **Predict:** does the speed with the cache fall with the length? And how many times more tokens per
# second do 32 stories give than one?

# %%
from picolm_lib.course.sampling.curves import draw_speed
from picolm_lib.course.sampling.speed import tokens_per_second

LENGTHS = [n for n in ((10, 20, 40) if QUICK else (25, 50, 100, 150, 200)) if n <= room]
BATCHES = (1, 2, 4) if QUICK else (1, 2, 4, 8, 16, 32)

def write(count, batch=1):
    return list(generate(model, ids.expand(batch, -1), SampleConfig(max_new_tokens=count)))

def write_without_cache(count):
    return my_loop(model, ids, count, greedy)

rates = {"KV cache": tokens_per_second(write, LENGTHS, "with cache"),
         "reading all again": tokens_per_second(write_without_cache, LENGTHS, "without")}
batched = [tokens_per_second(partial(write, batch=b), [LENGTHS[1]], f"{b} at once", each=b)[0]
           for b in BATCHES]
draw_speed(LENGTHS, rates, BATCHES, batched)

# %% [markdown]
# *What to see: with the cache the speed hardly falls with the length, without it the speed falls
# steadily; and a batch gives many times more tokens per second.*
#
# With one story, a small model mostly waits: launching an operation takes longer than the arithmetic. A
# batch uses that time. That is why servers collect the requests of many people.
#
# ### Where the context ends
#
# The bundled model has a context of 256 tokens. What happens at the 257th? Some programs drop the
# beginning and continue; then the hero's name may be lost. Others read further, although the model was
# never trained on such positions. This library **stops, and says so**.

# %%
full = ids.repeat(1, run.model.max_seq_len)[:, :run.model.max_seq_len - 8]    # nearly full
_, reason = collect(generate(model, full, SampleConfig(), seed=SEED))
print("it ended because of:", reason)

long = stories(9, seed=998)
long = [i for s in long for i in prompt_ids(run.model, tokenizer, s.text[:400])]
begin = torch.tensor([long[:run.model.max_seq_len - 8]], device=device)
on = my_loop(model, begin, 20 if QUICK else 150, greedy)[0, begin.shape[1]:]
print("my_loop reads on: ..." + tokenizer.decode(on)[-300:].replace("\n", " "))

# %% [markdown]
# Your own loop has no limit. Read what it wrote beyond the end of the context, and judge whether you
# would want to show that to anybody.

# %% [markdown]
# ## 6. The hallucination meter and the temperature
#
# A story has facts: whose ball, which color, he or she. The Storybook knows them, so it can ask about
# them. Each question is the beginning of a story and a few continuations; one is true. The
# **hallucination meter** is the share of questions in which the model gives the true one the highest
# probability.
#
# Which one is *likeliest* does not depend on temperature. So what does temperature change? The
# probability that a *draw* is true. Define it in two ways:
#
# - **among the candidates**: softmax of their log-probabilities, divided by T. At T = 0 this is the
#   meter;
# - **among all tokens**: the probability that sampling writes the true words, where any token is
#   possible.

# %%
from picolm_lib.course.sampling.meter import ask
from picolm_lib.evaluate import hallucination_meter
from picolm_lib.storybook.story import questions

ASKED = questions(36 if QUICK else 240, seed=10_000_019)    # stories that no model has seen
example = next(q for q in ASKED if q.kind == "color")
asked = ask(model, tokenizer, ASKED, choose_precision())
print("..." + example.prompt[-150:].replace("\n", " "))
scores = next(a.candidates for a in asked if a.kind == "color")
print("candidates:", *(f"{word!r} {score:.2f}" for word, score in
                         zip((example.answer, *example.others), scores.tolist(), strict=True)))
for T in (0.5, 1.0, 2.0, 100.0):
    print(f"T = {T:<5} the truth has probability {(scores / T).softmax(0)[0]:.1%}")

# %% [markdown]
# The log-probabilities are at most 0; the closer to 0, the likelier. At T = 100 only guessing is left:
# one of four candidates, 25%.
#
# **Predict:** at T = 2, which of the two probabilities is higher? And which kind of fact is lost first?

# %%
from picolm_lib.course.sampling.curves import draw_meter
from picolm_lib.course.sampling.meter import among_all_tokens, among_candidates, chance_level

TEMPERATURES = [0, 0.25, 0.5, 0.75, 1, 1.25, 1.5, 2, 2.5, 3]
among = [among_candidates(asked, T) for T in TEMPERATURES]
anything = [among_all_tokens(asked, SampleConfig(temperature=T, min_p=0)) for T in TEMPERATURES]
meter = hallucination_meter(model, tokenizer, ASKED, choose_precision())
for kind, reading in meter.items():
    assert abs(among[0][kind] - reading.kept) < 1e-9        # T = 0 is the meter
    assert abs(chance_level(asked)[kind] - reading.chance) < 1e-9
draw_meter(TEMPERATURES, among, anything, chance_level(asked))

# %% [markdown]
# *What to see: among the candidates (blue) facts fade slowly; among all tokens (orange) they fall faster
# above T = 1; places are guessed at every temperature.*
#
# So a high temperature does two kinds of harm. It mixes up facts (blue falls). And it lets in words that
# are not an answer at all (the gap between blue and orange grows). You can reduce the first only by
# lowering T. The second comes from the tail, and a cut removes it.
#
# There is already a gap at T = 0. There, orange misses the truth because the story continues in another
# way, which may be just as good: "Lily" in place of "she". So orange is a strict judge, and only its
# *fall* is due to the temperature. Where it is below the line of guessing, that is not a contradiction:
# guessing chooses only among the candidates.
#
# A moderate temperature need not do harm: look at the colors below T = 1. But no setting teaches the
# model what it does not know. The places show that: at any temperature, it guesses.
#
# ### The other side of the trade-off
#
# If temperature only did harm, everybody would use greedy decoding. What do you get in return? Generate
# many stories at several temperatures, without any cut, and count.

# %%
from picolm_lib.course.sampling.curves import draw_trade
from picolm_lib.course.sampling.stories import measure

SEEDS, COUNT = ((0,), 4) if QUICK else ((0, 1, 2), 12)
hot = {T: SampleConfig(temperature=T, min_p=0) for T in (0, 0.5, 1, 1.5, 2)}
counted = measure(model, tokenizer, START, hot, SEEDS, COUNT)
draw_trade(list(hot), {name: [counted[T][name] for T in hot] for name in counted[0]})

# %% [markdown]
# *What to see: from greedy to T = 0.5 the stories become different from each other (distinct 4-grams); at
# higher temperatures there is little left to gain, but more and more words are next to a word that they
# should never be next to; the bands are the range over the seeds.*
#
# `distinct` gives the share of distinct 4-grams among all 4-grams of all stories. Greedy decoding writes
# one story again and again. *Unknown word pairs* are neighboring words that never occur in 3,000 stories
# of the Storybook: a rough measure of nonsense. The Storybook's own stories are not quite free of them:

# %%
from picolm_lib.course.sampling.stories import known_pairs, unknown

real = [story.text for story in stories(50, seed=997)]
print(f"unknown word pairs in stories that the Storybook wrote: {unknown(real, known_pairs()):.1%}")

# %% [markdown]
# ## Your turn
#
# Write your answer where the stub raises `NotImplementedError`. The check tells you what went wrong.

# %% [markdown]
# ### Exercise 1: min-p (easy, 5 minutes)
#
# Keep the tokens that are at least p times as likely as the likeliest token of the same row.

# %%
from picolm_lib.course.sampling import checks


def min_p(logits, p):
    """(B, V) logits, minus infinity where a token is less than p times as likely as the best."""
    raise NotImplementedError  # your code


min_p = checks.min_p(min_p)

# %% [markdown]
# <details><summary>Hint 1</summary>
#
# `logits.softmax(-1)` gives the probabilities. Each row has its own maximum: `amax(-1, keepdim=True)`.
#
# </details>
# <details><summary>Hint 2</summary>
#
# `logits.masked_fill(mask, float("-inf"))` rejects where the mask is True, and makes a new tensor.
#
# </details>
# <details><summary>Solution</summary>
#
# ```python
# def min_p(logits, p):
#     probs = logits.softmax(-1)
#     rejected = probs < p * probs.amax(-1, keepdim=True)
#     return logits.masked_fill(rejected, float("-inf"))
# ```
#
# </details>

# %% [markdown]
# ### Exercise 2: top-p (hard, 15 minutes)
#
# Write it again, without looking. Pay attention to three things: the token that crosses p, sorting, and
# restoring the old order.

# %%
def top_p(logits, p):
    """(B, V) logits: minus infinity except for the smallest set of likeliest tokens reaching p."""
    raise NotImplementedError  # your code


top_p = checks.top_p(top_p)

# %% [markdown]
# <details><summary>Hint 1</summary>
#
# `logits.sort(dim=-1, descending=True)` gives the values and the order. A token stays if the sum of the
# probabilities *before* it is below p.
#
# </details>
# <details><summary>Hint 2</summary>
#
# Your mask belongs to the sorted row. `mask.scatter(1, order, mask)` moves each entry to its token's
# place.
#
# </details>
# <details><summary>Solution</summary>
#
# ```python
# def top_p(logits, p):
#     ordered, order = logits.sort(dim=-1, descending=True)
#     probs = ordered.softmax(-1)
#     rejected = probs.cumsum(-1) - probs >= p
#     return logits.masked_fill(rejected.scatter(1, order, rejected), float("-inf"))
# ```
#
# </details>

# %% [markdown]
# ### Exercise 3: repetition penalty (medium, 10 minutes)
#
# Pay attention to the sign, to tokens that were seen twice, and to the caller, who still needs the old
# logits.

# %%
def repetition_penalty(logits, seen, penalty):
    """(B, V) logits in which each of the (B, S) tokens `seen` is made less likely once."""
    raise NotImplementedError  # your code


repetition_penalty = checks.repetition_penalty(repetition_penalty)

# %% [markdown]
# <details><summary>Hint 1</summary>
#
# `logits.gather(1, seen)` takes the logits of the seen tokens, (B, S). `torch.where` can treat the two
# signs differently.
#
# </details>
# <details><summary>Hint 2</summary>
#
# `logits.scatter(1, seen, score)` writes them back into a copy. A token that was seen twice is written
# twice with the same value, which is fine. `scatter_` would change the input.
#
# </details>
# <details><summary>Solution</summary>
#
# ```python
# def repetition_penalty(logits, seen, penalty):
#     score = logits.gather(1, seen)
#     score = torch.where(score > 0, score / penalty, score * penalty)
#     return logits.scatter(1, seen, score)
# ```
#
# </details>

# %% [markdown]
# ## Playground
#
# The same sliders, with a prompt of your own. Try one where a fact decides what comes next, and see which
# setting breaks it first.

# %%
MY_PROMPT = ("Once upon a time, there was a boy named Toby. He had a friend named Fred. Fred had a "
             "green hat that he loved very much. Toby wanted one, too. One day, they met in the "
             "meadow. Toby was wearing a red sweater. Toby asked, \"Can I borrow your")

sampling_playground(model, tokenizer, MY_PROMPT)

# %% [markdown]
# *What to see: whether the right color has the longest bar, and what the repetition penalty does to a word
# that the story needs again.*

# %% [markdown]
# ## Does it matter?
#
# Eight settings, the same model, the same beginning. For each, there are 36 stories (three seeds of 12),
# and the probability of writing the true words in 180 questions (three sets of 60), computed exactly. The
# line spans the three seeds; only differences larger than the lines mean something. (With the preset
# `smoke` there are so few stories that the numbers mean little.)
#
# **Predict:** which setting gives the most varied stories without losing facts?

# %%
off = {"min_p": 0.0}
mild = {"greedy": SampleConfig(temperature=0),
        "T 0.8, min-p 0.05 (default)": SampleConfig(),
        "T 1": SampleConfig(temperature=1, **off),
        "T 1, top-k 20": SampleConfig(temperature=1, top_k=20, **off)}
results = measure(model, tokenizer, START, mild, SEEDS, COUNT)

# %%
other = {"T 1, top-p 0.9": SampleConfig(temperature=1, top_p=0.9, **off),
         "T 1.5": SampleConfig(temperature=1.5, **off),
         "T 1.5, min-p 0.1": SampleConfig(temperature=1.5, min_p=0.1),
         "default, penalty 1.3": SampleConfig(repetition_penalty=1.3)}
results |= measure(model, tokenizer, START, other, SEEDS, COUNT)

# %%
from picolm_lib.course.sampling.curves import draw_settings

sets = [ask(model, tokenizer, questions(18 if QUICK else 60, seed), choose_precision())
        for seed in range(20_000_000, 20_000_000 + len(SEEDS))]
for name, config in (mild | other).items():
    results[name]["facts\nkept"] = [among_all_tokens(asked, config)["all"] for asked in sets]
draw_settings(results)

# %% [markdown]
# *What to see: which rows differ by more than their lines, column by column; compare the top row, greedy,
# with the default, and the two rows with T 1.5 with each other.*
#
# When this notebook was built, the honest answer was: it matters less than the many sliders suggest, with
# two clear exceptions.
#
# - Greedy writes one story, over and over. Even so, it keeps no more facts than the default.
# - The default, T 1, top-k 20 and top-p 0.9 hardly differ. Their lines overlap nearly everywhere.
# - **T 1.5 without a cut** is worse by more than the noise: there are more than twice as many unknown word
#   pairs, and a few points fewer facts are kept. With one seed, many stories did not end. With min-p 0.1,
#   the same temperature is as good as the default.
# - **The repetition penalty** costs facts, more than anything else: over ten points. And there is nothing
#   to fix here: with every setting, less than two percent of the 4-grams are repetitions. It helped
#   the weak model, which loops. It harms the trained one, which has to remember.
#
# That is one small model on simple stories. A model that is less sure has a heavier tail, and there the
# cuts matter sooner.

# %% [markdown]
# ## Take your model with you
#
# A run's folder contains the complete model. This is the one that you have used:

# %%
from pathlib import Path

from picolm_lib.train.checkpoint import BUNDLED_RUN

folder = BUNDLED_RUN if RUN == "bundled" else Path(RUN)
for path in sorted(p for p in folder.rglob("*") if p.is_file()):
    print(f"{path.stat().st_size:>10,} bytes  {path.relative_to(folder)}")

# %% [markdown]
# The weights are *safetensors*: numbers and names, and nothing that could be executed. Any program that
# supports the format can read them. The tokenizer is in the format of the `transformers` library, so its
# `AutoTokenizer` loads it.

# %%
from safetensors import safe_open
from transformers import AutoTokenizer

with safe_open(folder / "model.safetensors", framework="pt") as file:
    names = list(file.keys())
    for name in names[:6]:
        print(f"{name:<28}{file.get_slice(name).get_shape()}")
print(f"... {len(names)} tensors in all")
loaded = AutoTokenizer.from_pretrained(folder / "tokenizer")
assert loaded(PROMPT)["input_ids"] == tokenizer(PROMPT)["input_ids"]
print("the tokenizer loads by itself:", loaded.tokenize("She loved to run."))

# %% [markdown]
# The model's *code* is this package. `transformers` does not include PicoLM, so the weights alone do not
# run there: the code has to come along. After a few lines, the tools of that library work with your
# model:

# %%
from tempfile import mkdtemp

from transformers import pipeline

from picolm_lib.export import export

exported = export(RUN, Path(mkdtemp()) / "my-model")
renderer = pipeline("text-generation", str(exported), device=device)
print(renderer("One day,")[0]["generated_text"])

# %% [markdown]
# Inside it is the same model: for the same tokens, `transformers` gets the same logits. And with greedy
# decoding, its own loop, with its own cache, writes the same text as the library's:

# %%
from picolm_lib.sampling import prompt_ids, stream_text

tokens = torch.tensor([prompt_ids(model.config, tokenizer, START)], device=device)
torch.testing.assert_close(renderer.model(tokens).logits, model(tokens), atol=1e-4, rtol=1e-4)
greedy = SampleConfig(temperature=0, min_p=0, max_new_tokens=16)
print("ours:  ", "".join(stream_text(model, tokenizer, START, greedy)))
length = tokens.shape[1] + 16
print("theirs:", renderer(START, do_sample=False, max_length=length)[0]["generated_text"])

# %%
for path in sorted(exported.iterdir()):
    print(f"{path.stat().st_size:>10,} bytes  {path.name}")

# %% [markdown]
# *What to see: a few short Python files with the complete model. People without `picolm_lib` can read
# them, and then load the folder with `trust_remote_code=True`.*
#
# `README.md` is the model card, with the numbers of your own run. Read it, add what only you know (the
# license of your texts above all), and publish it if you like:
#
# ```
# hf auth login
# hf upload your-name/my-model my-model
# ```
#
# To use your own model here, enter its folder in `RUN` at the top, and run all cells again. To train one
# from the command line:
#
# ```
# python run_train.py --data my_texts/ --tokenizer bpe:2048 --run runs/mine --max-minutes 30
# python inference.py "Once upon a time" --run runs/mine --temperature 1.2 --min-p 0.1
# picolm export --run runs/mine --out my-model
# ```

# %% [markdown]
# ## Recap
#
# - A model gives probabilities; sampling turns them into text. Greedy decoding has no randomness, and can
#   loop.
# - Temperature divides the logits. A high one mixes up facts and makes the tail likelier.
# - top-k, top-p and min-p cut the tail; the last two adapt to how sure the model is.
# - The repetition penalty divides positive logits and multiplies negative ones, and it also penalizes
#   what a story has to repeat.
# - The loop stops at the end of text or at the end of the context; a cache and a batch make it fast.

# %% [markdown]
# ## Three questions
#
# **1.** You set top-p to 0.9, and the likeliest token has probability 0.95. How many tokens remain?
#
# <details><summary>Answer</summary>
#
# One. It crosses p at once, and the token that crosses p stays. Otherwise nothing would be left to choose
# from.
#
# </details>
#
# **2.** You multiply all logits by 2, and use T = 2. What changes?
#
# <details><summary>Answer</summary>
#
# Nothing: the division undoes it. So a temperature only has a meaning for a particular model. Another
# model, with surer predictions, needs a different one.
#
# </details>
#
# **3.** Does min-p keep the same tokens whether temperature comes before it or after it?
#
# <details><summary>Answer</summary>
#
# No. At T = 2 all probabilities move closer together, so more tokens are within a factor p of the
# likeliest. Only top-k does not depend on it: the order of the tokens stays the same.
#
# </details>

# %% [markdown]
# ## Experiment
#
# The library applies min-p *after* the temperature. Write a `pick` for `my_loop` that applies it
# *before*. At T = 2, does that keep more facts, or more distinct stories? Use `repeated`, `distinct` and
# `unknown` from `picolm_lib.course.sampling.stories`, and three seeds.

# %% [markdown]
# ## The end, and what comes after it
#
# You have come from bytes to stories. Text became tokens (01). Tokens learned to look back at each other
# (02). Blocks learned to work on what they found, and started out so that all of them could learn (03).
# An optimizer moved each matrix equally in all directions (04). A budget of minutes became a trained
# model (05). And its probabilities became words, which you can now measure and control (06).
#
# You have built every part of it yourself. So continue with something of your own:
#
# - Train on **your** texts: letters, recipes, songs, in any language. The commands above are enough.
# - Read the package. Each module takes about ten minutes to read: start with `picolm_lib/sampling.py`.
# - Change one thing, and measure it with three seeds. Most ideas do not help. Finding one that does is
#   the best part.

# %% [markdown]
# ## References
#
# - Ari Holtzman et al., "The Curious Case of Neural Text Degeneration", 2020 (top-p, and why greedy
#   repeats itself).
# - Angela Fan, Mike Lewis and Yann Dauphin, "Hierarchical Neural Story Generation", 2018 (top-k).
# - Nguyen Nhat Minh et al., "Turning Up the Heat: Min-p Sampling for Creative and Coherent LLM
#   Outputs", 2024.
# - Nitish Shirish Keskar et al., "CTRL: A Conditional Transformer Language Model for Controllable
#   Generation", 2019 (the repetition penalty).
# - Jiwei Li et al., "A Diversity-Promoting Objective Function for Neural Conversation Models", 2016
#   (distinct-n).
#
# {neighbors}
