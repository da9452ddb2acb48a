# %% [markdown]
# # 05. Training on a T4
#
# {badge}
#
# After this notebook you can
#
# - calculate what a run costs before you start it: FLOPs, memory, minutes;
# - train in 16 bits, without storing all logits, with clipped gradients and a schedule, and explain each
#   of these;
# - watch your own run, stop it, resume it, and load the trained model.
#
# **Before you start:** Python, and a little PyTorch (tensors, autograd, an optimizer's `step`). The model
# is explained in notebooks 02 and 03, its optimizer in 04; here it is enough to know that they exist.
#
# **Time:** about 2 minutes to run on two CPU cores; about 25 minutes on a T4 (an estimate), 16 of them
# your own run; an hour to read.
#
# {neighbors}
#
# In Colab the first cell installs the package, which takes one to two minutes.

# %% tags=["setup", "gpu"]
# Generated: see notebooks/build.py

# %% [markdown]
# ## Settings
#
# The model follows your device: with a GPU it is `MODEL` on TinyStories, without one it is `nano` on the
# Storybook. `MINUTES = 0` means 16 minutes on a GPU and 1.2 on a CPU; training and its evaluations count.
# If the Hugging Face Hub cannot be reached, set `DATA` to `storybook`, which needs no network.
#
# Colab may take its machine back at any time, with all files on it. If `SAVE_TO_DRIVE` is ticked, your run
# is copied to your Google Drive every few minutes, and "Run all" on another machine goes on from there. A run
# of `pico` takes about 1 GB of your Drive, and its replaced copies up to 3 GB of the trash, which count until
# you empty it. `RUN` says which run: it continues an unfinished one of this model if there is one, else it is
# a new one; or name one, such as `05-2`. When you open the badge again, all fields are back to what you see
# here, so set `MODEL` as before.
#
# `PROMPT` is for the time machine and for the story after your run.

# %%
from picolm_lib.course.start import preset_name

MODEL = "pico"  # @param ["pico", "pico8k"]
MINUTES = 0  # @param {type:"number"}
DATA = "auto"  # @param ["auto", "storybook", "roneneldan/TinyStories"] {allow-input: true}
SAVE_TO_DRIVE = True  # @param {type:"boolean"}
RUN = "continue, else new"  # @param ["continue, else new", "new"] {allow-input: true}
PROMPT = "Once upon a time"  # @param {type:"string"}
SEED = 0  # @param {type:"integer"}
PRESET = preset_name(MODEL)

# %% [markdown]
# In Colab, the next cell asks for your permission to use your Drive, and "Run all" waits for your answer. If
# you decline, everything works, but your run lives only as long as Colab's machine.

# %%
from picolm_lib.course import drive

kept = drive.connect(SAVE_TO_DRIVE)

# %% [markdown]
# ## First, travel in time
#
# The small model that comes with this course was saved five times during training. Move the slider. The
# prompt and the random numbers stay the same; only the training progresses.

# %% tags=["cover"]
from picolm_lib.course.training.time_machine import time_machine

time_machine(PROMPT)

# %% [markdown]
# *What to see: the large orange dot is the checkpoint on the loss curve (the axis of tokens is
# logarithmic), and below is the story that it writes.*
#
# The **loss** is counted in nats, since it is a natural logarithm. **Bits per byte** says how well the model
# predicts new stories, whatever its tokenizer; lower is better. Section 5 calculates it.
#
# In this notebook you do such a run yourself.

# %% [markdown]
# ## 1. The budget first
#
# A **FLOP** is one multiplication or addition. Per token, each weight of a matrix costs 2 in the forward
# pass: one multiplication, one addition. The backward pass costs 4: for the gradient of the input and
# that of the weight. So **6 per weight and token**. The embedding is only looked up, so it costs nothing.
# Attention scores add $6 \cdot L \cdot D \cdot T$ for $L$ blocks of width $D$ and $T$ tokens of context
# (halved, because of the causal mask).
#
# **Predict:** `pico` has 12 blocks of width 384 and a vocabulary of 49,152 tokens. Which costs more, its
# blocks or its output layer?

# %%
from picolm_lib.config import PRESETS
from picolm_lib.course.training import budget

pico = PRESETS["pico"]
pass_tokens = pico.train.micro_batch_size * pico.model.max_seq_len
budget.draw_budget(pico.model, pass_tokens, "pico")

# %% [markdown]
# *What to see: the output layer alone takes almost half of the FLOPs; below, all logits of one pass (the
# 49,152 scores of every token) would need more memory than weights, gradients and the optimizer's averages
# together.*
#
# A step has 32 sequences of 384 tokens, 12,288 in all. `pico` takes them in two passes of 16 sequences.
#
# Check the FLOPs by hand. It takes only additions and multiplications; $V$ is the vocabulary, $E$ the width
# of a head:

# %% tags=["nbval-check-output"]
from picolm_lib.model.mlp import pyramid_widths
from picolm_lib.model.picolm import flops_per_token

D, L, T, V, E = 384, 12, 384, 49_152, 96
attention = L * (D * 6 * E + D * D + 4 * E * E)         # qkv (4 + 1 + 1 heads), out, 4 gates
mlp = 3 * D * sum(pyramid_widths(pico.model))           # gate, up, down
output = D * V
mine = 6 * (attention + mlp + output) + 6 * L * D * T
print(f"attention {attention:,}, MLP {mlp:,}, output {output:,} weights")
print(f"{mine:,} FLOPs per token, the library says {flops_per_token(pico.model):,}")
assert mine == flops_per_token(pico.model)

# %% [markdown]
# The optimizer costs FLOPs, too. Muon's Newton-Schulz iterations (notebook 04) run once per step, however
# many tokens it has.

