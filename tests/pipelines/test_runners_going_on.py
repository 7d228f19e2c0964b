"""Runs that go on, on every runner that starts here: after each of them the same tables, the same
ledger, and the same windows open."""

from __future__ import annotations

import random
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

import pyarrow.parquet as pq
import pytest
from millstream.pipelines import exit_codes
from millstream.transforms.carry import Carry, HeldFile
from millstream.transforms.intervals.chain import Chain
from millstream.transforms.runs import RunStore

from tests.pipelines.clicks import JobFolder, ingest, page_views

pytestmark = pytest.mark.slow

HOURS = 24
SEEDS = [1]


class Stand(NamedTuple):
    """How a job stands after a run."""

    records: Any
    letters: Any
    views: Any
    late: int
    ledger: list[tuple[Any, ...]]
    positions: dict[str, Any]
    watermark: int
    open: dict[str, Any]


class Following:
    """The example's job, run again and again on a runner while files arrive."""

    def __init__(self, path: Path, day: Path, flags: list[str]) -> None:
        self.folder = JobFolder.make(path)
        job = Path(self.folder.job)
        text = job.read_text("utf-8").replace("[events/*.jsonl, events/*.jsonl.gz]", "[events/*]")
        job.write_text(text + "late: jsonl:warehouse/late\nuntil: now\n", "utf-8")
        self._waiting = sorted(day.iterdir())
        self._flags = flags

    def run(self, *arguments: str, files: int = 0) -> Stand:
        """Have files arrive, run, and see how all stands."""
        for file in self._waiting[:files]:
            shutil.copy(file, self.folder.path / "events")
        del self._waiting[:files]
        command = ["--job", "job.yaml", *self._flags, *arguments]
        done = ingest(*command, cwd=self.folder.path, seconds=240)
        assert done.code == exit_codes.OK, done.err
        return self._stand()

    def _stand(self) -> Stand:
        folder = self.folder
        carry = Chain(RunStore(str(folder.path / "warehouse" / "ledger"))).carry()
        assert carry is not None
        views = folder.page_views()
        assert len(views) == len(folder.table("page_views")), "a window was given twice"
        ledger = [
            tuple(Path(v).name if k == "source" else v for k, v in sorted(row.items()))
            for row in folder.ledger()
        ]
        return Stand(
            folder.records(),
            folder.letters(),
            views,
            len(folder.table("late", "jsonl")),
            sorted(ledger),
            carry.sources,
            carry.watermark,
            held(carry),
        )


def held(carry: Carry) -> dict[str, Any]:
    """The windows that are open: how many records of which file, and their states."""
    return {
        name: (
            {Path(source).name: closing for source, closing in windows.records.items()},
            sorted(str(row) for file in windows.files for row in states(file)),
        )
        for name, windows in carry.aggregates.items()
    }


def states(file: HeldFile) -> list[dict[str, Any]]:
    """The rows of a file of states, without the run that they are of. Into how many files they are
    divided is as there are workers."""
    return pq.read_table(file.path).drop_columns(["contribution"]).to_pylist()


@pytest.fixture(scope="module")
def day(tmp_path_factory) -> Path:
    """The files of a day of 1,200 events, each of an hour."""
    folder = JobFolder.make(tmp_path_factory.mktemp("day") / "day", events=1200)
    assert len(folder.files) == HOURS
    return folder.path / "events"


def cuts(seed: int) -> list[int]:
    """How many files arrive before each run."""
    chance, left, found = random.Random(seed), HOURS, []
    while left:
        found.append(min(left, chance.randint(5, 12)))
        left -= found[-1]
    return found


def stands(job: Following, seed: int) -> Iterator[Stand]:
    for files in cuts(seed):
        yield job.run(files=files)
    yield job.run("--close_windows")


@pytest.fixture(scope="module", params=SEEDS)
def alone(request, day, tmp_path_factory) -> tuple[int, list[Stand]]:
    """What one process makes of it, run after run."""
    job = Following(tmp_path_factory.mktemp("alone") / "job", day, ["--helpers=0"])
    found = list(stands(job, request.param))
    expected = job.folder.expected()
    assert found[-1].records == expected.records
    assert found[-1].letters == expected.letters
    assert found[-1].views == page_views(expected.records)
    assert any(records for records, _ in found[0].open.values()), "a window is left open"
    return request.param, found


def assert_the_same(job: Following, alone: tuple[int, list[Stand]]) -> None:
    seed, expected = alone
    for found, wanted in zip(stands(job, seed), expected, strict=True):
        assert found == wanted


def test_several_worker_processes(day, tmp_path, alone):
    flags = ["--direct_running_mode=multi_processing", "--direct_num_workers=2"]
    assert_the_same(Following(tmp_path / "job", day, flags), alone)


@pytest.mark.service
def test_prism(day, tmp_path, alone, prism):
    flags = ["--runner=PrismRunner", f"--prism_location={prism}"]
    assert_the_same(Following(tmp_path / "job", day, flags), alone)


@pytest.mark.service
def test_dask(day, tmp_path, alone, dask):
    flags = ["--runner=DaskRunner", f"--dask_client_address={dask}"]
    assert_the_same(Following(tmp_path / "job", day, flags), alone)
