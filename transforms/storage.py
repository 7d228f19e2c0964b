"""The one façade on files: local paths through the operating system, ``scheme://`` through a store.

Every other module that stores something calls these functions as ``storage.<name>``, so that a
test can count them, or make the k-th one fail.

Local files are durable when a function returns: data and directory entry are flushed to the disk.
On ``gs://`` and ``s3://`` a file is there once it has been written as a whole, and nothing is ever
renamed: to move is to copy to a name that must be free, then to delete. Where a store cannot refuse
to overwrite (``hdfs://``, emulators, some stores that speak S3), :func:`write_once` looks before
and after it writes, which narrows the race and does not close it: the run lock keeps writers apart.
"""

from __future__ import annotations

import errno
import filecmp
import io
import os
import re
import uuid
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from typing import BinaryIO

from .object_stores import CHANGED as CHANGED
from .object_stores import Store, reason, store_of
from .object_stores import StoredFile as StoredFile
from .object_stores import use_options as use_options

_REMOTE = re.compile(r"[A-Za-z][A-Za-z0-9+.-]*://")

_REASONS = {
    errno.ENOENT: "not found",
    errno.EACCES: "permission denied",
    errno.EPERM: "not permitted (or the file system has no hard links)",
    errno.EROFS: "the file system is read-only",
    errno.ENOSPC: "the disk is full",
    errno.EDQUOT: "the disk quota is used up",
    errno.EEXIST: "a file of that name is there already",
    errno.ENOTDIR: "a part of the path is a file, not a folder",
    errno.EISDIR: "it is a folder, not a file",
    errno.ENAMETOOLONG: "the name is too long",
    errno.EXDEV: "source and target lie on different file systems",
}


class StorageError(OSError):
    """A file operation failed. The message names the path and what happened."""

    def __init__(self, message: str, path: str = "", code: int | None = None) -> None:
        super().__init__(message)
        self.path = path
        self.errno = code


@contextmanager
def named(path: str, doing: str) -> Iterator[None]:
    """Turn what the body raises into a :class:`StorageError`: "cannot <doing> <path>: <reason>".

    For code that writes through a file object of :func:`open_write` or :func:`open_read`.
    """
    try:
        yield
    except StorageError:
        raise
    except Exception as exc:
        code = getattr(exc, "errno", None)
        if is_remote(path) and code is None:
            said, code = reason(exc)
        elif isinstance(exc, OSError):
            said = _REASONS.get(code or 0) or exc.strerror or str(exc) or type(exc).__name__
        else:
            raise
        raise StorageError(f"cannot {doing} {path}: {said}", path, code) from exc


def is_remote(path: str) -> bool:
    """Whether ``path`` begins with ``scheme://``."""
    return _REMOTE.match(path) is not None


def absolute(path: str) -> str:
    """The same place, named so that it does not depend on the working directory."""
    return path.rstrip("/") if is_remote(path) else os.path.abspath(path)


def join(base: str, *parts: str) -> str:
    """``base`` and ``parts`` as one path."""
    if is_remote(base):
        return "/".join([base.rstrip("/"), *parts])
    return os.path.join(base, *parts)


def exists(path: str) -> bool:
    """Whether there is a file (or, locally, a folder) at ``path``."""
    with named(path, "look for"):
        return store_of(path).find(path) is not None if is_remote(path) else os.path.exists(path)


def size(path: str) -> int:
    """The file's size in bytes."""
    with named(path, "read the size of"):
        if is_remote(path):
            return _found(store_of(path), path).size
        return os.stat(path).st_size


def read_bytes(path: str) -> bytes:
    """All of the file."""
    if is_remote(path):
        with named(path, "read"):
            return store_of(path).read(path)
    with open_read(path) as file, named(path, "read"):
        return file.read()


