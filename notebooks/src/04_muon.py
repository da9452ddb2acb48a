# %% [markdown]
# # 04. Muon
#
# {badge}
#
# After this notebook you can
#
# - say what SGD, momentum, AdamW and Muon do with a gradient, and build each in a few lines;
# - orthogonalize a matrix without an SVD, even in 16 bits, and avoid the trap in it;
# - split a model's parameters between two optimizers, and judge a race between them.
#
# **Before you start:** Python, and a little PyTorch (tensors, autograd, `nn.Module`). The model is that
# of notebooks 02 and 03; here you only need to know that it consists of matrices.
#
# **Time:** about 2 minutes to run on two CPU cores, 1 minute on a T4 (an estimate), an hour to
# read.
#
# {neighbors}

# %% tags=["setup"]
# Generated: see notebooks/build.py

# %% [markdown]
# ## Settings
#
# The small models of this notebook are the same on every device. The preset only decides how long they
# are trained. With `smoke` that is so short that their numbers mean nothing.

# %%
from picolm_lib.course.start import preset_name

PRESET = preset_name()
SEED = 0  # @param {type:"integer"}

# %% [markdown]
# ## First, step through a spectrum
#
# Every matrix stretches space: a lot in some directions, little in others. These factors are its
# **singular values**. Muon makes all of them about 1 before it takes a step along the matrix. It gets
# there by repeating a few matrix products. Move the sliders.

# %% tags=["cover"]
from picolm_lib.course.muon.playgrounds import spectrum_stepper

spectrum_stepper()

# %% [markdown]
# *What to see: at 0 iterations the singular values fall from 0.6 to almost nothing; with each iteration
# the small ones grow, until most lie between about 0.7 and 1.2 (gray line: exactly 1).*
#
# At the end you train the same model with and without this, and see what it is good for.

# %% [markdown]
# ## 1. From SGD to AdamW
#
# A **gradient** says in which direction the loss rises fastest. **SGD** steps against it, times a
# *learning rate*. In a narrow valley that is a poor guide: the gradient points across the valley, not
# along it. A large rate bounces from wall to wall, and a small one crawls.
#
# **Momentum** averages past gradients: what flips its sign cancels out, and what persists adds up.
# **Adam** also divides each number by its own typical size, so that flat directions get steps as long as
# steep ones. **AdamW** is Adam with decoupled weight decay, which we leave at 0.
#
# Here is a loss of two weights, 25 times as steep across the valley as along it.

# %%
import torch

STEEP = torch.tensor([1.0, 25.0])
start = torch.tensor([-4.0, 1.5])

def sgd(w, g, state, rate=0.07):
    return w - rate * g

def momentum(w, g, state, rate=0.035, keep=0.8):
    state["m"] = keep * state.get("m", 0) + g
    return w - rate * state["m"]

def adamw(w, g, state, rate=0.4, keep=(0.8, 0.99), eps=1e-8):
    t = state["t"] = state.get("t", 0) + 1
    state["m"] = keep[0] * state.get("m", 0) + (1 - keep[0]) * g
    state["v"] = keep[1] * state.get("v", 0) + (1 - keep[1]) * g**2
    m, v = state["m"] / (1 - keep[0]**t), state["v"] / (1 - keep[1]**t)  # averages start at 0
    return w - rate * m / (v.sqrt() + eps)

def walk(rule, steps=40):
    path, state = [start], {}
    for _ in range(steps):
        path.append(rule(path[-1], STEEP * path[-1], state))  # the gradient of w·(STEEP w)/2
    return torch.stack(path)

# %% [markdown]
# **Predict:** which of the three is closest to the minimum after 40 steps? Then run the cell.

# %%
from picolm_lib.course.muon import paths

mine = {"SGD": walk(sgd), "momentum": walk(momentum), "AdamW": walk(adamw)}
paths.draw_paths(mine, torch.diag(STEEP), "Three ways down a narrow valley")

# %% [markdown]
# *What to see: SGD bounces across and creeps along; momentum oscillates, but makes progress; AdamW moves
# in both directions at the same pace, and curves into the minimum.*
#
# By hand, the first step from (−4, 1.5). The gradient is (−4, 37.5). SGD moves by 0.07 times that: to
# (−3.72, −1.125), across the whole valley. AdamW divides each number by its own size, so it moves by 0.4
# in both: to (−3.6, 1.1).

# %% tags=["nbval-check-output"]
for name, path in mine.items():
    print(f"{name:<9} {[round(value, 3) for value in path[1].tolist()]}")

# %% [markdown]
# The same paths, from PyTorch's own optimizers:

# %%
def torch_walk(make):
    return paths.descend(make, torch.diag(STEEP), start.tolist())

