# %% [markdown]
# # 03. Pyramidal MLP and init
#
# {badge}
#
# After this notebook you can
#
# - build SwiGLU, RMSNorm and a whole block, and swap them into the library's model;
# - design a pyramid of MLP widths, and calculate what it costs;
# - choose initial values so that every layer learns, and find a layer that does not.
#
# **Before you start:** Python, and a little PyTorch (tensors, autograd, `nn.Module`). Attention is
# explained in notebook 02; here you only need to know that it mixes tokens.
#
# **Time:** half a minute to run on two CPU cores, half a minute on a T4 (an estimate), an hour to read.
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
# ## First, build a pyramid
#
# A language model is a stack of *blocks*. Each has attention, which mixes tokens (pieces of text), and an
# **MLP**, which works on every token separately: it makes a vector wider, changes it, and makes it narrow
# again. Usually all MLPs have the same width inside. Here the early ones are narrow and the late ones
# wide. Move the sliders. D is the width of the model, the length of a token's vector, 384 here. A *FLOP*
# is one addition or multiplication; each parameter costs two per token.

# %% tags=["cover"]
from picolm_lib.course.pyramid.designer import pyramid_designer

pyramid_designer()

# %% [markdown]
# *What to see: the pyramid spends few parameters at the bottom and many at the top; the flat stack beside
# it has one width and, as nearly as rounding allows, the same number of parameters.*
#
# At the end of this notebook you will train both.

# %% [markdown]
# ## 1. SwiGLU: a value and its gate
#
# A plain MLP makes a vector wider, sets negative values to zero (ReLU), and makes it narrow again.
# **SwiGLU** has two branches. One proposes values: `up`. The other decides how much of each value to let
# through: `gate`. They are multiplied, feature by feature.
#
# $$\text{down}\,(\text{silu}(\text{gate}(x)) \cdot \text{up}(x))$$
#
# SiLU is $x \cdot \text{sigmoid}(x)$, a soft ReLU. `gate`, `up` and `down` are matrices without biases.

# %%
from picolm_lib.course.pyramid.pictures import draw_gating

draw_gating()

# %% [markdown]
# *What to see: on the right, a gate well below zero lets almost nothing through, whatever `up` says; a
# gate above zero passes `up` on with its sign, and the larger the gate, the more of it.*
#
# Check one by hand. silu(2) is 2 · sigmoid(2) = 2 · 0.8808 = 1.7616. If `up` is −3, the product is
# −5.2848.

# %% tags=["nbval-check-output"]
import torch
import torch.nn.functional as F

print(f"silu(2) = {F.silu(torch.tensor(2.0)):.4f}, times -3 = {F.silu(torch.tensor(2.0)) * -3:.4f}")

# %% [markdown]
# Now build it. Use the names `gate`, `up` and `down`: later you put your MLP into the library's model
# with the library's weights, and weights are matched by name.

# %%
from torch import nn

from picolm_lib.course.start import show_source
from picolm_lib.model.mlp import MLP, swiglu


class MyMLP(nn.Module):
    """SwiGLU for (B, T, D) inputs; W features inside."""

    def __init__(self, D, W):
        super().__init__()
        self.gate = nn.Linear(D, W, bias=False)
        self.up = nn.Linear(D, W, bias=False)
        self.down = nn.Linear(W, D, bias=False)

    def forward(self, x):
        return self.down(F.silu(self.gate(x)) * self.up(x))

# %%
torch.manual_seed(SEED)
mine, library = MyMLP(16, 24), MLP(16, 24)
mine.load_state_dict(library.state_dict())
x = torch.randn(2, 5, 16)                                   # (B, T, D)
torch.testing.assert_close(mine(x), library(x))
show_source(MLP, swiglu)

# %% [markdown]
# While it learns, the library takes the same product from `model/fast.py`, which keeps less for the
# backward pass.
#
# **Why a gate?** A product can do what a sum cannot: let one feature control another. Here is the
# smallest such task: given two random numbers a and b, learn a · b. Both networks have 48 parameters.
#
# **Predict:** which one ends with the smaller error? Then run the cell.

# %%
def fit(network, steps=500):
    """Trains on a * b and returns the error on new numbers, averaged over three seeds."""
    errors = []
    for seed in range(3):
        torch.manual_seed(seed)
        net = network()
        adam = torch.optim.Adam(net.parameters(), lr=0.02)
        for _ in range(steps):
            x = torch.randn(256, 2)
            loss = (net(x).sum(-1) - x.prod(-1)).square().mean()
            adam.zero_grad()
            loss.backward()
            adam.step()
        x = torch.randn(4096, 2)
        errors.append((net(x).sum(-1) - x.prod(-1)).square().mean().item())
    return sum(errors) / 3

