"""Quality beyond loss: facts that are kept, repetition, endings; ours beside the original's recipe.

    python tests/benchmarks/quality.py             # trains what is missing, measures, writes
    SEED=1 python tests/benchmarks/quality.py      # the same with another seed: quality-seed-1.json
    python tests/benchmarks/quality.py --samples   # results/samples.md: twenty stories, unselected

Nano is trained three times (quality_models.py). Then each model, and the bundled one, continues
the openings of the same unseen stories, at temperature 0.8 without any other setting, and answers
the same questions of the hallucination meter (quality_measures.py). One thread. An interrupted call
resumes where it was.
"""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from statistics import fmean
from typing import Any

import torch
from quality_measures import (
    BUNDLED,
    REAL,
    TEMPERATURES,
    answers_of,
    asked_questions,
    difference_row,
    over_training,
    reading,
    share,
    story_row,
    told,
    with_half,
)
from quality_models import (
    BUDGET,
    CPU,
    RECIPES,
    SEED,
    SWEPT,
    chosen,
    files,
    load,
    swept,
    train,
)
from quality_tables import tables
from record import RESULTS, save
from texts import jackknife
from variants import DEFAULT

from picolm_lib.evaluate import evaluate
from picolm_lib.model.picolm import count_parameters
from picolm_lib.sampling import SampleConfig, stream_text
from picolm_lib.storybook.story import KINDS
from picolm_lib.train.checkpoint import load_run
from picolm_lib.train.snapshots import history

SAMPLES, PROMPT = 20, "Once upon a time"
SAMPLES_HEAD = """# Twenty stories, unselected

    python tests/benchmarks/quality.py --samples

The bundled model, nano after {tokens:,} tokens of the Storybook, continues
"{prompt}". Seeds 0 to {last}, one after the other, all of them as they came. The settings
are those of inference.py: temperature {config.temperature:g}, min-p {config.min_p:g}, nothing
else. So this writes story 3 again, on any machine whose arithmetic is alike:

    python inference.py "{prompt}" --seed 3

How to read them: does the story end? Does a name, a color, a thing or a place change on the way?
Does a sentence come twice? The model is small, 1.2 million parameters, so some stories do go wrong.
How often, quality.md counts.
"""


def tell_whole(pieces: Any) -> tuple[str, str]:
    """A told story, and why it ended."""
    text = ""
    while True:
        try:
            text += next(pieces)
        except StopIteration as end:
            return text, end.value


def samples() -> str:
    """The stories of the first seeds, one after the other, as Markdown."""
    model, tokenizer, _ = load_run("bundled")
    config, tokens = SampleConfig(), history().snapshots[-1].tokens
    parts = [SAMPLES_HEAD.format(tokens=tokens, prompt=PROMPT, last=SAMPLES - 1, config=config)]
    for seed in range(SAMPLES):
        text, reason = tell_whole(stream_text(model, tokenizer, PROMPT, config, seed))
        quoted = "\n".join(f"> {line}".rstrip() for line in text.splitlines())
        cut = "" if reason == "end of text" else f"\n(Cut off: {reason}.)\n"
        parts.append(f"## Seed {seed}\n\n{quoted}\n{cut}")
    return "\n".join(parts)


def validation() -> list[dict[str, Any]]:
    """Bits per byte of each model on the validation stories, joined as it has learned them."""
    rows = []
    for recipe in RECIPES:
        model = load(recipe, BUDGET, hide=False)
        scores = evaluate(model, files(recipe.ends)["validation"], CPU)
        rows.append({"model": recipe.name, "variant": chosen(recipe), "tokens": BUDGET,
                     "parameters": count_parameters(model),
                     "bits per byte": round(scores.bits_per_byte, 4)})
    model = load_run("bundled")[0]
    scores = evaluate(model, files()["validation"], CPU)
    return [*rows, {"model": BUNDLED, "variant": DEFAULT, "tokens": history().snapshots[-1].tokens,
                    "parameters": count_parameters(model),
                    "bits per byte": round(scores.bits_per_byte, 4)}]


def rates() -> list[dict[str, Any]]:
    """What chose the learning rates."""
    return [{"variant": name, "tokens": SWEPT, "bits per byte": swept(name, recipe.ends)}
            for recipe in RECIPES if len(recipe.variants) > 1 for name in recipe.variants]


def meter() -> dict[str, list[dict[str, Any]]]:
    """The hallucination meter: at the end with intervals, over temperature, over training."""
    asked = {name: answers_of(name) for name in (*(r.name for r in RECIPES), BUNDLED)}
    kept = {name: [float(a.candidates[0] > a.candidates[1:].max()) for a in answers]
            for name, answers in asked.items()}
    ours = RECIPES[0].name
    end = [{"model": name, "all": share(round(sum(hits)), len(hits)),
            **{kind: reading(asked[name])[kind] for kind in KINDS}} for name, hits in kept.items()]
    end += [{"model": f"{ours} - {recipe.name}", "all": with_half(*jackknife(
        [a - b for a, b in zip(kept[ours], kept[recipe.name], strict=True)], fmean))}
        for recipe in RECIPES[1:]]
    end += [{"model": "chance", **_by_kind([1 / (1 + len(q.others)) for q in asked_questions()])},
            {"model": "ceiling", **_by_kind([float(q.story.startswith(q.prompt + q.answer))
                                             for q in asked_questions()])}]
    return {"meter": end, "meter_over_temperature": [
        {"model": name, "temperature": temperature, **reading(answers, temperature)}
        for name, answers in asked.items() for temperature in TEMPERATURES],
        "meter_over_training": over_training()}


def _by_kind(values: Sequence[float]) -> dict[str, float]:
    kinds = [question.kind for question in asked_questions()]
    return {"all": round(fmean(values), 4), **{
        kind: round(fmean(v for v, k in zip(values, kinds, strict=True) if k == kind), 4)
        for kind in KINDS}}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--samples", action="store_true", help="only write samples.md")
    parser.add_argument("--train", action="store_true", help="only train")
    parser.add_argument("--stories", type=int, default=100, help="told by each model")
    options = parser.parse_args()
    torch.set_num_threads(1)
    if options.samples:
        (RESULTS / "samples.md").write_text(samples())
        return
    for recipe in RECIPES:
        train(recipe)
    if options.train:
        return
    names = [REAL, *(recipe.name for recipe in RECIPES), BUNDLED]
    stories = {name: told(name, options.stories) for name in names}
    ours = RECIPES[0].name
    rows = [story_row(name, texts) for name, texts in stories.items()]
    rows += [difference_row(name, stories[ours], stories[name]) for name in names if name != ours]
    more = {"validation": validation(), "rates": rates(), **meter()}
    save(f"quality-seed-{SEED}" if SEED else "quality", rows, **more)
    print(tables({"rows": rows, **more}))


if __name__ == "__main__":
    main()
