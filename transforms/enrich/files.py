"""The files of a reference: found by a pattern, and the very ones that were found at start."""

from __future__ import annotations

import hashlib

import msgspec

from ..plan import InputFile
from ..read.files import NoFiles, match_files
from .sources import SourceError
from .spec import ReferenceSpec


def reference_files(spec: ReferenceSpec) -> tuple[InputFile, ...]:
    """The files to read.

    Raises:
        SourceError: there are none, or they are not those that were found at start.
        StorageError: they cannot be looked at.
    """
    pattern = spec.uri.partition(":")[2]
    try:
        found = tuple(match_files([pattern]))
    except NoFiles:
        raise SourceError(f"{spec.place}: no file matches") from None
    if spec.files is not None and found != spec.files:
        raise SourceError(
            f"{spec.place}: the files have changed since the run was planned; start it again, or "
            "say with refresh that they may change"
        )
    return found


def files_version(files: tuple[InputFile, ...]) -> str:
    """A digest of the names, sizes and versions of files."""
    return hashlib.sha256(msgspec.json.encode(sorted(files))).hexdigest()
