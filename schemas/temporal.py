"""Text to dates, times and time stamps, a column at a time, strictly.

The rule (ISO 8601 / RFC 3339, a subset): ``YYYY-MM-DD``, then ``T`` or a space, ``HH:MM`` with
optional seconds and up to nine fractional digits, then ``Z`` or ``±HH:MM`` (``±HHMM`` and ``±HH``
too). Years are 0001 to 9999, days must exist, second 60 does not. Digits beyond microseconds are
cut off, which is what Arrow, Avro and BigQuery can hold.

One regular expression decides what is accepted and Arrow's cast only converts, so the parser is
exactly as strict as the expression below, calendar included. Another format (a Java
``DateTimeFormatter`` pattern, as ODCS has it) is rewritten to ISO first and then held to the same
rule.
"""

from __future__ import annotations

import datetime as dt
import functools
import re
from collections.abc import Iterator, Sequence
from zoneinfo import ZoneInfo

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from .contract import Field

_YEAR = "(?:000[1-9]|00[1-9][0-9]|0[1-9][0-9]{2}|[1-9][0-9]{3})"
_LEAP_DAY = (
    "(?:[0-9]{2}(?:0[48]|[2468][048]|[13579][26])|(?:0[48]|[2468][048]|[13579][26])00)-02-29"
)
_DAY = (
    f"(?:{_YEAR}-(?:(?:0[13578]|1[02])-(?:0[1-9]|[12][0-9]|3[01])"
    "|(?:0[469]|11)-(?:0[1-9]|[12][0-9]|30)|02-(?:0[1-9]|1[0-9]|2[0-8]))"
    f"|{_LEAP_DAY})"
)
_CLOCK = "(?:[01][0-9]|2[0-3]):[0-5][0-9](?::[0-5][0-9](?:[.][0-9]{1,9})?)?"
_OFFSET = "(?:Z|[+-](?:[01][0-9]|2[0-3])(?::?[0-5][0-9])?)"
_BEYOND_MICROSECONDS = "([.][0-9]{6})[0-9]+"
_SHORTEST_BEYOND = {
    "date": 1 << 30,
    "time": len("00:00:00.0000000"),
    "naive": len("0000-00-00T00:00:00.0000000"),
    "offset": len("0000-00-00T00:00:00.0000000Z"),
}
"""The length of the shortest text with more digits than microseconds: most columns are shorter."""

_GUARDS = {
    "date": f"^{_DAY}$",
    "time": f"^{_CLOCK}$",
    "naive": f"^{_DAY}[T ]{_CLOCK}$",
    "offset": f"^{_DAY}[T ]{_CLOCK}{_OFFSET}$",
}

FIRST_INSTANT = -62_135_596_800_000_000  # 0001-01-01T00:00:00Z in microseconds
LAST_INSTANT = 253_402_300_799_999_999  # 9999-12-31T23:59:59.999999Z

_CLOCKS = ("00:00", "00:00:00", *(f"00:00:00.{'0' * digits}" for digits in range(1, 7)))
_LAYOUTS = {
    "date": ("0000-00-00",),
    "time": _CLOCKS,
    "naive": tuple(f"0000-00-00{t}{clock}" for t in "T " for clock in _CLOCKS),
    "offset": tuple(f"0000-00-00{t}{clock}Z" for t in "T " for clock in _CLOCKS),
}
"""What most columns look like, from end to end; ``0`` stands for any digit."""

_EXPECTED = {
    "date": "a date such as 2026-11-24",
    "time": "a time of day such as 13:45:00",
    "timestamp": "a time stamp with an offset, such as 2026-11-24T13:45:00Z",
}


def expected(field: Field) -> str:
    """What a value of this field should have looked like, for messages."""
    if field.format and rewrite_for(field.type, field.format):
        return f"a {field.type} in the format {field.format}"
    if field.zone:
        return "a time stamp such as 2026-11-24T13:45:00"
    return _EXPECTED[field.type]


