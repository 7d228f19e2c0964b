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
from .execute import collect_seldom, fail
from .logs import say

if TYPE_CHECKING:
    from apache_beam.runners.runner import PipelineResult

    from ..transforms.intervals.chain import Chain
    from .graph import Run


def stream(run: Run, chain: Chain, flags: list[str]) -> int:
    """Run a stream's pipeline; gives the exit code once it has been stopped."""
    import apache_beam as beam
    from apache_beam.options.pipeline_options import PipelineOptions

    from .graph import build

    collect_seldom()
    began = chain.newest()
    started = time.monotonic()
    try:
        pipeline = beam.Pipeline(options=PipelineOptions(runners.for_streams(flags)))
        build(pipeline, run)
        with _stopped_by_signals(), _servers_apart():
            say(f"reading {run.job.input[0]}; to stop, press Ctrl-C or send SIGTERM")
            result = pipeline.run()
            here = runners.works_here(flags)
            state = result.wait_until_finish() if here else _watched(result)
    except Exception as error:
        if runners.TRACEBACK in os.environ:
            raise
        return fail(
            f"{runners.root_message(error)}; what was committed stays, go on by the same command"
        )
    finally:
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


def _watched(result: PipelineResult) -> str:
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
            return PipelineState.CANCELLED


@contextmanager
def _stopped_by_signals() -> Iterator[None]:
    """In the block, SIGTERM and Ctrl-C end the stream once what was read is committed; a second
    one ends the process."""
    from ..transforms.read.streams.unbounded import STOP

    STOP.clear()
    if threading.current_thread() is not threading.main_thread():
        yield
        return

    def stop(number: int, frame: FrameType | None) -> None:
        if STOP.is_set():
            raise KeyboardInterrupt
        STOP.set()
        say("stopping: what has been read is committed first")

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
