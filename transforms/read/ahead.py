"""Reading ahead: the next pieces are decoded while the last one is being written.

What decodes and what writes are Arrow's own functions, which do not hold Python's global lock, so
one more thread is one more processor at work. On the local runner there is no other.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any, TypeVar

T = TypeVar("T")

_END: Any = object()


def read_ahead(pieces: Iterator[T], count: int = 2) -> Iterator[T]:
    """The same pieces, in their order, up to ``count`` of them made before they are asked for.

    What making one raises is raised where that piece is due.
    """
    with ThreadPoolExecutor(1, "read-ahead") as thread:
        waiting = deque(thread.submit(next, pieces, _END) for _ in range(count))
        while (piece := waiting.popleft().result()) is not _END:
            waiting.append(thread.submit(next, pieces, _END))
            yield piece
