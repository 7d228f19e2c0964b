"""The end of a run: balance, prepare, commit every output, record.

Everything up to ``prepared.json`` can be thrown away; everything after it follows from
``prepared.json`` alone, and can be repeated from any point, by this run or by a later one.
"""

from __future__ import annotations

import hashlib
from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from datetime import UTC, datetime
from functools import cache, cached_property
from itertools import chain
from typing import TYPE_CHECKING, Any, Literal

import apache_beam as beam
import msgspec
from apache_beam.transforms.window import GlobalWindows

from ...schemas.table import Table
from .. import ledger, storage
from ..plan import Token
from ..quality.facts import MEASURED
from ..receipts import Part, Receipt, content_digest
from ..runs import AlreadyCommitted, Prepared, PreparedOutput, RunRecord, RunStore
from ..tallies import Tally
from .attempts import PATIENCE_SECONDS, Attempts
from .destination import Commit, Destination, Output, destination
from .errors import DestinationError
from .refusals import refused_by_source, refused_letters
from .stage import stage_batches, staged_folder

if TYPE_CHECKING:
    from ..quality.judge import Judge
    from ..replay.settling import Settling

LEDGER = "ledger"
"""The name of the ledger's own output."""


class Unbalanced(RuntimeError):
    """Records are missing, or too many. The message says where, and whether anything was
    committed."""


class CommitRun(beam.PTransform):
    """Commit a run once all its tallies and receipts are in.

    ``PCollection[Tally | Receipt]``, bounded → ``PCollection[RunRecord]`` with one element. It also
    fires if there is no tally at all.

    Args:
        store: the run store, in which the run has been begun.
        token: the run's token.
        outputs: what to commit, in this order.
        ledger_uri: where the ledger's rows go, after all outputs.
        patience: seconds for which a service that does not answer is asked again.
        unattended: nobody holds the job's lock while the pipeline runs, as its launcher has gone:
            the commit takes it, and looks once more whether another run has committed the inputs.
        reprocess: unattended, it does not look.
        gate: judges what was staged before anything is committed.

    Raises:
        DestinationError: two outputs have one name, or one place.
        AlreadyCommitted: in the pipeline, unattended: another run was sooner.
        Unbalanced: in the pipeline, before anything is committed.
        CommitConflict: in the pipeline, when an output holds the token with other content.
        GateClosed: in the pipeline, before anything is committed.
    """

    def __init__(
        self,
        store: RunStore,
        token: Token,
        outputs: Sequence[Output],
        ledger_uri: str,
        *,
        patience: float = PATIENCE_SECONDS,
        unattended: bool = False,
        reprocess: bool = False,
        gate: Judge | None = None,
    ) -> None:
        super().__init__()
        self._store = store
        self._token = token
        self._outputs = tuple(outputs)
        self._ledger = Output(LEDGER, ledger_uri, "side", state=store.home)
        self._patience = patience
        self._commit = _commit_unattended if unattended else _commit_facts
        self._options: dict[str, Any] = {"reprocess": reprocess} if unattended else {}
        self._options["gate"] = gate
        refuse_shared([*outputs, self._ledger])

    def expand(self, pcoll: beam.PCollection) -> Any:
        return barrier(pcoll) | "Commit" >> beam.Map(
            self._commit,
            self._store,
            self._token,
            self._outputs,
            self._ledger.uri,
            self._patience,
            **self._options,
        ).with_output_types(RunRecord)


def barrier(pcoll: beam.PCollection) -> Any:
    """All elements in one list, once they are all there; an empty list if there are none.

    What a bundle gave before it was retried is gone by then: this is what makes a receipt final.

    Raises:
        ValueError: the input is unbounded, so that "all" never comes.
    """
    if not pcoll.is_bounded:
        raise ValueError("an unbounded PCollection has no end at which it could be committed")
    facts = pcoll | "Unwindow" >> beam.WindowInto(GlobalWindows()) | "Key" >> beam.Map(_keyed)
    # An empty PCollection has no groups; the seed makes one.
    seed = pcoll.pipeline | "Seed" >> beam.Create([(0, None)])
    return (
        (facts, seed)
        | "WithSeed" >> beam.Flatten()
        | "Barrier" >> beam.GroupByKey()
        | "Facts" >> beam.Map(_facts)
    )


