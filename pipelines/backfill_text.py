"""What a backfill would change, as tables for people and as JSON."""

from __future__ import annotations

import sys
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

import msgspec

if TYPE_CHECKING:
    from ..transforms.backfill.compare import Compared
    from ..transforms.backfill.parts import Part

FORMAT = "millstream.backfill-report/1"
_ROWS = ("old", "new", "added", "removed", "changed", "equal")
_SHOWN = 20
"""Parts of an aggregate that are printed at most, those that change first."""


def as_json(
    name: str, parts: Sequence[Part], compared: Mapping[Part, Mapping[str, Compared]]
) -> bytes:
    """The report: all parts, and their total, by aggregate."""
    from ..transforms.backfill.compare import total
    from ..transforms.backfill.parts import iso

    names = list(next(iter(compared.values())))
    said = {
        "format": FORMAT,
        "backfill": name,
        "from": iso(parts[0].start),
        "to": iso(parts[-1].end),
        "total": {each: total([of[each] for of in compared.values()]) for each in names},
        "parts": [
            {"from": iso(part.start), "to": iso(part.end), "aggregates": compared[part]}
            for part in parts
        ],
    }
    return msgspec.json.format(msgspec.json.encode(said), indent=2)


def show(parts: Sequence[Part], compared: Mapping[Part, Mapping[str, Compared]]) -> None:
    """Print tables: of each aggregate its windows by part, and its metrics."""
    from rich.console import Console
    from rich.table import Table

    from ..transforms.backfill.compare import total
    from ..transforms.backfill.parts import iso

    console = Console(file=sys.stdout, width=None if sys.stdout.isatty() else 120, highlight=False)
    for name in next(iter(compared.values())):
        ours = {part: compared[part][name] for part in parts}
        rows = Table("windows from", *_ROWS, title=name, title_justify="left")
        first = sorted(parts, key=lambda part: (ours[part].is_equal, part))[:_SHOWN]
        for part in sorted(first):
            rows.add_row(iso(part.start), *_counts(ours[part]))
        if len(parts) > _SHOWN:
            rows.add_row(f"… and {len(parts) - _SHOWN:,} more")
        whole = total(list(ours.values()))
        rows.add_row("total", *_counts(whole), style="bold")
        for column in rows.columns[1:]:
            column.justify = "right"
        metrics = Table("metric", "changed", "old sum", "new sum", "biggest difference")
        for metric, differs in whole.metrics.items():
            values = (differs.old, differs.new, differs.biggest)
            metrics.add_row(metric, f"{differs.changed:,}", *map(_number, values))
        for column in metrics.columns[1:]:
            column.justify = "right"
        console.print(rows, metrics)


def _counts(compared: Compared) -> list[str]:
    return [f"{getattr(compared, name):,}" for name in _ROWS]


def _number(value: float | None) -> str:
    return "" if value is None else f"{value:,.10g}"
