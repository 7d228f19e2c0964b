"""Dead letters read back, from every destination and in every shape; and counted."""

from __future__ import annotations

import datetime as dt
from collections import Counter
from collections.abc import Iterator
from types import SimpleNamespace
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from cryptography.fernet import Fernet
from hypothesis import given, settings
from hypothesis import strategies as st
from letters_support import (
    CODES,
    FIELDS,
    GOOGLE,
    NOON,
    PAYLOADS,
    TABLES,
    commit,
    comparable,
    google_rows,
    letters,
)
from millstream.schemas.dead_letters import SCHEMA
from millstream.schemas.table import table_of_schema
from millstream.transforms.dead_letters import dead_letter_id
from millstream.transforms.encryption import decrypted, encrypted, keys_of
from millstream.transforms.letters import (
    EVERY,
    Entry,
    Marks,
    Where,
    letters_of,
    open_letters,
    payloads,
)
from millstream.transforms.letters.marks import STATUSES
from millstream.transforms.letters.summary import BY, find_samples, summarise
from millstream.transforms.write.destination import Output
from millstream.transforms.write.errors import DestinationError

from tests.services.destinations import DESTINATIONS, parameters

FILES = ("parquet", "jsonl", "csv", "avro")
PLACES = [*FILES, *[p for p in parameters() if p.values[0] not in ("parquet", "pubsub")]]
NO_NUL = [p for p in PAYLOADS if p is None or b"\0" not in p]
"""What PostgreSQL can hold: the text of a payload has no NUL character there."""


@pytest.fixture(scope="module", params=PLACES)
def place(request, tmp_path_factory) -> Iterator[Any]:
    """Each destination in turn: gives an output for dead letters of a name."""
    folder = tmp_path_factory.mktemp("letters")
    state = str(folder / "state")

    def output(table: str, uri: str, tables: Any = TABLES, kind: Any = "dead_letters") -> Output:
        return Output("dead_letters", uri, kind, tables=tables, state=state)

    scheme = request.param
    if scheme in FILES:
        yield scheme, lambda table, *more: output(table, f"{scheme}:{folder}/{table}", *more)
        return
    with DESTINATIONS[scheme].running_or_skip() as peer:
        yield scheme, lambda table, *more: output(table, peer.uri(table), *more)


@pytest.fixture(scope="module")
def written(place) -> tuple[Output, pa.Table]:
    """An output with the dead letters of two runs, and what was written."""
    scheme, output = place
    given = NO_NUL if scheme == "postgresql" else PAYLOADS
    batches = [letters(range(40), payloads=given), letters(range(40, 60), payloads=given)]
    later = letters(range(60, 75), "r2", payloads=given)
    to = output("dead_letters")
    commit(to, batches, "r1")
    commit(to, [later], "r2")
    return to, pa.Table.from_batches([*batches, later])


def test_every_letter_comes_back_byte_for_byte(written, place):
    to, expected = written
    for found in (letters_of(to), open_letters(to.uri), open_letters(to.uri, "dead_letters")):
        assert comparable(found.batches()) == comparable(expected.to_batches())
    held = {
        i: p
        for b in letters_of(to).batches(columns=("id", "payloadString", "payloadBytes"))
        for i, p in zip(b["id"].to_pylist(), payloads(b).to_pylist(), strict=True)
    }
    assert held == dict(
        zip(expected["id"].to_pylist(), expected["payloadBytes"].to_pylist(), strict=True)
    )


def test_encrypted_letters_come_back_from_everywhere(place, monkeypatch):
    monkeypatch.setenv("KEYS", Fernet.generate_key().decode())
    keys, batch = keys_of("KEYS"), letters(range(12))
    to = place[1]("sealed")
    commit(to, [encrypted(batch, keys)], "r1")
    found = [decrypted(held, keys) for held in letters_of(to).batches()]
    plain = batch.set_column(1, SCHEMA.field(1), pa.nulls(len(batch), pa.string()))
    assert comparable(found) == comparable([plain])


