"""Made-up records: that they are what they say they are."""

from __future__ import annotations

import contextlib
import datetime as dt
import json
import subprocess
import sys
from decimal import Decimal

import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from millstream.schemas.contract import Contract, Field, Rule
from millstream.schemas.json.decoder import JsonDecoder
from millstream.schemas.samples import CannotGenerate, Samples
from millstream.schemas.strategies import broken_payloads, payloads

from tests import strategies

CLICKS = Contract(
    "c",
    "1",
    "clicks",
    (
        Field("id", "integer", required=True, primary_key=True),
        Field("ts", "timestamp", required=True),
        Field("user", "string", required=True, rules=(Rule("pattern", "^u[0-9]+$"),)),
        Field("kind", "string", required=True, rules=(Rule("enum", ("view", "buy")),)),
        Field("price", "decimal", precision=6, scale=2, rules=(Rule("minimum", Decimal("0.5")),)),
    ),
    event_time="ts",
    primary_key=("id",),
)


def lines(contract: Contract, count: int = 300, **options) -> list[bytes]:
    return [line for batch in Samples(contract, count, **options).batches() for line in batch]


def refused(contract: Contract, found: list[bytes]) -> list[int]:
    return JsonDecoder(contract, judge=True).decode(pa.array(found, pa.binary())).refused


@given(strategies.contracts(), st.integers(0, 1000))
@settings(max_examples=100)
def test_what_is_not_broken_keeps_the_contract(contract: Contract, seed: int):
    found: list[bytes] = []
    with contextlib.suppress(CannotGenerate):  # unlucky rules: said so, rather than given anyway
        found = lines(contract, 20, seed=seed, broken=0)
    assert len(found) in (0, 20)
    assert refused(contract, found) == []


@given(strategies.contracts(rules=False), st.integers(0, 1000))
@settings(max_examples=50)
def test_what_is_broken_is_refused(contract: Contract, seed: int):
    found = lines(contract, 20, seed=seed, broken=1)
    assert refused(contract, found) == list(range(20))
    assert all(b"\n" not in line and line.strip() for line in found)


@pytest.mark.slow
def test_some_are_broken():
    found = lines(CLICKS, 5000, broken=0.1)
    assert 400 < len(refused(CLICKS, found)) < 600


def test_a_seed_gives_the_same_lines():
    assert lines(CLICKS, seed=3) == lines(CLICKS, seed=3) != lines(CLICKS, seed=4)


def test_event_times_fill_the_span_and_come_about_in_order():
    start = dt.datetime(2026, 5, 1, tzinfo=dt.UTC)
    found = lines(CLICKS, 1000, broken=0, start=start, span=dt.timedelta(hours=2))
    times = [dt.datetime.fromisoformat(json.loads(line)["ts"]) for line in found]
    assert min(times) == start
    assert dt.timedelta(minutes=119) < max(times) - start < dt.timedelta(hours=2)
    late = [max(times[: i + 1]) - t for i, t in enumerate(times)]
    assert dt.timedelta(seconds=20) < max(late) <= dt.timedelta(seconds=30)


def test_integer_keys_are_unique():
    ids = [json.loads(line)["id"] for line in lines(CLICKS, 2500, broken=0)]
    assert ids == list(range(1, 2501))


def test_rules_that_nothing_keeps():
    field = Field("f", "string", required=True, rules=(Rule("enum", ("a",)), Rule("pattern", "b")))
    with pytest.raises(CannotGenerate, match=r"^found no values that keep all rules: f: expected"):
        lines(Contract("c", "1", "c", (field,)), 3)


@given(payloads(CLICKS))
@settings(max_examples=50)
def test_a_strategy_for_good_records(payload: bytes):
    assert refused(CLICKS, [payload]) == []


@given(broken_payloads(CLICKS))
@settings(max_examples=50)
def test_a_strategy_for_broken_records(payload: bytes):
    assert refused(CLICKS, [payload]) == [0]


@given(strategies.contracts(), st.data())
@settings(max_examples=60)
def test_strategies_for_any_contract(contract: Contract, data: st.DataObject):
    assert refused(contract, [data.draw(payloads(contract))]) == []


@pytest.mark.slow
def test_without_rstr_the_error_names_the_extra():
    program = (
        "import sys; sys.modules['rstr'] = None\n"
        "from millstream.schemas.contract import Contract, Field, Rule\n"
        "from millstream.schemas.samples import Samples\n"
        "field = Field('f', 'string', rules=(Rule('pattern', 'a'),))\n"
        "Samples(Contract('c', '1', 'c', (field,)), 1)\n"
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True)
    assert "install it with: pip install 'millstream[generate]'" in done.stderr
