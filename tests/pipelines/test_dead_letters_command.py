"""``millstream dead-letters``: what it lists and shows, what it marks, when it refuses."""

from __future__ import annotations

import datetime as dt
import json
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest
from cryptography.fernet import Fernet
from millstream.pipelines import dead_letters_command
from millstream.pipelines.arguments import Parser
from millstream.pipelines.cli import main
from millstream.pipelines.job import JobError
from millstream.schemas.codes import Code
from millstream.schemas.dead_letters import SCHEMA
from millstream.schemas.rules import Violation
from millstream.schemas.table import table_of_schema
from millstream.transforms.dead_letters import Origin, dead_letter_batch
from millstream.transforms.encryption import encrypted, keys_of
from millstream.transforms.letters import Entry, Marks, letters_of, payloads
from millstream.transforms.plan import Plan
from millstream.transforms.receipts import content_digest
from millstream.transforms.runs import RunStore
from millstream.transforms.write.destination import Commit, Output
from millstream.transforms.write.stage import stage_batches

from tests.pipelines.clicks import Done, JobFolder, Letter

JOB = """\
name: clicks
contract: clicks.odcs.yaml
input: [events/*.jsonl]
output: parquet:out/clicks
dead_letters: {dead_letters}
late: jsonl:out/late
until: now
ledger: jsonl:out/ledger
"""
CONTRACT = """\
apiVersion: v3.1.0
kind: DataContract
id: clicks
version: 1.0.0
schema:
- name: clicks
  properties:
  - {name: amount, logicalType: integer}
  - {name: page, logicalType: string}
"""
NASTY = b'{"amount": "\x1b[31m\xff"}'
PAYLOADS = (b'{"amount": "x"}', NASTY, None)
Run = Callable[..., Done]


@pytest.fixture
def run(capfdbinary) -> Run:
    """``millstream dead-letters …``; a mistake gives 2, as the command line has it."""
    parser = Parser(prog="millstream")
    dead_letters_command.add_parser(parser.add_subparsers(dest="command"))

    def call(*arguments: str, raw: bool = False) -> Any:
        capfdbinary.readouterr()
        try:
            code = dead_letters_command.run(parser.parse_args(["dead-letters", *arguments]), [])
        except JobError as error:
            return Done(2, "", str(error))
        out, err = capfdbinary.readouterr()
        return Done(code, out if raw else out.decode(), err.decode())

    return call


def letters(numbers: range, run_id: str = "r1") -> pa.RecordBatch:
    given = list(numbers)
    violations = [
        Violation(at, "amount" if n % 2 else "page", (Code.TYPE, Code.ENUM)[n % 2], f"wrong {n}")
        for at, n in enumerate(given)
    ]
    return dead_letter_batch(
        pa.array([f"/events/{n % 2}.jsonl" for n in given]),
        pa.array([str(n * 100) for n in given]),
        pa.array([PAYLOADS[n % 3] for n in given], pa.binary()),
        violations,
        Origin("validate", "clicks", run_id, "clicks", "1.0.0"),
        attributes={"format": "jsonl"},
    )


def commit(name: str, uri: str, batch: pa.RecordBatch, run_id: str = "r1") -> None:
    tables: Any = {"data": table_of_schema(SCHEMA, ("id",))}
    home = str(Path("out/ledger").absolute())
    to = Output(name, uri, "dead_letters", tables=tables, state=home)
    plan = Plan("clicks", "c", "1", f"{name}{run_id}")
    store = RunStore(home)
    token = store.begin(plan, run_id, reprocess=True).token
    receipts = stage_batches(to, token, [batch])
    digest = content_digest(receipts)
    to.destination.commit(Commit(token, digest, tuple(receipts), to.tables, store.folder(token)))


@pytest.fixture(params=["jsonl:out/dead_letters", "duckdb:out/warehouse.duckdb/dead_letters"])
def job(request, tmp_path, monkeypatch) -> pa.RecordBatch:
    """A job in the working directory, with 30 dead letters and one late record."""
    monkeypatch.chdir(tmp_path)
    Path("out").mkdir()
    Path("job.yaml").write_text(JOB.format(dead_letters=request.param))
    Path("clicks.odcs.yaml").write_text(CONTRACT)
    batch = letters(range(30))
    commit("dead_letters", request.param, batch)
    commit("late", "jsonl:out/late", letters(range(100, 101)), "r2")
    return batch


