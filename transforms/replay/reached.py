"""How far records of dead letters have come before: they are not to go that way twice.

A record that a step or a destination has refused has been kept by deduplication: where keys are
remembered, so is its own. One that a destination has refused is in the aggregates besides. What
fails again may fail earlier than before; then its letter says how far it has come.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

import apache_beam as beam
import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from apache_beam.pvalue import TaggedOutput

from ...schemas.arrow import POSITION, SOURCE
from ...schemas.dead_letters import REACHED
from ..coder import RecordBatchCoder  # registers it  # noqa: F401
from ..encryption import Pairs
from ..tallies import TALLIES, Tally, count_sources
from .frozen import FrozenLetters, read_frozen

REACHED_BEFORE = "reached_before"
"""Tag of the output of records that have come to a stage before."""
_STAGES = ("step", "write")
"""The stages that matter, in their order."""
KEPT, COUNTED = _STAGES
"""What deduplication has kept, and what aggregates hold."""


def farthest(stage: str | None, attributes: Pairs | None, now: str | None) -> str:
    """What the next letter of a record has to say: the stage that it has come to before, if that
    is a later one than ``now``; else empty."""
    said = [stage, *(pair["value"] for pair in attributes or () if pair["key"] == REACHED)]
    before = max(map(_rank, said))
    return _STAGES[before] if before > _rank(now) else ""


def _rank(stage: str | None) -> int:
    return _STAGES.index(stage) if stage in _STAGES else -1


class SplitReached(beam.PTransform):
    """Tell records that have come to a stage before from those that have not.

    ``PCollection[pa.RecordBatch]`` with identity columns → tagged outputs: those that have not, and
    :data:`REACHED_BEFORE`; and tallies of these as ``filtered``, for each of ``outputs``.

    Args:
        letters: whose records they are.
        stage: :data:`KEPT` or :data:`COUNTED`.
    """

    def __init__(self, letters: FrozenLetters, stage: str, outputs: Sequence[str] = ()) -> None:
        super().__init__()
        self._split = _Split(letters.paths, stage, tuple(outputs))

    def expand(self, pcoll: beam.PCollection) -> Any:
        split = beam.ParDo(self._split).with_outputs(REACHED_BEFORE, TALLIES, main="records")
        outputs: Any = pcoll | "Split" >> split
        outputs.records.element_type = outputs[REACHED_BEFORE].element_type = pa.RecordBatch
        outputs[TALLIES].element_type = Tally
        return outputs


class _Split(beam.DoFn):
    def __init__(self, paths: Sequence[str], stage: str, outputs: tuple[str, ...]) -> None:
        self._paths = paths
        self._stage = stage
        self._outputs = outputs

    def setup(self) -> None:
        self._places = _places(self._paths, self._stage)

    def process(self, batch: pa.RecordBatch) -> Iterator[Any]:
        reached = self._are_there(batch)
        if not reached.any():
            yield batch
            return
        if not reached.all():
            yield batch.filter(pa.array(~reached))
        before = batch.filter(pa.array(reached))
        yield TaggedOutput(REACHED_BEFORE, before)
        for source, rows in count_sources(before, SOURCE).items():
            for output in self._outputs:
                yield TaggedOutput(TALLIES, Tally(source, "filtered", rows, output))

    def _are_there(self, batch: pa.RecordBatch) -> np.ndarray:
        found = np.zeros(batch.num_rows, bool)
        if not self._places:
            return found
        sources = batch.column(SOURCE).cast(pa.string()).dictionary_encode()
        codes = pc.fill_null(sources.indices, -1).to_numpy()
        positions = pc.fill_null(batch.column(POSITION), -1).to_numpy()
        for code, source in enumerate(sources.dictionary.to_pylist()):
            if (theirs := self._places.get(source)) is not None:
                found |= (codes == code) & np.isin(positions, theirs)
        return found


def _places(paths: Sequence[str], stage: str) -> dict[str, np.ndarray]:
    """By source, the positions of records that have come to a stage."""
    found: dict[str, list[int]] = {}
    for path in paths:
        letters = read_frozen(path, ["stage", "source", "position", "attributes"])
        letters = letters.filter(pa.array(_have_reached(letters, stage)))
        places = zip(letters["source"].to_pylist(), letters["position"].to_pylist(), strict=True)
        for source, position in places:
            if source is not None and position is not None and position.isdecimal():
                found.setdefault(source, []).append(int(position))
    return {source: np.array(positions, np.int64) for source, positions in found.items()}


def _have_reached(letters: pa.Table, stage: str) -> np.ndarray:
    enough = pa.array(_STAGES[_rank(stage) :])
    found = pc.fill_null(pc.is_in(letters["stage"], enough), False).to_numpy().copy()
    attributes = letters["attributes"].combine_chunks()
    pairs = pc.list_flatten(attributes)
    says = pc.and_(
        pc.equal(pc.struct_field(pairs, "key"), REACHED),
        pc.is_in(pc.struct_field(pairs, "value"), enough),
    )
    found[pc.list_parent_indices(attributes).filter(says).to_numpy()] = True
    return found
