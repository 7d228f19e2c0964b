"""Calls to BigQuery: one that answers, jobs that happen once, and what goes wrong, in our words.

A job's id is unique in its project for the 180 days that BigQuery remembers it. So a job that is
asked for under an id that follows from what it does happens once, whoever asks, and however often.
A failed job has changed nothing, and keeps its id: the next attempt takes the next number. Numbers
are tried in order, and none before the one ahead of it has failed, so that no two can succeed.
"""

# Google's clients are not installed where all else is checked.
# pyright: reportMissingImports=false, reportAttributeAccessIssue=false

from __future__ import annotations

import base64
import hashlib
import itertools
import os
import re
from collections.abc import Callable, Collection, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import google.auth.exceptions
import requests.exceptions
import tenacity
from google.api_core import exceptions
from google.api_core.retry import Retry, if_exception_type
from google.auth.credentials import AnonymousCredentials
from google.cloud import bigquery
from google.cloud.bigquery.retry import DEFAULT_RETRY

from ..errors import DestinationError, Unavailable

EMULATOR = "BIGQUERY_EMULATOR_HOST"
"""The environment variable by which Google's client finds an emulator, which asks for no
credentials."""

RETRY = DEFAULT_RETRY.with_timeout(30)
"""How long a call is repeated by the client; what is to be patient for longer is above us."""
SECONDS = 60
"""How long one call may take."""

_FIND_RETRY = Retry(predicate=if_exception_type(exceptions.NotFound), timeout=30)
"""A job that an id is taken by may not be found for a moment."""
_LABEL = "millstream-held-"
_LABEL_CHARACTERS = 63


@dataclass(frozen=True)
class Jobs:
    """The jobs of one project, in one location."""

    client: bigquery.Client
    location: str

    def succeeded(self, name: str) -> Any | None:
        """The job of that name that succeeded."""
        for number in itertools.count():
            job = self._find(f"{name}-{number}")
            if job is None:
                return None
            if job.state == "DONE" and not job.error_result:
                return job
        return None

    def begin(self, name: str, start: Callable[[str], Any]) -> tuple[Any, bool]:
        """Have a job happen once: start it, unless somebody has, under the first id under which
        none has failed.

        Args:
            name: what its ids begin with.
            start: starts it under an id that it is given.

        Returns:
            The job, and whether it was started here.
        """
        for number in itertools.count():
            job_id = f"{name}-{number}"
            job = self._find(job_id)
            if job is None:
                try:
                    return start(job_id), True
                except exceptions.Conflict:
                    return self._get(job_id, _FIND_RETRY), False
                except exceptions.GoogleAPICallError:
                    # It may be there all the same: what failed may be the answer alone.
                    job = self._find(job_id)
                    if job is None:
                        raise
                    return job, False
            if not job.error_result:
                return job, False
        raise AssertionError("there is always a next number")

    def commit(self, name: str, start: Callable[[str], Any], names: Collection[str]) -> bool:
        """Have the job happen once before which nothing is visible, and after which everything is.

        Returns:
            Whether it was started here.

        Raises:
            DestinationError: it failed, and would again.
            Unavailable: it failed, and may succeed if it is asked for once more.
        """
        job, ours = self.begin(name, start)
        finish(job, names)
        return ours

    def _find(self, job_id: str) -> Any | None:
        try:
            return self._get(job_id, RETRY)
        except exceptions.NotFound:
            return None

    def _get(self, job_id: str, retry: Retry) -> Any:
        return self.client.get_job(job_id, location=self.location, retry=retry, timeout=SECONDS)


def finish(job: Any, names: Collection[str]) -> None:
    """Wait until a job is done, however long it takes.

    Args:
        names: what may be repeated of BigQuery's messages: of columns, of tables.

    Raises:
        DestinationError: it failed, and would again.
        Unavailable: it failed, and may succeed if it is asked for once more.
    """
    tenacity.Retrying(
        retry=tenacity.retry_if_result(lambda done: not done),
        wait=tenacity.wait_exponential(multiplier=0.1, max=5),
    )(job.done, retry=RETRY, timeout=SECONDS)
    if job.error_result:
        raise failure(job, names)


def digest(*parts: str) -> str:
    """32 hex digits that tell these texts from all others."""
    return hashlib.sha256("\0".join(parts).encode()).hexdigest()[:32]


def labels(held: str) -> dict[str, str]:
    """A text as labels of a job, which are short and know small letters, digits and dashes."""
    coded = base64.b32encode(held.encode()).decode().rstrip("=").lower()
    pieces = range(0, len(coded), _LABEL_CHARACTERS)
    return {f"{_LABEL}{n:02d}": coded[at : at + _LABEL_CHARACTERS] for n, at in enumerate(pieces)}


