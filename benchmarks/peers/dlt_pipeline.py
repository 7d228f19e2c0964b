# pyright: reportMissingImports=false
"""The clicks job in dlt: load into DuckDB, then aggregate there with SQL.

dlt has schema contracts, but ``discard_row`` drops a bad row without a trace and its JSON readers
stop at a bad line: each line is checked by hand (``checks.py``) and bad ones go to a table of their
own. dlt has no windows: they are a query in the destination.
"""

import argparse
import itertools
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import dlt
import orjson
from checks import judge

VIEWS = """
SELECT time_bucket(INTERVAL '60 seconds', ts) AS window_start,
    time_bucket(INTERVAL '60 seconds', ts) + INTERVAL '60 seconds' AS window_end,
    page, event_type, count(*) AS events, sum(amount) AS revenue
FROM events
GROUP BY ALL
"""
DEAD = "SELECT payload, violations FROM dead_letters"
BATCH = 10_000
COLUMNS: Any = {"ts": {"data_type": "timestamp"}, "amount": {"data_type": "double"}}
DEAD_COLUMNS: Any = {"payload": {"data_type": "binary"}, "violations": {"data_type": "json"}}


@dlt.resource(name="events", columns=COLUMNS, max_table_nesting=0)
def clicks(path: Path) -> Iterator[Any]:
    """Good events a page at a time; bad lines to ``dead_letters``."""
    with path.open("rb") as file:
        while lines := list(itertools.islice(file, BATCH)):
            good, dead = [], []
            for line in lines:
                payload = line.rstrip(b"\n")
                event, reasons = judge(payload, orjson.loads)
                if reasons:
                    dead.append({"payload": payload, "violations": reasons})
                else:
                    good.append(event)
            yield good
            if dead:
                yield dlt.mark.with_hints(
                    dead,
                    dlt.mark.make_hints(table_name="dead_letters", columns=DEAD_COLUMNS),
                    create_table_variant=True,
                )


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--input", type=Path, required=True)
    parser.add_argument("--out", type=Path, required=True)
    args = parser.parse_args()
    for folder in ("page_views", "dead_letters"):
        (args.out / folder).mkdir(parents=True, exist_ok=True)
    pipeline = dlt.pipeline(
        "clicks",
        pipelines_dir=str(args.out / "dlt"),
        destination=dlt.destinations.duckdb(str(args.out / "clicks.duckdb")),
        dataset_name="shop",
    )
    pipeline.run(clicks(args.input), loader_file_format="parquet")
    with pipeline.sql_client() as client:
        for folder, query in (("page_views", VIEWS), ("dead_letters", DEAD)):
            if query is DEAD and "dead_letters" not in pipeline.default_schema.tables:
                continue
            client.execute_sql(f"COPY ({query}) TO '{args.out / folder}/part.parquet'")


if __name__ == "__main__":
    main()
