"""A dataset on the Hugging Face Hub, file by file: only what is read is downloaded.

TinyStories is four files of 250 MB, and a run of sixteen minutes reads a part of the first one. The
library `datasets` says which files belong to which split; each is downloaded when its first
document is wanted, and kept in huggingface_hub's cache. The list of files is kept, too, so that
what was downloaded once can be read again without a network.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from pathlib import Path

from picolm_lib.config import PicoError
from picolm_lib.data import hub
from picolm_lib.data.columns import arrow_column, arrow_texts
from picolm_lib.data.local import HINT
from picolm_lib.data.readers import ROWS, kind_of, read_documents
from picolm_lib.files import CACHE_WAY_OUT, atomic_write_text, cache_folder, disk_errors


@dataclass(frozen=True)
class HubDataset:
    """The files of a dataset, at one commit."""

    name: str
    commit: str
    format: str
    """As `datasets` calls it, such as "parquet"."""
    splits: dict[str, list[tuple[str, int]]]
    """Path and bytes of each file, by the names that `datasets` gives the splits."""

    def read(self, split: str) -> Iterator[str]:
        """The documents of a split; a file is downloaded when its first one is asked for.

        Raises:
            PicoError: a file cannot be downloaded, or not be read.
        """
        for path, _ in self.splits[split]:
            yield from self._documents(self._download(path))

    def _download(self, path: str) -> Path:
        from huggingface_hub import hf_hub_download

        return hub.fetch(self.name, HINT, lambda: Path(hf_hub_download(
            self.name, path, repo_type="dataset", revision=self.commit)))

    def _documents(self, path: Path) -> Iterator[str]:
        if kind_of(path):
            yield from read_documents(path)
            return
        # Any other format that `datasets` knows, such as CSV.
        import datasets

        datasets.disable_progress_bars()
        table = hub.fetch(self.name, HINT, lambda: datasets.load_dataset(
            self.format, data_files=str(path), split="train"))
        column = arrow_column(table.features.arrow_schema, self.name)
        for rows in table.select_columns(column).with_format("arrow").iter(ROWS):
            yield from arrow_texts(rows.column(0))


def find_dataset(name: str) -> HubDataset:
    """The files of a dataset on the Hub; downloads none of them.

    Raises:
        PicoError: there is none of this name, or the Hub cannot be reached and never was before.
    """
    kept = cache_folder() / "hub" / f"{name.replace('/', '--')}.json"
    found = hub.load(f"datasets/{name}", lambda: _ask(name), lambda: _recall(kept), HINT)
    with disk_errors(kept, CACHE_WAY_OUT):
        kept.parent.mkdir(parents=True, exist_ok=True)
        atomic_write_text(kept, json.dumps(asdict(found)))
    return found


def _ask(name: str) -> HubDataset:
    import datasets
    from huggingface_hub import HfFileSystem

    # What is wrong, our own message says.
    with hub.quiet(datasets.logging):
        builder = datasets.load_dataset_builder(name)
    files, commit = HfFileSystem(), ""
    splits: dict[str, list[tuple[str, int]]] = {}
    for split, addresses in (builder.config.data_files or {}).items():
        splits[str(split)] = []
        for address in addresses:
            # hf://datasets/owner/name@commit/path
            commit, path = address.split("@", 1)[1].split("/", 1)
            splits[str(split)].append((path, files.info(address)["size"]))
    if not splits:
        raise PicoError(f"{name!r} contains no files of data; use {HINT}.")
    return HubDataset(name, commit, builder.name, splits)


def _recall(kept: Path) -> HubDataset:
    return HubDataset(**json.loads(kept.read_text(encoding="utf-8")))
