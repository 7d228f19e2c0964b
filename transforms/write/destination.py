"""Destinations: one small class each, with one verb, *commit these staged files under this token*.

A destination is picked by the scheme of its URI (``parquet:DIR``). Staging, naming and tallies are
written once, above all of them; a module of this package adds what is its own.
"""

from __future__ import annotations

import difflib
import importlib
from abc import ABC, abstractmethod
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, ClassVar, Literal, NamedTuple

from ...schemas.table import Table
from ..plan import Token, checked_name
from ..receipts import Part, Receipt, Span
from .errors import CommitConflict as CommitConflict
from .errors import DestinationError as DestinationError
from .errors import Unavailable as Unavailable

if TYPE_CHECKING:
    import pyarrow as pa

    from ..run_folder import RunFolder
    from .layout import Layout

OutputKind = Literal["records", "aggregates", "dead_letters", "side"]
"""``records`` and ``aggregates`` have rows in the ledger; ``dead_letters`` count as dead in all of
these; a ``side`` output (late rows, duplicates) is committed, and counted by tallies."""


class Committed(NamedTuple):
    """What a destination holds of a run: its token, its content digest, its visible rows, and the
    file in the run's folder that has the rows it refused."""

    token: Token
    digest: str
    rows: int
    refused: str = ""


@dataclass(frozen=True)
class Commit:
    """What is to be made visible, under which token.

    Attributes:
        receipts: the staged files, of all parts.
        tables: the columns of each part, where a destination needs to be told.
        run: the run's own folder, for what has to outlive a crash; ``None`` outside of jobs.
        withdrawn: of files, those of other runs that these take the place of, as the manifest has
            them.
        replaces: of tables, the rows of a part that these take the place of.
    """

    token: Token
    digest: str
    receipts: tuple[Receipt, ...]
    tables: Mapping[Part, Table] = field(default_factory=dict)
    run: RunFolder | None = None
    withdrawn: tuple[str, ...] = ()
    replaces: Mapping[Part, Span] = field(default_factory=dict)


class Destination(ABC):
    """Where one output is committed. Small and picklable: it travels to the workers.

    Attributes:
        uri: what :func:`destination` was given, made absolute.
        name: the output's name, in file names and beside the token.
        format: how rows are staged, a key of :data:`.formats.FORMATS`.
        layout: how staged files are cut; without one, by size alone.
        refuses: whether single rows may be refused: records are staged with their bytes then.
    """

    uri: str
    name: str
    format: str
    layout: Layout | None = None
    refuses: ClassVar[bool] = False

    @property
    @abstractmethod
    def home(self) -> str:
        """The folder whose ``_millstream`` folder holds what is millstream's own."""

    @property
    @abstractmethod
    def place(self) -> str:
        """Where rows come to lie, whatever the options: no two outputs of a job have the same."""

    def check(self, schema: pa.Schema) -> None:
        """See before a run whether rows of a schema can be written here.

        Args:
            schema: the columns that will be written: identity columns only if they are kept.

        Raises:
            DestinationError: they cannot; the message names what does not fit.
        """
        return

    @property
    @abstractmethod
    def staging(self) -> str:
        """The folder that staged files are written to."""

    def check_tables(self, tables: Mapping[Part, Table]) -> None:
        """See before a run whether an output's tables can be written here: for the table of each
        part what :meth:`check` is for columns. Nothing is changed.

        Raises:
            DestinationError: they cannot; the message names what does not fit.
            Unavailable: the service does not answer.
        """
        self.check(tables["data"].schema)

    @property
    def service(self) -> str:
        """What may fail as one: outputs of one service are committed one after another, those of
        others at the same time."""
        return ""

    @abstractmethod
    def commit(self, commit: Commit) -> None:
        """Make what is staged visible, once.

        If the token is held with this digest, nothing is left to do. What the same run id holds
        under another plan is replaced, where it can be. May be called again after it failed
        anywhere.

        Raises:
            CommitConflict: the token is held with another digest; or the run id is held, and its
                rows cannot be replaced.
            DestinationError: it can never be done as things are.
            Unavailable: the service does not answer.
        """

    @abstractmethod
    def committed(self, run_id: str) -> Committed | None:
        """What the destination holds of a run."""

    def refuse_replacing(self, run_id: str) -> None:
        """See before a run whether what the run id holds under another plan can be replaced.

        Raises:
            CommitConflict: it cannot.
        """
        return


