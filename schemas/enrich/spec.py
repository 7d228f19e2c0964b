"""What a job says of an enrichment: ``steps: [{enrich: …}]`` and ``steps: [{lookup: …}]``."""

from __future__ import annotations

from typing import Literal

import msgspec

from ..csv.options import CsvOptions

Missing = Literal["keep", "dead", "filter"]
"""What becomes of a record of whose key nothing is known: it is kept, with nulls; it becomes a dead
letter; it is left out, and counted as filtered."""

MAX_BYTES = 2 << 30


class Validity(msgspec.Struct, frozen=True, forbid_unknown_fields=True, rename={"start": "from"}):
    """The reference's columns that say when a row is valid: ``[from, to)``.

    A null in ``from`` means since ever, a null in ``to`` until further notice. Without ``to`` a row
    is valid until the next one of its key is. Columns are time stamps (without a zone: UTC) or
    dates (from midnight UTC).
    """

    start: str
    to: str | None = None

    @property
    def columns(self) -> tuple[str, ...]:
        """The names of the columns."""
        return (self.start, self.to) if self.to else (self.start,)


class EnrichJob(
    msgspec.Struct,
    frozen=True,
    forbid_unknown_fields=True,
    kw_only=True,
    rename={"source": "from"},
):
    """``enrich``: columns from reference data that is held in memory.

    Attributes:
        source: ``from``: where the reference is.
        on: field of the records → column of the reference that must be equal.
        add: new column → column of the reference.
        refresh: how old the reference may become, as ``5m``; without it, it is read once.
        max_bytes: memory that the reference's columns may take, without the index by key.
        types: column → type, in formats that do not say it (CSV, JSON, JSON topics).
        csv: how CSV files are written.

    Raises:
        ValueError: what is said cannot be meant.
    """

    source: str
    on: dict[str, str]
    add: dict[str, str] = {}
    valid: Validity | None = None
    missing: Missing = "keep"
    refresh: str | None = None
    max_bytes: int = MAX_BYTES
    types: dict[str, str] = {}
    csv: CsvOptions = CsvOptions()

    def __post_init__(self) -> None:
        _check_on(list(self.on))
        if not self.add and self.missing == "keep":
            raise ValueError("add: expected at least one column, or missing: dead or filter")
        if self.max_bytes < 1:
            raise ValueError(f"max_bytes: expected at least 1, got {self.max_bytes}")
        if self.refresh is not None:
            _seconds(self.refresh, "refresh")

    @property
    def refresh_seconds(self) -> float | None:
        """How old the reference may become."""
        return _seconds(self.refresh, "refresh") if self.refresh else None

    @property
    def columns(self) -> tuple[str, ...]:
        """The columns of the reference that are needed, each once."""
        valid = self.valid.columns if self.valid else ()
        return tuple(dict.fromkeys((*self.on.values(), *self.add.values(), *valid)))


class LookupJob(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """``lookup``: columns that a function gives, which asks a service.

    Attributes:
        python: ``package.module:function``.
        on: the fields that the function is given, each combination of values once.
        adds: the columns that it gives → their types.
        batch: keys a call.
        cache: keys whose answers are held, those asked for last; 0 for none.
        ttl: for how long an answer is good.
        per_second: calls a second that each worker process makes at most; ``None``: as many as can.
        attempts: how often a call is made, if it fails.
        on_failure: ``dead``: the records become dead letters; ``fail``: the run fails.

    Raises:
        ValueError: what is said cannot be meant.
    """

    python: str
    on: list[str]
    adds: dict[str, str]
    batch: int = 500
    cache: int = 100_000
    ttl: str = "10m"
    per_second: float | None = None
    attempts: int = 5
    missing: Missing = "keep"
    on_failure: Literal["dead", "fail"] = "dead"

    def __post_init__(self) -> None:
        _check_on(self.on)
        if len(set(self.on)) < len(self.on):
            raise ValueError("on: a field is there twice")
        if not self.adds:
            raise ValueError("adds: expected at least one column")
        for name, least in (("batch", 1), ("cache", 0), ("attempts", 1)):
            if getattr(self, name) < least:
                raise ValueError(f"{name}: expected at least {least}, got {getattr(self, name)}")
        if self.per_second is not None and not 0 < self.per_second <= 1e6:
            raise ValueError(f"per_second: expected more than 0, got {self.per_second}")
        _seconds(self.ttl, "ttl")

    @property
    def ttl_seconds(self) -> float:
        """For how long an answer is good."""
        return _seconds(self.ttl, "ttl")


def _check_on(names: list[str]) -> None:
    if not names:
        raise ValueError("on: expected at least one field")


def _seconds(text: str, place: str) -> float:
    from ..aggregates.windows import parse_duration  # heavy: job files are read by who needs none

    return parse_duration(text, place) / 1e6
