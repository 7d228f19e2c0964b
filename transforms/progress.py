"""How far this process is, for whoever watches it run. The ledger knows nothing of it.

A bundle that is retried counts twice here, and what other processes do does not count at all.
"""

from __future__ import annotations

from dataclasses import dataclass


@dataclass
class Progress:
    """Bytes of input files read (as they lie there), records found, and dead letters among them."""

    bytes: int = 0
    records: int = 0
    dead: int = 0


PROGRESS = Progress()
"""Of this process."""
