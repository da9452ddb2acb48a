"""The bug hunt of notebook 03: a patient, and what can be seen of it."""

from __future__ import annotations

from dataclasses import replace

from torch import Tensor

from picolm_lib.config import PicoConfig
from picolm_lib.course.plots import Picture
from picolm_lib.course.pyramid.pictures import draw_gradients, draw_similarity, gradient_norms
from picolm_lib.course.pyramid.probes import gradients, silence_last_mlp, take_steps
from picolm_lib.model import PicoLM

STEPS = 3


def patient(config: PicoConfig, seed: int = 0) -> PicoLM:
    """A model with one fault. Do not look before you have named your suspect."""
    model = PicoLM(replace(config), seed)
    silence_last_mlp(model)
    return model


def examine_gradients(config: PicoConfig, tokens: Tensor, targets: Tensor) -> Picture:
    """Gradients of a healthy model and of the patient after a few training steps."""
    panels = {}
    for name, model in (("healthy", PicoLM(config)), ("patient", patient(config))):
        take_steps(model, tokens, targets, STEPS)
        panels[f"{name}, after {STEPS} steps"] = gradient_norms(
            model, gradients(model, tokens, targets))
    return draw_gradients(panels)


def examine_weights(config: PicoConfig) -> Picture:
    """Similarity between the patient's layers, and its widths."""
    return draw_similarity(patient(config), "the patient, before training")
