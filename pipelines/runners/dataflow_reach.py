"""What a job on Dataflow reads and writes, and whether workers in a data centre can reach it."""

from __future__ import annotations

import ipaddress
import os
from collections.abc import Iterator
from urllib.parse import parse_qsl, urlsplit

import msgspec

from ...transforms import storage
from ...transforms.kafka.names import CONFIG_VARIABLE, CREDENTIALS_VARIABLE
from ..job import Job, JobError, Places, StepJob
from ..logs import WARNING, say
from .dataflow import BRINGS_CODE
from .flags import is_given, value

_Steps = tuple[str | int, ...]

_FILES = {"parquet", "jsonl", "csv", "avro", "delta"}
"""Schemes whose URI holds the path of a file or folder."""
_URLS = ("endpoint", "registry")
"""Options of a URI that hold an address."""
_PATHS = {
    "config": CONFIG_VARIABLE,
    "password_file": "PGPASSFILE",
    "sslcert": "PGSSLCERT",
    "sslkey": "PGSSLKEY",
    "sslrootcert": "PGSSLROOTCERT",
}
"""Options that hold the path of a file that workers read → the variable that may name it instead.
"""
_AWS = ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY", "AWS_SESSION_TOKEN")
_VARIABLES = {
    "kafka": (CONFIG_VARIABLE, CREDENTIALS_VARIABLE),
    "postgresql": ("PGPASSWORD", "PGPASSFILE"),
    "kinesis": _AWS,
    "s3": _AWS,
}
"""Scheme → variables of the environment by which clients come in."""
_CATALOG = "PYICEBERG_CATALOG__"
"""What variables begin with that say where a catalog of Iceberg is."""


def check_job(job: Job, flags: list[str], streaming: bool, places: Places) -> None:
    """See that workers elsewhere can do what a job says.

    Args:
        streaming: it goes on for as long as it runs.

    Raises:
        JobError: they cannot; the message says what stands in the way.
    """
    if streaming and job.stream is None:
        said = "files that keep arriving are read by one run after another, each of which would be "
        said += "a job of Dataflow's; say until: now instead, and start runs by a schedule"
        raise JobError(f"--streaming: {said}")
    for steps, uri in _uris(job):
        if said := out_of_reach(uri):
            raise places.error(steps, f"{said}, where Dataflow's workers do not look")
    _check_code(job, flags, places)
    _check_secrets(job, places)
    _check_staging(flags)
    if job.helpers:
        say("helpers are processes of the local runner: Dataflow has its own", WARNING)


def out_of_reach(uri: str) -> str:
    """What of that which a URI names is on this machine alone; empty if nothing is.

    >>> out_of_reach("parquet:gs://bucket/clicks"), out_of_reach("kafka://kafka.example:9092/t")
    ('', '')
    >>> out_of_reach("parquet:/data/clicks")
    '/data/clicks is on this machine'
    >>> out_of_reach("kafka://localhost:9092/clicks")
    'localhost is this machine'
    """
    scheme, colon, rest = uri.partition(":")
    if not colon or (colon and not rest.startswith("//") and scheme not in _OTHERS | _FILES):
        return f"{uri} is on this machine"
    if scheme in _FILES or scheme == "duckdb":
        path = rest.partition("?")[0]
        return "" if storage.is_remote(path) else f"{path} is on this machine"
    if scheme == "iceberg":
        return _catalog_out_of_reach(rest.partition("/")[0])
    if scheme in ("kafka", "postgresql"):
        return _host_out_of_reach(urlsplit(uri).netloc) or _option_out_of_reach(uri)
    return _option_out_of_reach(uri)


_OTHERS = {"duckdb", "iceberg", "bigquery"}
"""Schemes after which no ``//`` follows, and no path either."""


def _uris(job: Job) -> Iterator[tuple[_Steps, str]]:
    """All that a job reads and writes, and where it says so."""
    for path in job.input:
        yield ("input",), path
    for key in ("output", "dead_letters", "duplicates", "late", "ledger"):
        if uri := getattr(job, key):
            yield (key,), uri
    if job.state:
        yield ("state",), job.state
    for key in ("quarantine", "scores"):
        if uri := getattr(job.quality, key, None):
            yield ("quality", key), uri
    for i, aggregate in enumerate(job.aggregates):
        yield ("aggregates", i, "output"), aggregate.output
    for i, step in enumerate(job.steps):
        if step.enrich is not msgspec.UNSET:
            yield ("steps", i, "enrich", "from"), step.enrich.source


