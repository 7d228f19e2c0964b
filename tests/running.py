"""Running a small pipeline and looking at what came out of it."""

from __future__ import annotations

import uuid
from collections.abc import Callable
from typing import Any

import apache_beam as beam
import pyarrow as pa

RUNNER = "apache_beam.runners.portability.fn_api_runner.fn_runner.FnApiRunner"
"""By name: ``DirectRunner`` is a switch, which tries another runner first."""

_COLLECTED: dict[str, dict[str, list[Any]]] = {}


def run(build: Callable[[Any], dict[str, Any]]) -> dict[str, list[Any]]:
    """The elements of the collections that ``build`` names, once its pipeline has run."""
    key = uuid.uuid4().hex
    _COLLECTED[key] = {}
    with beam.Pipeline(runner=RUNNER) as pipeline:
        for name, collection in build(pipeline).items():
            _COLLECTED[key][name] = []
            _ = collection | f"Collect {name}" >> beam.Map(_collect, key, name)
    return _COLLECTED.pop(key)


def _collect(element: Any, key: str, name: str) -> None:
    # the runner's workers are threads of this process
    _COLLECTED[key][name].append(element)


def rows(batches: list[pa.RecordBatch]) -> list[dict[str, Any]]:
    """All rows of batches."""
    return [row for batch in batches for row in batch.to_pylist()]
