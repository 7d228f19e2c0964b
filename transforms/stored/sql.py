"""Conditions as SQL: names are quoted, and no value is ever part of a statement."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any, Protocol

from .filter import AnyItem, Compare, Filter, IsIn, Like


class Dialect(Protocol):
    """What differs from one database to the other."""

    def quoted(self, name: str) -> str:
        """A name as an identifier."""
        ...

    def value(self, value: Any, number: int) -> str:
        """What stands for a value in a statement, by its number from 0."""
        ...

    def compare(self, left: str, operator: str, value: str, sample: Any) -> str:
        """A comparison; texts are compared by their bytes. ``sample`` is the value itself."""
        ...

    def among(self, left: str, values: str) -> str:
        """Whether it is one of the values of a list."""
        ...

    def like(self, left: str, pattern: str) -> str:
        """Whether it is like a pattern, in which a backslash escapes."""
        ...

    def any_item(self, column: str, judge: Callable[[Callable[[str], str]], str]) -> str:
        """Whether a list of structs holds one of which something is true.

        Args:
            judge: gives what has to be true, by what a field of the struct is called.
        """
        ...


@dataclass
class Where:
    """Conditions of a statement, and the values that go with it."""

    dialect: Dialect
    values: list[Any] = field(default_factory=list)

    def clause(self, where: Filter) -> str:
        """What follows the table's name; empty where there are no conditions."""
        said = [self._said(each, self.dialect.quoted) for each in where.conditions]
        return f" WHERE {' AND '.join(said)}" if said else ""

    def _said(
        self, condition: Compare | IsIn | Like | AnyItem, called: Callable[[str], str]
    ) -> str:
        dialect, left = self.dialect, called(condition.column)
        match condition:
            case Compare(_, operator, value):
                return dialect.compare(left, operator, self._add(value), value)
            case IsIn(_, values):
                return dialect.among(left, self._add(list(values)))
            case Like():
                return dialect.like(left, self._add(condition.like))
            case AnyItem(_, conditions):
                return dialect.any_item(
                    left,
                    lambda of: " AND ".join(self._said(each, of) for each in conditions) or "TRUE",
                )

    def _add(self, value: Any) -> str:
        self.values.append(value)
        return self.dialect.value(value, len(self.values) - 1)
