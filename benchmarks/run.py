"""The promised figures, measured: ``make bench``.

    python benchmarks/run.py [--quick] [--runs 3] [--strict]

Every figure is the median of some runs, in turn with what it is compared to (A B A B …), each in a
process of its own and into an empty folder. Outputs are held against DuckDB's. Where time is
compared, memory is not sampled. Ends with 1 if a figure falls short and ``--strict`` was given.
"""

from __future__ import annotations

import argparse
import json
import shutil
import sys
import tempfile
from collections import defaultdict
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from statistics import median
from typing import Literal

import compare
import events
import reading
import yaml
from measure import Cost, measure
from rich.console import Console
from rich.markup import escape
from rich.table import Table

HERE = Path(__file__).parent
RUNS = HERE / ".runs"
Who = Literal["millstream", "duckdb", "rows", "rows tuned"]

console = Console(width=None if sys.stdout.isatty() else 150)
progress = Console(stderr=True)


@dataclass(frozen=True, slots=True)
class Sizes:
    """How many events of what; the small and the large job have the same groups."""

    small: int = 1_000_000
    large: int = 5_000_000
    rows: int = 200_000
    wide: int = 200_000
    others: int = 1_000_000
    sessions: int = 1_000_000
    row_sessions: int = 50_000


QUICK = Sizes(large=2_000_000, rows=50_000, wide=50_000, others=200_000, row_sessions=20_000)
HELLO = 100
"""Events of a job whose cost is all start-up."""


@dataclass(frozen=True, slots=True)
class Task:
    """One of the contenders at some data."""

    who: Who
    path: Path
    shape: str = "clicks"
    flags: tuple[str, ...] = ()

    @property
    def name(self) -> str:
        return " ".join([f"{self.who} on {self.path.name}", *self.flags])

    def command(self, out: Path) -> list[str]:
        if self.who == "millstream":
            return [str(millstream()), "ingest", "--job", str(job_file(self, out)), *self.flags]
        script = "duckdb_query.py" if self.who == "duckdb" else "row_beam.py"
        options = ["--tuned"] if self.who == "rows tuned" else []
        if self.shape == "sessions":
            options.append("--sessions")
        if self.who == "duckdb" and self.shape == "shuffled":
            options = ["--window-seconds", "10"]
        arguments = ["--input", str(self.path), "--out", str(out)]
        return [sys.executable, str(HERE / script), *arguments, *options]


def millstream() -> Path:
    """The command of the environment that runs this script."""
    return Path(sys.executable).parent / "millstream"


def job_file(task: Task, out: Path) -> Path:
    """The job of the shape's own file, with this input and an output of its own."""
    job = yaml.safe_load((HERE / f"{task.shape}.yaml").read_text())
    job["contract"] = str(HERE / job["contract"])
    job["input"] = [str(task.path)]
    job["dead_letters"] = f"jsonl:{out / 'dead_letters'}"
    job["ledger"] = f"jsonl:{out / 'ledger'}"
    for aggregate in job.get("aggregates", ()):
        aggregate["output"] = f"parquet:{out / aggregate['name']}"
    if "output" in job:
        job["output"] = f"parquet:{out / 'records'}"
    path = out / "job.yaml"
    path.write_text(yaml.safe_dump(job))
    return path


@dataclass(slots=True)
class Verdict:
    """A line of the table of figures. ``passes`` is None for a fact that nothing is asked of."""

    figure: str
    asked: str
    measured: str
    passes: bool | None = None


@dataclass(slots=True)
class Report:
    """What was found: verdicts, and whatever did not match the reference."""

    verdicts: list[Verdict] = field(default_factory=list)
    mismatches: set[str] = field(default_factory=set)

    def add(self, figure: str, measured: str, asked: str = "", passes: bool | None = None) -> None:
        self.verdicts.append(Verdict(figure, asked, measured, passes))

    def ratio(self, figure: str, value: float, limit: float, detail: str, aim: str = "") -> None:
        """A figure that may be at most ``limit`` times something."""
        self.add(figure, f"{value:.2f} x ({detail})", f"<= {limit:g} x{aim}", value <= limit)


# Running


def reference(path: Path, shape: str) -> Path | None:
    """DuckDB's output for a file, made once and kept beside it; none for wide events."""
    if shape in ("wide", "records"):
        return None
    kept = path.with_suffix(".reference")
    if not kept.exists():
        staged = Path(tempfile.mkdtemp(dir=path.parent, prefix=".reference"))
        measure(Task("duckdb", path, shape).command(staged), memory=False).checked()
        staged.rename(kept)
    return kept


