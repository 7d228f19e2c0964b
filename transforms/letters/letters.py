"""Dead letters as batches, from every destination that they can be read back from.

They are in the shape of :mod:`...schemas.dead_letters`, whoever wrote them. Tables and files of
Google's six columns are read as they are: what they do not say is null, and ``id`` is made of the
place, the time stamp and the payload. Of topics see :mod:`.kafka`.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterator, Sequence

import pyarrow as pa
import pyarrow.compute as pc

from ...schemas.dead_letters import SCHEMA
from ..dead_letters import dead_letter_id
from ..stored.filter import Filter
from ..stored.stored import Stored, open_stored
from ..write.destination import Output
from ..write.files import FilesDestination
from .where import EVERY, Where

PAYLOADS = ("payloadString", "payloadBytes")
_IDENTIFYING = ("timestamp", *PAYLOADS)
"""What the id is made of where there is none."""


class Letters(ABC):
    """Dead letters of one place.

    Attributes:
        place: what messages call it.

    All methods raise ``DestinationError`` (what is there is no table of dead letters, or cannot be
    read), ``Unavailable`` (the service does not answer) and ``StorageError`` alone.
    """

    place: str

    def batches(
        self, where: Where = EVERY, columns: Sequence[str] = tuple(SCHEMA.names)
    ) -> Iterator[pa.RecordBatch]:
        """Those that are meant, in no order; no batch is empty.

        Args:
            columns: of :data:`SCHEMA`. Payloads are read only where they are among them.
        """
        unknown = set(columns).difference(SCHEMA.names)
        assert not unknown, f"no columns of dead letters: {unknown}"
        return self._batches(where.filter, list(columns))

    @abstractmethod
    def _batches(self, where: Filter, columns: list[str]) -> Iterator[pa.RecordBatch]: ...


class StoredLetters(Letters):
    """Dead letters in a table, or in files."""

    def __init__(self, stored: Stored) -> None:
        self.place = stored.place
        self._stored = stored

    def _batches(self, where: Filter, columns: list[str]) -> Iterator[pa.RecordBatch]:
        if "id" not in (*columns, *where.columns) or self._stored.has("id"):
            yield from self._stored.batches(columns, where)
            return
        stored, made = where.divided(lambda condition: condition.column != "id")
        needed = list(dict.fromkeys((*columns, "id", *_IDENTIFYING)))
        for batch in self._stored.batches(needed, stored):
            rows = made.kept(self._named(batch)).select(columns)
            if rows.num_rows:
                yield rows

    def _named(self, batch: pa.RecordBatch) -> pa.RecordBatch:
        """With ids, and with the source and position that these are made of: a letter that fails
        again after a replay has the same."""
        times = batch.column("timestamp").cast(pa.timestamp("us", "UTC")).view(pa.int64())
        positions = times.cast(pa.string())
        found = zip(positions.to_pylist(), payloads(batch).to_pylist(), strict=True)
        ids = [dead_letter_id(self.place, position, payload) for position, payload in found]
        sources = pa.array([self.place] * len(ids), pa.string())
        made = {"id": pa.array(ids, pa.string()), "source": sources, "position": positions}
        for name, column in made.items():
            if name in batch.schema.names:
                at = batch.schema.get_field_index(name)
                held = batch.column(name)
                known = column if name == "id" else pc.coalesce(held, column.cast(held.type))
                batch = batch.set_column(at, batch.schema.field(name), known)
        return batch


def payloads(letters: pa.RecordBatch) -> pa.Array:
    """The bytes of letters: ``payloadBytes``, and where these are missing those of
    ``payloadString``, which templates of Google's fill alone."""
    texts = letters.column("payloadString").cast(pa.binary())
    return pc.coalesce(letters.column("payloadBytes"), texts)


def open_letters(uri: str, name: str = "", state: str = "") -> Letters:
    """The dead letters of a place, such as ``duckdb:FILE/TABLE`` or ``kafka://HOST:PORT/TOPIC``.

    Args:
        name: the output that wrote them, where files of several lie in one folder; if empty, all
            files are read: those of the manifest, or, where nobody has committed by one, those with
            the format's ending.
        state: the folder that the job keeps its own files in.

    Raises:
        DestinationError: the URI cannot be used, or nothing can be read back from there.
        StorageError: files cannot be listed.
    """
    output = Output(name or "letters", uri, "dead_letters", state=state)
    return letters_of(output, any_name=not name)


def letters_of(output: Output, *, any_name: bool = False) -> Letters:
    """The dead letters that an output holds.

    Args:
        any_name: of files, those of other outputs too.
    """
    scheme = output.uri.partition(":")[0]
    if scheme == "kafka":
        from .kafka import KafkaLetters

        return KafkaLetters(output)
    to = output.destination
    if any_name and isinstance(to, FilesDestination):
        from ..stored.files import open_folder

        return StoredLetters(open_folder(to, SCHEMA))
    return StoredLetters(open_stored(output, "data", SCHEMA))
