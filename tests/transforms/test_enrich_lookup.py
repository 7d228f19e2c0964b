"""Lookups: whatever is cached, cut or asked again, records get what the service knows."""

from __future__ import annotations

import datetime as dt
import logging
import pickle
import threading
from collections.abc import Callable
from decimal import Decimal
from typing import Any

import apache_beam as beam
import msgspec
import pyarrow as pa
import pytest
from hypothesis import given
from hypothesis import strategies as st
from millstream.schemas.arrow import batch_schema
from millstream.schemas.contract import Contract, Field
from millstream.schemas.enrich.spec import LookupJob
from millstream.schemas.steps import StepError
from millstream.transforms.enrich.lookup_step import LookupStep
from millstream.transforms.enrich.service import PermanentError, Service, pace_of
from millstream.transforms.errors import Unavailable
from millstream.transforms.step import Step

from tests.running import rows, run

CONTRACT = Contract(
    "visits", "1", "visits", (Field("host", "string"), Field("port", "integer"))
)  # fmt: skip
SCHEMA = batch_schema(CONTRACT)
KNOWN = {"a": 1, "b": 2, "c": None, "é": 4}


class Peer:
    """The service, as it behaves in one test."""

    def __init__(self) -> None:
        self.calls: list[list[str]] = []
        self.answer: Callable[[pa.RecordBatch], Any] = answered
        self.failures: list[Exception] = []
        """What the next calls raise."""

    def ask(self, keys: pa.RecordBatch) -> Any:
        self.calls.append(keys["host"].to_pylist())
        if self.failures:
            raise self.failures.pop(0)
        return self.answer(keys)


def answered(keys: pa.RecordBatch) -> pa.Table:
    hosts = [host for host in keys["host"].to_pylist() if host in KNOWN][::-1]
    return pa.table({"score": pa.array([KNOWN[h] for h in hosts], pa.int32()), "host": hosts})


PEER = Peer()


def ask(keys: pa.RecordBatch) -> Any:
    return PEER.ask(keys)


@pytest.fixture(autouse=True)
def peer() -> Peer:
    global PEER
    PEER = Peer()
    return PEER


def job_of(**said: Any) -> LookupJob:
    said = {"python": f"{__name__}:ask", "on": ["host"], "adds": {"score": "integer"}} | said
    return msgspec.convert(said, LookupJob)


def step_of(contract: Contract = CONTRACT, **said: Any) -> LookupStep:
    return LookupStep(job_of(**said), SCHEMA, contract)


@pytest.fixture(autouse=True)
def waits(monkeypatch) -> list[float]:
    """What services wait between attempts, which takes no time here."""
    waited: list[float] = []
    made = Service.__init__

    def patched(self: Service, *arguments: Any, **options: Any) -> None:
        made(self, *arguments, **{"sleep": waited.append, **options})

    monkeypatch.setattr(Service, "__init__", patched)
    return waited


def of_hosts(*hosts: str | None) -> pa.RecordBatch:
    return pa.RecordBatch.from_pylist(
        [
            {"host": host, "port": i, "_source": "a", "_position": i, "_payload": b"x"}
            for i, host in enumerate(hosts)
        ],
        SCHEMA,
    )


HOSTS = st.lists(st.sampled_from([*KNOWN, "x", "y", None]), max_size=12)


# ---------------------------------------------------------------------------------- the law


@given(
    batches=st.lists(HOSTS, max_size=4),
    size=st.integers(1, 5),
    cache=st.sampled_from([0, 1, 3, 1000]),
    missing=st.sampled_from(["keep", "dead", "filter"]),
)
def test_records_get_what_the_service_knows(batches, size, cache, missing):
    global PEER
    PEER = Peer()
    step = step_of(batch=size, cache=cache, missing=missing)
    assert step.schema.names == ["host", "port", "score", "_source", "_position", "_payload"]
    for hosts in batches:
        batch = of_hosts(*hosts)
        records, failures = step.attempt(batch)
        assert records.schema == step.schema
        kept = [i for i, host in enumerate(hosts) if missing == "keep" or host in KNOWN]
        expected = [batch.to_pylist()[i] | {"score": KNOWN.get(hosts[i])} for i in kept]
        assert records.to_pylist() == expected
        dead = [i for i in range(len(hosts)) if i not in kept] if missing == "dead" else []
        assert [row for row, _ in failures] == dead
    for call in PEER.calls:
        assert 0 < len(call) <= size
        assert len(set(call)) == len(call)
        assert None not in call
    if cache == 1000:
        asked = [host for call in PEER.calls for host in call]
        assert len(set(asked)) == len(asked)


