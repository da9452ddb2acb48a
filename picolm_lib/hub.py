"""The Hugging Face Hub: sit out short faults, and say plainly what is wrong when one lasts.

The Hub's libraries ask again after some faults and give up at once after others, and which is which
differs between their releases. Measured against a server that fails on purpose: when a connection
breaks in the middle of a file, huggingface_hub 1.17 gives up and 2.4 goes on from there; a single
503 instead of the file ends both. So what failed is read again as a whole, a few times; what was
complete by then comes from the libraries' caches.
"""

from __future__ import annotations

import ssl
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, nullcontext
from http.client import HTTPException
from pathlib import Path
from typing import TypeVar
from urllib.error import HTTPError
from urllib.parse import quote
from urllib.request import Request, getproxies, urlopen

from picolm_lib.config import PicoError

PAUSES_S = (1.0, 2.0, 4.0)  # before the second, third and fourth try
PATIENCE_S = 20.0  # after a longer try there is only one more: a library knocks that long by itself
PASSING = {408, 429, 500, 502, 503, 504}  # HTTP statuses of faults that pass
NETWORK = {"httpx", "httpx2", "httpcore", "httpcore2", "requests", "urllib3", "aiohttp"}
SMALL_FILES = (".json", ".txt", ".model", ".jinja")  # all that a tokenizer is made of
Loaded = TypeVar("Loaded")


def load(page: str, read: Callable[[], Loaded], way_out: str) -> Loaded:
    """Reads something of the Hub, or of the libraries' caches while the Hub is away.

    Args:
        page: "datasets/owner/name" or "models/owner/name".
        read: asks a library for it, and is asked again after a fault that may pass.
        way_out: what to do instead, such as "--data storybook or a local folder".

    Raises:
        PicoError: it cannot be had.
    """
    pauses = list(PAUSES_S)
    with _quiet():
        while True:
            seen, began = _look(page), time.monotonic()
            away = seen == 0 or seen in PASSING
            try:
                with _offline() if away else nullcontext():
                    return read()
            except Exception as error:  # the libraries raise a dozen kinds
                slow = time.monotonic() - began > PATIENCE_S
                pauses = pauses[-1:] if slow else pauses
                if away or not pauses or not _may_pass(error, slow):
                    raise problem(page.split("/", 1)[1], error, way_out, seen) from error
            time.sleep(pauses.pop(0))


def model_folder(name: str) -> Path:
    """Downloads the small files of a model's repository, and among them its tokenizer.

    All of them, or it is an error. AutoTokenizer, if given the name, takes a file that the Hub
    cannot serve for one that does not exist, and makes another tokenizer without a word.
    """
    from huggingface_hub import HfApi, constants, hf_hub_download, snapshot_download

    if constants.HF_HUB_OFFLINE:
        return Path(snapshot_download(name, local_files_only=True))
    model = HfApi().model_info(name)
    files = [file.rfilename for file in model.siblings or ()
             if file.rfilename.endswith(SMALL_FILES) and "/" not in file.rfilename]
    if not files:
        raise FileNotFoundError("it holds no tokenizer")
    for file in files:
        hf_hub_download(name, file, revision=model.sha)
    # Only now by the branch's name: offline the cache is asked for that, and must be complete.
    return Path(hf_hub_download(name, files[0])).parent


