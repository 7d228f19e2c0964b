"""Where batches are decoded: in this process, or in helper processes beside it.

Decoding takes most of a job's time and holds Python's global lock. A runner with many workers needs
no help; the local runner with its one process does. There the launcher starts helpers before it
imports Beam (:func:`attach_helpers`), and Parse finds them here. Payloads and columns pass
through shared memory. A helper that dies loses nothing: what it was at is decoded here.
"""

from __future__ import annotations

import multiprocessing
from collections import deque
from collections.abc import Iterator
from concurrent.futures import Future, ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from multiprocessing.shared_memory import SharedMemory
from typing import Any, Protocol

import pyarrow as pa

from ..schemas.arrow import PAYLOAD
from ..schemas.contract import Contract
from ..schemas.json_decoder import Decoded, JsonDecoder, UnknownFields

_SLOT_BYTES = 12 << 20  # holds a 4 MB batch of payloads with room to spare

Task = tuple[Any, ...]
"""A batch of payloads, and whatever the caller wants back with it."""


class Decoding(Protocol):
    """Decodes batches of payloads, perhaps several at a time, and gives them back in order."""

    def put(self, task: Task) -> Iterator[tuple[Task, Decoded]]:
        """Take a task on; give those that are done."""
        ...

    def drain(self) -> Iterator[tuple[Task, Decoded]]:
        """Wait for all tasks."""
        ...


def open_decoding(contract: Contract, unknown: UnknownFields) -> Decoding:
    """Helpers if this process has some for this contract, else decoding in place."""
    if _attached is not None and _attached.serves(contract, unknown):
        return _HelpedDecoding(_attached)
    return _InPlace(JsonDecoder(contract, unknown))


class _InPlace:
    def __init__(self, decoder: JsonDecoder) -> None:
        self._decoder = decoder

    def put(self, task: Task) -> Iterator[tuple[Task, Decoded]]:
        yield task, self._decoder.decode(task[0].column(PAYLOAD))

    def drain(self) -> Iterator[tuple[Task, Decoded]]:
        return iter(())


class Helpers:
    """Processes that decode for this one, by one contract.

    Started by spawning, never by forking: threads may run already. They end with :meth:`close`, or
    with this process, however it ends.
    """

    def __init__(self, contract: Contract, unknown: UnknownFields, count: int) -> None:
        self._serves = (contract, unknown)
        self.decoder = JsonDecoder(contract, unknown)  # for what helpers cannot take
        self.slots = [SharedMemory(create=True, size=_SLOT_BYTES) for _ in range(2 * count)]
        self._pool: ProcessPoolExecutor | None = ProcessPoolExecutor(
            count,
            mp_context=multiprocessing.get_context("spawn"),
            initializer=_become_helper,
            initargs=(contract, unknown, [slot.name for slot in self.slots]),
        )
        for _ in range(count):
            self._pool.submit(_ready)  # each starts a process now rather than with the first batch

    def serves(self, contract: Contract, unknown: UnknownFields) -> bool:
        """Whether the helpers decode by this contract."""
        return self._pool is not None and self._serves == (contract, unknown)

    def submit(self, slot: int, size: int) -> Future[Any] | None:
        """Have a slot decoded; ``None`` when there are no helpers any more."""
        try:
            return self._pool.submit(_decode_slot, slot, size) if self._pool else None
        except (BrokenProcessPool, RuntimeError):
            return None

    def close(self) -> None:
        """End the helpers and give the shared memory back."""
        if self._pool is not None:
            self._pool.shutdown(cancel_futures=True)
            self._pool = None
        while self.slots:
            slot = self.slots.pop()
            slot.close()
            slot.unlink()


_attached: Helpers | None = None


def attach_helpers(contract: Contract, unknown: UnknownFields, count: int) -> Helpers:
    """Start helpers for all decoding by this contract in this process."""
    global _attached
    detach_helpers()
    _attached = Helpers(contract, unknown, count)
    return _attached


def detach_helpers() -> None:
    """End the helpers of this process, if it has any."""
    global _attached
    if _attached is not None:
        _attached.close()
        _attached = None


class _HelpedDecoding:
    def __init__(self, helpers: Helpers) -> None:
        self._helpers = helpers
        self._free = list(range(len(helpers.slots)))
        self._waiting: deque[tuple[Task, int, Future[Any] | None]] = deque()

    def put(self, task: Task) -> Iterator[tuple[Task, Decoded]]:
        if not self._free:
            yield self._next()
        slot = self._free.pop()
        size = _write(task[0].column(PAYLOAD), self._helpers.slots[slot])
        future = self._helpers.submit(slot, size) if size else None
        self._waiting.append((task, slot, future))
        while self._waiting and self._done(self._waiting[0][2]):
            yield self._next()

    def drain(self) -> Iterator[tuple[Task, Decoded]]:
        while self._waiting:
            yield self._next()

    @staticmethod
    def _done(future: Future[Any] | None) -> bool:
        return future is None or future.done()

    def _next(self) -> tuple[Any, Decoded]:
        task, slot, future = self._waiting.popleft()
        decoded = None
        if future is not None:
            try:
                decoded = _read(self._helpers.slots[slot], future.result())
            except BrokenProcessPool:
                decoded = None  # a helper died, and with it the pool: the batch is still here
        self._free.append(slot)
        return task, decoded or self._helpers.decoder.decode(task[0].column(PAYLOAD))


def _write(payloads: pa.Array, slot: SharedMemory) -> int:
    """Put payloads into shared memory; their size there, or 0 if they do not fit."""
    batch = pa.RecordBatch.from_arrays([payloads], [PAYLOAD])
    if pa.ipc.get_record_batch_size(batch) + 4096 > slot.size:
        return 0
    return _write_stream(batch, slot)


def _write_stream(batch: pa.RecordBatch, slot: SharedMemory) -> int:
    buffer = pa.py_buffer(slot.buf)
    with pa.FixedSizeBufferWriter(buffer) as sink:
        with pa.ipc.new_stream(sink, batch.schema) as writer:
            writer.write_batch(batch)
        return sink.tell()


def _read(slot: SharedMemory, answer: tuple[Any, ...]) -> Decoded:
    size, stream, kept, refused, violations = answer
    if stream is None:
        assert slot.buf is not None
        stream = bytes(slot.buf[:size])  # a copy: the slot is used again at once
    records = pa.ipc.open_stream(pa.py_buffer(stream)).read_next_batch()
    return Decoded(records, kept, refused, violations)


# In the helper process:

_decoder: JsonDecoder
_slots: list[SharedMemory]


def _become_helper(contract: Contract, unknown: UnknownFields, slots: list[str]) -> None:
    global _decoder, _slots
    pa.set_cpu_count(1)
    _decoder = JsonDecoder(contract, unknown)
    _slots = [SharedMemory(name) for name in slots]


def _ready() -> None:
    return None


def _decode_slot(slot: int, size: int) -> tuple[Any, ...]:
    memory = _slots[slot]
    batch = pa.ipc.open_stream(pa.py_buffer(memory.buf)[:size]).read_next_batch()
    records, kept, refused, violations = _decoder.decode(batch.column(0))
    del batch  # nothing of the answer lies in the slot, which now takes it
    if pa.ipc.get_record_batch_size(records) + (64 << 10) <= memory.size:
        return _write_stream(records, memory), None, kept, refused, violations
    sink = pa.BufferOutputStream()
    with pa.ipc.new_stream(sink, records.schema) as writer:
        writer.write_batch(records)
    return 0, sink.getvalue().to_pybytes(), kept, refused, violations
