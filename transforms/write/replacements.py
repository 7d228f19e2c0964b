"""Runs that replace what others have written, and were stopped before all of it was committed."""

from __future__ import annotations

from collections.abc import Callable

from ..plan import Token
from ..runs import Prepared, RunStore
from .attempts import PATIENCE_SECONDS
from .commit import complete
from .errors import DestinationError, Unavailable


def complete_replacements(
    store: RunStore,
    *,
    check: Callable[[], object] | None = None,
    patience: float = PATIENCE_SECONDS,
) -> list[str]:
    """Complete what such runs had prepared; gives their ids.

    Call it with the job's lock held, before any other run commits: rows of a span of time that
    came between would be taken for those that are replaced, and be lost.

    Args:
        check, patience: see :func:`.commit.complete`, whose errors are those of this one too. Their
            messages say how a run is given up.
    """
    completed = []
    for run_id, is_unfinished in store.runs().items():
        prepared = store.standing(run_id) if is_unfinished else None
        if prepared and any(each.replaces or each.withdrawn for each in prepared.outputs):
            try:
                complete(store, prepared, check=check, patience=patience)
            except (DestinationError, Unavailable) as error:
                kind = Unavailable if isinstance(error, Unavailable) else DestinationError
                raise kind(f"{error}\n{_way_out(store, prepared)}") from error
            completed.append(run_id)
    return completed


def _way_out(store: RunStore, prepared: Prepared) -> str:
    token = Token.parse(prepared.token)
    return (
        f"run {token.run_id} was stopped while it put rows in the place of others, and no other "
        "run commits before it is completed; if what it writes to is gone for good, delete "
        f"{store.place_of_prepared(token)} to give it up"
    )
