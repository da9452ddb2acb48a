# %% [markdown]
# # 02. RoPE and GQA
#
# {badge}
#
# After this notebook you can
#
# - write causal attention from scratch, and explain every line;
# - explain how RoPE encodes positions as angles, and why only distances count;
# - work out what a KV cache costs, and how grouped heads, QK-norm and the output gate help.
#
# **Before you start:** Python, and a little PyTorch (tensors, `nn.Module`). You do not need notebook 01.
#
# **Time:** about 1 minute to run on two CPU cores, 1 minute on a T4 (an estimate), an hour to
# read.
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
PROMPT = "One day, Lily found a red ball. Lily said the ball was hers"  # @param {type:"string"}
SEED = 0  # @param {type:"integer"}

# %% [markdown]
# ## First, look inside
#
# A small trained model comes with the course: four blocks of four heads. Below, it reads one sentence.
# Each square is an *attention map*. Each row is a token that looks back. The darker a cell, the more
# attention it pays to the token in that column. Move the slider through the blocks.

# %%
import torch

from picolm_lib.course.attention.playgrounds import attention_layers
from picolm_lib.course.attention.record import attention_maps
from picolm_lib.sampling import prompt_ids
from picolm_lib.train.checkpoint import load_run

model, tokenizer, run = load_run("bundled")
ids = torch.tensor(prompt_ids(run.model, tokenizer, PROMPT)[:24])  # more is hard to read
pieces = ["<end>"] + [tokenizer.decode([i]) for i in ids[1:]]

maps = attention_maps(model, ids)
attention_layers(maps, pieces)

# %% [markdown]
# *What to see: the heads differ, and each one has habits; rows are dark near the diagonal where a head
# looks at neighboring tokens, and in the first column where it looks at the start of the text.*
#
# Which head has which habit? The numbers answer that. For each of three habits, this cell finds the head
# that follows it most. The third habit is a small form of memory: after "Lily found … Lily", the head
# looks at "found".

# %%
from picolm_lib.course.attention.record import habits

for habit, share in habits(maps, ids).items():              # share: (blocks, heads)
    block, head = divmod(share.argmax().item(), share.shape[1])
    print(f"{habit:<38} block {block}, head {head}: {share.max():.0%} of its attention")

# %% [markdown]
# By the end of this notebook you can build everything behind these pictures.

# %% [markdown]
# ## 1. Attention from scratch
#
# *Attention* lets a token collect information from other tokens. Each token makes three vectors. Its
# **query** q says what it is looking for, its **key** k what it offers, and its **value** v what it
# passes on.
#
# The dot product of a query and a key is a **score**: large if they point in the same direction. Softmax
# turns a row of scores into weights that add up to 1. The result is the weighted sum of the values.
#
# A language model predicts the next token, so it must not see it. The **causal mask** sets the scores of
# later tokens to minus infinity. Their weights become 0.
#
# Four letters for shapes: B sequences, T tokens, H heads, E features per head (`head_dim`).

# %% tags=["nbval-check-output"]
# Numbers that you can check by hand.
q = torch.tensor([[1.0, 0.0], [0.0, 1.0], [1.0, 1.0]])  # (T, E): three tokens, two features
k = torch.tensor([[1.0, 0.0], [0.0, 2.0], [1.0, 1.0]])

scores = q @ k.T  # (T, T)
print(scores)

future = torch.ones(3, 3, dtype=torch.bool).triu(1)
print(scores.masked_fill(future, float("-inf")))

# %% [markdown]
# **Predict:** the first token sees only itself. Which weight does it give itself? And may the last row
# look everywhere? Then run the cell.
#
# Scores are divided by the square root of E first: a sum of more products is larger, and softmax of large
# scores picks one token and ignores the rest. Section 4 shows how.

# %%
from picolm_lib.course.attention.pictures import draw_wide_map

weights = (scores / 2**0.5).masked_fill(future, float("-inf")).softmax(-1)
assert weights[0, 0] == 1 and (weights[future] == 0).all()
draw_wide_map(weights, ["first", "second", "third"], "Attention weights")

# %% [markdown]
# *What to see: every row adds up to 1, everything above the diagonal is 0, and the third token looks
# equally at the second and at itself, because both scores are 2.*
#
# Now write it for whole batches. That is all there is to it.

# %%
def my_attention(q, k, v):
    """softmax(q k^T / sqrt(E)) v for (B, H, T, E) tensors, causal."""
    T, E = q.shape[-2:]
    scores = q @ k.mT / E**0.5                              # (B, H, T, T)
    future = torch.ones(T, T, dtype=torch.bool, device=q.device).triu(1)
    weights = scores.masked_fill(future, float("-inf")).softmax(-1)
    return weights @ v                                      # (B, H, T, E)

# %%
from picolm_lib.course.start import show_source
from picolm_lib.model.attention import attend

