"""Expressions over records: what breaks them, and what is said of it."""

from __future__ import annotations

import pickle
from typing import Any

import pyarrow as pa
import pytest
from millstream.schemas.arrow import batch_schema
from millstream.schemas.odcs import parse_contract
from millstream.schemas.quality.checks import Check
from millstream.schemas.quality.loading import parse_checks
from millstream.schemas.quality.row_rules import RowRules
from millstream.schemas.sql.step import SqlError

TEXT = """\
apiVersion: v3.1.0
kind: DataContract
id: orders
version: 1.0.0
schema:
- name: orders
  properties:
  - {name: amount, logicalType: integer}
  - {name: total, logicalType: integer, classification: restricted}
"""
CONTRACT = parse_contract(TEXT, "c.yaml")
SCHEMA = batch_schema(CONTRACT)


def rules_of(*expressions: str) -> tuple[Check, ...]:
    text = f"{TEXT}  quality:\n"
    for i, expression in enumerate(expressions):
        text += f"  - {{type: custom, engine: millstream, name: rule {i}, "
        text += f'implementation: "{expression}"}}\n'
    return parse_checks(text, "c.yaml", parse_contract(text, "c.yaml"))


def batch(*pairs: tuple[Any, Any]) -> pa.RecordBatch:
    rows = [
        {"amount": a, "total": t, "_source": "s", "_position": i, "_payload": b"p"}
        for i, (a, t) in enumerate(pairs)
    ]
    return pa.RecordBatch.from_pylist(rows, SCHEMA)


def test_records_that_break_an_expression_fail_and_others_stay_as_they_are():
    step = RowRules(rules_of("amount <= total"), SCHEMA)
    given = batch((1, 2), (3, 2), (None, 2), (2, 2))
    kept, failures = step.attempt(given)
    assert kept.equals(given.take(pa.array([0, 2, 3])))  # null breaks nothing, as in SQL's CHECK
    assert [failure.row for failure in failures] == [1]
    assert str(failures[0].error) == "rule 0: expected amount <= total"


def test_a_batch_that_keeps_all_is_given_on_untouched():
    given = batch((1, 2))
    assert RowRules(rules_of("amount < 5"), SCHEMA).attempt(given).records is given


def test_all_that_a_record_breaks_is_said_and_no_value():
    step = RowRules(rules_of("amount <= total", "amount < 5", "total > 0"), SCHEMA)
    _, failures = step.attempt(batch((6, 4), (70, -3)))
    assert [str(f.error) for f in failures] == [
        "rule 0: expected amount <= total; rule 1: expected amount < 5",
        "rule 0: expected amount <= total; rule 1: expected amount < 5; rule 2: expected total > 0",
    ]


def test_an_expression_that_fails_on_a_record_is_broken_by_it_alone():
    step = RowRules(rules_of("total // amount > 0", "CAST(amount AS TINYINT) > 1"), SCHEMA)
    kept, failures = step.attempt(batch((2, 4), (1000, 4000), (3, 4)))
    assert kept["_position"].to_pylist() == [0, 2]
    assert [str(f.error) for f in failures] == ["rule 1: expected CAST(amount AS TINYINT) > 1"]
    assert step.counts(batch((2, 4), (1000, 4000), (2, 1))) == [1, 1]


def test_it_is_picklable():
    step = pickle.loads(pickle.dumps(RowRules(rules_of("amount < 5"), SCHEMA)))
    assert len(step.attempt(batch((1, 1), (9, 9))).failures) == 1


@pytest.mark.parametrize(
    ("expression", "message"),
    [
        ("amount +", "c.yaml:10 orders.quality[0] rule 0: "),
        ("amuont > 1", "amuont"),
        ("amount + 1", "expected an expression that is true or false, found one of type int64"),
        ("random() > 0.5", "random() is refused: it depends on more than the record"),
        ("amount > (SELECT 1)", "a subquery is refused"),
        ("sum(amount) > 1", "aggregate functions such as sum() are refused"),
    ],
)
def test_an_expression_that_is_refused(expression: str, message: str):
    with pytest.raises(SqlError) as raised:
        RowRules(rules_of("amount < 5", expression)[1:], SCHEMA)
    assert message.replace("10 orders.quality[0] rule 0", "12 orders.quality[1] rule 1") in str(
        raised.value
    )
