"""How a folder's files are laid out, as the query of a destination's URI says it.

``parquet:/data/events?partition_by=country,date(ts)&target_size=128MB``
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from urllib.parse import parse_qsl, urlencode

from ...schemas.problems import did_you_mean, list_names
from .errors import DestinationError
from .partitions import Partition, parse_partitions

TARGET_BYTES = 256 << 20

_UNITS = {
    "": 1, "B": 1,
    "KB": 10**3, "MB": 10**6, "GB": 10**9,
    "KIB": 1 << 10, "MIB": 1 << 20, "GIB": 1 << 30,
}  # fmt: skip
_OPTIONS = ("partition_by", "target_size")


@dataclass(frozen=True)
class Layout:
    """Partition folders, and the size from which on a file is closed and another begun.

    A file is of one bundle and one partition. The local runner reads all of its input in one
    bundle, so that files are of the target size. Elsewhere a bundle is about a range of 64 MB of
    input: some 10 MB of Parquet, 20 MB of Avro or 60 MB of JSON lines, shared among the partitions
    that it has rows of. Where there are many partitions, sort the input by them, or gather small
    files afterwards. A file goes beyond the target by a row group or a batch at most.
    """

    partition_by: tuple[Partition, ...] = ()
    target_bytes: int = TARGET_BYTES

    def query(self) -> str:
        """The query that says this layout, the same for the same layout; empty for the default."""
        said = {"partition_by": ",".join(map(str, self.partition_by))}
        if self.target_bytes != TARGET_BYTES:
            said["target_size"] = str(self.target_bytes)
        return urlencode({key: value for key, value in said.items() if value}, safe=",()")


def parse_layout(query: str) -> Layout:
    """The layout of a query.

    Raises:
        DestinationError: an option or its value is not one.
    """
    given: dict[str, str] = {}
    for key, value in parse_qsl(query, keep_blank_values=True):
        if key not in _OPTIONS:
            hint = did_you_mean(key, _OPTIONS) or f"; expected {list_names(_OPTIONS)}"
            raise DestinationError(f"no option {key!r}{hint}")
        if key in given:
            raise DestinationError(f"option {key!r} is there twice")
        given[key] = value
    return Layout(
        parse_partitions(given["partition_by"]) if "partition_by" in given else (),
        _bytes(given["target_size"]) if "target_size" in given else TARGET_BYTES,
    )


def _bytes(text: str) -> int:
    found = re.fullmatch(r"(\d+) ?([A-Za-z]*)", text)
    unit = _UNITS.get(found[2].upper()) if found else None
    size = int(found[1]) * unit if found and unit else 0
    if size < 1:
        raise DestinationError(f"target_size: expected a size as 256MB or 128MiB, got {text!r}")
    return size
