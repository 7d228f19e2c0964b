"""The gate: what was staged is judged, and only then committed.

It stands between the balance of a run and ``prepared.json``: whatever it decides is a part of what
is prepared, so that a restart commits the same.
"""

from __future__ import annotations

import shutil
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal, NamedTuple

import msgspec

from ...schemas.contract import Contract
from ...schemas.quality.checks import GATING, Check, Value, Verdict, judge, scores
from ...schemas.quality.measures import (
    NEVER,
    Measured,
    Refusals,
    merged,
    merged_refusals,
)
from .. import storage
from ..plan import Token
from ..receipts import Receipt, content_digest
from ..runs import Prepared, PreparedOutput, RunStore
from ..write.attempts import PATIENCE_SECONDS, Attempts
from ..write.destination import Commit, Output, destination
from ..write.errors import CommitConflict
from ..write.stage import stage_batches, staged_folder
from .budget import Budget
from .facts import MEASURED, Keys, SpilledRows
from .repeated import repeated_keys
from .report import Report, judged, record_failure, write_report
from .scores import digest_of, score_rows, to_batch

Action = Literal["warn", "quarantine", "fail"]
ACTIONS: tuple[Action, ...] = ("warn", "quarantine", "fail")
"""From the mildest to the sharpest."""


def quarantine_name(output: str) -> str:
    """What the output of an output's quarantined rows is called."""
    return f"quarantine-{output}"


class GateClosed(RuntimeError):
    """A run must not be published as it is. The message says why; nothing was committed."""


class _Decision(NamedTuple):
    """``partitions`` are those to be quarantined; all, if the action is that and none is named."""

    action: Action | None
    partitions: tuple[str, ...]
    verdicts: list[tuple[Verdict, str]]


