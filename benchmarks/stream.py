"""Streams: the promised figures, measured: ``make bench-stream``.

    python benchmarks/stream.py [--only 1,2] [--events 1000000] [--runs 3] [--quick] [--strict]

One broker, on the same processors as all else, holds a topic of four partitions. Each contender
reads it all, and does the same job: every event held against the contract, bad ones to dead
letters, the others counted and summed in 10 s windows by event type and country, 30 s of disorder,
into Parquet (CSV where it has no Parquet). They run in turn, each in processes of its own and into
an empty folder. After the events come some of a later time, which close all windows before them.
Results are held against DuckDB's, over the same lines. Time runs from the start of the process to
the moment the last result is visible; *net* is without what the same takes for a hundred events.
"""

from __future__ import annotations

import argparse
import shutil
import signal
import subprocess
import sys
import tempfile
from collections import defaultdict
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from statistics import median
from typing import NamedTuple

import events
import peers
from peers import Peer
from rich.markup import escape
from rich.table import Table
from run import RUNS, Report, console
from streams import at_rate
from streams.contenders import PEERS, Bench, Contender, Outcome, Topic
from streams.reference import VIEWS

HERE = Path(__file__).parent
HELLO = 100
"""Events of a topic whose reading is all start-up."""
FIGURES = ("1", "2", "3", "4")
OURS = ("incremental", "live")
BARE = 0.5
"""The least that is asked of the incremental job, to the bare loop."""
DRAINING = 150_000
"""Events a second that are asked of the live job."""
ROWS = 5
"""The least that is asked of the live job, to the row-by-row pipeline."""

EXACT = "every window exact"
Rates = dict[str, "Rate"]


@contextmanager
def broker(address: str) -> Iterator[str]:
    """The address of a broker: the one that is given, or that of the tests, started here.

    Raises:
        RuntimeError: none can be had. The message says why.
    """
    if address:
        yield address
        return
    from tests.services import kafka

    if reason := kafka.why_not():
        raise RuntimeError(reason)
    with kafka.running() as peer:
        yield peer.inner


@dataclass(frozen=True)
class Rate:
    """Events a second of a contender, from medians. ``whole`` is with the start of the process,
    ``net`` without the seconds of ``start``; these are 0 where they cannot be told from the rest.
    """

    name: str
    events: int
    whole: float
    net: float
    a_cpu_second: float
    start: float
    differs: str

    def __str__(self) -> str:
        start = f"{self.whole:,.0f} with a start of {self.start:.1f} s"
        if not self.start:
            start = "start included: too few events to take it off"
        cost = f"{self.a_cpu_second:,.0f} a CPU-s; {self.events:,} events"
        return f"{self.net:,.0f} events/s ({start}; {cost})"

    @property
    def exact(self) -> str:
        return f"DIFFERS: {self.differs}" if self.differs else EXACT


class Topics(NamedTuple):
    """What is drained: of which reading is all start-up, all events, and those for who is slow."""

    hello: Topic
    whole: Topic
    slow: Topic


def rates(bench: Bench, topics: Topics, contenders: Mapping[str, Contender]) -> Rates:
    """The rates of contenders that take turns; what fails is reported, and not tried again."""
    hellos: dict[str, list[Outcome]] = defaultdict(list)
    drained: dict[str, list[Outcome]] = defaultdict(list)
    whole = {key: topics.slow if who.slow else topics.whole for key, who in contenders.items()}
    failed: set[str] = set()
    for _ in range(bench.args.runs):
        for key, who in contenders.items():
            if key in failed:
                continue
            try:
                hellos[key].append(bench.once(who, topics.hello))
                drained[key].append(bench.once(who, whole[key]))
            except RuntimeError as error:
                failed.add(key)
                said = " ".join(str(error).split())
                bench.report.add(who.name, f"failed: {said}", "", False if key in OURS else None)
    return {
        key: rate(who.name, whole[key].events, drained[key], hellos[key])
        for key, who in contenders.items()
        if key not in failed
    }


def rate(name: str, count: int, drained: list[Outcome], hellos: list[Outcome]) -> Rate:
    seconds, cpu = (median(getattr(o, what) for o in drained) for what in ("seconds", "cpu"))
    start = median(outcome.seconds for outcome in hellos)
    if seconds - start < seconds / 10:  # noise: with so few events, nearly all is start-up
        start = 0.0
    net = seconds - start
    differs = {outcome.differs for outcome in drained if outcome.differs}
    return Rate(
        name, count, count / seconds, count / net, count / cpu, start, "; ".join(sorted(differs))
    )


def drains(bench: Bench, topics: Topics, only: set[str]) -> None:
    """Figures 1, 2 and 4: all contenders, in turn."""
    contenders: dict[str, Contender] = {}
    if "1" in only:
        contenders |= {"bare": bench.bare(), "incremental": bench.incremental()}
    if only & {"2", "4"} and bench.args.prism:
        contenders["live"] = bench.live()
    if "2" in only and bench.args.prism:
        contenders["rows"] = bench.rows()
    if "4" in only:
        contenders |= {peer.name: bench.peer(peer) for peer in installed(bench.report)}
    found = rates(bench, topics, contenders)
    if "1" in only:
        against_bare_loop(bench.report, found)
    if "2" in only:
        against_rows(bench.report, found)
    if "4" in only:
        against_peers(bench.report, found)


def installed(report: Report) -> Iterator[Peer]:
    """The peers that are there; of the others, it is reported why they are not."""
    for peer in PEERS:
        try:
            peers.install(peer)
            yield peer
        except (RuntimeError, OSError, subprocess.CalledProcessError) as error:
            report.add(f"4. {peer.name}", f"missing: {' '.join(str(error).split())[-300:]}")


