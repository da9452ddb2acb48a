"""The feed-forward part: SwiGLU, and the pyramid of its widths.

One half of SwiGLU proposes values, the other half decides how much of each to let through:
down(silu(gate(x)) * up(x)). The pyramid spends the parameters unevenly: early blocks are narrow,
late ones wide.

Sources: Noam Shazeer, "GLU Variants Improve Transformer", 2020. Hossein Lak, "PyramidNet: A
Technique for Efficient Transformer Training with Pyramidal MLPs".
"""

from __future__ import annotations

import torch.nn.functional as F
from torch import Tensor, nn

from .config import PicoConfig
from .fast import swiglu_form


def pyramid_widths(config: PicoConfig) -> list[int]:
    """MLP width of every block, first to last.

    Linear in the block's index from mlp_ratio_first * D, reached exactly by block 0, to
    mlp_ratio_last * D, reached exactly by block L - 1; each rounded to a multiple of multiple_of.
    """
    step = config.multiple_of
    widths = []
    for layer in range(config.n_layers):
        along = layer / max(config.n_layers - 1, 1)
        ratio = config.mlp_ratio_first + along * (config.mlp_ratio_last - config.mlp_ratio_first)
        widths.append(max(step, step * round(config.d_model * ratio / step)))
    return widths


class MLP(nn.Module):
    """SwiGLU of one width. Its initial values are set by init.py.

    Args:
        d_model: D, width of the residual stream.
        width: W, width inside.
    """

    def __init__(self, d_model: int, width: int) -> None:
        super().__init__()
        self.gate = nn.Linear(d_model, width, bias=False)
        self.up = nn.Linear(d_model, width, bias=False)
        self.down = nn.Linear(width, d_model, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        """(B, T, D) to (B, T, D)."""
        return self.down(swiglu(self.gate(x), self.up(x)))


def swiglu(gate: Tensor, up: Tensor) -> Tensor:
    """silu(gate) * up, of (..., W) both."""
    if form := swiglu_form():
        return form(gate, up)
    return F.silu(gate) * up
