"""A BigQuery of our own: the emulator ``local-bigquery``, in a venv of its own.

``python -m tests.services.bigquery`` makes it in ``.bigquery`` of the checkout, for Python 3.13,
which it needs; where that cannot be had, it says why and exits 1, and tests that need BigQuery are
skipped.

It runs SQL on DuckDB, whose extensions it would download as it starts. They are taken from packages
instead, with the version of DuckDB that they are there for. Job ids, transactions, load jobs, the
Storage Write API and its offsets are as in BigQuery. Not as there are: a ``MERGE`` in a
transaction, rows of a pending stream that do not fit (they are dropped when it commits), the length
and precision of columns, BIGNUMERIC (38 digits, 18 of them after the point), quotas, and rights:
there are none.
"""

from __future__ import annotations

import datetime as dt
import json
import os
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from decimal import Decimal
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.types as pt

from tests.services.serving import free_port, serving

CHECKOUT = Path(__file__).resolve().parents[2]
PROJECT, DATASET = "millstream-tests", "warehouse"

_VERSION = "0.4.0"
_DUCKDB = "1.5.5"
_EXTENSIONS = ("icu", "json", "avro", "ducklake", "httpfs", "spatial")
_PYTHON = (3, 13)
_BUILD_SECONDS = 300
"""How long one of the steps may take that make it: three of them take their time."""
_ASK_SECONDS = 30


class NoBigQuery(Exception):
    """BigQuery's emulator cannot be had here. The message says why."""


@dataclass(frozen=True)
class BigQuery:
    """A running emulator: see :class:`tests.services.peers.Peer`."""

    environment: Mapping[str, str]
    project: str = PROJECT
    dataset: str = DATASET

    def uri(self, table: str, query: str = "") -> str:
        place = f"bigquery:{self.name(table)}"
        return f"{place}?{query}" if query else place

    def name(self, table: str) -> str:
        """A table's full name."""
        return f"{self.project}.{self.dataset}.{table}"

    def read(self, table: str, schema: pa.Schema) -> pa.Table:
        with self.connected() as client:
            types = {f.name: f.field_type for f in client.get_table(self.name(table)).schema}
        # The client makes None of a null and of JSON's null alike.
        texts = [
            f"IF(`{name}` IS NULL, NULL, TO_JSON_STRING(`{name}`)) AS `{name}`"
            for name, kind in types.items()
            if kind == "JSON"
        ]
        replaced = f" REPLACE ({', '.join(texts)})" if texts else ""
        rows = self.run(f"SELECT *{replaced} FROM `{self.name(table)}`")
        kept = [field for field in schema if field.name in types]
        columns = [
            pa.array([_value(row[field.name], field.type) for row in rows], field.type)
            for field in kept
        ]
        return pa.Table.from_arrays(columns, schema=pa.schema(kept))

    def refuse_negative(self, table: str, column: str) -> None:
        raise NotImplementedError("BigQuery's tables have no such constraints")

    def interrupt_commit(self) -> tuple[str, str]:
        return "millstream.transforms.write.bigquery.jobs:Jobs", "commit"

    def run(self, sql: str) -> list[Mapping[str, Any]]:
        """Run a query; gives its rows."""
        with self.connected() as client:
            return [dict(row.items()) for row in client.query(sql).result()]

    @contextmanager
    def connected(self) -> Iterator[Any]:
        """Google's client."""
        from google.auth.credentials import AnonymousCredentials  # pyright: ignore
        from google.cloud import bigquery  # pyright: ignore

        options = {"api_endpoint": self.environment["BIGQUERY_EMULATOR_HOST"]}
        client = bigquery.Client(
            self.project, credentials=AnonymousCredentials(), client_options=options
        )
        try:
            yield client
        finally:
            client.close()


def why_not() -> str:
    """Why it cannot be started here, and what to do; empty if it can."""
    try:
        missing = find_spec("google.cloud.bigquery_storage_v1") is None
    except ModuleNotFoundError:
        missing = True
    if missing:
        return "Google's clients are not installed; pip install -e '.[gcp]'"
    if not _is_built():
        if _python() is None:
            return "BigQuery's emulator is not there, and neither is Python 3.13, which it needs"
        return "BigQuery's emulator is not there; run: python -m tests.services.bigquery"
    return ""


@contextmanager
def running() -> Iterator[BigQuery]:
    """One with an empty dataset, for as long as the block lasts.

    Files on ``gs://`` are read where ``STORAGE_EMULATOR_HOST`` says.

    Raises:
        NoServer: it does not start.
    """
    folder = tempfile.mkdtemp(prefix="millstream-bigquery-", dir=_memory())
    port, grpc_port = free_port(), free_port()
    command = [
        str(_folder() / "venv" / "bin" / "local-bigquery"), "--host", "127.0.0.1",
        "--port", str(port), "--grpc-port", str(grpc_port), "--data-dir", folder,
        "--project", PROJECT, "--dataset", DATASET,
    ]  # fmt: skip
    environment = {**os.environ, "HOME": str(_folder() / "home")}
    try:
        with serving(command, port, environment):
            yield BigQuery(
                {
                    "BIGQUERY_EMULATOR_HOST": f"http://127.0.0.1:{port}",
                    "BIGQUERY_STORAGE_EMULATOR_HOST": f"127.0.0.1:{grpc_port}",
                }
            )
    finally:
        shutil.rmtree(folder, ignore_errors=True)


