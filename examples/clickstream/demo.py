"""The demo: a day of click events through the job of this folder, and what came out of it.

Makes everything in ``demo/`` of the working directory. A second run shows that nothing changes.
"""

from __future__ import annotations

import base64
import json
import shutil
import subprocess
import sys
import textwrap
from collections import Counter
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq

HERE = Path(__file__).resolve().parent
DEMO = Path("demo")
WAREHOUSE = DEMO / "warehouse"
INGEST = ["ingest", "--job", str(DEMO / "job.yaml"), "--runner=FnApiRunner"]


def main() -> int:
    again = WAREHOUSE.exists()
    make_input()
    title("The run")
    print("$ millstream", *INGEST, flush=True)
    code = subprocess.call([sys.executable, "-m", "millstream.pipelines.cli", *INGEST])
    if code:
        print(f"\nTo begin anew: rm -r {DEMO}")
        return code
    show_dead_letters()
    show_page_views()
    show_next(again)
    return 0


def make_input() -> None:
    """The job, its contract, and a day of events; what is there already is left as it is."""
    DEMO.mkdir(exist_ok=True)
    for name in ("job.yaml", "clickstream.odcs.yaml"):
        if not (DEMO / name).exists():
            shutil.copy(HERE / name, DEMO)
    title("The input")
    events = DEMO / "events"
    if not events.exists():
        unfinished = DEMO / "events.unfinished"
        generate = [sys.executable, str(HERE / "generate.py"), "--out", str(unfinished)]
        subprocess.run(generate, check=True, stdout=subprocess.DEVNULL)
        unfinished.rename(events)
    files = sorted(events.iterdir())
    size = sum(file.stat().st_size for file in files)
    print(f"{len(files)} files in {events}, {size / 1e6:.0f} MB, every other one gzip.")
    print("About one event in a hundred is broken. A good one:\n")
    with files[0].open(encoding="utf-8") as file:
        print(indented(file.readline().strip()))


def show_dead_letters() -> None:
    title("Dead letters: what is wrong, how often, and a sample with its exact bytes")
    samples: dict[str, dict[str, Any]] = {}
    counts: Counter[str] = Counter()
    for path in committed("dead_letters"):
        for letter in map(json.loads, path.read_text("utf-8").splitlines()):
            codes = "+".join(sorted(letter["codes"]))
            counts[codes] += 1
            samples.setdefault(codes, letter)
    for codes, count in counts.most_common():
        letter = samples[codes]
        payload = base64.b64decode(letter["payloadBytes"])
        place = f"{Path(letter['source']).name}, byte {letter['position']}"
        print(f"{count:>5,} {codes}: {letter['errorMessage']}")
        print(indented(f"{place}: {payload!r}"))


def show_page_views() -> None:
    title("page_views: the first windows")
    columns = ["window_start", "page", "event_type", "events", "revenue", "visitors"]
    table = pq.read_table([str(path) for path in committed("page_views")], columns=columns)
    first = table.sort_by([(name, "ascending") for name in columns[:3]]).slice(0, 8)
    rows = [columns, *([text(row[name]) for name in columns] for row in first.to_pylist())]
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    for row in rows:
        cells = zip(row, widths, strict=True)
        print("  " + "  ".join(cell.ljust(width) for cell, width in cells).rstrip())
    print(f"  … {table.num_rows:,} rows in all")


def show_next(again: bool) -> None:
    title("Next")
    command = " ".join(["millstream", *INGEST])
    if again:
        print("That was the same run again: nothing was read, nothing has changed.")
    else:
        print("The same run again changes nothing: make demo")
    print(
        f"""
Kill it on its way, then let the same command mend it:

  rm -r {WAREHOUSE}
  .venv/bin/{command} & sleep 2; kill -9 $!
  .venv/bin/{command}

New input is a run of its own; what a run has committed already is refused to another:

  echo '{{"event_id": "of no use"}}' > {DEMO}/more.jsonl
  .venv/bin/{command} --input {DEMO}/more.jsonl
  .venv/bin/{command} --run_id another

What of the contract is enforced, and every key and exit code of a job:

  .venv/bin/millstream contract check {DEMO}/clickstream.odcs.yaml
  .venv/bin/millstream ingest --help"""
    )


def committed(output: str) -> list[Path]:
    """The files of an output: those that its newest manifest names."""
    folder = WAREHOUSE / output
    newest = max((folder / "_millstream" / "manifests").glob("[0-9]*.json"))
    entries = json.loads(newest.read_text("utf-8"))["entries"]
    return [
        folder / file["path"]
        for entry in entries
        for file in entry["files"]
        if file["part"] == "data"
    ]


def title(words: str) -> None:
    print(f"\n== {words} ==\n")


def indented(words: str) -> str:
    edge = " " * 6
    return textwrap.fill(
        words, 100, initial_indent=edge, subsequent_indent=edge, break_on_hyphens=False
    )


def text(value: Any) -> str:
    if value is None:
        return "-"
    return f"{value:%H:%M}" if hasattr(value, "minute") else str(value)


if __name__ == "__main__":
    sys.exit(main())