def open_read(path: str) -> BinaryIO:
    """A file object to read from; on an object store it reads one version of the file."""
    with named(path, "read"):
        if is_remote(path):
            store = store_of(path)
            return store.open_read(_found(store, path))
        return open(path, "rb")


def open_version(file: StoredFile) -> BinaryIO:
    """A file object that reads a remote file as it was listed.

    Where the store has versions, opening or reading fails if the file has changed since; do both
    within :func:`named`.
    """
    with named(file.path, "read"):
        return store_of(file.path).open_read(file)


def match_remote(pattern: str) -> list[StoredFile]:
    """The remote files that a pattern with ``*``, ``**``, ``?`` and ``[..]`` matches."""
    with named(pattern, "match"):
        return store_of(pattern).match(pattern)


def open_write(path: str) -> BinaryIO:
    """A new file object to write to; local files are flushed to the disk on close.

    A local file is visible, and half written, until it is closed: use a name that nobody reads.
    """
    with named(path, "write"):
        if is_remote(path):
            return store_of(path).open_write(path)
        return _create(path)


def write_once(path: str, data: bytes) -> bool:
    """Write a file unless there is one: ``True`` if this call made it.

    Locally, on S3 and on Google Cloud Storage, of several callers at once exactly one is told
    ``True``, and nobody ever sees a part of the file. On a remote store the data must differ
    between callers (hold a run or owner id): a client that lost the answer to its write sees by
    the content whose it is.
    """
    if is_remote(path):
        return _write_once_remote(path, data)
    with _temporary(path, data) as temporary, named(path, "write"):
        try:
            os.link(temporary, path)
        except FileExistsError:
            return False
        _sync_folder(path)
        return True


def write_replace(path: str, data: bytes) -> None:
    """Write a file in place of what is there; a reader sees the old or the new one, whole."""
    if is_remote(path):
        with named(path, "write"):
            return store_of(path).write(path, data)
    with _temporary(path, data) as temporary, named(path, "write"):
        os.replace(temporary, path)
        _sync_folder(path)


def move(source: str, target: str) -> None:
    """Move a file within one file system, never onto other content.

    Can be repeated: if the source is gone and the target is there, or the target is there with the
    very same content, the move is done.

    Raises:
        StorageError: neither is there, or the target has other content.
    """
    if is_remote(source):
        return _move_remote(source, target)
    with named(target, "move a file to"):
        os.makedirs(os.path.dirname(target) or ".", exist_ok=True)
        try:
            # Not rename: it would silently put the file in place of another.
            os.link(source, target)
        except FileExistsError:
            _same_or_raise(source, target)
        except FileNotFoundError:
            if not os.path.exists(target):
                raise StorageError(f"cannot move {source}: not found", source) from None
            return
        _sync_folder(target)
    delete(source)


def delete(path: str) -> None:
    """Delete a file; it may be missing."""
    with named(path, "delete"):
        if is_remote(path):
            return store_of(path).delete(path)
        with suppress(FileNotFoundError):
            os.unlink(path)


def delete_folder(folder: str) -> None:
    """Delete the files directly in a folder, and the folder if it is then empty; may be missing."""
    for path in list_files(folder):
        delete(path)
    if not is_remote(folder):
        # Another process may just have put a file there, or removed the folder: both are fine.
        with suppress(OSError):
            os.rmdir(folder)


def list_files(folder: str, suffix: str = "", *, deep: bool = False) -> list[str]:
    """Sorted paths of the files in ``folder`` (``deep``: and below); none if it is missing.

    A file that is only just being written by this module is never among them.
    """
    with named(folder, "list"):
        if is_remote(folder):
            there = store_of(folder).files_in(folder, deep)
            return sorted(file.path for file in there if file.path.endswith(suffix))
        found: list[str] = []
        for place, folders, names in os.walk(folder, onerror=_raise_unless_missing):
            found += [os.path.join(place, n) for n in names if n.endswith(suffix)]
            if not deep:
                folders.clear()
        return sorted(path for path in found if not path.endswith(_TEMPORARY))


