"""What describes a model, checked when it is made, and the error that every wrong value raises.

Fields have the usual names. This file is beside the model because an exported model carries the
code of this folder.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any, Literal, get_args, get_origin, get_type_hints


class PicoError(Exception):
    """A mistake that the user can fix. Its text is one line: what is wrong, and what to do."""

    def _render_traceback_(self) -> list[str]:
        """What a notebook shows in place of a traceback."""
        return [f"error: {self}"]


def require(holds: bool, message: str) -> None:
    """Raises a PicoError with this message, unless the condition holds."""
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
            holds, kind = number and isinstance(value, int), "a whole number"
        else:
            holds = isinstance(value, wanted)
            kind = {bool: "true or false", str: "a string"}[wanted]
        require(holds, f"{name} must be {kind}, not {value!r}")


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
    """Standard deviation of the initial embedding and of the query, key and value matrices."""
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
            require(getattr(self, name) > 0, f"{name} must be above 0, not {getattr(self, name)}")
        require(self.norm_eps >= 1e-15, f"norm_eps must be at least 1e-15, not {self.norm_eps}; "
                "else the gradient of a norm of zeros overflows")
        require(self.d_model % self.n_heads == 0,
                f"d_model ({self.d_model}) must be divisible by n_heads ({self.n_heads})")
        require(self.n_heads % self.n_kv_heads == 0,
                f"n_heads ({self.n_heads}) must be divisible by n_kv_heads ({self.n_kv_heads})")
        require(self.head_dim % 2 == 0,
                f"the head dimension d_model / n_heads is {self.head_dim}; RoPE turns pairs of "
                "features, so it must be even")

    @property
    def head_dim(self) -> int:
        """Features per head, d_model / n_heads."""
        return self.d_model // self.n_heads
