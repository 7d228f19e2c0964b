"""Marks: appended, never changed; the newest says what became of a letter."""

from __future__ import annotations

import datetime as dt
from pathlib import Path

import pyarrow as pa
import pytest
from hypothesis import given
from hypothesis import strategies as st
from millstream.transforms.letters import Entry, Marks
from millstream.transforms.plan import PlanError
from millstream.transforms.storage import StorageError

AT = dt.datetime(2026, 11, 29, 12, tzinfo=dt.UTC)
IDS = ("a", "b", "c")
ENTRIES = st.builds(
    Entry,
    st.sampled_from(IDS),
    st.integers(0, 2),
    st.sampled_from(["replayed", "failed", "discarded"]),
)


def statuses(marks: Marks, *letters: tuple[str, int | None]) -> list[str | None]:
    ids, attempts = zip(*letters, strict=True)
    return marks.statuses(pa.array(ids), pa.array(attempts, pa.int32())).to_pylist()


def test_a_letter_without_marks_is_open(tmp_path):
    marks = Marks(str(tmp_path))
    assert marks.is_empty
    assert statuses(marks, ("a", 0), ("b", None)) == ["open", "open"]
    assert marks.statuses(pa.array([], pa.string()), pa.array([], pa.int32())).to_pylist() == []


def test_the_newest_mark_counts(tmp_path):
    marks = Marks(str(tmp_path))
    assert marks.append("r1", [Entry("a", 0, "replayed"), Entry("b", 1, "failed")], at=AT)
    assert marks.append("r2", [Entry("a", 0, "discarded")], reason="not ours", at=AT)
    assert statuses(marks, ("a", 0), ("b", 1), ("c", 0)) == ["discarded", "failed", "open"]
    assert [(m.outcome, m.run_id, m.reason) for m in marks.of("a")] == [
        ("replayed", "r1", ""),
        ("discarded", "r2", "not ours"),
    ]
    assert marks.of("a")[0].at == "2026-11-29T12:00:00.000000Z"


def test_an_attempt_that_failed_again_stands_in_the_place_of_those_before(tmp_path):
    marks = Marks(str(tmp_path))
    marks.append("r1", [Entry("a", 1, "failed")])
    assert statuses(marks, ("a", None), ("a", 0), ("a", 1), ("a", 2)) == [
        None, None, "failed", "open",
    ]  # fmt: skip


def test_a_run_marks_once(tmp_path):
    marks = Marks(str(tmp_path))
    assert marks.append("r1", [Entry("a", 0, "replayed")])
    assert not marks.append("r1", [Entry("b", 0, "replayed")])
    assert not Marks(str(tmp_path)).append("r1", [Entry("b", 0, "replayed")])
    assert statuses(marks, ("a", 0), ("b", 0)) == ["replayed", "open"]
    with pytest.raises(PlanError, match="run id"):
        marks.append("../r", [])


def test_marks_that_are_there_are_never_written_again(tmp_path):
    marks = Marks(str(tmp_path))
    marks.append("r1", [Entry("a", 0, "replayed")])
    (path,) = (tmp_path / "_millstream" / "marks").iterdir()
    before = path.read_bytes()
    marks.append("r2", [Entry("a", 0, "discarded")])
    assert path.read_bytes() == before
    assert path.name == "0000000001-r1.json"


def test_the_format(tmp_path, golden):
    marks = Marks(str(tmp_path))
    marks.append("r1", [Entry("a", 0, "replayed"), Entry("b", 2, "failed")], reason="ok", at=AT)
    (path,) = (tmp_path / "_millstream" / "marks").iterdir()
    golden("mark", path.read_bytes())


@pytest.mark.parametrize(
    ("data", "said"),
    [
        (b"{}", "no marks"),
        (b'{"format": "millstream.mark/2", "run_id": "r", "at": "", "marks": []}', "mark/2"),
    ],
)
def test_what_is_no_marks_file_is_named(tmp_path, data, said):
    path = tmp_path / "_millstream" / "marks" / "0000000001-r.json"
    path.parent.mkdir(parents=True)
    path.write_bytes(data)
    with pytest.raises(StorageError, match=said) as raised:
        statuses(Marks(str(tmp_path)), ("a", 0))
    assert str(path) in str(raised.value)


@given(commits=st.lists(st.lists(ENTRIES, max_size=4), max_size=4))
def test_statuses_are_those_of_a_plain_reading(tmp_path_factory, commits):
    home: Path = tmp_path_factory.mktemp("marks")
    marks = Marks(str(home))
    newest: dict[str, Entry] = {}
    for number, entries in enumerate(commits):
        marks.append(f"r{number}", entries)
        newest.update((entry.id, entry) for entry in entries)
    for letter in [(i, attempt) for i in IDS for attempt in range(4)]:
        mark = newest.get(letter[0])
        if mark is None or letter[1] > mark.attempt:
            expected = "open"
        else:
            expected = mark.outcome if letter[1] == mark.attempt else None
        assert statuses(marks, letter) == [expected]