def _host_out_of_reach(netloc: str) -> str:
    for server in netloc.rpartition("@")[2].split(","):
        host = urlsplit(f"//{server}").hostname or ""
        if not host:
            return "a socket of this machine"
        if _is_here(host):
            return f"{host} is this machine"
    return ""


def _is_here(host: str) -> bool:
    try:
        address = ipaddress.ip_address(host)
    except ValueError:
        return host == "localhost" or host.endswith(".localhost")
    return address.is_loopback or address.is_unspecified


def _option_out_of_reach(uri: str) -> str:
    for key, said in parse_qsl(uri.partition("?")[2]):
        if key in _URLS and (found := _host_out_of_reach(urlsplit(said).netloc)):
            return f"{key}: {found}"
        if key in _PATHS and said != "system":  # which is the workers' own
            instead = f"secrets: {{{_PATHS[key]}: {{file: gs://…}}}}"
            return f"{key}={said} (say it as {instead}) is on this machine"
    return ""


def _catalog_out_of_reach(name: str) -> str:
    """By pyiceberg's configuration, as it is here: addresses in it may hold passwords."""
    from pyiceberg.utils.config import Config

    said = Config().get_catalog_config(name) or {}
    uri, kind = str(said.get("uri", "")), said.get("type")
    if uri.startswith("sqlite") or kind == "in-memory":
        return f"the catalog {name} is on this machine"
    host = urlsplit(uri).hostname or ""
    if _is_here(host):
        return f"the catalog {name} is on {host}"
    warehouse = str(said.get("warehouse", ""))
    if warehouse.startswith(("file:", "/")):
        return f"the warehouse of the catalog {name} is on this machine"
    return ""


def _check_code(job: Job, flags: list[str], places: Places) -> None:
    """See that the modules of steps come to the workers."""
    if any(is_given(flags, flag) for flag in BRINGS_CODE):
        return
    for i, step in enumerate(job.steps):
        if target := _target(step):
            said = f"{target.partition(':')[0]} is a module of this machine: bring it to the "
            said += "workers in an image (--sdk_container_image) or a package (--setup_file, "
            raise places.error(("steps", i, *step.kinds), f"{said}--extra_package)")


def _target(step: StepJob) -> str:
    """The function of one's own that a step calls, if any."""
    return step.lookup.python if step.lookup is not msgspec.UNSET else step.python or ""


def _check_secrets(job: Job, places: Places) -> None:
    """See that what clients come in by here is had by workers too."""
    for name, reference in job.secrets.items():
        place = reference if isinstance(reference, str) else reference.file
        if not place.startswith(("projects/", "arn:aws")) and not storage.is_remote(place):
            said = f"{name}: {place} is on this machine, where Dataflow's workers do not look; "
            raise places.error(("secrets",), f"{said}keep it in a secret manager, or on gs://")
    schemes = {scheme for _, uri in _uris(job) for scheme in _schemes(uri)}
    names = [name for scheme in sorted(schemes) for name in _VARIABLES.get(scheme, ())]
    names += [job.encrypt_dead_letters] if job.encrypt_dead_letters else []
    for name in names:
        if os.environ.get(name) and name not in job.secrets:
            said = f"{name} is set here, and Dataflow's workers do not see it: say where they find "
            raise places.error(
                ("secrets",), f"{said}it, as {name}: projects/P/secrets/S/versions/V"
            )
    catalogs = sorted(n for n in os.environ if n.startswith(_CATALOG) and n not in job.secrets)
    if catalogs and "iceberg" in schemes:
        said = "are set here, and not for Dataflow's workers: put them into the workers' image, or "
        say(f"{', '.join(catalogs)} {said}say them as secrets", WARNING)


def _check_staging(flags: list[str]) -> None:
    """See that jobs can be staged where they should be: for a bucket Beam looks for minutes."""
    for flag in ("--temp_location", "--staging_location"):
        if place := value(flags, flag):
            try:
                storage.match_remote(storage.join(place, "-"))
            except storage.StorageError as error:
                raise JobError(f"{flag}: {error}") from None


def _schemes(uri: str) -> list[str]:
    """The schemes in a URI: of ``parquet:s3://bucket`` both."""
    return [part for part in uri.partition("?")[0].split(":")[:2] if part.isalnum()]
