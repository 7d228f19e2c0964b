"""Who decides what may be committed of a run."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any, Protocol

from ..runs import Prepared, RunStore


class Judge(Protocol):
    """Decides of a balanced run, before anything is committed: a gate, or what stands before it."""

    def judge(self, store: RunStore, prepared: Prepared, facts: Iterable[Any]) -> Prepared:
        """What may be committed. May be called again and again.

        Raises:
            GateClosed: nothing may; the run is recorded as failed.
        """
        ...

    def forget(self, facts: Iterable[Any]) -> None:
        """Delete what waited to be judged, once what was decided is written down."""
        ...
