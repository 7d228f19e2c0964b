"""The chain of a job's commits: each goes on from the one before it, and only one can be next.

A link (:mod:`..links`) is written after ``prepared.json`` and before anything is committed: whoever
finds the number taken has lost, and has changed nothing. The newest link is all that a restart
needs: it completes that commit if need be, and goes on from what it carries.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

from .. import storage
from ..carry import Carry
from ..links import Links
from ..plan import Plan, Token
from ..runs import Prepared, RunRecord, RunStore
from ..write.attempts import PATIENCE_SECONDS
from ..write.commit import complete

KEEP_LINKS = 100
"""Commits whose folders are kept, of streams, which make many."""


class Overtaken(RuntimeError):
    """Another process has made the next commit. The message says which; nothing was committed."""


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
        self._links = Links(store.home)

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
        newest = self._links.newest()
        ready = self.store.standing(run_id_of(newest[0] + 1 if newest else 1))
        if ready is not None:  # whoever prepared it was stopped just before it was linked
            return self.commit(ready, check=check, patience=patience)
        if newest is None:
            return None
        token = newest[1]
        prepared = self.store.prepared(token)
        if prepared is None or prepared.carry is None:
            raise storage.StorageError(
                f"run {token.run_id} of {self.store.home} is the job's newest commit, and what it "
                "had prepared is gone: restore its folder",
                self.store.home,
            )
        record = complete(self.store, prepared, check=check, patience=patience)
        return Head(prepared.carry, record)

    def carry(self) -> Carry | None:
        """What the newest commit hands on, complete or not; ``None`` if there is none."""
        newest = self._links.newest()
        prepared = self.store.prepared(newest[1]) if newest else None
        return prepared.carry if prepared else None

    def newest(self) -> int:
        """The number of the newest commit; 0 if there is none."""
        newest = self._links.newest()
        return newest[0] if newest else 0

    def begin(self, plan: Plan, sequence: int, *, reprocess: bool = True) -> Token:
        """Write down the plan of the commit of a number, which follows the head's.

        Raises:
            AlreadyCommitted: another run has committed one of its input files.
            Overtaken: another process has made the commit, or is about to.
        """
        run_id = run_id_of(sequence)
        decision = self.store.begin(plan, run_id, reprocess=reprocess)
        if decision.kind != "start":
            raise Overtaken(f"another process has made commit {run_id} of this job meanwhile")
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
        token = Token.parse(prepared.token)
        if (first := self._links.claim(carry.sequence, token)) != token:
            self.store.discard(token)
            raise Overtaken(
                f"another process has made commit {carry.sequence} of this job ({first}); this one "
                "has changed nothing"
            )
        record = complete(self.store, prepared, check=check, patience=patience)
        self._tidy(carry)
        return Head(carry, record)

    def held_folder(self, token: Token) -> str:
        """Where a commit keeps the states of its open windows."""
        return storage.join(self.store.folder(token).path, "open")

    def _tidy(self, carry: Carry) -> None:
        """Delete links that are old, and with them the folders of commits of a stream: they name
        no file that another run might read again. A folder that still holds states of open windows
        waits, and its link with it."""
        held = {_run_of(file.path) for w in carry.aggregates.values() for file in w.files}
        for number, token in self._links.older(KEEP_LINKS):
            if token.run_id in held:
                continue
            if not self.store.inputs(token):
                self.store.delete(token.run_id)
            self._links.delete(number)


def _run_of(path: str) -> str:
    """The run id of a file in :meth:`Chain.held_folder`."""
    return path.split("/")[-4]


def run_id_of(sequence: int) -> str:
    """The run id of the commit of a number: names sort as commits do."""
    return f"c{sequence:010d}"
