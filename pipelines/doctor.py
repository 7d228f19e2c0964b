"""What a run needs, looked at one by one: each finding says what is so, and what to do."""

from __future__ import annotations

import os
import shutil
import socket
import subprocess
import sys
import time
import uuid
from collections.abc import Iterator, Mapping
from importlib import metadata
from typing import TYPE_CHECKING, Any, Literal
from urllib.parse import urlsplit

import msgspec
from packaging.requirements import Requirement

from ..transforms import storage
from ..transforms.plan import PlanError
from ..transforms.storage import StorageError
from . import job_secrets, launch, runners
from .job import Job, JobError, Places, check_going_on, load_job
from .runners import dataflow, flink, job_server, prism

if TYPE_CHECKING:
    from ..transforms.write.destination import Output
    from .run import Run

State = Literal["ok", "note", "problem"]

_MARKS = {"ok": "ok     ", "note": "note   ", "problem": "PROBLEM"}
_ANSWER_SECONDS = 5.0
_SKEW_SECONDS = 5.0
"""How far a clock may be from that of the storage: leases, locks and ages are told by them."""
_TOOLS = {"dev", "emulators", "bench"}
"""Extras for who works on millstream itself."""


class Finding(msgspec.Struct, frozen=True, omit_defaults=True):
    """One thing that was looked at. ``advice`` is what to do, where there is something to do."""

    state: State
    what: str
    said: str
    advice: str = ""

    def __str__(self) -> str:
        text = f"{_MARKS[self.state]}  {self.what}: {self.said}"
        return f"{text}\n         -> {self.advice}" if self.advice else text


def examine(
    job_file: str | None,
    flags: Mapping[str, Any],
    beam_flags: list[str],
    *,
    no_wait: bool = False,
) -> Iterator[Finding]:
    """Look at everything that a run with these arguments needs.

    Without a job file and without flags of a job only the machine and the runner are looked at.

    Args:
        no_wait: the job is to be handed over, and left alone.

    Raises:
        JobError: a flag cannot be used.
    """
    yield python()
    yield from packages()
    runners.refuse_unknown(beam_flags, ["--json", *launch.job_flag_names()])
    follows = _follows(job_file, flags, beam_flags)
    yield from runner(runners.bounded(beam_flags) if follows else beam_flags)
    if no_wait:
        yield from _handed_over(beam_flags, follows=follows)
    if job_file or flags:
        yield from _job(job_file, flags, beam_flags)


def _follows(job_file: str | None, flags: Mapping[str, Any], beam_flags: list[str]) -> bool:
    """Whether files that keep arriving are read, by one bounded run after another."""
    try:
        return runners.is_streaming(beam_flags) and load_job(job_file, flags)[0].stream is None
    except JobError:  # which is told later
        return False


# The machine


def python() -> Finding:
    """The Python that runs this."""
    version = ".".join(map(str, sys.version_info[:3]))
    needed = Requirement(f"python{metadata.metadata('millstream')['Requires-Python']}")
    if needed.specifier.contains(version, prereleases=True):
        return Finding("ok", "Python", f"{version} ({sys.executable})")
    return Finding(
        "problem", "Python", f"{version}, and {needed.specifier} is needed", "use another Python"
    )


def packages() -> Iterator[Finding]:
    """What millstream requires, and which of its extras are there."""
    wanted = [Requirement(text) for text in metadata.requires("millstream") or []]
    base = [one for one in wanted if one.marker is None or one.marker.evaluate({"extra": ""})]
    lacking = [said for one in base if (said := _lacking(one))]
    if lacking:
        advice = "install it anew: pip install millstream"
        yield Finding("problem", "packages", "; ".join(lacking), advice)
    else:
        beam = metadata.version("apache-beam")
        yield Finding("ok", "packages", f"all {len(base)} that are required; apache-beam {beam}")
    extras = metadata.metadata("millstream").get_all("Provides-Extra") or []
    there, absent = [], []
    for extra in sorted(set(extras) - _TOOLS):
        needs = [
            one
            for one in wanted
            if one not in base and one.marker and one.marker.evaluate({"extra": extra})
        ]
        (absent if any(map(_lacking, needs)) else there).append(extra)
    yield Finding("ok", "extras", ", ".join(there) or "none")
    if absent:
        said = f"not installed: {', '.join(absent)}"
        yield Finding("note", "extras", said, f"pip install 'millstream[{','.join(absent)}]'")


def _lacking(wanted: Requirement) -> str:
    """What of a requirement is not met; empty if it is."""
    try:
        found = metadata.version(wanted.name)
    except metadata.PackageNotFoundError:
        return f"{wanted.name} is not installed"
    if wanted.specifier.contains(found, prereleases=True):
        return ""
    return f"{wanted.name} is {found}, and {wanted.specifier} is needed"


# The runner


