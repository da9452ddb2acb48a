"""Builds the notebooks from their sources: notebooks/src/*.py are the files to edit.

    python notebooks/build.py                   # build, run, and store the outputs
    python notebooks/build.py 02                # only this one
    python notebooks/build.py --keep-outputs    # new text, old outputs; only if no code changed
    python notebooks/build.py --slug owner/name # move the course to a fork

The repository's address is in pyproject.toml and nowhere else. Badges, links and the set-up cell
are made from it here, and so are the links of README.md and CITATION.cff.
"""

from __future__ import annotations

import argparse
import base64
import os
import re
import sys
import tempfile
import time
import tomllib
from pathlib import Path

import jupytext
import nbformat
from nbclient import NotebookClient
from nbclient.exceptions import CellExecutionError, CellTimeoutError, DeadKernelError
from nbformat import NotebookNode

FOLDER = Path(__file__).resolve().parent
ROOT = FOLDER.parent
LINKING = ("README.md", "CITATION.cff")
SOURCES = sorted((FOLDER / "src").glob("[0-9][0-9]_*.py"))
CELL_SECONDS = 300
VIEW = "application/vnd.jupyter.widget-view+json"
# Without the file's ending, nbconvert writes a script into a text file.
LANGUAGE = {"name": "python", "file_extension": ".py", "mimetype": "text/x-python",
            "pygments_lexer": "ipython3", "codemirror_mode": {"name": "ipython", "version": 3}}
SETUP = '''\
import os
import sys

if "google.colab" in sys.modules or "KAGGLE_KERNEL_RUN_TYPE" in os.environ:
    %pip install -q git+https://github.com/{slug}

from picolm_lib.course.start import start

start(seed=0{more})'''
PNG = re.compile(r'src="data:image/png;base64,([^"]+)"')
ADDRESS = re.compile(r"github\.com/([\w.-]+/[\w.-]+?)(?=\.git|[/\")\s`]|$)")


def slug() -> str:
    """The repository's owner/name."""
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    return ADDRESS.search(project["urls"]["Repository"])[1]


def badge(stem: str) -> str:
    """The button that opens a notebook in Colab."""
    return ("[![Open in Colab](https://colab.research.google.com/assets/colab-badge.svg)]"
            f"(https://colab.research.google.com/github/{slug()}/blob/main/notebooks/{stem}.ipynb)")


def kaggle(stem: str) -> str:
    """The button that opens a notebook in Kaggle."""
    return ("[![Open in Kaggle](https://kaggle.com/static/images/open-in-kaggle.svg)]"
            "(https://kaggle.com/kernels/welcome?src="
            f"https://github.com/{slug()}/blob/main/notebooks/{stem}.ipynb)")


def title(source: Path) -> str:
    """A notebook's title, its first heading."""
    return re.search(r"^# # (.+)$", source.read_text(), re.MULTILINE)[1]


def neighbors(source: Path) -> str:
    """Links to the notebooks before and after."""
    place = SOURCES.index(source)
    links = []
    if place > 0:
        before = SOURCES[place - 1]
        links.append(f"Previous: [{title(before)}]({before.stem}.ipynb)")
    if place + 1 < len(SOURCES):
        after = SOURCES[place + 1]
        links.append(f"Next: [{title(after)}]({after.stem}.ipynb) {badge(after.stem)}")
    return " | ".join(links)


def render(source: Path) -> NotebookNode:
    """The notebook without outputs; badges, `{neighbors}` and the set-up cell are filled in.

    A set-up cell with the tag "gpu" makes a notebook that opens on a GPU.
    """
    notebook = jupytext.read(source, fmt="py:percent")
    notebook.metadata = {"kernelspec": {"display_name": "Python 3", "language": "python",
                                        "name": "python3"},
                         "language_info": LANGUAGE}
    for number, cell in enumerate(notebook.cells):
        cell.id = f"cell-{number:03d}"
        # Jupytext's note on blank lines in the source.
        cell.metadata.pop("lines_to_next_cell", None)
        tags = cell.metadata.get("tags", [])
        if "setup" in tags:
            wants_gpu = "gpu" in tags
            cell.source = SETUP.format(slug=slug(), more=", wants_gpu=True" if wants_gpu else "")
            if wants_gpu:
                # What Colab's badge opens.
                notebook.metadata |= {"accelerator": "GPU", "colab": {"gpuType": "T4"}}
        elif cell.cell_type == "markdown":
            for name, text in (("badge", badge(source.stem)), ("kaggle", kaggle(source.stem)),
                               ("neighbors", neighbors(source))):
                cell.source = cell.source.replace(f"{{{name}}}", text)
    return notebook


