"""A comparison in text for people, and as JSON for machines. Classified values are in neither."""

from __future__ import annotations

import datetime as dt
from collections.abc import Iterator, Mapping
from decimal import Decimal
from typing import TYPE_CHECKING, Any

from ..transforms.letters.shown import LONGEST

if TYPE_CHECKING:
    from ..schemas.masking import Masking
    from ..transforms.reconcile import Reconciled
    from ..transforms.reconcile.compare import Partition
    from ..transforms.reconcile.named import NamedRow
    from ..transforms.reconcile.summary import ColumnSummary, Summary
    from .reconcile import OfJob, Outcome

FORMAT = "millstream.reconcile/1"
_WORDS = {
    "missing": "missing: in the source alone",
    "extra": "extra: in the destination alone",
    "changed": "changed: of one key, with other values",
    "fewer": "fewer: the source has more rows of the key",
    "more": "more: the destination has more rows of the key",
}
"""What a row can be → what that means."""
_MOST_SUMS = 3
"""Columns of a partition whose sums are shown in a line."""


def as_report(outcome: Outcome) -> dict[str, Any]:
    """The whole outcome, in what JSON has: exact numbers that are not whole are texts."""
    result, masking = outcome.result, outcome.masking
    compared = result.compared
    report: dict[str, Any] = {
        "format": FORMAT,
        "verdict": "alike" if outcome.is_alike else "differ",
        "source": {"place": outcome.source, "rows": result.source_rows},
        "destination": {"place": outcome.destination, "rows": result.destination_rows},
        "columns": compared.schema.names,
        "key": list(compared.key),
        "by": list(map(str, compared.by)),
        "source_only": list(compared.source_only),
        "destination_only": list(compared.destination_only),
        "differences": dict(result.kinds),
        "explained": dict(result.reasons),
        "unexplained": result.unexplained,
        "changed_columns": dict(result.changed),
        "changed_looked_at": result.looked_at,
        "partitions": [_partition(p, compared.key, masking) for p in result.partitions],
        "rows": [_row(row, masking) for row in result.named],
    }
    if outcome.job is not None:
        report["job"] = _job(outcome.job)
    return report


def _partition(
    partition: Partition, key: tuple[str, ...], masking: Masking | None
) -> dict[str, Any]:
    found: dict[str, Any] = {
        "name": partition.name,
        "alike": partition.is_alike,
        "source": _summary(partition.source, masking),
        "destination": _summary(partition.destination, masking),
    }
    if not partition.is_alike:
        found["differences"] = dict(partition.kinds)
        found["explained"] = partition.explained
        if key:
            found["source"]["keys"] = partition.source_keys
            found["destination"]["keys"] = partition.destination_keys
    return found


def _summary(summary: Summary, masking: Masking | None) -> dict[str, Any]:
    columns = {name: _column(name, c, masking) for name, c in summary.columns.items()}
    return {"rows": summary.rows, "checksum": summary.checksum, "columns": columns}


def _column(name: str, column: ColumnSummary, masking: Masking | None) -> dict[str, Any]:
    told = {"sum": column.sum, "min": column.least, "max": column.most}
    if masking and masking.is_hidden(name):
        told = {key: masking.value(name, v) for key, v in told.items() if v is not None}
    return {"nulls": column.nulls, **{k: _plain(v) for k, v in told.items() if v is not None}}


def _row(row: NamedRow, masking: Masking | None) -> dict[str, Any]:
    found: dict[str, Any] = {
        "kind": row.kind,
        "partition": row.partition,
        "key": {name: _shown(name, value, masking) for name, value in row.key.items()},
    }
    if row.changes:
        found["changes"] = {
            name: [_shown(name, value, masking) for value in values]
            for name, values in row.changes.items()
        }
    if row.source:
        found |= {"source": row.source, "position": row.position}
    return found


def _shown(name: str, value: Any, masking: Masking | None) -> Any:
    if value is not None and masking and masking.is_hidden(name):
        return masking.value(name, value)
    return _plain(value)


