"""Jobs at the Dataflow service: submitted, watched, cancelled, and what it says against them."""

from __future__ import annotations

import logging
import os
import re
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from http import HTTPStatus
from threading import Event
from typing import TYPE_CHECKING, Any

from ..logs import WARNING, say
from . import choosing as runners
from .flags import is_given, value

if TYPE_CHECKING:
    import apache_beam as beam

POLL_SECONDS = 5.0
"""How often a job is asked for its state: as often as Beam itself does."""
_EXPLAINED_SECONDS = 50.0
"""How long after a job has failed its reason may come: as long as Beam itself waits."""
_REQUEST = re.compile(r"^(\d{3} )?([A-Z]+ https?://\S+: )?")
"""What clients put before the service's own words."""
_CLIENT = "apache_beam.runners.dataflow.internal.apiclient"
_CHATTY = (_CLIENT, "apache_beam.utils.retry")
"""Loggers of Beam's that say of a failure, with a traceback, what we say in a sentence."""


class DataflowError(RuntimeError):
    """A job was not taken, or failed. The message says why, and what to do."""


class OutOfSight(DataflowError):
    """A job cannot be asked for its state any more: it may go on."""


def submit(pipeline: beam.Pipeline, flags: list[str]) -> Any:
    """Submit a pipeline; gives Beam's result.

    Raises:
        DataflowError: the service does not take it.
    """
    from apache_beam.options.pipeline_options import GoogleCloudOptions

    with _quiet():
        try:
            if is_given(flags, "--update"):
                _check_running(pipeline.options.view_as(GoogleCloudOptions))
            return pipeline.run()
        except DataflowError:
            raise
        except Exception as error:
            if runners.TRACEBACK in os.environ:
                raise
            raise DataflowError(_refusal(error, flags)) from None


def watch(result: Any, flags: list[str], stop: Event | None = None) -> str:
    """Wait for a job to end; gives its last state. What it says of errors is said.

    Args:
        stop: once it is set, or at Ctrl-C, the job is cancelled.

    Raises:
        DataflowError: it has failed.
        OutOfSight: it cannot be asked for its state.
        KeyboardInterrupt: as it came, once the job is cancelled.
    """
    from apache_beam.runners.runner import PipelineState

    if not result.has_job:  # it was handed to a template's launcher
        return PipelineState.DONE
    place = console(result.job_id(), flags)
    heard = _Messages(result)
    stop = stop or Event()
    try:
        say(f"Dataflow job {result.job_id()}: {place}")
        while not PipelineState.is_terminal(state := _state(result, place)):
            heard.tell()
            if stop.wait(POLL_SECONDS):
                return _cancelled(result, place)
    except KeyboardInterrupt:
        _cancelled(result, place)
        raise
    if state == PipelineState.FAILED:
        why = heard.reason()
        raise DataflowError(f"Dataflow job {result.job_id()} failed: {why}; see {place}")
    return str(state)


def console(job_id: str, flags: list[str]) -> str:
    """Where people look at a job."""
    region, project = value(flags, "--region"), value(flags, "--project")
    return f"https://console.cloud.google.com/dataflow/jobs/{region}/{job_id}?project={project}"


def _state(result: Any, place: str) -> Any:
    try:
        with _quiet():
            return result.state
    except Exception as error:
        said = f"Dataflow does not say how job {result.job_id()} is: {_words(error)}"
        raise OutOfSight(f"{said}; it may go on: see {place}") from None


def _cancelled(result: Any, place: str) -> str:
    from apache_beam.runners.runner import PipelineState

    try:
        with _quiet():
            result.cancel()
    except Exception as error:
        said = f"Dataflow job {result.job_id()} could not be cancelled: {_words(error)}"
        raise OutOfSight(f"{said}; cancel it at {place}") from None
    say(f"Dataflow job {result.job_id()} is being cancelled")
    return PipelineState.CANCELLED