def mismatch(task: Task, out: Path) -> Iterable[str]:
    """In what the output of a task is not what it should be."""
    if task.path.suffix != ".jsonl":  # made of good records alone
        return
    about = yaml.safe_load(events.facts(task.path).read_text())
    dead = compare.dead_letters(out / "dead_letters")
    if dead != about["bad"]:
        yield f"{dead:,} dead letters instead of {about['bad']:,}"
    expected = reference(task.path, task.shape)
    if expected is not None:
        of_users = task.shape == "sessions"
        name = "sessions" if of_users else "page_views"
        keys = compare.USERS if of_users else compare.PAGES
        result = compare.compare(expected / name, out / name, keys)
        if not result.equal:
            yield str(result)
        other = compare.other_bytes(expected / "dead_letters", out / "dead_letters")
        if other:
            yield f"{other:,} dead letters without their exact bytes"


def warm(path: Path) -> None:
    """Have the file in the page cache, so that nobody's first run pays for the disk."""
    with path.open("rb", buffering=0) as file:
        while file.read(1 << 24):
            pass


def once(task: Task, report: Report, *, memory: bool) -> Cost:
    """One run in an empty folder; its output is checked and thrown away.

    Raises:
        RuntimeError: the command failed.
    """
    progress.print(f"  {task.name}", style="dim")
    RUNS.mkdir(exist_ok=True)
    out = Path(tempfile.mkdtemp(dir=RUNS))
    try:
        cost = measure(task.command(out), memory=memory).checked()
        report.mismatches.update(f"{task.name}: {what}" for what in mismatch(task, out))
        return cost
    finally:
        shutil.rmtree(out)


def in_turn(tasks: Sequence[Task], runs: int, report: Report, *, memory: bool) -> list[list[Cost]]:
    """The costs of each task, the tasks run in turn.

    Raises:
        RuntimeError: one of them failed.
    """
    costs: dict[Task, list[Cost]] = defaultdict(list)
    for path in {task.path: None for task in tasks}:
        warm(path)
    for _ in range(runs):
        for task in tasks:
            costs[task].append(once(task, report, memory=memory))
    return [costs[task] for task in tasks]


def wall(costs: list[Cost]) -> float:
    return median(cost.wall for cost in costs)


def cpu(costs: list[Cost]) -> float:
    return median(cost.cpu for cost in costs)


def peak(costs: list[Cost]) -> float:
    return median(cost.peak for cost in costs)


# The figures


def against_duckdb(sizes: Sizes, runs: int, report: Report) -> dict[int, float]:
    """Figure 2. Returns millstream's CPU seconds by the number of events, for figure 1."""
    spent = {}
    for n, limit, aim in ((sizes.large, 2.0, 1.5), (sizes.small, 3.5, 2.5)):
        path = events.cached("clicks", n)
        tasks = [Task("millstream", path), Task("duckdb", path)]
        ours, theirs = in_turn(tasks, runs, report, memory=False)
        spent[n] = cpu(ours)
        report.ratio(
            f"2. wall with process start, {n:,} events, millstream to DuckDB",
            wall(ours) / wall(theirs),
            limit,
            f"{wall(ours):.2f} s to {wall(theirs):.2f} s;"
            f" {n / cpu(ours):,.0f} to {n / cpu(theirs):,.0f} events/CPU-s",
            f", aim {aim:g} x",
        )
    return spent


def against_rows(sizes: Sizes, runs: int, report: Report, spent: dict[int, float]) -> None:
    """Figure 1: events a CPU second, at the same number of events, start-up counted for both.

    The row pipeline is too slow to be run on all events: its cost is start-up plus so much an
    event, both measured.
    """
    hello, sample = (events.cached("clicks", n) for n in (HELLO, sizes.rows))
    start: dict[str, float] = {}
    each: dict[str, float] = {}
    for who in ("rows", "rows tuned"):
        small, large = in_turn([Task(who, hello), Task(who, sample)], runs, report, memory=False)
        start[who] = cpu(small)
        each[who] = (cpu(large) - cpu(small)) / (sizes.rows - HELLO)
        report.add(
            f"1. {who}: start-up, and each event",
            f"{start[who]:.2f} CPU-s, {each[who] * 1e6:.1f} us"
            f" ({1 / each[who]:,.0f} events/CPU-s without start-up)",
        )
    if not spent:
        return
    (ours,) = in_turn([Task("millstream", hello)], runs, report, memory=False)
    report.add("1. millstream: start-up", f"{cpu(ours):.2f} CPU-s")
    for n, seconds in spent.items():
        whole = (start["rows"] + n * each["rows"]) / seconds
        net = n * each["rows"] / max(seconds - cpu(ours), 1e-9)
        tuned = (start["rows tuned"] + n * each["rows tuned"]) / seconds
        report.add(
            f"1. events/CPU-s to the row pipeline's, {n:,} events",
            f"{whole:.1f} x ({net:.1f} x without start-up, {tuned:.1f} x the tuned one)",
            ">= 40 x" if n == sizes.large else "",
            whole >= 40 if n == sizes.large else None,
        )


