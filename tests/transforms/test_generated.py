"""Records made up as a stream: the same position has the same record, whatever is asked for."""

from __future__ import annotations

import json
import pickle
import uuid
from collections import Counter
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from millstream.schemas.arrow import PAYLOAD, PAYLOADS, POSITION, SOURCE
from millstream.schemas.contract import Contract, Field, Rule
from millstream.schemas.integers import integer_range
from millstream.schemas.json.decoder import JsonDecoder
from millstream.schemas.odcs import load_contract
from millstream.transforms.carry import SourceState
from millstream.transforms.read.errors import SourceError
from millstream.transforms.read.generated import stream as stream_module
from millstream.transforms.read.generated.inputs import ENDLESS, GeneratedInput, parse_input
from millstream.transforms.read.generated.samples import GeneratedLines, pool_of
from millstream.transforms.read.generated.stream import GeneratedStream, began_us, partition_of
from millstream.transforms.read.streams.source import Polled

EXAMPLE = Path(__file__).resolve().parents[2] / "examples" / "clickstream"
CONTRACT = load_contract(str(EXAMPLE / "clickstream.odcs.yaml"))
BEGAN = 1_790_000_000_000_000


class Clock:
    """The time, which passes while somebody sleeps, and not otherwise."""

    def __init__(self) -> None:
        self.us = BEGAN

    def sleep(self, seconds: float) -> None:
        self.us += round(seconds * 1e6)


@pytest.fixture
def clock(monkeypatch) -> Clock:
    made = Clock()
    monkeypatch.setattr(stream_module, "now_us", lambda: made.us)
    monkeypatch.setattr(stream_module.time, "sleep", made.sleep)
    return made


def states(input: GeneratedInput, at: int = 0) -> dict[str, SourceState]:
    state = SourceState(next=at, cursor=str(BEGAN))
    return {input.source_name(partition): state for partition in range(input.partitions)}


def rows_of(polled: list[Polled]) -> dict[tuple[str, int], bytes]:
    """Payloads by source and position."""
    found: dict[tuple[str, int], bytes] = {}
    for some in polled:
        assert some.batch.schema == PAYLOADS
        columns = (some.batch.column(name).to_pylist() for name in (SOURCE, POSITION, PAYLOAD))
        rows = list(zip(*columns, strict=True))
        assert not {(source, position) for source, position, _ in rows} & found.keys()
        found |= {(source, position): payload for source, position, payload in rows}
    return found


def everything(input: GeneratedInput) -> dict[tuple[str, int], bytes]:
    """All records of a stream that has a count, read at once."""
    assert input.count is not None
    ends = {input.source_name(p): input.due_of(p, input.count) for p in range(input.partitions)}
    return rows_of(list(GeneratedStream(input, CONTRACT).open(states(input)).until(ends)))


def good(lines: pa.Array, contract: Contract = CONTRACT) -> int:
    return len(lines) - len(JsonDecoder(contract, judge=True).decode(lines).refused)


def event_us(payload: bytes) -> int:
    moment = datetime.fromisoformat(json.loads(payload)["ts"])
    return round((moment - datetime(1970, 1, 1, tzinfo=UTC)).total_seconds() * 1e6)


# ---------------------------------------------------------------------------- records


@given(
    partition=st.integers(0, 5),
    start=st.integers(0, 10**12),
    sizes=st.lists(st.integers(1, 30), min_size=1, max_size=4),
)
def test_a_record_depends_on_its_position_alone(partition, start, sizes):
    lines = GeneratedLines(CONTRACT, GeneratedInput(broken=0.2, partitions=6), BEGAN)
    whole = lines.lines(partition, start, start + sum(sizes)).to_pylist()
    pieces, at = [], start
    for size in sizes:
        pieces += lines.lines(partition, at, at + size).to_pylist()
        at += size
    assert pieces == whole
    again = GeneratedLines(CONTRACT, GeneratedInput(broken=0.2, partitions=6), BEGAN)
    assert again.lines(partition, start, start + 1).to_pylist() == whole[:1]


@pytest.mark.slow
def test_another_process_makes_the_same_ones():
    lines = GeneratedLines(CONTRACT, GeneratedInput(), BEGAN).lines(1, 7, 40)
    pool_of.cache_clear()
    assert GeneratedLines(CONTRACT, GeneratedInput(), BEGAN).lines(1, 7, 40) == lines