# %%
def relu_mlp():
    return nn.Sequential(nn.Linear(2, 12, False), nn.ReLU(), nn.Linear(12, 2, False))

def my_small_mlp():
    return MyMLP(2, 8)

errors = {}
for name, network in (("ReLU", relu_mlp), ("SwiGLU", my_small_mlp)):
    size, errors[name] = sum(p.numel() for p in network().parameters()), fit(network)
    print(f"{name:<6} {size} parameters, mean squared error {errors[name]:.4f}")
assert errors["SwiGLU"] < errors["ReLU"]

# %% [markdown]
# With the same number of parameters, the gate comes closer to the product. That is a single task, chosen
# to make the point. Noam Shazeer (2020) found a small, consistent gain on language, and offered no
# explanation.

# %% [markdown]
# ## 2. The pyramid of widths
#
# Block $l$ of $L$ blocks has the width
#
# $$m \cdot \text{round}\left(\frac{D}{m} \cdot \left(1.5 + (4.0 - 1.5)\,\frac{l}{L-1}\right)\right)$$
#
# Blocks are numbered from 0. So the fraction goes from 0 to 1, the first block has width 1.5 D, and the
# last 4 D. Widths are rounded to a multiple of m = 32, because processors are fastest with such sizes.
#
# By hand, for `nano` (D = 128, L = 4): 192, then 298.7, 405.3 and 512. Rounded to multiples of 32: 192,
# 288, 416, 512.

# %% tags=["nbval-check-output"]
from picolm_lib.config import PRESETS
from picolm_lib.model.mlp import pyramid_widths


def my_widths(D, L, first=1.5, last=4.0, m=32):
    return [m * round(D * (first + (last - first) * layer / max(L - 1, 1)) / m)
            for layer in range(L)]

for name in ("nano", "pico"):
    config = PRESETS[name].model
    assert my_widths(config.d_model, config.n_layers) == pyramid_widths(config)
    print(name, my_widths(config.d_model, config.n_layers))

# %%
show_source(pyramid_widths)

# %% [markdown]
# **What would go wrong** with a small slip? Count from 1 by mistake, or divide by L:

# %% tags=["nbval-check-output"]
D, L = 128, 4
for name, places in (("right", [0, 1, 2, 3]), ("counted from 1", [1, 2, 3, 4])):
    print(f"{name:<16}", [32 * round(D * (1.5 + 2.5 * i / (L - 1)) / 32) for i in places])
print(f"{'divided by L':<16}", [32 * round(D * (1.5 + 2.5 * i / L) / 32) for i in range(L)])

# %% [markdown]
# Nothing crashes. You get a different model than you think, too large or too small, and weights that do
# not fit a model that somebody else trained.
#
# Why narrow at first? The idea of Hossein Lak's PyramidNet is that early blocks compute simple features,
# and late ones combine many of them. Whether it helps, you will see at the end.
#
# Where do the parameters go? Here are two of the course's models: `pico`, which you train on a T4, and
# `planned`, a much larger one. Below they are built on PyTorch's *meta device*: they have shapes, but use
# no memory. So even `planned` fits into your notebook.
#
# **Predict:** which part of `pico` is the largest, and which part of `planned`?

# %%
from picolm_lib.course.pyramid.designer import draw_parameters

draw_parameters("pico", "planned")

# %% [markdown]
# *What to see: the embedding and the output layer make up most of `pico`; in the larger model the MLPs
# do, and the norms are at most a hairline in either.*

# %% tags=["nbval-check-output"]
from picolm_lib.course.pyramid.designer import parameter_table

print(parameter_table("pico", "planned"))

# %% [markdown]
# Two thirds of `pico` are embedding and output. In `planned` they shrink to an eighth. Training on a
# token costs three times the FLOPs of reading it, since the backward pass takes twice as many as the
# forward pass. The last line assumes 16 bytes per parameter: the weight, its gradient, and two averages
# that the optimizer AdamW keeps, all in float32.

# %% [markdown]
# ## 3. RMSNorm and the residual stream
#
# A block has two *parts*, attention and the MLP. Each *adds* its result to a running vector, the
# **residual stream**. If each part adds something large, the stream grows, and what was there first is
# drowned out.
#
# **RMSNorm** divides a vector by its *root mean square* (rms), the square root of the mean of its
# squares, and multiplies each feature by a learned *gain*. With gains of 1, the result has rms 1.
#
# PicoLM has a norm before and a *post-norm* after each part, a **sandwich**. The first gives the part's
# input a known scale, the second its output. The embedding is multiplied by sqrt(D), so that the stream
# does not start too small.

# %% [markdown]
# By hand: (3, 4) has the mean square 12.5 and the rms 3.5355. So it becomes (0.8485, 1.1314). A tiny
# number **eps**, 10⁻⁶, is added to the mean square, so that a vector of zeros is not divided by zero.

