"""What it costs to commit to each destination: ``make bench-sinks``.

    python benchmarks/sinks.py [DESTINATION …] [--rows 1000000] [--runs 3] [--quick] [--strict]

The same click events go to each destination twice: here, and by the fastest native way there is
(:mod:`native`), in turn, each in a process of its own and into a table of its own. Figures are
medians. *Commit* is what a destination does: from staged files to visible rows and a token held.
*Stage and commit* begins with batches in memory, as the native ways do. What lies in the table
afterwards is read back by a third client and held against the events. Destinations whose service
cannot be had are skipped, and said so; those that need Google's clients run in a venv apart.
"""

from __future__ import annotations

import argparse
import importlib
import json
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from statistics import median
from typing import Any, NamedTuple

import msgspec
from columns import CHECKED, Digest, Rows, expected
from loading import Work
from native import Way
from rich.markup import escape
from rich.table import Table
from run import RUNS, Report, Verdict, console, progress

HERE = Path(__file__).parent
CLOUD = HERE.parent / ".venv-cloud" / "bin" / "python"
SECONDS = 600
"""How long one load may take."""
RATIO = 0.7
"""The least that is asked of our rows a second, to the fastest native way's."""
MEMORY = 1.2
"""The most that is allowed of memory at three times the rows, to that at the rows."""


@dataclass(frozen=True, slots=True)
class Sink:
    """What is measured of a destination.

    ``upsert``: rows a second that are asked of an upsert, 0 if it is shown alone, ``None`` if it is
    not measured. ``refuses``: whether a table with a constraint is loaded too. ``part``: one in so
    many events goes there. ``cloud``: it needs Google's clients.
    """

    upsert: int | None = None
    refuses: bool = False
    part: int = 1
    cloud: bool = False


SINKS: Mapping[str, Sink] = {
    "duckdb": Sink(upsert=0, refuses=True),
    "postgresql": Sink(upsert=100_000, refuses=True),
    "iceberg": Sink(upsert=0),
    "delta": Sink(upsert=0),
    "kafka": Sink(),
    "bigquery": Sink(cloud=True),
    "pubsub": Sink(part=10, cloud=True),
}


class Cost(NamedTuple):
    """Seconds, and the most memory in bytes. ``staging`` is 0 for a native way; ``refused`` are the
    rows that became dead letters."""

    staging: float
    seconds: float
    peak: int
    refused: int = 0


