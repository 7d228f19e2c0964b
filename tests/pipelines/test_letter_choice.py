"""Which letters a replay reads: those that somebody would choose who looks at one by one."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Sequence
from pathlib import Path
from types import SimpleNamespace
from typing import Any, NamedTuple

import pyarrow as pa
import pytest
from cryptography.fernet import Fernet
from hypothesis import example, given, settings
from hypothesis import strategies as st
from millstream.pipelines import letter_choice
from millstream.schemas.contract import Contract, Field
from millstream.schemas.csv.options import CsvOptions
from millstream.schemas.dead_letters import SCHEMA
from millstream.transforms.encryption import ENCRYPTION, FERNET, KEY, keys_of
from millstream.transforms.letters import EVERY, Entry, Marks
from millstream.transforms.replay.frozen import FROZEN

OURS, THEIRS = "A" * 43 + "=", "B" * 42 + "A="


def name_of(key: str) -> str:
    """What letters call a key."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("KEY", key)
        return keys_of("KEY").first


NAMES = {key: name_of(key) for key in (OURS, THEIRS)}
NO_BYTES = "their bytes are not held"
NO_KEY = "they are encrypted, and the job names no keys (encrypt_dead_letters)"
NO_HEADER = "their file, whose header it takes to read them, is not to be had"
CONTRACT = Contract("c", "1", "c", (Field("a", "string"), Field("b", "string")))
CSV = {"format": "csv", "csv.header": "a,b"}


class Kind(NamedTuple):
    """What a letter is like. ``sealed`` is the key that it is encrypted with."""

    held: str = "bytes"
    position: str | None = "7"
    says: bool = False
    sealed: str = ""
    source: str | None = "there.csv"


KINDS = st.builds(
    Kind,
    st.sampled_from(["bytes", "text", "empty", "none"]),
    st.sampled_from([None, "7", "0-9", "9-"]),
    st.booleans(),
    st.sampled_from(["", "", OURS, THEIRS]),
    st.sampled_from(["there.csv", "gone.csv"]),
)
# By an id it is known what a letter holds; of late records there may be one for each aggregate.
LETTERS = st.tuples(
    st.integers(0, 5), st.none() | st.integers(0, 2), st.sampled_from([None, "x", "y"])
)
MARKS = st.builds(
    Entry,
    st.integers(0, 5).map(str),
    st.integers(0, 2),
    st.sampled_from(["replayed", "failed", "discarded"]),
)


def row_of(number: int, attempt: int | None, late_for: str | None, kind: Kind) -> dict[str, Any]:
    payload = {"bytes": b"%d,x" % number, "text": b"%d,y" % number, "empty": b""}.get(kind.held)
    pairs = [("kafka.key", None)] if number % 2 else []
    pairs += [("aggregate", late_for)] if late_for else []
    pairs += CSV.items() if kind.says else []
    if kind.sealed:
        payload = payload if payload is None else Fernet(kind.sealed).encrypt(payload)
        pairs += [(ENCRYPTION, FERNET), (KEY, NAMES[kind.sealed])]
    is_text = kind.held == "text"
    return {
        "id": str(number),
        "attempt": attempt,
        "run_id": "r",
        "source": kind.source,
        "position": kind.position,
        "payloadBytes": None if is_text else payload,
        "payloadString": payload.decode() if is_text and payload else None,
        "attributes": [{"key": key, "value": value} for key, value in pairs] or None,
    }


class Held:
    """Letters as they lie: in batches."""

    def __init__(self, rows: Sequence[dict[str, Any]], sizes: Sequence[int]) -> None:
        self._rows = rows
        self._sizes = sizes

    def batches(self, where: object, columns: Sequence[str]) -> Iterator[pa.RecordBatch]:
        rest = pa.RecordBatch.from_pylist(list(self._rows), SCHEMA).select(list(columns))
        for size in (*self._sizes, len(rest)):
            if len(rest):
                yield rest.slice(0, size)  # whose lists do not begin where the arrays do
            rest = rest.slice(size)


