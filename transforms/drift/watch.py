"""The watch: what drifted is judged by the job's policy, before anything is committed.

It stands where gates stand, between the balance of a run and ``prepared.json``, and hands on to
the job's gate what it lets pass.
"""

from __future__ import annotations

import logging
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any, Literal

import msgspec

from ...schemas.drift.evolve import explained
from ...schemas.drift.facts import Drift, merged
from ..plan import Token
from ..quality.gate import Gate, GateClosed
from ..quality.report import record_failure
from ..runs import Prepared, RunStore
from .evolved import Base, save
from .report import DriftReport, Evolved, lines, report_of, report_path, write_report

Policy = Literal["ignore", "warn", "quarantine", "evolve", "freeze"]
_log = logging.getLogger("millstream")


@dataclass(frozen=True)
class Watch:
    """What a job does about drift. Small and picklable.

    Attributes:
        gate: judges what was staged, once drift has been judged.
        base: the job's own contract, of which new versions are made.
        pinned: why no column that is there may change its type; empty: it may.
        tells: say of each commit what has drifted, as nobody else will.
        shows_values: samples may be kept as they are; not where dead letters are encrypted.
    """

    policy: Policy
    gate: Gate | None
    base: Base
    pinned: str = ""
    tells: bool = False
    shows_values: bool = True

    def judge(self, store: RunStore, prepared: Prepared, facts: Iterable[Any]) -> Prepared:
        """What may be committed of a balanced run. May be called again and again.

        Raises:
            GateClosed: nothing may; the run is recorded as failed.
        """
        facts = list(facts)
        token = Token.parse(prepared.token)
        drift = merged(fact for fact in facts if isinstance(fact, Drift))
        if not drift.records:
            return self.gate.judge(store, prepared, facts) if self.gate else prepared
        report = report_of(drift, token.run_id, self.policy, values=self.shows_values)
        write_report(store, token, report)
        if self.policy == "freeze":
            error = _frozen(report, report_path(store, token))
            record_failure(store, token, error, prepared.ledger)
            raise GateClosed(error)
        if self.gate:
            prepared = self.gate.judge(store, prepared, facts)
        if self.policy == "evolve":
            report = self._evolved(store, token, drift, report)
            write_report(store, token, report)
        if self.tells:
            _log.warning(
                "run %s: %s; %s",
                token.run_id,
                next(lines(report)),
                report_path(store, token),
            )
        return prepared

    def forget(self, facts: Iterable[Any]) -> None:
        """Delete what waited to be judged, once what was decided is written down."""
        if self.gate:
            self.gate.forget(facts)

    def _evolved(
        self, store: RunStore, token: Token, drift: Drift, report: DriftReport
    ) -> DriftReport:
        saved = save(store.home, self.base, drift, by=str(token), pinned=self.pinned)
        refused = saved.evolution.refused
        if saved.version is None:
            return msgspec.structs.replace(report, refused=refused)
        made = saved.version
        version = self.base.parse(made.text, made.path).version
        changes = tuple(explained(saved.evolution._replace(refused={})))
        evolved = Evolved(version, made.path, made.before, saved.before_path, changes)
        return msgspec.structs.replace(report, evolved=evolved, refused=refused)


def _frozen(report: DriftReport, path: str) -> str:
    """Why a run is stopped, a line a place."""
    told = (f"  {line}" for line in lines(report))
    head = "drift: freeze, and nothing was committed:"
    return "\n".join([head, *told, f"  drift report: {path}"])
