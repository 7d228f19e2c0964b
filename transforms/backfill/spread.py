"""Work on many parts at once: on processes of this machine, or on a runner's workers."""

from __future__ import annotations

import logging
import multiprocessing
import os
import threading
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import Future, ProcessPoolExecutor, as_completed
from concurrent.futures.process import BrokenProcessPool
from multiprocessing.connection import wait
from types import TracebackType
from typing import Any, TypeVar

from .. import storage
from .parts import Part

Item = TypeVar("Item")
Done = TypeVar("Done")


class Broken(RuntimeError):
    """A process that helped has died. What was done stays done."""


class Processes:
    """Processes that help, in a ``with`` block; they start when there is something to do.

    Args:
        count: how many work at a time; with one, all is done in this process.
        storage_options: flags that say how object stores are reached.
    """

    def __init__(self, count: int, storage_options: Sequence[str] = ()) -> None:
        self.count = count
        self._options = tuple(storage_options)
        self._pool: ProcessPoolExecutor | None = None

    def __enter__(self) -> Processes:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        if self._pool is not None:
            self._pool.shutdown(cancel_futures=True)

    def each(
        self, do: Callable[[Item], Done], items: Sequence[Item], *, light: bool = False
    ) -> Iterator[tuple[Item, Done]]:
        """Do something with each item, in any order.

        Args:
            do: can be pickled, unless there is one process.
            light: no process is started for it.

        Raises:
            Broken: a process has died.
        """
        if self.count <= 1 or len(items) <= 1 or (light and self._pool is None):
            for item in items:
                yield item, do(item)
            return
        from apache_beam.internal import pickler

        work = pickler.dumps(do)  # steps may hold what only Beam's pickler takes
        pool = self._started()
        try:
            running: dict[Future[Done], Item] = {pool.submit(_do, work, i): i for i in items}
            for future in as_completed(running):
                yield running[future], future.result()
        except BrokenProcessPool as error:
            raise Broken("a process that helped has died; the same command goes on") from error

    def _started(self) -> ProcessPoolExecutor:
        if self._pool is None:
            self._pool = ProcessPoolExecutor(
                self.count,
                # What is forked after threads have started may wait for them for ever.
                mp_context=multiprocessing.get_context("spawn"),
                initializer=_begin,
                initargs=(self._options,),
            )
        return self._pool


_known: tuple[bytes, Callable[[Any], Any]] | None = None
"""Of a process that helps: what it does."""


def _begin(storage_options: Sequence[str]) -> None:
    threading.Thread(target=_end_with_parent, daemon=True).start()
    storage.use_options(list(storage_options))
    logging.disable(logging.WARNING)
    from apache_beam.internal import pickler  # which says of Google's clients that they are missing

    logging.disable(logging.NOTSET)
    assert pickler


def _end_with_parent() -> None:
    """A pool waits for its next task for ever, also when nobody is left who could give one."""
    parent = multiprocessing.parent_process()
    if parent is not None:
        wait([parent.sentinel])
        os._exit(1)


def _do(work: bytes, item: Any) -> Any:
    from apache_beam.internal import pickler

    global _known
    if _known is None or _known[0] != work:
        _known = work, pickler.loads(work)
    return _known[1](item)


def on_runner(
    do: Callable[[Part], Any], parts: Iterable[Part], workers: int, flags: list[str]
) -> None:
    """Do something with each part in a Beam pipeline, so many at a time at most.

    What comes of it is what ``do`` leaves behind.
    """
    import apache_beam as beam
    from apache_beam.options.pipeline_options import PipelineOptions

    keyed = [(i % workers, tuple(part)) for i, part in enumerate(parts)]
    with beam.Pipeline(options=PipelineOptions(flags)) as pipeline:
        _ = (
            pipeline
            | "Parts" >> beam.Create(keyed)
            # A key's parts are done one after another, by one worker.
            | "ByWorker" >> beam.GroupByKey()
            | "Do" >> beam.Map(_do_all, do)
        )


def _do_all(group: tuple[int, Iterable[tuple[int, int]]], do: Callable[[Part], Any]) -> None:
    for start, end in group[1]:
        do(Part(start, end))
