"""What a stream's job on Dataflow holds on to when ``--update`` replaces it by a newer version's.

The service takes the new job for a continuation of the old one if their graphs fit together: it
looks steps up by their names, and what waits between and inside them (elements on their way,
groups, state, timers, restrictions of splittable steps) by its coders. A step that is gone or
called otherwise has to be mapped (``--transform_name_mapping``); another coder, an added or removed
side input, a step that has moved, or state that is gone make it refuse the job; and state that it
does not know of is lost. See
https://cloud.google.com/dataflow/docs/guides/upgrade-guide and
https://cloud.google.com/dataflow/docs/guides/updating-a-pipeline#CCheck.

So the graph of a job that has everything a stream may have is held against a file. What is pickled
is not in it: a replaced job runs the code of the new version. But what is pickled *as data* (by the
coders whose names say so) has to be read by the new version: its classes may get fields that have a
default, and may not be moved.

If the graph is to change, say so in the notes of the release, with the mapping if there is one,
and write the file anew::

    python -m tests.pipelines.test_update_compatibility
"""

from __future__ import annotations

import copy
import difflib
import json
import sys
import tempfile
from pathlib import Path
from typing import Any

import apache_beam as beam
import pytest
from apache_beam.portability import common_urns
from apache_beam.portability.api import beam_runner_api_pb2
from millstream.pipelines import incremental, streaming
from millstream.pipelines.graph import build
from millstream.pipelines.job import load_job
from millstream.pipelines.job_parts import (
    job_aggregates,
    job_contract,
    job_duration,
    job_steps,
    job_triggers,
)
from millstream.pipelines.prepare import prepare
from millstream.pipelines.run import Run
from millstream.pipelines.streams import stream_of
from millstream.transforms.read.generated import samples

from tests.pipelines.clicks import JobFolder
from tests.pipelines.coders import coder_in_words

GOLDEN = Path(__file__).resolve().parents[1] / "golden" / "stream_pipeline.json"
FLAGS = ["--runner=DataflowRunner", "--streaming"]
LINES = """\
late: jsonl:warehouse/late
disorder: 1s
deduplicate: horizon
horizon: 36h
duplicates: parquet:warehouse/duplicates
steps:
  - sql: SELECT * FROM records WHERE page <> '/nowhere'
"""


def stream_pipeline(place: Path) -> beam_runner_api_pb2.Pipeline:
    """The pipeline of a job with steps, aggregates, a horizon and late records, as for Dataflow."""
    folder = JobFolder.make(place / "job")
    path = Path(folder.job)
    text = path.read_text("utf-8").replace("[events/*.jsonl, events/*.jsonl.gz]", "generate://")
    assert "generate://" in text
    path.write_text(text + LINES, "utf-8")
    job, places = load_job(folder.job, {})
    contract = job_contract(job)
    steps = job_steps(job, contract, places)
    aggregates = tuple(job_aggregates(job, steps.contract, places))
    triggers = job_triggers(job, aggregates, True, places)
    run = prepare(job, contract, steps, aggregates, (), places, triggers)
    source = stream_of(job, True, places)
    disorder_us = job_duration(job, "disorder", places)
    runs: list[Run] = []
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(streaming, "stream", lambda run, chain, flags: runs.append(run) or 0)
        assert incremental.run_on(run, triggers, disorder_us, source, places, FLAGS) == 0
        # To try out whether records can be made up takes a second, and is nothing to the graph.
        patch.setattr(samples, "GeneratedLines", lambda *arguments: None)
        pipeline = beam.Pipeline(runner="FnApiRunner")
        build(pipeline, runs[0])
    return pipeline.to_runner_api()


def described(pipeline: beam_runner_api_pb2.Pipeline) -> dict[str, Any]:
    """Steps by their names: what each is, what flows into it, and what it holds."""
    parts = pipeline.components
    leaves = [each for each in parts.transforms.values() if _does_something(each)]
    made_by = {
        key: f"{transform.unique_name}[{tag}]"
        for transform in leaves
        for tag, key in transform.outputs.items()
    }
    steps = {}
    for transform in leaves:
        steps[transform.unique_name] = {
            "urn": transform.spec.urn,
            "inputs": {tag: made_by[key] for tag, key in sorted(transform.inputs.items())},
            "outputs": {
                tag: _flow(parts, parts.pcollections[key])
                for tag, key in sorted(transform.outputs.items())
            },
            **_held(parts, transform.spec),
        }
    return dict(sorted(steps.items()))


