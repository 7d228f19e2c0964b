"""Files to byte chunks: matching patterns, splitting into ranges, reading what was planned.

A plain file is split into ranges that are read in parallel; a compressed file is one range, since
it can only be read from its start. Offsets in a compressed file count decompressed bytes.
"""

from __future__ import annotations

import fnmatch
import glob
import itertools
import os
from collections.abc import Iterable, Iterator, Sequence
from typing import BinaryIO, NamedTuple

from .. import storage
from ..plan import InputFile
from ..progress import PROGRESS
from .compression import Compression, compression_of, decompressed
from .lines import BrokenStream

CHUNK_BYTES = 8 << 20
"""How much is read at a time, and so about the size of a batch of payloads."""
RANGE_BYTES = 64 << 20
"""How much of a plain file one worker reads."""


class NoFiles(ValueError):
    """A pattern that matches no file."""


class FileRange(NamedTuple):
    """A part of a file: the bytes [start, end); ``end`` is ``None`` for a compressed file.

    ``compression`` is empty for a plain file.
    """

    file: InputFile
    start: int
    end: int | None
    compression: str = ""


def match_files(patterns: Sequence[str], allow_none: bool = False) -> list[InputFile]:
    """The files that patterns match, each once, by name.

    Names of files and folders that start with ``.`` or ``_`` are not matched by a wildcard, as in
    Hadoop and Spark: others write there what is not finished.

    Raises:
        NoFiles: a pattern matches nothing, unless ``allow_none``.
        StorageError: a folder or file cannot be looked at.
    """
    found: dict[str, InputFile] = {}
    for pattern in patterns:
        matched = _match(pattern)
        if not matched and not allow_none:
            raise NoFiles(f"no file matches {pattern}")
        found.update((f.source, f) for f in matched)
    return [found[source] for source in sorted(found)]


def _match(pattern: str) -> list[InputFile]:
    if storage.is_remote(pattern):
        return [
            InputFile(*file)
            for file in storage.match_remote(pattern)
            if not _is_hidden(file.path, pattern)
        ]
    pattern = storage.absolute(pattern)
    names = [pattern] if os.path.isfile(pattern) else glob.glob(pattern, recursive=True)
    return [
        local_file(name) for name in names if os.path.isfile(name) and not _is_hidden(name, pattern)
    ]


def _is_hidden(name: str, pattern: str) -> bool:
    """Whether a part of the name starts with ``.`` or ``_`` where the pattern does not say so."""
    if name == pattern:
        return False
    parts, asked = (
        [part for part in path.replace(os.sep, "/").split("/") if part.startswith((".", "_"))]
        for path in (name, pattern)
    )
    return any(not any(fnmatch.fnmatchcase(part, p) for p in asked) for part in parts)


def local_file(name: str) -> InputFile:
    """The file as it is now."""
    with storage.named(name, "read"):
        status = os.stat(name)
        if not os.access(name, os.R_OK):
            raise PermissionError(13, "permission denied")
    return InputFile(name, status.st_size, str(status.st_mtime_ns))


def file_ranges(
    files: Iterable[InputFile],
    compression: Compression = "auto",
    range_bytes: int = RANGE_BYTES,
) -> list[FileRange]:
    """Ranges that together are the files, each byte in one."""
    ranges = []
    for file in files:
        if codec := compression_of(file.source, compression):
            ranges.append(FileRange(file, 0, None, codec))
            continue
        bounds = [*range(0, max(file.size, 1), range_bytes), file.size]
        # a last range of a few bytes is not worth a worker
        if len(bounds) > 2 and bounds[-1] - bounds[-2] < range_bytes // 8:
            del bounds[-2]
        ranges += [FileRange(file, a, b) for a, b in itertools.pairwise(bounds)]
    return ranges


def chunks(part: FileRange, chunk_bytes: int = CHUNK_BYTES) -> Iterator[bytes]:
    """The bytes of a range and on to the end of the file, as :func:`.lines.cut_lines` takes them.

    Raises:
        BrokenStream: truncated or corrupt compressed data, or a file shorter than planned.
        StorageError: the file cannot be read, or has changed since it was planned.
    """
    with open_planned(part.file) as stream:
        file = PlannedFile(stream, part.file)
        if part.compression:
            yield from decompressed(part.compression, file.read, chunk_bytes)
        else:
            yield from _plain(file, part, chunk_bytes)


def open_planned(file: InputFile) -> BinaryIO:
    """A file object on a file of a plan.

    Raises:
        StorageError: it cannot be read, or has changed since it was planned. A local file may have
            become longer or shorter. On an object store a change may come to light in reading only:
            read within ``storage.named``.
    """
    if storage.is_remote(file.source):
        return storage.open_version(storage.StoredFile(file.source, file.size, file.version))
    stream = storage.open_read(file.source)
    now = local_file(file.source)
    if now.version != file.version and now.size == file.size:
        stream.close()
        raise storage.StorageError(f"cannot read {file.source}: {storage.CHANGED}", file.source)
    return stream


class PlannedFile:
    """A file as long as it was when the run was planned: what came later is another run's."""

    def __init__(self, stream: BinaryIO, file: InputFile) -> None:
        self._stream, self._file = stream, file
        self.at = 0

    def seek(self, at: int) -> None:
        with storage.named(self._file.source, "read"):
            self._stream.seek(at)
        self.at = at

    def read(self, size: int) -> bytes:
        """At most ``size`` bytes; none at the end.

        Raises:
            BrokenStream: the file has become shorter.
        """
        missing = self._file.size - self.at
        if missing <= 0:
            return b""
        with storage.named(self._file.source, "read"):
            data = self._stream.read(min(size, missing))
        if not data:
            raise BrokenStream(f"ends at byte {self.at}, {missing} bytes before its planned end")
        self.at += len(data)
        PROGRESS.bytes += len(data)
        return data


def _plain(file: PlannedFile, part: FileRange, chunk_bytes: int) -> Iterator[bytes]:
    file.seek(max(part.start - 1, 0))
    while True:
        # up to our end, and past it only as far as our last line goes
        left = chunk_bytes if part.end is None else part.end - file.at
        data = file.read(min(chunk_bytes, left if left > 0 else 64 << 10))
        if not data:
            return
        yield data