def _plain(value: Any) -> Any:
    """A value as JSON has it; texts, and what has no other form, are cut where they get long."""
    if value is None or isinstance(value, bool | int):
        return value
    if isinstance(value, float):
        return value if value - value == 0 else str(value)
    if isinstance(value, Mapping):
        return {key: _plain(inner) for key, inner in value.items()}
    if isinstance(value, list):
        return [_plain(inner) for inner in value]
    if isinstance(value, dt.datetime):
        return value.isoformat().replace("+00:00", "Z")
    if isinstance(value, bytes):
        value = value[:LONGEST].hex()
    text = f"{value:f}" if isinstance(value, Decimal) else str(value)
    return text if len(text) <= LONGEST else f"{text[:LONGEST]}…"


def _job(job: OfJob) -> dict[str, Any]:
    found: dict[str, Any] = {
        "name": job.name,
        "read": job.read,
        "filtered": job.filtered,
        "replaced": job.replaced,
        "refused": {
            "explained": dict(job.refused.reasons),
            "unexplained": job.refused.bare,
            "rows": [
                {"source": source, "position": position, "codes": codes}
                for source, position, codes in job.refused.rows
            ],
        },
    }
    if job.ledger is not None:
        found["ledger"] = {**job.ledger._asdict(), "holds": job.ledger.holds}
    return found


# ------------------------------------------------------------------ text


def print_text(outcome: Outcome, *, everything: bool = False) -> None:
    """Print what people want to know.

    Args:
        everything: partitions that are alike too, and those that differ for reasons alone.
    """
    result = outcome.result
    compared = result.compared
    print(f"source       {outcome.source}: {result.source_rows:,} rows")
    print(f"destination  {outcome.destination}: {result.destination_rows:,} rows")
    said = f"{len(compared.schema.names)} columns"
    print(f"compared     {said}, by {', '.join(compared.key) or 'whole rows'}")
    for side, names in (
        ("source", compared.source_only),
        ("destination", compared.destination_only),
    ):
        if names:
            print(f"             only in the {side}: {', '.join(names)}")
    shown = [p for p in result.partitions if everything or not p.is_settled]
    if shown:
        _print_partitions(shown, outcome.masking)
    print(f"\n{_counted(result)}")
    for line in (*_named(result, outcome.masking), *_accounted(result, outcome.job)):
        print(line)
    print(_verdict(outcome))


def _verdict(outcome: Outcome) -> str:
    if not outcome.is_alike:
        return "they differ"
    refused = outcome.job.refused.total if outcome.job else 0
    reasons = outcome.result.reasons.total() + refused
    return f"alike, but for {reasons:,} records that have a reason" if reasons else "alike"


def _counted(result: Reconciled) -> str:
    """How many partitions are alike."""
    alike = sum(partition.is_alike for partition in result.partitions)
    settled = sum(partition.is_settled for partition in result.partitions) - alike
    said = f"{alike:,} of {len(result.partitions):,} partitions are alike"
    return f"{said}, {settled:,} but for rows that have a reason" if settled else said


def _print_partitions(partitions: list[Partition], masking: Masking | None) -> None:
    from rich import box
    from rich.console import Console
    from rich.table import Table

    table = Table(box=box.SIMPLE_HEAD, pad_edge=False, collapse_padding=True)
    table.add_column("partition", no_wrap=True)
    kinds = [kind for kind in _WORDS if any(p.kinds[kind] for p in partitions)]
    for name in ("source", "destination", *kinds):
        table.add_column(name, justify="right", no_wrap=True)
    table.add_column("what differs", no_wrap=True)
    for partition in partitions:
        counts = (partition.source.rows, partition.destination.rows)
        counts += tuple(partition.kinds[kind] for kind in kinds)
        table.add_row(
            _escaped(partition.name), *(f"{n:,}" for n in counts), _differing(partition, masking)
        )
    # As wide as it needs to be: whoever reads a file of it can go sideways.
    Console(width=400, highlight=False, soft_wrap=True).print(table)