optim = torch.optim
torch.testing.assert_close(mine["SGD"], torch_walk(lambda w: optim.SGD([w], 0.07)))
torch.testing.assert_close(mine["momentum"],
                           torch_walk(lambda w: optim.SGD([w], 0.035, momentum=0.8)))
torch.testing.assert_close(mine["AdamW"], torch_walk(
    lambda w: optim.AdamW([w], 0.4, betas=(0.8, 0.99), weight_decay=0.0)))

# %% [markdown]
# **What goes wrong?** AdamW scales each *weight* separately. That helps if the valley runs along an axis.
# Rotate it by 45 degrees, and both weights have gradients of about the same size: nothing distinguishes
# them any more. Try it with the last slider.

# %%
turned = paths.valley(25.0, degrees=45)
for name, path in mine.items():
    rule = paths.RULES[name]
    rate = {"SGD": 0.07, "momentum": 0.035, "AdamW": 0.4}[name]
    begin = (paths.turn(45) @ start).tolist()
    end = paths.descend(lambda w, rule=rule, rate=rate: rule(w, rate), turned, begin)[-1]
    straight = paths.loss(path[-1], torch.diag(STEEP)).item()
    print(f"{name:<9} loss after 40 steps: {straight:.4f} along an axis, "
          f"{paths.loss(end, turned).item():.4f} rotated")

# %%
paths.descent()

# %% [markdown]
# *What to see: SGD and momentum do not care how the valley is rotated; AdamW does.*
#
# A layer's weights form a **matrix**, and its steep and flat directions are rarely single weights. Muon
# finds the directions of the matrix itself.

# %% [markdown]
# ## 2. The momentum matrix and its spectrum
#
# A gradient of a weight matrix is a matrix G of the same shape. Muon keeps its running average, the
# **momentum matrix** M: it becomes μ M + (1 − μ) G at each step, with μ (mu) near 0.9.
#
# Every matrix can be written as $M = U S V^T$, its **singular value decomposition** (SVD). The columns of
# U and V are directions, at right angles to each other. S is diagonal and contains the singular values,
# none of them negative. Read it as a list of commands: "for input direction v, push output direction u,
# with strength s".
#
# By hand: the matrix below sends the second input to the first output with strength 3, and the first
# input to the second output with strength 0.1.

# %% tags=["nbval-check-output"]
M = torch.tensor([[0.0, 3.0], [0.1, 0.0]])
U, S, Vt = torch.linalg.svd(M)
print("singular values:", [round(s, 4) for s in S.tolist()])
print("U V^T:", (U @ Vt).round().abs().int().tolist())

# %% [markdown]
# A step along M follows the first command 30 times as strongly as the second. A step along $U V^T$
# follows both equally.
#
# Are real momenta like that? Train a small PicoLM briefly and look.

# %%
from picolm_lib.course.muon import spectrum

momenta = spectrum.momentum_matrices(steps=60 if PRESET != "smoke" else 10)

# %%
from picolm_lib.course.muon import pictures

names = ("blocks.1.mlp.up", "blocks.1.attn.q", "blocks.1.attn.out", "blocks.2.mlp.down")
pictures.draw_spectra({name: momenta[name] for name in names}, "Four momentum matrices")

# %% [markdown]
# *What to see: on the left, a corner of a momentum matrix; on the right, its singular values fall much
# faster than those of a random matrix (dashed), so a few directions dominate.*
#
# In numbers: what share of a matrix's squared Frobenius norm is in its five largest singular values?

# %%
for name in names:
    shape = tuple(momenta[name].shape)
    noise = torch.randn(shape, generator=torch.Generator().manual_seed(SEED))
    share, expected = (spectrum.share_of_largest(m) for m in (momenta[name], noise))
    print(f"{name:<18} {str(shape):<10} five of {min(shape)}: {share:.0%}; random: {expected:.0%}")
    assert share > expected

# %% [markdown]
# When this notebook was built, five of 64 directions had about half of it. Plain momentum spends its step
# on them. The rare directions, which may matter just as much, hardly move.
#
# Compute the average yourself, and compare it with the library's state:

# %%
from picolm_lib.train.muon import MuonAdamW

weight = torch.nn.Parameter(torch.zeros(4, 6))
optimizer = MuonAdamW([{"kind": "muon", "params": [weight], "rows": None}], momentum=0.9)
mine = torch.zeros(4, 6)
for gradient in torch.randn(5, 4, 6, generator=torch.Generator().manual_seed(SEED)):
    mine = 0.9 * mine + 0.1 * gradient
    weight.grad = gradient
    optimizer.step()
torch.testing.assert_close(mine, optimizer.state[weight]["momentum_buffer"])

