"""``millstream``: the command line. Nothing heavy is imported until a command needs it."""

from __future__ import annotations

import atexit
import logging
import os
import sys
from contextlib import suppress
from typing import NoReturn

from . import exit_codes
from .arguments import Parser, add_ingest
from .job import JobError
from .logs import say


def main(argv: list[str] | None = None) -> int:
    """Run a command; the exit code is one of :mod:`.exit_codes`."""
    from . import contract_command, doctor_command, files_command, gc_command, generate_command

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
    add_ingest(ingest)
    others = {
        "contract": contract_command,
        "generate": generate_command,
        "files": files_command,
        "gc": gc_command,
    }
    for module in (*others.values(), doctor_command):
        module.add_parser(commands)
    try:
        arguments, beam_flags = parser.parse_known_args(argv)
        if arguments.command == "ingest":
            from .launch import run

            return run(arguments, beam_flags)
        if arguments.command == "doctor":
            return doctor_command.run(arguments, beam_flags)
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
