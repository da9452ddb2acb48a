"""The default PicoLM with one thing changed, and the original recipe: what ablations.py trains."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from functools import partial
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from picolm_lib.config import PicoConfig, TrainConfig
from picolm_lib.course.attention import variants as attention
from picolm_lib.course.muon.duel import groups, output_by_muon
from picolm_lib.course.pyramid import probes
from picolm_lib.course.pyramid.designer import flat_twin
from picolm_lib.course.training.schedules import cosine
from picolm_lib.model.init import BY_DEPTH, depth_std
from picolm_lib.model.picolm import PicoLM
from picolm_lib.train.muon import parameter_groups
from picolm_lib.train.schedule import lr_factor

SMOLLM = "smollm"  # stands for the tokenizer that --smollm names
MATRICES = ("attn.out.weight", "mlp.down.weight", "output.weight")  # zero at the start


@dataclass(frozen=True)
class Variant:
    """One change of the default model or run."""

    notebook: str
    """The notebook that explains what is changed."""
    shape: Callable[[PicoConfig], PicoConfig] = lambda config: config
    change: Callable[[PicoLM], object] = lambda model: None
    """Done to the fresh model."""
    groups: Callable[[nn.Module], list[dict]] = parameter_groups
    schedule: Callable[[float, TrainConfig], float] = lr_factor
    run: Mapping[str, Any] = field(default_factory=dict)
    """Fields of TrainConfig."""
    tokenizer: str = ""
    equal_time: str = ""
    """Trained for as long as the default takes, not for as many tokens. How many that are is taken
    from the runs of the variant of this name, which has as many tokens as the default."""
    sweep: str = ""
    """Variants that share this name differ in learning rates; only the best one counts."""


def fields(**values: Any) -> Callable[[PicoConfig], PicoConfig]:
    """A change of PicoConfig's fields."""
    return lambda config: replace(config, **values)


def step_schedule(done: float, config: TrainConfig) -> float:
    """The same warm-up, then a tenth at half of the run, and a hundredth at three quarters."""
    rising = done / config.warmup if config.warmup else 1.0
    return min(rising, 1.0 if done < 0.5 else 0.1 if done < 0.75 else 0.01)


@torch.no_grad()
def without_zero_init(model: PicoLM) -> None:
    """N(0, init_std) for the matrices that start at zero; the gates stay half open."""
    generator = torch.Generator().manual_seed(1)
    for name, parameter in model.named_parameters():
        if name.endswith(MATRICES):
            parameter.normal_(0, model.config.init_std, generator=generator)


def headwise_gate(model: PicoLM) -> None:
    """One number per head and token opens or closes all features of the head."""
    for block in model.blocks:
        heads, _, width = block.attn.gate.shape
        block.attn.gate = nn.Parameter(torch.zeros(heads, 1, width))  # (B, T, H, 1), broadcast


def gate_from_input(model: PicoLM) -> None:
    """The gate looks at the block's normalized input, as in Qiu et al., not at the query."""
    for block in model.blocks:
        attn, width = block.attn, model.config.d_model
        attn.gate = nn.Parameter(torch.zeros(width, width))
        attn._gate = partial(_gate_of_input, attn, seen := {})
        attn.register_forward_pre_hook(
            lambda module, inputs, seen=seen: seen.update(x=inputs[0]))


def _gate_of_input(attn: nn.Module, seen: dict[str, Tensor], q: Tensor) -> Tensor:
    return torch.sigmoid(F.linear(seen.pop("x"), attn.gate)).view(q.shape)  # (B, T, H, E)


def tied(model: PicoLM) -> None:
    """Embedding and output layer are one matrix, so it cannot start at zero."""
    model.output.weight = model.embedding.weight


def without_sqrt_d(model: PicoLM) -> None:
    """Embeddings as they are."""
    model.embedding.register_forward_hook(
        lambda module, inputs, output: output / math.sqrt(model.config.d_model))


def shifted_pyramid(config: PicoConfig) -> PicoConfig:
    """Every block's width computed with its index - 1: all are one stair too narrow."""
    stair = (config.mlp_ratio_last - config.mlp_ratio_first) / max(config.n_layers - 1, 1)
    return replace(config, mlp_ratio_first=config.mlp_ratio_first - stair,
                   mlp_ratio_last=config.mlp_ratio_last - stair, post_norm_gain=1.0)


@torch.no_grad()
def original(model: PicoLM) -> None:
    """The faults of the prototypes: RoPE along the heads, every block drawn from one seed, and a
    depth-aware std that reaches exactly zero in the last block."""
    attention.patient(model)
    config = replace(model.config, std_last=1e-9)
    for layer, block in enumerate(model.blocks):
        generator = torch.Generator().manual_seed(1)
        for name, parameter in block.named_parameters():
            if name == "attn.qkv.weight":
                parameter.normal_(0, config.init_std, generator=generator)
            elif name.endswith(BY_DEPTH):
                parameter.normal_(0, depth_std(config, layer), generator=generator)
    probes.zero_last_mlp(model)