# %% [markdown]
# One detail: early gradients change direction quickly, so a long average of them would lag behind.
# `train/schedule.py` therefore raises μ from 0.85 to 0.9 over the first steps.

# %%
from picolm_lib.config import PRESETS

pictures.draw_warm_up(PRESETS["nano"].train, steps=1_200)

# %% [markdown]
# *What to see: on the left, the learning rate warms up, stays constant, and falls to zero over the last
# half; on the right, Muon's momentum rises over its first 300 steps.*

# %% [markdown]
# ## 3. Orthogonalize: by SVD, then by Newton-Schulz
#
# We want $U V^T$: the momentum with all singular values set to 1. An SVD gives it exactly, but slowly.
# There is a way with matrix products alone. Multiply out: $(M M^T) M = U S^3 V^T$. The directions stay
# the same, and every singular value is cubed. So an odd polynomial of matrices,
#
# $$a X + b\,(X X^T) X + c\,(X X^T)^2 X,$$
#
# turns each singular value s into $a s + b s^3 + c s^5$. Choose a, b, c so that this pulls s towards 1,
# and repeat. That is **Newton-Schulz iteration**.

# %%
pictures.draw_polynomials()

# %% [markdown]
# *What to see: the classical polynomials end at exactly 1, but raise small values slowly; Jordan's is
# about twice as steep at zero, and in return fluctuates around 1.*
#
# By hand, with Jordan's coefficients and s = 0.1: 3.4445 · 0.1 − 4.7750 · 0.001 + 2.0315 · 0.00001 =
# 0.3397. Again, from there: 0.9921. (The polynomials need s between 0 and 1.)

# %% tags=["nbval-check-output"]
A, B, C = 3.4445, -4.7750, 2.0315
s = 0.1
for step in range(1, 6):
    s = A * s + B * s**3 + C * s**5
    print(f"after {step}: {s:.4f}")

# %% [markdown]
# Now for matrices. First divide by the **Frobenius norm**, the root of the sum of all squares. No
# singular value is larger than this norm, so afterwards all of them are at most 1. And transpose tall
# matrices: then $X X^T$ is the smaller of the two possible products.

# %%
from picolm_lib.course.start import show_source
from picolm_lib.train.muon import newton_schulz


def my_newton_schulz(matrix, steps=5):
    X = matrix.float()
    X = X / X.square().sum().sqrt()
    tall = X.shape[0] > X.shape[1]
    X = X.T if tall else X
    for _ in range(steps):
        gram = X @ X.T
        X = A * X + (B * gram + C * gram @ gram) @ X
    return X.T if tall else X

for M in momenta.values():
    torch.testing.assert_close(my_newton_schulz(M), newton_schulz(M), rtol=1e-3, atol=1e-3)
show_source(newton_schulz)

# %% [markdown]
# The library does the same for a whole stack of matrices, in the number format of your choice, and guards
# against tiny and zero matrices. `baddbmm` is a product and a sum in one, for stacks.
#
# Compare with the exact result:

# %%
M = momenta["blocks.1.mlp.up"]
U, S, Vt = torch.linalg.svd(M, full_matrices=False)
exact, quick = U @ Vt, my_newton_schulz(M)
similarity = torch.cosine_similarity(exact.flatten(), quick.flatten(), dim=0).item()
after = torch.linalg.svdvals(quick)
print(f"singular values before: {S.min() / S.max():.3f} to 1, relative to the largest")
print(f"after Newton-Schulz: {after.min():.2f} to {after.max():.2f}; by SVD they are all 1")
print(f"cosine between the two results: {similarity:.3f}")
assert similarity > 0.9 and after.max() < 1.3

# %%
pictures.draw_orthogonal({"momentum M": M, "U Vᵀ by SVD": exact, "Newton-Schulz": quick})

# %% [markdown]
# *What to see: above, corners of the matrices (the tall one transposed); below, each matrix times its own
# transpose. The momentum's rows have very different lengths; the other two leave an even diagonal: rows
# of nearly equal length, at right angles to each other.*
#
# Is it worth it? Time both on matrices of `pico`'s size.

# %%
import time

stack = torch.randn(4, 384, 384)

def seconds(function):
    function(stack)
    started = time.perf_counter()
    function(stack)
    return time.perf_counter() - started

svd, products = seconds(torch.linalg.svd), seconds(newton_schulz)
print(f"four matrices of 384 x 384: SVD {1e3 * svd:.0f} ms, Newton-Schulz {1e3 * products:.0f} ms")
try:
    torch.linalg.svd(stack.bfloat16())
except (RuntimeError, NotImplementedError):
    print("PyTorch has no SVD in bfloat16")

