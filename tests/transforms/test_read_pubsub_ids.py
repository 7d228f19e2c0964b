"""What is known of messages: URIs, ids as numbers, ids in memory and in files, receipts."""

from __future__ import annotations

import datetime as dt
import pickle
import time
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given
from hypothesis import strategies as st

pytest.importorskip("google.cloud.pubsub_v1")

from google.pubsub_v1 import ReceivedMessage  # pyright: ignore[reportMissingImports]
from millstream.schemas.contract import Contract, Field
from millstream.transforms import storage
from millstream.transforms.dead_letters import Origin
from millstream.transforms.read.bare_avro import bare_avro
from millstream.transforms.read.errors import SourceError
from millstream.transforms.read.pubsub import committed
from millstream.transforms.read.pubsub.committed import CommittedIds
from millstream.transforms.read.pubsub.inputs import parse_input
from millstream.transforms.read.pubsub.pulled import Pulled, numbers
from millstream.transforms.read.pubsub.receipts import delivered, receipt
from millstream.transforms.read.pubsub.seen import SeenIds

pytestmark = pytest.mark.cloud

SCHEMA = '{"type": "record", "name": "R", "fields": [{"name": "n", "type": "int"}]}'


def column(values: Any) -> np.ndarray:
    return np.array(list(values), np.int64)


# --------------------------------------------------------------------------------- URIs


def test_a_uri():
    found = parse_input(
        "pubsub://my-project/clicks?start=2026-11-29T12:00:00+01:00&horizon=2d&max_extension=90s"
        "&max_messages=5000&max_mb=7"
    )
    assert (found.place, found.source) == ("pubsub://my-project/clicks", "pubsub:my-project/clicks")
    assert found.path == "projects/my-project/subscriptions/clicks"
    assert found.start == dt.datetime(2026, 11, 29, 11, tzinfo=dt.UTC)
    assert (found.horizon, found.max_extension) == (2 * 86_400, 90)
    assert (found.max_messages, found.max_mb) == (5000, 7)


@pytest.mark.parametrize(
    ("uri", "said"),
    [
        ("pubsub:clicks", "expected pubsub://PROJECT/SUBSCRIPTION"),
        ("pubsub://p/clicks", "expected pubsub://PROJECT/SUBSCRIPTION"),
        ("pubsub://project/goog-clicks", "expected pubsub://PROJECT/SUBSCRIPTION"),
        ("pubsub://project/clicks?start=latst", "pubsub: start=latst; did you mean 'latest'"),
        ("pubsub://project/clicks?start=2026-11-29T12:00:00", "in which zone"),
        ("pubsub://project/clicks?horizon=soon", "horizon=soon: expected a duration"),
        ("pubsub://project/clicks?max_messages=0", "max_messages=0: expected a whole number"),
        ("pubsub://project/clicks?format=avro", "format=avro needs schema=FILE"),
        ("pubsub://project/clicks?horizont=1d", "no option 'horizont'; did you mean 'horizon'"),
    ],
)
def test_uris_that_cannot_be_used(uri, said):
    with pytest.raises(SourceError) as error:
        parse_input(uri)
    assert said in str(error.value)


def test_a_secret_in_a_uri_is_not_repeated():
    with pytest.raises(SourceError, match="credentials are taken from the environment") as error:
        parse_input("pubsub://user:hunter2@project/clicks")
    assert "hunter2" not in str(error.value)


# ---------------------------------------------------------------------------------- ids


def test_ids_are_numbers():
    assert numbers(["1", "9223372036854775807"]).tolist() == [1, 2**63 - 1]
    found = numbers(["17", "9223372036854775808", "-1", "abc", ""]).tolist()
    assert found[0] == 17
    assert len(set(found)) == 5
    assert all(number >= 0 for number in found)


@given(
    st.lists(st.lists(st.tuples(st.integers(0, 40), st.integers(0, 2)), max_size=12), max_size=12)
)
def test_what_was_seen_is_found(batches):
    """By one of the positions that it was seen at, and at the least as it came last."""
    seen = SeenIds(10_000)
    model: dict[tuple[int, int], set[int]] = {}
    position = 0
    for batch in batches:
        places = column(range(position, position + len(batch)))
        seen.add(column(i for i, _ in batch), column(p for _, p in batch), places)
        for (number, published), place in zip(batch, places.tolist(), strict=True):
            model.setdefault((number, published), set()).add(place)
        position += len(batch)
    asked = [(i, p) for i in range(42) for p in range(3)]
    found = seen.find(column(i for i, _ in asked), column(p for _, p in asked)).tolist()
    for key, place in zip(asked, found, strict=True):
        assert place in {-1} | model.get(key, set()), key
    for batch in batches[-1:]:
        last = dict(batch)
        ids, published = column(last), column(last.values())
        assert (seen.find(ids, published) >= 0).all()