def ids(batch: pa.RecordBatch) -> list[str]:
    return batch["id"].to_pylist()


def listed(run: Run, *more: str) -> list[dict[str, Any]]:
    found = run("list", "--job", "job.yaml", "--json", *more)
    assert (found.code, found.err) == (0, "")
    return [json.loads(line) for line in found.out.splitlines()]


@pytest.mark.slow
def test_listing_is_not_kept_waiting_for_beam(job):
    code = (
        "import sys; from millstream.pipelines.cli import main; "
        "main(['dead-letters', 'list', '--job', 'job.yaml']); "
        "print('apache_beam' in sys.modules, file=sys.stderr)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert (": 30 open" in done.stdout, done.stderr.strip()) == (True, "False")


def test_groups_with_counts_times_and_samples(run, job):
    found = run("list", "--job", "job.yaml", "--samples", "2")
    assert (found.code, found.err) == (0, "")
    first, header, *lines = found.out.splitlines()
    assert first.endswith(": 30 open")
    assert header.split()[:5] == ["letters", "code", "field", "source", "contract_version"]
    groups = [line for line in lines if not line.startswith(" " * 12)]
    minute = job["timestamp"][0].as_py().strftime("%Y-%m-%d %H:%M")
    assert [line.split() for line in groups] == [
        ["15", code, field, source, "1.0.0", *minute.split(), "–", *minute.split()]
        for code, field, source in (
            ("ENUM", "amount", "/events/1.jsonl"),
            ("TYPE", "page", "/events/0.jsonl"),
        )
    ]
    assert len(lines) == 2 + 2 * 2 * 2
    assert "\x1b" not in found.out
    assert "wrong " in found.out


def test_as_json_every_group_is_a_line(run, job):
    by_code = listed(run, "--by", "code", "--samples", "1", "--limit", "0")
    assert [(g["code"], g["letters"], g["statuses"]) for g in by_code] == [
        ("ENUM", 15, {"open": 15}),
        ("TYPE", 15, {"open": 15}),
    ]
    (sample,) = by_code[0]["samples"]
    row = next(r for r in job.to_pylist() if r["id"] == sample["id"])
    assert (sample["source"], sample["position"]) == (row["source"], row["position"])
    assert sample["message"] == row["errorMessage"]
    assert dt.datetime.fromisoformat(by_code[0]["first"]) == row["timestamp"]


def test_only_those_that_are_meant(run, job):
    where = "code=TYPE and field=page and source=*0.jsonl and since=2020-01-01"
    assert [g["letters"] for g in listed(run, "--where", where)] == [15]
    assert listed(run, "--where", "code=RANGE") == []
    found = run("list", "--job", "job.yaml", "--where", "code=RANGE")
    assert found.out.splitlines()[0].endswith(": 0 open")


def test_the_largest_groups_are_printed(run, job):
    found = run("list", "--job", "job.yaml", "--limit", "1", "--samples", "0")
    assert found.out.splitlines()[-1].strip() == "and 1 more group: --limit N, or --json"


def test_what_was_settled_is_listed_only_if_asked_for(run, job):
    marks = Marks("out/ledger")
    marks.append("m1", [Entry(i, 0, "replayed") for i in ids(job)[:4]])
    marks.append("m2", [Entry(i, 0, "discarded") for i in ids(job)[4:6]])
    marks.append("m3", [Entry(ids(job)[6], 0, "failed")])
    assert sum(g["letters"] for g in listed(run)) == 24
    found = run("list", "--job", "job.yaml", "--all")
    said = "24 open, 1 of them failed again, 4 replayed, 2 discarded"
    assert found.out.splitlines()[0].endswith(said)
    assert "(2 replayed, 1 discarded)" in found.out
    everything = listed(run, "--all", "--by", "contract_version")
    assert [g["statuses"] for g in everything] == [
        {"discarded": 2, "failed": 1, "open": 23, "replayed": 4}
    ]


def test_late_records(run, job):
    (group,) = listed(run, "--late")
    assert (group["letters"], group["samples"][0]["position"]) == (1, "10000")


def test_letters_of_another_place_without_a_job(run, job, tmp_path):
    found = run("list", "--letters", f"jsonl:{tmp_path}/out/late", "--json")
    assert json.loads(found.out)["letters"] == 1
    found = run("discard", "--letters", f"jsonl:{tmp_path}/out/late", "--where", "code=TYPE",
                "--reason", "x")  # fmt: skip
    assert (found.code, found.err[:30]) == (2, "say whose letters they are, wi")


def test_one_with_all_that_is_known(run, job):
    marks = Marks("out/ledger")
    marks.append("m1", [Entry(ids(job)[3], 0, "failed")], reason="still wrong")
    row = job.slice(3, 1).to_pylist()[0]
    found = run("show", row["id"], "--job", "job.yaml")
    assert (found.code, found.err) == (0, "")
    lines = found.out.splitlines()
    for name in ("id", "source", "position", "run_id", "contract_version", "errorMessage"):
        assert f"{name:<16}{row[name]}" in lines
    assert f"{'violation':<16}ENUM  amount: wrong 3" in lines
    assert f"{'attribute':<16}format = jsonl" in lines
    (mark,) = [line for line in lines if line.startswith("mark")]
    assert "failed at " in mark
    assert mark.endswith("attempt 0, run m1  (still wrong)")
    assert lines[-2:] == [f"{'payload':<16}15 bytes", '{"amount": "x"}']


def test_bytes_that_are_no_text_are_dumped_and_written_as_they_are(run, job):
    letter = ids(job)[1]
    found = run("show", letter, "--job", "job.yaml")
    assert found.out.splitlines()[-2:] == [
        '00000000  7b 22 61 6d 6f 75 6e 74 22 3a 20 22 1b 5b 33 31   |{"amount": ".[31|',
        '00000010  6d ff 22 7d                                       |m."}|',
    ]
    raw = run("show", letter, "--raw", "--job", "job.yaml", raw=True)
    assert (raw.code, raw.out, raw.err) == (0, NASTY, "")


def test_bytes_that_are_not_held(run, job):
    letter = ids(job)[2]
    assert run("show", letter, "--job", "job.yaml").out.endswith("(its bytes are not held)\n")
    raw = run("show", letter, "--raw", "--job", "job.yaml")
    assert (raw.code, raw.out) == (1, "")
    assert "they lie in /events/0.jsonl at 200" in raw.err


CLASSIFIED = CONTRACT.replace("logicalType: integer", "logicalType: integer, classification: PII")


def test_classified_fields_are_masked_unless_they_are_asked_for(run, job):
    Path("clicks.odcs.yaml").write_text(CLASSIFIED)
    listed = run("list", "--job", "job.yaml")
    assert (listed.code, listed.err) == (0, "")
    assert '{"amount": "***"}' in listed.out
    assert '"x"' not in listed.out
    assert "(not shown: it may hold classified fields)" in listed.out
    letter = ids(job)[3]
    show = ("show", letter, "--job", "job.yaml")
    assert run(*show).out.splitlines()[-1] == '{"amount": "***"}'
    refused = run(*show, "--raw")
    assert (refused.code, refused.out) == (2, "")
    assert refused.err == "--raw: its bytes may hold classified fields: say --reveal too"
    for more in ((), ("--raw",)):
        revealed = run(*show, *more, "--reveal")
        assert revealed.out.rstrip("\n").endswith('{"amount": "x"}')
        assert "shown as it is" in revealed.err
    assert '{"amount": "x"}' in run("list", "--job", "job.yaml", "--json", "--reveal").out.replace(
        "\\", ""
    )


def test_without_a_contract_no_value_is_shown(run, job, tmp_path):
    place = ("--letters", f"jsonl:{tmp_path}/out/late")
    found = run("list", *place)
    assert (found.code, "amount" in found.out) == (0, False)
    assert "(not shown)" in found.out
    assert "name their contract with --contract FILE, or say --reveal" in found.err
    assert "x1b[31m" in run("list", *place, "--contract", "clicks.odcs.yaml").out
    Path("clicks.odcs.yaml").unlink()
    gone = run("list", "--job", "job.yaml")
    assert "nobody knows which fields are classified, and none is shown: " in gone.err
    assert '"x"' not in gone.out
    assert run("list", "--job", "job.yaml", "--samples", "0").err == ""


@pytest.mark.parametrize("action", [("list",), ("show", "none"), ("discard", "x", "--reason=r")])
def test_files_of_secrets_go_when_the_command_ends(job, tmp_path, monkeypatch, action):
    folder = tmp_path / "temporary"
    folder.mkdir()
    monkeypatch.setattr("tempfile.tempdir", str(folder))
    monkeypatch.setenv("CA_FILE", "")  # which is put back
    Path("ca.pem").write_text("secret")
    with Path("job.yaml").open("a") as file:
        file.write("secrets: {CA_FILE: {file: ca.pem}}\n")
    main(["dead-letters", *action, "--job", "job.yaml"])
    assert os.environ["CA_FILE"].startswith(str(folder))
    assert list(folder.iterdir()) == []


def test_encrypted_letters_are_shown_to_who_has_the_key(run, job, monkeypatch):
    key = Fernet.generate_key().decode()
    monkeypatch.setenv("KEYS", key)
    sealed = encrypted(letters(range(3, 4), "r9"), keys_of("KEYS"))
    commit("sealed", "jsonl:out/sealed", sealed, "r9")
    (row,) = sealed.to_pylist()
    place = ("show", row["id"], "--letters", "jsonl:out/sealed", "--contract", "clicks.odcs.yaml")
    with_key = ("--encrypt_dead_letters", "KEYS")
    assert "with --encrypt_dead_letters" in run(*place).out.splitlines()[-1]
    assert run(*place, *with_key).out.splitlines()[-1] == "(not shown)"
    assert run(*place, "--raw", "--reveal").code == 2
    revealed = run(*place, *with_key, "--reveal").out.splitlines()
    assert revealed[-1] == '{"amount": "x"}'
    assert not [line for line in revealed if "payload." in line]
    Path("clicks.odcs.yaml").write_text(CLASSIFIED)
    assert run(*place, *with_key).out.splitlines()[-1] == '{"amount": "***"}'
    monkeypatch.setenv("KEYS", Fernet.generate_key().decode())
    assert "is not among those of KEYS" in run(*place, *with_key).out.splitlines()[-1]
    monkeypatch.delenv("KEYS")
    gone = run(*place, *with_key)
    assert (gone.code, "KEYS: the environment variable is not set" in gone.err) == (0, True)


def test_of_several_attempts_the_last_is_shown(run, job, request):
    again = letters(range(3, 4), "r9").to_pylist()
    batch = pa.RecordBatch.from_pylist([{**again[0], "attempt": 2}], SCHEMA)
    uri = next(line.split(": ")[1] for line in Path("job.yaml").read_text().splitlines()
               if line.startswith("dead_letters"))  # fmt: skip
    commit("dead_letters", uri, batch, "r9")
    found = run("show", ids(job)[3], "--job", "job.yaml")
    assert f"{'run_id':<16}r9" in found.out.splitlines()


def test_one_that_is_not_there(run, job):
    found = run("show", "nothing", "--job", "job.yaml")
    assert (found.code, found.out) == (1, "")
    assert "there is no dead letter nothing in " in found.err


def test_discarding_appends_marks_and_changes_no_letter(run, job):
    there = {p: p.read_bytes() for p in Path("out").rglob("*") if p.is_file()}
    found = run("discard", *ids(job)[:2], "--reason", "a test of ours", "--job", "job.yaml")
    assert (found.code, found.out, found.err) == (0, "discarded 2 dead letters\n", "")
    marks = Marks("out/ledger")
    (mark,) = marks.of(ids(job)[0])
    assert (mark.outcome, mark.reason, mark.attempt) == ("discarded", "a test of ours", 0)
    assert sum(g["letters"] for g in listed(run)) == 28
    kept = [p for p in there if "marks" not in p.parts and "lock" not in p.parts]
    assert all(p.read_bytes() == there[p] for p in kept)


def test_discarding_by_kind_takes_what_is_open_alone(run, job):
    Marks("out/ledger").append("m1", [Entry(i, 0, "replayed") for i in ids(job)[1:4]])
    where = ("discard", "--where", "code=ENUM", "--reason", "x", "--job", "job.yaml")
    assert run(*where, "--dry_run").out == "would discard 13 dead letters\n"
    assert sum(g["letters"] for g in listed(run)) == 27
    assert run(*where).out == "discarded 13 dead letters\n"
    assert run(*where).out == "discarded 0 dead letters\n"
    assert [m.outcome for m in Marks("out/ledger").of(ids(job)[1])] == ["replayed"]


def test_what_is_settled_cannot_be_discarded_by_its_id(run, job):
    Marks("out/ledger").append("m1", [Entry(ids(job)[0], 0, "replayed")])
    found = run("discard", *ids(job)[:2], "--reason", "x", "--job", "job.yaml")
    assert found.code == 1
    assert f"there is no open dead letter {ids(job)[0]} in " in found.err
    assert not Marks("out/ledger").of(ids(job)[1])


def test_while_a_run_is_at_work_nothing_is_discarded(run, job):
    with RunStore("out/ledger").lock("r7"):
        found = run("discard", ids(job)[0], "--reason", "x", "--job", "job.yaml")
    assert (found.code, found.out) == (5, "")
    assert "r7" in found.err
    assert Marks("out/ledger").is_empty


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["list", "--where", "cod=TYPE"], "no key 'cod'; did you mean 'code'"),
        (["list", "--by", "code,colour"], "--by: no column 'colour'"),
        pytest.param(
            ["list", "--letters", "pubsub://project-one/letters"],
            "cannot be listed or read back",
            marks=pytest.mark.cloud,
        ),
        (["list", "--letters", "nowhere:x"], "unknown destination scheme"),
        (["discard", "--reason", "x"], "either IDs or --where"),
        (["discard", "a", "--where", "code=TYPE", "--reason", "x"], "either IDs or --where"),
        (["discard", "a", "--reason", " "], "--reason is empty"),
    ],
)
def test_mistakes(run, job, arguments, said):
    found = run(*arguments, "--job", "job.yaml")
    assert found.code == 2
    assert said in found.err


