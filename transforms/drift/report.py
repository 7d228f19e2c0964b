"""What a run has noticed of drift: kept in the run's folder, for whoever asks later."""

from __future__ import annotations

from collections.abc import Iterable, Iterator

import msgspec

from ...schemas.drift.evolve import of_records
from ...schemas.drift.facts import Drift, Kind, Sample
from ...schemas.problems import one_line
from .. import storage
from ..plan import Token
from ..runs import RunStore

REPORT_FORMAT = "millstream.drift/1"
_REPORT = "drift.json"
_WORDS: dict[Kind, str] = {"field": "unknown field", "type": "wider type", "value": "new value"}
_LISTED = 4  # of what was seen, in a line


class SeenThere(msgspec.Struct, frozen=True):
    """A JSON type or a value (as JSON) that was seen, in how many records, and the first."""

    what: str
    records: int
    samples: tuple[Sample, ...] = ()


class DriftedPlace(msgspec.Struct, frozen=True):
    """What was seen at the path of a field. ``more`` says that not all of it is told."""

    kind: Kind
    path: str
    records: int
    seen: tuple[SeenThere, ...]
    more: bool = False


class Evolved(msgspec.Struct, frozen=True):
    """The version of the contract that was made of it, of which other, and where they are."""

    version: str
    path: str
    before: str
    before_path: str
    changes: tuple[str, ...] = ()


class DriftReport(msgspec.Struct, frozen=True, kw_only=True):
    """What drifted in a run, in how many of its records. ``refused`` says, by path, what the
    contract cannot take up by itself, and why."""

    format: str = REPORT_FORMAT
    run_id: str
    policy: str
    records: int
    places: tuple[DriftedPlace, ...]
    more: bool = False
    evolved: Evolved | None = None
    refused: dict[str, str] = {}


def report_of(drift: Drift, run_id: str, policy: str, *, values: bool = True) -> DriftReport:
    """What was noticed, the most frequent first.

    Args:
        values: keep those of the samples; else only where they are.
    """
    places = [
        DriftedPlace(
            kind,
            path,
            place.records,
            tuple(
                SeenThere(what, seen.records, seen.samples if values else _bare(seen.samples))
                for what, seen in sorted(place.seen.items(), key=lambda s: (-s[1].records, s[0]))
            ),
            place.more,
        )
        for (kind, path), place in drift.places.items()
    ]
    places.sort(key=lambda place: (-place.records, place.kind, place.path))
    return DriftReport(
        run_id=run_id, policy=policy, records=drift.records, places=tuple(places), more=drift.more
    )


def _bare(samples: Iterable[Sample]) -> tuple[Sample, ...]:
    return tuple(msgspec.structs.replace(sample, value="") for sample in samples)


def report_path(store: RunStore, token: Token) -> str:
    """Where a run's report is, if it has one."""
    return storage.join(store.folder(token).path, _REPORT)


def read_report(store: RunStore, token: Token) -> DriftReport | None:
    """What a run has noticed; ``None`` if that was nothing.

    Raises:
        StorageError: it cannot be read.
    """
    path = report_path(store, token)
    if not storage.exists(path):
        return None
    try:
        return msgspec.json.decode(storage.read_bytes(path), type=DriftReport)
    except msgspec.DecodeError as error:
        raise storage.StorageError(f"cannot read {path}: {error}", path) from error


def write_report(store: RunStore, token: Token, report: DriftReport) -> None:
    """Keep a report; one that was kept before goes."""
    storage.write_replace(report_path(store, token), msgspec.json.encode(report))


def lines(report: DriftReport) -> Iterator[str]:
    """A report as a table of text, a line for each place."""
    width = min(max((len(one_line(place.path)) for place in report.places), default=0), 40)
    are = "is" if report.records == 1 else "are"
    yield f"drift: {of_records(report.records)} {are} not as the contract foresees"
    for place in report.places:
        seen = ", ".join(f"{one.what} {one.records:,}" for one in place.seen[:_LISTED])
        more = ", …" if place.more or len(place.seen) > _LISTED else ""
        first = min((s for one in place.seen for s in one.samples), key=lambda s: s.order)
        value = f" {first.value}" if first.value and place.kind != "value" else ""
        yield (
            f"  {_WORDS[place.kind]:<13}  {one_line(place.path):<{width}}  "
            f"{of_records(place.records):>14}: "
            + one_line(f"{seen}{more}; first {first.source}:{first.position}{value}")
        )
    if report.more:
        yield "  … and more places: the names of fields may be data"
