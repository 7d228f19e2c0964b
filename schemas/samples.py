"""Made-up records of a contract, good ones and broken ones: to try a job before there is data.

What is given is true: every line is held against the contract by the decoder itself before it
leaves. A seed gives the same lines again.
"""

from __future__ import annotations

import datetime as dt
import json
import math
import random
import string
import uuid
from collections.abc import Callable, Iterator
from dataclasses import replace
from decimal import Decimal
from typing import Any

import msgspec
import pyarrow as pa

from .contract import Contract, Field
from .integers import integer_range
from .json.decoder import JsonDecoder

BATCH = 1000
"""Lines that are made, and held against the contract, at a time."""
_TRIES = 50
_NULL = 0.1  # the part of values that are null, where they may be
_WORDS = 100  # different values of a string without rules
_FAR = 1000  # how far numbers without bounds lie from each other

_encode = msgspec.json.Encoder(decimal_format="number").encode


class CannotGenerate(ValueError):
    """No record was found that keeps the contract. The message names the rules in the way."""


class Samples:
    """Makes lines of JSON that keep, or break, a contract.

    Args:
        seed: the same seed gives the same lines.
        broken: the part of the lines that break the contract, 0 to 1.
        start: the event time of the first record.
        span: the time from the first to the last of ``count`` records; they come in order, up to
            half a minute late.

    Raises:
        CannotGenerate: while lines are made, of the contract's rules no value is found that keeps
            them all; or a pattern needs the package ``rstr``, and it is not installed.
    """

    def __init__(
        self,
        contract: Contract,
        count: int,
        *,
        seed: int = 0,
        broken: float = 0.01,
        start: dt.datetime = dt.datetime(2026, 1, 1, tzinfo=dt.UTC),
        span: dt.timedelta = dt.timedelta(days=1),
    ) -> None:
        self._contract = contract
        self._count = count
        self._broken = broken
        self._start = start
        self._span = span
        self._random = random.Random(seed)
        self._decoder = JsonDecoder(contract, judge=True)
        self._values = {f.name: _maker(f, self._random) for f in contract.fields}

    def batches(self) -> Iterator[list[bytes]]:
        """The lines, without their ends, up to :data:`BATCH` at a time."""
        for first in range(0, self._count, BATCH):
            size = min(BATCH, self._count - first)
            good = self._good(first, size)
            for row in range(size):
                if self._random.random() < self._broken:
                    good[row] = self._break(good[row])
            yield good

    def _good(self, first: int, size: int) -> list[bytes]:
        lines = [self._line(first + n) for n in range(size)]
        for _ in range(_TRIES):
            decoded = self._decoder.decode(pa.array(lines, pa.binary()))
            if not decoded.refused:
                return lines
            for row in decoded.refused:
                lines[row] = self._line(first + row)
        places = sorted({f"{v.field}: {v.message}" for v in decoded.violations})[:3]
        raise CannotGenerate(f"found no values that keep all rules: {'; '.join(places)}")

    def _line(self, number: int) -> bytes:
        record = {}
        for field in self._contract.fields:
            if field.name == self._contract.event_time:
                record[field.name] = as_json(self._event_time(number), field)
            elif field.primary_key and field.type == "integer" and not field.rules:
                record[field.name] = number + 1
            else:
                record[field.name] = self._values[field.name]()
        return _encode(record)

    def _event_time(self, number: int) -> dt.datetime:
        late = dt.timedelta(milliseconds=self._random.randrange(30_000))
        at = self._start + self._span * (number / max(self._count, 1)) - late
        at = max(at, self._start)
        return at.replace(microsecond=at.microsecond // 1000 * 1000)

    def _break(self, line: bytes) -> bytes:
        for _ in range(_TRIES):
            broken = self._random.choice(BREAKS)(line, self._contract, self._random)
            if broken is not None and b"\n" not in broken and broken.strip():
                decoded = self._decoder.decode(pa.array([broken], pa.binary()))
                if decoded.refused:
                    return broken
        return line[: len(line) // 2] or b"{"


# ---------------------------------------------------------------------------- good values

Maker = Callable[[], Any]


def _maker(field: Field, rng: random.Random) -> Maker:
    """What makes values of a field, as JSON has them."""
    typed = _typed(field, rng)
    if field.required:
        return typed
    return lambda: None if rng.random() < _NULL else typed()


def _typed(field: Field, rng: random.Random) -> Maker:
    rules = {rule.kind: rule.value for rule in field.rules}
    if "enum" in rules:
        choices = [as_json(v, field) for v in rules["enum"]]
        return lambda: rng.choice(choices)
    return _MAKERS[field.type](field, rules, rng)


def _strings(field: Field, rules: dict[str, Any], rng: random.Random) -> Maker:
    if "format" in rules and rules["format"] in FORMATS:
        return lambda: FORMATS[rules["format"]](rng)
    if "pattern" in rules:
        return _matching(rules["pattern"], rng)
    low = rules.get("minLength", 0)
    high = rules.get("maxLength", max(12, low + 8))
    if field.primary_key and high >= 36:
        return lambda: str(uuid.UUID(int=rng.getrandbits(128), version=4))
    # not as short or long as is allowed: that may be nothing, or very long
    shortest, longest = max(low, min(3, high)), min(high, max(low, 12))

    def word() -> str:
        return "".join(rng.choices(string.ascii_lowercase, k=rng.randint(shortest, longest)))

    # few different ones, so that there is something to group by
    words = [word() for _ in range(_WORDS)]
    return lambda: rng.choice(words)


def _matching(pattern: str, rng: random.Random) -> Maker:
    try:
        from rstr import Rstr
    except ImportError:
        raise CannotGenerate(
            "values for a pattern need rstr; install it with: pip install 'millstream[generate]'"
        ) from None
    made = Rstr(rng)
    # "any number of" is up to a hundred there, which no record looks like
    short = pattern.replace("+", "{1,8}").replace("*", "{0,8}") if "\\" not in pattern else pattern
    return lambda: made.xeger(short)


FORMATS: dict[str, Callable[[random.Random], str]] = {
    "uuid": lambda rng: str(uuid.UUID(int=rng.getrandbits(128), version=4)),
    "email": lambda rng: f"user{rng.randrange(10**6)}@mail.example",
    "hostname": lambda rng: f"host{rng.randrange(10**4)}.example",
    "ipv4": lambda rng: ".".join(str(rng.randrange(256)) for _ in range(4)),
    "ipv6": lambda rng: ":".join(f"{rng.getrandbits(16):x}" for _ in range(8)),
    "uri": lambda rng: f"https://www.example/{rng.randrange(10**6)}",
}


def _integers(field: Field, rules: dict[str, Any], rng: random.Random) -> Maker:
    low, high = _bounds(rules, 1, *integer_range(field.storage))
    step = rules.get("multipleOf", 1)
    return lambda: rng.randint(-(-low // step), high // step) * step


def _bounds(rules: dict[str, Any], gap: Any, least: Any, most: Any) -> tuple[Any, Any]:
    """The range to draw from: what the rules say, else not too far from zero or the other bound."""
    low, high = rules.get("minimum"), rules.get("maximum")
    if "exclusiveMinimum" in rules:
        low = rules["exclusiveMinimum"] + gap
    if "exclusiveMaximum" in rules:
        high = rules["exclusiveMaximum"] - gap
    if low is None:
        low = 0 if high is None or high > 0 else high - _FAR
    if high is None:
        high = low + _FAR
    return max(low, least), min(high, most)


def _numbers(field: Field, rules: dict[str, Any], rng: random.Random) -> Maker:
    low, high = _bounds(rules, 0.01, -math.inf, math.inf)
    if step := rules.get("multipleOf"):
        exact = Decimal(str(step))
        first, last = math.ceil(Decimal(low) / exact), math.floor(Decimal(high) / exact)
        return lambda: float(rng.randint(first, last) * exact)
    return lambda: round(rng.uniform(low, high), 2)


def _decimals(field: Field, rules: dict[str, Any], rng: random.Random) -> Maker:
    unit = Decimal((0, (1,), -field.scale))
    most = Decimal(10) ** (field.precision - field.scale) - unit
    low, high = _bounds(rules, unit, -most, most)
    first, last = math.ceil(low / unit), math.floor(high / unit)
    step = int(rules["multipleOf"] / unit) if "multipleOf" in rules else 1
    return lambda: Decimal(rng.randint(-(-first // step), last // step) * step) * unit


_DAY = dt.timedelta(days=1)


def _dates(field: Field, rules: dict[str, Any], rng: random.Random) -> Maker:
    low, high = _between(rules, dt.date(2026, 1, 1), _DAY, 365)
    return lambda: as_json(low + _DAY * rng.randint(0, (high - low).days), field)


def _timestamps(field: Field, rules: dict[str, Any], rng: random.Random) -> Maker:
    low, high = _between(rules, dt.datetime(2026, 1, 1, tzinfo=dt.UTC), _DAY, 365)
    return lambda: as_json(low + (high - low) * rng.random(), field)


def _between(rules: dict[str, Any], usual: Any, unit: Any, count: int) -> tuple[Any, Any]:
    low, high = rules.get("minimum"), rules.get("maximum")
    low = rules["exclusiveMinimum"] + unit if "exclusiveMinimum" in rules else low
    high = rules["exclusiveMaximum"] - unit if "exclusiveMaximum" in rules else high
    if low is None:
        low = usual if high is None or usual <= high else high - unit * count
    return low, low + unit * count if high is None else high


def _times(field: Field, rules: dict[str, Any], rng: random.Random) -> Maker:
    def seconds(value: dt.time) -> int:
        return value.hour * 3600 + value.minute * 60 + value.second

    bounds = {kind: seconds(v) for kind, v in rules.items() if isinstance(v, dt.time)}
    low = bounds.get("minimum", bounds.get("exclusiveMinimum", -1) + 1)
    high = bounds.get("maximum", bounds.get("exclusiveMaximum", 86_400) - 1)

    def time() -> Any:
        minutes, second = divmod(rng.randint(low, max(low, high)), 60)
        return as_json(dt.time(minutes // 60, minutes % 60, second), field)

    return time


def _objects(field: Field, rules: dict[str, Any], rng: random.Random) -> Maker:
    makers = {f.name: _maker(f, rng) for f in field.fields}
    return lambda: {name: make() for name, make in makers.items()}


def _arrays(field: Field, rules: dict[str, Any], rng: random.Random) -> Maker:
    assert field.items is not None
    item = _maker(replace(field.items, required=True), rng)
    low = rules.get("minItems", 0)
    high = rules.get("maxItems", low + 3)

    def array() -> list[Any]:
        made = [item() for _ in range(rng.randint(low, min(high, low + 3)))]
        if rules.get("uniqueItems"):
            made = list({_encode(v): v for v in made}.values())
        return made

    return array


def _json(field: Field, rules: dict[str, Any], rng: random.Random) -> Maker:
    if "minItems" in rules or "maxItems" in rules or "uniqueItems" in rules:
        return lambda: list(range(rules.get("minItems", 0)))
    return lambda: {f"key{n}": n for n in range(rules.get("minProperties", 1))}


_MAKERS: dict[str, Callable[[Field, dict[str, Any], random.Random], Maker]] = {
    "string": _strings,
    "integer": _integers,
    "number": _numbers,
    "decimal": _decimals,
    "boolean": lambda field, rules, rng: lambda: rng.random() < 0.5,
    "date": _dates,
    "timestamp": _timestamps,
    "time": _times,
    "object": _objects,
    "array": _arrays,
    "json": _json,
}

_JAVA = {
    "yyyy": "%Y", "uuuu": "%Y", "MM": "%m", "dd": "%d", "HH": "%H", "mm": "%M", "ss": "%S",
    "Z": "+0000", "X": "Z", "XX": "Z", "XXX": "Z", "xxx": "+00:00",
}  # fmt: skip
"""Letters of a Java ``DateTimeFormatter`` → of ``strftime``, for times in UTC."""


def as_json(value: Any, field: Field) -> Any:
    """A Python value as JSON writes it for this field."""
    if not isinstance(value, dt.date | dt.time):
        return value
    if field.format:
        return _formatted(value, field.format)
    if isinstance(value, dt.datetime):
        return value.isoformat(timespec="milliseconds").replace("+00:00", "Z")
    return value.isoformat()


def _formatted(value: Any, pattern: str) -> str:
    from .temporal import pieces

    made = ""
    for text, literal in pieces(pattern):
        if literal is not None:
            made += literal
        elif set(text) == {"S"}:
            made += f"{getattr(value, 'microsecond', 0):06d}000"[: len(text)]
        else:
            said = value.strftime(_JAVA[text]) if text in _JAVA else text
            made += said.rjust(4, "0") if "yyyy" in (text, text.replace("u", "y")) else said
    return made


# ----------------------------------------------------------------------------- broken lines

Break = Callable[[bytes, Contract, random.Random], bytes | None]


def _cut_off(line: bytes, contract: Contract, rng: random.Random) -> bytes:
    return line[: rng.randrange(1, len(line))]


def _no_json(line: bytes, contract: Contract, rng: random.Random) -> bytes:
    return rng.choice([b"<html><body>503</body></html>", b"null", b"[]", b"GET /index.html"])


def _two_writers(line: bytes, contract: Contract, rng: random.Random) -> bytes:
    return line + line[: rng.randrange(1, len(line))]


def _not_utf8(line: bytes, contract: Contract, rng: random.Random) -> bytes:
    at = line.find(b'":"') + 3
    return line[:at] + b"\xff\xfe" + line[at:] if at > 2 else line + b"\xff"


def _missing(line: bytes, contract: Contract, rng: random.Random) -> bytes | None:
    required = [f.name for f in contract.fields if f.required]
    if not required:
        return None
    record = json.loads(line, parse_float=Decimal)
    del record[rng.choice(required)]
    return _encode(record)


_OTHER_VALUES = ["", "x", "12.5", -1, 3.7, 10**12, True, [], {}, "2026-02-30T00:00:00Z"]


def _other_value(line: bytes, contract: Contract, rng: random.Random) -> bytes:
    """A value of another type, or one that breaks a rule: whichever the contract minds."""
    record = json.loads(line, parse_float=Decimal)
    record[rng.choice(contract.fields).name] = rng.choice(_OTHER_VALUES)
    return _encode(record)


def _not_a_number(line: bytes, contract: Contract, rng: random.Random) -> bytes | None:
    numbers = [f.name for f in contract.fields if f.type in ("number", "decimal")]
    if not numbers:
        return None
    record = json.loads(line, parse_float=Decimal)
    record[rng.choice(numbers)] = "NaN"
    return _encode(record).replace(b'"NaN"', b"NaN")


BREAKS: list[Break] = [
    _cut_off, _no_json, _two_writers, _not_utf8, _missing, _other_value, _other_value,
    _other_value, _not_a_number,
]  # fmt: skip