def labelled(labels: Mapping[str, str]) -> str:
    """What :func:`labels` was given."""
    coded = "".join(labels[key] for key in sorted(labels) if key.startswith(_LABEL)).upper()
    return base64.b32decode(coded + "=" * (-len(coded) % 8)).decode()


@contextmanager
def connected(project: str) -> Iterator[bigquery.Client]:
    """A client, with the application's default credentials."""
    anonymous = AnonymousCredentials() if os.environ.get(EMULATOR) else None
    client = bigquery.Client(project=project, credentials=anonymous)  # type: ignore[arg-type]
    try:
        yield client
    finally:
        client.close()


@contextmanager
def explained(place: str) -> Iterator[None]:
    """Say what goes wrong with BigQuery in our words.

    Raises:
        DestinationError: it would go wrong again.
        Unavailable: it may not.
    """
    try:
        yield
    except Unavailable:
        raise
    except (exceptions.GoogleAPIError, google.auth.exceptions.GoogleAuthError) as error:
        raise _explanation(error, place) from error
    except (requests.exceptions.RequestException, ConnectionError) as error:
        raise Unavailable(f"{place}: BigQuery does not answer: {type(error).__name__}") from error


_ADVICE = {
    401: "; give credentials: set GOOGLE_APPLICATION_CREDENTIALS, or run "
    "gcloud auth application-default login",
    403: "; the account needs the roles BigQuery Data Editor on the dataset and BigQuery Job User "
    "on the project",
    404: "; make the project and the dataset first (bq mk --dataset PROJECT:DATASET)",
}
_TRANSIENT_REASONS = {
    "backendError", "badGateway", "internalError", "jobBackendError", "jobInternalError",
    "jobRateLimitExceeded", "rateLimitExceeded", "tableUnavailable", "timeout",
}  # fmt: skip
"""https://cloud.google.com/bigquery/docs/error-messages"""
_TRANSIENT_MESSAGE = re.compile("concurrent|serialize access|[Cc]onflict|aborted|ailed to commit")
"""What is said of a transaction that another was quicker than."""


def failure(job: Any, names: Collection[str]) -> Exception:
    """The error to raise for a job that failed."""
    result = job.error_result or {}
    reason, said = result.get("reason") or "", result.get("message") or ""
    more = [e.get("message") or "" for e in job.errors or [] if e.get("message") != said]
    messages = "; ".join(without_values(m, names) for m in (said, *more[:3]))
    text = f"BigQuery's {job.job_type} job {job.job_id} failed ({reason}): {messages}"
    if reason in _TRANSIENT_REASONS or _TRANSIENT_MESSAGE.search(said):
        return Unavailable(text)
    return DestinationError(text)


def without_values(message: str, names: Collection[str] = ()) -> str:
    """The message without what may be a row's value: what is quoted, and what holds a digit, save
    names that are known."""
    known = {name.casefold() for name in names}

    def keep(found: re.Match[str]) -> str:
        text = found[0]
        return text if text.strip("'\"`.,:;()").casefold() in known else "…"

    return _VALUE.sub(keep, message.split("\n")[0])


_VALUE = re.compile(
    r"'[^']*'|\"[^\"]*\"|`[^`]*`|[^\s'\"`]*\d[^\s'\"`]*|(?<=value: ).*|(?<=value\): ).*"
)


def _explanation(error: Exception, place: str) -> Exception:
    if isinstance(error, google.auth.exceptions.GoogleAuthError):
        if error.retryable or isinstance(error, google.auth.exceptions.TransportError):
            return Unavailable(f"{place}: Google's sign-in does not answer")
        return DestinationError(f"{place}: no credentials that Google takes{_ADVICE[401]}")
    if isinstance(error, exceptions.RetryError):
        return Unavailable(f"{place}: BigQuery does not answer: {type(error.cause).__name__}")
    if not isinstance(error, exceptions.GoogleAPICallError):
        return Unavailable(f"{place}: {type(error).__name__}")
    details = [e for e in error.errors if isinstance(e, dict)]
    said = (details[0].get("message") if details else None) or error.message or ""
    said = said.split("\n")[0]
    if error.grpc_status_code is not None:  # rows were sent: what is said may be of their values
        said = without_values(said)
    code = int(error.code or 500)
    transient = code >= 500 or code in (408, 409, 412, 429) or _TRANSIENT_MESSAGE.search(said)
    if transient or {e.get("reason") for e in details} & _TRANSIENT_REASONS:
        return Unavailable(f"{place}: {said}")
    return DestinationError(f"{place}: {said}{_ADVICE.get(code, '')}")
