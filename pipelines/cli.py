"""``millstream``: the command line. Nothing heavy is imported until a command needs it."""

from __future__ import annotations

import atexit
import logging
import os
import sys
from contextlib import suppress
from typing import NoReturn

from ..transforms import secrets
from . import exit_codes
from .arguments import Parser, add_ingest
from .job import JobError
from .logs import say


def main(argv: list[str] | None = None) -> int:
    """Run a command; the exit code is one of :mod:`.exit_codes`."""
    from . import (
        backfill_command,
        check_command,
        contract_command,
        dead_letters_command,
        doctor_command,
        files_command,
        gc_command,
        generate_command,
        reconcile_command,
        template_command,
    )

    parser = Parser(
        prog="millstream",
        description="Data pipelines on Apache Beam that lose nothing and prove it.",
        epilog=exit_codes.HELP,
    )
    commands = parser.add_subparsers(dest="command", metavar="COMMAND", required=True)
    ingest = commands.add_parser(
        "ingest",
        help="run a job: read, validate, aggregate, commit once, account for every record",
        description="Run a job. Flags that are not listed here go to Beam (--runner=..., ...).",
        epilog=exit_codes.HELP,
        allow_abbrev=False,
    )
    ingest.add_argument(
        "--no_wait",
        action="store_true",
        help="end once a service has taken the job: it goes on by itself, and commits by itself",
    )
    add_ingest(ingest)
    others = {
        "contract": contract_command,
        "generate": generate_command,
        "files": files_command,
        "gc": gc_command,
        "template": template_command,
        "check": check_command,
    }
    with_beam_flags = {
        "doctor": doctor_command,
        "dead-letters": dead_letters_command,
        "backfill": backfill_command,
        "reconcile": reconcile_command,
    }
    for module in (*others.values(), *with_beam_flags.values()):
        module.add_parser(commands)
    try:
        arguments, beam_flags = parser.parse_known_args(argv)
        if arguments.command == "ingest":
            from .launch import run

            return run(arguments, beam_flags)
        if module := with_beam_flags.get(arguments.command):
            return module.run(arguments, beam_flags)
        if beam_flags:
            parser.error(f"unrecognized arguments: {' '.join(beam_flags)}")
        return others[arguments.command].run(arguments)
    except JobError as error:
        say(str(error), logging.ERROR)
        return exit_codes.USAGE
    except BrokenPipeError:  # the reader has seen enough, as `head` has after ten lines
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return exit_codes.OK
    except KeyboardInterrupt:
        say("interrupted; run it again", logging.ERROR)
        return exit_codes.FAILED
    finally:
        secrets.forget()  # that the command has fetched


def command() -> NoReturn:
    """The process's own command line. It ends the process at once: what there was to close is
    closed by then, and taking Beam's modules apart one by one costs a third of a second; of a
    stream that has failed, threads may still be at work in them."""
    # Nothing here is linear algebra: numpy's BLAS need not start threads that wait for some.
    os.environ.setdefault("OPENBLAS_NUM_THREADS", "1")
    code = main()
    logging.shutdown()
    with suppress(BrokenPipeError):  # the reader has seen enough
        sys.stdout.flush()
        sys.stderr.flush()
    if _JOB_SERVER in sys.modules:
        atexit._run_exitfuncs()  # Beam ends the servers that it has started, such as Prism
    os._exit(code)


_JOB_SERVER = "apache_beam.runners.portability.job_server"


if __name__ == "__main__":
    command()
