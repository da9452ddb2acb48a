"""What quality.py measures: stories that models write, and the hallucination meter.

Everything that takes long is kept in runs/quality; without that folder, everything starts again.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import cache
from pathlib import Path
from statistics import fmean, quantiles
from typing import Any

import torch
from quality_models import (
    BUDGET,
    CPU,
    FAULTY,
    NANO,
    OURS,
    RECIPES,
    RUNS,
    checkpoints,
    kept,
    load,
)
from texts import (
    contradictions,
    distinct,
    is_whole,
    jackknife,
    repeated_ngrams,
    repeated_sentences,
    wilson,
)
from texts import words as words_of

from picolm_lib.commands.printing import METER_SEED
from picolm_lib.course.sampling.meter import AskedQuestion, among_candidates
from picolm_lib.data.corpus import load_corpus
from picolm_lib.data.tokenizer import load_tokenizer
from picolm_lib.evaluate import continuation_logprobs
from picolm_lib.model.picolm import PicoLM
from picolm_lib.sampling import SampleConfig, generate, prompt_ids
from picolm_lib.storybook.story import KINDS, Question, questions
from picolm_lib.train.checkpoint import load_run

PLAIN = SampleConfig(temperature=0.8, min_p=0.0, max_new_tokens=1_000)  # the context ends it
TEMPERATURES = (0.0, 0.25, 0.5, 0.8, 1.0, 1.25)
QUESTIONS = 600
OPENING = 4   # words of an unseen story that every model continues
SAME = 80     # words: the shortest story of the Storybook's validation split has 85
REAL, BUNDLED = "unseen stories", "bundled"


def model_of(name: str) -> PicoLM:
    """A model at the end of its training."""
    if name == BUNDLED:
        return load_run("bundled")[0]
    recipe = next(recipe for recipe in RECIPES if recipe.name == name)
    return load(recipe, BUDGET)


@cache
def unseen(number: int) -> list[str]:
    """Validation stories."""
    corpus = load_corpus("storybook", NANO.train.storybook_stories)
    return list(corpus.split("validation"))[:number]


def told(name: str, number: int) -> list[dict[str, Any]]:
    """A model's stories: one for the opening of each unseen story, the seed its number."""
    if name == REAL:
        return [{"text": text, "ended": True} for text in unseen(number)]
    model, tokenizer, stories = model_of(name), load_tokenizer(), []
    for seed, story in enumerate(unseen(number)):
        def tell_one(seed: int = seed, story: str = story) -> dict[str, Any]:
            ids = prompt_ids(model.config, tokenizer, " ".join(story.split()[:OPENING]))
            tokens = generate(model, torch.tensor([ids]), PLAIN, tokenizer.eos_token_id, seed)
            ids += [token.item() for token in tokens]
            return {"text": tokenizer.decode(ids, skip_special_tokens=True),
                    "ended": ids[-1] == tokenizer.eos_token_id}
        stories.append(kept(RUNS / name / "stories" / f"{seed:03d}.json", tell_one))
    print(f"{name}: {number} stories", flush=True)
    return stories


MEANS: dict[str, Callable[[dict[str, Any]], float]] = {
    f"repeated 4-grams, first {SAME} words": lambda s: repeated_ngrams(s["text"], 4, SAME),
    "repeated 4-grams, whole text": lambda s: repeated_ngrams(s["text"], 4),
    "repeated sentences": lambda s: repeated_sentences(s["text"]),
    "words": lambda s: len(words_of(s["text"])),
}
SHARES: dict[str, Callable[[dict[str, Any]], bool]] = {
    f"a third name, first {SAME} words": lambda s: "name" in contradictions(s["text"], SAME),
    f"a third color, first {SAME} words": lambda s: "color" in contradictions(s["text"], SAME),
    f"a second place, first {SAME} words": lambda s: "place" in contradictions(s["text"], SAME),
    f"a second elder, first {SAME} words": lambda s: "elder" in contradictions(s["text"], SAME),
    f"any of these, first {SAME} words": lambda s: bool(contradictions(s["text"], SAME)),
    "any of these, whole text": lambda s: bool(contradictions(s["text"])),
    "ends properly": lambda s: s["ended"] and is_whole(s["text"]),
}


