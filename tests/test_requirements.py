"""What the package asks of Python and of other packages is what its files use.

Syntax and the standard library are tried on every Python from 3.11 to 3.13 that is found here, this
one among them. Names of modules can be tried so, names of methods cannot: for those the whole
suite runs on 3.11, the oldest.
"""

from __future__ import annotations

import ast
import importlib.metadata
import json
import re
import shutil
import subprocess
import sys
import tomllib
from functools import cache
from pathlib import Path

import colab
import pytest
from helpers import ROOT
from packaging.requirements import Requirement
from test_notebooks import build

VERSIONS = ("3.11", "3.12", "3.13")
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())
RUN_TIME = {colab.plain(required.name): required
            for required in map(Requirement, PROJECT["project"]["dependencies"])}
FILES = sorted([*ROOT.glob("*.py"), *(ROOT / "picolm_lib").rglob("*.py"),
                *(ROOT / "tests").rglob("*.py"), *(ROOT / "notebooks").rglob("*.py")])
SHIPPED = [path for path in FILES if path.parent.name != "notebooks"
           and not path.is_relative_to(ROOT / "tests")]  # what runs where only the package is
COLABS_TORCH = "2.11.0"  # constraints-colab.txt says why it is not pinned there
# What left the standard library with 3.12 (the first line) and with 3.13.
GONE = {"asynchat", "asyncore", "distutils", "imp", "smtpd",
        "aifc", "audioop", "cgi", "cgitb", "chunk", "crypt", "imghdr", "lib2to3", "mailcap",
        "msilib", "nis", "nntplib", "ossaudiodev", "pipes", "sndhdr", "spwd", "sunau", "telnetlib",
        "uu", "xdrlib"}
PROBE = """\
import importlib, json, sys, warnings
warnings.simplefilter("error")
sources, names = json.load(sys.stdin)
for path, source in sources.items():
    try:
        compile(source, path, "exec", dont_inherit=True)
    except (SyntaxError, Warning) as error:
        print(f"{path}: {error}")
for module, name in names:
    try:
        if name and not hasattr(importlib.import_module(module), name):
            importlib.import_module(f"{module}.{name}")
        importlib.import_module(module)
    except Exception as error:
        print(f"{module}.{name}: {error}")
"""


def sources() -> dict[str, str]:
    """Every file of Python, notebooks' cells among them, and the set-up cell."""
    setup = re.sub(r"%pip .*", "pass", build.SETUP)
    return {str(path.relative_to(ROOT)): path.read_text() for path in FILES} | {"set-up": setup}


def imported(tree: ast.AST) -> dict[str, str]:
    """Name in the file -> module.attribute that it stands for, or the module itself."""
    found = {}
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            for alias in node.names:
                found[alias.asname or alias.name] = alias.name
        elif isinstance(node, ast.ImportFrom) and not node.level:
            for alias in node.names:
                found[alias.asname or alias.name] = f"{node.module}.{alias.name}"
    return found


def roots(path: Path) -> set[str]:
    """First parts of all that a file imports, also within functions."""
    return {name.split(".")[0] for name in imported(ast.parse(path.read_text())).values()}


def library_names(source: str) -> set[tuple[str, str]]:
    """(module, name) of all that a file takes from the standard library, as math.tau or re."""
    try:
        tree, found = ast.parse(source), set()
    except SyntaxError:  # newer than this Python, and the probe says so
        return set()
    known = {name: thing for name, thing in imported(tree).items()
             if thing.split(".")[0] in sys.stdlib_module_names}
    for node in ast.walk(tree):
        if isinstance(node, ast.ImportFrom) and not node.level:
            found |= {(node.module, alias.name) for alias in node.names}
        elif isinstance(node, ast.Import):
            found |= {(alias.name, "") for alias in node.names}
        elif isinstance(node, ast.Attribute) and ast.unparse(node.value) in known:
            module = known[ast.unparse(node.value)]
            if module in sys.modules:
                found.add((module, node.attr))
    return {(m, n) for m, n in found if m.split(".")[0] in sys.stdlib_module_names}


