"""What the stages of a graph hand to its commit."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from ..transforms.dead_letters import Origin
from ..transforms.encrypt import Encrypt
from ..transforms.write.formats import BRIEF
from ..transforms.write.stage import Stage
from .names import DEAD_LETTERS, LATE
from .reading import SELF_DESCRIBED, file_reader
from .run import Run

if TYPE_CHECKING:
    from ..transforms.quality.gate import Gate


class Flow:
    """Gathers what the commit waits for: tallies, and receipts of what is staged on the way."""

    def __init__(self, run: Run) -> None:
        self.facts: list[Any] = []
        self._job = run.job
        self._endless = run.is_endless
        self._keys = run.job.encrypt_dead_letters
        self._outputs = {output.name: output for output in run.outputs}
        self._token = run.token
        self._replay = run.replay
        self.gate, self._store = (None if run.replay else run.gate), run.store
        self._watch, self._contract = (None if run.replay else run.watch), run.contract
        self.origin = Origin("", run.job.name, run.token.run_id).of(run.contract)

    def stage(self, batches: Any, label: str, output: str, **options: Any) -> None:
        """Stage batches for an output, if the job has it."""
        if output in self._outputs:
            if self._endless:  # gathered into larger files when they are committed
                options |= {"format": BRIEF, "keep_identity": True}
            if self._keys and output in (DEAD_LETTERS, LATE):
                batches = batches | f"Encrypt{label}" >> Encrypt(self._keys)
            stage = Stage(self._outputs[output], self._token, **options)
            self.facts.append(batches | label >> stage)

    def dead(self, stage: str, letters: Any, late_for: str = "") -> None:
        """Stage a stage's own dead letters: brought together first, they would have to pass through
        the runner, which on the local one is memory.

        Args:
            late_for: in a replay, the aggregate that their records were late for, and stay so.
        """
        if self._watch is not None and stage in ("Read", "Parse"):
            from ..transforms.drift.letters import NoticeLetters

            # Where unknown fields are no violation, any letter may have some.
            notice = NoticeLetters(self._contract, all_letters=self._watch.policy == "warn")
            self.facts.append(letters | f"NoticeDriftOf{stage}" >> notice)
        if self.gate is not None:
            letters = self._judged(self.gate, stage, letters)
        letters = self._described(letters, stage)
        output = DEAD_LETTERS
        if self._replay:
            letters, failed = self._replay.attempts(letters, stage, self._keys or "")
            self.facts.append(failed)
            if late_for:
                letters, tallies = self._replay.still_late(letters, stage, late_for)
                self.facts.append(tallies)
                output = LATE
        self.stage(letters, f"StageDeadLettersOf{stage}", output)

    def late(self, letters: Any, aggregate: str) -> None:
        """Stage records that are late for an aggregate."""
        letters = self._described(letters, f"Late_{aggregate}")
        self.stage(letters, f"StageLate_{aggregate}", LATE)

    def _described(self, letters: Any, stage: str) -> Any:
        """Letters that can be read again though their file be gone. Those of a replay take that
        over from the letters before."""
        is_read_here = stage in ("Read", "Parse")
        if self._replay or is_read_here or self._job.format not in SELF_DESCRIBED:
            return letters
        from ..transforms.read.described import Describe

        reader = file_reader(self._job, self._contract)
        return letters | f"DescribeLettersOf{stage}" >> Describe(reader)

    def _judged(self, gate: Gate, stage: str, letters: Any) -> Any:
        """Count a stage's dead letters: those of steps are of records that keep the contract."""
        if gate.checks and not stage.startswith("Step"):
            from ..transforms.quality.measure import MeasureLetters

            count = MeasureLetters(gate.checks)
            self.facts.append(letters | f"MeasureDeadLettersOf{stage}" >> count)
        if gate.budget is None or self._endless:
            return letters
        from ..transforms.quality.budget import WithinBudget

        within = WithinBudget(gate.budget, self._store, self._token)
        return letters | f"WithinBudget{stage}" >> within
