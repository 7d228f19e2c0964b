"""The main job as a Beam graph: read, parse, validate, write, aggregate, commit."""

from __future__ import annotations

from dataclasses import dataclass

import apache_beam as beam

from ..schemas.aggregate_spec import AggregateSpec
from ..schemas.contract import Contract
from ..transforms.aggregate import Aggregate
from ..transforms.dead_letters import Origin
from ..transforms.parse import Parse
from ..transforms.plan import Plan, Token
from ..transforms.read.json_lines import ReadFromJsonLines
from ..transforms.runs import RunRecord, RunStore
from ..transforms.write.commit import CommitRun
from ..transforms.write.destination import Output
from ..transforms.write.stage import Stage
from .job import Job

RECORDS = "records"
DEAD_LETTERS = "dead_letters"
SHARDS = 4
"""Parts that an aggregate is merged in, where the job does not say."""


@dataclass(frozen=True)
class Run:
    """A job made ready: everything the graph is built from. ``outputs`` are committed in order."""

    job: Job
    contract: Contract
    aggregates: tuple[AggregateSpec, ...]
    plan: Plan
    store: RunStore
    token: Token
    outputs: tuple[Output, ...]
    ledger: Output

    def commit(self) -> CommitRun:
        """The end of the graph.

        Raises:
            DestinationError: two outputs have one name, or one place.
        """
        return CommitRun(self.store, self.token, self.outputs, self.ledger.uri)


def build(pipeline: beam.Pipeline, run: Run) -> beam.PCollection[RunRecord]:
    """Put the job into a pipeline; gives its run record, once it has been committed."""
    job, token = run.job, run.token
    outputs = {output.name: output for output in run.outputs}
    origin = Origin("", job.name, token.run_id).of(run.contract)

    read = pipeline | "Read" >> ReadFromJsonLines(
        run.plan.inputs,
        max_record_bytes=job.max_record_bytes,
        compression=job.compression,
        origin=origin._replace(stage="read"),
    )
    valid = read.records | "ParseAndValidate" >> Parse(
        run.contract,
        judge=True,
        payload=False,  # files refuse no rows: nobody behind this asks for the bytes again
        unknown_fields=job.unknown_fields,
        origin=origin._replace(stage="parse"),
    )

    facts = [read.tallies]
    # Each stage stages its own dead letters: brought together first, they would have to pass
    # through the runner, which on the local one is memory.
    for stage, result in (("Read", read), ("Parse", valid)):
        letters = Stage(outputs[DEAD_LETTERS], token)
        facts.append(result.dead_letters | f"StageDeadLettersOf{stage}" >> letters)
    if RECORDS in outputs:
        facts.append(valid.records | "StageRecords" >> Stage(outputs[RECORDS], token))
    for spec in run.aggregates:
        output = outputs[spec.name]
        aggregated = valid.records | f"Aggregate_{spec.name}" >> Aggregate(
            spec, shards=job.shards or SHARDS, contribution=str(token)
        )
        states = Stage(output, token, part="states")
        facts += [
            aggregated.tallies,
            aggregated.visible | f"StageVisible_{spec.name}" >> Stage(output, token),
            aggregated.states | f"StageStates_{spec.name}" >> states,
        ]
    return tuple(facts) | "Facts" >> beam.Flatten() | "CommitRun" >> run.commit()