torch.manual_seed(SEED)
q, k, v = torch.randn(3, 2, 4, 10, 8)                       # each (B, H, T, E)
torch.testing.assert_close(my_attention(q, k, v), attend(q, k, v))
show_source(attend)

# %% [markdown]
# The library's `attend` does the same. It calls PyTorch's fused kernel, which never holds all T × T
# scores, or a form from `model/fast.py` with the same result, where one is faster.
#
# **What would go wrong without the mask?** Change only the last token, and look at the outputs of
# the earlier ones.

# %%
changed_k, changed_v = k.clone(), v.clone()
changed_k[:, :, -1], changed_v[:, :, -1] = torch.randn(2, 2, 4, 8)

def without_mask(q, k, v):
    return (q @ k.mT / q.shape[-1] ** 0.5).softmax(-1) @ v

for name, attention in (("with mask", my_attention), ("without", without_mask)):
    moved = attention(q, changed_k, changed_v) - attention(q, k, v)
    print(f"{name:<10} earlier outputs change by up to {moved[:, :, :-1].abs().max():.2f}")

assert torch.equal(my_attention(q, changed_k, changed_v)[:, :, :-1],
                   my_attention(q, k, v)[:, :, :-1])

# %% [markdown]
# Without the mask, earlier tokens know what comes later. In training, every token could read its own
# answer, and the model would learn to copy, not to write.
#
# **There is a gap** in what you built. Shuffle the earlier tokens, each with its key and value.
# **Predict:** does the last token notice? Then run the cell.

# %%
order = torch.tensor([4, 7, 0, 2, 8, 1, 6, 3, 5, 9])        # the last token stays the last
shuffled = my_attention(q, k[:, :, order], v[:, :, order])
moved = (shuffled - my_attention(q, k, v))[:, :, -1].abs().max()
print(f"the last token's output changes by {moved:.4f}")
assert moved < 1e-4

# %% [markdown]
# It does not. Attention alone does not know where a token is: "Ben saw Lily" and "Lily saw Ben" would be
# the same.

# %% [markdown]
# ## 2. RoPE: a position is an angle
#
# **Rotary position embedding** (RoPE) closes that gap with clocks. It splits the E features of a query or
# key into E/2 pairs. Each pair is the hand of a clock: two coordinates, so a direction. Pairs are
# numbered from i = 0. At position p, the hand of pair i is rotated by the angle
#
# $$p \cdot \theta^{-2i/E}$$
#
# with a constant θ (theta), here 10,000. Pair 0 turns by one radian per token. Later pairs turn more and
# more slowly, like a minute hand and an hour hand.
#
# The dot product of two hands depends on the angle *between* them. Rotate both by the same amount, and it
# does not change.

# %% tags=["cover"]
from picolm_lib.course.attention.playgrounds import rope_clocks

rope_clocks()

# %% [markdown]
# *What to see: blue hands and orange hands differ in the fast pairs (pair 0 has almost finished a full
# turn) and coincide in the slow ones, and the dot on the curve is the score that all pairs together give
# at this distance.*
#
# Here all hands pointed to the right before they were rotated. Four things to try:
#
# - Move "move both by". The hands turn, but the score stays.
# - Set both positions to the same number. The hands coincide, and the score is at its largest.
# - Raise theta. The slow hands get slower, and the curve stays higher.
# - Raise `head_dim`. There are more pairs (eight are drawn), and the curve gets smoother.
#
# Here are numbers that you can check with a calculator: one pair, so E = 2, and one radian per token.

# %% tags=["nbval-check-output"]
from picolm_lib.model.rope import apply_rope, rope_tables

cos, sin = rope_tables(torch.arange(4), head_dim=2)         # each (T, E/2)
hand = torch.tensor([1.0, 0.0]).view(1, 1, 1, 2).expand(1, 4, 1, 2)  # (B, T, H, E)
for position, (x, y) in enumerate(apply_rope(hand, cos, sin)[0, :, 0].tolist()):
    print(f"position {position}: ({x:.4f}, {y:.4f})")

# %% [markdown]
# Position 1 is (cos 1, sin 1) = (0.5403, 0.8415). The hand keeps its length and only turns.
#
# Now build it yourself. Rotating (a, b) by an angle φ gives (a cos φ − b sin φ, b cos φ + a sin φ). The
# hand of pair i consists of feature i and feature i + E/2, one from each half of the vector.

# %%
def my_rope(x, start=0, theta=10_000.0):
    """Rotates every pair of (B, T, H, E) queries or keys by its angle; positions from `start`."""
    T, E = x.shape[1], x.shape[3]
    speed = theta ** (-torch.arange(0, E, 2) / E)           # (E/2,) radians per token
    angle = torch.arange(start, start + T)[:, None] * speed  # (T, E/2)
    cos, sin = angle.cos()[:, None], angle.sin()[:, None]   # (T, 1, E/2): the same for all heads
    a, b = x.chunk(2, dim=-1)                               # (B, T, H, E/2)
    return torch.cat((a * cos - b * sin, b * cos + a * sin), dim=-1)

