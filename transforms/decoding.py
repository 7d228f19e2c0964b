"""Where batches are decoded: in this process, or in helper processes beside it.

Decoding takes most of a job's time and holds Python's global lock. A runner with many workers needs
no help; the local runner with its one process does. There the launcher starts helpers before it
imports Beam (:func:`attach_helpers`), and Parse finds them here. Payloads and columns pass
through shared memory. A helper that dies loses nothing: what it was at is decoded here.
"""

from __future__ import annotations

import gc
import multiprocessing
import os
import threading
from collections import deque
from collections.abc import Iterator, Mapping
from concurrent.futures import CancelledError, Future, ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from contextlib import suppress
from multiprocessing.shared_memory import SharedMemory
from typing import Any, NamedTuple, Protocol

import pyarrow as pa

from ..schemas.arrow import PAYLOAD, POSITION, SOURCE
from ..schemas.contract import Contract
from ..schemas.decoded import Decoded, UnknownFields
from ..schemas.drift.facts import Rows, drift_of
from ..schemas.json.decoder import JsonDecoder
from .dead_letters import Origin, refused_batch

_MARGIN = 64 << 10  # for the schema, and a dictionary that holds one name
_SLOTS = 4  # a helper: enough to keep it at work while this process decodes a batch itself
_SLOT_BYTES = 12 << 20  # holds a batch of payloads (8 MB), and then its columns

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


def open_decoding(
    contract: Contract,
    unknown: UnknownFields,
    *,
    judge: bool = False,
    origin: Origin | None = None,
) -> Decoding:
    """Helpers if this process has some for this contract, else decoding in place.

    Args:
        judge: as :class:`~millstream.schemas.json.decoder.JsonDecoder` takes it.
        origin: make dead letters of what is refused, where it is decoded.
    """
    if _attached is not None and _attached.serves(contract, unknown, judge):
        return _HelpedDecoding(_attached, origin)
    return InPlace(JsonDecoder(contract, unknown, judge=judge), origin)


class Decoder(Protocol):
    """Decodes payloads, one record an element, whatever they hold."""

    def decode(self, payloads: pa.Array) -> Decoded:
        """What became of each."""
        ...


def _decode(
    decoder: Decoder,
    batch: pa.RecordBatch,
    origin: Origin | None,
    attributes: Mapping[str, str] | None = None,
) -> Decoded:
    decoded = decoder.decode(batch.column(PAYLOAD))
    if decoded.noticed:
        rows = Rows(batch.column(SOURCE), batch.column(POSITION))
        decoded = decoded._replace(noticed=None, drift=drift_of(decoded.noticed, rows))
    if origin is None or not decoded.refused:
        return decoded
    letters = refused_batch(
        batch,
        decoded.violations,
        origin,
        stages=["validate" if only_rules else origin.stage for only_rules in decoded.well_typed],
        event_times=decoded.event_times,
        attributes=attributes,
    )
    return decoded._replace(violations=[], letters=letters)


class InPlace:
    """Decodes in this process, one batch after another.

    Args:
        attributes: what all dead letters carry besides.
    """

    def __init__(
        self,
        decoder: Decoder,
        origin: Origin | None,
        attributes: Mapping[str, str] | None = None,
    ) -> None:
        self._decoder = decoder
        self._origin = origin
        self._attributes = attributes

    def put(self, task: Task) -> Iterator[tuple[Task, Decoded]]:
        yield task, _decode(self._decoder, task[0], self._origin, self._attributes)

    def drain(self) -> Iterator[tuple[Task, Decoded]]:
        return iter(())


class _Given(NamedTuple):
    """A batch that a helper decodes, and the slot of shared memory that it lies in."""

    slot: int
    future: Future[Any]


class Helpers:
    """Processes that decode for this one, by one contract.

    Started by spawning, never by forking: threads may run already. They end with :meth:`close`, or
    with this process, however it ends.
    """

    def __init__(
        self, contract: Contract, unknown: UnknownFields, count: int, *, judge: bool = False
    ) -> None:
        self._serves = (contract, unknown, judge)
        self.decoder = JsonDecoder(contract, unknown, judge=judge)  # for what helpers cannot take
        self._slots = _allocate(_SLOTS * count)
        self.free = deque(range(len(self._slots)))  # of all who decode in this process
        self._pool: ProcessPoolExecutor | None = None
        if not self._slots:
            return
        self._pool = ProcessPoolExecutor(
            count,
            mp_context=multiprocessing.get_context("spawn"),
            initializer=_become_helper,
            initargs=(contract, unknown, judge, [slot.name for slot in self._slots]),
        )
        for _ in range(count):
            self._pool.submit(_ready)  # each starts a process now rather than with the first batch

    def serves(self, contract: Contract, unknown: UnknownFields, judge: bool) -> bool:
        """Whether the helpers decode by this contract."""
        return self._pool is not None and self._serves == (contract, unknown, judge)

    def give(self, batch: pa.RecordBatch, origin: Origin | None) -> _Given | None:
        """Have a batch decoded; ``None`` if that is not to be had now."""
        try:
            slot = self.free.popleft()
        except IndexError:
            return None
        size = _write(batch, self._slots[slot])
        try:
            if size and self._pool:
                return _Given(slot, self._pool.submit(_decode_slot, slot, size, origin))
        except (BrokenProcessPool, RuntimeError):
            pass  # a helper has died, and with it the pool
        self.free.append(slot)
        return None

    def take(self, given: _Given) -> Decoded | None:
        """Wait for what became of a batch; ``None`` if its helper died over it."""
        try:
            return _read(self._slots[given.slot], given.future.result())
        except (BrokenProcessPool, CancelledError, OSError, MemoryError):
            return None  # whatever a helper dies of, the batch is still here
        finally:
            self.free.append(given.slot)

    def close(self) -> None:
        """End the helpers and give the shared memory back."""
        if self._pool is not None:
            self._pool.shutdown(cancel_futures=True)
            self._pool = None
        self.free.clear()
        while self._slots:
            _release(self._slots.pop())


