"""URIs of destinations: parsed, or refused with what to write instead."""

import pickle

import millstream.transforms.write.destination as module
import pytest
from millstream.transforms.plan import PlanError
from millstream.transforms.write.destination import DestinationError, Output, destination


@pytest.mark.parametrize(
    ("uri", "home", "staging"),
    [
        ("parquet:/data/x", "/data/x", "/data/x/_millstream/staging"),
        ("parquet:/data/x/", "/data/x", "/data/x/_millstream/staging"),
        ("parquet:file:///data/x", "/data/x", "/data/x/_millstream/staging"),
        ("jsonl:gs://b/x/", "gs://b/x", "gs://b/x/_millstream/staging"),
    ],
)
def test_good_uris(uri, home, staging):
    found = destination(uri, "events")
    assert (found.home, found.staging, found.name) == (home, staging, "events")
    assert found.format == uri.partition(":")[0]
    assert found.uri == f"{found.format}:{home}"
    assert pickle.loads(pickle.dumps(found)) == found


def test_relative_paths_are_made_absolute(monkeypatch, tmp_path):
    monkeypatch.chdir(tmp_path)
    assert Output("events", "parquet:out").uri == f"parquet:{tmp_path}/out"


@pytest.mark.parametrize(
    ("uri", "message"),
    [
        ("parqet:/x", "unknown destination scheme parqet:; did you mean parquet:?"),
        ("json:/x", "did you mean jsonl:?"),
        ("/x", "names no format; did you mean 'parquet:/x'?"),
        ("gs://b/x", "did you mean 'parquet:gs://b/x'?"),
        ("parquet:", "names no place; write parquet:DIRECTORY"),
        ("zzz:x", "Known: avro:, bigquery:, csv:, delta:"),
    ],
)
def test_bad_uris(uri, message):
    with pytest.raises(DestinationError) as info:
        destination(uri)
    assert message in str(info.value)


def test_secrets_stay_out_of_messages():
    with pytest.raises(DestinationError) as info:
        destination("mysql://user:hunter2@host/db")
    assert "hunter2" not in str(info.value)


def test_bad_names():
    with pytest.raises(PlanError, match="output name 'a/b'"):
        destination("parquet:/x", "a/b")


def test_what_is_not_installed_is_named(monkeypatch):
    def missing(name, package):
        raise ModuleNotFoundError("No module named 'duckdb'", name="duckdb")

    monkeypatch.setitem(module.MODULES, "duckdb", "duckdb_table")
    monkeypatch.setattr(module.importlib, "import_module", missing)
    monkeypatch.setitem(module._EXTRAS, "duckdb_table", "duckdb")
    with pytest.raises(DestinationError, match=r"needs duckdb; .*'millstream\[duckdb\]'"):
        destination("duckdb:/x.db")
    monkeypatch.delitem(module._EXTRAS, "duckdb_table")
    with pytest.raises(ModuleNotFoundError):
        destination("duckdb:/x.db")
