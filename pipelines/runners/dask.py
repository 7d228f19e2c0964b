"""Beam's runner on Dask, with outputs by their tags, those of ``finish_bundle``, and windows.

In Beam 2.77 its own translation gives all outputs of a DoFn to whoever reads one of them, drops
what ``finish_bundle`` gives, and groups by keys whose hash differs from process to process.
Source: apache_beam/runners/dask/transform_evaluator.py, ParDo and GroupByKey.
"""

from __future__ import annotations

import hashlib
import traceback
from collections.abc import Iterable, Sequence
from contextlib import suppress
from typing import Any

import apache_beam as beam
import dask.bag as db  # pyright: ignore[reportMissingImports]
import distributed  # pyright: ignore[reportMissingImports]
from apache_beam.coders import FastPrimitivesCoder
from apache_beam.internal import pickler
from apache_beam.pipeline import AppliedPTransform, PipelineVisitor
from apache_beam.pvalue import PBegin
from apache_beam.runners.common import (
    DoFnContext,
    DoFnInvoker,
    DoFnSignature,
    Receiver,
    _OutputHandler,
)
from apache_beam.runners.dask import dask_runner
from apache_beam.runners.dask.overrides import _Create, _Flatten, _GroupByKeyOnly, _Reshuffle
from apache_beam.runners.dask.transform_evaluator import get_windowed_value
from apache_beam.utils.windowed_value import WindowedValue

_LEAST = 2
"""Partitions at least, also of a cluster whose workers are not there yet."""

Output = tuple[str | None, WindowedValue]
"""What a DoFn gave, and its tag; the main output has none."""


class DaskRunner(dask_runner.DaskRunner):
    """Runs bounded pipelines on Dask. There are no side inputs, no states and no timers."""

    @staticmethod
    def to_dask_bag_visitor(bag_kwargs: dict[str, Any] | None = None) -> PipelineVisitor:
        workers: Any = distributed.default_client().nthreads()
        threads = sum(workers.values())
        return _Visitor(max(threads, _LEAST), bag_kwargs)

    def run_pipeline(self, pipeline: Any, options: Any) -> dask_runner.DaskRunnerResult:
        try:
            result = super().run_pipeline(pipeline, options)
        except BaseException:
            with suppress(ValueError):  # there is no client yet
                distributed.default_client().close()
            raise
        return _Result(result.client, result.futures)


class _Result(dask_runner.DaskRunnerResult):
    """A pipeline that runs. With it ends its connection: a client that is left open asks for its
    cluster for ever."""

    def wait_until_finish(self, duration: int | None = None) -> str:
        try:
            return super().wait_until_finish(duration)
        finally:
            self.client.close()


class _Visitor(PipelineVisitor):
    """Makes a bag for each transform, of which the runner computes the last."""

    def __init__(self, partitions: int, options: dict[str, Any] | None) -> None:
        self._partitions = partitions
        self._options = options or {"npartitions": partitions}
        self.bags: dict[AppliedPTransform, Any] = {}

    def visit_transform(self, transform_node: AppliedPTransform) -> None:
        self.bags[transform_node] = self._bag(transform_node)

    def _bag(self, node: AppliedPTransform) -> Any:
        transform = node.transform
        inputs = [self._read(value) for value in node.inputs if not isinstance(value, PBegin)]
        if isinstance(transform, _Create):
            return db.from_sequence(list(transform.values), **self._options)
        if isinstance(transform, _Flatten):
            return db.concat(inputs)
        if isinstance(transform, _GroupByKeyOnly):
            return self._together(inputs[0]).groupby(_key_digest, shuffle="tasks").map(_group)
        if isinstance(transform, beam.ParDo) and not node.side_inputs:
            return inputs[0].map_partitions(run_bundle, *_bundle_of(node, transform))
        is_own = any(value.producer is node for value in node.outputs.values())
        if is_own and not isinstance(transform, _Reshuffle):
            raise NotImplementedError(f"DaskRunner cannot run {node.full_label}")
        return inputs[0]

    def _together(self, bag: Any) -> Any:
        """The same in fewer partitions: to group costs by their number, and many bags may have been
        made one."""
        fewer = bag.npartitions > self._partitions
        return bag.repartition(npartitions=self._partitions) if fewer else bag

    def _read(self, value: Any) -> Any:
        """The elements of a PCollection."""
        bag = self.bags[value.producer]
        if isinstance(value.producer.transform, beam.ParDo):
            return bag.map_partitions(_with_tag, value.tag)
        return bag