# %% tags=["nbval-check-output"]
batch_tokens = pico.train.batch_size * pico.model.max_seq_len
muon = budget.muon_flops(pico.model)
print(f"Muon: {muon / 1e9:.0f} GFLOP per step, beside {mine * batch_tokens / 1e9:,.0f} for the "
      f"model: {muon / (mine * batch_tokens):.0%} more")
for share in (0.10, 0.15, 0.20):
    rate = share * 65e12 / (mine + muon / batch_tokens)
    print(f"at {share:.0%} of a T4's 65 TFLOP/s: {rate:,.0f} tokens/s, "
          f"{16 * 60 * rate / 1e6:.0f} million in 16 minutes of training alone")

# %% [markdown]
# Minutes are FLOPs divided by speed. A T4's data sheet promises 65 TFLOP/s in 16 bits. No small model gets
# near that; 10 to 20% is what we expect. So these are **estimates**: nobody has measured this run on a T4
# yet. Evaluations take about a minute of your 16, so your plan will say a little less.
#
# `pico8k` has the same blocks and a vocabulary of 8,192 tokens that were made for TinyStories. They cut its
# stories into as many pieces as SmolLM's 49,152 do: 210 tokens per story, against 212.
#
# **Predict:** how much faster is it, and how much memory does it save?

# %%
budget.predict()

# %% [markdown]
# The table counts the memory of a step in float16. 39.3 million tokens are what the original project's
# configuration trains on: 800 steps of 49,152. `pico` stays the default, since it is that configuration. To
# try `pico8k`, set `MODEL` in Settings: it reads the same download, and needs a token file of its own, which
# takes a minute or two.
#
# Now measure, on this machine: a few real steps on *random* tokens. They take as long as real ones, so you
# know the length of your run before anything is downloaded. For comparison there is a plain product of two
# matrices, the best that this machine can do.
#
# **Predict:** what share of that will training reach?

# %%
from picolm_lib.course.training.plans import plan_run

plan = plan_run(PRESET, DATA, MINUTES, SEED, RUN, kept)
speed, sketch = plan.speed, plan.sketch
best = budget.matmul_flops(sketch.device, sketch.precision.dtype)
print(f"{PRESET}: {speed.tokens_per_second:,.0f} tokens/s, {speed.flops_per_second / 1e9:,.1f} "
      f"GFLOP/s; a plain product {best / 1e9:,.1f}: {speed.flops_per_second / best:.0%} of it")
predicted = budget.predicted_memory(plan.config.model, sketch.config, sketch.precision.dtype)
measured = budget.measured_memory(sketch)
print(f"memory: {predicted / 1e6:,.0f} MB counted beforehand, {measured / 1e6:,.0f} MB measured")
print(plan.describe())

# %% [markdown]
# Where does the rest go? Into waiting: norms, softmax and the optimizer move a lot of memory for few FLOPs.
# (Other programs on your machine count too. The share is one of what this machine reached, not of a data
# sheet.) The memory was counted with the kernels of a GPU; a CPU's may need up to a fifth more, or less.
#
# The minutes have now become a number of tokens, so the schedule of the whole run is fixed. If the machine
# becomes slower, as a hot T4 does, the run takes longer, and stays the same run. So do the copies to Drive, a
# few seconds to half a minute each.

# %%
from picolm_lib.course.start import show_source

show_source(flops_per_token)

# %% [markdown]
# ## 2. Sixteen bits
#
# A T4 multiplies float16 numbers eight times faster than float32 ones. But 16 bits can represent less.
# **bfloat16** keeps float32's range and gives up digits. **float16** keeps three digits and gives up
# range: above about 65,504 everything is infinity, and its smallest number is 2^-24 = 0.00000006, so that
# everything below half of that becomes zero. Of the two, a T4 has hardware for float16 only.
#
# *Mixed precision* uses 16 bits for the matrix products and 32 bits for everything that must be precise:
# the weights, the optimizer, sums, the loss.
#
# The picture compares the formats with real gradients: of the trained nano model, on eight windows of
# stories, computed in float32.

# %%
from picolm_lib.course.training import mixed_precision
from picolm_lib.data.batches import Batches
from picolm_lib.data.corpus import load_corpus
from picolm_lib.data.tokens import tokenize_corpus
from picolm_lib.train.checkpoint import load_run

model, tokenizer, _ = load_run("bundled")
stories = tokenize_corpus(load_corpus("storybook", 400), tokenizer, show_progress=False)["train"]
inputs, targets = Batches(stories.tokens, 256, 8, SEED).next()
gradients = mixed_precision.real_gradients(model, inputs, targets)
mixed_precision.draw_ranges(gradients)

# %% [markdown]
# *What to see: the two bands, each with 98% of the gradients, reach beyond the left end of float16's bar;
# the light part of a bar has fewer and fewer digits.*
#
# **Predict** the five numbers, then run the cell.

# %% tags=["nbval-check-output"]
import torch

half, brain = torch.float16, torch.bfloat16
print("70,000 in float16: ", torch.tensor(70_000.0).to(half).item())
print("4e-8 in float16:   ", torch.tensor(4e-8).to(half).item())
print("2e-8 in float16:   ", torch.tensor(2e-8).to(half).item())
print("2,049 in float16:  ", torch.tensor(2_049.0).to(half).item())
print("257 in bfloat16:   ", torch.tensor(257.0).to(brain).item())

# %% [markdown]
# Zeros are the danger: a gradient that became zero teaches nothing, and nothing crashes. The solution is
# simple. Multiply the *loss* by a large number, the **loss scale**. By the chain rule, all gradients are
# multiplied by it. Divide them by it in float32, before the optimizer sees them.
#
# The same gradients, rounded to float16 at many scales:

# %%
mixed_precision.draw_lost(gradients)

# %% [markdown]
# *What to see: without a scale (0 on the left) more than a tenth of either kind becomes exactly zero; at
# 2^16, where GradScaler starts, less than a fortieth; far to the right the weights' gradients become
# infinite.*
#
# Compute the share that vanishes yourself:

