"""Encrypted dead letters: what a key opens is what was put in, and nothing is seen without it."""

from __future__ import annotations

import pickle
from typing import Any

import apache_beam as beam
import pyarrow as pa
import pytest
from apache_beam.options.pipeline_options import PipelineOptions
from apache_beam.testing.util import assert_that
from cryptography.fernet import Fernet
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from millstream.schemas.codes import Code
from millstream.schemas.dead_letters import SCHEMA
from millstream.schemas.rules import Violation
from millstream.transforms.dead_letters import Origin, dead_letter_batch, with_attributes
from millstream.transforms.encrypt import Encrypt
from millstream.transforms.encryption import (
    ENCRYPTION,
    KEY,
    SEALED,
    EncryptionError,
    decrypted,
    decrypted_payloads,
    encrypted,
    is_encrypted,
    keys_of,
    opened,
)

MARK = b"ZZSECRETZZ"
ATTRIBUTES = st.lists(
    st.tuples(st.sampled_from(["kafka.key", "kafka.header.a", "other"]), st.none() | st.text())
)


@pytest.fixture
def key(monkeypatch) -> str:
    key = Fernet.generate_key().decode()
    monkeypatch.setenv("KEYS", key)
    return key


def letters(payloads: list[bytes | None], said: dict[str, str] | None = None) -> pa.RecordBatch:
    return dead_letter_batch(
        pa.array(["s"] * len(payloads)),
        pa.array([str(n) for n in range(len(payloads))]),
        pa.array(payloads, pa.binary()),
        [Violation(n, "f", Code.TYPE, "wrong") for n in range(len(payloads))],
        Origin("parse"),
        attributes=said,
    )


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture], max_examples=40)
@given(st.lists(st.tuples(st.none() | st.binary(), ATTRIBUTES), min_size=1, max_size=4))
def test_decrypted_is_what_was_encrypted(key, rows):
    said = {"format": "csv", "csv.header": "a,b", "aggregate": "visits"}
    plain = with_attributes(letters([p for p, _ in rows], said), [more for _, more in rows])
    sealed = encrypted(plain, keys_of("KEYS"))
    assert sealed.schema == SCHEMA
    same = [n for n in SCHEMA.names if n not in ("payloadBytes", "payloadString", "attributes")]
    assert sealed.select(same) == plain.select(same)
    for row in sealed.to_pylist():
        names = [pair["key"] for pair in row["attributes"]]
        assert names[:5] == ["aggregate", "csv.header", "format", ENCRYPTION, KEY]
        assert names[5:] in ([], [SEALED])
        assert row["payloadString"] is None
    back = decrypted(sealed, keys_of("KEYS"))
    assert back.column("payloadBytes") == plain.column("payloadBytes")
    assert back.column("attributes") == plain.column("attributes")
    held = decrypted_payloads(sealed["payloadBytes"], sealed["attributes"], keys_of("KEYS"))
    assert held == plain.column("payloadBytes")
    assert encrypted(sealed, keys_of("KEYS")) == sealed


def test_anybody_with_the_key_can_read_it(key):
    sealed = encrypted(letters([MARK]), keys_of("KEYS"))
    assert Fernet(key).decrypt(sealed["payloadBytes"][0].as_py()) == MARK


def test_what_is_only_a_piece_to_look_at_is_encrypted_too(key):
    row: dict[str, Any] = {**letters([None]).to_pylist()[0], "payloadString": MARK.decode()}
    sealed = encrypted(pa.RecordBatch.from_pylist([row], SCHEMA), keys_of("KEYS"))
    assert MARK not in str(sealed.to_pylist()).encode()
    assert decrypted(sealed, keys_of("KEYS"))["payloadString"][0].as_py() == MARK.decode()


def test_keys_that_come_and_go(key, monkeypatch):
    old = encrypted(letters([MARK]), keys_of("KEYS"))
    new = Fernet.generate_key().decode()
    monkeypatch.setenv("KEYS", f" {new} , {key}")
    assert decrypted(old, keys_of("KEYS"))["payloadBytes"][0].as_py() == MARK
    young = encrypted(letters([MARK]), keys_of("KEYS"))
    monkeypatch.setenv("KEYS", new)
    assert decrypted(young, keys_of("KEYS"))["payloadBytes"][0].as_py() == MARK
    with pytest.raises(EncryptionError, match=r"their key [0-9a-f]{8} is not among those of KEYS"):
        decrypted(old, keys_of("KEYS"))
    (row,) = old.to_pylist()
    assert "is not among those of KEYS" in keys_of("KEYS").why_not(
        row["payloadBytes"], row["attributes"]
    )


def test_a_key_in_quotes_is_the_same_key(key, monkeypatch):
    sealed = encrypted(letters([MARK]), keys_of("KEYS"))
    monkeypatch.setenv("KEYS", f'"{key}"')  # as files of variables may have it
    assert decrypted(sealed, keys_of("KEYS"))["payloadBytes"][0].as_py() == MARK


def test_a_letter_that_was_changed(key):
    (row,) = encrypted(letters([MARK]), keys_of("KEYS")).to_pylist()
    keys, token = keys_of("KEYS"), row["payloadBytes"]
    assert keys.why_not(token, row["attributes"]) == ""
    for other in (token[:-8] + b"AAAAAAA=", b"", b"plain", token[:40]):
        assert "is not what" in keys.why_not(other, row["attributes"])
        with pytest.raises(EncryptionError, match="it has been changed since"):
            keys.decrypt(other, row["attributes"])


def test_a_letter_that_says_of_no_key(key):
    attributes = [{"key": ENCRYPTION, "value": "other"}]
    assert is_encrypted(attributes)
    assert "their key ? is not among" in keys_of("KEYS").why_not(b"x", attributes)
    assert opened(attributes, keys_of("KEYS")) is None


@pytest.mark.parametrize("value", ["", " ", "short", "x,", f"{'A' * 43}=,"])
def test_what_is_no_key_is_not_repeated(monkeypatch, value):
    monkeypatch.setenv("KEYS", value)
    with pytest.raises(EncryptionError, match=r"^KEYS: ") as raised:
        keys_of("KEYS")
    assert not value.strip(" ,") or value.strip(" ,") not in str(raised.value)
    assert "Fernet.generate_key()" in str(raised.value)


def test_a_missing_library_is_named(key, monkeypatch):
    import sys

    monkeypatch.setitem(sys.modules, "cryptography.fernet", None)
    monkeypatch.setenv("KEYS", Fernet.generate_key().decode())
    with pytest.raises(EncryptionError, match=r"pip install 'millstream\[encrypt\]'"):
        keys_of("KEYS")


def test_a_pipeline_holds_the_name_of_its_keys_alone(key):
    pipeline = beam.Pipeline(options=PipelineOptions())
    plain = pipeline | beam.Create([letters([MARK])], reshuffle=False)
    sealed = plain | Encrypt("KEYS")
    proto = pipeline.to_runner_api().SerializeToString()
    assert key.encode() not in proto
    assert key not in str(pickle.dumps(Encrypt("KEYS")))

    def check(batches: list[pa.RecordBatch]) -> None:
        (batch,) = batches
        assert decrypted(batch, keys_of("KEYS"))["payloadBytes"].to_pylist() == [MARK]

    assert_that(sealed, check)
    pipeline.run()
