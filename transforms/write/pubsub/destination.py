"""A topic of Google Pub/Sub: ``pubsub://PROJECT/TOPIC?ordering_key=FIELD,…``. At least once.

Each row is a message, a JSON object (:mod:`..json_text` says how values are written), with these
attributes:

- ``id``: the same whenever the row is published again. **Readers have to drop messages whose id
  they have seen.**
- ``event_time``: as RFC 3339 has it, if the row has one;
- ``run_id`` and ``token``: of the run.

So ``ReadFromPubSub(topic, id_label="id", timestamp_attribute="event_time")`` of Beam reads each row
once, on Dataflow, which looks back ten minutes.

Pub/Sub has no transactions: messages can be read as soon as they arrive, and cannot be taken back.
The token is a note in millstream's own folder, written when the last message has arrived: from then
on a restart publishes nothing. A run that dies before that publishes all of its rows again.

With ``ordering_key``, rows with equal values in these fields are published in the order that they
are staged in; their texts, joined by ``|``, are the key, and an empty key is none. Subscriptions
with message ordering keep that order.

The topic has to be there: what is published before there is a subscription is lost, so a topic that
millstream made would lose everything. Partial states of aggregates go to ``TOPIC__states``. Rows of
10 MB or more are refused.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar

import pyarrow.types as pt

from ....schemas.problems import did_you_mean
from ... import storage
from ..destination import Commit
from ..errors import DestinationError, Taken
from ..refusals import refuse
from ..tables import Held, Load, Mode, Refused, TableDestination, held_by, naming, parse_options
from .client import Publishing, connected
from .messages import pack

_PROJECT = re.compile(r"[a-z0-9][a-z0-9.:-]{1,60}")
_TOPIC = re.compile(r"(?!goog)[A-Za-z][A-Za-z0-9_.~+%-]{2,246}")
"""Pub/Sub allows 255 characters; some are left for the suffix of states."""


@dataclass(frozen=True)
class PubSubDestination(TableDestination):
    """A topic of ``project``."""

    project: str = ""
    ordering_key: tuple[str, ...] = ()

    modes: ClassVar[tuple[Mode, ...]] = ("append",)
    refuses: ClassVar[bool] = True

    @property
    def service(self) -> str:
        return f"pubsub://{self.project}"

    def load(self, commit: Commit, loads: Sequence[Load]) -> None:
        refused = Refused("", 0)
        for load in loads:
            refused = self._publish(commit, load)
        note = held_by(commit, loads, refused).to_json()
        if not storage.write_once(self._note(commit.token.run_id), note.encode()):
            raise Taken

    def held(self, run_id: str) -> Held | None:
        note = self._note(run_id)
        return Held.from_json(storage.read_bytes(note)) if storage.exists(note) else None

    def examine(self, load: Load) -> None:
        self._check_ordering(load)
        with connected(self.place) as client:
            if not client.exists(self._topic(load)):
                raise DestinationError(
                    f"{self.place}: there is no topic {load.name}; make it, and a subscription, "
                    f"with: gcloud pubsub topics create {load.name} --project {self.project}"
                )

    def forget(self, before: float, keep: Sequence[str]) -> int:
        old = [run_id for run_id in self.old_tokens(before) if run_id not in keep]
        for run_id in old:
            storage.delete(self._note(run_id))
        return len(old)

    def old_tokens(self, before: float) -> list[str]:
        return [
            note.rpartition("/")[2].removesuffix(".json")
            for note in storage.list_files(self._notes, ".json")
            if storage.modified(note) < before
        ]

    def _publish(self, commit: Commit, load: Load) -> Refused:
        """Publish the load's rows, and write down which of them cannot be."""
        attributes = {"run_id": commit.token.run_id, "token": str(commit.token)}
        rows: list[int] = []
        reasons: list[str] = []
        with (
            connected(self.place) as client,
            Publishing(client, self._topic(load), attributes) as publishing,
        ):
            for messages, refused in pack(commit, load, self._ordering(load)):
                publishing.publish(messages)
                rows += [number for number, _ in refused]
                reasons += [reason for _, reason in refused]
        return refuse(commit, load, rows, reasons)

    def _ordering(self, load: Load) -> tuple[str, ...]:
        return self.ordering_key if load.part == "data" else ()

    def _check_ordering(self, load: Load) -> None:
        names = load.schema.names
        for name in self._ordering(load):
            if name not in names:
                raise DestinationError(
                    f"{self.place}: ordering_key={name}: no such column{did_you_mean(name, names)}"
                )
            if pt.is_nested(load.schema.field(name).type):
                raise DestinationError(f"{self.place}: ordering_key={name}: it is nested")

    def _topic(self, load: Load) -> str:
        return f"projects/{self.project}/topics/{load.name}"

    @property
    def _notes(self) -> str:
        return storage.join(self.home, "_millstream", "published", self.project, self.target)

    def _note(self, run_id: str) -> str:
        return storage.join(self._notes, f"{run_id}.json")


def open_destination(scheme: str, rest: str, name: str, state: str = "") -> PubSubDestination:
    """The destination of ``pubsub://PROJECT/TOPIC?ordering_key=FIELD,…``.

    Raises:
        DestinationError: project or topic cannot be one, or an option cannot be used.
    """
    said, _, query = rest.partition("?")
    empty, _, place = said.partition("//")
    project, _, topic = place.partition("/")
    if empty or not _PROJECT.fullmatch(project) or not _TOPIC.fullmatch(topic):
        raise DestinationError(
            f"{scheme}: expected {scheme}://PROJECT/TOPIC, by the ids that Google Cloud allows; "
            "credentials are taken from the environment"
        )
    with naming(scheme):
        options = parse_options(query, PubSubDestination.modes, ("ordering_key",))
    if options.partition_by:
        raise DestinationError(f"{scheme}: a topic has no partitions: leave out partition_by")
    key = tuple(filter(None, options.own.get("ordering_key", "").split(",")))
    location = f"{scheme}://{project}/{topic}"
    uri = options.at(location)
    return PubSubDestination(uri, name, location, topic, options, state, project, key)