def memory(sizes: Sizes, runs: int, report: Report) -> None:
    """Figure 3."""
    paths = [events.cached("clicks", n) for n in (sizes.small, sizes.large)]
    tasks = [Task("millstream", path) for path in paths]
    small, large = map(peak, in_turn(tasks, runs, report, memory=True))
    detail = f"{large / 1e6:,.0f} MB to {small / 1e6:,.0f} MB"
    report.ratio(
        f"3. peak memory, {sizes.large:,} to {sizes.small:,} events", large / small, 1.2, detail
    )
    report.add("3. peak memory", f"{large / 1e6:,.0f} MB", "< 700 MB", large < 700e6)


def broken(sizes: Sizes, runs: int, report: Report) -> None:
    """Figure 4."""
    paths = [events.cached("clicks", sizes.small, bad) for bad in (0.01, 0.1, 1)]
    tasks = [Task("millstream", path) for path in paths]
    few, some, all_bad = map(wall, in_turn(tasks, runs, report, memory=False))
    report.ratio("4. 10 % bad to 1 % bad", some / few, 1.6, f"{some:.2f} s to {few:.2f} s")
    report.ratio("4. all bad to 1 % bad", all_bad / few, 6, f"{all_bad:.2f} s to {few:.2f} s")


def help_text(runs: int, report: Report) -> None:
    """Figure 5."""
    costs = [measure([millstream(), "--help"], memory=False).checked() for _ in range(runs)]
    report.add("5. millstream --help", f"{wall(costs):.2f} s", "< 0.4 s", wall(costs) < 0.4)


def other_shapes(sizes: Sizes, runs: int, report: Report) -> None:
    """Nothing is asked of these: they show what other data costs."""
    shapes = {
        "wide": ("60 nested fields", sizes.wide),
        "groups": ("nearly a group an event", sizes.others),
        "shuffled": ("10 s windows over six shuffled hours", sizes.others),
    }
    for shape, (what, n) in shapes.items():
        path = events.cached(shape, n)
        about = yaml.safe_load(events.facts(path).read_text())
        (timed,) = in_turn([Task("millstream", path, shape)], runs, report, memory=False)
        (sampled,) = in_turn([Task("millstream", path, shape)], 1, report, memory=True)
        report.add(
            f"6. {what}, {n:,} events, {about['groups']:,} groups",
            f"{n / wall(timed):,.0f} events/s, {wall(timed):.2f} s wall, {cpu(timed):.2f} CPU-s,"
            f" {peak(sampled) / 1e6:,.0f} MB",
        )


def formats(sizes: Sizes, runs: int, report: Report) -> None:
    """Figure 7: what reading costs on one processor, decoding, types and rules included."""
    lines = events.cached("clicks", sizes.small, 0.0)  # a library would fail at a broken one
    for form in reading.FORMATS:
        path = reading.converted(lines, form)
        rates: dict[str, list[float]] = {"millstream": [], "library": []}
        for _ in range(runs):
            for who, found in rates.items():
                progress.print(f"  {who} reads {path.name}", style="dim")
                script = str(HERE / "reading.py")
                cost = measure([sys.executable, script, form, who, path], memory=False).checked()
                said = json.loads(cost.output.splitlines()[-1])
                if said["rows"] != sizes.small:
                    report.mismatches.add(f"{who} reads {said['rows']:,} rows of {path.name}")
                found.append(said["rows"] / said["seconds"])
        ours, theirs = (median(found) for found in rates.values())
        report.add(
            f"7. rows/s/core of {form}, millstream to the fastest library",
            f"{ours / theirs:.2f} x ({ours:,.0f} to {theirs:,.0f})",
            ">= 0.6 x",
            ours >= 0.6 * theirs,
        )


