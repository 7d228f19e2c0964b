"""A job that goes on from run to run while files arrive, and how it stands after each."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any, NamedTuple

import pyarrow.parquet as pq
from millstream.pipelines import exit_codes
from millstream.transforms.carry import Carry, HeldFile
from millstream.transforms.intervals.chain import Chain
from millstream.transforms.runs import RunStore

from tests.pipelines.clicks import JobFolder, ingest

ARRIVALS = (9, 15)
"""How many of the files of a day, each of an hour, arrive before each run."""


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

    def stands(self) -> list[Stand]:
        """How it stands after each run, and at the end, when all windows are closed."""
        return [*(self._run(files) for files in ARRIVALS), self._run(0, "--close_windows")]

    def _run(self, files: int, *arguments: str) -> Stand:
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
            _held(carry),
        )


def _held(carry: Carry) -> dict[str, Any]:
    """The windows that are open: how many records of which file, and their states."""
    return {
        name: (
            {Path(source).name: closing for source, closing in windows.records.items()},
            sorted(str(row) for file in windows.files for row in _states(file)),
        )
        for name, windows in carry.aggregates.items()
    }


def _states(file: HeldFile) -> list[dict[str, Any]]:
    """The rows of a file of states, without the run that they are of. Into how many files they are
    divided is as there are workers."""
    return pq.read_table(file.path).drop_columns(["contribution"]).to_pylist()
