"""BigQuery: jobs that happen once, stages, what is refused, and what goes wrong.

What every destination promises is tested by the conformance suite.
"""

from __future__ import annotations

import contextlib
import dataclasses
import datetime as dt
import pickle
from collections.abc import Iterator
from typing import Any

import pytest
from conformance_support import EVENTS, Target, Work, event, events
from millstream.schemas.contract import Field
from millstream.schemas.table import Table
from millstream.transforms.write.destination import destination
from millstream.transforms.write.errors import DestinationError, Unavailable
from millstream.transforms.write.evolution import TableMismatch

from tests.services import bigquery as service
from tests.services.destinations import DESTINATIONS, Known
from tests.services.object_stores import object_store
from tests.services.serving import free_port

pytestmark = [pytest.mark.service, pytest.mark.cloud]
METHODS = pytest.mark.parametrize("method", ["load", "storage_write"])

PLAIN = Table(
    (Field("n", "integer"), Field("at", "timestamp"), Field("note", "string")),
    ("n",),
    "at",
    has_identity=True,
)
"""A table that a load job can fill by itself: nothing is required, and nothing has to be read."""
STRICT = dataclasses.replace(
    PLAIN, fields=(Field("n", "integer", required=True), *PLAIN.fields[1:])
)


@pytest.fixture(scope="module")
def warehouse() -> Iterator[service.BigQuery]:
    """The emulator, and an environment in which clients find it."""
    with DESTINATIONS["bigquery"].running_or_skip() as found:
        yield found


@pytest.fixture
def target(warehouse: service.BigQuery, tmp_path: Any) -> Target:
    """A table that nobody has used."""
    return target_of(warehouse, str(tmp_path / "state"))


def target_of(warehouse: service.BigQuery, state: str) -> Target:
    peer: Any = warehouse
    return Target("bigquery", Known("bigquery"), peer, state)


def plain(*numbers: int) -> list[dict[str, Any]]:
    return [{"n": n, "at": event(n)["at"], "note": f"note {n}"} for n in numbers]


class Seen:
    """What has happened in the warehouse since a test began."""

    def __init__(self, warehouse: service.BigQuery) -> None:
        self._warehouse = warehouse
        self._before = {job.job_id for job in self._jobs()}
        self._stages = set(self._tables())

    def commits(self) -> list[Any]:
        """The jobs that were asked to commit a run, the latest last."""
        return [job for job in self._new() if job.job_id.startswith("millstream-r1-")]

    def loads(self) -> list[Any]:
        """The load jobs that filled stages."""
        return [job for job in self._new() if job.job_id.startswith("millstream-stage-")]

    def stages(self) -> list[str]:
        """The full names of the stages that are there."""
        return [name for name in self._tables() if name not in self._stages]

    def _new(self) -> list[Any]:
        return [job for job in self._jobs() if job.job_id not in self._before]

    def _jobs(self) -> list[Any]:
        with self._warehouse.connected() as client:
            return list(client.list_jobs())[::-1]

    def _tables(self) -> list[str]:
        with self._warehouse.connected() as client:
            found = client.list_tables(f"{self._warehouse.project}.{self._warehouse.dataset}")
            names = [table.table_id for table in found]
        return [self._warehouse.name(n) for n in names if n.startswith("_millstream_stage_")]


@pytest.fixture
def seen(warehouse: service.BigQuery) -> Seen:
    return Seen(warehouse)


# --------------------------------------------------------------------------------- URIs


def test_good_uris():
    found = destination("bigquery:p-1.d.t?mode=upsert&location=EU&method=load", state="/s")
    assert found.place == "bigquery:p-1.d.t"
    assert found.uri == "bigquery:p-1.d.t?mode=upsert&location=EU&method=load"
    assert found.service == "bigquery:p-1.d"
    assert pickle.loads(pickle.dumps(found)) == found
    assert destination("bigquery:google.com:p.d.t").uri == "bigquery:google.com:p.d.t"


@pytest.mark.parametrize(
    ("uri", "message"),
    [
        ("bigquery:d.t", "names no table; write bigquery:PROJECT.DATASET.TABLE"),
        ("bigquery:p.d.`t`", "names no table"),
        ("bigquery:p.d.t?method=loads", "no method 'loads'; did you mean 'load'?"),
        ("bigquery:p.d.t?location=here;", "no location 'here;'; write it as US or europe-west1"),
        ("bigquery:p.d.t?mode=merge", "no mode 'merge'"),
        ("bigquery:p.d.t?project=x", "no option 'project'"),
    ],
)
def test_bad_uris(uri: str, message: str):
    with pytest.raises(DestinationError) as raised:
        destination(uri)
    assert message in str(raised.value)


