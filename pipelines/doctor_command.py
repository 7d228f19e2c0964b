"""``millstream doctor``: what is installed and what answers, and what to do about what does not."""

from __future__ import annotations

import argparse
from typing import Any

from . import exit_codes
from .arguments import add_ingest, job_flags


def add_parser(subparsers: Any) -> None:
    """Add the command ``doctor`` to the subparsers of ``millstream``."""
    parser = subparsers.add_parser(
        "doctor",
        help="check what is installed, the runner, and a job's contract, input and outputs",
        description="Check Python, packages, the runner that the flags name, and, given a job as "
        "ingest gets it, its contract, input, outputs, permissions and the clock. Nothing is read "
        "of the input, and nothing is written but a file in the job's state folder, which is "
        "deleted again.",
        epilog="exit codes: 0 nothing stands in the way; 1 something does; 2 a mistake in flags "
        "or job",
        allow_abbrev=False,
    )
    parser.add_argument("--json", action="store_true", help="findings as JSON lines")
    parser.add_argument(
        "--no_wait", action="store_true", help="whether a service can be left alone with the job"
    )
    add_ingest(parser)


def run(arguments: argparse.Namespace, beam_flags: list[str]) -> int:
    """Run ``doctor``; returns its exit code.

    Raises:
        JobError: a flag cannot be used.
    """
    import msgspec

    from . import doctor

    findings = []
    given = (arguments.job, job_flags(arguments), beam_flags)
    for finding in doctor.examine(*given, no_wait=arguments.no_wait):
        findings.append(finding)
        if arguments.json:
            print(msgspec.json.encode(finding).decode())
        else:
            print(finding)
    wrong = sum(finding.state == "problem" for finding in findings)
    if not arguments.json:
        print(f"{wrong} problems" if wrong != 1 else "1 problem")
    return exit_codes.FAILED if wrong else exit_codes.OK
