"""Specifications of aggregates: durations, and what is refused with which words."""

import pytest
from millstream.schemas.aggregate_spec import aggregate_spec, parse_duration
from millstream.schemas.contract import Contract, Field
from millstream.schemas.metric_functions import AggregateError

FIELDS = (
    Field("ts", "timestamp", required=True),
    Field("page", "string"),
    Field("device", "object", fields=(Field("os", "string"),)),
    Field("clicks", "integer"),
    Field("rows", "string"),
    Field("note", "json"),
)
CONTRACT = Contract("id", "1", "clicks", FIELDS, event_time="ts")
NO_TIME = Contract("id", "1", "clicks", FIELDS)


@pytest.mark.parametrize(
    ("text", "us"),
    [
        ("30s", 30_000_000),
        ("1m", 60_000_000),
        ("2h", 7_200_000_000),
        ("1d", 86_400_000_000),
        ("250ms", 250_000),
        ("PT1M", 60_000_000),
        ("PT0.5S", 500_000),
    ],
)
def test_a_duration_is_read(text, us):
    assert parse_duration(text, "window.fixed") == us


@pytest.mark.parametrize("text", ["", "1", "1 minute", 60, None, "0s", "-1m", "P", "100001d", "1w"])
def test_a_duration_is_refused(text):
    with pytest.raises(AggregateError, match=r"window\.fixed: expected a duration such as 30s"):
        parse_duration(text, "window.fixed")


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"contract": NO_TIME}, "the contract clicks names none: set event_time in the job"),
        ({"window": {"fixd": "1m"}}, "window: no such kind: 'fixd'; did you mean 'fixed'?"),
        ({"window": {"sliding": "1m"}}, "window: no such kind: 'sliding'; expected fixed"),
        ({"window": {}}, "window: expected fixed: and a duration, got {}"),
        ({"window": {"fixed": "a minute"}}, "window.fixed: expected a duration such as 30s"),
        ({"metrics": {}}, "metrics: expected at least one"),
        ({"by": ["pgae"]}, "by: the contract clicks has no field 'pgae'; did you mean 'page'?"),
        ({"by": ["device"]}, "by: device is of type object, expected 'string', 'integer'"),
        ({"by": ["note"]}, "by: note is of type json"),
        ({"by": ["rows"]}, "by: rows: the column name rows is taken"),
        ({"by": ["page", "page"]}, "by: page: the column name page is taken by page"),
        ({"metrics": {"page": "count()"}}, "metrics.page: the column name page is taken by page"),
        ({"metrics": {"Page": "count()"}}, "metrics.Page: the column name Page is taken by page"),
        ({"metrics": {"window_end": "count()"}}, "the column name window_end is taken"),
        ({"metrics": {"n": "summ(clicks)"}}, "metrics.n: summ(clicks): no function 'summ'"),
        ({"metrics": {"n": "sum(klicks)"}}, "metrics.n: sum(klicks): the contract clicks has no"),
        ({"metrics": {"a b": "count()"}}, "metrics: 'a b' is no name"),
    ],
)
def test_a_specification_is_refused(change, message):
    given = {
        "window": {"fixed": "1m"},
        "by": ["page"],
        "metrics": {"events": "count()"},
        "contract": CONTRACT,
    }
    with pytest.raises(AggregateError) as caught:
        aggregate_spec("page_views", **(given | change))
    assert message in str(caught.value)
