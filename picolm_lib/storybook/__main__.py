"""`python -m picolm_lib.storybook`: prints stories, and the questions that they answer."""

from __future__ import annotations

import argparse

from picolm_lib.storybook.story import stories


def main() -> None:
    """Prints stories, and with --questions what can be asked about each."""
    parser = argparse.ArgumentParser(prog="python -m picolm_lib.storybook",
                                     description="Print stories of the Storybook.")
    parser.add_argument("--count", type=int, default=3, help="how many stories")
    parser.add_argument("--seed", type=int, default=0, help="another seed gives other stories")
    parser.add_argument("--questions", action="store_true", help="print their questions, too")
    options = parser.parse_args()
    for story in stories(options.count, options.seed):
        print(f"--- {story.plot} ---\n{story.text}\n")
        for question in story.questions if options.questions else ():
            others = " or".join(question.others)
            print(f"  {question.kind}: ...{question.prompt[-50:]!r} ->{question.answer}, "
                  f"not{others}")


if __name__ == "__main__":
    main()
