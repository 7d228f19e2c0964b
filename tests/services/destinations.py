"""The destinations that the conformance suite and the kill test run on. Who adds one adds a line.

The line names the module of this package that starts the service (see :mod:`.peers`), and says
where the suite has to expect less than it does of all others, each time with the reason.
"""

from __future__ import annotations

import importlib
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any, Literal

import pytest

from tests.services.peers import Peer
from tests.services.serving import or_skip

Law = Literal[
    "upsert", "any order", "null key", "replace", "one plan", "evolve", "mismatch", "inner types",
    "refuse", "states", "ledger",
]  # fmt: skip
"""What is asked of a destination, as far as one may be excused from it.

``upsert``, ``replace``: the mode. ``any order``: of rows with one key the newest stands, whichever
is committed first. ``null key``: upserted rows may have nulls in their key.
``one plan``: a run id that is held is refused to another plan. ``evolve``, ``mismatch``: tables get
columns that they lack, and are refused if their types differ. ``inner types``: also those of items.
``refuse``: single rows are refused.
``states``: results have partial states beside them. ``ledger``: a job's ledger can go there.
"""


@dataclass(frozen=True)
class Refused:
    """The values are refused, with their row or with the table that has a column for them."""

    reason: str


@dataclass(frozen=True)
class Becomes:
    """The values come back as others."""

    reason: str
    becomes: Callable[[Any], Any]


@dataclass(frozen=True)
class Unproven:
    """The service holds the values; what stands in for it here does not."""

    reason: str


@dataclass(frozen=True)
class Known:
    """A destination.

    Attributes:
        service: the module of this package that starts it.
        marks: of its tests; ``cloud`` for those that need the venv with Google's clients.
        once: exactly once; else at least once.
        null_arrays: an array may be null; else it comes back as an empty one.
        lacks: what it cannot do, and why.
        values: cases of the table of values that do not come back as they went.
    """

    service: str
    marks: tuple[str, ...] = ("service",)
    once: bool = True
    null_arrays: bool = True
    lacks: Mapping[Law, str] = field(default_factory=dict)
    values: Mapping[str, Refused | Becomes | Unproven] = field(default_factory=dict)

    def why_not(self) -> str:
        """Why its service cannot be had here; empty if it can."""
        return self._module.why_not()

    @property
    def password(self) -> str:
        """What its service asks for; empty if for nothing. It stands in the environment, or in a
        file that the environment names."""
        return getattr(self._module, "PASSWORD", "")

    @contextmanager
    def running(self) -> Iterator[Peer]:
        """Its service, which this process and its children can reach for as long as the block
        lasts.

        Raises:
            NoServer: it does not start.
        """
        with self._module.running() as peer, pytest.MonkeyPatch.context() as patch:
            reach(peer, patch)
            yield peer

    @contextmanager
    def apart_or_skip(self) -> Iterator[Any]:
        """Its service, which is reached with :func:`reach`: while it is not, tests of others have
        nothing to do with it. Where it cannot be had, tests are skipped and say why."""
        with or_skip(self.service, self.why_not, self._module.running) as peer:
            yield peer

    @contextmanager
    def running_or_skip(self) -> Iterator[Any]:
        """:meth:`running`; where the service cannot be had, tests are skipped and say why."""
        with or_skip(self.service, self.why_not, self.running) as peer:
            yield peer

    @property
    def _module(self) -> Any:
        return importlib.import_module(f"{__package__}.{self.service}")


def reach(peer: Peer, patch: pytest.MonkeyPatch) -> None:
    """Let this process and its children reach a service."""
    for name, value in peer.environment.items():
        patch.setenv(name, value)


_LESS_FILES: Mapping[Law, str] = {
    "upsert": "files are only ever added",
    "replace": "files are only ever added",
    "one plan": "what another plan of the run committed is replaced",
    "mismatch": "each file has its own columns",
    "refuse": "files take every row",
}

_DUCKDB_VALUES = {"decimal_76_10": Refused("DuckDB's decimals have at most 38 digits")}

_LESS_POSTGRESQL: Mapping[Law, str] = {"inner types": "objects and arrays are JSONB"}
_NO_NUL = {
    name: Refused("PostgreSQL's text and JSONB hold no NUL characters")
    for name in ("text_nul", "json_nul", "object_text_nul")
}

