"""From the command to the first record, on each runner that starts here: ``make bench-startup``.

    python benchmarks/startup.py [--runs 5]

The job reads a hundred events. The first record is there when a step of the job is given the first
batch, parsed and held against the contract, in whichever process that is; the last commit is when
the ledger's manifest is written. ``whole`` is the command's wall time. Medians; the commands are
run in turn. What cannot be had here is a row that says why.
"""

from __future__ import annotations

import argparse
import os
import subprocess
import sys
import tempfile
import time
from collections import defaultdict
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from statistics import median

import events
import yaml
from rich.markup import escape
from rich.table import Table
from run import HELLO, HERE, console, millstream, progress

sys.path.insert(0, str(HERE.parent))

from tests.services import dask, prism
from tests.services.serving import NoServer, free_port, serving

STEP = '''
import os, time

def note(batch):
    """Writes down when the first record comes."""
    if batch.num_rows:
        try:
            with open(os.environ["MILLSTREAM_FIRST"], "x") as file:
                file.write(repr(time.time()))
        except FileExistsError:
            pass
    return batch
'''
ROWS = """
import os, sys, time
import apache_beam as beam
from apache_beam.options.pipeline_options import PipelineOptions

class Note(beam.DoFn):
    def process(self, line):
        if not os.path.exists(os.environ["MILLSTREAM_FIRST"]):
            with open(os.environ["MILLSTREAM_FIRST"], "w") as file:
                file.write(repr(time.time()))
        yield line

with beam.Pipeline(options=PipelineOptions(sys.argv[3:])) as pipeline:
    (pipeline | beam.io.ReadFromText(sys.argv[1]) | beam.ParDo(Note())
        | beam.io.WriteToText(sys.argv[2]))
"""
"""The least that Beam can be asked for: lines in, lines out, one by one."""
_RUN_SECONDS = 300
LOCAL = "apache_beam.runners.portability.fn_api_runner.fn_runner.FnApiRunner"


@dataclass(frozen=True)
class Start:
    """A way to start a job. ``why_not`` says why it cannot be tried here."""

    name: str
    flags: tuple[str, ...] = ()
    rows: bool = False
    why_not: str = ""


@dataclass(frozen=True)
class Times:
    """Seconds since the command was given."""

    first: float
    committed: float
    whole: float


@contextmanager
def starts() -> Iterator[list[Start]]:
    """The ways to start, with the servers that some of them need."""
    with ExitStack() as servers:
        found = [
            Start("FnApiRunner, one process"),
            Start(
                "FnApiRunner, two worker processes",
                ("--direct_running_mode=multi_processing", "--direct_num_workers=2"),
            ),
            *_on_prism(servers),
            _on_dask(servers),
            Start("Beam, lines in and out, FnApiRunner", (f"--runner={LOCAL}",), rows=True),
        ]
        yield found


def _on_prism(servers: ExitStack) -> Iterator[Start]:
    program = prism.prism_location()
    cold, warm = "Prism, started with the job", "Prism, a job server that runs already"
    if program is None:
        yield from (Start(name, why_not=prism.why_not()) for name in (cold, warm))
        return
    yield Start(cold, ("--runner=PrismRunner", f"--prism_location={program}"))
    port = free_port()
    servers.enter_context(serving([program, f"--job_port={port}", "--serve_http=false"], port))
    endpoint = ("--runner=PortableRunner", f"--job_endpoint=localhost:{port}")
    yield Start(warm, (*endpoint, "--environment_type=LOOPBACK"))


def _on_dask(servers: ExitStack) -> Start:
    name = "Dask, a cluster that runs already"
    if reason := dask.why_not():
        return Start(name, why_not=reason)
    try:
        address = servers.enter_context(dask.running())
    except NoServer as error:
        return Start(name, why_not=str(error))
    return Start(name, ("--runner=DaskRunner", f"--dask_client_address={address}"))