def test_keys_of_several_fields(peer):
    def answer(keys: pa.RecordBatch) -> pa.RecordBatch:
        names = [f"{h}:{p}" for h, p in zip(*(column.to_pylist() for column in keys), strict=True)]
        return keys.append_column("name", pa.array(names))

    peer.answer = answer
    step = step_of(on=["port", "host"], adds={"name": "string"})
    peer.answer = lambda keys: answer(keys.select(["host", "port"]))
    records, _ = step.attempt(of_hosts("a", "a", None))
    assert records["name"].to_pylist() == ["a:0", "a:1", None]


def test_values_of_every_type_come_through_the_cache(peer):
    values: dict[str, tuple[str, Any]] = {
        "s": ("string", "é"),
        "i": ("integer", -(2**62)),
        "x": ("number", 0.1),
        "d": ("decimal(40,2)", Decimal("12345678901234567890.25")),
        "b": ("boolean", False),
        "day": ("date", dt.date(1969, 12, 31)),
        "ts": ("timestamp", dt.datetime(2024, 1, 1, 0, 0, 0, 1, dt.UTC)),
        "t": ("time", dt.time(23, 59, 59, 999999)),
    }
    step = step_of(adds={name: word for name, (word, _) in values.items()})
    given_ = {name: [value] for name, (_, value) in values.items()}
    peer.answer = lambda keys: pa.table({"host": keys["host"], **given_})
    for _ in range(2):
        records, _ = step.attempt(of_hosts("a"))
        assert {name: records[name][0].as_py() for name in values} == {
            name: value for name, (_, value) in values.items()
        }
    assert len(peer.calls) == 1


# ---------------------------------------------------------------------------------- caching


def service_of(clock: Callable[[], float], **said: Any) -> Service:
    keys, added = pa.schema([SCHEMA.field("host")]), pa.schema([("score", pa.int64())])
    return Service(job_of(**said), keys, added, clock=clock)


def known_of(service: Service, *hosts: str) -> list[Any]:
    keys = pa.RecordBatch.from_arrays([pa.array(hosts)], ["host"])
    return service.know(keys, [host.encode() for host in hosts]).values


def test_answers_are_good_for_some_time(peer):
    now = [0.0]
    service = service_of(lambda: now[0], ttl="10s")
    assert known_of(service, "a", "x") == [(1,), None]
    now[0] = 9.0
    assert known_of(service, "x", "a") == [None, (1,)]
    assert peer.calls == [["a", "x"]]  # that nothing is known is held too
    now[0] = 10.0
    assert known_of(service, "a") == [(1,)]
    assert peer.calls == [["a", "x"], ["a"]]


def test_answers_that_were_asked_for_last_are_held(peer):
    service = service_of(lambda: 0.0, cache=2)
    for host in ("a", "b", "a", "c", "a", "b"):
        known_of(service, host)
    assert peer.calls == [["a"], ["b"], ["c"], ["b"]]


# --------------------------------------------------------------------------------- failures


def test_a_call_that_fails_is_made_again_after_a_while(peer, waits, caplog):
    peer.failures = [TimeoutError("secret"), ConnectionError()]
    with caplog.at_level(logging.WARNING):
        records, failures = step_of().attempt(of_hosts("a"))
    assert records["score"].to_pylist() == [1]
    assert not failures
    assert peer.calls == [["a"]] * 3
    assert len(waits) == 2
    assert all(0 <= wait <= 30 for wait in waits)
    assert "fails with TimeoutError; asked again in" in caplog.text
    assert "secret" not in caplog.text


