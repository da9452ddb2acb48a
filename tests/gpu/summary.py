"""Turns what a GPU has shown and measured into a page, results/gpu.md.

    python tests/gpu/summary.py            # of gpu-*.json in $OUT, or in tests/benchmarks/results
    python tests/gpu/summary.py FOLDER     # of those in a folder; they are copied into results, too
"""

from __future__ import annotations

import argparse
import json
import shutil
import sys
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from gpu.run import CHECKS, MEASUREMENTS  # noqa: E402
from record import RESULTS, results_folder  # noqa: E402

from picolm_lib.config import ORIGINAL_TOKENS  # noqa: E402
from picolm_lib.device import GPU_PEAK_TFLOPS  # noqa: E402

Row = dict[str, Any]
HEAD = """# On a GPU

    make test-gpu PYTHON=python3 PARTS="..."
    python tests/gpu/summary.py

The parts and their settings are described in tests/gpu/checks and measurements, all figures are
in the gpu-*.json beside this page. Loss by tokens carries over to another GPU; seconds do not.
"""


def summary(source: Path, target: Path = RESULTS) -> Path:
    """Writes gpu.md into `target`, and the files that it is made of; returns its path."""
    parts = {name: path for name in CHECKS | MEASUREMENTS
             if (path := source / f"gpu-{name}.json").exists()}
    pages = [HEAD]
    for name, path in parts.items():
        pages.append(page(name, json.loads(path.read_text())))
        if source.resolve() != target.resolve():
            shutil.copy(path, target)
    written = target / "gpu.md"
    written.write_text("\n".join(pages))
    return written


def page(name: str, result: Row) -> str:
    """One part: where and how it was run, and its rows as a table."""
    about, rows = result["machine"], result["rows"]
    lines = [f"## {name}", "", f"{about['date']}, {about['gpu']}, torch {about['torch']}, "
             f"transformers {about['transformers']}, {result['seconds']} s: `{result['command']}`"]
    lines += ["", *table(rows)] if rows else ["", "No rows."]
    lines += [text for row in rows if row.get("story") for text in (
        "", f"> {' '.join(row['story'].split())}")]
    lines += [text for row in rows if name == "t4-policy" for text in t4_estimate(row)]
    return "\n".join(lines) + "\n"


def table(rows: list[Row]) -> list[str]:
    """Markdown. What is the same in all rows stands above it; curves and stories are left out."""
    heads = [head for head in dict.fromkeys(key for row in rows for key in row)
             if head != "story" and not any(isinstance(row.get(head), list) for row in rows)]
    same = [head for head in heads if len(rows) > 1
            and len({repr(row.get(head)) for row in rows}) == 1]
    different = [head for head in heads if head not in same]
    lines = ["In all rows: " + ", ".join(f"{head} {cell(rows[0][head])}" for head in same) + ".",
             ""] if same else []
    lines += ["| " + " | ".join(different) + " |", "|" + "---|" * len(different)]
    return lines + ["| " + " | ".join(cell(row.get(head)) for head in different) + " |"
                    for row in rows]


def cell(value: object) -> str:
    """A value as text that a table can hold."""
    if isinstance(value, float):
        return f"{value:.4g}" if abs(value) < 1 else f"{value:,.10g}"
    text = f"{value:,}" if type(value) is int else "" if value is None else str(value)
    return " ".join(text.replace("|", "/").split())


def t4_estimate(row: Row) -> list[str]:
    """The arithmetic of a T4's minutes, from the last row of its policy."""
    if not (row.get("end") and row.get("MFU") and row["policy"].endswith("T4")):
        return []
    peak = GPU_PEAK_TFLOPS["T4"]
    work = ORIGINAL_TOKENS * row["FLOPs per token"]
    return ["", f"An estimate for a T4, which this is not: {ORIGINAL_TOKENS / 1e6:.1f} M tokens x "
            f"{row['FLOPs per token'] / 1e6:.1f} MFLOP are {work / 1e15:.1f} PFLOP; at the share "
            f"of its peak that was reached here, {row['MFU']:.1%} of {peak} TFLOP/s, "
            f"{work / (row['MFU'] * peak * 1e12) / 60:,.0f} minutes. A slower GPU waits less for "
            "kernels to start, and reaches a larger share."]


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("folder", nargs="?", type=Path, help="with gpu-*.json")
    print(summary(parser.parse_args().folder or results_folder()))
