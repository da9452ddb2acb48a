"""The bug hunt of notebook 01: five tokenizers, one of them healthy."""

from __future__ import annotations

from picolm_lib.course.checks import Patients
from picolm_lib.course.tokens.patients import FAULTS, PROBES, TRUTH, patients

hunt = Patients(
    patients=patients(),
    probes=PROBES,
    faults=FAULTS,
    shows={"broken letters": ("accents",), "merged digits": ("digits",), "lost spaces": ("spaces",),
           "typed end": ("typed end",), "no ends": ("two documents",), "lowercase": ("capitals",)},
    truth=TRUTH,
    praise="Right, all five. Each fault is silent on most texts, so none of them would have "
           "stopped a training run: a tokenizer is tested by going there and back, on text that is "
           "not like the examples.")