@pytest.mark.slow
def test_partitions_and_seeds_differ():
    made = [
        GeneratedLines(CONTRACT, GeneratedInput(seed=seed), BEGAN).lines(partition, 0, 50)
        for seed in (0, 1)
        for partition in (0, 1)
    ]
    lines = [line for some in made for line in some.to_pylist()]
    assert len(set(lines)) > 190


@pytest.mark.slow
@pytest.mark.parametrize("broken", [0.0, 0.01, 0.3, 1.0])
def test_as_many_are_broken_as_was_asked_for(broken):
    lines = GeneratedLines(CONTRACT, GeneratedInput(broken=broken), BEGAN).lines(0, 0, 20_000)
    assert 20_000 - good(lines) == pytest.approx(20_000 * broken, rel=0.2)
    assert not any(b"\n" in line for line in lines.to_pylist())


@pytest.mark.slow
def test_keys_are_made_anew():
    lines = GeneratedLines(CONTRACT, GeneratedInput(broken=0), BEGAN).lines(0, 0, 50_000)
    keys = [json.loads(line)["event_id"] for line in lines.to_pylist()]
    assert len(set(keys)) == 50_000
    assert {uuid.UUID(key).version for key in keys} == {4}
    assert {uuid.UUID(key).variant for key in keys} == {uuid.RFC_4122}


@pytest.mark.parametrize("storage", ["int32", "int64", "uint32"])
@pytest.mark.parametrize("start", [0, 1 << 31])
def test_keys_that_are_numbers_count_the_records(storage, start):
    key = Field("id", "integer", required=True, primary_key=True, storage=storage)
    contract = Contract("i", "1", "t", (key, Field("x", "string")), primary_key=("id",))
    made = GeneratedLines(contract, GeneratedInput(broken=0, partitions=3), BEGAN)
    lines = made.lines(1, start, start + 40)
    most = integer_range(storage)[1]
    numbers = [3 * (start + n) + 1 for n in range(40)]
    assert [json.loads(line)["id"] for line in lines.to_pylist()] == [n % most + 1 for n in numbers]
    assert good(lines, contract) == 40


@pytest.mark.parametrize(
    ("rules", "anew"),
    [
        ((), True),
        ((Rule("format", "uuid"),), True),
        ((Rule("maxLength", 36),), True),
        ((Rule("maxLength", 20),), False),
        ((Rule("enum", ("a", "b")),), False),
        ((Rule("format", "email"),), False),
    ],
)
def test_which_keys_that_are_strings_are_made_anew(rules, anew):
    key = Field("id", "string", required=True, primary_key=True, rules=rules)
    contract = Contract("i", "1", "t", (key,), primary_key=("id",))
    lines = GeneratedLines(contract, GeneratedInput(broken=0), BEGAN).lines(0, 0, 9000)
    assert good(lines, contract) == 9000
    assert (len(set(lines.to_pylist())) == 9000) is anew


