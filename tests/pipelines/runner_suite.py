"""What every runner must do alike: whole jobs through the command line, held against an independent
judgement of the same input, and against what one process makes of it.

A subclass of :class:`RunnerSuite` names a runner by its flags, and says what it cannot do. A test
module that has one imports the fixtures :func:`clicks`, :func:`day` and :func:`alone` too.
"""

from __future__ import annotations

import json
import math
import random
import re
import shutil
import sys
import time
from collections import Counter
from dataclasses import dataclass
from decimal import Decimal
from functools import cached_property
from pathlib import Path
from typing import Any

import pytest
from millstream.pipelines import exit_codes

from tests.pipelines import test_formats as formats
from tests.pipelines.clicks import (
    Done,
    JobFolder,
    as_decimal,
    ingest,
    judge,
    page_views,
)
from tests.pipelines.following import Following, Stand
from tests.pipelines.kafka_jobs import Live
from tests.pipelines.test_stream_jobs import StreamJob

FLOATS = """
- name: page_views
  window: {fixed: 1m}
  by: [page, event_type]
  metrics: {events: count(), revenue: sum(amount), visitors: approx_distinct(user_id)}
  output: parquet:warehouse/page_views
- name: means
  window: {fixed: 2h}
  by: [event_type]
  metrics: {mean: mean(amount)}
  output: parquet:warehouse/means
"""
"""The aggregates of the example, and one whose result is a float."""

BAD = 1000
"""Records of the job that is mostly broken that are broken."""
STEPS = """
- sql: SELECT *, amount * quantity AS total FROM records WHERE page <> '/search'
"""
_RUN_SECONDS = 240
_STREAM_SECONDS = 120


@dataclass(frozen=True)
class Alone:
    """What one process makes of the jobs."""

    path: Path
    clicks: JobFolder
    day: Path

    @cached_property
    def whole(self) -> JobFolder:
        folder, done = whole(self.clicks, self.path / "whole", "--helpers=0")
        assert (done.code, done.err) == (exit_codes.OK, ""), done.err
        return folder

    @cached_property
    def stands(self) -> list[Stand]:
        job = Following(self.path / "stands", self.day, ["--helpers=0"])
        found = job.stands()
        expected = job.folder.expected()
        assert found[-1].records == expected.records
        assert found[-1].letters == expected.letters
        assert found[-1].views == page_views(expected.records)
        assert any(records for records, _ in found[0].open.values()), "a window is left open"
        return found

    @cached_property
    def orders(self) -> formats.Outcome:
        outcome, done = orders(self.path / "orders", "orders.jsonl", "--helpers=0")
        assert done.code == exit_codes.OK, done.err
        return outcome()


@pytest.fixture(scope="module")
def clicks(tmp_path_factory) -> JobFolder:
    """A day of 2,400 events, about 1 % of them broken."""
    return JobFolder.make(tmp_path_factory.mktemp("clicks") / "job", events=2400)


@pytest.fixture(scope="module")
def day(tmp_path_factory) -> Path:
    """The files of a day of 1,200 events, each of an hour."""
    return JobFolder.make(tmp_path_factory.mktemp("day") / "day", events=1200).path / "events"


@pytest.fixture(scope="module")
def alone(tmp_path_factory, clicks, day) -> Alone:
    return Alone(tmp_path_factory.mktemp("alone"), clicks, day)


