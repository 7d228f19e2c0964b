"""What records of Kinesis carry beside their data."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from ...dead_letters import Attributes
from ..streams.attributes import attribute, moment
from ..streams.source import Carried


@dataclass(frozen=True)
class KinesisCarried(Carried):
    """Partition keys, sequence numbers and times of arrival; see :mod:`.inputs` for their names.

    Attributes:
        taken: by source, the position of the first record, and records in a row.
    """

    taken: Mapping[str, tuple[int, Sequence[Mapping[str, Any]]]]

    def attributes(self, sources: Sequence[str], positions: Sequence[int]) -> list[Attributes]:
        found = []
        for source, position in zip(sources, positions, strict=True):
            begin, records = self.taken[source]
            found.append(_attributes(records[position - begin]))
        return found


def _attributes(record: Mapping[str, Any]) -> Attributes:
    found = [
        attribute("kinesis.partition_key", record["PartitionKey"]),
        attribute("kinesis.sequence_number", record["SequenceNumber"]),
    ]
    if (arrived := record.get("ApproximateArrivalTimestamp")) is not None:
        found.append(attribute("kinesis.arrival_time", moment(arrived)))
    return found
