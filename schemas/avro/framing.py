"""What stands before an Avro datum that comes as a message: which schema it was written by."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import numpy as np
import pyarrow as pa

from .single import layout


@dataclass(frozen=True, slots=True)
class Framing:
    """A few bytes that are always the same, then the number of the writer's schema."""

    name: str
    magic: bytes
    number_bytes: int = 0  # 0: no number, there is one schema
    order: Literal["big", "little"] = "big"

    @property
    def size(self) -> int:
        """How many bytes stand before the datum."""
        return len(self.magic) + self.number_bytes

    def numbers(self, payloads: pa.Array) -> tuple[np.ndarray, np.ndarray]:
        """The number of each payload (uint64), and whether it is framed so (bool).

        Args:
            payloads: a binary array without nulls.
        """
        octets, offsets = layout(payloads)
        starts = offsets[:-1]
        numbers = np.zeros(len(starts), np.uint64)
        framed = np.diff(offsets) >= self.size
        if not framed.any():
            return numbers, framed
        for place, octet in enumerate(self.magic):
            framed &= octets.take(starts + place, mode="clip") == octet
        places = range(len(self.magic), self.size)
        for place in places if self.order == "big" else reversed(places):
            octet = octets.take(starts + place, mode="clip")
            numbers = (numbers << np.uint64(8)) | octet
        return numbers, framed

    def fault(self, payload: bytes) -> str:
        """What is wrong with a payload that is not framed so."""
        if not payload:
            return "is empty"
        if payload[: len(self.magic)] != self.magic[: len(payload)]:
            found, due = payload[: len(self.magic)].hex(" "), self.magic.hex(" ")
            return f"begins with {found}, not with {due} as the framing {self.name} does"
        return f"has {len(payload)} bytes, fewer than the {self.size} of the framing {self.name}"


CONFLUENT = Framing("confluent", b"\0", 4)
"""Source: Confluent's documentation, "Wire format"."""
SINGLE_OBJECT = Framing("single-object", b"\xc3\x01", 8, "little")
"""The number is the schema's CRC-64-AVRO fingerprint. Source: the Avro specification 1.12,
"Single-object encoding"."""
BARE = Framing("bare", b"")
"""Nothing stands before a datum: the schema is known otherwise."""
