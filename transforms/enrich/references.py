"""References in memory: loaded once a process, refreshed beside the work, shared by all threads."""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable

import pyarrow as pa

from ...schemas.enrich.reference import BadReference, Reference
from .. import storage
from .shared import Shared
from .sources import SourceError, Unavailable, open_source, shaped, too_large
from .spec import ReferenceSpec

_log = logging.getLogger("millstream")


def load(spec: ReferenceSpec) -> Reference:
    """All of a reference.

    Raises:
        SourceError: it cannot be read as it is, is too large, or says two things of one key.
        StorageError: a file cannot be read.
        Unavailable: its service does not answer.
    """
    batches: list[pa.RecordBatch] = []
    held = 0
    for batch in open_source(spec).batches():
        batches.append(shaped(batch, spec))
        held += batches[-1].nbytes
        if held > spec.max_bytes:
            raise too_large(spec, sum(batch.num_rows for batch in batches), held)
    try:
        rows = pa.Table.from_batches(batches, spec.schema)
        return Reference(rows, spec.key, spec.held, spec.validity)
    except BadReference as error:
        raise SourceError(f"{spec.place}: {error}") from None


def reference_version(spec: ReferenceSpec) -> str:
    """What a plan has to say of a reference: for files, a digest of their names, sizes and
    versions; empty for others.

    Raises:
        SourceError: there are no such files, or the URI cannot be used.
        StorageError: they cannot be looked at.
    """
    return open_source(spec).version()


class HeldReference:
    """A reference of this process, as new as ``refresh`` says.

    Once it is held, what fails is only logged: the older one stays.

    Args:
        refresh: seconds after which it is loaded anew; ``None``: never.
    """

    def __init__(
        self,
        spec: ReferenceSpec,
        refresh: float | None = None,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._spec = spec
        self._refresh = refresh
        self._clock = clock
        self._lock = threading.Lock()
        self._reference: Reference | None = None
        self._version = ""
        self._due = 0.0
        self._thread: threading.Thread | None = None

    def get(self) -> Reference:
        """The reference.

        Only the first call waits for it to be loaded, and one that comes so late that a whole
        refresh has been missed since nobody asked.

        Raises:
            SourceError: when it is loaded first, as :func:`load`.
            StorageError: the same.
            Unavailable: the same.
        """
        if self._reference is None:
            with self._lock:
                if self._reference is None:
                    self._version, self._reference = self._loaded()
                    self._schedule()
        elif self._refresh is not None and self._clock() >= self._due:
            self._renew(wait=self._clock() >= self._due + self._refresh)
        return self._reference

    def _loaded(self) -> tuple[str, Reference]:
        from ..write.attempts import Attempts

        version = reference_version(self._spec)
        return version, Attempts().call(self._spec.place, lambda: load(self._spec))

    def _renew(self, *, wait: bool) -> None:
        with self._lock:
            if self._thread is not None or self._clock() < self._due:
                return  # somebody else is at it, or has done it
            thread = threading.Thread(
                target=self._refreshed, name="millstream-reference", daemon=True
            )
            self._thread = thread
            thread.start()
        if wait:
            thread.join()

    def _refreshed(self) -> None:
        try:
            version = reference_version(self._spec)
            if not version or version != self._version:
                self._version, self._reference = version, load(self._spec)
        except (SourceError, storage.StorageError, Unavailable) as error:
            _log.warning("the reference stays as it was, since it cannot be refreshed: %s", error)
        except Exception:
            _log.warning("the reference stays as it was, since refreshing it failed", exc_info=True)
        finally:
            self._schedule()
            self._thread = None

    def _schedule(self) -> None:
        self._due = self._clock() + (self._refresh or 0.0)


HELD: Shared[HeldReference] = Shared()
"""The references of this process."""
