"""How long until the loss that a Llama with a tuned AdamW ends at?

    python tests/benchmarks/race.py

A Llama of nano's shape (peers.py) trains on the Storybook for a budget of tokens, with AdamW alone
at several peak learning rates; everything else is this package's loop: the same batches, clipping,
warm-up and decay. The best of them sets the mark, its loss on all validation stories. Then nano
trains with this package's defaults for half the budget, two fifths, a third, ..., each run with its
own complete schedule, for as long as it ends below the mark. One thread, so that processor seconds
count the work and not what else the machine does; they hold the last evaluation, too.
"""

from __future__ import annotations

import argparse
import time
from dataclasses import replace
from fractions import Fraction

import torch
from peers import Llama
from record import write

from picolm_lib.config import PRESETS
from picolm_lib.data.corpus import load_corpus
from picolm_lib.data.tokenizer import load_tokenizer
from picolm_lib.data.tokens import tokenize_corpus
from picolm_lib.evaluate import Scores, evaluate
from picolm_lib.model.picolm import count_parameters
from picolm_lib.train.metrics import MetricsLogger
from picolm_lib.train.trainer import Trainer

SHARES = [Fraction(1, 2), Fraction(2, 5), Fraction(1, 3), Fraction(1, 4), Fraction(1, 6)]


class QuietTrainer(Trainer):
    """Tells no story, which a Llama could not."""

    def evaluate(self, logger: MetricsLogger, limit: int | None = None) -> Scores:
        """Scores the validation documents."""
        return evaluate(self.model, self.files["validation"], self.precision, limit)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--tokens", type=int, default=1_000_000, help="budget of the Llama")
    parser.add_argument("--rates", type=float, nargs="+", default=[2e-3, 3e-3, 4.5e-3, 6e-3])
    parser.add_argument("--seeds", type=int, nargs="+", default=[0])
    options = parser.parse_args()
    torch.set_num_threads(1)
    preset, tokenizer = PRESETS["nano"], load_tokenizer()
    files = tokenize_corpus(load_corpus("storybook", preset.train.storybook_stories), tokenizer)
    rows = []

    def run(name: str, seed: int, tokens: int, model: torch.nn.Module | None = None,
            **changes: float) -> dict:
        config = replace(preset.train, max_tokens=tokens, evals=1, seed=seed, **changes)
        trainer = QuietTrainer(preset.model, config, tokenizer, files, show=False, model=model)
        used = time.process_time()
        scores = trainer.run()
        row = {"model": name, "seed": seed, "tokens": tokens,
               "parameters": count_parameters(trainer.model), "loss": round(scores.loss, 4),
               "seconds of training": round(trainer.progress.seconds, 1),
               "processor seconds": round(time.process_time() - used, 1)}
        print(row, flush=True)
        return row

    for seed in options.seeds:
        torch.manual_seed(seed)
        sweep = [run(f"Llama, AdamW at {rate}", seed, options.tokens, Llama(preset.model),
                     adamw_lr=rate, vector_lr=rate, adamw_beta1=0.9, adamw_beta2=0.95,
                     weight_decay=0.1) for rate in options.rates]
        rows += sweep
        mark = min(sweep, key=lambda row: row["loss"])
        for share in SHARES:
            row = run("nano, the defaults", seed, int(options.tokens * share))
            rows.append({**row, "share of tokens": str(share), "share of processor seconds": round(
                row["processor seconds"] / mark["processor seconds"], 3)})
            if row["loss"] > mark["loss"]:
                break
    write("race", rows)


if __name__ == "__main__":
    main()
