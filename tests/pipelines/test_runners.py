"""The same job on every runner that starts here: the same records, dead letters and aggregates."""

from __future__ import annotations

import logging
import math
import shutil
from pathlib import Path
from typing import Any

import psutil
import pytest
from millstream.pipelines import exit_codes
from millstream.pipelines.runners import for_streams, quiet_beam, root_message

from tests.pipelines.clicks import Done, JobFolder, ingest, page_views

pytestmark = pytest.mark.slow

PROCESSES = ["--direct_running_mode=multi_processing", "--direct_num_workers=2"]

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


@pytest.fixture(scope="module")
def files(tmp_path_factory) -> Path:
    return JobFolder.make(tmp_path_factory.mktemp("runners") / "job", events=2400).path


def run(files: Path, tmp_path: Path, *flags: str) -> tuple[JobFolder, Done]:
    """Run the job over the same input, in a process and a folder of its own."""
    folder = JobFolder.make(tmp_path / "job")
    shutil.copytree(files / "events", folder.path / "events", dirs_exist_ok=True)
    arguments = ["--job", "job.yaml", "--aggregates", FLOATS, *flags]
    return folder, ingest(*arguments, cwd=folder.path, seconds=240)


def means(folder: JobFolder) -> dict[Any, float]:
    return {
        (row["window_start"], row["event_type"]): math.nan if row["mean"] is None else row["mean"]
        for row in folder.table("means")
    }


@pytest.fixture(scope="module")
def alone(files, tmp_path_factory) -> JobFolder:
    """What one process makes of it."""
    folder, done = run(files, tmp_path_factory.mktemp("alone"), "--helpers=0")
    assert done.code == exit_codes.OK, done.err
    assert done.err == ""
    return folder


def assert_same(folder: JobFolder, alone: JobFolder) -> None:
    expected = folder.expected()
    assert folder.records() == expected.records
    assert folder.letters() == expected.letters
    assert folder.page_views() == page_views(expected.records)
    assert means(folder) == pytest.approx(means(alone), rel=1e-12, nan_ok=True)
    assert ledger(folder) == ledger(alone)
    assert folder.staged() == []


def ledger(folder: JobFolder) -> list[tuple]:
    """The ledger's rows, without what differs from folder to folder."""
    return sorted(
        (row["output"], Path(row["source"]).name, row["read"], row["written"], row["dead"])
        for row in folder.ledger()
    )


def test_one_process(alone):
    assert_same(alone, alone)
    assert len(means(alone)) == 12 * 4


def test_helper_processes(files, tmp_path, alone):
    folder, done = run(files, tmp_path, "--helpers=2")
    assert (done.code, done.err) == (exit_codes.OK, "")
    assert_same(folder, alone)


def test_several_worker_processes(files, tmp_path, alone):
    folder, done = run(files, tmp_path, *PROCESSES)
    assert done.code == exit_codes.OK, done.err
    assert "balanced" in done.out
    assert_same(folder, alone)


def test_an_error_in_a_worker_process_is_told_in_one_line(files, tmp_path):
    (tmp_path / "file").write_text("in the way", "utf-8")
    folder, done = run(files, tmp_path, *PROCESSES, f"--output=parquet:{tmp_path}/file/below")
    assert done.code == exit_codes.FAILED
    assert_told_last(done, f"cannot write {tmp_path}/file/below/")
    assert folder.visible() == []


@pytest.mark.service
def test_prism(files, tmp_path, alone, prism):
    flags = ["--runner=PrismRunner", f"--prism_location={prism}"]
    folder, done = run(files, tmp_path, *flags)
    assert done.code == exit_codes.OK, done.err
    assert_same(folder, alone)
    again = ingest("--job", "job.yaml", "--aggregates", FLOATS, *flags, cwd=folder.path)
    assert again.code == exit_codes.OK
    assert "committed already: nothing to do" in again.err


