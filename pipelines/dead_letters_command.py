"""``millstream dead-letters``: what was refused, and why; some of it looked at, some given up."""

from __future__ import annotations

import argparse
import sys
import threading
import uuid
from collections.abc import Callable, Iterator
from datetime import UTC, datetime
from importlib import import_module
from typing import TYPE_CHECKING, Any

from . import exit_codes
from .arguments import add_ingest
from .job import JobError
from .logs import ERROR, say
from .opened_letters import opened

if TYPE_CHECKING:
    from ..transforms.letters import Letters, Marks, Where

_OF_CONTRACTS = ("millstream.schemas.odcs.loading", "open_data_contract_standard.model")
"""Modules that a contract is read with."""
_BY = "code,field,source,contract_version"
_WHERE = (
    "which ones: clauses as code=TYPE, joined by 'and'. Keys are code and field (of one "
    "violation), source, contract_version, stage, run_id, id, since and until (times, UTC). In "
    "field and source * stands for any text; several values of the others have commas between them"
)

_REVEAL = "show payloads and messages as they are, with classified fields, and decrypted"


def add_parser(subparsers: Any) -> None:
    """Add the command ``dead-letters`` to the subparsers of ``millstream``."""
    parser = subparsers.add_parser(
        "dead-letters",
        help="list, show, replay and discard what a job has refused",
        description="See what a job has refused and why, from wherever its dead letters go.",
        epilog="exit codes: 0 done (perhaps there are none); 1 they cannot be read, or are not "
        "there; 2 a mistake in flags or job; 5 a run of the job is at work",
    )
    add_actions(parser.add_subparsers(dest="action", metavar="ACTION", required=True))


def add_actions(actions: Any) -> None:
    """Add ``list``, ``show``, ``replay`` and ``discard``."""
    listing = _action(actions, "list", "count them by kind, with samples")
    listing.add_argument("--where", metavar="CLAUSES", help=_WHERE)
    listing.add_argument(
        "--by",
        default=_BY,
        metavar="COLUMNS",
        help=f"group by these, of {_BY},stage,run_id (default: {_BY})",
    )
    listing.add_argument(
        "--samples", type=_number, default=3, metavar="N", help="letters of each group (default: 3)"
    )
    listing.add_argument(
        "--limit", type=_number, default=20, metavar="N", help="groups to print (default: 20)"
    )
    listing.add_argument(
        "--all", action="store_true", help="also those that were replayed or discarded"
    )
    listing.add_argument("--json", action="store_true", help="every group as a JSON line")
    listing.add_argument("--reveal", action="store_true", help=_REVEAL)
    showing = _action(actions, "show", "print all that is known of one")
    showing.add_argument("id", metavar="ID")
    showing.add_argument(
        "--raw", action="store_true", help="write its exact bytes, and nothing else"
    )
    showing.add_argument("--reveal", action="store_true", help=_REVEAL)
    replaying = _action(
        actions, "replay", "read their records again, by the contract and the job as they are now"
    )
    replaying.add_argument("--where", metavar="CLAUSES", help=_WHERE)
    replaying.add_argument("--dry_run", action="store_true", help="only say how many")
    discarding = _action(actions, "discard", "mark them as given up: none is replayed any more")
    discarding.add_argument("ids", nargs="*", metavar="ID")
    discarding.add_argument("--where", metavar="CLAUSES", help=_WHERE)
    discarding.add_argument(
        "--reason", required=True, metavar="TEXT", help="why, to be read by others"
    )
    discarding.add_argument("--dry_run", action="store_true", help="only say how many")


def _action(actions: Any, name: str, text: str) -> argparse.ArgumentParser:
    parser = actions.add_parser(
        name, help=text, description=f"{text.capitalize()}.", conflict_handler="resolve"
    )
    add_ingest(parser)  # whose --late gives way
    source = parser.add_mutually_exclusive_group()
    source.add_argument(
        "--letters",
        metavar="URI",
        help="read these instead of the job's own, as bigquery:P.D.TABLE or kafka://HOST:PORT/TOPIC:"
        " tables of Google's six columns and Kafka Connect's dead-letter topics too",
    )
    source.add_argument("--late", action="store_true", help="the job's late records instead")
    return parser


def _number(text: str) -> int:
    if not text.isdecimal():
        raise argparse.ArgumentTypeError(f"expected a whole number, got {text!r}")
    return int(text)


def run(arguments: argparse.Namespace, beam_flags: list[str]) -> int:
    """Run an action of ``dead-letters``; returns its exit code.

    Args:
        beam_flags: of ``replay``, which runs a pipeline.

    Raises:
        JobError: the job or a flag cannot be used, or letters cannot be read from there.
    """
    from .runners import quiet_beam

    quiet_beam()
    from ..transforms.letters import WhereError
    from ..transforms.lock import Locked, LockLost
    from ..transforms.storage import StorageError
    from ..transforms.write.errors import DestinationError, Unavailable

    actions = {"list": _list, "show": _show, "discard": _discard}
    try:
        if arguments.action == "replay":
            return _replay(arguments, beam_flags)
        return actions[arguments.action](arguments)
    except (DestinationError, WhereError) as error:
        raise JobError(str(error)) from None
    except Locked as error:
        say(str(error), ERROR)
        return exit_codes.REFUSED
    except (StorageError, Unavailable, LockLost) as error:
        say(str(error), ERROR)
        return exit_codes.FAILED


# ------------------------------------------------------------------ list