class _Messages:
    """What the service says of a job, as far as it has been heard."""

    def __init__(self, result: Any) -> None:
        self._client = result._runner.dataflow_client
        self._job_id = result.job_id()
        self._since: Any = None
        self._heard: set[str] = set()
        self._errors: list[str] = []

    def tell(self) -> None:
        """Say what is new, of errors alone. That it cannot be had is no reason to end."""
        with suppress(Exception), _quiet():
            for message in self._new():
                self._errors.append(runners.root_message(RuntimeError(message)))
                say(f"Dataflow: {self._errors[-1]}", WARNING)

    def reason(self) -> str:
        """Why the job has failed: the last error that was said, once there is one."""
        deadline = time.monotonic() + _EXPLAINED_SECONDS
        self.tell()
        while not self._errors and time.monotonic() < deadline:
            time.sleep(POLL_SECONDS)
            self.tell()
        return self._errors[-1] if self._errors else "it does not say why"

    def _new(self) -> Iterator[str]:
        page = None
        while True:
            messages, page = self._client.list_messages(
                self._job_id,
                start_time=self._since,
                page_token=page,
                minimum_importance="JOB_MESSAGE_ERROR",
            )
            for message in messages:
                if message.id not in self._heard:
                    self._heard.add(message.id)
                    self._since = max(self._since or message.time, message.time)
                    yield message.message_text
            if not page:
                return


def _check_running(options: Any) -> None:
    """See that there is a job to replace: Beam itself would look for one for ever.

    Raises:
        DataflowError: there is none.
    """
    from apache_beam.runners.dataflow.internal.apiclient import DataflowApplicationClient
    from google.cloud import dataflow  # pyright: ignore

    client = DataflowApplicationClient(options)
    request = dataflow.ListJobsRequest(
        project_id=options.project,
        location=options.region,
        filter=dataflow.ListJobsRequest.Filter.ACTIVE,
    )
    if all(job.name != options.job_name for job in client._jobs_client.list_jobs(request)):
        said = f"no job named {options.job_name} is running in {options.region}"
        raise DataflowError(f"--update: {said}: start one without --update")


_ADVICE = {
    HTTPStatus.UNAUTHORIZED: "set GOOGLE_APPLICATION_CREDENTIALS, or run gcloud auth "
    "application-default login",
    HTTPStatus.FORBIDDEN: "give the account the role roles/dataflow.developer in the project, and "
    "leave to act as the workers' account (roles/iam.serviceAccountUser)",
    HTTPStatus.NOT_FOUND: "see that --project and --region are right, and the Dataflow API enabled",
    HTTPStatus.CONFLICT: "wait for it, replace it with --update, or choose another --job_name",
    HTTPStatus.TOO_MANY_REQUESTS: "try again later, or ask for more quota",
}
"""HTTP code of a refusal → what to do."""


def _refusal(error: Exception, flags: list[str]) -> str:
    """Why the service has not taken a job."""
    code = getattr(error, "code", None)
    if not isinstance(code, int):  # not of the service, but of Beam, or of the bucket
        return f"the job was not submitted: {runners.root_message(error)}"
    if code >= HTTPStatus.INTERNAL_SERVER_ERROR:
        return f"Dataflow does not answer ({code}: {_words(error)}); try again"
    advice = _ADVICE.get(HTTPStatus(code), "")
    said = f"Dataflow refused the job: {_words(error).rstrip('.')}"
    return f"{said}; {advice}" if advice else said


def _words(error: Exception) -> str:
    """What the service said, without the request that it answered."""
    said = str(getattr(error, "message", "") or error)
    return _REQUEST.sub("", said).strip() or type(error).__name__


@contextmanager
def _quiet() -> Iterator[None]:
    """In the block Beam does not log what is raised and said by us."""
    if runners.TRACEBACK in os.environ:
        yield
        return
    loggers = [logging.getLogger(name) for name in _CHATTY]
    before = [logger.level for logger in loggers]
    for logger in loggers:
        logger.setLevel(logging.CRITICAL + 1)
    try:
        yield
    finally:
        for logger, level in zip(loggers, before, strict=True):
            logger.setLevel(level)
