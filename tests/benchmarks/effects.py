"""From the runs of ablations.py to what the course shows: effects with confidence intervals.

    python tests/benchmarks/effects.py

reads results/ablations-*.jsonl and writes picolm_lib/assets/ablations.json, which the notebooks
read, and results/ablations.md and ablations.png. It trains nothing.

An effect is the mean, over seeds, of the difference between a variant and the default that started
with the same seed. Three differences say little of their own spread, so it is estimated from those
of all variants of a file together (the pooled variance within variants), and the interval is
Student's with as many degrees of freedom.
"""

from __future__ import annotations

import json
import math
from collections.abc import Mapping, Sequence
from statistics import NormalDist, fmean
from typing import Any

from ablations import SETTINGS, chosen, lines_path, read
from record import RESULTS
from variants import DEFAULT, VARIANTS

from picolm_lib.course import ablation_results
from picolm_lib.files import atomic_write_text

REGIMES = {"cpu": "Single-epoch: no story is seen twice",
           "repeated": "Multi-epoch: as many tokens, but every story four times"}
Runs = dict[str, dict[int, Mapping[str, Any]]]


def by_variant(lines: Sequence[Mapping[str, Any]]) -> Runs:
    """variant -> seed -> line. Of a sweep only its best is left, which ran with all seeds."""
    runs: Runs = {}
    for line in lines:
        runs.setdefault(line["variant"], {})[line["seed"]] = line
    return {name: runs[name] for name in chosen(runs, lines)}


def effects(lines: Sequence[Mapping[str, Any]]) -> list[dict[str, Any]]:
    """The fields of ablation_results.Effect for every variant but the default."""
    runs = by_variant(lines)
    default = runs.pop(DEFAULT)
    gaps = {name: [found[seed]["bpb"] - default[seed]["bpb"] for seed in found if seed in default]
            for name, found in runs.items()}
    freedom = sum(len(each) - 1 for each in gaps.values())
    squares = sum((gap - fmean(each)) ** 2 for each in gaps.values() for gap in each)
    spread = math.sqrt(squares / freedom)
    return [{"name": name, "notebook": VARIANTS[name].notebook,
             "difference": round(fmean(each), 5),
             "half_width": round(student(freedom) * spread / math.sqrt(len(each)), 5),
             "bits_per_byte": round(fmean(line["bpb"] for line in runs[name].values()), 5),
             "seeds": len(each), "parameters": next(iter(runs[name].values()))["parameters"],
             "seconds": round(fmean(line["processor_seconds"] / default[seed]["processor_seconds"]
                                    for seed, line in runs[name].items()), 3)}
            for name, each in gaps.items()]


def student(freedom: int) -> float:
    """The 97.5% point of Student's distribution, for more than about ten degrees of freedom.

    Source: Milton Abramowitz and Irene Stegun, "Handbook of Mathematical Functions", 1964, 26.7.5.
    """
    z = NormalDist().inv_cdf(0.975)
    return (z + (z**3 + z) / (4 * freedom)
            + (5 * z**5 + 16 * z**3 + 3 * z) / (96 * freedom**2))


def about(regime: str, lines: Sequence[Mapping[str, Any]]) -> str:
    """How the runs of a file were made, in one sentence."""
    model, run = SETTINGS[regime].model, SETTINGS[regime].run
    default = [line["bpb"] for line in lines if line["variant"] == DEFAULT]
    dates = sorted({line["date"] for line in lines})
    return (f"{REGIMES[regime]}. {model.n_layers} layers, d {model.d_model}, {model.n_heads} "
            f"heads, context {model.max_seq_len}, a BPE of {model.vocab_size:,} tokens, "
            f"{run.max_tokens:,} tokens of TinyStories, {len(default)} seeds. The default reaches "
            f"{fmean(default):.4f} bits per byte on the 400 validation stories. "
            f"{lines[0]['machine']}, one thread, {lines[0]['dtype']}, torch {lines[0]['torch']}, "
            f"{' and '.join(dict.fromkeys((dates[0], dates[-1])))}.")


def main() -> None:
    found, text = {}, HEAD
    for regime in REGIMES:
        lines = read(lines_path(regime))
        if lines:
            found[regime] = {"about": about(regime, lines), "effects": effects(lines)}
    atomic_write_text(ablation_results.FILE, json.dumps(found, indent=1) + "\n")
    for regime in found:
        text += (f"\n## {REGIMES[regime]}\n\n{found[regime]['about']}\n\n"
                 + ablation_results.markdown(ablation_results.effects(regime)))
        name = "ablations.png" if regime == "cpu" else f"ablations-{regime}.png"
        (RESULTS / name).write_bytes(ablation_results.draw(regime).png)
    atomic_write_text(RESULTS / "ablations.md", text)
    print(text)


HEAD = """# What every idea is worth

    python tests/benchmarks/ablations.py --data ../shared/data/tinystories \\
        --smollm ../shared/data/smollm-tokenizer
    python tests/benchmarks/ablations.py --setting repeated --data ../shared/data/tinystories
    python tests/benchmarks/effects.py

One thing of the default is changed at a time. Lower is better; a difference above zero says that
the default is better. The difference is taken between runs of one seed and averaged over seeds; its
95% interval rests on the spread of all variants' differences together. Processor time is of the
training, as a multiple of the default's. Of a sweep over learning rates, the best is shown (chosen
with the first seed). Every run is a line in ablations-*.jsonl.

![Differences to the default, one change at a time, with confidence intervals](ablations.png)

A filled point is further from zero than chance explains; to the right of zero, the default is
better.

- It matters: RoPE, Muon, the decay of the learning rate, the factor sqrt(D) on the embeddings, the
  norm after each part, a low initial gain of that norm, a vocabulary that fits the data; and
  clipping, a little.
- No difference seen at this size: the pyramid (against a flat stack of as many parameters, and
  against a pyramid upside down), the output gate in any form, QK-norm, the std by depth, zero-init,
  the last MLP dead or alive, tied embeddings. PicoLM keeps to what its architecture describes.
- Better than the default: four KV heads instead of one, for a tenth more time and a KV cache four
  times as large. The default stays with the small cache.
- With stories that are seen four times the result is different: models memorize, and what learns
  more slowly (AdamW alone, no sqrt(D)) ends ahead.

With about thirty comparisons at 95%, one or two verdicts may be chance. A small model early in its
training says little about larger ones.
"""

if __name__ == "__main__":
    main()
