"""Job servers, which Beam's portable runners hand jobs to: what is looked at before that.

Nothing is fetched here, and Beam is not left to fetch anything: without a job server, and without
its jar, ``FlinkRunner`` and ``SparkRunner`` would bring one from Maven's central repository, and a
worker's image that is not named would be Beam's own, in which there is no millstream.
"""

from __future__ import annotations

import os
import re
import shutil
import socket
from collections.abc import Mapping, Sequence
from functools import cache
from importlib.metadata import version
from typing import TYPE_CHECKING, Any, Literal, NamedTuple

from ..job import JobError
from .flags import is_given, value

if TYPE_CHECKING:
    from ..run import Run

Kind = Literal["prism", "flink", "spark", "unknown"]

_BY_RUNNER: Mapping[str, Kind] = {
    "prismrunner": "prism",
    "flinkrunner": "flink",
    "sparkrunner": "spark",
    "portablerunner": "unknown",
}
_JARS: Mapping[Kind, tuple[str, str]] = {
    "flink": ("--flink_job_server_jar", "beam-runners-flink-1.19-job-server"),
    "spark": ("--spark_job_server_jar", "beam-runners-spark-3-job-server"),
}
_UBER: Mapping[Kind, str] = {"flink": "--flink_submit_uber_jar", "spark": "--spark_submit_uber_jar"}
_MASTERS: Mapping[Kind, str] = {"flink": "--flink_master", "spark": "--spark_master_url"}
_EMBEDDED = "embed"
"""An endpoint that is a part of Beam, and runs in this process."""
_LOCAL_SPARK = re.compile(r"local(\[.+\])?$")
_ANSWER_SECONDS = 10.0
"""How long a job server may take to say what options it has."""


class Option(NamedTuple):
    """An option that a job server has. ``is_switch``: it stands without a value."""

    name: str
    is_switch: bool


def is_used(flags: list[str]) -> bool:
    """Whether the runner hands the job to a job server."""
    return _runner(flags) in _BY_RUNNER


def _runner(flags: list[str]) -> str:
    return value(flags, "--runner").rpartition(".")[2].lower()


def kind_of(flags: list[str]) -> Kind | None:
    """What the job server of a job is; ``None`` if the runner needs none.

    ``PortableRunner`` is for any. A flag that only one of them has tells which; else the server
    does, if it answers: it describes its options, and those of Flink's and Spark's name a master.
    """
    kind = _BY_RUNNER.get(_runner(flags))
    if kind != "unknown":
        return kind
    for kind, flag in _MASTERS.items():
        if is_given(flags, flag):
            return kind
    return _kind_by(described(value(flags, "--job_endpoint")))


def _kind_by(options: Sequence[Option]) -> Kind:
    names = {f"--{option.name}" for option in options}
    for kind, flag in _MASTERS.items():
        if flag in names:
            return kind
    return "unknown"


def described(endpoint: str) -> tuple[Option, ...]:
    """The options of the job server at ``host:port``; none if there is no answer."""
    if not endpoint or endpoint == _EMBEDDED:
        return ()
    try:
        return _asked(endpoint)
    except JobError:
        return ()


@cache
def _asked(endpoint: str) -> tuple[Option, ...]:
    import grpc
    from apache_beam.portability.api import beam_job_api_pb2, beam_job_api_pb2_grpc

    host, _, port = endpoint.rpartition(":")
    if not host or not port.isdigit():
        raise JobError(f"--job_endpoint={endpoint}: write HOST:PORT")
    boolean = beam_job_api_pb2.PipelineOptionType.BOOLEAN
    with grpc.insecure_channel(endpoint) as channel:
        try:
            answer = beam_job_api_pb2_grpc.JobServiceStub(channel).DescribePipelineOptions(
                beam_job_api_pb2.DescribePipelineOptionsRequest(), timeout=_ANSWER_SECONDS
            )
        except grpc.RpcError as error:
            said = getattr(error, "details", lambda: "")() or type(error).__name__
            raise JobError(
                f"no job server answers at {endpoint} ({said.rpartition(': ')[2]}); "
                "start it, or correct --job_endpoint"
            ) from None
    return tuple(Option(option.name, option.type == boolean) for option in answer.options)


def environment(flags: list[str]) -> tuple[str, str]:
    """Where the workers run, by Beam's name in capitals, and the image, address or command."""
    kind = value(flags, "--environment_type").upper() or _default_environment(flags)
    config = value(flags, "--environment_config")
    if not config and (option := _ENVIRONMENT_OPTIONS.get(kind)):
        # May be given again and again, one option a time.
        said = [flag.partition("=")[2] for flag in flags if flag.startswith("--environment_option")]
        config = next((s.removeprefix(f"{option}=") for s in said if s.startswith(option)), "")
    return kind, config


_ENVIRONMENT_OPTIONS = {
    "DOCKER": "docker_container_image",
    "EXTERNAL": "external_service_address",
    "PROCESS": "process_command",
}


