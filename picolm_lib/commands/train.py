"""`python run_train.py`: trains a model, or goes on with one."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Literal

from picolm_lib.checkpoint import RunConfig, has_resume, load_config, load_run, save_config
from picolm_lib.cli import given, parse, preset_of
from picolm_lib.commands.dry_run import print_plan
from picolm_lib.commands.printing import print_meter, print_scores, print_story
from picolm_lib.config import PRESETS, PicoConfig, PicoError, TrainConfig
from picolm_lib.corpus import load_corpus
from picolm_lib.data import prepare, tokenizer_for
from picolm_lib.distributed import Processes, join_processes, local_device
from picolm_lib.doctor import doctor, numerics
from picolm_lib.evaluate import Scores
from picolm_lib.files import alone_in, disk_errors
from picolm_lib.interrupt import Interrupted
from picolm_lib.model import count_parameters
from picolm_lib.report import forget_after
from picolm_lib.sampling import SampleConfig, tell
from picolm_lib.tokenizer import load_tokenizer
from picolm_lib.train import Listener, Trainer

if TYPE_CHECKING:
    import torch
    from transformers import PreTrainedTokenizerFast

LIMITS = {"max_tokens", "max_steps", "max_minutes"}
# What may differ when a run goes on. With anything else it would be another run.
MAY_CHANGE = LIMITS | {"micro_batch_size", "device", "dtype", "compile", "parallel", "evals",
                       "eval_tokens", "checkpoint_minutes", "prompt"}


@dataclass(frozen=True)
class TrainOptions:
    """Options of run_train.py."""

    preset: Literal[tuple(PRESETS)] = "nano"  # type: ignore[valid-type]
    """Named set of defaults for all other options."""
    run: str = ""
    """The run's folder (default: runs/ and the preset's name)."""
    resume: bool = False
    """Go on from the folder's last checkpoint; where there is none yet, begin."""
    resume_previous: bool = False
    """With --resume: go on from the checkpoint before the last one."""
    dry_run: bool = False
    """Train nothing: print parameters, FLOPs, and estimates of time and of memory per GPU."""
    model: PicoConfig = field(default_factory=PicoConfig)
    train: TrainConfig = field(default_factory=TrainConfig)


def train_command(argv: list[str], listener: Listener | None = None) -> None:
    """`python run_train.py`: trains a model, or goes on with one; `listener` as in Trainer."""
    try:
        _hold_and_train(argv, listener)
    except KeyboardInterrupt:  # outside of the loop of steps, which saves before it stops
        raise Interrupted("stopped; the same command with --resume goes on from what was saved."
                          ) from None


def _hold_and_train(argv: list[str], listener: Listener | None) -> None:
    options = _train_options(argv)
    if options.dry_run:
        return print_plan(options.preset, options.model, options.train)
    chosen = numerics(options.train.device, options.train.dtype)
    processes = join_processes(local_device(chosen.device))
    config = RunConfig(options.preset, options.model, options.train)
    with _claimed(options, config, processes, chosen.device) as goes_on:
        _train(options, config, argv, processes, goes_on, listener)


def _train(options: TrainOptions, config: RunConfig, argv: list[str], processes: Processes,
           goes_on: bool, listener: Listener | None) -> None:
    folder = Path(options.run)
    say = print if processes.is_main else (lambda *_, **__: None)
    say(doctor(config.train.device, config.train.dtype, preset=config.preset,
               seed=config.train.seed), flush=True)
    corpus = load_corpus(config.train.data, config.train.storybook_stories)
    tokenizer = (load_tokenizer(str(folder / "tokenizer")) if goes_on
                 else tokenizer_for(config.train.tokenizer, corpus))
    config = replace(config, model=_fit_vocabulary(config.model, tokenizer, argv))
    files = prepare(corpus, tokenizer, show_progress=processes.is_main)
    trainer = Trainer(config.model, config.train, tokenizer, files, folder,
                      listener=listener)
    if goes_on:
        trainer.resume(options.resume_previous)
        say(f"going on from step {trainer.progress.step}")
    if processes.is_main:
        with disk_errors(folder):
            tokenizer.save_pretrained(folder / "tokenizer")
        save_config(folder, config)
        done = goes_on and trainer.progress.tokens >= trainer.plan()
        forget_after(folder, trainer.progress.step, done)
    say(f"{count_parameters(trainer.model):,} parameters; {files['train'].count.tokens:,} tokens "
        f"of {config.train.data}; training on {trainer.plan():,}; Ctrl-C stops and saves",
        flush=True)
    scores = trainer.run()
    if processes.is_main:
        _print_outcome(trainer, scores, folder)


