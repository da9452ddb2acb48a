"""The rules of the house: imports run one way, folders, files and functions stay small."""

from __future__ import annotations

import ast
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest
from helpers import ROOT

import picolm_lib
from picolm_lib.commands.main import COMMANDS

PACKAGE = ROOT / "picolm_lib"
FILES = sorted(PACKAGE.rglob("*.py"))
# A module imports only from floors below its own, or beside it on the same floor.
FLOORS = [{"model"}, {"config"}, {"device", "files", "storybook"}, {"data"},
          {"sampling", "evaluate"}, {"train"}, {"card", "export"}, {"commands", "__main__"},
          {"course"}]
MOST_ENTRIES = 16  # of a folder: one look
MOST_LINES = 250
# path -> up to 300, and why.
MOST_LINES_WITH_A_REASON = {
    "train/trainer.py": 300,  # the loop with its accumulation is read top to bottom, in one place
}


def module_of(path: Path) -> str:
    parts = path.relative_to(ROOT).with_suffix("").parts
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


MODULES = {module_of(path): path for path in FILES}


def floor(module: str) -> int:
    """The floor of "picolm_lib.commands.train" is that of "commands"."""
    name = module.split(".")[1]
    for number, names in enumerate(FLOORS):
        if name in names:
            return number
    pytest.fail(f"{module} has no floor yet: add it to FLOORS")


def imports(path: Path) -> set[str]:
    """Modules of the package that a file imports: at its top, in a function, as a script."""
    found = set()
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            folder = module_of(path.parent / "__init__.py")
            module = ".".join(filter(None, [folder, node.module])) if node.level else node.module
            names = {f"{module}.{alias.name}" for alias in node.names}
            found |= names & MODULES.keys() or {module}
    return {name for name in found if name in MODULES}


GRAPH = {name: imports(path) for name, path in MODULES.items()}
# Imported by name, when they are called.
GRAPH["picolm_lib.commands.main"] |= {f"picolm_lib.commands.{name}" for name in COMMANDS}
PUBLIC = {name: f"picolm_lib.{module}" for name, module in picolm_lib._MODULES.items()}


def test_the_graph_is_not_empty():
    assert {"picolm_lib.model.picolm", "picolm_lib.evaluate"} <= GRAPH["picolm_lib.train.trainer"]
    assert "picolm_lib.storybook.world" in GRAPH["picolm_lib.storybook.story"]


def test_imports_run_one_way():
    for name, targets in GRAPH.items():
        for target in targets:
            assert "picolm_lib" not in (name, target), "the public names are for users"
            assert floor(target) <= floor(name), f"{name} must not import {target}"


def test_there_are_no_circles():
    left = {name: set(targets) for name, targets in GRAPH.items()}
    while free := {name for name, targets in left.items() if not targets & left.keys()}:
        left = {name: targets for name, targets in left.items() if name not in free}
    assert not left, f"circles among {sorted(left)}"


def test_the_model_imports_only_its_siblings():
    """transformers copies what hf.py imports relatively; only that must not name the package."""
    for name, path in MODULES.items():
        levels = {node.level for node in ast.walk(ast.parse(path.read_text()))
                  if isinstance(node, ast.ImportFrom)
                  and (node.level or (node.module or "").startswith("picolm_lib"))}
        in_model = name.startswith("picolm_lib.model")
        assert levels <= ({1} if in_model else {0}), name
        if in_model:
            assert all(target.startswith("picolm_lib.model.") for target in GRAPH[name]), name
    assert {"picolm_lib.model.picolm", "picolm_lib.model.config"} <= GRAPH["picolm_lib.model.hf"]


def test_nothing_imports_the_course_but_itself():
    for name, targets in GRAPH.items():
        if not name.startswith("picolm_lib.course"):
            assert not any(target.startswith("picolm_lib.course") for target in targets), name


def test_parts_need_no_heavy_library():
    heavy = {"transformers", "datasets", "matplotlib", "huggingface_hub"}
    for path in FILES:
        for node in ast.parse(path.read_text()).body:  # at the top: not within functions
            if isinstance(node, ast.Import):
                names = {alias.name.split(".")[0] for alias in node.names}
            elif isinstance(node, ast.ImportFrom):
                names = {node.module.split(".")[0]}
            else:
                continue
            if path.stem != "hf" and "course" not in path.parts:
                assert not names & heavy, f"{path.name} should import {names & heavy} when needed"


FOLDERS = sorted({path.parent for path in FILES})


