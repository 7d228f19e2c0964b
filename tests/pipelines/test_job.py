"""Mistakes in job files and flags: one line each, that says where, what, and the nearest name.

Every mistake exits 2 before anything is written.
"""

from __future__ import annotations

import json
import re
import subprocess
import sys
from pathlib import Path

import pytest
from millstream.pipelines import exit_codes
from millstream.pipelines.job import KEYS, REQUIRED, JobError, load_job
from millstream.pipelines.runners import chosen, root_message

CONTRACT = """\
apiVersion: v3.1.0
kind: DataContract
id: clicks
version: 1.0.0
status: active
schema:
- name: clicks
  properties:
  - {name: id, logicalType: integer, required: true, primaryKey: true}
  - name: ts
    logicalType: timestamp
    required: true
    customProperties: [{property: eventTime, value: true}]
  - {name: page, logicalType: string}
  - {name: amount, logicalType: number, physicalType: "decimal(10,2)"}
"""

JOB = """\
name: clicks
contract: clicks.odcs.yaml
input: [events/*.jsonl]
output: parquet:out/clicks
dead_letters: jsonl:out/dead_letters
ledger: jsonl:out/ledger
unknown_fields: ignore
aggregates:
  - name: pages
    window: {fixed: 1m}
    by: [page]
    metrics: {events: count(), revenue: sum(amount)}
    output: parquet:out/pages
"""

EVENT = '{"id": 1, "ts": "2026-11-23T10:00:05Z", "page": "/", "amount": 2.5}\n'


@pytest.fixture
def folder(tmp_path, monkeypatch) -> Path:
    """The working directory: a job file, its contract, one event."""
    monkeypatch.chdir(tmp_path)
    Path("events").mkdir()
    Path("events", "a.jsonl").write_text(EVENT, "utf-8")
    Path("clicks.odcs.yaml").write_text(CONTRACT, "utf-8")
    Path("job.yaml").write_text(JOB, "utf-8")
    return tmp_path


@pytest.fixture
def mistake(folder, ingest_here):
    """Run a job with a mistake in it; gives the one line that is said about it."""

    def run(*flags: str, text: str | None = None, job: str | None = "job.yaml") -> str:
        if text is not None:
            Path("job.yaml").write_text(text, "utf-8")
        before = sorted(folder.rglob("*"))
        done = ingest_here(*(["--job", job] if job else []), *flags)
        assert done.out == ""
        said = [line for line in done.err.splitlines() if "running on Beam's" not in line]
        assert len(said) == 1, done.err
        assert done.code == exit_codes.USAGE
        assert sorted(folder.rglob("*")) == before, "something was written"
        return said[0].removeprefix("millstream: ")

    return run


def edited(old: str, new: str) -> str:
    assert JOB.count(old) == 1
    return JOB.replace(old, new)


KNOWN = (
    "Known: avro:, bigquery:, csv:, delta:, duckdb:, iceberg:, jsonl:, kafka:, parquet:, "
    "postgresql:, pubsub:"
)