def _print_outcome(trainer: Trainer, scores: Scores, folder: Path) -> None:
    config = trainer.config
    # Sharded weights cannot be used by one process alone, and the others have ended.
    model = load_run(folder, trainer.device)[0] if trainer.sharded else trainer.model
    print_scores(scores, "all validation documents")
    if config.data == "storybook":
        print_meter(model, trainer.tokenizer, trainer.numerics, 300)
    print(f"\nA story, after {trainer.progress.step} steps:\n")
    print_story(tell(model, trainer.tokenizer, config.prompt, SampleConfig(), config.seed))
    print(f"The run is in {folder}: loss.png, metrics.jsonl, model.safetensors.\n"
          f"Let it tell more: python inference.py --run {folder}")


def _train_options(argv: list[str]) -> TrainOptions:
    name, preset = preset_of(argv, "nano")
    options = _parse_train(argv, TrainOptions(name, f"runs/{name}", model=preset.model,
                                              train=preset.train))
    folder = Path(options.run)
    if options.resume and (folder / "config.json").exists():  # its own values are the defaults
        was = load_config(folder)
        if "preset" in given(argv) and was.preset != name:
            raise PicoError(f"{options.run!r} holds a run of the preset {was.preset!r}, not of "
                            f"{name!r}; choose another --run.")
        options = _parse_train(argv, TrainOptions(was.preset, options.run, model=was.model,
                                                  train=was.train))
    return options


def _parse_train(argv: list[str], default: TrainOptions) -> TrainOptions:
    options = parse(TrainOptions, argv, default, "run_train.py",
                    "Trains a small language model. Giving no option trains nano on the Storybook.")
    limits = LIMITS & given(argv)
    if limits:  # a limit that is asked for lifts those of the preset
        lifted = dict.fromkeys(LIMITS - limits, 0)
        options = replace(options, train=replace(options.train, **lifted))
    return options


@contextmanager
def _claimed(options: TrainOptions, config: RunConfig, processes: Processes, device: torch.device,
             ) -> Iterator[bool]:
    """Holds the run's folder for this run; where the main process refuses, all processes end."""
    with ExitStack() as held:
        goes_on, refusal = 0, None
        if processes.is_main:
            try:
                held.enter_context(alone_in(Path(options.run)))
                goes_on = int(_claim(Path(options.run), config, options.resume))
            except PicoError as error:
                goes_on, refusal = -1, error
        goes_on = processes.agree(goes_on, device)
        if goes_on < 0:
            raise refusal or SystemExit(2)  # one process speaks for all
        yield bool(goes_on)


def _claim(folder: Path, config: RunConfig, resume: bool) -> bool:
    """Takes the run's folder, empty or with this run; True where there is a checkpoint in it.

    Raises:
        PicoError: the folder holds a run, and this would be another one.
    """
    if not (folder / "config.json").exists():
        return False
    if not resume:
        raise PicoError(f"{str(folder)!r} already holds a run; add --resume to go on with it, or "
                        "choose another --run.")
    was = load_config(folder)
    for before, now in ((asdict(was.model), asdict(config.model)),
                        (asdict(was.train), asdict(config.train))):
        for name in before:
            if before[name] != now[name] and name not in MAY_CHANGE:
                raise PicoError(f"the run in {str(folder)!r} has {name} {before[name]}, not "
                                f"{now[name]}; choose another --run for another configuration.")
    return has_resume(folder)


def _fit_vocabulary(model: PicoConfig, tokenizer: PreTrainedTokenizerFast,
                    argv: list[str]) -> PicoConfig:
    if "vocab_size" in given(argv) and model.vocab_size != len(tokenizer):
        raise PicoError(f"the tokenizer has {len(tokenizer):,} tokens, so --vocab-size cannot be "
                        f"{model.vocab_size:,}; leave it away, or give another --tokenizer.")
    return replace(model, vocab_size=len(tokenizer))
