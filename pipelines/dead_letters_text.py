"""Dead letters as lines: groups of them for people and as JSON, and one with all that it holds."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from datetime import datetime
from typing import TYPE_CHECKING, Any

import msgspec

from ..transforms.letters.shown import Showing, shown, shown_whole

if TYPE_CHECKING:
    from ..transforms.letters import Mark
    from ..transforms.letters.summary import Group, Sample, Summary

_SETTLED = ("replayed", "discarded")
_WIDTH = 16


def as_text(
    summary: Summary,
    groups: Sequence[Group],
    samples: Mapping[str, Sample],
    place: str,
    showing: Showing,
) -> Iterator[str]:
    """A summary for people: of each group how many, what they are, since when, some of them."""
    totals = summary.totals
    unsettled = totals["open"] + totals["failed"]
    said = [f"{unsettled:,} open"]
    said += [f"{totals['failed']:,} of them failed again"] if totals["failed"] else []
    said += [f"{totals[status]:,} {status}" for status in _SETTLED if totals[status]]
    yield f"{place}: {', '.join(said)}"
    widths = [
        max([len(name), *(len(group.key[i] or "-") for group in groups)])
        for i, name in enumerate(summary.by)
    ]
    if groups:
        yield f"{'letters':>10}  {_cells(summary.by, widths)}  first – last (UTC)"
    for group in groups:
        settled = [f"{group.counts[s]:,} {s}" for s in _SETTLED if group.counts[s]]
        suffix = f"  ({', '.join(settled)})" if settled else ""
        span = f"{_minute(group.first)} – {_minute(group.last)}"
        yield f"{group.letters:>10,}  {_cells(group.key, widths)}  {span}{suffix}"
        for sample in (samples[i] for i in group.ids if i in samples):
            payload, message = _seen(sample, showing)
            yield f"{'':>12}{sample.id}  {payload}"
            if message:
                yield f"{'':>12}{'':<32}  {message}"
    if more := len(summary.groups) - len(groups):
        yield f"{'':>12}and {more:,} more group{'s' if more > 1 else ''}: --limit N, or --json"


def as_json(
    summary: Summary,
    groups: Sequence[Group],
    samples: Mapping[str, Sample],
    place: str,
    showing: Showing,
) -> Iterator[str]:
    """A JSON object for each group."""
    for group in groups:
        found = [(samples[i], *_seen(samples[i], showing)) for i in group.ids if i in samples]
        yield msgspec.json.encode(
            {
                **dict(zip(summary.by, group.key, strict=True)),
                "letters": group.letters,
                "statuses": dict(sorted(group.counts.items())),
                "first": group.first,
                "last": group.last,
                "samples": [
                    {
                        "id": sample.id,
                        "source": sample.source,
                        "position": sample.position,
                        "message": message,
                        "payload": payload,
                    }
                    for sample, payload, message in found
                ],
            }
        ).decode()


def _seen(sample: Sample, showing: Showing) -> tuple[str, str | None]:
    """What is shown of a sample: its payload, and why it was refused."""
    letter = {
        "errorMessage": sample.message,
        "violations": sample.violations,
        "contract_id": sample.contract_id,
    }
    message = showing.message(letter)
    payload = shown(showing.payload(sample.payload, sample.attributes))
    return payload, message and shown(message.encode())


def whole(
    row: Mapping[str, Any], payload: bytes | None, marks: Sequence[Mark], showing: Showing
) -> Iterator[str]:
    """All that is known of a letter, its payload last."""
    said = {**row, "errorMessage": showing.message(row), "event_time": showing.event_time(row)}
    if row["stacktrace"] is not None:
        said["stacktrace"] = showing.stacktrace(row["stacktrace"])
    for name, value in said.items():
        if value is not None and name not in ("payloadString", "payloadBytes", *_LISTS, "codes"):
            yield f"{name:<{_WIDTH}}{_value(value)}"
    for code, field, message in showing.violations(row):
        where = field or "(the record)"
        yield f"{'violation':<{_WIDTH}}{_value(code)}  {_value(where)}: {_value(message)}"
    for name, value in showing.attributes(row["attributes"]):
        yield f"{'attribute':<{_WIDTH}}{_value(name)} = {_value(value)}"
    for mark in marks:
        reason = f"  ({_value(mark.reason)})" if mark.reason else ""
        yield (
            f"{'mark':<{_WIDTH}}{mark.outcome} at {mark.at}, attempt {mark.attempt}, "
            f"run {mark.run_id}{reason}"
        )
    yield f"{'payload':<{_WIDTH}}{len(payload) if payload is not None else 0:,} bytes"
    yield shown_whole(showing.payload(payload, row["attributes"]))


_LISTS = ("violations", "attributes")


def _cells(values: Sequence[str | None], widths: Sequence[int]) -> str:
    cells = [shown((value or "-").encode(), 200) for value in values]
    return "  ".join(f"{cell:<{width}}" for cell, width in zip(cells, widths, strict=True))


def _value(value: Any) -> str:
    """A value in one line, safe for a terminal."""
    if isinstance(value, datetime):
        return value.isoformat().replace("+00:00", "Z")
    return shown(str(value).encode("utf-8", "backslashreplace"), 10_000)


def _minute(moment: datetime | None) -> str:
    return f"{moment:%Y-%m-%d %H:%M}" if moment else "?"
