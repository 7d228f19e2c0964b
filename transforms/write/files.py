"""Files in a folder, and a manifest that names which of them are committed.

Final names follow from run and content, so moving a staged file into place twice is moving it
once. Readers by manifest see all of a commit or nothing; readers by glob see whole files.
"""

from __future__ import annotations

import io
import re
from collections import Counter
from collections.abc import Collection, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

import msgspec

from .. import storage
from ..plan import Token
from ..receipts import Part, Receipt
from .destination import Commit, CommitConflict, Committed, Destination, DestinationError
from .formats import FORMATS
from .layout import Layout, parse_layout
from .manifests import (
    PRIVATE,
    Entry,
    ManifestFile,
    append,
    find_entry,
    read_all,
    read_manifest,
    tidy_manifests,
)
from .partitions import check_partitions, stripped

if TYPE_CHECKING:
    import pyarrow as pa

STATES_ENDING = "parquet.states"
"""Of files of partial states: ``**/*.parquet``, which readers of partitions write, is not them."""
SPILL = "_deduplicate"
"""The folder, beside the staged files of a run, for what waits while keys are compared. No output
has a name that begins so."""


@dataclass(frozen=True)
class FilesDestination(Destination):
    """Parquet, JSON lines, CSV or Avro files in ``folder``, or in partition folders below it."""

    uri: str
    name: str
    format: str
    folder: str
    layout: Layout = field(default_factory=Layout)

    @property
    def home(self) -> str:
        return self.folder

    @property
    def place(self) -> str:
        return f"{self.format}:{self.folder}"

    def check(self, schema: pa.Schema) -> None:
        check_partitions(self.layout.partition_by, schema)
        gone = stripped(self.layout.partition_by)
        kept = schema.empty_table().select([n for n in schema.names if n not in gone]).schema
        try:
            FORMATS[self.format](io.BytesIO(), kept).close()
        except (TypeError, ValueError, NotImplementedError) as exc:  # Arrow's derive from these
            raise DestinationError(f"{self.format}: {exc}") from exc

    @property
    def staging(self) -> str:
        return storage.join(self.home, PRIVATE, "staging")

    def commit(self, commit: Commit) -> None:
        if commit.replaces:
            said = "files are replaced as they are, not rows of a span of time"
            raise DestinationError(f"{self.place}: {said}")
        token, digest = commit.token, commit.digest
        files = _final_files(self, token, commit.receipts)
        while True:
            manifest, held = find_entry(self.home, self.name, token.run_id)
            if held is None or held.token != str(token) or held.digest != digest:
                self._refuse_other_content(held, token, files)
                for receipt, file in files:
                    storage.move(receipt.path, storage.join(self.home, file.path))
                held = self._entry(token, digest, [file for _, file in files], held)
                others: list[Entry] = []
                if gone := commit.withdrawn:
                    held = msgspec.structs.replace(held, replaced=(*held.replaced, *gone))
                    again, entries = read_all(self.home)
                    if again.version != manifest.version:
                        continue
                    others = [new for old in entries if (new := _without(old, gone)) != old]
                if not append(self.home, manifest, [held, *others]):
                    continue
                if find_entry(self.home, self.name, token.run_id)[1] != held:
                    continue  # our number had been used and tidied away: nobody reads it
            self._tidy(held)
            return

    def committed(self, run_id: str) -> Committed | None:
        _, held = find_entry(self.home, self.name, run_id)
        return held and Committed(Token.parse(held.token), held.digest, held.rows)

    def refuse_replacing(self, run_id: str) -> None:
        for entry in read_manifest(self.home).entries:
            if entry.output == self.name and entry.run_id != run_id:
                names = (path.rpartition("/")[2] for path in entry.replaced)
                if any(run_of(name, self.name) == run_id for name in names):
                    raise CommitConflict(
                        f"output {self.name!r}: run {entry.run_id} has made windows anew, in which "
                        f"records of run {run_id} are counted, and these cannot be taken out again "
                        f"(in {self.home}); replace it with a job without this aggregate, then add "
                        "that again and backfill its windows"
                    )

    def _refuse_other_content(
        self, held: Entry | None, token: Token, files: list[tuple[Receipt, ManifestFile]]
    ) -> None:
        if held is not None and held.token == str(token):
            live = {file.path for file in held.files}
            for _, file in files:
                # A commit that was first may have come between our moves and our manifest.
                if file.path not in live:
                    self.delete_final(file.path)
            raise CommitConflict(
                f"output {self.name!r} already holds run {token.run_id} with other content "
                f"({held.rows} rows, in {self.home}); give this run another run id"
            )

    def _entry(
        self, token: Token, digest: str, files: list[ManifestFile], old: Entry | None
    ) -> Entry:
        new = {file.path for file in files}
        return Entry(
            output=self.name,
            run_id=token.run_id,
            token=str(token),
            digest=digest,
            rows=sum(file.rows for file in files if file.part == "data"),
            files=tuple(sorted(files, key=lambda file: file.path)),
            replaced=tuple(f.path for f in old.files if f.path not in new) if old else (),
        )

    def _tidy(self, entry: Entry) -> None:
        """Delete what the commit put out of use. Safe to repeat, and to leave out."""
        for path in entry.replaced:
            self.delete_final(path)
        staged = storage.join(self.staging, entry.run_id)
        storage.delete_folder(storage.join(staged, self.name))
        storage.delete_folder(staged)
        tidy_manifests(self.home)

    def withdraw(self, paths: Collection[str]) -> None:
        """Take final files out of the manifest, so that nobody misses them when they are deleted.

        What the runs have committed stays committed: their entries keep token and digest.

        Args:
            paths: in ``home``, as the manifest has them.
        """
        while True:
            manifest, entries = read_all(self.home)
            fewer = [(entry, _without(entry, paths)) for entry in entries]
            changed = [new for old, new in fewer if new != old]
            if not changed:
                return tidy_manifests(self.home)
            append(self.home, manifest, changed)

    def delete_final(self, path: str) -> None:
        """Delete a final file by its path in ``home``, and partition folders that it leaves empty.

        It may be missing.
        """
        storage.delete(storage.join(self.home, path))
        folder = path.rpartition("/")[0]
        while folder and not folder.startswith(PRIVATE):
            storage.delete_empty_folder(storage.join(self.home, folder))
            folder = folder.rpartition("/")[0]


