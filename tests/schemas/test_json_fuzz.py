"""Bytes from anywhere: nothing raises, nothing is lost, and a strict plain reader agrees.

A few seconds by default; ``MILLSTREAM_FUZZ_SECONDS=600 pytest -m slow`` goes on for ten minutes.
"""

from __future__ import annotations

import json
import math
import os
import random
import time
from typing import Any, get_args

import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from millstream.schemas.contract import Contract, Field
from millstream.schemas.decoded import UnknownFields
from millstream.schemas.json.decoder import JsonDecoder
from millstream.schemas.rules import find_violations

from tests import strategies

FLAT = Contract(
    "c",
    "1.0.0",
    "flat",
    (
        Field("s", "string"),
        Field("i", "integer"),
        Field("u", "integer", storage="uint8"),
        Field("n", "number"),
        Field("b", "boolean"),
    ),
)
DECODERS = {unknown: JsonDecoder(FLAT, unknown) for unknown in get_args(UnknownFields)}
LONGEST_INTEGER, DEEPEST = 4300, 500

SEEDS = [
    b'{"s":"a","i":1,"u":255,"n":1.5,"b":true}',
    b' { "s" : "\\u00e9\\n\\ud83d\\ude00" , "i" : -9223372036854775808 , "x" : [ {} , null ] } ',
    b'{"n":-1.25E-3,"n":1e308,"b":null,"i":9223372036854775807,"u":0,"y":{"s":1,"z":[[[]]]}}',
    '{"s":"漢字 👍🏽","\\u0073":"b","":"","n":0.0}'.encode(),
]


# ------------------------------------------------------------------------ the strict reference


class Refused(ValueError):
    pass