def test_records_whose_key_could_not_be_asked_for_are_dead(peer):
    step = step_of(batch=2, attempts=3)
    peer.failures = [ValueError("no such\nhost: a")] * 3
    records, failures = step.attempt(of_hosts("a", "b", "a", None, "é"))
    first, others = peer.calls[0], [call for call in peer.calls if call != peer.calls[0]]
    assert peer.calls == [first] * 3 + others
    dead = [i for i, host in enumerate(("a", "b", "a", None, "é")) if host in first]
    assert [row for row, _ in failures] == dead
    said = f"{__name__}:ask fails with ValueError: no such host: a"
    assert {str(error) for _, error in failures} == {said}
    assert records.num_rows == 5 - len(dead)
    # What failed is asked for again by the next batch.
    records, failures = step.attempt(of_hosts("a"))
    assert (records["score"].to_pylist(), failures) == ([1], [])


def test_texts_of_errors_are_not_told_of_classified_records(peer):
    contract = Contract("c", "1", "c", (Field("host", "string", classification="PII"),))
    peer.failures = [ValueError("secret")]
    _, failures = step_of(contract, attempts=1, missing="dead").attempt(of_hosts("a"))
    assert str(failures[0].error).endswith("ValueError: its text is not shown, as records hold "
                                           "classified fields")  # fmt: skip
    _, failures = step_of(contract, missing="dead").attempt(of_hosts("secret"))
    assert str(failures[0].error) == f"{__name__}:ask has nothing for host a value not shown"


@given(hosts=st.sets(st.sampled_from("abcdefgh"), min_size=1), bad=st.sets(st.sampled_from("abx")))
def test_what_cannot_be_asked_for_stops_no_other(hosts, bad):
    global PEER
    PEER = Peer()

    def answer(keys: pa.RecordBatch) -> pa.Table:
        if bad & set(keys["host"].to_pylist()):
            raise PermanentError("malformed")
        return answered(keys)

    PEER.answer = answer
    asked = sorted(hosts)
    records, failures = step_of().attempt(of_hosts(*asked))
    assert [row for row, _ in failures] == [i for i, host in enumerate(asked) if host in bad]
    good = [host for host in asked if host not in bad]
    assert records["score"].to_pylist() == [KNOWN.get(host) for host in good]
    single = [call[0] for call in PEER.calls if len(call) == 1]
    assert all(single.count(host) == 1 for host in bad & hosts)  # and not five times


def test_a_run_can_be_made_to_fail_instead(peer):
    step = step_of(on_failure="fail", attempts=2)
    peer.failures = [TimeoutError("secret")] * 2
    with pytest.raises(Unavailable) as caught:
        step.attempt(of_hosts("a"))
    assert str(caught.value).endswith("has failed 2 times, the last time with TimeoutError")
    peer.failures = [PermanentError("secret")]
    with pytest.raises(StepError, match="refuses keys: PermanentError"):
        step.attempt(of_hosts("a"))
    assert step.attempt(of_hosts("a")).records["score"].to_pylist() == [1]


ANSWERS = {
    "expected a pyarrow.RecordBatch, got a list": lambda keys: [],
    "the answer needs one column score; did you mean 'scores'": lambda keys: pa.table(
        {"host": keys["host"], "scores": [1]}
    ),
    "the answer needs one column host": lambda keys: pa.table({"score": [1]}),
    "score of the answer is of the type string; expected int64": lambda keys: pa.table(
        {"host": keys["host"], "score": ["1"]}
    ),
    "score of the answer holds what is no int64": lambda keys: pa.table(
        {"host": keys["host"], "score": pa.array([2**63], pa.uint64())}
    ),
    "host of the records is of the type string, and host of the reference of": lambda keys: (
        pa.table({"host": [1], "score": [1]})
    ),
    "the answer has keys that were not asked for": lambda keys: pa.table(
        {"host": ["other"], "score": [1]}
    ),
    "there is 1 key in more than one row": lambda keys: pa.table(
        {"host": ["a", "a"], "score": [1, 1]}
    ),
}


@pytest.mark.parametrize("message", ANSWERS)
def test_an_answer_that_is_none_is_a_failure_of_its_records(peer, message):
    step = step_of()
    peer.answer = ANSWERS[message]
    records, failures = step.attempt(of_hosts("a"))
    assert message in str(failures[0].error)
    assert records.num_rows == 0
    assert peer.calls == [["a"]]  # to ask again would not help