def _does_something(transform: Any) -> bool:
    """Whether a step is no mere name for others, or for what flows into it."""
    passes_on = set(transform.outputs.values()) <= set(transform.inputs.values())
    return not transform.subtransforms and not (transform.outputs and passes_on)


def _flow(parts: Any, flow: Any) -> str:
    windowing = parts.windowing_strategies[flow.windowing_strategy_id]
    ends = "bounded" if flow.is_bounded == beam_runner_api_pb2.IsBounded.BOUNDED else "unbounded"
    trigger = windowing.trigger.WhichOneof("trigger")
    windows = windowing.window_fn.urn.removeprefix("beam:window_fn:").partition(":")[0]
    return f"{coder_in_words(parts, flow.coder_id)} in {windows}, {trigger}, {ends}"


def _held(parts: Any, spec: Any) -> dict[str, Any]:
    """What a step holds from one element to the next."""
    if spec.urn != common_urns.primitives.PAR_DO.urn:
        return {}
    payload = beam_runner_api_pb2.ParDoPayload.FromString(spec.payload)
    held: dict[str, Any] = {
        "side_inputs": sorted(payload.side_inputs),
        "state": {name: _state(parts, said) for name, said in sorted(payload.state_specs.items())},
        "timers": {
            name: beam_runner_api_pb2.TimeDomain.Enum.Name(timer.time_domain)
            for name, timer in sorted(payload.timer_family_specs.items())
        },
    }
    if payload.restriction_coder_id:
        held["restriction"] = coder_in_words(parts, payload.restriction_coder_id)
    return {key: value for key, value in held.items() if value}


def _state(parts: Any, state: Any) -> str:
    kind = state.WhichOneof("spec").removesuffix("_spec")
    said = getattr(state, f"{kind}_spec")
    key = said.element_coder_id if kind in ("bag", "set") else said.coder_id
    return f"{kind} of {coder_in_words(parts, key)}"


def as_text(steps: dict[str, Any]) -> str:
    """What the file holds."""
    return json.dumps(steps, indent=1, sort_keys=True) + "\n"


def difference(before: str, now: str) -> str:
    """The lines that are others, each with the step that they are of."""
    lines = difflib.unified_diff(before.splitlines(), now.splitlines(), "before", "now", n=12)
    return "\n".join(lines)


@pytest.fixture(scope="module")
def steps(tmp_path_factory) -> dict[str, Any]:
    return described(stream_pipeline(tmp_path_factory.mktemp("stream")))


def test_a_running_stream_can_be_replaced_by_this_version(steps):
    now = as_text(steps)
    found = difference(GOLDEN.read_text("utf-8"), now)
    assert not found, f"jobs of older versions could not be updated to this one:\n{found}"


@pytest.mark.slow
def test_the_graph_is_the_same_each_time(steps, tmp_path):
    assert described(stream_pipeline(tmp_path)) == steps


def test_a_step_by_another_name_and_another_coder_are_seen(steps):
    before, steps = as_text(steps), copy.deepcopy(steps)
    commit = steps.pop("CommitRun/Commit")
    steps["CommitRun/Committed"] = commit
    assert '+ "CommitRun/Committed": {' in difference(before, as_text(steps))
    assert "bag of PickleCoder" in commit["state"]["pending"]
    commit["state"]["pending"] = "bag of bytes"
    assert '"pending": "bag of bytes"' in difference(before, as_text(steps))


def main() -> int:
    """Write the file anew."""
    with tempfile.TemporaryDirectory() as place:
        now = as_text(described(stream_pipeline(Path(place))))
    before = GOLDEN.read_text("utf-8") if GOLDEN.exists() else ""
    print(difference(before, now) or "nothing has changed")
    GOLDEN.write_text(now, "utf-8")
    return 0


if __name__ == "__main__":
    sys.exit(main())
