"""Comparing a job's input, as its records are now, with what its output of records holds."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from .job import Job, Places
from .logs import WARNING, say
from .names import DEAD_LETTERS, RECORDS
from .reconcile import LedgerCheck, OfJob, Outcome, Question, compared, scratch_folder
from .reconcile_source import Staged, staged

if TYPE_CHECKING:
    from ..schemas.masking import Masking
    from ..transforms.reconcile import Compared, Reconciled
    from ..transforms.reconcile.reasons import Reasons
    from ..transforms.runs import RunStore
    from ..transforms.stored import Stored
    from ..transforms.write.destination import Output


def reconcile_job(
    job: Job, places: Places, question: Question, beam_flags: list[str], masking: Masking
) -> Outcome:
    """Compare a job's input, as its records are now, with its output of records.

    Raises:
        JobError: the job cannot be used so.
        ValueError: they cannot be compared so.
        Unread: the input could not be read.
        DestinationError: the output cannot be read back.
        Unavailable: a service does not answer.
        StorageError: a file cannot be read or written.
    """
    from ..transforms.reconcile import reconcile
    from ..transforms.reconcile.latest import Latest
    from ..transforms.reconcile.places import Place, open_places
    from .outputs import job_outputs

    outputs, _, store = job_outputs(job, places, going_on=True)
    output = next((output for output in outputs if output.name == RECORDS), None)
    if output is None:
        raise places.error_of_all("the job has no output of records that could be compared")
    there = Place(output, may_lack=True)
    before = _committed(store)
    _say_unfinished(store)
    with scratch_folder(question.scratch, store, beam_flags) as folder:
        here = staged(job, places, folder, beam_flags)
        contract = here.contract
        key = question.key or contract.primary_key
        key = key if set(here.columns.names).issuperset(key) else ()
        columns = question.columns_needed(key, contract.event_time)
        opened = open_places(here.records, there, typed=here.columns, columns=columns)
        how = compared(opened.compared, question, key, contract.event_time, there, masking)
        reasons = _reasons(job, outputs, store, how)
        source = _standing(opened.source, output, here)
        found = reconcile(
            source, opened.destination, how, folder, rows=question.rows, explain=reasons
        )
        replaced = source.replaced if isinstance(source, Latest) else 0
        refused = reasons.of_refused(here.refused)
    if _committed(store) != before:
        say("a run has been committed meanwhile, and may be seen in part: compare again", WARNING)
    ledger = _ledger(store, output, here, found) if not question.is_partial else None
    told = OfJob(job.name, here.read, here.filtered, replaced, refused, ledger)
    return Outcome(f"the input of {job.name}", opened.destination.place, found, masking, told)


def _say_unfinished(store: RunStore) -> None:
    for run_id, is_unfinished in store.runs().items():
        if is_unfinished:
            said = f"run {run_id} has not committed all that it had prepared: its own command does"
            say(said, WARNING)


def _committed(store: RunStore) -> set[tuple[str, str]]:
    """The runs that have committed."""
    return {(record.run_id, record.plan_digest) for record in store.committed()}


def _reasons(job: Job, outputs: Sequence[Output], store: RunStore, compared: Compared) -> Reasons:
    from ..transforms.letters import Marks, letters_of
    from ..transforms.reconcile.places import Place
    from ..transforms.reconcile.reasons import (
        DUPLICATES,
        Lookup,
        Reasons,
        letters_by_place,
        quarantined_rows,
    )
    from ..transforms.write.destination import Output

    by_name = {output.name: output for output in outputs}
    loaded = {row.source for record in store.committed() for row in record.ledger}
    surplus = DUPLICATES if job.deduplicate != "no" else ""
    quarantine = Lookup()
    if job.quality and job.quality.quarantine:
        place = Place(Output("quarantine", job.quality.quarantine), any_name=True)
        stored = place.open(compared.schema)
        if stored.found is not None:
            quarantine = quarantined_rows(stored, compared)
    letters = letters_by_place(letters_of(by_name[DEAD_LETTERS]), Marks(store.home))
    upserts = _mode(by_name[RECORDS]) == "upsert"
    return Reasons(letters, loaded, surplus, upserts, quarantine)


def _standing(source: Stored, output: Output, here: Staged) -> Stored:
    """The rows that an output would hold of a source's."""
    import pyarrow as pa

    from ..schemas.arrow import POSITION, SOURCE
    from ..transforms.reconcile.latest import Latest
    from ..transforms.write.tables import TableDestination

    to, table = output.destination, here.table
    if _mode(output) != "upsert" or not isinstance(to, TableDestination):
        return source
    # What rows are judged by may be in none of the columns that are compared.
    fields = {field.name: field for field in (*here.columns, *source.schema)}
    whole = here.records.open(pa.schema(list(fields.values())))
    times = [table.event_time] if table.event_time else []
    order = (*times, SOURCE, POSITION)
    return Latest(whole, source.schema, table.key, order, to.options.deleted)


def _mode(output: Output) -> str:
    from ..transforms.write.tables import TableDestination

    to = output.destination
    return to.options.mode if isinstance(to, TableDestination) else "append"


def _ledger(store: RunStore, output: Output, here: Staged, found: Reconciled) -> LedgerCheck | None:
    """Hold what the runs say they have written against what is there."""
    from ..transforms.quality.gate import quarantine_name

    if _mode(output) != "append":
        return None
    runs = written = quarantined = of_gone = 0
    gone: set[str] = set()
    for record in store.committed():
        runs += 1
        quarantined += record.rows.get(quarantine_name(output.name), 0)
        for row in record.ledger:
            if row.output != output.name:
                continue
            written += row.written
            if row.source not in here.sources:
                gone.add(row.source)
                of_gone += row.written
    rows = found.destination_rows
    return LedgerCheck(runs, written, quarantined, rows, len(gone), of_gone)
