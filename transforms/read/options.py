"""The query of a source's URI."""

from __future__ import annotations

import datetime as dt
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Literal, TypeVar, get_args
from urllib.parse import parse_qsl

from ...schemas.problems import did_you_mean, list_names
from .. import storage
from .errors import SourceError

_Value = TypeVar("_Value", bound=str)


def given_options(query: str, known: Sequence[str]) -> dict[str, str]:
    """The options of a query such as ``start=latest&group=loader``; their values are not looked at.

    Raises:
        SourceError: one is unknown, or there twice.
    """
    given: dict[str, str] = {}
    for key, value in parse_qsl(query, keep_blank_values=True):
        if key not in known:
            hint = did_you_mean(key, known) or f"; expected {list_names(known)}"
            raise SourceError(f"no option {key!r}{hint}")
        if key in given:
            raise SourceError(f"option {key!r} is there twice")
        given[key] = value
    return given


def one_of(option: str, value: str, values: Sequence[_Value]) -> _Value:
    """The value, if it is one of those that there are.

    Raises:
        SourceError: it is none.
    """
    for known in values:
        if value == known:
            return known
    hint = did_you_mean(value, values) or f"; expected {list_names(values)}"
    raise SourceError(f"{option}={value}{hint}")


def moment_of(option: str, text: str, hint: str) -> dt.datetime:
    """A time with its zone, as ``2026-11-29T12:00:00Z``.

    Args:
        hint: what is said of a text that is no time: what was expected.

    Raises:
        SourceError: it is none, or names no zone.
    """
    try:
        # In a query, a plus sign is a space.
        moment = dt.datetime.fromisoformat(text.replace(" ", "+") if "T" in text else text)
    except ValueError:
        raise SourceError(f"{option}={text}{hint}") from None
    if moment.tzinfo is None:
        raise SourceError(f"{option}={text}: in which zone? Write 2026-11-29T12:00:00Z or …+01:00")
    return moment


def word_or_moment(option: str, text: str, words: Sequence[_Value]) -> _Value | dt.datetime:
    """One of some words, or a time.

    Raises:
        SourceError: it is neither.
    """
    for word in words:
        if text == word:
            return word
    hint = did_you_mean(text, words) or (
        f"; expected {list_names(words)}, or a time as 2026-11-29T12:00:00Z"
    )
    return moment_of(option, text, hint)


def duration_us(option: str, text: str) -> int:
    """Microseconds of a duration such as ``1d``.

    Raises:
        SourceError: it is none.
    """
    from ...schemas.aggregates.functions import AggregateError
    from ...schemas.aggregates.windows import parse_duration

    try:
        return parse_duration(text, f"{option}={text}")
    except AggregateError as error:
        raise SourceError(str(error)) from None


BareFormat = Literal["json", "avro"]
"""Formats of messages of which none says which schema it was written by."""
_BARE_FORMATS: tuple[BareFormat, ...] = get_args(BareFormat)


def bare_format(given: Mapping[str, str]) -> tuple[BareFormat, str]:
    """The format of messages, and the file that has their schema, if it is Avro.

    Raises:
        SourceError: there is no such format, or the two do not belong together.
    """
    form = one_of("format", given.get("format", "json"), _BARE_FORMATS)
    schema = given.get("schema", "")
    if (form == "avro") != bool(schema):
        raise SourceError("format=avro needs schema=FILE, and nothing else has it")
    return form, storage.absolute(schema) if schema else ""


@contextmanager
def naming(scheme: str) -> Iterator[None]:
    """Say of what is wrong with a query in the block which scheme's it is."""
    try:
        yield
    except SourceError as error:
        raise SourceError(f"{scheme}: {error}") from None