# %%
def vanished(values, scale):
    """Share of the nonzero values that become zero in float16."""
    values = values[values != 0]
    return ((values * scale).to(torch.float16) == 0).double().mean().item()

for name, values in gradients.items():
    without, scaled = vanished(values, 1), vanished(values, 2**16)
    torch.testing.assert_close(without, mixed_precision.lost(values, 1).zeros, rtol=1e-3, atol=1e-4)
    torch.testing.assert_close(scaled, mixed_precision.lost(values, 2.0**16).zeros,
                               rtol=1e-3, atol=1e-4)
    print(f"{name}: {without:.1%} vanish without a scale, {scaled:.1%} with 65,536")
    assert without > 0.1 and scaled < 0.025

# %% [markdown]
# Which scale is right? `GradScaler` finds out by trying. If any gradient is infinite, it skips the step
# and halves the scale. After a number of good steps it doubles the scale. Below, the weight is used in
# float16, so its gradient really overflows above 65,504. (By default it waits 2,000 steps; here it waits
# 3.)
#
# **Predict:** the gradient of `3 * weight` is 3. At which scale will the first step succeed?

# %% tags=["nbval-check-output"]
weight = torch.nn.Parameter(torch.ones(1))
sgd = torch.optim.SGD([weight], lr=0.1)
scaler = torch.amp.GradScaler("cpu", init_scale=2.0**16, growth_interval=3)
for step in range(9):
    loss = (3 * weight.to(torch.float16)).float().sum()
    scaler.scale(loss).backward()
    scaler.unscale_(sgd)                                    # back to their true size, in float32
    scale, gradient, before = scaler.get_scale(), weight.grad.item(), weight.item()
    scaler.step(sgd)                                        # does nothing after an overflow
    scaler.update()
    sgd.zero_grad()
    print(f"step {step}: scale {scale:>6.0f}, gradient {gradient}, "
          f"{'skipped' if weight.item() == before else 'stepped'}")

# %% [markdown]
# 3 · 2^14 = 49,152 fits, 3 · 2^15 = 98,304 does not. So it tries, backs off, and loses a step now and
# then. That is the price of float16. The library chooses the format in one place:

# %%
from picolm_lib.device import choose_precision

show_source(choose_precision)

# %% [markdown]
# ## 3. The loss without storing all logits
#
# For every token the model computes V scores, the **logits**. With 12,288 tokens and a vocabulary of
# 49,152 they take 12,288 · 49,152 · 4 bytes = 2.4 GB in float32. The softmax and the gradient each take
# as much again.
#
# But a token's loss needs only its own row. So process the rows in chunks: compute logits, loss and
# gradients of one chunk, add them up, and free the logits before the next chunk.
#
# **Predict:** with chunks of 128 rows, how does the peak grow with the number of rows?

# %%
from picolm_lib.course.training import memory

VOCABULARY, ROWS = 8_192, (256, 512, 1_024, 2_048)
peaks = memory.loss_peaks(ROWS, VOCABULARY, 64, 128)
memory.draw_memory(ROWS, peaks, VOCABULARY)

# %% [markdown]
# *What to see: the full loss needs about three times the size of the logits at its peak and grows with
# every row; the chunked loss stays nearly flat.*
#
# These peaks were measured with PyTorch's profiler, on the CPU. Calculate the bytes by hand, and scale
# them up to `pico`:

# %%
full, chunked = (found[-1] for found in peaks.values())
table = 4 * VOCABULARY * ROWS[-1]
print(f"all logits {table / 1e6:.0f} MB; peak {full / table:.2f} times that, in chunks "
      f"{chunked / table:.2f}")
print(f"pico, 12,288 tokens: {full / table * 4 * V * 12_288 / 1e9:.1f} GB by the same factor, "
      f"one chunk of 2,048 rows, as on a T4, {4 * V * 2_048 / 1e9:.1f} GB")
assert full > 2.5 * table and chunked < 0.5 * table

# %% [markdown]
# Now build it. `backward()` after each chunk adds its part to the gradients and frees its logits.

# %%
import torch.nn.functional as F


def my_loss(x, weight, targets, chunk):
    """Mean loss of (N, D) states under a (V, D) output layer; fills x.grad and weight.grad."""
    total = 0.0
    for rows, wanted in zip(x.split(chunk), targets.split(chunk), strict=True):
        part = F.cross_entropy(rows @ weight.T, wanted, reduction="sum") / len(targets)
        part.backward()
        total += part.item()
    return total


def fresh():
    generator = torch.Generator().manual_seed(SEED)
    x, weight = (torch.randn(n, 16, generator=generator, requires_grad=True) for n in (50, 200))
    return x, weight, torch.randint(200, (50,), generator=generator)

# %%
from picolm_lib.model.loss import linear_cross_entropy

x, weight, targets_ = fresh()
expected = F.cross_entropy(x @ weight.T, targets_)
expected.backward()

a, b, _ = fresh()
torch.testing.assert_close(my_loss(a, b, targets_, 7), expected.item())
c, d, _ = fresh()
loss = linear_cross_entropy(c, d, targets_, chunk_rows=7)
loss.backward()
torch.testing.assert_close(loss, expected)
for mine_, theirs in ((a, x), (b, weight), (c, x), (d, weight)):
    torch.testing.assert_close(mine_.grad, theirs.grad)
print("three losses, one value, the same gradients")

# %%
from picolm_lib.model.loss import _LinearCrossEntropy

show_source(_LinearCrossEntropy)

# %% [markdown]
# Notice that the library divides by the number of rows at the very end: a probability of 0.0001 survives
# float16; a 12,288th of it, 0.000000008, becomes zero.
#
# How much does it save on a T4? The table counts a whole step of `pico` in float16: weights, gradients,
# optimizer, activations and loss.

# %%
memory.on_a_t4()