@cache
def interpreter(version: str) -> str | None:
    """A Python of this version: this one, one on the path, or one of pyenv's."""
    pyenv = Path.home() / ".pyenv" / "versions"
    for path in (sys.executable, shutil.which(f"python{version}"),
                 *map(str, pyenv.glob(f"{version}.*/bin/python{version}"))):
        if path:
            says = subprocess.run([path, "-c", "import sys; print('%d.%d' % sys.version_info[:2])"],
                                  capture_output=True, text=True)
            if says.stdout.strip() == version:
                return path
    return None


def complaints(version: str, files: dict[str, str]) -> list[str]:
    """What a Python says to these files: syntax, and names that its library lacks."""
    names = sorted(set().union(*map(library_names, files.values())))
    done = subprocess.run([interpreter(version), "-I", "-c", PROBE], text=True, check=True,
                          input=json.dumps([files, names]), capture_output=True)
    return done.stdout.splitlines()


@pytest.mark.parametrize("version", VERSIONS)
def test_every_python_compiles_all_files_and_has_what_they_import(version):
    if interpreter(version) is None:
        pytest.skip(f"there is no Python {version} on this machine")
    assert complaints(version, sources()) == []


@pytest.mark.parametrize(("version", "source", "word"), [
    ("3.11", "type Number = int", "syntax"), ("3.11", "print(f'{'a'}')", "f-string"),
    ("3.11", "from itertools import batched", "batched"),
    ("3.11", "import itertools as i\ni.batched('ab', 1)", "batched"),
    ("3.12", "x = 1 is 1", "is"), ("3.12", "import asyncore", "asyncore"),
    ("3.13", "from cgi import parse", "cgi"), ("3.13", "import typing\ntyping.io", "io")])
def test_what_a_python_lacks_is_found(version, source, word):
    if interpreter(version) is None:
        pytest.skip(f"there is no Python {version} on this machine")
    found = complaints(version, {"file": source})
    assert len(found) == 1 and word in found[0], found


def test_all_files_parse_as_the_oldest_python_reads_them():
    assert len(FILES) > 100
    for path, source in sources().items():
        ast.parse(source, path, feature_version=(3, 11))
    with pytest.raises(SyntaxError):
        ast.parse("type Number = int", feature_version=(3, 11))


def test_no_file_needs_what_left_the_standard_library():
    for path in FILES:
        assert not roots(path) & GONE, path.name


def test_the_python_versions_agree():
    project = PROJECT["project"]
    assert project["requires-python"] == f">={VERSIONS[0]}"
    listed = re.findall(r"Python :: (3\.\d+)", "\n".join(project["classifiers"]))
    assert tuple(listed) == VERSIONS
    assert PROJECT["tool"]["ruff"]["target-version"] == "py" + VERSIONS[0].replace(".", "")
    assert f"Python {VERSIONS[0]} or newer" in (ROOT / "README.md").read_text()
    assert f'python-version: "{VERSIONS[0]}"' in (ROOT / ".github/workflows/test.yml").read_text()


def test_every_import_is_declared():
    distributions = importlib.metadata.packages_distributions()
    known = sys.stdlib_module_names | {"picolm_lib"}
    assert {path.name for path in SHIPPED} >= {"run_train.py", "hub.py", "06_sampling.py"}
    for path in SHIPPED:
        for name in roots(path) - known:
            offered = {colab.plain(package) for package in distributions.get(name, [name])}
            assert offered & RUN_TIME.keys(), f"{path.name}: {name} is not in pyproject.toml"


def test_colab_has_all_that_is_required():
    has = colab.pinned() | {"torch": COLABS_TORCH}
    for name, requirement in RUN_TIME.items():
        assert {part.operator for part in requirement.specifier} == {">="}, name
        if name != "tyro":  # small, and the only package that comes with ours
            assert requirement.specifier.contains(has[name]), f"Colab's {name} would be replaced"


def test_the_set_up_cells_ask_for_no_upgrade():
    assert colab.command() == ["install", "-q"]