@dataclass(frozen=True)
class Output:
    """One named output of a job: where it goes, and how the ledger counts it.

    ``tables`` are the columns of each part, which destinations other than files need; ``state`` is
    the folder that those stage rows in.

    Raises:
        DestinationError: the URI cannot be used.
        PlanError: the name cannot stand in a file name.
    """

    name: str
    uri: str
    kind: OutputKind = "records"
    tables: Mapping[Part, Table] = field(default_factory=dict, kw_only=True)
    state: str = field(default="", kw_only=True)
    destination: Destination = field(init=False, compare=False, repr=False)

    def __post_init__(self) -> None:
        found = destination(self.uri, self.name, self.state)
        object.__setattr__(self, "destination", found)
        object.__setattr__(self, "uri", found.uri)


MODULES = {
    "parquet": "files",
    "jsonl": "files",
    "csv": "files",
    "avro": "files",
    "duckdb": "duckdb",
    "postgresql": "postgresql",
    "iceberg": "iceberg",
    "kafka": "kafka",
    "delta": "delta",
    "bigquery": "bigquery",
    "pubsub": "pubsub",
}
"""Scheme → the module whose ``open_destination`` makes it; one of that name in ``stored`` reads it
back."""

_EXTRAS = {
    "duckdb": "sql",
    "postgresql": "postgresql",
    "iceberg": "iceberg",
    "kafka": "kafka",
    "delta": "delta",
    "bigquery": "gcp",
    "pubsub": "gcp",
}
"""Module → the extra of this package that installs what it imports."""

_SHAPES = {
    "files": "DIRECTORY",
    "duckdb": "FILE/TABLE",
    "postgresql": "//HOST/DATABASE/TABLE",
    "iceberg": "CATALOG/NAMESPACE.TABLE",
    "kafka": "//HOST:PORT/TOPIC",
    "delta": "PATH",
    "bigquery": "PROJECT.DATASET.TABLE",
    "pubsub": "//PROJECT/TOPIC",
}
"""Module → what follows the scheme."""


def destination(uri: str, name: str = "part", state: str = "") -> Destination:
    """The destination of a URI such as ``parquet:/data/events?partition_by=country``,
    ``jsonl:gs://bucket/events`` or ``postgresql://host/db/events?mode=upsert``.

    Args:
        state: the folder that destinations other than files stage rows in.

    Raises:
        DestinationError: unknown scheme or option, no place, or what it needs is not installed.
    """
    checked_name(name, "output name")
    scheme, colon, rest = uri.partition(":")
    if not colon or scheme not in MODULES:
        raise DestinationError(_unknown(uri, scheme if colon else ""))
    if not rest:
        raise DestinationError(
            f"{scheme}: names no place; write {scheme}:{_SHAPES[MODULES[scheme]]}"
        )
    module = MODULES[scheme]
    try:
        found = importlib.import_module(f".{module}", __package__)
    except ImportError as exc:
        extra = _EXTRAS.get(module)
        if extra is None:
            raise
        raise DestinationError(
            f"{scheme}: needs {exc.name}; install it with: pip install 'millstream[{extra}]'"
        ) from exc
    return found.open_destination(scheme, rest, name, state)


def _unknown(uri: str, scheme: str) -> str:
    known = ", ".join(f"{s}:" for s in sorted(MODULES))
    if not scheme or scheme in ("gs", "s3", "hdfs", "file") or len(scheme) == 1:
        # A plain path: what is missing is the format.
        return f"destination {uri!r} names no format; did you mean 'parquet:{uri}'? Known: {known}"
    # What follows the scheme may hold a password: it stays out of the message.
    near = difflib.get_close_matches(scheme.lower(), MODULES, 1, 0.4)
    hint = f"; did you mean {near[0]}:?" if near else ""
    return f"unknown destination scheme {scheme}:{hint} Known: {known}"
