"""The repairs of a job, made ready for a contract: broken records to records that may keep it.

A repair changes nothing but values that break the contract. So of a record that keeps it nothing is
changed, and of one that does not, nothing that other records may have as it is.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable, Sequence
from dataclasses import replace
from typing import Any, NamedTuple

import msgspec
import pyarrow as pa

from ..contract import Contract, Field
from ..json.columns import Number
from ..json.decoder import JsonDecoder
from ..problems import did_you_mean, list_names
from .bounds import clamp_to
from .fields import Slot, declared, field_paths, known_names, sibling, slot_at
from .spec import KINDS, RepairError, RepairJob
from .times import written_as
from .values import Repaired, cast_to, mapped, text_of, trim

_NOTHING_TO_BE_MADE = (ValueError, ArithmeticError, RecursionError)
"""What values raise that nobody can read: bytes that are no UTF-8, numbers beyond all bounds."""


class _Ready(NamedTuple):
    """A repair that was found to be possible: whose violations it is tried on, and what it does."""

    path: str
    mark: str
    of: Collection[str]
    apply: Callable[[Slot, bool], bool]


class Repairs:
    """What a job's repairs make of broken records.

    Args:
        nulls: records are of cells, all of them text, and these texts mean null.

    Raises:
        RepairError: an entry cannot work; its ``entry`` is the number of it, from 0.

    >>> from millstream.schemas.contract import Contract, Field
    >>> contract = Contract("c", "1", "c", (Field("n", "integer"),))
    >>> Repairs(contract, [RepairJob(field="n", cast=True)]).repaired({"n": "3.0"}, ["n"])
    ({'n': 3}, ['n: cast'])
    """

    def __init__(
        self,
        contract: Contract,
        entries: Sequence[RepairJob],
        *,
        nulls: Collection[str] | None = None,
    ) -> None:
        self._cells = nulls is not None
        self._nulls = frozenset(nulls or ())
        self._ready = [_numbered(i, entry, contract) for i, entry in enumerate(entries)]

    def repaired(
        self, record: dict[str, Any], wrong: Iterable[str]
    ) -> tuple[dict[str, Any], list[str]]:
        """A record with what is wrong repaired as far as that goes, and by which repairs.

        Args:
            record: values by name. They may be JSON text (``msgspec.Raw``), which is opened where
                it has to be; numbers that are put in are such text.
            wrong: the paths of what breaks the contract.
        """
        record, marks = dict(record), []
        places = [(path, declared(path)) for path in dict.fromkeys(wrong)]
        for ready in self._ready:
            changed = False
            for path, at in places:
                if at in ready.of:
                    place = path if at == ready.path else sibling(path, _last(ready.path))
                    changed |= self._tried(ready, record, place)
            if changed:
                marks.append(f"{ready.path}: {ready.mark}")
        return record, marks

    def _tried(self, ready: _Ready, record: dict[str, Any], path: str) -> bool:
        try:
            slot = slot_at(record, path, cells=self._cells)
            if slot is None:
                return False
            is_cell = self._cells and slot.container is record
            before = slot.value
            if not ready.apply(slot, is_cell):
                return False
        except _NOTHING_TO_BE_MADE:
            return False
        if not is_cell:
            return True
        text = _cell_text(slot.value)
        if ready.mark == "trim" and isinstance(before, BareCell) and text in self._nulls:
            text = None  # as it would have been without the space
        slot.put(text)
        return text != before


class BareCell(str):
    """The text of a cell that is not in quotes, and so may mean null."""

    __slots__ = ()


def _cell_text(value: Any) -> str | None:
    if value is None or isinstance(value, str):
        return value
    if isinstance(value, bool | int | float):
        return text_of(value)
    return msgspec.json.encode(value).decode()


def _last(path: str) -> str:
    return path.rpartition(".")[2]


def _numbered(i: int, entry: RepairJob, contract: Contract) -> _Ready:
    try:
        return _ready(entry, contract)
    except RepairError as error:
        error.entry = i
        raise


def _ready(entry: RepairJob, contract: Contract) -> _Ready:
    if len(entry.kinds) != 1:
        raise RepairError("", f"expected {list_names(KINDS)}, one of them")
    (kind,) = entry.kinds
    if entry.timezone and kind != "date_format":
        raise RepairError("timezone", "belongs to date_format")
    fields = dict(field_paths(contract.fields))
    field = fields.get(entry.field)
    if field is None:
        said = f"the contract has no field {entry.field!r}{did_you_mean(entry.field, fields)}"
        raise RepairError("field", said)
    mark = kind.replace("_", " ")
    if kind == "rename":
        return _rename(entry, contract)
    if kind == "default":
        return _Ready(entry.field, mark, {entry.field}, _default(entry, field))
    return _Ready(entry.field, mark, {entry.field}, _changing(_repair_of(kind, entry, field)))


def _repair_of(kind: str, entry: RepairJob, field: Field) -> Repaired:
    if kind == "trim":
        return trim
    if kind == "cast":
        return cast_to(field)
    if kind == "clamp":
        return clamp_to(field)
    if kind == "date_format":
        return written_as(field, entry)
    for text, value in entry.map.items():
        if value is not None or field.required:
            _see_valid(value, field, "map", f"{text!r} is mapped to what")
    return mapped(entry.map)


def _changing(repair: Repaired) -> Callable[[Slot, bool], bool]:
    def apply(slot: Slot, is_cell: bool) -> bool:
        value = slot.value
        new = repair(value, is_cell)
        if new is value:
            return False
        slot.put(_held(new))
        return True

    return apply


def _held(value: Any) -> Any:
    """A value as records hold it: a number with all its digits, as JSON text."""
    return msgspec.Raw(value.encode()) if isinstance(value, Number) else value


def _default(entry: RepairJob, field: Field) -> Callable[[Slot, bool], bool]:
    if not field.required:
        said = "the field is not required: what is missing is null, and breaks nothing"
        raise RepairError("default", said)
    _see_valid(entry.default, field, "default", "")

    def apply(slot: Slot, is_cell: bool) -> bool:
        if slot.value is not None:
            return False
        slot.put(entry.default)
        return True

    return apply


def _rename(entry: RepairJob, contract: Contract) -> _Ready:
    old = entry.rename or ""
    if entry.field.endswith("[]"):
        raise RepairError("rename", "the items of an array have no names")
    if old in known_names(contract, entry.field):
        raise RepairError("rename", f"{old} is a field of the contract")

    def apply(slot: Slot, is_cell: bool) -> bool:
        assert isinstance(slot.container, dict)
        there = Slot(slot.container, old)
        if slot.value is not None or there.value is None:
            return False
        slot.put(slot.container.pop(old))
        return True

    # The old name itself is wrong where the job rejects what the contract does not name.
    return _Ready(entry.field, "rename", {entry.field, sibling(entry.field, old)}, apply)


def _see_valid(value: Any, field: Field, key: str, what: str) -> None:
    """See that a value keeps the contract.

    Raises:
        RepairError: it does not.
    """
    alone = Contract("", "", "", (replace(field, name="value", required=True),))
    payload = msgspec.json.encode({"value": value})
    decoder = JsonDecoder(alone, "reject", judge=True)
    decoded = decoder.decode(pa.array([payload], pa.binary()))
    if decoded.refused:
        said = "; ".join(violation.message for violation in decoded.violations)
        raise RepairError(key, f"{what} does not keep the contract: {said}".strip())