# --------------------------------------------------------------------------------- jobs


@METHODS
def test_a_commit_is_one_query(target: Target, seen: Seen, method: str):
    work = target.commit(events(1, 2), events(3), query=f"mode=upsert&method={method}")
    (job,) = seen.commits()
    assert (job.job_type, job.job_id[-2:]) == ("query", "-0")
    assert work.held
    assert len(seen.loads()) == (2 if method == "load" else 0)
    assert seen.stages() == []


def test_one_load_job_is_the_commit_where_it_can_do_it_all(target: Target, seen: Seen):
    work = target.commit(plain(1, 2), table=PLAIN)
    (job,) = seen.commits()
    assert job.job_type == "load"
    assert work.held
    target.assert_holds(plain(1, 2), PLAIN)


def test_a_load_job_that_bigquery_refuses_goes_through_a_stage(
    target: Target, seen: Seen, monkeypatch
):
    """A file whose columns are all nullable, and a table with one that is not."""
    from millstream.transforms.write.bigquery import stage as bigquery_stage

    loose = dataclasses.replace(PLAIN, has_identity=False)
    strict = dataclasses.replace(loose, fields=STRICT.fields)
    config = bigquery_stage.Loading._config

    def refused(self: Any) -> Any:
        said = config(self)
        if self._labels:  # the commit
            said.source_format = "ORC"
        return said

    monkeypatch.setattr(bigquery_stage.Loading, "_config", refused)
    work = target.staged(plain(1, 2), table=loose)
    work = work._replace(commit=dataclasses.replace(work.commit, tables={"data": strict}))
    work.do()
    assert [(job.job_type, bool(job.error_result)) for job in seen.commits()] == [
        ("load", True), ("query", False),
    ]  # fmt: skip
    assert work.held
    target.assert_holds(plain(1, 2), strict)
    assert seen.stages() == []


def test_a_job_that_failed_keeps_its_id(target: Target, seen: Seen, monkeypatch):
    from millstream.transforms.write.bigquery import destination as bigquery

    work = target.staged(events(1, 2), query="mode=upsert")
    failing = "BEGIN TRANSACTION; SELECT 1; ASSERT FALSE AS 'never'; COMMIT TRANSACTION;"
    monkeypatch.setattr(bigquery, "script", lambda *_: failing)
    for _ in range(2):
        with pytest.raises(DestinationError, match=r"query job .* failed .*: never"):
            work.do()
        assert not work.held
    monkeypatch.undo()
    work.do()
    assert [job.job_id[-2:] for job in seen.commits()] == ["-0", "-1", "-2"]
    assert work.held
    target.assert_holds(events(1, 2))


def test_another_attempt_whose_job_is_found_too_late(target: Target, seen: Seen, monkeypatch):
    """Between looking for a job and starting it, somebody else has started it."""
    from millstream.transforms.write.bigquery.jobs import Jobs

    work = target.commit(events(1, 2))
    again = target.staged(events(1, 2))
    monkeypatch.setattr(Jobs, "_find", lambda self, job_id: None)
    monkeypatch.setattr(Jobs, "succeeded", lambda self, name: None)
    again.do()
    monkeypatch.undo()
    assert work.held
    assert len(seen.commits()) == 1
    target.assert_holds(events(1, 2))


def test_a_job_that_is_there_though_starting_it_failed(target: Target, seen: Seen, monkeypatch):
    """What fails may be the answer alone, or another may have been quicker."""
    from google.api_core import exceptions  # pyright: ignore[reportMissingImports]
    from millstream.transforms.write.bigquery.stage import Loading

    start = Loading.__call__

    def starts_and_fails(self: Loading, job_id: str) -> Any:
        start(self, job_id)
        raise exceptions.InternalServerError("Internal error")

    work = target.staged(events(1, 2), query="mode=upsert")
    monkeypatch.setattr(Loading, "__call__", starts_and_fails)
    work.do()
    assert work.held
    assert len(seen.loads()) == 1
    target.assert_holds(events(1, 2))


