"""Notebook 05 on machines that are taken away, with a Drive that fills and a Hub that goes.

A learner's run ends where it was planned to end, with the weights of a run that nothing happened
to. Whatever goes wrong is said in one line, and every other cell works.
"""

from __future__ import annotations

import json
import re
import shutil
import signal
from collections.abc import Iterator
from pathlib import Path

import pytest
from data.hub_server import Hub
from data.tables import write_texts
from helpers import STORIES
from machines import (
    BUDGET,
    DATA,
    DRIVE,
    FILLS,
    NEXT_SECTION,
    OFTEN,
    PLAN,
    REFUSES,
    SETUP,
    STOPS,
    TRAIN,
    WAITS,
    Machine,
)
from runs import assert_same, outcome

from picolm_lib.config import PRESETS, TINYSTORIES
from picolm_lib.course.training.folders import CONTINUE
from picolm_lib.train.checkpoint import RunConfig, load_config, save_config
from picolm_lib.train.metrics import read_metrics

TOKENS = PRESETS["smoke"].train.max_tokens
STEPS = 20
# What Drive need not have.
HERE_ONLY = ("resume.previous.pt", ".lock")


@pytest.fixture(scope="module")
def shelf(tmp_path_factory) -> Path:
    """TinyStories as on the Hub: four parts, of which the first one is large."""
    folder = tmp_path_factory.mktemp("TinyStories")
    (folder / "data").mkdir()
    (folder / "README.md").write_text("---\nlicense: cdla-sharing-1.0\n---\n")
    for part in range(4):
        texts = [f"{text} Then part {part} ended with story {n}."
                 for n in range(1 if part else 1_500) for text in STORIES]
        write_texts(folder / f"data/train-0000{part}-of-00004-2d5a1467fff1081b.parquet", texts)
    write_texts(folder / "data/validation-00000-of-00001-869c898b519ad725.parquet", STORIES)
    return folder


@pytest.fixture(scope="module")
def new(tmp_path_factory):
    """A function that makes a new machine."""
    folder, machines = tmp_path_factory.mktemp("machines"), []

    def new(drive: Path | None, **environment: object) -> Machine:
        machines.append(Machine(folder / str(len(machines)), drive, **environment))
        return machines[-1]

    yield new
    for machine in machines:
        machine.close()


def begin(machine: Machine, **settings: object) -> str:
    """Up to the plan, without the cells between that it does not need; what is said of Drive."""
    machine.run(SETUP)
    machine.set(**settings)
    said = machine.run(DRIVE)
    machine.run(BUDGET)
    return said


def another(machine: Machine, **settings: object) -> str:
    """Another run in the same kernel, up to its data. The speed is not measured again."""
    machine.execute("from picolm_lib.course.training import plans\n"
                    "plans.measure_steps = lambda sketch: speed")
    machine.set(**settings)
    machine.run(PLAN)
    return machine.run(DATA)


def assert_ended(machine: Machine, run: str = "05-1") -> None:
    """A run is at its planned end, and was scored there."""
    [*_, last] = read_metrics(machine.runs / run)
    assert (last["kind"], last["tokens"], last["step"]) == ("evaluation", TOKENS, STEPS)


def content(folder: Path) -> dict[str, bytes]:
    """The files of a folder that Drive should have."""
    return {str(path.relative_to(folder)): path.read_bytes() for path in sorted(folder.rglob("*"))
            if path.is_file() and path.name not in HERE_ONLY}


def assert_on_drive(machine: Machine, drive: Path, run: str = "05-1") -> None:
    """Drive has of a run what this machine has."""
    here, kept = content(machine.runs / run), content(drive / "picolm" / "runs" / run)
    assert here.keys() == kept.keys()
    assert [name for name in here if here[name] != kept[name]] == [], "older on Drive"


# --- the Hub goes in the middle, then the machine ------------------------------------------------

