"""Beam YAML with our provider file: Beam's own YAML runner, real files in and out."""

from __future__ import annotations

import base64
import json
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

import duckdb
import pyarrow.parquet as pq
import pytest
import yaml
from millstream.templates.beam_yaml import PROVIDERS
from millstream.transforms import beam_yaml

from tests.running import RUNNER

# With pandas installed it takes half a second longer to import Beam: it is in the venv apart.
pytestmark = pytest.mark.cloud

ROOT = Path(__file__).parent.parent.parent
CONTRACT = {
    "apiVersion": "v3.1.0",
    "kind": "DataContract",
    "id": "orders",
    "version": "1.0.0",
    "status": "active",
    "schema": [
        {
            "name": "orders",
            "properties": [
                {"name": "id", "logicalType": "integer", "required": True, "primaryKey": True},
                {
                    "name": "at",
                    "logicalType": "timestamp",
                    "required": True,
                    "customProperties": [{"property": "eventTime", "value": True}],
                },
                {
                    "name": "price",
                    "logicalType": "number",
                    "physicalType": "decimal(6,2)",
                    "logicalTypeOptions": {"minimum": 0},
                },
                {"name": "note", "logicalType": "string"},
            ],
        }
    ],
}


def line(number: int, second: int, price: str = "1.10", note: str = "é") -> str:
    at = f"2026-11-24T12:00:{second:02}Z"
    return f'{{"id":{number},"at":"{at}","price":{price},"note":"{note}"}}'


GOOD = [line(1, 0), line(2, 30), line(2, 20, "2.20")]
SECRET = "s3cret"
BAD = [f'{{"id":"{SECRET}"}}', "not JSON é"]


class Place:
    """A folder with a contract and some lines, and pipelines that are run in it."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.contract = str(path / "orders.odcs.yaml")
        Path(self.contract).write_text(yaml.safe_dump(CONTRACT), "utf-8")

    def lines(self, lines: list[str]) -> dict[str, Any]:
        """A step that reads these lines."""
        (self.path / "in.jsonl").write_text("\n".join(lines) + "\n", "utf-8")
        return {"type": "ReadFromText", "config": {"path": str(self.path / "in.jsonl")}}

    def run(self, *steps: dict[str, Any], type: str = "chain", **others: Any) -> None:
        """Run a pipeline of these steps, by Beam's own command."""
        pipeline = {"type": type, "transforms": list(steps)}
        if type == "composite":
            del pipeline["type"]
        said = {"pipeline": pipeline, "providers": [{"include": PROVIDERS}], **others}
        from apache_beam.yaml import main  # needs pandas, as the package of Beam's extra does

        main.run([f"--yaml_pipeline={yaml.safe_dump(said)}", f"--runner={RUNNER}"])

    def write(self, name: str = "out", **config: Any) -> dict[str, Any]:
        """A step that writes rows of JSON to a folder."""
        return {"type": "WriteRecords", "config": {"uri": f"jsonl:{self.path / name}", **config}}

    def written(self, name: str = "out") -> list[dict[str, Any]]:
        """The rows of that folder."""
        return written(self.path / name)


def written(folder: Path) -> list[dict[str, Any]]:
    """The rows of files of JSON lines, in an order of their own."""
    texts = [text for file in folder.glob("*.jsonl") for text in file.read_text().splitlines()]
    return sorted(map(json.loads, texts), key=str)


@pytest.fixture
def place(tmp_path: Path) -> Place:
    return Place(tmp_path)


def step(type: str, **config: Any) -> dict[str, Any]:
    return {"type": type, "config": config}


# ------------------------------------------------------------------------- the provider file


def test_the_provider_file_lists_every_transform() -> None:
    from apache_beam.yaml import yaml_provider

    providers = yaml_provider.load_providers(PROVIDERS)
    listed = {name: p for p in providers for name in p.provided_transforms()}
    errors = {"OptionError", "RefusedRecords"}
    assert set(listed) == set(beam_yaml.__all__) - errors
    for name, provider in listed.items():
        config: Any = provider.config_schema(name)
        assert {field.name for field in config.fields if not field.description} == set(), name
        assert provider.description(name)


