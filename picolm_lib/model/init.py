"""Every initial value of the model, in one place.

    parameter                         shape        value
    embedding.weight                  (V, D)       N(0, init_std); multiplied by sqrt(D) when used
    *.attn.qkv.weight                 (., D)       N(0, init_std)
    *.attn.qkv.bias                   (.,)         0
    *.attn.gate                       (H, E, E)    0, so every gate starts half open
    *.attn.out.weight                 (D, D)       0, so a block starts as the identity
    *.mlp.gate.weight, *.mlp.up.weight  (W, D)     N(0, std_first .. std_last), by depth
    *.mlp.down.weight                 (D, W)       0, for the same reason
    *.attn_post_norm, *.mlp_post_norm (D,)         post_norm_gain
    all other norms                   (D,) or (E,) 1
    output.weight                     (V, D)       0, so the first loss is exactly ln V

Zero-initialized outputs learn from the first step on, because their inputs are not zero. What must
never happen is a product of two zeros: with down = 0 *and* up = 0 both gradients are zero forever.
That is why std_last must be above zero.

Sources: Hongyi Zhang et al., "Fixup Initialization: Residual Learning Without Normalization",
2019, for blocks that start as the identity. Hossein Lak, "Unlocking Transformer Learning: Weight
Dispersion and a Novel Depth-Aware Initialization Strategy", for the standard deviation by depth.
"""

from __future__ import annotations

import torch
from torch import nn

from .config import PicoConfig

ZERO = ("attn.qkv.bias", "attn.gate", "attn.out.weight", "mlp.down.weight", "output.weight")
POST_NORMS = ("attn_post_norm.weight", "mlp_post_norm.weight")
BY_DEPTH = ("mlp.gate.weight", "mlp.up.weight")


def depth_std(config: PicoConfig, layer: int) -> float:
    """Standard deviation of block `layer`'s MLP gate and up matrices.

    It falls with depth, an idea of this architecture. The width of the blocks is no reason for it:
    the sums of gate and up run over D features in every block. No effect was seen at a small size.
    """
    along = layer / max(config.n_layers - 1, 1)
    return config.std_first + along * (config.std_last - config.std_first)


@torch.no_grad()
def init_weights(model: nn.Module, config: PicoConfig, seed: int = 0) -> None:
    """Sets every parameter of a PicoLM as the table says.

    All numbers come from one generator on the CPU, drawn in the order of the parameters: layers
    differ from each other, and one seed means the same weights on every device.
    """
    generator = torch.Generator().manual_seed(seed)
    for name, parameter in model.named_parameters():
        parameter.copy_(initial_value(name, parameter.shape, config, generator))


def initial_value(name: str, shape: torch.Size, config: PicoConfig,
                  generator: torch.Generator | None = None) -> torch.Tensor:
    """The table's value for one parameter, such as "blocks.3.mlp.up.weight".

    Args:
        generator: of the random numbers; None takes PyTorch's own.
    """
    if name.endswith(ZERO):
        return torch.zeros(shape)
    if name.endswith(POST_NORMS):
        return torch.full(shape, config.post_norm_gain)
    if name.endswith("norm.weight"):
        return torch.ones(shape)
    std = config.init_std
    if name.endswith(BY_DEPTH):
        std = depth_std(config, layer=int(name.split(".")[1]))
    return torch.randn(shape, generator=generator) * std
