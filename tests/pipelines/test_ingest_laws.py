"""A law of whole jobs: what comes out depends on the records, not on how files hold them."""

from __future__ import annotations

import gzip
import json
import tempfile
from collections import Counter
from functools import partial
from itertools import pairwise
from pathlib import Path
from typing import Any, NamedTuple

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from millstream.pipelines import exit_codes, graph
from millstream.transforms.read import json_lines

from tests.pipelines.clicks import JobFolder, judge, page_views


def moments() -> st.SearchStrategy[str]:
    """Times of one morning, so that windows have several records."""
    return st.builds(
        "2026-11-23T{:02}:{:02}:{:02}{}".format,
        st.integers(8, 9),
        st.integers(0, 2),
        st.integers(0, 59),
        st.sampled_from(["Z", ".5Z", ".999999+01:00", "-00:30"]),
    )


def events(**changes: st.SearchStrategy[Any]) -> st.SearchStrategy[bytes]:
    fields: dict[str, st.SearchStrategy[Any]] = {
        "event_id": st.uuids().map(str),
        "ts": moments(),
        "user_id": st.sampled_from(["u1", "u2", "u33"]),
        "event_type": st.sampled_from(["view", "buy"]),
        "page": st.sampled_from(["/", "/東京", '/"quoted"\\', "/long" * 30]),
        "amount": st.none() | st.decimals(0, 10_000, places=2).map(float),
        "quantity": st.none() | st.integers(1, 1000),
        "device": st.none() | st.fixed_dictionaries({"os": st.just("ios"), "width": st.just(7)}),
        "tags": st.none() | st.lists(st.sampled_from(["a", "b"]), max_size=5),
    }
    return st.fixed_dictionaries({**fields, **changes}).map(lambda e: json.dumps(e).encode())


def broken() -> st.SearchStrategy[bytes]:
    return st.one_of(
        events(amount=st.sampled_from([-1, "1.00", True, float("nan")])),
        events(quantity=st.sampled_from([0, 1001, 3.7])),
        events(ts=st.sampled_from(["2026-11-23", "2026-02-30T00:00:00Z", 7])),
        events(user_id=st.none(), event_type=st.just("hover")),
        events().map(lambda line: line[:-3]),
        st.sampled_from([b"null", b"[]", b"{}", b"7", b"{}{}", b"\x00", b"caf\xe9", b'{"a":1,}']),
    )


class Layout(NamedTuple):
    """How records are put into files, and files into batches."""

    files: list[list[bytes]]
    gzipped: list[bool]
    line_end: bytes
    ended: bool
    range_bytes: int
    chunk_bytes: int


@st.composite
def layouts(draw: st.DrawFn) -> Layout:
    lines = draw(st.permutations(draw(st.lists(events() | broken(), max_size=40))))
    cuts = draw(st.lists(st.integers(0, len(lines)), max_size=4).map(sorted))
    bounds = [0, *cuts, len(lines)]
    files = [lines[a:b] for a, b in pairwise(bounds)]
    return Layout(
        files,
        draw(st.lists(st.booleans(), min_size=len(files), max_size=len(files))),
        draw(st.sampled_from([b"\n", b"\r\n", b"\n\n"])),
        draw(st.booleans()),
        draw(st.sampled_from([50, 700, 1 << 20])),
        draw(st.sampled_from([10, 700, 1 << 20])),
    )


def put(folder: JobFolder, layout: Layout) -> None:
    for n, (lines, gzipped) in enumerate(zip(layout.files, layout.gzipped, strict=True)):
        data = layout.line_end.join(lines) + (layout.line_end if layout.ended else b"")
        if gzipped:
            folder.put(f"{n}.jsonl.gz", gzip.compress(data))
        else:
            folder.put(f"{n}.jsonl", data)


@pytest.mark.slow
@settings(max_examples=25, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(layout=layouts())
def test_the_layout_of_the_input_does_not_matter(layout, ingest_here, monkeypatch):
    sized = partial(json_lines.ReadFromJsonLines, range_bytes=layout.range_bytes)
    with tempfile.TemporaryDirectory() as place, monkeypatch.context() as patch:
        patch.setattr(graph, "ReadFromJsonLines", sized)
        patch.setattr(
            json_lines, "chunks", partial(json_lines.chunks, chunk_bytes=layout.chunk_bytes)
        )
        folder = JobFolder.make(Path(place) / "job")
        put(folder, layout)
        done = ingest_here("--job", folder.job, "--input", f"{folder.path}/events/*")
        assert done.code == exit_codes.OK, done.err
        # Found from the lines alone, whatever the files.
        judged = [(line, *judge(line)) for lines in layout.files for line in lines]
        records = Counter(row for _, _, row in judged if row is not None)
        assert folder.records() == records
        assert folder.page_views() == page_views(records)
        assert Counter((le.payload, le.codes) for le in folder.letters().elements()) == Counter(
            (line, tuple(sorted(codes))) for line, codes, row in judged if row is None
        )
        assert folder.letters() == folder.expected().letters