def _list(arguments: argparse.Namespace) -> int:
    from ..transforms.letters.marks import STATUSES
    from ..transforms.letters.shown import Showing
    from ..transforms.letters.summary import BY, UNSETTLED, find_samples, summarise
    from .dead_letters_text import as_json, as_text

    by = tuple(arguments.by.split(","))
    if unknown := [name for name in by if name not in BY]:
        raise JobError(f"--by: no column {unknown[0]!r}; there are {', '.join(BY)}")
    found = opened(arguments)
    if arguments.samples and not found.classifies_nothing:
        # To mask what is shown takes a contract, and that a while; meanwhile letters are counted.
        threading.Thread(target=_import_all, args=_OF_CONTRACTS, daemon=True).start()
    summary = summarise(
        found.letters,
        found.marks,
        _where(arguments),
        by,
        statuses=STATUSES if arguments.all else UNSETTLED,
        samples=arguments.samples,
    )
    shown = summary.groups if arguments.json else summary.groups[: arguments.limit]
    samples = find_samples(found.letters, shown)
    showing = found.showing(reveal=arguments.reveal) if samples else Showing()
    write: Callable[..., Iterator[str]] = as_json if arguments.json else as_text
    for line in write(summary, shown, samples, found.letters.place, showing):
        print(line)
    return exit_codes.OK


def _import_all(*modules: str) -> None:
    for name in modules:
        import_module(name)


def _where(arguments: argparse.Namespace) -> Where:
    from ..transforms.letters import EVERY, parse_where

    return parse_where(arguments.where) if arguments.where else EVERY


# ------------------------------------------------------------------ show


def _show(arguments: argparse.Namespace) -> int:
    from ..transforms.encryption import EncryptionError
    from ..transforms.letters import Where, payloads
    from .dead_letters_text import whole

    found = opened(arguments)
    latest: tuple[dict[str, Any], bytes | None] | None = None
    for batch in found.letters.batches(Where(ids=(arguments.id,))):
        for row, payload in zip(batch.to_pylist(), payloads(batch).to_pylist(), strict=True):
            if latest is None or (row["attempt"] or 0) >= (latest[0]["attempt"] or 0):
                latest = row, payload
    if latest is None:
        say(f"there is no dead letter {arguments.id} in {found.letters.place}", ERROR)
        return exit_codes.FAILED
    row, payload = latest
    showing = found.showing(reveal=arguments.reveal)
    if not arguments.raw:
        marks = found.marks.of(arguments.id) if found.marks else []
        for line in whole(row, payload, marks, showing):
            print(line)
        return exit_codes.OK
    if payload is None:
        say(f"its bytes are not held: they lie in {row['source']} at {row['position']}", ERROR)
        return exit_codes.FAILED
    if showing.hides(row["attributes"]):
        raise JobError("--raw: its bytes may hold classified fields: say --reveal too")
    try:
        plain, _ = showing.opened(payload, row["attributes"])
    except EncryptionError as error:
        raise JobError(f"--raw: {error}") from None
    sys.stdout.flush()
    sys.stdout.buffer.write(plain)
    sys.stdout.buffer.flush()
    return exit_codes.OK


# ------------------------------------------------------------------ replay


def _replay(arguments: argparse.Namespace, beam_flags: list[str]) -> int:
    from .replay import replay

    found = opened(arguments)
    if found.job is None:
        raise JobError("say through which job they are to go, with --job")
    return replay(
        found.job,
        found.places,
        found.letters,
        _where(arguments),
        beam_flags,
        late=arguments.late,
        dry_run=arguments.dry_run,
    )


# ------------------------------------------------------------------ discard


def _discard(arguments: argparse.Namespace) -> int:
    from ..transforms.letters import Where

    if bool(arguments.ids) == bool(arguments.where):
        raise JobError("say which are to be discarded: either IDs or --where")
    if not arguments.reason.strip():
        raise JobError("--reason is empty: say why they are given up")
    where = Where(ids=tuple(arguments.ids)) if arguments.ids else _where(arguments)
    found = opened(arguments)
    if found.store is None or found.marks is None:
        raise JobError("say whose letters they are, with --job: marks are kept in its state folder")
    now = datetime.now(UTC)
    run_id = f"discard-{now:%Y%m%dT%H%M%S}-{uuid.uuid4().hex[:8]}"
    with found.store.lock(run_id, wait_seconds=found.wait) as lock:
        # Looked at with the lock held: a replay may just have brought some back.
        entries = list(_unsettled(found.letters, found.marks, where))
        missing = set(arguments.ids).difference(entry.id for entry in entries)
        if missing:
            say(f"there is no open dead letter {min(missing)} in {found.letters.place}", ERROR)
            return exit_codes.FAILED
        if not arguments.dry_run and entries:
            lock.check()
            found.marks.append(run_id, entries, reason=arguments.reason, at=now)
    said = "would discard" if arguments.dry_run else "discarded"
    print(f"{said} {len(entries):,} dead letter{'s' if len(entries) != 1 else ''}")
    return exit_codes.OK


def _unsettled(letters: Letters, marks: Marks, where: Where) -> Iterator[Any]:
    """Marks that discard the letters about which something is still to be done, one for each."""
    import pyarrow.compute as pc

    from ..transforms.letters import Entry
    from ..transforms.letters.summary import UNSETTLED

    seen: set[tuple[str, int]] = set()
    for batch in letters.batches(where, ("id", "attempt")):
        statuses = marks.statuses(batch["id"], batch["attempt"]).to_pylist()
        attempts = pc.fill_null(batch["attempt"], 0).to_pylist()
        for letter_id, attempt, status in zip(
            batch["id"].to_pylist(), attempts, statuses, strict=True
        ):
            if status in UNSETTLED and (letter_id, attempt) not in seen:
                seen.add((letter_id, attempt))
                yield Entry(letter_id, attempt, "discarded")
