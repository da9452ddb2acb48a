"""The Hugging Face Hub: retry faults that pass, and say in one line what is wrong when one lasts.

How patient the Hub's libraries are differs between their releases. Measured against a server that
fails on purpose, huggingface_hub 2.4 and datasets 5.2: one 503 instead of a large file ends a
download; with nothing listening, load_dataset retries for 24 s before it opens its local copy, and
with a server that never answers for more than 200 s. So the page is asked first, and a failed
download is repeated; whatever was complete by then comes from the libraries' caches.
"""

from __future__ import annotations

import os
import re
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from types import ModuleType
from typing import TypeVar
from urllib.parse import quote

from picolm_lib.config import PicoError
from picolm_lib.files import causes, first_line

# Seconds before the second, third and fourth attempt.
PAUSES_S = (1.0, 2.0, 4.0)
# HTTP statuses of faults that pass.
TRANSIENT = (408, 429, 500, 502, 503, 504)
# "gpt2" or "owner/name".
NAME = re.compile(r"\w[\w.-]{0,95}(/[\w.-]{1,96})?", re.ASCII)
# Nobody calls a repository like this.
DATA_SUFFIXES = (".txt", ".jsonl", ".json", ".parquet", ".csv", ".arrow", ".gz", ".zip")
# A tokenizer is made of such files.
TOKENIZER_SUFFIXES = (".json", ".txt", ".model", ".jinja")
Loaded = TypeVar("Loaded")


def local_path(name: str, hint: str) -> Path | None:
    """The local file or folder of this name, or None where the name can only be one of the Hub.

    Args:
        name: what the user gave.
        hint: what to do instead.

    Raises:
        PicoError: there is no such file or folder, and it is no name of the Hub either.
    """
    try:
        path = Path(name).expanduser()
        if name and os.path.lexists(path):
            return path
    # A zero byte in the path, or no home folder.
    except (ValueError, RuntimeError):
        pass
    if NAME.fullmatch(name) and not name.lower().endswith(DATA_SUFFIXES):
        return None
    raise PicoError(f"there is no file or folder {name!r}; use {hint}.")


def load(page: str, download: Callable[[], Loaded], local_copy: Callable[[], Loaded],
         hint: str) -> Loaded:
    """Downloads something from the Hub, or takes the local copy while the Hub cannot be reached.

    Args:
        page: "datasets/owner/name" or "models/owner/name".
        download: asks a library for it; called again after a fault that may pass.
        local_copy: opens what an earlier download left, and raises where it left nothing.
        hint: what to do instead, such as "--data storybook or a local folder".

    Raises:
        PicoError: it cannot be loaded.
    """
    from huggingface_hub.utils import logging

    name = page.split("/", 1)[1]
    try:
        # No warning about every attempt. A Hub that never answers costs one time-out.
        with quiet(logging):
            _retry(lambda: _check_page(page), timeouts=False)
    # The libraries raise a dozen kinds.
    except Exception as unreachable:
        try:
            return local_copy()
        except Exception:
            raise problem(name, unreachable, hint) from unreachable
    return fetch(name, hint, download)


def fetch(name: str, hint: str, download: Callable[[], Loaded]) -> Loaded:
    """Downloads something, again where a fault may pass; arguments and errors as of `load`."""
    from huggingface_hub.utils import logging

    try:
        with quiet(logging):
            return _retry(download)
    except PicoError:
        raise
    except Exception as error:
        raise problem(name, error, hint) from error


@contextmanager
def quiet(logging: ModuleType) -> Iterator[None]:
    """Silences a library: what is wrong in the end, our own message says.

    Args:
        logging: the library's module of this name.
    """
    level = logging.get_verbosity()
    logging.set_verbosity(logging.CRITICAL)
    try:
        yield
    finally:
        logging.set_verbosity(level)


def download_tokenizer(name: str) -> Path:
    """Downloads the small files of a model's repository, its tokenizer among them.

    All of them, or an error: given the name, AutoTokenizer takes a file that the Hub cannot serve
    for one that does not exist, and silently makes another tokenizer.
    """
    from huggingface_hub import HfApi, hf_hub_download

    model = HfApi().model_info(name)
    files = [file.rfilename for file in model.siblings or ()
             if file.rfilename.endswith(TOKENIZER_SUFFIXES) and "/" not in file.rfilename]
    if not files:
        raise FileNotFoundError("it contains no tokenizer")
    for file in files:
        hf_hub_download(name, file, revision=model.sha)
    # Last, by the branch's name: only now is there a local copy, and it is complete.
    return Path(hf_hub_download(name, files[0])).parent