@pytest.fixture(scope="module")
def hub(shelf) -> Iterator[Hub]:
    """A Hub that is gone from the middle of the first part on, until `back` is set."""
    with Hub({f"datasets/{TINYSTORIES}": shelf}) as hub:
        hub.back = False
        hub.fail("GET *train-00000*", ["drop"])
        hub.fail("*", iter(lambda: "drop" if hub.asked("GET *train-00000* drop") and not hub.back
                           else "", None))
        yield hub


@pytest.fixture(scope="module")
def drive(tmp_path_factory) -> Path:
    return tmp_path_factory.mktemp("Drive")


@pytest.fixture(scope="module")
def first(new, hub, drive):
    """The first machine: what its cell of the data said without the Hub, and then with it."""
    machine = new(drive, HF_ENDPOINT=hub.address, HF_HUB_OFFLINE=0, no_proxy="*",
                  HF_HUB_ETAG_TIMEOUT=100, HF_HUB_DOWNLOAD_TIMEOUT=100)
    begin(machine, DATA=TINYSTORIES)
    machine.plan = machine.run(PLAN)
    assert not hub.log, "a plan needs no data"
    machine.failed = machine.fail(DATA)
    hub.back = True
    machine.said = machine.run(DATA)
    return machine


@pytest.fixture(scope="module")
def killed(first):
    """The first machine, taken away after eight steps."""
    first.execute(OFTEN)
    first.execute(WAITS.format(step=8))
    first.die(TRAIN)
    return first


@pytest.fixture(scope="module")
def second(new, killed, drive):
    """A new machine on which "Run all" was chosen in the untouched notebook, without a Hub."""
    machine = new(drive)
    machine.said = machine.run_all()
    return machine


def test_a_hub_that_goes_is_one_line_and_the_same_cell_goes_on_when_it_is_back(first, hub):
    said, error = first.failed
    assert re.search(r"Downloads \d+ MB \(the first of 4 files.*20,000 tokens.*minute", said)
    assert "Hugging Face Hub cannot be reached" in error and "--" not in error
    assert "run this cell again" in error and "DATA = 'storybook'" in error
    assert "Downloads" in first.said and "train: " in first.said
    assert hub.asked("GET *validation-* 200") == 1, "what was complete is not fetched again"


def test_a_new_machine_goes_on_from_drive_to_the_planned_end(killed, second):
    plan, train = (second.said[second.find(words)] for words in (PLAN, TRAIN))
    assert f"a new run of {TOKENS:,} tokens" in killed.plan
    trained = int(re.search(rf"goes on after ([\d,]+) of {TOKENS:,} tokens", plan)[1]
                  .replace(",", ""))
    assert 0 < trained <= 8 * TOKENS // STEPS
    assert f"goes on from step {trained * STEPS // TOKENS}\n" in train
    assert_ended(second)
    assert load_config(second.runs / "05-1") == load_config(killed.runs / "05-1")


def test_a_new_machine_tokenizes_and_downloads_nothing(killed, second):
    """It is offline and has caches of its own, so its only source is Drive."""
    assert "nothing to download" in second.said[second.find(DATA)]
    # The end of the name: how many tokens were asked for.
    [there], [here] = (list((machine.folder / "cache").glob("*-train-validation-20000"))
                       for machine in (killed, second))
    for name in ("train.bin", "validation.bin"):
        assert (here / name).read_bytes() == (there / name).read_bytes()
        assert (here / name).stat().st_mtime == (there / name).stat().st_mtime, "copied, not made"


def test_a_killed_run_ends_with_the_weights_of_one_that_was_never_interrupted(second):
    another(second, RUN="new", DATA=TINYSTORIES)
    second.run(TRAIN)
    parts, whole = outcome(second.runs / "05-1"), outcome(second.runs / "05-2")
    assert_same(parts, whole)


def test_drive_has_the_end_of_a_run(second, drive):
    assert_on_drive(second, drive)
    assert_on_drive(second, drive, "05-2")


# --- the stop button -----------------------------------------------------------------------------

@pytest.fixture(scope="module")
def stop_drive(tmp_path_factory) -> Path:
    return tmp_path_factory.mktemp("Drive")


