"""What fails again in a replay is a further attempt of the letter that it was, and says as much."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import pyarrow as pa
import pytest
from cryptography.fernet import Fernet
from hypothesis import given
from hypothesis import strategies as st
from millstream.schemas.dead_letters import SAYING, SCHEMA
from millstream.transforms.encryption import encrypted, keys_of
from millstream.transforms.replay.frozen import COLUMNS, freeze
from millstream.transforms.replay.reading import KnownLetters

Pairs = list[tuple[str, str | None]]

NAMES = st.sampled_from(["format", "csv.header", "kafka.key", "kafka.header.a", "aggregate"])
PAIRS = st.lists(st.tuples(NAMES, st.none() | st.text(max_size=3)), max_size=4)
LETTERS = st.lists(st.tuples(PAIRS, PAIRS, st.integers(0, 3)), min_size=1, max_size=8)


def letters(said: Sequence[Pairs], attempts: Sequence[int], run: str) -> pa.RecordBatch:
    rows = [
        {
            "id": str(n),
            "payloadBytes": b"%d" % n,
            "attributes": [{"key": key, "value": value} for key, value in pairs] or None,
            "attempt": attempt,
            "run_id": run,
        }
        for n, (pairs, attempt) in enumerate(zip(said, attempts, strict=True))
    ]
    columns: list[Any] = [pa.array([row.get(f.name) for row in rows], f.type) for f in SCHEMA]
    return pa.RecordBatch.from_arrays(columns, schema=SCHEMA)


def frozen(batch: pa.RecordBatch, folder: str, files: int = 1) -> list[str]:
    """The paths of letters that were written down, in so many files."""
    batch = batch.select(list(COLUMNS))
    size = -(-len(batch) // files)
    parts = [batch.slice(at, size) for at in range(0, len(batch), size)]
    return [path for n, part in enumerate(parts) for path in freeze([part], f"{folder}/{n}").paths]


def pairs_of(batch: pa.RecordBatch) -> list[Pairs]:
    return [
        [(pair["key"], pair["value"]) for pair in pairs or ()]
        for pairs in batch.column("attributes").to_pylist()
    ]


@given(LETTERS, st.integers(1, 3), st.randoms())
def test_what_was_known_is_known_again(tmp_path_factory, rows, files, chance):
    known, said, attempts = zip(*rows, strict=True)
    paths = frozen(letters(known, attempts, "first"), str(tmp_path_factory.mktemp("l")), files)
    order = chance.sample(range(len(rows)), chance.randint(1, len(rows)))
    again = letters(said, [0] * len(rows), "second").take(pa.array(order))
    found = KnownLetters(paths).next_attempt(again)
    assert found.column("id").equals(again.column("id"))
    assert found.column("attempt").to_pylist() == [attempts[n] + 1 for n in order]
    assert set(found.column("replay_of").to_pylist()) == {"first"}
    for n, pairs in zip(order, pairs_of(found), strict=True):
        own = {key for key, _ in said[n]} | {"aggregate"}
        assert pairs == [*said[n], *(pair for pair in known[n] if pair[0] not in own)]


@pytest.fixture
def keys(monkeypatch):
    monkeypatch.setenv("LETTER_KEYS", Fernet.generate_key().decode())
    return keys_of("LETTER_KEYS")


KNOWN: Pairs = [("format", "csv"), ("kafka.key", "ann@example.org")]


def test_what_was_sealed_is_opened_to_be_sealed_again(keys, tmp_path):
    paths = frozen(encrypted(letters([KNOWN], [0], "first"), keys), str(tmp_path))
    found = KnownLetters(paths, "LETTER_KEYS").next_attempt(letters([[]], [0], "second"))
    assert pairs_of(found) == [KNOWN]


@pytest.mark.parametrize("variable", ["", "LETTER_KEYS"])
def test_nothing_personal_is_said_beside_what_is_sealed(keys, tmp_path, variable):
    """A destination's refusals are sealed already; without keys nothing can be opened."""
    plain = letters([KNOWN], [0], "first")
    paths = frozen(plain if variable else encrypted(plain, keys), str(tmp_path))
    again = letters([[]], [0], "second")
    found = KnownLetters(paths, variable).next_attempt(
        encrypted(again, keys) if variable else again
    )
    (pairs,) = pairs_of(found)
    assert [pair for pair in pairs if pair[0] in SAYING] == [("format", "csv")]
    assert "ann" not in str(pairs)