def story_row(name: str, stories: Sequence[dict[str, Any]]) -> dict[str, Any]:
    """All that is counted in a model's stories, with 95% intervals."""
    texts = [story["text"] for story in stories]
    row: dict[str, Any] = {"model": name, "stories": len(texts)}
    for n in (1, 2, 3):
        row[f"distinct-{n}"] = with_half(*jackknife(texts, lambda t, n=n: distinct(t, n, SAME)))
    for head, count in MEANS.items():
        row[head] = with_half(*jackknife([count(story) for story in stories], fmean))
    for head, holds in SHARES.items():
        row[head] = share(sum(map(holds, stories)), len(stories))
    lengths = quantiles((len(words_of(text)) for text in texts), n=10)
    return {**row, "words, 10th to 90th percentile": [round(lengths[0]), round(lengths[-1])]}


def difference_row(name: str, ours: Sequence[dict[str, Any]], theirs: Sequence[dict[str, Any]],
                   ) -> dict[str, Any]:
    """Ours minus another, opening by opening, so that what the openings do cancels out."""
    pairs = list(zip(ours, theirs, strict=True))
    row: dict[str, Any] = {"model": f"ours - {name}"}
    for n in (1, 2, 3):
        row[f"distinct-{n}"] = with_half(*jackknife(pairs, lambda part, n=n: distinct(
            [a["text"] for a, _ in part], n, SAME) - distinct([b["text"] for _, b in part], n,
                                                              SAME)))
    for head, count in {**MEANS, **SHARES}.items():
        row[head] = with_half(*jackknife([count(a) - count(b) for a, b in pairs], fmean))
    return row


def with_half(value: float, half: float) -> dict[str, Any]:
    """A number and its interval, as they are recorded."""
    return {"value": round(value, 4), "95%": [round(value - half, 4), round(value + half, 4)]}


def share(hits: int, number: int) -> dict[str, Any]:
    """A share and its interval."""
    low, high = wilson(hits, number)
    return {"value": round(hits / number, 4), "95%": [round(low, 4), round(high, 4)]}


@cache
def asked_questions() -> tuple[Question, ...]:
    """Questions about stories that no model was trained on."""
    return tuple(questions(QUESTIONS, METER_SEED))


def answers(path: Path, make_model: Callable[[], PicoLM]) -> list[AskedQuestion]:
    """What a model says to all questions: log-probabilities of the candidates."""
    def ask() -> list:
        model, tokenizer = make_model(), load_tokenizer()
        return [(q.kind, continuation_logprobs(model, tokenizer, q.prompt, (q.answer, *q.others),
                                               CPU)) for q in asked_questions()]
    read = kept(path, ask)
    print(f"{path.parent.parent.name} {path.stem}: {len(read)} questions", flush=True)
    return [AskedQuestion(kind, torch.tensor(logprobs), [], [], torch.empty(0))
            for kind, logprobs in read]


def answers_of(name: str) -> list[AskedQuestion]:
    """Those of a model at the end of its training."""
    return answers(RUNS / name / "answers" / f"{BUDGET:07d}.json", lambda: model_of(name))


def reading(asked: Sequence[AskedQuestion], temperature: float = 0.0) -> dict[str, float]:
    """The meter by kind of fact, in the order of the Storybook, all of them first."""
    found = among_candidates(asked, temperature)
    return {kind: round(found[kind], 4) for kind in ("all", *KINDS)}


def over_training() -> list[dict[str, Any]]:
    """The meter at every second checkpoint of our run and of the original's."""
    rows = []
    for recipe in (OURS, FAULTY):
        for checkpoint in checkpoints()[1::2]:
            path = RUNS / recipe.name / "answers" / f"{checkpoint:07d}.json"
            rows.append({"model": recipe.name, "tokens": checkpoint, **reading(answers(
                path, lambda r=recipe, c=checkpoint: load(r, c)))})
    return rows