# %% [markdown]
# On a CPU in float32, the two may take about the same time. What matters is something else: matrix
# products are what GPUs are built for, and they can run in 16 bits. An SVD cannot.
#
# **What goes wrong without dividing by the norm?** A singular value of 3 becomes 375 in one step, and
# soon after NaN:

# %% tags=["nbval-check-output"]
s = torch.tensor(3.0)
for _ in range(4):
    s = A * s + B * s**3 + C * s**5
    print(f"{s.item():.3g}")

# %% [markdown]
# ## 4. Sixteen bits, and why to normalize in float32 first
#
# The result does not have to be exact: the singular values end up anywhere between 0.7 and 1.2 anyway. So
# the products can run in 16 bits, which is several times faster on GPUs. **bfloat16** (bf16) has few
# digits and float32's range. **float16** (fp16) has more digits and a small range: below 0.00006 it loses
# digits, and below 0.00000003 everything is 0. A T4 is fast only in fp16.
#
# Gradients are tiny, and their squares even more so. If you cast first and normalize afterwards, you have
# lost them before the first product.

# %% tags=["nbval-check-output"]
tiny = torch.tensor([1e-4, 1e-6, 1e-8])
print("in float16:", [f"{x:.3g}" for x in tiny.half().tolist()])
print("squared in float16:", [f"{x:.3g}" for x in tiny.half().square().tolist()])

# %% [markdown]
# **Predict:** you have a gradient whose numbers are about 0.000001 (1e-6). You cast it to float16 and do
# everything else as before. How large is the error: 1%, 10%, 100%?

# %%
def careless(matrix, steps=5):
    """Casts first, and does everything in float16."""
    X = matrix.half()
    X = X / (X.square().sum().sqrt() + 1e-7)
    for _ in range(steps):
        gram = X @ X.T
        X = A * X + (B * gram + C * gram @ gram) @ X
    return X

wide = momenta["blocks.1.mlp.up"].T
G = 1e-6 * wide / wide.square().mean().sqrt()
right = newton_schulz(G)
wrong = spectrum.relative_error(careless(G), right)
good = spectrum.relative_error(newton_schulz(G, dtype=torch.float16), right)
print(f"all in float16: {wrong:.0%} wrong (NaN counts as 100%)")
print(f"normalized in float32, then float16: {good:.1%} wrong")
assert wrong > 0.9 and good < 0.1

# %%
sizes = [10.0**exponent for exponent in range(-9, 0)]
pictures.draw_errors(sizes, spectrum.errors_by_size(sizes, wide),
                     [M.square().mean().sqrt().item() for M in momenta.values()])

# %% [markdown]
# *What to see: normalized in float32 first, the error is the same for every size; entirely in float16 it
# is 100% at 1e-5 and below; with a norm in float32, a cast that comes too early still ruins 1e-7 and
# below.*
#
# The black ticks are the momenta that you have just seen. Some are where the careless way already fails.
# Loss scaling, which you meet in notebook 05, does not help here: the optimizer sees gradients from which
# the scale has been removed.
#
# And bf16? Its range is large enough, but it has fewer digits:

# %%
for name in names:
    full = newton_schulz(momenta[name])
    errors = [spectrum.relative_error(newton_schulz(momenta[name], dtype=dtype), full)
              for dtype in (torch.float16, torch.bfloat16)]
    print(f"{name:<18} fp16 {errors[0]:.1%}, bf16 {errors[1]:.1%}")
    assert errors[0] < 0.2 and errors[1] < 0.7

# %% [markdown]
# ## 5. The whole step, equal to torch.optim.Muon
#
# Muon's step for a matrix W of shape (rows, cols), with gradient G:
#
# 1. M becomes μ M + (1 − μ) G.
# 2. **Nesterov**: look ahead, D = μ M + (1 − μ) G, with the new M.
# 3. Orthogonalize: O = Newton-Schulz(D).
# 4. W becomes W − rate · sqrt(max(1, rows / cols)) · O.
#
# The root in step 4 is the **update scale**. An orthogonalized matrix maps an input of length 1 to an
# output of length at most about 1, spread over `rows` outputs. With more outputs than inputs, each would
# get less, and the root compensates for that. So one learning rate works for all shapes.
#
# By hand: a (256, 64) matrix gets sqrt(4) = 2, a (64, 256) matrix gets 1.

# %% tags=["nbval-check-output"]
from picolm_lib.train.muon import update_scale


def my_muon(W, G, M, rate, keep):
    M = keep * M + (1 - keep) * G
    D = keep * M + (1 - keep) * G
    scale = max(1, W.shape[0] / W.shape[1]) ** 0.5
    return W - rate * scale * my_newton_schulz(D), M