# %% [markdown]
# A T4 has about 15 GB. So `pico` would fit there with all logits, too, even with its whole batch of 32 at a
# time. The chunks more than halve the memory of that batch, which makes room for longer contexts and wider
# models. They do not decide whether this run works.

# %% [markdown]
# ## 4. Clipping, and the schedule
#
# In plain gradient descent, a step is as long as the gradient times the learning rate, and gradients vary
# from batch to batch. **Clipping**
# measures the length of *all* gradients together, as if they were one long vector: the **global norm**. If
# it exceeds a limit, all gradients are multiplied by limit / norm. The direction stays the same. Section 5
# shows how often that happened in your own run.
#
# The **schedule** moves the learning rate: up for the first 2% of the run, then constant, then down to
# zero over the last half. It goes down because noise from single batches averages out when steps get
# small.
#
# By hand: gradients (3) and (4) have the norm 5. With a limit of 1 they become (0.6) and (0.8).

# %% tags=["nbval-check-output"]
def my_clip(gradients, limit):
    norm = torch.stack([g.square().sum() for g in gradients]).sum().sqrt()
    return [g * (limit / norm).clamp(max=1.0) for g in gradients], norm

clipped, norm = my_clip([torch.tensor([3.0]), torch.tensor([4.0])], limit=1.0)
print(f"norm {norm.item()}, clipped to {clipped[0].item():.1f} and {clipped[1].item():.1f}")

# %%
weights = [torch.nn.Parameter(torch.zeros(4, 5)), torch.nn.Parameter(torch.zeros(5))]
for limit in (1.0, 100.0):
    for p in weights:
        p.grad = torch.randn(p.shape, generator=torch.Generator().manual_seed(SEED))
    expected, norm = my_clip([p.grad for p in weights], limit)
    theirs = torch.nn.utils.clip_grad_norm_(weights, limit)
    torch.testing.assert_close(theirs, norm)
    for p, wanted in zip(weights, expected, strict=True):
        torch.testing.assert_close(p.grad, wanted)

# %% [markdown]
# The order matters: **unscale, then clip**. If clipped first, gradients that are 65,536 times too large
# would all be shortened to the limit and then divided by 65,536. Plain gradient descent would take a step
# of almost nothing. Muon and AdamW rescale what they get, so there the mistake is harder to notice.
#
# Now the schedule, by hand. With a decay of 0.5, after 75% of the run: (1 − 0.75) / 0.5 = 0.5.

# %%
from picolm_lib.course.training.schedules import draw_schedules
from picolm_lib.train.schedule import lr_factor

run_config = PRESETS["nano"].train


def my_factor(done, warmup=0.02, decay=0.5):
    """Rises over `warmup`, stays at 1, falls to 0 over the last `decay` of the run."""
    return min(1.0, done / warmup, (1 - done) / decay)

places = [i / 20 for i in range(21)]
for done in places:
    assert abs(my_factor(done) - lr_factor(done, run_config)) < 1e-12
assert my_factor(0.75) == 0.5
draw_schedules(run_config, [my_factor(done) for done in places])

# %% [markdown]
# *What to see: warm-up, stable, decay (WSD) stays at the full rate for half of the run; the cosine slows
# down from the start, and must know the end from the start.*

# %% [markdown]
# ## 5. Your run
#
# Now put all parts together. A step of training takes about ten lines: a batch; the schedule; the loss;
# scaled backward; unscale; clip; step. Here is the whole loop, for a small model and twenty steps. You have
# seen all of it except Muon's momentum, which rises during the first steps (notebook 04). It runs in float32
# on the CPU, even if you have a GPU, so that both loops below give the same bits.

# %%
from picolm_lib.course.training.small_runs import MODEL as SMALL
from picolm_lib.course.training.small_runs import small_config, small_files, small_trainer
from picolm_lib.model.picolm import PicoLM
from picolm_lib.train.muon import MuonAdamW, parameter_groups
from picolm_lib.train.schedule import momentum

config, files = small_config(SEED), small_files()
precision = choose_precision(config.device, config.dtype)       # float32 on the CPU: the same bits
net = PicoLM(SMALL, config.seed)
optimizer = MuonAdamW(parameter_groups(net), dtype=precision.dtype)
scaler = torch.amp.GradScaler(precision.device.type, enabled=precision.scales_gradients)
batches = Batches(files["train"].tokens, SMALL.max_seq_len, config.batch_size, config.seed)
steps = config.max_tokens // (config.batch_size * SMALL.max_seq_len)

# %%
losses = []
for step in range(steps):
    inputs, targets = precision.to_device(*batches.next())      # (B, T) each
    for group in optimizer.param_groups:
        group["lr"] = group["initial_lr"] * lr_factor((step + 0.5) / steps, config)
        group["momentum"] = momentum(step, config)
    with precision.autocast():                                  # 16 bits, where they are fast
        loss = net.loss(inputs, targets)
    scaler.scale(loss).backward()
    scaler.unscale_(optimizer)                                  # first unscale,
    torch.nn.utils.clip_grad_norm_(net.parameters(), config.grad_clip)          # then clip
    scaler.step(optimizer)                                      # skips an overflow
    scaler.update()
    optimizer.zero_grad()
    losses.append(loss.item())
print(f"{steps} steps, loss {losses[0]:.3f} to {losses[-1]:.3f}")

# %% [markdown]
# The library's `Trainer` takes the same steps. **Predict:** by how much do its losses differ?

# %%
trainer = small_trainer(seed=SEED)
theirs = [trainer.step()["loss"] for _ in range(steps)]
print("largest difference of a loss:", max(abs(a - b) for a, b in zip(losses, theirs)))
assert losses == theirs
weights = zip(net.parameters(), trainer.model.parameters(), strict=True)
assert all(torch.equal(p, q) for p, q in weights)

# %% [markdown]
# Not one bit. What the library adds is what a run of sixteen minutes needs: a batch in parts, if memory is
# short (section 6); a step that is skipped if its loss is not finite; metrics, evaluations and checkpoints;
# and an end at exactly the planned token.

