"""The failure budget while the pipeline runs: only what is certain stops a run."""

from __future__ import annotations

from typing import Any

import apache_beam as beam
import pyarrow as pa
import pytest
from millstream.schemas.codes import Code
from millstream.schemas.rules import Violation
from millstream.transforms.dead_letters import Origin, dead_letter_batch
from millstream.transforms.plan import InputFile, Plan, Token
from millstream.transforms.quality.budget import Budget, Limit, OverBudget, WithinBudget
from millstream.transforms.quality.report import read_report
from millstream.transforms.runs import RunStore

from tests.running import run


def letters(source: str, first: int, count: int) -> pa.RecordBatch:
    return dead_letter_batch(
        pa.array([source] * count),
        pa.array([str(first + i) for i in range(count)]),
        pa.array([b"x"] * count),
        [Violation(i, "", Code.MALFORMED, "no") for i in range(count)],
        Origin("parse"),
    )


@pytest.fixture
def begun(tmp_path) -> tuple[RunStore, Token]:
    store = RunStore(str(tmp_path))
    files = (InputFile(str(tmp_path), 1, "1"),)  # a plan, and so a token, of its own
    return store, store.begin(Plan("j", "c", "1", "d" * 64, files)).token


def passed(begun: Any, budget: Budget, *batches: pa.RecordBatch) -> int:
    given = beam.Create(list(batches), reshuffle=False)
    out = run(lambda p: {"letters": p | given | WithinBudget(budget, *begun)})
    return sum(batch.num_rows for batch in out["letters"])


def test_what_is_within_passes(begun):
    budget = Budget(Limit(dead=10, ratio=0.0), Limit(dead=6))
    assert passed(begun, budget, letters("a", 0, 5), letters("b", 0, 5)) == 10
    assert begun[0].record(begun[1]) is None


def test_no_number_no_limit(begun):
    assert passed(begun, Budget(Limit(ratio=0.1)), letters("a", 0, 50)) == 50


@pytest.mark.parametrize(
    ("budget", "said"),
    [
        (Budget(Limit(dead=9)), "more than 9 dead letters, which is all that are allowed"),
        (Budget(source=Limit(dead=4)), "b: more than 4 dead letters, which is all that are"),
    ],
)
def test_one_more_stops_the_run_and_it_is_recorded(begun, budget: Budget, said: str):
    with pytest.raises(Exception, match="over budget, and nothing was committed") as raised:
        passed(begun, budget, letters("a", 0, 4), letters("b", 0, 6))
    assert "OverBudget" in str(type(raised.value)) or said in str(raised.value)
    store, token = begun
    record = store.record(token)
    assert record is not None
    assert record.status == "failed"
    assert said in record.error
    report = read_report(store, token)
    assert report is not None
    assert report.decision == "fail"
    assert report.over_budget.startswith(said)


def test_a_bundle_that_is_repeated_is_counted_once(begun):
    make = WithinBudget(Budget(Limit(dead=5)), *begun)
    for _ in range(3):
        assert len(list(make._fn.process(letters("a", 0, 5)))) == 1
    with pytest.raises(OverBudget):
        list(make._fn.process(letters("a", 5, 1)))


def test_runs_do_not_count_for_each_other(begun, tmp_path):
    store, token = begun
    other = Token(f"other-{token.run_id}", token.plan_digest)
    for one in (token, other):
        make = WithinBudget(Budget(Limit(dead=5)), store, one)
        assert len(list(make._fn.process(letters("a", 0, 5)))) == 1
