"""Made-up records as columns: a few thousand are made with care, and then varied.

What :class:`~millstream.schemas.samples.Samples` makes keeps every rule of a contract, and takes
far longer to make than to read. So a record is one of a pool, with an event time and keys of its
own: which one, and what these are, follows from seed, partition and position alone, however records
are asked for. Keys are made anew where they are whole numbers, or strings that may be UUIDs; those
that a pattern or a set of values rules come again.
"""

from __future__ import annotations

import datetime as dt
import hashlib
from collections.abc import Callable, Iterable
from functools import lru_cache
from typing import NamedTuple

import msgspec
import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from ....schemas.contract import Contract, Field
from ....schemas.integers import integer_range
from ....schemas.samples import Samples, as_json
from .inputs import ENDLESS, GeneratedInput

GOOD = 2000
"""Records of the pool that keep the contract."""
BROKEN = 200
"""Records of the pool that break it."""

_EPOCH = dt.datetime(1970, 1, 1, tzinfo=dt.UTC)
_HOLE = b"\0"  # which no JSON holds
_HEX = np.frombuffer(bytes(range(256)).hex().encode(), np.uint8).reshape(256, 2)


class Draws:
    """Random numbers of 64 bits of the records of a partition, by what they are for.

    They come from a counter (SplitMix64: Steele, Lea, Flood, 2014), and so have no order.
    """

    def __init__(self, seed: int, partition: int, start: int, stop: int) -> None:
        self.numbers = np.arange(start, stop, dtype=np.uint64)
        self._seed = f"{seed}/{partition}"

    def __call__(self, what: str) -> np.ndarray:
        digest = hashlib.blake2b(f"{self._seed}/{what}".encode(), digest_size=8).digest()
        x = self.numbers * np.uint64(0x9E3779B97F4A7C15) + np.frombuffer(digest, np.uint64)
        x = (x ^ (x >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
        x = (x ^ (x >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
        return x ^ (x >> np.uint64(31))

    def parts(self, what: str) -> np.ndarray:
        """Numbers from 0 up to, not including, 1."""
        return (self(what) >> np.uint64(11)) * 2.0**-53


class Record(NamedTuple):
    """What decides the values of some records, beside chance.

    ``numbers`` count records of all partitions, from 0; ``times`` are event times in microseconds.
    """

    draws: Draws
    numbers: np.ndarray
    times: np.ndarray


Makes = Callable[[Record], pa.Array]
"""The JSON of a field of some records."""


class Pool(NamedTuple):
    """Records to vary. ``pieces`` are those before, between and after the values of ``varied``."""

    pieces: tuple[pa.Array, ...]
    varied: tuple[Makes, ...]
    broken: pa.Array


class GeneratedLines:
    """Makes the records of a stream.

    Args:
        began_us: when the stream began.

    Raises:
        CannotGenerate: see :class:`~millstream.schemas.samples.Samples`.
    """

    def __init__(self, contract: Contract, input: GeneratedInput, began_us: int) -> None:
        self._contract = contract
        self._input = input
        self._start_us = began_us if input.start_us is None else input.start_us
        self._pool = pool_of(contract, input.seed, self._start_us)

    def lines(self, partition: int, start: int, stop: int) -> pa.BinaryArray:
        """The records of a partition from one position to before another."""
        draws = Draws(self._input.seed, partition, start, stop)
        numbers = draws.numbers.astype(np.int64) * self._input.partitions + partition
        back = (draws.parts("disorder") * self._input.disorder_us).astype(np.int64)
        due = np.floor(numbers * self._input.spacing_us).astype(np.int64) + self._start_us
        made = self._good(Record(draws, numbers, due - back))
        if self._input.broken:
            broken = draws.parts("broken") < self._input.broken
            which = pa.array(draws("which")[broken] % np.uint64(len(self._pool.broken)))
            made = pc.replace_with_mask(made, pa.array(broken), self._pool.broken.take(which))
        return made

    def _good(self, record: Record) -> pa.Array:
        pool = self._pool
        which = pa.array(record.draws("which") % np.uint64(len(pool.pieces[0])))
        columns = [pool.pieces[0].take(which)]
        for makes, after in zip(pool.varied, pool.pieces[1:], strict=True):
            columns += [makes(record), after.take(which)]
        return pc.binary_join_element_wise(*columns, pa.scalar(b"", pa.binary()))


@lru_cache(maxsize=4)
def pool_of(contract: Contract, seed: int, start_us: int) -> Pool:
    """Records of a contract to vary, all of one time: the same seed, the same ones.

    Raises:
        CannotGenerate: see :class:`~millstream.schemas.samples.Samples`.
    """
    makes = {field.name: made for field in contract.fields if (made := _varies(field, contract))}
    rows = [_pieces(line, makes.keys()) for line in _made(contract, GOOD, seed, 0.0, start_us)]
    pieces = tuple(pa.array(column, pa.binary()) for column in zip(*rows, strict=True))
    broken = pa.array(_made(contract, BROKEN, seed, 1.0, start_us), pa.binary())
    return Pool(pieces, tuple(makes.values()), broken)


def _made(contract: Contract, count: int, seed: int, broken: float, start_us: int) -> list[bytes]:
    start = _EPOCH + dt.timedelta(microseconds=start_us)
    samples = Samples(contract, count, seed=seed, broken=broken, start=start, span=dt.timedelta(0))
    return [line for lines in samples.batches() for line in lines]


def _pieces(line: bytes, holes: Iterable[str]) -> list[bytes]:
    record = msgspec.json.decode(line, type=dict[str, msgspec.Raw])
    for name in holes:
        record[name] = msgspec.Raw(_HOLE)
    return msgspec.json.encode(record).split(_HOLE)


def _varies(field: Field, contract: Contract) -> Makes | None:
    """What makes a field's values anew; ``None`` where they stay as they are in the pool."""
    if field.name == contract.event_time:
        return lambda record: moments(record.times, field)
    if not field.required:
        return None
    if field.type == "string" and _may_be_uuid(field):
        return lambda record: uuids(record.draws, field.name)
    if field.type == "integer" and field.primary_key and not field.rules:
        most = min(integer_range(field.storage)[1], ENDLESS)
        return lambda record: (
            pa.array(record.numbers % most + 1).cast(pa.string()).cast(pa.binary())
        )
    return None


def _may_be_uuid(field: Field) -> bool:
    rules = {rule.kind: rule.value for rule in field.rules}
    if rules.get("format") == "uuid":
        return len(rules) == 1
    lengths = rules.get("minLength", 0) <= 36 <= rules.get("maxLength", 36)
    return field.primary_key and lengths and rules.keys() <= {"minLength", "maxLength"}


def moments(times: np.ndarray, field: Field) -> pa.Array:
    """Times in microseconds as the field's JSON, in milliseconds where it has no format."""
    milliseconds = pa.array(times // 1000)
    if field.format:
        aware = milliseconds.cast(pa.timestamp("ms", "UTC")).to_pylist()
        texts = [msgspec.json.encode(as_json(moment, field)) for moment in aware]
        return pa.array(texts, pa.binary())
    plain = milliseconds.cast(pa.timestamp("ms")).cast(pa.string())
    said = np.frombuffer(plain.buffers()[2], np.uint8, 23 * len(plain)).reshape(-1, 23)
    text = np.empty((len(plain), 26), np.uint8)
    text[:, 1:24] = said
    text[:, 11] = ord("T")
    text[:, 24] = ord("Z")
    text[:, (0, 25)] = ord('"')
    return _fixed(text)


def uuids(draws: Draws, what: str) -> pa.Array:
    """Random UUIDs (RFC 9562, version 4) as JSON."""
    halves = np.stack([draws(f"{what}/high"), draws(f"{what}/low")], axis=1)
    data = halves.view(np.uint8).copy()
    data[:, 6] = data[:, 6] & 0x0F | 0x40
    data[:, 8] = data[:, 8] & 0x3F | 0x80
    digits = _HEX[data].reshape(len(data), 32)
    text = np.full((len(data), 38), ord("-"), np.uint8)
    for at, begin, end in ((1, 0, 8), (10, 8, 12), (15, 12, 16), (20, 16, 20), (25, 20, 32)):
        text[:, at : at + end - begin] = digits[:, begin:end]
    text[:, (0, 37)] = ord('"')
    return _fixed(text)


def _fixed(text: np.ndarray) -> pa.Array:
    """Rows of bytes of one length as an array."""
    rows, width = text.shape
    offsets = np.arange(0, (rows + 1) * width, width, dtype=np.int32)
    buffers = [None, pa.py_buffer(offsets), pa.py_buffer(text)]
    return pa.Array.from_buffers(pa.binary(), rows, buffers)
