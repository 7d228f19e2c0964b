"""Partition folders as Hive has them: ``country=NO/ts_date=2026-11-24/``.

Spark, DuckDB, BigQuery and ``pyarrow.dataset`` read the partition's columns off the folders' names;
the files do not hold them. A null is ``__HIVE_DEFAULT_PARTITION__``. ASCII characters other than
letters, digits, ``_``, ``-`` and ``.`` are written as ``%2F``; all others as they are: Spark takes
``%C3%BC`` for two characters. An empty string is an empty value (``country=``), which DuckDB and
pyarrow read as such, and Spark refuses.
"""

from __future__ import annotations

import errno
import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.types as pt

from ...schemas.problems import did_you_mean, list_names
from .. import storage
from .errors import DestinationError

NULL = "__HIVE_DEFAULT_PARTITION__"
LONGEST = 255
"""Bytes of a folder's name that file systems allow."""

_FUNCTIONS = {"date": pa.date32(), "hour": pa.timestamp("us")}
"""What a time stamp can be partitioned by → the type of its values."""
_CALL = re.compile(r"(\w+)\((.*)\)")
_ENCODED = re.compile(r"[^A-Za-z0-9_.\-\x80-\U0010ffff]")


@dataclass(frozen=True)
class Partition:
    """A column, or the UTC date or hour of a time stamp, that rows are put into folders by."""

    column: str
    function: str = ""

    def __str__(self) -> str:
        return f"{self.function}({self.column})" if self.function else self.column

    @property
    def key(self) -> str:
        """What the folder is called: the column, ``ts_date`` for ``date(ts)``."""
        return f"{self.column}_{self.function}" if self.function else self.column

    def values(self, batch: pa.RecordBatch) -> pa.Array:
        """The rows' values: equal ones go into one folder."""
        column = batch.column(self.column)
        if pt.is_dictionary(column.type):
            column = column.dictionary_decode()
        if not self.function:
            return column
        # Arrow counts from the epoch in UTC whatever the zone: without it, no zone data is needed.
        instants = column.cast(pa.timestamp(column.type.unit))
        if self.function == "date":
            return instants.cast(pa.date32())
        return pc.floor_temporal(instants, unit="hour")

    def names(self, values: pa.Array) -> list[str]:
        """The folder of each value.

        Raises:
            StorageError: a folder's name would be longer than file systems allow.
        """
        texts = values.cast(pa.string()).to_pylist()
        if self.function == "hour":
            texts = [text and text.split(":")[0].replace(" ", "T") for text in texts]
        return [self._name(text) for text in texts]

    def _name(self, text: str | None) -> str:
        name = f"{encode(self.key)}={NULL if text is None else encode(text)}"
        if len(name.encode()) > LONGEST:
            raise storage.StorageError(
                f"cannot partition by {self.column}: the value {str(text)[:40]!r}… makes a folder "
                f"name of {len(name.encode())} bytes, and {LONGEST} are allowed; give the field a "
                "maxLength in the contract, or leave it out of partition_by",
                code=errno.ENAMETOOLONG,
            )
        return name


def encode(text: str) -> str:
    """Text as a part of a folder's name."""
    if text == NULL:
        return text.replace("_", "%5F")  # a string that says so, not a null
    return _ENCODED.sub(lambda found: f"%{ord(found[0]):02X}", text)


def parse_partitions(text: str) -> tuple[Partition, ...]:
    """The partitions of ``country,date(ts)``.

    Raises:
        DestinationError: it is not a list of columns, ``date(column)`` and ``hour(column)``.
    """
    found = tuple(_partition(part.strip()) for part in text.split(","))
    keys = [partition.key for partition in found]
    for key in keys:
        if keys.count(key) > 1:
            raise DestinationError(f"partition_by={text}: {key} is there twice")
        if key.startswith(("_", ".")):
            raise DestinationError(
                f"partition_by={text}: readers take a folder whose name begins with {key[0]!r} "
                "for a hidden one"
            )
    return found


def _partition(part: str) -> Partition:
    call = _CALL.fullmatch(part)
    function, column = call.groups() if call else ("", part)
    if not column:
        raise DestinationError(
            "partition_by is a list as country,date(ts): a column is missing in it"
        )
    if function and function not in _FUNCTIONS:
        hint = did_you_mean(function, _FUNCTIONS) or f"; expected {list_names(_FUNCTIONS)}"
        raise DestinationError(f"partition_by: no function {function}{hint}")
    return Partition(column, function)


def check_partitions(partitions: Sequence[Partition], schema: pa.Schema) -> None:
    """See whether rows of a schema can be partitioned.

    Raises:
        DestinationError: they cannot; the message says what would be right.
    """
    for partition in partitions:
        _check(partition, schema)
    if partitions and not set(schema.names) - stripped(partitions):
        raise DestinationError("partition_by names every column: nothing would be left for files")


def _check(partition: Partition, schema: pa.Schema) -> None:
    said = f"partition_by={partition}:"
    name = partition.column
    if schema.names.count(name) != 1:
        hint = did_you_mean(name, schema.names) or f"; there are {_listed(schema.names)}"
        raise DestinationError(f"{said} no such column{hint}")
    kind: Any = schema.field(name).type
    kind = kind.value_type if pt.is_dictionary(kind) else kind
    if partition.function:
        if not pt.is_timestamp(kind):
            raise DestinationError(f"{said} {name} is {kind}, not a time stamp")
        if partition.key in schema.names:
            raise DestinationError(
                f"{said} its folders would be called {partition.key}, as another column is"
            )
    elif pt.is_timestamp(kind):
        raise DestinationError(
            f"{said} a folder for each instant; write date({name}) or hour({name})"
        )
    elif not any(matches(kind) for matches in _PARTITIONED):
        raise DestinationError(
            f"{said} {name} is {kind}; strings, integers, booleans and dates can name folders"
        )


_PARTITIONED = (
    pt.is_string,
    pt.is_large_string,
    pt.is_string_view,
    pt.is_integer,
    pt.is_boolean,
    pt.is_date,
)


def _listed(names: Sequence[str], limit: int = 20) -> str:
    more = f" and {len(names) - limit} more" if len(names) > limit else ""
    return ", ".join(names[:limit]) + more


def stripped(partitions: Sequence[Partition]) -> set[str]:
    """The columns that files do not hold, since their folders' names do."""
    return {partition.column for partition in partitions if not partition.function}


def split(
    batch: pa.RecordBatch, partitions: Sequence[Partition]
) -> Iterator[tuple[str, pa.RecordBatch]]:
    """A batch's rows by folder, in their order; each piece has memory of its own.

    Raises:
        StorageError: a folder's name would be longer than file systems allow.
    """
    keys = {str(i): partition.values(batch) for i, partition in enumerate(partitions)}
    rows = pa.table({**keys, "row": np.arange(batch.num_rows)})
    groups = rows.group_by(list(keys), use_threads=False).aggregate([("row", "list")])
    segments = [
        partition.names(groups[name].combine_chunks())
        for name, partition in zip(keys, partitions, strict=True)
    ]
    folders = map("/".join, zip(*segments, strict=True))
    if len(groups) == 1:
        yield next(folders), batch
        return
    for folder, members in zip(folders, groups["row_list"].combine_chunks(), strict=True):
        # Not a slice: what waits in an encoder would keep the whole batch in memory.
        yield folder, batch.take(members.values)
