"""Publishing a part: one run that puts its new windows and states in the place of the old ones."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import msgspec
import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from ...schemas.aggregates.open_windows import (
    PANE,
    PANES,
    REVISION,
    Trigger,
    contributed,
    given_schema,
)
from ...schemas.aggregates.spec import ROWS, AggregateSpec
from ...schemas.aggregates.states import state_schema
from ..aggregate import batches_of
from ..ledger import LedgerRow
from ..plan import Plan, Token
from ..receipts import Part as Kind
from ..receipts import Receipt, Span
from ..replay.corrections import corrected_output
from ..runs import Decision, Prepared, PreparedOutput, RunStore
from ..write.attempts import PATIENCE_SECONDS
from ..write.commit import complete, prepared_output
from ..write.destination import DestinationError, Output
from ..write.files import FilesDestination
from ..write.stage import StagedFiles
from ..write.tables import TableDestination
from .compare import has_revisions
from .parts import Part, iso
from .replacing import COLUMNS, Kept, Rewriting, kept_beside
from .results import Made


@dataclass(frozen=True)
class Target:
    """An aggregate that is published.

    Attributes:
        output: where to.
        columns: of its results there.
        revision: what rows get that are given repeatedly; ``None`` where the first have none.
    """

    output: Output
    spec: AggregateSpec
    columns: pa.Schema
    revision: int | None = None


def target_of(output: Output, spec: AggregateSpec, trigger: Trigger, revision: int) -> Target:
    """Where an aggregate's results are published, in the columns that are there.

    Args:
        trigger: when its windows are given as a rule.
        revision: greater than, or the same as, all that its rows have by now.

    Raises:
        DestinationError: rows cannot be replaced there.
        Unavailable: the service does not answer.
    """
    to = output.destination
    if not isinstance(to, FilesDestination):
        if not isinstance(to, TableDestination) or not to.replaces_spans:
            raise DestinationError(f"{to.place}: rows of the past cannot be replaced there")
        if to.options.mode == "replace":
            said = "mode=replace would put a part's windows in place of all of their partition"
            raise DestinationError(f"{to.place}: {said}")
    columns = given_schema(spec, trigger)
    if trigger.repeats:
        return Target(output, spec, columns, revision)
    if not isinstance(to, FilesDestination) and has_revisions(output):  # a replay has added them
        columns = pa.schema([*columns, *(field.with_nullable(True) for field in PANES)])
        output = corrected_output(output, columns)
    return Target(output, spec, columns)


@dataclass(frozen=True)
class Publishing:
    """Publishes parts, one after another, with the job's lock held.

    Attributes:
        store: of the job's runs.
        plan: of the backfill; the run of each part has one of its own, made of it.
        name: of the backfill, as its runs are called.
        source: where the records were read, as the ledger says it.
        edges: where parts begin, in order, and where the last one ends.
    """

    store: RunStore
    plan: Plan
    name: str
    ledger_uri: str
    source: str
    edges: Sequence[int]
    patience: float = PATIENCE_SECONDS

    def is_new(self, part: Part) -> bool:
        """Whether a part was never published by this backfill."""
        return self._begun(part, 1).kind == "start"

    def publish(
        self,
        part: Part,
        made: Mapping[str, Made],
        targets: Sequence[Target],
        check: Callable[[], object] | None = None,
    ) -> Token:
        """Publish a part, or complete what an interrupted run has prepared of it.

        Args:
            made: its new windows, by aggregate.
            check: called before each commit, to stop by raising.

        Raises:
            DestinationError, Unavailable, StorageError: nothing, or not all, is published; what is
                missing is when it is done again.
        """
        number = 1
        while True:
            decision = self._begun(part, number)
            if decision.prepared is not None:
                complete(self.store, decision.prepared, check=check, patience=self.patience)
                return decision.token
            if decision.kind == "start":
                break
            number += 1  # what was published has been changed since
        prepared = self.store.prepare(self._prepared(decision.token, part, made, targets))
        complete(self.store, prepared, check=check, patience=self.patience)
        return decision.token

    def _begun(self, part: Part, number: int) -> Decision:
        settings = {**self.plan.settings, "part": f"{part.start}-{part.end}"}
        plan = msgspec.structs.replace(self.plan, settings=settings)
        stamp = iso(part.start).translate(str.maketrans("", "", "-:"))
        return self.store.begin(plan, f"backfill-{self.name}-{stamp}-{number}", reprocess=True)

    def _prepared(
        self, token: Token, part: Part, made: Mapping[str, Made], targets: Sequence[Target]
    ) -> Prepared:
        outputs, rows = [], []
        for target in targets:
            new = made[target.spec.name]
            outputs.append(self._output(token, part, new, target))
            count = pc.sum(new.states[ROWS]).as_py() or 0
            name = target.output.name
            rows.append(
                LedgerRow(
                    run_id=token.run_id, source=self.source, output=name, read=count, written=count
                )
            )
        return Prepared(
            token=str(token), outputs=tuple(outputs), ledger_uri=self.ledger_uri, ledger=tuple(rows)
        )

    def _output(self, token: Token, part: Part, new: Made, target: Target) -> PreparedOutput:
        output, spec = target.output, target.spec
        kept = kept_beside(output, spec, part, new.states, target.columns)
        receipts = self._staged(token, new, kept, target)
        spans: dict[Kind, Span] = {
            kind: Span(column, part.start, kept.until) for kind, column in COLUMNS.items()
        }
        if not isinstance(output.destination, FilesDestination):
            return msgspec.structs.replace(prepared_output(output, receipts), replaces=spans)
        withdrawn: list[str] = []
        rewriting = Rewriting(output, target.columns, self.edges, token)
        for kind, span in spans.items():
            left, gone = rewriting.without(kind, span)
            receipts += left
            withdrawn += gone
        prepared = prepared_output(output, receipts)
        return msgspec.structs.replace(prepared, withdrawn=tuple(withdrawn))

    def _staged(self, token: Token, new: Made, kept: Kept, target: Target) -> list[Receipt]:
        spec = target.spec
        columns, states = target.columns, state_schema(spec)
        tables: dict[Kind, list[pa.Table]] = {
            "data": [_given(new.visible, target), kept.visible.cast(columns)],
            "states": [contributed(new.states, spec, str(token)), kept.states.cast(states)],
        }
        receipts: list[Receipt] = []
        for kind, some in tables.items():
            files = StagedFiles(target.output, token, kind)
            try:
                for table in some:
                    for batch in batches_of(table):
                        files.write(batch)
                receipts += files.close()
            except BaseException:
                files.abandon()
                raise
        return receipts


def _given(visible: pa.Table, target: Target) -> pa.Table:
    """Results in the columns of the output: with pane and revision, where it has these."""
    said = {
        PANE: pa.nulls(len(visible), pa.string()),
        REVISION: pa.nulls(len(visible), pa.int64()),
    }
    if target.revision is not None:
        said[PANE] = pa.array(["on_time"] * len(visible), pa.string())
        said[REVISION] = pa.array(np.full(len(visible), target.revision))
    arrays = [
        visible[name] if name in visible.schema.names else said[name]
        for name in target.columns.names
    ]
    return pa.Table.from_arrays(arrays, schema=target.columns)