@dataclass
class Bench:
    """The loads into one destination, while its service runs."""

    scheme: str
    sink: Sink
    peer: Any
    count: int
    runs: int
    report: Report
    folder: Path

    def __post_init__(self) -> None:
        self.native = importlib.import_module(f"native.{self.scheme}")
        self._tables = 0
        self._types: dict[str, str] | None = None
        self._plain: list[Cost] = []  # of loads as they are by default

    def figures(self) -> None:
        """All that is measured of it. Without the first figure there are no others; one of the
        others that fails does not stop the rest."""
        self.speed()
        self.attempt("peak memory", self.memory)
        if self.sink.upsert is not None:
            self.attempt("upsert", self.upserts)
        if self.sink.refuses:
            self.attempt("refused rows", self.refusals)

    def attempt(self, name: str, work: Callable[[], None]) -> None:
        try:
            work()
        except (RuntimeError, subprocess.TimeoutExpired) as error:
            fail(self.report, f"{self.scheme}: {name}", error)

    def speed(self) -> None:
        """Loads here and by the native ways, in turn."""
        ways: Sequence[Way] = self.native.WAYS
        ours: dict[str, list[Cost]] = {way.query: [] for way in ways}
        theirs: dict[str, list[Cost]] = {way.name: [] for way in ways}
        for _ in range(self.runs):
            for query, costs in ours.items():
                with self.table() as place:
                    costs.append(self.load(place, query=query))
                    self.check(place, query or "millstream", expected(self.count))
            for number, way in enumerate(ways):
                with self.table() as place:
                    theirs[way.name].append(self.natively(place, number))
                    self.check(place, way.name, expected(self.count))
        for query, costs in ours.items():
            alike = [way for way in ways if way.query == query]
            fastest = min((w for w in alike if w.asked), key=lambda w: seconds(theirs[w.name]))
            for way in alike:
                self.compare(way, costs, theirs[way.name], asked=way == fastest)
        self._plain = ours[""]

    def compare(self, way: Way, ours: list[Cost], theirs: list[Cost], *, asked: bool) -> None:
        native, rate = self.count / seconds(theirs), self.count / seconds(ours)
        how = f" with {way.query}" if way.query else ""
        self.report.add(
            f"{self.scheme}: commit{how}, rows/s to {way.name}",
            f"{rate / native:.2f} x ({rate:,.0f} to {native:,.0f};"
            f" {peak(ours) / 1e6:,.0f} MB to {peak(theirs) / 1e6:,.0f} MB)",
            f">= {RATIO} x" if asked else "",
            rate >= RATIO * native if asked else None,
        )
        if asked:
            whole = self.count / median(cost.staging + cost.seconds for cost in ours)
            self.report.add(
                f"{self.scheme}: stage and commit{how}, rows/s to {way.name}",
                f"{whole / native:.2f} x ({whole:,.0f} to {native:,.0f})",
            )

    def memory(self) -> None:
        more = 3 * self.count
        with self.table() as place:
            large = self.load(place, more, whole=False).peak
            self.check(place, f"millstream, {more:,} rows", expected(more))
        small = peak(self._plain)
        self.report.ratio(
            f"{self.scheme}: peak memory, {more:,} to {self.count:,} rows",
            large / small,
            MEMORY,
            f"{large / 1e6:,.0f} MB to {small / 1e6:,.0f} MB",
        )

    def upserts(self) -> None:
        asked = self.sink.upsert
        costs = []
        for _ in range(self.runs):
            with self.table() as place:
                self.load(place, rows="earlier half", query="mode=upsert", whole=False)
                costs.append(self.load(place, query="mode=upsert", whole=False))
                self.check(place, "upsert", expected(self.count))
        rate = self.count / seconds(costs)
        self.report.add(
            f"{self.scheme}: upsert of {self.count:,} rows, half of them there",
            f"{rate:,.0f} rows/s ({seconds(costs):.2f} s, {peak(costs) / 1e6:,.0f} MB)",
            f">= {asked:,} rows/s" if asked else "",
            rate >= asked if asked else None,
        )

    def refusals(self) -> None:
        costs = []
        for _ in range(self.runs):
            with self.table() as place:
                self.native.prepare(place)
                self.peer.refuse_negative(place.rpartition("/")[2], CHECKED)
                costs.append(self.load(place, rows="tenth refused", whole=False))
                wanted = expected(self.count, "tenth refused")
                self.check(place, "refused", wanted)
                if costs[-1].refused != self.count - wanted.rows:
                    said = f"{costs[-1].refused:,} dead letters"
                    self.report.mismatches.add(f"{self.scheme}, refused: {said}")
        factor = seconds(costs) / seconds(self._plain)
        self.report.add(
            f"{self.scheme}: commit with a tenth of the rows refused, to none refused",
            f"{factor:.2f} x ({seconds(costs):.2f} s to {seconds(self._plain):.2f} s,"
            f" {peak(costs) / 1e6:,.0f} MB)",
        )

    def load(
        self,
        place: str,
        count: int | None = None,
        *,
        rows: Rows = "all",
        query: str = "",
        whole: bool = True,
    ) -> Cost:
        """One load here: staged by one process, committed by another."""
        folder = Path(tempfile.mkdtemp(dir=self.folder))
        work = Work(
            uri=f"{place}?{query}" if query else place,
            state=str(folder / "state"),
            run_id=folder.name,
            count=count or self.count,
            rows=rows,
            whole=whole,
        )
        (folder / "work.json").write_bytes(msgspec.json.encode(work))
        staged = self.child("stage", folder / "work.json", folder / "commit")
        said = self.child("commit", folder / "commit")
        shutil.rmtree(folder)
        return Cost(staged["seconds"], said["seconds"], said["peak"], said["refused"])

    def natively(self, place: str, number: int) -> Cost:
        """One load by a native way, into a table that is there and empty."""
        self.native.prepare(place)
        said = self.child("native", self.scheme, number, place, self.count)
        return Cost(0, said["seconds"], said["peak"])

    def child(self, *arguments: Any) -> dict[str, Any]:
        """What a process of :mod:`loading` says.

        Raises:
            RuntimeError: it failed.
        """
        command = [sys.executable, str(HERE / "loading.py"), *map(str, arguments)]
        progress.print(f"  {self.scheme}: {arguments[0]}", style="dim")
        done = subprocess.run(command, capture_output=True, text=True, timeout=SECONDS)
        if done.returncode:
            raise RuntimeError(f"exit code {done.returncode}: {done.stderr[-2000:]}")
        return json.loads(done.stdout.splitlines()[-1])

    @contextmanager
    def table(self) -> Iterator[str]:
        """The place of a table that nobody has used; if all went well, it is gone afterwards."""
        self._tables += 1
        place = self.peer.uri(f"clicks_{self._tables}")
        yield place
        self.native.drop(place)

    def check(self, place: str, who: str, wanted: Digest) -> None:
        """Hold what lies in a table against what should, and its types against those of others."""
        held = self.native.read(place)
        found = Digest.of(held.rows)
        if found.rows != wanted.rows:
            said = f"{found.rows:,} rows instead of {wanted.rows:,}"
            self.report.mismatches.add(f"{self.scheme}, {who}: {said}")
        elif found != wanted:
            self.report.mismatches.add(f"{self.scheme}, {who}: other values")
        if self._types is None:
            self._types = held.types
        elif held.types != self._types:
            self.report.mismatches.add(f"{self.scheme}, {who}: {held.types}, not {self._types}")


