"""Rows that a destination refused: written down before the rest is committed.

Their file is named by its content, and the commit that leaves them out holds the name: so whatever
dies in between, it is known which rows a commit did not bring, and they become dead letters once.
"""

from __future__ import annotations

import uuid
from collections import Counter
from collections.abc import Iterator, Sequence

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from ...schemas.arrow import IDENTITY
from ...schemas.codes import Code
from ...schemas.dead_letters import SCHEMA
from ...schemas.rules import Violation
from .. import storage
from ..dead_letters import refused_batch
from ..tallies import count_sources
from .destination import Commit
from .errors import DestinationError
from .parquet import ParquetEncoder
from .tables import Load, Refused

STAGE = "write"
"""The stage of dead letters that a destination made."""


def refuse(
    commit: Commit, load: Load, rows: Sequence[int] | np.ndarray, messages: Sequence[str]
) -> Refused:
    """Write down which rows of a load are refused, and why. Call it before the rest is committed.

    Args:
        rows: their numbers in the load, sorted.
        messages: why, one for each; no values of the row, since fields can be restricted.

    Raises:
        DestinationError: the rows are not records, or nobody takes dead letters.
    """
    run = commit.run
    if not len(rows):
        return Refused("", 0)
    if run is None or not load.table.has_identity:
        raise DestinationError(
            f"{load.name} refuses {len(rows)} rows, the first because: {messages[0]}"
        )
    output = load.receipts[0].output
    staged = storage.join(run.path, f".{uuid.uuid4().hex}.staged")
    with storage.open_write(staged) as file:
        from .stage import Hashing

        hashing = Hashing(file)
        encoder = ParquetEncoder(hashing, SCHEMA)  # type: ignore[arg-type]
        for batch, numbers in _records(load, np.asarray(rows, np.int64)):
            violations = [
                Violation(i, "", Code.DESTINATION, messages[n]) for i, n in enumerate(numbers)
            ]
            letters = refused_batch(batch, violations, run.origin._replace(stage=STAGE))
            encoder.write(_encrypted(letters, run.keys))
        encoder.close()
    name = f"refused-{output}-{hashing.sha256[:16]}.parquet"
    storage.move(staged, storage.join(run.path, name))
    return Refused(name, len(rows))


def _encrypted(letters: pa.RecordBatch, variable: str) -> pa.RecordBatch:
    if not variable:
        return letters
    from ..encryption import EncryptionError, encrypted, keys_of

    try:
        return encrypted(letters, keys_of(variable))
    except EncryptionError as error:
        raise DestinationError(str(error)) from error


def refused_letters(path: str) -> Iterator[pa.RecordBatch]:
    """The dead letters of a file that :func:`refuse` wrote."""
    with storage.named(path, "read"), storage.open_read(path) as file:
        for batch in pq.ParquetFile(file).iter_batches():
            yield batch.cast(SCHEMA)


def refused_by_source(path: str) -> Counter[str]:
    """How many rows of each source were refused."""
    found: Counter[str] = Counter()
    for batch in refused_letters(path):
        found.update(count_sources(batch, "source"))
    return found


def _records(load: Load, rows: np.ndarray) -> Iterator[tuple[pa.RecordBatch, range]]:
    """The identity columns of the rows, and which of ``rows`` they are."""
    before = 0
    for receipt in load.receipts:
        here = range(*np.searchsorted(rows, [before, before + receipt.rows]))
        if here:
            with storage.named(receipt.path, "read"), storage.open_read(receipt.path) as file:
                stored = pq.ParquetFile(file)
                at = before
                for batch in stored.iter_batches(columns=list(IDENTITY)):
                    within = range(*np.searchsorted(rows, [at, at + batch.num_rows]))
                    if within:
                        yield batch.take(pa.array(rows[within.start : within.stop] - at)), within
                    at += batch.num_rows
        before += receipt.rows
