"""The end of a replay: balance, correct the windows that are touched, commit, mark."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any

import apache_beam as beam
import msgspec

from ..intervals.windows import OpenAggregate, StagedStates
from ..plan import Token
from ..receipts import Receipt, content_digest
from ..runs import Prepared, PreparedOutput, Replayed, RunRecord, RunStore
from ..tallies import Tally
from ..write.attempts import PATIENCE_SECONDS
from ..write.commit import balanced, barrier, complete
from ..write.destination import Output
from .corrections import Correcting
from .frozen import FrozenLetters
from .reading import FailedAgain


@dataclass(frozen=True)
class Replay:
    """What a replay is, beside a run: letters, and aggregates to correct."""

    letters: FrozenLetters
    aggregates: tuple[OpenAggregate, ...] = ()


class CommitReplay(beam.PTransform):
    """Commit a replay once all its facts are in.

    ``PCollection[Tally | Receipt | FailedAgain]``, bounded → ``PCollection[RunRecord]`` with one
    element. Arguments and errors are those of :class:`~..write.commit.CommitRun`.

    Args:
        replay: what it reads, and what it corrects.
    """

    def __init__(
        self,
        store: RunStore,
        token: Token,
        outputs: Sequence[Output],
        ledger_uri: str,
        replay: Replay,
        *,
        patience: float = PATIENCE_SECONDS,
    ) -> None:
        super().__init__()
        self._commit = (store, token, tuple(outputs), ledger_uri, replay, patience)

    def expand(self, pcoll: beam.PCollection) -> Any:
        commit = beam.Map(commit_replay, *self._commit).with_output_types(RunRecord)
        return barrier(pcoll) | "Commit" >> commit


def commit_replay(
    facts: Iterable[Tally | Receipt | FailedAgain],
    store: RunStore,
    token: Token,
    outputs: Sequence[Output],
    ledger_uri: str,
    replay: Replay,
    patience: float,
) -> RunRecord:
    """What :class:`CommitReplay` does with everything that came in. May be called again."""
    prepared = store.prepared(token)
    if prepared is None:
        record = store.record(token)
        if record is not None and record.status == "committed":
            return record
        counted, read = replayed(facts, replay)
        found = balanced(store, token, outputs, ledger_uri, counted)
        found = msgspec.structs.replace(found, replayed=read)
        prepared = store.prepare(_corrected(found, outputs, token, replay))
    return complete(store, prepared, patience=patience)


def replayed(facts: Iterable[Any], replay: Replay) -> tuple[list[Any], Replayed]:
    """The facts that any run has, and what the others say of the letters."""
    others: list[Any] = []
    failed: set[str] = set()
    for fact in facts:
        if isinstance(fact, FailedAgain):
            failed.update(fact.ids)
        else:
            others.append(fact)
    paths = tuple(replay.letters.paths)
    return others, Replayed(letters=paths, failed=tuple(sorted(failed)))


def _corrected(
    prepared: Prepared, outputs: Sequence[Output], token: Token, replay: Replay
) -> Prepared:
    by_name = {output.name: output for output in outputs}
    aggregates = {aggregate.spec.name: aggregate for aggregate in replay.aggregates}
    found = [
        _with_corrections(output, by_name[output.name], aggregates[output.name], token)
        if output.name in aggregates
        else output
        for output in prepared.outputs
    ]
    return msgspec.structs.replace(prepared, outputs=tuple(found))


def _with_corrections(
    prepared: PreparedOutput, output: Output, aggregate: OpenAggregate, token: Token
) -> PreparedOutput:
    spec = aggregate.spec
    came = StagedStates(prepared.receipts, spec, 1).of_shard(0)
    found = Correcting(output, spec, aggregate.trigger, token, came).corrections()
    receipts = sorted((*prepared.receipts, *found.receipts), key=lambda r: (r.part, r.path))
    return msgspec.structs.replace(
        prepared,
        receipts=tuple(receipts),
        digest=content_digest(receipts),
        withdrawn=found.withdrawn,
    )
