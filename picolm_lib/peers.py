"""When one of several processes dies, the others notice, one of them says so, and all end.

What the death of a process does to the others depends on where they are. In a collective of gloo
its connection breaks, which raises an error. In one of NCCL they would wait for minutes, so a
thread looks whether the processes of this machine are alive. Anywhere else torchrun's SIGTERM
reaches them, which it sends to all as soon as one is gone.

In the training loop SIGTERM asks for a last checkpoint (interrupt.py). With a dead peer that never
comes: the next collective breaks, or the thread ends the wait.
"""

from __future__ import annotations

import os
import signal
import socket
import sys
import threading
from typing import NoReturn

import torch.distributed as dist

from picolm_lib.config import PicoError

LOOK = 0.5   # seconds between two looks
GRACE = 3.0  # seconds in which a process may notice by itself that another one is gone
LOST = ("another process of this run has ended (what it had to say stands above), so all end; the "
        "same command with --resume goes on from the last checkpoint.")
TOLD = ("the run was told to end, or one of its processes has died, before it could save anything "
        "new; the same command with --resume goes on from the last checkpoint.")

_apart = threading.Event()


def watch_peers() -> None:
    """Begins to look after the other processes; all call it together, once they have joined."""
    me = (socket.gethostname(), os.getppid(), os.getpid())           # one torchrun, one parent
    everybody: list = [None] * dist.get_world_size()
    dist.all_gather_object(everybody, me)
    pids = [pid for *place, pid in everybody if place == list(me[:2]) and pid != me[2]]
    if os.name == "posix":  # elsewhere there is no signal that only asks
        threading.Thread(target=_look, args=(pids,), daemon=True).start()
    if threading.current_thread() is threading.main_thread():
        signal.signal(signal.SIGTERM, _told)


def part_ways() -> None:
    """From here on the processes need each other no more, and each may end when it likes."""
    _apart.set()
    if (threading.current_thread() is threading.main_thread()
            and signal.getsignal(signal.SIGTERM) is _told):
        signal.signal(signal.SIGTERM, signal.SIG_DFL)


def is_lost_peer(error: RuntimeError) -> bool:
    """Whether an error means that a collective broke."""
    return _is_joined() and (
        isinstance(error, dist.DistError) or "gloo" in str(error) or "NCCL" in str(error))


def end(line: str) -> NoReturn:
    """Ends this process with code 2 and a line, unless another process has said one already.

    A process that waits for dead ones in a thread of NCCL could not end in the usual way.
    """
    if _speaks_first():
        print(line, file=sys.stderr, flush=True)
    if not _is_joined():
        sys.exit(2)
    sys.stdout.flush()
    os._exit(2)


def _look(pids: list[int]) -> None:
    while not _apart.wait(LOOK):
        if not all(map(_is_alive, pids)) and not _apart.wait(GRACE):
            end(f"error: {LOST}")


def _is_alive(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    return True


def _is_joined() -> bool:
    return dist.is_available() and dist.is_initialized()


def _told(number: int, frame: object) -> NoReturn:
    raise PicoError(TOLD)


def _speaks_first() -> bool:
    """True in the first process that asks; torchrun's store, which outlives us, keeps count."""
    if not _is_joined():
        return True
    store = dist.distributed_c10d._get_default_store()
    try:  # a clone has a connection of its own: the first one may be what another thread waits for
        return getattr(store, "clone", lambda: store)().add("picolm_lib: why it ends", 1) == 1
    except RuntimeError:  # torchrun itself is gone
        return True
