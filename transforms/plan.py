"""A run's frozen plan: what it will read, under which contract and settings, and its token.

The plan is written down before work begins. Its digest names what a commit commits, so that an
attempt that is repeated commits the same thing again, whatever its bundles were.
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Mapping
from functools import cached_property
from typing import NamedTuple

import msgspec

FORMAT = "millstream.plan/1"

OPEN_END = 1 << 62
"""The end of an interval that goes up to what there is."""
ENCRYPT = "encrypt_dead_letters"
"""The setting that names the environment variable with the keys of dead letters."""
REPLAY, BACKFILL = "replay", "backfill"
"""Settings of plans whose records have come before."""
_NAME = re.compile(r"[A-Za-z0-9-][A-Za-z0-9._-]{0,63}")


class PlanError(ValueError):
    """A plan, token or name that cannot be used. The message says why."""


class InputFile(msgspec.Struct, frozen=True, order=True):
    """One file to read: its URI, its size in bytes, and what changes when it is rewritten.

    ``version`` is an object store's generation or etag, or a local file's modification time.
    """

    source: str
    size: int
    version: str


class Interval(msgspec.Struct, frozen=True, order=True):
    """Records of one partition of a stream: from position ``start`` up to, not including, ``end``.

    ``source`` is what its records have in ``_source``.
    """

    source: str
    start: int
    end: int

    @property
    def is_open(self) -> bool:
        """Whether it ends where the stream has no more: that is known once it has been read."""
        return self.end == OPEN_END


class Token(NamedTuple):
    """What a destination stores with a commit: the run, and the plan that the run carries out."""

    run_id: str
    plan_digest: str

    def __str__(self) -> str:
        return f"millstream.token/1:{self.run_id}:{self.plan_digest}"

    @classmethod
    def parse(cls, text: str) -> Token:
        """The token that ``str`` gave.

        Raises:
            PlanError: it is no token, or one of a later format.
        """
        match text.split(":"):
            case ["millstream.token/1", run_id, digest]:
                return cls(run_id, digest)
        raise PlanError(f"not a token that this version reads: {text[:80]!r}")


class Plan(msgspec.Struct, frozen=True, dict=True):
    """What a run will do. ``settings`` are those options that decide what comes out.

    ``inputs`` are files, ``intervals`` parts of streams. ``after`` is the token of the run that
    this one goes on from, where a job does so.

    Raises:
        PlanError: the same source is named twice.
    """

    job: str
    contract_id: str
    contract_version: str
    contract_digest: str
    inputs: tuple[InputFile, ...] = ()
    settings: dict[str, str] = {}
    format: str = FORMAT
    intervals: tuple[Interval, ...] = ()
    after: str = ""

    def __post_init__(self) -> None:
        if self.format != FORMAT:
            raise PlanError(f"not a plan that this version reads: {self.format!r}, not {FORMAT!r}")
        seen: set[str] = set()
        for source in (part.source for part in (*self.inputs, *self.intervals)):
            if source in seen:
                raise PlanError(f"the plan reads {source} twice")
            seen.add(source)

    def to_json(self) -> bytes:
        """The canonical form: keys and inputs in order, so that equal plans have equal bytes."""
        inputs, intervals = tuple(sorted(self.inputs)), tuple(sorted(self.intervals))
        ordered = msgspec.structs.replace(self, inputs=inputs, intervals=intervals)
        said = msgspec.to_builtins(ordered)
        for later in ("intervals", "after"):  # plans without them have the bytes that they ever had
            if not said[later]:
                del said[later]
        return msgspec.json.encode(said, order="sorted")

    @classmethod
    def from_json(cls, data: bytes) -> Plan:
        """The plan that :meth:`to_json` wrote.

        Raises:
            PlanError: it is no plan, or one of a later format.
        """
        try:
            return msgspec.json.decode(data, type=cls)
        except msgspec.DecodeError as exc:
            raise PlanError(f"not a plan: {exc}") from exc

    @cached_property
    def digest(self) -> str:
        """SHA-256 (hex) of the canonical form."""
        return hashlib.sha256(self.to_json()).hexdigest()

    @property
    def run_id(self) -> str:
        """The run id of who names none: the same plan is the same run."""
        return self.digest[:16]

    def token(self, run_id: str | None = None) -> Token:
        """The token of this plan under ``run_id``."""
        return Token(checked_name(run_id, "run id") if run_id else self.run_id, self.digest)


def checked_name(name: str, what: str) -> str:
    """``name``, if it can stand in a file name and does not look hidden or private.

    Raises:
        PlanError: it cannot.
    """
    if not _NAME.fullmatch(name):
        raise PlanError(
            f"{what} {name!r} is not 1 to 64 letters, digits, '.', '_' or '-', "
            "beginning with none of '.' and '_'"
        )
    return name


def diff(old: Plan, new: Plan) -> str:
    """In a few words, where two plans differ."""
    found: list[str] = []
    for key in ("job", "contract_id", "contract_version", "contract_digest"):
        if getattr(old, key) != getattr(new, key):
            found.append(key.replace("_", " "))
    before, after = ({f.source: f for f in plan.inputs} for plan in (old, new))
    found += [
        f"{count} inputs {word}"
        for word, count in (
            ("added", len(after.keys() - before.keys())),
            ("removed", len(before.keys() - after.keys())),
            ("changed", sum(before[s] != after[s] for s in before.keys() & after.keys())),
        )
        if count
    ]
    found += [f"setting {key}" for key in _changed(old.settings, new.settings)]
    return ", ".join(found) or "nothing"


def _changed(old: Mapping[str, str], new: Mapping[str, str]) -> list[str]:
    return sorted(k for k in old.keys() | new.keys() if old.get(k) != new.get(k))