@pytest.fixture(scope="module")
def stopped(new, stop_drive):
    """A machine whose training cell was stopped after eight steps, as Jupyter does it."""
    machine = new(stop_drive)
    machine.run_all(until=TRAIN)
    machine.execute(WAITS.format(step=8))
    with machine.struck(signal.SIGINT):
        machine.said = machine.run(TRAIN)
    return machine


@pytest.fixture(scope="module")
def whole(stopped):
    """A run that nothing happened to, and what it learned."""
    another(stopped, RUN="whole")
    stopped.ended = stopped.run(TRAIN)
    return outcome(stopped.runs / "whole")


def test_a_stopped_cell_is_green_and_so_are_all_below(stopped, stop_drive):
    step, tokens = re.search(r"Stopped at step (\d+), after ([\d,]+) of 10,240 tokens, and saved. "
                             r"Run this cell again", stopped.said).groups()
    assert 8 <= int(step) < STEPS and tokens == f"{int(step) * 512:,}"
    assert_on_drive(stopped, stop_drive)
    stopped.run_all(after=TRAIN)


def test_a_stopped_cell_goes_on_when_it_is_run_again(stopped, whole, stop_drive):
    another(stopped, RUN="05-1")
    assert "goes on from step" in stopped.run(TRAIN)
    assert_ended(stopped)
    assert_same(outcome(stopped.runs / "05-1"), whole)
    assert_on_drive(stopped, stop_drive)


def test_below_the_picture_of_a_run_that_has_ended_it_says_so(stopped, whole):
    assert "minutes, done\n" in stopped.ended and "copying" not in stopped.ended


# name -> function, which call of it, how often the button is pressed
MOMENTS = {"before-the-first-step": ("module.Trainer, 'measure_speed'", 1, 1),
           "in-an-evaluation": ("module, 'evaluate'", 1, 1),
           "in-the-last-evaluation": ("module, 'evaluate'", 2, 1),
           "twice-in-a-step": ("module.Trainer, '_update_weights'", 7, 2)}


@pytest.mark.parametrize("moment", MOMENTS)
def test_it_can_be_stopped_at_any_moment(stopped, whole, stop_drive, moment):
    where, call, times = MOMENTS[moment]
    another(stopped, RUN=moment)
    stopped.execute(STOPS.format(where=where, call=call, times=times))
    assert "Stopped at step" in stopped.run(TRAIN)
    stopped.run_all(after=TRAIN, until=NEXT_SECTION)
    stopped.run(TRAIN)
    assert_ended(stopped, moment)
    assert_same(outcome(stopped.runs / moment), whole)
    assert_on_drive(stopped, stop_drive, moment)


# --- Drive, and settings -------------------------------------------------------------------------

@pytest.fixture(scope="module")
def alone(new):
    """A machine without Drive, about to plan a run, and what it said of Drive."""
    machine = new(None)
    machine.said = begin(machine)
    return machine


@pytest.mark.parametrize(("name", "value", "words"), [
    ("MINUTES", 1e-7, ("too short", "set MINUTES")), ("MINUTES", -1, ("negative", "-1")),
    ("MINUTES", "long", ("'long'",)), ("RUN", "a-nano", ("preset nano", "set RUN")),
    ("RUN", "..", ("'..'", "RUN"))])
def test_a_setting_that_makes_no_run_is_refused_in_one_line(alone, name, value, words):
    nano = alone.runs / "a-nano"
    nano.mkdir(parents=True, exist_ok=True)
    save_config(nano, RunConfig("nano", PRESETS["nano"].model, PRESETS["nano"].train))
    (nano / "resume.pt").write_bytes(b"not read")
    alone.set(**{name: value})
    try:
        _, error = alone.fail(PLAN)
        assert all(word in error for word in words) and "--" not in error, error
    finally:
        alone.set(MINUTES=0, RUN="new")


def test_an_emptied_run_is_the_default_and_not_the_folder_of_all_runs(alone):
    alone.set(RUN="")
    said = alone.run(PLAN)
    alone.set(RUN="new")
    assert "runs/05-1, a new run" in said