def reference(payload: bytes, unknown: UnknownFields) -> dict[str, Any]:
    """What a record says, by Python's own parser, made strict.

    Raises:
        ValueError: it is no JSON, or not of the contract.
    """
    text = payload.decode()
    if _depth(text) > DEEPEST:
        raise Refused("too deep")

    def as_object(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
        for _, value in pairs:
            _refuse_surrogates(value)
        return _Pairs(pairs)

    record = json.loads(
        text,
        parse_constant=_refuse,
        parse_int=_Integer,
        parse_float=_Float,
        object_pairs_hook=as_object,
    )
    if not isinstance(record, _Pairs):
        raise Refused("no object")
    found: dict[str, Any] = dict.fromkeys(_TYPES)
    for name, value in record.pairs:  # each of repeated keys must be of its type
        name.encode()
        if name in _TYPES:
            found[name] = None if value is None else _TYPES[name](value)
        elif unknown == "reject":
            raise Refused("unknown")
    return found


class _Pairs(dict[str, Any]):
    def __init__(self, pairs: list[tuple[str, Any]]) -> None:
        self.pairs = pairs


class _Integer(str):
    __slots__ = ()


class _Float(str):
    __slots__ = ()


def _refuse(text: Any) -> Any:
    raise Refused(text)


def _refuse_surrogates(value: Any) -> None:
    if isinstance(value, list):
        for item in value:
            _refuse_surrogates(item)
    elif isinstance(value, str):
        value.encode()
    elif isinstance(value, _Pairs):
        for name, _ in value.pairs:
            name.encode()


def _string(value: Any) -> str:
    return value if type(value) is str else _refuse(value)


def _integer(low: int, high: int) -> Any:
    def convert(value: Any) -> int:
        if type(value) is not _Integer or len(value.lstrip("-")) > LONGEST_INTEGER:
            raise Refused(value)
        return int(value) if low <= int(value) <= high else _refuse(value)

    return convert


def _number(value: Any) -> float:
    if type(value) not in (_Integer, _Float):
        raise Refused(value)
    number = float(value)
    return number if math.isfinite(number) else _refuse(value)


def _boolean(value: Any) -> bool:
    return value if isinstance(value, bool) else _refuse(value)


_TYPES = {
    "s": _string,
    "i": _integer(-(2**63), 2**63 - 1),
    "u": _integer(0, 255),
    "n": _number,
    "b": _boolean,
}


def _depth(text: str) -> int:
    depth = deepest = 0
    in_string = escaped = False
    for c in text:
        if in_string:
            in_string = escaped or c != '"'
            escaped = not escaped and c == "\\"
        elif c == '"':
            in_string = True
        elif c in "[{":
            depth += 1
            deepest = max(deepest, depth)
        elif c in "]}":
            depth -= 1
    return deepest


# ------------------------------------------------------------------------------------ the laws


def check(payloads: list[bytes]) -> None:
    """Nothing raises; each record is in one place, and in the one where the reference puts it."""
    for unknown, decoder in DECODERS.items():
        decoded = decoder.decode(pa.array(payloads, pa.binary()))
        kept = range(len(payloads)) if decoded.kept is None else decoded.kept.tolist()
        assert sorted([*kept, *decoded.refused]) == list(range(len(payloads)))
        assert sorted({v.row for v in decoded.violations}) == decoded.refused
        found = dict(zip(kept, decoded.records.to_pylist(), strict=True))
        for i, payload in enumerate(payloads):
            try:
                expected = reference(payload, unknown)
            except (ValueError, RecursionError):
                expected = None
            record = found.get(i)
            if record is not None and unknown == "keep":
                kept_unknown = record.pop("_unknown")
                assert kept_unknown is None or isinstance(json.loads(kept_unknown), dict)
            assert record == expected, (unknown, payload)


_mutations = st.lists(
    st.tuples(
        st.floats(0, 1),
        st.integers(0, 3),
        st.sampled_from([bytes([b]) for b in b'{}[],:"\\0159.eE+-tfnu \n\t\x00\x80\xc3\xff'])
        | st.sampled_from([b"NaN", b"1e999", b"\\ud800", b"null", b'"s":', b"9" * 20, b"[" * 501])
        | st.binary(max_size=2),
    ),
    max_size=4,
)


def mutate(payload: bytes, changes: list[tuple[float, int, bytes]]) -> bytes:
    """Replace so many bytes at a relative place by others."""
    for where, gone, new in changes:
        at = int(where * len(payload))
        payload = payload[:at] + new + payload[at + gone :]
    return payload


@settings(max_examples=150)
@given(st.lists(st.binary(max_size=40), max_size=5))
def test_arbitrary_bytes(payloads):
    check(payloads)


@settings(max_examples=300)
@given(st.lists(st.tuples(st.sampled_from(SEEDS), _mutations), min_size=1, max_size=4))
def test_mutated_records(mutants):
    check([mutate(*mutant) for mutant in mutants])


_tokens = st.lists(
    st.sampled_from(b'{ } [ ] , : "s" "i" "n" "x" "" 1 -1 1.5 1e5 1e400 01 - true null'.split()),
    max_size=12,
).map(lambda tokens: b'{"i":1,' + b"".join(tokens) + b"}")


@settings(max_examples=200)
@given(st.lists(_tokens, max_size=4))
def test_any_order_of_tokens(payloads):
    check(payloads)


def test_the_seeds_are_sound():
    """Mutants of records that were never read would prove nothing."""
    check(SEEDS)
    assert DECODERS["ignore"].decode(pa.array(SEEDS, pa.binary())).kept is None


@settings(max_examples=60)
@given(st.data())
def test_mutants_under_any_contract(data):
    """No reference here: only that nothing raises, in the decoder and in the rules after it."""
    to = data.draw(strategies.contracts())
    records = st.tuples(strategies.records(to).map(lambda r: r.payload), _mutations)
    payloads = [mutate(*m) for m in data.draw(st.lists(records, min_size=1, max_size=4))]
    for unknown in get_args(UnknownFields):
        decoded = JsonDecoder(to, unknown).decode(pa.array(payloads, pa.binary()))
        assert decoded.records.num_rows + len(decoded.refused) == len(payloads)
        decoded.records.validate(full=True)
        decoded.records.to_pylist()
        find_violations(decoded.records.columns[: len(to.fields)], to.fields)


@pytest.mark.slow
def test_for_as_long_as_is_asked():
    """Mutants of mutants, thousands at a time, from a seed that a failure names."""
    seconds = float(os.environ.get("MILLSTREAM_FUZZ_SECONDS", "5"))
    seed = int(os.environ.get("MILLSTREAM_FUZZ_SEED", str(random.randrange(2**32))))
    draw = random.Random(seed)
    pieces = [bytes([b]) for b in range(256)] + SEEDS + [b'"x":', b"1e999", b"\\u", b"\\ud83d"]
    pool = list(SEEDS)
    until = time.monotonic() + seconds
    while time.monotonic() < until:
        payloads = []
        for _ in range(1500):  # more than one chunk of the decoder
            changes = [
                (draw.random(), draw.choice((0, 0, 1, 1, 2, 9)), draw.choice(pieces))
                for _ in range(draw.randrange(4))
            ]
            payloads.append(mutate(draw.choice(pool), changes)[:500])
        try:
            check(payloads)
        except Exception as error:
            error.add_note(f"MILLSTREAM_FUZZ_SEED={seed}")
            raise
        good = DECODERS["ignore"].decode(pa.array(payloads, pa.binary())).kept
        survivors = payloads if good is None else [payloads[i] for i in good.tolist()]
        pool = (pool + draw.sample(survivors, min(20, len(survivors))))[-200:] + SEEDS