def parse_column(texts: pa.Array, field: Field) -> tuple[pa.Array, np.ndarray | None]:
    """Convert a string column into the Arrow type of a date, time or timestamp field.

    Returns:
        The converted column (null where the text was null or refused), and the indices of what
        was refused, or ``None`` if nothing was.
    """
    rewrite = rewrite_for(field.type, field.format) if field.format else None
    if rewrite is not None:
        pattern, template, has_offset = rewrite
        matches = pc.match_substring_regex(texts, pattern)
        texts = pc.replace_substring_regex(texts, pattern, template)
        texts = pc.if_else(matches, texts, pa.scalar("", pa.string()))  # refused by the guard
        if field.type == "timestamp" and not has_offset and field.zone is None:
            return _parse(texts, "naive", "UTC")  # the format itself says that there is no offset
    if field.type == "date":
        return _parse(texts, "date", None)
    if field.type == "time":
        return _parse(texts, "time", None)
    if field.zone is None:
        return _parse(texts, "offset", None)
    return _parse_mixed(texts, field.zone)


def _parse(texts: pa.Array, guard: str, zone: str | None) -> tuple[pa.Array, np.ndarray | None]:
    if _has_layout(texts, _LAYOUTS[guard]):
        try:
            return _cast(texts, guard, zone, None)
        except pa.ArrowInvalid:  # a day or an hour that does not exist: the guard tells which
            pass
    elif (looks_right := _mostly_of_layout(texts, guard)) is not None:
        try:
            return _converted(texts, looks_right, guard, zone)
        except pa.ArrowInvalid:
            pass
    return _converted(texts, pc.match_substring_regex(texts, _GUARDS[guard]), guard, zone)


def _converted(
    texts: pa.Array, accepted: pa.Array, guard: str, zone: str | None
) -> tuple[pa.Array, np.ndarray | None]:
    refused = None
    if pc.all(accepted).as_py() is False:  # nulls are skipped
        refused = np.flatnonzero(~accepted.fill_null(True).to_numpy(zero_copy_only=False))
        texts = pc.if_else(accepted, texts, pa.scalar(None, pa.string()))
    return _cast(_to_microseconds(texts, _SHORTEST_BEYOND[guard]), guard, zone, refused)


def _has_layout(texts: pa.Array, layouts: Sequence[str]) -> bool:
    """Whether all texts look like one of some layouts, in a year that is not 0000.

    Twenty times as fast as the guard, which such texts then only break by a number that is out of
    range, and that Arrow refuses too.
    """
    if texts.null_count:
        texts = texts.drop_null()
    if not len(texts):
        return False
    offsets = np.frombuffer(texts.buffers()[1], np.int32)[texts.offset :][: len(texts) + 1]
    width = int(offsets[1] - offsets[0])
    if not any(len(layout) == width for layout in layouts) or (np.diff(offsets) != width).any():
        return False
    characters = np.frombuffer(texts.buffers()[2], np.uint8)[offsets[0] : offsets[-1]]
    every, some = (_over_texts(op, characters, width) for op in (np.bitwise_and, np.bitwise_or))
    digits = ((every & 0xF0) == 0x30) & ((some & 0xF0) == 0x30)  # 0 to 9, or :;<=>? in Arrow's way
    alike = np.where(every == some, every, 0)
    for layout in layouts:
        if len(layout) == width:
            wanted = np.frombuffer(layout.encode(), np.uint8)
            if np.where(wanted == ord("0"), digits, alike == wanted).all():
                return not layout.startswith("0000") or not _has_year_0(texts)
    return False


def _mostly_of_layout(texts: pa.Array, guard: str) -> pa.Array | None:
    """Which texts are accepted, where those of the commonest length look like one layout, as when
    most have a ``Z`` and some an offset; ``None`` if they do not. Only the others are matched."""
    if texts.null_count or len(texts) < _MANY:
        return None
    lengths = np.diff(np.frombuffer(texts.buffers()[1], np.int32)[texts.offset :][: len(texts) + 1])
    counts = np.bincount(lengths) if lengths.max() <= _LONG else np.zeros(1, np.int64)
    width = int(counts.argmax())
    if counts[width] < 0.75 * len(texts):
        return None
    usual = lengths == width
    if not _has_layout(texts.filter(pa.array(usual)), _LAYOUTS[guard]):
        return None
    others = texts.filter(pa.array(~usual))
    usual[~usual] = pc.match_substring_regex(others, _GUARDS[guard]).to_numpy(zero_copy_only=False)
    return pa.array(usual)


_MANY = 100  # texts from which on it is worth a look at their layout
_LONG = 1000  # bytes that no text of a time has