def _memory() -> str | None:
    """A folder in memory, where there is one: each job waits for what it has written."""
    return "/dev/shm" if os.access("/dev/shm", os.W_OK) else None


def build() -> None:
    """Make it in the checkout.

    Raises:
        NoBigQuery: Python 3.13 is missing, or a package.
    """
    python = _python()
    if python is None:
        raise NoBigQuery("Python 3.13 is not installed")
    shutil.rmtree(_folder(), ignore_errors=True)
    venv = _folder() / "venv"
    _run([python, "-m", "venv", venv])
    _install(venv, f"local-bigquery=={_VERSION}")
    wanted = ["duckdb", *(f"duckdb-extension-{name}" for name in _EXTENSIONS)]
    _install(venv, "--no-deps", *(f"{name}=={_DUCKDB}" for name in wanted))
    _copy_extensions(venv)


def _install(venv: Path, *wanted: str) -> None:
    pip = [venv / "bin" / "python", "-m", "pip", "install", "-q", "--disable-pip-version-check"]
    _run([*pip, *wanted])


def _copy_extensions(venv: Path) -> None:
    """Put DuckDB's extensions where it looks for them, in a home of the emulator's own."""
    ask = "import duckdb; print(duckdb.sql('PRAGMA platform').fetchone()[0])"
    asked = [venv / "bin" / "python", "-c", ask]
    try:
        platform = subprocess.run(
            asked, capture_output=True, text=True, timeout=_ASK_SECONDS, check=True
        ).stdout.strip()
    except (OSError, subprocess.SubprocessError) as error:
        raise NoBigQuery(str(error)) from error
    extensions = _folder() / "home" / ".duckdb" / "extensions" / f"v{_DUCKDB}"
    extensions.mkdir(parents=True)
    made = extensions / f"{platform}.part"
    made.mkdir()
    for name in _EXTENSIONS:
        found = next(venv.rglob(f"{name}.duckdb_extension"), None)
        if found is None:
            raise NoBigQuery(f"duckdb-extension-{name} has no extension for {platform}")
        shutil.copy(found, made)
    made.rename(extensions / platform)  # the last thing: see _is_built


def _is_built() -> bool:
    extensions = _folder() / "home" / ".duckdb" / "extensions" / f"v{_DUCKDB}"
    return extensions.is_dir() and not list(extensions.glob("*.part"))


def _folder() -> Path:
    return CHECKOUT / ".bigquery" / f"{_VERSION}-duckdb-{_DUCKDB}"


def _python() -> str | None:
    """A Python of the version that the emulator needs: this one, one on PATH, or pyenv's."""
    if sys.version_info[:2] == _PYTHON:
        return sys.executable
    name = ".".join(map(str, _PYTHON))
    root = Path(os.environ.get("PYENV_ROOT") or Path.home() / ".pyenv")
    pyenv = sorted((root / "versions").glob(f"{name}.*/bin/python"))
    on_path = shutil.which(f"python{name}")
    candidates = [*([on_path] if on_path else []), *map(str, reversed(pyenv))]
    return next((path for path in candidates if _is_wanted(path)), None)


def _is_wanted(python: str) -> bool:
    """Whether it runs: pyenv puts a name on PATH for each version, and for those that it lacks."""
    command = [python, "-c", f"import sys; sys.exit(sys.version_info[:2] != {_PYTHON})"]
    try:
        return subprocess.run(command, capture_output=True, timeout=_ASK_SECONDS).returncode == 0
    except (OSError, subprocess.SubprocessError):
        return False


def _run(command: Sequence[str | Path]) -> None:
    try:
        subprocess.run(command, timeout=_BUILD_SECONDS, check=True)
    except (OSError, subprocess.SubprocessError) as error:
        raise NoBigQuery(str(error)) from error


def _value(value: Any, kind: Any) -> Any:
    """A value as Arrow takes it for a type."""
    if value is None:
        return None
    if pt.is_struct(kind):
        return {field.name: _value(value[field.name], field.type) for field in kind}
    if pt.is_list(kind):
        inner = kind.value_type
        if pt.is_list(inner):  # an array in an array is a record with one field
            value = [item["item"] for item in value]
        return [_value(item, inner) for item in value]
    if pt.is_integer(kind):
        return int(value)
    if pt.is_decimal(kind):
        return Decimal(value)
    if pt.is_timestamp(kind):
        return value.astimezone(dt.UTC)
    if pt.is_string(kind) and not isinstance(value, str):  # JSON in a record
        return json.dumps(value, ensure_ascii=False, sort_keys=True)
    return value


def main() -> int:
    if _is_built():
        print(f"bigquery: {_folder()}")
        return 0
    print("bigquery: making a venv for its emulator; this takes some minutes", flush=True)
    try:
        build()
    except (NoBigQuery, OSError) as error:
        print(f"bigquery: not made: {error}; tests that need it will be skipped", file=sys.stderr)
        return 1
    print(f"bigquery: {_folder()}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