# %% tags=["nbval-check-output"]
class MyRMSNorm(nn.Module):
    """RMSNorm over the last axis, always in float32."""

    def __init__(self, D, eps=1e-6):
        super().__init__()
        self.weight = nn.Parameter(torch.ones(D))
        self.eps = eps

    def forward(self, x):
        x = x.float()                                       # squares can overflow 16 bits
        return x / (x.square().mean(-1, keepdim=True) + self.eps).sqrt() * self.weight

print([round(value, 4) for value in MyRMSNorm(2)(torch.tensor([3.0, 4.0])).tolist()])

# %%
from picolm_lib.model.norm import RMSNorm

x = 50 * torch.randn(2, 5, 16)
torch.testing.assert_close(MyRMSNorm(16)(x), RMSNorm(16, eps=1e-6)(x))
show_source(RMSNorm)

# %% [markdown]
# On a CPU the library takes the same norm from `model/fast.py`. There the gradient is two lines, which
# is quicker than seven operations with a gradient each.
#
# Now watch the stream in 12 blocks of random weights. Their standard deviation is 0.15, larger than in a
# real model, so that the differences are visible. Remove one idea at a time.
#
# **Predict:** without any norm, does the stream shrink, stay, or explode? Then run the cell.

# %%
from dataclasses import replace

from picolm_lib.course.pyramid import probes
from picolm_lib.course.pyramid.pictures import draw_scales
from picolm_lib.model.picolm import PicoLM

deep = replace(PRESETS["nano"].model, n_layers=12, vocab_size=512, max_seq_len=64)
tokens = torch.randint(512, (4, 64), generator=torch.Generator().manual_seed(SEED))

def scales(*changes, std=0.15):
    """The stream's rms after each block, with random weights of this std."""
    model = PicoLM(deep)
    probes.naive_init(model, std)
    for change in changes:
        change(model)
    return probes.stream_scale(model, tokens)

# %%
draw_scales({
    "sandwich": scales(),
    "only the norm before": scales(probes.without_post_norms),
    "only the norm after": scales(probes.without_pre_norms),
    "no norm": scales(probes.without_post_norms, probes.without_pre_norms),
}, "The residual stream, block by block")

# %% [markdown]
# *What to see: with the sandwich the stream grows slowly, because every part adds a vector of rms 1, and
# the norm after is enough for that (two curves coincide); with only the norm before, the stream is
# larger; without any norm it explodes and leaves the plot (the axis is logarithmic).*
#
# So what is the norm *before* for? Look at the activations inside the MLPs, `silu(gate) · up`.

# %%
def inside(*changes):
    """rms inside the first and the last MLP, with the same random weights as above."""
    model = PicoLM(deep)
    probes.naive_init(model, 0.15)
    for change in changes:
        change(model)
    found = probes.activations(model, tokens)
    return probes.rms(found[0]), probes.rms(found[-1])

for name, changes in (("sandwich", ()), ("only the norm after", (probes.without_pre_norms,))):
    first, last = inside(*changes)
    print(f"{name:<20} first MLP {first:6.1f}, last MLP {last:6.1f}")
assert inside(probes.without_pre_norms)[1] > 5 * inside()[1]

# %% [markdown]
# Without the norm before, the stream's growth goes straight into the part, and the product squares it. In
# float16, that eventually overflows.
#
# And the sqrt(D)? Embeddings are drawn with a small standard deviation, 0.02. Times sqrt(128) that is
# 0.23. How much of the stream is still the token itself after one block? (Compare mean squares: those of
# unrelated vectors add up.)

# %%
from functools import partial


def without_embedding_scale(model):
    model.embedding.weight.data /= model.config.d_model**0.5

low_gain = partial(probes.post_norm_gain, gain=0.1)
for name, changes in (("with sqrt(D)", ()), ("without sqrt(D)", (without_embedding_scale,)),
                      ("with sqrt(D), gain 0.1", (low_gain,))):
    start, end = scales(*changes, std=0.02)[:2]
    print(f"{name:<23} embedding {start:.3f}, after one block {end:.3f}: "
          f"{start**2 / end**2:.2%} left")

# %% [markdown]
# With gains of 1, one block leaves a few percent of the token that the stream started with, and without
# sqrt(D) hardly anything. With a gain of 0.1 in the post-norms, most of it remains. PicoLM starts with
# that gain. You will see a second reason for it next.

