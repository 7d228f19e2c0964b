"""What a run shows while it runs: progress on a terminal, and logs for collectors."""

from __future__ import annotations

import json
import os
import pty
import re
import subprocess
import sys
import threading

import pytest
from millstream.pipelines import exit_codes

from tests.pipelines.clicks import JobFolder, ingest

pytestmark = pytest.mark.slow


def test_logs_as_json_lines(tmp_path):
    folder = JobFolder.make(tmp_path / "job", events=240)
    flags = ["--job", folder.job, "--log_format", "json", "--helpers", "0"]
    done = ingest(*flags)
    assert done.code == exit_codes.OK
    said = [json.loads(line) for line in done.err.splitlines()]
    (ended,) = [event for event in said if event["logger"] == "millstream"]
    assert ended["message"].startswith("committed in ")
    assert ended["level"] == "INFO"
    assert re.fullmatch("[0-9a-f]{16}", ended["run_id"])
    assert ended["rows"]["records"] == len(folder.table())
    assert sum(row["read"] for row in ended["ledger"] if row["output"] == "records") == sum(
        folder.expected().read.values()
    )
    again = [json.loads(line) for line in ingest(*flags).err.splitlines()]
    (done_before,) = [event for event in again if event["level"] == "INFO" and "rows" not in event]
    assert done_before["message"].endswith("committed already: nothing to do")


def test_what_is_logged_inside_the_pipeline_names_run_and_stage(tmp_path):
    folder = JobFolder.make(tmp_path / "job", events=240)
    (folder.path / "chatty.py").write_text(
        "import logging\n"
        "def step(batch):\n"
        "    if batch.num_rows:\n"
        "        logging.getLogger('mine').warning('%d rows', batch.num_rows)\n"
        "    return batch\n"
    )
    flags = ["--log_format", "json", "--helpers", "0", "--steps", "[{python: 'chatty:step'}]"]
    done = ingest("--job", "job.yaml", *flags, cwd=folder.path)
    assert done.code == exit_codes.OK, done.err
    said = [json.loads(line) for line in done.err.splitlines()]
    mine = [event for event in said if event["logger"] == "mine"]
    assert sum(int(event["message"].split()[0]) for event in mine) == len(folder.table())
    (ended,) = [event for event in said if event["logger"] == "millstream"]
    for event in mine:
        assert event["level"] == "WARNING"
        assert event["run_id"] == ended["run_id"]
        assert event["stage"].startswith("Step1/")


def test_a_mistake_is_said_as_json_too(tmp_path):
    folder = JobFolder.make(tmp_path / "job")
    done = ingest("--job", folder.job, "--log_format", "json", "--input", "none/*")
    assert done.code == exit_codes.USAGE
    (said,) = map(json.loads, done.err.splitlines())
    assert said["message"].startswith("--input: no file matches none/*")


def run_on_terminal(*arguments: str) -> tuple[int, str]:
    """Run ``ingest`` with standard error on a terminal; its exit code, and what it drew there."""
    ours, theirs = pty.openpty()
    command = [sys.executable, "-m", "millstream.pipelines.cli", "ingest", *arguments]
    environment = {**os.environ, "TERM": "xterm", "COLUMNS": "120"}
    drawn: list[bytes] = []

    def read() -> None:
        while True:
            try:
                data = os.read(ours, 65536)
            except OSError:  # how a terminal says that nobody writes any more
                return
            drawn.append(data)

    process = subprocess.Popen(
        command, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=theirs, env=environment
    )
    os.close(theirs)
    reader = threading.Thread(target=read)
    reader.start()
    process.communicate(timeout=120)
    reader.join()
    os.close(ours)
    return process.returncode, b"".join(drawn).decode(errors="replace")


def test_progress_on_a_terminal(tmp_path):
    folder = JobFolder.make(tmp_path / "job", events=2400)
    code, drawn = run_on_terminal("--job", folder.job, "--helpers=0")
    assert code == exit_codes.OK
    assert re.search(r"[1-9][0-9,]* records, [0-9]+ dead letters", drawn)


def test_no_progress_where_it_is_not_wanted(tmp_path):
    folder = JobFolder.make(tmp_path / "job", events=240)
    code, drawn = run_on_terminal("--job", folder.job, "--helpers=0", "--progress=false")
    assert (code, drawn) == (exit_codes.OK, "")
