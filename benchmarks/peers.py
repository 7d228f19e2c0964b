"""The clicks job in what users would pick instead, each in an environment of its own.

    python benchmarks/peers.py [--events 1000000] [--only polars --only dlt]

Each peer's job is a script in ``peers/``, written as the peer's own documents have it, with
``--input`` and ``--out``. Environments are made on demand in ``benchmarks/.venvs`` (Python 3.11,
versions pinned below). What cannot be installed or fails is a row that says why. Outputs are held
against DuckDB's. Start is the wall time of the job on a hundred events.
"""

from __future__ import annotations

import argparse
import os
import shutil
import subprocess
import sys
import tempfile
from dataclasses import dataclass
from pathlib import Path

import compare
import events
import yaml
from measure import Cost, measure
from rich.markup import escape
from rich.table import Table
from run import HELLO, RUNS, Task, Who, console, progress, reference, warm

HERE = Path(__file__).parent
VENVS = HERE / ".venvs"


@dataclass(frozen=True, slots=True)
class Peer:
    """A contender in an environment of its own.

    ``most`` is the number of events after which it gets tedious; ``utf8_only`` says that it stops
    at a line that is not UTF-8, so it is given none.
    """

    name: str
    script: str
    requirements: tuple[str, ...]
    cannot: str
    most: int = 5_000_000
    utf8_only: bool = False

    @property
    def python(self) -> Path:
        return VENVS / Path(self.script).stem / "bin" / "python"


PEERS = (
    Peer(
        "polars",
        "polars_query.py",
        ("polars==2.1.0",),
        "a number in quotes, or where a string is due, passes; bytes that are not UTF-8 are lost;"
        " no streaming",
    ),
    Peer(
        "pathway",
        "pathway_tables.py",
        ("pathway==0.33.0", "orjson==3.13.0"),
        "all validation by hand; its readers drop what is not UTF-8 without a trace; no Parquet",
    ),
    Peer(
        "bytewax",
        "bytewax_flow.py",
        ("bytewax==0.21.1", "orjson==3.13.0"),
        "all validation by hand; its file source stops at what is not UTF-8; no Parquet",
    ),
    Peer(
        "dlt + DuckDB",
        "dlt_pipeline.py",
        ("dlt[duckdb,parquet]==1.31.0", "duckdb==2.0.1", "orjson==3.13.0"),
        "no windows (SQL in the destination); discard_row drops bad rows without a trace, so all"
        " validation by hand",
    ),
    Peer(
        "PySpark",
        "pyspark_job.py",
        ("pyspark==4.3.0",),
        "trailing garbage passes; a number where a string is due passes as text",
    ),
    Peer(
        "PyFlink SQL",
        "pyflink_sql.py",
        ("apache-flink==2.3.0",),
        "its json format has no dead letters; trailing garbage and numbers as strings pass; no"
        " offsets in time stamps; no Parquet in the wheel",
    ),
    Peer(
        "Beam YAML",
        "beam_yaml_job.py",
        ("apache-beam[yaml]==2.77.0",),
        "the pipeline fails at what is not UTF-8 (run without); NaN passes; exact bytes are lost;"
        " windows reach Parquet as text",
        most=200_000,
        utf8_only=True,
    ),
)


@dataclass(frozen=True, slots=True)
class Row:
    """A line of the table, all text."""

    name: str
    rate: str
    start: str
    wall: str
    memory: str
    result: str
    dead: str
    cannot: str


def interpreter() -> str:
    """A Python 3.11, which all the pinned versions have wheels for.

    Raises:
        RuntimeError: there is none.
    """
    if sys.version_info[:2] == (3, 11):
        return sys.executable
    found = shutil.which("python3.11")
    if found is None:
        raise RuntimeError("not installed: no python3.11 on the path")
    return found


def install(peer: Peer) -> None:
    """Make the peer's environment, if it is not there whole.

    Raises:
        RuntimeError: it cannot be made; the message holds the last words of pip.
    """
    folder = peer.python.parent.parent
    pinned = folder / "requirements.txt"
    wanted = "\n".join(peer.requirements)
    if pinned.exists() and pinned.read_text() == wanted:
        return
    progress.print(f"  installing {' '.join(peer.requirements)}", style="dim", markup=False)
    shutil.rmtree(folder, ignore_errors=True)
    subprocess.run([interpreter(), "-m", "venv", folder], check=True, capture_output=True)
    pip = [peer.python, "-m", "pip", "install", "-q", "--disable-pip-version-check"]
    done = subprocess.run([*pip, *peer.requirements], capture_output=True, text=True, check=False)
    if done.returncode != 0:
        raise RuntimeError(f"not installed: {done.stderr.strip()[-300:]}")
    pinned.write_text(wanted)