def test_a_value_that_no_field_can_be_is_a_failure_of_its_records(peer):
    step = step_of(adds={"x": "number"})
    values = {"a": 1.5, "b": float("inf")}
    peer.answer = lambda keys: pa.table(
        {"host": keys["host"], "x": [values[host] for host in keys["host"].to_pylist()]}
    )
    records, failures = step.attempt(of_hosts("a", "b", "a"))
    assert records["x"].to_pylist() == [1.5, 1.5]
    assert [row for row, _ in failures] == [1]
    assert "x holds NaN or an infinity" in str(failures[0].error)


# ------------------------------------------------------------------------ at the start, pace


@pytest.mark.parametrize(
    ("said", "message"),
    [
        ({"on": ["hots"]}, "no field hots; did you mean 'host'?"),
        ({"adds": {"port": "string"}}, "the records have a field port already"),
        ({"adds": {"x": "strng"}}, "which there is not; did you mean 'string'"),
        ({"python": "nowhere:f"}, "nowhere cannot be imported"),
        ({"python": f"{__name__}:askk"}, "has no 'askk'; did you mean 'ask'?"),
    ],
)
def test_what_does_not_go_together_is_an_error_at_start(said, message):
    with pytest.raises(StepError) as caught:
        step_of(**said)
    assert message in str(caught.value)


def test_a_key_cannot_be_nested():
    schema = pa.schema([("host", pa.list_(pa.int8()))])
    with pytest.raises(StepError, match="of which no key can be made"):
        LookupStep(job_of(), schema)


def test_calls_keep_their_pace(peer):
    paced: list[int] = []
    keys, added = pa.schema([SCHEMA.field("host")]), pa.schema([("score", pa.int64())])
    service = Service(job_of(batch=1), keys, added, pace=lambda: paced.append(len(peer.calls)))
    peer.failures = [TimeoutError()]
    known_of(service, "a", "b")
    assert paced == [0, 1, 2]  # before each call, those that are made again too


@pytest.mark.parametrize(
    ("per_second", "rate"), [(50, (50, 1000)), (2.5, (2, 1000)), (0.3, (1, 3334))]
)
def test_no_more_calls_are_made_than_the_job_says(monkeypatch, per_second, rate):
    import pyrate_limiter

    acquired: list[Any] = []

    class Limiter:
        def __init__(self, rate: Any) -> None:
            self.rate = (rate.limit, rate.interval)

        def try_acquire(self, name: str) -> None:
            acquired.append(self.rate)

    monkeypatch.setattr(pyrate_limiter, "Limiter", Limiter)
    pace_of(per_second)()
    assert acquired == [rate]


def test_a_limited_pace_waits():
    pace = pace_of(1000)
    for _ in range(5):
        pace()  # would raise, or never return, if the limiter were not to be used so


def test_without_a_pace_nobody_waits():
    pace_of(None)()


def test_steps_of_a_process_share_what_they_know(peer):
    step = step_of()
    copies = [step, *(pickle.loads(pickle.dumps(step)) for _ in range(3))]
    for copy in copies:
        assert copy.attempt(of_hosts("a")).records["score"].to_pylist() == [1]
    assert peer.calls == [["a"]]
    step_of().attempt(of_hosts("a"))  # of another pipeline, as it was made later
    assert peer.calls == [["a"], ["a"]]


def test_threads_may_ask_at_once(peer):
    step = step_of(batch=3, cache=5)
    wrong: list[Any] = []

    def work(seed: int) -> None:
        hosts = [[*KNOWN, "x", None][(seed + i * i) % 6] for i in range(50)]
        found = step.attempt(of_hosts(*hosts)).records["score"].to_pylist()
        wrong.extend(
            pair for pair in zip(hosts, found, strict=True) if KNOWN.get(pair[0]) != pair[1]
        )

    threads = [threading.Thread(target=work, args=(seed,)) for seed in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not wrong
    assert peer.calls


def test_in_a_pipeline_every_record_is_accounted_for(peer):
    peer.answer = lambda keys: answered(keys)
    step = Step(step_of(missing="filter", attempts=1), contract=CONTRACT)
    batches = [of_hosts("a", "x", "b"), of_hosts(None, "c")]
    found = run(lambda p: (p | beam.Create(batches, reshuffle=False) | step)._asdict())
    assert sorted(row["host"] for row in rows(found["records"])) == ["a", "b", "c"]
    assert sum(tally.rows for tally in found["tallies"]) == 2
    assert not rows(found["dead_letters"])
