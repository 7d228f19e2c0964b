"""The end of a run: balance, prepare, commit every output, record.

Everything up to ``prepared.json`` can be thrown away; everything after it follows from
``prepared.json`` alone, and can be repeated from any point, by this run or by a later one.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterable, Sequence
from datetime import UTC, datetime
from typing import Any, Literal

import apache_beam as beam
import msgspec
from apache_beam.transforms.window import GlobalWindows

from .. import ledger, storage
from ..plan import Token
from ..receipts import Receipt, content_digest
from ..runs import Prepared, PreparedOutput, RunRecord, RunStore
from ..tallies import Tally
from .destination import DestinationError, Output, destination
from .stage import stage_batches, staged_folder

LEDGER = "ledger"
"""The name of the ledger's own output."""


class Unbalanced(RuntimeError):
    """Records are missing, or too many. Nothing was committed; the message says where."""


class CommitRun(beam.PTransform):
    """Commit a run once all its tallies and receipts are in.

    ``PCollection[Tally | Receipt]``, bounded → ``PCollection[RunRecord]`` with one element. It also
    fires if there is no tally at all.

    Args:
        store: the run store, in which the run has been begun.
        token: the run's token.
        outputs: what to commit, in this order.
        ledger_uri: where the ledger's rows go, after all outputs.

    Raises:
        DestinationError: two outputs have one name, or one place.
        Unbalanced: in the pipeline, before anything is committed.
        CommitConflict: in the pipeline, when an output holds the token with other content.
    """

    def __init__(
        self, store: RunStore, token: Token, outputs: Sequence[Output], ledger_uri: str
    ) -> None:
        super().__init__()
        self._store = store
        self._token = token
        self._outputs = tuple(outputs)
        self._ledger = Output(LEDGER, ledger_uri, "side")
        _refuse_shared([*outputs, self._ledger])

    def expand(self, pcoll: beam.PCollection) -> Any:
        return barrier(pcoll) | "Commit" >> beam.Map(
            _commit_facts, self._store, self._token, self._outputs, self._ledger.uri
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
    facts: Iterable[Tally | Receipt],
) -> RunRecord:
    """What :class:`CommitRun` does with everything that came in. May be called again and again.

    Raises:
        Unbalanced: before anything is prepared or committed.
        CommitConflict: an output holds the token with other content.
    """
    prepared = store.prepared(token)
    if prepared is None:
        prepared = store.prepare(_balanced(store, token, outputs, ledger_uri, facts))
    return complete(store, prepared)


def complete(
    store: RunStore, prepared: Prepared, *, check: Callable[[], object] | None = None
) -> RunRecord:
    """Commit what is prepared and not yet committed, then record the run.

    Needs no pipeline: a launcher calls it to finish what a crashed run had prepared.

    Args:
        check: called before each commit, to stop by raising (``RunLock.check``).
    """
    token = Token.parse(prepared.token)
    rows: dict[str, int] = {}
    digests: dict[str, str] = {}
    for output in prepared.outputs:
        if check:
            check()
        destination(output.uri, output.name).commit(token, output.digest, output.receipts)
        rows[output.name] = sum(r.rows for r in output.receipts if r.part == "data")
        digests[output.name] = output.digest
    if check:
        check()
    _commit_ledger(token, prepared)
    return store.finish(
        _record(
            token,
            "committed",
            rows=rows,
            digests=digests,
            unreadable=prepared.unreadable,
            ledger=prepared.ledger,
        )
    )


def clear_staging(store: RunStore, token: Token, outputs: Iterable[Output]) -> None:
    """Delete what a failed run has staged, unless it is prepared and so can be completed.

    For a launcher that holds the job's lock and whose pipeline has ended.
    """
    if store.prepared(token) is None:
        for output in outputs:
            storage.delete_folder(staged_folder(output.destination, token.run_id))


def _balanced(
    store: RunStore,
    token: Token,
    outputs: Sequence[Output],
    ledger_uri: str,
    facts: Iterable[Tally | Receipt],
) -> Prepared:
    tallies, receipts = [], []
    for fact in facts:
        (receipts if isinstance(fact, Receipt) else tallies).append(fact)
    rows = ledger.build(token.run_id, outputs, tallies, receipts)
    wrong = ledger.check(rows, ledger.contributions(outputs, receipts))
    wrong += _strays(outputs, tallies, receipts)
    if wrong:
        error = _explain(wrong)
        store.finish(_record(token, "failed", error=error, ledger=tuple(rows)))
        raise Unbalanced(error)
    return Prepared(
        token=str(token),
        outputs=tuple(_prepared_output(output, receipts) for output in outputs),
        ledger_uri=ledger_uri,
        ledger=tuple(rows),
        unreadable=tuple(sorted(region for r in receipts for region in r.unreadable)),
    )


def _prepared_output(output: Output, receipts: Iterable[Receipt]) -> PreparedOutput:
    ours = sorted((r for r in receipts if r.output == output.name), key=lambda r: (r.part, r.path))
    return PreparedOutput(
        name=output.name, uri=output.uri, digest=content_digest(ours), receipts=tuple(ours)
    )


def _strays(
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


def _explain(wrong: Sequence[ledger.Imbalance], limit: int = 10) -> str:
    lines = [f"  {imbalance}" for imbalance in wrong[:limit]]
    if len(wrong) > limit:
        lines.append(f"  … and {len(wrong) - limit} more")
    return "the run does not balance, and nothing was committed:\n" + "\n".join(lines)


def _commit_ledger(token: Token, prepared: Prepared) -> None:
    # Of the rows, not of the file: another version may write the same rows in other bytes.
    digest = hashlib.sha256(msgspec.json.encode(prepared.ledger, order="sorted")).hexdigest()
    output = Output(LEDGER, prepared.ledger_uri, "side")
    held = output.destination.committed(token.run_id)
    done = held is not None and (held.token, held.digest) == (token, digest)
    receipts = [] if done else stage_batches(output, token, [ledger.to_batch(prepared.ledger)])
    # Even if it is held: the commit that was interrupted may have left something to tidy away.
    output.destination.commit(token, digest, receipts)


def _refuse_shared(outputs: Sequence[Output]) -> None:
    names: dict[Any, Output] = {}
    places: dict[Any, Output] = {}
    for output in outputs:
        place = (output.destination.format, output.destination.home)  # whatever the layout
        for seen, key, word in ((names, output.name, "name"), (places, place, "place")):
            other = seen.setdefault(key, output)
            if other is not output:
                raise DestinationError(
                    f"outputs {other.name!r} and {output.name!r} have the same {word}; "
                    "give each its own"
                )


def _record(token: Token, status: Literal["committed", "failed"], **rest: Any) -> RunRecord:
    """How the run ended, now."""
    now = datetime.now(UTC).isoformat(timespec="seconds").replace("+00:00", "Z")
    return RunRecord(
        run_id=token.run_id, plan_digest=token.plan_digest, status=status, finished_at=now, **rest
    )


def _keyed(fact: Any) -> tuple[int, Any]:
    return 0, fact


def _facts(group: tuple[int, Iterable[Any]]) -> list[Any]:
    return [fact for fact in group[1] if fact is not None]


def _commit_facts(
    facts: list[Any], store: RunStore, token: Token, outputs: Sequence[Output], ledger_uri: str
) -> RunRecord:
    return commit_run(store, token, outputs, ledger_uri, facts)
