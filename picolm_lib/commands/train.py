"""`picolm train`: trains a model, or resumes a run."""

from __future__ import annotations

import os
import sys
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Literal
from uuid import uuid4

import tyro

from picolm_lib.commands.estimate import print_estimate
from picolm_lib.commands.parse import explicitly_set, override_limits, parse, preset_of
from picolm_lib.commands.plan import tokens_to_prepare
from picolm_lib.commands.printing import print_meter, print_notes, print_scores, print_story
from picolm_lib.config import (
    DEFAULT_PRESET,
    LIMITS,
    PRESETS,
    PicoConfig,
    PicoError,
    SampleConfig,
    TrainConfig,
)
from picolm_lib.data.cache import tokenizer_for
from picolm_lib.data.corpus import load_corpus
from picolm_lib.data.tokenizer import read_tokenizer, save_tokenizer, saved_and_read
from picolm_lib.data.tokens import tokenize_corpus
from picolm_lib.device import choose_precision, device_report
from picolm_lib.evaluate import Scores
from picolm_lib.files import lock_run_dir
from picolm_lib.model.picolm import count_parameters
from picolm_lib.sampling import stream_text
from picolm_lib.train.checkpoint import (
    RunConfig,
    find_checkpoint,
    load_config,
    load_run,
    save_config,
)
from picolm_lib.train.distributed import Processes, join_processes, local_device
from picolm_lib.train.identity import check_folder
from picolm_lib.train.metrics import truncate_metrics
from picolm_lib.train.schedule import lr_factor
from picolm_lib.train.signals import Interrupted
from picolm_lib.train.trainer import Listener, Trainer

if TYPE_CHECKING:
    import torch
    from transformers import PreTrainedTokenizerFast

# An option without a --no-... beside it.
Flag = tyro.conf.FlagCreatePairsOff[bool]


@dataclass(frozen=True)
class TrainOptions:
    """Options of the training."""

    preset: Literal[tuple(PRESETS)] = DEFAULT_PRESET  # type: ignore[valid-type]
    """Named set of defaults for all other options."""
    run: str = ""
    """Folder of the run."""
    resume: Flag = False
    """Resume from the folder's last checkpoint; where there is none yet, start."""
    resume_previous: Flag = False
    """Resume from the checkpoint before the last one."""
    dry_run: Flag = False
    """Train nothing, and print what picolm estimate prints: parameters, FLOPs, time, memory."""
    model: PicoConfig = field(default_factory=PicoConfig)
    train: TrainConfig = field(default_factory=TrainConfig)


def train_command(argv: list[str], prog: str = "picolm train",
                  listener: Listener | None = None) -> None:
    """`picolm train`: trains a model, or resumes a run; `listener` as in Trainer."""
    try:
        _lock_and_train(argv, prog, listener)
    except KeyboardInterrupt:  # outside of the loop of steps, which saves before it stops
        raise Interrupted("stopped; the same command with --resume continues from what was saved."
                          ) from None


def _lock_and_train(argv: list[str], prog: str, listener: Listener | None) -> None:
    options = _train_options(argv, prog)
    if options.dry_run:
        return print_estimate(options.preset, options.model, options.train,
                              "data" in explicitly_set(argv))
    chosen = choose_precision(options.train.device, options.train.dtype)
    processes = join_processes(local_device(chosen.device))
    processes.check_batch_size(options.train.batch_size)
    # Read now, since the main process will write another.
    was = _config_in(options)
    config = RunConfig(options.preset, options.model, options.train,
                       was.run if was else uuid4().hex)
    with _locked_run(options, config, processes, chosen.device) as resumes:
        trainer = _make_trainer(options, config, argv, processes, was if resumes else None,
                                listener)
        scores = trainer.run()
        if processes.is_main:
            _print_outcome(trainer, scores, Path(options.run), prog)


def _make_trainer(options: TrainOptions, config: RunConfig, argv: list[str], processes: Processes,
                  was: RunConfig | None, listener: Listener | None) -> Trainer:
    """Prepares the data, the run's folder and the trainer, and prints what is about to happen.

    Args:
        was: of the run that is resumed; None: it is a new one.
    """
    folder = Path(options.run)
    say = print if processes.is_main else (lambda *_, **__: None)
    say(device_report(config.train.device, config.train.dtype, preset=config.preset,
                      seed=config.train.seed), flush=True)
    corpus = load_corpus(config.train.data, config.train.storybook_stories)
    print_notes(corpus, say)
    size = config.train.data_tokens
    if not was:
        # What a start without a checkpoint has left in config.json is not the user's.
        asked = size if "data_tokens" in explicitly_set(argv) else 0
        size = tokens_to_prepare(config.model, replace(config.train, data_tokens=asked), corpus)
    tokenizer = (read_tokenizer(folder / "tokenizer") if was
                 else saved_and_read(tokenizer_for(config.train.tokenizer, corpus, size)))
    config = replace(config, model=_fit_vocabulary(config.model, tokenizer, argv),
                     train=replace(config.train, data_tokens=size))
    files = tokenize_corpus(corpus, tokenizer, show_progress=processes.is_main, data_tokens=size)
    trainer = Trainer(config.model, config.train, tokenizer, files, folder, listener=listener,
                      run_name=config.run)
    if was:
        if not (options.resume_previous or find_checkpoint(folder, "resume")):
            say("the last checkpoint is missing, so the one before it is taken")
        trainer.resume(options.resume_previous)
        say(f"resuming from step {trainer.progress.step}")
    trainer.measure_speed()
    if was:
        # Those that come by the plan as it is now.
        progress = trainer.progress
        progress.evaluations = progress.tokens * config.train.evals // trainer.total_tokens
        if line := _change_of_length(trainer, was.train):
            say(line)
    if processes.is_main:
        save_config(folder, config)
        if not was:
            save_tokenizer(folder / "tokenizer", tokenizer)
        done = bool(was) and trainer.progress.tokens >= trainer.total_tokens
        truncate_metrics(folder, trainer.progress.step, done)
    say(f"{count_parameters(trainer.model):,} parameters; {files['train'].count.tokens:,} tokens "
        f"of {config.train.data}; training on {trainer.total_tokens:,}; press Ctrl-C to save and "
        "stop", flush=True)
    return trainer