def _bundle_of(node: AppliedPTransform, transform: beam.ParDo) -> tuple[Any, ...]:
    """What :func:`run_bundle` is told of a DoFn."""
    main_input: Any = next(iter(node.main_inputs.values()))
    args, kwargs = transform.raw_side_inputs
    work = transform.fn, main_input.windowing.windowfn, list(args), dict(kwargs)
    return node.full_label, pickler.dumps(work)


def run_bundle(items: Iterable[Any], label: str, work: bytes) -> list[Output]:
    """What a DoFn makes of a partition of its input, which is a bundle.

    The DoFn is its own: Dask may run several bundles in one process at a time.

    Raises:
        RuntimeError: it fails. The message is the traceback and the step, as Beam's workers say it.
    """
    try:
        return _bundle(items, label, work)
    except Exception:
        said = f"{traceback.format_exc().rstrip()} [while running '{label}']"
        raise RuntimeError(said) from None


def _bundle(items: Iterable[Any], label: str, work: bytes) -> list[Output]:
    fn, window_fn, args, kwargs = pickler.loads(work)
    found: list[Output] = []
    receivers = _Receivers(found)
    handler = _OutputHandler(
        window_fn=window_fn,
        main_receivers=receivers[None],
        tagged_receivers=receivers,
        per_element_output_counter=None,
        output_batch_converter=None,
        process_yields_batches=False,
        process_batch_yields_elements=False,
    )
    invoker = DoFnInvoker.create_invoker(
        DoFnSignature(fn),
        handler,
        context=DoFnContext(label, state=None),
        input_args=args,
        input_kwargs=kwargs,
        bundle_finalizer_param=beam.DoFn.BundleFinalizerParam(),
    )
    invoker.invoke_setup()
    try:
        invoker.invoke_start_bundle()
        for item in items:
            invoker.invoke_process(get_windowed_value(item, window_fn))
        invoker.invoke_finish_bundle()
    finally:
        invoker.invoke_teardown()
    return found


class _Receiver(Receiver):
    def __init__(self, tag: str | None, found: list[Output]) -> None:
        self._tag = tag
        self._found = found

    def receive(self, windowed_value: WindowedValue) -> None:
        self._found.append((self._tag, windowed_value))


class _Receivers(dict[str | None, Receiver]):
    """Receivers by tag, which all note what they are given in one list."""

    def __init__(self, found: list[Output]) -> None:
        super().__init__()
        self._found = found

    def __missing__(self, tag: str | None) -> Receiver:
        self[tag] = _Receiver(tag, self._found)
        return self[tag]


def _with_tag(outputs: Iterable[Output], tag: str | None) -> list[WindowedValue]:
    return [value for of, value in outputs if of == tag]


def _key_digest(item: WindowedValue) -> int:
    """128 bits that are those of the key in every process, as Python's hash of a text is not."""
    encoded = FastPrimitivesCoder().encode(item.value[0])
    return int.from_bytes(hashlib.blake2b(encoded, digest_size=16).digest(), "big")


def _group(group: tuple[int, Sequence[WindowedValue]]) -> tuple[Any, list[Any]]:
    """A key with its values, each with its window."""
    _, items = group
    return items[0].value[0], [item.value[1] for item in items]
