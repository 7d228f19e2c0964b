"""One commit of a job that goes on: balance, close windows, prepare, commit, hand on."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, NamedTuple

import apache_beam as beam
import msgspec

from .. import ledger, storage
from ..carry import (
    Carry,
    KeptKeys,
    KeyFile,
    NewKeys,
    Opened,
    Reached,
    Unacknowledged,
    advanced,
    raised,
)
from ..plan import Interval, Plan, Token
from ..quality.facts import MEASURED
from ..read.streams.source import StreamSource
from ..receipts import Receipt
from ..runs import Prepared, RunRecord
from ..tallies import Tally
from ..write.attempts import PATIENCE_SECONDS
from ..write.commit import barrier, prepared_output, refuse_unbalanced, strays
from ..write.destination import Output
from .chain import Chain, Head
from .windows import FAR, HeldStates, NewStates, OpenAggregate, StagedStates, close_windows

if TYPE_CHECKING:
    from ..quality.judge import Judge
    from .keys import Horizon


@dataclass(frozen=True)
class Commits:
    """What all commits of a job have in common.

    Attributes:
        chain: where they are kept.
        outputs: what is committed, in this order.
        ledger_uri: where the ledger's rows go, after all outputs.
        aggregates: outputs whose windows stay open from one commit to the next.
        disorder_us: by how many microseconds a record may come after a later one.
        late: the output of late records.
        horizon: which records are duplicates, if the job asks.
        source: the stream that is told once its records are committed.
        close: the last commit of a stream closes all windows that are open.
        parts: by how many workers at once the stream is read.
        patience: seconds for which a service that does not answer is asked again.
        gate: judges what was staged before anything is committed.
    """

    chain: Chain
    outputs: tuple[Output, ...]
    ledger_uri: str
    aggregates: tuple[OpenAggregate, ...] = ()
    disorder_us: int = 0
    late: str = ""
    horizon: Horizon | None = None
    source: StreamSource | None = None
    close: bool = False
    parts: int = 1
    patience: float = PATIENCE_SECONDS
    gate: Judge | None = None


class CommitInterval(beam.PTransform):
    """Commit what a bounded pipeline has read of a job's input, and go on from there next time.

    ``PCollection`` of facts, of the kinds in :class:`Facts` → ``PCollection[RunRecord]``, one
    element.

    Args:
        plan, token: of this commit, which has been begun.
        carry: of the commit before.
        close: close all windows that are open.

    Raises:
        Unbalanced: in the pipeline, before anything is committed.
        Overtaken: in the pipeline, when another process has made this commit.
    """

    def __init__(
        self, commits: Commits, plan: Plan, token: Token, carry: Carry, *, close: bool = False
    ) -> None:
        super().__init__()
        self._commit = (commits, plan, token, carry, close)

    def expand(self, pcoll: beam.PCollection) -> Any:
        return barrier(pcoll) | "Commit" >> beam.Map(
            _commit_facts, *self._commit
        ).with_output_types(RunRecord)


class Facts(NamedTuple):
    """What a pipeline has said of what it read and staged, by kind."""

    tallies: list[Tally]
    receipts: list[Receipt]
    reached: list[Reached]
    opened: list[Opened]
    unacknowledged: list[Unacknowledged]
    key_files: list[KeyFile]
    new_keys: list[NewKeys]
    quality: tuple[Any, ...] = ()

    @classmethod
    def of(cls, facts: Iterable[Any]) -> Facts:
        """Sort facts by their kinds."""
        kinds: dict[type, list[Any]] = {kind: [] for kind in _KINDS}
        quality = []
        for fact in facts:
            (quality if isinstance(fact, MEASURED) else kinds[type(fact)]).append(fact)
        return cls(*(kinds[kind] for kind in _KINDS), quality=tuple(quality))

    def receipts_of_source(self) -> list[str]:
        """What the stream is to be told once all is committed."""
        return [receipt for fact in self.unacknowledged for receipt in fact.receipts]


_KINDS = (Tally, Receipt, Reached, Opened, Unacknowledged, KeyFile, NewKeys)


def commit_interval(
    commits: Commits,
    plan: Plan,
    token: Token,
    carry: Carry,
    facts: Facts,
    *,
    close: bool = False,
    check: Callable[[], object] | None = None,
    states: HeldStates | None = None,
    new: Mapping[str, NewStates] | None = None,
) -> Head:
    """What :class:`CommitInterval` does with everything that came in. May be called again.

    Args:
        states: what this process knows of open windows, if it makes many commits.
        new: the states that came, by aggregate; else they are read from where they are staged.

    Raises:
        Unbalanced: before anything is prepared or committed.
        Overtaken: another process has made this commit; nothing is changed.
    """
    chain = commits.chain
    states = states or HeldStates()
    prepared = chain.store.prepared(token)
    if prepared is None:
        prepared = _balanced(commits, plan, token, carry, facts, close, states, new or {})
        if commits.gate is not None:
            prepared = commits.gate.judge(chain.store, prepared, facts.quality)
    head = chain.commit(prepared, check=check, patience=commits.patience)
    if commits.gate is not None:
        commits.gate.forget(facts.quality)
    states.turn(head.carry.token)
    told = carry.held_paths | {file.path for file in facts.key_files}
    for path in told - head.carry.held_paths:
        storage.delete(path)  # a restart begins with what this commit has kept
    if commits.source is not None:
        commits.source.acknowledge(facts.receipts_of_source())
        commits.source.committed(head.carry.sources)
    return head


def _balanced(
    commits: Commits,
    plan: Plan,
    token: Token,
    carry: Carry,
    facts: Facts,
    close: bool,
    states: HeldStates,
    new: Mapping[str, NewStates],
) -> Prepared:
    outputs = {output.name: output for output in commits.outputs}
    sources, watermark = advanced(carry, facts.reached, commits.disorder_us)
    tallies, receipts = list(facts.tallies), list(facts.receipts)
    if close:
        # To close is to say that nothing comes before the end of what was open: what does is late.
        watermark = max(watermark, _last_end(carry, facts))
        sources = raised(sources, watermark)
    if commits.source is not None:
        cursors = commits.source.remember(carry.sources, facts.receipts_of_source())
        sources |= {s: msgspec.structs.replace(sources[s], cursor=c) for s, c in cursors.items()}
    kept, wrong = {}, []
    for aggregate in commits.aggregates:
        name = aggregate.spec.name
        staged = [r for r in facts.receipts if r.output == name and r.part == "states"]
        made = close_windows(
            aggregate,
            carry,
            new.get(name) or StagedStates(staged, aggregate.spec, carry.shards),
            [fact for fact in facts.opened if fact.output == name],
            watermark,
            outputs[name],
            token,
            commits.chain.held_folder(token),
            states,
        )
        receipts += made.receipts
        tallies += made.tallies
        kept[name] = made.kept
        wrong += made.wrong
    rows = ledger.build(token.run_id, commits.outputs, tallies, receipts)
    wrong += _unread(plan, facts.reached) + ledger.check(rows)
    wrong += strays(commits.outputs, tallies, receipts)
    wrong += lost_states(commits, facts) + _lost_late(commits, tallies, receipts)
    refuse_unbalanced(commits.chain.store, token, wrong, rows)
    return Prepared(
        token=str(token),
        outputs=tuple(prepared_output(output, receipts) for output in commits.outputs),
        ledger_uri=commits.ledger_uri,
        ledger=tuple(rows),
        unreadable=tuple(sorted(region for r in receipts for region in r.unreadable)),
        carry=msgspec.structs.replace(
            carry,
            sequence=carry.sequence + 1,
            token=str(token),
            watermark=watermark,
            sources=sources,
            aggregates=kept,
            keys=kept_keys(commits, carry, facts, watermark),
        ),
    )


def kept_keys(commits: Commits, carry: Carry, facts: Facts, watermark: int) -> KeptKeys | None:
    """What records will be duplicates of, after this commit."""
    if commits.horizon is None:
        return None
    from .keys import keep_keys, keys_folder

    folder = keys_folder(commits.chain.store.home)
    return keep_keys(commits.horizon, carry, facts.key_files, facts.new_keys, watermark, folder)


def _last_end(carry: Carry, facts: Facts) -> int:
    """The watermark at which all windows are closed that hold a record."""
    ends = [
        closes for w in carry.aggregates.values() for c in w.records.values() for closes, _ in c
    ]
    return max([*ends, *(fact.closes for fact in facts.opened)], default=-FAR)


def _unread(plan: Plan, reached: Sequence[Reached]) -> list[ledger.Imbalance]:
    """Parts of the plan's intervals that nobody says to have read, or that were read twice."""
    parts: dict[str, list[tuple[int, int]]] = {}
    for part in reached:
        if part.start != part.end:
            parts.setdefault(part.source, []).append((part.start, part.end))
    wrong = []
    for interval in plan.intervals:
        at = interval.start
        for start, end in sorted(parts.pop(interval.source, [])):
            at = end if start == at else -1
        if at == -1 or (at != interval.end and not interval.is_open):
            wrong.append(_not_as_planned(interval))
    for source in parts:
        if plan.intervals:
            wrong.append(_not_as_planned(Interval(source, 0, 0)))
    return wrong