@pytest.mark.parametrize(
    ("old", "new", "said"),
    [
        pytest.param(
            "ledger: ",
            "leger: ",
            "job.yaml:6: no such key: leger; did you mean 'ledger'?",
            id="a misspelt key",
        ),
        pytest.param(
            "ledger: ", "colour: ", "job.yaml:6: no such key: colour", id="a key like none"
        ),
        pytest.param(
            "    window: ",
            "    windw: ",
            "job.yaml:10 aggregates[0].windw: no such key: windw; did you mean 'window'?",
            id="a misspelt key of an aggregate",
        ),
        pytest.param(
            "    output: parquet:out/pages\n",
            "",
            "job.yaml:9 aggregates[0]: output is not given",
            id="a missing key of an aggregate",
        ),
        pytest.param(
            "name: clicks\n",
            "name: 7\n",
            "job.yaml:1 name: expected a string, got a whole number",
            id="a number for a string",
        ),
        pytest.param(
            "[events/*.jsonl]",
            "{a: b}",
            "job.yaml:3 input: expected a list, got a mapping",
            id="a mapping for a list",
        ),
        pytest.param(
            "[events/*.jsonl]",
            "[events/*.jsonl, 7]",
            "job.yaml:3 input[1]: expected a string, got a whole number",
            id="a number in a list of strings",
        ),
        pytest.param(
            "[events/*.jsonl]",
            "[]",
            "job.yaml:3 input: is empty: name at least one file or pattern",
            id="no input",
        ),
        pytest.param(
            "by: [page]",
            "by: page",
            "job.yaml:11 aggregates[0].by: expected a list, got a string",
            id="a string for a list in an aggregate",
        ),
        pytest.param(
            "revenue: sum(amount)",
            "revenue: 7",
            "job.yaml:12 aggregates[0].metrics.revenue: expected a string, got a whole number",
            id="a number for a metric",
        ),
        pytest.param(
            "unknown_fields: ignore",
            "unknown_fields: ignroe",
            "job.yaml:7 unknown_fields: expected 'ignore', 'keep' or 'reject', got 'ignroe'; "
            "did you mean 'ignore'?",
            id="a misspelt choice",
        ),
        pytest.param(
            "unknown_fields: ignore",
            "shards: 0",
            "job.yaml:7 shards: expected at least 1, got 0",
            id="a number too small",
        ),
        pytest.param(
            "unknown_fields: ignore",
            "wait: .nan",
            "job.yaml:7 wait: expected seconds, 0 or more, got nan",
            id="seconds that are no number",
        ),
        pytest.param(
            "unknown_fields: ignore",
            "retry_seconds: -1",
            "job.yaml:7 retry_seconds: expected seconds, 0 or more, got -1.0",
            id="seconds before now",
        ),
        pytest.param(
            "unknown_fields: ignore",
            "helpers: two",
            "job.yaml:7 helpers: expected a whole number or nothing, got a string",
            id="a word for a number",
        ),
        pytest.param(
            "unknown_fields: ignore",
            "reprocess: yes",
            "job.yaml:7 reprocess: expected true or false, got a string",
            id="a word for a boolean",
        ),
        pytest.param(
            "unknown_fields: ignore",
            "run_id: .hidden",
            "job.yaml:7 run_id: run id '.hidden' is not 1 to 64 letters, digits, '.', '_' or '-', "
            "beginning with none of '.' and '_'",
            id="a run id that cannot name a file",
        ),
        pytest.param(
            "  - name: pages",
            "  - name: a/b",
            "job.yaml:9 aggregates[0].name: output name 'a/b' is not 1 to 64 letters, digits, "
            "'.', '_' or '-', beginning with none of '.' and '_'",
            id="an aggregate's name that cannot name a file",
        ),
        pytest.param(
            "  - name: pages",
            "  - name: records",
            "job.yaml:9 aggregates[0].name: the name 'records' is taken; choose another",
            id="an aggregate with a name that is taken",
        ),
        pytest.param(
            "output: parquet:out/clicks",
            "output: parqet:out/clicks",
            "job.yaml:4 output: unknown destination scheme parqet:; did you mean parquet:? "
            f"{KNOWN}",
            id="a misspelt scheme",
        ),
        pytest.param(
            "output: parquet:out/pages",
            "output: orc:out/pages",
            f"job.yaml:13 aggregates[0].output: unknown destination scheme orc: {KNOWN}",
            id="an unknown scheme in an aggregate",
        ),
        pytest.param(
            "ledger: jsonl:out/ledger",
            "ledger: out/ledger",
            "job.yaml:6 ledger: destination 'out/ledger' names no format; "
            f"did you mean 'parquet:out/ledger'? {KNOWN}",
            id="a path without a scheme",
        ),
        pytest.param(
            "ledger: jsonl:out/ledger",
            "ledger: 'jsonl:'",
            "job.yaml:6 ledger: jsonl: names no place; write jsonl:DIRECTORY",
            id="a scheme without a path",
        ),
        pytest.param(
            "ledger: jsonl:out/ledger",
            "ledger: jsonl:out/../out/dead_letters/",
            "job.yaml: outputs 'dead_letters' and 'ledger' have the same place; give each its own",
            id="two outputs in one place",
        ),
        pytest.param(
            "[events/*.jsonl]",
            "[nothing/*.jsonl]",
            "job.yaml:3 input: no file matches nothing/*.jsonl (--allow_no_input lets that pass)",
            id="a pattern that matches nothing",
        ),
        pytest.param(
            "name: clicks\n", "name: [clicks\n", r"job.yaml:2: not valid YAML: ", id="no YAML"
        ),
        pytest.param(
            "ledger: jsonl:out/ledger",
            "name: again",
            "job.yaml:6: the key 'name' is given twice, first on line 1",
            id="a key twice",
        ),
    ],
)
def test_a_mistake_in_a_job_file(mistake, old, new, said):
    found = mistake(text=edited(old, new))
    assert found.startswith(said) if said.endswith(": ") else found == said


