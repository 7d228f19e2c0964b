"""Dead letters of regions of a file: what is too long to be a record, or could not be read."""

from __future__ import annotations

import pyarrow as pa

from ...schemas.codes import Code
from ..dead_letters import Origin, region_batch
from .lines import Oversize, Unreadable


def region_letter(
    source: str, region: Oversize | Unreadable, origin: Origin, max_record_bytes: int
) -> pa.RecordBatch:
    """The dead letter of a region; its position is the region's bytes, ``from-to``."""
    if isinstance(region, Oversize):
        return region_batch(
            source,
            f"{region.start}-{region.end}",
            None,
            Code.OVERSIZE,
            f"is {region.end - region.start} bytes long, more than the {max_record_bytes} "
            "that max_record_bytes allows",
            origin,
            preview=region.preview.decode("utf-8", "replace"),
        )
    return region_batch(
        source,
        f"{region.start}-{'' if region.end is None else region.end}",
        region.cut or None,
        Code.UNREADABLE,
        f"the file {region.reason}",
        origin,
    )
