"""Versions of a contract that a job's runs have made of drift, in the job's state folder.

A document tells what it was made of: the digest of the job's own, by which it is known to be of no
more use once somebody has changed that; the job, the run that made it, and the contract before it.
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Sequence
from typing import Any, NamedTuple

from ...schemas.contract import Contract, ContractError, Field
from ...schemas.documents import read_document
from ...schemas.drift.evolve import Change, Evolution, evolve, next_version, with_changes
from ...schemas.drift.facts import Drift
from ...schemas.odcs import parse_contract
from .. import storage

FROM, JOB, NUMBER, BY = "evolvedFrom", "evolvedFor", "evolvedNumber", "evolvedBy"
BEFORE, BEFORE_DIGEST = "evolvedFromVersion", "evolvedFromDigest"
_SUFFIX = ".odcs.yaml"
_UNFIT = re.compile(r"[^A-Za-z0-9._-]")


class Base(NamedTuple):
    """A job's own contract: its document, where that is, and how it is loaded. ``job`` is its name:
    jobs may share a state folder and a contract, and each has other outputs to go with it."""

    text: str
    path: str
    schema: str | None = None
    event_time: str | None = None
    job: str = ""

    @property
    def digest(self) -> str:
        """Of the document, every word of it."""
        return hashlib.sha256(self.text.encode()).hexdigest()

    def parse(self, text: str, path: str) -> Contract:
        """A document of it, or of one that was made of it.

        Raises:
            ContractError: it is none.
        """
        return parse_contract(text, path, schema=self.schema, event_time=self.event_time)


class Version(NamedTuple):
    """A version that a run has made."""

    path: str
    text: str
    number: int
    by: str
    before: str
    before_digest: str


class Saved(NamedTuple):
    """A contract after a run: the version that the run made, and the path of that before it.

    ``version`` is ``None`` where it made none.
    """

    version: Version | None
    before_path: str
    evolution: Evolution


def versions(state: str, base: Base) -> list[Version]:
    """The versions that a job's runs have made of its own contract, the newest last.

    Raises:
        StorageError: they cannot be read.
    """
    digest, found = base.digest, []
    for path in storage.list_files(_folder(state), _SUFFIX):
        text = storage.read_bytes(path).decode()
        try:
            said = _properties(read_document(text, path).value)
        except ContractError as error:
            raise storage.StorageError(f"cannot read {path}: {error}", path) from error
        if said.get(FROM) == digest and said.get(JOB) == base.job:
            found.append(
                Version(path, text, said[NUMBER], said[BY], said[BEFORE], said[BEFORE_DIGEST])
            )
    return sorted(found, key=lambda version: version.number)


def _folder(state: str) -> str:
    return storage.join(state, "_millstream", "contracts")


def _properties(document: dict[str, Any]) -> dict[str, Any]:
    return {p.get("property"): p.get("value") for p in document.get("customProperties") or []}


def save(state: str, base: Base, drift: Drift, *, by: str, pinned: str = "") -> Saved:
    """Write the next version down, if what drifted asks for one. May be called again and again.

    Args:
        by: the token of the run.
        pinned: why no column that is there may change its type.

    Raises:
        StorageError: it cannot be written.
        ContractError: a version cannot be read any more.
    """
    while True:
        known = versions(state, base)
        text, path = (known[-1].text, known[-1].path) if known else (base.text, base.path)
        contract = base.parse(text, path)
        evolution = evolve(drift, contract, pinned=pinned)
        if not evolution.changes:
            made = next((v for v in known if v.by == by), None)
            return _made_before(made, known, base, evolution)
        number = len(known) + 1
        version = next_version(contract.version)
        while storage.exists(target := _path(state, contract, version)):
            version = next_version(version)
        said = {
            FROM: base.digest,
            JOB: base.job,
            NUMBER: number,
            BY: by,
            BEFORE: contract.version,
            BEFORE_DIGEST: contract.digest,
        }
        written, evolution = _written(text, base, contract, evolution, version, said)
        if not evolution.changes:
            return Saved(None, path, evolution)
        if storage.write_once(target, written.encode()):
            made = Version(target, written, number, by, contract.version, contract.digest)
            return Saved(made, path, evolution)


def _made_before(
    made: Version | None, known: list[Version], base: Base, evolution: Evolution
) -> Saved:
    """What an attempt of the same run has made already."""
    place = known.index(made) if made else 0
    return Saved(made, known[place - 1].path if place else base.path, evolution)


def _path(state: str, contract: Contract, version: str) -> str:
    name = _UNFIT.sub("_", f"{contract.name}-{version}")
    return storage.join(_folder(state), f"{name}{_SUFFIX}")


def _written(
    text: str,
    base: Base,
    contract: Contract,
    evolution: Evolution,
    version: str,
    said: dict[str, Any],
) -> tuple[str, Evolution]:
    """The next document, with those changes that it loads with as they are meant."""
    found = _loaded(text, base, contract, evolution.changes, version, said)
    if found is not None:
        return found, evolution
    kept: list[Change] = []
    refused = dict(evolution.refused)
    for change in evolution.changes:  # one of them is in the way of all
        if _loaded(text, base, contract, [*kept, change], version, said) is None:
            refused[change.path] = "the document says it in a way that cannot be added to"
        else:
            kept.append(change)
    found = _loaded(text, base, contract, kept, version, said)
    return found or text, evolution._replace(changes=tuple(kept), refused=refused)


def _loaded(
    text: str,
    base: Base,
    contract: Contract,
    changes: Sequence[Change],
    version: str,
    said: dict[str, Any],
) -> str | None:
    """The document with changes in it; ``None`` if it would not load as they are meant."""
    from ...schemas.drift.document import CannotWrite, written
    from ...schemas.evolution.compatible import judge

    heading = f"Version {version}, made of {contract.version} of what a run has read."
    try:
        made = written(text, contract, changes, version=version, properties=said, heading=heading)
        loaded = base.parse(made, "the next version")
    except (CannotWrite, ContractError):
        return None
    meant = _outline(with_changes(contract.fields, changes))
    return made if _outline(loaded.fields) == meant and not judge(contract, loaded) else None


def _outline(fields: tuple[Field, ...]) -> list[Any]:
    """What fields are called, of which types they are, and what their valid values are."""
    from ...schemas.evolution.included import type_text

    return [
        (
            field.name,
            type_text(field),
            [set(rule.value) for rule in field.rules if rule.kind == "enum"],
            _outline((*field.fields, *((field.items,) if field.items else ()))),
        )
        for field in fields
    ]