print([update_scale(*shape) for shape in ((256, 64), (64, 256), (64, 64))])

# %% [markdown]
# Take five steps with the same gradients, three times: with your function, with the library, and with
# PyTorch. `adjust_lr_fn="original"` is PyTorch's name for the same scale, and its `momentum` with
# Nesterov is the default. PyTorch always computes in bfloat16, so we make the library do the same.

# %%
generator = torch.Generator().manual_seed(SEED)
shape, begin = (24, 8), torch.randn(24, 8, generator=generator)
W, M = begin.clone(), torch.zeros(shape)
ours, rough, theirs = (torch.nn.Parameter(begin.clone()) for _ in range(3))

def library(parameter, dtype):
    group = {"kind": "muon", "params": [parameter], "rows": None}
    return MuonAdamW([group], muon_lr=0.05, momentum=0.9, dtype=dtype)

optimizers = [library(ours, torch.float32), library(rough, torch.bfloat16), torch.optim.Muon(
    [theirs], lr=0.05, momentum=0.9, weight_decay=0.0, adjust_lr_fn="original")]
for _ in range(5):
    G = torch.randn(shape, generator=generator)
    W, M = my_muon(W, G, M, rate=0.05, keep=0.9)
    for parameter, optimizer in zip((ours, rough, theirs), optimizers, strict=True):
        parameter.grad = G.clone()
        optimizer.step()

# %%
torch.testing.assert_close(W, ours.detach())
torch.testing.assert_close(rough.detach(), theirs.detach(), atol=0.02, rtol=0.02)
moved = (ours - begin).detach()
print(f"moved by {moved.norm():.3f}")
print(f"library in bf16 against torch.optim.Muon: {(rough - theirs).norm() / moved.norm():.2%}")
print(f"library in fp32 against torch.optim.Muon: {(ours - theirs).norm() / moved.norm():.2%}")
show_source(MuonAdamW._muon, MuonAdamW.orthogonalize)

# %% [markdown]
# Your function and the library agree in float32. The library in bf16 and PyTorch agree, except for bf16
# rounding. Starting an operation costs a GPU's program a few microseconds, however small the matrix. So
# `_muon` gives each operation a whole list, and `orthogonalize` stacks all matrices of one shape.
#
# **What would go wrong without the scale?** Take three layers with 64 inputs and more and more outputs.
# How much does one step change each output?

# %%
x = torch.randn(1_000, 64, generator=generator)             # inputs of about size 1
for rows in (64, 256, 1_024):
    step = newton_schulz(torch.randn(rows, 64, generator=generator))
    change = (x @ step.T).square().mean().sqrt().item()
    print(f"{rows:>5} outputs: change {change:.2f} without the scale, "
          f"{change * update_scale(rows, 64):.2f} with it")
    assert 0.6 < change * update_scale(rows, 64) < 1.3

# %% [markdown]
# PicoLM's `gate` and `up` have more rows than columns. Without the scale their steps would be too short,
# the more so the wider they are, and each shape would need its own learning rate.

# %% [markdown]
# ## 6. Which parameters get Muon
#
# Muon is for **hidden matrices**: those inside the blocks, which map a vector to a vector. Everything
# else gets AdamW:
#
# - norms and biases are vectors, which have no singular values;
# - in the embedding and the output layer, each row belongs to one token. Most tokens are rare, and
#   directions across rows have no meaning.
#
# The fused qkv is three matrices stacked on top of each other, orthogonalized separately as q, k and v.
# The gate is one matrix per head. Still, it is all **one optimizer**, with two kinds of groups: one
# `step`, one `state_dict`.

# %%
pictures.draw_groups(PRESETS["nano"].model,
                     "nano: Muon for the hidden matrices, AdamW for the rest")

# %% [markdown]
# *What to see: blue parts get Muon, orange ones AdamW; embedding and output layer are the largest single
# parts.*
#
# Group them yourself, by name and shape, and compare. Every parameter must be in exactly one group.

# %% tags=["nbval-check-output"]
from picolm_lib.model.picolm import PicoLM
from picolm_lib.train.muon import parameter_groups

model = PicoLM(PRESETS["nano"].model)
mine = {name for name, p in model.named_parameters() if name.startswith("blocks.") and p.ndim >= 2}
groups = parameter_groups(model)
members = [id(p) for group in groups for p in group["params"]]
assert sorted(members) == sorted(id(p) for p in model.parameters())     # each exactly once
muon = {id(p) for group in groups if group["kind"] == "muon" for p in group["params"]}
assert {name for name, p in model.named_parameters() if id(p) in muon} == mine
for group in groups:
    count = sum(p.numel() for p in group["params"])
    print(f"{group['kind']:<6} {len(group['params']):>3} tensors {count:>9,} numbers, "
          f"rows {group.get('rows')}")