def test_a_table_that_is_made_anew_holds_no_token(target: Target, warehouse: service.BigQuery):
    work = target.commit(events(1, 2))
    with warehouse.connected() as client:
        client.delete_table(warehouse.name(target.table))
    assert not work.held
    target.commit(events(1, 2))
    target.assert_holds(events(1, 2))


# ------------------------------------------------------------------------------- upserts


def test_a_late_row_without_a_time_does_not_come_back(target: Target):
    """Null is older than any time: compared in SQL it would be neither older nor newer."""
    gone = dataclasses.replace(EVENTS, fields=(*EVENTS.fields, Field("gone", "boolean")))
    query = "mode=upsert&deleted=gone"
    target.commit([event(1, gone=True)], table=gone, query=query, run_id="r1")
    target.commit([event(1, at=None)], table=gone, query=query, run_id="r2")
    target.assert_holds([], gone)


# ------------------------------------------------------------------------------- stages


@pytest.fixture
def abandoned(target: Target, monkeypatch) -> Work:
    """A commit that died before its job, twice."""
    from millstream.transforms.write.bigquery.jobs import Jobs

    def die(*_: Any) -> None:
        raise KeyboardInterrupt

    work = target.staged(events(1, 2), events(3), query="mode=upsert")
    with monkeypatch.context() as patch:
        patch.setattr(Jobs, "commit", die)
        for _ in range(2):
            with pytest.raises(KeyboardInterrupt):
                work.do()
    return work


def test_who_starts_again_loads_nothing_twice(seen: Seen, target: Target, abandoned: Work):
    before = [job.job_id for job in seen.loads()]
    assert (len(before), len(seen.stages())) == (2, 1)
    abandoned.do()
    assert [job.job_id for job in seen.loads()] == before
    target.assert_holds(events(1, 2, 3))
    assert seen.stages() == []


def test_a_stage_that_is_gone_is_filled_again(
    seen: Seen, target: Target, abandoned: Work, warehouse: service.BigQuery
):
    with warehouse.connected() as client:
        (stage,) = map(client.get_table, seen.stages())
        assert stage.expires - stage.created > dt.timedelta(days=1)
        client.delete_table(stage)
    abandoned.do()
    target.assert_holds(events(1, 2, 3))


def test_a_stage_that_lacks_rows_is_noticed(
    seen: Seen, target: Target, abandoned: Work, warehouse: service.BigQuery
):
    (stage,) = seen.stages()
    warehouse.run(f"DELETE FROM `{stage}` WHERE id = 'e1'")
    with pytest.raises(DestinationError, match="the stage does not hold the rows"):
        abandoned.do()
    target.assert_holds([])


@pytest.mark.slow
def test_files_are_loaded_from_where_they_lie():
    with object_store("gs", "bucket"), DESTINATIONS["bigquery"].running_or_skip() as warehouse:
        seen = Seen(warehouse)
        target = target_of(warehouse, "gs://bucket/state")
        work = target.commit(plain(1), plain(2), table=PLAIN)
        (job,) = seen.commits()
        assert len(job.source_uris) == 2
        assert all(uri.startswith("gs://bucket/state/") for uri in job.source_uris)
        assert work.held
        target.assert_holds(plain(1, 2), PLAIN)


def test_converted_rows_in_several_files(target: Target, seen: Seen, monkeypatch):
    from millstream.transforms.write import tables
    from millstream.transforms.write.bigquery import files as bigquery_files

    unsigned = Table((Field("n", "integer", storage="uint64"),), has_identity=True)
    monkeypatch.setattr(bigquery_files, "_CHUNK_BYTES", 1)
    monkeypatch.setattr(tables, "BATCH_ROWS", 10)
    rows = [{"n": n} for n in range(35)]
    target.commit(rows, table=unsigned)
    assert len(seen.loads()) == 4
    target.assert_holds(rows, unsigned)


# --------------------------------------------------------------------------- refused rows

LISTS = Table(
    (
        Field("n", "integer", required=True),
        Field("tags", "array", items=Field("item", "string")),
        Field(
            "deep",
            "object",
            fields=(Field("j", "json"), Field("l", "array", items=Field("item", "integer"))),
        ),
    ),
    has_identity=True,
)