def commit_run(
    store: RunStore,
    token: Token,
    outputs: Sequence[Output],
    ledger_uri: str,
    facts: Iterable[Any],
    *,
    check: Callable[[], object] | None = None,
    patience: float = PATIENCE_SECONDS,
    gate: Judge | None = None,
) -> RunRecord:
    """What :class:`CommitRun` does with everything that came in. May be called again and again.

    Args:
        check, patience: see :func:`complete`.
        gate: judges what was staged.

    Raises:
        GateClosed: before anything is prepared or committed.
        Unbalanced: before anything is prepared or committed.
        CommitConflict: an output holds the token with other content.
    """
    prepared = store.prepared(token)
    if prepared is None:
        record = store.record(token)
        if record is not None and record.status == "committed":
            return record  # so long ago that what it had prepared is gone, and its tokens
        facts = list(facts)
        counted = [fact for fact in facts if not isinstance(fact, MEASURED)]
        prepared = balanced(store, token, outputs, ledger_uri, counted)
        prepared = store.prepare(gate.judge(store, prepared, facts) if gate else prepared)
        if gate is not None:
            gate.forget(facts)
    return complete(store, prepared, check=check, patience=patience)


def complete(
    store: RunStore,
    prepared: Prepared,
    *,
    check: Callable[[], object] | None = None,
    patience: float = PATIENCE_SECONDS,
) -> RunRecord:
    """Commit what is prepared and not yet committed, then record the run.

    Needs no pipeline: a launcher calls it to finish what a crashed run had prepared.

    Args:
        check: called before each commit, to stop by raising (``RunLock.check``).
        patience: seconds for which a service that does not answer is asked again.

    Raises:
        CommitConflict: an output holds the token with other content.
        DestinationError: an output can never be committed as things are.
        Unavailable: a service did not answer in time.
        Unbalanced: an output holds another number of rows than it was given.
    """
    return _Completion(store, prepared, check or (lambda: None), Attempts(patience)).record()


