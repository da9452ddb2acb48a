"""What several test files share: a model small enough for every test, and random weights for it."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from torch import nn

from picolm_lib.config import PicoConfig


@pytest.fixture(autouse=True)
def seeded() -> None:
    """Every test draws the same random numbers, alone or among others."""
    torch.manual_seed(0)


@pytest.fixture
def tiny_config() -> PicoConfig:
    """Three layers, four query heads on two KV heads, a vocabulary of 97."""
    return PicoConfig(vocab_size=97, max_seq_len=32, n_layers=3, d_model=32, n_heads=4,
                      n_kv_heads=2, multiple_of=8)


@pytest.fixture
def randomize() -> Callable[..., nn.Module]:
    """A function that gives every parameter random values.

    Many parameters start at zero or one, and a product with zero hides any fault behind it.
    """
    def fill(module: nn.Module, seed: int = 0, std: float = 0.2) -> nn.Module:
        generator = torch.Generator().manual_seed(seed)
        with torch.no_grad():
            for name, parameter in module.named_parameters():
                center = 1.0 if "norm" in name else 0.0
                parameter.copy_(center + std * torch.randn(parameter.shape, generator=generator))
        return module

    return fill
