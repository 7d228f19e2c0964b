"""How often, and for how long, a destination is asked; and that one does not hold up another.

Waiting between attempts is tenacity's, the circuit breaker pybreaker's; what there is to do here is
to say which errors are worth another attempt, and which destinations fail as one.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import TypeVar

import pybreaker
import tenacity

from .errors import CommitConflict, DestinationError, Unavailable

PATIENCE_SECONDS = 120.0
"""How long a service that does not answer is asked again, if a job says nothing else."""
LONGEST_WAIT_SECONDS = 20.0
FAILURES = 5
"""Failures in a row after which a service is left alone for ``PAUSE_SECONDS``."""
PAUSE_SECONDS = 15.0

_log = logging.getLogger("millstream")

_Task = TypeVar("_Task")
_Result = TypeVar("_Result")


class Attempts:
    """Calls to services, repeated while that may help. One for each run.

    Args:
        patience: seconds from the first failure of a call to the last attempt.
    """

    def __init__(self, patience: float = PATIENCE_SECONDS) -> None:
        self._patience = patience
        self._breakers: dict[str, pybreaker.CircuitBreaker] = {}

    def call(self, service: str, work: Callable[[], _Result]) -> _Result:
        """The result of ``work``, which may be called several times.

        Raises:
            Unavailable: the service did not answer in time; or another call has just found that,
                and it is not asked at all.
        """
        breaker = self._breaker(service)
        if breaker.current_state == pybreaker.STATE_OPEN:
            raise Unavailable(f"{service} has failed {FAILURES} times in a row, and is left alone")
        retrying = tenacity.Retrying(
            retry=tenacity.retry_if_exception_type((Unavailable, pybreaker.CircuitBreakerError)),
            wait=tenacity.wait_random_exponential(multiplier=0.2, max=LONGEST_WAIT_SECONDS),
            stop=tenacity.stop_after_delay(self._patience),
            before_sleep=_say,
        )
        failure: Unavailable | None = None
        try:
            for attempt in retrying:
                with attempt:
                    try:
                        return breaker.call(work)
                    except Unavailable as error:
                        failure = error
                        raise
        except tenacity.RetryError as error:
            raise (failure or Unavailable(f"{service} does not answer")) from error
        raise AssertionError("tenacity gives a result or raises")

    def call_all(
        self, tasks: Sequence[_Task], service: Callable[[_Task], str], work: Callable[[_Task], None]
    ) -> None:
        """Do the work of all tasks: those of one service one after another, those of several
        services side by side, so that a slow one holds up nobody else.

        A task that fails ends those of its service; all others are done.

        Raises:
            Exception: what failed; of several, one that says them all.
        """
        groups: dict[str, list[_Task]] = {}
        for task in tasks:
            groups.setdefault(service(task), []).append(task)

        def do(name: str) -> None:
            for task in groups[name]:
                self.call(name, lambda task=task: work(task))

        if len(groups) <= 1:
            for name in groups:
                do(name)
            return
        with ThreadPoolExecutor(len(groups), thread_name_prefix="millstream-commit") as threads:
            done = [threads.submit(do, name) for name in groups]
        _raise_all([error for future in done if (error := future.exception())])

    def _breaker(self, service: str) -> pybreaker.CircuitBreaker:
        return self._breakers.setdefault(
            service,
            pybreaker.CircuitBreaker(
                fail_max=FAILURES, reset_timeout=PAUSE_SECONDS, exclude=[_is_an_answer]
            ),
        )


def _say(state: tenacity.RetryCallState) -> None:
    """Tell whoever waits why."""
    error = state.outcome and state.outcome.exception()
    if isinstance(error, Unavailable):
        wait = state.next_action.sleep if state.next_action else 0.0
        _log.warning("%s; asked again in %.1f s", error, wait)


def _is_an_answer(error: BaseException) -> bool:
    """Whether a service has answered, if only to say no: that is no reason to leave it alone."""
    return not isinstance(error, Unavailable)


def _raise_all(errors: Sequence[BaseException]) -> None:
    """Raise what stands in the way: a slip first, then what has to be mended, then what is down."""
    if not errors:
        return
    first = min(errors, key=_rank)
    if len(errors) == 1 or _rank(first) == 0:
        raise first
    raise type(first)("\n".join(map(str, sorted(errors, key=_rank)))) from first


def _rank(error: BaseException) -> int:
    if isinstance(error, Unavailable):
        return 2
    return 1 if isinstance(error, CommitConflict | DestinationError) else 0
