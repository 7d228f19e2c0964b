"""Positions for those who watch how far behind a group is. Nothing depends on them."""

from __future__ import annotations

import logging
import time
from collections.abc import Mapping
from concurrent.futures import Future, wait
from typing import Any

from confluent_kafka import KafkaError, KafkaException

from .bounds import QUESTION_SECONDS, Topic
from .inputs import KafkaInput

_LOG = logging.getLogger(__name__)


class Publisher:
    """Has a group hold positions. What fails is logged, the first time as a warning."""

    def __init__(self, input: KafkaInput, topic: Topic) -> None:
        self._input = input
        self._topic = topic
        self._log = _Log(input)
        self._last: Future[Any] | None = None
        self._is_new = True

    def publish(self, positions: Mapping[int, int]) -> None:
        """Say how far we are, if there is a group, and wait for no answer but the first."""
        if self._input.group and positions:
            self._last = self._topic.publish(positions)
            if self._is_new:
                self._is_new = False
                self._last = self._coordinated(positions, self._last)
            self._last.add_done_callback(self._log)

    def _coordinated(self, positions: Mapping[int, int], answer: Future[Any]) -> Future[Any]:
        """The answer once the group has a coordinator, which takes a while where it is new."""
        deadline = time.monotonic() + QUESTION_SECONDS
        while time.monotonic() < deadline:
            wait([answer], QUESTION_SECONDS)
            if not answer.done() or _error(answer) not in _NO_COORDINATOR:
                break
            time.sleep(0.1)
            answer = self._topic.publish(positions)
        return answer

    def wait(self) -> None:
        """Wait for the answer, for as long as any is waited for."""
        if self._last is not None:
            wait([self._last], QUESTION_SECONDS)


class _Log:
    """What is called with the answer, in the client's own thread: the client must not hang on it,
    for it cannot be closed there."""

    def __init__(self, input: KafkaInput) -> None:
        self._input = input
        self._level = logging.WARNING

    def __call__(self, answer: Future[Any]) -> None:
        if why := _failure(answer):
            said = (self._input.place, self._input.group, why)
            _LOG.log(self._level, "%s: positions of group %s are not published: %s", *said)
            self._level = logging.DEBUG


_NO_COORDINATOR = {
    KafkaError.COORDINATOR_LOAD_IN_PROGRESS,
    KafkaError.COORDINATOR_NOT_AVAILABLE,
    KafkaError.NOT_COORDINATOR,
}


def _errors(answer: Future[Any]) -> list[KafkaError]:
    try:
        found = [partition.error for partition in answer.result().topic_partitions]
    except KafkaException as error:
        found = [error.args[0]]
    return [error for error in found if error]


def _error(answer: Future[Any]) -> int | None:
    """The code of what stood in the way."""
    return next((error.code() for error in _errors(answer)), None)


def _failure(answer: Future[Any]) -> str:
    """Why positions were not taken; empty if they were."""
    return next((error.str() for error in _errors(answer)), "")
