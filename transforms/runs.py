"""The run store: what each run plans, has prepared, and has committed.

Beside the ledger, under ``_millstream/runs/<run id>/<number>-<plan digest>/``::

    plan.json      written first: what the run will read
    prepared.json  written before the first commit: every staged file, and the ledger
    record.json    written last, when every output is committed
    failed.json    why a run committed nothing

A run id that is used with another plan gets a folder with the next number; the old one stays as its
history. Nothing is ever renamed, so a crash leaves no state between two.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from contextlib import AbstractContextManager
from dataclasses import dataclass
from typing import Literal, TypeVar

import msgspec

from ..schemas.table import Table
from . import storage
from .carry import Carry
from .dead_letters import Origin
from .ledger import LedgerRow
from .lock import RunLock
from .plan import ENCRYPT, InputFile, Plan, PlanError, Token, checked_name
from .receipts import Part, Receipt, Span
from .run_folder import RunFolder

PREPARED_FORMAT = "millstream.prepared/1"
RECORD_FORMAT = "millstream.run/1"


class AlreadyCommitted(RuntimeError):
    """Another run has committed one of the plan's inputs. The message names run and files."""


class PreparedOutput(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """One output, ready to be committed: everything that a restart needs.

    ``withdrawn`` are files of other runs that these take the place of, ``replaces`` rows of tables:
    see :class:`Commit`.
    """

    name: str
    uri: str
    digest: str
    receipts: tuple[Receipt, ...] = ()
    tables: dict[Part, Table] = {}
    kind: str = "records"
    withdrawn: tuple[str, ...] = ()
    replaces: dict[Part, Span] = {}


class Replayed(msgspec.Struct, frozen=True, kw_only=True):
    """What a replay has read: files of letters, and the ids of those that have failed again before
    anything was committed."""

    letters: tuple[str, ...]
    failed: tuple[str, ...] = ()


class Prepared(msgspec.Struct, frozen=True, kw_only=True):
    """What a run will commit, decided once: the outputs, in this order, and the ledger.

    ``carry`` is what it leaves to the next run, where a job goes on from one to the next;
    ``replayed`` are the dead letters that it has read.
    """

    format: str = PREPARED_FORMAT
    token: str
    outputs: tuple[PreparedOutput, ...]
    ledger_uri: str
    ledger: tuple[LedgerRow, ...]
    unreadable: tuple[str, ...] = ()
    carry: Carry | None = None
    replayed: Replayed | msgspec.UnsetType = msgspec.UNSET


class RunRecord(msgspec.Struct, frozen=True, kw_only=True):
    """How a run ended. ``rows`` are visible rows by output; ``finished_at`` is ISO 8601, UTC.

    ``unreadable`` lists regions of inputs, as ``source @ position``, that could not be read.
    """

    format: str = RECORD_FORMAT
    run_id: str
    plan_digest: str
    status: Literal["committed", "failed"]
    finished_at: str
    rows: dict[str, int] = {}
    digests: dict[str, str] = {}
    unreadable: tuple[str, ...] = ()
    error: str = ""
    ledger: tuple[LedgerRow, ...] = ()


@dataclass(frozen=True)
class Decision:
    """What the launcher has to do.

    ``start``: run the pipeline. ``replace``: run it too; what the run id held is replaced.
    ``resume``: complete ``prepared`` (which may be of an older plan of this run id), then ask
    again. ``done``: nothing; ``record`` says how it ended.

    ``forgotten``: of what is to be replaced, the outputs may no longer know (``millstream gc``);
    ``record`` says what they were given.
    """

    kind: Literal["start", "replace", "resume", "done"]
    token: Token
    prepared: Prepared | None = None
    record: RunRecord | None = None
    forgotten: bool = False


class RunStore:
    """The runs of one job, in a ledger destination's ``home`` folder. Picklable.

    All methods raise ``StorageError`` when a file cannot be read or written.
    """

    def __init__(self, home: str) -> None:
        self.home = storage.absolute(home)

    def lock(
        self, run_id: str, *, wait_seconds: float = 0, lease_seconds: float = 60
    ) -> AbstractContextManager[RunLock]:
        """The job's lock, to hold from :meth:`begin` to the end of the run."""
        folder = storage.join(self.home, "_millstream", "lock")
        return RunLock(folder, run_id, wait_seconds=wait_seconds, lease_seconds=lease_seconds)

    def begin(self, plan: Plan, run_id: str | None = None, *, reprocess: bool = False) -> Decision:
        """Write the plan down, and say what is left to do. Call it with the lock held.

        Args:
            plan: what the run would do.
            run_id: its name; without one, the first 16 hex digits of the plan's digest.
            reprocess: let the run read what another run has committed.

        Raises:
            AlreadyCommitted: another run has committed, or prepared, one of the inputs.
            PlanError: the run id cannot be used.
        """
        token = plan.token(run_id)
        attempts = self._attempts(token.run_id)
        standing = next((a for a in reversed(attempts) if a.record or a.prepared), None)
        if standing and standing.record and standing.names(plan.digest):
            return Decision("done", token, record=self._read(standing.path("record"), RunRecord))
        if standing and not standing.record:
            prepared = self._read(standing.path("prepared"), Prepared)
            return Decision("resume", Token.parse(prepared.token), prepared=prepared)
        if not reprocess:
            self._refuse_committed(plan.inputs, token.run_id)
        latest = attempts[-1] if attempts else None
        if latest is None or latest is standing or not latest.names(plan.digest):
            number = latest.number + 1 if latest else 1
            latest = _Attempt(self._folder(token.run_id), number, token)
            storage.write_once(latest.path("plan"), plan.to_json())
        elif latest.holds("failed"):
            storage.delete(latest.path("failed"))  # or it would be taken for how this attempt ended
        if standing is None:
            return Decision("start", token)
        record = self._read(standing.path("record"), RunRecord)
        # What it had prepared goes first when its tokens go.
        return Decision("replace", token, record=record, forgotten=not standing.prepared)

    def prepare(self, prepared: Prepared) -> Prepared:
        """Write down what will be committed; what another attempt wrote first stands instead."""
        path = self._latest(Token.parse(prepared.token)).path("prepared")
        if storage.write_once(path, msgspec.json.encode(prepared)):
            return prepared
        return self._read(path, Prepared)

    def prepared(self, token: Token) -> Prepared | None:
        """What an attempt of this plan has prepared."""
        attempt = self._latest(token)
        return self._read(attempt.path("prepared"), Prepared) if attempt.prepared else None

    def place_of_prepared(self, token: Token) -> str:
        """The file of what a plan has prepared."""
        return self._latest(token).path("prepared")

    def standing(self, run_id: str) -> Prepared | None:
        """What a run id has prepared and not all committed yet."""
        for attempt in reversed(self._attempts(run_id)):
            if attempt.record:
                return None
            if attempt.prepared:
                return self._read(attempt.path("prepared"), Prepared)
        return None

    def discard(self, token: Token) -> None:
        """Forget what a plan has prepared, of which nothing is committed."""
        storage.delete(self._latest(token).path("prepared"))

    def plan(self, token: Token) -> Plan | None:
        """The plan that the token names; ``None`` if it is not known any more.

        Raises:
            StorageError: it cannot be read.
        """
        for attempt in self._attempts(token.run_id):
            if attempt.names(token.plan_digest):
                return _plan_of(attempt)
        return None

    def inputs(self, token: Token) -> tuple[InputFile, ...]:
        """The files that a plan reads; none if it is not known any more."""
        plan = self.plan(token)
        return plan.inputs if plan else ()

    def delete(self, run_id: str) -> None:
        """Delete all that is known of a run, the plan last: until then it can be done again."""
        folder = self._folder(checked_name(run_id, "run id"))
        paths = storage.list_files(folder, deep=True)
        for path in sorted(paths, key=lambda path: path.endswith("/plan.json")):
            storage.delete(path)
        folders = {path.rpartition("/")[0] for path in paths}
        folders |= {inner.rpartition("/")[0] for inner in folders}
        for inner in sorted(folders, key=len, reverse=True):
            if inner.startswith(folder):
                storage.delete_empty_folder(inner)

    def folder(self, token: Token) -> RunFolder:
        """The folder of the plan that the token names, which has begun."""
        attempt = self._latest(token)
        plan = _plan_of(attempt)
        origin = Origin("", plan.job, token.run_id, plan.contract_id, plan.contract_version)
        return RunFolder(attempt.place, origin, plan.settings.get(ENCRYPT, ""))

    def finish(self, record: RunRecord) -> RunRecord:
        """Write how the run ended: the last thing a run does.

        Of several attempts that commit, the first record stands. A failed record stands in the way
        of nothing.
        """
        attempt = self._latest(Token(record.run_id, record.plan_digest))
        data = msgspec.json.encode(record)
        if record.status == "failed":
            storage.write_replace(attempt.path("failed"), data)
            return record
        if storage.write_once(attempt.path("record"), data):
            return record
        return self._read(attempt.path("record"), RunRecord)

    def record(self, token: Token) -> RunRecord | None:
        """How the run ended: its record, else why it failed last."""
        attempt = self._latest(token)
        for name in ("record", "failed"):
            if attempt.holds(name):
                return self._read(attempt.path(name), RunRecord)
        return None

    def is_settled(self, token: Token) -> bool:
        """Whether a plan has been committed, or prepared, so that nothing of it is decided anew."""
        attempts = self._attempts(token.run_id)
        named = [attempt for attempt in attempts if attempt.names(token.plan_digest)]
        return any(attempt.record or attempt.prepared for attempt in named)

    def committed(self) -> Iterator[RunRecord]:
        """The records that stand: one for each run id that has committed."""
        for attempts in self._all().values():
            standing = next((a for a in reversed(attempts) if a.record), None)
            if standing:
                yield self._read(standing.path("record"), RunRecord)

    def runs(self) -> dict[str, bool]:
        """Every run id that was ever begun → whether it has prepared what is not all committed yet.

        Of such a run a restart needs every file.
        """
        return {
            run_id: any(a.prepared and not a.record for a in attempts)
            for run_id, attempts in self._all().items()
        }

    def refuse_committed(self, token: Token) -> None:
        """See that no other run has committed what the plan reads, since it was begun.

        Raises:
            AlreadyCommitted: one has, or has prepared it.
        """
        self._refuse_committed(self.inputs(token), token.run_id)

    def _refuse_committed(self, inputs: Iterable[InputFile], run_id: str) -> None:
        wanted = set(inputs)
        for other, attempts in self._all().items():
            if other == run_id:
                continue
            taken = sorted(wanted.intersection(self._inputs(attempts)))
            if taken:
                files = ", ".join(file.source for file in taken[:3])
                more = f" and {len(taken) - 3} more" if len(taken) > 3 else ""
                raise AlreadyCommitted(
                    f"run {other} has already committed {files}{more}; leave them out, use run id "
                    f"{other} to replace that run, or allow reprocessing"
                )

    def _inputs(self, attempts: list[_Attempt]) -> Iterator[InputFile]:
        """What a run id holds: the last recorded plan's inputs, and those half committed since."""
        for attempt in reversed(attempts):
            if attempt.record or attempt.prepared:
                yield from Plan.from_json(storage.read_bytes(attempt.path("plan"))).inputs
            if attempt.record:
                return

    def _latest(self, token: Token) -> _Attempt:
        for attempt in reversed(self._attempts(token.run_id)):
            if attempt.names(token.plan_digest):
                return attempt
        raise storage.StorageError(
            f"run {token.run_id} has not begun plan {token.plan_digest[:16]} in {self.home}"
        )

    def _attempts(self, run_id: str) -> list[_Attempt]:
        folder = self._folder(checked_name(run_id, "run id"))
        return self._grouped(storage.list_files(folder, ".json", deep=True)).get(run_id, [])

    def _all(self) -> dict[str, list[_Attempt]]:
        return self._grouped(storage.list_files(self._runs, ".json", deep=True))

    def _grouped(self, paths: list[str]) -> dict[str, list[_Attempt]]:
        found: dict[tuple[str, str], set[str]] = {}
        for path in paths:
            match path.removeprefix(self._runs).strip("/").split("/"):
                case [run_id, folder, name]:
                    found.setdefault((run_id, folder), set()).add(name.removesuffix(".json"))
        grouped: dict[str, list[_Attempt]] = {}
        for (run_id, folder), names in sorted(found.items()):
            number, _, digest = folder.partition("-")
            token = Token(run_id, digest)
            attempt = _Attempt(self._folder(run_id), int(number), token, frozenset(names))
            grouped.setdefault(run_id, []).append(attempt)
        return grouped

    @property
    def _runs(self) -> str:
        return storage.join(self.home, "_millstream", "runs")

    def _folder(self, run_id: str) -> str:
        return storage.join(self._runs, run_id)

    def _read(self, path: str, kind: type[_Stored]) -> _Stored:
        try:
            found = msgspec.json.decode(storage.read_bytes(path), type=kind)
        except msgspec.DecodeError as exc:
            raise storage.StorageError(f"cannot read {path}: {exc}", path) from exc
        expected = PREPARED_FORMAT if kind is Prepared else RECORD_FORMAT
        if found.format != expected:
            raise storage.StorageError(
                f"cannot read {path}: format {found.format!r}, not {expected!r}", path
            )
        return found


_Stored = TypeVar("_Stored", Prepared, RunRecord)


def _plan_of(attempt: _Attempt) -> Plan:
    path = attempt.path("plan")
    try:
        return Plan.from_json(storage.read_bytes(path))
    except PlanError as error:
        raise storage.StorageError(f"cannot read {path}: {error}", path) from error


@dataclass(frozen=True)
class _Attempt:
    """The folder of one plan of a run id."""

    folder: str
    number: int
    token: Token
    names_held: frozenset[str] = frozenset()

    def names(self, plan_digest: str) -> bool:
        return self.token.plan_digest[:16] == plan_digest[:16]

    def holds(self, name: str) -> bool:
        return name in self.names_held

    @property
    def record(self) -> bool:
        return self.holds("record")

    @property
    def prepared(self) -> bool:
        return self.holds("prepared")

    @property
    def place(self) -> str:
        return storage.join(self.folder, f"{self.number:04d}-{self.token.plan_digest[:16]}")

    def path(self, name: str) -> str:
        return storage.join(self.place, f"{name}.json")
