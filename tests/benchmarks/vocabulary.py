"""Does the vocabulary matter? Four vocabularies, three seeds, at equal bytes and at equal time.

    python tests/benchmarks/vocabulary.py
    python tests/benchmarks/vocabulary.py --table

The model of course/race.py (4 layers, d 96) on the Storybook, with BPEs that were trained on the
same stories. As in course/tokens/comparison.py, a window holds the same bytes for every vocabulary,
so all runs at equal bytes make the same steps on the same text. At equal time, each run gets the
processor seconds that the largest vocabulary needed for those bytes, and its own complete schedule.
All validation stories are scored. Every run is a line in results/vocabulary.jsonl, and an
interrupted call resumes where it was; when all are done, they are condensed into
picolm_lib/assets/tokenizers.json, which notebook 01 reads. One thread, so that processor seconds
count the work and not what else the machine does.
"""

from __future__ import annotations

import argparse
import json
import math
import time
from collections.abc import Mapping, Sequence
from dataclasses import replace
from itertools import product
from statistics import fmean, median, stdev
from typing import Any

import torch
from record import RESULTS, machine

from picolm_lib.course import race
from picolm_lib.course.tokens import comparison, measured
from picolm_lib.data.corpus import load_corpus
from picolm_lib.data.tokenizer import train_bpe
from picolm_lib.data.tokens import tokenize_corpus
from picolm_lib.evaluate import evaluate
from picolm_lib.model.picolm import count_parameters
from picolm_lib.train.trainer import Trainer

LINES = RESULTS / "vocabulary.jsonl"
SIZES, SEEDS, STORIES, STEPS = (262, 512, 1_024, 2_048), (0, 1, 2), 6_000, 256
# The 97.5% points of Student's distribution for one and two degrees of freedom.
STUDENT = {1: 12.706, 2: 4.303}


def train(size: int, seed: int, steps: int, regime: str) -> dict[str, Any]:
    """Trains once; returns the line for the file."""
    corpus = load_corpus("storybook", STORIES)
    texts = list(corpus.split("train"))
    tokenizer = train_bpe(texts, size)
    files = tokenize_corpus(corpus, tokenizer, show_progress=False)
    ratio = comparison.bytes_per_token(tokenizer, texts)
    length = comparison.window_tokens(ratio)
    model = replace(race.MODEL, vocab_size=size, max_seq_len=length)
    run = replace(race.RUN, seed=seed, batch_size=comparison.BATCH, evals=1,
                  max_tokens=steps * comparison.BATCH * length)
    trainer = Trainer(model, run, tokenizer, files, show=False)
    used = time.process_time()
    while trainer.progress.tokens < run.max_tokens:
        trainer.step()
    used = time.process_time() - used
    scores = evaluate(trainer.model, files["validation"], trainer.precision)
    about = machine()
    return {"regime": regime, "vocab_size": size, "seed": seed, "steps": steps,
            "bytes_per_token": round(ratio, 4), "window": length, "tokens": run.max_tokens,
            "bytes": round(run.max_tokens * ratio), "bpb": round(scores.bits_per_byte, 5),
            "loss": round(scores.loss, 5), "processor_seconds": round(used, 1),
            "parameters": count_parameters(trainer.model),
            "validation_stories": files["validation"].count.documents,
            "machine": f"{about['processor']}, {about['cores']} cores",
            "threads": about["threads"], "torch": about["torch"], "date": about["date"]}


def steps_in_equal_time(size: int, lines: Sequence[Mapping[str, Any]]) -> int:
    """Steps in the processor seconds that the largest vocabulary took for the equal bytes."""
    own, largest = (median(line["processor_seconds"] for line in lines
                           if (line["regime"], line["vocab_size"]) == ("equal bytes", known))
                    for known in (size, SIZES[-1]))
    return max(round(STEPS * largest / own), 1)


def interval(values: Sequence[float]) -> tuple[float, float]:
    """The mean and half of its 95% interval, by Student's distribution."""
    half = STUDENT[len(values) - 1] * stdev(values) / math.sqrt(len(values))
    return round(fmean(values), 5), round(half, 5)


def condense(lines: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    """What the course shows of the runs."""
    rows = []
    for regime, size in product(("equal bytes", "equal time"), SIZES):
        # In its own seconds, the largest vocabulary reads just the equal bytes.
        source = "equal bytes" if size == SIZES[-1] else regime
        found = [x for x in lines if (x["regime"], x["vocab_size"]) == (source, size)]
        mean, half = interval([line["bpb"] for line in found])
        rows.append({"regime": regime, "vocab_size": size, "bits_per_byte": mean,
                     "half_width": half, "seeds": len(found), "window": found[0]["window"],
                     "kilobytes": round(fmean(line["bytes"] for line in found) / 1e3),
                     "loss": round(fmean(line["loss"] for line in found), 3),
                     "seconds": round(fmean(line["processor_seconds"] for line in found), 1)})
    one, shape = lines[0], race.MODEL
    about = (f"{shape.n_layers} layers, d {shape.d_model}, {shape.n_heads} heads, BPEs trained on "
             f"the same Storybook stories, windows of about {comparison.WINDOW} bytes, "
             f"{comparison.BATCH} windows per step, {STEPS} steps at equal bytes, "
             f"{len(SEEDS)} seeds; scored on all {one['validation_stories']} validation stories. "
             "95% intervals by Student's distribution. Seconds are processor seconds on one "
             f"thread. {one['machine']}, torch {one['torch']}, {one['date']}. "
             "Command: python tests/benchmarks/vocabulary.py")
    return {"about": about, "rows": rows}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--table", action="store_true", help="condense and print, train nothing")
    options = parser.parse_args()
    torch.set_num_threads(1)
    for regime in () if options.table else ("equal bytes", "equal time"):
        for seed, size in product(SEEDS, SIZES):
            lines = read()
            done = {(x["regime"], x["vocab_size"], x["seed"]) for x in lines}
            if (regime, size, seed) in done or (regime, size) == ("equal time", SIZES[-1]):
                continue
            steps = STEPS if regime == "equal bytes" else steps_in_equal_time(size, lines)
            line = train(size, seed, steps, regime)
            with LINES.open("a") as stream:
                stream.write(json.dumps(line) + "\n")
            print(json.dumps(line), flush=True)
    found = condense(read())
    measured.store(vocabularies=found)
    print(found["about"])
    for row in found["rows"]:
        print(row)


def read() -> list[dict[str, Any]]:
    """All runs so far."""
    return [json.loads(x) for x in LINES.read_text().splitlines()] if LINES.exists() else []


if __name__ == "__main__":
    main()