def test_what_was_seen_long_ago_is_forgotten():
    seen = SeenIds(1000)
    for start in range(0, 10_000, 100):
        ids = column(range(start, start + 100))
        seen.add(ids, ids, ids)
        assert len(seen) <= 2100
        newest = column(range(max(0, start - 900), start + 100))
        assert (seen.find(newest, newest) == newest).all()
    assert (seen.find(column([0, 1]), column([0, 1])) == -1).all()


# -------------------------------------------------------------------------------- files


def test_files_are_few_and_hold_all(tmp_path):
    ids = CommittedIds(str(tmp_path), 3600)
    cursor = ""
    for n in range(200):
        some = column(range(10 * n, 10 * n + 10))
        cursor = ids.add(cursor, some, some + 5)
    found = ids.read(cursor)
    assert sorted(found.ids.tolist()) == list(range(2000))
    assert (found.published == found.ids + 5).all()
    assert len(cursor.split()) <= 12
    assert ids.add(cursor, column([]), column([])) == cursor


def test_ids_are_forgotten_by_age_and_by_count(tmp_path, monkeypatch):
    now = time.time()
    ids = CommittedIds(str(tmp_path), 100, most=50)
    cursor = ids.add("", column(range(30)), column(range(30)))
    monkeypatch.setattr(committed.time, "time", lambda: now + 101)
    assert sorted(ids.read(cursor).ids) == list(range(30)), "not before there is a commit"
    cursor = ids.add(cursor, column([99]), column([99]))
    assert ids.read(cursor).ids.tolist() == [99]
    for n in range(100, 200, 10):
        cursor = ids.add(cursor, column(range(n, n + 10)), column(range(n, n + 10)))
        assert len(ids.read(cursor).ids) <= 70
    found = set(ids.read(cursor).ids.tolist())
    assert found >= set(range(150, 200))


def test_files_that_no_cursor_names_are_deleted_after_a_while(tmp_path, monkeypatch):
    now = time.time()
    ids = CommittedIds(str(tmp_path), 1e9)
    cursor = ids.add("", column(range(100)), column(range(100)))
    ids.add(cursor, column([500]), column([500]))  # by a commit that was not made
    ids.tidy(cursor)
    assert len(storage.list_files(str(tmp_path))) == 2
    monkeypatch.setattr(committed.time, "time", lambda: now + 3700)
    ids.tidy(cursor)
    (left,) = storage.list_files(str(tmp_path))
    assert left.endswith(f"{cursor}.parquet")


# ----------------------------------------------------------------------- receipts, Avro


def pulled(*ids: int) -> Pulled:
    made = [
        ReceivedMessage.pb()(ack_id=f"ack-{n}", message={"message_id": str(n), "data": b"x"})
        for n in ids
    ]
    return Pulled.of(made)


def test_receipts_hold_what_they_were_given():
    found = delivered([receipt(pulled(3, 1), False), receipt(pulled(7), True)])
    assert found.ids.tolist() == [3, 1, 7]
    assert found.ack_ids == ["ack-3", "ack-1", "ack-7"]
    assert found.again.tolist() == [False, False, True]
    assert delivered([]).ack_ids == []


def test_avro_by_a_schema_in_a_file(tmp_path):
    contract = Contract("c", "1", "c", (Field("n", "integer"),))
    path = tmp_path / "r.avsc"
    path.write_text(SCHEMA)
    decoding = pickle.loads(pickle.dumps(bare_avro(str(path), contract, "ignore")))(Origin("parse"))
    batch = pulled(1).batch("s")
    batch = batch.set_column(2, "_payload", pa.array([b"\x02"]))
    ((_, found),) = decoding.put((batch,))
    assert found.records.to_pylist() == [{"n": 1}]
    path.write_text("[")
    with pytest.raises(SourceError, match=r"schema=.*r\.avsc"):
        bare_avro(str(path), contract, "ignore")
    with pytest.raises(SourceError, match="not found"):
        bare_avro(str(tmp_path / "none"), contract, "ignore")
