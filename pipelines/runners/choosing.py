"""Runners: which one a job gets, and what Beam says about it."""

from __future__ import annotations

import ctypes
import logging
import os
import re
from contextlib import suppress
from importlib import import_module
from importlib.util import find_spec
from typing import TYPE_CHECKING, NoReturn

from ...schemas.problems import did_you_mean
from ..job import JobError
from ..logs import WARNING, say
from . import dataflow, flink, job_server, prism
from .flags import taken, with_defaults

if TYPE_CHECKING:
    from ..run import Run

LOCAL = "apache_beam.runners.portability.fn_api_runner.fn_runner.FnApiRunner"
"""Beam's local batch runner by its own name. ``DirectRunner`` is a switch that may download Prism,
and may run a job a second time on another runner when a first one fails to start."""

DASK = f"{__package__}.dask.DaskRunner"
"""Beam's runner on Dask, put right."""
_DASK_NAME = "DaskRunner"

_SWITCHES = {"directrunner", "switchingdirectrunner", "testdirectrunner"}
"""Names of Beam's switch. The last one runs a job on it, and then looks at what came out."""
_LOCAL_NAMES = {"", "fnapirunner", LOCAL.lower(), *_SWITCHES}
TRACEBACK = "MILLSTREAM_TRACEBACK"
"""If this environment variable is set, a run that fails shows its traceback."""
_UNWANTED = "apitools not found"


def chosen(flags: list[str]) -> list[str]:
    """The flags with the runner named; ``DirectRunner`` means the local batch runner.

    Raises:
        JobError: an unbounded job on a runner that cannot run one; or the runner is not installed.
    """
    named, rest = taken(flags, "--runner")
    on_dask = _is_dask(named)
    ours = _without_beams_modules(named).lower()
    if ours not in _LOCAL_NAMES and not on_dask:
        return [f"--runner={named}", *rest]
    if "--streaming" in rest:
        raise JobError(
            f"--streaming: {named or 'the local runner'} cannot run an unbounded job; "
            "use --runner=PrismRunner"
        )
    if on_dask:
        if not _has_dask():
            raise JobError("DaskRunner: install it with: pip install 'millstream[dask]'")
        return [f"--runner={DASK}", *rest]
    if ours in _SWITCHES:
        say(f"{named}: running on Beam's FnApiRunner")
    return [f"--runner={LOCAL}", *rest]


def _without_beams_modules(runner: str) -> str:
    """The name of a runner, without the module of Beam's that it is in."""
    return runner.rpartition(".")[2] if runner.startswith("apache_beam.") else runner


def is_streaming(flags: list[str]) -> bool:
    """Whether the job goes on for as long as it runs."""
    return "--streaming" in flags


_UNDIVIDED = "--experiments=prism_disable_sdf_split"
_FOR_EVER = 10 * 365 * 24 * 3600
"""Seconds."""


def ready(flags: list[str], streaming: bool, name: str = "millstream") -> list[str]:
    """The flags, with what the runner needs of a job, once it is seen that it can take it.

    Beam watches a job of a job server, as Prism is one, for no longer than ``job_server_timeout``,
    which is five minutes by default, and takes it for failed then.

    Args:
        name: of the job.

    Raises:
        JobError: it cannot, or something would be downloaded for it.
    """
    if dataflow.is_used(flags):
        dataflow.check_flags(flags, streaming)
        return dataflow.flags(flags)
    kind = job_server.kind_of(flags)
    if kind is None:
        return flags
    if kind == "prism":
        flags = prism.located(flags)
        job_server.check_answer(flags)
    else:
        job_server.check(flags, kind)
        flags = job_server.self_contained(flags)
    flags = with_defaults(flags, [f"--job_server_timeout={_FOR_EVER}"])
    if kind == "flink":
        flink.check_flags(flags, streaming)
        flags = flink.flags(flags, streaming, name)
    return flags