def open_destination(scheme: str, rest: str, name: str, state: str = "") -> FilesDestination:
    """The destination of ``scheme:DIR?partition_by=…&target_size=…``; the scheme is the format.

    Files are staged in the folder that they are moved within, not in ``state``.

    Raises:
        DestinationError: an option is unknown, or its value cannot be used.
    """
    place, _, query = rest.partition("?")
    if not place:
        raise DestinationError(f"{scheme}: names no place; write {scheme}:DIRECTORY")
    home = storage.absolute(place.removeprefix("file://"))
    try:
        layout = parse_layout(query)
    except DestinationError as exc:
        raise DestinationError(f"{scheme}: {exc}") from None
    options = layout.query()
    uri = f"{scheme}:{home}?{options}" if options else f"{scheme}:{home}"
    return FilesDestination(uri, name, scheme, home, layout)


def live_files(uri: str, part: Part = "data", *, except_run: str = "") -> list[str]:
    """Paths of the committed files of ``parquet:DIR`` and its like, of all outputs and runs.

    Args:
        except_run: a run id whose files are left out.
    """
    from .destination import destination

    home = destination(uri).home
    return [
        storage.join(home, file.path)
        for entry in read_manifest(home).entries
        for file in entry.files
        if file.part == part and entry.run_id != except_run
    ]


def _without(entry: Entry, gone: Collection[str]) -> Entry:
    files = tuple(file for file in entry.files if file.path not in gone)
    return msgspec.structs.replace(entry, files=files)


_ENDINGS = "|".join(map(re.escape, (*FORMATS, STATES_ENDING)))
_FINAL_NAME = re.compile(rf"(?P<stem>.+)-[0-9a-f]{{16}}(-\d+)?\.({_ENDINGS})")


def run_of(name: str, output: str) -> str | None:
    """The run that an output's file belongs to, by the file's name; ``None`` if it is none of its.

    >>> run_of("clicks-r1-0123456789abcdef.parquet", "clicks")
    'r1'
    """
    found = _FINAL_NAME.fullmatch(name)
    if found is None or not found["stem"].startswith(f"{output}-"):
        return None
    return found["stem"].removeprefix(f"{output}-")


def _final_files(
    destination: FilesDestination, token: Token, receipts: Sequence[Receipt]
) -> list[tuple[Receipt, ManifestFile]]:
    """Each receipt with its file's final name, whatever the order of the receipts.

    Files of equal content (without identity columns, two bundles can hold the same) are all kept:
    from the second on their names are numbered.
    """
    seen: Counter[str] = Counter()
    found: list[tuple[Receipt, ManifestFile]] = []
    for receipt in sorted(receipts, key=lambda r: (r.part, r.folder, r.sha256, r.path)):
        folder = f"{PRIVATE}/states" if receipt.part == "states" else receipt.folder
        stem = f"{destination.name}-{token.run_id}-{receipt.sha256[:16]}"
        stem = f"{folder}/{stem}" if folder else stem
        count = seen[stem]
        seen[stem] += 1
        ending = STATES_ENDING if receipt.part == "states" else destination.format
        path = f"{stem}{f'-{count}' if count else ''}.{ending}"
        file = ManifestFile(path, receipt.part, receipt.rows, receipt.bytes, receipt.sha256)
        found.append((receipt, file))
    return found
