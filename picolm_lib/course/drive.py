"""Google Drive, where a learner's files outlive the machine that Colab lends.

A run trains in a folder of this machine, since Drive is slow, may be full, and may go away. What
the next machine needs is copied to Drive: token files once, the run after every checkpoint, and
my_picolm.py after every change.
"""

from __future__ import annotations

import os
import shutil
from collections.abc import Callable
from pathlib import Path

from picolm_lib.files import first_line

FOLDER = "picolm"
# Of a run, what a new machine can do without: a second checkpoint of the same size, and a lock.
LEFT_OUT = ("resume.previous.pt", ".lock")
# They say that the rest of their folder is there, so they are copied last.
LAST = ("resume.pt", "counts.json")


class Drive:
    """A folder that outlives this machine, or none.

    What cannot be copied is said in one line, and the run goes on without it.

    Args:
        folder: such as MyDrive/picolm; None: nothing is kept.
        say: prints a line.
    """

    def __init__(self, folder: Path | None = None, say: Callable[[str], object] = print) -> None:
        self.folder, self.say = folder, say
        self._said = ""
        self._copied: dict[Path, int] = {}

    def find(self, pattern: str) -> list[Path]:
        """What is kept, such as of "runs/*", in order of the names."""
        try:
            return sorted(self.folder.glob(pattern)) if self.folder else []
        except OSError:
            return []

    def keep(self, source: Path, name: str, otherwise: str = "the next checkpoint tries again",
             ) -> None:
        """Copies the files of a folder that are new or have changed, each atomically.

        Args:
            name: of the copy, such as "runs/05-1".
            otherwise: what is said to happen where it cannot be copied.
        """
        if self.folder is None:
            return
        try:
            # Where MyDrive was, a folder of this machine would be made, and nobody would notice.
            self.folder.parent.stat()
            for file in sorted(source.rglob("*"), key=lambda file: (file.name in LAST, file)):
                path = file.relative_to(source)
                crashed = any(part.endswith(".part") for part in path.parts)
                if file.is_file() and file.name not in LEFT_OUT and not crashed:
                    self._copy(file, self.folder / name / path)
        except OSError as error:
            what = f"the run {name[5:]}" if name.startswith("runs/") else "the prepared data"
            self.tell(f"note: {what} could not be copied to Drive ({first_line(error)}); "
                      f"{otherwise}.")

    def keep_file(self, file: Path) -> None:
        """Copies one file, if it is new or has changed, into the folder itself."""
        if self.folder is None:
            return
        try:
            self.folder.parent.stat()
            self._copy(file, self.folder / file.name)
        except OSError as error:
            self.tell(f"note: {file.name} could not be copied to Drive ({first_line(error)}); the "
                      "next change tries again.")

    def fetch(self, name: str, target: Path) -> None:
        """Copies a folder from Drive, unless it is here or not there."""
        source = self.folder / name if self.folder else None
        try:
            if source is None or not source.is_dir() or target.exists():
                return
            size = sum(file.stat().st_size for file in source.rglob("*") if file.is_file())
            print(f"Copying {name} from Drive ({size / 1e6:,.0f} MB) ...", flush=True)
            part = target.with_name(target.name + ".part")
            shutil.rmtree(part, ignore_errors=True)
            part.parent.mkdir(parents=True, exist_ok=True)
            shutil.copytree(source, part)
            part.replace(target)
        except OSError as error:
            self.tell(f"note: {name} could not be copied from Drive ({first_line(error)}).")

    def _copy(self, file: Path, target: Path) -> None:
        """Copies a file with its time, unless a copy of this size and time is there."""
        now = file.stat()
        if target.exists():
            was = target.stat()
            # Drive keeps whole seconds, and two checkpoints may be written within one. Of what was
            # copied in this session, the exact time is known.
            if (was.st_size == now.st_size and abs(was.st_mtime - now.st_mtime) < 2
                    and self._copied.get(target, now.st_mtime_ns) == now.st_mtime_ns):
                return
        target.parent.mkdir(parents=True, exist_ok=True)
        part = target.with_name(target.name + ".part")
        try:
            shutil.copy2(file, part)
            part.replace(target)
        except BaseException:
            part.unlink(missing_ok=True)
            raise
        self._copied[target] = now.st_mtime_ns

    def tell(self, line: str) -> None:
        """Says a line, but the same one only once in a row."""
        if line != self._said:
            self.say(line)
        self._said = line


def in_colab() -> bool:
    """Whether this is a notebook of Colab."""
    # Kaggle has google.colab, too, whose question nobody would answer there.
    if "KAGGLE_KERNEL_RUN_TYPE" in os.environ:
        return False
    try:
        import google.colab  # noqa: F401
    except ImportError:
        return False
    return True


def mount() -> Path:
    """Asks for the learner's Drive, in Colab, and returns MyDrive/picolm.

    Raises:
        Exception: Drive is not available. Colab raises kinds of its own, such as where the learner
            declines.
    """
    from google.colab import drive

    # Where everybody mounts it in Colab: in the folder that notebooks run in.
    place = Path.cwd() / "drive"
    folder = place / "MyDrive" / FOLDER
    drive.mount(str(place))
    folder.mkdir(parents=True, exist_ok=True)
    return folder


def connect(wanted: bool) -> Drive:
    """Mounts Google Drive in Colab, and says where runs will be kept."""
    if not wanted:
        print("SAVE_TO_DRIVE is not ticked: runs are kept on this machine only.")
        return Drive()
    if "KAGGLE_KERNEL_RUN_TYPE" in os.environ:
        print("This is Kaggle: runs are kept in the folder runs, which a saved version of the "
              "notebook contains.")
        return Drive()
    if not in_colab():
        print("This is not Colab: runs are kept on this machine, in the folder runs.")
        return Drive()
    try:
        folder = mount()
    except Exception as error:
        print(f"note: Drive is not available ({first_line(error)}); runs are kept on this machine "
              "only, and are gone when Colab takes it back. To try again, run this cell again.")
        return Drive()
    print(f"Drive: runs and tokens are kept in MyDrive/{FOLDER}.")
    return Drive(folder)
