"""The secrets of a job: fetched by this process, and by each of its workers."""

from __future__ import annotations

from ..transforms import secrets
from ..transforms.secrets import SecretError
from .job import Job, Places

_PLUGIN = "millstream.transforms.worker"


def fetch(job: Job, places: Places) -> None:
    """Put a job's secrets into the environment.

    Raises:
        JobError: one cannot be had.
    """
    try:
        secrets.install(job.secrets)
    except SecretError as error:
        raise places.error(("secrets",), str(error)) from None


def for_workers(job: Job, flags: list[str], places: Places) -> list[str]:
    """The flags, with what makes workers fetch the job's secrets: only references are handed on.

    Raises:
        JobError: the runner's workers cannot be told.
    """
    from . import runners

    if not job.secrets or runners.works_here(flags):
        return flags
    if runners.taken(flags, "--runner")[0] == runners.DASK:
        said = "Dask's workers cannot be told of secrets: set these variables where they start"
        raise places.error(("secrets",), said)
    from ..transforms import worker  # has an option of its own  # noqa: F401

    references = secrets.encode(job.secrets)
    return [*flags, f"--beam_plugin={_PLUGIN}", f"{secrets.FLAG}={references}"]