def runner(flags: list[str]) -> Iterator[Finding]:
    """The runner that flags name, and what it takes to reach it."""
    try:
        chosen = runners.chosen(flags)
    except JobError as error:
        yield Finding("problem", "runner", str(error))
        return
    name, _ = runners.taken(chosen, "--runner")
    name = name.rpartition(".")[2]
    if runners.is_prism(chosen):
        yield _prism(chosen)
    elif job_server.is_used(chosen):
        yield from _job_server(name, chosen)
    elif name.lower() == "dataflowrunner":
        yield from _dataflow(chosen)
    elif name == "DaskRunner":
        yield _address(chosen, "--dask_client_address", "Dask's scheduler")
    else:
        yield Finding("ok", "runner", name)


def _handed_over(flags: list[str], *, follows: bool) -> Iterator[Finding]:
    try:
        launch.is_unattended(True, runners.chosen(flags), follows=follows)
    except JobError as error:
        yield Finding("problem", "runner", str(error))


def _prism(flags: list[str]) -> Finding:
    if runners.taken(flags, "--job_endpoint")[0]:
        return _address(flags, "--job_endpoint", "Prism")
    try:
        place, _ = runners.taken(prism.located(flags), "--prism_location")
    except JobError as error:
        return Finding("problem", "runner", str(error))
    return Finding("ok", "runner", f"Prism, {place}")


def _job_server(name: str, flags: list[str]) -> Iterator[Finding]:
    kind = job_server.kind_of(flags) or "unknown"
    endpoint, _ = runners.taken(flags, "--job_endpoint")
    try:
        job_server.check_flags(flags, kind)
        if kind == "flink":
            flink.check_flags(flags, runners.is_streaming(flags))
    except JobError as error:
        yield Finding("problem", "runner", str(error))
    else:
        if not endpoint:
            yield _java(name)
    if endpoint == "embed":
        yield Finding("ok", "runner", f"{name}, in this process")
    elif endpoint:
        yield _address(flags, "--job_endpoint", f"{name}: the job server")
    if runners.taken(flags, "--environment_type")[0] == "EXTERNAL":
        yield _address(flags, "--environment_config", "the workers' pool")


def _java(name: str) -> Finding:
    java = shutil.which("java")
    if java is None:
        said, advice = "no Java, which its job server runs on", "install a JRE of 11 or later"
        return Finding("problem", name, said, f"{advice}, or name a server: --job_endpoint")
    answer = subprocess.run([java, "-version"], capture_output=True, text=True, timeout=30)
    said = (answer.stderr or answer.stdout or "it says nothing").splitlines()[0]
    if answer.returncode:  # a stub that stands where none is installed
        return Finding("problem", name, f"{java}: {said}", "install a JRE of 11 or later")
    return Finding("ok", name, said)


def _address(flags: list[str], flag: str, what: str) -> Finding:
    address, _ = runners.taken(flags, flag)
    if not address:
        return Finding("problem", what, f"{flag} is not given", f"say {flag}=HOST:PORT")
    try:
        with socket.create_connection(_host_and_port(address), _ANSWER_SECONDS):
            return Finding("ok", what, f"{address} answers")
    except (OSError, ValueError) as error:
        said = f"{address} does not answer: {error}"
        return Finding("problem", what, said, f"start it, or correct {flag}")


def _host_and_port(address: str) -> tuple[str, int]:
    try:
        found = urlsplit(address if "://" in address else f"//{address}")
        host, port = found.hostname, found.port
    except ValueError:
        host = port = None
    if not host or not port:
        raise ValueError("expected HOST:PORT")
    return host, port


def _dataflow(flags: list[str]) -> Iterator[Finding]:
    found = list(dataflow.problems(flags, runners.is_streaming(flags)))
    for said in found:
        yield Finding("problem", "Dataflow", said)
    if not found:
        region, project = (runners.taken(flags, flag)[0] for flag in ("--region", "--project"))
        yield Finding("ok", "runner", f"Dataflow, project {project}, {region}")
    yield _google()


def _google() -> Finding:
    try:
        import google.auth  # pyright: ignore[reportMissingImports]
        import google.auth.exceptions  # pyright: ignore[reportMissingImports]
    except ImportError:
        said = "Google's packages are not installed"
        return Finding("problem", "Google", said, "pip install 'millstream[gcp]'")
    try:
        _, project = google.auth.default()
    except google.auth.exceptions.DefaultCredentialsError:
        advice = "set GOOGLE_APPLICATION_CREDENTIALS, or run gcloud auth application-default login"
        return Finding("problem", "Google", "no credentials", advice)
    return Finding("ok", "Google", f"credentials of project {project or 'none'}")


# The job


