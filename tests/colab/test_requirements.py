"""What the package asks of Python and of other packages. On GitHub it runs on all of them."""

from __future__ import annotations

import ast
import importlib.metadata
import re
import sys
import tomllib

import colab_environment as colab
import yaml
from helpers import ROOT
from packaging.requirements import Requirement
from packaging.version import Version

PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())
WORKFLOW = yaml.safe_load((ROOT / ".github/workflows/test.yml").read_text())
RUN_TIME = {colab.plain(required.name): required
            for required in map(Requirement, PROJECT["project"]["dependencies"])}
COLABS_TORCH = "2.11.0"  # constraints.txt says why it is not pinned there


def lower_bound(requirement: Requirement) -> str:
    bounds = [part for part in requirement.specifier if part.operator == ">="]
    assert len(bounds) == len(requirement.specifier) == 1, requirement
    return bounds[0].version


def test_every_import_is_declared():
    distributions = importlib.metadata.packages_distributions()
    files = [*ROOT.glob("*.py"), *(ROOT / "picolm_lib").rglob("*.py"),
             *(ROOT / "notebooks" / "src").glob("*.py")]
    assert len(files) > 100
    for path in files:
        for node in ast.walk(ast.parse(path.read_text())):
            modules = ([alias.name for alias in node.names] if isinstance(node, ast.Import) else
                       [node.module] if isinstance(node, ast.ImportFrom) and not node.level else [])
            # It is there in Colab, and only there.
            for name in {module.split(".")[0] for module in modules if module != "google.colab"}:
                if name not in sys.stdlib_module_names | {"picolm_lib"}:
                    offered = {colab.plain(p) for p in distributions.get(name, [name])}
                    assert offered & RUN_TIME.keys(), f"{path.name}: {name} is not declared"


def test_colab_has_all_that_is_required():
    has = colab.pinned() | {"torch": COLABS_TORCH}
    for name, requirement in RUN_TIME.items():
        if name != "tyro":  # small, and the only package that comes with ours
            assert requirement.specifier.contains(has[name]), f"Colab's {name} would be replaced"


def test_the_set_up_cells_ask_for_no_upgrade():
    assert colab.command() == ["install", "-q"]


def test_the_lowest_versions_are_those_that_are_promised():
    text = (ROOT / "tests" / "lowest.txt").read_text()
    pins = {colab.plain(name): version for name, version in re.findall(r"^(\S+)==(\S+)$", text,
                                                                      re.MULTILINE)}
    for name, requirement in RUN_TIME.items():
        lowest = lower_bound(requirement)
        if name == "torch":
            assert WORKFLOW["jobs"]["lowest"]["strategy"]["matrix"]["torch"][0] == f"{lowest}.0"
        else:
            assert Version(pins[name]) == Version(lowest), name


def test_the_python_versions_agree():
    project = PROJECT["project"]
    versions = re.findall(r"Python :: (3\.\d+)", "\n".join(project["classifiers"]))
    oldest = versions[0]
    assert WORKFLOW["jobs"]["pythons"]["strategy"]["matrix"]["python"] == versions
    assert project["requires-python"] == f">={oldest}"
    assert PROJECT["tool"]["ruff"]["target-version"] == "py" + oldest.replace(".", "")
    assert PROJECT["tool"]["mypy"]["python_version"] == oldest
    assert f"Python {oldest} or newer" in (ROOT / "README.md").read_text()


def test_actions_are_pinned_and_may_only_read():
    assert WORKFLOW["permissions"] == {"contents": "read"}
    used = [step["uses"] for job in WORKFLOW["jobs"].values() for step in job["steps"]
            if "uses" in step]
    assert used and all(re.search(r"@[0-9a-f]{40}$", action) for action in used), used