def _over_texts(op: np.ufunc, characters: np.ndarray, width: int) -> np.ndarray:
    """``op`` of the first characters of all texts, of their second ones, and so on."""
    # in long rows of many texts, which numpy goes through at the speed of memory
    row = 64 * width
    rest = len(characters) // row * row
    parts = [op.reduce(characters[:rest].reshape(-1, row)).reshape(-1, width)] if rest else []
    parts.append(characters[rest:].reshape(-1, width))
    return op.reduce(np.concatenate(parts))


def _has_year_0(texts: pa.Array) -> bool:
    return bool(pc.any(pc.starts_with(texts, "0000")).as_py())


def _cast(
    texts: pa.Array, guard: str, zone: str | None, refused: np.ndarray | None
) -> tuple[pa.Array, np.ndarray | None]:
    """Convert texts that the guard accepts."""
    if guard == "date":
        return texts.cast(pa.date32()), refused
    if guard == "time":
        # Arrow casts no text to a time of day: put it on a day and take the day off again
        dated = pc.binary_join_element_wise("1970-01-01T", texts, "")
        return dated.cast(pa.timestamp("us")).cast(pa.time64("us")), refused
    if guard == "offset":
        return _within_years(texts.cast(pa.timestamp("us", "UTC")), refused)
    return _within_years(localise(texts.cast(pa.timestamp("us")), zone or "UTC"), refused)


def _to_microseconds(texts: pa.Array, shortest: int) -> pa.Array:
    """The texts without digits beyond microseconds, which only some of ``shortest`` length have."""
    long = pc.greater_equal(pc.binary_length(texts), shortest)
    if not pc.any(long).as_py():
        return texts
    some = texts.filter(long)
    if not pc.any(pc.match_substring_regex(some, _BEYOND_MICROSECONDS)).as_py():
        return texts
    cut = pc.replace_substring_regex(some, _BEYOND_MICROSECONDS, r"\1")
    return pc.replace_with_mask(texts, long.fill_null(False), cut)


def _within_years(
    instants: pa.Array, refused: np.ndarray | None
) -> tuple[pa.Array, np.ndarray | None]:
    """Refuse instants outside years 1 to 9999 UTC, which Python and most tables cannot hold."""
    micros = instants.view(pa.int64())
    bounds = pc.min_max(micros).as_py()
    if bounds["min"] is None or (bounds["min"] >= FIRST_INSTANT and bounds["max"] <= LAST_INSTANT):
        return instants, refused
    outside = pc.or_(pc.less(micros, FIRST_INSTANT), pc.greater(micros, LAST_INSTANT))
    more = np.flatnonzero(outside.fill_null(False).to_numpy(zero_copy_only=False))
    return pc.if_else(outside, pa.scalar(None, instants.type), instants), _union(refused, more)


def _union(some: np.ndarray | None, others: np.ndarray | None) -> np.ndarray | None:
    if some is None or others is None:
        return others if some is None else some
    return np.union1d(some, others)


def localise(local: pa.Array, zone: str) -> pa.Array:
    """Local wall-clock times to instants; in a fold the earlier one, in a gap the next that exists.

    Raises nothing: Arrow's own time zone database may be absent (Windows), Python's is not.
    """
    if zone == "UTC":
        return local.cast(pa.timestamp("us", "UTC"))
    try:
        placed = pc.assume_timezone(local, zone, ambiguous="earliest", nonexistent="latest")
        return placed.cast(pa.timestamp("us", "UTC"))
    except pa.ArrowInvalid:
        tz = ZoneInfo(zone)
        micros = [None if v is None else instant_of(v, tz) for v in local.to_pylist()]
        return pa.array(micros, pa.int64()).cast(pa.timestamp("us", "UTC"))


_EPOCH = dt.datetime(1970, 1, 1)
_MICROSECOND = dt.timedelta(microseconds=1)


def instant_of(local: dt.datetime, tz: ZoneInfo) -> int:
    """A local wall-clock time to microseconds since 1970-01-01 UTC: in a fold the earlier one, in
    a gap the next that exists, as for a column of them."""
    before, after = (local.replace(tzinfo=tz, fold=fold).utcoffset() for fold in (0, 1))
    assert before is not None
    assert after is not None
    clock = (local - _EPOCH) // _MICROSECOND
    first, last = clock - after // _MICROSECOND, clock - before // _MICROSECOND
    if before >= after:
        return last  # the earlier one, if there are two
    # In a gap: the clock jumps at an instant in (first, last].
    while last - first > 1:
        middle = (first + last) // 2
        there = (_EPOCH + middle * _MICROSECOND).replace(tzinfo=dt.UTC).astimezone(tz)
        first, last = (first, middle) if there.utcoffset() == after else (middle, last)
    return last


