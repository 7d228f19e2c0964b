"""Running a stream: until it is stopped, or fails."""

from __future__ import annotations

import os
import signal
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import replace
from functools import partial
from types import FrameType, SimpleNamespace
from typing import TYPE_CHECKING

import msgspec

from ..transforms import storage
from ..transforms.storage import StorageError
from . import exit_codes, runners
from .execute import begun, collect_seldom, ended, fail, submitted
from .logs import say
from .runners import dataflow

if TYPE_CHECKING:
    from apache_beam.runners.runner import PipelineResult

    from ..transforms.intervals.chain import Chain
    from .run import Run


def stream(run: Run, chain: Chain, flags: list[str]) -> int:
    """Run a stream's pipeline; gives the exit code once it has been stopped, or, of one that runs
    unattended, once it has been submitted."""
    import apache_beam as beam
    from apache_beam.options.pipeline_options import PipelineOptions
    from apache_beam.runners.runner import PipelineState

    from ..transforms.read.streams.unbounded import STOP
    from .graph import build
    from .runners.dataflow_service import OutOfSight

    collect_seldom()
    goes_on = run.unattended
    began = chain.newest()
    started = time.monotonic()
    flags = runners.for_streams(flags)
    try:
        pipeline = beam.Pipeline(options=PipelineOptions(flags))
        build(pipeline, run)
        elsewhere = dataflow.is_used(flags)
        with _stopped_by_signals(_CANCELS if elsewhere else _COMMITS), _servers_apart():
            if not run.unattended:
                say(f"reading {run.job.input[0]}; to stop, press Ctrl-C or send SIGTERM")
            result = begun(pipeline, flags)
            if run.unattended:
                return submitted(run, result)
            if elsewhere or runners.stops_itself(flags):
                state = ended(result, flags, STOP)
            else:
                state = _watched(result, flags)
            goes_on = goes_on or state == PipelineState.UPDATED  # another job has what is staged
    except OutOfSight as error:
        goes_on = True  # and what is staged is needed
        return fail(str(error))
    except Exception as error:
        if runners.TRACEBACK in os.environ:
            raise
        return fail(
            f"{runners.root_message(error)}; what was committed stays, go on by the same command"
        )
    finally:
        if not goes_on:
            _clear(run)
    seconds = time.monotonic() - started
    say(f"stopped after {seconds:.0f} s and {chain.newest() - began} commits: {state}")
    return exit_codes.OK


def repeat(run: Run, run_once: Callable[[Run], int]) -> int:
    """Run a job on again and again until it is stopped, or fails; gives the exit code.

    With ``close_windows`` windows are closed once it has been stopped.
    """
    from ..transforms.read.streams.unbounded import STOP

    job = run.job
    open_ended = replace(run, job=msgspec.structs.replace(job, close_windows=False))
    done = exit_codes.OK
    with _stopped_by_signals():
        say(f"following {', '.join(job.input)}; to stop, press Ctrl-C or send SIGTERM")
        while not STOP.is_set():
            code = run_once(open_ended)
            if code not in (exit_codes.OK, exit_codes.INCOMPLETE):
                return code
            done = max(done, code)
            STOP.wait(job.commit_every)
        return max(done, run_once(run)) if job.close_windows else done


def _watched(result: PipelineResult, flags: list[str]) -> str:
    """Wait for a job whose workers are elsewhere, and hear nothing of signals: once we are stopped,
    it is cancelled. What it had not committed will be read again."""
    from apache_beam.runners.runner import PipelineState

    from ..transforms.read.streams.unbounded import STOP

    while True:
        state = result.wait_until_finish(duration=1000)
        if PipelineState.is_terminal(state):
            return str(state)
        if STOP.is_set():
            result.cancel()
            runners.cancelled(flags)
            return PipelineState.CANCELLED


_COMMITS = "stopping: what has been read is committed first"
_CANCELS = "stopping: the job is cancelled, and what it has not committed will be read again"


@contextmanager
def _stopped_by_signals(said: str = _COMMITS) -> Iterator[None]:
    """In the block, SIGTERM and Ctrl-C end the stream, as is said then; a second one ends the
    process."""
    from ..transforms.read.streams.unbounded import STOP

    STOP.clear()
    if threading.current_thread() is not threading.main_thread():
        yield
        return

    def stop(number: int, frame: FrameType | None) -> None:
        if STOP.is_set():
            raise KeyboardInterrupt
        STOP.set()
        say(said)

    before = {number: signal.signal(number, stop) for number in (signal.SIGTERM, signal.SIGINT)}
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


@contextmanager
def _servers_apart() -> Iterator[None]:
    """In the block, Beam starts servers (Prism is one) in sessions of their own: a terminal sends
    Ctrl-C to all processes of its own, and a server that ends takes with it what is not committed.
    """
    from apache_beam.utils import subprocess_server

    plain = subprocess_server.subprocess
    apart = SimpleNamespace(**vars(plain))
    apart.Popen = partial(plain.Popen, start_new_session=True)
    subprocess_server.subprocess = apart
    try:
        yield
    finally:
        subprocess_server.subprocess = plain


def _clear(run: Run) -> None:
    """Delete what was staged and not committed: it will be read again."""
    from ..transforms.write.stage import staged_folder

    for output in run.outputs:
        with suppress(StorageError):
            storage.delete_folder(staged_folder(output.destination, run.token.run_id))
