"""The query of a source's URI."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import TypeVar
from urllib.parse import parse_qsl

from ...schemas.problems import did_you_mean, list_names
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


@contextmanager
def naming(scheme: str) -> Iterator[None]:
    """Say of what is wrong with a query in the block which scheme's it is."""
    try:
        yield
    except SourceError as error:
        raise SourceError(f"{scheme}: {error}") from None
