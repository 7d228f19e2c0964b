"""What a gate has decided of a run: kept in the run's folder, for whoever asks later."""

from __future__ import annotations

from collections.abc import Iterable
from datetime import UTC, datetime
from typing import Literal

import msgspec

from ...schemas.quality.checks import Verdict
from .. import storage
from ..ledger import LedgerRow
from ..plan import Token
from ..runs import RunRecord, RunStore

REPORT_FORMAT = "millstream.gate/1"
_REPORT = "quality.json"


class Judged(msgspec.Struct, frozen=True, kw_only=True):
    """How a check ended, as a run's report says it."""

    check: str
    metric: str
    dimension: str
    severity: str
    said: str
    threshold: str
    verdict: str
    score: float
    place: str
    action: str = ""
    partition: str = ""


class Report(msgspec.Struct, frozen=True, kw_only=True):
    """What a gate decided of a run. Kept in the run's folder.

    ``decision``: ``pass``, ``warn``, ``quarantine`` (of ``partitions``; of all, if none is named)
    or ``fail``. ``over_budget`` says why a run was stopped by its budget. ``newest`` is the
    greatest event time that came, in microseconds since 1970-01-01 UTC. ``scores`` are by
    dimension; that of the empty name is of all.
    """

    format: str = REPORT_FORMAT
    run_id: str
    decision: Literal["pass", "warn", "quarantine", "fail"]
    verdicts: tuple[Judged, ...] = ()
    scores: dict[str, float] = {}
    partitions: tuple[str, ...] = ()
    over_budget: str = ""
    newest: int | None = None


def read_report(store: RunStore, token: Token) -> Report | None:
    """What a gate decided of a run; ``None`` if none did.

    Raises:
        StorageError: it cannot be read.
    """
    path = storage.join(store.folder(token).path, _REPORT)
    if not storage.exists(path):
        return None
    try:
        return msgspec.json.decode(storage.read_bytes(path), type=Report)
    except msgspec.DecodeError as error:
        raise storage.StorageError(f"cannot read {path}: {error}", path) from error


def record_failure(
    store: RunStore,
    token: Token,
    error: str,
    ledger: Iterable[LedgerRow],
    *,
    over_budget: str = "",
    report: Report | None = None,
) -> None:
    """Write down that a run is stopped before its commit, and why."""
    found = report or Report(run_id=token.run_id, decision="fail", over_budget=over_budget)
    write_report(store, token, found)
    now = datetime.now(UTC).isoformat(timespec="milliseconds").replace("+00:00", "Z")
    store.finish(
        RunRecord(
            run_id=token.run_id,
            plan_digest=token.plan_digest,
            status="failed",
            finished_at=now,
            error=error,
            ledger=tuple(ledger),
        )
    )


def write_report(store: RunStore, token: Token, report: Report) -> None:
    """Keep a report; one that was kept before goes."""
    path = storage.join(store.folder(token).path, _REPORT)
    storage.write_replace(path, msgspec.json.encode(report))


def judged(verdict: Verdict, action: str) -> Judged:
    """A verdict, and what came of it, as a report says it."""
    check = verdict.check
    return Judged(
        check=check.name,
        metric=check.kind,
        dimension=check.dimension,
        severity=check.severity,
        said=verdict.shown,
        threshold=check.threshold,
        verdict=verdict.judgement,
        score=verdict.score,
        place=check.place,
        action=action,
        partition=verdict.partition,
    )