def by_adamw(model: nn.Module) -> list[dict]:
    """Hidden matrices to AdamW, at a rate of their own: muon_lr, by their role."""
    return groups(model, "adamw")


def output_by_muon_at(role: str, model: nn.Module) -> list[dict]:
    """The output layer to Muon, too, with the learning rate of that role."""
    qkv, hidden, tables, vectors = output_by_muon(model)
    output = model.output.weight
    return [qkv, {**hidden, "params": [p for p in hidden["params"] if p is not output]},
            {**hidden, "params": [output], "role": role}, tables, vectors]


def _rates(factor: float) -> dict[str, float]:
    default = TrainConfig()
    return {name: factor * getattr(default, name) for name in ("muon_lr", "adamw_lr", "vector_lr")}


DEFAULT, ORIGINAL, FIXED = "default", "original recipe", "original recipe, faults fixed"
ADAMW, OUTPUT = "AdamW alone", "output layer by Muon"
VARIANTS: dict[str, Variant] = {
    DEFAULT: Variant(""),
    "no RoPE": Variant("02", change=attention.without_rope),
    "RoPE along the heads (a fault)": Variant("02", change=attention.patient),
    "no QK-norm": Variant("02", change=attention.without_qk_norm),
    "4 KV heads (MHA)": Variant("02", lambda c: replace(c, n_kv_heads=c.n_heads)),
    "no output gate": Variant("02", change=attention.without_gate),
    "one gate per head": Variant("02", change=headwise_gate),
    "gate from the block's input": Variant("02", change=gate_from_input),
    "flat MLP, as many parameters": Variant("03", flat_twin),
    "pyramid upside down": Variant("03", lambda c: replace(
        c, mlp_ratio_first=c.mlp_ratio_last, mlp_ratio_last=c.mlp_ratio_first)),
    "one init std for all depths": Variant("03", fields(std_first=0.03, std_last=0.03)),
    "N(0, 0.02) everywhere": Variant("03", change=probes.naive_init),
    "no zero-init": Variant("03", change=without_zero_init),
    "post-norm gain 0.03": Variant("03", fields(post_norm_gain=0.03)),
    "post-norm gain 0.3": Variant("03", fields(post_norm_gain=0.3)),
    "post-norm gain 1": Variant("03", fields(post_norm_gain=1.0)),
    "no post-norm": Variant("03", change=probes.without_post_norms),
    "tied embeddings": Variant("03", change=tied),
    "no sqrt(d)": Variant("03", change=without_sqrt_d),
    "last MLP dead (a fault)": Variant("03", change=probes.zero_last_mlp),
    **{f"{OUTPUT}, {name}": Variant("04", groups=partial(output_by_muon_at, role), sweep=OUTPUT)
       for name, role in (("its rate 0.01", "hidden"), ("its rate 0.036", "vector"))},
    **{f"{ADAMW}, rate {rate}": Variant("04", groups=by_adamw, run={"muon_lr": rate}, sweep=ADAMW)
       for rate in (0.00006, 0.000125, 0.00025, 0.0005, 0.001, 0.002, 0.004, 0.008)},
    "cosine schedule": Variant("05", schedule=cosine),
    "step schedule": Variant("05", schedule=step_schedule),
    "no decay": Variant("05", run={"decay": 0.0}),
    "no clipping": Variant("05", run={"grad_clip": 0.0}),
    "clipped to 0.1": Variant("05", run={"grad_clip": 0.1}),
    "vocabulary 8,192": Variant("01", tokenizer="bpe:8192"),
    "vocabulary 8,192, equal time": Variant("01", tokenizer="bpe:8192",
                                            equal_time="vocabulary 8,192"),
    "vocabulary 49,152 (SmolLM)": Variant("01", tokenizer=SMOLLM),
    "vocabulary 49,152, equal time": Variant("01", tokenizer=SMOLLM,
                                             equal_time="vocabulary 49,152 (SmolLM)"),
    # Learning rates are not in the original's description. It gets ours, times the best factor.
    **{f"{ORIGINAL}, rates x {factor}": Variant(
        "", shifted_pyramid, original, output_by_muon, cosine, _rates(factor), sweep=ORIGINAL)
       for factor in (1, 2, 4)},
    **{f"{FIXED}, rates x {factor}": Variant(
        "", fields(post_norm_gain=1.0), schedule=cosine, run=_rates(factor), sweep=FIXED)
       for factor in (0.5, 1, 2)},
}
