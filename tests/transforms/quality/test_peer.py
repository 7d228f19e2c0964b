"""The same checks of the same data, in datacontract-cli: the same values, the same verdicts."""

from __future__ import annotations

import random
from pathlib import Path
from typing import Any

import apache_beam as beam
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import yaml
from millstream.schemas.odcs import parse_contract
from millstream.schemas.quality.checks import Verdict
from millstream.schemas.quality.loading import parse_checks
from millstream.transforms.quality.gate import Gate
from millstream.transforms.quality.measure import MeasureRecords
from millstream.transforms.runs import Prepared

from tests.running import run
from tests.services import datacontract

ROWS = 400
OPERATORS: list[tuple[str, Any]] = [
    ("mustBe", None),
    ("mustNotBe", None),
    ("mustBeGreaterThan", None),
    ("mustBeGreaterOrEqualTo", None),
    ("mustBeLessThan", None),
    ("mustBeLessOrEqualTo", None),
    ("mustBeBetween", 2),
    ("mustNotBeBetween", 2),
]
WORDS = [None, "", "n/a", "open", "paid", "Open", "x1"]
METRICS: list[dict[str, Any]] = [
    {"metric": "nullValues"},
    {"metric": "nullValues", "unit": "percent"},
    {"metric": "missingValues", "arguments": {"missingValues": [None, "", "n/a"]}},
    {"metric": "missingValues", "unit": "percent", "arguments": {"missingValues": ["n/a"]}},
    {"metric": "invalidValues", "arguments": {"validValues": ["open", "paid"]}},
    {"metric": "invalidValues", "arguments": {"pattern": "^[a-z]+$"}},
    {
        "metric": "invalidValues",
        "unit": "percent",
        "arguments": {"validValues": ["open", "", "n/a"], "pattern": "^o|^$"},
    },
    {"metric": "duplicateValues"},
    {"type": "sql", "query": "SELECT count(*) FROM {object} WHERE {property} LIKE '%p%'"},
]


def column(metric: dict[str, Any], chance: random.Random) -> list[Any]:
    if metric.get("metric") == "duplicateValues":
        return [chance.choice([None, *map(str, range(ROWS))]) for _ in range(ROWS)]
    weights = [chance.random() ** 3 for _ in WORDS]
    return chance.choices(WORDS, weights, k=ROWS)


def bound(operator: str, ends: int | None, metric: dict[str, Any], chance: random.Random) -> Any:
    """A limit near to what may come, and often exactly that."""
    most = 100 if metric.get("unit") == "percent" else ROWS
    limits = {0, 25, chance.randrange(1, 25), chance.randrange(26, most), most}
    found = chance.sample(sorted(limits), ends or 1)  # the standard wants two different ends
    return sorted(found) if ends else found[0]


def case(seed: int) -> tuple[dict[str, Any], pa.Table]:
    """A contract with a field for each metric and operator, and data."""
    chance = random.Random(seed)
    properties, columns = [], {}
    for i, (metric, (operator, ends)) in enumerate(
        (metric, operator) for metric in METRICS for operator in OPERATORS
    ):
        check = {**metric, operator: bound(operator, ends, metric, chance)}
        # One that allows nothing bad would make a rule, and dead letters.
        check["severity"] = chance.choice(["warning", "info"])
        properties.append({"name": f"f{i}", "logicalType": "string", "quality": [check]})
        columns[f"f{i}"] = pa.array(column(metric, chance), pa.string())
    first = {"properties": ["f0", "f1"]}
    table = {
        "name": "orders",
        "physicalName": "orders",
        "properties": properties,
        "quality": [
            {"metric": "rowCount", "mustBeBetween": [ROWS, ROWS + 1]},
            {"metric": "duplicateValues", "mustBeLessThan": 9, "arguments": first},
            {"type": "sql", "query": "SELECT max(length(f0)) FROM ${object}", "mustBe": 4},
        ],
    }
    return {
        "apiVersion": "v3.1.0",
        "kind": "DataContract",
        "id": "orders",
        "version": "1.0.0",
        "status": "active",
        "schema": [table],
    }, pa.table(columns)


def ours(text: str, table: pa.Table, folder: Path) -> list[Verdict]:
    contract = parse_contract(text, "c.yaml")
    checks = parse_checks(text, "c.yaml", contract)
    batches = table.to_batches(max_chunksize=ROWS // 7)
    measure = MeasureRecords(checks, contract, folder=str(folder), spills=True)
    facts = run(lambda p: {"f": p | beam.Create(batches, reshuffle=False) | measure})["f"]
    nothing = Prepared(token="", outputs=(), ledger_uri="", ledger=())
    return Gate(contract, checks).verdicts(nothing, facts)


@pytest.mark.service
@pytest.mark.parametrize("seed", range(4))
def test_the_same_verdicts(tmp_path, seed: int):
    if reason := datacontract.why_not():
        pytest.skip(f"datacontract-cli: {reason}")
    contract, table = case(seed)
    text = yaml.safe_dump(contract, sort_keys=False)
    pq.write_table(table, tmp_path / "orders.parquet")
    server = {"server": "here", "type": "local", "format": "parquet"}
    peer = {**contract, "servers": [{**server, "path": str(tmp_path / "orders.parquet")}]}
    (tmp_path / "peer.yaml").write_text(yaml.safe_dump(peer, sort_keys=False))

    found = {(v.check.field, v.check.kind): v for v in ours(text, table, tmp_path)}
    kinds = {
        "null_values": "nullValues",
        "missing_values": "missingValues",
        "invalid_values": "invalidValues",
        "duplicate_values": "duplicateValues",
        "row_count": "rowCount",
        "quality_sql": "sql",
    }
    compared = 0
    for theirs in datacontract.verdicts(tmp_path / "peer.yaml"):
        kind = next(kind for end, kind in kinds.items() if theirs.type.endswith(end))
        verdict = found[theirs.field or "", kind]
        said = (theirs, str(verdict))
        assert verdict.value.value == theirs.value, said
        assert (verdict.judgement == "kept") is (theirs.result == "passed"), said
        compared += 1
    assert compared == len(found) == len(METRICS) * len(OPERATORS) + 3
    judged = {verdict.judgement for verdict in found.values()}
    assert judged == {"kept", "broken"}
