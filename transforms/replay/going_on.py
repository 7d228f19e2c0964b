"""The end of a replay of a job that goes on: one more commit of its chain.

Windows that are open take the records as if they had come in time. Those that have been given are
given anew, whatever lateness the job allows; where the watermark is stays as it is.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any, NamedTuple

import apache_beam as beam
import msgspec
import numpy as np
import pyarrow as pa

from ...schemas.aggregates.open_windows import closing_times, of_one, sessions_around
from ...schemas.aggregates.spec import AggregateSpec
from ...schemas.aggregates.states import merge_states
from ...schemas.aggregates.windows import Session
from .. import ledger
from ..carry import Carry, HeldFile, OpenWindows
from ..intervals.commit import Commits, Facts, kept_keys, lost_states
from ..intervals.windows import (
    OpenAggregate,
    StagedStates,
    StatesAtHand,
    passed,
    read_held,
    write_held,
)
from ..plan import Token
from ..receipts import Receipt
from ..runs import Prepared, Replayed, RunRecord
from ..tallies import Tally
from ..write.commit import barrier, prepared_output, refuse_unbalanced, strays
from ..write.destination import Output
from .commit import Replay, replayed
from .corrections import Correcting


class CommitReplayOn(beam.PTransform):
    """Commit a replay as the next commit of a job that goes on.

    Facts, bounded, with :class:`~.reading.FailedAgain` → ``PCollection[RunRecord]``, one element.

    Args:
        token: of this commit, which has been begun.
        carry: of the commit before.
    """

    def __init__(self, commits: Commits, token: Token, carry: Carry, replay: Replay) -> None:
        super().__init__()
        self._commit = (commits, token, carry, replay)

    def expand(self, pcoll: beam.PCollection) -> Any:
        commit = beam.Map(commit_replay_on, *self._commit).with_output_types(RunRecord)
        return barrier(pcoll) | "Commit" >> commit


def commit_replay_on(
    facts: Iterable[Any], commits: Commits, token: Token, carry: Carry, replay: Replay
) -> RunRecord:
    """What :class:`CommitReplayOn` does with everything that came in. May be called again.

    Raises:
        Unbalanced: before anything is prepared or committed.
        Overtaken: another process has made this commit; nothing is changed.
    """
    chain = commits.chain
    prepared = chain.store.prepared(token)
    if prepared is None:
        others, read = replayed(facts, replay)
        prepared = _prepared(commits, token, carry, Facts.of(others), read)
    return chain.commit(prepared, patience=commits.patience).record


def _prepared(
    commits: Commits, token: Token, carry: Carry, facts: Facts, read: Replayed
) -> Prepared:
    outputs = {output.name: output for output in commits.outputs}
    tallies, receipts = list(facts.tallies), list(facts.receipts)
    kept: dict[str, OpenWindows] = {}
    withdrawn: dict[str, tuple[str, ...]] = {}
    for aggregate in commits.aggregates:
        name = aggregate.spec.name
        found = _revised(aggregate, outputs[name], commits, token, carry, facts)
        receipts += found.receipts
        tallies += found.tallies
        kept[name], withdrawn[name] = found.kept, found.withdrawn
    rows = ledger.build(token.run_id, commits.outputs, tallies, receipts)
    wrong = ledger.check(rows) + strays(commits.outputs, tallies, receipts)
    wrong += lost_states(commits, facts)
    refuse_unbalanced(commits.chain.store, token, wrong, rows)
    prepared = [prepared_output(output, receipts) for output in commits.outputs]
    return Prepared(
        token=str(token),
        outputs=tuple(
            msgspec.structs.replace(output, withdrawn=withdrawn.get(output.name, ()))
            for output in prepared
        ),
        ledger_uri=commits.ledger_uri,
        ledger=tuple(rows),
        carry=msgspec.structs.replace(
            carry,
            sequence=carry.sequence + 1,
            token=str(token),
            aggregates=kept,
            keys=kept_keys(commits, carry, facts, carry.watermark),
        ),
        replayed=read,
    )


class _Revised(NamedTuple):
    receipts: list[Receipt]
    withdrawn: tuple[str, ...]
    tallies: list[Tally]
    kept: OpenWindows


def _revised(
    aggregate: OpenAggregate,
    output: Output,
    commits: Commits,
    token: Token,
    carry: Carry,
    facts: Facts,
) -> _Revised:
    """The windows of one aggregate that have been given, given anew; and those that are open."""
    spec, watermark = aggregate.spec, carry.watermark
    before = carry.aggregates.get(spec.name) or OpenWindows(described=aggregate.described)
    staged = [r for r in facts.receipts if r.output == spec.name and r.part == "states"]
    came = StagedStates(staged, spec, 1).of_shard(0)
    revision = carry.sequence + 1
    correcting = Correcting(output, spec, aggregate.trigger, token, came, revision, watermark)
    corrections = correcting.corrections()
    folder = commits.chain.held_folder(token)
    opened = [fact for fact in facts.opened if fact.output == spec.name]
    records, tallies = passed(spec.name, before, opened, watermark)
    files = _held_with(aggregate, before, carry, correcting, folder)
    kept = OpenWindows(described=aggregate.described, files=tuple(files), records=records)
    return _Revised(corrections.receipts, corrections.withdrawn, tallies, kept)


def _held_with(
    aggregate: OpenAggregate,
    before: OpenWindows,
    carry: Carry,
    correcting: Correcting,
    folder: str,
) -> list[HeldFile]:
    """The files of states of open windows, with what came for these."""
    spec = aggregate.spec
    is_session = isinstance(spec.window, Session)
    # A session that is open may have grown by one that was given: it holds all of that by now.
    states = correcting.touched_sessions() if is_session else correcting.came
    kept_from = carry.watermark - aggregate.trigger.lateness_us
    states = states.filter(pa.array(closing_times(states, spec) > kept_from))
    open_states = StatesAtHand(states, spec, carry.shards)
    files = list(before.files)
    for shard in range(carry.shards):
        ours = open_states.of_shard(shard)
        if not len(ours):
            continue
        if is_session:
            held = read_held(before, shard, aggregate, carry.watermark)
            files = [file for file in files if file.shard != shard]
            if held is not None:
                ours = pa.concat_tables([_apart_from(ours, held, spec), ours])
        files.append(write_held(of_one(ours, spec), spec, shard, folder))
    return files


def _apart_from(sessions: pa.Table, held: pa.Table, spec: AggregateSpec) -> pa.Table:
    """Held sessions that are no part of others."""
    merged = merge_states([held, sessions], spec)
    taken = sessions_around(sessions, merged, spec)
    return held.filter(pa.array(~np.isin(sessions_around(held, merged, spec), taken)))
