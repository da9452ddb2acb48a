"""The figures of quality.json as the tables of quality.md."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from picolm_lib.storybook.story import KINDS

PERCENT = ("ends", "any of", "a third", "a second", "repeated", "all", *KINDS)


def tables(result: Mapping[str, Any]) -> str:
    """All tables, each under its heading, as Markdown."""
    stories, meter = result["rows"], result["meter"]
    shown = [row for row in stories if not row["model"].startswith("ours - ")]
    differences = [row for row in stories if row["model"].startswith("ours - ")]
    parts = {
        "Models": _plain(result["validation"]),
        "Learning rates": _plain(result["rates"]),
        "Stories": turned(shown, "model"),
        "Stories, differences": turned(differences, "model"),
        "Meter": _plain(_cells(meter)),
        "Meter over temperature": turned(crossed(
            result["meter_over_temperature"], "temperature", "model", "all"), "temperature"),
        "Meter over training": turned(crossed(
            result["meter_over_training"], "tokens", "model", "all"), "tokens"),
        "Meter over training, by kind": _plain(_cells(result["meter_over_training"])),
        "Meter over temperature, by kind": _plain(_cells(result["meter_over_temperature"])),
    }
    return "\n\n".join(f"## {head}\n\n{table}" for head, table in parts.items()) + "\n"


def crossed(rows: Sequence[Mapping[str, Any]], down: str, across: str, value: str,
            ) -> list[dict[str, Any]]:
    """One row per `across`, with a field per `down`: what the rows say there, in percent."""
    found: dict[Any, dict[str, Any]] = {}
    for row in rows:
        found.setdefault(row[across], {down: row[across]})[
            _number(row[down])] = cell(value, row[value])
    return list(found.values())


def turned(rows: Sequence[Mapping[str, Any]], head: str) -> str:
    """A table with a column per row, so that what is to be compared stands side by side."""
    fields = list(dict.fromkeys(key for row in rows for key in row if key != head))
    lines = [{head: field, **{str(row[head]): cell(field, row.get(field, "")) for row in rows}}
             for field in fields]
    return _plain(lines)


def cell(field: str, value: Any) -> str:
    """A figure with its interval; shares in percent."""
    if isinstance(value, Mapping):
        low, high = (cell(field, bound) for bound in value["95%"])
        return f"{cell(field, value['value'])} ({low} to {high})"
    if isinstance(value, Sequence) and not isinstance(value, str):
        return " to ".join(map(str, value))
    if isinstance(value, float) and field.startswith(PERCENT):
        return f"{round(100 * value, 1) + 0.0:.1f}%"                # no minus before a zero
    if isinstance(value, float):
        return f"{value:.1f}" if field == "words" else f"{value:.3f}"
    return _number(value)


def _cells(rows: Sequence[Mapping[str, Any]]) -> list[dict[str, str]]:
    return [{key: cell(key, value) for key, value in row.items()} for row in rows]


def _number(value: Any) -> str:
    return f"{value:,}" if isinstance(value, int) else str(value)


def _plain(rows: Sequence[Mapping[str, Any]]) -> str:
    heads = list(dict.fromkeys(key for row in rows for key in row))
    lines = [heads, ["---"] * len(heads),
             *([_number(row.get(head, "")) for head in heads] for row in rows)]
    return "\n".join("| " + " | ".join(line) + " |" for line in lines)
