"""A job made ready for a backfill: which of its aggregates are made anew, and where they go."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING, NamedTuple

import msgspec

from .job import Job, JobError, Places, check_going_on
from .job_parts import input_format, job_aggregates, job_contract, job_steps, job_triggers
from .prepare import prepare

if TYPE_CHECKING:
    from ..schemas.aggregates.open_windows import Trigger
    from ..schemas.aggregates.spec import AggregateSpec
    from ..transforms.backfill.publish import Target
    from .run import Run
    from .steps import Steps


class Prepared(NamedTuple):
    """A job made ready, and what of it is made anew. ``triggers`` are those of one that goes on."""

    run: Run
    steps: Steps
    specs: tuple[AggregateSpec, ...]
    triggers: dict[str, Trigger] | None
    places: Places


def prepared(job: Job, places: Places, names: Sequence[str]) -> Prepared:
    """A job made ready, without input.

    Args:
        names: of the aggregates that are made anew; none for all.

    Raises:
        JobError: the job cannot be used, or has no such aggregate.
    """
    contract = job_contract(job)
    goes_on = bool(job.until or job.late or job.horizon or job.stream)
    check_going_on(job, goes_on and not job.until, places)
    job = msgspec.structs.replace(job, format=input_format(job, (), places))
    steps = job_steps(job, contract, places)
    aggregates = tuple(job_aggregates(job, steps.contract, places))
    triggers = job_triggers(job, aggregates, goes_on, places) if goes_on else None
    run = prepare(job, contract, steps, aggregates, (), places, triggers)
    return Prepared(run, steps, _chosen(aggregates, names, places), triggers, places)


def _chosen(
    specs: tuple[AggregateSpec, ...], wanted: Sequence[str], places: Places
) -> tuple[AggregateSpec, ...]:
    from ..schemas.problems import did_you_mean

    names = [spec.name for spec in specs]
    if not names:
        raise places.error_of_all("the job has no aggregates: there is nothing to make anew")
    for name in wanted:
        if name not in names:
            hint = did_you_mean(name, names) or f"; there are {', '.join(names)}"
            raise JobError(f"--aggregate: no aggregate {name!r}{hint}")
    return tuple(s for s in specs if not wanted or s.name in wanted)


def targets(found: Prepared) -> Iterator[Target]:
    """Where the chosen aggregates are published.

    Raises:
        JobError: one cannot be.
    """
    from ..schemas.aggregates.open_windows import Trigger
    from ..transforms.backfill.publish import target_of
    from ..transforms.intervals.chain import Chain
    from ..transforms.write.errors import DestinationError

    outputs = {output.name: output for output in found.run.outputs}
    carry = Chain(found.run.store).carry() if found.triggers else None
    names = [spec.name for spec in found.run.aggregates]
    for spec in found.specs:
        trigger = found.triggers[spec.name] if found.triggers else Trigger()
        try:
            yield target_of(outputs[spec.name], spec, trigger, carry.sequence if carry else 1)
        except DestinationError as error:
            at = ("aggregates", names.index(spec.name), "output")
            raise found.places.error(at, str(error)) from None
