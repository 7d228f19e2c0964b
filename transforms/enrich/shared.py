"""What all threads of a process share: one thing for each key."""

from __future__ import annotations

import threading
import uuid
from collections.abc import Callable, Hashable
from typing import Generic, TypeVar

T = TypeVar("T")

LAUNCH = uuid.uuid4().hex
"""Names this process to those workers that carry out what it launches, and that may serve others
too. A step takes it along."""


class Shared(Generic[T]):
    """One thing for each key, made when it is asked for first, and kept."""

    def __init__(self) -> None:
        self._things: dict[Hashable, T] = {}
        self._lock = threading.Lock()

    def get(self, key: Hashable, make: Callable[[], T]) -> T:
        """The thing of a key; ``make`` must be quick."""
        with self._lock:
            if key not in self._things:
                self._things[key] = make()
            return self._things[key]

    def forget(self, key: Hashable) -> None:
        """Let a thing go: a pipeline that is built now must not see what an earlier one has."""
        with self._lock:
            self._things.pop(key, None)
