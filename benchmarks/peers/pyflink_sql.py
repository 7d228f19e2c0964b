# pyright: reportMissingImports=false
"""The clicks job in Flink SQL, batch mode, two sinks in one statement set.

Flink's ``json`` format either fails at a bad line or drops it, so lines are read with ``raw`` and
taken apart by ``JSON_VALUE``. That gives text: a number in quotes, or one where a string is due,
passes, and so does garbage after the object. Flink SQL cannot read an offset of a time stamp (it
ignores it) and takes February 30 for the 28th: both are worked around here by
hand. The wheel has no Parquet: results are CSV and JSON.
"""

import argparse
from pathlib import Path

from pyflink.table import EnvironmentSettings, TableEnvironment

OFFSET_MINUTES = """
CASE WHEN RIGHT(ts, 1) = 'Z' THEN 0 ELSE
    CASE SUBSTRING(ts, CHAR_LENGTH(ts) - 5, 1) WHEN '-' THEN -1 ELSE 1 END
    * (60 * TRY_CAST(SUBSTRING(ts, CHAR_LENGTH(ts) - 4, 2) AS INT)
        + TRY_CAST(RIGHT(ts, 2) AS INT))
END
"""
LINES = """
CREATE TABLE lines (line BYTES)
WITH ('connector' = 'filesystem', 'path' = '{path}', 'format' = 'raw')
"""
FIELDS = """
CREATE VIEW fields AS
SELECT line, text,
    JSON_VALUE(text, '$.event_id' NULL ON ERROR) AS event_id,
    JSON_VALUE(text, '$.user_id' NULL ON ERROR) AS user_id,
    JSON_VALUE(text, '$.event_type' NULL ON ERROR) AS event_type,
    JSON_VALUE(text, '$.page' NULL ON ERROR) AS page,
    JSON_VALUE(text, '$.ts' NULL ON ERROR) AS ts,
    JSON_VALUE(text, '$.amount' NULL ON ERROR) AS amount_text,
    JSON_VALUE(text, '$.country' NULL ON ERROR) AS country
FROM (SELECT line, DECODE(line, 'UTF-8') AS text FROM lines)
"""
TIMED = f"""
CREATE VIEW timed AS
SELECT *, TRY_CAST(amount_text AS DOUBLE) AS amount,
    TIMESTAMPADD(MINUTE, -({OFFSET_MINUTES}), local_time) AS event_time
FROM (SELECT *, TO_TIMESTAMP(SUBSTRING(ts, 1, 19), 'yyyy-MM-dd''T''HH:mm:ss') AS local_time
    FROM fields)
"""
JUDGED = r"""
CREATE VIEW judged AS
SELECT *, ARRAY_REMOVE(ARRAY[
    IF(POSITION(U&'\FFFD' IN text) > 0, 'ENCODING', ''),
    IF(text IS NOT JSON OBJECT, 'MALFORMED', ''),
    IF(event_id IS NULL, 'event_id REQUIRED', ''),
    IF(user_id IS NULL, 'user_id REQUIRED', ''),
    IF(event_type IS NULL, 'event_type REQUIRED', ''),
    IF(page IS NULL, 'page REQUIRED', ''),
    IF(ts IS NULL, 'ts REQUIRED', ''),
    IF(NOT REGEXP(event_id, '^[0-9a-f]{16}$'), 'event_id PATTERN', ''),
    IF(event_type NOT IN ('view', 'click', 'cart', 'buy', 'scroll'), 'event_type ENUM', ''),
    IF(NOT REGEXP(ts, '^[0-9-]{10}T[0-9:]{8}([.][0-9]+)?(Z|[+-][0-9]{2}:[0-9]{2})$')
        OR (ts IS NOT NULL AND event_time IS NULL)
        OR DATE_FORMAT(local_time, 'yyyy-MM-dd') <> SUBSTRING(ts, 1, 10), 'ts FORMAT', ''),
    IF(amount_text IS NOT NULL AND amount IS NULL, 'amount TYPE', ''),
    IF(NOT amount BETWEEN 0 AND 1000000, 'amount RANGE', ''),
    IF(CHAR_LENGTH(country) <> 2, 'country LENGTH', '')
], '') AS reasons
FROM timed
"""
SINKS = (
    """
CREATE TABLE page_views (
    window_start TIMESTAMP(3), window_end TIMESTAMP(3),
    page STRING, event_type STRING, events BIGINT, revenue DOUBLE
) WITH ('connector' = 'filesystem', 'path' = '{out}/page_views', 'format' = 'csv')
""",
    """
CREATE TABLE dead_letters (line BYTES, reasons ARRAY<STRING>)
WITH ('connector' = 'filesystem', 'path' = '{out}/dead_letters', 'format' = 'json')
""",
)
AGGREGATE = """
INSERT INTO page_views
SELECT minute_start, minute_start + INTERVAL '60' SECOND, page, event_type,
    COUNT(*), SUM(amount)
FROM (SELECT *, FLOOR(event_time TO MINUTE) AS minute_start FROM judged
    WHERE CARDINALITY(reasons) = 0)
GROUP BY minute_start, page, event_type
"""
DEAD = "INSERT INTO dead_letters SELECT line, reasons FROM judged WHERE CARDINALITY(reasons) > 0"


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--input", type=Path, required=True)
    parser.add_argument("--out", type=Path, required=True)
    args = parser.parse_args()
    tables = TableEnvironment.create(EnvironmentSettings.in_batch_mode())
    tables.get_config().set("table.local-time-zone", "UTC")
    tables.get_config().set("parallelism.default", "2")
    for statement in (LINES.replace("{path}", str(args.input.absolute())), FIELDS, TIMED, JUDGED):
        tables.execute_sql(statement)
    for sink in SINKS:
        tables.execute_sql(sink.format(out=args.out.absolute()))
    both = tables.create_statement_set()
    both.add_insert_sql(AGGREGATE)
    both.add_insert_sql(DEAD)
    both.execute().wait()
    for folder, suffix in (("page_views", ".csv"), ("dead_letters", ".jsonl")):
        for part in (args.out / folder).iterdir():
            part.rename(part.with_suffix(suffix))  # Flink gives its parts no suffix


if __name__ == "__main__":
    main()
