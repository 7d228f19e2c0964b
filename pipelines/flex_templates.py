"""Dataflow Flex Templates: which there are, and what each says of itself.

A template's parameters are keys of a job, and what is said of them here is made from the keys
themselves.
https://cloud.google.com/dataflow/docs/guides/templates/configuring-flex-templates
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, get_args, get_origin

from .job import KEYS, REQUIRED

_FIRST = ("job", "name", "contract", "schema")
_SOURCE = ("input", "format", "csv", "compression", "max_record_bytes")
_RECORDS = (
    "event_time", "unknown_fields", "drift", "repairs", "deduplicate", "horizon", "steps",
    "aggregates", "quality", "budget",
)  # fmt: skip
_TARGET = ("output", "dead_letters", "duplicates", "late", "ledger", "state", "shards")
_GOING_ON = ("disorder", "close_windows")
_ENDING = ("until", "run_id", "reprocess", "allow_no_input")
_ENDLESS = ("commit_every", "poll_rows", "idle")
_LAST = ("wait", "retry_seconds", "secrets", "encrypt_dead_letters", "mask_key", "log_format")
_GROUPS = {
    "Source": _SOURCE,
    "Records": _RECORDS,
    "Target": _TARGET,
    "Time": (*_GOING_ON, "until", *_ENDLESS),
    "Run": (*_ENDING, *_LAST),
}
"""Group → its keys. The console shows others in a group of their own, before these."""
_FIRST_GROUP = "Job"


@dataclass(frozen=True)
class Template:
    """A pipeline that a service launches with parameters.

    Attributes:
        name: of its spec file, and what the command line calls it.
        title: what a list of templates shows.
        description: what it does, in a sentence or two.
        streaming: whether it runs for ever.
        keys: the keys of a job that are its parameters, in this order.
    """

    name: str
    title: str
    description: str
    streaming: bool
    keys: tuple[str, ...]

    @property
    def flags(self) -> tuple[str, ...]:
        """What every launch of it says to Beam."""
        return ("--streaming",) if self.streaming else ()


TEMPLATES = {
    template.name: template
    for template in (
        Template(
            "ingest",
            "millstream: files, or what has come of a stream, to a warehouse or a lake",
            "Reads files (JSON lines, CSV, Avro, Parquet), or a stream up to now, holds records "
            "against a data contract, sends what is wrong to dead letters, aggregates by event "
            "time, and commits all outputs once. A run that does not balance commits nothing.",
            streaming=False,
            keys=(*_FIRST, *_SOURCE, *_RECORDS, *_TARGET, *_GOING_ON, *_ENDING, *_LAST),
        ),
        Template(
            "stream",
            "millstream: a stream to a warehouse or a lake",
            "Reads Kafka, Pub/Sub or Kinesis for ever, holds each record against a data contract, "
            "sends what is wrong to dead letters, aggregates in windows of event time, and commits "
            "outputs and positions together.",
            streaming=True,
            keys=(*_FIRST, *_SOURCE, *_RECORDS, *_TARGET, *_GOING_ON, *_ENDLESS, *_LAST),
        ),
    )
}
"""Name → template."""

_KINDS = {"job": "GCS_READ_FILE", "contract": "GCS_READ_FILE", "state": "GCS_WRITE_FOLDER"}
"""Keys whose values the console helps to choose."""
_RUN_ID = r"^[A-Za-z0-9-][A-Za-z0-9._-]{0,63}$"
_PLACE = r"^[a-z]+:.+$"
_DURATION = r"0*[1-9][0-9]* *(ms|s|m|h|d)|P[0-9.]+D(T[0-9.HMS]+)?|PT[0-9.HMS]+"
_PATTERNS = {
    "run_id": _RUN_ID,
    **dict.fromkeys(("output", "dead_letters", "duplicates", "late", "ledger"), _PLACE),
    "horizon": f"^({_DURATION})$",
    **dict.fromkeys(("disorder", "idle"), f"^(0s?|{_DURATION})$"),
}
"""What the console holds values against before it launches anything. The job looks closer."""
_JOB_HELP = (
    "a job file, as gs://bucket/job.yaml: it may say everything, and each parameter here stands in "
    "the place of what it says"
)


def metadata(template: Template) -> dict[str, Any]:
    """The content of a template's ``metadata.json``."""
    modes: dict[str, Any] = {}
    if template.streaming:
        # Commits can be repeated: what the service gives twice in the cheaper mode lands once.
        modes = {"supportsAtLeastOnce": True, "defaultStreamingMode": "EXACTLY_ONCE"}
    return {
        "name": template.title,
        "description": template.description,
        "streaming": template.streaming,
        "supportsExactlyOnce": True,
        **modes,
        "parameters": [parameter(key) for key in template.keys],
    }


def spec(template: Template, image: str) -> dict[str, Any]:
    """The content of a template's spec file, for an image that launches it and runs its workers."""
    return {
        "image": image,
        "metadata": metadata(template),
        "sdkInfo": {"language": "PYTHON"},
        "defaultEnvironment": {"sdkContainerImage": image},
    }


def parameter(key: str) -> dict[str, Any]:
    """What is said of one parameter. All are optional, since a job file may say it: a launch
    without what a job needs is refused by the launcher, which names it."""
    kind = _kind(key)
    found: dict[str, Any] = {
        "name": key,
        "label": key.replace("_", " ").capitalize(),
        "helpText": _help(key),
        "isOptional": True,
        "paramType": kind,
        "groupName": next((g for g, keys in _GROUPS.items() if key in keys), _FIRST_GROUP),
    }
    if kind == "ENUM":
        found["enumOptions"] = [{"value": value} for value in _choices(key) if value]
    if key in _PATTERNS:
        found["regexes"] = [_PATTERNS[key]]
    return found


def _help(key: str) -> str:
    if key == "job":
        return _JOB_HELP
    text = KEYS[key].__metadata__[0]
    if key == "input":
        text += "; of several a list, as [gs://b/2024/*.jsonl, gs://b/2025/*.jsonl]"
    return f"{text} (needed, here or in the job file)" if key in REQUIRED else text


def _kind(key: str) -> str:
    if key in _KINDS:
        return _KINDS[key]
    if _choices(key):
        return "ENUM"
    types = _types(key)
    if bool in types:
        return "BOOLEAN"
    return "NUMBER" if {int, float} & types else "TEXT"


def _choices(key: str) -> list[str]:
    """The values of a key that has few."""
    return [value for value in get_args(KEYS[key].__origin__) if isinstance(value, str)]


def _types(key: str) -> set[Any]:
    kind = KEYS[key].__origin__
    return set(get_args(kind)) if get_origin(kind) is not None else {kind}
