"""The ledger: for each source and output of a run, where every record went.

It is built from what came through the data plane: tallies of the stages, and receipts of the files
that were staged. ``written`` and ``dead`` are read off the staged files themselves, so that a
record that a stage lost on the way shows up as a difference.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from typing import TYPE_CHECKING, Any, NamedTuple

import msgspec
import pyarrow as pa

from ..schemas.table import table_of_schema
from .receipts import Receipt
from .tallies import Tally

if TYPE_CHECKING:
    from .write.destination import Output

FORMAT = "millstream.ledger/1"

_COUNTS = (
    "open_before", "read", "written", "dead", "duplicate", "filtered", "late", "open_after",
)  # fmt: skip

_REPAIRED = "repaired"

SCHEMA = pa.schema(
    [pa.field(name, pa.string(), nullable=False) for name in ("format", "run_id", "source")]
    + [pa.field("output", pa.string(), nullable=False)]
    + [pa.field(name, pa.int64(), nullable=False) for name in _COUNTS]
    + [pa.field(_REPAIRED, pa.int64())]
)
"""``repaired`` is null where there are none: tables that are there already get it as a column."""

TABLE = table_of_schema(SCHEMA, key=("run_id", "source", "output"))
"""The ledger as a table."""


class LedgerRow(msgspec.Struct, frozen=True, kw_only=True):
    """One source's records, as one output saw them.

    It balances if ``open_before + read = written + dead + duplicate + filtered + late +
    open_after``. Of an aggregate, ``written`` counts the records that went into it, not its groups.
    ``open_before`` and ``open_after`` are records held in open windows: none in a batch run.
    ``repaired`` are those of ``read`` that a repair has rescued, wherever they went then; where
    there are none nothing is stored of it.
    """

    format: str = FORMAT
    run_id: str
    source: str
    output: str
    open_before: int = 0
    read: int = 0
    written: int = 0
    dead: int = 0
    duplicate: int = 0
    filtered: int = 0
    late: int = 0
    open_after: int = 0
    repaired: int | msgspec.UnsetType | None = msgspec.UNSET

    def __post_init__(self) -> None:
        if not self.repaired:  # 0, or the null of a table's row
            msgspec.structs.force_setattr(self, _REPAIRED, msgspec.UNSET)

    @property
    def missing(self) -> int:
        """Records that came in and went nowhere; negative if more went than came."""
        out = self.written + self.dead + self.duplicate + self.filtered + self.late
        return self.open_before + self.read - out - self.open_after


class Imbalance(NamedTuple):
    """A source and output that does not balance, and by how much."""

    source: str
    output: str
    missing: int
    reason: str = ""

    def __str__(self) -> str:
        source = self.source or "(no source)"
        word = "missing" if self.missing > 0 else "too many"
        text = f"output {self.output!r}, source {source}: {abs(self.missing)} records {word}"
        return f"{text} ({self.reason})" if self.reason else text


def build(
    run_id: str, outputs: Sequence[Output], tallies: Iterable[Tally], receipts: Iterable[Receipt]
) -> list[LedgerRow]:
    """The rows of a run, sorted by output (in the job's order) and source.

    ``written`` of a record output and ``dead`` come from the receipts. Without an output of dead
    letters, ``dead`` comes from the tallies.
    """
    ours = [output for output in outputs if output.kind in ("records", "aggregates")]
    dead_names = {output.name for output in outputs if output.kind == "dead_letters"}
    record_names = {output.name for output in ours if output.kind == "records"}
    counts: Counter[tuple[str, str, str]] = Counter()  # (output, source, outcome); output "": all
    for tally in tallies:
        if tally.outcome == "written" and tally.output in record_names:
            continue  # what the files hold counts, not what a stage says
        if tally.outcome == "dead" and dead_names:
            continue
        counts[tally.output, tally.source, tally.outcome] += tally.rows
    for receipt in receipts:
        if receipt.output in dead_names:
            output, outcome = "", "dead"
        elif receipt.output in record_names and receipt.part == "data":
            output, outcome = receipt.output, "written"
        else:
            continue
        for source, rows in receipt.sources.items():
            counts[output, source, outcome] += rows
        # Rows that no source owns belong to nobody's input, and must not pass in silence.
        unowned = receipt.rows - sum(receipt.sources.values())
        if unowned:
            counts[output, "", outcome] += unowned
    # A source that only an aggregate's open windows know of is no other output's.
    sources: dict[str, set[str]] = {}
    for output, source, _ in counts:
        sources.setdefault(output, set()).add(source)

    def row(source: str, output: str) -> LedgerRow:
        values: dict[str, Any] = {
            outcome: counts["", source, outcome] + counts[output, source, outcome]
            for outcome in (*_COUNTS, _REPAIRED)
        }
        return LedgerRow(run_id=run_id, source=source, output=output, **values)

    return [
        row(source, output.name)
        for output in ours
        for source in sorted(sources.get("", set()) | sources.get(output.name, set()))
    ]


def with_refused(
    rows: Iterable[LedgerRow], output: str, refused: Mapping[str, int]
) -> list[LedgerRow]:
    """The rows after a destination has refused so many of an output's records, by source."""
    found = []
    for row in rows:
        count = refused.get(row.source, 0) if row.output == output else 0
        if count:
            written, dead = row.written - count, row.dead + count
            row = msgspec.structs.replace(row, written=written, dead=dead)
        found.append(row)
    return found


def contributions(outputs: Sequence[Output], receipts: Iterable[Receipt]) -> dict[str, int]:
    """Records that the staged states of each aggregate output hold."""
    held = {output.name: 0 for output in outputs if output.kind == "aggregates"}
    for receipt in receipts:
        if receipt.output in held and receipt.part == "states":
            held[receipt.output] += receipt.contributions
    return held


def check(rows: Iterable[LedgerRow], held: Mapping[str, int] | None = None) -> list[Imbalance]:
    """What does not balance; with ``held`` (:func:`contributions`) the aggregates' states too."""
    written: Counter[str] = Counter()
    found: list[Imbalance] = []
    for row in rows:
        written[row.output] += row.written
        if row.missing:
            found.append(Imbalance(row.source, row.output, row.missing))
    for output, count in (held or {}).items():
        if count != written[output]:
            reason = f"its states hold {count} records, its tallies say {written[output]}"
            found.append(Imbalance("", output, written[output] - count, reason))
    return found


def to_batch(rows: Sequence[LedgerRow]) -> pa.RecordBatch:
    """The rows as a record batch of :data:`SCHEMA`."""
    values = [{**msgspec.structs.asdict(row), _REPAIRED: row.repaired or None} for row in rows]
    return pa.RecordBatch.from_pylist(values, SCHEMA)


def render(rows: Sequence[LedgerRow], limit: int = 20) -> str:
    """A plain text table, one block an output, with totals; columns without a count are left out.

    At most ``limit`` sources are shown for each output, those that do not balance first.
    """
    counts = ("open_before", "read", _REPAIRED, *_COUNTS[2:])
    shown = [name for name in counts if name in ("read", "written", "dead") or _any(rows, name)]
    blocks = [
        _block(output, rows, shown, limit) for output in dict.fromkeys(r.output for r in rows)
    ]
    return "\n\n".join(blocks) if blocks else "(no records)"


def _any(rows: Sequence[LedgerRow], name: str) -> bool:
    return any(_count(row, name) for row in rows)


def _count(row: LedgerRow, name: str) -> int:
    return getattr(row, name) or 0


def _block(output: str, rows: Sequence[LedgerRow], shown: list[str], limit: int) -> str:
    ours = sorted((r for r in rows if r.output == output), key=lambda r: (not r.missing, r.source))
    total = [f"{sum(_count(row, name) for row in ours):,}" for name in shown]
    missing = sum(abs(row.missing) for row in ours)
    table = [[output, *(name.replace("_", " ") for name in shown), ""]]
    for row in ours[:limit]:
        counts = [f"{_count(row, name):,}" for name in shown]
        table.append([row.source or "(no source)", *counts, _verdict(row.missing)])
    if len(ours) > limit:
        table.append([f"… and {len(ours) - limit:,} more", *([""] * len(shown)), ""])
    verdict = f"{missing:,} out of balance" if missing else "balanced"
    table.append(["total", *total, verdict])
    widths = [max(map(len, column)) for column in zip(*table, strict=True)]
    lines = []
    for row in table:
        cells = [row[0].ljust(widths[0])]
        cells += [cell.rjust(width) for cell, width in zip(row[1:-1], widths[1:-1], strict=True)]
        lines.append("  ".join([*cells, row[-1]]).rstrip())
    return "\n".join(lines)


def _verdict(missing: int) -> str:
    return "" if not missing else f"{abs(missing):,} {'missing' if missing > 0 else 'too many'}"
