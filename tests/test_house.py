"""The rules of the house: imports run one way, files and functions stay short, all is explained."""

from __future__ import annotations

import ast
import re
from pathlib import Path

import pytest
from helpers import ROOT

PACKAGE = ROOT / "picolm_lib"
FILES = sorted(PACKAGE.rglob("*.py"))
# A module imports only from floors below its own, or beside it on the same floor.
FLOORS = [
    {"config"},
    {"files", "hub", "doctor", "norm", "rope", "schedule", "loss", "mlp", "init", "muon",
     "attention", "batches", "interrupt", "distributed", "peers", "pace", "cli", "storybook",
     "storyworld", "storyplots"},
    {"tokenizer", "model", "accumulate", "split_muon"},
    {"corpus", "decode", "sharded"},
    {"data"},
    {"checkpoint", "snapshots", "evaluate", "sampling", "report", "card", "plan"},
    {"sharded_checkpoint"},
    {"resumable"},
    {"train", "hf", "export"},
    {"commands"},
    {"bundle"},
    {"course"},
]


def module_of(path: Path) -> str:
    parts = path.relative_to(ROOT).with_suffix("").parts
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


MODULES = {module_of(path): path for path in FILES}


def floor(module: str) -> int:
    """The floor of "picolm_lib.commands.train" is that of "commands"."""
    name = module.split(".")[1]
    if re.match(r"(storyplots|plots)_", name):  # the Storybook's material
        name = "storyplots"
    for number, names in enumerate(FLOORS):
        if name in names:
            return number
    pytest.fail(f"{module} has no floor yet: add it to FLOORS")


def is_script_part(node: ast.AST) -> bool:
    return (isinstance(node, ast.If) and ast.unparse(node.test) == "__name__ == '__main__'")


def imports(path: Path) -> set[str]:
    """Modules of the package that a file imports, but for what it does as a script."""
    nodes = [n for top in ast.parse(path.read_text()).body if not is_script_part(top)
             for n in ast.walk(top)]
    found = set()
    for node in nodes:
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            module = f"picolm_lib.{node.module}" if node.level else node.module
            names = {f"{module}.{alias.name}" for alias in node.names}
            found |= names & MODULES.keys() or {module}
    return {name for name in found if name.split(".")[0] == "picolm_lib" and name in MODULES}


GRAPH = {name: imports(path) for name, path in MODULES.items()}


def test_the_graph_is_not_empty():
    assert {"picolm_lib.model", "picolm_lib.resumable"} <= GRAPH["picolm_lib.train"]
    assert "picolm_lib.storyworld" in GRAPH["picolm_lib.storybook"]


def test_imports_run_one_way():
    for name, targets in GRAPH.items():
        for target in targets:
            assert name != "picolm_lib" and target != "picolm_lib", "the package itself is empty"
            assert floor(target) <= floor(name), f"{name} must not import {target}"


def test_there_are_no_circles():
    left = {name: set(targets) for name, targets in GRAPH.items()}
    while free := {name for name, targets in left.items() if not targets & left.keys()}:
        left = {name: targets for name, targets in left.items() if name not in free}
    assert not left, f"circles among {sorted(left)}"


def test_relative_imports_are_those_of_the_code_that_travels_with_an_exported_model():
    """transformers copies what hf.py imports relatively; only that must not name the package."""
    travelling, new = set(), {"picolm_lib.hf"}
    while new:
        travelling |= new
        new = {target for name in new for target in GRAPH[name]} - travelling
    for name, path in MODULES.items():
        levels = {node.level for node in ast.walk(ast.parse(path.read_text()))
                  if isinstance(node, ast.ImportFrom)
                  and (node.level or (node.module or "").startswith("picolm_lib"))}
        assert levels <= ({1} if name in travelling else {0}), name
    assert len(travelling) == 9


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


@pytest.mark.parametrize("path", FILES, ids=lambda path: path.stem)
def test_modules_and_functions_are_short_and_explained(path):
    text = path.read_text()
    tree = ast.parse(text)
    if not re.match(r"story|plots_", path.stem):
        assert len(text.splitlines()) <= 300, path.name
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
                call = ast.unparse(node)
                assert "trust_remote_code" not in call, path.name
                if ast.unparse(node.func) in ("torch.load", "load"):
                    assert "weights_only=True" in call, path.name
            elif isinstance(node, (ast.Import, ast.ImportFrom)):
                assert not re.search(r"\b(pickle|dill|joblib)\b", ast.unparse(node)), path.name


def test_requirements_are_one_line():
    path = ROOT / "requirements.txt"
    if not path.exists():
        pytest.skip("there is no requirements.txt yet")
    assert path.read_text().split("\n") == ["-e .[dev]", ""]


def test_the_readmes_commands_exist():
    readme, makefile = ROOT / "README.md", ROOT / "Makefile"
    if not (readme.exists() and makefile.exists()):
        pytest.skip("there is no README.md or Makefile yet")
    text = readme.read_text()
    targets = set(re.findall(r"^([a-z-]+):", makefile.read_text(), re.MULTILINE))
    named = set(re.findall(r"^make ([a-z-]+)|`make ([a-z-]+)`", text, re.MULTILINE))
    named = {name for pair in named for name in pair if name}
    assert {"train", "test"} <= named <= targets
    for script in re.findall(r"python ([\w/]+\.py)", text):
        assert (ROOT / script).exists(), script
    for module in re.findall(r"python -m (picolm_lib[\w.]*)", text):
        assert module in MODULES, module
    for link in re.findall(r"\]\(([^)#:]+)\)", text):
        assert (ROOT / link).exists(), link


def test_the_readmes_options_exist():
    readme = ROOT / "README.md"
    if not readme.exists():
        pytest.skip("there is no README.md yet")
    known = {name.replace("_", "-") for path in FILES for name in re.findall(
        r"^    (\w+): ", path.read_text(), re.MULTILINE)}
    for line in re.findall(r"^(?:python|torchrun) .*", readme.read_text(), re.MULTILINE):
        if "picolm_lib" in line or "run_train" in line or "inference" in line:
            options = set(re.findall(r"--([a-z-]+)", line.split("#")[0]))
            assert options <= known | {"nproc-per-node", "help"}, line


def test_the_assets_are_small():
    assets = [f for f in (PACKAGE / "assets").rglob("*") if f.is_file()]
    assert assets and sum(f.stat().st_size for f in assets) <= 10_000_000
    assert not [f for f in assets if f.suffix in (".pt", ".pth", ".bin", ".pkl")]
