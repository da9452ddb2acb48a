"""Installs the package into Colab's runtime as a notebook's set-up cell does: nothing may change.

    .venv-colab/bin/python tests/colab/colab_environment.py       # a part of: make test-colab

The environment contains what tests/colab/constraints.txt lists; what an earlier run has changed in
it is undone first. The package is then installed with the command of the set-up cell, this checkout
in place of the address, and without any constraint, as in Colab. A package that is replaced by it,
or a requirement that is not met after it, is an error.
"""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
PINS = Path(__file__).with_name("constraints.txt")
INSTALL = re.compile(r"^ *%pip (install .*)git\+https://github\.com/\S+$", re.MULTILINE)


def pip(*words: str) -> str:
    """What a pip command prints; one that fails says why and ends the script."""
    free = {name: value for name, value in os.environ.items() if name != "PIP_CONSTRAINT"}
    done = subprocess.run([sys.executable, "-m", "pip", *words], env=free, text=True,
                          stdout=subprocess.PIPE)
    if done.returncode and words[0] != "check":
        sys.exit(f"error: pip {' '.join(words)} failed; see above.")
    return done.stdout


def plain(name: str) -> str:
    """One spelling of a package's name."""
    return re.sub(r"[-_.]+", "-", name).lower()


def installed() -> dict[str, str]:
    """Package -> version, without a build's label such as +cpu."""
    found = json.loads(pip("list", "--format=json"))
    return {plain(package["name"]): package["version"].split("+")[0] for package in found}


def pinned() -> dict[str, str]:
    """Package -> version of Colab's runtime."""
    pins = re.findall(r"^([\w.-]+)==(\S+)$", PINS.read_text(), re.MULTILINE)
    return {plain(name): version for name, version in pins}


def command() -> list[str]:
    """The words of the set-up cells' pip command before the address."""
    found = set()
    for path in (ROOT / "notebooks").glob("*.ipynb"):
        cells = json.loads(path.read_text())["cells"]
        setup = next(cell for cell in cells if cell["cell_type"] == "code")
        found |= set(INSTALL.findall("".join(setup["source"]))) or {f"none in {path.name}"}
    if len(found) != 1:
        sys.exit(f"error: the notebooks should share one %pip line, not {sorted(found)}.")
    return found.pop().split()


def copy(folder: Path) -> None:
    """What git would send from this checkout: no left-overs of earlier builds."""
    names = subprocess.run(["git", "ls-files", "-z", "--cached", "--others", "--exclude-standard"],
                           cwd=ROOT, check=True, capture_output=True, text=True).stdout
    for name in filter(None, names.split("\0")):
        if (ROOT / name).is_file():
            (folder / name).parent.mkdir(parents=True, exist_ok=True)
            shutil.copy(ROOT / name, folder / name)


def differences(before: dict[str, str], after: dict[str, str]) -> list[str]:
    """What has become of the packages that were there before."""
    return [f"{name} {version} -> {after.get(name, 'gone')}"
            for name, version in before.items() if after.get(name) != version]


def main() -> None:
    """The command line."""
    runtime = pinned()
    if more := installed().keys() - runtime.keys():
        pip("uninstall", "--quiet", "--yes", *more)
    if differences(runtime, installed()):  # what an earlier run has found, and left so
        pip("install", "--quiet", "--no-deps", "--requirement", str(PINS))
    complaints = set(pip("check").splitlines())
    with tempfile.TemporaryDirectory() as folder:
        copy(Path(folder))
        pip(*command(), folder)
    after = installed()
    if replaced := differences(runtime, after):
        sys.exit(f"error: the set-up cell replaces what Colab has: {'; '.join(replaced)}.")
    new = set(pip("check").splitlines()) - complaints
    if unmet := [line for line in new if not line.startswith("No broken requirements")]:
        sys.exit("error: " + "; ".join(unmet))
    print(f"{len(runtime)} packages of the runtime are as they were; new:", ", ".join(
        f"{name} {after[name]}" for name in sorted(after.keys() - runtime.keys())))


if __name__ == "__main__":
    main()
