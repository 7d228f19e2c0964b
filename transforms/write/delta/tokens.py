"""What a Delta table holds of a run: an application transaction, and a small file beside the data.

The commit that adds the rows records a transaction in the table's log (``appId``: the run,
``version``: a digest of what is held). The log's checkpoints keep transactions for ever, unless the
table's owner has set ``delta.setTransactionRetentionDuration``; everything else that a commit could
carry is deleted with the log's old entries. So what is held is written to
``_millstream/commits/`` in the table's folder beforehand, under a name with that digest: the
transaction says which of these files counts. Vacuuming a table leaves such folders alone.

Delta accepts a transaction that it has already; two commits that do not know of each other with one
``appId`` are a conflict. So who reads the table, finds no transaction, and commits to what it has
read, is the only one.
"""

from __future__ import annotations

import hashlib

import pyarrow.fs as pa_fs
from deltalake import CommitProperties, DeltaTable, Transaction
from deltalake.fs import DeltaStorageHandler

from ..errors import DestinationError
from ..tables import Held

_FOLDER = "_millstream/commits"


def app_id(run_id: str) -> str:
    """The transaction's name."""
    return f"millstream:{run_id}"


def read_held(table: DeltaTable, run_id: str) -> Held | None:
    """What the version of the table that was opened holds of a run.

    Raises:
        DestinationError: it holds something that cannot be read.
    """
    version = table.transaction_version(app_id(run_id))
    if version is None:
        return None
    path = _path(run_id, version)
    try:
        with _files(table).open_input_stream(path) as file:
            text = file.read()
    except FileNotFoundError:
        raise DestinationError(
            f"{table.table_uri} holds run {run_id}, but {path} is missing, which says what it "
            "holds: it belongs to the table; give this run another run id"
        ) from None
    return Held.from_json(text)


def hold(
    table: DeltaTable, run_id: str, held: Held, *, retries: int | None = None
) -> CommitProperties:
    """Write down what is to be held; gives what the commit that holds it has to carry.

    Args:
        retries: how often the commit may be repeated on top of other commits that it does not
            conflict with; 0 if it is right for the version that was read alone.
    """
    text = held.to_json()
    version = int.from_bytes(hashlib.sha256(text.encode()).digest()[:8], "big") >> 1
    files = _files(table)
    files.create_dir(_FOLDER, recursive=True)
    with files.open_output_stream(_path(run_id, version), buffer_size=1 << 16) as file:
        file.write(text.encode())
    return CommitProperties(
        custom_metadata={"millstream": text},  # for who reads the history
        max_commit_retries=retries,
        app_transactions=[Transaction(app_id(run_id), version)],
    )


def _path(run_id: str, version: int) -> str:
    return f"{_FOLDER}/{run_id}-{version:016x}.json"


def _files(table: DeltaTable) -> pa_fs.FileSystem:
    return pa_fs.PyFileSystem(DeltaStorageHandler(table.table_uri))
