"""Asking a service: a function that gets keys and gives what it knows of them.

Keys are asked for in batches, no faster than the service allows. A call that fails is made again
after a while, longer each time. Answers are held for some time, those of keys of which nothing is
known too.
"""

from __future__ import annotations

import logging
import math
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from itertools import repeat
from typing import Any, NamedTuple

import pyarrow as pa
import pyarrow.types as pt
import tenacity

from ...schemas.enrich.reference import BadReference, Reference, check_comparable
from ...schemas.enrich.spec import LookupJob
from ...schemas.problems import did_you_mean
from ...schemas.steps import StepError, in_pieces, plain_type
from ..errors import Unavailable
from ..python_step import load_function

_log = logging.getLogger("millstream")

_FIRST_WAIT, _LONGEST_WAIT = 0.5, 30.0
"""Seconds, of which a random part is waited."""


class PermanentError(Exception):
    """For a function to raise where asking again for the same keys would not help.

    It is then asked for fewer of them, until those are known that it fails on.
    """


class Known(NamedTuple):
    """What is known of keys: of each the values of the new columns, ``None`` if nothing is; or why
    it could not be asked for."""

    values: list[tuple[Any, ...] | None]
    errors: dict[int, Exception]


class _Failed(NamedTuple):
    """A call that failed as often as it may."""

    error: Exception


