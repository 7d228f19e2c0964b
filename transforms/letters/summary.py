"""Dead letters in groups: how many of each kind, since when, and some of them to look at.

Columns are counted as they are read; no Python object is made for a letter that is not shown.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any, NamedTuple

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from ..read.ahead import read_ahead
from .letters import PAYLOADS, Letters, payloads
from .marks import OPEN, STATUSES, Marks
from .where import Where

BY = ("code", "field", "source", "contract_version", "stage", "run_id")
"""What letters can be grouped by."""
UNSETTLED = (OPEN, "failed")
"""The statuses of letters about which something is still to be done."""
_OF_VIOLATIONS = ("code", "field")
_MOST_CELLS = 1 << 22
"""Of groups that could be, how many are counted in an array with a place for each."""


@dataclass
class Group:
    """Letters that are alike.

    Attributes:
        key: what they are grouped by, in order; ``None`` where a letter does not say it.
        counts: letters by their status.
        first, last: when the first and the last of them were made; ``None`` if no one says.
        ids: of a few of them.
    """

    key: tuple[str | None, ...]
    counts: Counter[str] = field(default_factory=Counter)
    first: datetime | None = None
    last: datetime | None = None
    ids: list[str] = field(default_factory=list)

    @property
    def letters(self) -> int:
        """How many they are, of all statuses that were asked for."""
        return sum(self.counts.values())


class Sample(NamedTuple):
    """A letter to look at."""

    id: str
    source: str | None
    position: str | None
    message: str | None
    violations: Sequence[Mapping[str, Any]] | None
    attributes: Sequence[Mapping[str, Any]] | None
    contract_id: str | None
    payload: bytes | None


@dataclass
class Summary:
    """Groups of letters, the largest first; letters by their status, asked for or not.

    A letter with several violations is in a group of each, and is counted once in ``totals``.
    Indices in fields are ``*``: ``items[*].price``.
    """

    by: tuple[str, ...]
    groups: list[Group]
    totals: Counter[str]


def summarise(
    letters: Letters,
    marks: Marks | None,
    where: Where,
    by: Sequence[str] = BY[:4],
    *,
    statuses: Sequence[str] = UNSETTLED,
    samples: int = 0,
) -> Summary:
    """Count letters.

    Args:
        marks: what became of them; without, all are open.
        statuses: those that are in groups.
        samples: how many ids each group gets.
    """
    marked = marks is not None and not marks.is_empty
    columns = ["timestamp", *dict.fromkeys(_column(name) for name in by)]
    columns += ["id"] if marked or samples else []
    columns += ["attempt"] if marked else []
    counting = _Counting(tuple(by), tuple(statuses), samples)
    for batch in read_ahead(letters.batches(where, columns)):
        found = marks.places(batch["id"], batch["attempt"]) if marks and marked else None
        counting.add(batch, found)
    groups = sorted(counting.groups.values(), key=lambda g: (-g.letters, _sortable(g.key)))
    return Summary(tuple(by), groups, counting.totals)


def find_samples(letters: Letters, groups: Sequence[Group]) -> dict[str, Sample]:
    """The letters that groups name, by id."""
    wanted = dict.fromkeys(letter_id for group in groups for letter_id in group.ids)
    if not wanted:
        return {}
    found: dict[str, Sample] = {}
    names = ("id", "source", "position", "errorMessage", "violations", "attributes", "contract_id")
    for batch in letters.batches(Where(ids=tuple(wanted)), (*names, *PAYLOADS)):
        held = [*(batch[name].to_pylist() for name in names), payloads(batch).to_pylist()]
        found.update((row[0], Sample(*row)) for row in zip(*held, strict=True))
        if len(found) == len(wanted):  # what is looked at was read first, and lies in front
            break
    return found


class _Counting:
    def __init__(self, by: tuple[str, ...], statuses: tuple[str, ...], samples: int) -> None:
        self.groups: dict[tuple[str | None, ...], Group] = {}
        self.totals: Counter[str] = Counter()
        self._by = by
        self._statuses = statuses
        self._samples = samples

    def add(self, batch: pa.RecordBatch, statuses: np.ndarray | None) -> None:
        """Count a batch. ``statuses`` are places in ``STATUSES``, -1 where one stands no more."""
        status = np.full(batch.num_rows, STATUSES.index(OPEN)) if statuses is None else statuses
        for number, name in enumerate(STATUSES):
            self.totals[name] += int((status == number).sum())
        kept = np.isin(status, [STATUSES.index(name) for name in self._statuses])
        if not kept.all():
            batch, status = batch.filter(pa.array(kept)), status[kept]
        if batch.num_rows:
            self._count(batch, status)

    def _count(self, batch: pa.RecordBatch, status: np.ndarray) -> None:
        rows, columns = _keys(batch, self._by)
        codes, names = _combined(columns, len(rows))
        if len(rows) > batch.num_rows:  # the same violation twice in one letter is one of its kind
            first = np.unique(rows * (codes.max() + 1) + codes, return_index=True)[1]
            rows, codes = rows[first], codes[first]
        groups, inverse = _groups(codes)
        counts = np.zeros((len(groups), len(STATUSES)), np.int64)
        np.add.at(counts, (inverse, status[rows]), 1)
        times = batch["timestamp"].cast(pa.timestamp("us", "UTC")).view(pa.int64())
        first, last = _extremes(times, rows, inverse, len(groups))
        found = [self._group(names(code)) for code in groups.tolist()]
        for group, of_status, begin, end in zip(found, counts.tolist(), first, last, strict=True):
            group.counts.update({s: n for s, n in zip(STATUSES, of_status, strict=True) if n})
            group.first = min(filter(None, (group.first, begin)), default=None)
            group.last = max(filter(None, (group.last, end)), default=None)
        if any(len(group.ids) < self._samples for group in found):
            self._take_samples(batch["id"], rows, inverse, found)

    def _take_samples(
        self, ids: pa.Array, rows: np.ndarray, inverse: np.ndarray, found: list[Group]
    ) -> None:
        order = np.argsort(inverse, kind="stable")
        begins = np.searchsorted(inverse[order], np.arange(len(found)))
        for number, group in enumerate(found):
            end = begins[number + 1] if number + 1 < len(found) else len(order)
            lacking = self._samples - len(group.ids)
            members = rows[order[begins[number] : min(end, begins[number] + lacking)]]
            group.ids += [i for i in ids.take(pa.array(members)).to_pylist() if i is not None]

    def _group(self, key: tuple[str | None, ...]) -> Group:
        return self.groups.setdefault(key, Group(key))


def _column(name: str) -> str:
    return "violations" if name in _OF_VIOLATIONS else name


def _keys(batch: pa.RecordBatch, by: Sequence[str]) -> tuple[np.ndarray, list[Any]]:
    """What is counted: of each violation, or of each letter, its row and what it is grouped by."""
    if not set(by).intersection(_OF_VIOLATIONS):
        return np.arange(batch.num_rows), [batch[name] for name in by]
    lists = batch["violations"]
    items = pc.list_flatten(lists)
    rows = pc.list_parent_indices(lists).to_numpy(zero_copy_only=False)
    lengths = pc.fill_null(pc.list_value_length(lists), 0).to_numpy(zero_copy_only=False)
    bare = np.flatnonzero(lengths == 0)  # which is counted too
    all_rows = np.concatenate([rows, bare]).astype(np.int64)
    places = pa.array(all_rows)
    columns: list[Any] = []
    for name in by:
        if name in _OF_VIOLATIONS:
            of_items = pc.struct_field(items, name).cast(pa.string())
            columns.append(pa.concat_arrays([of_items, pa.nulls(len(bare), pa.string())]))
        elif len(bare) == 0 and len(rows) == batch.num_rows:
            columns.append(batch[name])
        else:
            columns.append(batch[name].take(places))
    encoded = [_any_index(c) if n == "field" else c for n, c in zip(by, columns, strict=True)]
    return all_rows, encoded


def _any_index(fields: Any) -> Any:
    """Paths of fields with ``*`` for every index."""
    encoded = fields.dictionary_encode()
    paths = pc.replace_substring_regex(encoded.dictionary, r"\[\d+\]", "[*]")
    return pa.DictionaryArray.from_arrays(encoded.indices, paths).cast(pa.string())


def _combined(columns: Sequence[Any], rows: int) -> tuple[np.ndarray, Any]:
    """One number for each combination of values, and what gives these values by it."""
    codes = np.zeros(rows, np.int64)
    sizes, values = [], []
    for column in columns:
        encoded = column.dictionary_encode()
        names = [*encoded.dictionary.to_pylist(), None]
        indices = pc.fill_null(encoded.indices, len(names) - 1).to_numpy(zero_copy_only=False)
        codes = codes * len(names) + indices
        sizes.append(len(names))
        values.append(names)

    def named(code: int) -> tuple[str | None, ...]:
        found = []
        for size, names in zip(reversed(sizes), reversed(values), strict=True):
            code, index = divmod(code, size)
            found.append(names[index])
        return tuple(reversed(found))

    return codes, named


def _groups(codes: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """The numbers that occur, sorted, and the place of each among them."""
    if codes.max() >= _MOST_CELLS:
        return np.unique(codes, return_inverse=True)
    there = np.bincount(codes) > 0
    return np.flatnonzero(there), (np.cumsum(there) - 1)[codes]


def _extremes(
    times: Any, rows: np.ndarray, inverse: np.ndarray, groups: int
) -> tuple[list[datetime | None], list[datetime | None]]:
    """The first and the last time of each group; null where there is none."""
    least, most = np.iinfo(np.int64).min, np.iinfo(np.int64).max
    first, last = np.full(groups, most), np.full(groups, least)
    np.minimum.at(first, inverse, pc.fill_null(times, most).to_numpy(zero_copy_only=False)[rows])
    np.maximum.at(last, inverse, pc.fill_null(times, least).to_numpy(zero_copy_only=False)[rows])
    none = first == most
    moments = [
        pa.array(found, mask=none).cast(pa.timestamp("us", "UTC")).to_pylist()
        for found in (first, last)
    ]
    return moments[0], moments[1]


def _sortable(key: tuple[str | None, ...]) -> tuple[str, ...]:
    return tuple(part or "" for part in key)
