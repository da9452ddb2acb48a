"""RMSNorm: divide a vector by its root mean square, then scale every feature by a learned gain.

Source: Biao Zhang and Rico Sennrich, "Root Mean Square Layer Normalization", 2019.
"""

from __future__ import annotations

import torch.nn.functional as F
from torch import Tensor, nn


class RMSNorm(nn.RMSNorm):
    """torch's RMSNorm, always in float32.

    Under autocast its input is a matrix product in 16 bits and its gain is float32, a mixture for
    which PyTorch has no fused kernel. The mean of many squares wants float32 anyway.
    """

    def forward(self, x: Tensor) -> Tensor:
        """(..., D) to (..., D), float32 unless the gain itself is of another dtype."""
        return F.rms_norm(x.to(self.weight.dtype), self.normalized_shape, self.weight, self.eps)