@pytest.fixture(scope="module")
def begun(alone):
    """That machine with a run that was stopped after three steps."""
    alone.set(RUN="new")
    alone.run(PLAN)
    alone.run(DATA)
    alone.execute(STOPS.format(where="module.Trainer, 'step'", call=3, times=1))
    assert "Stopped at step 3" in alone.run(TRAIN)
    return alone


@pytest.fixture(scope="module")
def late(begun, tmp_path_factory):
    """A Drive that is mounted only now. It has a finished run of the same name."""
    drive = tmp_path_factory.mktemp("Drive")
    old = drive / "picolm" / "runs" / "05-1"
    old.mkdir(parents=True)
    preset = PRESETS["smoke"]
    save_config(old, RunConfig("smoke", preset.model, preset.train, "an older run"))
    (old / "metrics.jsonl").write_text(
        json.dumps({"kind": "evaluation", "tokens": TOKENS, "step": STEPS}) + "\n")
    (old / "resume.pt").write_bytes(b"precious")
    begun.execute(f"import os; os.environ['DRIVE'] = {str(drive)!r}")
    assert "runs and tokens are kept in MyDrive/picolm" in begun.run(DRIVE)
    return drive


def test_without_drive_one_line_is_said_and_the_rest_works(begun):
    [note] = begun.said.splitlines()
    assert note.startswith("note: Drive is not available (Error: credential propagation was un")
    # What cells below import from cells above.
    for words in ("mine == flops_per_token", "show_source(flops_per_token)",
                  "mixed_precision.real_gradients", "import torch\n"):
        begun.run(words)
    begun.run_all(after=TRAIN, until=NEXT_SECTION)


def test_a_run_that_began_without_drive_overwrites_none_of_the_same_name_there(begun, late):
    """The note said how to try again."""
    old = late / "picolm" / "runs" / "05-1"
    before = content(old)
    another(begun, RUN=CONTINUE)
    assert "goes on from step 3" in begun.run(TRAIN)
    assert content(old) == before
    [kept] = [path for path in old.parent.iterdir() if path != old]
    here = begun.folder / begun.execute("print(plan.folder)").strip()
    assert content(kept)["resume.pt"] == content(here)["resume.pt"]
    assert_ended(begun, here.name)


def test_a_drive_that_is_full_is_one_line_and_the_run_ends(begun, late):
    another(begun, RUN="full")
    begun.execute(OFTEN)
    begun.execute(FILLS)
    (begun.folder / "full").touch()
    said = begun.run(TRAIN)
    assert said.count("could not be copied to Drive") == said.count("No space left") == 2
    assert said.count("the next checkpoint tries again") == said.count("run this cell again") == 1
    assert not list(late.rglob("*.part"))
    assert_ended(begun, "full")
    (begun.folder / "full").unlink()
    begun.run(TRAIN)
    assert_on_drive(begun, late, "full")


def test_a_drive_that_goes_away_is_one_line_and_no_folder_takes_its_place(begun, late):
    another(begun, RUN="away")
    place = begun.folder / "drive" / "MyDrive"
    place.rename(begun.folder / "elsewhere")
    try:
        said = begun.run(TRAIN)
        assert said.count("could not be copied to Drive") == 2
        assert said.count("the next checkpoint tries again") == said.count("run this cell") == 1
        assert not place.exists(), "what is written there is not on Drive"
    finally:
        shutil.rmtree(place, ignore_errors=True)
        (begun.folder / "elsewhere").rename(place)
    assert_ended(begun, "away")
    begun.run(TRAIN)
    assert_on_drive(begun, late, "away")


@pytest.mark.parametrize("status", [503, 404])
def test_a_hub_that_refuses_is_one_line_in_the_words_of_the_notebook(begun, status):
    begun.execute(REFUSES.format(status=status))
    _, error = begun.fail(DATA)
    assert "DATA = 'storybook'" in error and "--data" not in error, error
    begun.run(DATA)
