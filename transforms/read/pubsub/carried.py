"""What messages of Pub/Sub carry beside their data."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from ...dead_letters import Attributes
from ..streams.attributes import attribute
from ..streams.source import Carried
from .pulled import Pulled


@dataclass(frozen=True)
class PubsubCarried(Carried):
    """Ids, times, ordering keys and attributes of messages; see :mod:`.inputs` for their names."""

    pulled: Pulled

    def attributes(self, sources: Sequence[str], positions: Sequence[int]) -> list[Attributes]:
        return list(map(_attributes, self.pulled.messages(positions)))


def _attributes(message: Any) -> Attributes:
    found = [
        attribute("pubsub.message_id", message.message_id),
        attribute("pubsub.publish_time", message.publish_time.ToJsonString()),
    ]
    if message.ordering_key:
        found.append(attribute("pubsub.ordering_key", message.ordering_key))
    said = sorted(message.attributes.items())
    return [*found, *(attribute("pubsub.attribute", value, name) for name, value in said)]