def against_bare_loop(report: Report, found: Rates) -> None:
    bare, ours = found.get("bare"), found.get("incremental")
    if bare is None or ours is None:
        return
    report.add(f"1. {bare.name}", str(bare))
    report.add(f"1. {ours.name}", f"{ours}; {ours.exact}", EXACT, not ours.differs)
    compare(report, "1. incremental to bare loop", ours, bare, BARE)


def against_rows(report: Report, found: Rates) -> None:
    ours, rows = found.get("live"), found.get("rows")
    if ours is None:
        return
    passes = ours.net >= DRAINING and not ours.differs
    asked = f">= {DRAINING:,} events/s, {EXACT}"
    report.add(f"2. {ours.name}, draining", f"{ours}; {ours.exact}", asked, passes)
    if rows is None:
        return
    report.add(f"2. {rows.name}", f"{rows}; {rows.exact}")
    compare(report, "2. live to Beam row by row", ours, rows, ROWS)


def against_peers(report: Report, found: Rates) -> None:
    ours = found.get("live")
    for peer in PEERS:
        theirs = found.get(peer.name)
        if theirs is None:
            continue
        name = f"4. {peer.requirements[0].replace('==', ' ')}"
        report.add(name, f"{theirs}; {theirs.exact}. {peer.cannot}")
        if ours is not None:
            compare(report, f"4. live to {peer.name}", ours, theirs, 1)


def compare(report: Report, figure: str, ours: Rate, theirs: Rate, least: float) -> None:
    """How much faster we are, without start-up; the same with it beside that."""
    net, whole = ours.net / theirs.net, ours.whole / theirs.whole
    measured = f"{net:.2f} x ({whole:.2f} x with the start of both)"
    report.add(figure, measured, f">= {least:g} x", net >= least)


def show(report: Report) -> None:
    table = Table("figure", "measured", "asked", "", title="Streams")
    words = {True: "[green]PASS[/]", False: "[red]FALLS SHORT[/]", None: ""}
    for verdict in report.verdicts:
        table.add_row(
            escape(verdict.figure), escape(verdict.measured), verdict.asked, words[verdict.passes]
        )
    console.print(table)


def measure(args: argparse.Namespace, only: set[str], report: Report, folder: Path) -> None:
    """All figures that are wanted."""
    with broker(args.broker) as address:
        bench = Bench(address, args, report, folder)
        if only & {"1", "2", "4"}:
            drained = {
                count: bench.topic("clicks", events.cached("clicks", count), count, VIEWS)
                for count in {HELLO: 0, args.events: 0, args.slow_events: 0}
            }
            topics = Topics(drained[HELLO], drained[args.events], drained[args.slow_events])
            drains(bench, topics, only)
        if "3" in only and args.prism:
            at_rate.figures(bench)


def prism(report: Report) -> str:
    """Where Prism is; empty, and said so, if it cannot be had."""
    from tests.services.prism import prism_location, why_not

    found = prism_location()
    if found is None:
        report.add("2., 3. live on Prism", f"skipped: {why_not()}")
    return found or ""


def wanted(text: str) -> set[str]:
    chosen = set(text.split(","))
    if unknown := chosen - set(FIGURES):
        raise argparse.ArgumentTypeError(f"no such figure: {', '.join(sorted(unknown))}")
    return chosen


def arguments(argv: list[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--only", type=wanted, default=set(FIGURES), help="figures, as 1,2")
    parser.add_argument("--events", type=int, default=1_000_000, help="of the topic to drain")
    parser.add_argument("--runs", type=int, default=3, help="drains of each contender")
    parser.add_argument(
        "--slow-events", type=int, help="for the others; else as many as we are given"
    )
    parser.add_argument("--processes", type=int, default=2, help="of bytewax and of quixstreams")
    parser.add_argument("--rate", type=int, default=20_000, help="events a second of figure 3")
    parser.add_argument("--seconds", type=int, default=600, help="how long figure 3 takes")
    parser.add_argument("--keys", type=int, default=1_000_000, help="of a window of figure 3")
    parser.add_argument(
        "--quick", action="store_true", help="a tenth of the events and of the time, one run"
    )
    parser.add_argument("--strict", action="store_true", help="end with 1 if a figure falls short")
    parser.add_argument("--broker", default="", help="HOST:PORT of one that runs, and is empty")
    parser.add_argument(
        "--patience", type=float, default=300, help="seconds without a result that end a drain"
    )
    args = parser.parse_args(argv)
    if args.quick:
        args.events, args.keys, args.seconds, args.runs = 100_000, 100_000, 60, 1
    args.slow_events = args.slow_events or args.events
    return args


def main(argv: list[str] | None = None) -> int:
    args = arguments(argv)
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))  # so that all that runs is ended
    sys.path.append(str(HERE.parent))  # for the services of the tests
    report = Report()
    args.prism = prism(report)
    for folder in (RUNS, peers.VENVS):
        folder.mkdir(exist_ok=True)
    folder = Path(tempfile.mkdtemp(dir=RUNS))
    try:
        measure(args, args.only, report, folder)
    except Exception as error:
        report.add("broker", f"failed: {error}", "", False)
        raise
    finally:
        shutil.rmtree(folder, ignore_errors=True)
        show(report)
    return 1 if args.strict and any(v.passes is False for v in report.verdicts) else 0


if __name__ == "__main__":
    sys.exit(main())