x = torch.randn(2, 10, 4, 8)
torch.testing.assert_close(my_rope(x), apply_rope(x, *rope_tables(torch.arange(10), 8)))
show_source(apply_rope)

# %% [markdown]
# **The relative-shift test.** Everything rests on this property, so test it. Take random queries and
# keys. Let the text begin at position 0, at 100, at 5,000. All scores must stay the same.
#
# **Predict:** which of the two printed numbers is large? Then run the cell.

# %%
queries, keys = torch.randn(2, 1, 10, 4, 8)                 # each (B, T, H, E)

def scores_from(start):
    turned_q, turned_k = (my_rope(t, start).transpose(1, 2) for t in (queries, keys))
    return turned_q @ turned_k.mT                           # (B, H, T, T)

hands_moved = my_rope(queries, 5000) - my_rope(queries)
print(f"hands moved by up to  {hands_moved.abs().max():.4f}")
print(f"scores moved by up to {(scores_from(5000) - scores_from(0)).abs().max():.4f}")
torch.testing.assert_close(scores_from(100), scores_from(0), rtol=1e-3, atol=1e-3)
torch.testing.assert_close(scores_from(5000), scores_from(0), rtol=1e-2, atol=1e-2)

# %% [markdown]
# The scores do not move, except for rounding. That rounding is why the library computes angles in
# float32. With 16 bits, different positions become equal:

# %% tags=["nbval-check-output"]
far = torch.tensor([4096, 4097, 4100])
print(far.to(torch.bfloat16))                               # all one position

# %% [markdown]
# ### How far can a clock measure?
#
# A fast hand distinguishes nearby tokens, but after a full turn it points in the same direction again. A
# slow hand never finishes a turn within the text. So the fast pairs measure short distances, and the slow
# ones long distances.

# %%
from picolm_lib.course.attention.rope_clocks import draw_wavelengths

draw_wavelengths(head_dim=32, thetas=(10_000.0, 1_000_000.0), context=256)

# %% [markdown]
# *What to see: each pair turns more slowly than the one before, by a constant factor; a larger theta
# makes the line steeper, so that fewer pairs complete a turn within the context.*
#
# Models for long contexts use a larger theta for this reason. But can a model read beyond the length it
# was trained on? RoPE has an angle for every position, so nothing stops it. Test the bundled model, which
# was trained on 256 tokens. Also try a known trick, *position interpolation*: multiply positions by 1/2,
# so that 512 positions fit into the trained range.
#
# **Predict:** what happens to the loss after token 256? Then run the cell.

# %%
from picolm_lib.course.attention.record import loss_by_position
from picolm_lib.course.attention.rope_clocks import draw_long_contexts
from picolm_lib.data.tokenizer import encode
from picolm_lib.storybook.story import stories

unseen = [s.text for s in stories(80, seed=999)]            # another seed: other stories
stream = [i for text in encode(tokenizer, unseen) for i in [tokenizer.eos_token_id, *text]]
rows = torch.tensor(stream[:8 * 513]).view(8, 513)          # (B, T + 1)
draw_long_contexts({"positions as they are": loss_by_position(model, rows),
                    "positions times 1/2": loss_by_position(model, rows, squeeze=0.5)}, 256)

# %% [markdown]
# *What to see: the loss is low up to the dotted line and perhaps a little beyond, then it climbs to
# several times as much; with squeezed positions it is high from the start.*
#
# RoPE can compute any distance, but the model has not learned these. That is why this project's
# `generate` stops when the context is full. And hands that suddenly turn at half their speed confuse a
# model that has not been trained for it. Chen et al. (2023) report that position interpolation works
# after some more training. You did not try that here.

# %% [markdown]
# ## 3. From MHA to GQA to MQA
#
# A head is a separate attention, with its own q, k and v. *Multi-head attention* (MHA) runs H of them
# side by side.
#
# While a model generates text, it needs the keys and values of all earlier tokens again and again. It
# stores them in the **KV cache**. Its size in bytes is
#
# $$2 \cdot \text{layers} \cdot K \cdot E \cdot \text{tokens} \cdot \text{bytes per number}$$
#
# where K is the number of KV heads. *Grouped-query attention* (GQA) lets neighboring query heads
# share one KV head, so K is smaller than H. With K = 1 it is called *multi-query attention* (MQA).
#
# Check one by hand: 12 layers, 1 KV head of 96 features, 384 tokens, 2 bytes. That is `pico`.

# %% tags=["nbval-check-output"]
from picolm_lib.course.attention.cost import kv_cache_bytes

by_hand = 2 * 12 * 1 * 96 * 384 * 2
print(f"{by_hand:,} bytes with 1 KV head, {4 * by_hand:,} with 4")
assert by_hand == kv_cache_bytes(layers=12, kv_heads=1, head_dim=96, tokens=384)