def _default_environment(flags: list[str]) -> str:
    """Beam's own choice: its runners take this process where the cluster is of their making."""
    runner = _runner(flags)
    master = value(flags, _MASTERS.get(_BY_RUNNER.get(runner, "unknown"), "--flink_master"))
    local = {
        "prismrunner": True,
        "flinkrunner": master in ("", "[auto]", "[local]"),
        "sparkrunner": not master or _LOCAL_SPARK.match(master) is not None,
    }
    return "LOOPBACK" if local.get(runner) else "DOCKER"


def check(flags: list[str], kind: Kind) -> None:
    """See that a job can be handed over, and that its workers can run it.

    Raises:
        JobError: it cannot, or something would be downloaded for it.
    """
    check_answer(flags)
    check_flags(flags, kind)


def check_answer(flags: list[str]) -> None:
    """See that the job server that flags name answers: Beam would wait for it for ever.

    Raises:
        JobError: it does not.
    """
    endpoint = value(flags, "--job_endpoint")
    if endpoint and endpoint != _EMBEDDED:
        _asked(endpoint)


def check_flags(flags: list[str], kind: Kind) -> None:
    """What :func:`check` sees without asking the job server.

    Raises:
        JobError: the job cannot be handed over, or something would be downloaded for it.
    """
    endpoint = value(flags, "--job_endpoint")
    if endpoint == _EMBEDDED:
        return
    if not endpoint:
        _check_jar(flags, kind)
    _check_environment(flags, kind)


def _check_jar(flags: list[str], kind: Kind) -> None:
    runner = value(flags, "--runner")
    if kind not in _JARS:
        raise JobError(f"{runner}: say which job server: --job_endpoint=HOST:PORT")
    flag, artifact = _JARS[kind]
    jar = value(flags, flag)
    if not jar:
        raise JobError(
            f"{runner}: no job server is named, and Beam would download one: say "
            f"--job_endpoint=HOST:PORT, or {flag}=PATH of org.apache.beam:{artifact}:"
            f"{version('apache-beam')}"
        )
    if "://" not in jar and not os.path.isfile(jar):
        raise JobError(f"{flag}={jar}: there is no such file")
    java = value(flags, "--job_server_java_launcher") or "java"
    if not is_given(flags, _UBER[kind]) and shutil.which(java) is None:
        raise JobError(f"{runner}: its job server runs on Java, and there is no {java!r}")


def _check_environment(flags: list[str], kind: Kind) -> None:
    where, config = environment(flags)
    if where == "DOCKER" and not config:
        raise JobError(
            "--environment_type=DOCKER, Beam's default: its own image has no millstream; name one "
            "that has by --environment_config=IMAGE, or say --environment_type=EXTERNAL, LOOPBACK "
            "or PROCESS"
        )
    if where == "EXTERNAL" and not config:
        raise JobError("--environment_type=EXTERNAL: say --environment_config=HOST:PORT of a pool")
    if where == "PROCESS" and not config:
        raise JobError("--environment_type=PROCESS: say --environment_config='{\"command\": …}'")
    if where == "LOOPBACK":
        _check_loopback(flags, kind)


def _check_loopback(flags: list[str], kind: Kind) -> None:
    for flag in ("--job_endpoint", _MASTERS.get(kind, "--job_endpoint")):
        address = value(flags, flag)
        if address and not _is_here(address):
            raise JobError(
                f"{flag}={address}, with workers in this process (--environment_type=LOOPBACK): "
                "a cluster on other machines cannot reach it; say --environment_type=EXTERNAL, "
                "with a pool of workers beside each of its workers"
            )


def _is_here(address: str) -> bool:
    """Whether an address, ``host:port`` or a URL or a master's magic word, is of this machine."""
    if address.startswith("[") or _LOCAL_SPARK.match(address):
        return True
    host = address.rpartition("://")[2].partition("/")[0].rpartition(":")[0]
    host = (host or address).lower()
    return host in ("localhost", socket.gethostname().lower()) or host.startswith("127.")


def add_options(parser: Any, options: Sequence[Option]) -> None:
    """Have a parser of arguments know what a job server knows."""
    for option in options:
        if f"--{option.name}" not in parser._option_string_actions:
            action = "store_true" if option.is_switch else "store"
            parser.add_argument(f"--{option.name}", action=action)


_NO_LIST = "disable_logging_submission_environment"


def self_contained(flags: list[str]) -> list[str]:
    """The flags of a job that needs no file of this machine, unless they name one.

    Beam would list the packages that are installed here, which takes a second, and have workers
    fetch that list only to log it: from the job server's folder, which workers elsewhere lack.
    """
    if any(_NO_LIST in flag for flag in flags):
        return flags
    return [*flags, f"--experiments={_NO_LIST}"]


def local_places(run: Run, flags: list[str]) -> list[str]:
    """Folders of this machine that a job's workers, which run elsewhere, will look for."""
    if environment(flags)[0] == "LOOPBACK" or value(flags, "--job_endpoint") == _EMBEDDED:
        return []
    uris = [output.uri for output in (*run.outputs, run.ledger)]
    places = [run.store.home, *(uri.partition(":")[2].partition("?")[0] for uri in uris)]
    places += [os.path.dirname(file.source) for file in run.plan.inputs]
    return sorted({p for p in places if p.startswith("/") and not p.startswith("//")})