@pytest.mark.service
def test_prism_ends_with_the_run(files, tmp_path, prism):
    """A server that nobody needs any more would stay for ever."""
    ours = tmp_path / "prism"
    shutil.copy(prism, ours)
    _, done = run(files, tmp_path, "--runner=PrismRunner", f"--prism_location={ours}")
    assert done.code == exit_codes.OK, done.err
    left = [p for p in psutil.process_iter(["cmdline"]) if str(ours) in (p.info["cmdline"] or [])]
    assert left == []


@pytest.mark.service
def test_an_error_on_prism_is_told_in_one_line(files, tmp_path, prism):
    (tmp_path / "file").write_text("in the way", "utf-8")
    flags = ["--runner=PrismRunner", f"--prism_location={prism}"]
    folder, done = run(files, tmp_path, *flags, f"--output=parquet:{tmp_path}/file/below")
    assert done.code == exit_codes.FAILED
    assert_told_last(done, f"cannot write {tmp_path}/file/below/")
    assert folder.visible() == []


@pytest.mark.service
def test_dask(files, tmp_path, alone, dask):
    folder, done = run(
        files, tmp_path, "--runner=DaskRunner", f"--dask_client_address={dask}", "--shards=3"
    )
    assert done.code == exit_codes.OK, done.err
    assert_same(folder, alone)


@pytest.mark.service
def test_an_error_on_dask_is_told_in_one_line(files, tmp_path, dask):
    (tmp_path / "file").write_text("in the way", "utf-8")
    flags = ["--runner=DaskRunner", f"--dask_client_address={dask}"]
    folder, done = run(files, tmp_path, *flags, f"--output=parquet:{tmp_path}/file/below")
    assert done.code == exit_codes.FAILED
    assert_told_last(done, f"cannot write {tmp_path}/file/below/")
    assert folder.visible() == []


def assert_told_last(done: Done, what: str) -> None:
    """Beam's workers log what they like; what failed is the one line that is ours."""
    (ours,) = [line for line in done.err.splitlines() if line.startswith("millstream: ")]
    assert ours.startswith(f"millstream: the run failed: {what}")
    assert "a part of the path is a file, not a folder (in step " in ours


def test_direct_runner_is_the_local_batch_runner(files, tmp_path, alone):
    folder, done = run(files, tmp_path, "--runner=DirectRunner", "--helpers=0")
    assert done.code == exit_codes.OK, done.err
    assert done.err == "millstream: DirectRunner: running on Beam's FnApiRunner\n"
    assert_same(folder, alone)
    manifests = folder.path / "warehouse/clicks/_millstream/manifests"
    assert [p.name for p in manifests.iterdir()] == ["00000001.json"], "it ran more than once"


def test_direct_runner_refuses_an_unbounded_job(files, tmp_path):
    stream = "--input=generate://"
    folder, done = run(files, tmp_path, "--runner=DirectRunner", "--streaming", stream)
    assert done.code == exit_codes.USAGE
    assert done.err == (
        "millstream: --streaming: DirectRunner cannot run an unbounded job; "
        "use --runner=PrismRunner\n"
    )
    assert not (folder.path / "warehouse").exists()


UNDIVIDED = "--experiments=prism_disable_sdf_split"


@pytest.mark.parametrize(
    ("flags", "added"),
    [
        (["--runner=PrismRunner"], ["--job_server_timeout=315360000", UNDIVIDED]),
        (["--runner=PrismRunner", "--job_server_timeout=60"], [UNDIVIDED]),
        (
            ["--runner=FlinkRunner"],
            ["--job_server_timeout=315360000", "--finish_bundle_before_checkpointing"],
        ),
        (
            ["--runner=PortableRunner"],
            ["--job_server_timeout=315360000", "--finish_bundle_before_checkpointing", UNDIVIDED],
        ),
    ],
)
def test_what_runners_need_for_a_stream(flags, added):
    assert for_streams(flags) == [*flags, *added]


def test_what_a_worker_says_second_hides_nothing():
    quiet_beam()
    try:
        raise ValueError("what went wrong [while running 'Step']")
    except ValueError as error:
        logging.getLogger("apache_beam.runners.common").exception(error)
    second = "Bundle processing associated with i3 has failed. Check prior failing response"
    assert root_message(RuntimeError(second)) == "what went wrong (in step Step)"