def for_streams(flags: list[str]) -> list[str]:
    """The flags, with what runners need to run a stream.

    See :func:`ready` and :func:`.flink.flags`. Prism divides a bundle that takes its time, even in
    the middle of a key of a stateful step: it then works on both halves at once, and the state of
    one is lost. It has to be told to leave that.
    """
    kind = job_server.kind_of(flags)
    if kind is None:
        return flags
    found = with_defaults(flags, [f"--job_server_timeout={_FOR_EVER}"])
    if kind == "flink":
        found = flink.flags(found, streaming=True)
    # A job server that says nothing of itself may be Prism's.
    return [*found, _UNDIVIDED] if kind in ("prism", "unknown") else found


def warn(run: Run, flags: list[str], streaming: bool) -> None:
    """Say what of a job may go wrong on its runner."""
    kind = job_server.kind_of(flags)
    if kind is None:
        return
    if places := job_server.local_places(run, flags):
        said = "workers that run elsewhere need these folders under the same paths, on a shared "
        say(f"{said}volume, or gs:// or s3:// instead: {', '.join(places)}", WARNING)
    if kind == "flink":
        flink.look(flags, streaming)


def cancelled(flags: list[str]) -> None:
    """End what is left of a job once Beam has cancelled it."""
    if job_server.kind_of(flags) == "flink":
        flink.cancel(flags)


def bounded(flags: list[str]) -> list[str]:
    """The flags of a job that ends."""
    return [flag for flag in flags if flag != "--streaming"]


def is_prism(flags: list[str]) -> bool:
    """Whether the job runs on Prism."""
    return taken(flags, "--runner")[0].lower() == "prismrunner"


def works_here(flags: list[str]) -> bool:
    """Whether the workers of the job are threads of this process, and of no other."""
    if is_single_process(flags):
        return True
    return job_server.is_used(flags) and job_server.environment(flags)[0] == "LOOPBACK"


def stops_itself(flags: list[str]) -> bool:
    """Whether a stream's job ends once its workers, which hear of it, read no more.

    A job on Flink goes on although there is nothing left to do: it has to be cancelled.
    """
    return works_here(flags) and job_server.kind_of(flags) != "flink"


def is_single_process(flags: list[str]) -> bool:
    """Whether the job runs in this process alone."""
    mode, _ = taken(flags, "--direct_running_mode")
    return f"--runner={LOCAL}" in flags and mode in ("", "in_memory")


def _is_dask(runner: str) -> bool:
    return runner.lower() in (_DASK_NAME.lower(), DASK.lower())


def _has_dask() -> bool:
    return find_spec("distributed") is not None


def refuse_unknown(flags: list[str], own: list[str]) -> None:
    """Refuse flags that neither we nor Beam have, which Beam would drop, and values it cannot read.

    Raises:
        JobError: naming the flag and the nearest right name.
    """
    quiet_beam()
    from apache_beam.options.pipeline_options import (
        PipelineOptions,
        StandardOptions,
        _BeamArgumentParser,
    )

    class Parser(_BeamArgumentParser):
        def error(self, message: str) -> NoReturn:
            raise JobError(message)

    runner, _ = taken(flags, "--runner")
    if _is_dask(runner) and _has_dask():
        from apache_beam.runners.dask import dask_runner  # has options of its own  # noqa: F401
    parser = Parser(allow_abbrev=False)
    for options in PipelineOptions.__subclasses__():
        options._add_argparse_args(parser)
    if is_job_server := job_server.is_used(flags):
        job_server.add_options(parser, flink.OPTIONS)
    _, left = parser.parse_known_args(flags)
    if left and is_job_server:
        job_server.add_options(parser, job_server.described(taken(flags, "--job_endpoint")[0]))
        _, left = parser.parse_known_args(flags)
    # What begins with a dash is looked at first: what follows an unknown flag may be its value.
    for flag in sorted(left, key=lambda flag: not flag.startswith("-")):
        if not flag.startswith("-"):
            raise JobError(f"unexpected argument: {flag}")
        name = flag.partition("=")[0]
        known = [*own, *parser._option_string_actions]
        raise JobError(f"no such flag: {name}{did_you_mean(name, known)}")
    if "." in runner and not _is_runner(runner):
        raise JobError(f"--runner: there is no runner {runner}; expected package.module.Class")
    names = [*StandardOptions.KNOWN_RUNNER_NAMES, _DASK_NAME]
    if "." not in runner and runner.lower() not in {name.lower() for name in ("", *names)}:
        hint = did_you_mean(runner, names) or f"; it has {', '.join(names)}"
        raise JobError(f"--runner: Beam has no runner {runner!r}{hint}")