class Service:
    """What is shared by all threads of a process that ask one service.

    Args:
        keys: the schema of the keys.
        added: the columns that are asked for.
        pace: returns when the next call may be made.
        sleep: waits for so many seconds between attempts.
        clock: by which answers grow old.

    Raises:
        StepError: there is no such function, or what is needed is not installed.
    """

    def __init__(
        self,
        job: LookupJob,
        keys: pa.Schema,
        added: pa.Schema,
        *,
        pace: Callable[[], object] | None = None,
        sleep: Callable[[float], None] = time.sleep,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._job = job
        self._keys = keys
        self._added = added
        self._function = load_function(job.python)
        self._pace = pace or pace_of(job.per_second)
        self._cache = cache_of(job, clock)
        self._lock = threading.Lock()
        self._retrying = tenacity.Retrying(
            stop=tenacity.stop_after_attempt(job.attempts),
            wait=tenacity.wait_random_exponential(multiplier=_FIRST_WAIT, max=_LONGEST_WAIT),
            retry=tenacity.retry_if_not_exception_type((PermanentError, StepError)),
            before_sleep=self._say,
            sleep=sleep,
            reraise=True,
        )

    def know(self, keys: pa.RecordBatch, ids: Sequence[bytes]) -> Known:
        """What is known of keys, each of which is there once.

        Args:
            ids: what tells the keys apart.

        Raises:
            Unavailable: the service fails, and the run is to fail then.
            StepError: it refuses keys, or gives what is no answer, and the run is to fail then.
        """
        with self._lock:
            held = [self._cache.get(id, _UNKNOWN) for id in ids]
        new = [place for place, values in enumerate(held) if values is _UNKNOWN]
        errors: dict[int, Exception] = {}
        for first, found in self._asked(keys.take(pa.array(new, pa.int64()))):
            places = new[first : first + len(found.values)]
            with self._lock:
                for row, (place, values) in enumerate(zip(places, found.values, strict=True)):
                    if row in found.errors:
                        errors[place] = found.errors[row]
                        values = None
                    elif self._job.cache:
                        self._cache[ids[place]] = values
                    held[place] = values
        return Known(held, errors)

    def _asked(self, keys: pa.RecordBatch) -> Iterator[tuple[int, Known]]:
        """The number of a first key, and what the service knows of it and of those that follow."""
        for first in range(0, keys.num_rows, self._job.batch):
            part = keys.slice(first, self._job.batch)
            if self._job.on_failure == "fail":
                yield first, self._called_or_raised(part)
                continue
            found, failures = in_pieces(
                part.num_rows,
                lambda row, size, part=part: (row, self._attempted(part.slice(row, size))),
            )
            for row, known in found:
                yield first + row, known
            for row, error in failures:
                yield first + row, Known([None], {0: error})

    def _attempted(self, keys: pa.RecordBatch) -> Known:
        """Raises only what may be the fault of single keys."""
        try:
            return self._retrying(self._called, keys)
        except (PermanentError, StepError):
            raise
        except Exception as error:
            return Known([None] * keys.num_rows, dict(zip(range(keys.num_rows), repeat(error))))

    def _called_or_raised(self, keys: pa.RecordBatch) -> Known:
        try:
            return self._retrying(self._called, keys)
        except StepError:
            raise
        except PermanentError as error:
            raise StepError(f"{self._job.python} refuses keys: {type(error).__name__}") from error
        except Exception as error:
            raise Unavailable(
                f"{self._job.python} has failed {self._job.attempts} times, the last time with "
                f"{type(error).__name__}"
            ) from error

    def _called(self, keys: pa.RecordBatch) -> Known:
        self._pace()
        answer = self._answer(self._function(keys))
        rows = answer.find(keys)
        if (rows >= 0).sum() < len(answer):
            raise StepError("the answer has keys that were not asked for")
        columns = [answer.take(name, rows).to_pylist() for name in self._added.names]
        values = zip(*columns, strict=True)
        return Known(
            [one if row >= 0 else None for row, one in zip(rows.tolist(), values, strict=True)],
            answer.errors(rows),
        )

    def _answer(self, given: object) -> Reference:
        """What a function gave, found by key.

        Raises:
            StepError: it is no answer.
        """
        if not isinstance(given, pa.RecordBatch | pa.Table):
            raise StepError(f"expected a pyarrow.RecordBatch, got a {type(given).__name__}")
        table = pa.table(given)
        names = [*self._keys.names, *self._added.names]
        for name in names:
            if table.schema.names.count(name) != 1:
                hint = did_you_mean(name, table.schema.names)
                raise StepError(f"the answer needs one column {name}{hint}")
        try:
            keys = {key.name: _as_key(table[key.name], key) for key in self._keys}
            columns = [
                *keys.values(),
                *(_as_declared(table[field.name], field) for field in self._added),
            ]
            table = pa.table(columns, names=names)
            return Reference(table, self._keys.names, self._added.names)
        except BadReference as error:
            raise StepError(f"the answer: {error}") from None

    def _say(self, state: tenacity.RetryCallState) -> None:
        error = state.outcome and state.outcome.exception()
        wait = state.next_action.sleep if state.next_action else 0.0
        kind = type(error).__name__  # its text may have values
        _log.warning("%s fails with %s; asked again in %.1f s", self._job.python, kind, wait)


_UNKNOWN: Any = object()


def pace_of(per_second: float | None) -> Callable[[], object]:
    """What returns when the next call may be made: no more than so many in any second.

    Raises:
        StepError: what is needed is not installed.
    """
    if per_second is None:
        return lambda: None
    try:
        from pyrate_limiter import Limiter, Rate
    except ImportError as exc:
        raise StepError(f"per_second needs {exc.name}; {_INSTALL}") from exc
    if per_second >= 1:
        rate = Rate(math.floor(per_second), 1000)
    else:
        rate = Rate(1, math.ceil(1000 / per_second))
    limiter = Limiter(rate)
    return lambda: limiter.try_acquire("call")


def cache_of(job: LookupJob, clock: Callable[[], float]) -> Any:
    """What holds answers: those asked for last, as long as they are good.

    Raises:
        StepError: what is needed is not installed.
    """
    try:
        from cachetools import TTLCache
    except ImportError as exc:
        raise StepError(f"lookups need {exc.name}; {_INSTALL}") from exc
    return TTLCache(job.cache, job.ttl_seconds, clock)


_INSTALL = "install it with: pip install 'millstream[lookup]'"

_ALIKE = (pt.is_integer, pt.is_floating, pt.is_decimal)


def _as_key(column: pa.ChunkedArray, key: pa.Field) -> pa.ChunkedArray:
    """A column of an answer as one of the keys that were asked for."""
    if pt.is_null(column.type):  # of an empty answer the types may not be known
        return column.cast(key.type)
    check_comparable(key, pa.field(key.name, column.type))
    return column


def _as_declared(column: pa.ChunkedArray, field: pa.Field) -> pa.ChunkedArray:
    """A column of an answer in the type that the job says."""
    if pt.is_null(column.type):
        return column.cast(field.type)
    alike = any(is_kind(column.type) and is_kind(field.type) for is_kind in _ALIKE)
    if not alike and plain_type(column.type, field.name) != field.type:
        raise StepError(
            f"{field.name} of the answer is of the type {column.type}; expected {field.type}"
        )
    try:
        return column.cast(field.type)
    except pa.ArrowInvalid:
        raise StepError(
            f"{field.name} of the answer holds what is no {field.type}"
        ) from None  # Arrow's own words repeat a value
