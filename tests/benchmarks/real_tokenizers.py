"""What notebook 01 says of the real SmolLM tokenizer and of TinyStories, measured.

    python tests/benchmarks/real_tokenizers.py --tinystories ../shared/data/tinystories \\
        --smollm ../shared/data/smollm-tokenizer

Bytes per token of three tokenizers on five kinds of text; how SmolLM cuts one Storybook story; how
frequent the words of TinyStories are; bytes per token of BPEs of many sizes that were trained on
TinyStories, and from them FLOPs per byte. All of it goes into picolm_lib/assets/tokenizers.json,
which the notebook reads where the Hub cannot be reached. It takes two minutes.
"""

from __future__ import annotations

import argparse
import datetime

from picolm_lib.course.tokens import kinds, measured, pictures, vocabulary
from picolm_lib.course.tokens.bpe import pieces
from picolm_lib.course.tokens.comparison import bytes_per_token
from picolm_lib.data.corpus import load_corpus
from picolm_lib.data.tokenizer import load_tokenizer, train_bpe
from picolm_lib.storybook.story import stories

COMMAND = "python tests/benchmarks/real_tokenizers.py --tinystories FOLDER --smollm FOLDER"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--tinystories", required=True, help="folder, or id on the Hub")
    parser.add_argument("--smollm", required=True, help="the same")
    parser.add_argument("--skip-training", action="store_true", help="keep the stored BPE sizes")
    options = parser.parse_args()
    corpus, smollm = load_corpus(options.tinystories), load_tokenizer(options.smollm)
    train, validation = list(corpus.split("train")), list(corpus.split("validation"))
    # As many as the notebook takes.
    first = validation[:200]
    date = datetime.date.today().isoformat()
    how = f"Measured {date} by {COMMAND}."
    sample = (f"a sample of TinyStories (roneneldan/TinyStories), {len(validation):,} validation "
              f"stories of {sum(len(text.encode()) for text in validation):,} bytes")

    columns = {name: kinds.measure(tokenizer, validation) for name, tokenizer in (
        (kinds.BUNDLED, load_tokenizer()), (kinds.BUNDLED_8K, load_tokenizer("bundled8k")),
        (kinds.SMOLLM, smollm))}
    bundled, some = load_tokenizer(), validation[:40]
    counts = pictures.merge_counts(bundled)
    order = ["Storybook", kinds.TINY, "Python code", "French", "sums"]
    measured.store(
        kinds={"about": "Bytes per token, ends of text not counted. TinyStories is "
                        f"{sample}; the other texts are in picolm_lib/course/tokens/kinds.py. "
                        f"{how}",
               "date": date, "stories": len(validation), "bytes_per_token": {
                   kind: {name: columns[name][kind] for name in columns} for kind in order}},
        compression={"about": "The bundled tokenizer with only its first merges, on the first "
                              f"{len(some)} of these: {sample}. {how}",
                     "stories": len(some), "merges": counts, "bytes_per_token": [
                         round(ratio, 4) for ratio in pictures.ratios(bundled, some, counts)]},
        smollm={"about": "How the tokenizer of HuggingFaceTB/SmolLM-135M cuts the Storybook's "
                         f"story next(stories(1, seed=999)). {how}",
                "size": len(smollm), "pieces": pieces(smollm, next(stories(1, seed=999)).text)},
        words={"about": f"Words of the first {len(first)} of these: {sample}; in lowercase, "
                        f"letters and apostrophes only. {how}",
               "stories": len(first), **pictures.condense_words(first)})
    if not options.skip_training:
        rows = []
        for asked in vocabulary.TRAINED:
            tokenizer = train_bpe(train, asked)
            rows.append([len(tokenizer), round(bytes_per_token(tokenizer, validation), 4)])
            print(rows[-1], flush=True)
            if len(tokenizer) < asked:
                # There is nothing left to merge: a larger one would be the same.
                break
        measured.store(per_byte={
            "about": f"BPEs trained on {len(train):,} training stories of TinyStories, "
                     f"{sum(len(text.encode()) for text in train):,} bytes, whose words are whole "
                     f"after {rows[-1][0]:,} tokens: there is no larger one. Bytes per token on "
                     f"{sample}. {how}",
            "trained": rows,
            "smollm": [len(smollm), round(bytes_per_token(smollm, validation), 4)]})
    for part in ("kinds", "compression", "smollm", "words", "per_byte"):
        print(f"\n{part}: {measured.about(part)}")
    print("\n" + str(kinds.kinds_table(smollm).data))
    print("\n" + str(vocabulary.per_byte_table().data))


if __name__ == "__main__":
    main()