# %%
from picolm_lib.train.trainer import Trainer

show_source(Trainer.step)

# %% [markdown]
# ### Get the data
#
# The next cell downloads and prepares what your run reads, and no more. It says first what that costs. If
# something interrupts it, run it again: it goes on where it was. (On a new machine it begins again, unless
# the tokens were on your Drive already.)

# %%
from picolm_lib.course.training.run import get_data

ready = get_data(plan)
for name, file in ready.files.items():
    print(f"{name}: {file.count.documents:,} documents, {file.count.tokens:,} tokens, "
          f"{file.bytes_per_token:.2f} bytes per token")

# %% [markdown]
# ### Train
#
# The next cell trains. Its picture is updated during the run, and below it you see how far the run is, how
# long it will take, and the story that the model writes at each of eight evaluations; the first one comes
# after an eighth of the run, about two minutes on a T4.
#
# You can press the stop button: the run is saved, and all cells below work with the model as it is. When you
# run this cell again, it goes on where it was; then run the cells below it again, too.
#
# If Colab throws you out, open the badge again, set `MODEL` as before, and choose "Run all": with
# `SAVE_TO_DRIVE` it goes on from the last copy. Leave the tab open, since Colab takes back idle machines.

# %%
from picolm_lib.course.training.live import Live, draw_norms
from picolm_lib.course.training.recorded import recorded

preset, data = ready.plan.config.preset, ready.train_config.data
live = Live(f"{preset} on {data}", recorded(preset, data))
trainer = ready.trainer(live)
scores = ready.train(trainer)

# %% [markdown]
# *What to see: on the left, the training loss of each step, its mean over neighboring steps, and the
# validation loss, with a dotted line where the learning rate begins to fall; on the right, bits per byte by
# tokens (the axis is logarithmic), with a recorded run in gray if there is one.*
#
# The gray run of `nano` is the bundled model's, over 8 million tokens: longer than yours on a CPU. That of
# `pico` is short: one pass over 1.7 million tokens of TinyStories, made on a CPU, since nobody has recorded a
# T4 yet. On a T4 it ends before your first point, and yours should go on downward from there. For `pico8k`
# there is none. A run improves most while its learning rate falls, and each run's falls at its own end, so
# the curves need not coincide.

# %%
minutes = trainer.progress.elapsed / 60
print(f"{trainer.progress.step:,} steps, {trainer.progress.tokens:,} tokens of "
      f"{trainer.total_tokens:,}, {minutes:.2f} minutes of training and evaluations so far; "
      f"{trainer.progress.skipped} steps skipped by the loss scale")
print(f"loss {scores.loss:.3f}, perplexity {scores.perplexity:.2f}, accuracy {scores.accuracy:.1%}")
print(f"{scores.bits_per_byte:.3f} bits per byte on {scores.predicted:,} tokens")
draw_norms(live.steps, ready.train_config.grad_clip)

# %% [markdown]
# *What to see: the gradient norm of every step against the limit, an orange line; its title says what share
# of the steps was clipped. Below, the factor on the learning rate; it reaches zero when the run has reached
# its end.*
#
# Clipping is no emergency brake for a rare bad batch here: it acts on most of the first steps, where
# gradients are long, and on few later ones. (The longer the run, the smaller its share: the first steps are
# few of many.) That does little harm, since Muon and AdamW both rescale what they get; "Does it matter?" has
# the numbers. *Perplexity* is e to the power of the loss, *accuracy* how often the likeliest token is right.
#
# **Bits per byte** is the number to compare, since it does not depend on the tokenizer. By hand:

# %%
from picolm_lib.evaluate import evaluate

per_byte = scores.loss / (0.6931472 * ready.files["validation"].bytes_per_token)
print(f"{scores.loss:.3f} nats / (ln 2 · {ready.files['validation'].bytes_per_token:.2f} bytes per "
      f"token) = {per_byte:.3f} bits per byte")
assert abs(per_byte - scores.bits_per_byte) < 1e-4
show_source(evaluate)

# %% [markdown]
# ### What is saved
#
# The run's folder has everything that somebody else needs. The weights are safetensors, not pickles, so
# reading them cannot run code. `resume.pt` is for going on; `metrics.jsonl` has a line per step. On your own
# machine, `picolm generate "Once upon a time" --run FOLDER` tells a story.

# %%
folder = trainer.folder
for file in sorted(folder.glob("[!.]*")):
    size = sum(f.stat().st_size for f in file.rglob("*")) if file.is_dir() else file.stat().st_size
    print(f"{file.name:<20}{size / 1e3:>10,.0f} kB")

loaded, loaded_tokenizer, saved = load_run(folder, trainer.device)
pairs = zip(loaded.parameters(), trainer.model.parameters(), strict=True)
assert all(torch.equal(p, q) for p, q in pairs)

# %%
from picolm_lib.sampling import SampleConfig, stream_text

short = SampleConfig(max_new_tokens=150)
print("".join(stream_text(loaded, loaded_tokenizer, PROMPT, short, SEED)))

