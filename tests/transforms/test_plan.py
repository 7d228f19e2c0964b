"""Plans: equal work has an equal digest, and everything that matters changes it."""

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st
from millstream.transforms.plan import InputFile, Plan, PlanError, Token, checked_name, diff

FILES = st.lists(
    st.builds(InputFile, st.text(min_size=1), st.integers(0, 2**60), st.text()),
    unique_by=lambda file: file.source,
    max_size=5,
).map(tuple)
PLANS = st.builds(
    Plan, st.text(), st.text(), st.text(), st.text(), FILES, st.dictionaries(st.text(), st.text())
)


@given(PLANS, st.randoms())
def test_order_does_not_matter(plan, source):
    files = source.sample(plan.inputs, len(plan.inputs))
    settings = dict(source.sample(list(plan.settings.items()), len(plan.settings)))
    other = msgspec.structs.replace(plan, inputs=tuple(files), settings=settings)
    assert other.to_json() == plan.to_json()
    assert other.digest == plan.digest


@given(PLANS)
def test_reads_back(plan):
    again = Plan.from_json(plan.to_json())
    assert again.digest == plan.digest
    assert diff(plan, again) == "nothing"


@given(PLANS, PLANS)
def test_other_plans_have_other_digests(one, two):
    assert (one.digest == two.digest) == (diff(one, two) == "nothing")


def plan(**changes):
    settings = {
        "job": "clicks",
        "contract_id": "clicks",
        "contract_version": "1.2.0",
        "contract_digest": "c" * 64,
        "inputs": (InputFile("/data/b.jsonl", 20, "2"), InputFile("/data/a.jsonl", 10, "1")),
        "settings": {"window": "60s", "unknown_fields": "ignore"},
    }
    return Plan(**(settings | changes))


def test_golden(golden):
    golden("plan", plan().to_json())


def test_what_differs_is_said():
    new = plan(
        contract_version="2",
        inputs=(InputFile("/data/a.jsonl", 11, "1"), InputFile("/data/c.jsonl", 1, "1")),
        settings={"window": "30s", "unknown_fields": "ignore"},
    )
    assert diff(plan(), new) == (
        "contract version, 1 inputs added, 1 inputs removed, 1 inputs changed, setting window"
    )


def test_the_same_source_twice():
    with pytest.raises(PlanError, match=r"reads /data/a\.jsonl twice"):
        plan(inputs=(InputFile("/data/a.jsonl", 1, "1"), InputFile("/data/a.jsonl", 2, "2")))


def test_a_later_format():
    data = plan().to_json().replace(b"millstream.plan/1", b"millstream.plan/2")
    with pytest.raises(PlanError, match=r"'millstream\.plan/2', not 'millstream\.plan/1'"):
        Plan.from_json(data)
    with pytest.raises(PlanError, match="not a plan"):
        Plan.from_json(b"{}")


def test_run_ids():
    assert plan().token() == Token(plan().digest[:16], plan().digest)
    assert plan().token("2026-01-02_a.b").run_id == "2026-01-02_a.b"
    for bad in (".a", "_a", "a/b", "a b", "ü", "a" * 65, "a\n"):
        with pytest.raises(PlanError, match="run id"):
            plan().token(bad)
    with pytest.raises(PlanError, match="output name '' is not"):
        checked_name("", "output name")


def test_tokens_read_back():
    token = plan().token("r1")
    assert str(token) == f"millstream.token/1:r1:{plan().digest}"
    assert Token.parse(str(token)) == token
    for bad in ("r1", "millstream.token/2:a:b", ""):
        with pytest.raises(PlanError, match="not a token"):
            Token.parse(bad)
