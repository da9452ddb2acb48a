"""What nccl.py starts: `picolm train`, stopped as by Ctrl-C.

    python tests/gpu/checks/stopped_run.py 10 --preset smoke --run folder     # after ten steps
"""

from __future__ import annotations

import os
import signal
import sys
from typing import Any

from picolm_lib.commands.main import run_command
from picolm_lib.commands.train import train_command

STEP = int(sys.argv.pop(1))


def stop(trainer: Any, line: dict[str, Any]) -> None:
    """Called with every line of metrics."""
    if line.get("step") == STEP and "lr_factor" in line:
        os.kill(os.getpid(), signal.SIGINT)


if __name__ == "__main__":
    run_command(lambda argv: train_command(argv, "picolm train", stop))
