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
from .job_parts import job_duration, job_horizon
from .logs import say
from .names import LATE
from .sources import Planned, Source

if TYPE_CHECKING:
    from ..schemas.aggregates.open_windows import Trigger
    from ..transforms.intervals.chain import Chain, Head
    from ..transforms.intervals.commit import Commits
    from ..transforms.intervals.keys import Horizon
    from ..transforms.intervals.windows import OpenAggregate
    from ..transforms.read.streams.source import StreamSource
    from .run import Run


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
    from ..transforms.write.replacements import complete_replacements
    from .streaming import repeat

    job = run.job
    horizon = job_horizon(job, run.contract, places)
    aggregates = tuple(OpenAggregate(spec, triggers[spec.name]) for spec in run.aggregates)
    chain = Chain(run.store)

    def work() -> int:
        with run.store.lock(job.name[:64], wait_seconds=job.wait) as lock:
            complete_replacements(run.store, check=lock.check, patience=job.retry_seconds)

            def run_once(run: Run) -> int:
                head = chain.head(check=lock.check, patience=job.retry_seconds)
                going = _Going(run, chain, head, aggregates, disorder_us, horizon, places)
                return going.run(source, flags, time.monotonic(), quiet=follows)

            return repeat(run, run_once) if follows else run_once(run)

    return settled(work)


def commits_of(
    run: Run,
    chain: Chain,
    aggregates: tuple[OpenAggregate, ...],
    disorder_us: int,
    horizon: Horizon | None,
    stream: StreamSource | None = None,
) -> Commits:
    """What all commits of a job have in common.

    Args:
        stream: is told what is committed.
    """
    from ..transforms.intervals.commit import Commits

    return Commits(
        chain=chain,
        outputs=run.outputs,
        ledger_uri=run.ledger.uri,
        aggregates=aggregates,
        disorder_us=disorder_us,
        late=LATE if run.job.late else "",
        horizon=horizon,
        source=stream,
        close=run.job.close_windows,
        patience=run.job.retry_seconds,
    )


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
        from .run import SHARDS
        from .streaming import stream

        job = self.base.job
        carry = self.head.carry if self.head else Carry(shards=job.shards or SHARDS)
        check_windows(carry, self.aggregates, self.places)
        check_keys(carry, self.horizon, self.places)
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
        from .run import Endless, GoesOn

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
        commits = replace(self._commits(planned), parts=parts)
        going = GoesOn(commits, carry, planned.read, endless)
        return replace(self.base, token=token, goes_on=going)

    def _planned(self, carry: Carry, planned: Planned, job: Job) -> Run:
        from ..transforms.intervals.seen import write_seen
        from .run import GoesOn

        plan = msgspec.structs.replace(
            self.base.plan, inputs=planned.inputs, intervals=planned.intervals, after=carry.token
        )
        reprocess = job.reprocess or carry.sequence > 0
        token = self.chain.begin(plan, carry.sequence + 1, reprocess=reprocess)
        seen = write_seen(planned.seen, self.chain.store.folder(token).path)
        going = GoesOn(self._commits(planned), _carried(carry, planned, seen), planned.read)
        return replace(self.base, plan=plan, token=token, goes_on=going)

    def _commits(self, planned: Planned) -> Commits:
        return commits_of(
            self.base,
            self.chain,
            self.aggregates,
            self.disorder_us,
            self.horizon,
            planned.stream,
        )


def check_windows(carry: Carry, aggregates: tuple[OpenAggregate, ...], places: Places) -> None:
    """See that the windows that are open can be gone on with.

    Raises:
        JobError: an aggregate is gone, or has become another, while states of it are held.
    """
    described = {aggregate.spec.name: aggregate.described for aggregate in aggregates}
    for name, windows in carry.aggregates.items():
        if not windows.files or described.get(name) == windows.described:
            continue
        what = "has changed" if name in described else "is not in the job any more"
        rows = sum(windows.open_records().values())
        said = f"the aggregate {name!r} {what}, and {rows} records are in its open windows: "
        said += "run the job as it was once with close_windows, or give the aggregate another "
        raise places.error(("aggregates",), said + "name")


def check_keys(carry: Carry, horizon: Horizon | None, places: Places) -> None:
    """See that records can be held against the keys that were kept before.

    Raises:
        JobError: the key has become another.
    """
    kept = carry.keys
    if not kept or not horizon or (kept.key, kept.kinds) == (horizon.key, horizon.kinds):
        return
    before, now = (
        ", ".join(f"{name} ({kind})" for name, kind in zip(some.key, some.kinds, strict=True))
        for some in (kept, horizon)
    )
    said = f"the primary key is {now}, and the keys that were kept before are {before}: these "
    said += "cannot be compared. To forget them, run the job once without deduplicate"
    raise places.error(("deduplicate",), said)


def _carried(carry: Carry, planned: Planned, seen: str) -> Carry:
    """What a run goes on from, with what it has found to read."""
    return msgspec.structs.replace(
        carry,
        sources={**planned.states, **carry.sources},
        topics={**carry.topics, **planned.topics},
        seen=seen,
    )
