"""Every decision about a model and a run, in two dataclasses and a table of presets.

`PicoConfig` describes the model, `TrainConfig` the run, `PRESETS` names the pairs that belong
together. Both are frozen and check themselves when they are made, so a configuration that exists
is a valid one. Every field is also a flag of the commands; its docstring is the flag's help text.

The defaults are one rule for all presets, and were measured (tests/benchmarks/results/choices.md).
From one width to another the learning rates stay as they are, since Muon scales its own step by the
shape of each matrix. With more tokens the batch grows, about as the square root of their number:
2,048 tokens per step were best at one million tokens in all, hence 12,288 at pico's 39 million.

What each idea of the architecture is worth was measured, too (results/ablations.md): RoPE, Muon,
sqrt(D), the post-norms, their low gain and the decay earn their place. The pyramid, the output
gate, QK-norm, the std by depth and zero-init neither helped nor harmed in a model of 6 layers; they
stay as the architecture describes them. n_kv_heads = n_heads is a little better and takes more time
and four times the KV cache, so one KV head stays the default.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal, get_args, get_origin, get_type_hints

Dtype = Literal["auto", "float32", "bfloat16", "float16"]
Parallel = Literal["ddp", "fsdp"]


class PicoError(Exception):
    """A mistake that the user can mend. Its text is one line: what is wrong, and what to do."""


def _require(holds: bool, message: str) -> None:
    if not holds:
        raise PicoError(message + ".")


def check_types(config: object) -> None:
    """Refuses what a dataclass takes in silence: values of another type, NaN, infinity.

    Raises:
        PicoError: it names the field.
    """
    for name, wanted in get_type_hints(type(config)).items():
        value: Any = getattr(config, name)
        number = isinstance(value, (int, float)) and not isinstance(value, bool)
        if get_origin(wanted) is Literal:
            holds, kind = value in get_args(wanted), f"one of {', '.join(get_args(wanted))}"
        elif wanted is float:
            holds, kind = number and math.isfinite(value), "a finite number"
        elif wanted is int:
            holds, kind = number and isinstance(value, int), "a finite whole number"
        else:
            holds = isinstance(value, wanted)
            kind = {bool: "true or false", str: "a text"}[wanted]
        _require(holds, f"{name} must be {kind}, not {value!r}")


@dataclass(frozen=True)
class PicoConfig:
    """The model."""

    vocab_size: int = 49_152
    """Tokens in the vocabulary. Training takes it from the tokenizer."""
    max_seq_len: int = 384
    """Context length in tokens: what the model is trained on and the most it reads at once."""
    n_layers: int = 12
    """Number of blocks."""
    d_model: int = 384
    """Width of the residual stream. The head dimension is d_model / n_heads."""
    n_heads: int = 4
    """Query heads."""
    n_kv_heads: int = 1
    """Key and value heads; each is shared by n_heads / n_kv_heads query heads."""
    mlp_ratio_first: float = 1.5
    """Width of the first block's MLP, as a multiple of d_model."""
    mlp_ratio_last: float = 4.0
    """Width of the last block's MLP, as a multiple of d_model."""
    multiple_of: int = 32
    """MLP widths are rounded to a multiple of this."""
    rope_theta: float = 10_000.0
    """Base of the rotary frequencies."""
    norm_eps: float = 1e-6
    """Added to the mean square inside RMSNorm."""
    init_std: float = 0.02
    """Standard deviation of every initial matrix that init.py's table does not name."""
    std_first: float = 0.04
    """Standard deviation of the first block's MLP gate and up matrices."""
    std_last: float = 0.02
    """The same for the last block; blocks between are interpolated. Must be above zero."""
    post_norm_gain: float = 0.1
    """Initial gain of the norm after attention and after the MLP."""

    def __post_init__(self) -> None:
        check_types(self)
        for name in ("vocab_size", "max_seq_len", "n_layers", "d_model", "n_heads", "n_kv_heads",
                     "multiple_of", "mlp_ratio_first", "mlp_ratio_last", "rope_theta", "norm_eps",
                     "init_std", "std_first", "std_last", "post_norm_gain"):
            _require(getattr(self, name) > 0, f"{name} must be above 0, not {getattr(self, name)}")
        _require(self.norm_eps >= 1e-15, f"norm_eps must be at least 1e-15, not {self.norm_eps}; "
                 "else the gradient of a norm of zeros overflows")
        _require(self.d_model % self.n_heads == 0,
                 f"d_model ({self.d_model}) must be divisible by n_heads ({self.n_heads})")
        _require(self.n_heads % self.n_kv_heads == 0,
                 f"n_heads ({self.n_heads}) must be divisible by n_kv_heads ({self.n_kv_heads})")
        _require(self.head_dim % 2 == 0,
                 f"the head dimension d_model / n_heads is {self.head_dim}; RoPE turns pairs of "
                 "features, so it must be even")

    @property
    def head_dim(self) -> int:
        """Features per head, d_model / n_heads."""
        return self.d_model // self.n_heads