@pytest.mark.slow
def test_the_example_is_run_by_beams_command_line(tmp_path: Path) -> None:
    (tmp_path / "examples").symlink_to(ROOT / "examples")
    command = [sys.executable, "-m", "millstream.templates.beam_yaml"]
    installed = subprocess.run(command, capture_output=True, text=True, check=True).stdout.strip()
    done = subprocess.run(
        [
            sys.executable,
            "-m",
            "apache_beam.yaml.main",
            "--yaml_pipeline_file=examples/beam_yaml/clicks.yaml",
            "--jinja_variable_flags=millstream",
            f"--millstream={installed}",
        ],
        cwd=tmp_path,
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr
    views = pq.read_table(tmp_path / "demo" / "page_views").select(["page", "events", "revenue"])
    found = sorted((v["page"], v["events"], str(v["revenue"])) for v in views.to_pylist())
    assert found == [("/", 1, "None"), ("/", 1, "None"), ("/product/7", 2, "39.90")]
    letters = written(tmp_path / "demo" / "refused")
    assert sorted(letter["codes"] for letter in letters) == [["FORMAT"], ["TYPE", "ENUM", "LENGTH"]]


# --------------------------------------------------------------------------- Parse and Validate


def test_lines_become_rows_and_what_is_refused_keeps_its_bytes(place: Place) -> None:
    parse = step("Parse", contract=place.contract, error_handling={"output": "refused"})
    place.run(
        place.lines([*GOOD, "", *BAD]),
        {**parse, "input": "ReadFromText"},
        {**place.write(), "name": "Good", "input": "Parse"},
        {**place.write("dead"), "name": "Dead", "input": "Parse.refused"},
        type="composite",
    )
    good = [(row["id"], row["at"], row["price"], row["note"]) for row in place.written()]
    assert good == [
        (1, "2026-11-24T12:00:00.000000Z", 1.10, "é"),
        (2, "2026-11-24T12:00:20.000000Z", 2.20, "é"),
        (2, "2026-11-24T12:00:30.000000Z", 1.10, "é"),
    ]
    letters = place.written("dead")
    assert sorted(base64.b64decode(row["payloadBytes"]).decode() for row in letters) == sorted(BAD)
    by_code = {tuple(row["codes"]): row for row in letters}
    assert by_code["TYPE", "REQUIRED"]["violations"][0]["field"] == "id"
    assert by_code["MALFORMED",]["contract_id"] == "orders"


def test_a_null_is_no_blank_line_but_a_record_that_is_refused(place: Place) -> None:
    place.run(
        {**step("Create", elements=[{"v": GOOD[0]}, {"v": None}, {"v": " "}]), "name": "rows"},
        {
            **step("Parse", contract=place.contract, error_handling={"output": "refused"}),
            "input": "rows",
        },
        {**place.write(), "name": "Good", "input": "Parse"},
        {**place.write("bad"), "name": "Bad", "input": "Parse.refused"},
        type="composite",
    )
    assert len(place.written()) == 1
    assert [letter["codes"] for letter in place.written("bad")] == [["MALFORMED"]]


def test_files_are_read_and_parsed_at_once_byte_by_byte(place: Place) -> None:
    first = (GOOD[0] + "\n").encode()
    (place.path / "in.jsonl").write_bytes(first + b"\xff\xfe\n" + GOOD[1].encode())
    read = step(
        "ReadFromJsonLines",
        path=str(place.path / "*.jsonl"),
        contract=place.contract,
        error_handling={"output": "refused"},
    )
    place.run(
        read,
        {**place.write(), "name": "Good", "input": "ReadFromJsonLines"},
        {**place.write("dead"), "name": "Dead", "input": "ReadFromJsonLines.refused"},
        type="composite",
    )
    assert [row["id"] for row in place.written()] == [1, 2]
    (letter,) = place.written("dead")
    assert base64.b64decode(letter["payloadBytes"]) == b"\xff\xfe"
    assert (letter["position"], letter["codes"]) == (str(len(first)), ["ENCODING"])
    assert letter["source"].endswith("in.jsonl")


@pytest.mark.parametrize("stage", ["Parse", "Validate", "Step"])
def test_a_refused_record_fails_the_pipeline_unless_there_is_an_output(
    place: Place, stage: str
) -> None:
    transforms = {
        "Parse": [place.lines(BAD), step("Parse", contract=place.contract)],
        "Validate": [
            step("Create", elements=[{"id": 1, "at": "x", "price": "1"}]),
            _typed(price="-1.00"),
            step("Validate", contract=place.contract),
        ],
        "Step": [
            step("Create", elements=[{"a": SECRET}]),
            step("Step", sql="SELECT CAST(a AS INTEGER) AS n FROM records"),
        ],
    }
    with pytest.raises(Exception, match=r"records of .* were refused") as caught:
        place.run(*transforms[stage], place.write())
    assert "error_handling: {output: NAME}" in str(caught.value)
    assert SECRET not in str(caught.value)
    assert place.written() == []


def _typed(price: str = "1.00") -> dict[str, Any]:
    """Rows of the contract's fields, made in Python."""
    source = f"""
import decimal
from apache_beam.utils.timestamp import Timestamp
import apache_beam as beam
from apache_beam.typehints.row_type import RowTypeConstraint
kind = RowTypeConstraint.from_fields(
    [("id", int), ("at", Timestamp), ("price", decimal.Decimal), ("note", str), ("extra", str)])
class Make(beam.PTransform):
    def expand(self, rows):
        return rows | beam.Map(lambda row: beam.Row(
            id=row.id, at=Timestamp(30), price=decimal.Decimal("{price}"), note="n", extra="kept"
        )).with_output_types(kind)
"""
    return step("PyTransform", constructor="__constructor__", kwargs={"source": source})


@pytest.mark.slow
def test_rows_that_break_a_rule_are_dead_letters_and_other_fields_pass(place: Place) -> None:
    check = step("Validate", contract=place.contract, error_handling={"output": "refused"})
    place.run(
        step("Create", elements=[{"id": 7, "n": 1}]),
        {**_typed("-1.00"), "name": "Bad", "input": "Create"},
        {**_typed("1.00"), "name": "Well", "input": "Create"},
        {**check, "name": "First", "input": "Bad"},
        {**step("Validate", contract=place.contract), "name": "Second", "input": "Well"},
        {**place.write("dead"), "name": "Dead", "input": "First.refused"},
        {**place.write("none"), "name": "None", "input": "First"},
        {**place.write(), "name": "Good", "input": "Second"},
        type="composite",
    )
    (letter,) = place.written("dead")
    payload = json.loads(base64.b64decode(letter["payloadBytes"]))
    assert (payload["id"], payload["price"], payload["extra"]) == (7, -1.0, "kept")
    assert letter["violations"][0]["field"] == "price"
    assert letter["event_time"] == "1970-01-01T00:00:30.000000Z"
    (row,) = place.written()
    assert (row["id"], row["extra"]) == (7, "kept")
    assert place.written("none") == []


# ------------------------------------------------------------- among Beam's own transforms


@pytest.mark.slow
def test_a_chain_of_ours_and_beams(place: Place) -> None:
    place.run(
        place.lines(GOOD),
        step("Parse", contract=CONTRACT),  # the document itself
        step("Step", sql="SELECT id, price * 2 AS twice FROM records WHERE id <> 1"),
        step("MapToFields", language="python", append=True, fields={"name": "str(id)"}),
        step("Filter", language="python", keep="id == 2"),
        step("Combine", group_by="name", combine={"n": {"value": "id", "fn": "count"}}),
        COUNTED,
        place.write(),
    )
    assert place.written() == [{"n": 2}]


@pytest.mark.slow
def test_windows_and_time_stamps_go_through_our_steps(place: Place) -> None:
    count = step("Combine", group_by=[], combine={"n": {"value": "id", "fn": "count"}})
    place.run(
        place.lines(GOOD),
        step("Parse", contract=place.contract),
        step("AssignTimestamps", timestamp="at"),
        step("Step", sql="SELECT * FROM records", contract=place.contract),
        step("Validate", contract=place.contract),
        {**count, "windowing": {"type": "fixed", "size": "25s"}},
        COUNTED,
        place.write(),
    )
    assert [row["n"] for row in place.written()] == [1, 2]


COUNTED = step(
    "MapToFields", language="python", fields={"n": {"expression": "n", "output_type": "integer"}}
)
"""Combine does not say the type of what it gives."""


def test_a_type_that_beam_does_not_know_has_to_be_said(place: Place) -> None:
    count = step("Combine", group_by=[], combine={"n": {"value": "id", "fn": "count"}})
    with pytest.raises(ValueError, match=r"field n: its type is not known.*output_type"):
        place.run(place.lines(GOOD), step("Parse", contract=CONTRACT), count, place.write())


def test_a_decimal_keeps_its_digits_where_no_contract_says_them(place: Place) -> None:
    place.run(
        place.lines(GOOD),
        step("Parse", contract=place.contract),
        {"type": "WriteRecords", "config": {"uri": f"parquet:{place.path / 'out'}"}},
    )
    table = pq.read_table(place.path / "out")
    assert str(table.schema.field("price").type) == "decimal128(6, 2)"
    assert sorted(map(str, table["price"].to_pylist())) == ["1.10", "1.10", "2.20"]


# ------------------------------------------------------------------- Deduplicate and Aggregate


def test_the_first_of_a_key_stays_and_the_others_have_an_output(
    place: Place, monkeypatch: pytest.MonkeyPatch
) -> None:
    spills = place.path / "tmp"
    spills.mkdir()
    monkeypatch.setattr(tempfile, "tempdir", str(spills))
    deduplicate = step("Deduplicate", contract=place.contract, duplicates="others")
    place.run(
        place.lines(GOOD),
        {**step("Parse", contract=place.contract), "input": "ReadFromText"},
        {**deduplicate, "input": "Parse"},
        {**place.write(), "name": "Kept", "input": "Deduplicate.good"},
        {**place.write("others"), "name": "Others", "input": "Deduplicate.others"},
        type="composite",
    )
    assert [(row["id"], row["price"]) for row in place.written()] == [(1, 1.10), (2, 2.20)]
    assert [(row["id"], row["price"]) for row in place.written("others")] == [(2, 1.10)]
    assert list(spills.glob("millstream-*"))  # until the program ends


@pytest.mark.slow
def test_rows_are_summed_up_in_windows(place: Place) -> None:
    place.run(
        place.lines(GOOD),
        step("Parse", contract=place.contract),
        step(
            "Aggregate",
            contract=place.contract,
            window={"fixed": "25s"},
            by="id",
            metrics={"n": "count()", "spent": "sum(price * 2)"},
        ),
        place.write(),
    )
    found = [(r["window_start"][17:19], r["id"], r["n"], r["spent"]) for r in place.written()]
    assert sorted(found) == [
        ("00", 1, 1, 2.20),
        ("00", 2, 1, 4.40),
        ("25", 2, 1, 2.20),
    ]


# ------------------------------------------------------------------------------- WriteRecords


@pytest.mark.slow
def test_a_run_id_is_written_once(place: Place) -> None:
    write = place.write(run_id="2026-11-24", contract=place.contract)
    parse = step("Parse", contract=place.contract)
    place.run(place.lines(GOOD), parse, write)
    place.run(place.lines(GOOD), parse, write)
    assert len(place.written()) == 3
    with pytest.raises(Exception, match="2026-11-24"):
        place.run(place.lines(GOOD[:1]), parse, write)
    assert len(place.written()) == 3


CLICKS = str(ROOT / "examples" / "clickstream" / "clickstream.odcs.yaml")


@pytest.mark.parametrize("contract", [CLICKS, None])
def test_nested_fields_are_written(place: Place, contract: str | None) -> None:
    clicks = (ROOT / "examples" / "beam_yaml" / "clicks.jsonl").read_text().splitlines()
    nested = [clicks[2], clicks[5]]
    uri = f"duckdb:{place.path}/clicks.duckdb/clicks"
    write = step("WriteRecords", uri=uri, contract=contract, state=str(place.path / "state"))
    place.run(
        place.lines(nested),
        step("Parse", contract=CLICKS),
        step("Validate", contract=CLICKS),
        write,
    )
    with duckdb.connect(str(place.path / "clicks.duckdb")) as connection:
        found = connection.sql("SELECT tags, device FROM clicks ORDER BY ts").fetchall()
    assert found == [(["gift"], None), (None, {"os": "linux", "width": 1280})]


def test_a_table_has_the_contracts_key_and_is_upserted(place: Place) -> None:
    uri = f"duckdb:{place.path}/orders.duckdb/orders?mode=upsert"
    write = step("WriteRecords", uri=uri, contract=place.contract, state=str(place.path / "state"))
    for lines in ([line(1, 0), line(2, 0)], [line(2, 30, "9.90")]):
        place.run(place.lines(lines), step("Parse", contract=place.contract), write)
    with duckdb.connect(str(place.path / "orders.duckdb")) as connection:
        found = connection.sql("SELECT id, price::VARCHAR FROM orders ORDER BY id").fetchall()
    assert found == [(1, "1.10"), (2, "9.90")]


def test_what_was_committed_is_a_row(place: Place) -> None:
    place.run(
        place.lines(GOOD),
        step("Parse", contract=place.contract),
        place.write("first", run_id="r1"),
        place.write("second"),
    )
    assert place.written("second") == [
        {"uri": f"jsonl:{place.path / 'first'}", "run_id": "r1", "rows": 3}
    ]


# ------------------------------------------------------------------------------ what is wrong


def test_a_key_that_cannot_be_compared_is_told_before_anything_runs(place: Place) -> None:
    rows = step("Create", elements=[{"key": {"a": 1}}])
    with pytest.raises(
        ValueError, match=r"at line .*column 'key' is of type struct<.*of which no key can"
    ):
        place.run(rows, step("Deduplicate", key="key"), place.write())
    assert not (place.path / "out").exists()


def test_a_metric_that_fails_on_a_row_does_not_tell_it(place: Place) -> None:
    number = 9_223_372_036_854_775_807
    metrics = {"n": "sum(id * 2)"}
    summed = step("Aggregate", contract=CONTRACT, window={"fixed": "1m"}, metrics=metrics)
    with pytest.raises(Exception, match="metrics: an expression fails on a row") as caught:
        place.run(
            place.lines([line(number, 0)]),
            step("Parse", contract=CONTRACT),
            summed,
            place.write(),
        )
    assert str(number) not in str(caught.value)


@pytest.mark.parametrize(
    ("wrong", "said"),
    [
        (step("Parse", contract="nowhere.odcs.yaml"), "contract: nowhere.odcs.yaml cannot be read"),
        (step("Parse", contract=5), "contract: expected a path or an ODCS document, got 5"),
        (step("Parse", contract={"kind": "x"}), "contract:"),
        (step("Parse"), "missing 1 required argument: 'contract'"),
        (step("Parse", contract=CONTRACT, judge=True), "unexpected argument 'judge'"),
        (
            step("Parse", contract=CONTRACT, unknown_fields="keep"),
            "unknown_fields: expected 'ignore' or 'reject', got 'keep'",
        ),
        (
            step("Parse", contract=CONTRACT, field="lin"),
            "field: the rows have no field 'lin'; did you mean 'line'.; they have 'line'",
        ),
        (step("Validate", contract=CONTRACT), "the rows have no field 'id'.*they have 'line'"),
        (step("Step", sql="SELECT lin FROM records"), "lin"),
        (step("Step", sql="DELETE FROM records"), "SELECT"),
        (step("Step", sql=5), "sql: expected a text, got 5"),
        (step("Deduplicate", key="id"), "key: the rows have no field 'id'"),
        (step("Deduplicate", key=5), "key: expected a list of names, got 5"),
        (step("Deduplicate"), "key: expected names of fields, or a contract with a primary key"),
        (
            step("Aggregate", contract=CONTRACT, window={"fixed": "1m"}, metrics={"n": "cont()"}),
            "metrics.n",
        ),
        (
            step("Aggregate", contract=CONTRACT, window={"fixd": "1m"}, metrics={"n": "count()"}),
            "window: no such kind: 'fixd'",
        ),
        (step("WriteRecords", uri="duckdb:x.duckdb/t?mode=upsert", state="state"), "key"),
        (step("WriteRecords", uri="/data"), "did you mean 'parquet:/data'"),
        (step("WriteRecords", uri=5), "uri: expected a text, got 5"),
        (step("WriteRecords", uri="duckdb:x.duckdb/t"), "say where, with state: DIR"),
        (step("Deduplicate", key="line", event_time="line"), "expected a timestamp, got string"),
        (step("ReadFromJsonLines", path="/no/such/*", contract=CONTRACT), "/no/such/"),
    ],
)
def test_what_is_wrong_is_said_before_anything_runs(
    place: Place, wrong: dict[str, Any], said: str
) -> None:
    first = [] if wrong["type"].startswith("Read") else [place.lines(GOOD)]
    with pytest.raises(ValueError, match=said) as caught:
        place.run(*first, wrong, place.write())
    # What is raised while it runs has no line.
    assert f'"{wrong["type"]}" at line ' in str(caught.value)
    assert not (place.path / "out").exists()


@pytest.mark.parametrize("said", [{"output": "x", "more": 1}, {"output": "good"}, {}, "x"])
def test_error_handling_that_cannot_be(said: Any) -> None:
    with pytest.raises(beam_yaml.OptionError, match=r"error_handling: expected \{output: NAME\}"):
        beam_yaml.Parse(CONTRACT, error_handling=said)


def test_an_error_output_that_nobody_takes_is_beams_own_error(place: Place) -> None:
    parse = step("Parse", contract=place.contract, error_handling={"output": "refused"})
    with pytest.raises(ValueError, match="Unconsumed error output"):
        place.run(
            place.lines(GOOD),
            {**parse, "input": "ReadFromText"},
            {**place.write(), "input": "Parse"},
            type="composite",
        )


def test_a_field_has_to_be_named_where_there_are_several(place: Place) -> None:
    rows = step("Create", elements=[{"key": 1, "value": GOOD[0]}])
    with pytest.raises(ValueError, match="field: rows have several, say which one it is: key, val"):
        place.run(rows, step("Parse", contract=CONTRACT), place.write())
    with pytest.raises(ValueError, match="field: key is of type integer in the rows; expected str"):
        place.run(rows, step("Parse", contract=CONTRACT, field="key"), place.write())
    place.run(rows, step("Parse", contract=CONTRACT, field="value"), place.write())
    assert [row["id"] for row in place.written()] == [1]
