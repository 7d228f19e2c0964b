"""A Kinesis of our own: moto's, in memory, with what it does otherwise than AWS put right.

As AWS documents it, and moto does not: records stay in the shard that they were put into when that
is split or merged, and no more are put into it; a closed shard has no next iterator behind its last
record; sequence numbers are too large for 64 bits.
"""

from __future__ import annotations

import itertools
import os
import sys
import threading
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from importlib.util import find_spec
from typing import Any

from tests.services.s3 import environment as environment
from tests.services.serving import free_port, serving

REGION = "us-east-1"
FIRST_NUMBER = 49590338271490256608559692538361571095921575989136588898


def why_not() -> str:
    """Why it cannot be started here, and what to do; empty if it can."""
    missing = [module for module in ("moto", "boto3", "flask") if find_spec(module) is None]
    return f"{missing[0]} is not installed; pip install -e '.[s3,emulators]'" if missing else ""


@dataclass(frozen=True)
class Kinesis:
    """A running server."""

    address: str

    @property
    def client(self) -> Any:
        import boto3  # pyright: ignore[reportMissingImports]

        return boto3.session.Session().client(
            "kinesis", region_name=REGION, endpoint_url=self.address
        )

    def make(self, stream: str, shards: int = 1) -> None:
        """Make a stream."""
        self.client.create_stream(StreamName=stream, ShardCount=shards)

    def put(self, stream: str, payloads: Sequence[bytes]) -> None:
        """Put records into it, over all of its open shards."""
        client = self.client
        for start in range(0, len(payloads), 500):
            some = [{"Data": data, "PartitionKey": f"k{hash(data)}"} for data in
                    payloads[start : start + 500]]  # fmt: skip
            answer = client.put_records(StreamName=stream, Records=some)
            assert answer["FailedRecordCount"] == 0

    def split(self, stream: str, shard: str) -> None:
        """Split a shard in the middle."""
        found = self._shard(stream, shard)["HashKeyRange"]
        middle = (int(found["StartingHashKey"]) + int(found["EndingHashKey"])) // 2
        self.client.split_shard(
            StreamName=stream, ShardToSplit=shard, NewStartingHashKey=str(middle)
        )

    def merge(self, stream: str, shard: str, other: str) -> None:
        """Make one shard of two that are beside one another."""
        self.client.merge_shards(StreamName=stream, ShardToMerge=shard, AdjacentShardToMerge=other)

    def _shard(self, stream: str, shard: str) -> Any:
        shards = self.client.list_shards(StreamName=stream)["Shards"]
        return next(found for found in shards if found["ShardId"] == shard)


@contextmanager
def running() -> Iterator[Kinesis]:
    """A server without streams, for as long as the block lasts.

    Raises:
        NoServer: it does not start.
    """
    server = Breakable()
    try:
        yield server.start()
    finally:
        server.stop()


class Breakable:
    """A server that can be stopped and started. It forgets all that it held."""

    def __init__(self) -> None:
        self._port = free_port()
        self._running = ExitStack()
        self.address = f"http://127.0.0.1:{self._port}"

    def start(self) -> Kinesis:
        """Start it; nothing is in it.

        Raises:
            NoServer: it does not start.
        """
        command = [sys.executable, "-W", "ignore", "-m", "tests.services.kinesis", str(self._port)]
        self._running.enter_context(serving(command, self._port, _module_environment()))
        return Kinesis(self.address)

    def stop(self) -> None:
        """End it; it may be ended already."""
        self._running.close()


def _module_environment() -> dict[str, str]:
    """In which this module is found."""
    root = os.path.dirname(os.path.dirname(os.path.dirname(os.path.abspath(__file__))))
    paths = [root, *filter(None, [os.environ.get("PYTHONPATH")])]
    return {**os.environ, "PYTHONPATH": os.pathsep.join(paths)}


def _put_right() -> None:
    """Have moto do as AWS does."""
    from moto.kinesis import models  # pyright: ignore[reportMissingImports]

    shard, stream, backend = models.Shard, models.Stream, models.KinesisBackend
    numbers = itertools.count(FIRST_NUMBER)

    def put_record(self: Any, partition_key: str, data: str, explicit_hash_key: str) -> str:
        number = next(numbers)
        self.records[number] = models.Record(partition_key, data, number, explicit_hash_key)
        return str(number)

    def keeping(plain: Any, closed: int) -> Any:
        """Split or merge, and put back what has been moved."""

        def work(self: Any, *names: str) -> None:
            before = {name: found.records for name, found in self.shards.items()}
            plain(self, *names)
            for name, found in self.shards.items():
                found.records = before.get(name, models.OrderedDict())
            for name in names[:closed]:
                self.shards[name].is_open = False

        return work

    plain_get = backend.get_records

    def get_records(self: Any, stream_arn: Any, shard_iterator: str, limit: Any) -> Any:
        following, records, behind = plain_get(self, stream_arn, shard_iterator, limit)
        name, shard_id, last = models.decompose_shard_iterator(following)
        found = self.describe_stream(stream_arn=stream_arn, stream_name=name).get_shard(shard_id)
        if not found.is_open and int(last) >= found.get_max_sequence_number():
            following = None
        return following, records, behind

    plain_choice, lock = stream.get_shard_for_key, threading.Lock()

    def get_shard_for_key(self: Any, *key: Any) -> Any:
        """Of the shards that are open."""
        with lock:
            every = self.shards
            self.shards = {name: found for name, found in every.items() if found.is_open}
            try:
                return plain_choice(self, *key)
            finally:
                self.shards = every

    shard.put_record = put_record
    stream.get_shard_for_key = get_shard_for_key
    stream.split_shard = keeping(stream.split_shard, 1)
    stream.merge_shards = keeping(stream.merge_shards, 2)
    backend.get_records = get_records
    backend._send_stream_metrics = lambda *said, **more: None  # nobody looks, and it takes long


if __name__ == "__main__":
    from moto.server import main  # pyright: ignore[reportMissingImports]

    _put_right()
    main(["-H", "127.0.0.1", "-p", sys.argv[1]])
