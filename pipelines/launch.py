"""Launching the main job, from its arguments to the run record.

The order matters for speed and for safety: everything that can be wrong with the job is found
first; helper processes start before Beam is imported; the plan is written before any work.
"""

from __future__ import annotations

import gc
import os
import signal
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from typing import TYPE_CHECKING

import msgspec

from ..transforms import secrets, storage
from ..transforms.plan import PlanError
from ..transforms.storage import StorageError
from . import job_secrets, logs, runners
from .arguments import job_flags
from .drift import as_begun
from .execute import execute, fail, report, settled
from .job import KEYS, Job, JobError, Places, check_going_on, load_job
from .job_parts import (
    input_format,
    job_aggregates,
    job_contract,
    job_duration,
    job_inputs,
    job_steps,
    job_triggers,
)
from .logs import say
from .prepare import prepare
from .replacing import see_replaceable
from .runners import dataflow

if TYPE_CHECKING:
    import argparse

    from .run import Run
    from .sources import Source

_HELP_FROM_BYTES = 32 << 20
"""Input below this is decoded sooner than helpers have started."""


def run(arguments: argparse.Namespace, beam_flags: list[str]) -> int:
    """Run the job that parsed arguments describe; gives the exit code.

    Raises:
        JobError: the job cannot be run as it is written.
    """
    gc.disable()  # what is imported stays: looking through it for garbage costs a tenth
    try:
        return _launch(arguments, beam_flags, time.monotonic())
    finally:
        secrets.forget()
        gc.unfreeze()
        gc.enable()


def _launch(arguments: argparse.Namespace, beam_flags: list[str], started: float) -> int:
    storage.use_options(beam_flags)
    with _looking_for_misspelt(beam_flags):
        job, places = load_job(arguments.job, job_flags(arguments))
        logs.use(job.log_format)
        job_secrets.fetch(job, places)
        contract = job_contract(job)
    streaming = runners.is_streaming(beam_flags)
    reads_stream = job.stream is not None
    follows = streaming and not reads_stream
    # Files that keep arriving are read by one bounded run after another, on any runner.
    flags = runners.chosen(runners.bounded(beam_flags) if follows else beam_flags)
    unattended = is_unattended(arguments.no_wait, flags, follows=follows)
    with _looking_for_misspelt(beam_flags):
        flags = runners.ready(flags, streaming and reads_stream, job.name)
    if dataflow.is_used(flags):
        from .runners.dataflow_reach import check_job

        check_job(job, flags, streaming, places)
    if follows:
        job = msgspec.structs.replace(job, allow_no_input=True)
    with _looking_for_misspelt(beam_flags):
        check_going_on(job, streaming, places)
        source = _stream(job, streaming, places) if reads_stream else None
        inputs = () if source else tuple(job_inputs(job, places))
    if runners.is_single_process(flags):
        runners.keep_freed_memory()
        job = msgspec.structs.replace(job, shards=job.shards or 1)  # nobody shares the work
    job = msgspec.structs.replace(job, format=input_format(job, inputs, places))
    large = source is not None or sum(file.size for file in inputs) >= _HELP_FROM_BYTES
    if count := _helper_count(job, large, flags):
        from ..transforms.decoding import attach_helpers

        with _interrupts_are_for_us_alone():
            attach_helpers(contract, job.unknown_mode, count, judge=True)
    try:
        steps = job_steps(job, contract, places)
        aggregates = tuple(job_aggregates(job, steps.contract, places))
        if beam_flags:
            runners.refuse_unknown(flags, job_flag_names())
        flags = job_secrets.for_workers(job, flags, places)
        triggers = job_triggers(job, aggregates, bool(job.until or streaming), places)
        if job.until or streaming:
            disorder_us = job_duration(job, "disorder", places)
            run = prepare(job, contract, steps, aggregates, (), places, triggers)
            run = replace(run, unattended=unattended)
            runners.warn(run, flags, streaming)
            from .incremental import run_on
            from .sources import ArrivingFiles

            source = source or ArrivingFiles(lambda: job_inputs(job, places), places)
            return run_on(run, triggers, disorder_us, source, places, flags, follows=follows)
        run = prepare(job, contract, steps, aggregates, inputs, places)
        runners.warn(run, flags, streaming)
        return _run(replace(run, unattended=unattended), flags, started)
    except PlanError as error:
        raise JobError(str(error)) from None
    except StorageError as error:
        return fail(str(error))
    finally:
        if count:
            from ..transforms.decoding import detach_helpers

            detach_helpers()