# %% [markdown]
# ## 4. Initial values, part one: start as nothing
#
# PicoLM sets the last matrix of each part to **zero**: attention's `out`, the MLP's `down`, and the
# output layer. So at first, each block adds nothing, and every token is predicted with the same
# probability. The first loss is exactly ln V, with V the size of the vocabulary, here 512.
#
# Can a zero matrix learn? Its gradient is its input times the gradient of its output. As long as neither
# is zero, it moves. What must never happen is a *product of two zeros*: then each one waits for the
# other.
#
# **Predict:** the output layer is zero. Which matrices have a gradient at the first step?

# %%
import math

model, targets = PicoLM(deep), tokens.roll(-1, 1)
for step in (1, 2, 3):
    found = probes.gradients(model, tokens, targets)
    awake = [name for name, gradient in found.items() if gradient.any() and gradient.ndim > 1]
    short = [name.removeprefix("blocks.0.").removesuffix(".weight") for name in awake]
    loss = probes.take_steps(model, tokens, targets)[0]
    print(f"step {step}: loss {loss:.4f}, matrices awake: {len(awake)}")
    print("    ", ", ".join(name for name in short if "blocks" not in name))
    assert step > 1 or abs(loss - math.log(512)) < 1e-3
print(f"ln 512 = {math.log(512):.4f}; of the blocks, only block 0 is listed; the rest is like it")

# %% [markdown]
# The model wakes up from its end, in three steps. First the output layer: its input is not zero, and each
# token needs a different answer. Then `out` and `down`, since the output layer now passes a gradient
# back. Then everything before them.
#
# **The post-norm trap.** A norm is steep at zero. RMSNorm divides by the rms, so a tiny input is scaled
# up to rms 1.

# %%
from picolm_lib.course.pyramid.pictures import draw_norm_trap

draw_norm_trap()

# %% [markdown]
# *What to see: inputs down to 0.01 are scaled to full size; near zero, the norm multiplies by 1/sqrt(eps)
# = 1,000.*
#
# Gradients are multiplied too. Send a gradient of 1 back through the norm at zero:

# %% tags=["nbval-check-output"]
zero = torch.zeros(4, requires_grad=True)
MyRMSNorm(4)(zero).sum().backward()
print([round(value) for value in zero.grad.tolist()])

# %% [markdown]
# So "start as nothing" lasts for only one step. Then the norm brings each part to full scale, however
# small its weights are. The solution is the norm's gain: it scales the result of the division. Look at
# the stream after two and five steps, for three gains. (The first step moves only the output layer, as
# you saw.)
#
# **Predict:** a gain of exactly 0 seems the safest. Is it?

# %%
def after_steps(gain, steps):
    """The stream's rms at the end, and how far `down` of the last block has moved."""
    model = PicoLM(deep)
    probes.post_norm_gain(model, gain)
    probes.take_steps(model, tokens, targets, steps)
    moved = model.blocks[-1].mlp.down.weight.abs().max().item()
    return probes.stream_scale(model, tokens)[-1], moved

print("gain   stream after 0, 2, 5 steps   largest |down| after 5 steps")
for gain in (1.0, 0.1, 0.0):
    ends = [after_steps(gain, steps) for steps in (0, 2, 5)]
    print(f"{gain:<6} " + "  ".join(f"{scale:6.2f}" for scale, _ in ends) + f"{ends[-1][1]:22.4f}")

# %% [markdown]
# With a gain of 1, the stream jumps to many times its size in a few steps. With 0.1 it grows far less.
# With 0, `down` is still exactly zero after five steps: the gain times the norm of zero is a product of
# two zeros, so neither ever gets a gradient. (The little growth that you see there comes from the
# embedding, which does learn.)
#
# Does it matter over a whole run? Hardly: with gains from 0.03 to 1, this project's runs ended within one
# percent of each other (`tests/benchmarks/results/choices.md`). 0.1 is the cautious choice.

# %%
assert after_steps(0.0, 5)[1] == 0 and after_steps(0.1, 5)[1] > 0

# %% [markdown]
# ## 5. Initial values, part two: the std by depth
#
# `gate` and `up` are drawn from a normal distribution. Its standard deviation falls with depth, from
# 0.04 in the first block to 0.02 in the last:
#
# $$\text{std}_l = 0.04 + (0.02 - 0.04)\,\frac{l}{L-1}$$
#
# Why should it fall? That is the choice of this architecture. You will see at the end whether it matters.
# All other matrices have 0.02, unless they are zero.

# %% tags=["nbval-check-output"]
from picolm_lib.model.init import depth_std

nano = PRESETS["nano"].model
print([round(depth_std(nano, layer), 4) for layer in range(4)])
print([round(0.04 + (0.02 - 0.04) * layer / 3, 4) for layer in range(4)])

# %% [markdown]
# Now set all initial values yourself: zeros, gains, and the std by depth. With the same seed and the same
# order, every number must equal the library's.

# %%
ZERO = ("bias", "attn.gate", "out.weight", "down.weight", "output.weight")


