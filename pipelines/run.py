"""A job made ready to run: all that its graph is built from."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

import apache_beam as beam

from ..schemas.aggregates.open_windows import Trigger
from ..schemas.aggregates.spec import AggregateSpec
from ..schemas.contract import Contract
from ..schemas.steps import RecordStep
from ..transforms import storage
from ..transforms.carry import Carry, SourceState
from ..transforms.dead_letters import Origin
from ..transforms.intervals.commit import CommitInterval, Commits
from ..transforms.intervals.slices import CommitSlices
from ..transforms.plan import Plan, Token
from ..transforms.read.streams.unbounded import Pace
from ..transforms.runs import RunStore
from ..transforms.stage_result import StageResult
from ..transforms.write.commit import CommitRun, refuse_shared
from ..transforms.write.destination import Output
from ..transforms.write.files import SPILL
from ..transforms.write.manifests import PRIVATE
from .job import Job
from .names import RECORDS

if TYPE_CHECKING:
    from ..transforms.drift.watch import Watch
    from ..transforms.quality.gate import Gate
    from ..transforms.quality.judge import Judge
    from ..transforms.repair import Repair
    from .replay import Replaying

Reads = Callable[[beam.Pipeline, "Run", Origin], tuple[StageResult, Any]]
"""Puts the reading of a stream into a pipeline: what is read, and how far."""

SHARDS = 4
"""Parts that an aggregate is merged in, where the job does not say."""


@dataclass(frozen=True)
class Endless:
    """How a run goes on for ever: by how many workers at once a stream is read, how, and after how
    many seconds what has been read is committed in any case. ``once`` says that the runner does
    nothing twice: with a bundle the whole pipeline fails."""

    parts: int
    pace: Pace
    every: float
    once: bool = False


@dataclass(frozen=True)
class GoesOn:
    """How a run goes on from the one before it: what it carries on, and what it reads."""

    commits: Commits
    carry: Carry
    read: Reads | None = None
    endless: Endless | None = None

    def trigger(self, spec: AggregateSpec) -> Trigger:
        """When an aggregate's windows are given."""
        return next(a.trigger for a in self.commits.aggregates if a.spec.name == spec.name)

    @property
    def states(self) -> dict[str, SourceState]:
        """Where partitions stand."""
        return self.carry.sources


@dataclass(frozen=True)
class Run:
    """A job made ready: everything the graph is built from.

    ``steps`` end with the one, if any, that adds the columns ``derived`` for the aggregates.
    ``outputs`` are committed in order. ``unattended`` says that its launcher does not wait for it.
    ``gate`` judges what was staged, ``watch`` before it what drifted; ``row_rules`` refuse records
    before anything else does; ``repair`` is tried on those that do not keep the contract.
    With ``replay`` it reads dead letters in the place of the input.
    """

    job: Job
    contract: Contract
    steps: tuple[RecordStep, ...]
    derived: tuple[str, ...]
    aggregates: tuple[AggregateSpec, ...]
    plan: Plan
    store: RunStore
    token: Token
    outputs: tuple[Output, ...]
    ledger: Output
    goes_on: GoesOn | None = None
    unattended: bool = False
    replay: Replaying | None = None
    gate: Gate | None = None
    watch: Watch | None = None
    row_rules: RecordStep | None = None
    repair: Repair | None = None

    def commit(self) -> beam.PTransform:
        """The end of the graph.

        Raises:
            DestinationError: two outputs have one name, or one place.
        """
        refuse_shared([*self.outputs, self.ledger])
        if self.replay:
            return self.replay.commit(self)
        if self.goes_on and (endless := self.goes_on.endless):
            return CommitSlices(
                replace(self.goes_on.commits, gate=self.judge),
                self.plan,
                self.goes_on.carry,
                slice_seconds=endless.pace.slice_seconds,
                every=endless.every,
            )
        if self.goes_on:
            going = self.goes_on
            commits = replace(going.commits, gate=self.judge)
            return CommitInterval(
                commits, self.plan, self.token, going.carry, close=self.job.close_windows
            )
        return CommitRun(
            self.store,
            self.token,
            self.outputs,
            self.ledger.uri,
            patience=self.job.retry_seconds,
            unattended=self.unattended,
            reprocess=self.job.reprocess,
            gate=self.judge,
        )

    @property
    def judge(self) -> Judge | None:
        """Who decides what may be committed."""
        if self.watch is None:
            return self.gate
        return replace(self.watch, gate=self.gate, tells=self.is_endless or self.unattended)

    @property
    def is_endless(self) -> bool:
        """Whether it reads a stream for as long as it runs."""
        return self.goes_on is not None and self.goes_on.endless is not None

    @property
    def spill(self) -> str:
        """The folder for what waits while keys are compared."""
        return storage.join(self.store.home, PRIVATE, "staging", self.token.run_id, SPILL)

    @property
    def needs_watermarks(self) -> bool:
        """Whether it matters how far event time has come where a record was read."""
        return bool(self.aggregates) or self.job.deduplicate == "horizon"

    @property
    def keeps_payload(self) -> bool:
        """Whether a record's bytes are needed after it has been parsed: for the dead letters of
        steps, and of destinations that refuse rows; and for records that are late."""
        late = self.goes_on is not None and bool(self.aggregates)
        return late or bool(self.steps) or self.row_rules is not None or self.refuses_rows

    @property
    def refuses_rows(self) -> bool:
        """Whether the destination of records may refuse some."""
        return any(out.destination.refuses for out in self.outputs if out.name == RECORDS)