@contextmanager
def _looking_for_misspelt(beam_flags: list[str]) -> Iterator[None]:
    """What is missing may be what a misspelt flag was to say."""
    try:
        yield
    except JobError:
        runners.refuse_unknown(beam_flags, job_flag_names())
        raise


def _stream(job: Job, streaming: bool, places: Places) -> Source:
    from .streams import stream_of

    return stream_of(job, streaming, places)


@contextmanager
def _interrupts_are_for_us_alone() -> Iterator[None]:
    """Processes started meanwhile ignore Ctrl-C, which a terminal sends to all; we end them."""
    if threading.current_thread() is not threading.main_thread():
        yield  # only the main thread may say what signals do
        return
    before = signal.signal(signal.SIGINT, signal.SIG_IGN)
    try:
        yield
    finally:
        signal.signal(signal.SIGINT, before)


def job_flag_names() -> list[str]:
    """The flags that ``ingest`` has of its own."""
    return ["--job", "--no_wait", *(f"--{key}" for key in KEYS)]


_HAND_OVER = ("--template_location", "--dry_run")
"""Flags of Beam's with which a job is not even begun by this process."""
_SERVICES = {"flinkrunner", "portablerunner", "sparkrunner"}
"""Runners whose workers outlive this process, where a job server is reached by ``--job_endpoint``
that is none of its own."""


def is_unattended(no_wait: bool, flags: list[str], *, follows: bool) -> bool:
    """Whether the job is only handed over.

    Raises:
        JobError: that cannot be, since it would end with this process.
    """
    if not no_wait:
        return any(runners.taken(flags, flag)[0] for flag in _HAND_OVER)
    if follows:
        said = "files that keep arriving are read by one run after another, which this process "
        raise JobError(f"--no_wait: {said}starts; launch a run with until: now from a schedule")
    runner = runners.taken(flags, "--runner")[0].lower()
    served = runner in _SERVICES and runners.taken(flags, "--job_endpoint")[0]
    if runners.works_here(flags) or not (served or runner == "dataflowrunner"):
        name = runners.taken(flags, "--runner")[0].rpartition(".")[2]
        raise JobError(f"--no_wait: the workers of {name} would end with this process")
    return True


def _helper_count(job: Job, large: bool, flags: list[str]) -> int:
    if job.format != "jsonl" or not runners.works_here(flags):
        return 0
    if job.helpers is not None:
        return max(job.helpers, 0)
    processors = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else 1
    return processors - 1 if large else 0  # this process decodes too


def _run(run: Run, flags: list[str], started: float) -> int:
    from ..transforms.write.commit import complete
    from ..transforms.write.replacements import complete_replacements

    run = as_begun(run)
    job, store = run.job, run.store
    logs.of_run(run.token.run_id)

    def work() -> int:
        with store.lock(run.token.run_id, wait_seconds=job.wait) as lock:
            for run_id in complete_replacements(
                store, check=lock.check, patience=job.retry_seconds
            ):
                say(f"completed what run {run_id} had prepared")
            while True:
                decision = store.begin(run.plan, job.run_id, reprocess=job.reprocess)
                if decision.kind != "resume":
                    break
                assert decision.prepared is not None
                say(f"completing what run {decision.token.run_id} had prepared")
                complete(store, decision.prepared, check=lock.check, patience=job.retry_seconds)
            if decision.kind == "done":
                assert decision.record is not None
                say(f"run {decision.token.run_id} has been committed already: nothing to do")
                return report(run, decision.record)
            if decision.kind == "replace":
                see_replaceable(run, decision)
            return execute(run, flags, started)

    return settled(work)