def _is_runner(path: str) -> bool:
    """Whether a path is that of a runner's class, which Beam would import later."""
    from apache_beam.runners.runner import PipelineRunner

    module, _, name = path.rpartition(".")
    try:
        found = getattr(import_module(module), name, None)
    except (ImportError, TypeError, ValueError):  # of which the latter two are for odd dots
        return False
    return isinstance(found, type) and issubclass(found, PipelineRunner)


def keep_freed_memory() -> None:
    """Have glibc keep what is freed for the next batch, in one heap for all threads.

    By default it gives each block of some megabytes back to the system and gets it anew: the page
    faults were a tenth of a local run's time. Elsewhere than on glibc this does nothing.
    """
    with suppress(AttributeError, OSError):
        mallopt = ctypes.CDLL(None).mallopt
        for parameter, value in ((_ARENA_MAX, 1), (_MMAP_THRESHOLD, 32 << 20), (_TRIM, 64 << 20)):
            mallopt(parameter, value)


_ARENA_MAX, _MMAP_THRESHOLD, _TRIM = -8, -3, -1
"""glibc's numbers for ``mallopt``, from malloc.h."""


def quiet_beam() -> None:
    """Keep two things of Beam's from our users: a notice at import about an extra not used here,
    and the traceback of an error that also ends the run, of which we say what went wrong."""
    logging.getLogger().addFilter(_is_wanted)
    logging.getLogger("apache_beam.runners.common").addFilter(_is_no_traceback)


def _is_wanted(record: logging.LogRecord) -> bool:
    return _UNWANTED not in str(record.msg)


_raised: list[BaseException] = []
"""The last that was raised in a bundle of this process."""


def _is_no_traceback(record: logging.LogRecord) -> bool:
    if record.exc_info and record.exc_info[1] is not None:
        _raised[:] = [record.exc_info[1]]
    return not record.exc_info or TRACEBACK in os.environ


_SECOND = "Check prior failing response"
"""What Beam's worker answers when it is asked for a bundle that has failed already."""
_OUR_ERROR = re.compile(r"^millstream\.[\w.]+: ")
_WHILE = re.compile(r"\s*\[while running '([^']*)'\]\s*$")


def root_message(error: BaseException) -> str:
    """What went wrong, without the frames that Beam wraps around it."""
    cause = error
    if _SECOND in str(error) and _raised:  # what the runner heard of next, not first
        cause = _raised[0]
    # What an error of ours has as its cause it has told in its own words.
    while cause.__cause__ is not None and not _is_ours(cause):
        cause = cause.__cause__
    text = str(cause).strip() or type(cause).__name__
    lines = [line for line in text.splitlines() if line.strip()]
    if "Traceback (most recent call last)" in text:
        # a worker's report: its last line that is no frame names the exception, if none is ours
        named = [line for line in lines if not line.startswith((" ", "Traceback"))]
        ours = [line for line in named if _OUR_ERROR.match(line)]
        lines = [_OUR_ERROR.sub("", line) for line in (ours or named)[-1:]]
    message = "\n".join(lines) or type(cause).__name__
    where = _WHILE.search(message)
    message = _WHILE.sub("", message)
    return f"{message} (in step {where[1]})" if where else message


def _is_ours(error: BaseException) -> bool:
    return type(error).__module__.startswith("millstream.")
