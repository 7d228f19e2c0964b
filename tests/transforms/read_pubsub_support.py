"""What the tests of reading subscriptions have in common: an emulator, and topics in it."""

from __future__ import annotations

import itertools
import time
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field

from millstream.transforms.carry import Carry, SourceState
from millstream.transforms.intervals.chain import Chain
from millstream.transforms.plan import OPEN_END
from millstream.transforms.read.pubsub.inputs import PubsubInput, parse_input
from millstream.transforms.read.pubsub.stream import PubsubStream
from millstream.transforms.read.streams.source import Polled, StreamReader
from millstream.transforms.runs import RunStore

from tests.services import pubsub
from tests.services.serving import or_skip

SECONDS = 60.0
_NUMBERS = itertools.count()


class FakeChain(Chain):
    """Commits that a test makes by itself."""

    def __init__(self, home: str) -> None:
        super().__init__(RunStore(home))
        self.held: Carry | None = None

    def carry(self) -> Carry | None:
        return self.held


@dataclass
class Topic:
    """A topic that nobody has used, with a subscription, and a job that reads it.

    What the job commits are the payloads of all messages.
    """

    peer: pubsub.PubSub
    home: str
    query: str = ""
    ordered: bool = False
    name: str = field(default_factory=lambda: f"topic-{next(_NUMBERS)}")
    committed: Counter[bytes] = field(default_factory=Counter)

    def __post_init__(self) -> None:
        self.peer.make(self.name, ordered=self.ordered)
        self.chain = FakeChain(self.home)

    @property
    def input(self) -> PubsubInput:
        return parse_input(f"pubsub://{pubsub.PROJECT}/{self.name}?{self.query}".rstrip("?"))

    @property
    def stream(self) -> PubsubStream:
        return PubsubStream(self.input, self.chain)

    @property
    def states(self) -> Mapping[str, SourceState]:
        """Where the newest commit stands."""
        held = self.chain.held
        return held.sources if held else {self.input.source: SourceState()}

    def send(self, *payloads: bytes, key: str = "", **attributes: str) -> None:
        self.peer.publish(self.name, payloads, key, **attributes)

    def open(self) -> StreamReader:
        return self.stream.open(self.states)

    def read(self) -> Read:
        """All that there is, by a reader of its own."""
        found = Read()
        with self.open() as reader:
            for polled in reader.until({self.input.source: OPEN_END}):
                found.add(polled)
        return found

    def prepare(self, found: Read) -> Carry:
        """What a commit of what was read is going to hand on."""
        states, source = dict(self.states), self.input.source
        cursors = self.stream.remember(states, found.receipts)
        before = self.chain.held or Carry()
        position = found.next.get(source, states[source].next)
        state = SourceState(next=position, cursor=cursors.get(source, ""))
        return Carry(sequence=before.sequence + 1, sources={**states, source: state})

    def commit(self, found: Read, *, acknowledge: bool = True) -> None:
        """Commit what was read, as a job does."""
        self.chain.held = self.prepare(found)
        self.committed.update(found.payloads)
        if acknowledge:
            self.stream.acknowledge(found.receipts)
            self.stream.committed(self.chain.held.sources)

    def give_again(self, found: Read) -> None:
        """Have the service give messages again that were not acknowledged."""
        from millstream.transforms.read.pubsub.client import Subscription
        from millstream.transforms.read.pubsub.receipts import delivered

        Subscription(self.input).extend(delivered(found.receipts).ack_ids, 0)


class Read:
    """What was polled, together."""

    def __init__(self) -> None:
        self.payloads: list[bytes] = []
        self.positions: list[int] = []
        self.receipts: list[str] = []
        self.next: dict[str, int] = {}
        self.duplicates = 0

    def add(self, polled: Polled) -> None:
        self.payloads += polled.batch.column("_payload").to_pylist()
        self.positions += polled.batch.column("_position").to_pylist()
        self.receipts += polled.receipts
        self.next.update(polled.next)
        self.duplicates += sum((polled.duplicates or {}).values())


def poll_until(reader: StreamReader, found: Read, rows: int, duplicates: int = 0) -> Read:
    """Poll until so much has come."""
    deadline = time.monotonic() + SECONDS
    while len(found.payloads) < rows or found.duplicates < duplicates:
        assert time.monotonic() < deadline, (len(found.payloads), found.duplicates)
        if polled := reader.poll(10_000, 0.1):
            found.add(polled)
    return found


def payloads(count: int, start: int = 0) -> Sequence[bytes]:
    return [b'{"n": %d}' % n for n in range(start, start + count)]


@contextmanager
def emulator_or_skip() -> Iterator[pubsub.PubSub]:
    """An emulator of one's own; where there can be none, tests are skipped and say why."""
    with or_skip("pubsub", pubsub.why_not, pubsub.running) as peer:
        yield peer