def my_init(model, L, seed=0):
    """Sets every parameter of a model of L blocks."""
    generator = torch.Generator().manual_seed(seed)         # one, so that all layers differ
    for name, parameter in model.named_parameters():
        if name.endswith(ZERO):
            value = torch.zeros(parameter.shape)
        elif name.endswith("norm.weight"):
            value = torch.full(parameter.shape, 0.1 if "post" in name else 1.0)
        else:
            std = 0.02
            if ".mlp." in name:                             # "blocks.3.mlp.up.weight"
                std = 0.04 + (0.02 - 0.04) * int(name.split(".")[1]) / (L - 1)
            value = std * torch.randn(parameter.shape, generator=generator)
        parameter.data.copy_(value)

# %%
from picolm_lib.model.init import init_weights

mine = PicoLM(nano, seed=99)
my_init(mine, nano.n_layers, seed=SEED)
torch.testing.assert_close(mine.state_dict(), PicoLM(nano, seed=SEED).state_dict())
show_source(init_weights)

# %% [markdown]
# Look at what flows through the MLPs, before and after this init. "Before" is the usual choice: one
# standard deviation of 0.02 for every matrix, none at zero, and all gains at 1.

# %%
from picolm_lib.course.pyramid.pictures import draw_histograms

small_model = replace(nano, vocab_size=512, max_seq_len=64)
before, after = PicoLM(small_model), PicoLM(small_model)
probes.naive_init(before)
for name, model in (("before", before), ("after", after)):
    found = [active.abs().median().item() for active in probes.activations(model, tokens)]
    print(f"{name}: the median of block 0 is {found[0] / found[-1]:.1f} times that of block 3")
draw_histograms({"before: 0.02 everywhere": probes.activations(before, tokens),
                 "after: by depth": probes.activations(after, tokens)},
                "silu(gate) · up", "Activations inside the MLPs")

# %% [markdown]
# *What to see: before, all blocks work at the same small scale; after, the first block's activations are
# about four times as large (twice the std in two branches), and the last one's are as before.*
#
# Now the gradients, after three training steps, of the same matrices:

# %%
rows = {}
for name, model in (("before: 0.02 everywhere", before), ("after: by depth", after)):
    probes.take_steps(model, tokens, targets, 3)
    found = probes.gradients(model, tokens, targets)
    rows[name] = [found[f"blocks.{layer}.mlp.up.weight"] for layer in range(4)]
    first, last = (rows[name][layer].abs().median().item() for layer in (0, 3))
    print(f"{name}: the median of block 0 is {first / last:.1f} times that of block 3")
draw_histograms(rows, "gradient of up", "Gradients after three steps")

# %% [markdown]
# *What to see: before, the first block's gradients are several times as large as the last one's; after,
# the blocks are closer together, and none is stuck at zero.*
#
# With plain gradient descent, a single learning rate would now suit all blocks better. But the optimizers
# of notebook 04 even out such differences on their own. So do not expect too much from it in the end.
#
# ### The dead-layer detector
#
# What if the standard deviation fell to exactly 0 at the last block? Prototypes of this model had that
# bug. Then `gate` and `up` are zero, and `down` is zero on purpose: a product of zeros.
#
# A detector is simple: compute the gradients at several steps, and list the parameters whose gradient was
# exactly zero every time. One step is not enough, since zero-initialized matrices block the gradients of
# others at first.

# %%
healthy, broken = PicoLM(small_model), PicoLM(small_model)
probes.zero_last_mlp(broken)
for name, model in (("healthy", healthy), ("last std = 0", broken)):
    at_once = probes.dead_parameters(model, tokens, targets, steps=1)
    dead = probes.dead_parameters(model, tokens, targets, steps=3)
    print(f"{name}: {len(at_once)} zero gradients at the first step, {len(dead)} at all of three")
    print("   ", ", ".join(dead) or "nothing is dead")
    loss = model.loss(tokens, targets).item()
    print(f"    loss after two steps: {loss:.2f}; it began at ln V = {math.log(512):.2f}")
show_source(probes.dead_parameters)

# %%
from picolm_lib.course.pyramid.pictures import draw_gradients, gradient_norms

draw_gradients({name: gradient_norms(model, probes.gradients(model, tokens, targets))
                for name, model in (("healthy", healthy), ("last std = 0", broken))})

# %% [markdown]
# *What to see: a dead matrix is a cross at the bottom; in the broken model, `up` and `down` of the last
# block have one.*
#
# The last MLP is the widest of all, and it would never learn anything. Nothing crashes, and the loss
# falls anyway. You only notice it if you look inside.

