"""A separate JupyterLab, which leaves nothing behind."""

from __future__ import annotations

import json
import os
import secrets
import shutil
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import nbformat
from helpers import ROOT

SETTINGS = {
    # Cells out of sight stay in the page, so that all of them can be inspected.
    "notebook-extension/tracker": {"windowingMode": "none"},
    "apputils-extension/notification": {"fetchNews": "false", "checkForUpdates": False}}


@contextmanager
def jupyterlab(folder: Path) -> Iterator[str]:
    """Starts a server on a free port, with its own settings and copies of the notebooks.

    Args:
        folder: an empty one, for everything that the server writes.

    Yields:
        The server's address, up to the path, with a `{}` for it.
    """
    notebooks, settings = folder / "notebooks", folder / "settings"
    shutil.copytree(ROOT / "notebooks", notebooks, ignore=shutil.ignore_patterns("src", "build.py"))
    # Old outputs could be mistaken for new ones.
    for path in notebooks.glob("*.ipynb"):
        notebook = nbformat.read(path, as_version=4)
        for cell in notebook.cells:
            if cell.cell_type == "code":
                cell.update(outputs=[], execution_count=None)
        nbformat.write(notebook, path)
    for name, values in SETTINGS.items():
        path = settings / "@jupyterlab" / f"{name}.jupyterlab-settings"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(json.dumps(values))
    own = {name: str(folder / name.lower()) for name in (
        "JUPYTER_CONFIG_DIR", "JUPYTER_DATA_DIR", "JUPYTER_RUNTIME_DIR", "IPYTHONDIR",
        "JUPYTERLAB_WORKSPACES_DIR")}
    environment = {**os.environ, **own, "JUPYTERLAB_SETTINGS_DIR": str(settings),
                   "PICOLM_PRESET": "smoke", "HF_HUB_OFFLINE": "1", "OMP_NUM_THREADS": "1",
                   "PYTHONPATH": str(ROOT)}
    token = secrets.token_hex(16)
    log = folder / "server.log"
    with log.open("w") as stream:
        server = subprocess.Popen(
            [sys.executable, "-m", "jupyter", "lab", "--no-browser", "--allow-root",
             "--ServerApp.ip=127.0.0.1", "--ServerApp.port=0", f"--ServerApp.root_dir={notebooks}",
             f"--IdentityProvider.token={token}",
             "--LabApp.extension_manager=readonly"],
            env=environment, stdout=stream, stderr=subprocess.STDOUT)
    try:
        yield f"{_address(server, Path(own['JUPYTER_RUNTIME_DIR']), log)}{{}}?token={token}"
    finally:
        server.terminate()  # ends its kernels, too
        server.wait(timeout=60)


def _address(server: subprocess.Popen, runtime: Path, log: Path) -> str:
    """Waits until the server has written where it is."""
    file = runtime / f"jpserver-{server.pid}.json"
    eventually(lambda: file.exists() or server.poll() is not None, "JupyterLab has started", 120)
    assert server.poll() is None, f"JupyterLab did not start:\n{log.read_text()}"
    return json.loads(file.read_text())["url"]


def eventually(is_so: Callable[[], bool], what: str, seconds: float = 60) -> None:
    """Waits until a condition is true; fails with its name if it never is."""
    end = time.monotonic() + seconds
    while not is_so():
        assert time.monotonic() < end, f"not after {seconds:g} s: {what}"
        time.sleep(0.1)
