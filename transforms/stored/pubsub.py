"""A topic of Pub/Sub, which cannot be asked what it holds."""

from __future__ import annotations

from typing import NoReturn

import pyarrow as pa

from ..receipts import Part
from ..write.destination import Output
from ..write.errors import DestinationError


def open_stored(output: Output, part: Part, schema: pa.Schema | None) -> NoReturn:
    """Refuse it.

    Raises:
        DestinationError: always.
    """
    raise DestinationError(
        f"{output.uri.partition('?')[0]}: what was published to Pub/Sub cannot be listed or read "
        "back. Have a BigQuery or Cloud Storage subscription of the topic keep it, and read it "
        "from there, as bigquery:PROJECT.DATASET.TABLE or jsonl:gs://BUCKET/FOLDER"
    )