def test_payloads_are_read_only_where_they_are_asked_for(written):
    to, _ = written
    (names,) = {tuple(b.schema.names) for b in letters_of(to).batches(columns=("id", "codes"))}
    assert names == ("id", "codes")


_SOURCES = ("events/0.jsonl", "*", "*.jsonl", "events/_.jsonl", "events/1*", "none")
WHERES = st.builds(
    Where,
    codes=st.lists(st.sampled_from([*map(str, CODES), "OTHER"]), max_size=2).map(tuple),
    field=st.sampled_from(["", "amount", "items[*].price", "items*", "other", "page"]),
    source=st.sampled_from(["", *_SOURCES]),
    contract_versions=st.sampled_from([(), (), ("1.1.0",), ("1.2.0", "9")]),
    stages=st.sampled_from([(), (), ("validate",), ("parse",)]),
    run_ids=st.sampled_from([(), (), ("r2",)]),
    since=st.sampled_from([None, None, NOON.replace(year=2020), NOON.replace(year=2100)]),
    until=st.sampled_from([None, None, NOON.replace(year=2100), NOON.replace(year=2020)]),
)


@settings(max_examples=40)
@given(where=WHERES)
def test_those_that_are_meant_are_those_that_are_found_by_hand(written, where):
    to, expected = written
    found = [i for b in letters_of(to).batches(where, ("id",)) for i in b["id"].to_pylist()]
    assert sorted(found) == sorted(
        row["id"] for row in expected.to_pylist() if is_meant(row, where)
    )


def test_one_by_its_id(written):
    to, expected = written
    wanted = tuple(expected["id"].to_pylist()[3:6])
    found = list(letters_of(to).batches(Where(ids=wanted)))
    assert comparable(found) == comparable(expected.slice(3, 3).to_batches())