def seconds(costs: list[Cost]) -> float:
    return median(cost.seconds for cost in costs)


def peak(costs: list[Cost]) -> float:
    return median(cost.peak for cost in costs)


def services() -> Mapping[str, Any]:
    """What starts each service: the tests' own, which the checkout has beside this folder."""
    if str(HERE.parent) not in sys.path:
        sys.path.append(str(HERE.parent))
    from tests.services.destinations import DESTINATIONS

    return DESTINATIONS


def fail(report: Report, figure: str, error: Exception) -> None:
    said = " ".join(str(error).split())
    report.add(figure, f"failed: {type(error).__name__}: {said[-600:]}", "", False)


def measure(scheme: str, args: argparse.Namespace, report: Report) -> None:
    """The figures of a destination; one that fails is reported, and does not stop the others."""
    progress.print(scheme, style="bold")
    known = services().get(scheme)
    if known is None:
        return report.add(scheme, "skipped: it is not among the services of the tests yet")
    if reason := known.why_not():
        return report.add(scheme, f"skipped: {reason}")
    RUNS.mkdir(exist_ok=True)
    folder = Path(tempfile.mkdtemp(dir=RUNS))
    try:
        with known.running() as peer:
            sink = SINKS[scheme]
            count = args.rows // sink.part
            Bench(scheme, sink, peer, count, args.runs, report, folder).figures()
    except Exception as error:
        fail(report, scheme, error)
    finally:
        shutil.rmtree(folder)


def elsewhere(schemes: Sequence[str], args: argparse.Namespace, report: Report) -> None:
    """The figures of destinations that need the other venv."""
    if not args.cloud.exists():
        for scheme in schemes:
            report.add(scheme, f"skipped: Google's clients are not installed in {args.cloud}")
        return
    with tempfile.NamedTemporaryFile(suffix=".json") as file:
        command = [args.cloud, __file__, *schemes, "--rows", str(args.rows)]
        command += ["--runs", str(args.runs), "--report", file.name]
        done = subprocess.run(command, stdin=subprocess.DEVNULL)
        said = json.loads(Path(file.name).read_bytes() or b"{}")
    report.verdicts += [Verdict(**verdict) for verdict in said.get("verdicts", ())]
    report.mismatches.update(said.get("mismatches", ()))
    if not said:
        report.add(", ".join(schemes), f"failed: exit code {done.returncode}", "", False)


def show(report: Report) -> None:
    table = Table("figure", "measured", "asked", "", title="Destinations")
    words = {True: "[green]PASS[/]", False: "[red]FALLS SHORT[/]", None: ""}
    for verdict in report.verdicts:
        table.add_row(
            escape(verdict.figure), escape(verdict.measured), verdict.asked, words[verdict.passes]
        )
    console.print(table)
    for line in sorted(report.mismatches):
        console.print(f"[red]table differs:[/] {escape(line)}")
    if not report.mismatches:
        console.print("Every table that was loaded holds every event once.")


def main(argv: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("schemes", nargs="*", metavar="DESTINATION", help=", ".join(SINKS))
    parser.add_argument("--rows", type=int, default=1_000_000)
    parser.add_argument("--runs", type=int, default=3, help="loads of each kind")
    parser.add_argument("--quick", action="store_true", help="100,000 rows, one load of each kind")
    parser.add_argument("--strict", action="store_true", help="end with 1 if a figure falls short")
    parser.add_argument(
        "--cloud", type=Path, default=CLOUD, help="Python that has Google's clients"
    )
    parser.add_argument("--report", type=Path, help="write figures here, as JSON; show none")
    args = parser.parse_args(argv)
    if args.quick:
        args.rows, args.runs = 100_000, 1
    if unknown := set(args.schemes) - set(SINKS):
        parser.error(f"no such destination: {', '.join(sorted(unknown))}")
    chosen = [scheme for scheme in SINKS if not args.schemes or scheme in args.schemes]
    report = Report()
    apart = [scheme for scheme in chosen if SINKS[scheme].cloud and not args.report]
    for scheme in chosen:
        if scheme not in apart:
            measure(scheme, args, report)
    if apart:
        elsewhere(apart, args, report)
    if args.report:
        args.report.write_text(json.dumps({
            "verdicts": [asdict(verdict) for verdict in report.verdicts],
            "mismatches": sorted(report.mismatches),
        }))  # fmt: skip
        return 0
    show(report)
    short = any(verdict.passes is False for verdict in report.verdicts)
    return 1 if report.mismatches or (args.strict and short) else 0


if __name__ == "__main__":
    sys.exit(main())