# %%
show_source(parameter_groups)

# %% [markdown]
# The first group is the fused qkv: of its 192 rows, 128 are q, 32 are k and 32 are v. Fused and separate
# do not give the same result, since each matrix is normalized by itself:

# %%
qkv = torch.nn.Parameter(torch.zeros(192, 128))
qkv.grad = torch.randn(192, 128, generator=torch.Generator().manual_seed(SEED))
MuonAdamW([{"kind": "muon", "params": [qkv], "rows": (128, 32, 32)}], muon_lr=1.0).step()
parts = [-newton_schulz(part) for part in qkv.grad.split((128, 32, 32))]
torch.testing.assert_close(qkv.detach(), torch.cat(parts), rtol=1e-3, atol=1e-3)
whole = -update_scale(192, 128) * newton_schulz(qkv.grad)
print(f"apart against fused: {(qkv - whole).norm() / whole.norm():.0%} of the step differs")

# %% [markdown]
# **What if the output layer went to Muon?** It is one matrix, but a huge one. Count the operations of
# Newton-Schulz, and measure the time for `nano`:

# %%
for name in ("nano", "pico"):
    config = PRESETS[name].model
    shapes = spectrum.muon_shapes(config)
    hidden = sum(spectrum.products_flops(*shape) for shape in shapes)
    table = spectrum.products_flops(config.vocab_size, config.d_model)
    print(f"{name}: all {len(shapes)} hidden matrices {hidden / 1e9:.1f} GFLOP per step, "
          f"the output layer alone {table / 1e9:.1f}")
nano = PRESETS["nano"].model
inside = spectrum.products_seconds(spectrum.muon_shapes(nano))
table = spectrum.products_seconds([(nano.vocab_size, nano.d_model)])
print(f"nano, measured: hidden {1e3 * inside:.0f} ms, output layer {1e3 * table:.0f} ms more")

# %% [markdown]
# The output layer would nearly double the work of `pico`: one matrix almost as costly as 132 others. And
# what does it do to the loss? You will see that before the end.

# %% [markdown]
# ## Your turn
#
# Three exercises and a bug hunt. Each check tells you what is wrong. For an unchanged stub it says "Not
# yet".

# %% [markdown]
# ### Exercise 1: Newton-Schulz (medium, 15 minutes)

# %%
from picolm_lib.course.muon import checks


def newton_schulz_of(matrix, steps):
    """Jordan's iteration, in float32, for a matrix of any floating dtype.

    matrix: (M, N), also tall ones. Returns (M, N), float32.
    """
    raise NotImplementedError  # your code


newton_schulz_of = checks.newton_schulz(newton_schulz_of)

# %% [markdown]
# <details><summary>Hint 1</summary>
#
# Convert to float32 before you square anything. Divide once by the root of the sum of all squares.
#
# </details>
# <details><summary>Hint 2</summary>
#
# `gram = X @ X.T`, then `a * X + (b * gram + c * gram @ gram) @ X`.
#
# </details>
# <details><summary>Solution</summary>
#
# ```python
# def newton_schulz_of(matrix, steps):
#     X = matrix.float()
#     X = X / X.square().sum().sqrt()
#     for _ in range(steps):
#         gram = X @ X.T
#         X = 3.4445 * X + (-4.7750 * gram + 2.0315 * gram @ gram) @ X
#     return X
# ```
#
# Transposing tall matrices saves work, but does not change the result.
#
# </details>

# %% [markdown]
# ### Exercise 2: Nesterov's momentum (easy, 5 minutes)

# %%
def nesterov(momentum, gradient, keep):
    """One update of the momentum, and the direction to orthogonalize.

    momentum, gradient: (M, N). keep: mu, such as 0.9.
    Returns (new momentum, direction), both (M, N).
    """
    raise NotImplementedError  # your code


nesterov = checks.nesterov(nesterov)

# %% [markdown]
# <details><summary>Hint 1</summary>
#
# Both results are averages: keep times something plus (1 - keep) times the gradient.
#
# </details>
# <details><summary>Hint 2</summary>
#
# For the direction, that something is the *new* momentum. Do not change the old one in place.
#
# </details>
# <details><summary>Solution</summary>
#
# ```python
# def nesterov(momentum, gradient, keep):
#     new = keep * momentum + (1 - keep) * gradient
#     return new, keep * new + (1 - keep) * gradient
# ```
#
# </details>

# %% [markdown]
# ### Exercise 3: sort the parameters (easy, 5 minutes)