# %% [markdown]
# For a small model this is nothing. For a larger one that serves many people it is a lot. The calculator
# starts with this project's `planned` model, which has 10 query heads, and with 16 sequences of 4,096
# tokens at once.

# %%
from picolm_lib.course.attention.playgrounds import kv_cache

kv_cache()

# %% [markdown]
# *What to see: the bytes grow in proportion to the KV heads, and with every slider; MQA, at the
# top, needs a tenth of what MHA needs, at the bottom.*
#
# The number of query heads does not matter: H is not in the formula.
#
# How do four query heads work with one KV head? Copy the KV head for each of them, and use plain MHA.
# That is easy to get right. The fast kernels get the same result without the copy.

# %%
torch.manual_seed(SEED)
H, K = 4, 2
four_q = torch.randn(2, H, 10, 8)                           # (B, H, T, E)
two_k, two_v = torch.randn(2, 2, K, 10, 8)                  # each (B, K, T, E)

copied_k = two_k.repeat_interleave(H // K, dim=1)           # heads 0, 0, 1, 1
copied_v = two_v.repeat_interleave(H // K, dim=1)
right = attend(four_q, two_k, two_v)
torch.testing.assert_close(my_attention(four_q, copied_k, copied_v), right)
print(f"{two_k.numel():,} keys to keep instead of {copied_k.numel():,}, and the same result")

# %% [markdown]
# **What would go wrong** with another order? Query heads 0 and 1 share KV head 0. With `repeat` instead
# of `repeat_interleave` the heads would be in the order 0, 1, 0, 1, and heads 1 and 2 would read the
# wrong keys. Nothing crashes, but half of the result is wrong:

# %%
wrong = my_attention(four_q, two_k.repeat(1, H // K, 1, 1), two_v.repeat(1, H // K, 1, 1))
for head in range(H):
    off = (wrong - right)[:, head].abs().max()
    print(f"head {head}: off by up to {off:.2f}")

# %% [markdown]
# ## 4. QK-norm: scores that cannot explode
#
# A score is the product of two vectors that both come from weights. If the weights double, scores grow
# fourfold. Then softmax picks one token and ignores all others.
#
# **QK-norm** divides each query and each key by its root mean square (RMSNorm over E). Then each one has
# length sqrt(E), and no score can be larger than
#
# $$\sqrt{E} \cdot \sqrt{E} / \sqrt{E} = \sqrt{E}$$
#
# as long as the norm's learned gains stay at 1. For E = 32 that is 5.66.
#
# *Entropy* measures, in bits, over how many tokens a head spreads its attention: 6 bits mean 64 tokens, 0
# bits mean one.
#
# **Predict:** multiply the weights by 32. By how much do the scores grow without the norm?

# %%
from picolm_lib.course.attention.pictures import draw_scores
from picolm_lib.course.attention.scores import scores_as_weights_grow

SCALES = [1, 2, 4, 8, 16, 32]
found = scores_as_weights_grow(SCALES)
assert max(found["with QK-norm"][0]) <= 32**0.5
draw_scores(SCALES, found)

# %% [markdown]
# *What to see: without the norm the largest score grows with the square of the weights and the entropy
# falls to 0, so each token looks at a single token; with it, neither curve moves.*
#
# Build it yourself. It is one line, and in PyTorch it is `F.rms_norm`. By hand: the root mean square of
# (3, 4) is sqrt((9 + 16) / 2) = 3.5355, so (3, 4) becomes (0.8485, 1.1314). And so does (30, 40).

# %% tags=["nbval-check-output"]
def my_qk_norm(x, eps=1e-6):
    """Divides (..., E) vectors by their root mean square."""
    return x / (x.pow(2).mean(-1, keepdim=True) + eps).sqrt()

for x, y in my_qk_norm(torch.tensor([[3.0, 4.0], [30.0, 40.0]])).tolist():
    print(f"({x:.4f}, {y:.4f})  length {(x * x + y * y)**0.5:.4f}, which is sqrt(2)")

# %%
norm = model.blocks[0].attn.q_norm
vectors = 50 * torch.randn(2, 10, 4, run.model.head_dim)    # (B, T, H, E)
torch.testing.assert_close(my_qk_norm(vectors) * norm.weight, norm(vectors))
show_source(type(norm))

# %% [markdown]
# **What would go wrong without it?** A head that has settled on one token can hardly change: the gradient
# of softmax vanishes. And in `float16`, large scores overflow.

# %%
for scale in (1, 4, 16, 1024):
    three = (scale * torch.tensor([1.0, 0.5, 0.0])).requires_grad_()  # three scores
    three.softmax(-1)[0].backward()                         # how does the first weight react?
    print(f"scores times {scale:<5} first weight {three.detach().softmax(-1)[0]:.4f}, "
          f"largest gradient {three.grad.abs().max():.6f}")
print("300 times 300 in float16:", (torch.tensor(300.0).half() * 300).item())
assert three.grad.abs().max() == 0

# %% [markdown]
# ## 5. The output gate: what a head keeps back
#
# The weights of softmax add up to 1, so a head must always pass on *something*, even if it has found
# nothing. Many models learn a trick: they look at the first token, whose value they have made harmless.
# This is called an *attention sink*.
#
# PicoLM gives each head an output gate instead. After attention, each feature is multiplied by a **gate**
# between 0 and 1:
#
# $$\text{gate} = \text{sigmoid}(W_h\, q_h)$$
#
# with one small matrix W for each head h, applied to the normalized query *before* RoPE, so that it does
# not depend on the token's position. W starts at zero, so all gates start at 1/2.

# %% tags=["nbval-check-output"]
by_hand = torch.tensor([[2.0, 0.0], [0.0, -2.0]])           # W of a head with two features
for W in (torch.zeros(2, 2), by_hand):
    a, b = (W @ torch.tensor([1.0, 1.0])).sigmoid().tolist()
    print(f"gates {a:.4f} and {b:.4f}")

# %% [markdown]
# The second W lets the first feature through (the sigmoid of 2 is 0.88) and holds the other one back.
# What has the bundled model learned? Here are all of its gates on a story.

# %%
from picolm_lib.course.attention.pictures import draw_gates
from picolm_lib.course.attention.record import gates

story = encode(tokenizer, unseen[:1])[0]
opened = gates(model, torch.tensor(story))                  # (L, T, H, E)
draw_gates(opened)

# %% [markdown]
# *What to see: all gates began at the dotted line, and training has spread them from nearly closed to
# nearly open; a curve that is high on the left belongs to a head that holds much back.*
#
# When does a head close its gate? Take the head that holds back the most, and look at the tokens for
# which it opens least and most:

# %%
block, head = divmod(opened.mean((1, 3)).argmin().item(), opened.shape[2])
print(f"block {block}, head {head}")
mean = opened[block, :, head].mean(-1)                      # (T,)
order_of_gates = mean.argsort()
for name, some in (("most closed", order_of_gates[:6]), ("most open", order_of_gates[-6:].flip(0))):
    print(f"{name:<12}", ", ".join(f"{tokenizer.decode([story[i]])!r} {mean[i]:.2f}" for i in some))

# %% [markdown]
# Numbers are the mean gate over the head's features, for that token: the head contributes much at some
# tokens and little at others.
#
# Build the whole layer yourself now: projection, QK-norm, gate, RoPE, grouped attention, output. It takes
# a dozen lines. D is the width of the model. The trained weights are the library's, so the results must
# agree too.

# %%
def my_layer(x, layer, start=0, gate_after_rope=False):
    """One attention layer for (B, T, D) inputs, with the weights of the library's layer."""
    B, T, _ = x.shape
    H, K, _ = layer.heads
    q, k, v = layer.qkv(x).view(B, T, H + 2 * K, -1).split((H, K, K), dim=2)  # (B, T, H or K, E)
    q = my_qk_norm(q) * layer.q_norm.weight
    k = my_qk_norm(k) * layer.k_norm.weight
    turned = my_rope(q, start, run.model.rope_theta)
    fed = turned if gate_after_rope else q
    gate = torch.stack([(fed[:, :, h] @ layer.gate[h].T).sigmoid() for h in range(H)], dim=2)
    q, k = turned, my_rope(k, start, run.model.rope_theta)
    q, k, v = (t.transpose(1, 2) for t in (q, k, v))        # (B, H or K, T, E)
    k, v = (t.repeat_interleave(H // K, dim=1) for t in (k, v))
    y = my_attention(q, k, v).transpose(1, 2) * gate        # (B, T, H, E)
    return layer.out(y.reshape(B, T, -1))

states = torch.randn(2, 20, run.model.d_model)              # (B, T, D)
tables = rope_tables(torch.arange(20), run.model.head_dim, run.model.rope_theta)
with torch.no_grad():
    for layer in (block.attn for block in model.blocks):
        torch.testing.assert_close(my_layer(states, layer), layer(states, *tables),
                                   rtol=1e-3, atol=1e-3)
show_source(type(layer).forward)

# %% [markdown]
# All layers of the trained model agree with yours.
#
# **What would go wrong** if the gate read the query after RoPE? Let the text begin at position 100
# instead of 0. All distances stay the same, so the layer's output should too.

# %%
with torch.no_grad():
    for name, after in (("before", False), ("after", True)):
        moved = my_layer(states, layer, 100, after) - my_layer(states, layer, 0, after)
        print(f"gate fed {name:<6} RoPE: the output moves by up to {moved.abs().max():.4f}")

# %% [markdown]
# ## 6. The KV cache: the same tokens, less work
#
# To write token 101, a model needs the keys and values of tokens 1 to 100. They have not changed since it
# wrote token 100: the causal mask keeps later tokens from touching earlier ones. So it reads only the new
# token and takes the rest from the cache.
#
# Build it, as tensors that grow. The loop feeds one token at a time. Its result must equal that of
# reading everything at once.

# %%
class MyCache:
    """Keys and values of each layer, extended by concatenation."""

    def __init__(self):
        self.kept = {}

    def update(self, key, value, layer_idx):                # each (B, K, new tokens, E)
        if layer_idx in self.kept:
            old_key, old_value = self.kept[layer_idx]
            key, value = torch.cat((old_key, key), 2), torch.cat((old_value, value), 2)
        self.kept[layer_idx] = key, value
        return key, value

    def get_seq_length(self):
        return self.kept[0][0].shape[2] if self.kept else 0

# %%
text = torch.tensor([story[:40]])                           # (B, T)
cache = MyCache()
with torch.no_grad():
    one_by_one = torch.cat([model(text[:, i:i + 1], cache) for i in range(40)], dim=1)
    torch.testing.assert_close(one_by_one, model(text), rtol=1e-3, atol=1e-3)
    assert cache.get_seq_length() == text.shape[1]
print(f"the same logits, and the cache contains {cache.get_seq_length()} tokens")

from picolm_lib.model.attention import KVCache

show_source(KVCache)

# %% [markdown]
# The library's cache allocates its memory once. Yours copies everything for each token.
#
# **What would go wrong without a cache?** Nothing but the cost. Count the tokens that the model reads
# to write 128 new ones after a prompt of 32:

# %% tags=["nbval-check-output"]
again = sum(range(32, 32 + 128))                            # everything, for every new token
once = 32 + 127                                             # the prompt, then one by one
print(f"{again:,} tokens without a cache, {once} with it: {again / once:.0f} times fewer")

# %% [markdown]
# **Predict:** does the cache also save as many FLOPs (a *FLOP* is one addition or multiplication)?
# And as much time? Then run the cell.

# %%
from picolm_lib.course.attention.cost import write_tokens
from picolm_lib.course.attention.pictures import draw_writing

start = torch.tensor([story[:32]])
with_cache = write_tokens(model, start, 128, cached=True)
without = write_tokens(model, start, 128, cached=False)
fewer = sum(without.flops) / sum(with_cache.flops)
faster = sum(without.seconds) / sum(with_cache.seconds)
print(f"{fewer:.0f} times fewer FLOPs, {faster:.1f} times faster")
draw_writing(with_cache, without)

# %% [markdown]
# *What to see: on the left, the first new token costs the same both ways, since the prompt must be read;
# after that, the cost stays low with the cache and climbs without it. On the right, the times follow the
# same trend, but they are noisy and closer together.*
#
# The FLOPs fall about as much as the count of tokens, the time by much less. A model this small spends
# more time on launching each operation than on arithmetic. You can test that: with a longer text, the
# arithmetic without a cache grows, and the times move apart.

# %% [markdown]
# ## Your turn
#
# Write your answer where the stub raises `NotImplementedError`. The check tells you what went wrong.

# %% [markdown]
# ### Exercise 1: rotate (medium, 10 minutes)
#
# Write RoPE again, now with given tables of cos and sin. Watch the shapes: x is (B, T, H, E), and the
# tables are (T, E/2).

# %%
from picolm_lib.course.attention import checks


def rotate(x, cos, sin):
    """Rotates every pair (feature i, feature i + E/2) of x by its position's angle.

    x: (B, T, H, E). cos, sin: (T, E/2), float32. Returns (B, T, H, E) of x's dtype.
    """
    raise NotImplementedError  # your code


rotate = checks.rotate(rotate)

# %% [markdown]
# <details><summary>Hint 1</summary>
#
# `x.chunk(2, dim=-1)` gives the two halves, each (B, T, H, E/2). The tables need one more axis to line
# up with that.
#
# </details>
# <details><summary>Hint 2</summary>
#
# `cos[:, None]` is (T, 1, E/2): one angle for all heads of a token. And `.to(x.dtype)` keeps 16-bit
# inputs in 16 bits.
#
# </details>
# <details><summary>Solution</summary>
#
# ```python
# def rotate(x, cos, sin):
#     cos, sin = cos[:, None].to(x.dtype), sin[:, None].to(x.dtype)  # (T, 1, E/2)
#     a, b = x.chunk(2, dim=-1)
#     return torch.cat((a * cos - b * sin, b * cos + a * sin), dim=-1)
# ```
#
# </details>

# %% [markdown]
# ### Exercise 2: share the KV heads (easy, 5 minutes)
#
# Copy each KV head so that there is one for each query head. Neighboring query heads share a KV head.

# %%
def expand_kv(kv, n_heads):
    """Copies KV heads: (B, K, T, E) -> (B, n_heads, T, E)."""
    raise NotImplementedError  # your code


expand_kv = checks.expand_kv(expand_kv)

# %% [markdown]
# <details><summary>Hint 1</summary>
#
# How many query heads share one KV head? `n_heads // kv.shape[1]`.
#
# </details>
# <details><summary>Hint 2</summary>
#
# With 2 KV heads and 4 query heads the order must be 0, 0, 1, 1. PyTorch has two functions that repeat;
# one of them gives this order.
#
# </details>
# <details><summary>Solution</summary>
#
# ```python
# def expand_kv(kv, n_heads):
#     return kv.repeat_interleave(n_heads // kv.shape[1], dim=1)
# ```
#
# </details>

# %% [markdown]
# ### Exercise 3: a mask for a cache (hard, 10 minutes)
#
# A cache contains 3 tokens, and 2 new ones arrive at once. So there are 2 queries and 5 keys. Which query
# may see which key? Write the mask for any such pair of numbers.

# %%
def causal_mask(length, total):
    """(length, total) bool: True where a query may see a key.

    The queries are the last `length` of the `total` positions.
    """
    raise NotImplementedError  # your code


causal_mask = checks.causal_mask(causal_mask)

# %% [markdown]
# <details><summary>Hint 1</summary>
#
# Draw it for 2 and 5. Query 0 is at position 3, so it sees keys 0 to 3. Query 1 sees all keys.
#
# </details>
# <details><summary>Hint 2</summary>
#
# `torch.ones(length, total, dtype=torch.bool).tril(d)` keeps what is on or below diagonal d. Which d is
# right for 2 and 5?
#
# </details>
# <details><summary>Solution</summary>
#
# ```python
# def causal_mask(length, total):
#     return torch.ones(length, total, dtype=torch.bool).tril(total - length)
# ```
#
# </details>

# %% [markdown]
# ### Bug hunt: the patient (medium, 10 minutes)
#
# Somebody changed one line of `Attention.forward`. The patient has the weights of the bundled model, and
# it runs without an error. But its stories are poor. Three suspects:
#
# - `"mask"`: the causal mask lets tokens see later ones;
# - `"rope"`: positions are not encoded as angles correctly;
# - `"qk_norm"`: queries and keys are not normalized.
#
# Three tests were run on the healthy model and on the patient. In A and C, gray shows the healthy model
# without a mask, and without QK-norm. (The scores in C are larger than sqrt(E), since the norms of a
# trained model have learned gains.)

# %%
from picolm_lib.course.attention.hunt import examine

examine(run="bundled")

# %% [markdown]
# *What to see: which of the three plots shows a difference between the healthy model and the patient,
# and what that plot measures.*

# %%
suspect = None  # "mask", "rope" or "qk_norm"

checks.bug_hunt(suspect)

# %% [markdown]
# <details><summary>Hint 1</summary>
#
# In plot B all tokens are the same, so their keys are the same, except for one thing that RoPE adds.
#
# </details>
# <details><summary>Hint 2</summary>
#
# In A and C, does the patient agree with the healthy model or with the gray one? And in B?
#
# </details>
# <details><summary>Solution</summary>
#
# It is `"rope"`. The patient applies the rotation after the axes of heads and sequence were swapped, so
# axis 1 is the heads. All tokens of a head get the same angle, and distances vanish. See the source with
# `show_source(variants._patient_forward)`, from `picolm_lib.course.attention`.
#
# </details>

# %% [markdown]
# ## Playground
#
# Now a whole story. Choose a block, a head, and the token that looks: it has a frame. The darker another
# token, the more attention it gets. Later tokens are gray: the framed token must not see them.

# %%
from picolm_lib.course.attention.playgrounds import attention_on_story

story_ids = [tokenizer.eos_token_id, *story[:100]]
story_pieces = ["<end>"] + [tokenizer.decode([i]) for i in story_ids[1:]]
attention_on_story(attention_maps(model, torch.tensor(story_ids)), story_pieces)

# %% [markdown]
# *What to see: which earlier tokens the framed token looks at; move the three sliders, and find a head
# that looks back at a name.*
#
# Now write a sentence of your own, and look into any block. Try one where a name is repeated, or where
# two things have a color.

# %%
MY_SENTENCE = "Tom has a blue hat. Ben has a red kite. Ben loves his red"  # @param {type:"string"}

my_ids = prompt_ids(run.model, tokenizer, MY_SENTENCE)[:24]
my_pieces = ["<end>"] + [tokenizer.decode([i]) for i in my_ids[1:]]
attention_layers(attention_maps(model, torch.tensor(my_ids)), my_pieces)

# %% [markdown]
# *What to see: the last row of each head shows what the model looks at to predict the next token; is the
# word that decides it dark in one of them?*

# %% [markdown]
# ## Does it matter?
#
# A single small run says little: two seeds of the same model differ too. So each idea was removed, or
# replaced by an alternative, in a model of 6 layers on TinyStories, with three seeds. Such an experiment
# is called an *ablation*. It took hours, and its results come with the package. The number is bits per
# byte on stories that the model has not seen (how many bits it needs to encode one byte of text), as a
# difference from the default with the same seed. **Predict** the order before you look.

# %%
from picolm_lib.course import ablation_results

print(ablation_results.about())
ablation_results.draw("cpu", "02")

# %% [markdown]
# *What to see: a filled point is further from zero than noise explains, a hollow one is not. To the right
# of zero, the default is better. The axis is stretched around zero.*

# %%
ablation_results.table("cpu", "02")

# %% [markdown]
# Only RoPE stands out. Without it the model ends about 0.17 bits per byte worse. RoPE along the heads is
# at least as bad as no RoPE: every position gets the same angles, so positions vanish, and nothing crashes.
#
# For QK-norm no difference was seen, and none for the output gate, whether it is missing, has one number
# per head, or reads the block's input. "No difference seen" means smaller than the confidence interval.
# It does not prove that these ideas do nothing. The runs are short and stable, and QK-norm is insurance:
# it pays off once weights have grown, as you saw in section 4.
#
# One change is better than the default: four KV heads instead of one, by 0.009. They also cost a tenth
# more time here, 7% more parameters, and a KV cache four times as large. PicoLM keeps one KV head,
# because a small cache is the purpose of GQA. If you do not generate much text, use more.
#
# You can see the one large effect for yourself, in a minute: a smaller model, without RoPE, on the
# Storybook.

# %%
from picolm_lib.course import race
from picolm_lib.course.attention import variants
from picolm_lib.course.plots import bars

TOKENS = 150_000
curves = {"default": race.run("default", tokens=TOKENS),
          "no RoPE": race.run("no RoPE", variants.without_rope, tokens=TOKENS)}
bars({name: curve.last for name, curve in curves.items()}, "bits per byte",
     "After the same number of tokens (lower is better)")

# %% [markdown]
# *What to see: the gap between the two bars is far larger than two seeds of one model would give.*

# %% [markdown]
# ## Recap
#
# - Attention is a weighted sum of values; the causal mask keeps it from looking ahead.
# - RoPE rotates pairs of features by an angle that grows with the position; scores depend on distances.
# - GQA shares KV heads, so that the KV cache is smaller; the result is the same as with copied heads.
# - QK-norm bounds the scores by sqrt(E) times its gains; the output gate lets a head stay quiet.
# - The KV cache gives the same logits with far fewer FLOPs, because the past does not change.

# %% [markdown]
# ## Three questions
#
# **1.** Your text begins at position 0. You insert ten tokens before it. Which scores between the old
# tokens change?
#
# <details><summary>Answer</summary>
#
# None in the first block: all distances stay the same. In later blocks they can change, since the tokens
# have now read the inserted ones.
#
# </details>
#
# **2.** A model has 32 query heads. Does its KV cache shrink if you use 16 query heads of the same size
# with the same KV heads?
#
# <details><summary>Answer</summary>
#
# No. Only the KV heads are kept. You saw it in the formula: H is not in it.
#
# </details>
#
# **3.** Why does the gate read the query before RoPE?
#
# <details><summary>Answer</summary>
#
# After RoPE, the query of the same word points in a different direction at each position. The gate would
# open or close by absolute position, and the layer's output would change if the text began elsewhere. You
# saw it in section 5.
#
# </details>

# %% [markdown]
# ## Experiment
#
# Train a small model with `rope_theta=100.0` and one with `rope_theta=1_000_000.0`:
# `small = race.run("theta 100", rope_theta=100.0)`. Then compare
# `loss_by_position(small.model, rows[:, :257])` of both, with `draw_long_contexts(..., 128)`: they read
# up to twice their context of 128 tokens. Does a larger theta help a model read further?

# %% [markdown]
# ## References
#
# - Ashish Vaswani et al., "Attention Is All You Need", 2017.
# - Jianlin Su et al., "RoFormer: Enhanced Transformer with Rotary Position Embedding", 2021.
# - Shouyuan Chen et al., "Extending Context Window of Large Language Models via Positional
#   Interpolation", 2023.
# - Noam Shazeer, "Fast Transformer Decoding: One Write-Head is All You Need", 2019 (MQA).
# - Joshua Ainslie et al., "GQA: Training Generalized Multi-Query Transformer Models from Multi-Head
#   Checkpoints", 2023.
# - Alex Henry et al., "Query-Key Normalization for Transformers", 2020.
# - Catherine Olsson et al., "In-context Learning and Induction Heads", 2022 (the third habit).
# - Guangxuan Xiao et al., "Efficient Streaming Language Models with Attention Sinks", 2023.
# - Zihan Qiu et al., "Gated Attention for Large Language Models: Non-linearity, Sparsity, and
#   Attention-Sink-Free", 2025.
#
# {neighbors}
