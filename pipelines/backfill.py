"""Backfills: aggregates made anew over history, part by part, beside what is live."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import msgspec

from ..transforms import storage
from ..transforms.plan import BACKFILL
from . import exit_codes, job_secrets, logs, runners
from .backfill_command import instant
from .backfill_limits import limits, refuse_open_letters, refuse_open_refusals, too_far
from .backfill_prepare import Prepared, prepared, targets
from .backfill_sources import ReadFailed, from_input, from_output
from .backfill_text import show
from .execute import fail
from .job import Job, JobError, Places
from .logs import ERROR, say
from .names import RECORDS

if TYPE_CHECKING:
    from ..schemas.aggregates.spec import AggregateSpec
    from ..transforms.backfill.compare import Compared
    from ..transforms.backfill.comparing import Comparing
    from ..transforms.backfill.parts import Part
    from ..transforms.backfill.publish import Publishing
    from ..transforms.backfill.results import Results
    from ..transforms.backfill.units import Unit
    from ..transforms.lock import RunLock
    from .backfill_sources import Source


@dataclass(frozen=True)
class Asked:
    """What the flags of ``backfill`` say."""

    start: str
    end: str
    aggregates: tuple[str, ...] = ()
    source: str | None = None
    partition: str | None = None
    parallel: int = 1
    rows_per_second: int | None = None
    report: str | None = None
    dry_run: bool = False
    publish: bool = False


def backfill(job: Job, places: Places, asked: Asked, beam_flags: list[str]) -> int:
    """Make windows anew, compare, and publish if that is asked; gives the exit code.

    Raises:
        JobError, PartError: it cannot be done as it is asked; nothing has been.
    """
    from ..schemas.aggregates.functions import AggregateOverflow
    from ..transforms.backfill.units import LostRecords

    flags = runners.chosen(runners.bounded(beam_flags))
    flags = job_secrets.for_workers(job, runners.ready(flags, False, job.name), places)
    if beam_flags:
        runners.refuse_unknown(flags, [])
    found = prepared(job, places, asked.aggregates)
    try:
        return _Backfill(found, asked, flags, tuple(beam_flags)).run()
    except (AggregateOverflow, ReadFailed) as error:
        return fail(str(error))
    except LostRecords as error:
        say(str(error), ERROR)
        return exit_codes.UNBALANCED


class _Backfill:
    """One backfill, from its parts to its report, and on to its publication."""

    def __init__(
        self, found: Prepared, asked: Asked, flags: list[str], beam_flags: tuple[str, ...]
    ) -> None:
        from ..transforms.backfill.spread import Processes

        self._job, self._run = found.run.job, found.run
        self._found, self._asked, self._flags = found, asked, flags
        self._parts = _parts(found.specs, asked)
        self._start, self._end = self._parts[0].start, self._parts[-1].end
        self._limits = limits(found.run, found.specs, found.triggers, found.places)
        for spec in found.specs:
            too_far(spec, self._end, self._limits.get(spec.name))
        self._targets = tuple(targets(found))
        self._plan = _plan(found, asked, self._start, self._end)
        self._name = self._plan.digest[:12]
        self._folder = storage.join(self._run.store.home, "_millstream", "backfills", self._name)
        self._source = self._opened_source()
        self._processes = Processes(self._count(), beam_flags)

    def run(self) -> int:
        from ..transforms.backfill.comparing import Comparing

        todo = self._todo()
        logs.of_run(f"backfill-{self._name}")
        if self._asked.dry_run:
            done = len(self._units_needed()) - len(todo)
            print(f"would read {len(todo):,} parts; {done:,} are done, in {self._folder}")
            return exit_codes.OK
        if self._asked.publish:
            self._refuse_open_letters()
        version = self._source.version()
        with self._processes:
            results = self._results(self._read(todo))
            compare = Comparing(results, self._targets, self._job.retry_seconds)
            compared = dict(sorted(self._processes.each(compare, self._parts, light=True)))
        self._report(compared)
        if not self._asked.publish:
            print("nothing of it is visible; --publish puts it in the place of what is there")
            return exit_codes.OK
        return self._publish(compare, compared, version)

    # -------------------------------------------------------------- reading

    def _opened_source(self) -> Source:

        specs, places = self._found.specs, self._found.places
        writes = any(output.name == RECORDS for output in self._run.outputs)
        if (self._asked.source or ("output" if writes else "input")) == "output":
            return from_output(self._run, self._found.steps, specs, self._folder, places)
        return from_input(
            self._run,
            specs,
            self._folder,
            self._flags,
            places,
            windows_close=self._found.triggers is not None,
        )

    def _units_needed(self) -> list[Part]:
        """The parts, and what lies around them that windows reach into."""
        from ..schemas.aggregates.windows import Session
        from ..transforms.backfill.parts import Part, needed_from, needed_until

        windows = [spec.window for spec in self._found.specs]
        before = min(needed_from(window, self._start) for window in windows)
        after = max(needed_until(window, self._end) for window in windows)
        needed = [Part(before, self._start)] if before < self._start else []
        needed += self._parts
        if not self._source.goes_on and any(isinstance(window, Session) for window in windows):
            after = max(after, self._end + self._parts[0].end - self._parts[0].start)
        return [*needed, Part(self._end, after)] if after > self._end else needed

    def _todo(self) -> list[Part]:
        from ..transforms.backfill.units import Units

        units = Units(self._folder)
        return [part for part in self._units_needed() if units.find(part) is None]

    def _read(self, todo: Sequence[Part]) -> list[Unit]:
        """Do all units; those that are done are looked at, whether their records are the same."""
        from ..transforms.backfill.spread import on_runner

        needed = self._units_needed()
        if kept := len(needed) - len(todo):
            say(f"{kept:,} of {len(needed):,} parts have been read before")
        self._source.begin(needed, self._processes, self._rate)
        work = self._source.work(self._rate)
        elsewhere = not runners.is_single_process(self._flags)
        if elsewhere:
            runners.warn(self._run, self._flags, False)
            try:
                on_runner(work, needed, self._asked.parallel, self._flags)
            except Exception as error:
                raise ReadFailed(runners.root_message(error)) from error
        done: list[Unit] = []
        for _, unit in self._processes.each(work, needed, light=elsewhere or not todo):
            done.append(unit)
            if len(done) % max(1, len(needed) // 20) == 0:
                logs.event(f"{len(done)} of {len(needed)} parts read")
        return sorted(done, key=lambda unit: unit.start)

    @property
    def _rate(self) -> float | None:
        """Rows a second that each process may read."""
        rows = self._asked.rows_per_second
        return rows and rows / self._processes.count

    def _count(self) -> int:
        """How many processes work at a time: a file of DuckDB is open in one alone."""
        uris = [*self._source.uris, *(target.output.uri for target in self._targets)]
        here = any(uri.startswith("duckdb:") for uri in uris)
        return 1 if here else self._asked.parallel

    def _results(self, done: list[Unit]) -> Results:
        """What units make, once there are those that sessions go on into."""
        from ..transforms.backfill.parts import Part
        from ..transforms.backfill.results import Results
        from ..transforms.backfill.units import Units

        units, work = Units(self._folder), self._source.work(self._rate)
        length = self._parts[0].end - self._parts[0].start
        while True:
            results = Results(units, tuple(done))
            on = [spec for spec in self._found.specs if results.goes_on(spec, self._end)]
            if not on:
                return results
            covered = done[-1].end
            if not self._source.goes_on:
                said = f"a session of {on[0].name} that begins before --to goes on for longer than "
                raise JobError(f"{said}a part after it: say a longer --partition")
            for spec in on:
                too_far(spec, covered + 1, self._limits.get(spec.name), self._end)
            done.append(work(Part(covered, covered + length)))

    # -------------------------------------------------------------- comparing

    def _report(self, compared: dict[Part, dict[str, Compared]]) -> None:
        from .backfill_text import as_json

        said = as_json(self._name, self._parts, compared)
        storage.write_replace(storage.join(self._folder, "report.json"), said)
        if self._asked.report:
            storage.write_replace(storage.absolute(self._asked.report), said)
        show(self._parts, compared)

    # -------------------------------------------------------------- publishing

    def _publish(
        self, compare: Comparing, compared: dict[Part, dict[str, Compared]], version: int | None
    ) -> int:
        from .replay import complete_others

        store, results = self._run.store, compare.results
        self._refuse_open_letters()
        with store.lock(f"backfill-{self._name}", wait_seconds=self._job.wait) as lock:
            completed = complete_others(store, lock, self._job)
            if not self._source.is_unchanged(results.done, version):
                said = "records of these parts have come or gone since they were read: the same "
                say(f"{said}command reads them again", ERROR)
                return exit_codes.FAILED
            if completed:  # of what is there now, other parts may differ
                compared = {part: compare(part) for part in self._parts}
            published = self._publish_parts(results, compared, lock)
        storage.delete_folder(storage.join(self._folder, "chunks"))
        results.units.delete()
        left = len(self._parts) - published
        print(f"published {published:,} parts" + (f"; {left:,} were as they are" if left else ""))
        return exit_codes.OK

    def _refuse_open_letters(self) -> None:
        refuse_open_letters(self._run, [spec.name for spec in self._found.specs])
        if self._source.uris:  # the output of records
            refuse_open_refusals(self._run)

    def _publish_parts(
        self, results: Results, compared: dict[Part, dict[str, Compared]], lock: RunLock
    ) -> int:
        publishing = self._publishing()
        published = 0
        for part in self._parts:
            lock.check()
            same = all(each.is_equal for each in compared[part].values())
            nothing = all(not each.old and not each.new for each in compared[part].values())
            if nothing or (same and not publishing.is_new(part)):
                continue
            made = {spec.name: results.of_part(part, spec) for spec in self._found.specs}
            token = publishing.publish(part, made, self._targets, lock.check)
            logs.event(f"published {part} as run {token.run_id}")
            published += 1
        return published

    def _publishing(self) -> Publishing:
        from ..transforms.backfill.publish import Publishing

        return Publishing(
            store=self._run.store,
            plan=self._plan,
            name=self._name,
            ledger_uri=self._run.ledger.uri,
            source=self._source.place,
            edges=(*(part.start for part in self._parts), self._end),
            patience=self._job.retry_seconds,
        )


def _parts(specs: Sequence[AggregateSpec], asked: Asked) -> list[Part]:
    from ..schemas.aggregates.functions import AggregateError
    from ..schemas.aggregates.windows import parse_duration
    from ..transforms.backfill.parts import default_partition, parts, zone_of

    windows = [spec.window for spec in specs]
    zone = zone_of(windows)
    start, end = instant(asked.start, "--from", zone), instant(asked.end, "--to", zone)
    length = default_partition(windows)
    if asked.partition:
        try:
            length = parse_duration(asked.partition, "--partition")
        except AggregateError as error:
            raise JobError(str(error)) from None
    return parts(windows, start, end, length)


def _plan(found: Prepared, asked: Asked, start: int, end: int) -> Any:
    """What is asked, as a plan: the same command finds its own work again."""
    said = {
        "from": start,
        "to": end,
        "partition": asked.partition or "",
        "source": asked.source or "",
        "aggregates": [spec.name for spec in found.specs],
    }
    settings = {**found.run.plan.settings, BACKFILL: msgspec.json.encode(said).decode()}
    return msgspec.structs.replace(found.run.plan, inputs=(), settings=settings)
