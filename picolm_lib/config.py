"""The options of training and sampling, and the presets.

`PicoConfig` (model/config.py) describes the model, `TrainConfig` the training, `SampleConfig` the
sampling; `PRESETS` names models and trainings that belong together. All are frozen and validated
when they are created. Every field is also an option of the commands; its docstring is the help.

The defaults are the same for all presets, and were measured (tests/benchmarks/results/choices.md).
The learning rates do not depend on the width, since Muon scales its step by the shape of each
matrix. The batch grows about as the square root of the number of tokens: 2,048 tokens per step were
best for a run of one million tokens, hence 12,288 for pico's 39 million.

What each idea of the architecture is worth was measured, too (ablations.md, beside it): RoPE, Muon,
sqrt(D), the post-norms, their low gain and the decay help. The pyramid, the output gate, QK-norm,
the std by depth and zero-init made no difference in a model of 6 layers; they stay as the
architecture describes them. n_kv_heads = n_heads is a little better and takes more time
and four times the KV cache, so one KV head stays the default.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal

from picolm_lib.model.config import PicoConfig, check_types, require

# For the rest of the package, which knows this module as the place of all options.
from picolm_lib.model.config import PicoError as PicoError

Dtype = Literal["auto", "float32", "bfloat16", "float16"]
Parallel = Literal["ddp", "fsdp"]


@dataclass(frozen=True)
class TrainConfig:
    """The training run.

    Raises:
        PicoError: a value is out of range.
    """

    data: str = "storybook"
    """'storybook', a dataset on the Hugging Face Hub, or a file or folder of texts or tables."""
    tokenizer: str = "bundled"
    """'bundled' (2,048 tokens, for the Storybook), 'bundled8k' (8,192, for TinyStories), one on
    the Hugging Face Hub, a folder, or 'bpe:4096' to train one on the data."""
    storybook_stories: int = 24_000
    """Number of stories to write when the data are the Storybook."""
    data_tokens: int = 0
    """Prepare only the first documents, of so many tokens, if there is a validation split (0: as
    many as the run reads)."""
    max_tokens: int = 4_000_000
    """Train on exactly this many tokens (0: no limit). Another limit overrides the preset's."""
    max_steps: int = 0
    """Train for this many optimizer steps (0: no limit)."""
    max_minutes: float = 0.0
    """Train for this many minutes: the schedule is planned to end in time (0: no limit)."""
    batch_size: int = 8
    """Sequences of max_seq_len tokens per optimizer step, over all processes."""
    micro_batch_size: int = 0
    """Sequences per forward pass; gradients accumulate up to batch_size (0: all at once)."""
    muon_lr: float = 0.01
    """Peak learning rate of the hidden matrices (Muon)."""
    adamw_lr: float = 0.012
    """Peak learning rate of embedding and output layer (AdamW)."""
    vector_lr: float = 0.036
    """Peak learning rate of norms and biases (AdamW)."""
    adamw_beta1: float = 0.8
    """AdamW's beta1: decay of its running mean of the gradient."""
    adamw_beta2: float = 0.99
    """AdamW's beta2: decay of its running mean of the squared gradient."""
    weight_decay: float = 0.0
    """Decoupled weight decay of the matrices."""
    warmup: float = 0.02
    """Fraction of the run over which the learning rate rises."""
    decay: float = 0.5
    """Fraction of the run, at its end, over which the learning rate falls to zero."""
    momentum_start: float = 0.85
    """Muon's momentum at the first step."""
    momentum: float = 0.9
    """Muon's momentum after its warm-up."""
    momentum_warmup: int = 300
    """Optimizer steps over which Muon's momentum warms up."""
    grad_clip: float = 1.0
    """Clip gradients to this global norm (0: off)."""
    seed: int = 0
    """Seed of the initial weights and of the order of the data."""
    device: str = "auto"
    """'auto', 'cpu', 'cuda', 'cuda:1', 'mps'."""
    dtype: Dtype = "auto"
    """Data type of the matrix products; the weights stay float32."""
    compile: bool = False
    """Compile the model with torch.compile: about a minute at the start, then faster steps."""
    parallel: Parallel = "ddp"
    """With several processes: each has a copy of the model ('ddp'), or a shard of it ('fsdp')."""
    evals: int = 8
    """Evaluations on the validation documents, spread over the run; the last is at its end."""
    eval_tokens: int = 65_536
    """Validation tokens per evaluation during the run; the last evaluation takes them all."""
    checkpoint_minutes: float = 5.0
    """Minutes between checkpoints: the most training time that a crash can cost."""
    prompt: str = "Once upon a time"
    """Beginning of the story that is generated at each evaluation."""

    def __post_init__(self) -> None:
        check_types(self)
        for name in ("storybook_stories", "batch_size", "evals", "eval_tokens",
                     "checkpoint_minutes"):
            require(getattr(self, name) > 0, f"{name} must be above 0, not {getattr(self, name)}")
        for name in ("data_tokens", "max_tokens", "max_steps", "max_minutes", "micro_batch_size",
                     "muon_lr", "adamw_lr", "vector_lr", "weight_decay", "grad_clip",
                     "momentum_warmup", "seed"):
            require(getattr(self, name) >= 0,
                    f"{name} must not be negative, it is {getattr(self, name)}")
        require(self.seed < 2**63, f"seed must be below 2**63, it is {self.seed}")
        require(bool(self.max_tokens or self.max_steps or self.max_minutes),
                 "the run has no end: set max_tokens, max_steps or max_minutes")
        for name in ("warmup", "decay"):
            require(0 <= getattr(self, name) <= 1,
                    f"{name} is a fraction of the run, between 0 and 1, not {getattr(self, name)}")
        require(self.warmup + self.decay <= 1,
                 f"warmup ({self.warmup}) and decay ({self.decay}) together exceed the run")
        for name in ("momentum_start", "momentum", "adamw_beta1", "adamw_beta2"):
            require(0 <= getattr(self, name) < 1,
                    f"{name} must be at least 0 and below 1, not {getattr(self, name)}")
        require(self.batch_size % (self.micro_batch_size or self.batch_size) == 0,
                 f"batch_size ({self.batch_size}) must be divisible by micro_batch_size "
                 f"({self.micro_batch_size})")