@pytest.mark.parametrize("folder", FOLDERS, ids=lambda path: str(path.relative_to(ROOT)))
def test_ls_of_a_folder_is_one_look(folder):
    entries = [path.name for path in folder.iterdir()
               if not path.name.startswith(".") and path.name != "__pycache__"]
    assert len(entries) <= MOST_ENTRIES, sorted(entries)


@pytest.mark.parametrize("path", FILES, ids=lambda path: str(path.relative_to(PACKAGE)))
def test_modules_and_functions_are_short_and_explained(path):
    text = path.read_text()
    tree = ast.parse(text)
    most = MOST_LINES_WITH_A_REASON.get(str(path.relative_to(PACKAGE)), MOST_LINES)
    assert len(text.splitlines()) <= most <= 300, path.name
    if path.name != "__init__.py" or text:
        assert ast.get_docstring(tree), f"{path.name} has no docstring"
    for node in ast.walk(tree):
        if isinstance(node, (ast.FunctionDef, ast.AsyncFunctionDef)):
            assert node.end_lineno - node.lineno < 60, f"{path.name}: {node.name} is too long"
    for node in tree.body:
        if (isinstance(node, (ast.FunctionDef, ast.ClassDef)) and not node.name.startswith("_")):
            assert ast.get_docstring(node), f"{path.name}: {node.name} has no docstring"


def test_no_file_names_a_place_on_somebodys_machine():
    for path in [*FILES, *ROOT.glob("*.py"), *ROOT.glob("*.md"), ROOT / "pyproject.toml"]:
        assert not re.search(r"/(home|Users|work|root|mnt|content)/", path.read_text()), path.name


def test_nothing_is_unpickled_and_nothing_remote_is_run():
    for path in FILES:
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, ast.Call):
                name = ast.unparse(node.func)
                given = {word.arg: ast.unparse(word.value) for word in node.keywords}
                # What can run code of others is told not to; without a word, it asks.
                if re.fullmatch(r"Auto\w+\.from_pretrained", name):
                    assert "trust_remote_code" in given, path.name
                assert given.get("trust_remote_code", "False") == "False", path.name
                if name in ("torch.load", "load"):
                    assert given["weights_only"] == "True", path.name
            elif isinstance(node, (ast.Import, ast.ImportFrom)):
                assert not re.search(r"\b(pickle|dill|joblib)\b", ast.unparse(node)), path.name


def test_requirements_are_one_line():
    assert (ROOT / "requirements.txt").read_text().split("\n") == ["-e .[dev]", ""]


def test_importing_the_package_is_quick():
    """In a new process: torch and its companions are loaded when they are needed."""
    heavy = ("torch", "transformers", "numpy", "tyro")
    done = subprocess.run(
        [sys.executable, "-c", f"import sys, picolm_lib; dir(picolm_lib); picolm_lib.__version__; "
         f"print([name for name in {heavy} if name in sys.modules])"],
        capture_output=True, text=True, env={**os.environ, "PYTHONPATH": str(ROOT)})
    assert (done.stdout, done.stderr) == ("[]\n", "")


def test_public_names_are_the_objects_of_their_modules():
    assert PUBLIC.keys() == set(picolm_lib.__all__) >= {
        "PicoLM", "PicoConfig", "PicoError", "TrainConfig", "SampleConfig", "PRESETS", "Trainer",
        "MuonAdamW", "generate", "stream_text", "load_run", "load_corpus", "load_tokenizer",
        "train_bpe", "tokenize_corpus", "choose_precision"}
    for name, module in PUBLIC.items():
        thing = getattr(picolm_lib, name)
        assert thing is getattr(sys.modules[module], name), name
        assert getattr(thing, "__module__", module) == module, f"{name} is defined elsewhere"
        assert f"picolm_lib.{name}" not in MODULES, f"{name} is a module, too"
        assert name in dir(picolm_lib)
    namespace: dict[str, object] = {}
    exec("from picolm_lib import *", namespace)
    assert namespace.keys() >= PUBLIC.keys()


def test_a_name_that_is_not_public_is_refused_as_by_any_module():
    with pytest.raises(AttributeError, match="'picolm_lib' has no attribute 'nonsense'"):
        _ = picolm_lib.nonsense
    assert not hasattr(picolm_lib, "nonsense")


def test_the_assets_are_small():
    assets = [f for f in (PACKAGE / "assets").rglob("*") if f.is_file()]
    assert assets and sum(f.stat().st_size for f in assets) <= 10_000_000
    assert not [f for f in assets if f.suffix in (".pt", ".pth", ".bin", ".pkl")]
