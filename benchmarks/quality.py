"""What the quality checks of a contract cost: ``make bench-quality``.

    python benchmarks/quality.py [--quick] [--runs 3]

The job of the comparison (seven fields, windows of 60 s by two keys), with its records as Parquet:
once with its contract alone, and once with eight checks of all kinds besides, in turn. Asked for:
the checks take at most a quarter of the job's time.
"""

from __future__ import annotations

import argparse
import shutil
import sys
import tempfile
from pathlib import Path
from typing import Any

import events
import yaml
from measure import Cost, measure
from run import HERE, RUNS, Report, console, cpu, millstream, progress, wall, warm

LIMIT = 1.25
SIZES = (1_000_000, 5_000_000)
QUICK = (200_000,)

CHECKS: dict[str, list[dict[str, Any]]] = {
    "event_id": [{"metric": "duplicateValues", "mustBeLessThan": 1, "unit": "percent"}],
    "user_id": [
        {
            "metric": "missingValues",
            "mustBeLessThan": 1,
            "unit": "percent",
            "arguments": {"missingValues": ["", "unknown"]},
        }
    ],
    "event_type": [
        {
            "metric": "invalidValues",
            "mustBeLessThan": 2,
            "unit": "percent",
            "arguments": {"validValues": ["view", "click", "cart", "buy", "scroll"]},
        }
    ],
    "page": [
        {
            "metric": "invalidValues",
            "mustBeLessThan": 2,
            "unit": "percent",
            "arguments": {"pattern": "^/[a-z0-9/_-]*$"},
        }
    ],
    "amount": [{"metric": "nullValues", "mustBeLessOrEqualTo": 100, "unit": "percent"}],
    "country": [
        {
            "type": "sql",
            "query": "SELECT count(DISTINCT {property}) FROM {object}",
            "mustBeBetween": [1, 300],
        }
    ],
}
OF_THE_TABLE: list[dict[str, Any]] = [
    {"metric": "rowCount", "mustBeGreaterThan": 0},
    {
        "type": "custom",
        "engine": "millstream",
        "implementation": "amount IS NULL OR event_type <> 'view' OR amount < 1000000",
        "mustBeLessThan": 1,
        "unit": "percent",
    },
]


def contract(checked: bool) -> dict[str, Any]:
    """The contract of the comparison, with the checks or without."""
    found = yaml.safe_load((HERE / "clicks.odcs.yaml").read_text())
    if checked:
        (table,) = found["schema"]
        for prop in table["properties"]:
            prop.setdefault("quality", []).extend(CHECKS.get(prop["name"], []))
        table["quality"] = OF_THE_TABLE
    return found


def job(path: Path, out: Path, checked: bool) -> Path:
    """The job's file, and its contract's, in an empty folder."""
    (out / "contract.yaml").write_text(yaml.safe_dump(contract(checked)))
    found = yaml.safe_load((HERE / "clicks.yaml").read_text())
    found |= {
        "contract": str(out / "contract.yaml"),
        "input": [str(path)],
        "output": f"parquet:{out / 'records'}",
        "dead_letters": f"jsonl:{out / 'dead_letters'}",
        "ledger": f"jsonl:{out / 'ledger'}",
    }
    for aggregate in found["aggregates"]:
        aggregate["output"] = f"parquet:{out / aggregate['name']}"
    if checked:
        found["quality"] = {"scores": f"jsonl:{out / 'scores'}"}
    file = out / "job.yaml"
    file.write_text(yaml.safe_dump(found))
    return file


def once(path: Path, checked: bool) -> Cost:
    """One run in an empty folder.

    Raises:
        RuntimeError: it failed, or made no or other checks.
    """
    progress.print(f"  {path.name}, {'with' if checked else 'without'} checks", style="dim")
    RUNS.mkdir(exist_ok=True)
    out = Path(tempfile.mkdtemp(dir=RUNS))
    try:
        command = [str(millstream()), "ingest", "--job", str(job(path, out, checked))]
        cost = measure(command, memory=False).checked()
        made = cost.output.count("  kept      ") + cost.output.count("  enforced  ")
        if made != (9 if checked else 0):  # one is the contract's own
            raise RuntimeError(f"{made} checks were made and kept: {cost.output[-2000:]}")
        return cost
    finally:
        shutil.rmtree(out)


def figures(sizes: tuple[int, ...], runs: int, report: Report) -> None:
    """What the checks cost, at each size."""
    for size in sizes:
        path = events.cached("clicks", size)
        warm(path)
        costs: dict[bool, list[Cost]] = {False: [], True: []}
        for _ in range(runs):
            for checked in costs:
                costs[checked].append(once(path, checked))
        plain, judged = costs[False], costs[True]
        report.ratio(
            f"quality: wall of a job with eight checks, {size:,} events, to that without",
            wall(judged) / wall(plain),
            LIMIT,
            f"{wall(judged):.2f} s to {wall(plain):.2f} s; "
            f"CPU {cpu(judged):.2f} s to {cpu(plain):.2f} s, {cpu(judged) / cpu(plain):.2f} x",
        )


def main() -> int:
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--quick", action="store_true", help="fewer events")
    parser.add_argument("--runs", type=int, default=3)
    parser.add_argument("--strict", action="store_true", help="exit 1 if it falls short")
    arguments = parser.parse_args()
    report = Report()
    figures(QUICK if arguments.quick else SIZES, arguments.runs, report)
    for verdict in report.verdicts:
        word = "" if verdict.passes is None else "ok" if verdict.passes else "FAILS"
        console.print(f"{verdict.figure}: {verdict.measured}, asked {verdict.asked} {word}")
    return int(arguments.strict and any(v.passes is False for v in report.verdicts))


if __name__ == "__main__":
    sys.exit(main())
