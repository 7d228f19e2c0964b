# pyright: reportMissingImports=false
"""The clicks job as one lazy polars query with two sinks.

The fields are taken out of each line by ``json_path_match``, the only JSON function of polars that
survives a bad line; it gives text, so a number in quotes, or one where a string is due, passes.
Lines are read as a one-column CSV, since ``scan_lines`` stops at invalid UTF-8; the bad bytes
become U+FFFD, so the exact bytes are lost.
"""

import argparse
from pathlib import Path

import polars as pl

FIELDS = ("event_id", "user_id", "event_type", "page", "ts", "amount", "country")
EVENT_TYPES = ["view", "click", "cart", "buy", "scroll"]


def events(path: Path) -> pl.LazyFrame:
    """Each line with its fields as text, the time stamp and the amount parsed."""
    lines = pl.scan_csv(
        path,
        has_header=False,
        schema={"line": pl.String},
        separator="\x1f",
        quote_char=None,
        encoding="utf8-lossy",
    )
    fields = [pl.col("line").str.json_path_match(f"$.{name}").alias(name) for name in FIELDS]
    return lines.with_columns(fields).with_columns(
        at=pl.col("ts").str.to_datetime("%Y-%m-%dT%H:%M:%S%.f%#z", time_zone="UTC", strict=False),
        number=pl.col("amount").cast(pl.Float64, strict=False),
    )


def reasons() -> dict[str, pl.Expr]:
    """What can be wrong, each as a condition that is true when it is."""
    present = [pl.col(name).is_null().alias(f"{name} REQUIRED") for name in FIELDS[:5]]
    checks = {
        "ENCODING": pl.col("line").str.contains("\ufffd", literal=True),
        "event_id PATTERN": ~pl.col("event_id").str.contains("^[0-9a-f]{16}$"),
        "event_type ENUM": ~pl.col("event_type").is_in(EVENT_TYPES),
        "ts FORMAT": pl.col("ts").is_not_null() & pl.col("at").is_null(),
        "amount TYPE": pl.col("amount").is_not_null() & pl.col("number").is_null(),
        "amount RANGE": ~pl.col("number").is_between(0, 1_000_000),
        "country LENGTH": pl.col("country").str.len_chars() != 2,
    }
    return {e.meta.output_name(): e for e in present} | checks


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--input", type=Path, required=True)
    parser.add_argument("--out", type=Path, required=True)
    args = parser.parse_args()
    checks = {name: check.fill_null(False) for name, check in reasons().items()}
    judged = events(args.input).with_columns(bad=pl.any_horizontal(*checks.values()))
    views = (
        judged.filter(~pl.col("bad"))
        .with_columns(window_start=pl.col("at").dt.truncate("60s"))
        .group_by("window_start", "page", "event_type")
        .agg(events=pl.len(), revenue=pl.col("number").sum())
        .with_columns(window_end=pl.col("window_start").dt.offset_by("60s"))
    )
    named = [pl.when(check).then(pl.lit(name)) for name, check in checks.items()]
    dead = judged.filter("bad").select("line", reasons=pl.concat_list(named).list.drop_nulls())
    for folder in ("page_views", "dead_letters"):
        (args.out / folder).mkdir(parents=True, exist_ok=True)
    pl.collect_all(
        [
            views.sink_parquet(args.out / "page_views" / "part.parquet", lazy=True),
            dead.sink_ndjson(args.out / "dead_letters" / "part.jsonl", lazy=True),
        ]
    )


if __name__ == "__main__":
    main()