def test_two_aggregates_of_one_name(mistake):
    again = JOB[JOB.index("  - name: pages") :].replace("out/pages", "out/others")
    said = mistake(text=JOB + again)
    assert said == "job.yaml:14 aggregates[1].name: two aggregates are named 'pages'"


def test_two_aggregates_in_one_place(mistake):
    again = JOB[JOB.index("  - name: pages") :].replace("name: pages", "name: others")
    said = mistake(text=JOB + again)
    assert said == "job.yaml: outputs 'pages' and 'others' have the same place; give each its own"


@pytest.mark.parametrize(
    ("old", "new", "parts"),
    [
        ("sum(amount)", "sum(amuont)", ["aggregates[0]", "'amuont'", "did you mean 'amount'?"]),
        ("sum(amount)", "sume(amount)", ["aggregates[0]", "'sume'", "did you mean 'sum'?"]),
        ("sum(amount)", "sum(page)", ["aggregates[0]", "sum(page)", "string"]),
        ("sum(amount)", "amount", ["aggregates[0]", "'amount'", "sum(amount)"]),
        ("by: [page]", "by: [paeg]", ["aggregates[0]", "'paeg'", "did you mean 'page'?"]),
        ("{fixed: 1m}", "{fixde: 1m}", ["aggregates[0]", "fixde", "fixed"]),
        ("{fixed: 1m}", "{fixed: soon}", ["aggregates[0]", "'soon'"]),
    ],
)
def test_a_mistake_in_an_aggregate(mistake, old, new, parts):
    said = mistake(text=edited(old, new))
    assert said.startswith("job.yaml:9 ")
    for part in parts:
        assert part in said


@pytest.mark.parametrize("key", REQUIRED)
def test_a_key_that_is_not_given(mistake, key):
    text = "".join(line for line in JOB.splitlines(True) if not line.startswith(f"{key}:"))
    said = mistake(text=text)
    assert said == f"job.yaml: {key} is not given: write it in the job file, or --{key}"


@pytest.mark.parametrize("empty", ["", "null", "~"])
def test_a_key_without_a_value_is_not_given(mistake, empty):
    said = mistake(text=edited("ledger: jsonl:out/ledger", f"ledger: {empty}"))
    assert said == "job.yaml: ledger is not given: write it in the job file, or --ledger"


def test_a_job_that_writes_nothing(mistake):
    said = mistake("--output", "", "--aggregates", "[]")
    assert said == "job.yaml: the job writes nothing: give output, aggregates, or both"


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("", "job.yaml:1: the document is empty"),
        ("- a\n", "job.yaml:1: expected a mapping, found a list"),
        ("name: !!python/name:os.system\n", "job.yaml:1: the tag "),
    ],
)
def test_a_job_file_that_is_no_job(mistake, text, said):
    assert mistake(text=text).startswith(said)


def test_a_job_file_that_cannot_be_read(mistake, folder):
    assert mistake(job="jbo.yaml").startswith("jbo.yaml: cannot read the job file: not found")
    assert mistake(job="events").startswith("events: cannot read the job file: it is a folder")
    Path("job.yaml").write_bytes(b"name: caf\xe9\n")
    assert mistake() == "job.yaml: the job file is not UTF-8 text"


@pytest.mark.parametrize(
    ("old", "new", "key"),
    [
        ("clicks.odcs.yaml", r'"a\0b"', "contract"),
        ("[events/*.jsonl]", r'["a\0b"]', "input"),
        ("jsonl:out/ledger", r'"jsonl:a\0b"', "ledger"),
    ],
)
def test_a_name_that_no_file_has(mistake, old, new, key):
    said = mistake(text=edited(old, new))
    assert re.fullmatch(rf"job\.yaml:\d+ {key}: holds the character NUL, which no .* has", said)


def test_no_job_at_all(mistake):
    said = mistake(job=None)
    assert said == "name is not given: write it in the job file, or --name"