class _Completion:
    """The commits of one run: all outputs, then what they refused, then the ledger."""

    def __init__(
        self, store: RunStore, prepared: Prepared, check: Callable[[], object], attempts: Attempts
    ) -> None:
        self._store = store
        self._prepared = prepared
        self._check = check
        self._attempts = attempts
        self._token = Token.parse(prepared.token)
        self._run = store.folder(self._token)
        self._refused: dict[str, str] = {}  # output → path of its refused rows

    def record(self) -> RunRecord:
        outputs = self._prepared.outputs
        self._commit_all([output for output in outputs if output.kind != "dead_letters"])
        # What the others refused is dead too, and so these come last.
        self._commit_all([output for output in outputs if output.kind == "dead_letters"])
        rows = self._ledger()
        self._check()
        self._attempts.call(self._ledger_output().destination.service, self._commit_ledger)
        if self._replay:
            self._replay.mark(self._refused_paths)
        return self._store.finish(
            _record(
                self._token,
                "committed",
                rows={output.name: self._rows(output) for output in outputs},
                digests={output.name: self._digest(output) for output in outputs},
                unreadable=self._prepared.unreadable,
                ledger=tuple(rows),
            )
        )

    def _commit_all(self, outputs: Sequence[PreparedOutput]) -> None:
        self._attempts.call_all(outputs, lambda o: self._destination(o).service, self._commit)

    def _commit(self, output: PreparedOutput) -> None:
        self._check()
        to = self._destination(output)
        receipts, digest = output.receipts, self._digest(output)
        if output.kind == "dead_letters" and self._refused:
            receipts = (*receipts, *self._refused_receipts(output, digest))
        instead = output.withdrawn, output.replaces
        to.commit(Commit(self._token, digest, receipts, output.tables, self._run, *instead))
        if to.refuses:
            self._see_refused(output, to)

    def _see_refused(self, output: PreparedOutput, to: Destination) -> None:
        held = to.committed(self._token.run_id)
        if held is None:
            raise Unbalanced(f"output {output.name!r} does not hold what was committed to it")
        if held.refused:
            self._refused[output.name] = storage.join(self._run.path, held.refused)
        if held.rows != self._rows(output):
            raise Unbalanced(
                f"output {output.name!r} was given {_visible(output.receipts)} rows; it holds "
                f"{held.rows}, and the outputs have refused {self._refused_rows()} in all"
            )

    def _refused_receipts(self, output: PreparedOutput, digest: str) -> list[Receipt]:
        to = Output(output.name, output.uri, "dead_letters", state=self._store.home)
        held = to.destination.committed(self._token.run_id)
        if held is not None and held.digest == digest:
            return []
        letters = chain.from_iterable(map(refused_letters, self._refused_paths))
        if self._replay:
            letters = map(self._replay.next_attempt, letters)
        return stage_batches(to, self._token, letters)

    @property
    def _refused_paths(self) -> list[str]:
        return [self._refused[name] for name in sorted(self._refused)]

    @cached_property
    def _replay(self) -> Settling | None:
        """What becomes of dead letters, if it is them that the run has read."""
        replayed = self._prepared.replayed
        if isinstance(replayed, msgspec.UnsetType):
            return None
        from ..replay.settling import Settling

        return Settling(self._store, self._token, replayed)

    def _digest(self, output: PreparedOutput) -> str:
        """Of what is committed: of dead letters with what other outputs refused."""
        if output.kind != "dead_letters" or not self._refused:
            return output.digest
        names = [path.rpartition("/")[2] for path in sorted(self._refused.values())]
        return hashlib.sha256(" ".join([output.digest, *names]).encode()).hexdigest()

    def _rows(self, output: PreparedOutput) -> int:
        rows = _visible(output.receipts)
        if output.kind == "dead_letters":
            return rows + self._refused_rows()
        return rows - (self._refused_of(output.name).total() if output.name in self._refused else 0)

    def _refused_rows(self) -> int:
        return sum(self._refused_of(name).total() for name in self._refused)

    @cache  # noqa: B019 - lives as long as the completion
    def _refused_of(self, name: str) -> Counter[str]:
        return refused_by_source(self._refused[name])

    def _ledger(self) -> list[ledger.LedgerRow]:
        rows = list(self._prepared.ledger)
        for name in self._refused:
            rows = ledger.with_refused(rows, name, self._refused_of(name))
        if wrong := ledger.check(rows):
            raise Unbalanced(explain(wrong, "after the commits the run does not balance:"))
        return rows

    def _ledger_output(self) -> Output:
        return Output(LEDGER, self._prepared.ledger_uri, "side", state=self._store.home)

    def _commit_ledger(self) -> None:
        rows = self._ledger()
        # Of the rows, not of the file: another version may write the same rows in other bytes.
        digest = hashlib.sha256(msgspec.json.encode(rows, order="sorted")).hexdigest()
        output = self._ledger_output()
        held = output.destination.committed(self._token.run_id)
        done = held is not None and (held.token, held.digest) == (self._token, digest)
        receipts = [] if done else stage_batches(output, self._token, [ledger.to_batch(rows)])
        tables: dict[Part, Table] = {"data": ledger.TABLE}
        # Even if it is held: the commit that was interrupted may have left something to tidy away.
        output.destination.commit(Commit(self._token, digest, tuple(receipts), tables, self._run))

    def _destination(self, output: PreparedOutput) -> Destination:
        return destination(output.uri, output.name, self._store.home)


def _visible(receipts: Iterable[Receipt]) -> int:
    return sum(receipt.rows for receipt in receipts if receipt.part == "data")


def clear_staging(store: RunStore, token: Token, outputs: Iterable[Output]) -> None:
    """Delete what a failed run has staged, unless it is prepared and so can be completed.

    For a launcher that holds the job's lock and whose pipeline has ended.
    """
    if store.prepared(token) is None:
        for output in outputs:
            storage.delete_folder(staged_folder(output.destination, token.run_id))


def balanced(
    store: RunStore,
    token: Token,
    outputs: Sequence[Output],
    ledger_uri: str,
    facts: Iterable[Tally | Receipt],
) -> Prepared:
    """What a run will commit, if it balances; else that is recorded, and nothing prepared.

    Raises:
        Unbalanced: it does not.
    """
    tallies, receipts = [], []
    for fact in facts:
        (receipts if isinstance(fact, Receipt) else tallies).append(fact)
    rows = ledger.build(token.run_id, outputs, tallies, receipts)
    wrong = ledger.check(rows, ledger.contributions(outputs, receipts))
    wrong += strays(outputs, tallies, receipts)
    refuse_unbalanced(store, token, wrong, rows)
    return Prepared(
        token=str(token),
        outputs=tuple(prepared_output(output, receipts) for output in outputs),
        ledger_uri=ledger_uri,
        ledger=tuple(rows),
        unreadable=tuple(sorted(region for r in receipts for region in r.unreadable)),
    )


