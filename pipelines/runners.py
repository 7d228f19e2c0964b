"""Runners: which one a job gets, and what Beam says about it."""

from __future__ import annotations

import logging
import re
import sys

from ..schemas.problems import did_you_mean
from .job import JobError

LOCAL = "apache_beam.runners.portability.fn_api_runner.fn_runner.FnApiRunner"
"""Beam's local batch runner by its own name. ``DirectRunner`` is a switch that may download Prism,
and may run a job a second time on another runner when a first one fails to start."""

_LOCAL_NAMES = {"", "directrunner", "fnapirunner", LOCAL.lower()}
_UNWANTED = "apitools not found"


def chosen(flags: list[str]) -> list[str]:
    """The flags with the runner named; ``DirectRunner`` means the local batch runner.

    Raises:
        JobError: an unbounded job on a runner that cannot run one.
    """
    named, rest = _take(flags, "--runner")
    if named.lower() not in _LOCAL_NAMES:
        return [f"--runner={named}", *rest]
    if "--streaming" in rest:
        raise JobError(
            f"--streaming: {named or 'the local runner'} cannot run an unbounded job; "
            "use --runner=PrismRunner"
        )
    if named.lower() == "directrunner":
        print("millstream: DirectRunner: running on Beam's FnApiRunner", file=sys.stderr)
    return [f"--runner={LOCAL}", *rest]


def is_single_process(flags: list[str]) -> bool:
    """Whether the job runs in this process alone."""
    mode, _ = _take(flags, "--direct_running_mode")
    return f"--runner={LOCAL}" in flags and mode in ("", "in_memory")


def _take(flags: list[str], name: str) -> tuple[str, list[str]]:
    value, rest, taking = "", [], False
    for flag in flags:
        if taking:
            value, taking = flag, False
        elif flag == name:
            taking = True
        elif flag.startswith(f"{name}="):
            value = flag.partition("=")[2]
        else:
            rest.append(flag)
    return value, rest


def refuse_unknown(flags: list[str], own: list[str]) -> None:
    """Refuse flags that neither we nor Beam have: Beam itself would drop them.

    Raises:
        JobError: naming the flag and the nearest right one.
    """
    quiet_beam()
    from apache_beam.options.pipeline_options import PipelineOptions, _BeamArgumentParser

    parser = _BeamArgumentParser(allow_abbrev=False)
    for options in PipelineOptions.__subclasses__():
        options._add_argparse_args(parser)
    known = set(parser._option_string_actions)
    for flag in flags:
        name = flag.partition("=")[0]
        if flag.startswith("--") and name not in known:
            raise JobError(f"no such flag: {name}{did_you_mean(name, [*own, *known])}")
        if not flag.startswith("-") and flags.index(flag) == 0:
            raise JobError(f"unexpected argument: {flag}")


def quiet_beam() -> None:
    """Keep one import-time notice of Beam's from our users: it is about an extra not used here."""
    logging.getLogger().addFilter(lambda record: _UNWANTED not in str(record.msg))


_WHILE = re.compile(r"\s*\[while running '([^']*)'\]\s*$")


def root_message(error: BaseException) -> str:
    """What went wrong, without the frames that Beam wraps around it."""
    cause = error
    while cause.__cause__ is not None:
        cause = cause.__cause__
    text = str(cause).strip() or type(cause).__name__
    where = _WHILE.search(text)
    text = _WHILE.sub("", text)
    lines = [line for line in text.splitlines() if line.strip()]
    if "Traceback (most recent call last)" in text:
        # a worker's report: its last line that is no frame names the exception
        lines = [line for line in lines if not line.startswith((" ", "Traceback"))][-1:]
    message = "\n".join(lines) or type(cause).__name__
    return f"{message} (in step {where[1]})" if where else message
