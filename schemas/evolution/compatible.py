"""Whether records of one version of a contract are records of another.

The modes are those of Confluent's schema registry: *backward*, data written under the old contract
are read under the new one; *forward*, data written under the new one are read under the old one;
*full*, both; *transitive*, with all old versions and not with the last alone.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Literal

from ..contract import Contract
from ..decoded import UnknownFields
from .included import issues
from .witness import Found, show

Mode = Literal[
    "backward", "forward", "full",
    "backward_transitive", "forward_transitive", "full_transitive",
]  # fmt: skip
MODES: tuple[Mode, ...] = Mode.__args__  # pyright: ignore[reportAttributeAccessIssue]


@dataclass(frozen=True)
class Verdict:
    """What was found of records of ``writer`` that are read under ``reader``."""

    writer: Contract
    reader: Contract
    direction: Literal["backward", "forward"]
    found: tuple[Found, ...]

    @property
    def compatible(self) -> bool:
        """Whether every record is read. What cannot be decided is not taken for it."""
        return not self.found


def judge(
    writer: Contract, reader: Contract, *, unknown: UnknownFields = "ignore"
) -> tuple[Found, ...]:
    """Why a record that is valid under one contract may be refused by another: nothing if none is.

    Asked of records with the fields that the writer's contract names.

    Args:
        unknown: what the reader does with fields that its contract does not name.
    """
    found = list(issues(writer.fields, reader.fields, reject_unknown=unknown == "reject"))
    return tuple(show(found, writer, reader, unknown=unknown))


def verdicts(
    olds: Sequence[Contract], new: Contract, mode: Mode, *, unknown: UnknownFields = "ignore"
) -> Iterator[Verdict]:
    """The verdicts that a mode asks for, the newest old version first."""
    asked = olds if mode.endswith("_transitive") else olds[-1:]
    for old in reversed(asked):
        if not mode.startswith("forward"):
            yield Verdict(old, new, "backward", judge(old, new, unknown=unknown))
        if not mode.startswith("backward"):
            yield Verdict(new, old, "forward", judge(new, old, unknown=unknown))


def new_fields(old: Contract, new: Contract) -> list[str]:
    """Fields that only the new contract names: of records that held one all along, which the old
    contract ignored, it is judged from now on."""
    known = set(old.paths())
    return [path for path in new.paths() if path not in known]