# %% [markdown]
# ## 6. Assembling PicoLM
#
# You have an MLP and a norm. Write the rest: attention, in the compact form of notebook 02, and the
# block. Then put your parts into the library's model, load the trained weights into them, and compare.
#
# First, attention: q, k and v from one projection, QK-norm, gate, RoPE, shared KV heads. The letters are
# those of notebook 02: B sequences, T tokens, H query heads, K key/value heads, E = D/H features per
# head. The library also passes a cache and a mask, for generation. Your version accepts them and ignores
# them: it always reads a whole text, causally.

# %%
def turn(x, cos, sin):
    """RoPE for (B, T, H, E) queries or keys."""
    a, b = x.chunk(2, dim=-1)
    cos, sin = cos[:, None], sin[:, None]                   # (T, 1, E/2)
    return torch.cat((a * cos - b * sin, b * cos + a * sin), dim=-1)


class MyAttention(nn.Module):
    """Causal attention for (B, T, D) inputs."""

    def __init__(self, D, H, K):
        super().__init__()
        E = D // H
        self.heads = H, K, K
        self.qkv = nn.Linear(D, (H + 2 * K) * E)
        self.q_norm, self.k_norm = MyRMSNorm(E), MyRMSNorm(E)
        self.gate = nn.Parameter(torch.zeros(H, E, E))
        self.out = nn.Linear(D, D, bias=False)

    def forward(self, x, cos, sin, cache=None, mask=None):
        q, k, v = self.qkv(x).unflatten(-1, (sum(self.heads), -1)).split(self.heads, dim=2)
        q, k = self.q_norm(q), self.k_norm(k)
        gate = torch.einsum("bthe,hfe->bthf", q, self.gate).sigmoid()
        q, k, v = (t.transpose(1, 2) for t in (turn(q, cos, sin), turn(k, cos, sin), v))
        y = F.scaled_dot_product_attention(q, k, v, is_causal=True, enable_gqa=True)
        return self.out((y.transpose(1, 2) * gate).flatten(2))

# %%
class MyBlock(nn.Module):
    """Two parts, each between two norms, each added to the stream."""

    def __init__(self, D, H, K, W):
        super().__init__()
        self.attn, self.mlp = MyAttention(D, H, K), MyMLP(D, W)
        self.attn_norm, self.attn_post_norm = MyRMSNorm(D), MyRMSNorm(D)
        self.mlp_norm, self.mlp_post_norm = MyRMSNorm(D), MyRMSNorm(D)

    def forward(self, x, cos, sin, cache=None, mask=None):
        x = x + self.attn_post_norm(self.attn(self.attn_norm(x), cos, sin))
        return x + self.mlp_post_norm(self.mlp(self.mlp_norm(x)))

# %% [markdown]
# Now the swap, in the small trained model that comes with the course. `load_state_dict` is strict: every
# name and shape must match, and nothing may be left over. The model's outputs are *logits*: at each
# token, a score for every possible next token.

# %%
from picolm_lib.train.checkpoint import load_run

trained, tokenizer, run = load_run("bundled")
config = run.model
ids = torch.tensor([tokenizer("Once upon a time, there was a little fox.")["input_ids"]])
with torch.no_grad():
    expected = trained(ids)                                 # (B, T, V) logits

mine, _, _ = load_run("bundled")
weights = mine.state_dict()
mine.blocks = nn.ModuleList(MyBlock(config.d_model, config.n_heads, config.n_kv_heads, width)
                            for width in my_widths(config.d_model, config.n_layers))
mine.final_norm = MyRMSNorm(config.d_model)
mine.load_state_dict(weights)

with torch.no_grad():
    torch.testing.assert_close(mine(ids), expected, rtol=1e-3, atol=1e-3)
print(f"{ids.shape[1]} tokens, the same {expected.numel():,} logits from your parts")
show_source(type(trained.blocks[0]))

# %% [markdown]
# Every block of the trained model is now yours; only the embedding and the output layer are PyTorch's
# own. It can even write the beginning of a story:

# %%
with torch.no_grad():
    for _ in range(40):
        ids = torch.cat((ids, mine(ids)[:, -1:].argmax(-1)), dim=1)
print(tokenizer.decode(ids[0]))

# %% [markdown]
# ## Your turn
#
# Write your answer where the stub raises `NotImplementedError`. The check tells you what went wrong.

# %% [markdown]
# ### Exercise 1: the pyramid (easy, 5 minutes)
#
# Write the widths again, for any two ends and any number of layers, including one.

# %%
from picolm_lib.course.pyramid import checks


def widths(d_model, n_layers, ratio_first, ratio_last, multiple_of):
    """MLP widths of all layers, first to last: a list of ints.

    From ratio_first * d_model to ratio_last * d_model, each the nearest multiple of multiple_of.
    """
    raise NotImplementedError  # your code


widths = checks.pyramid(widths)

