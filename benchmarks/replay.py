"""What it costs to bring dead letters back: ``make bench``.

    python benchmarks/replay.py [--letters 100000] [--runs 3]

The job of the comparison, with its records as Parquet too, over events that keep the contract:
once with that contract; and once with one that knows none of their types, so that all die of it,
and then are replayed under the right one. Records and windows of both have to be the same. Asked
for: replaying takes at most twice the job's time. Times are those of whole commands, and without
what the same takes for a single event.
"""

from __future__ import annotations

import argparse
import shutil
import sys
import tempfile
from pathlib import Path
from typing import Any

import compare
import duckdb
import events
import yaml
from measure import Cost, measure
from run import HERE, RUNS, Report, console, millstream, progress, wall, warm

LIMIT = 2.0


def job(path: Path, out: Path) -> Path:
    """The job's file, beside the contract that it names."""
    found: dict[str, Any] = yaml.safe_load((HERE / "clicks.yaml").read_text())
    found |= {
        "contract": str(out / "contract.yaml"),
        "input": [str(path)],
        "output": f"parquet:{out / 'records'}",
        "dead_letters": f"parquet:{out / 'dead_letters'}",
        "ledger": f"jsonl:{out / 'ledger'}",
    }
    for aggregate in found["aggregates"]:
        aggregate["output"] = f"parquet:{out / aggregate['name']}"
    file = out / "job.yaml"
    file.write_text(yaml.safe_dump(found))
    return file


def agree(out: Path, *, right: bool) -> None:
    """Have the job's contract know the events' types, or none of them."""
    text = (HERE / "clicks.odcs.yaml").read_text()
    known = "[view, click, cart, buy, scroll]"
    assert known in text
    (out / "contract.yaml").write_text(text if right else text.replace(known, "[none]"))


def run(*arguments: str | Path) -> Cost:
    return measure([str(millstream()), *map(str, arguments)], memory=False).checked()


def compared(path: Path, count: int) -> tuple[Cost, Cost]:
    """The cost of the job, and of the replay of all its records.

    Raises:
        RuntimeError: a command failed, or the two did not come to the same.
    """
    progress.print(f"  {path.name}: the job, and a replay of its records", style="dim")
    RUNS.mkdir(exist_ok=True)
    clean, healed = (Path(tempfile.mkdtemp(dir=RUNS)) for _ in range(2))
    try:
        agree(clean, right=True)
        ingest = run("ingest", "--job", job(path, clean))
        file = job(path, healed)
        agree(healed, right=False)
        run("ingest", "--job", file)
        agree(healed, right=True)
        replay = run("dead-letters", "replay", "--job", file)
        check(clean, healed, count)
        return ingest, replay
    finally:
        shutil.rmtree(clean)
        shutil.rmtree(healed)


def check(clean: Path, healed: Path, count: int) -> None:
    """See that nothing is missing, and nothing other.

    Raises:
        RuntimeError: it is.
    """
    windows = compare.compare(clean / "page_views", healed / "page_views", compare.PAGES)
    if not windows.equal:
        raise RuntimeError(f"the replay's windows are others: {windows}")
    rows = "SELECT * FROM read_parquet(?)"
    pairs = [str(clean / "records/*.parquet"), str(healed / "records/*.parquet")]
    for ours, theirs in (pairs, pairs[::-1]):
        query = f"SELECT count(*) FROM ({rows} EXCEPT ALL {rows})"
        ((others,),) = duckdb.execute(query, [ours, theirs]).fetchall()
        if others:
            raise RuntimeError(f"{others:,} records of {ours} are not in {theirs}")
    ((held,),) = duckdb.execute(f"SELECT count(*) FROM ({rows})", [pairs[1]]).fetchall()
    if held != count:
        raise RuntimeError(f"{held:,} records instead of {count:,}")


def main() -> int:
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--letters", type=int, default=100_000)
    parser.add_argument("--runs", type=int, default=3)
    parser.add_argument("--strict", action="store_true", help="exit 1 if it falls short")
    arguments = parser.parse_args()
    costs: dict[int, list[tuple[Cost, Cost]]] = {}
    for count in (1, arguments.letters):
        path = events.cached("clicks", count, 0.0)
        warm(path)
        costs[count] = [compared(path, count) for _ in range(arguments.runs)]
    start, whole = (
        tuple(wall(list(of_one)) for of_one in zip(*found, strict=True)) for found in costs.values()
    )
    report = Report()
    report.ratio(
        f"replay of {arguments.letters:,} dead letters, to the job over as many records",
        whole[1] / whole[0],
        LIMIT,
        f"{whole[1]:.2f} s to {whole[0]:.2f} s; without start-up "
        f"{whole[1] - start[1]:.2f} s to {whole[0] - start[0]:.2f} s",
    )
    (verdict,) = report.verdicts
    word = "ok" if verdict.passes else "FAILS"
    console.print(f"{verdict.figure}: {verdict.measured}, asked {verdict.asked} {word}")
    return int(arguments.strict and not verdict.passes)


if __name__ == "__main__":
    sys.exit(main())
