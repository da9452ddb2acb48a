"""The spectrum stepper of notebook 04."""

from __future__ import annotations

from functools import partial

from torch import Tensor

from picolm_lib.course.muon.pictures import draw_stepper
from picolm_lib.course.muon.spectrum import CHOICES, DTYPES, sample
from picolm_lib.course.widgets import Playground, slider
from picolm_lib.course.widgets import steps as choices


def spectrum_stepper(matrix: Tensor | None = None) -> Playground:
    """Sliders over the iterations, coefficients and number format of Newton-Schulz on a matrix.

    Args:
        matrix: (M, N), small enough to redraw at once; None uses `sample()`.
    """
    return Playground(partial(draw_stepper, sample() if matrix is None else matrix),
                      steps=slider("iterations", 5, 0, 10),
                      coefficients=choices("coefficients", list(CHOICES), "Jordan's quintic"),
                      dtype=choices("number format", list(DTYPES), "fp32"))