class RunnerSuite:
    """A runner, by the fixture ``flags`` that a subclass has."""

    cannot: frozenset[str] = frozenset()
    """``stream``: it runs no unbounded jobs. ``be killed``: its workers outlive the launcher."""

    @pytest.fixture
    def flags(self) -> list[str]:
        raise NotImplementedError

    def test_a_whole_job(self, flags, clicks, alone, tmp_path):
        """Records, dead letters, two aggregates and the ledger, from plain and packed files."""
        folder, done = whole(clicks, tmp_path, *flags)
        assert done.code == exit_codes.OK, done.err
        assert "balanced" in done.out
        expected = folder.expected()
        assert folder.records() == expected.records
        assert folder.letters() == expected.letters
        assert folder.page_views() == page_views(expected.records)
        assert means(folder) == pytest.approx(means(alone.whole), rel=1e-12, nan_ok=True)
        assert len(means(folder)) == 12 * 4
        assert ledger(folder) == ledger(alone.whole)
        assert folder.staged() == []
        again = ingest(
            "--job", "job.yaml", "--aggregates", FLOATS, *flags, cwd=folder.path, seconds=60
        )
        assert again.code == exit_codes.OK
        assert "committed already: nothing to do" in again.err

    def test_a_thousand_bad_records_do_no_harm(self, flags, clicks, tmp_path):
        """Every record that is fit goes through a step, every other to the dead letters."""
        folder = JobFolder.make(tmp_path / "job")
        folder.put("mostly.jsonl", mostly_bad(clicks))
        only = ["--input=events/mostly.jsonl", "--steps", STEPS, "--aggregates", "[]"]
        arguments = ["--job", "job.yaml", *only, *flags]
        done = ingest(*arguments, cwd=folder.path, seconds=_RUN_SECONDS)
        assert done.code == exit_codes.OK, done.err
        expected = folder.expected()
        assert expected.letters.total() == BAD
        assert folder.letters() == expected.letters
        kept = [row for row in expected.records.elements() if row[4] != "/search"]
        assert 0 < len(kept) < expected.records.total()
        totals = Counter((row["event_id"], as_decimal(row["total"])) for row in folder.table())
        assert totals == Counter((row[0], _product(row[5], row[6])) for row in kept)
        rows = {(row["read"], row["written"], row["dead"], row["filtered"])
                for row in folder.ledger() if row["output"] == "records"}  # fmt: skip
        read, written = expected.read.total(), len(kept)
        assert rows == {(read, written, BAD, read - written - BAD)}

    @pytest.mark.parametrize("name", ["orders.csv", "deflate.avro"])
    def test_formats(self, flags, alone, tmp_path, name):
        outcome, done = orders(tmp_path / "orders", name, *flags)
        assert done.code == exit_codes.OK, done.err
        found = outcome()
        assert sum(found.letters.values()) > 300
        assert vars(found) == vars(alone.orders)

    def test_runs_that_go_on(self, flags, day, alone, tmp_path):
        """After each the same tables, the same ledger, and the same windows open."""
        found = Following(tmp_path / "job", day, flags).stands()
        for stand, wanted in zip(found, alone.stands, strict=True):
            assert stand == wanted

    def test_an_error_is_told_in_one_line(self, flags, clicks, tmp_path):
        (tmp_path / "file").write_text("in the way", "utf-8")
        folder, done = whole(clicks, tmp_path, *flags, f"--output=parquet:{tmp_path}/file/below")
        assert done.code == exit_codes.FAILED
        # Beam's workers log what they like; what failed is the one line that is ours.
        (ours,) = [line for line in done.err.splitlines() if "the run failed" in line]
        assert ours.startswith(
            f"millstream: the run failed: cannot write {tmp_path}/file/below/"
        ), done.err
        assert "a part of the path is a file, not a folder (in step " in ours, done.err
        assert folder.visible() == []

    def test_a_stream_is_killed_and_goes_on(self, flags, tmp_path):
        """Windows are given while it runs; nothing is lost or doubled when it dies."""
        if "stream" in self.cannot:
            refused = ingest("--job=job.yaml", "--streaming", "--input=generate://", *flags,
                             cwd=JobFolder.make(tmp_path / "job").path)  # fmt: skip
            assert refused.code == exit_codes.USAGE
            assert "cannot run an unbounded job; use --runner=PrismRunner" in refused.err
            return
        job = StreamJob.make(tmp_path / "job", lines="helpers: 0\n")
        with self._live(job, flags) as live:
            live.until(lambda: job.chain.newest() > 1, _STREAM_SECONDS)
            if "be killed" not in self.cannot:
                time.sleep(random.Random(4).uniform(0, 1))
                live.kill()
        with self._live(job, flags) as live:
            live.until(job.commits(2), _STREAM_SECONDS)
            assert job.folder.page_views()
        assert live.code == exit_codes.OK, live.said
        assert re.search(r"stopped after \d+ s and \d+ commits: \w+", live.said)
        assert job.run("--close_windows") == exit_codes.OK
        job.assert_exact()

    def _live(self, job: StreamJob, flags: list[str]) -> Live:
        command = [sys.executable, "-m", "millstream.pipelines.cli", "ingest", "--job"]
        arguments = [job.folder.job, "--streaming", *flags]
        return Live([*command, *arguments], job.folder.path / "live.log")


def whole(clicks: JobFolder, path: Path, *flags: str) -> tuple[JobFolder, Done]:
    """Run the example's job over its input, in a process and a folder of its own."""
    folder = JobFolder.make(path / "job")
    shutil.copytree(clicks.path / "events", folder.path / "events", dirs_exist_ok=True)
    arguments = ["--job", "job.yaml", "--aggregates", FLOATS, *flags]
    return folder, ingest(*arguments, cwd=folder.path, seconds=_RUN_SECONDS)


def means(folder: JobFolder) -> dict[Any, float]:
    return {
        (row["window_start"], row["event_type"]): math.nan if row["mean"] is None else row["mean"]
        for row in folder.table("means")
    }


def ledger(folder: JobFolder) -> list[tuple]:
    """The ledger's rows, without what differs from folder to folder."""
    return sorted(
        (row["output"], Path(row["source"]).name, row["read"], row["written"], row["dead"])
        for row in folder.ledger()
    )


def mostly_bad(clicks: JobFolder) -> bytes:
    """So many broken records among some that are fit, each broken in one of several ways."""
    fit = [
        line
        for file in clicks.files
        if file.suffix == ".jsonl"
        for line in file.read_bytes().splitlines()
        if not judge(line)[0]
    ]
    chance = random.Random(7)
    broken = [chance.choice(_BREAKS)(fit[n % len(fit)]) for n in range(BAD)]
    lines = [*fit[:400], *broken]
    chance.shuffle(lines)
    return b"\n".join(lines) + b"\n"


def _with(**said: Any) -> Any:
    return lambda line: json.dumps({**json.loads(line), **said}).encode()


_BREAKS = [
    lambda line: line[:-1],
    lambda line: b"\xff" + line,
    lambda line: line + b"}",
    lambda line: b"null",
    _with(ts="yesterday"),
    _with(event_id=7),
    _with(quantity=0, page=""),
    _with(event_type="sell"),
]


def _product(amount: Decimal | None, quantity: int | None) -> Decimal | None:
    return None if amount is None or quantity is None else amount * quantity


def orders(folder: Path, name: str, *flags: str) -> tuple[Any, Done]:
    """Run the job of the formats over a file; gives what says what came of it."""
    folder.mkdir()
    (folder / "orders.odcs.yaml").write_text(formats.CONTRACT)
    (folder / "job.yaml").write_text(formats.JOB)
    packed, encode = formats.FORMS[name]
    (folder / name).write_bytes(formats.COMPRESSIONS[packed](encode(formats.orders())))
    arguments = ["--job", "job.yaml", "--input", name, *flags]
    done = ingest(*arguments, cwd=folder, seconds=_RUN_SECONDS)
    return lambda: formats.Outcome(folder), done
