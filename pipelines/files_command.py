"""``millstream files``: which files of an output may be read.

They are those that the newest manifest names: who reads these reads all of a commit or nothing.
"""

from __future__ import annotations

import argparse
from collections.abc import Iterator
from typing import Any, NamedTuple

from . import exit_codes
from .job import JobError
from .logs import ERROR, say


class LiveFile(NamedTuple):
    """A file that a manifest names. ``partition`` is its folder, as ``country=NO``."""

    path: str
    rows: int
    bytes: int
    output: str
    run_id: str
    partition: str
    sha256: str


def add_parser(subparsers: Any) -> None:
    """Add the command ``files`` to the subparsers of ``millstream``."""
    parser = subparsers.add_parser(
        "files",
        help="list the files of an output that are committed",
        description="List the files that the newest manifest of an output names, one path a line: "
        "a reader of these sees each commit as a whole.",
        epilog="exit codes: 0 listed (perhaps no file); 1 the manifest cannot be read; 2 nothing "
        "is committed there, or it is no destination of files",
    )
    parser.add_argument("uri", metavar="OUTPUT", help="the output, as parquet:DIR or csv:gs://…")
    parser.add_argument(
        "--part",
        choices=("data", "states"),
        default="data",
        help="data: rows of the table (the default); states: partial states of an aggregate",
    )
    form = parser.add_mutually_exclusive_group()
    form.add_argument(
        "--long", action="store_true", help="with rows, bytes, run and partition, tab-separated"
    )
    form.add_argument("--json", action="store_true", help="as JSON lines")


def run(arguments: argparse.Namespace) -> int:
    """Run ``files``; returns its exit code.

    Raises:
        JobError: the output is no destination of files, or nothing is committed there.
    """
    from .runners import quiet_beam

    quiet_beam()
    from ..transforms.storage import StorageError

    try:
        files = list(_live_files(arguments.uri, arguments.part))
    except StorageError as error:
        say(str(error), ERROR)
        return exit_codes.FAILED
    for file in files:
        print(_line(file, arguments))
    return exit_codes.OK


def _live_files(uri: str, part: str) -> Iterator[LiveFile]:
    from ..transforms import storage
    from ..transforms.write.destination import DestinationError, destination
    from ..transforms.write.files import FilesDestination
    from ..transforms.write.manifests import PRIVATE, read_manifest

    try:
        found = destination(uri)
    except DestinationError as error:
        raise JobError(str(error)) from None
    if not isinstance(found, FilesDestination):
        raise JobError(f"{found.uri.partition(':')[0]}: holds no files that could be listed")
    manifest = read_manifest(found.home)
    if not manifest.version:
        raise JobError(f"there is no manifest in {found.home}: nothing has been committed there")
    for entry in manifest.entries:
        for file in entry.files:
            if file.part == part:
                folder = file.path.rpartition("/")[0]
                yield LiveFile(
                    storage.join(found.home, file.path),
                    file.rows,
                    file.bytes,
                    entry.output,
                    entry.run_id,
                    "" if folder.startswith(PRIVATE) else folder,
                    file.sha256,
                )


def _line(file: LiveFile, arguments: argparse.Namespace) -> str:
    if arguments.json:
        import msgspec

        return msgspec.json.encode(file._asdict()).decode()
    if arguments.long:
        return f"{file.path}\t{file.rows}\t{file.bytes}\t{file.run_id}\t{file.partition}"
    return file.path
