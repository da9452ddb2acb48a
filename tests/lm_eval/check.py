"""Compares what lm_eval found about the exported model with what this package finds.

    python tests/lm_eval/check.py
"""

from __future__ import annotations

import json
import math
import sys
from collections.abc import Iterator

import torch
from data import FOLDER, asked, options, told

from picolm_lib.data.tokenizer import encode
from picolm_lib.device import choose_precision
from picolm_lib.evaluate import continuation_logprobs, hallucination_meter
from picolm_lib.train.checkpoint import load_run

TOLERANCE = 1e-4  # relative, or absolute where that is more: sums in float32, in other batches
MODEL, TOKENIZER, _ = load_run("bundled")
CPU = choose_precision("cpu", "float32")

Row = tuple[str, float, float]  # what is compared, lm_eval's value, ours


def compare_facts(results: dict, samples: list[dict]) -> Iterator[Row]:
    """The hallucination meter, question by question, and every option's log-probability."""
    pairs, alike = [], []
    for sample, question in zip(samples, asked(), strict=True):
        theirs = [float(logprob) for ((logprob, _),) in sample["resps"]]
        ours = continuation_logprobs(MODEL, TOKENIZER, question.prompt, options(question), CPU)
        pairs += zip(theirs, ours, strict=True)
        alike.append((sample["acc"] == 1) == (ours[-1] > max(ours[:-1])))
    yield "facts kept", results["acc,none"], hallucination_meter(
        MODEL, TOKENIZER, asked(), CPU)["all"].kept
    yield "  questions judged alike", sum(alike), len(alike)
    yield "  log-probability of the most different option", *most_different(pairs)


def compare_stories(results: dict, samples: list[dict]) -> Iterator[Row]:
    """The log-probability of every story, and the three scores that are made from them."""
    texts = told()
    theirs = [float(sample["resps"][0][0]) for sample in samples]
    ours = [text_logprob(text) for text in texts]
    nats = -sum(ours)
    words = sum(len(text.split()) for text in texts)
    size = sum(len(text.encode()) for text in texts)
    yield "word perplexity", results["word_perplexity,none"], math.exp(nats / words)
    yield "byte perplexity", results["byte_perplexity,none"], math.exp(nats / size)
    yield "bits per byte", results["bits_per_byte,none"], nats / (math.log(2) * size)
    yield "  log-probability of the most different story", *most_different(
        list(zip(theirs, ours, strict=True)))


@torch.no_grad()
def text_logprob(text: str) -> float:
    """Log-probability in nats of a text after an end of text.

    What does not fit into the context at once follows in pieces of that length, the last one with
    as much before it as fits.
    """
    context, predicted, total = MODEL.config.max_seq_len, 1, 0.0
    ids = torch.tensor([TOKENIZER.eos_token_id, *encode(TOKENIZER, [text])[0]])
    while predicted < len(ids):
        end = min(predicted + context, len(ids))
        window = ids[max(end - 1 - context, 0):end]
        logprobs = MODEL(window[None, :-1])[0].double().log_softmax(-1)
        picked = logprobs.gather(1, window[1:, None])[:, 0]
        total += picked[predicted - end:].sum().item()
        predicted = end
    return total


def most_different(pairs: list[tuple[float, float]]) -> tuple[float, float]:
    return max(pairs, key=lambda pair: distance(*pair))


def distance(theirs: float, ours: float) -> float:
    gap = abs(theirs - ours) / max(abs(ours), 1)
    return gap if math.isfinite(gap) else math.inf


def written(task: str) -> tuple[dict, list[dict]]:
    """What lm_eval wrote about a task: its scores, and a record of every document."""
    files = sorted(FOLDER.rglob(f"samples_{task}_*.jsonl"))
    if not files:
        sys.exit(f"error: lm_eval has left no scores of {task}; run `make test-lm-eval`.")
    scores = files[-1].with_name(files[-1].name.replace(f"samples_{task}", "results"))
    with files[-1].open() as lines:
        samples = sorted(map(json.loads, lines), key=lambda sample: sample["doc_id"])
    return json.loads(scores.with_suffix(".json").read_text())["results"][task], samples


def main() -> None:
    """Prints every score twice, and ends with an error where the two differ."""
    rows = [*compare_facts(*written("storybook_facts")),
            *compare_stories(*written("storybook_stories"))]
    print(f"{'':<48}{'lm_eval':>12}{'picolm_lib':>12}")
    for name, theirs, ours in rows:
        print(f"{name:<48}{theirs:>12.6g}{ours:>12.6g}")
    wrong = [name.strip() for name, *values in rows if distance(*values) > TOLERANCE]
    if wrong:
        sys.exit(f"error: lm_eval and picolm_lib differ in: {', '.join(wrong)}.")


if __name__ == "__main__":
    main()