def once(start: Start, modules: Path, first: Path) -> Times:
    """One run.

    Raises:
        RuntimeError: it failed.
    """
    progress.print(f"  {start.name}", style="dim")
    first.unlink(missing_ok=True)
    with tempfile.TemporaryDirectory() as folder:
        out = Path(folder)
        command = _rows(start, modules, out) if start.rows else _job(start, out)
        began = time.time()
        whole = timed(command, out)
        written = [file.stat().st_mtime for file in out.rglob("*") if _is_result(file, start)]
    return Times(float(first.read_text()) - began, max(written) - began, whole)


def timed(command: Sequence[str | Path], folder: Path = HERE) -> float:
    """Run a command; gives its seconds. Unlike ``measure`` it leaves our servers alone.

    Raises:
        RuntimeError: it failed.
    """
    began = time.perf_counter()
    done = subprocess.run(command, cwd=folder, capture_output=True, text=True, timeout=_RUN_SECONDS)
    if done.returncode:
        raise RuntimeError(f"exit code {done.returncode}: {done.stdout}{done.stderr}")
    return time.perf_counter() - began


def _is_result(file: Path, start: Start) -> bool:
    return file.name.startswith("lines-") if start.rows else file.parent.name == "manifests"


def _rows(start: Start, modules: Path, out: Path) -> list[str | Path]:
    path = events.cached("clicks", HELLO)
    return [sys.executable, modules / "rows.py", path, out / "lines", *start.flags]


def _job(start: Start, out: Path) -> list[str | Path]:
    job = yaml.safe_load((HERE / "clicks.yaml").read_text())
    job |= {
        "contract": str(HERE / job["contract"]),
        "input": [str(events.cached("clicks", HELLO))],
        "dead_letters": f"jsonl:{out / 'dead_letters'}",
        "ledger": f"jsonl:{out / 'ledger'}",
        "steps": [{"python": "first_record:note"}],
    }
    for aggregate in job["aggregates"]:
        aggregate["output"] = f"parquet:{out / aggregate['name']}"
    (out / "job.yaml").write_text(yaml.safe_dump(job))
    return [millstream(), "ingest", "--job", out / "job.yaml", *start.flags]


def without_a_job(table: Table, runs: int) -> None:
    """What starts before any job does."""
    for name, command in {
        "import millstream.pipelines.cli": [
            sys.executable,
            "-c",
            "import millstream.pipelines.cli",
        ],
        "millstream --help": [millstream(), "--help"],
    }.items():
        walls = [timed(command) for _ in range(runs)]
        table.add_row(name, "", "", f"{median(walls):.2f} s")


def show(table: Table, start: Start, times: list[Times], failed: str) -> None:
    if start.why_not or failed:
        table.add_row(start.name, escape(start.why_not or failed[-300:]), "", "")
        return
    columns = zip(*((t.first, t.committed, t.whole) for t in times), strict=True)
    table.add_row(start.name, *(f"{median(column):.2f} s" for column in columns))


def main(argv: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--runs", type=int, default=5, help="runs of each command")
    runs = parser.parse_args(argv).runs
    table = Table("start", "first record", "last commit", "whole", title="Start-up")
    without_a_job(table, runs)
    times: dict[Start, list[Times]] = defaultdict(list)
    failed: dict[Start, str] = {}
    with tempfile.TemporaryDirectory() as folder:
        modules, first = Path(folder), Path(folder) / "first"
        (modules / "first_record.py").write_text(STEP)
        (modules / "rows.py").write_text(ROWS)
        os.environ |= {"PYTHONPATH": folder, "MILLSTREAM_FIRST": str(first)}
        with starts() as found:
            for _ in range(runs):
                for start in found:
                    if start.why_not or start in failed:
                        continue
                    try:
                        times[start].append(once(start, modules, first))
                    except (RuntimeError, OSError) as error:
                        failed[start] = str(error)
    for start in found:
        show(table, start, times[start], failed.get(start, ""))
    console.print(table)
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main())