@pytest.mark.parametrize(
    ("flags", "said"),
    [
        (["--inptu", "x"], "no such flag: --inptu; did you mean '--input'?"),
        (["--inptu=x"], "no such flag: --inptu; did you mean '--input'?"),
        (["--direct_num_worker=2"], "no such flag: --direct_num_worker; did you mean "),
        (["--colour=red"], "no such flag: --colour"),
        (["-x"], "no such flag: -x"),
        (["job.yaml"], "unexpected argument: job.yaml"),
        (["--runner=DirectRunner", "job.yaml"], "unexpected argument: job.yaml"),
        (["--runner=PrismRuner"], "--runner: Beam has no runner 'PrismRuner'; did you mean "),
        (["--runner=abacus"], "--runner: Beam has no runner 'abacus'; it has "),
        (["--runner"], "--runner: names nothing; write --runner=NAME"),
        (["--runner", "--streaming"], "--runner: names nothing; write --runner=NAME"),
        (["--direct_num_workers=two"], "argument --direct_num_workers: invalid int value: 'two'"),
        (["--direct_running_mode=fast"], "argument --direct_running_mode: invalid choice: 'fast'"),
        (["--shards=many"], "argument --shards: expected a whole number, got 'many'"),
        (["--shards=0"], "--shards: expected at least 1, got 0"),
        (["--wait=long"], "argument --wait: expected a number, got 'long'"),
        (["--reprocess=maybe"], "argument --reprocess: expected true or false, got 'maybe'"),
        (
            ["--compression=gzpi"],
            "argument --compression: expected 'auto', 'gzip', 'bzip2', 'zstd', 'xz' or 'none', got "
            "'gzpi'; did you mean 'gzip'?",
        ),
        (["--output=parqet:out"], "--output: unknown destination scheme parqet:; did you mean "),
        (["--input=none/*"], "--input: no file matches none/* (--allow_no_input lets that pass)"),
        (["--contract=none.yaml"], "none.yaml: cannot be read: No such file or directory"),
        (["--schema=clics"], "clicks.odcs.yaml"),
        (["--event_time=tz"], "clicks.odcs.yaml"),
        (["--run_id=a b"], "--run_id: run id 'a b' is not 1 to 64 letters"),
        (["--aggregates=[{name: a"], "argument --aggregates: line 1: not valid YAML: "),
        (["--aggregates=7"], "--aggregates: expected a list, got a whole number"),
        (
            ["--aggregates=[{name: a, window: {fixed: 1m}, metrics: {n: count()}}]"],
            "--aggregates[0]: output is not given",
        ),
    ],
    ids=lambda value: " ".join(value) if isinstance(value, list) else "",
)
def test_a_mistake_in_a_flag(mistake, flags, said):
    assert mistake(*flags).startswith(said)


def test_a_misspelt_job_flag_is_named_before_what_it_leaves_out(mistake):
    said = mistake("--jbo", "job.yaml", job=None)
    assert said == "no such flag: --jbo; did you mean '--job'?"


def test_a_misspelt_flag_is_named_before_the_input_that_it_was_to_name(mistake):
    said = mistake("--input=nothing*.jsonl", "--inptu", "other.jsonl")
    assert said == "no such flag: --inptu; did you mean '--input'?"


def test_a_line_of_an_aggregates_flag_is_counted_from_its_first(mistake):
    said = mistake("--aggregates", "- name: a\n  name: b\n")
    assert said.startswith("argument --aggregates: line 2: the key 'name' is given twice")


@pytest.mark.parametrize("runner", [[], ["--runner=DirectRunner"], ["--runner", "directrunner"]])
def test_streaming_needs_a_runner_that_can(mistake, runner):
    said = mistake(*runner, "--streaming", "--input", "kafka://127.0.0.1:9/clicks")
    assert said.endswith("cannot run an unbounded job; use --runner=PrismRunner")


def test_an_unknown_command(cli):
    done = cli("ingset")
    assert (done.code, done.out) == (exit_codes.USAGE, "")
    assert done.err.count("\n") == 1
    assert "invalid choice: 'ingset' (choose from 'ingest', 'contract', " in done.err


# What is right:


def test_flags_say_it_in_place_of_the_file(folder):
    job, _ = load_job("job.yaml", {"name": "other", "unknown_fields": "keep", "shards": 2})
    assert (job.name, job.unknown_fields, job.shards) == ("other", "keep", 2)
    assert job.contract == "clicks.odcs.yaml"