def _allocate(count: int) -> list[SharedMemory]:
    """Slots of shared memory, fewer where there is no room for so many."""
    slots: list[SharedMemory] = []
    with suppress(OSError):
        for _ in range(count):
            slots.append(SharedMemory(create=True, size=_SLOT_BYTES))
            _reserve(slots[-1])
        return slots
    if slots:
        _release(slots.pop())
    return slots


def _reserve(slot: SharedMemory) -> None:
    """Claim the pages now: to write to one that the system has not left kills the process.

    Raises:
        OSError: there is no room. A container often has 64 MB in all.
    """
    path = os.path.join("/dev/shm", slot.name)
    if os.path.exists(path):  # Linux
        with open(path, "r+b") as file:
            os.posix_fallocate(file.fileno(), 0, slot.size)


def _release(slot: SharedMemory) -> None:
    slot.close()
    slot.unlink()


_attached: Helpers | None = None


def attach_helpers(
    contract: Contract, unknown: UnknownFields, count: int, *, judge: bool = False
) -> Helpers:
    """Start helpers for all decoding by this contract in this process."""
    global _attached
    detach_helpers()
    _attached = Helpers(contract, unknown, count, judge=judge)
    return _attached


def detach_helpers() -> None:
    """End the helpers of this process, if it has any."""
    global _attached
    if _attached is not None:
        _attached.close()
        _attached = None


class _HelpedDecoding:
    def __init__(self, helpers: Helpers, origin: Origin | None) -> None:
        self._helpers = helpers
        self._origin = origin
        self._waiting: deque[tuple[Task, _Given | Decoded]] = deque()
        self._most = 2 * len(helpers.free) + 2  # what may wait behind a helper that is slow

    def put(self, task: Task) -> Iterator[tuple[Task, Decoded]]:
        while self._waiting and (self._is_done() or len(self._waiting) > self._most):
            yield self._next()
        given = self._helpers.give(task[0], self._origin)
        # With all helpers at work this process is one more of them, rather than wait.
        self._waiting.append((task, given or self._decode_here(task)))
        while self._waiting and self._is_done():
            yield self._next()

    def drain(self) -> Iterator[tuple[Task, Decoded]]:
        while self._waiting:
            yield self._next()

    def _is_done(self) -> bool:
        _, first = self._waiting[0]
        return isinstance(first, Decoded) or first.future.done()

    def _next(self) -> tuple[Task, Decoded]:
        task, first = self._waiting.popleft()
        if isinstance(first, Decoded):
            return task, first
        return task, self._helpers.take(first) or self._decode_here(task)

    def _decode_here(self, task: Task) -> Decoded:
        return _decode(self._helpers.decoder, task[0], self._origin)


def _write(batch: pa.RecordBatch, slot: SharedMemory) -> int:
    """Put a batch into shared memory; its size there, or 0 if it does not fit."""
    if pa.ipc.get_record_batch_size(batch) + _MARGIN > slot.size:
        return 0
    return _write_stream(batch, slot)


def _write_stream(batch: pa.RecordBatch, slot: SharedMemory) -> int:
    buffer = pa.py_buffer(slot.buf)
    with pa.FixedSizeBufferWriter(buffer) as sink:
        with pa.ipc.new_stream(sink, batch.schema) as writer:
            writer.write_batch(batch)
        return sink.tell()


def _read(slot: SharedMemory, answer: tuple[Any, ...]) -> Decoded:
    size, stream, decoded = answer
    if stream is None:
        assert slot.buf is not None
        stream = bytes(slot.buf[:size])  # a copy: the slot is used again at once
    records = pa.ipc.open_stream(pa.py_buffer(stream)).read_next_batch()
    return decoded._replace(records=records)


# In the helper process:

_decoder: JsonDecoder
_slots: list[SharedMemory]


def _become_helper(
    contract: Contract, unknown: UnknownFields, judge: bool, slots: list[str]
) -> None:
    global _decoder, _slots
    threading.Thread(target=_end_with_parent, daemon=True).start()
    pa.set_cpu_count(1)
    _decoder = JsonDecoder(contract, unknown, judge=judge)
    _slots = [SharedMemory(name) for name in slots]
    gc.freeze()  # what has been imported is no garbage


def _end_with_parent() -> None:
    """A killed parent closes nothing: its helpers would wait for work for ever."""
    parent = multiprocessing.parent_process()
    assert parent is not None
    parent.join()
    os._exit(1)


def _ready() -> None:
    return None


def _decode_slot(slot: int, size: int, origin: Origin | None) -> tuple[Any, ...]:
    memory = _slots[slot]
    batch = pa.ipc.open_stream(pa.py_buffer(memory.buf)[:size]).read_next_batch()
    decoded = _decode(_decoder, batch, origin)
    records, rest = decoded.records, decoded._replace(records=None)
    del batch  # nothing of the answer lies in the slot, which now takes it
    if pa.ipc.get_record_batch_size(records) + _MARGIN <= memory.size:
        return _write_stream(records, memory), None, rest
    sink = pa.BufferOutputStream()
    with pa.ipc.new_stream(sink, records.schema) as writer:
        writer.write_batch(records)
    return 0, sink.getvalue().to_pybytes(), rest