# %% [markdown]
# ### Compared with the original
#
# The README of the original Simple-PicoLM by Hossein Lak shows what its model wrote after 16 minutes on a
# T4. It begins:
#
# > Once upon a time, there was a little girl named Lily. She loved to play outside and explore the world
# > around her. One day, she went on a walk in the park with her mommy. They saw a big dog running towards
# > them.
# >
# > Lily asked her mommy if they could go. Her mommy said yes, but they were too scared to go near the dog.
# > Suddenly, the dog ran after it and caught up to Lily.
# >
# > Lily's mommy picked her up and gave her a treat. "Thank you for being so brave," she said. "You're
# > welcome," her mommy replied.
# >
# > Lily felt happy that she helped someone in need. From that day on, she knew that if she ever needed
# > help, she could always count on her mommy and make sure she didn't have to worry about the dog.
#
# Its author's own verdict: fluent grammar, some structure, and clear nonsense. Compare your run with it
# only if you trained `pico` on TinyStories: the Storybook that `nano` learns on a CPU is a far smaller
# world, with about a thousand words. So its bits per byte are far lower, and say nothing about
# TinyStories.
#
# On TinyStories, others have reported these losses. Bits per byte are calculated from them with the bytes
# per token of each tokenizer:
#
# | run | loss | bits per byte |
# |---|---|---|
# | llama2.c by Andrej Karpathy, stories15M / 42M / 110M | 1.072 / 0.847 / 0.760 | 0.41 / 0.32 / 0.29 |
# | Stanford CS336, target of an assignment: 327 million tokens, 30 to 40 minutes on an H100 | 1.45 | 0.52 |
# | Stanford CS336, its staff on a laptop (M3 Max): 41 million tokens, 36 minutes | 1.80 | 0.64 |
#
# This project's goal for 16 minutes on a T4 is 0.60, with either model. It has not been measured on a T4 yet:
# your run is a measurement. If you open an issue with the lines that it printed, others learn of it.

# %% [markdown]
# ## 6. When something interrupts it
#
# Colab disconnects, batteries die, memory runs out. A run is safe if everything that the next step
# depends on is in a file: the weights, the optimizer's averages, the loss scale, the position in the data
# (two integers: epoch and window), and the state of the random generators.
#
# **Predict:** you stop a run after 7 of 20 steps and resume it later. By how much do the final weights
# differ from those of a run that was never stopped? Then run the cell. `stop_after` does what the stop
# button does.

# %%
import tempfile
from pathlib import Path

from picolm_lib.course.training.small_runs import stop_after
from picolm_lib.train.signals import Interrupted

place = Path(tempfile.mkdtemp())
whole = small_trainer(place / "whole")
whole.run()

first = small_trainer(place / "parts", stop_after(7))
try:
    first.run()
except Interrupted as message:
    print(message)
show_source(Batches)

# %%
second = small_trainer(place / "parts")                     # new weights, new optimizer
second.resume()                                             # all replaced by the file
print("resuming from step", second.progress.step)
second.run()

pairs = list(zip(whole.model.parameters(), second.model.parameters(), strict=True))
print("largest difference:", max((a - b).abs().max().item() for a, b in pairs))
assert second.progress.step == whole.progress.step == 20
assert all(torch.equal(a, b) for a, b in pairs)

# %% [markdown]
# Not one bit. (That is on a CPU. A GPU may add sums up in another order, so the last digits can differ. The
# message above is the command line's.)
#
# Your own run from section 5 resumes in the same way: its cell looks for a checkpoint first. A checkpoint is
# written every five minutes, so you lose at most about five, as long as the file survives. On Colab it may
# not: after a long absence, "Run all" gets a new, empty machine. So with `SAVE_TO_DRIVE` each checkpoint is
# copied to `MyDrive/picolm/runs`, and the tokens, once, to `MyDrive/picolm/tokens`. The new machine copies
# both back, trains on, and ends at the token that you planned.
#
# Without the optimizer's averages it would still run, but it would be a different run:

# %%
third = small_trainer(place / "forgetful")
third.model.load_state_dict(first.model.state_dict())       # the weights alone
third.progress.step, third.progress.tokens = 7, first.progress.tokens
third.batches.load_state_dict(first.batches.state_dict())
third.run()
apart = max((a - b).abs().max().item() for a, b in
            zip(whole.model.parameters(), third.model.parameters(), strict=True))
print(f"without the optimizer's state: up to {apart:.4f} away")
assert apart > 1e-4
from picolm_lib.train.state import TrainingState

show_source(TrainingState.state_dict, TrainingState.small_state_dict)

# %% [markdown]
# ### Out of memory
#
# A gradient is a sum over the batch. So it can be accumulated over parts, **micro-batches**, before the
# optimizer steps once. If memory runs out, the trainer discards the incomplete gradients, halves the
# micro-batch, and repeats the same batch: twice as many passes, the same result up to rounding. On the
# CPU we pretend that at most three sequences fit into memory.

# %%
from picolm_lib.course.training.small_runs import pretend_memory


def notes(trainer, line):
    if line["kind"] == "note":
        print(line["note"])

roomy, tight = small_trainer(), small_trainer(listener=notes)
pretend_memory(tight, 3)
for _ in range(3):
    one, other = roomy.step(), tight.step()
print("sequences at a time:", one["micro_batch"], "and", other["micro_batch"])
print(f"losses after three steps: {one['loss']:.6f} and {other['loss']:.6f}")
torch.testing.assert_close(one["loss"], other["loss"], rtol=1e-3, atol=1e-3)

# %%
show_source(Trainer.accumulate_gradients)

# %% [markdown]
# ### Two GPUs
#
# The same idea, side by side: each GPU takes half of the rows, and the gradients are averaged before each
# step. Kaggle lends two T4s for free: {kaggle} (sign in, verify your phone number, choose the accelerator
# "GPU T4 x2", switch the internet on). One command starts two processes; nothing else changes. Where two
# GPUs are present, the next cell trains a second run of 16 minutes, after a few minutes for its data:

# %%
from IPython import get_ipython

command = (f"torchrun --nproc-per-node 2 -m -- picolm_lib train --preset {MODEL} "
           "--max-minutes 16 --run runs/two --resume")
print(command)
if torch.cuda.device_count() > 1:
    get_ipython().system(command)
else:
    print("It was not run: it needs two GPUs, and there are", torch.cuda.device_count())

# %% [markdown]
# Why is averaging correct? See for yourself, on a small model:

# %%
shape = PRESETS["smoke"].model
rows, wanted = Batches(stories.tokens, shape.max_seq_len, 8, SEED).next()