def sessions(sizes: Sizes, runs: int, report: Report) -> None:
    """Figure 8: events a CPU second of a job of sessions, to the row pipeline's."""
    n, sample = sizes.sessions, sizes.row_sessions
    paths = [events.cached("sessions", count) for count in (HELLO, sample, n)]
    hello, some, all_ = (Task("rows", path, "sessions") for path in paths)
    small, large = in_turn([hello, some], min(runs, 2), report, memory=False)
    each = (cpu(large) - cpu(small)) / (sample - HELLO)
    (ours,) = in_turn([Task("millstream", all_.path, "sessions")], runs, report, memory=False)
    rows = cpu(small) + n * each
    report.add(
        f"8. sessions of {n:,} events and 100,000 keys, events/CPU-s to the row pipeline's",
        f"{rows / cpu(ours):.1f} x ({cpu(ours):.2f} to {rows:,.0f} CPU-s,"
        f" {each * 1e6:.0f} us an event; {wall(ours):.2f} s wall)",
        ">= 20 x",
        rows >= 20 * cpu(ours),
    )


def deduplication(sizes: Sizes, runs: int, report: Report) -> None:
    """Figure 9: the same job, with and without looking for repeated keys."""
    path = events.cached("clicks", sizes.small)
    tasks = [
        Task("millstream", path, "records"),
        Task("millstream", path, "records", ("--deduplicate", "run")),
    ]
    without, with_ = in_turn(tasks, runs, report, memory=False)
    report.ratio(
        f"9. deduplication of {sizes.small:,} events: wall with it to without",
        wall(with_) / wall(without),
        1.4,
        f"{wall(with_):.2f} s to {wall(without):.2f} s",
    )


def csv_to_parquet(sizes: Sizes, runs: int, report: Report) -> None:
    """Figure 10."""
    path = reading.converted(events.cached("clicks", sizes.large), "csv")
    about = yaml.safe_load(events.facts(path.with_suffix(".jsonl")).read_text())
    rows = about["lines"] - about["bad"]
    (costs,) = in_turn([Task("millstream", path, "records")], runs, report, memory=False)
    rate = rows / wall(costs)
    detail = f"{wall(costs):.2f} s with process start, {cpu(costs):.2f} CPU-s"
    report.add(
        f"10. CSV to Parquet, {rows:,} rows, two processors",
        f"{rate:,.0f} rows/s ({detail})",
        ">= 1,000,000",
        rate >= 1e6,
    )


def show(report: Report) -> None:
    table = Table("figure", "measured", "asked", "", title="Figures")
    words = {True: "[green]PASS[/]", False: "[red]FALLS SHORT[/]", None: ""}
    for verdict in report.verdicts:
        table.add_row(
            verdict.figure, escape(verdict.measured), verdict.asked, words[verdict.passes]
        )
    console.print(table)
    for line in sorted(report.mismatches):
        console.print(f"[red]output differs:[/] {line}")
    if not report.mismatches:
        console.print("Every output equals DuckDB's; every broken line is a dead letter.")


def figures(sizes: Sizes, runs: int, report: Report) -> None:
    """Every figure; one whose command fails is reported and does not stop the others."""
    spent: dict[int, float] = {}

    def attempt(name: str, work: Callable[[], None]) -> None:
        progress.print(name, style="bold")
        try:
            work()
        except RuntimeError as error:
            report.add(name, f"failed: {str(error)[-400:]}", "", False)

    if millstream().exists():
        attempt("5. millstream --help", lambda: help_text(runs, report))
        attempt("2. against DuckDB", lambda: spent.update(against_duckdb(sizes, runs, report)))
        attempt("3. memory", lambda: memory(sizes, runs, report))
        attempt("4. broken lines", lambda: broken(sizes, runs, report))
        attempt("6. other shapes", lambda: other_shapes(sizes, runs, report))
        attempt("7. formats", lambda: formats(sizes, runs, report))
        attempt("8. sessions", lambda: sessions(sizes, runs, report))
        attempt("9. deduplication", lambda: deduplication(sizes, runs, report))
        attempt("10. CSV to Parquet", lambda: csv_to_parquet(sizes, runs, report))
    else:
        report.add("0. millstream", f"not installed beside {Path(sys.executable).name}", "", False)
    attempt("1. against rows", lambda: against_rows(sizes, runs, report, spent))
    report.verdicts.sort(key=lambda verdict: int(verdict.figure.partition(".")[0]))


def main(argv: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--runs", type=int, default=3, help="runs of each command; 1 if --quick")
    parser.add_argument("--quick", action="store_true", help="smaller data, fewer runs")
    parser.add_argument("--strict", action="store_true", help="end with 1 if a figure falls short")
    args = parser.parse_args(argv)
    report = Report()
    figures(QUICK if args.quick else Sizes(), 1 if args.quick else args.runs, report)
    show(report)
    short = any(verdict.passes is False for verdict in report.verdicts) or report.mismatches
    return 1 if args.strict and short else 0


if __name__ == "__main__":
    sys.exit(main())