@METHODS
def test_rows_that_no_table_holds_are_refused(target: Target, method: str):
    wide = '{"n": 0.12345678901234567890123}'
    bad = [
        {"n": 1, "tags": ["a", None], "deep": None},
        {"n": 3, "tags": [], "deep": {"j": wide, "l": []}},
        {"n": 4, "tags": [], "deep": {"j": None, "l": [1, None]}},
    ]
    good = [
        {"n": 2, "tags": ["a"], "deep": {"j": '{"n": 0.1, "at": "2026-11-29T12:00:00"}', "l": []}},
        {"n": 5, "tags": [], "deep": None},
    ]
    rows = [bad[0], good[0], *bad[1:], good[1]]
    work = target.commit(rows[:2], rows[2:], table=LISTS, query=f"method={method}")
    assert {letter["errorMessage"] for letter in work.letters()} == {
        "tags holds a null, which no array of BigQuery does",
        "deep.j holds a number that BigQuery's JSON would round",
        "deep.l holds a null, which no array of BigQuery does",
    }
    target.assert_holds(good, LISTS)


@METHODS
def test_a_null_where_none_may_be_is_refused(target: Target, method: str):
    work = target.staged([*plain(1), {"note": "x"}], table=PLAIN, query=f"method={method}")
    work = work._replace(commit=dataclasses.replace(work.commit, tables={"data": STRICT}))
    work.do()
    assert [letter["errorMessage"] for letter in work.letters()] == ["n is null, and required"]
    target.assert_holds(plain(1), STRICT)


def test_rows_that_a_stream_refuses_are_left_out(target: Target, monkeypatch):
    """Whatever the reason: here a stage that takes no null."""
    from millstream.transforms.write.bigquery import stage as bigquery_stage

    made = bigquery_stage.schema_fields

    def strict(schema: Any) -> Any:
        from google.cloud import bigquery  # pyright: ignore

        return [
            bigquery.SchemaField(f.name, f.field_type, "REQUIRED") if f.name == "note" else f
            for f in made(schema)
        ]

    monkeypatch.setattr(bigquery_stage, "schema_fields", strict)
    rows = [event(n, note=None if n % 4 == 1 else f"note {n}") for n in range(40)]
    rows[2]["tags"] = [None]
    work = target.commit(rows[:25], rows[25:], query="method=storage_write")
    good = [row for row in rows if row["note"] is not None and row["tags"] != [None]]
    target.assert_holds(good)
    letters = work.letters()
    assert len(letters) == 11
    assert {letter["errorMessage"] for letter in letters} == {
        "Missing required field: note.",
        "tags holds a null, which no array of BigQuery does",
    }


# ------------------------------------------------------------------------------- tables


@pytest.mark.parametrize(
    ("query", "partitioned", "clustered"),
    [
        ("", None, None),
        ("mode=upsert", None, ["id"]),
        ("partition_by=date(at)", ("DAY", "at"), None),
        ("partition_by=note,hour(at)", ("HOUR", "at"), ["note"]),
        ("mode=upsert&partition_by=date(at)", ("DAY", "at"), ["id"]),
        ("partition_by=note,amount", None, ["note", "amount"]),
    ],
)
def test_how_new_tables_are_laid_out(
    target: Target, warehouse: service.BigQuery, query: str, partitioned: Any, clustered: Any
):
    target.commit(events(1), query=query)
    with warehouse.connected() as client:
        found = client.get_table(warehouse.name(target.table))
    time = found.time_partitioning
    assert (time and (time.type_, time.field)) == partitioned
    assert found.clustering_fields == clustered
    assert [(f.name, f.mode) for f in found.schema if f.name == "id"] == [("id", "REQUIRED")]


def of_type(type: Any, **more: Any) -> Table:
    return Table((Field("a", type, **more),), has_identity=True)


@pytest.mark.parametrize(
    ("table", "message"),
    [
        (of_type("decimal", precision=60), "BIGNUMERIC holds 38 digits before"),
        (of_type("object"), "a is an object without fields"),
        (Table((Field("a.b", "string"),)), "BigQuery has no column called 'a.b'"),
        (Table((Field("_TABLE_x", "string"),)), "BigQuery has no column called '_TABLE_x'"),
        (
            of_type("object", fields=(Field("b", "string"), Field("B", "string"))),
            "takes 'a.B' and another column",
        ),
    ],
)
def test_tables_that_bigquery_cannot_have(target: Target, table: Table, message: str):
    work = target.staged(table=table)
    with pytest.raises(TableMismatch) as raised:
        work.destination.check_tables({"data": table})
    assert message in str(raised.value)