@dataclass(frozen=True)
class SampleConfig:
    """How the next token is sampled.

    Raises:
        PicoError: a value is out of range.
    """

    temperature: float = 0.8
    """Divides the logits: below 1 more predictable, above 1 more varied; 0 is greedy decoding."""
    top_k: int = 0
    """Keep this many of the most likely tokens (0: all)."""
    top_p: float = 1.0
    """Keep the most likely tokens whose probabilities add up to this (1: all)."""
    min_p: float = 0.05
    """Keep tokens at least this fraction as likely as the most likely one (0: all)."""
    repetition_penalty: float = 1.0
    """Makes tokens that have occurred less likely: weakens their logits by this factor (1: off)."""
    max_new_tokens: int = 400
    """Stop after this many tokens, at the end of the text, or when the context is full."""

    def __post_init__(self) -> None:
        check_types(self)
        for name, valid, rule in (
                ("temperature", self.temperature == 0 or 1e-3 <= self.temperature <= 1e3,
                 "0 (greedy) or between 0.001 and 1,000"),
                ("top_k", self.top_k >= 0, "0 (off) or above"),
                ("top_p", 0 < self.top_p <= 1, "above 0 and at most 1"),
                ("min_p", 0 <= self.min_p <= 1, "between 0 and 1"),
                ("repetition_penalty", 0.01 <= self.repetition_penalty <= 100,
                 "between 0.01 and 100"),
                ("max_new_tokens", self.max_new_tokens > 0, "above 0")):
            require(valid, f"{name} must be {rule}, not {getattr(self, name)}")


@dataclass(frozen=True)
class Preset:
    """A model and a training run that belong together."""

    model: PicoConfig
    train: TrainConfig


TINYSTORIES = "roneneldan/TinyStories"
SMOLLM = "HuggingFaceTB/SmolLM-135M"

# The fields that end a run.
LIMITS = {"max_tokens", "max_steps", "max_minutes"}
# Of the original project's configuration: 800 steps of 49,152 tokens.
ORIGINAL_TOKENS = 800 * 49_152
DEFAULT_PRESET = "nano"
PRESETS: Mapping[str, Preset] = {
    "smoke": Preset(
        PicoConfig(vocab_size=2_048, max_seq_len=64, n_layers=2, d_model=64, n_heads=2),
        TrainConfig(storybook_stories=400, max_tokens=20 * 8 * 64, evals=2, eval_tokens=4_096),
    ),
    "nano": Preset(
        PicoConfig(vocab_size=2_048, max_seq_len=256, n_layers=4, d_model=128, n_heads=4),
        TrainConfig(max_tokens=2_500_000, eval_tokens=16_384),
    ),
    "pico": Preset(
        PicoConfig(),
        # Two halves per step: 7.0 GB on a CPU instead of 8.4 GB, at the same speed.
        TrainConfig(data=TINYSTORIES, tokenizer=SMOLLM, max_tokens=ORIGINAL_TOKENS, batch_size=32,
                    micro_batch_size=16),
    ),
    "pico8k": Preset(
        PicoConfig(vocab_size=8_192),
        TrainConfig(data=TINYSTORIES, tokenizer="bundled8k", max_tokens=ORIGINAL_TOKENS,
                    batch_size=32, micro_batch_size=16),
    ),
    "planned": Preset(
        PicoConfig(vocab_size=32_768, max_seq_len=4_096, n_layers=32, d_model=1_280, n_heads=10,
                   n_kv_heads=5),
        TrainConfig(data=TINYSTORIES, tokenizer=SMOLLM, max_tokens=10**9, batch_size=64,
                    parallel="fsdp"),
    ),
}
