"""Decoding that notices unknown fields, at next to no cost where there are none.

Records are decoded strictly, and only one that fails is decoded again, leniently, and looked
through. A field that is found so again and again is learned: from then on records that have it are
decoded at once like others, and it is read off them.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Sequence
from operator import attrgetter
from typing import Any

from ..contract import UNFIT_IN_NAMES, Contract
from ..json.structs import Learned, learned_at, record_decoder
from ..masking import Masking
from .facts import Found, extend
from .unknown import UnknownFinder, note_values

_OFTEN = 10
"""Records of a chunk that an unknown field is found in before it is learned."""
_MOST = 100
"""Fields that are learned. Where there are more, their names are data."""


class Noticing:
    """Decodes records of one contract, and finds what it does not name.

    ``strict`` fails on a record with unknown fields, but for those that were learned; ``lenient``
    does not. Both decode into objects with the same attributes.
    """

    def __init__(self, contract: Contract) -> None:
        self._contract = contract
        self._finder = UnknownFinder(contract)
        self._masking = Masking(contract)
        self._learn(frozenset())

    def _learn(self, learned: Learned) -> None:
        fields = self._contract.fields
        self._learned = learned
        self.strict = record_decoder(fields, forbid=True, learned=learned)
        self.lenient = record_decoder(fields, forbid=False, learned=learned)
        self._getters = [(".".join(path), self._getter(path)) for path in sorted(learned)]

    def _getter(self, path: tuple[str, ...]) -> Callable[[Any], Any]:
        """What gives the value of a learned field of a decoded record."""
        fields, attributes = self._contract.fields, []
        for name in path[:-1]:
            place = [field.name for field in fields].index(name)
            attributes.append(f"f{place}")
            fields = fields[place].fields
        attributes.append(f"u{learned_at(self._learned, path[:-1]).index(path[-1])}")
        direct = attrgetter(".".join(attributes))

        def get(record: Any) -> Any:
            try:
                return direct(record)
            except AttributeError:  # what is around it is null
                return None

        return get if len(attributes) > 1 else direct

    def note(
        self,
        found: Found,
        start: int,
        lines: Sequence[bytes],
        objects: Sequence[Any],
        failed: Collection[int],
        extra: Sequence[int],
    ) -> None:
        """Note the unknown fields of a chunk of records.

        Args:
            start: the row of the first.
            objects: what was decoded of ``lines``, but for those that ``failed``.
            extra: those that only ``lenient`` has decoded.
        """
        looked = set(extra)
        fresh = self._finder.of((start + i, lines[i]) for i in extra)
        extend(found, fresh)
        if self._getters:
            gone = set(failed)
            rows = [i for i in range(len(lines)) if i not in gone] if gone else range(len(lines))
            for path, get in self._getters:
                values = [
                    (start + i, bytes(raw))
                    for i, raw in zip(rows, map(get, objects), strict=True)
                    if raw is not None and i not in looked
                ]
                note_values(found, path, values, self._masking)
        often = {
            self._finder.steps[path]
            for (_, path), seen in fresh.items()
            if path in self._finder.steps and sum(map(len, seen.values())) >= _OFTEN
        }
        often = {path for path in often if not any(map(UNFIT_IN_NAMES.search, path))}
        if not often <= self._learned and len(self._learned | often) <= _MOST:
            self._learn(self._learned | often)

    def note_all(
        self, found: Found, start: int, lines: Sequence[bytes], failed: Collection[int]
    ) -> None:
        """Note the unknown fields of records that are decoded one by one."""
        fine = ((start + i, line) for i, line in enumerate(lines) if i not in failed)
        extend(found, self._finder.of(fine))