def test_keys_that_bigquery_cannot_compare(target: Target):
    table = Table((Field("a", "number"),), ("a",), has_identity=True)
    work = target.staged(table=table, query="mode=upsert")
    with pytest.raises(TableMismatch, match="BigQuery has no key of type number: a"):
        work.destination.check_tables({"data": table})


_B = {"name": "b", "type": "INTEGER"}
_PRICE = of_type("decimal", precision=10, scale=2)


@pytest.mark.parametrize(
    ("held", "wanted", "fits"),
    [
        ([{"type": "NUMERIC", "precision": 12, "scale": 2}], _PRICE, True),
        ([{"type": "NUMERIC", "precision": 12, "scale": 4}], _PRICE, True),
        ([{"type": "NUMERIC", "precision": 12, "scale": 5}], _PRICE, False),
        ([{"type": "NUMERIC"}], of_type("decimal", precision=38, scale=9), True),
        ([{"type": "NUMERIC"}], of_type("integer"), True),
        ([{"type": "INTEGER"}], _PRICE, False),
        ([{"name": "A", "type": "STRING"}], of_type("string"), True),
        ([{"type": "STRING", "maxLength": 10}], of_type("string"), False),
        ([{"type": "STRING", "mode": "REQUIRED"}], of_type("string"), False),
        ([{"type": "STRING", "mode": "REQUIRED"}], of_type("string", required=True), True),
        (
            [{"type": "RECORD", "fields": [_B]}],
            of_type("object", fields=(Field("b", "integer"),)),
            True,
        ),
        (
            [{"type": "RECORD", "fields": [_B]}],
            of_type("object", fields=(Field("c", "integer"),)),
            False,
        ),
        (
            [{"type": "RECORD", "fields": [{**_B, "mode": "REQUIRED"}]}],
            of_type("object", fields=(Field("b", "integer"),)),
            False,
        ),
        (
            [{"type": "STRING", "mode": "REPEATED"}],
            of_type("array", items=Field("item", "string")),
            True,
        ),
        ([{"type": "STRING", "mode": "REPEATED"}], of_type("string"), False),
        ([{"type": "STRING"}, _B], of_type("string"), True),
        ([{"type": "STRING"}, {**_B, "mode": "REQUIRED"}], of_type("string"), False),
    ],
)
def test_tables_that_others_have_made(
    target: Target,
    warehouse: service.BigQuery,
    held: list[dict[str, Any]],
    wanted: Table,
    fits: bool,
):
    from google.cloud import bigquery  # pyright: ignore

    fields = [bigquery.SchemaField.from_api_repr({"name": "a", **field}) for field in held]
    with warehouse.connected() as client:
        client.create_table(bigquery.Table(warehouse.name(target.table), fields))
    work = target.staged([] if wanted.fields[0].required else [{}], table=wanted)
    check = contextlib.nullcontext() if fits else pytest.raises(TableMismatch, match=r"(?m)^  - ")
    with check:
        work.destination.check_tables({"data": wanted})
    with check:
        work.do()
    assert work.held == fits


def test_a_view_is_no_table(target: Target, warehouse: service.BigQuery):
    warehouse.run(f"CREATE VIEW `{warehouse.name(target.table)}` AS SELECT 'x' AS id")
    with pytest.raises(DestinationError, match="is a view, not a table"):
        target.commit(events(1))


def test_old_rows_are_deleted(target: Target):
    target.commit(events(1, 2, 3))
    found: Any = target.output().destination
    before = event(3)["at"].timestamp()
    assert found.expire(f"{found.target}__states", "at", before) == 0
    assert found.expire(found.target, "at", before, dry_run=True) == 2
    target.assert_holds(events(1, 2, 3))
    assert found.expire(found.target, "at", before) == 2
    target.assert_holds(events(3))


# ------------------------------------------------------------------- what goes wrong


def test_a_dataset_that_is_not_there(warehouse, tmp_path):
    found: Any = destination("bigquery:millstream-tests.nowhere.t", state=str(tmp_path))
    with pytest.raises(DestinationError, match=r"nowhere.*make the project and the dataset first"):
        found.check_tables({"data": EVENTS})


def test_no_credentials(tmp_path, monkeypatch):
    monkeypatch.delenv("BIGQUERY_EMULATOR_HOST", raising=False)
    monkeypatch.setenv("GOOGLE_APPLICATION_CREDENTIALS", str(tmp_path / "none.json"))
    found: Any = destination("bigquery:p.d.t", state=str(tmp_path))
    with pytest.raises(DestinationError, match="set GOOGLE_APPLICATION_CREDENTIALS"):
        found.check_tables({"data": EVENTS})


