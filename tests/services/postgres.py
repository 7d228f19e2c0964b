"""A PostgreSQL of our own: a cluster made, started and thrown away.

It asks for passwords (SCRAM), as a real one does, and sorts text by a language's rules, not by its
bytes: who compares strings without saying how gets another order.
"""

from __future__ import annotations

import datetime as dt
import json
import os
import shutil
import subprocess
import tempfile
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from decimal import Decimal
from glob import glob
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.types as pt

from tests.services.serving import NoServer, free_port

USER = "loader"
PASSWORD = "pässword-never-to-be-shown"
DATABASE = "warehouse"

_SERVER_USER = "postgres"
"""Whom the server runs as where tests run as root, which PostgreSQL refuses."""
_SETTINGS = {
    "listen_addresses": "127.0.0.1",
    "unix_socket_directories": "",
    "fsync": "off",
    "max_wal_size": "4GB",
    "shared_buffers": "512MB",
}
_SECONDS = 120


@dataclass(frozen=True)
class Postgres:
    """A running server: see :class:`tests.services.peers.Peer`."""

    port: int
    environment: Mapping[str, str]

    def uri(self, table: str, query: str = "") -> str:
        place = f"postgresql://{USER}@127.0.0.1:{self.port}/{DATABASE}/{table}"
        return f"{place}?{query}" if query else place

    def read(self, table: str, schema: pa.Schema) -> pa.Table:
        """JSONB is read as its text, and with all digits of its numbers."""
        from psycopg import sql
        from psycopg.types.json import set_json_loads

        with self.connected() as connection:
            set_json_loads(_text, connection)
            cursor = connection.execute(sql.SQL("SELECT * FROM {}").format(_identifier(table)))
            names = [column.name for column in cursor.description or ()]
            rows = cursor.fetchall()
        kept = [field for field in schema if field.name in names]
        columns = [
            pa.array([_value(row[names.index(field.name)], field.type) for row in rows], field.type)
            for field in kept
        ]
        return pa.Table.from_arrays(columns, schema=pa.schema(kept))

    def refuse_negative(self, table: str, column: str) -> None:
        from psycopg import sql

        statement = sql.SQL("ALTER TABLE {} ADD CONSTRAINT no_negative CHECK ({} >= 0)")
        self.run(statement.format(_identifier(table), sql.Identifier(column)))

    def interrupt_commit(self) -> tuple[str, str]:
        return "adbc_driver_manager.dbapi:Connection", "commit"

    @contextmanager
    def connected(self) -> Iterator[Any]:
        """A connection of psycopg's, as the owner of everything; each statement commits itself."""
        import psycopg

        with psycopg.connect(
            host="127.0.0.1", port=self.port, user=USER, password=PASSWORD, dbname=DATABASE,
            options="-c timezone=UTC", autocommit=True,
        ) as connection:  # fmt: skip
            yield connection

    def run(self, statement: Any) -> list[tuple[Any, ...]]:
        """Run one statement; gives its rows."""
        with self.connected() as connection:
            cursor = connection.execute(statement)
            return cursor.fetchall() if cursor.description else []


def why_not() -> str:
    """Why it cannot be started here, and what to do; empty if it can."""
    if not _program("initdb"):
        return "initdb is not there; install PostgreSQL's server (Debian: postgresql)"
    missing = [m for m in ("adbc_driver_postgresql", "psycopg") if find_spec(m) is None]
    return f"{missing[0]} is not installed; pip install -e '.[dev]'" if missing else ""


@contextmanager
def running() -> Iterator[Postgres]:
    """An empty database, for as long as the block lasts.

    Raises:
        NoServer: it does not start.
    """
    folder = Path(tempfile.mkdtemp(prefix="millstream-postgres-"))
    data = folder / "data"
    port = free_port()
    settings = {**_SETTINGS, "port": str(port)}
    try:
        _make(folder, data)
        options = " ".join(f"-c {name}='{value}'" for name, value in settings.items())
        _run("pg_ctl", "start", "-D", data, "-l", folder / "log", "-o", options)
        try:
            peer = Postgres(port, {"PGPASSWORD": PASSWORD})
            _make_database(peer)
            yield peer
        finally:
            _run("pg_ctl", "stop", "-D", data, "-m", "immediate")
    finally:
        shutil.rmtree(folder, ignore_errors=True)