# %%
def sort_parameters(shapes):
    """Which parameters get Muon, and which AdamW.

    shapes: name -> shape, such as {"blocks.0.attn.gate": (4, 16, 16), "final_norm.weight": (64,)}.
    Returns {"muon": [names], "adamw": [names]}, each in the order given.
    """
    raise NotImplementedError  # your code


sort_parameters = checks.sort_parameters(sort_parameters)

# %% [markdown]
# <details><summary>Hint 1</summary>
#
# Print the names: `[name for name, _ in model.named_parameters()]`.
#
# </details>
# <details><summary>Hint 2</summary>
#
# Two conditions: the name begins with `blocks.`, and the shape has at least two axes.
#
# </details>
# <details><summary>Solution</summary>
#
# ```python
# def sort_parameters(shapes):
#     muon = [name for name, shape in shapes.items()
#             if name.startswith("blocks.") and len(shape) >= 2]
#     return {"muon": muon, "adamw": [name for name in shapes if name not in muon]}
# ```
#
# </details>

# %% [markdown]
# ### Bug hunt: the patient (medium, 10 minutes)
#
# Somebody changed one line, and the model learns more slowly than it should. Three suspects:
#
# - `"half"`: Newton-Schulz normalizes in 16 bits;
# - `"output"`: the output layer was given to Muon;
# - `"seed"`: all blocks were drawn from the same seed, so they start as copies of each other.
#
# The cell trains a healthy model and the patient. Halfway through, it looks at how one step changed two
# matrices: at the singular values of the change.

# %%
from picolm_lib.course.muon import hunt

hunt.examine()

# %% [markdown]
# *What to see: A, which one learns faster; B, how similar two blocks are at the start (1.00 means
# copies); C and D, whether a step's spectrum is flat, with equal singular values, or steep, with a few
# that dominate.*

# %%
suspect = None  # "half", "output" or "seed"

checks.bug_hunt(suspect)

# %% [markdown]
# <details><summary>Hint 1</summary>
#
# What does Muon do to the singular values of a step? What does AdamW?
#
# </details>
# <details><summary>Hint 2</summary>
#
# Compare the healthy model and the patient in C, then in D. Where do they differ?
#
# </details>
# <details><summary>Solution</summary>
#
# It is `"output"`. A healthy step of the output layer has a steep spectrum, because AdamW makes it. The
# patient's is flat, because Muon does. In this run that made the loss clearly worse, besides the time
# that you counted in section 6.
#
# </details>

# %% [markdown]
# ## Playground
#
# The stepper once more, on a momentum matrix from your own training: the queries of block 1. How many
# iterations does the classical cubic need to raise the middle one of its 64 singular values to 0.7? How
# many does Jordan's quintic need? And what does bf16 do to the cubic?

# %%
spectrum_stepper(momenta["blocks.1.attn.q"])

# %% [markdown]
# *What to see: Jordan's quintic brings nearly all directions to about 1 in five iterations; the classical
# cubic needs more than twice as many, but what it has raised is at exactly 1.*

# %% [markdown]
# ## Does it matter?
#
# A race: the same small model (0.4 million parameters), the same stories. "AdamW alone" gives the hidden
# matrices to AdamW too. Both sides have the same AdamW for the rest. Each side gets its own best learning
# rate out of four. The number is bits per byte on stories that the model has not seen; lower is better.
#
# **Predict:** which one wins at equal tokens? And at equal seconds, when AdamW can read more?

# %%
from picolm_lib.course.muon import duel, duel_pictures

swept = {"adamw": duel.sweep("adamw", (0.0003, 0.001, 0.003, 0.01))}

# %%
swept["muon"] = duel.sweep("muon", (0.0025, 0.005, 0.01, 0.02))
rates = {rule: duel.best(found) for rule, found in swept.items()}
print("best learning rates:", rates)

# %%
duel_pictures.draw_sweep(swept)

# %% [markdown]
# *What to see: each curve's lowest point (ringed) is the rate that this side races with; if the curve is
# flat around it, the choice matters little. AdamW's is at the edge of its sweep, so a rate beyond it
# might do a little better.*
#
# Now the race, with three fresh seeds each. First at equal tokens:

# %%
SEEDS = (1, 2, 3)
equal_tokens = {"adamw": duel.race("adamw", rates["adamw"], SEEDS)}

# %%
equal_tokens["muon"] = duel.race("muon", rates["muon"], SEEDS)

# %% [markdown]
# Muon's step takes longer. How much longer on your machine? The two take turns, and the median counts.
# Then AdamW gets as many tokens as fit into Muon's time, and a learning-rate schedule that ends there.

