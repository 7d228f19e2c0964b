# pyright: reportMissingImports=false
"""The clicks job in PySpark, as its documentation has it: ``from_json`` in PERMISSIVE mode.

``from_json`` turns a number where a string is due into text and stops reading at the end of the
object, so ``{"user_id": 7}`` and trailing garbage pass. The text source keeps bytes as they are.
"""

import argparse
from pathlib import Path

from pyspark.sql import Column, DataFrame, SparkSession
from pyspark.sql import functions as F

SCHEMA = (
    "event_id STRING, user_id STRING, event_type STRING, page STRING, ts STRING, amount DOUBLE,"
    " country STRING, corrupt STRING"
)
OPTIONS = {
    "mode": "PERMISSIVE",
    "columnNameOfCorruptRecord": "corrupt",
    "allowNonNumericNumbers": "false",
}
EVENT_TYPES = ("view", "click", "cart", "buy", "scroll")
OFFSET = r"^\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d(\.\d+)?(Z|[+-]\d\d:\d\d)$"


def reasons() -> Column:
    """Everything that is wrong with a line."""
    checks = {
        "ENCODING": ~F.is_valid_utf8("value"),
        "MALFORMED": F.col("corrupt").isNotNull() | F.col("event").isNull(),
        **{
            f"{name} REQUIRED": F.col(name).isNull()
            for name in ("event_id", "user_id", "event_type", "page", "ts")
        },
        "event_id PATTERN": ~F.col("event_id").rlike("^[0-9a-f]{16}$"),
        "event_type ENUM": ~F.col("event_type").isin(*EVENT_TYPES),
        "ts FORMAT": ~F.col("ts").rlike(OFFSET) | F.col("at").isNull(),
        "amount RANGE": ~F.col("amount").between(0, 1_000_000),
        "country LENGTH": F.length("country") != 2,
    }
    return F.array_compact(F.array(*(F.when(check, name) for name, check in checks.items())))


def judged(spark: SparkSession, path: Path) -> DataFrame:
    """Each line with its fields and the list of what is wrong with it."""
    return (
        spark.read.text(str(path))
        .withColumn("event", F.from_json("value", SCHEMA, OPTIONS))
        .select("value", "event", "event.*")
        .withColumn("at", F.try_to_timestamp("ts"))
        .withColumn("reasons", reasons())
    )


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--input", type=Path, required=True)
    parser.add_argument("--out", type=Path, required=True)
    args = parser.parse_args()
    spark = (
        SparkSession.builder.master("local[2]")
        .appName("clicks")
        .config("spark.ui.enabled", "false")
        .config("spark.sql.session.timeZone", "UTC")
        .config("spark.sql.shuffle.partitions", "2")
        .getOrCreate()
    )
    lines = judged(spark, args.input).drop("event").persist()
    (
        lines.filter(F.size("reasons") == 0)
        .groupBy(F.window("at", "60 seconds"), "page", "event_type")
        .agg(F.count("*").alias("events"), F.sum("amount").alias("revenue"))
        .select("window.start", "window.end", "page", "event_type", "events", "revenue")
        .withColumnsRenamed({"start": "window_start", "end": "window_end"})
        .write.parquet(str(args.out / "page_views"))
    )
    dead = lines.filter(F.size("reasons") > 0)
    dead.select(F.col("value").cast("binary").alias("payload"), "reasons").write.parquet(
        str(args.out / "dead_letters")
    )
    spark.stop()


if __name__ == "__main__":
    main()
