"""The learner's own run of notebook 05: its data, its training, its copy on Drive.

    plan = plan_run(...)           # plans.py: which run, how fast, how many tokens
    ready = get_data(plan)         # says its price first
    trainer = ready.trainer(live)  # goes on where the run was
    scores = ready.train(trainer)  # the stop button is no error
"""

from __future__ import annotations

import re
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from picolm_lib.commands.plan import tokens_to_prepare
from picolm_lib.config import TINYSTORIES, PicoError, TrainConfig
from picolm_lib.course.drive import Drive
from picolm_lib.course.training.folders import is_last_damaged, is_same_run
from picolm_lib.course.training.live import Live
from picolm_lib.course.training.plans import Plan
from picolm_lib.data.cache import tokenizer_for
from picolm_lib.data.corpus import load_corpus
from picolm_lib.data.hub import local_path
from picolm_lib.data.hub_dataset import find_dataset
from picolm_lib.data.local import HINT
from picolm_lib.data.token_file import TokenFile, open_token_files
from picolm_lib.data.tokenizer import read_tokenizer, save_tokenizer, saved_and_read
from picolm_lib.data.tokens import token_folder, tokenize_corpus
from picolm_lib.evaluate import Scores, evaluate
from picolm_lib.files import cache_folder, lock_run_dir
from picolm_lib.train.checkpoint import has_resume, load_config, save_config
from picolm_lib.train.identity import check_folder
from picolm_lib.train.metrics import read_metrics, truncate_metrics
from picolm_lib.train.signals import Interrupted, stop_requests
from picolm_lib.train.trainer import Trainer

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerFast

TOKENS_PER_STORY = 210  # of TinyStories, with either of its tokenizers
# What getting the data takes on Colab's two cores: estimates, on the slow side.
DOWNLOADED_PER_S, TOKENIZED_PER_S = 20e6, 500e3


@dataclass(frozen=True)
class Ready:
    """Everything that a Trainer needs."""

    plan: Plan
    tokenizer: PreTrainedTokenizerFast
    files: dict[str, TokenFile]

    @property
    def train_config(self) -> TrainConfig:
        return self.plan.config.train

    def trainer(self, live: Live) -> Trainer:
        """The run, where its last checkpoint left it, or at its beginning."""
        config, folder = self.plan.config, self.plan.folder
        resumes = check_folder(folder, config, resume=True)
        watched = Watched(live, folder, self.plan.drive)
        trainer = Trainer(config.model, config.train, self.tokenizer, self.files, folder,
                          show=False, listener=watched, run_name=config.run)
        if resumes:
            trainer.resume(previous=is_last_damaged(folder))
            done = trainer.progress.tokens >= trainer.total_tokens
            truncate_metrics(folder, trainer.progress.step, done)
        else:
            folder.mkdir(parents=True, exist_ok=True)
            save_config(folder, config)
            save_tokenizer(folder / "tokenizer", self.tokenizer)
            truncate_metrics(folder, 0)
        live.recall(trainer, read_metrics(folder))
        return trainer

    def train(self, trainer: Trainer) -> Scores:
        """Trains to the end, or until the stop button, and returns the scores.

        After the stop button they are those of the model as it is, on a part of the validation
        documents.
        """
        try:
            with lock_run_dir(self.plan.folder):
                scores = trainer.run(patient=True)
        # The second kind where no step was being taken.
        except (Interrupted, KeyboardInterrupt):
            with stop_requests(patient=True):
                trainer.save()
                progress = trainer.progress
                print(f"Stopped at step {progress.step:,}, after {progress.tokens:,} of "
                      f"{trainer.total_tokens:,} tokens, and saved. Run this cell again to go on; "
                      "the cells below work with the model as it is.", flush=True)
                scores = evaluate(trainer.model, trainer.files["validation"], trainer.precision,
                                  trainer.config.eval_tokens)
                if self.plan.drive.folder:
                    print("Copying it to Drive ...", flush=True)
        try:
            keep_run(self.plan.drive, self.plan.folder, "run this cell again to try again")
        except KeyboardInterrupt:
            print("note: the copy to Drive was stopped; run this cell again to make it.")
        self.plan.drive.say = print
        return scores


