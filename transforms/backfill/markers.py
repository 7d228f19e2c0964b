"""What is done of a backfill, as files that say so."""

from __future__ import annotations

from typing import Any, TypeVar

import msgspec

from .. import storage

T = TypeVar("T", bound=Any)


def read_marker(path: str, kind: type[T], format: str) -> T | None:
    """What a marker says; ``None`` if it is not there.

    Args:
        kind: the struct that it holds, with a ``format``.
        format: the one that is known.

    Raises:
        StorageError: it cannot be read, or is of another format.
    """
    if not storage.exists(path):
        return None
    try:
        found = msgspec.json.decode(storage.read_bytes(path), type=kind)
    except msgspec.DecodeError as error:
        raise storage.StorageError(f"cannot read {path}: {error}", path) from error
    if found.format != format:
        said = f"cannot read {path}: format {found.format!r}, not {format!r}"
        raise storage.StorageError(said, path)
    return found
