"""What is every idea of the architecture worth? The default, and one change at a time.

    python tests/benchmarks/ablations.py --data ../shared/data/tinystories \\
        --smollm ../shared/data/smollm-tokenizer
    python tests/benchmarks/ablations.py --setting repeated ...

Every run is a line in results/ablations-<setting>.jsonl: bits per byte on the whole validation
split of TinyStories. An interrupted call resumes where it was. For variants that are swept over
learning rates, all rates run with the first seed, and only the best one continues. Runs share a
seed, so initial weights and data order are equal where the shapes are; what is compared is the
difference from the default with the same seed. Each process computes on one thread (--workers of
them at a time), and processor seconds count the work, not what else the machine does.
"""

from __future__ import annotations

import argparse
import json
import math
import multiprocessing
import os
import time
from collections.abc import Iterable, Mapping, Sequence
from concurrent.futures import ProcessPoolExecutor, as_completed
from dataclasses import dataclass, replace
from itertools import product
from pathlib import Path
from statistics import median
from typing import TYPE_CHECKING, Any

from record import RESULTS, machine
from variants import DEFAULT, SMOLLM, VARIANTS, Variant

from picolm_lib.config import PRESETS, PicoConfig, TrainConfig
from picolm_lib.data.cache import tokenizer_for
from picolm_lib.data.corpus import load_corpus
from picolm_lib.data.token_file import TokenFile
from picolm_lib.data.tokens import tokenize_corpus
from picolm_lib.evaluate import Scores, evaluate
from picolm_lib.model.picolm import PicoLM, count_parameters
from picolm_lib.train.metrics import MetricsLogger
from picolm_lib.train.trainer import Trainer

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerFast

# Of the processes that train: one thread each, and memory that stays with them (glibc; 8% faster).
ENVIRONMENT = {"OMP_NUM_THREADS": "1", "MALLOC_TOP_PAD_": str(2**28),
               "MALLOC_MMAP_THRESHOLD_": str(2**25), "MALLOC_TRIM_THRESHOLD_": str(2**30)}


@dataclass(frozen=True)
class Setting:
    """What all runs of a file share."""

    model: PicoConfig
    run: TrainConfig
    only: Sequence[str] = ()
    """Variants to run; none means all."""
    unique: int = 0
    """Tokens of the training split that are used, again and again; 0 takes all of it."""


CPU = Setting(PicoConfig(vocab_size=4_096, max_seq_len=256, n_layers=6, d_model=128),
              TrainConfig(tokenizer="bpe:4096", max_tokens=245_760, batch_size=4, evals=1))
REPEATED = (DEFAULT, "no output gate", "flat MLP, as many parameters", "no sqrt(d)",
            "AdamW alone, rate 0.00025", "AdamW alone, rate 0.000125")