def status(row: dict[str, Any], marks: Sequence[Entry]) -> str | None:
    newest = next((mark for mark in reversed(marks) if mark.id == row["id"]), None)
    attempt = row["attempt"] or 0
    if newest is None or attempt > newest.attempt:
        return "open"
    return newest.outcome if attempt == newest.attempt else None


def why_left(row: dict[str, Any], kind: Kind, form: str | None, keys: str) -> str:
    if kind.held == "none" or "-" in (row["position"] or ""):
        return NO_BYTES
    if kind.sealed and not keys:
        return NO_KEY
    if kind.sealed and kind.sealed not in keys:
        return f"their key {NAMES[kind.sealed]} is not among those of LETTER_KEYS"
    if form == "csv" and not kind.says and row["source"].endswith("gone.csv"):
        return NO_HEADER
    return ""


Outline = tuple[Any, ...]


def outline(row: dict[str, Any], more: dict[str, str] | None = None) -> Outline:
    """What is the same of a letter whichever of its attempts is taken."""
    pairs = [(pair["key"], pair["value"]) for pair in row["attributes"] or ()]
    pairs += (more or {}).items()
    payload = row["payloadBytes"]
    if payload is None and row.get("payloadString") is not None:
        payload = row["payloadString"].encode()
    told = sorted((key, value or "") for key, value in pairs if key != "csv.options")
    return row["id"], payload, row["source"], row["position"], tuple(told)


@pytest.fixture(scope="module")
def files(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("files")
    (folder / "there.csv").write_text("a,b\n1,x\n")
    return folder


@settings(max_examples=80, deadline=None)
@given(
    st.lists(LETTERS, max_size=12),
    st.tuples(*[KINDS] * 6),
    st.lists(MARKS, max_size=4),
    st.lists(st.integers(1, 4), max_size=4),
    st.sampled_from([None, "csv"]),
    st.sampled_from(["", OURS, f"{THEIRS},{OURS}"]),
)
@example([(0, 0, None)] * 2, (Kind(),) * 6, [], [1], "csv", "")
@example([(0, 0, "x"), (0, 0, "y"), (0, 1, "x")], (Kind(says=True),) * 6, [], [], "csv", "")
@example([(1, None, None)], (Kind(sealed=THEIRS),) * 6, [], [], None, OURS)
def test_what_is_replayed_is_what_somebody_would_choose(
    tmp_path_factory, files, letters, kinds, marks, sizes, form, keys
):
    kinds = [kind._replace(source=str(files / kind.source)) for kind in kinds]
    rows = [row_of(number, attempt, late, kinds[number]) for number, attempt, late in letters]
    home = str(tmp_path_factory.mktemp("state"))
    for run, mark in enumerate(marks):
        Marks(home).append(f"r{run}", [mark])
    variable = "LETTER_KEYS" if keys else None
    job = SimpleNamespace(
        format=form, csv=CsvOptions(), compression="auto", encrypt_dead_letters=variable
    )
    run: Any = SimpleNamespace(store=SimpleNamespace(home=home), job=job, contract=CONTRACT)
    held: Any = Held(rows, sizes)
    said: list[str] = []
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("LETTER_KEYS", keys)
        patch.setattr(letter_choice, "say", lambda text, level: said.append(text))
        choice = letter_choice.LetterChoice(held, EVERY, run)
        batches = list(choice.batches())
        choice.say_left()
    assert all(batch.schema == FROZEN for batch in batches)

    chosen: dict[tuple[str, str | None], Outline] = {}
    left: Counter[str] = Counter()
    for row, (number, _, late) in zip(rows, letters, strict=True):
        kind = kinds[number]
        if status(row, marks) not in ("open", "failed"):
            continue
        if why := why_left(row, kind, form, keys):
            left[why] += 1
            continue
        reads_header = form == "csv" and not kind.says
        chosen.setdefault((row["id"], late), outline(row, CSV if reads_header else {}))
    found = [outline(row) for batch in batches for row in batch.to_pylist()]
    assert Counter(found) == Counter(chosen.values())
    counts = {text.split(": ")[1]: int(text.split()[0]) for text in said}
    assert counts == left
