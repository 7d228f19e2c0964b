"""Decoded records, with those among the refused that repairs make good."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import pyarrow as pa

from ..arrow import REPAIRED_FIELD
from ..decoded import Decoded
from ..drift.facts import extend, renumbered
from .payloads import Payloads

_AND = "; "


def rescued(decoded: Decoded, payloads: pa.Array, how: Payloads | None) -> Decoded:
    """What became of a batch of records once repairs have been tried on the refused.

    The column ``_repaired`` is added: which repairs a record was rescued by, null of all that were
    good as they are. What repairs do not make good is refused as before, for what was wrong with it
    before.

    ``noticed`` of the rescued comes to what there is already.

    Args:
        payloads: the bytes of the refused records, in order.
        how: how they are written anew; ``None`` if they cannot be.
    """
    marked = _marked(decoded.records, pa.nulls(decoded.records.num_rows, pa.string()))
    decoded = decoded._replace(records=marked)
    if how is None or not decoded.refused:
        return decoded
    tried = how.rewritten(payloads, _wrong_paths(decoded))
    places = [i for i, found in enumerate(tried) if found is not None]
    if not places:
        return decoded
    found = [tried[i] for i in places]
    again = how.decode(pa.array([each.payload for each in found if each], pa.binary()))
    good = range(len(places)) if again.kept is None else again.kept.tolist()
    marks = [_AND.join(each.marks) for i in good if (each := found[i])]
    records = _marked(again.records, pa.array(marks, pa.string()))
    joined = _joined(decoded, records, [places[i] for i in good])
    if again.noticed is None:
        return joined
    noticed = dict(decoded.noticed or {})
    extend(noticed, renumbered(again.noticed, np.array(decoded.refused)[places]))
    return joined._replace(noticed=noticed)


def _marked(records: pa.RecordBatch, marks: pa.Array) -> pa.RecordBatch:
    return records.append_column(REPAIRED_FIELD, marks)


def _wrong_paths(decoded: Decoded) -> list[list[str]]:
    """The paths of what is wrong with each refused record."""
    if decoded.letters is not None:
        lists = decoded.letters.column("violations").to_pylist()
        return [[violation["field"] or "" for violation in several] for several in lists]
    by_row: dict[int, list[str]] = {row: [] for row in decoded.refused}
    for violation in decoded.violations:
        by_row[violation.row].append(violation.field)
    return list(by_row.values())


def _joined(decoded: Decoded, records: pa.RecordBatch, places: Sequence[int]) -> Decoded:
    """The outcome with some of the refused, by their places among them, among the good."""
    left = np.ones(len(decoded.refused), bool)
    left[list(places)] = False
    refused = np.array(decoded.refused, np.int64)
    before = _kept(decoded)
    rows = np.concatenate([before, refused[~left]])
    order = np.argsort(rows, kind="stable")
    whole = pa.concat_batches([decoded.records, records]).take(pa.array(order))
    stays = set(refused[left].tolist())
    keep = pa.array(left)
    letters = decoded.letters.filter(keep) if decoded.letters is not None else None
    return decoded._replace(
        records=whole,
        kept=rows[order],
        refused=refused[left].tolist(),
        violations=[v for v in decoded.violations if v.row in stays],
        well_typed=[
            well for well, is_left in zip(decoded.well_typed, left, strict=True) if is_left
        ],
        event_times=decoded.event_times.filter(keep),
        letters=letters if letters is not None and letters.num_rows else None,
    )


def _kept(decoded: Decoded) -> np.ndarray:
    if decoded.kept is not None:
        return np.asarray(decoded.kept, np.int64)
    return np.arange(decoded.records.num_rows, dtype=np.int64)