def test_paths_of_a_file_are_relative_to_it_and_paths_of_flags_are_not(folder, monkeypatch):
    Path("elsewhere").mkdir()
    monkeypatch.chdir("elsewhere")
    job, _ = load_job("../job.yaml", {"dead_letters": "jsonl:here", "input": ["a", "/b/*"]})
    assert job.contract == "../clicks.odcs.yaml"
    assert job.output == "parquet:../out/clicks"
    assert job.dead_letters == "jsonl:here"
    assert job.input == ["a", "/b/*"]
    assert [a.output for a in job.aggregates] == ["parquet:../out/pages"]


def test_absolute_paths_and_stores_are_left_as_they_are(folder):
    text = edited("[events/*.jsonl]", "[/data/*.jsonl, 'gs://bucket/*.jsonl']")
    Path("sub").mkdir()
    Path("sub", "job.yaml").write_text(
        text.replace("parquet:out/clicks", "parquet:gs://bucket/clicks"), "utf-8"
    )
    job, _ = load_job("sub/job.yaml", {})
    assert job.input == ["/data/*.jsonl", "gs://bucket/*.jsonl"]
    assert job.output == "parquet:gs://bucket/clicks"


def test_one_input_needs_no_list(folder):
    Path("job.yaml").write_text(edited("[events/*.jsonl]", "events/*.jsonl"), "utf-8")
    assert load_job("job.yaml", {})[0].input == ["events/*.jsonl"]


def test_a_job_without_a_file():
    flags = dict.fromkeys(REQUIRED, "parquet:x") | {"input": ["x"], "output": "parquet:y"}
    assert load_job(None, flags)[0].output == "parquet:y"
    with pytest.raises(JobError, match=r"^--shards: expected at least 1, got -1$"):
        load_job(None, {**flags, "shards": -1})


@pytest.mark.parametrize(
    "text",
    [
        "[{name: a, window: {fixed: 1h}, metrics: {n: count()}, output: 'jsonl:a'}]",
        "- name: a\n  window: {fixed: 1h}\n  metrics: {n: count()}\n  output: jsonl:a\n",
        json.dumps(
            [{"name": "a", "window": {"fixed": "1h"}, "metrics": {"n": "count()"}, "output": "x"}],
            indent=1,
        ),
    ],
    ids=["flow", "block", "json"],
)
def test_aggregates_as_a_flag(text):
    from millstream.pipelines.job import flag_value

    (aggregate,) = flag_value("aggregates")(text)
    assert aggregate["name"] == "a"
    assert aggregate["window"] == {"fixed": "1h"}


@pytest.mark.slow
def test_a_job_runs_from_anywhere_as_the_same_run(folder, ingest_here, monkeypatch):
    here = ingest_here("--job", "job.yaml")
    assert here.code == exit_codes.OK, here.err
    Path("elsewhere").mkdir()
    monkeypatch.chdir("elsewhere")
    there = ingest_here("--job", "../job.yaml")
    assert there.code == exit_codes.OK
    assert "committed already: nothing to do" in there.err
    absolute = ingest_here("--job", str(folder / "job.yaml"))
    assert "committed already: nothing to do" in absolute.err
    assert list(Path(".").iterdir()) == []


@pytest.mark.slow
def test_what_flags_say_is_what_runs(folder, ingest_here, monkeypatch):
    Path("elsewhere").mkdir()
    Path("elsewhere", "b.jsonl").write_text(EVENT + EVENT, "utf-8")
    monkeypatch.chdir("elsewhere")
    done = ingest_here(
        *("--job", "../job.yaml", "--input", "*.jsonl", "--output", "jsonl:here"),
        *("--aggregates", "[{name: days, window: {fixed: 1d}, metrics: {n: count()}, "
          "output: 'jsonl:days'}]"),
    )  # fmt: skip
    assert done.code == exit_codes.OK, done.err
    assert len(list(Path("here").glob("*.jsonl"))) == 1
    assert len(list(Path("days").glob("*.jsonl"))) == 1
    assert sorted(p.name for p in Path("../out").iterdir()) == ["dead_letters", "ledger"]


def test_direct_runner_means_the_local_batch_runner(capsys):
    local = chosen([])
    assert chosen(["--runner=DirectRunner", "--job_name=x"]) == [*local, "--job_name=x"]
    assert "DirectRunner: running on Beam's FnApiRunner" in capsys.readouterr().err
    assert chosen(["--runner", "FnApiRunner"]) == local
    assert capsys.readouterr().err == ""
    assert chosen(["--runner", "PrismRunner", "--streaming"]) == [
        "--runner=PrismRunner",
        "--streaming",
    ]