def gradient_of(x, y):
    """All gradients of a fresh small model, as one vector."""
    model = PicoLM(shape, SEED)
    model.loss(x, y).backward()
    return torch.cat([p.grad.flatten() for p in model.parameters()])

both = gradient_of(rows, wanted)
halves = [gradient_of(rows[part], wanted[part]) for part in (slice(0, 4), slice(4, 8))]
torch.testing.assert_close((halves[0] + halves[1]) / 2, both, rtol=1e-3, atol=1e-6)
print("the mean of two halves is the whole")

# %% [markdown]
# The halves must be equal in size. If they are not, weight each by its share, as the trainer does.
# The library's tests run two real processes and compare them with one.

# %% [markdown]
# ## Your turn
#
# Write your answer where the stub raises `NotImplementedError`. The check says what went wrong.

# %% [markdown]
# ### Exercise 1: the schedule (medium, 10 minutes)
#
# `my_factor` divides by zero if a run has no warm-up or no decay. Write it for any shares, including 0.

# %%
from picolm_lib.course.training import checks


def schedule(done, warmup, decay):
    """The factor on the learning rate, between 0 and 1.

    done: share of the run that is over. warmup, decay: shares at its start and at its end.
    """
    raise NotImplementedError  # your code


schedule = checks.schedule(schedule)

# %% [markdown]
# <details><summary>Hint 1</summary>
#
# There are two straight lines: one rises from 0 at the start, the other falls to 0 at the end. Where
# neither is below 1, the factor is 1.
#
# </details>
# <details><summary>Hint 2</summary>
#
# A line that does not exist must not lower the result: let it be 1.
#
# </details>
# <details><summary>Solution</summary>
#
# ```python
# def schedule(done, warmup, decay):
#     rising = done / warmup if warmup else 1.0
#     falling = (1 - done) / decay if decay else 1.0
#     return min(1.0, rising, falling)
# ```
#
# </details>

# %%
show_source(lr_factor)

# %% [markdown]
# ### Exercise 2: clipping (medium, 10 minutes)
#
# Clip a list of gradients by their global norm. Do not change the list or its tensors.

# %%
def clip(gradients, limit):
    """Gradients whose global norm is at most `limit`: a list of new tensors."""
    raise NotImplementedError  # your code


clip = checks.clip(clip)

# %% [markdown]
# <details><summary>Hint 1</summary>
#
# Square all numbers of all tensors, take one sum and one root.
#
# </details>
# <details><summary>Hint 2</summary>
#
# One factor for all of them: `limit / norm`, but never above 1.
#
# </details>
# <details><summary>Solution</summary>
#
# ```python
# def clip(gradients, limit):
#     norm = sum(g.square().sum() for g in gradients).sqrt()
#     factor = (limit / norm).clamp(max=1.0)
#     return [g * factor for g in gradients]
# ```
#
# </details>

# %% [markdown]
# ### Exercise 3: the chunked loss (hard, 15 minutes)
#
# The mean loss of many rows, in chunks. Rows whose target is -100 do not count. Inputs may be in 16 bits;
# the loss is float32. (You need only the value, no gradients.)

# %%
def chunked_loss(x, weight, targets, chunk):
    """F.cross_entropy(x @ weight.T, targets), `chunk` rows at a time, in float32.

    x: (N, D). weight: (V, D). targets: (N,), -100 is ignored. Returns a scalar tensor.
    """
    raise NotImplementedError  # your code


chunked_loss = checks.chunked_loss(chunked_loss)

# %% [markdown]
# <details><summary>Hint 1</summary>
#
# `F.cross_entropy(..., reduction="sum")` adds up the rows that count, and skips -100 by itself.
#
# </details>
# <details><summary>Hint 2</summary>
#
# Divide once, at the end, by `(targets != -100).sum()`.
#
# </details>
# <details><summary>Solution</summary>
#
# ```python
# def chunked_loss(x, weight, targets, chunk):
#     total = torch.zeros(())
#     for rows, wanted in zip(x.split(chunk), targets.split(chunk)):
#         logits = (rows @ weight.T).float()
#         total += F.cross_entropy(logits, wanted, reduction="sum")
#     return total / (targets != -100).sum()
# ```
#
# </details>

# %% [markdown]
# ### Bug hunt: too good (medium, 10 minutes)
#
# A colleague trained a small model on 30 stories, with a scaled loss as on a T4, and is happy: the
# validation loss is as low as the training loss. But in practice the model is bad. Three suspects:
#
# - `"leak"`: the validation stories are a piece of the training stream;
# - `"endless"`: there is no end-of-text token in the data, so the model can never stop;
# - `"clip"`: gradients are clipped before they are unscaled.
#
# Beside the patient you see a healthy project with the same training data.

# %%
from picolm_lib.course.training import hunt

found = hunt.investigate()
hunt.examine_report(found)

# %% [markdown]
# *What to see: the training losses are the same; compare the gap between training and validation in both
# reports.*

# %%
hunt.examine_insides(found)

# %% [markdown]
# *What to see: on the left, how likely the patient considers the end of the text, where stories end and
# elsewhere; on the right, the norm of the gradients before clipping, and what the optimizer gets.*

# %%
suspect = None  # "leak", "endless" or "clip"

checks.bug_hunt(suspect)

# %% [markdown]
# <details><summary>Hint 1</summary>
#
# With a limit of 1, how long should a clipped gradient be? What would it be if it were divided by 65,536
# afterwards?
#
# </details>
# <details><summary>Hint 2</summary>
#
# A small model that reads 30 stories again and again memorizes them. What should happen to its loss on
# other stories?
#
# </details>
# <details><summary>Solution</summary>
#
# It is `"leak"`. The patient's validation loss follows the training loss down, because it *is* measured
# on training data. The healthy report shows what really happens: the model memorizes, and its loss on
# other stories rises.
#
# </details>

