"""WriteTo: a destination in a pipeline of one's own."""

import apache_beam as beam
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from apache_beam.transforms import window
from millstream.transforms import write
from millstream.transforms.plan import PlanError
from millstream.transforms.write import WriteTo, WriteToJsonLines, WriteToParquet
from millstream.transforms.write.files import live_files
from millstream.transforms.write.manifests import read_manifest
from write_support import numbers

RUNNER = "apache_beam.runners.portability.fn_api_runner.fn_runner.FnApiRunner"


def run(transform, *batches, windows=None):
    with beam.Pipeline(RUNNER) as pipeline:
        created = pipeline | beam.Create(batches)
        if windows:
            created = created | beam.WindowInto(windows)
        _ = created | transform


def test_exports():
    assert write.__all__ == [
        "Commit", "CommitConflict", "CommitRun", "Committed", "Destination", "DestinationError",
        "Output", "Receipt", "Stage", "Unavailable", "Unbalanced", "WriteTo", "WriteToJsonLines",
        "WriteToParquet", "clear_staging", "commit_run", "complete",
    ]  # fmt: skip
    assert all(hasattr(write, name) for name in write.__all__)


@pytest.mark.slow
def test_parquet(tmp_path):
    run(WriteToParquet(str(tmp_path)), numbers(1, 2), numbers(3))
    tables = [pq.read_table(path) for path in live_files(f"parquet:{tmp_path}")]
    assert sorted(pa.concat_tables(tables)["n"].to_pylist()) == [1, 2, 3]
    assert tables[0].schema.names == ["n"]


@pytest.mark.slow
def test_json_lines(tmp_path):
    run(WriteToJsonLines(str(tmp_path), "events", "r1"), numbers(1))
    (path,) = tmp_path.glob("events-r1-*.jsonl")
    assert path.read_text() == '{"n":1}\n'


@pytest.mark.slow
def test_windowed_input_is_one_commit(tmp_path):
    run(
        WriteTo(f"jsonl:{tmp_path}", keep_identity=True),
        numbers(1),
        windows=window.FixedWindows(60),
    )
    (path,) = tmp_path.glob("*.jsonl")
    assert path.read_text() == '{"n":1,"_source":"s","_position":0,"_payload":"MQ=="}\n'


@pytest.mark.slow
def test_nothing_to_write(tmp_path):
    run(WriteTo(f"parquet:{tmp_path}", run_id="r1"))
    (entry,) = read_manifest(str(tmp_path)).entries
    assert (entry.run_id, entry.rows) == ("r1", 0)


@pytest.mark.slow
def test_the_same_run_id_writes_once(tmp_path):
    for _ in range(2):
        run(WriteTo(f"jsonl:{tmp_path}", run_id="r1"), numbers(1))
    assert len(list(tmp_path.glob("*.jsonl"))) == 1
    with pytest.raises(Exception, match="already holds run r1 with other content"):
        run(WriteTo(f"jsonl:{tmp_path}", run_id="r1"), numbers(2))


@pytest.mark.slow
def test_without_run_id_every_pipeline_writes(tmp_path):
    for _ in range(2):
        run(WriteTo(f"jsonl:{tmp_path}"), numbers(1))
    assert len(live_files(f"jsonl:{tmp_path}")) == 2


def test_bad_names_are_refused_before_the_pipeline_runs():
    with pytest.raises(PlanError, match="run id"):
        WriteTo("parquet:/x", run_id="_x")


def test_unbounded_input_is_refused(tmp_path):
    stream = beam.PCollection(beam.Pipeline(RUNNER), is_bounded=False)
    with pytest.raises(ValueError, match="unbounded"):
        _ = stream | WriteTo(f"jsonl:{tmp_path}")