def test_googles_tables_are_read_as_they_are(place):
    scheme, output = place
    if scheme in ("kafka", "kafka_avro"):
        return  # its templates write to BigQuery
    rows = google_rows()
    to = output("google", {"data": table_of_schema(GOOGLE)}, "side")
    commit(to, [rows], "r1")
    found = pa.Table.from_batches(open_letters(to.uri).batches())
    assert found.schema.names == SCHEMA.names
    six = comparable(found.select(GOOGLE.names).to_batches(), null_lists=False)
    assert six == comparable([rows], null_lists=False)
    made = {"id", "source", "position"}
    others = [name for name in SCHEMA.names[6:] if name not in made]
    assert {v for name in others for v in found[name].to_pylist() if v} == set()
    exact = payloads(found.combine_chunks().to_batches()[0]).to_pylist()
    assert sorted(exact) == sorted(
        r["payloadBytes"] or r["payloadString"].encode() for r in rows.to_pylist()
    )
    ids = found["id"].to_pylist()
    assert len(set(ids)) == rows.num_rows
    epoch = dt.datetime(1970, 1, 1, tzinfo=dt.UTC)
    times = [(t - epoch) // dt.timedelta(microseconds=1) for t in found["timestamp"].to_pylist()]
    assert found["position"].to_pylist() == [str(time) for time in times]
    assert set(found["source"].to_pylist()) == {to.destination.place}
    identity = (found[name].to_pylist() for name in ("source", "position"))
    assert ids == [dead_letter_id(*each) for each in zip(*identity, exact, strict=True)]
    one = list(open_letters(to.uri).batches(Where(ids=(ids[3],)), ("id", "errorMessage")))
    assert [b.to_pylist() for b in one] == [
        [{"id": ids[3], "errorMessage": found["errorMessage"][3].as_py()}]
    ]
    early = Where(until=NOON.replace(minute=4))
    assert sum(b.num_rows for b in open_letters(to.uri).batches(early, ("errorMessage",))) == 4


def test_a_place_where_nothing_was_written_has_none(place):
    _, output = place
    assert list(letters_of(output("nothing")).batches()) == []
    assert list(open_letters(output("nothing").uri).batches(EVERY, ("id",))) == []


def test_counts_are_those_by_hand(written, tmp_path):
    to, expected = written
    marks = Marks(str(tmp_path))
    ids = expected["id"].to_pylist()
    marks.append("m1", [Entry(i, 0, "replayed") for i in ids[:10]])
    marks.append("m2", [Entry(i, 0, "discarded") for i in ids[8:15]])
    marks.append("m3", [Entry(i, 0, "failed") for i in ids[15:17]])
    marks.append("m4", [Entry(i, 1, "failed") for i in ids[17:20]])  # which was never written
    for by, statuses in ((BY, STATUSES), (("code",), ("open",)), (("source",), STATUSES[:2])):
        found = summarise(letters_of(to), marks, EVERY, by, statuses=statuses, samples=2)
        rows = [(row, status_by_hand(ids.index(row["id"]))) for row in expected.to_pylist()]
        assert {g.key: g.counts for g in found.groups} == by_hand(rows, by, statuses)
        assert +found.totals == Counter(status for _, status in rows if status)
        assert [g.letters for g in found.groups] == sorted(
            (g.letters for g in found.groups), reverse=True
        )
        samples = find_samples(letters_of(to), found.groups)
        for group in found.groups:
            assert len(set(group.ids)) == min(2, group.letters)
            assert all(samples[i].id == i for i in group.ids)
            members = [r for r, s in rows if s in statuses and group.key in keys(r, by)]
            assert group.first == min(row["timestamp"] for row in members)
            assert {samples[i].position for i in group.ids} <= {r["position"] for r in members}


# ------------------------------------------------------------------ files of others


@pytest.mark.parametrize("format", ["jsonl", "json"])
def test_json_lines_as_bigquery_exports_them(tmp_path, format):
    line = '{"timestamp":"2026-11-29 12:00:00.25 UTC","payloadString":"{}","payloadBytes":"/w==",'
    line += '"attributes":[],"errorMessage":"no","stacktrace":"at x"}\n'
    (tmp_path / f"part-0.{format}").write_text(line * 2)
    (row, _) = [r for b in open_letters(f"jsonl:{tmp_path}").batches() for r in b.to_pylist()]
    assert row["timestamp"] == NOON.replace(microsecond=250_000)
    assert (row["payloadBytes"], row["payloadString"], row["run_id"]) == (b"\xff", "{}", None)


def test_parquet_files_of_a_folder_without_a_manifest(tmp_path):
    pq.write_table(pa.Table.from_batches([google_rows()]), tmp_path / "export.parquet")
    found = open_letters(f"parquet:{tmp_path}")
    assert sum(b.num_rows for b in found.batches(EVERY, ("id", "errorMessage"))) == 12
    assert found.place == f"parquet:{tmp_path}"


def test_what_is_no_table_of_dead_letters_is_said(tmp_path):
    pq.write_table(pa.table({"timestamp": ["soon"]}), tmp_path / "x.parquet")
    with pytest.raises(DestinationError, match="timestamp holds what is no timestamp"):
        list(open_letters(f"parquet:{tmp_path}").batches(EVERY, ("timestamp",)))
    (tmp_path / "broken").mkdir()
    (tmp_path / "broken" / "x.jsonl").write_text("{]\n")
    with pytest.raises(DestinationError, match="no file of the format"):
        list(open_letters(f"jsonl:{tmp_path}/broken").batches(EVERY, ("timestamp",)))


def test_of_several_outputs_in_a_folder_only_the_one_that_is_named(tmp_path):
    uri = f"parquet:{tmp_path}/all"
    for name in ("dead_letters", "other"):
        commit(Output(name, uri, "dead_letters"), [letters([len(name)])], name)
    assert sum(b.num_rows for b in open_letters(uri, "dead_letters").batches()) == 1
    assert sum(b.num_rows for b in open_letters(uri).batches()) == 2


@pytest.mark.parametrize("format", FILES)
def test_folders_hold_columns_whether_the_uri_says_so_or_not(tmp_path, format):
    given = letters(range(12))
    to = Output(
        "dead_letters", f"{format}:{tmp_path}?partition_by=source,date(timestamp)", "dead_letters"
    )
    commit(to, [given], "r1")
    where = Where(source="*/1.jsonl")
    for found in (letters_of(to), open_letters(f"{format}:{tmp_path}")):
        assert comparable(found.batches()) == comparable([given])
        assert sum(b.num_rows for b in found.batches(where, ("id",))) == 6


# ------------------------------------------------------------------ by hand


def is_meant(row: dict[str, Any], where: Where) -> bool:
    """What :class:`Where` says, row by row."""
    pairs = [(v["code"], v["field"]) for v in row["violations"]]
    asked = where.codes or where.field
    if asked and not any(
        (not where.codes or code in where.codes) and (not where.field or _like(field, where.field))
        for code, field in pairs
    ):
        return False
    if where.source and not _like(row["source"], where.source):
        return False
    for values, column in (
        (where.contract_versions, "contract_version"),
        (where.stages, "stage"),
        (where.run_ids, "run_id"),
    ):
        if values and row[column] not in values:
            return False
    made = row["timestamp"]
    return (where.since is None or made >= where.since) and (
        where.until is None or made < where.until
    )


def _like(text: str, pattern: str) -> bool:
    """``*`` stands for any text: by cutting the pattern at them, and looking for the pieces."""
    first, *rest = pattern.split("*")
    if not rest:
        return text == pattern
    *middle, last = rest
    if not text.startswith(first) or not text.endswith(last) or len(text) < len(first + last):
        return False
    at, end = len(first), len(text) - len(last)
    for piece in middle:
        at = text.find(piece, at, end)
        if at < 0:
            return False
        at += len(piece)
    return True


def status_by_hand(number: int) -> str | None:
    """The status of the letters that :func:`test_counts_are_those_by_hand` marks."""
    if number < 8:
        return "replayed"
    if number < 15:
        return "discarded"
    if number < 17:
        return "failed"
    return None if number < 20 else "open"


def keys(row: dict[str, Any], by: tuple[str, ...]) -> set[tuple[Any, ...]]:
    """The groups that a letter is in."""
    found = set()
    for violation in row["violations"]:
        of = {"code": violation["code"], "field": _any_index(violation["field"])}
        found.add(tuple(of.get(name, row.get(name)) for name in by))
    return found


def _any_index(path: str) -> str:
    return {FIELDS[1]: "items[*].price", FIELDS[2]: "items[*].price"}.get(path, path)


def by_hand(
    rows: list[tuple[dict[str, Any], str | None]], by: tuple[str, ...], statuses: tuple[str, ...]
) -> dict[tuple[Any, ...], Counter[str]]:
    found: dict[tuple[Any, ...], Counter[str]] = {}
    for row, status in rows:
        if status in statuses:
            for key in keys(row, by):
                found.setdefault(key, Counter())[status] += 1
    return found


@pytest.mark.parametrize("partition", [b"3", b"three", b"", b"-1", "٣".encode(), None])
@pytest.mark.parametrize("made", [0, -62_135_596_800_001, 1_764_417_600_123_456, 2**62])
def test_what_others_say_in_headers_may_be_anything(partition, made):
    from confluent_kafka import TIMESTAMP_CREATE_TIME
    from millstream.transforms.letters.kafka import connect_letter

    said = {"topic": b"clicks", "partition": partition, "offset": b"7"}
    headers = [(f"__connect.errors.{name}", value) for name, value in said.items()]
    message: Any = SimpleNamespace(
        value=lambda: b"x", key=lambda: None, timestamp=lambda: (TIMESTAMP_CREATE_TIME, made)
    )
    row = connect_letter(message, headers)
    pa.RecordBatch.from_pylist([row], SCHEMA)
    assert row["source"] == ("kafka:clicks/3" if partition == b"3" else None)
