"""Which of the letters that are meant a replay reads, and why it leaves the others."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Sequence
from functools import cached_property
from typing import TYPE_CHECKING, Any

from ..schemas.dead_letters import AGGREGATE
from .logs import WARNING, say
from .reading import SELF_DESCRIBED, file_reader

if TYPE_CHECKING:
    import numpy as np
    import pyarrow as pa

    from ..transforms.letters import Letters, Where
    from ..transforms.read.described import Described
    from .run import Run

_NO_BYTES = "their bytes are not held"
_NO_KEY = "they are encrypted, and the job names no keys (encrypt_dead_letters)"
_NO_HEADER = "their file, whose header it takes to read them, is not to be had"


class LetterChoice:
    """Which letters are replayed: those that are meant, open, and can be read again."""

    def __init__(self, letters: Letters, where: Where, run: Run) -> None:
        from ..transforms.encryption import keys_of
        from ..transforms.letters import Marks

        self._letters = letters
        self._where = where
        self._marks = Marks(run.store.home)
        self._job = run.job
        self._contract = run.contract
        self._left: Counter[str] = Counter()
        variable = run.job.encrypt_dead_letters
        self._keys = keys_of(variable) if variable else None

    def batches(self) -> Iterator[pa.RecordBatch]:
        """The letters, as :mod:`..transforms.replay.frozen` takes them; each id once."""
        import pyarrow as pa
        import pyarrow.compute as pc

        from ..transforms.letters import payloads
        from ..transforms.letters.summary import UNSETTLED
        from ..transforms.read.ahead import read_ahead
        from ..transforms.replay.frozen import COLUMNS, FROZEN

        unsettled = pa.array(UNSETTLED)
        seen: set[tuple[str, str]] = set()
        columns = (*COLUMNS, "payloadString")
        for batch in read_ahead(self._letters.batches(self._where, columns)):
            statuses = self._marks.statuses(batch.column("id"), batch.column("attempt"))
            letters = pa.Table.from_batches([batch]).select(list(COLUMNS))
            place = letters.schema.get_field_index("payloadBytes")
            letters = letters.set_column(place, "payloadBytes", payloads(batch))
            letters = letters.cast(FROZEN).filter(pc.is_in(statuses, unsettled))
            letters = _first_of_each(self._readable(self._with_bytes(letters)), seen)
            yield from letters.to_batches()

    def say_left(self) -> None:
        """Say of what is not replayed why."""
        for reason, rows in self._left.items():
            say(f"{rows:,} dead letters are left as they are: {reason}", WARNING)

    def _with_bytes(self, letters: pa.Table) -> pa.Table:
        """Those of which each is one record, whose bytes are held."""
        import pyarrow.compute as pc

        regions = pc.fill_null(pc.match_substring(letters["position"], "-"), False)
        held = pc.and_(pc.is_valid(letters["payloadBytes"]), pc.invert(regions))
        found = letters.filter(held)
        if len(found) < len(letters):
            self._left[_NO_BYTES] += len(letters) - len(found)
        return found

    def _readable(self, letters: pa.Table) -> pa.Table:
        """Those that can be read, with what their files say of that, where they do not."""
        import pyarrow as pa

        from ..transforms.encryption import ENCRYPTION

        doubtful = _saying(letters, ENCRYPTION)
        if self._job.format in SELF_DESCRIBED:
            doubtful |= ~_saying(letters, "format")
        if not doubtful.any():
            return letters
        rows = letters.filter(pa.array(doubtful)).to_pylist()
        kept = [row for row in rows if self._is_readable(row)]
        looked_at = pa.Table.from_pylist(kept, letters.schema)
        return pa.concat_tables([letters.filter(pa.array(~doubtful)), looked_at])

    def _is_readable(self, row: dict[str, Any]) -> bool:
        if why_not := self._sealed(row):
            self._left[why_not] += 1
            return False
        if self._job.format not in SELF_DESCRIBED or self._says(row["attributes"]):
            return True
        said = self._described[row["source"]]
        if said is None:
            self._left[_NO_HEADER] += 1
            return False
        own = ({"key": key, "value": value} for key, value in said.items())
        row["attributes"] = [*(row["attributes"] or ()), *own]
        return True

    def _sealed(self, row: dict[str, Any]) -> str:
        """Why a letter cannot be decrypted; empty if it can, or need not be."""
        from ..transforms.encryption import is_encrypted

        attributes = row["attributes"] or ()
        if not is_encrypted(attributes):
            return ""
        return self._keys.why_not(row["payloadBytes"], attributes) if self._keys else _NO_KEY

    def _says(self, attributes: Sequence[dict[str, str]] | None) -> bool:
        return any(pair["key"] == "format" for pair in attributes or ())

    @cached_property
    def _described(self) -> Described:
        from ..transforms.read.described import Described

        return Described(file_reader(self._job, self._contract))


def _saying(letters: pa.Table, name: str) -> np.ndarray:
    """Which letters have an attribute of a name."""
    import numpy as np
    import pyarrow.compute as pc

    attributes = letters["attributes"].combine_chunks()
    named = pc.equal(pc.struct_field(pc.list_flatten(attributes), "key"), name)
    rows = pc.list_parent_indices(attributes).filter(named)
    found = np.zeros(len(letters), bool)
    found[rows.to_numpy()] = True
    return found


def _first_of_each(letters: pa.Table, seen: set[tuple[str, str]]) -> pa.Table:
    """Those that were not seen before. A record may be late for several aggregates."""
    import pyarrow as pa

    late_for = [""] * len(letters)
    late = _saying(letters, AGGREGATE)
    for row in late.nonzero()[0].tolist():
        pairs = letters["attributes"][row].as_py()
        late_for[row] = next(pair["value"] for pair in pairs if pair["key"] == AGGREGATE)
    is_new = []
    for named in zip(letters["id"].to_pylist(), late_for, strict=True):
        is_new.append(named not in seen)
        seen.add(named)
    return letters if all(is_new) else letters.filter(pa.array(is_new, pa.bool_()))