def _job(
    job_file: str | None, flags: Mapping[str, Any], beam_flags: list[str]
) -> Iterator[Finding]:
    """One thing after the other: each needs those before it."""
    streaming = runners.is_streaming(beam_flags)
    try:
        job, places = load_job(job_file, flags)
        check_going_on(job, streaming, places)
        # First, since what is no reference may be a secret, and must not be repeated.
        job_secrets.fetch(job, places)
        if dataflow.is_used(beam_flags):
            from .runners.dataflow_reach import check_job

            check_job(job, beam_flags, streaming, places)
        yield Finding("ok", "job", f"{job.name}, {job_file or 'by flags'}")
        if job.secrets:
            yield Finding("ok", "secrets", ", ".join(job.secrets))
        if any(path.startswith("gs://") for path in _places(job)):
            yield _google()
        yield from _prepared(job, streaming, places)
    except (JobError, PlanError, StorageError) as error:
        yield Finding("problem", "job", str(error))


def _places(job: Job) -> list[str]:
    uris = [job.output, job.dead_letters, job.ledger, job.late, job.duplicates]
    return [*job.input, job.state or "", *(uri.partition(":")[2] for uri in uris if uri)]


def _prepared(job: Job, streaming: bool, places: Places) -> Iterator[Finding]:
    from .job_parts import (
        input_format,
        job_aggregates,
        job_contract,
        job_duration,
        job_horizon,
        job_inputs,
        job_steps,
        job_triggers,
    )
    from .prepare import prepare

    contract = job_contract(job)
    said = f"{contract.name} {contract.version}, {len(contract.fields)} fields"
    yield Finding("ok", "contract", said)
    goes_on = bool(job.until or streaming)
    inputs = ()
    if job.stream is None:
        if streaming:
            job = msgspec.structs.replace(job, allow_no_input=True)
        inputs = tuple(job_inputs(job, places))
        size = sum(file.size for file in inputs)
        yield Finding("ok", "input", f"{len(inputs)} files, {size:,} bytes")
    job = msgspec.structs.replace(job, format=input_format(job, inputs, places))
    steps = job_steps(job, contract, places)
    aggregates = tuple(job_aggregates(job, steps.contract, places))
    triggers = job_triggers(job, aggregates, goes_on, places)
    if goes_on:
        job_duration(job, "disorder", places)
        job_horizon(job, contract, places)
    if streaming:
        job_duration(job, "idle", places)
    given = triggers if goes_on else None
    run = prepare(job, contract, steps, aggregates, inputs, places, given)
    for output in (*run.outputs, run.ledger):
        yield _output(output, run.store.home)
    yield from _state(run)
    if job.stream is not None:
        yield _of_stream(run, job.stream, streaming, places)


def _output(output: Output, state: str) -> Finding:
    """Whether an output can be written, as far as that is seen of a folder on this machine."""
    from ..transforms.write.files import FilesDestination

    what, to = f"{output.name}: {output.uri}", output.destination
    if not isinstance(to, FilesDestination) or storage.is_remote(to.home) or to.home == state:
        return Finding("ok", "output", what)
    place = to.home
    while not os.path.lexists(place):
        place = os.path.dirname(place)
    if not os.path.isdir(place):
        said = f"{what}: {place} is a file, not a folder"
        return Finding("problem", "output", said, "choose another folder")
    if not os.access(place, os.W_OK | os.X_OK):
        advice = "give the account the right to write there"
        return Finding("problem", "output", f"{what}: {place} cannot be written", advice)
    return Finding("ok", "output", what)


def _state(run: Run) -> Iterator[Finding]:
    """Whether the state folder can be written, and what its clock says."""
    from ..transforms.write.manifests import PRIVATE

    home = run.store.home
    path = storage.join(home, PRIVATE, f"doctor-{uuid.uuid4().hex}.json")
    try:
        before = time.time()
        storage.write_once(path, b"{}")
        there, after = storage.modified(path), time.time()
        storage.delete(path)
    except StorageError as error:
        advice = "give the account the right to write, list and delete there"
        yield Finding("problem", "state", str(error), advice)
        return
    yield Finding("ok", "state", f"{home} can be written")
    ahead = max(before - there, there - after, 0.0)
    if ahead <= _SKEW_SECONDS:
        yield Finding("ok", "clock", f"within {max(ahead, 1.0):.0f} s of the storage's")
        return
    advice = "set the clock (NTP): locks and ages are told by it"
    yield Finding("problem", "clock", f"{ahead:.0f} s from the storage's", advice)


def _of_stream(run: Run, uri: str, streaming: bool, places: Places) -> Finding:
    from ..transforms.carry import Carry
    from ..transforms.intervals.chain import Chain
    from ..transforms.write.errors import Unavailable
    from .streams import stream_of

    name = uri.partition("?")[0]
    try:
        head = Chain(run.store).head()
        planned = stream_of(run.job, streaming, places).plan(head.carry if head else Carry())
    except Unavailable as error:
        return Finding("problem", "input", str(error), "see that the service runs and is reached")
    new = sum(part.end - part.start for part in planned.intervals if not part.is_open)
    parts = len(planned.states) or len(planned.intervals)
    return Finding("ok", "input", f"{name}: {parts} partitions, {new:,} messages not read yet")