_LESS_ICEBERG: Mapping[Law, str] = {"refuse": "Iceberg's tables have no constraints on values"}
_EMPTY_FOR_NULL = Becomes(
    "the files hold the null, and pyiceberg's reader makes an empty array of objects of it",
    lambda value: [] if value is None else value,
)
_ICEBERG_VALUES = {
    "decimal_76_10": Refused("Iceberg's decimals have at most 38 digits"),
    "array_objects": _EMPTY_FOR_NULL,
    "array_objects_null": _EMPTY_FOR_NULL,
}

_DELTA_VALUES = {
    "decimal_76_10": Refused("Delta's decimals have at most 38 digits"),
    **{
        name: Refused("names of Delta's columns have no spaces and none of ,;{}()=")
        for name in ("name_space", "name_quote", "name_statement")
    },
}

_LESS_KAFKA: Mapping[Law, str] = {
    "any order": "a topic cannot be asked what it holds: what is committed later stands",
    "null key": "a compacted topic has no place for rows without a key: they are refused",
    "replace": "messages stay until they expire",
    "mismatch": "a topic has no columns; whether types may change is the schema registry's to say",
    "refuse": "a topic has no constraints",
}
_AVRO_VALUES = {
    name: Refused("Avro's names are of ASCII letters, digits and _")
    for name in ("name_space", "name_quote", "name_dot", "name_statement", "name_unicode")
}

_LESS_BIGQUERY: Mapping[Law, str] = {"refuse": "BigQuery's tables have no constraints on values"}
_NOT_IN_NAMES = '!"$()*,./;?@[]^`{}~'
_BIGQUERY_VALUES = {
    **{
        name: Unproven("the emulator's BIGNUMERIC has 38 digits, 18 of them after the point")
        for name in ("decimal_38_0", "decimal_38_38")
    },
    "decimal_76_10": Refused("BIGNUMERIC holds 38 digits before and 38 after the point"),
    "json_digits": Refused("BigQuery's JSON rounds numbers to those of a double"),
    **{
        name: Becomes("a null array is an empty one", lambda value: value or [])
        for name in ("array", "array_numbers", "array_arrays", "array_objects")
    },
    **{
        name: Refused("no array of BigQuery holds a null")
        for name in ("array_null", "array_arrays_null", "array_objects_null")
    },
    **{
        name: Refused(f"names of BigQuery's columns have none of {_NOT_IN_NAMES}")
        for name in ("name_quote", "name_dot", "name_statement")
    },
}
_LESS_PUBSUB: Mapping[Law, str] = {
    "upsert": "messages cannot be taken back",
    "replace": "messages cannot be taken back",
    "mismatch": "a topic has no columns",
    "refuse": "a topic has no constraints",
}

_CLOUD = ("service", "cloud")

DESTINATIONS: Mapping[str, Known] = {
    "parquet": Known("local_files", (), lacks=_LESS_FILES),
    "duckdb": Known("duckdb", (), values=_DUCKDB_VALUES),
    "postgresql": Known("postgres", lacks=_LESS_POSTGRESQL, values=_NO_NUL),
    "iceberg": Known("iceberg", lacks=_LESS_ICEBERG, values=_ICEBERG_VALUES),
    "delta": Known("delta", values=_DELTA_VALUES),
    "kafka": Known("kafka", lacks=_LESS_KAFKA),
    "kafka_avro": Known("registry", lacks=_LESS_KAFKA, values=_AVRO_VALUES),
    "bigquery": Known(
        "bigquery", _CLOUD, null_arrays=False, lacks=_LESS_BIGQUERY, values=_BIGQUERY_VALUES
    ),
    "pubsub": Known("pubsub", _CLOUD, once=False, lacks=_LESS_PUBSUB),
}
"""What the tests call a destination, its scheme as a rule → what the suite knows of it."""


def parameters(*marks: str) -> list[Any]:
    """A parameter for each destination, with its marks and some more."""
    return [
        pytest.param(name, marks=[getattr(pytest.mark, mark) for mark in (*known.marks, *marks)])
        for name, known in DESTINATIONS.items()
    ]
