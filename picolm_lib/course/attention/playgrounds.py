"""The sliders of notebook 02."""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial

from torch import Tensor

from picolm_lib.course.attention.pictures import draw_cache, draw_maps, draw_story
from picolm_lib.course.attention.rope_clocks import draw_clocks
from picolm_lib.course.widgets import Playground, slider, steps


def rope_clocks() -> Playground:
    """Sliders over two positions, a shift of both, theta and head_dim for the clocks of RoPE."""
    return Playground(
        draw_clocks,
        query_position=slider("query position", 20, 0, 64),
        key_position=slider("key position", 14, 0, 64),
        both=slider("move both by", 0, 0, 128),
        theta=steps("theta", [100, 1_000, 10_000, 100_000, 1_000_000], 10_000),
        head_dim=steps("head_dim", [8, 16, 32, 64, 96], 32))


def attention_layers(maps: Tensor, pieces: Sequence[str]) -> Playground:
    """A slider over the blocks of (L, H, T, T) attention maps."""
    return Playground(partial(draw_maps, maps, pieces),
                      layer=slider("block", len(maps) - 1, 0, len(maps) - 1))


def attention_on_story(maps: Tensor, pieces: Sequence[str]) -> Playground:
    """Sliders over blocks, heads and the tokens of a whole story: (L, H, T, T) attention maps."""
    layers, heads, length, _ = maps.shape
    return Playground(partial(draw_story, maps, pieces),
                      layer=slider("block", layers - 1, 0, layers - 1),
                      head=slider("head", heads - 1, 0, heads - 1),
                      token=slider("token that looks", 3 * length // 4, 1, length - 1))


def kv_cache() -> Playground:
    """The KV-cache calculator, starting with the shape of the preset `planned`."""
    return Playground(
        draw_cache,
        kv_heads=steps("KV heads", [1, 2, 5, 10], 5),
        layers=slider("layers", 32, 1, 64),
        head_dim=steps("head_dim", [32, 64, 96, 128], 128),
        context=steps("context (tokens)", [256, 1024, 4096, 16384, 65536], 4096),
        batch=slider("sequences at once", 16, 1, 64))