class Watched:
    """A listener that passes lines on to the live picture, and copies new checkpoints to Drive."""

    def __init__(self, live: Live, folder: Path, drive: Drive) -> None:
        self.live, self.folder, self.drive = live, folder, drive
        self._copied = 0.0
        drive.say = live.add_text

    def __call__(self, trainer: Trainer, line: dict[str, Any]) -> None:
        self.live(trainer, line)
        checkpoint = self.folder / "resume.pt"
        written = checkpoint.stat().st_mtime if checkpoint.exists() else 0.0
        if written != self._copied:
            if self.drive.folder:
                status = self.live.status
                self.live.announce("copying the checkpoint to Drive ...")
                keep_run(self.drive, self.folder)
                self.live.announce(status)
            self._copied = written


def keep_run(drive: Drive, folder: Path, otherwise: str = "the next checkpoint tries again",
             ) -> None:
    """Copies a run to Drive, beside any other run that has its name there."""
    name, there = folder.name, drive.find(f"runs/{folder.name}/config.json")
    if there and not is_same_run(folder, there[0].parent):
        name = f"{name}-{load_config(folder).run[:6]}"
        drive.tell(f"note: Drive has another run called {folder.name}, so this one is kept there "
                   f"as {name}.")
    drive.keep(folder, f"runs/{name}", otherwise)


def get_data(plan: Plan) -> Ready:
    """Downloads and prepares what the run reads, after it has said what that costs.

    Raises:
        PicoError: the data or the tokenizer cannot be had; it says what to set.
    """
    config, new = plan.config, not has_resume(plan.folder)
    try:
        plan.drive.fetch("tokens/hub", cache_folder() / "hub")
        corpus = load_corpus(config.train.data, config.train.storybook_stories)
        size = tokens_to_prepare(config.model, config.train, corpus) if new else (
            load_config(plan.folder).train.data_tokens)
        tokenizer = (saved_and_read(tokenizer_for(config.train.tokenizer, corpus, size)) if new
                     else read_tokenizer(plan.folder / "tokenizer"))
        tokens = token_folder(corpus, tokenizer, data_tokens=size)
        plan.drive.fetch(f"tokens/{tokens.name}", tokens)
        there = open_token_files(tokens) is not None
        print(price(config.train.data, size, there), flush=True)
        for note in corpus.notes:
            print(note)
        files = tokenize_corpus(corpus, tokenizer, data_tokens=size,
                                show_progress=config.train.data != "storybook")
    except PicoError as error:
        # What follows is in the words of the command line.
        reason = re.sub(r"[;,]?( or| and)? use --(data|tokenizer) .*", "", str(error)).rstrip(".")
        other = "" if new else "RUN = 'new' and "
        raise PicoError(f"{reason}; run this cell again, which keeps what is complete, or set "
                        f"{other}DATA = 'storybook' in Settings, which needs no network, and run "
                        "again from there.") from None
    for folder in (tokens, cache_folder() / "hub"):
        plan.drive.keep(folder, f"tokens/{folder.name}", "a new machine prepares them again")
    model = replace(config.model, vocab_size=len(tokenizer))
    config = replace(config, model=model, train=replace(config.train, data_tokens=size))
    return Ready(replace(plan, config=config), tokenizer, files)


def price(data: str, tokens: int, there: bool) -> str:
    """What getting the data will cost: bytes, stories, minutes.

    Args:
        tokens: to prepare; 0: all.
        there: whether they have been prepared before.
    """
    if there:
        return "The tokens are here already: nothing to download."
    if data == "storybook":
        return "The Storybook is written on this machine, in a few seconds: nothing to download."
    if local_path(data, HINT) is not None:
        return f"Reads {data} on this machine: nothing to download."
    found = find_dataset(data)
    train, *others = (found.splits[split] for split in found.parts().values())
    size = train[0].bytes + sum(file.bytes for files in others for file in files)
    more = f" (the first of {len(train)} files; more only if needed)" if len(train) > 1 else ""
    stories = f"{tokens / TOKENS_PER_STORY:,.0f} stories, " if data == TINYSTORIES else ""
    minutes = (size / DOWNLOADED_PER_S + tokens / TOKENIZED_PER_S) / 60
    prepares = f"prepares {stories}{tokens:,} tokens" if tokens else "prepares all of it"
    return (f"Downloads {size / 1e6:,.0f} MB{more}, {prepares}: about {max(minutes, 1):.0f} "
            f"minute{'s' * (minutes >= 1.5)} (an estimate).")
