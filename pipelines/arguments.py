"""The arguments of ``ingest``: its own flags, and those that go to Beam."""

from __future__ import annotations

import argparse
from typing import Any, NoReturn

from .job import KEYS, JobError, flag_value


class Parser(argparse.ArgumentParser):
    """An argument parser whose errors are one line and exit with the code of a usage error."""

    def error(self, message: str) -> NoReturn:
        raise JobError(message)


def add_ingest(parser: argparse.ArgumentParser) -> None:
    """Add the flags of ``ingest``: the job file, and one flag for each of its keys."""
    parser.add_argument("--job", metavar="JOB.yaml", help="the job file")
    group = parser.add_argument_group("keys of the job file, which these override")
    for key, annotated in KEYS.items():
        many = key == "input"
        boolean = annotated.__origin__ is bool
        options: dict[str, Any] = {"nargs": "+"} if many else {}
        if boolean:
            options = {"nargs": "?", "const": "true"}
        group.add_argument(
            f"--{key}",
            dest=f"job.{key}",
            type=_argument(key),
            metavar="PATTERN" if many else key.upper(),
            help=annotated.__metadata__[0],
            default=argparse.SUPPRESS,
            **options,
        )


def _argument(key: str) -> Any:
    read = flag_value(key)

    def value(text: str) -> Any:
        try:
            return read(text)
        except ValueError as error:
            raise argparse.ArgumentTypeError(str(error)) from None

    return value


def job_flags(arguments: argparse.Namespace) -> dict[str, Any]:
    """The keys of the job that were given as flags."""
    given = vars(arguments)
    return {k.removeprefix("job."): v for k, v in given.items() if k.startswith("job.")}