# %% [markdown]
# <details><summary>Hint 1</summary>
#
# Layer 0 is at the start of the line, layer n_layers − 1 at its end.
#
# </details>
# <details><summary>Hint 2</summary>
#
# Divide by `multiple_of`, `round`, multiply again. With one layer, n_layers − 1 is 0: use `max`.
#
# </details>
# <details><summary>Solution</summary>
#
# ```python
# def widths(d_model, n_layers, ratio_first, ratio_last, multiple_of):
#     found = []
#     for layer in range(n_layers):
#         along = layer / max(n_layers - 1, 1)
#         ratio = ratio_first + along * (ratio_last - ratio_first)
#         found.append(multiple_of * round(d_model * ratio / multiple_of))
#     return found
# ```
#
# </details>

# %% [markdown]
# ### Exercise 2: RMSNorm (medium, 10 minutes)
#
# Write RMSNorm as a function. It must survive 16-bit inputs with values in the thousands.

# %%
def rms_norm(x, gain, eps):
    """x / sqrt(mean of squares + eps) * gain over the last axis, in float32.

    x: (..., D) of any floating dtype. gain: (D,). Returns (..., D), float32.
    """
    raise NotImplementedError  # your code


rms_norm = checks.rms_norm(rms_norm)

# %% [markdown]
# <details><summary>Hint 1</summary>
#
# `x.square().mean(-1, keepdim=True)` gives one number per vector and keeps the axis.
#
# </details>
# <details><summary>Hint 2</summary>
#
# 1,000 squared is more than float16 can represent. Convert before you square.
#
# </details>
# <details><summary>Solution</summary>
#
# ```python
# def rms_norm(x, gain, eps):
#     x = x.float()
#     return x / (x.square().mean(-1, keepdim=True) + eps).sqrt() * gain
# ```
#
# </details>

# %% [markdown]
# ### Exercise 3: SwiGLU from matrices (medium, 10 minutes)
#
# The same as your MLP, but with plain matrices. They are stored as (out, in), as in `nn.Linear`.

# %%
def swiglu(x, gate, up, down):
    """down(silu(gate(x)) * up(x)). x: (B, D). gate, up: (W, D). down: (D, W)."""
    raise NotImplementedError  # your code


swiglu = checks.swiglu(swiglu)

# %% [markdown]
# <details><summary>Hint 1</summary>
#
# `nn.Linear` computes `x @ weight.T`.
#
# </details>
# <details><summary>Hint 2</summary>
#
# Only one of the two branches goes through `F.silu`.
#
# </details>
# <details><summary>Solution</summary>
#
# ```python
# def swiglu(x, gate, up, down):
#     return (F.silu(x @ gate.T) * (x @ up.T)) @ down.T
# ```
#
# </details>

# %% [markdown]
# ### Bug hunt: the patient (medium, 10 minutes)
#
# Somebody moved one line of the code that initializes a new model. It runs without an error, its first
# loss is ln V as it should be, and the dead-layer detector finds nothing. Three suspects:
#
# - `"pyramid"`: widths are computed with the layer's index minus 1;
# - `"std"`: the standard deviation does not fall with depth as it should;
# - `"seed"`: every block draws its numbers from its own generator, all with the same seed.
#
# Three tests were run on a healthy model and on the patient, both untrained.

# %%
from picolm_lib.course.pyramid.hunt import examine

examine(small_model, tokens)

# %% [markdown]
# *What to see: which of the three tests shows a difference between the healthy model and the patient. In
# C, each curve is one block: how much attention the last token pays to every token of the text.*

# %%
suspect = None  # "pyramid", "std" or "seed"

checks.bug_hunt(suspect)

# %% [markdown]
# <details><summary>Hint 1</summary>
#
# In a new model, `out` and `down` are zero, so no block adds anything. What does that say about what
# block 0 and block 3 read?
#
# </details>
# <details><summary>Hint 2</summary>
#
# A wrong pyramid would show in B, a wrong std in A. And in C: when do two blocks with the same input look
# at the same places?
#
# </details>
# <details><summary>Solution</summary>
#
# It is `"seed"`. All blocks read the same stream, and all look at exactly the same places. So their
# matrices must be equal. The line `torch.Generator().manual_seed(...)` was moved into the loop over the
# blocks, so each block got the same numbers. See it with `show_source(hunt.patient)`, from
# `picolm_lib.course.pyramid`.
#
# </details>

# %% [markdown]
# ## Playground
#
# Random blocks once more, with four sliders. On the left is the stream's scale, on the right how much of
# the token is left in it: the cosine between the stream and the embedding, 1 for the same direction, 0
# for unrelated ones. (With the norms "before" or "none" there is no post-norm, so its gain does nothing.)
# Three things to try:
#
# - Norms "before": move the std. Then norms "before and after": move it again. When does it matter?
# - Norms "none": find the std at which the stream neither explodes nor stays as it is. Now double the
#   number of blocks. Would you want to depend on it?
# - Set the post-norm gain to 0.1 and use 24 blocks. How much of the token is left at the end?