def _make(folder: Path, data: Path) -> None:
    """Make a cluster that belongs to the user whom the server runs as."""
    password = folder / "password"
    password.write_text(PASSWORD, "utf-8")
    if os.geteuid() == 0:
        for path in (folder, password):
            shutil.chown(path, _SERVER_USER)
    _run(
        "initdb", "-D", data, "-U", USER, "--auth=scram-sha-256", f"--pwfile={password}",
        "--encoding=UTF8", "--locale=C", "--no-sync",
    )  # fmt: skip


def _make_database(peer: Postgres) -> None:
    import psycopg

    where = f"host=127.0.0.1 port={peer.port} user={USER} dbname=postgres"
    rules = "LOCALE_PROVIDER icu ICU_LOCALE 'en'"
    statement = f"CREATE DATABASE {DATABASE} TEMPLATE template0 {rules}"
    with psycopg.connect(where, password=PASSWORD, autocommit=True) as connection:
        connection.execute(statement)


def _run(name: str, *arguments: str | Path) -> None:
    """Run one of the server's programs to its end.

    Raises:
        NoServer: it fails. The message has what it said.
    """
    program = _program(name)
    root = os.geteuid() == 0
    with tempfile.TemporaryFile() as said:
        # Not a pipe: the server, which pg_ctl leaves behind, would hold it open.
        try:
            done = subprocess.run(
                [program, *map(str, arguments)], stdout=said, stderr=said, timeout=_SECONDS,
                stdin=subprocess.DEVNULL, cwd="/", user=_SERVER_USER if root else None,
                group=_SERVER_USER if root else None, extra_groups=[] if root else None,
            )  # fmt: skip
        except (OSError, ValueError, LookupError, subprocess.TimeoutExpired) as error:
            raise NoServer(f"{program} does not run: {error}") from error
        said.seek(0)
        if done.returncode:
            raise NoServer(f"{program} fails: {said.read()[-2000:].decode('utf-8', 'replace')}")


def _program(name: str) -> str:
    """The path of a program of the newest server, which distributions keep off ``PATH``."""
    found = shutil.which(name)
    homes = sorted(glob("/usr/lib/postgresql/*/bin"), key=lambda path: int(path.split("/")[4]))
    return found or next((p for h in reversed(homes) if os.access(p := f"{h}/{name}", os.X_OK)), "")


def _identifier(table: str) -> Any:
    from psycopg import sql

    return sql.Identifier(*table.split("."))


def _text(data: str | bytes) -> str:
    return data if isinstance(data, str) else bytes(data).decode()


def _value(value: Any, kind: Any) -> Any:
    """A column's value as Arrow takes it for a type."""
    if value is None or not pt.is_nested(kind):
        return int(value) if pt.is_integer(kind) and value is not None else value
    return _nested(json.loads(value, parse_float=Decimal), kind)


def _nested(value: Any, kind: Any) -> Any:
    """The same for what JSON has within."""
    if value is None:
        return None
    if pt.is_struct(kind):
        return {field.name: _nested(value.get(field.name), field.type) for field in kind}
    if pt.is_list(kind):
        return [_nested(item, kind.value_type) for item in value]
    return next((read(value) for is_of, read in _READ if is_of(kind)), value)


_READ: list[tuple[Callable[[Any], bool], Callable[[Any], Any]]] = [
    (pt.is_floating, float),
    (pt.is_decimal, Decimal),
    (pt.is_timestamp, dt.datetime.fromisoformat),
    (pt.is_date, dt.date.fromisoformat),
    (pt.is_time, dt.time.fromisoformat),
]
"""How values are read that JSON holds as numbers or strings."""
