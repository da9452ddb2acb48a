"""A dataset on the Hugging Face Hub, file by file: only what is read is downloaded.

TinyStories is four files of 250 MB, and a run of sixteen minutes reads a part of the first one. The
library `datasets` says which files belong to which split; each is downloaded when its first
document is wanted, and kept in huggingface_hub's cache. The list of files is kept, too, so that
what was downloaded once can be read again without a network.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import asdict, dataclass, fields
from glob import escape
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

from picolm_lib.config import PicoError
from picolm_lib.data import hub
from picolm_lib.data.columns import arrow_column, arrow_texts
from picolm_lib.data.local import HINT
from picolm_lib.data.readers import ROWS, kind_of, read_documents
from picolm_lib.data.splits import SPLITS
from picolm_lib.files import atomic_write_text, cache_folder

if TYPE_CHECKING:
    from datasets import BuilderConfig


class HubFile(NamedTuple):
    """A file of a dataset."""

    path: str
    bytes: int
    blob: str
    """The identifier of its content."""


@dataclass(frozen=True)
class HubDataset:
    """The files of a dataset, at one commit."""

    name: str
    commit: str
    format: str
    """As `datasets` calls it, such as "parquet"."""
    options: dict[str, Any]
    """How its README says that the files are to be read, such as {"sep": ";"}."""
    splits: dict[str, list[HubFile]]
    """By the names that `datasets` gives the splits."""

    def parts(self) -> dict[str, str]:
        """Which split is "train", and which "validation" where there is one.

        Raises:
            PicoError: there is nothing to train on.
        """
        names = {SPLITS[split]: split for split in reversed(self.splits) if split in SPLITS}
        # A single split is all there is, unless its name says that it is for something else.
        if len(self.splits) == 1 and not names:
            names = {"train": next(iter(self.splits))}
        if "train" not in names:
            raise PicoError(f"{self.name!r} has no split 'train', only "
                            f"{', '.join(map(repr, self.splits))}; download the split to train on, "
                            f"and use {HINT}.")
        return {part: names[part] for part in ("train", "validation") if part in names}

    def read(self, split: str) -> Iterator[str]:
        """The documents of a split; a file is downloaded when its first one is asked for.

        Raises:
            PicoError: a file cannot be downloaded, or not be read.
        """
        for file in self.splits[split]:
            path = self._download(file.path)
            try:
                yield from self._documents(path)
            except PicoError as error:
                reason = str(error).split("; ")[0].replace(str(path), file.path)
                raise PicoError(f"the dataset {self.name!r} cannot be used: {reason}; use {HINT}."
                                ) from error

    def _download(self, path: str) -> Path:
        from huggingface_hub import hf_hub_download

        return hub.fetch(self.name, HINT, lambda: Path(hf_hub_download(
            self.name, path, repo_type="dataset", revision=self.commit)))

    def _documents(self, path: Path) -> Iterator[str]:
        # On the Hub, a line of a text file is a document.
        if kind_of(path) and self.format != "text" and not self.options:
            yield from read_documents(path)
            return
        # Any other format that `datasets` knows, such as CSV.
        import datasets

        datasets.disable_progress_bars()
        table = hub.fetch(self.name, HINT, lambda: datasets.load_dataset(
            self.format, data_files=escape(str(path)), split="train", **self.options))
        column = arrow_column(table.features.arrow_schema, self.name)
        for rows in table.select_columns(column).with_format("arrow").iter(ROWS):
            yield from arrow_texts(rows.column(0))


def find_dataset(name: str) -> HubDataset:
    """The files of a dataset on the Hub; downloads none of them.

    Raises:
        PicoError: there is none of this name, or the Hub cannot be reached and never was before.
    """
    kept = cache_folder() / "hub" / f"{name.replace('/', '--')}.json"
    return hub.load(f"datasets/{name}", lambda: _ask(name, kept), lambda: _recall(kept), HINT)


def _ask(name: str, kept: Path) -> HubDataset:
    import datasets
    from huggingface_hub import HfFileSystem

    try:
        # What is wrong, our own message says.
        with hub.quiet(datasets.logging):
            builder = datasets.load_dataset_builder(name)
    except ValueError as error:
        if names := re.search(r"available configs: \[(.+)\]", str(error)):
            raise PicoError(f"{name!r} has several configurations ({names[1]}); download one of "
                            f"them, and use {HINT}.") from error
        raise
    files, commit = HfFileSystem(), ""
    splits: dict[str, list[HubFile]] = {}
    for split, addresses in (builder.config.data_files or {}).items():
        splits[str(split)] = []
        for address in addresses:
            # hf://datasets/owner/name@commit/path
            commit, path = address.split("@", 1)[1].split("/", 1)
            info = files.info(address)
            splits[str(split)].append(HubFile(path, info["size"], str(info["blob_id"])))
    if not splits:
        raise PicoError(f"{name!r} contains no files of data; use {HINT}.")
    found = HubDataset(name, commit, builder.name, _options(builder.config), splits)
    with suppress(Exception):
        before = _recall(kept)
        # A commit that changed none of the files; those of the earlier one may be here already.
        if asdict(before) | {"commit": commit} == asdict(found):
            return before
    # Without the list everything works, but for the next time without a network.
    with suppress(OSError, PicoError, TypeError):
        kept.parent.mkdir(parents=True, exist_ok=True)
        atomic_write_text(kept, json.dumps(asdict(found)))
    return found


def _options(config: BuilderConfig) -> dict[str, Any]:
    """What a README sets of the fields that only this format has, such as a separator."""
    from datasets import BuilderConfig

    usual = type(config)()
    return {name: getattr(config, name)
            for name in sorted({field.name for field in fields(config)}
                               - {field.name for field in fields(BuilderConfig)} - {"features"})
            if getattr(config, name) != getattr(usual, name)}


def _recall(kept: Path) -> HubDataset:
    """The kept list; any error where it is not as it was written."""
    read = json.loads(kept.read_text(encoding="utf-8"))
    splits = {str(split): [HubFile(str(path), int(size), str(blob)) for path, size, blob in files]
              for split, files in read.pop("splits").items()}
    return HubDataset(**read, splits=splits)