def local_tokenizer(name: str) -> Path:
    """What `download_tokenizer` has downloaded before."""
    from huggingface_hub import snapshot_download

    return Path(snapshot_download(name, local_files_only=True))


def problem(name: str, error: BaseException, hint: str) -> PicoError:
    """The one line for a dataset or tokenizer that could not be loaded.

    Args:
        name: what was asked for.
        error: what the library raised.
        hint: what to do instead.
    """
    from huggingface_hub.errors import GatedRepoError, LocalEntryNotFoundError

    status = _status(error)
    log_in = f"log in with `hf auth login` or set HF_TOKEN; or use {hint}."
    # Of a gated repository, `datasets` keeps only the text.
    if _is_due_to(error, GatedRepoError) or "is a gated dataset" in str(error):
        return PicoError(f"{name!r} is gated: ask for access on its page of the Hugging Face Hub, "
                         f"then {log_in}")
    if status in (401, 403, 404) or _is_due_to(
            error, *_loaded("DatasetNotFoundError", "datasets.exceptions")):
        return PicoError(f"{name!r} is no local file or folder, and it is not on the Hugging Face "
                         f"Hub, or not open to you: check the name, or {log_in}")
    if status in TRANSIENT:
        return PicoError(f"the Hugging Face Hub answers with HTTP {status}, and there is no local "
                         f"copy of {name!r}; try again later, or use {hint}.")
    if _is_due_to(error, *_network_errors(), LocalEntryNotFoundError):
        return PicoError(f"{name!r} is no local file or folder, the Hugging Face Hub cannot be "
                         f"reached, and there is no local copy of it; use {hint}.")
    return PicoError(f"{name!r} cannot be loaded ({first_line(error)}); use {hint}.")


def _check_page(page: str) -> None:
    """Raises if the Hub cannot be reached, also in offline mode, or if it forbids this page."""
    from huggingface_hub import constants
    from huggingface_hub.utils import build_hf_headers, hf_raise_for_status, http_backoff

    response = http_backoff("HEAD", f"{constants.ENDPOINT}/api/{quote(page)}", max_retries=0,
                            retry_on_exceptions=(), retry_on_status_codes=TRANSIENT,
                            headers=build_hf_headers(), timeout=constants.HF_HUB_ETAG_TIMEOUT)
    # Of other refusals, the download tells more; of this one, load_dataset keeps nothing.
    if response.status_code == 403:
        hf_raise_for_status(response)


def _retry(function: Callable[[], Loaded], timeouts: bool = True) -> Loaded:
    """Calls a function again after faults that pass; in offline mode, none does.

    Args:
        timeouts: whether a time-out may pass.
    """
    from huggingface_hub.errors import OfflineModeIsEnabled

    lasting = [OfflineModeIsEnabled] if timeouts else [
        OfflineModeIsEnabled, TimeoutError, *_httpx("TimeoutException")]
    for pause in PAUSES_S:
        try:
            return function()
        except Exception as error:
            passing = _status(error) in TRANSIENT or _is_due_to(error, *_network_errors())
            if not passing or _is_due_to(error, *lasting):
                raise
        time.sleep(pause)
    return function()


def _status(error: BaseException) -> int | None:
    """The HTTP status that an error is about."""
    answers = (getattr(each, "response", None) for each in causes(error))
    return next((answer.status_code for answer in answers if answer is not None), None)


def _network_errors() -> tuple[type[BaseException], ...]:
    return ConnectionError, TimeoutError, *_httpx("TransportError")


def _httpx(name: str) -> list[type[BaseException]]:
    """An exception class of the HTTP library; huggingface_hub moved from httpx to httpx2."""
    return _loaded(name, "httpx", "httpx2")


def _loaded(name: str, *modules: str) -> list[type[BaseException]]:
    """An exception class of the modules that have been imported: no other can have raised it."""
    return [getattr(sys.modules[module], name) for module in modules if module in sys.modules]


def _is_due_to(error: BaseException, *kinds: type[BaseException]) -> bool:
    return any(isinstance(each, kinds) for each in causes(error))
