"""Runs that go on: each reads what has come since the last one, and hands on what is open."""

from __future__ import annotations

import time
import uuid
from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

import msgspec

from ..transforms.carry import Carry
from . import exit_codes, runners
from .execute import execute, settled
from .job import Job, Places
from .logs import say
from .prepare import job_duration, job_horizon
from .sources import Planned, Source

if TYPE_CHECKING:
    from ..schemas.aggregates.open_windows import Trigger
    from ..transforms.intervals.chain import Chain, Head
    from ..transforms.intervals.commit import Commits
    from ..transforms.intervals.keys import Horizon
    from ..transforms.intervals.windows import OpenAggregate
    from .graph import Run


def run_on(
    run: Run,
    triggers: Mapping[str, Trigger],
    disorder_us: int,
    source: Source,
    places: Places,
    flags: list[str],
    *,
    follows: bool = False,
) -> int:
    """Run a prepared job on from where its last run stopped; gives the exit code.

    Args:
        follows: go on again and again, until the process is told to stop.

    Raises:
        JobError: it cannot go on.
    """
    from ..transforms.intervals.chain import Chain
    from ..transforms.intervals.windows import OpenAggregate
    from .streaming import repeat

    job = run.job
    horizon = job_horizon(job, run.contract, places)
    aggregates = tuple(OpenAggregate(spec, triggers[spec.name]) for spec in run.aggregates)
    chain = Chain(run.store)

    def work() -> int:
        with run.store.lock(job.name[:64], wait_seconds=job.wait) as lock:

            def run_once(run: Run) -> int:
                head = chain.head(check=lock.check, patience=job.retry_seconds)
                going = _Going(run, chain, head, aggregates, disorder_us, horizon, places)
                return going.run(source, flags, time.monotonic(), quiet=follows)

            return repeat(run, run_once) if follows else run_once(run)

    return settled(work)


@dataclass(frozen=True)
class _Going:
    """A run that goes on from the newest commit, under the job's lock."""

    base: Run
    chain: Chain
    head: Head | None
    aggregates: tuple[OpenAggregate, ...]
    disorder_us: int
    horizon: Horizon | None
    places: Places

    def run(self, source: Source, flags: list[str], started: float, *, quiet: bool) -> int:
        from .graph import SHARDS
        from .streaming import stream

        job = self.base.job
        carry = self.head.carry if self.head else Carry(shards=job.shards or SHARDS)
        self._check_windows(carry)
        self._check_keys(carry)
        planned = source.plan(carry)
        closes = job.close_windows and any(w.records for w in carry.aggregates.values())
        if runners.is_streaming(flags):
            return stream(self._endless(carry, planned, job, flags), self.chain, flags)
        if self.head and planned.is_empty and not closes:
            if not quiet:
                say(f"nothing new since run {self.head.record.run_id}: nothing to do")
            return exit_codes.OK
        return execute(self._planned(carry, planned, job), flags, started)

    def _endless(self, carry: Carry, planned: Planned, job: Job, flags: list[str]) -> Run:
        """The run of a stream, which makes a plan of its own for each commit."""
        from ..transforms.plan import Token
        from ..transforms.read.streams.unbounded import Pace
        from .graph import Endless, GoesOn

        carry = _carried(carry, planned, carry.seen)
        # What is staged is named by the process that stages it, what is committed by its commit.
        token = Token(f"s{uuid.uuid4().hex[:15]}", self.base.plan.digest)
        self.chain.store.begin(self.base.plan, token.run_id, reprocess=True)  # so that gc knows it
        parts = 1 if runners.is_prism(flags) else carry.shards
        idle = job_duration(job, "idle", self.places) / 1e6
        # On Prism it costs some milliseconds to begin a slice, on others about a second.
        slices = (0.2, 1.0) if runners.is_prism(flags) else (2.0, 10.0)
        pace = Pace(*slices, poll_rows=job.poll_rows, idle_seconds=idle)
        once = runners.is_prism(flags) and runners.works_here(flags)
        endless = Endless(parts, pace, job.commit_every, once)
        commits = replace(self._commits(job, planned), parts=parts)
        going = GoesOn(commits, carry, planned.read, endless)
        return replace(self.base, token=token, goes_on=going)

    def _planned(self, carry: Carry, planned: Planned, job: Job) -> Run:
        from ..transforms.intervals.seen import write_seen
        from .graph import GoesOn

        plan = msgspec.structs.replace(
            self.base.plan, inputs=planned.inputs, intervals=planned.intervals, after=carry.token
        )
        reprocess = job.reprocess or carry.sequence > 0
        token = self.chain.begin(plan, carry.sequence + 1, reprocess=reprocess)
        seen = write_seen(planned.seen, self.chain.store.folder(token).path)
        going = GoesOn(self._commits(job, planned), _carried(carry, planned, seen), planned.read)
        return replace(self.base, plan=plan, token=token, goes_on=going)

    def _commits(self, job: Job, planned: Planned) -> Commits:
        from ..transforms.intervals.commit import Commits
        from .graph import LATE

        return Commits(
            chain=self.chain,
            outputs=self.base.outputs,
            ledger_uri=self.base.ledger.uri,
            aggregates=self.aggregates,
            disorder_us=self.disorder_us,
            late=LATE if job.late else "",
            horizon=self.horizon,
            source=planned.stream,
            close=job.close_windows,
            patience=job.retry_seconds,
        )

    def _check_windows(self, carry: Carry) -> None:
        """See that the windows that are open can be gone on with.

        Raises:
            JobError: an aggregate is gone, or has become another, while states of it are held.
        """
        described = {aggregate.spec.name: aggregate.described for aggregate in self.aggregates}
        for name, windows in carry.aggregates.items():
            if not windows.files or described.get(name) == windows.described:
                continue
            what = "has changed" if name in described else "is not in the job any more"
            rows = sum(windows.open_records().values())
            said = f"the aggregate {name!r} {what}, and {rows} records are in its open windows: "
            said += "run the job as it was once with close_windows, or give the aggregate another "
            raise self.places.error(("aggregates",), said + "name")

    def _check_keys(self, carry: Carry) -> None:
        """See that records can be held against the keys that were kept before.

        Raises:
            JobError: the key has become another.
        """
        kept, horizon = carry.keys, self.horizon
        if not kept or not horizon or (kept.key, kept.kinds) == (horizon.key, horizon.kinds):
            return
        before, now = (
            ", ".join(f"{name} ({kind})" for name, kind in zip(some.key, some.kinds, strict=True))
            for some in (kept, horizon)
        )
        said = f"the primary key is {now}, and the keys that were kept before are {before}: these "
        said += "cannot be compared. To forget them, run the job once without deduplicate"
        raise self.places.error(("deduplicate",), said)


def _carried(carry: Carry, planned: Planned, seen: str) -> Carry:
    """What a run goes on from, with what it has found to read."""
    return msgspec.structs.replace(
        carry,
        sources={**planned.states, **carry.sources},
        topics={**carry.topics, **planned.topics},
        seen=seen,
    )
