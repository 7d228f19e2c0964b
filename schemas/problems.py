"""How a mistake in a contract is said: its place, what was expected, the nearest right name."""

from __future__ import annotations

import difflib
from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import Any

from .contract import ContractError, Finding
from .documents import Document


def did_you_mean(word: str, names: Iterable[str]) -> str:
    """``"; did you mean 'integer'?"``, or nothing where no name comes near.

    >>> did_you_mean("requierd", ["required", "unique"])
    "; did you mean 'required'?"
    >>> did_you_mean("colour", ["required", "unique"])
    ''
    """
    spellings = {name.lower(): name for name in names}
    near = difflib.get_close_matches(word.lower(), spellings, n=1, cutoff=0.7)
    return f"; did you mean {spellings[near[0]]!r}?" if near else ""


def list_names(names: Iterable[str]) -> str:
    """``'a', 'b' or 'c'``, as a message lists what would be right.

    >>> list_names(["a", "b", "c"])
    "'a', 'b' or 'c'"
    """
    *most, last = map(repr, names)
    return f"{', '.join(most)} or {last}" if most else last


def say(value: Any) -> str:
    """A value of the document as a message repeats it: short, in YAML's words.

    >>> say(True), say({"a": 1}), say("word")
    ('true', 'a mapping', "'word'")
    """
    match value:
        case None:
            return "null"
        case bool():
            return str(value).lower()
        case dict():
            return "a mapping"
        case list():
            return "a list"
    text = repr(value)
    return text if len(text) <= 80 else f"{text[:80]}…"


@dataclass(frozen=True, slots=True)
class Place:
    """A place in an ODCS document, which errors and findings can be pinned to.

    ``place["properties"][3]`` is a place further in. Findings of all places of one document are
    gathered in one list.
    """

    document: Document
    at: tuple[str | int, ...] = ()
    findings: list[Finding] = field(default_factory=list)

    def __getitem__(self, step: str | int) -> Place:
        return Place(self.document, (*self.at, step), self.findings)

    def beside(self, step: str) -> Place:
        """The place of another key of the same mapping."""
        return Place(self.document, (*self.at[:-1], step), self.findings)

    @property
    def value(self) -> Any:
        """What the document says here, or ``None``."""
        value = self.document.value
        for step in self.at:
            value = _inside(value, step)
        return value

    @property
    def line(self) -> int:
        """The line of this place, or of the nearest place around it that the document has."""
        for end in range(len(self.at), 0, -1):
            if line := self.document.lines.get(self.at[:end]):
                return line
        return 1

    @property
    def text(self) -> str | None:
        """A fraction as it is written, with every digit."""
        return self.document.numbers.get(self.at)

    @property
    def path(self) -> str:
        """The place as a user names it: ``address.zip.logicalTypeOptions.pattern``, ``tags[]``."""
        path, value = "", self.document.value
        for i, step in enumerate(self.at):
            value = _inside(value, step)
            match self.at[i - 1] if i else None, step:
                case ("schema", int()) if i == 1:
                    path = _name(value) or f"schema[{step}]"
                case ("properties", int()):
                    inside = path if i > 3 else ""  # fields are not named after their table
                    path = _join(inside, _name(value) or f"properties[{step}]")
                case (_, "schema" | "properties") if i + 1 < len(self.at):
                    pass
                case (_, "items") if i > 2:
                    path += "[]"
                case (_, int()):
                    path += f"[{step}]"
                case _:
                    path = _join(path, str(step))
        return path

    def error(self, message: str) -> ContractError:
        """The error to raise for this place."""
        where = f"{self.document.origin}:{self.line} {one_line(self.path)}".rstrip()
        return ContractError(f"{where}: {one_line(message)}")

    def find(self, message: str) -> None:
        """Note what is asked here but not enforced."""
        finding = Finding(one_line(self.path), one_line(message), self.line)
        if finding not in self.findings:
            self.findings.append(finding)


def _inside(value: Any, step: str | int) -> Any:
    if isinstance(value, list) and isinstance(step, int):
        return value[step] if step < len(value) else None
    return value.get(step) if isinstance(value, dict) else None


def one_line(text: str) -> str:
    """Text without line ends or control characters, which an untrusted document may hold."""
    if text.isprintable():
        return text
    return "".join(c if c.isprintable() else repr(c)[1:-1] for c in text)


def _name(value: Any) -> str | None:
    name = value.get("name") if isinstance(value, dict) else None
    return name if isinstance(name, str) else None


def _join(path: str, name: str) -> str:
    return f"{path}.{name}" if path else name