def test_a_service_that_does_not_answer(tmp_path, monkeypatch):
    from millstream.transforms.write.bigquery import destination as bigquery

    monkeypatch.setenv("BIGQUERY_EMULATOR_HOST", f"http://127.0.0.1:{free_port()}")
    monkeypatch.setattr(bigquery, "RETRY", bigquery.RETRY.with_timeout(0.1))
    found: Any = destination("bigquery:p.d.t", state=str(tmp_path))
    with pytest.raises(Unavailable, match="BigQuery does not answer"):
        found.held("r1")


def _answers() -> list[tuple[Exception, type[Exception]]]:
    exceptions = pytest.importorskip("google.api_core.exceptions")
    limited = exceptions.Forbidden("no", errors=[{"reason": "rateLimitExceeded", "message": "no"}])
    return [
        (exceptions.Forbidden("Access Denied: Table p:d.t"), DestinationError),
        (limited, Unavailable),
        (exceptions.BadRequest("Invalid"), DestinationError),
        (exceptions.NotFound("Not found: Dataset p:d"), DestinationError),
        (exceptions.TooManyRequests("slow down"), Unavailable),
        (exceptions.ServiceUnavailable("later"), Unavailable),
        (exceptions.PreconditionFailed("changed"), Unavailable),
        (exceptions.RetryError("too long", ConnectionError("x")), Unavailable),
        (ConnectionResetError("gone"), Unavailable),
    ]


def test_answers_that_are_errors():
    from millstream.transforms.write.bigquery.jobs import explained

    for error, expected in _answers():
        with (
            pytest.raises(expected, match=r"^bigquery:p\.d\.t: ") as raised,
            explained("bigquery:p.d.t"),
        ):
            raise error
        assert raised.value.__cause__ is error


class Failed:
    """A job that failed."""

    job_type, job_id = "query", "millstream-r1-0"

    def __init__(self, reason: str, *messages: str) -> None:
        self.errors = [{"reason": reason, "message": message} for message in messages]
        self.error_result = self.errors[0]


@pytest.mark.parametrize(
    ("job", "expected"),
    [
        (Failed("backendError", "Retrying may solve it"), Unavailable),
        (Failed("rateLimitExceeded", "Exceeded rate limits"), Unavailable),
        (
            Failed("invalidQuery", "Transaction is aborted due to concurrent update against table"),
            Unavailable,
        ),
        (Failed("quotaExceeded", "Quota exceeded"), DestinationError),
        (Failed("invalid", "Required field id cannot be null"), DestinationError),
    ],
)
def test_jobs_that_failed(job: Failed, expected: type[Exception]):
    from millstream.transforms.write.bigquery.jobs import failure

    found = failure(job, ["id"])
    assert type(found) is expected
    assert str(found).startswith(
        f"BigQuery's query job millstream-r1-0 failed ({job.errors[0]['reason']})"
    )
    assert ("Required field id cannot be null" in str(found)) == (
        expected is DestinationError and "Required" in job.errors[0]["message"]
    )


def test_what_bigquery_says_of_values_is_not_repeated():
    from millstream.transforms.write.bigquery.jobs import without_values

    for said in (
        "Bad double value: hunter2",
        "Could not parse 'hunter two' as INT64 for field price",
        "Invalid NUMERIC value: hunter",
        "Cannot convert value to integer (bad value): hunter",
        'Could not cast literal "hunter" to type DATE',
        "Out of range: 4111111111111111",
    ):
        found = without_values(said, ["price"])
        assert "hunter" not in found
        assert "4111" not in found
        assert "…" in found
    assert "field price" in without_values(
        "Could not parse 'x' as INT64 for field price", ["price"]
    )
    assert without_values("Required field `id2` is null", ["id2"]) == "Required field `id2` is null"


def test_tokens_fit_into_labels():
    from millstream.transforms.write.bigquery.jobs import labelled, labels

    held = '{"token":"millstream.token/1:Run.1:' + "f" * 64 + '","ü":"' + "x" * 300 + '"}'
    found = labels(held)
    assert len(found) <= 64
    assert all(len(value) <= 63 and value.islower() | value.isalnum() for value in found.values())
    assert labelled({"other": "x", **found}) == held
