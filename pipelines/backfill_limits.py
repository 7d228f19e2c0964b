"""How far a backfill may go, in a job that goes on: windows that are open are the job's own."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import msgspec

from ..schemas.dead_letters import AGGREGATE
from .job import JobError, Places
from .names import DEAD_LETTERS, LATE

if TYPE_CHECKING:
    from ..schemas.aggregates.open_windows import Trigger
    from ..schemas.aggregates.spec import AggregateSpec
    from ..transforms.carry import Carry
    from ..transforms.letters import Letters
    from .run import Run


class Limit(msgspec.Struct, frozen=True):
    """Up to where windows have been given for good: the last ``--to``, and the last instant of the
    records that they may be made of."""

    end: int
    watermark: int


def limits(
    run: Run,
    specs: Sequence[AggregateSpec],
    triggers: Mapping[str, Trigger] | None,
    places: Places,
) -> dict[str, Limit]:
    """By aggregate, how far a backfill may go; nothing of a job that does not go on.

    Raises:
        JobError: the job has not read a record yet.
    """
    if triggers is None:
        return {}
    from ..schemas.watermarks import NEVER
    from ..transforms.intervals.chain import Chain

    carry = Chain(run.store).carry()
    if carry is None or carry.watermark <= NEVER:
        raise places.error_of_all("the job has not committed a record yet, and so has no history")
    return {spec.name: _limit(spec, triggers[spec.name], carry) for spec in specs}


def _limit(spec: AggregateSpec, trigger: Trigger, carry: Carry) -> Limit:
    from ..schemas.aggregates.windows import Session
    from ..transforms.backfill.parts import closed_before

    end = closed_before(spec.window, carry.watermark - trigger.lateness_us)
    if isinstance(spec.window, Session):
        end = min([end, *_begins(spec, trigger, carry)])
    return Limit(end, carry.watermark)


def _begins(spec: AggregateSpec, trigger: Trigger, carry: Carry) -> list[int]:
    """When the sessions began that are open, or may be corrected."""
    from ..schemas.aggregates.spec import SLICE_START
    from ..transforms.backfill.results import micros
    from ..transforms.intervals.windows import OpenAggregate, read_held

    windows = carry.aggregates.get(spec.name)
    aggregate = OpenAggregate(spec, trigger)
    if windows is None or windows.described != aggregate.described:
        return []
    held = [read_held(windows, shard, aggregate, carry.watermark) for shard in range(carry.shards)]
    return [int(micros(t, SLICE_START).min()) for t in held if t is not None and len(t)]


def too_far(spec: AggregateSpec, end: int, limit: Limit | None, asked: int | None = None) -> None:
    """See that windows before an instant have been given for good.

    Args:
        end: up to where records are needed.
        asked: ``--to``, where sessions that begin before it make more of them needed.

    Raises:
        JobError: they have not.
    """
    if limit is None:
        return
    from ..transforms.backfill.parts import iso

    if asked is not None and end > limit.watermark:
        said = f"--to {iso(asked)}: a session of {spec.name} that begins before it goes on into "
        raise JobError(f"{said}windows that are open; end earlier")
    if asked is None and end > limit.end:
        said = f"--to {iso(end)}: windows of {spec.name} that begin before it are open, or may "
        raise JobError(f"{said}still be corrected; the latest is {iso(limit.end)}")


def refuse_open_letters(run: Run, aggregates: Sequence[str]) -> None:
    """See that no record waits among the late ones that history holds already: a replay would count
    it twice.

    Raises:
        JobError: some do.
    """
    if not run.job.late:
        return
    from ..transforms.letters import open_letters

    letters = open_letters(run.job.late, LATE, run.store.home)
    late_for = [{"key": AGGREGATE, "value": name} for name in aggregates]
    if rows := _open(run, letters, "attributes", late_for):
        said = f"{rows:,} late records of these aggregates are open, and the history holds them "
        said += "too, so that they would be counted twice: bring them in, with dead-letters replay "
        raise JobError(f"{said}--late, or give them up, with dead-letters discard --late; then run")


def refuse_open_refusals(run: Run) -> None:
    """See that no record waits that the output of records has refused: it is in the windows as they
    are, history lacks it, and a replay brings it to that output alone.

    Raises:
        JobError: some do.
    """
    from ..schemas.codes import Code
    from ..transforms.letters import letters_of
    from ..transforms.write.errors import DestinationError

    output = next(output for output in run.outputs if output.name == DEAD_LETTERS)
    try:
        letters = letters_of(output)
    except DestinationError:  # what cannot be read back is not replayed either
        return
    if rows := _open(run, letters, "codes", [Code.DESTINATION]):
        said = f"{rows:,} records that the output has refused are open, and the history is without "
        said += "them: bring them in, with dead-letters replay, or give them up, with dead-letters "
        raise JobError(f"{said}discard; then run this again, or say --source input")


def _open(run: Run, letters: Letters, column: str, meant: Sequence[Any]) -> int:
    """How many letters are not settled that have one of these in a column of lists."""
    from ..transforms.letters import EVERY, Marks
    from ..transforms.letters.summary import UNSETTLED

    marks, rows = Marks(run.store.home), 0
    for batch in letters.batches(EVERY, ("id", "attempt", column)):
        statuses = marks.statuses(batch.column("id"), batch.column("attempt")).to_pylist()
        for status, said in zip(statuses, batch.column(column).to_pylist(), strict=True):
            rows += status in UNSETTLED and any(one in meant for one in said or ())
    return rows