def modified(path: str) -> float:
    """When the file was last written, in seconds since the epoch."""
    with named(path, "read the time of"):
        if is_remote(path):
            from apache_beam.io.filesystems import FileSystems

            there = FileSystems.match([path])[0].metadata_list
            if not there:
                raise FileNotFoundError(errno.ENOENT, "not found")
            return there[0].last_updated_in_seconds
        return os.stat(path).st_mtime


def list_temporaries(folder: str) -> list[str]:
    """Files in and below a folder that this module left half written when its process died."""
    found: list[str] = []
    if not is_remote(folder):  # there nothing is seen before it is written
        for place, _, names in os.walk(folder):
            found += [os.path.join(place, n) for n in names if n.endswith(_TEMPORARY)]
    return sorted(found)


def delete_empty_folder(folder: str) -> None:
    """Remove a folder in which nothing is; where there is something, or nothing to do, do nothing.

    Object stores have no folders.
    """
    if not is_remote(folder):
        with suppress(OSError):
            os.rmdir(folder)


_TEMPORARY = ".millstream-tmp"


class _Durable(io.BufferedWriter):
    """A buffered file that is on the disk once it is closed."""

    def close(self) -> None:
        if not self.closed:
            try:
                self.flush()
                os.fsync(self.fileno())
            finally:
                super().close()


def _create(path: str) -> BinaryIO:
    os.makedirs(os.path.dirname(path) or ".", exist_ok=True)
    return _Durable(io.FileIO(path, "xb"), buffer_size=1 << 18)


@contextmanager
def _temporary(path: str, data: bytes) -> Iterator[str]:
    folder, name = os.path.split(path)
    temporary = os.path.join(folder, f".{name}.{uuid.uuid4().hex}{_TEMPORARY}")
    try:
        with named(path, "write"), _create(temporary) as file:
            file.write(data)
        yield temporary
    finally:
        with suppress(OSError):
            os.unlink(temporary)


def _sync_folder(path: str) -> None:
    # The new name is an entry of its folder, which has a cache of its own.
    handle = os.open(os.path.dirname(path) or ".", os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


def _same_or_raise(source: str, target: str) -> None:
    try:
        same = os.path.samefile(source, target) or filecmp.cmp(source, target, shallow=False)
    except FileNotFoundError:
        return  # another commit of the same staged file has just finished this move
    if not same:
        raise StorageError(f"cannot move {source} to {target}: it holds other content", target)


def _raise_unless_missing(error: OSError) -> None:
    if error.errno != errno.ENOENT:
        raise error


def _found(store: Store, path: str) -> StoredFile:
    file = store.find(path)
    if file is None:
        raise FileNotFoundError(errno.ENOENT, "not found")
    return file


def _write_once_remote(path: str, data: bytes) -> bool:
    with named(path, "write"):
        store = store_of(path)
        if store.find(path):
            return False
        created = store.create(path, data)
        try:
            # Some stores take no condition, and of two that write the later one wins; others have
            # written what they then, asked again by the client, say was there already.
            return store.read(path) == data
        except Exception as exc:
            if reason(exc)[1] == errno.ENOENT:
                return created  # and deleted since
            raise


def _move_remote(source: str, target: str) -> None:
    with named(target, "move a file to"):
        store = store_of(source)
        file, there = store.find(source), store.find(target)
        if file is None:
            if there is None:
                raise StorageError(f"cannot move {source}: not found", source)
            return
        if there is None and store.move(file, target):
            return
        if not _same_content(source, target):
            raise StorageError(f"cannot move {source} to {target}: it holds other content", target)
        store.delete(source)


def _same_content(source: str, target: str) -> bool:
    if size(source) != size(target):
        return False
    with open_read(source) as one, open_read(target) as other:
        while data := one.read(1 << 20):
            if other.read(len(data)) != data:
                return False
    return True
