"""The ledger: what went in comes out, and what does not is found."""

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st
from millstream.transforms import ledger
from millstream.transforms.ledger import Imbalance, LedgerRow
from millstream.transforms.receipts import Receipt
from millstream.transforms.tallies import Tally
from millstream.transforms.write.destination import Output

RECORDS = Output("records", "parquet:/data/records")
SUMS = Output("sums", "parquet:/data/sums", "aggregates")
DEAD = Output("dead", "jsonl:/data/dead", "dead_letters")
LATE = Output("late", "jsonl:/data/late", "side")
OUTPUTS = [RECORDS, SUMS, DEAD, LATE]


def receipt(output, sources, **more):
    rows = more.pop("rows", sum(sources.values()))
    return Receipt(output=output, path="p", rows=rows, bytes=1, sha256="0", sources=sources, **more)


def build(tallies, receipts, outputs=OUTPUTS):
    return ledger.build("r1", outputs, tallies, receipts)


WAYS = st.fixed_dictionaries(
    {name: st.integers(0, 50) for name in ("kept", "dead", "duplicate", "filtered", "late")}
)


@st.composite
def runs(draw):
    """Facts of a run in which every record went somewhere."""
    tallies, receipts = [], []
    for source in draw(st.sets(st.sampled_from("abcd"))):
        for ways in draw(st.lists(WAYS, max_size=3)):  # a bundle each
            tallies += [
                Tally(source, "read", sum(ways.values())),
                Tally(source, "duplicate", ways["duplicate"]),
                Tally(source, "filtered", ways["filtered"]),
                Tally(source, "late", ways["late"], "sums"),
                Tally(source, "written", ways["kept"], "sums"),
                Tally(source, "dead", ways["dead"]),
            ]
            receipts += [
                receipt("records", {source: ways["kept"] + ways["late"]}),
                receipt("dead", {source: ways["dead"]}),
                receipt("late", {source: ways["late"]}),
                receipt("sums", {}, part="states", rows=1, contributions=ways["kept"]),
                receipt("sums", {}, rows=1),
            ]
    return tallies, receipts


@given(runs(), st.randoms())
def test_balances_in_any_order(run, source):
    tallies, receipts = run
    rows = build(tallies, receipts)
    held = ledger.contributions(OUTPUTS, receipts)
    assert ledger.check(rows, held) == []
    shuffled = source.sample(receipts, len(receipts))
    assert build(source.sample(tallies, len(tallies)), shuffled) == rows


@given(runs(), st.data())
def test_every_lost_fact_is_found(run, data):
    tallies, receipts = run
    facts = [
        fact
        for fact in (*tallies, *receipts)
        if (fact.rows if isinstance(fact, Tally) else fact.rows or fact.contributions)
        and not (isinstance(fact, Tally) and fact.outcome == "dead")
        and not (isinstance(fact, Receipt) and fact.output == "late")
        and not (isinstance(fact, Receipt) and fact.output == "sums" and not fact.contributions)
    ]
    if not facts:
        return
    lost = data.draw(st.sampled_from(facts))
    left = [fact for fact in (*tallies, *receipts) if fact is not lost]
    kept_tallies = [fact for fact in left if isinstance(fact, Tally)]
    kept_receipts = [fact for fact in left if isinstance(fact, Receipt)]
    rows = build(kept_tallies, kept_receipts)
    assert ledger.check(rows, ledger.contributions(OUTPUTS, kept_receipts))


def test_dead_is_counted_from_the_staged_dead_letters():
    rows = build([Tally("a", "read", 3), Tally("a", "dead", 3)], [receipt("dead", {"a": 2})])
    assert [row.dead for row in rows] == [2, 2]
    assert [str(i) for i in ledger.check(rows)] == [
        "output 'records', source a: 1 records missing",
        "output 'sums', source a: 1 records missing",
    ]


def test_dead_is_counted_from_tallies_if_nobody_stages_them():
    (row,) = build([Tally("a", "read", 3), Tally("a", "dead", 3)], [], [RECORDS])
    assert row.dead == 3
    assert row.missing == 0


def test_written_is_counted_from_the_staged_records():
    tallies = [Tally("a", "read", 3), Tally("a", "written", 3, "records")]
    (row,) = build(tallies, [receipt("records", {"a": 4})], [RECORDS])
    assert row.written == 4
    assert str(ledger.check([row])[0]) == "output 'records', source a: 1 records too many"


def test_rows_without_a_source_are_found():
    (row,) = build([], [receipt("records", {}, rows=2)], [RECORDS])
    assert ledger.check([row]) == [Imbalance("", "records", -2)]


def test_states_that_hold_less_than_was_tallied():
    tallies = [Tally("a", "read", 5), Tally("a", "written", 5, "sums")]
    receipts = [receipt("sums", {}, part="states", rows=1, contributions=4)]
    rows = build(tallies, receipts, [SUMS])
    (found,) = ledger.check(rows, ledger.contributions([SUMS], receipts))
    assert str(found) == (
        "output 'sums', source (no source): 1 records missing "
        "(its states hold 4 records, its tallies say 5)"
    )


def test_an_aggregate_without_any_states():
    rows = build([Tally("a", "read", 5), Tally("a", "written", 5, "sums")], [], [SUMS])
    assert ledger.check(rows, ledger.contributions([SUMS], []))


def test_open_records_of_a_stream():
    row = LedgerRow(
        run_id="r", source="a", output="o", open_before=2, read=5, written=4, open_after=3
    )
    assert row.missing == 0


def test_batch_and_golden(golden):
    tallies = [
        Tally("a.jsonl", "read", 10),
        Tally("b.jsonl", "read", 5),
        Tally("a.jsonl", "filtered", 1),
        Tally("a.jsonl", "written", 7, "sums"),
        Tally("b.jsonl", "written", 5, "sums"),
    ]
    receipts = [
        receipt("records", {"a.jsonl": 7, "b.jsonl": 5}),
        receipt("dead", {"a.jsonl": 2}),
    ]
    rows = build(tallies, receipts)
    assert ledger.check(rows) == []
    batch = ledger.to_batch(rows)
    assert batch.schema == ledger.SCHEMA
    assert [msgspec.convert(row, LedgerRow) for row in batch.to_pylist()] == rows
    golden("ledger", rows)


def test_render():
    tallies = [Tally("a.jsonl", "read", 1200), Tally("b.jsonl", "read", 5)]
    receipts = [
        receipt("records", {"a.jsonl": 1198, "b.jsonl": 4}),
        receipt("dead", {"a.jsonl": 2}),
    ]
    assert ledger.render(build(tallies, receipts, [RECORDS, DEAD])) == (
        "records   read  written  dead\n"
        "b.jsonl      5        4     0  1 missing\n"
        "a.jsonl  1,200    1,198     2\n"
        "total    1,205    1,202     2  1 out of balance"
    )


def test_render_of_many_sources_is_short():
    tallies = [Tally(f"file-{n:03}", "read", 1) for n in range(100)]
    receipts = [receipt("records", {f"file-{n:03}": 1 for n in range(100)})]
    lines = ledger.render(build(tallies, receipts, [RECORDS])).splitlines()
    assert len(lines) == 23
    assert lines[-2] == "… and 80 more"
    assert lines[-1].split() == ["total", "100", "100", "0", "balanced"]


@pytest.mark.parametrize("outputs", [[], [DEAD]])
def test_render_of_nothing(outputs):
    assert ledger.render(build([], [], outputs)) == "(no records)"
