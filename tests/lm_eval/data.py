"""Writes what lm_eval is to score: questions.jsonl and stories.jsonl, for the tasks beside this.

    python tests/lm_eval/data.py
"""

from __future__ import annotations

import json
from collections.abc import Iterable
from pathlib import Path

from picolm_lib.commands.printing import METER_SEED
from picolm_lib.config import PRESETS
from picolm_lib.data.corpus import load_corpus
from picolm_lib.storybook.story import Question, questions

FOLDER = Path(__file__).resolve().parents[2] / "build" / "lm_eval"  # the tasks read them there


def asked() -> list[Question]:
    """The questions of `picolm evaluate`."""
    return questions(600, METER_SEED)


def told() -> list[str]:
    """The validation stories of nano, and one text of six stories, longer than its context."""
    stories = list(load_corpus("storybook", PRESETS["nano"].train.storybook_stories)
                   .split("validation"))
    return [*stories, "\n\n".join(stories[:6])]


def options(question: Question) -> list[str]:
    """The answer comes last: in a tie lm_eval takes the first option, and the meter none."""
    return [*question.others, question.answer]


def write(name: str, rows: Iterable[dict]) -> None:
    FOLDER.mkdir(parents=True, exist_ok=True)
    (FOLDER / name).write_text("".join(json.dumps(row) + "\n" for row in rows))


if __name__ == "__main__":
    write("questions.jsonl", (
        {"prompt": q.prompt, "options": options(q), "answer": len(q.others)} for q in asked()))
    write("stories.jsonl", ({"text": text} for text in told()))
