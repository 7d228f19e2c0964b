"""Destinations: one small class each, with one verb, *commit these staged files under this token*.

A destination is picked by the scheme of its URI (``parquet:DIR``). Staging, naming and tallies are
written once, above all of them; a module of this package adds what is its own.
"""

from __future__ import annotations

import difflib
import importlib
from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Literal, NamedTuple

from ..plan import Token, checked_name
from ..receipts import Receipt
from .errors import CommitConflict as CommitConflict
from .errors import DestinationError as DestinationError

if TYPE_CHECKING:
    import pyarrow as pa

    from .layout import Layout

OutputKind = Literal["records", "aggregates", "dead_letters", "side"]
"""``records`` and ``aggregates`` have rows in the ledger; ``dead_letters`` count as dead in all of
these; a ``side`` output (late rows, duplicates) is committed, and counted by tallies."""


class Committed(NamedTuple):
    """What a destination holds of a run: its token, its content digest, its visible rows."""

    token: Token
    digest: str
    rows: int


class Destination(ABC):
    """Where one output is committed. Small and picklable: it travels to the workers.

    Attributes:
        uri: what :func:`destination` was given, made absolute.
        name: the output's name, in file names and beside the token.
        format: how rows are staged, a key of :data:`.formats.FORMATS`.
        home: the folder whose ``_millstream`` folder holds what is millstream's own.
        layout: how staged files are cut; without one, by size alone.
    """

    uri: str
    name: str
    format: str
    home: str
    layout: Layout | None = None

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

    @abstractmethod
    def commit(self, token: Token, digest: str, receipts: Sequence[Receipt]) -> None:
        """Make what is staged visible, once.

        If the token is held with this digest, nothing is left to do. What the same run id holds
        under another plan is replaced. May be called again after it failed anywhere.

        Raises:
            CommitConflict: the token is held with another digest.
        """

    @abstractmethod
    def committed(self, run_id: str) -> Committed | None:
        """What the destination holds of a run."""


@dataclass(frozen=True)
class Output:
    """One named output of a job: where it goes, and how the ledger counts it.

    Raises:
        DestinationError: the URI cannot be used.
        PlanError: the name cannot stand in a file name.
    """

    name: str
    uri: str
    kind: OutputKind = "records"
    destination: Destination = field(init=False, compare=False, repr=False)

    def __post_init__(self) -> None:
        found = destination(self.uri, self.name)
        object.__setattr__(self, "destination", found)
        object.__setattr__(self, "uri", found.uri)


_MODULES = {"parquet": "files", "jsonl": "files", "csv": "files", "avro": "files"}
"""Scheme → the module of this package whose ``open_destination`` makes it."""

_EXTRAS: dict[str, str] = {}
"""Module → the extra of this package that installs what it imports."""


def destination(uri: str, name: str = "part") -> Destination:
    """The destination of a URI such as ``parquet:/data/events?partition_by=country`` or
    ``jsonl:gs://bucket/events``.

    Raises:
        DestinationError: unknown scheme or option, no place, or what it needs is not installed.
    """
    checked_name(name, "output name")
    scheme, colon, rest = uri.partition(":")
    if not colon or scheme not in _MODULES:
        raise DestinationError(_unknown(uri, scheme if colon else ""))
    if not rest:
        raise DestinationError(f"{scheme}: names no place; write {scheme}:DIRECTORY")
    module = _MODULES[scheme]
    try:
        found = importlib.import_module(f".{module}", __package__)
    except ImportError as exc:
        extra = _EXTRAS.get(module)
        if extra is None:
            raise
        raise DestinationError(
            f"{scheme}: needs {exc.name}; install it with: pip install 'millstream[{extra}]'"
        ) from exc
    return found.open_destination(scheme, rest, name)


def _unknown(uri: str, scheme: str) -> str:
    known = ", ".join(f"{s}:" for s in sorted(_MODULES))
    if not scheme or scheme in ("gs", "s3", "hdfs", "file") or len(scheme) == 1:
        # A plain path: what is missing is the format.
        return f"destination {uri!r} names no format; did you mean 'parquet:{uri}'? Known: {known}"
    # What follows the scheme may hold a password: it stays out of the message.
    near = difflib.get_close_matches(scheme.lower(), _MODULES, 1, 0.4)
    hint = f"; did you mean {near[0]}:?" if near else ""
    return f"unknown destination scheme {scheme}:{hint} Known: {known}"