def refuse_unbalanced(
    store: RunStore,
    token: Token,
    wrong: Sequence[ledger.Imbalance],
    rows: Iterable[ledger.LedgerRow],
) -> None:
    """Record that a run has committed nothing, if something is wrong with its balance.

    Raises:
        Unbalanced: something is.
    """
    if wrong:
        error = explain(wrong)
        store.finish(failed_record(token, error, rows))
        raise Unbalanced(error)


def failed_record(token: Token, error: str, rows: Iterable[ledger.LedgerRow]) -> RunRecord:
    """That a run has committed nothing, and why."""
    return _record(token, "failed", error=error, ledger=tuple(rows))


def prepared_output(output: Output, receipts: Iterable[Receipt]) -> PreparedOutput:
    """What of all receipts is to be committed to an output."""
    ours = sorted((r for r in receipts if r.output == output.name), key=lambda r: (r.part, r.path))
    return PreparedOutput(
        name=output.name,
        uri=output.uri,
        digest=content_digest(ours),
        receipts=tuple(ours),
        tables=dict(output.tables),
        kind=output.kind,
    )


def strays(
    outputs: Sequence[Output], tallies: Iterable[Tally], receipts: Iterable[Receipt]
) -> list[ledger.Imbalance]:
    """Rows staged or counted for an output that will not be committed: a slip in the pipeline."""
    known = {output.name for output in outputs}
    reason = "the run commits no such output"
    return [
        ledger.Imbalance("", fact.output, fact.rows, reason)
        for fact in (*tallies, *receipts)
        if fact.output and fact.output not in known
    ]


def explain(
    wrong: Sequence[ledger.Imbalance],
    said: str = "the run does not balance, and nothing was committed:",
    limit: int = 10,
) -> str:
    """What does not balance, a line each, of at most so many."""
    lines = [f"  {imbalance}" for imbalance in wrong[:limit]]
    if len(wrong) > limit:
        lines.append(f"  … and {len(wrong) - limit} more")
    return "\n".join([said, *lines])


def refuse_shared(outputs: Sequence[Output]) -> None:
    """See that no two outputs have one name, or one place.

    Raises:
        DestinationError: two do.
    """
    names: dict[Any, Output] = {}
    places: dict[Any, Output] = {}
    for output in outputs:
        place = output.destination.place
        for seen, key, word in ((names, output.name, "name"), (places, place, "place")):
            other = seen.setdefault(key, output)
            if other is not output:
                raise DestinationError(
                    f"outputs {other.name!r} and {output.name!r} have the same {word}; "
                    "give each its own"
                )


def _record(token: Token, status: Literal["committed", "failed"], **rest: Any) -> RunRecord:
    """How the run ended, now."""
    now = datetime.now(UTC).isoformat(timespec="milliseconds").replace("+00:00", "Z")
    return RunRecord(
        run_id=token.run_id, plan_digest=token.plan_digest, status=status, finished_at=now, **rest
    )


def _keyed(fact: Any) -> tuple[int, Any]:
    return 0, fact


def _facts(group: tuple[int, Iterable[Any]]) -> list[Any]:
    return [fact for fact in group[1] if fact is not None]


def _commit_facts(
    facts: list[Any],
    store: RunStore,
    token: Token,
    outputs: Sequence[Output],
    ledger_uri: str,
    patience: float,
    *,
    gate: Judge | None = None,
) -> RunRecord:
    return commit_run(store, token, outputs, ledger_uri, facts, patience=patience, gate=gate)


def _commit_unattended(
    facts: list[Any],
    store: RunStore,
    token: Token,
    outputs: Sequence[Output],
    ledger_uri: str,
    patience: float,
    *,
    reprocess: bool,
    gate: Judge | None = None,
) -> RunRecord:
    """Commit a run whose launcher has gone, and with it the lock under which the plan was made."""
    from .replacements import complete_replacements

    with store.lock(token.run_id, wait_seconds=patience) as lock:
        complete_replacements(store, check=lock.check, patience=patience)
        if not reprocess:
            try:
                store.refuse_committed(token)
            except AlreadyCommitted as error:
                store.finish(failed_record(token, str(error), []))
                raise
        return commit_run(
            store, token, outputs, ledger_uri, facts, check=lock.check, patience=patience, gate=gate
        )