@dataclass(frozen=True)
class Gate:
    """What a job asks of a run before it is published. Small and picklable.

    Attributes:
        checks: those of the contract.
        actions: what a broken check does, by its severity, where it says nothing itself.
        budget: how many dead letters there may be.
        scores: the output of the table of scores.
        quarantine: by the name of an output of records or aggregates, where its rows go instead.
        partitioned: the output whose rows are measured by partition; empty: none.
        staged: the output whose staged files queries can read; empty: records are spilled.
        patience: seconds for which a service that does not answer is asked again.
    """

    contract: Contract
    checks: tuple[Check, ...] = ()
    actions: Mapping[str, Action] = field(default_factory=dict)
    budget: Budget | None = None
    scores: Output | None = None
    quarantine: Mapping[str, str] = field(default_factory=dict)
    partitioned: str = ""
    staged: str = ""
    patience: float = PATIENCE_SECONDS

    @property
    def spills(self) -> bool:
        """Whether records have to be written down for queries."""
        return not self.staged and any(check.kind == "sql" for check in self.checks)

    def action(self, check: Check) -> Action:
        """What a check does when it is broken."""
        if check.action:
            return check.action  # type: ignore[return-value]
        return self.actions.get(check.severity, "fail" if check.severity in GATING else "warn")

    def judge(self, store: RunStore, prepared: Prepared, facts: Iterable[Any]) -> Prepared:
        """What may be committed of a balanced run. May be called again and again.

        Args:
            facts: those of :data:`~.facts.MEASURED` among all.

        Raises:
            GateClosed: nothing may; the run is recorded as failed.
        """
        token = Token.parse(prepared.token)
        found = [fact for fact in facts if isinstance(fact, MEASURED)]
        whole = merged((f for f in found if isinstance(f, Measured)), len(self.checks))
        decision = self._decide(prepared, found)
        over = self.budget.exceeded(prepared.ledger) if self.budget else ""
        report = self._report(token, decision, over, whole.newest)
        rows = score_rows(decision.verdicts, self.contract, token.run_id)
        if report.decision == "fail":
            error = _explained(decision, over)
            self._commit_failed_scores(store, token, rows)
            record_failure(store, token, error, prepared.ledger, report=report)
            raise GateClosed(error)
        outputs = prepared.outputs
        if report.decision == "quarantine":
            outputs = self._redirected(outputs, decision.partitions, token)
        if self.scores is not None:
            others = [output for output in outputs if output.name != self.scores.name]
            outputs = (*others, _prepared_scores(self.scores, token, rows))
        write_report(store, token, report)
        return msgspec.structs.replace(prepared, outputs=outputs)

    def forget(self, facts: Iterable[Any]) -> None:
        """Delete what waited to be judged, once what was decided is written down.

        What is left of it goes with the run's own files.
        """
        for fact in facts:
            if isinstance(fact, SpilledRows):
                storage.delete(fact.path)
            elif isinstance(fact, Keys) and fact.file is not None:
                storage.delete(fact.file.file.path)

    def verdicts(self, prepared: Prepared, facts: Sequence[Any]) -> list[Verdict]:
        """How every check ended, of all records; then those of partitions that broke one."""
        numbers = len(self.checks)
        measured = [fact for fact in facts if isinstance(fact, Measured)]
        whole = merged(measured, numbers)
        refused = merged_refusals((f for f in facts if isinstance(f, Refusals)), numbers)
        queries = self._queries(prepared, facts, whole.rows)
        found = []
        for i, check in enumerate(self.checks):
            value = queries.get(i) or self._value(i, check, whole, refused, facts)
            found.append(judge(check, value))
        return [*found, *self._of_partitions(measured)]

    def _value(
        self, i: int, check: Check, whole: Measured, refused: Refusals, facts: Sequence[Any]
    ) -> Value:
        if check.kind == "rowCount":
            return Value(whole.rows, whole.rows)
        if check.kind == "duplicateValues":
            keys = [f for f in facts if isinstance(f, Keys) and f.check == i]
            return Value(repeated_keys(check.columns, keys), whole.rows)
        if check.population == "kept":
            return Value(whole.counts[i], whole.rows)
        return Value(whole.counts[i] + refused.counts[i], whole.rows + refused.rows)

    def _of_partitions(self, measured: Sequence[Measured]) -> list[Verdict]:
        by_folder: dict[str, list[Measured]] = {}
        for fact in measured:
            if fact.partition:
                by_folder.setdefault(fact.partition, []).append(fact)
        found = []
        for folder, parts in sorted(by_folder.items()):
            part = merged(parts, len(self.checks), folder)
            for i, check in enumerate(self.checks):
                if self._is_by_partition(check):
                    verdict = judge(check, Value(part.counts[i], part.rows), folder)
                    found += [verdict] if verdict.is_bad else []
        return found

    def _is_by_partition(self, check: Check) -> bool:
        by_record = check.counts_rows and check.kind != "duplicateValues"
        return by_record and not check.is_enforced and self.action(check) == "quarantine"

    def _queries(self, prepared: Prepared, facts: Sequence[Any], rows: int) -> Mapping[int, Value]:
        checks = {i: check for i, check in enumerate(self.checks) if check.kind == "sql"}
        if not checks:
            return {}
        from .queries import answers

        paths = [f.path for f in facts if isinstance(f, SpilledRows) and f.rows]
        if self.staged:
            output = next(o for o in prepared.outputs if o.name == self.staged)
            paths = [receipt.path for receipt in output.receipts if receipt.part == "data"]
        return answers(checks, paths, self.contract, rows)

    def _decide(self, prepared: Prepared, facts: Sequence[Any]) -> _Decision:
        verdicts = self.verdicts(prepared, facts)
        broken_in = {v.check.name for v in verdicts if v.partition}
        bad_partitions = {v.partition for v in verdicts if v.partition}
        told, worst, everything = [], -1, False
        for verdict in verdicts:
            action: Action | None = self.action(verdict.check) if verdict.is_bad else None
            told.append((verdict, action or ""))
            if action is None:
                continue
            worst = max(worst, ACTIONS.index(action))
            if action == "quarantine" and not verdict.partition:
                everything |= verdict.check.name not in broken_in
        decided = ACTIONS[worst] if worst >= 0 else None
        return _Decision(decided, () if everything else tuple(sorted(bad_partitions)), told)

    def _report(self, token: Token, decision: _Decision, over: str, newest: int) -> Report:
        is_quarantine = decision.action == "quarantine"
        return Report(
            run_id=token.run_id,
            decision="fail" if over else decision.action or "pass",
            verdicts=tuple(judged(*told) for told in decision.verdicts),
            scores=scores(verdict for verdict, _ in decision.verdicts),
            partitions=decision.partitions if is_quarantine and not over else (),
            over_budget=over,
            newest=None if newest == NEVER else newest,
        )

    def _redirected(
        self, outputs: Sequence[PreparedOutput], partitions: Sequence[str], token: Token
    ) -> tuple[PreparedOutput, ...]:
        """The outputs without what is to be quarantined, and those that take it."""
        found: list[PreparedOutput] = []
        for output in outputs:
            uri = self.quarantine.get(output.name)
            if uri is None:
                found.append(output)
                continue

            def is_bad(receipt: Receipt) -> bool:
                return not partitions or receipt.folder in partitions

            name = quarantine_name(output.name)
            folder = staged_folder(destination(uri, name), token.run_id)
            bad = tuple(_copied(r, folder) for r in output.receipts if is_bad(r))
            left = tuple(receipt for receipt in output.receipts if not is_bad(receipt))
            digest = content_digest(left)
            found.append(msgspec.structs.replace(output, receipts=left, digest=digest))
            digest = content_digest(bad)
            found.append(
                PreparedOutput(name=name, uri=uri, digest=digest, receipts=bad, kind="side")
            )
        return tuple(found)

    def _commit_failed_scores(
        self, store: RunStore, token: Token, rows: Sequence[dict[str, Any]]
    ) -> None:
        """Commit the scores of a run that commits nothing else, under a name of their own: the
        same run may yet be made again, and end otherwise."""
        if self.scores is None:
            return
        digest = digest_of(rows)
        own = Token(f"{token.run_id[:40]}-failed-{digest[:8]}", token.plan_digest)
        prepared = _prepared_scores(self.scores, own, rows)
        commit = Commit(own, digest, prepared.receipts, self.scores.tables, store.folder(token))
        to = self.scores.destination
        held = to.committed(own.run_id)
        if held is None or held.digest != digest:
            try:
                Attempts(self.patience).call(to.service, lambda: to.commit(commit))
            except CommitConflict:  # another attempt has said it meanwhile
                return


def _copied(receipt: Receipt, folder: str) -> Receipt:
    """A staged file in another folder too: whoever commits what is left clears the first away."""
    path = storage.join(folder, receipt.path.rpartition("/")[2])
    with (
        storage.named(path, "write"),
        storage.open_read(receipt.path) as source,
        storage.open_write(path) as target,
    ):
        shutil.copyfileobj(source, target, 1 << 20)
    return msgspec.structs.replace(receipt, path=path)


def _prepared_scores(
    output: Output, token: Token, rows: Sequence[dict[str, Any]]
) -> PreparedOutput:
    receipts = stage_batches(output, token, [to_batch(rows)] if rows else [])
    return PreparedOutput(
        name=output.name,
        uri=output.uri,
        digest=digest_of(rows),
        receipts=tuple(receipts),
        tables=dict(output.tables),
        kind="side",
    )


def _explained(decision: _Decision, over: str) -> str:
    """Why a run is stopped, a line a reason."""
    lines = [f"  over budget: {over}"] if over else []
    lines += [f"  {verdict}" for verdict, action in decision.verdicts if action == "fail"]
    return "\n".join(["the gate is closed, and nothing was committed:", *lines])
