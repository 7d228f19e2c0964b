"""Specifications of aggregates: what is refused with which words."""

import pytest
from millstream.schemas.aggregates.functions import AggregateError
from millstream.schemas.aggregates.spec import aggregate_spec
from millstream.schemas.contract import Contract, Field

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
    ("change", "message"),
    [
        ({"contract": NO_TIME}, "the contract clicks names none: set event_time in the job"),
        ({"window": {"fixd": "1m"}}, "window: no such kind: 'fixd'; did you mean 'fixed'?"),
        ({"window": {}}, "window: expected 'fixed', 'sliding', 'session' or 'daily'"),
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


def test_session_end_is_taken_where_there_are_sessions():
    contract = Contract("id", "1", "c", (*FIELDS, Field("session_end", "date")), event_time="ts")
    given = {"by": ["session_end"], "metrics": {"n": "count()"}, "contract": contract}
    assert aggregate_spec("a", window={"fixed": "1m"}, **given).keys[0].name == "session_end"
    with pytest.raises(AggregateError, match="by: session_end: the column name session_end is tak"):
        aggregate_spec("a", window={"session": "1m"}, **given)
