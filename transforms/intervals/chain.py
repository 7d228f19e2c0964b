"""The chain of a job's commits: each goes on from the one before it, and only one can be next.

Beside the run store's folders, ``_millstream/chain/<sequence>.json`` says which plan was the first
to be ready as the commit of that number. It is written once, after ``prepared.json`` and before
anything is committed: whoever finds the number taken has lost, and has changed nothing. The newest
link is all that a restart needs: it completes it if need be, and goes on from what it carries.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

import msgspec

from .. import storage
from ..carry import Carry
from ..plan import Plan, Token
from ..runs import Prepared, RunRecord, RunStore
from ..write.attempts import PATIENCE_SECONDS
from ..write.commit import complete

LINK_FORMAT = "millstream.link/1"
KEEP_LINKS = 100


class Overtaken(RuntimeError):
    """Another process has made the next commit. The message says which; nothing was committed."""


class Link(msgspec.Struct, frozen=True, kw_only=True):
    """Which plan is the commit of a number."""

    format: str = LINK_FORMAT
    token: str


class Head(NamedTuple):
    """The newest commit: what it carries on, and how it ended."""

    carry: Carry
    record: RunRecord


class Chain:
    """The commits of one job, in its run store. Picklable.

    All methods raise ``StorageError`` when a file cannot be read or written.
    """

    def __init__(self, store: RunStore) -> None:
        self.store = store
        self._folder = storage.join(store.home, "_millstream", "chain")

    def head(
        self,
        *,
        check: Callable[[], object] | None = None,
        patience: float = PATIENCE_SECONDS,
    ) -> Head | None:
        """The newest commit, completed if it was interrupted; ``None`` if there is none yet.

        Args:
            check, patience: see :func:`~..write.commit.complete`.
        """
        paths = self._links()
        if not paths:
            return None
        token = self._read(paths[-1])
        prepared = self.store.prepared(token)
        if prepared is None or prepared.carry is None:
            raise storage.StorageError(
                f"run {token.run_id} of {self.store.home} is the job's newest commit, and what it "
                "had prepared is gone: restore its folder",
                paths[-1],
            )
        record = complete(self.store, prepared, check=check, patience=patience)
        return Head(prepared.carry, record)

    def newest(self) -> int:
        """The number of the newest commit; 0 if there is none."""
        paths = self._links()
        return int(paths[-1].rpartition("/")[2].removesuffix(".json")) if paths else 0

    def begin(self, plan: Plan, sequence: int, *, reprocess: bool = True) -> Token:
        """Write down the plan of the commit of a number.

        Raises:
            AlreadyCommitted: another run has committed one of its input files.
        """
        run_id = run_id_of(sequence)
        decision = self.store.begin(plan, run_id, reprocess=reprocess)
        if decision.kind == "replace":
            raise Overtaken(f"run {run_id} has been committed with another plan")
        return decision.token

    def commit(
        self,
        prepared: Prepared,
        *,
        check: Callable[[], object] | None = None,
        patience: float = PATIENCE_SECONDS,
    ) -> Head:
        """Make a prepared run the next commit, and complete it. May be called again.

        Raises:
            Overtaken: the number is another plan's.
        """
        prepared = self.store.prepare(prepared)
        carry = prepared.carry
        assert carry is not None
        path = storage.join(self._folder, f"{carry.sequence:010d}.json")
        link = Link(token=prepared.token)
        first = storage.write_once(path, msgspec.json.encode(link))
        if not first and (token := str(self._read(path))) != prepared.token:
            raise Overtaken(
                f"another process has made commit {carry.sequence} of this job ({token}); this one "
                "has changed nothing"
            )
        record = complete(self.store, prepared, check=check, patience=patience)
        self._tidy(carry.sequence)
        return Head(carry, record)

    def held_folder(self, token: Token) -> str:
        """Where a commit keeps the states of its open windows."""
        return storage.join(self.store.folder(token).path, "open")

    def _tidy(self, sequence: int) -> None:
        for path in self._links()[:-KEEP_LINKS]:
            storage.delete(path)

    def _links(self) -> list[str]:
        return storage.list_files(self._folder, ".json")

    def _read(self, path: str) -> Token:
        try:
            link = msgspec.json.decode(storage.read_bytes(path), type=Link)
        except msgspec.DecodeError as exc:
            raise storage.StorageError(f"cannot read {path}: {exc}", path) from exc
        if link.format != LINK_FORMAT:
            raise storage.StorageError(f"cannot read {path}: format {link.format!r}", path)
        return Token.parse(link.token)


def run_id_of(sequence: int) -> str:
    """The run id of the commit of a number: names sort as commits do."""
    return f"c{sequence:010d}"