# %% [markdown]
# ## Playground
#
# The time machine again, with two more sliders. **Predict:** at a temperature of 0 (always the likeliest
# token), which checkpoint repeats itself most? Try your own prompt: it works best with a
# beginning that could be from the Storybook.

# %%
from picolm_lib.course.training.time_machine import time_machine_with_sampling

time_machine_with_sampling("One day, Tom lost his red ball.")

# %% [markdown]
# *What to see: from which checkpoint on names and colors stay the same through the story, and which
# checkpoints forget them.*

# %% [markdown]
# ## Does it matter?
#
# A single small run says little: two seeds of the same model differ too. So each choice was changed, one at a
# time, in a model of 6 layers on TinyStories, with three seeds. Such an experiment is called an *ablation*.
# All of it took hours, and its results come with the package. The number is bits per byte on stories that the model has
# not seen, as a difference from the default with the same seed.
#
# **Predict:** which costs more, no decay or no clipping? And does a limit ten times lower help?

# %%
from picolm_lib.course import ablation_results

print(ablation_results.about())
ablation_results.draw("cpu", "05", "01")

# %% [markdown]
# *What to see: a filled point is further from zero than noise explains, a hollow one is not. To the right
# of zero, the default is better. The axis is stretched around zero.*

# %%
ablation_results.table("cpu", "05", "01")

# %% [markdown]
# The schedule matters. Without decay the run ends 0.038 bits per byte worse, with a cosine 0.030,
# perhaps because that slows down from the start. A stepwise schedule is the worst: it runs the last half with a tenth of
# the rate or less.
#
# Clipping matters little. Without it the run ends 0.007 worse, and the interval just excludes zero; of the
# thirty or so changes that were measured for all notebooks, one or two are expected to do so by chance. A limit ten times lower made no visible
# difference. Muon and AdamW both rescale a gradient before they step, so its length matters less to them
# than to plain gradient descent.
#
# The vocabulary matters too. At equal tokens, a vocabulary of 8,192 is better than the default's 4,096 by
# 0.045: the loss per token is about the same, but each token covers more text. It costs a fifth
# more time; at equal time an advantage of 0.014 is left. SmolLM's 49,152 tokens were made for all kinds
# of text, not for these stories: each covers less of them than one of the 8,192 does, training takes
# three times as long, and at equal time this vocabulary is far worse.
#
# Mind the size: 245,760 tokens are about one percent of a run on a T4. What makes a difference here may
# make none there, and the other way round.
#
# All of this was measured on stories that are seen once. A few changes were also tried with a quarter of the
# stories, each seen four times.

# %%
print(ablation_results.about("repeated"))
ablation_results.draw_regimes()

# %% [markdown]
# *What to see: AdamW alone and no sqrt(d) are worse than the default where stories are seen once, and better
# where they are seen four times; the other two make no visible difference in either.*
#
# Here the order reverses. All runs end near 1.5 bits per byte, far above the 1.24 of stories that are
# seen once: with so few stories, a model memorizes them. Variants that learn more slowly are now ahead,
# such as embeddings without their factor, and AdamW alone. So these points do not show what learns best,
# but what memorizes least. With little data, look at the number of passes before you judge a change.

# %% [markdown]
# ## Recap
#
# - 6 FLOPs per weight and token; in `pico` the output layer alone takes almost half.
# - float16 loses small gradients; a loss scale saves them, and `GradScaler` finds it by trial.
# - The loss needs one row of logits at a time, so its memory does not have to grow with the batch.
# - Unscale, then clip by the global norm, then step; let the learning rate fall to zero at the end.
# - A run that saves all of its state goes on as if nothing had happened; on a CPU, bit for bit. Too little
#   memory costs time, not quality.

# %% [markdown]
# ## Three questions
#
# **1.** You double the number of sequences at a time. Which parts of the memory grow, and which stay the same?
#
# <details><summary>Answer</summary>
#
# The activations grow and, if the loss keeps all of them, the logits. Weights, gradients and the
# optimizer's averages stay the same.
#
# </details>
#
# **2.** Why does bfloat16 need no loss scale?
#
# <details><summary>Answer</summary>
#
# It has the range of float32. A gradient of 1e-20 survives, with two digits.
#
# </details>
#
# **3.** Your validation loss is as low as your training loss after 50 epochs on little data. Do you
# celebrate?
#
# <details><summary>Answer</summary>
#
# No. Look for a leak: a model that reads the same data 50 times knows it better than other data.
#
# </details>

# %% [markdown]
# ## Experiment
#
# How long should the decay be? Try `from picolm_lib.course import race`, then
# `race.run("decay 0.2", decay=0.2, seed=0).last`, which is in bits per byte, and `decay=0.9`, with three seeds
# each. Does the answer change with `tokens=800_000`, twice as many?

# %% [markdown]
# ## References
#
# - Paulius Micikevicius et al., "Mixed Precision Training", 2018.
# - Jared Kaplan et al., "Scaling Laws for Neural Language Models", 2020 (six FLOPs per weight).
# - Razvan Pascanu, Tomas Mikolov, Yoshua Bengio, "On the difficulty of training Recurrent Neural Networks",
#   2013 (clipping).
# - Shengding Hu et al., "MiniCPM: Unveiling the Potential of Small Language Models with Scalable Training
#   Strategies", 2024 (WSD).
# - Erik Wijmans et al., "Cut Your Losses in Large-Vocabulary Language Models", 2024 (the loss without
#   storing all logits).
# - Ronen Eldan and Yuanzhi Li, "TinyStories: How Small Can Language Models Be and Still Speak Coherent
#   English?", 2023.
# - Hossein Lak, Simple-PicoLM, README (the 16-minute story).
# - Andrej Karpathy, llama2.c, README; Stanford CS336, "Language Modeling from Scratch", assignment 1 (the
#   losses on TinyStories).
# - NVIDIA, "T4 Tensor Core GPU", data sheet (65 TFLOP/s).
#
# {neighbors}
