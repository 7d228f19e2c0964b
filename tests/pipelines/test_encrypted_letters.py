"""Dead letters that only a key opens: nothing of them is seen without it, and all come back."""

from __future__ import annotations

import json
import os
from collections import Counter
from typing import Any

import duckdb
import pyarrow as pa
import pytest
from cryptography.fernet import Fernet
from millstream.schemas.dead_letters import SCHEMA
from millstream.transforms.encryption import KEY, decrypted, is_encrypted, keys_of

from tests.pipelines.clicks import rows_of
from tests.pipelines.people import CONTRACT, JOB, LATER, Folder, holds_secret, person
from tests.pipelines.test_stream_jobs import StreamJob, any_open

pytestmark = pytest.mark.slow


@pytest.fixture
def folder(tmp_path, cli) -> Folder:
    return Folder(tmp_path, cli)


@pytest.fixture
def key(monkeypatch) -> str:
    key = Fernet.generate_key().decode()
    monkeypatch.setenv("LETTER_KEYS", key)
    return key


ENCRYPTED = "encrypt_dead_letters: LETTER_KEYS\n"


def plain(rows: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """Letters decrypted."""
    assert all(is_encrypted(row["attributes"]) for row in rows)
    assert all(row["payloadString"] is None or row["payloadBytes"] is None for row in rows)
    columns = ["payloadBytes", "payloadString", "attributes"]
    schema = pa.schema([SCHEMA.field(name) for name in columns])
    batch = pa.RecordBatch.from_pylist([{n: row[n] for n in columns} for row in rows], schema)
    opened = decrypted(batch, keys_of("LETTER_KEYS")).to_pylist()
    return [{**row, **found} for row, found in zip(rows, opened, strict=True)]


def told(rows: list[dict[str, Any]]) -> Counter[str]:
    """What letters say that does not depend on when and where they were made."""
    apart = ("timestamp", "run_id", "payloadString", "replay_of", "source", "id")
    kept = [{k: v for k, v in row.items() if k not in apart} for row in rows]
    return Counter(json.dumps(row, sort_keys=True, default=repr) for row in kept)


def test_letters_are_encrypted_wherever_they_are_made(folder, key, cli):
    folder.job(JOB + ENCRYPTED)
    folder.table()
    folder.run("ingest")
    rows = folder.letters()
    assert {row["stage"] for row in rows} == {"read", "parse", "validate", "step", "write"}
    assert not any(map(holds_secret, folder.files("dead", "ledger")))
    assert key.encode() not in b"".join(folder.files("dead", "ledger"))

    other = Folder(folder.path / "plain", cli)
    other.job(JOB)
    other.table()
    other.run("ingest")
    assert told(plain(rows)) == told(other.letters())


def fixed(folder: Folder) -> None:
    """The contract takes more from now on."""
    text = CONTRACT.replace("format: email, maxLength: 40", "maxLength: 100")
    text = text.replace("maximum: 1000", "maximum: 99999999999")
    (folder.path / "people.odcs.yaml").write_text(text)


def committed(folder: Folder) -> Counter[str]:
    with duckdb.connect(str(folder.path / "w.duckdb"), read_only=True) as db:
        return Counter(map(str, db.execute("SELECT id, mail, phone, note FROM people").fetchall()))


def test_a_replay_of_encrypted_letters_is_that_of_plain_ones(folder, key, cli):
    other = Folder(folder.path / "plain", cli)
    folder.job(JOB + ENCRYPTED)
    other.job(JOB)
    for each in (folder, other):
        each.run("ingest")
        before = committed(each)
        fixed(each)
        each.run("dead-letters", "replay")
        assert committed(each) - before
    assert committed(folder) == committed(other)
    again = [row for row in folder.letters() if row["attempt"]]
    assert {row["payloadBytes"] for row in plain(again)} == {
        row["payloadBytes"] for row in other.letters() if row["attempt"]
    }
    assert not any(map(holds_secret, folder.files("dead", "ledger")))


def test_late_records_are_encrypted_and_come_back(folder, key):
    folder.job(JOB + LATER + ENCRYPTED)
    folder.run("ingest")
    late = json.dumps(person(200, ts="2020-01-01T00:00:00Z"))
    (folder.path / "in2.jsonl").write_text(late)
    folder.run("ingest")
    (row,) = plain(folder.letters("late"))
    assert row["payloadBytes"] == late.encode()
    assert not any(map(holds_secret, folder.files("late", "dead", "ledger")))
    folder.run("dead-letters", "replay", "--late")
    views = rows_of(f"parquet:{folder.path}/notes")
    assert [row["people"] for row in views if row["window_start"].year == 2020] == [1]
    before = committed(folder)
    fixed(folder)
    folder.run("dead-letters", "replay")
    assert committed(folder) - before
    assert not any(map(holds_secret, folder.files("late", "dead", "ledger")))


@pytest.mark.service
def test_a_stream_encrypts_its_letters(prism, tmp_path, key):
    stream = "generate://?rate=0&count=9000&broken=0.02&disorder=1s"
    job = StreamJob.make(tmp_path / "job", stream, lines=f"idle: 1s\n{ENCRYPTED}")
    with job.live(prism) as live:
        live.until(lambda: job.chain.newest() > 0 and not any_open(job), 120)
    assert live.code == 0, live.said
    found = plain(job.folder.table("dead_letters", "jsonl"))
    expected = job.expected().letters
    assert Counter(row["payloadBytes"] for row in found) == Counter(
        letter.payload for letter in expected.elements()
    )


def test_without_its_key_a_letter_is_left_as_it_is(folder, key, monkeypatch):
    folder.job(JOB + ENCRYPTED)
    folder.run("ingest")
    fixed(folder)
    rows, before = folder.letters(), committed(folder)
    (old,) = {p["value"] for row in rows for p in row["attributes"] if p["key"] == KEY}
    new = Fernet.generate_key().decode()
    monkeypatch.setenv("LETTER_KEYS", new)
    done = folder.run("dead-letters", "replay")
    assert f"their key {old} is not among those of LETTER_KEYS" in done.err
    assert committed(folder) == before
    shown = folder.run("dead-letters", "show", rows[0]["id"])
    assert f"key {old}" in shown.out
    monkeypatch.setenv("LETTER_KEYS", f"{new},{key}")  # the first encrypts from now on
    folder.run("dead-letters", "replay")
    assert committed(folder) - before
    again = [row for row in folder.letters() if row["attempt"]]
    (now,) = {p["value"] for row in again for p in row["attributes"] if p["key"] == KEY}
    assert now != old
    assert not any(map(holds_secret, folder.files("dead", "ledger")))


@pytest.mark.parametrize(
    ("value", "said"),
    [
        (None, "the environment variable is not set"),
        ("nonsense", "the key is none of Fernet's"),
        (f"{'A' * 43}=,nonsense", "key 2 of 2 is none of Fernet's"),
    ],
)
def test_keys_that_cannot_be_used(folder, monkeypatch, value, said):
    folder.job(JOB + ENCRYPTED)
    monkeypatch.delenv("LETTER_KEYS", raising=False)
    if value is not None:
        monkeypatch.setenv("LETTER_KEYS", value)
    done = folder.run("ingest", code=2)
    assert "encrypt_dead_letters: LETTER_KEYS" in done.err
    assert said in done.err
    assert "nonsense" not in done.err
    assert not os.path.exists(folder.path / "dead")


def test_a_key_in_the_place_of_a_name_is_not_repeated(folder):
    key = Fernet.generate_key().decode()
    folder.job(JOB + f"encrypt_dead_letters: {key}\n")
    done = folder.run("ingest", code=2)
    assert "the name of an environment variable" in done.err
    assert key not in done.err