def _escaped(text: str) -> str:
    from rich.markup import escape

    return escape(text)


def _differing(partition: Partition, masking: Masking | None) -> str:
    """Sums and nulls that are not the same on both sides."""
    told = []
    for name, ours in partition.source.columns.items():
        theirs = partition.destination.columns.get(name)
        if theirs is None:
            continue
        if ours.sum != theirs.sum and str(ours.sum) != str(theirs.sum):  # as NaN is not even NaN
            here, there = (_shown(name, side.sum, masking) for side in (ours, theirs))
            told.append(f"sum of {name}: {here} and {there}")
        if ours.nulls != theirs.nulls:
            told.append(f"nulls in {name}: {ours.nulls:,} and {theirs.nulls:,}")
    more = f"; and {len(told) - _MOST_SUMS} more" if len(told) > _MOST_SUMS else ""
    return _escaped("; ".join(told[:_MOST_SUMS]) + more)


def _named(result: Reconciled, masking: Masking | None) -> Iterator[str]:
    for kind, words in _WORDS.items():
        rows = [row for row in result.named if row.kind == kind]
        if not rows:
            continue
        yield f"\n{words}"
        for row in rows:
            yield f"  {_line(row, masking)}"
    if result.changed:
        counts = ", ".join(f"{name} in {rows:,}" for name, rows in result.changed.items())
        yield f"\ncolumns that differ in {result.looked_at:,} changed rows: {counts}"


def _line(row: NamedRow, masking: Masking | None) -> str:
    said = ", ".join(f"{n}={_shown(n, v, masking)}" for n, v in row.key.items())
    said = said if len(said) <= 2 * LONGEST else f"{said[: 2 * LONGEST]}…"
    changes = "; ".join(
        f"{name}: {' → '.join(str(_shown(name, v, masking)) for v in values)}"
        for name, values in row.changes.items()
    )
    said += f"  ({changes})" if changes else ""
    return f"{said}  from {row.source} at {row.position}" if row.source else said


def _accounted(result: Reconciled, job: OfJob | None) -> Iterator[str]:
    """Where all rows of the source are, and what the destination has besides."""
    kinds = result.kinds
    lacking = kinds["missing"] + kinds["fewer"]
    reasons = result.reasons
    bare = kinds - result.explained
    alike = result.source_rows - lacking - kinds["changed"]
    lines = [("alike in both", alike), ("changed", bare["changed"])]
    if job is not None:
        reasons = reasons + job.refused.reasons
        lines += [(reason, rows) for reason, rows in reasons.most_common()]
        lines += [("replaced by later records of their key", job.replaced)]
        lines += [("left out by steps", job.filtered)]
        lines += [("refused now, with no dead letter", job.refused.bare)]
    lines += [("missing, for no known reason", bare["missing"] + bare["fewer"])]
    yield ""
    yield f"of {job.read if job else result.source_rows:,} records of the source:"
    yield from (f"  {rows:>12,}  {name}" for name, rows in lines if rows)
    if extra := kinds["extra"] + kinds["more"]:
        yield f"and in the destination alone: {extra:,}"
    if job is None:
        return
    for source, position, codes in job.refused.rows:
        yield f"  refused now ({', '.join(codes)}): {source} at {position}"
    if ledger := job.ledger:
        aside = f"{ledger.quarantined:,} of them to quarantine, " if ledger.quarantined else ""
        as_many = "the others" if aside else "as many"
        holds = f"the output holds {as_many if ledger.holds else f'{ledger.rows:,}'}"
        said = f"{ledger.runs:,} runs have written {ledger.written:,} rows"
        yield f"the ledger: {said}, {aside}{holds}"
        if ledger.gone:
            yield f"  {ledger.of_gone:,} of them are of {ledger.gone:,} files that are gone by now"