def execute(notebook: NotebookNode) -> None:
    """Runs all cells in place. Live sliders are removed from the outputs; their pictures stay."""
    os.environ.setdefault("PICOLM_PRESET", "nano")
    # An empty folder, as a learner's is: no runs and no my_picolm.py of an earlier time.
    with tempfile.TemporaryDirectory(prefix="picolm-build") as folder:
        client = NotebookClient(notebook, timeout=CELL_SECONDS, kernel_name="python3",
                                resources={"metadata": {"path": folder}}, record_timing=False,
                                store_widget_state=False, extra_arguments=["--log-level=ERROR"])
        client.execute()
    notebook.metadata.pop("widgets", None)
    notebook.metadata["language_info"] = LANGUAGE
    for cell in notebook.cells:
        for output in cell.get("outputs", []):
            output.get("data", {}).pop(VIEW, None)


def carry_outputs(old: NotebookNode, new: NotebookNode) -> None:
    """Copies the outputs of unchanged code cells; the set-up cell always counts as unchanged.

    Raises:
        SystemExit: a code cell has changed, so its output would be wrong.
    """
    was = [cell for cell in old.cells if cell.cell_type == "code"]
    now = [cell for cell in new.cells if cell.cell_type == "code"]
    for before, after in zip(was, now, strict=False):
        if before.source == after.source or "setup" in after.metadata.get("tags", []):
            after.outputs, after.execution_count = before.outputs, before.execution_count
    if len(was) != len(now) or not all(cell.execution_count for cell in now):
        sys.exit("error: code cells have changed; run them: python notebooks/build.py")


def build(source: Path, keep_outputs: bool) -> None:
    """Writes one notebook, and its picture for the README."""
    path, started = FOLDER / f"{source.stem}.ipynb", time.monotonic()
    notebook = render(source)
    if keep_outputs:
        carry_outputs(nbformat.read(path, as_version=4), notebook)
    else:
        print(f"{source.stem}: running ...", flush=True)
        try:
            execute(notebook)
        except (CellExecutionError, CellTimeoutError, DeadKernelError) as error:
            sys.exit(f"error: {source.stem} stopped:\n{error}")
    nbformat.validate(notebook)
    part = path.with_suffix(".part")
    nbformat.write(notebook, part)
    part.replace(path)
    cover(notebook, source)
    print(f"{source.stem}: {path.stat().st_size / 1e3:.0f} kB, {time.monotonic() - started:.0f} s")


def cover(notebook: NotebookNode, source: Path) -> None:
    """Saves the first picture of the cell with the tag "cover"."""
    for cell in notebook.cells:
        if "cover" in cell.metadata.get("tags", []):
            html = "".join(output.get("data", {}).get("text/html", "") for output in cell.outputs)
            pictures = PNG.findall(html)
            if not pictures:
                sys.exit(f"error: {source.stem}: the cell with the tag cover shows no picture.")
            (FOLDER / "pictures").mkdir(exist_ok=True)
            (FOLDER / "pictures" / f"{source.stem}.png").write_bytes(
                base64.b64decode(pictures[0]))


def relink(text: str) -> str:
    """A text with its badges and addresses updated."""
    text = ADDRESS.sub(lambda found: found[0] if found[1] == slug() else f"github.com/{slug()}",
                       text)
    text = re.sub(r"(?<=\.git && cd )\S+", slug().split("/")[1], text)
    return re.sub(r"(colab\.research\.google\.com/github/)[\w.-]+/[\w.-]+(?=/blob)",
                  rf"\g<1>{slug()}", text)


def move(new: str) -> None:
    """Writes another address into pyproject.toml."""
    if not re.fullmatch(r"[\w.-]+/[\w.-]+", new):
        sys.exit(f"error: {new!r} is not of the form owner/name.")
    path = ROOT / "pyproject.toml"
    path.write_text(path.read_text().replace(f"github.com/{slug()}", f"github.com/{new}"))


def main() -> None:
    """The command line."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("names", nargs="*", help="such as 02; omit them to build all")
    parser.add_argument("--keep-outputs", action="store_true", help="do not run the cells")
    parser.add_argument("--slug", help="owner/name of the repository on GitHub")
    options = parser.parse_args()
    if options.slug:
        move(options.slug)
    chosen = [s for s in SOURCES if s.stem.startswith(tuple(options.names or [""]))]
    if not chosen:
        sys.exit(f"error: no notebook begins with {' or '.join(options.names)}.")
    for source in chosen:
        build(source, keep_outputs=options.keep_outputs or bool(options.slug))
    for name in LINKING:
        (ROOT / name).write_text(relink((ROOT / name).read_text()))


if __name__ == "__main__":
    main()