# %%
per_step = duel.step_seconds()
print({rule: f"{1e3 * seconds:.0f} ms per step" for rule, seconds in per_step.items()})
more = duel.tokens_in_equal_time(per_step)
print(f"in the same time: Muon {duel.budget():,} tokens, AdamW {more:,}")
equal_seconds = {"adamw": duel.race("adamw", rates["adamw"], SEEDS, more),
                 "muon": equal_tokens["muon"]}

# %%
print(duel_pictures.race_table(equal_tokens, equal_seconds))
duel_pictures.draw_race(equal_tokens, equal_seconds, per_step)

# %% [markdown]
# *What to see: the bands reach from the best to the worst of three seeds; where they do not touch, the
# difference is more than noise.*
#
# When this notebook was built, Muon won the short race by a wide margin: about 0.74 bits per byte against
# 0.97 at equal tokens. Its step took a fifth to a quarter longer, depending on the machine, and AdamW
# could not use that time well enough: at equal seconds it reached about 0.9. The bands were far apart, so
# it was not luck. At the first point, after 16 steps, both were equal.
#
# These runs are very short, and the stories are simple. A longer comparison took hours, and its results
# come with the package: 6 layers, TinyStories, three seeds each, and AdamW's rate for the hidden matrices
# from a sweep of eight. Differences are in bits per byte from the default with the same seed.

# %%
from picolm_lib.course import ablation_results

print(ablation_results.about())
ablation_results.draw("cpu", "04")

# %% [markdown]
# *What to see: a filled point is further from zero than noise explains. To the right of zero, the
# default, with Muon for only the hidden matrices, is better.*

# %%
ablation_results.table("cpu", "04")

# %% [markdown]
# AdamW alone ends 0.06 bits per byte worse. Its best rate, 0.000125, is not at the edge of the sweep; at
# 0.001 it would be 0.09 worse. Its steps take 15% less time, so in equal seconds it could read a sixth
# more. With Muon for the output layer, at the better of two rates, the model ends 0.01 worse: its rows
# belong to single tokens, and AdamW suits them better.
#
# Muon also had a home advantage. PicoLM's other settings, such as AdamW's rate for the embedding and its
# betas, were tuned with Muon, and AdamW alone had to use them.

# %% [markdown]
# ## Recap
#
# - AdamW scales single weights; Muon scales the directions of a whole matrix.
# - Real momenta are dominated by a few directions; Muon steps along $U V^T$, where all of them count
#   equally.
# - Newton-Schulz gets there with matrix products: normalize, then repeat an odd polynomial.
# - Normalize in float32 first: squares of tiny gradients are zero in float16.
# - Hidden matrices get Muon; embedding, output layer, norms and biases get AdamW; one optimizer contains
#   both.

# %% [markdown]
# ## Three questions
#
# **1.** Two gradients differ only by a factor of 1,000. How do Muon's first steps along them differ?
#
# <details><summary>Answer</summary>
#
# Not at all: the norm removes the factor. Only the learning rate and the update scale decide the length.
#
# </details>
#
# **2.** Why is it fine for the singular values to end between 0.7 and 1.2, and not at 1?
#
# <details><summary>Answer</summary>
#
# What matters is that rare directions get about as long a step as common ones. A polynomial that is steep
# at zero, and so raises small values in few steps, is worth more than an exact result.
#
# </details>
#
# **3.** A colleague's fused qkv is orthogonalized as one matrix. Is that a bug?
#
# <details><summary>Answer</summary>
#
# Nothing breaks, but it is a different step: q, k and v are three maps, and this also forces their
# directions to be at right angles to each other. This project's benchmark found no clear difference in
# the end.
#
# </details>

# %% [markdown]
# ## Experiment
#
# Is the exact $U V^T$ better than Newton-Schulz's approximation? Write an optimizer that uses
# `torch.linalg.svd`, and let it race with three seeds. Or race longer:
# `duel.race(rule, rate, seeds, tokens=1_000_000)`, with a new sweep.

# %% [markdown]
# Next you put all parts together, and train the real model against the clock.
#
# ## References
#
# - Boris Polyak, "Some methods of speeding up the convergence of iteration methods", 1964 (momentum).
# - Yurii Nesterov, "A method for solving the convex programming problem with convergence rate
#   O(1/k²)", 1983.
# - Diederik Kingma and Jimmy Ba, "Adam: A Method for Stochastic Optimization", 2015.
# - Ilya Loshchilov and Frank Hutter, "Decoupled Weight Decay Regularization", 2019.
# - Keller Jordan et al., "Muon: An optimizer for hidden layers in neural networks", 2024.
# - Jeremy Bernstein and Laker Newhouse, "Old Optimizer, New Norm: An Anthology", 2024 (Newton-Schulz for
#   gradients).
# - Jingyuan Liu et al., "Muon is Scalable for LLM Training", 2025.
#
# {neighbors}