def test_a_job_without_late_records(run, job):
    said = JOB.format(dead_letters="jsonl:out/dead_letters").replace("late: jsonl:out/late\n", "")
    Path("job.yaml").write_text(said)
    found = run("list", "--late", "--job", "job.yaml")
    assert found.code == 2
    assert "the job has no such output" in found.err


@pytest.mark.slow
def test_letters_that_a_job_wrote_come_back_byte_for_byte(run, tmp_path):
    folder = JobFolder.make(tmp_path / "job", events=2_000)
    assert main(["ingest", "--job", folder.job]) == 0
    (uri,) = [
        line.split(": ", 1)[1].split()[0]
        for line in Path(folder.job).read_text().splitlines()
        if line.startswith("dead_letters:")
    ]
    scheme, _, path = uri.partition(":")
    to = Output("dead_letters", f"{scheme}:{folder.path / path}", "dead_letters")
    found = [
        Letter(Path(row["source"]).name, row["position"], payload, tuple(sorted(row["codes"])))
        for batch in letters_of(to).batches()
        for row, payload in zip(batch.to_pylist(), payloads(batch).to_pylist(), strict=True)
    ]
    expected = folder.expected().letters
    assert sorted(map(repr, found)) == sorted(map(repr, expected.elements()))
    counted = run("list", "--job", folder.job, "--json", "--by", "source")
    by_source = {Path(g["source"]).name: g["letters"]
                 for g in map(json.loads, counted.out.splitlines())}  # fmt: skip
    assert by_source == {k: v for k, v in folder.expected().dead.items() if v}
