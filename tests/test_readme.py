"""What the README shows runs as it is written."""

from __future__ import annotations

import re
import shutil
import subprocess
import sys
from pathlib import Path

import msgspec
import pyarrow.dataset as ds
import pytest
import yaml
from millstream.pipelines.job import Job, StepJob
from millstream.schemas.documents import read_document
from millstream.transforms.write.destination import destination
from millstream.transforms.write.errors import DestinationError
from millstream.transforms.write.formats import BRIEF, FORMATS

from tests.running import RUNNER

ROOT = Path(__file__).parent.parent
README = (ROOT / "README.md").read_text("utf-8")


def blocks(language: str) -> list[str]:
    return re.findall(rf"^```{language}\n(.*?)^```", README, re.DOTALL | re.MULTILINE)


def block(holds: str) -> str:
    """The one block of YAML that holds a text."""
    (found,) = [text for text in blocks("yaml") if holds in text]
    return found


def run(*command: str, cwd: Path) -> str:
    done = subprocess.run(command, cwd=cwd, capture_output=True, text=True, timeout=240)
    assert done.returncode == 0, done.stderr
    return done.stdout


@pytest.fixture(scope="module")
def day(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("day")
    example = ROOT / "examples" / "clickstream"
    shutil.copytree(example, folder / "examples" / "clickstream")
    shutil.copy(example / "clickstream.odcs.yaml", folder)
    run(sys.executable, str(example / "generate.py"), "--events", "2400", cwd=folder)
    return folder


@pytest.mark.slow
def test_the_job_of_the_readme_runs(day: Path) -> None:
    job = blocks("yaml")[0]
    (day / "job.yaml").write_text(job, "utf-8")
    out = run(sys.executable, "-m", "millstream.pipelines.ingest", "--job", "job.yaml", cwd=day)
    assert "balanced" in out
    files = sorted(str(p) for p in (day / "warehouse" / "page_views").glob("*.parquet"))
    columns = ds.dataset(files).schema.names
    assert columns == [
        "window_start", "window_end", "page", "event_type", "events", "revenue", "visitors",
    ]  # fmt: skip


@pytest.mark.slow
def test_the_job_of_the_readme_that_goes_on_runs(day: Path) -> None:
    parts = (blocks("yaml")[0], block("# stream.yaml"), block("enrich:"))
    job, going_on, enriching = (read_document(text, "README.md").value for text in parts)
    assert going_on["input"].startswith("kafka://")
    assert msgspec.convert(enriching["steps"], list[StepJob])
    job = {**job, **going_on, "input": "events/*", "ledger": "jsonl:going_on/ledger"}
    job["output"], job["late"] = "parquet:going_on/clicks", "jsonl:going_on/late"
    (day / "going_on.yaml").write_text(yaml.safe_dump(job), "utf-8")
    ingest = [sys.executable, "-m", "millstream.pipelines.ingest", "--job", "going_on.yaml"]
    assert "open after" in run(*ingest, "--until=now", cwd=day)
    closed = run(*ingest, "--until=now", "--close_windows", cwd=day)
    assert "open before" in closed
    assert "open after" not in closed


def test_the_destinations_of_the_readme_are_known() -> None:
    keys = block("\nstate: ")
    job = yaml.safe_load(keys)
    assert set(job) < {field.name for field in msgspec.structs.fields(Job)}
    places = [job[key] for key in ("output", "dead_letters", "ledger")]
    found = [destination(uri, "clicks", job["state"]).uri for uri in places]
    assert found == places
    schemes = set(re.findall(r"^\| `(\w+):", README, re.MULTILINE))
    for uri in ("s3:x", "nonsense:x"):
        with pytest.raises(DestinationError, match="Known: ") as raised:
            destination(uri)
        known = str(raised.value).partition("Known: ")[2]
        assert {name.rstrip(":") for name in known.split(", ")} == schemes | set(FORMATS) - {BRIEF}


@pytest.mark.cloud
def test_the_beam_yaml_of_the_readme_runs(tmp_path: Path) -> None:
    pipeline = block("\nproviders:\n")
    (tmp_path / "examples").symlink_to(ROOT / "examples")
    # Beam's DirectRunner would look for Prism first.
    (tmp_path / "pipeline.yaml").write_text(f"{pipeline}options: {{runner: {RUNNER}}}\n", "utf-8")
    providers = run(sys.executable, "-m", "millstream.templates.beam_yaml", cwd=tmp_path).strip()
    command = [sys.executable, "-m", "apache_beam.yaml.main"]
    command += ["--yaml_pipeline_file=pipeline.yaml", "--jinja_variable_flags=millstream"]
    run(*command, f"--millstream={providers}", cwd=tmp_path)
    assert ds.dataset(str(tmp_path / "demo" / "clicks")).count_rows() > 0
    assert list((tmp_path / "demo" / "refused").glob("*.jsonl"))


@pytest.mark.slow
def test_the_stages_of_the_readme_run_alone(day: Path) -> None:
    (program,) = blocks("python")
    events = sorted((day / "events").glob("*.jsonl"))
    text = b"".join(p.read_bytes() for p in events)
    # Beam's own ReadFromText takes UTF-8 only
    (day / "events.jsonl").write_bytes(text.decode("utf-8", "ignore").encode())
    (day / "program.py").write_text(program, "utf-8")
    printed = run(sys.executable, "program.py", cwd=day)
    purchases = ds.dataset(sorted(map(str, (day / "purchases").glob("*.parquet")))).to_table()
    assert set(purchases["event_type"].to_pylist()) == {"buy"}
    letters = [
        msgspec.json.decode(line)
        for path in (day / "dead_letters").glob("*.jsonl")
        for line in path.read_bytes().splitlines()
    ]
    lines = [line for line in (day / "events.jsonl").read_bytes().split(b"\n") if line]
    assert len(printed.splitlines()) + len(letters) == len(lines)
    assert {letter["stage"] for letter in letters} == {"parse", "validate"}
