"""The plan of a run: everything of a job that decides what comes out of it."""

from __future__ import annotations

import json
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import msgspec

from ..schemas.contract import Contract
from ..transforms.plan import ENCRYPT, InputFile, Plan
from ..transforms.write.destination import Output
from .job import AggregateJob, Job
from .names import DEAD_LETTERS, DUPLICATES, LATE, RECORDS
from .steps import Steps

if TYPE_CHECKING:
    from ..schemas.quality.checks import Check


def job_plan(
    job: Job,
    contract: Contract,
    steps: Steps,
    inputs: tuple[InputFile, ...],
    outputs: list[Output],
    checks: Sequence[Check] = (),
) -> Plan:
    from .drift import drift_settings
    from .gates import gate_settings
    from .repairs import repair_settings

    # Places by their absolute names: the plan is the same wherever the job is started from.
    uris = {output.name: output.uri for output in outputs}
    aggregates = [
        {
            "name": a.name,
            "window": a.window,
            "by": a.by,
            "metrics": a.metrics,
            "output": uris[a.name],
            **_repeated(a),
        }
        for a in job.aggregates
    ]
    return Plan(
        job=job.name,
        contract_id=contract.id,
        contract_version=contract.version,
        contract_digest=contract.digest,
        inputs=inputs,
        settings={
            "output": uris.get(RECORDS, ""),
            "dead_letters": uris[DEAD_LETTERS],
            "aggregates": json.dumps(aggregates),
            "format": job.format,
            "compression": job.compression,
            "unknown_fields": job.unknown_fields,
            "max_record_bytes": str(job.max_record_bytes),
            **_widening(job, steps, uris),
            **gate_settings(job, checks),
            **drift_settings(job),
            **repair_settings(job),
        },
    )


def _widening(job: Job, steps: Steps, uris: dict[str, str]) -> dict[str, str]:
    """Settings of what a job need not have: those it has not leave its plan's digest alone."""

    settings = {}
    if job.late or job.until:
        settings["disorder"] = job.disorder
    if job.until:
        settings["until"] = job.until
    if job.close_windows:
        settings["close_windows"] = "true"
    if LATE in uris:
        settings["late"] = uris[LATE]
    if job.deduplicate != "no":
        settings["deduplicate"] = job.deduplicate
    if job.horizon:
        settings["horizon"] = job.horizon
    if DUPLICATES in uris:
        settings["duplicates"] = uris[DUPLICATES]
    if job.steps:
        settings["steps"] = msgspec.json.encode(job.steps).decode()
    if steps.references:
        settings["references"] = json.dumps(steps.references)
    if job.encrypt_dead_letters:
        settings[ENCRYPT] = job.encrypt_dead_letters
    if job.format == "csv":
        settings["csv"] = msgspec.json.encode(job.csv).decode()
    return settings


def _repeated(aggregate: AggregateJob) -> dict[str, Any]:
    """What a plan says of when an aggregate's windows are given, if that is out of the ordinary."""
    said = {"allowed_lateness": aggregate.allowed_lateness, "early": aggregate.early}
    said["panes"] = aggregate.panes if aggregate.panes != "accumulating" else ""
    return {key: value for key, value in said.items() if value}
