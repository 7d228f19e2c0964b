"""Manifests of many commits: earlier entries lie in files of their own, and nobody notices."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from millstream.transforms import storage
from millstream.transforms.write import manifests
from millstream.transforms.write.manifests import (
    Entry,
    Manifest,
    ManifestFile,
    append,
    find_entry,
    read_all,
    read_manifest,
    tidy_manifests,
    unused_older,
)
from storage_support import crash_points, interleave

NAMES = st.tuples(st.sampled_from(["events", "late"]), st.sampled_from("abcdefgh"))


@pytest.fixture(autouse=True)
def small(monkeypatch):
    """So that a few commits do what thousands would."""
    monkeypatch.setattr(manifests, "FOLD_ENTRIES", 2)
    monkeypatch.setattr(manifests, "MERGE_FILES", 2)
    monkeypatch.setattr(manifests, "KEEP", 3)


def entry(output: str = "events", run_id: str = "r1", number: int = 0) -> Entry:
    file = ManifestFile(f"{output}-{run_id}-{number}.parquet", "data", number, 1, "0" * 64)
    token = f"{run_id}-{number:016x}"
    return Entry(output=output, run_id=run_id, token=token, digest="d", rows=number, files=(file,))


def commit(folder: str, new: Entry) -> None:
    while True:
        manifest, held = find_entry(folder, *new.key)
        if held == new:
            return tidy_manifests(folder)
        append(folder, manifest, [new])


def older_files(folder: str) -> list[Path]:
    return sorted((Path(folder) / "_millstream/manifests/older").glob("*"))


@settings(max_examples=60, deadline=None)
@given(names=st.lists(NAMES, max_size=40))
def test_every_entry_is_found_and_the_last_one_counts(tmp_path_factory, names):
    folder = str(tmp_path_factory.mktemp("folder"))
    wanted: dict[Any, Entry] = {}
    for number, name in enumerate(names):
        new = entry(name[0], name[1], number)
        commit(folder, new)
        wanted.pop(new.key, None)
        wanted[new.key] = new
        newest, _ = read_all(folder)
        assert len(newest.entries) <= manifests.FOLD_ENTRIES
        levels = [int(name[0]) for name in newest.older]
        assert levels == sorted(set(levels), reverse=True), "one file a level, the oldest first"
    assert read_manifest(folder).entries == tuple(wanted.values())
    for key, new in wanted.items():
        assert find_entry(folder, *key)[1] == new
    assert find_entry(folder, "events", "never")[1] is None


def test_what_a_commit_writes_does_not_grow(tmp_path, monkeypatch):
    monkeypatch.setattr(manifests, "FOLD_ENTRIES", 8)
    monkeypatch.setattr(manifests, "MERGE_FILES", 4)
    folder = str(tmp_path)
    sizes = []
    for number in range(300):
        commit(folder, entry(run_id=f"r{number:04d}", number=number))
        sizes.append(Path(manifests.manifests(folder)[-1]).stat().st_size)
    assert max(sizes[200:]) <= 1.2 * max(sizes[:100])
    assert [e.rows for e in read_manifest(folder).entries] == list(range(300))
    assert len(older_files(folder)) <= 3 * 4 + manifests.KEEP


def test_a_reader_of_json_finds_all_entries(tmp_path):
    """As the README says it, without a line of ours."""
    folder = str(tmp_path)
    for number in range(20):
        commit(folder, entry(run_id=f"r{number}", number=number))
    place = tmp_path / "_millstream/manifests"
    newest = json.loads(max(place.glob("*.json")).read_text())
    assert newest["format"] == "millstream.manifest/2"
    older = [json.loads((place / "older" / name).read_text()) for name in newest["older"]]
    found = {(e["output"], e["run_id"]): e for part in [*older, newest] for e in part["entries"]}
    assert [e["rows"] for e in found.values()] == list(range(20))


def test_older_files_that_nothing_names_are_deleted(tmp_path):
    folder = str(tmp_path)
    for number in range(60):
        commit(folder, entry(run_id=f"r{number}", number=number))
        named = {name for path in manifests.manifests(folder)[-3:] for name in _named(path)}
        lying = {path.name for path in older_files(folder)}
        assert named <= lying
        assert not unused_older(folder) or len(lying - named) <= 2 * manifests.KEEP
    lost = Path(folder) / "_millstream/manifests/older/0-00000001-0123456789abcdef.json"
    lost.write_text("{}")
    assert unused_older(folder) == [str(lost)]
    young = lost.with_name("0-00000061-0123456789abcdef.json")
    young.write_text("{}")
    assert str(young) not in unused_older(folder), "its manifest may be about to be written"


def _named(path: str) -> list[str]:
    return json.loads(Path(path).read_text()).get("older", [])


@pytest.mark.slow
def test_a_commit_that_dies_anywhere_can_be_repeated(tmp_path_factory):
    def prepare() -> str:
        folder = str(tmp_path_factory.mktemp("crash"))
        for number in range(8):  # the next commit merges files of two levels
            commit(folder, entry(run_id=f"r{number}", number=number))
        return folder

    points = 0
    for folder in crash_points(lambda f: commit(f, entry(run_id="new", number=9)), prepare):
        points += 1
        runs = [e.run_id for e in read_manifest(folder).entries]
        assert runs[:8] == [f"r{n}" for n in range(8)]
        assert runs[8:] in ([], ["new"])
        commit(folder, entry(run_id="new", number=9))
        assert [e.run_id for e in read_manifest(folder).entries] == [*runs[:8], "new"]
    assert points > 8


@settings(max_examples=60, deadline=None)
@given(schedule=st.lists(st.integers(0, 2), max_size=120))
def test_racing_commits_are_all_there(tmp_path_factory, schedule):
    folder = str(tmp_path_factory.mktemp("race"))

    def commits(number: int) -> Any:
        def work() -> None:
            for step in range(4):
                commit(folder, entry(run_id=f"r{number}-{step}", number=step))

        return work

    assert interleave(iter(schedule), *map(commits, range(3))) == [None] * 3
    found = sorted(e.run_id for e in read_manifest(folder).entries)
    assert found == sorted(f"r{n}-{s}" for n in range(3) for s in range(4))


def test_an_older_file_that_is_broken_is_named(tmp_path):
    folder = str(tmp_path)
    for number in range(3):
        commit(folder, entry(run_id=f"r{number}", number=number))
    (path,) = older_files(folder)
    path.write_text("[]")
    with pytest.raises(storage.StorageError, match=rf"{path.name}: not of a manifest"):
        read_manifest(folder)


def test_golden_layered_manifest(golden):
    golden(
        "manifest-2",
        Manifest(
            format=manifests.LAYERED_FORMAT,
            version=700,
            older=("1-00000512-0123456789abcdef.json", "0-00000640-fedcba9876543210.json"),
            entries=(entry(number=7),),
        ),
    )
