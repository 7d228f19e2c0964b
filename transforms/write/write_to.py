"""Writing in a pipeline of your own: stage batches, wait for all of them, commit them once."""

from __future__ import annotations

import hashlib
import uuid
from typing import Any

import apache_beam as beam

from ..plan import Token, checked_name
from ..receipts import Receipt, content_digest
from .attempts import Attempts
from .commit import barrier
from .destination import Commit, Committed, Destination, Output
from .stage import Stage


class WriteTo(beam.PTransform):
    """Write record batches to a destination, all or nothing.

    ``PCollection[pa.RecordBatch]``, bounded → ``PCollection[Committed]`` with one element. Identity
    columns (``_source``, ``_position``, ``_payload``) are left out.

    Args:
        uri: the destination, such as ``parquet:DIR``, ``csv:gs://bucket/DIR`` or
            ``parquet:DIR?partition_by=country,date(ts)&target_size=128MB``.
        name: the output's name: the first part of its file names.
        run_id: names this write. A pipeline that runs twice under one run id writes once, if it
            gives the same files; other content is refused. Without one, every pipeline that is
            constructed writes anew.
        keep_identity: write the identity columns too.
        state: the folder that rows are staged in, for destinations other than files.

    Raises:
        DestinationError: the URI cannot be used; or, in the pipeline, batches lack a column to
            partition by.
        PlanError: the name or run id cannot stand in a file name.
        StorageError: in the pipeline, when a file cannot be written.
        CommitConflict: in the pipeline, when the run id is held with other content.
    """

    def __init__(
        self,
        uri: str,
        name: str = "part",
        run_id: str | None = None,
        *,
        keep_identity: bool = False,
        state: str = "",
    ) -> None:
        super().__init__()
        # Fixed here, not on a worker: a bundle that is retried must stage under the same id.
        run_id = checked_name(run_id, "run id") if run_id else uuid.uuid4().hex
        self._token = Token(run_id, hashlib.sha256(run_id.encode()).hexdigest())
        self._output = Output(name, uri, state=state)
        self._keep_identity = keep_identity

    def expand(self, pcoll: beam.PCollection) -> Any:
        staged: Any = pcoll | "Stage" >> Stage(
            self._output, self._token, keep_identity=self._keep_identity
        )
        return barrier(staged) | "Commit" >> beam.Map(
            _commit, self._output.destination, self._token
        ).with_output_types(Committed)


class WriteToParquet(WriteTo):
    """:class:`WriteTo` for Parquet files in ``directory``."""

    def __init__(self, directory: str, name: str = "part", run_id: str | None = None) -> None:
        super().__init__(f"parquet:{directory}", name, run_id)


class WriteToJsonLines(WriteTo):
    """:class:`WriteTo` for JSON lines files in ``directory``."""

    def __init__(self, directory: str, name: str = "part", run_id: str | None = None) -> None:
        super().__init__(f"jsonl:{directory}", name, run_id)


def _commit(receipts: list[Receipt], to: Destination, token: Token) -> Committed:
    digest = content_digest(receipts)
    Attempts().call(to.service, lambda: to.commit(Commit(token, digest, tuple(receipts))))
    return Committed(token, digest, sum(r.rows for r in receipts if r.part == "data"))
