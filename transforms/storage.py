"""The one façade on files: local paths through the operating system, ``scheme://`` through Beam.

Every other module that stores something calls these functions as ``storage.<name>``, so that a
test can count them, or make the k-th one fail.

Local files are durable when a function returns: data and directory entry are flushed to the disk.
On object stores Beam's ``FileSystems`` offers neither a conditional create nor a rename that
refuses to overwrite; there :func:`write_once` looks before and after it writes, which narrows the
race and does not close it. The run lock is what keeps two writers apart there.
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
from typing import Any, BinaryIO

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
    except OSError as exc:
        reason = _REASONS.get(exc.errno or 0) or exc.strerror or str(exc) or type(exc).__name__
        raise StorageError(f"cannot {doing} {path}: {reason}", path, exc.errno) from exc
    except Exception as exc:
        if not is_remote(path):
            raise
        # A client library's own exceptions: every cloud has others, and none derives from OSError.
        raise StorageError(f"cannot {doing} {path}: {exc}", path) from exc


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
        return _beam().exists(path) if is_remote(path) else os.path.exists(path)


def size(path: str) -> int:
    """The file's size in bytes."""
    with named(path, "read the size of"):
        if is_remote(path):
            found = _beam().match([path])[0].metadata_list
            if not found:
                raise FileNotFoundError(errno.ENOENT, "not found")
            return found[0].size_in_bytes
        return os.stat(path).st_size


def read_bytes(path: str) -> bytes:
    """All of the file."""
    with open_read(path) as file, named(path, "read"):
        return file.read()


def open_read(path: str) -> BinaryIO:
    """A file object to read from."""
    with named(path, "read"):
        return _open_remote(path, "open") if is_remote(path) else open(path, "rb")


def open_write(path: str) -> BinaryIO:
    """A new file object to write to; local files are flushed to the disk on close.

    The file is visible, and half written, until it is closed: use a name that nobody reads.
    """
    with named(path, "write"):
        if is_remote(path):
            return _open_remote(path, "create")
        return _create(path)


def write_once(path: str, data: bytes) -> bool:
    """Write a file unless there is one: ``True`` if this call made it.

    Locally of several callers at once exactly one is told ``True``, and nobody ever sees a part of
    the file. On object stores the data must differ between callers (hold a run or owner id).
    """
    if is_remote(path):
        if exists(path):
            return False
        _write(path, data)
        return read_bytes(path) == data
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
        return _write(path, data)
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
            if _beam().exists(path):
                _beam().delete([path])
            return
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
            pattern = join(folder, f"{'**' if deep else '*'}{suffix}")
            return sorted(m.path for m in _beam().match([pattern])[0].metadata_list)
        found: list[str] = []
        for place, folders, names in os.walk(folder, onerror=_raise_unless_missing):
            found += [os.path.join(place, n) for n in names if n.endswith(suffix)]
            if not deep:
                folders.clear()
        return sorted(path for path in found if not path.endswith(_TEMPORARY))


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


def _beam() -> Any:
    from apache_beam.io.filesystems import FileSystems

    return FileSystems


def _open_remote(path: str, verb: str) -> BinaryIO:
    from apache_beam.io.filesystem import CompressionTypes

    return getattr(_beam(), verb)(path, compression_type=CompressionTypes.UNCOMPRESSED)


def _write(path: str, data: bytes) -> None:
    with named(path, "write"), _open_remote(path, "create") as file:
        file.write(data)


def _move_remote(source: str, target: str) -> None:
    with named(target, "move a file to"):
        if not _beam().exists(source):
            if not _beam().exists(target):
                raise StorageError(f"cannot move {source}: not found", source)
            return
        if _beam().exists(target):
            if size(source) != size(target):
                raise StorageError(f"cannot move {source} to {target}: it holds other content")
            delete(source)
            return
        _beam().rename([source], [target])
