"""Beam's own convention for dead letters, ``with_error_handler``, for millstream's stages."""

from __future__ import annotations

from typing import Any, Self

import apache_beam as beam
from apache_beam.transforms.error_handling import ErrorHandler

from .rows import ToRows
from .stage_result import StageResult


class HandlesErrors(beam.PTransform):
    """A stage whose dead letters can be handed to Beam's error handlers.

    Without a handler the stage gives a :class:`~.stage_result.StageResult`, and what is done with
    its dead letters is in plain sight. With one it gives the good records alone.
    """

    _handler: ErrorHandler | None = None

    def with_error_handler(self, handler: ErrorHandler | None) -> Self:
        """Send dead letters, as dicts, to a Beam error handler."""
        self._handler = handler
        return self

    def handled(self, result: StageResult) -> Any:
        """The result as the caller of ``expand`` wants it."""
        if self._handler is None:
            return result
        self._handler.add_error_pcollection(result.dead_letters | "DeadLetterRows" >> ToRows())
        return result.records
