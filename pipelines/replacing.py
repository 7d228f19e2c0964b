"""Whether a run can take the place of what its run id has committed under another plan."""

from __future__ import annotations

from typing import TYPE_CHECKING

from .logs import say
from .names import DEAD_LETTERS

if TYPE_CHECKING:
    from ..transforms.runs import Decision
    from .run import Run


def see_replaceable(run: Run, decision: Decision) -> None:
    """See before a run that replaces another what that one gave can be taken back.

    Raises:
        CommitConflict: it cannot.
        DestinationError, Unavailable: its dead letters cannot be read.
    """
    for output in run.outputs:
        output.destination.refuse_replacing(run.token.run_id)
    if decision.forgotten:
        _refuse_forgotten(run, decision)
    _refuse_replayed(run)
    say(f"run {decision.token.run_id} holds another plan, which this one replaces")


def _refuse_forgotten(run: Run, decision: Decision) -> None:
    """Refuse to bring rows into a table that may hold the run's under another plan, and that has
    forgotten so."""
    from ..transforms.write.errors import CommitConflict
    from ..transforms.write.tables import TableDestination

    record = decision.record
    for output in run.outputs:
        rows = record.rows.get(output.name, 0) if record else 0
        if rows and isinstance(output.destination, TableDestination):
            raise CommitConflict(
                f"output {output.name!r} was given {rows} rows of run {run.token.run_id} under "
                f"another plan, and {output.destination.place} no longer says which; give this run "
                "another run id"
            )


def _refuse_replayed(run: Run) -> None:
    """Refuse to replace a run of whose dead letters some were replayed: their records are there
    already, and would come in a second time."""
    from ..transforms.letters import Marks, Where, open_letters
    from ..transforms.write.errors import CommitConflict

    marks = Marks(run.store.home)
    if marks.is_empty or not run.job.dead_letters:
        return
    letters = open_letters(run.job.dead_letters, DEAD_LETTERS, run.store.home)
    run_id, rows = run.token.run_id, 0
    for batch in letters.batches(Where(run_ids=(run_id,)), ("id",)):
        rows += marks.count(batch.column("id"), "replayed")
    if rows:
        raise CommitConflict(
            f"{rows:,} dead letters of run {run_id} were replayed, and their records would come in "
            "a second time if this run took its place; leave it as it is, and replay the others"
        )
