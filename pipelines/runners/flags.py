"""Flags of Beam's, read before Beam itself is there to read them."""

from __future__ import annotations

from ..job import JobError


def taken(flags: list[str], name: str) -> tuple[str, list[str]]:
    """The value of a flag, empty if it is not given, and the other flags.

    Raises:
        JobError: it is given without a value.
    """
    value, rest, taking = "", [], False
    for flag in flags:
        if taking:
            value, taking = flag, False
        elif flag == name:
            taking = True
        elif flag.startswith(f"{name}="):
            value = flag.partition("=")[2]
        else:
            rest.append(flag)
    if taking or value.startswith("-"):
        raise JobError(f"{name}: names nothing; write {name}=NAME")
    return value, rest


def value(flags: list[str], name: str) -> str:
    """The value of a flag, empty if it is not given.

    Raises:
        JobError: it is given without a value.
    """
    return taken(flags, name)[0]


def is_given(flags: list[str], name: str) -> bool:
    """Whether a flag is there, with a value or without."""
    return any(flag.partition("=")[0] == name for flag in flags)


def with_defaults(flags: list[str], defaults: list[str]) -> list[str]:
    """The flags, and those of the defaults that are not among them."""
    return [*flags, *(flag for flag in defaults if not is_given(flags, flag.partition("=")[0]))]