def _change_of_length(trainer: Trainer, was: TrainConfig) -> str:
    """What becomes of a resumed run that has another end than before, or has reached its end."""
    config, progress, total = trainer.config, trainer.progress, trainer.total_tokens
    if progress.tokens >= total:
        return (f"it has trained on {progress.tokens:,} tokens, and its limit is {total:,}: "
                "nothing is left to train; a higher limit, such as --max-tokens, prolongs it")
    if all(getattr(was, name) == getattr(config, name) for name in LIMITS):
        return ""
    factor, there = lr_factor(progress.tokens / total, config), trainer.files["train"].count.tokens
    about = "about " if config.max_minutes else ""
    end = f" and falls to zero over the last {config.decay:.0%}" if config.decay else ""
    again = (f"; it reads the {there:,} tokens that it has prepared {total / there:.1f} times"
             if config.data_tokens and total > there else "")
    return (f"the run now ends at {about}{total:,} tokens, and its schedule is that of such a run: "
            f"the learning rate goes on at {factor:.0%} of its peak{end}{again}")


def _print_outcome(trainer: Trainer, scores: Scores, folder: Path, prog: str) -> None:
    config = trainer.config
    # Sharded weights cannot be used by one process alone, and the others have ended.
    model = load_run(folder, trainer.device)[0] if trainer.sharded else trainer.model
    print_scores(scores, "all validation documents")
    if config.data == "storybook":
        print_meter(model, trainer.tokenizer, trainer.precision, 300)
    print(f"\nA story, after {trainer.progress.step} steps:\n")
    print_story(stream_text(model, trainer.tokenizer, config.prompt, SampleConfig(), config.seed))
    generate = ("python inference.py" if prog == "run_train.py"
                else prog.replace("train", "generate"))
    print(f"The run is in {folder}: loss.png, metrics.jsonl, model.safetensors.\n"
          f"For more stories: {generate} --run {folder}")


def _train_options(argv: list[str], prog: str) -> TrainOptions:
    name, preset = preset_of(argv)
    options = _parse_train(argv, prog, TrainOptions(name, f"runs/{name}", model=preset.model,
                                                    train=preset.train))
    if not options.run.strip():
        raise PicoError("--run needs the name of a folder, such as runs/mine.")
    if was := _config_in(options):  # its own values are the defaults
        if "preset" in explicitly_set(argv) and was.preset != name:
            raise PicoError(f"{options.run!r} contains a run of the preset {was.preset!r}, not of "
                            f"{name!r}; choose another --run.")
        options = _parse_train(argv, prog, TrainOptions(was.preset, options.run, model=was.model,
                                                        train=was.train))
    return options


def _config_in(options: TrainOptions) -> RunConfig | None:
    """The configuration of the run to resume, where there is one."""
    resume = options.resume or options.resume_previous
    # Other than Path.exists, this raises nothing where the name is too long.
    there = resume and os.path.exists(Path(options.run) / "config.json")
    return load_config(Path(options.run)) if there else None


def _parse_train(argv: list[str], prog: str, default: TrainOptions) -> TrainOptions:
    options = parse(TrainOptions, argv, default, prog, "Trains a small language model. Without "
                    "options it trains the preset nano on the Storybook.")
    return replace(options, train=override_limits(argv, options.train))


@contextmanager
def _locked_run(options: TrainOptions, config: RunConfig, processes: Processes,
                device: torch.device) -> Iterator[bool]:
    """Locks the run's folder; where the main process refuses it, all processes end."""
    with ExitStack() as locks:
        resumes = 0.0
        if processes.is_main:
            folder = Path(options.run)
            try:
                resume = options.resume or options.resume_previous
                # Nothing is written, not even a lock, into a folder of something else.
                if not os.path.exists(folder / ".lock"):
                    check_folder(folder, config, resume)
                locks.enter_context(lock_run_dir(folder))
                resumes = float(check_folder(folder, config, resume))
            except PicoError as error:
                if processes.world_size == 1:
                    raise
                # Before the others learn of it: torchrun ends all as soon as one has ended.
                print(f"error: {error}", file=sys.stderr, flush=True)
                resumes = -1
        resumes = processes.broadcast(resumes, device)
        if resumes < 0:
            raise SystemExit(2)
        yield bool(resumes)


def _fit_vocabulary(model: PicoConfig, tokenizer: PreTrainedTokenizerFast,
                    argv: list[str]) -> PicoConfig:
    if "vocab_size" in explicitly_set(argv) and model.vocab_size != len(tokenizer):
        raise PicoError(f"the tokenizer has {len(tokenizer):,} tokens, so --vocab-size cannot be "
                        f"{model.vocab_size:,}; omit it, or choose another --tokenizer.")
    return replace(model, vocab_size=len(tokenizer))