def _parse_mixed(texts: pa.Array, zone: str) -> tuple[pa.Array, np.ndarray | None]:
    """Values with an offset keep it, those without are of ``zone``."""
    naive = pc.match_substring_regex(texts, _GUARDS["naive"])
    nothing = pa.scalar(None, pa.string())
    local, far = _parse(pc.if_else(naive, texts, nothing), "naive", zone)
    placed, refused = _parse(pc.if_else(naive, nothing, texts), "offset", None)
    return pc.coalesce(placed, local), _union(far, refused)


_TOKENS = {
    "yyyy": ("year", "([0-9]{4})"),
    "uuuu": ("year", "([0-9]{4})"),
    "MM": ("month", "([0-9]{2})"),
    "dd": ("day", "([0-9]{2})"),
    "HH": ("hour", "([0-9]{2})"),
    "mm": ("minute", "([0-9]{2})"),
    "ss": ("second", "([0-9]{2})"),
    "Z": ("offset", "([+-][0-9]{4})"),
    "X": ("offset", "(Z|[+-][0-9]{2}(?:[0-9]{2})?)"),
    "XX": ("offset", "(Z|[+-][0-9]{4})"),
    "XXX": ("offset", "(Z|[+-][0-9]{2}:[0-9]{2})"),
    "xxx": ("offset", "([+-][0-9]{2}:[0-9]{2})"),
}
_PIECE = re.compile(r"'((?:[^']|'')*)'|([A-Za-z])\2*|.", re.DOTALL)


def pieces(pattern: str) -> Iterator[tuple[str, str | None]]:
    """The pieces of a Java pattern: runs of one letter, and what stands for itself, as its text and
    (else ``None``) what it stands for."""
    for piece in _PIECE.finditer(pattern):
        text = piece.group(0)
        if piece.group(1) is not None:
            yield text, piece.group(1).replace("''", "'") or "'"
        else:
            yield text, text if piece.group(2) is None else None


_PARTS = {"date": (True, False), "timestamp": (True, True), "time": (False, True)}
"""Whether a type has a day, and a clock."""


def rewrite_for(type: str, pattern: str) -> tuple[str, str, bool] | None:
    """:func:`iso_rewrite` of a pattern that has just what the type's values have, or ``None``."""
    rewrite = iso_rewrite(pattern)
    if rewrite is None or ("-" in rewrite[1], ":" in rewrite[1]) != _PARTS[type]:
        return None
    return rewrite


@functools.lru_cache(maxsize=256)
def iso_rewrite(pattern: str) -> tuple[str, str, bool] | None:
    """A Java ``DateTimeFormatter`` pattern as (regular expression, ISO template, has an offset).

    Source of the letters: the JDK's ``java.time.format.DateTimeFormatter``. ``None`` where the
    pattern uses what cannot be rewritten (names of months, two-digit years, half days, optional
    sections): the value is then held to ISO 8601, and ``contract check`` says so.
    """
    groups: dict[str, str] = {}
    expression = ""
    for text, literal in pieces(pattern):
        if text in "[]{}#'":  # optional sections, reserved letters, a quote without an end
            return None
        if literal is not None:
            expression += re.escape(literal)
        else:
            name, regex = _TOKENS.get(text) or (
                ("fraction", f"([0-9]{{{len(text)}}})")
                if set(text) == {"S"} and len(text) <= 9
                else ("", "")
            )
            if not name or name in groups:
                return None
            groups[name] = rf"\{len(groups) + 1}"
            expression += regex
    day, clock = {"year", "month", "day"}, {"hour", "minute"}
    has = set(groups)
    if not (day <= has or (clock <= has and not has & day)):
        return None
    template = ""
    if day <= has:
        template = "{year}-{month}-{day}"
    if clock <= has:
        template += ("T" if template else "") + "{hour}:{minute}"
        template += ":{second}" if "second" in has else ""
        template += ".{fraction}" if {"second", "fraction"} <= has else ""
        template += "{offset}" if "offset" in has else ""
    elif has & {"hour", "minute", "second", "fraction", "offset"}:
        return None
    return f"^{expression}$", template.format(**groups), "offset" in has