# %%
from picolm_lib.course.pyramid.residual_stream import stream_playground

stream_playground()

# %% [markdown]
# *What to see: the gray dashed lines show the initial settings; the blue ones follow your changes.*

# %% [markdown]
# ## Does it matter?
#
# A single small run says little: two seeds of the same model differ too. So each idea was removed, or
# replaced by an alternative, in a model of 6 layers on TinyStories, with three seeds. Such an experiment
# is called an *ablation*. It took hours, and its results come with the package. The number is bits per
# byte on stories that the model has not seen (how many bits it needs to encode one byte of text), as a
# difference from the default with the same seed.
#
# **Predict:** which of these changes costs the most? Which cost nothing?

# %%
from picolm_lib.course import ablation_results

print(ablation_results.about())
ablation_results.draw("cpu", "03")

# %% [markdown]
# *What to see: a filled point is further from zero than noise explains, a hollow one is not. To the right
# of zero, the default is better. The axis is stretched around zero.*

# %%
ablation_results.table("cpu", "03")

# %% [markdown]
# Three ideas earn their place. Without the factor sqrt(D), the model ends 0.04 bits per byte worse.
# Without the norm after each part, 0.02. And the gain of that norm must start low: at 1 it costs 0.012,
# while anything between 0.03 and 0.3 is equally good. The naive initialization, 0.02 everywhere and gains
# of 1, costs no more than that: without zeros before its norms, it does not fall into the post-norm trap
# of section 4.
#
# No benefit of the pyramid was seen. A flat stack with as many parameters does equally well, and so does
# an upside-down pyramid. The same is true of the std by depth, and of tied embeddings, which save a
# quarter of the parameters. Zero initialization did not matter either, once the gain was low. PicoLM
# keeps these ideas because its architecture describes them and they cost nothing; at this size they bring
# nothing that three seeds could show.
#
# And the dead MLP, the widest of all, cannot be distinguished from a healthy one by its loss. That is why
# a dead layer can stay hidden for so long, and why you should look at gradients too.

# %% [markdown]
# ## Recap
#
# - SwiGLU multiplies values by a gate; a product can do what a sum cannot.
# - The pyramid goes from width 1.5 D in block 0 to 4 D in block L − 1.
# - RMSNorm on both sides of each part keeps the residual stream at a known scale.
# - Zeros at the outputs start the model as nothing; the post-norm's gain of 0.1 keeps the next steps
#   small.
# - Never let two zeros meet in a product: that part never learns.

# %% [markdown]
# ## Three questions
#
# **1.** Why may `down` start at zero, while `down` and `up` together may not?
#
# <details><summary>Answer</summary>
#
# The gradient of `down` contains its input, silu(gate) · up. If that is not zero, `down` moves. If `up`
# is zero too, that input is zero, and the gradient of `up` passes through `down`, which is also zero.
#
# </details>
#
# **2.** You double all of a layer's `down` weights. With a post-norm, how does the block's output change?
#
# <details><summary>Answer</summary>
#
# Not at all, except for eps: the norm divides by the rms, which has doubled too.
#
# </details>
#
# **3.** The first loss of your new model is far from ln V. What do you check first?
#
# <details><summary>Answer</summary>
#
# The output layer: it should be zero, so that all tokens are equally likely.
#
# </details>

# %% [markdown]
# ## Experiment
#
# Is there a better shape than a pyramid? Make the ends steeper, or the whole stack wider and the model
# narrower: `race.run("steep", mlp_ratio_first=0.5, mlp_ratio_last=5.0)`, with `race` from
# `picolm_lib.course`. Run it and the default with three seeds (`seed=0`, `seed=1`, `seed=2`) before you
# believe it.

# %% [markdown]
# ## References
#
# - Noam Shazeer, "GLU Variants Improve Transformer", 2020.
# - Biao Zhang and Rico Sennrich, "Root Mean Square Layer Normalization", 2019.
# - Ming Ding et al., "CogView: Mastering Text-to-Image Generation via Transformers", 2021 (sandwich
#   norm).
# - Ashish Vaswani et al., "Attention Is All You Need", 2017 (the embedding times sqrt(D)).
# - Hongyi Zhang et al., "Fixup Initialization: Residual Learning Without Normalization", 2019.
# - Hossein Lak, "PyramidNet: A Technique for Efficient Transformer Training with Pyramidal MLPs".
# - Hossein Lak, "Unlocking Transformer Learning: Weight Dispersion and a Novel Depth-Aware Initialization
#   Strategy".
#
# {neighbors}
