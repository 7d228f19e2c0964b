"""``millstream``: the command line. Nothing heavy is imported until a command needs it."""

from __future__ import annotations

import logging
import os
import sys
from contextlib import suppress
from typing import NoReturn

from . import exit_codes
from .arguments import Parser, add_ingest
from .job import JobError


def main(argv: list[str] | None = None) -> int:
    """Run a command; the exit code is one of :mod:`.exit_codes`."""
    from . import contract_command, generate_command

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
    contract_command.add_parser(commands)
    generate_command.add_parser(commands)
    try:
        arguments, beam_flags = parser.parse_known_args(argv)
        if arguments.command == "ingest":
            from .launch import run

            return run(arguments, beam_flags)
        if beam_flags:
            parser.error(f"unrecognized arguments: {' '.join(beam_flags)}")
        runs = {"contract": contract_command.run, "generate": generate_command.run}
        return runs[arguments.command](arguments)
    except JobError as error:
        print(f"millstream: {error}", file=sys.stderr)
        return exit_codes.USAGE
    except KeyboardInterrupt:
        print("millstream: interrupted; run it again", file=sys.stderr)
        return exit_codes.FAILED


def command() -> NoReturn:
    """The process's own command line. It ends the process at once: what there was to close is
    closed by then, and taking Beam's modules apart one by one costs a third of a second."""
    # Nothing here is linear algebra: numpy's BLAS need not start threads that wait for some.
    os.environ.setdefault("OPENBLAS_NUM_THREADS", "1")
    code = main()
    logging.shutdown()
    with suppress(BrokenPipeError):  # the reader has seen enough
        sys.stdout.flush()
        sys.stderr.flush()
    os._exit(code)


if __name__ == "__main__":
    command()