def _not_as_planned(interval: Interval) -> ledger.Imbalance:
    reason = f"positions {interval.start} to {interval.end} were planned, and others read"
    return ledger.Imbalance(interval.source, "", interval.end - interval.start, reason)


def lost_states(commits: Commits, facts: Facts) -> list[ledger.Imbalance]:
    """Aggregates whose states hold another number of records than went in."""
    wrong = []
    held = ledger.contributions(commits.outputs, facts.receipts)
    for aggregate in commits.aggregates:
        name = aggregate.spec.name
        entered = sum(fact.rows for fact in facts.opened if fact.output == name)
        if entered != held[name]:
            reason = f"its states hold {held[name]} records, and {entered} went in"
            wrong.append(ledger.Imbalance("", name, entered - held[name], reason))
    return wrong


def _lost_late(
    commits: Commits, tallies: Iterable[Tally], receipts: Iterable[Receipt]
) -> list[ledger.Imbalance]:
    """Whether as many late records are staged as were counted."""
    if not commits.late:
        return []
    counted = sum(tally.rows for tally in tallies if tally.outcome == "late")
    staged = sum(receipt.rows for receipt in receipts if receipt.output == commits.late)
    if staged == counted:
        return []
    reason = f"{counted} records were late, and {staged} are staged"
    return [ledger.Imbalance("", commits.late, counted - staged, reason)]


def _commit_facts(
    facts: list[Any], commits: Commits, plan: Plan, token: Token, carry: Carry, close: bool
) -> RunRecord:
    return commit_interval(commits, plan, token, carry, Facts.of(facts), close=close).record
