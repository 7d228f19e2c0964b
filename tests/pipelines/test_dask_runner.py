"""Beam's semantics on Dask, which its own translation does not have."""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import Any

import apache_beam as beam
import pytest
from apache_beam.options.pipeline_options import PipelineOptions
from apache_beam.pvalue import AsList, TaggedOutput
from apache_beam.transforms.window import FixedWindows, GlobalWindows, TimestampedValue
from millstream.pipelines.job import JobError
from millstream.pipelines.runners import choosing as runners

pytestmark = [pytest.mark.slow, pytest.mark.service]


class _Note(beam.DoFn):
    """Writes down each element, and which process had it."""

    def __init__(self, folder: str) -> None:
        self._folder = folder

    def process(self, element: Any) -> Iterator[Any]:
        with open(f"{self._folder}/{os.getpid()}", "a", encoding="utf-8") as file:
            file.write(f"{element!r}\n")
        yield element


def ran(address: str, folder: Path, build: Callable[[Any], Any], *flags: str) -> Counter[Any]:
    """What a pipeline gave."""
    from millstream.pipelines.runners.dask import DaskRunner

    folder.mkdir(exist_ok=True)
    options = PipelineOptions([f"--dask_client_address={address}", *flags])
    with beam.Pipeline(runner=DaskRunner(), options=options) as pipeline:
        _ = build(pipeline) | "Note" >> beam.ParDo(_Note(str(folder)))
    lines = [line for file in folder.iterdir() for line in file.read_text("utf-8").splitlines()]
    return Counter(map(eval, lines))


class _Sorted(beam.DoFn):
    """Even numbers to the main output, others to ``odd``; how many there were when all is done."""

    def __init__(self) -> None:
        self._count = 0

    def start_bundle(self) -> None:
        self._count = 0

    def process(self, element: int) -> Iterator[Any]:
        self._count += 1
        yield TaggedOutput("odd", element) if element % 2 else element

    def finish_bundle(self) -> Iterator[Any]:
        yield TaggedOutput("count", GlobalWindows.windowed_value(self._count))


@pytest.mark.parametrize("tag", ["even", "odd", "count"])
def test_each_output_is_what_its_tag_says(dask, tmp_path, tag):
    def build(pipeline: Any) -> Any:
        numbers = pipeline | beam.Create(range(200))
        outputs = numbers | beam.ParDo(_Sorted()).with_outputs("odd", "count", main="even")
        return outputs[tag]

    found = ran(dask, tmp_path / "out", build)
    if tag == "count":
        assert sum(found.elements()) == 200
        assert len(list(found.elements())) > 1, "one bundle a partition"
    else:
        assert found == Counter(range(tag == "odd", 200, 2))


def test_keys_are_grouped_whichever_process_has_them(dask, tmp_path):
    """Texts have another hash in each process."""

    def build(pipeline: Any) -> Any:
        pairs = pipeline | beam.Create([(key, n) for n in range(40) for key in ("a", "b", None, 7)])
        return pairs | beam.GroupByKey() | beam.Map(_listed)

    found = ran(dask, tmp_path / "out", build, "--dask_npartitions=16")
    assert found == Counter((key, tuple(range(40))) for key in ("a", "b", None, 7))


def _listed(group: tuple[Any, Iterable[Any]]) -> tuple[Any, tuple[Any, ...]]:
    return group[0], tuple(sorted(group[1]))


def test_windows_are_kept(dask, tmp_path):
    def build(pipeline: Any) -> Any:
        moments = pipeline | beam.Create(range(30)) | "At" >> beam.Map(_at)
        windowed = moments | beam.WindowInto(FixedWindows(10))
        return windowed | beam.GroupByKey() | beam.Map(_listed)

    found = ran(dask, tmp_path / "out", build)
    assert found == Counter(("k", tuple(range(n, n + 10))) for n in (0, 10, 20))


def _at(second: int) -> TimestampedValue:
    return TimestampedValue(("k", second), second)


def test_nothing_comes_of_nothing(dask, tmp_path):
    def build(pipeline: Any) -> Any:
        none = pipeline | "None" >> beam.Create([])
        some = pipeline | "Some" >> beam.Create([1])
        return (none, some) | beam.Flatten()

    assert ran(dask, tmp_path / "out", build) == Counter([1])


def test_what_fails_in_a_worker_is_raised_here(dask, tmp_path):
    with pytest.raises(RuntimeError, match=r"ZeroDivisionError.* \[while running 'Map"):
        ran(dask, tmp_path / "out", lambda p: p | beam.Create([0]) | beam.Map(lambda n: 1 // n))


def test_side_inputs_are_refused(dask, tmp_path):
    def build(pipeline: Any) -> Any:
        side = AsList(pipeline | "Side" >> beam.Create([1]))
        return pipeline | beam.Create([2]) | "With" >> beam.Map(lambda n, some: (n, some), side)

    with pytest.raises(NotImplementedError, match="DaskRunner cannot run With"):
        ran(dask, tmp_path / "out", build)


def test_a_stream_is_refused():
    with pytest.raises(JobError, match="DaskRunner cannot run an unbounded job"):
        runners.chosen(["--runner=DaskRunner", "--streaming"])


def test_flags_of_dask_are_known_where_it_is(dask):
    chosen = runners.chosen(["--runner=DaskRunner", f"--dask_client_address={dask}"])
    for flags in (chosen, ["--runner=daskrunner", *chosen[1:]]):
        runners.refuse_unknown(flags, [])
    with pytest.raises(JobError, match="no such flag: --dask_client_adress; did you mean"):
        runners.refuse_unknown(["--runner=DaskRunner", "--dask_client_adress=x"], [])


def test_where_dask_is_not_installed_that_is_told(monkeypatch):
    monkeypatch.setattr(runners, "find_spec", lambda name: None)
    with pytest.raises(JobError, match=r"pip install 'millstream\[dask\]'"):
        runners.chosen(["--runner=DaskRunner"])