def test_a_failure_is_told_without_what_beam_wraps_around_it():
    remote = RuntimeError(
        "Pipeline job-1 failed in state FAILED: bundle inst failed:Traceback (most recent call "
        'last):\n  File "x.py", line 1, in y\n    z()\n'
        "millstream.transforms.storage.StorageError: cannot write /x: the disk is full "
        "[while running 'Stage']\n"
    )
    assert root_message(remote) == "cannot write /x: the disk is full (in step Stage)"
    local = OSError("cannot write /x: the disk is full [while running 'Stage']")
    assert root_message(local) == "cannot write /x: the disk is full (in step Stage)"
    assert root_message(KeyError()) == "KeyError"


def test_help_lists_every_key_and_every_exit_code(capsys):
    from millstream.pipelines.cli import main

    for command in (["--help"], ["ingest", "--help"]):
        with pytest.raises(SystemExit) as exit:
            main(command)
        assert exit.value.code == 0
        shown = " ".join(capsys.readouterr().out.split())
        for code in range(6):
            assert re.search(rf"\b{code} ", shown[shown.index("exit codes:") :])
    for key, annotated in KEYS.items():
        assert f"--{key} " in shown
        assert annotated.__metadata__[0] in shown


@pytest.mark.parametrize("module", ["cli", "arguments", "job", "exit_codes"])
def test_the_command_line_starts_without_what_is_heavy(module):
    code = (
        f"import sys, millstream.pipelines.{module}\n"
        "heavy = {'apache_beam', 'pyarrow', 'pydantic', 'numpy', 'datasketches'}\n"
        "print(*sorted(heavy & set(sys.modules)))"
    )
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, timeout=60, check=True
    )
    assert done.stdout.split() == []


@pytest.mark.parametrize(
    ("flags", "said"),
    [
        (
            ["--steps=[{sql: SELECT count(*) AS n FROM records}]"],
            "--steps[0].sql: at 'count(*)': aggregate functions such as count() are refused",
        ),
        (
            ["--steps=[{sql: SELECT * FROM records, python: a}]"],
            "--steps[0]: expected sql, python, enrich or lookup, one of them",
        ),
        (
            ["--steps=[{sql: SELECT * FROM records, over: row}]"],
            "--steps[0]: over and adds belong to python steps",
        ),
        (["--steps=[{pyton: a}]"], "--steps[0].pyton: no such key: pyton; did you mean 'python'?"),
        (
            ["--steps=[{python: 'a:b', over: column}]"],
            "--steps[0].over: expected 'batch' or 'row', got 'column'",
        ),
        (["--steps=[{python: 'jsn:dumps'}]"], "--steps[0].python: jsn:dumps: jsn cannot be imp"),
        (
            ["--steps=[{sql: SELECT * EXCLUDE (ts) FROM records}]"],
            "--steps: the steps do not leave ts, the event time, as a time stamp, and the aggregat",
        ),
        (["--csv={delimiter: ab}"], "--csv: delimiter: expected one ASCII character, got 'ab'"),
        (
            ["--format=csv", "--csv={header: [a]}"],
            "--csv.header: the file has a header that names no field of the contract",
        ),
        (["--duplicates=jsonl:d"], "--duplicates: nothing is a duplicate without deduplicate: run"),
        (
            ["--deduplicate=committed", "--output=csv:out"],
            "--deduplicate: committed keys are read from Parquet: the job needs output: parquet:",
        ),
        (
            ["--deduplicate=committed", "--output=parquet:out?partition_by=id"],
            "--deduplicate: committed keys cannot be compared: the output is partitioned by id",
        ),
        (
            ["--deduplicate=committed", "--steps=[{sql: SELECT * EXCLUDE (id) FROM records}]"],
            "--deduplicate: committed keys cannot be compared: the steps do not leave id",
        ),
        (["--output=parquet:out?partition_by=pgae"], "--output: "),
        (["--output=parquet:out?partition=page"], "--output: "),
    ],
    ids=lambda value: " ".join(value) if isinstance(value, list) else "",
)  # fmt: skip
def test_a_mistake_in_what_widens_a_job(mistake, flags, said):
    assert mistake(*flags).startswith(said)