def utf8_lines(path: Path) -> Path:
    """The file without the lines that are not UTF-8."""
    kept = path.with_suffix(".utf8.jsonl")
    if not kept.exists():
        with path.open("rb") as source, kept.open("wb") as target:
            for line in source:
                if line.decode(errors="replace").encode() == line:
                    target.write(line)
    return kept


def run_once(peer: Peer, path: Path, out: Path) -> Cost:
    script = HERE / "peers" / peer.script
    command = [peer.python, script, "--input", path, "--out", out]
    return measure(command, env={"PYTHONPATH": str(HERE)}).checked()


def outcome(path: Path, out: Path) -> tuple[str, str]:
    """What became of the groups and of the dead letters, in words."""
    expected = reference(path, "clicks")
    assert expected is not None
    bad = yaml.safe_load(events.facts(path).read_text())["bad"]
    dead = compare.dead_letters(out / "dead_letters")
    said = f"{dead:,}" if dead == bad else f"{dead:,} of {bad:,}"
    return str(compare.compare(expected / "page_views", out / "page_views")), said


def failed(name: str, error: Exception, cannot: str) -> Row:
    said = " ".join(str(error).split())[-300:]
    return Row(name, "-", "-", "-", "-", f"failed: {said}", "-", cannot)


def row(name: str, n: int, start: Cost, cost: Cost, result: tuple[str, str], cannot: str) -> Row:
    rate = f"{n / cost.cpu:,.0f}"
    memory = f"{cost.peak / 1e6:,.0f}"
    return Row(name, rate, f"{start.wall:.1f}", f"{cost.wall:.1f}", memory, *result, cannot)


def try_peer(peer: Peer, wanted: int) -> Row:
    """The peer's row, or the reason why there is none."""
    n = min(wanted, peer.most)
    name = f"{peer.name} {peer.requirements[0].split('==')[1]}"
    if n < wanted:
        name += f" ({n:,} events)"
    path, hello = events.cached("clicks", n), events.cached("clicks", HELLO)
    fed = utf8_lines(path) if peer.utf8_only else path
    out = Path(tempfile.mkdtemp(dir=RUNS))
    try:
        install(peer)
        warm(fed)
        start = run_once(peer, hello, out / "hello")
        cost = run_once(peer, fed, out / "whole")
        return row(name, n, start, cost, outcome(path, out / "whole"), peer.cannot)
    except (RuntimeError, OSError, subprocess.CalledProcessError) as error:
        return failed(name, error, peer.cannot)
    finally:
        shutil.rmtree(out)


def try_own(who: Who, n: int, cannot: str) -> Row:
    """The row of a contender that runs in this environment."""
    out = Path(tempfile.mkdtemp(dir=RUNS))
    name = f"{who} ({n:,} events)"
    try:
        costs = []
        for size in (HELLO, n):
            task = Task(who, events.cached("clicks", size))
            folder = out / str(size)
            folder.mkdir()
            warm(task.path)
            costs.append(measure(task.command(folder)).checked())
        result = outcome(events.cached("clicks", n), out / str(n))
        return row(name, n, costs[0], costs[1], result, cannot)
    except (RuntimeError, OSError) as error:
        return failed(name, error, cannot)
    finally:
        shutil.rmtree(out)


def own(n: int) -> list[Row]:
    """millstream, DuckDB and the tuned row pipeline (on a sample: it is slow), for comparison."""
    duckdb = "NaN passes where no range is checked; trailing commas pass; no streaming"
    return [
        try_own("millstream", n, ""),
        try_own("duckdb", n, duckdb),
        try_own("rows tuned", min(n, 200_000), "all validation by hand"),
    ]


def show(rows: list[Row], n: int) -> None:
    table = Table(title=f"The clicks job, {n:,} events, 1 % broken")
    for heading in ("", "ev/CPU-s", "start s", "wall s", "peak MB", "groups", "dead letters"):
        table.add_column(heading, justify="left" if heading in ("", "groups") else "right")
    table.add_column("what it cannot do of the job")
    for line in rows:
        table.add_row(*(escape(getattr(line, name)) for name in line.__slots__))
    console.print(table)


def main(argv: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--events", type=int, default=1_000_000)
    parser.add_argument("--only", action="append", choices=[p.name for p in PEERS], default=[])
    args = parser.parse_args(argv)
    for folder in (RUNS, VENVS):
        folder.mkdir(exist_ok=True)
    os.environ.setdefault("POLARS_MAX_THREADS", "2")
    rows = [] if args.only else own(args.events)
    for peer in PEERS:
        if not args.only or peer.name in args.only:
            progress.print(peer.name, style="bold")
            rows.append(try_peer(peer, args.events))
    show(rows, args.events)
    return 0


if __name__ == "__main__":
    sys.exit(main())