@dataclass(frozen=True)
class TrainConfig:
    """The run."""

    data: str = "storybook"
    """'storybook', a data set's id on the Hugging Face Hub, or a local file or folder (txt, jsonl,
    parquet)."""
    tokenizer: str = "bundled"
    """'bundled', a tokenizer's id on the Hugging Face Hub, a local folder, or 'bpe:4096' to train
    one of 4,096 tokens on the data."""
    storybook_stories: int = 24_000
    """Stories to write when the data are the Storybook."""
    max_tokens: int = 4_000_000
    """Train on exactly this many tokens (0: no limit). Giving another limit lifts the preset's."""
    max_steps: int = 0
    """Train for this many optimizer steps (0: no limit)."""
    max_minutes: float = 0.0
    """Train for this long: the schedule is planned so that it ends in time (0: no limit)."""
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
    """Share of the old average that AdamW keeps of the gradient."""
    adamw_beta2: float = 0.99
    """Share of the old average that AdamW keeps of the squared gradient."""
    weight_decay: float = 0.0
    """Decoupled weight decay of the matrices."""
    warmup: float = 0.02
    """Share of the run over which the learning rate rises."""
    decay: float = 0.5
    """Share of the run, at its end, over which the learning rate falls to zero."""
    momentum_start: float = 0.85
    """Muon's momentum at the first step."""
    momentum: float = 0.9
    """Muon's momentum once it is warm."""
    momentum_warmup: int = 300
    """Optimizer steps over which Muon's momentum rises."""
    grad_clip: float = 1.0
    """Largest global gradient norm; larger ones are scaled down to it (0: off)."""
    seed: int = 0
    """Seed of the initial weights and of the order of the data."""
    device: str = "auto"
    """'auto', 'cpu', 'cuda', 'cuda:1', 'mps'."""
    dtype: Dtype = "auto"
    """Type of the matrix products; the weights stay float32."""
    compile: bool = False
    """Compile the model with torch.compile: about a minute of waiting, then faster steps."""
    parallel: Parallel = "ddp"
    """How several processes share a model: 'ddp', each holds all of it; 'fsdp', each holds its rows
    of every weight, so that a model larger than one GPU can be trained."""
    evals: int = 8
    """Evaluations on the validation documents, spread over the run; the last is at its end."""
    eval_tokens: int = 65_536
    """Validation tokens per evaluation during the run; the last evaluation takes them all."""
    checkpoint_minutes: float = 5.0
    """Minutes between checkpoints: the most that a crash can cost."""
    prompt: str = "Once upon a time"
    """What the story begins with that is told at each evaluation."""

    def __post_init__(self) -> None:
        check_types(self)
        for name in ("storybook_stories", "batch_size", "evals", "eval_tokens",
                     "checkpoint_minutes"):
            _require(getattr(self, name) > 0, f"{name} must be above 0, not {getattr(self, name)}")
        for name in ("max_tokens", "max_steps", "max_minutes", "micro_batch_size", "muon_lr",
                     "adamw_lr", "vector_lr", "weight_decay", "grad_clip", "momentum_warmup",
                     "seed"):
            _require(getattr(self, name) >= 0,
                     f"{name} must not be negative, it is {getattr(self, name)}")
        _require(bool(self.max_tokens or self.max_steps or self.max_minutes),
                 "the run has no end: set max_tokens, max_steps or max_minutes")
        for name in ("warmup", "decay"):
            _require(0 <= getattr(self, name) <= 1,
                     f"{name} is a share of the run, between 0 and 1, not {getattr(self, name)}")
        _require(self.warmup + self.decay <= 1,
                 f"warmup ({self.warmup}) and decay ({self.decay}) together exceed the run")
        for name in ("momentum_start", "momentum", "adamw_beta1", "adamw_beta2"):
            _require(0 <= getattr(self, name) < 1,
                     f"{name} must be at least 0 and below 1, not {getattr(self, name)}")
        _require(self.batch_size % (self.micro_batch_size or self.batch_size) == 0,
                 f"batch_size ({self.batch_size}) must be divisible by micro_batch_size "
                 f"({self.micro_batch_size})")


@dataclass(frozen=True)
class Preset:
    """A model and a run that belong together."""

    model: PicoConfig
    train: TrainConfig


TINYSTORIES = "roneneldan/TinyStories"
SMOLLM = "HuggingFaceTB/SmolLM-135M"

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
        TrainConfig(data=TINYSTORIES, tokenizer=SMOLLM, max_tokens=800 * 49_152, batch_size=32,
                    micro_batch_size=16),
    ),
    "pico8k": Preset(
        PicoConfig(vocab_size=8_192),
        TrainConfig(data=TINYSTORIES, tokenizer="bpe:8192", max_tokens=800 * 49_152,
                    batch_size=32),
    ),
    "planned": Preset(
        PicoConfig(vocab_size=32_768, max_seq_len=4_096, n_layers=32, d_model=1_280, n_heads=10,
                   n_kv_heads=5),
        TrainConfig(data=TINYSTORIES, tokenizer=SMOLLM, max_tokens=10**9, batch_size=64,
                    parallel="fsdp"),
    ),
}