@pytest.mark.slow
@pytest.mark.parametrize("pattern", [None, "yyyy-MM-dd'T'HH:mm:ss.SSSX", "yyyy-MM-dd HH:mm:ss"])
def test_event_time_as_the_contract_writes_it(pattern):
    zone = None if pattern is None or "X" in pattern else "UTC"
    time = Field("t", "timestamp", required=True, format=pattern, zone=zone)
    contract = Contract("i", "1", "t", (Field("x", "string"), time), event_time="t")
    lines = GeneratedLines(contract, GeneratedInput(broken=0, disorder_us=0), BEGAN).lines(0, 0, 9)
    decoded = JsonDecoder(contract, judge=True).decode(lines)
    assert not decoded.refused
    unit = 1000 if pattern is None or "S" in pattern else 10**6
    wanted = [(BEGAN + 4000 * n) // unit * unit for n in range(9)]
    assert decoded.records.column("t").view(pa.int64()).to_pylist() == wanted


def test_a_contract_without_event_time():
    contract = Contract("i", "1", "t", (Field("x", "integer", required=True),))
    assert good(GeneratedLines(contract, GeneratedInput(broken=0), BEGAN).lines(0, 0, 9), contract)


def test_event_times_that_a_rule_allows_only_then():
    rule = Rule("maximum", datetime(1980, 1, 1, tzinfo=UTC))
    time = Field("t", "timestamp", required=True, rules=(rule,))
    contract = Contract("i", "1", "t", (time,), event_time="t")
    lines = GeneratedLines(contract, GeneratedInput(start_us=10**13, broken=0), BEGAN)
    assert good(lines.lines(0, 0, 100), contract) == 100


@given(
    rate=st.sampled_from([0.5, 7.0, 1000.0, 250_000.0]),
    disorder=st.sampled_from([0, 1000, 5_000_000]),
    start=st.sampled_from([None, 0, 10**15]),
    partition=st.integers(0, 3),
    at=st.integers(0, 10**6),
)
def test_event_time_follows_the_rate(rate, disorder, start, partition, at):
    input = GeneratedInput(rate=rate, disorder_us=disorder, start_us=start, broken=0)
    (line,) = GeneratedLines(CONTRACT, input, BEGAN).lines(partition, at, at + 1).to_pylist()
    number = at * 4 + partition
    due = (BEGAN if start is None else start) + number * 1e6 / rate
    assert due - disorder - 1001 <= event_us(line) <= due + 1


# ---------------------------------------------------------------------------- reading


@pytest.mark.slow
def test_all_are_given_once_and_in_order_whichever_way():
    input = GeneratedInput(rate=0, count=12_345, broken=0.1, partitions=3)
    expected = everything(input)
    assert len(expected) == 12_345
    counts = Counter(source for source, _ in expected)
    assert counts == {f"generate:{n}": 4115 for n in range(3)}
    reader = GeneratedStream(input, CONTRACT).open(states(input))
    polled = []
    while (some := reader.poll(1000, 0)) is not None:
        assert some.batch.num_rows <= 1002
        polled.append(some)
    assert rows_of(polled) == expected
    assert polled[-1].next.keys() <= counts.keys()
    assert reader.at_end() == set(counts)


@settings(max_examples=25)
@given(cuts=st.lists(st.integers(0, 700), max_size=5))
def test_a_restart_from_any_position_gives_the_rest(cuts):
    input = GeneratedInput(rate=0, count=2000, broken=0.1, partitions=3)
    found: list[Polled] = []
    at = states(input)
    ends = [{source: min(cut, 666) for source in at} for cut in sorted(cuts)]
    for end in (*ends, {s: input.due_of(partition_of(s), 2000) for s in at}):
        stream = pickle.loads(pickle.dumps(GeneratedStream(input, CONTRACT)))
        with stream.open(at) as reader:
            found += list(reader.until(end))
        at = {source: SourceState(next=end[source], cursor=str(BEGAN)) for source in at}
    assert rows_of(found) == everything(input)


def test_it_gives_what_is_due_and_no_more(clock):
    input = GeneratedInput(rate=1000)
    reader = GeneratedStream(input, CONTRACT).open(states(input))
    assert reader.at_end() == set(states(input))
    polled = reader.poll(50_000, 0.1)
    assert polled is not None
    assert polled.batch.num_rows == 100
    assert clock.us == BEGAN + 100_000
    polled = reader.poll(10, 5.0)
    assert polled is not None
    assert polled.batch.num_rows == pytest.approx(10, abs=2)
    assert clock.us == BEGAN + 110_000, "no longer than it takes until so many are due"
    clock.us -= 10**9
    assert reader.poll(10, 0.1) is None, "a clock that is set back"


def test_no_partition_is_at_its_end_while_it_has_something(clock):
    input = GeneratedInput(rate=4)
    reader = GeneratedStream(input, CONTRACT).open(states(input))
    clock.us += 500_000
    assert reader.at_end() == {"generate:2", "generate:3"}


def test_partitions_that_are_held_wait(clock):
    input = GeneratedInput(rate=1000)
    reader = GeneratedStream(input, CONTRACT).open(states(input))
    clock.us += 1_000_000
    reader.hold({"generate:0", "generate:3"})
    polled = reader.poll(100, 0)
    assert polled is not None
    assert polled.next == {"generate:1": 50, "generate:2": 50}
    assert not reader.at_end()
    reader.hold(set())
    polled = reader.poll(100, 0)
    assert polled is not None
    assert polled.next.keys() == states(input).keys()


def test_parts_divide_the_partitions(clock):
    input = GeneratedInput(rate=0, count=1000, partitions=5)
    whole = GeneratedStream(input, CONTRACT)
    found: list[Polled] = []
    for number in range(3):
        part = whole.part(number, 3)
        own = {source: state for source, state in states(input).items() if part.owns(source)}
        found += list(part.open(own).until(dict.fromkeys(own, 200)))
    assert rows_of(found) == everything(input)


def test_without_partitions_there_is_nothing(clock):
    reader = GeneratedStream(GeneratedInput(rate=0), CONTRACT).open({})
    assert reader.poll(10, 0.1) is None
    assert reader.at_end() == set()
    assert began_us({}) is None


def test_a_stream_whose_beginning_is_not_known_is_refused():
    with pytest.raises(SourceError, match="not known when"):
        GeneratedStream(GeneratedInput(), CONTRACT).open({"generate:0": SourceState()})


# ---------------------------------------------------------------------------- options


@pytest.mark.parametrize(
    ("uri", "wanted"),
    [
        ("generate://", {}),
        ("generate://?rate=20000.5&partitions=8", {"rate": 20000.5, "partitions": 8}),
        ("generate://?rate=0&count=10&seed=7", {"rate": 0, "count": 10, "seed": 7}),
        ("generate:///?broken=1", {"broken": 1}),
        ("generate://?disorder=90s", {"disorder_us": 90_000_000}),
        ("generate://?disorder=0", {"disorder_us": 0}),
        ("generate://?start=1970-01-01T00:00:01Z", {"start_us": 1_000_000}),
        ("generate://?start=1970-01-01T01:00:01+01:00", {"start_us": 1_000_000}),
    ],
)
def test_options(uri, wanted):
    assert parse_input(uri) == GeneratedInput(**wanted)


@pytest.mark.parametrize(
    ("uri", "said"),
    [
        ("generate://?rat=5", "no option 'rat'; did you mean 'rate'?"),
        ("generate://?rate=fast", "rate=fast: expected a number from 0 to 1e+09"),
        ("generate://?rate=nan", "rate=nan: expected a number"),
        ("generate://?rate=-1", "rate=-1: expected a number"),
        ("generate://?broken=1.5", "broken=1.5: expected a number from 0 to 1"),
        ("generate://?partitions=0", "partitions=0: expected a whole number from 1 to 1000"),
        ("generate://?count=some", "count=some: expected a whole number from 0 on"),
        ("generate://?seed=1.5", "seed=1.5: expected a whole number"),
        ("generate://?disorder=soon", "disorder=soon: expected a duration such as 30s"),
        ("generate://?start=monday", "start=monday: expected a time as 2026-"),
        ("generate://?start=2026-01-01T00:00:00", "in which zone?"),
        ("generate://?rate=1&rate=2", "option 'rate' is there twice"),
        ("generate://clicks?rate=1", "generate://clicks: records are made up by the job's"),
    ],
)
def test_what_cannot_be_meant_is_told(uri, said):
    with pytest.raises(SourceError) as caught:
        parse_input(uri)
    assert said in str(caught.value)
    assert str(caught.value).startswith("generate:")


def test_how_many_there_are_does_not_change_which_they_are():
    def identity(**options: Any) -> str:
        return GeneratedInput(**options).identity

    assert identity(count=5) == identity()
    different = [{"rate": 5.0}, {"partitions": 2}, {"broken": 0.5}, {"seed": 3}]
    different += [{"disorder_us": 1}, {"start_us": 0}]
    assert len({identity(**options) for options in [{}, *different]}) == 7


@given(due=st.integers(0, 10**6), partitions=st.integers(1, 9))
def test_partitions_take_turns(due, partitions):
    input = GeneratedInput(partitions=partitions)
    shares = [input.due_of(partition, due) for partition in range(partitions)]
    assert sum(shares) == due
    assert shares == sorted(shares, reverse=True)
    assert max(shares) - min(shares) <= 1


def test_how_many_are_due():
    assert GeneratedInput(rate=10).due(BEGAN, BEGAN + 1_950_000) == 19
    assert GeneratedInput(rate=10, count=7).due(BEGAN, BEGAN + 1_950_000) == 7
    assert GeneratedInput(rate=10).due(BEGAN, BEGAN - 1) == 0
    assert GeneratedInput(rate=0, count=7).due(BEGAN, BEGAN) == 7
    assert GeneratedInput(rate=0).due(BEGAN, BEGAN) == ENDLESS
