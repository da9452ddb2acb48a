"""The Hugging Face Hub: find out early whether it answers, and say plainly when it does not."""

from __future__ import annotations

import os
import socket
import sys
from urllib.parse import urlsplit
from urllib.request import getproxies

from picolm_lib.config import PicoError

TIMEOUT_S = 5.0


def connect() -> None:
    """Before the Hub's libraries are imported: go offline if the Hub cannot be reached.

    Left alone they knock for about a minute before they give up. Offline they answer at once, from
    their cache where they can.
    """
    if "huggingface_hub" in sys.modules or os.environ.get("HF_HUB_OFFLINE") or getproxies():
        return
    hub = urlsplit(os.environ.get("HF_ENDPOINT", "https://huggingface.co"))
    port = hub.port or (443 if hub.scheme == "https" else 80)
    try:
        socket.create_connection((hub.hostname or "", port), timeout=TIMEOUT_S).close()
    except OSError:
        os.environ["HF_HUB_OFFLINE"] = "1"


def problem(name: str, error: BaseException, way_out: str) -> PicoError:
    """The one line for a data set or tokenizer that could not be loaded.

    Args:
        name: what was asked for.
        error: what the library raised.
        way_out: what to do instead, such as "--data storybook or a local folder".
    """
    text = _chain(error)
    if any(sign in text for sign in ("offline", "Offline", "connect", "Connect", "reach",
                                     "timed out", "Name or service")):
        what = f"the Hugging Face Hub cannot be reached, and there is no local copy of {name!r}"
    elif any(sign in text for sign in ("401", "403", "404", "not found", "doesn't exist",
                                       "RepositoryNotFound", "gated", "not a local folder")):
        what = f"{name!r} is neither here nor open to you on the Hugging Face Hub"
    else:
        what = f"{name!r} cannot be loaded ({first_line(error)})"
    return PicoError(f"{what}; use {way_out}.")


def first_line(error: BaseException) -> str:
    """What an error says, in one line."""
    return (str(error).strip().splitlines() or [type(error).__name__])[0].rstrip(".")


def _chain(error: BaseException | None) -> str:
    """Names and texts of an error and of all that caused it."""
    parts = []
    while error is not None:
        parts.append(f"{type(error).__name__}: {error}")
        error = error.__cause__ or error.__context__
    return " / ".join(parts)