def problem(name: str, error: BaseException, way_out: str, seen: int = 200) -> PicoError:
    """The one line for a data set or tokenizer that could not be loaded.

    Args:
        name: what was asked for.
        error: what the library raised.
        way_out: what to do instead.
        seen: the HTTP status of its page, 0 where nothing answers.
    """
    status = _status(error)
    if not status and seen != 200:
        status = seen
    kinds = {type(each).__name__ for each in _chain(error)}
    log_in = f"log in with `hf auth login` or set HF_TOKEN; or use {way_out}."
    if "GatedRepoError" in kinds or "is a gated dataset" in str(error):
        return PicoError(f"{name!r} is gated: ask for access on its page of the Hugging Face Hub, "
                         f"then {log_in}")
    if status in (401, 403, 404) or "DatasetNotFoundError" in kinds:
        return PicoError(f"{name!r} is not on the Hugging Face Hub, or not open to you: check the "
                         f"name, or {log_in}")
    if status in PASSING:
        return PicoError(f"the Hugging Face Hub answers with HTTP {status}, and there is no local "
                         f"copy of {name!r}; try again later, or use {way_out}.")
    if status == 0:
        return PicoError("the Hugging Face Hub cannot be reached, and there is no local copy of "
                         f"{name!r}; use {way_out}.")
    return PicoError(f"{name!r} cannot be loaded ({first_line(error)}); use {way_out}.")


def first_line(error: BaseException) -> str:
    """What an error says, in one line."""
    return (str(error).strip().splitlines() or [type(error).__name__])[0].rstrip(".")


def _look(page: str) -> int:
    """The HTTP status of a page of the Hub; 0 if nothing answers, or nothing may be asked.

    Left alone, the libraries knock for a minute or more at a Hub that is away. Offline they answer
    at once, from their caches where they can.
    """
    from huggingface_hub import constants

    if constants.HF_HUB_OFFLINE:
        return 0
    if getproxies().keys() & {"http", "https", "all"}:  # they may ask for more than we know
        return 200
    status = 0
    for pause in (*PAUSES_S, 0.0):
        try:
            request = Request(f"{constants.ENDPOINT}/api/{quote(page)}", method="HEAD")
            with urlopen(request, timeout=constants.HF_HUB_ETAG_TIMEOUT) as answer:
                return answer.status
        except HTTPError as error:
            status = error.code
            error.close()
            if status not in PASSING:
                return status
        except (OSError, HTTPException, ValueError) as error:
            reason = getattr(error, "reason", error)
            if isinstance(reason, ssl.SSLError):  # the libraries bring certificates of their own
                return 200
            if not isinstance(reason, ConnectionResetError):
                return 0
        time.sleep(pause)
    return status


@contextmanager
def _offline() -> Iterator[None]:
    """The libraries use their caches alone.

    They read the environment once, when they are imported; so the switch is where they keep it.
    """
    from huggingface_hub import constants

    places = [constants, *filter(None, [sys.modules.get("datasets.config")])]
    before = [place.HF_HUB_OFFLINE for place in places]
    for place in places:
        place.HF_HUB_OFFLINE = True
    try:
        yield
    finally:
        for place, value in zip(places, before, strict=True):
            place.HF_HUB_OFFLINE = value


@contextmanager
def _quiet() -> Iterator[None]:
    """Without the libraries' warnings about every try: what is wrong in the end, we say."""
    from huggingface_hub.utils import logging

    level = logging.get_verbosity()
    logging.set_verbosity(logging.CRITICAL)
    try:
        yield
    finally:
        logging.set_verbosity(level)


def _may_pass(error: BaseException, slow: bool) -> bool:
    """Whether to ask again; not after a time-out that took long, of which there were several."""
    kinds = " ".join(type(each).__name__ for each in _chain(error))
    status = _status(error)
    return status in PASSING or (status == 0 and not (slow and "Timeout" in kinds))


def _status(error: BaseException) -> int | None:
    """The HTTP status that an error is about, 0 if the network failed, None if neither."""
    for each in _chain(error):
        response = getattr(each, "response", None)
        if response is not None:
            return response.status_code
        if (isinstance(each, (ConnectionError, TimeoutError))
                or type(each).__module__.split(".")[0] in NETWORK):
            return 0
    return 0 if "LocalEntryNotFoundError" in {type(e).__name__ for e in _chain(error)} else None


def _chain(error: BaseException | None) -> list[BaseException]:
    """An error and all that caused it."""
    chain: list[BaseException] = []
    while error is not None and error not in chain:
        chain.append(error)
        error = error.__cause__ or (None if error.__suppress_context__ else error.__context__)
    return chain
