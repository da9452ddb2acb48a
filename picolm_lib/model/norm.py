"""RMSNorm: divide a vector by its root mean square, then scale every feature by a learned gain.

    y = x / sqrt(mean(x^2) + eps) * gain

Source: Biao Zhang and Rico Sennrich, "Root Mean Square Layer Normalization", 2019.
"""

from __future__ import annotations

import torch.nn.functional as F
from torch import Tensor, nn

from .fast import norm_form


class RMSNorm(nn.RMSNorm):
    """PyTorch's RMSNorm, always in float32.

    Under autocast its input is a matrix product in 16 bits and its gain is float32, a mixture for
    which PyTorch has no fused kernel. The mean of many squares wants float32 anyway.
    """

    def forward(self, x: Tensor) -> Tensor:
        """(..., D) to (..., D), float32 unless the gain itself is of another dtype."""
        gain = self.weight                                           # (D,)
        x = x.to(gain.dtype)
        if form := norm_form(x):
            return form(x, gain, self.eps)
        return F.rms_norm(x, self.normalized_shape, gain, self.eps)