SETTINGS = {
    "cpu": CPU,
    # As many tokens, but each story four times.
    "repeated": replace(CPU, only=REPEATED, unique=CPU.run.max_tokens // 4),
    # The setting of choices.py, and pico's body: for more time, and for a GPU.
    "small": Setting(replace(CPU.model, d_model=192),
                     replace(CPU.run, max_tokens=983_040, batch_size=8)),
    "pico": Setting(replace(PRESETS["pico"].model, vocab_size=8_192),
                    replace(PRESETS["pico"].train, tokenizer="bpe:8192", max_tokens=1_572_864,
                            batch_size=8, micro_batch_size=0, evals=1)),
}


class VariantTrainer(Trainer):
    """A Trainer with another optimizer and schedule. It writes no story, which most could not."""

    def __init__(self, variant: Variant, *arguments: Any, **options: Any) -> None:
        super().__init__(*arguments, show=False, groups=variant.groups, **options)
        self.variant = variant

    def _set_lr(self, factor: float) -> None:
        middle = (self.progress.tokens + self.batch_tokens / 2) / self.total_tokens
        super()._set_lr(self.variant.schedule(min(middle, 1.0), self.config))

    def evaluate(self, logger: MetricsLogger, limit: int | None = None) -> Scores:
        """Scores the validation documents."""
        return evaluate(self.model, self.files["validation"], self.precision, limit)


def make_trainer(name: str, setting: Setting, seed: int,
                 paths: Mapping[str, str]) -> VariantTrainer:
    """A run of a variant that is ready to start."""
    variant = VARIANTS[name]
    tokenizer_name = variant.tokenizer or setting.run.tokenizer
    corpus = load_corpus(paths["data"])
    tokenizer = tokenizer_for(paths["smollm"] if tokenizer_name == SMOLLM else tokenizer_name,
                              corpus)
    files = dict(tokenize_corpus(corpus, tokenizer, show_progress=False))
    if setting.unique:
        train = files["train"]
        files["train"] = TokenFile(train.tokens[:setting.unique + 1], train.count)
    return variant_trainer(name, setting, seed, tokenizer, files)


def variant_trainer(name: str, setting: Setting, seed: int, tokenizer: PreTrainedTokenizerFast,
                    files: dict[str, TokenFile]) -> VariantTrainer:
    """The same on texts that are tokens already."""
    variant = VARIANTS[name]
    config = variant.shape(replace(setting.model, vocab_size=len(tokenizer)))
    model = PicoLM(config, seed)
    variant.change(model)
    return VariantTrainer(variant, config, replace(setting.run, seed=seed, **variant.run),
                          tokenizer, files, model=model)


def train(name: str, setting: Setting, seed: int, paths: Mapping[str, str]) -> dict[str, Any]:
    """Trains once; returns the line for the file."""
    trainer = make_trainer(name, setting, seed, paths)
    used = time.process_time()
    while trainer.progress.tokens < trainer.config.max_tokens:
        trainer.step()
    used = time.process_time() - used
    scores = evaluate(trainer.model, trainer.files["validation"], trainer.precision)
    return {"variant": name, "seed": seed, "tokens": trainer.progress.tokens,
            "bpb": round(scores.bits_per_byte, 5), "loss": round(scores.loss, 5),
            "seconds": round(trainer.progress.seconds, 1), "processor_seconds": round(used, 1),
            "parameters": count_parameters(trainer.model), "epochs": trainer.batches.epoch + 1,
            **_machine(trainer)}


def _machine(trainer: Trainer) -> dict[str, Any]:
    about = machine()
    return {"machine": about["gpu"] or f"{about['processor']}, {about['cores']} cores",
            "threads": about["threads"], "dtype": str(trainer.precision.dtype).split(".")[-1],
            "torch": about["torch"], "date": about["date"]}


def tokens_in_equal_time(name: str, setting: Setting, lines: Sequence[Mapping[str, Any]]) -> int:
    """Tokens that a variant reads in the processor time of the default: whole batches."""
    default, other = (
        median(line["processor_seconds"] for line in lines if line["variant"] == known)
        for known in (DEFAULT, VARIANTS[name].equal_time))
    batch = setting.run.batch_size * setting.model.max_seq_len
    return round(setting.run.max_tokens * default / other / batch) * batch


def lines_path(setting: str) -> Path:
    """Where a setting's runs are kept."""
    return RESULTS / f"ablations-{setting}.jsonl"


def read(path: Path) -> list[dict[str, Any]]:
    """All runs so far."""
    return [json.loads(line) for line in path.read_text().splitlines()] if path.exists() else []


def append(path: Path, line: Mapping[str, Any]) -> None:
    """Keeps a run, and prints it."""
    with path.open("a") as stream:
        stream.write(json.dumps(line) + "\n")
    print(f"{line.get('name', line['variant']):<45} seed {line['seed']}  {line['tokens']:>9,} "
          f"tokens  {line['bpb']:.4f} bits per byte  {line['processor_seconds']:.0f} s", flush=True)


def chosen(names: Iterable[str], lines: Sequence[Mapping[str, Any]], seed: int = 0) -> list[str]:
    """The names without those that another learning rate of the same sweep beat with a seed."""
    found = {line["variant"]: line["bpb"] for line in lines if line["seed"] == seed}
    best: dict[str, str] = {}
    for name in sorted(names, key=lambda name: found.get(name, math.inf)):
        best.setdefault(VARIANTS[name].sweep or name, name)
    return [name for name in names if name in best.values()]


def jobs(names: Sequence[str], seeds: Sequence[int], seed: int,
         lines: Sequence[Mapping[str, Any]]) -> list[str]:
    """What is still to do with a seed; of a sweep, all but the first seed take only its best."""
    done = {line["variant"] for line in lines if line["seed"] == seed}
    wanted = names if seed == seeds[0] else chosen(names, lines, seeds[0])
    return [name for name in wanted if name not in done]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--data", default="roneneldan/TinyStories", help="folder, or id on the Hub")
    parser.add_argument("--smollm", default="HuggingFaceTB/SmolLM-135M", help="the same")
    parser.add_argument("--setting", choices=SETTINGS, default="cpu")
    parser.add_argument("--tokens", type=int, help="another budget, kept in a file of its own")
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    parser.add_argument("--only", nargs="+", choices=VARIANTS, metavar="VARIANT")
    parser.add_argument("--workers", type=int, default=os.cpu_count())
    options = parser.parse_args()
    setting, label = SETTINGS[options.setting], options.setting
    if options.tokens:
        setting = replace(setting, run=replace(setting.run, max_tokens=options.tokens))
        label += f"-{options.tokens}"
    names = options.only or setting.only or list(VARIANTS)
    paths, path = {"data": options.data, "smollm": options.smollm}, lines_path(label)
    os.environ.update(ENVIRONMENT)
    with ProcessPoolExecutor(options.workers, multiprocessing.get_context("spawn")) as pool:
        # What is to take an equal time needs the times of the others first.
        for seed, timed in [*product(options.seeds, [False]), *product(options.seeds, [True])]:
            running = []
            for name in jobs(names, options.seeds, seed, lines := read(path)):
                if bool(VARIANTS[name].equal_time) == timed:
                    tokens = tokens_in_equal_time(name, setting, lines) if timed else (
                        setting.run.max_tokens)
                    budget = replace(setting, run=replace(setting.run, max_tokens=tokens))
                    running.append(pool.submit(train, name, budget, seed, paths))
            for done in as_completed(running):
                append(path, done.result())


if __name__ == "__main__":
    main()
