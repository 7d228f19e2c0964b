"""Files in a folder: those that its manifest names.

Parquet's row groups are passed over where their statistics say that no row meets the conditions.
Other formats are read from beginning to end, and only the columns that are needed are decoded.
"""

from __future__ import annotations

import os
from collections.abc import Collection, Iterator
from typing import NamedTuple
from urllib.parse import unquote

import pyarrow as pa

from .. import storage
from ..receipts import Part
from ..write.destination import Output
from ..write.errors import DestinationError
from ..write.files import FilesDestination
from ..write.manifests import PRIVATE, manifests, read_manifest
from ..write.partitions import NULL, stripped
from .filter import Compare, Condition, Filter, IsIn
from .formats import READERS, FileReader
from .stored import Stored


class LiveFile(NamedTuple):
    """A committed file, and the columns that its folders' names hold in its place."""

    path: str
    folders: dict[str, str | None]


class StoredFiles(Stored):
    """Files of one format. They may differ in their columns.

    Args:
        ours: a manifest of ours names them.
    """

    pushes = (Compare, IsIn)

    def __init__(
        self,
        place: str,
        asked: pa.Schema | None,
        files: list[LiveFile],
        format: str,
        *,
        ours: bool = False,
    ) -> None:
        super().__init__(place, asked)
        self._files = files
        self._reader: FileReader = READERS[format](self.place, asked, ours=ours)

    def find(self) -> pa.Schema | None:
        if self.asked is not None:
            return self.asked
        found = [self._reader.schema(file.path) for file in self._files]
        if not found:
            return None
        try:
            whole = pa.unify_schemas(found, promote_options="permissive")
        except (pa.ArrowInvalid, pa.ArrowTypeError) as error:
            raise DestinationError(
                f"{self.place}: its files have columns of one name and other types: {error}"
            ) from error
        named = dict.fromkeys(name for file in self._files for name in file.folders)
        return pa.schema(
            [*whole, *((name, pa.string()) for name in named if name not in whole.names)]
        )

    def has(self, column: str) -> bool:
        # The latest first: columns are added more often than taken away.
        return not self._files or any(
            column in file.folders or self._reader.has(file.path, column)
            for file in reversed(self._files)
        )

    def read(self, names: Collection[str], where: Filter) -> Iterator[pa.RecordBatch]:
        for file in self._files:
            own, folders = where.divided(lambda each, file=file: each.column not in file.folders)
            if all(self._is_of(each, file) for each in folders.conditions):
                yield from self._rows(file, names, own)

    def _is_of(self, condition: Condition, file: LiveFile) -> bool:
        """Whether a condition holds of all rows of a file, by the names of its folders."""
        column = condition.column
        value = pa.array([file.folders[column]], pa.string()).cast(self._field(column).type)
        return Filter((condition,)).kept(pa.record_batch({column: value})).num_rows == 1

    def _rows(
        self, file: LiveFile, names: Collection[str], where: Filter
    ) -> Iterator[pa.RecordBatch]:
        inside = [name for name in names if name not in file.folders]
        if not inside:  # rows can be counted by a column alone
            inside = [name for name in self.schema.names if name not in file.folders][:1]
        for batch in self._reader.batches(file.path, inside, where):
            for name in names:
                if name in file.folders:
                    value = pa.scalar(file.folders[name], pa.string())
                    batch = batch.append_column(name, pa.repeat(value, batch.num_rows))
            yield batch


def open_stored(output: Output, part: Part, schema: pa.Schema | None) -> StoredFiles:
    """The files that an output has committed.

    Raises:
        StorageError: the manifest cannot be read.
    """
    to = output.destination
    assert isinstance(to, FilesDestination)
    format = "parquet" if part == "states" else to.format
    return StoredFiles(to.place, schema, live_files(to, part, output.name), format, ours=True)


def open_folder(to: FilesDestination, schema: pa.Schema | None) -> StoredFiles:
    """The files of a folder, whoever has committed them; where nobody has by a manifest, those with
    the format's ending. Or a file itself.

    Args:
        schema: the columns to give; ``None`` for all that files and the names of folders have.

    Raises:
        StorageError: the folder or its manifest cannot be read.
    """
    if os.path.isfile(to.home):
        return StoredFiles(to.place, schema, [LiveFile(to.home, {})], to.format)
    columns = schema.names if schema is not None else None
    files = live_files(to, "data", columns=columns)
    ours = bool(files)
    if not files and not manifests(to.home):
        endings = ENDINGS[to.format]
        found = storage.list_files(to.home, deep=True)
        home = storage.join(to.home, "")
        files = [
            LiveFile(path, _folders(path.removeprefix(home), columns))
            for path in found
            if path.endswith(endings)
        ]
    return StoredFiles(to.place, schema, files, to.format, ours=ours)


ENDINGS = {
    "jsonl": (".jsonl", ".json"),
    "parquet": (".parquet",),
    "csv": (".csv",),
    "avro": (".avro",),
}
"""Format → how the names of its files end."""


def live_files(
    to: FilesDestination,
    part: Part,
    name: str | None = None,
    *,
    columns: Collection[str] | None = (),
) -> list[LiveFile]:
    """The files of a part that the manifest names.

    Args:
        name: of which output; ``None`` for all that have committed to the folder.
        columns: those that folders may be named by, besides those of the destination's options;
            ``None`` for all.
    """
    hidden = _hidden(to, columns) if part == "data" else set()
    return [
        LiveFile(storage.join(to.home, file.path), _folders(file.path, hidden))
        for entry in read_manifest(to.home).entries
        if name is None or entry.output == name
        for file in entry.files
        if file.part == part
    ]


def _hidden(to: FilesDestination, columns: Collection[str] | None) -> Collection[str] | None:
    return None if columns is None else {*stripped(to.layout.partition_by), *columns}


def _folders(path: str, hidden: Collection[str] | None) -> dict[str, str | None]:
    """The columns that the names of a file's folders hold, and no file does; ``None`` for all."""
    folders = path.split("/")[:-1]
    if folders[:1] == [PRIVATE]:
        return {}
    pairs = [folder.partition("=") for folder in folders]
    found = {unquote(key): None if v == NULL else unquote(v) for key, eq, v in pairs if eq}
    return found if hidden is None else {k: v for k, v in found.items() if k in hidden}
