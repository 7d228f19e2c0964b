"""The job file: what a run reads, holds against which contract, and writes where.

Every key is also a flag of the command line, which overrides it. A path in a job file is relative
to the file, a path in a flag to the working directory.
"""

from __future__ import annotations

import os
import posixpath
import re
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass
from textwrap import indent
from typing import TYPE_CHECKING, Annotated, Any, Literal, get_args, get_type_hints

import msgspec

from ..schemas.contract import ContractError
from ..schemas.csv.options import CsvOptions
from ..schemas.documents import Document, read_document
from ..schemas.enrich.spec import EnrichJob, LookupJob, Validity
from ..schemas.problems import did_you_mean, list_names
from ..schemas.repairs.spec import RepairJob
from ..transforms import secrets
from ..transforms.secrets import SecretFile
from .drift import DriftPolicy, with_refusals
from .gates import BreakerJob, BudgetJob, LimitJob, QualityJob
from .logs import LogFormat

if TYPE_CHECKING:
    from ..schemas.decoded import UnknownFields


class JobError(ValueError):
    """A job that cannot be run as it is written. The message names the file, the line or the flag,
    what was expected, and the nearest right name."""


STREAMS = ("kafka", "generate", "pubsub", "kinesis")
"""Schemes of input that is a stream."""

Format = Literal["auto", "jsonl", "csv", "avro", "parquet"]
"""Formats of input."""


class AggregateJob(msgspec.Struct, forbid_unknown_fields=True, kw_only=True):
    """One aggregate of a job."""

    name: str
    window: dict[str, Any]
    by: list[str] = []
    metrics: dict[str, str]
    output: str
    allowed_lateness: str | None = None
    early: bool = False
    panes: Literal["accumulating", "discarding"] = "accumulating"


class StepJob(msgspec.Struct, forbid_unknown_fields=True, kw_only=True):
    """One step between the contract and the outputs: ``sql``, ``python``, ``enrich`` or ``lookup``.

    What a job does not say of the latter two is not in its plan either.
    """

    sql: str | None = None
    python: str | None = None
    over: Literal["batch", "row"] = "batch"
    adds: dict[str, str] = {}
    enrich: EnrichJob | msgspec.UnsetType = msgspec.UNSET
    lookup: LookupJob | msgspec.UnsetType = msgspec.UNSET

    @property
    def kinds(self) -> list[str]:
        """The kinds that it is said to be of, which should be one."""
        given = {
            "sql": self.sql is not None,
            "python": self.python is not None,
            "enrich": self.enrich is not msgspec.UNSET,
            "lookup": self.lookup is not msgspec.UNSET,
        }
        return [kind for kind, is_given in given.items() if is_given]


class Job(msgspec.Struct, forbid_unknown_fields=True, kw_only=True):
    """A job. What is annotated to a key's type is the help text of its flag."""

    name: Annotated[str, "the job's name, in run records and dead letters"]
    contract: Annotated[str, "ODCS 3.x document that says what a record must be"]
    schema: Annotated[str | None, "the schema object of the contract, where it has several"] = None
    input: Annotated[list[str], "files to read: names or patterns; * ? [..] and ** are wildcards"]
    format: Annotated[
        Format,
        "format of the input; auto: by the file names' ending, else jsonl",
    ] = "auto"
    csv: Annotated[CsvOptions, "how CSV input is written, as YAML: delimiter, quote, header, …"] = (
        CsvOptions()
    )
    compression: Annotated[
        Literal["auto", "gzip", "bzip2", "zstd", "xz", "none"], "auto: by the file names' ending"
    ] = "auto"
    deduplicate: Annotated[
        Literal["no", "run", "committed", "horizon"],
        "records of one primary key: let all pass, keep the first of the run, keep none that "
        "another run has committed to the output, or, with until or --streaming, keep none of "
        "which another was kept within the horizon",
    ] = "no"
    horizon: Annotated[
        str | None,
        "with deduplicate: horizon: records of one key whose event times are less apart, as 24h, "
        "are duplicates; keys are remembered for twice as long",
    ] = None
    steps: Annotated[
        list[StepJob],
        "what happens to records before they are written, as YAML: sql, python, enrich, lookup",
    ] = []
    output: Annotated[
        str | None,
        "where records go, as parquet:DIR (jsonl:, csv:, avro:, delta:), duckdb:FILE/TABLE, "
        "postgresql://HOST/DATABASE/TABLE, iceberg:CATALOG/NAMESPACE.TABLE, "
        "kafka://HOST:PORT/TOPIC, bigquery:PROJECT.DATASET.TABLE or pubsub://PROJECT/TOPIC; "
        "may be left out",
    ] = None
    dead_letters: Annotated[str, "where dead letters go, as jsonl:DIR, or any other destination"]
    duplicates: Annotated[
        str | None, "where duplicates go, as parquet:DIR; else they are counted only"
    ] = None
    ledger: Annotated[str, "where the ledger goes, as jsonl:DIR"]
    state: Annotated[
        str | None,
        "the folder for plans, run records and rows that are staged for tables; else the ledger's, "
        "where that is a folder of files",
    ] = None
    aggregates: Annotated[list[AggregateJob], "windowed aggregates, as YAML"] = []
    quality: Annotated[
        QualityJob | None,
        "what a broken quality check of the contract does, as YAML: action (warn, quarantine or "
        "fail), severities, quarantine, scores, breaker",
    ] = None
    budget: Annotated[
        BudgetJob | None,
        "how many records may be dead letters, as YAML: dead, ratio, and source for each source",
    ] = None
    repairs: Annotated[
        list[RepairJob],
        "what is tried on records that break the contract, as YAML: of a field one of trim, cast, "
        "default, map, rename, clamp, date_format",
    ] = []
    drift: Annotated[
        DriftPolicy,
        "what becomes of unknown fields, wider types and new values: ignore; warn counts them; "
        "quarantine makes dead letters of unknown fields too; evolve makes the next version of the "
        "contract of them; freeze stops the run",
    ] = "ignore"
    event_time: Annotated[
        str | None, "the field that holds the event time; else the contract's"
    ] = None
    unknown_fields: Annotated[
        Literal["ignore", "keep", "reject"], "fields that the contract does not name"
    ] = "ignore"
    max_record_bytes: Annotated[int, "longer records are dead letters"] = 16 << 20
    until: Annotated[
        Literal["", "now"],
        "now: go on from where the last run of the job stopped, up to what is there now; windows "
        "that are not over stay open for the next run",
    ] = ""
    disorder: Annotated[
        str, "with until: by how much a record may come after a later one, as 30s, and be on time"
    ] = "1m"
    late: Annotated[
        str | None,
        "with until: where records go that are late for an aggregate, as jsonl:DIR",
    ] = None
    commit_every: Annotated[
        float, "with --streaming: seconds after which what has been read is committed in any case"
    ] = 10.0
    poll_rows: Annotated[int, "of a stream: how many records are taken at once, at most"] = 50_000
    idle: Annotated[
        str, "with --streaming: a partition without a record for so long holds nothing back"
    ] = "5s"
    close_windows: Annotated[bool, "with until: give all windows that are open as they are"] = False
    run_id: Annotated[str | None, "name of the run; else made from what the run will do"] = None
    reprocess: Annotated[bool, "read input that another run has committed already"] = False
    allow_no_input: Annotated[bool, "a pattern that matches no file is no error"] = False
    retry_seconds: Annotated[
        float, "seconds for which a destination that does not answer is asked again"
    ] = 120.0
    wait: Annotated[float, "seconds to wait while another run of the job holds its lock"] = 0.0
    progress: Annotated[bool, "show on a terminal how far a local run is"] = True
    log_format: Annotated[LogFormat, "how messages and logs are written to standard error"] = "text"
    shards: Annotated[
        int | None, "files that an aggregate is written to; else 1 on the local runner, 4 elsewhere"
    ] = None
    secrets: Annotated[
        dict[str, str | SecretFile],
        "environment variables that this process and the workers get from where secrets are kept, "
        "as YAML: PGPASSWORD: projects/P/secrets/S/versions/latest; a file, as KEY: {file: "
        "gs://bucket/kafka.properties}, is brought here, and the variable names it",
    ] = {}
    encrypt_dead_letters: Annotated[
        str | None,
        "the environment variable that holds keys of Fernet, with commas between them: payloads of "
        "dead letters and late records are encrypted with the first; secrets can fetch it",
    ] = None
    mask_key: Annotated[
        str | None,
        "the environment variable that holds a secret: values of classified fields are shown as "
        "hashes keyed by it, so that equal ones can be told equal; secrets can fetch it",
    ] = None
    helpers: Annotated[
        int | None, "processes that help the local runner decode; else by processors and input"
    ] = None

    @property
    def unknown_mode(self) -> UnknownFields:
        """What decoders do with unknown fields."""
        only_noticed = self.drift == "warn" and self.unknown_fields == "ignore"
        return "notice" if only_noticed else self.unknown_fields

    @property
    def stream(self) -> str | None:
        """The first input that is a stream, and no file."""
        return next((uri for uri in self.input if uri.partition("://")[0] in STREAMS), None)


KEYS: dict[str, Any] = get_type_hints(Job, include_extras=True)
"""Key → its annotated type, in the order of the class."""

REQUIRED = tuple(f.name for f in msgspec.structs.fields(Job) if f.required)

_PATHS = {"contract", "input", "state"}
_URIS = {"output", "dead_letters", "duplicates", "late", "ledger"}
_LOCAL = {"parquet", "jsonl", "csv", "avro", "duckdb", "delta"}
"""Schemes of destinations whose URI holds a path."""
_YAML = {"aggregates", "steps", "csv", "secrets", "quality", "budget", "repairs"}
"""Keys whose flags hold YAML."""
_MAPPINGS = {"csv", "secrets", "quality", "budget"}
"""Those whose YAML is a mapping."""


@dataclass(frozen=True)
class Places:
    """Where each part of a job is said: on a line of the job file, or in a flag."""

    document: Document | None
    flags: Collection[str]

    def error(self, steps: Sequence[str | int], said: str) -> JobError:
        """The error to raise for the part at ``steps``, as ``("aggregates", 0, "by")``."""
        path = "".join(f"[{s}]" if isinstance(s, int) else f".{s}" for s in steps).lstrip(".")
        document = self.document
        if document is None or steps[0] in self.flags:
            return JobError(f"--{path}: {said}")
        around = (tuple(steps[:n]) for n in range(len(steps), 0, -1))
        line = next((document.lines[at] for at in around if at in document.lines), 1)
        return JobError(f"{document.origin}:{line} {path}: {said}")

    def error_of_all(self, said: str) -> JobError:
        """The error to raise for the job as a whole."""
        return JobError(f"{self.document.origin}: {said}" if self.document else said)


def load_job(path: str | None, flags: Mapping[str, Any]) -> tuple[Job, Places]:
    """The job of a file, with what the flags say in place of what the file says.

    Args:
        path: the job file, or ``None`` where the flags say it all.
        flags: key → value, as :func:`flag_value` read it.

    Raises:
        JobError: the file or a flag cannot be used.
    """
    document = _read(path) if path else None
    places = Places(document, flags.keys())
    values: dict[str, Any] = {}
    if document is not None:
        _refuse_unknown(document)
        base = os.path.dirname(document.origin)
        values = {k: _placed(k, v, base) for k, v in document.value.items() if v is not None}
    values.update((k, _placed(k, v, "")) for k, v in flags.items())
    for key in (_PATHS | _URIS) & values.keys():
        if _holds_nul(values[key]):
            raise places.error((key,), "holds the character NUL, which no name of a file has")
    for key in REQUIRED:
        if key not in values:
            said = f"{key} is not given: write it in the job file, or --{key}"
            raise places.error_of_all(said)
    if not values.get("output") and not values.get("aggregates"):
        raise places.error_of_all("the job writes nothing: give output, aggregates, or both")
    return _checked(values, places), places


def _holds_nul(value: Any) -> bool:
    texts = value if isinstance(value, list) else [value]
    return any("\0" in text for text in texts if isinstance(text, str))


def read_text(path: str, what: str) -> str:
    """The text of a file, local or ``scheme://``, that has to be UTF-8.

    Args:
        what: what messages call it.

    Raises:
        JobError: it cannot be read.
    """
    from ..transforms import storage

    try:
        return storage.read_bytes(path).decode("utf-8-sig")
    except storage.StorageError as error:
        raise JobError(f"{path}: cannot read {what}: {_reason(error, path)}") from None
    except UnicodeDecodeError:
        raise JobError(f"{path}: {what} is not UTF-8 text") from None


def _reason(error: Exception, path: str) -> str:
    return str(error).removeprefix(f"cannot read {path}: ")


def _read(path: str) -> Document:
    text = read_text(path, "the job file")
    try:
        return read_document(text, path)
    except ContractError as error:
        raise JobError(str(error)) from None


def _refuse_unknown(document: Document) -> None:
    for key in document.value:
        if key not in KEYS:
            line = document.lines.get((key,), 1)
            hint = did_you_mean(key, KEYS)
            raise JobError(f"{document.origin}:{line}: no such key: {key}{hint}")


def _placed(key: str, value: Any, base: str) -> Any:
    """The value with its relative paths made relative to the working directory."""
    if key == "input" and isinstance(value, str):
        value = [value]
    if key in ("output", "duplicates", "late", "state") and value == "":
        return None
    if not base:
        return value
    if key in _PATHS:
        if isinstance(value, list):
            return [_from(base, v) if isinstance(v, str) else v for v in value]
        return _from(base, value) if isinstance(value, str) else value
    if key in _URIS and isinstance(value, str):
        return _uri_from(base, value)
    if key == "quality":
        return _with_uri_from(base, _with_uri_from(base, value, "scores"), "quarantine")
    if key == "aggregates" and isinstance(value, list):
        return [_with_uri_from(base, aggregate, "output") for aggregate in value]
    if key == "secrets" and isinstance(value, dict):
        return {name: _secret_from(base, reference) for name, reference in value.items()}
    if key == "steps" and isinstance(value, list):
        return [
            {**step, "enrich": _with_uri_from(base, step["enrich"], "from")}
            if isinstance(step, dict) and "enrich" in step
            else step
            for step in value
        ]
    return value


def _secret_from(base: str, reference: Any) -> Any:
    if isinstance(reference, dict) and isinstance(reference.get("file"), str):
        return {**reference, "file": _secret_from(base, reference["file"])}
    if isinstance(reference, str) and secrets.is_path(reference):
        return _from(base, reference)
    return reference


def _with_uri_from(base: str, part: Any, key: str) -> Any:
    """A part of a job with the URI that it has under a key made relative to another folder."""
    if isinstance(part, dict) and isinstance(part.get(key), str):
        return {**part, key: _uri_from(base, part[key])}
    return part


def _from(base: str, path: str) -> str:
    if "://" in path or os.path.isabs(path):
        return path
    scheme, remote, folder = base.partition("://")
    if not remote:
        return os.path.join(base, path)
    return f"{scheme}://{posixpath.normpath(posixpath.join(folder, path))}"  # a store has no ".."


def _uri_from(base: str, uri: str) -> str:
    scheme, colon, rest = uri.partition(":")
    if not colon or not rest or scheme not in _LOCAL:
        return uri
    return f"{scheme}:{_from(base, rest)}"


def _checked(values: dict[str, Any], places: Places) -> Job:
    try:
        job = msgspec.convert(values, Job)
    except msgspec.ValidationError as error:
        raise _explained(error, values, places) from None
    for key in ("max_record_bytes", "shards", "poll_rows"):
        given = getattr(job, key)
        if given is not None and given < 1:
            raise places.error((key,), f"expected at least 1, got {given}")
    for key in ("commit_every", "retry_seconds", "wait"):
        given = getattr(job, key)
        if not given >= 0:  # nor is it one that is none
            raise places.error((key,), f"expected seconds, 0 or more, got {given}")
    if not job.input:
        raise places.error(("input",), "is empty: name at least one file or pattern")
    names: set[str] = set()
    for i, aggregate in enumerate(job.aggregates):
        at = ("aggregates", i, "name")
        if aggregate.name in names:
            raise places.error(at, f"two aggregates are named {aggregate.name!r}")
        if aggregate.name in ("records", "dead_letters", "duplicates", "late", "ledger", "quality"):
            raise places.error(at, f"the name {aggregate.name!r} is taken; choose another")
        names.add(aggregate.name)
    for i, step in enumerate(job.steps):
        if len(step.kinds) != 1:
            raise places.error(("steps", i), "expected sql, python, enrich or lookup, one of them")
        if step.python is None and (step.adds or step.over != "batch"):
            raise places.error(("steps", i), "over and adds belong to python steps")
    return with_refusals(job, places)


def check_going_on(job: Job, streaming: bool, places: Places) -> None:
    """See that what is said of going on fits together.

    Args:
        streaming: the job goes on for as long as it runs.

    Raises:
        JobError: it does not.
    """
    if not job.until and not streaming:
        for key in ("late", "close_windows"):
            if getattr(job, key):
                raise places.error((key,), "is for jobs that go on: say until: now")
        if job.deduplicate == "horizon":
            said = "horizon is for jobs that go on (until: now, or --streaming): in one that ends "
            raise places.error(("deduplicate",), said + "say deduplicate: run")
    if job.horizon and job.deduplicate != "horizon":
        raise places.error(("horizon",), "is of no use without deduplicate: horizon")
    if job.deduplicate == "horizon" and not job.horizon:
        said = "say too how far apart records of one key are that are none, as horizon: 24h"
        raise places.error(("deduplicate",), said)
    if not job.until and not streaming:
        return
    endless = streaming and job.stream is not None
    if (streaming and job.deduplicate == "run") or (endless and job.deduplicate == "committed"):
        said = "a stream has no end at which all its records could be compared: say deduplicate: "
        raise places.error(("deduplicate",), said + "horizon, and horizon: 24h, or how long it is")
    if job.until and streaming:
        said = "a stream that is read up to now ends: leave out until, or --streaming"
        raise places.error(("until",), said)
    if job.run_id:
        raise places.error(("run_id",), "runs that go on are numbered: leave it out")
    if job.aggregates and not job.late:
        said = "late is not given: records may come too late for an aggregate; say where they go, "
        raise places.error_of_all(said + "as late: jsonl:DIR")


_UNKNOWN_FIELD = re.compile(r"Object contains unknown field `(.*?)`")
_MISSING_FIELD = re.compile(r"Object missing required field `(.*?)`")
_STEP = re.compile(r"\.([A-Za-z_]\w*)|\[(\d+)\]")
_WORDS = {
    "str": "a string",
    "int": "a whole number",
    "float": "a number",
    "bool": "true or false",
    "array": "a list",
    "object": "a mapping",
    "null": "nothing",
}
"""What msgspec calls a type → what a message calls it."""


def _explained(error: msgspec.ValidationError, values: dict[str, Any], places: Places) -> JobError:
    said, _, where = str(error).partition(" - at `$")
    steps = [m[1] or int(m[2]) for m in _STEP.finditer(where)]
    if where.endswith("[...]`"):  # some value of a mapping
        inside: Any = values
        for step in steps:
            inside = inside[step]
        steps.append(next(k for k, v in inside.items() if not isinstance(v, str)))
    part = _part_at(steps)
    names = part.__struct_encode_fields__ if part else ()
    if unknown := _UNKNOWN_FIELD.match(said):
        steps.append(unknown[1])
        said = f"no such key: {unknown[1]}{did_you_mean(unknown[1], names)}"
    elif missing := _MISSING_FIELD.match(said):
        said = f"{missing[1]} is not given"
    elif said.startswith("Invalid enum value"):
        kind: Any = KEYS[str(steps[0])].__origin__
        given: Any = values
        for step in steps:
            given = given[step]
        if len(steps) > 1:
            kind = get_type_hints(_part_at(steps[:-1]))[str(steps[-1])]
        said = _not_among(given, get_args(kind))
    else:
        said = re.sub(r"`(.*?)`", lambda m: _in_words(m[1]), said[0].lower() + said[1:])
    return places.error(steps, said)


_PARTS: dict[str, type[msgspec.Struct]] = {
    "aggregates": AggregateJob,
    "steps": StepJob,
    "steps.enrich": EnrichJob,
    "steps.enrich.valid": Validity,
    "steps.enrich.csv": CsvOptions,
    "steps.lookup": LookupJob,
    "csv": CsvOptions,
    "secrets": SecretFile,
    "quality": QualityJob,
    "quality.breaker": BreakerJob,
    "budget": BudgetJob,
    "budget.source": LimitJob,
    "repairs": RepairJob,
}
"""Keys → what they are, or are a list of."""


def _part_at(steps: Sequence[str | int]) -> type[msgspec.Struct] | None:
    return _PARTS.get(".".join(step for step in steps if isinstance(step, str)))


def _in_words(kinds: str) -> str:
    return " or ".join(_WORDS.get(kind, kind) for kind in kinds.split(" | "))


def _not_among(value: str, choices: Sequence[str]) -> str:
    return f"expected {list_names(choices)}, got {value!r}{did_you_mean(value, choices)}"


def flag_value(key: str) -> Callable[[str], Any]:
    """A function that reads the text of a key's flag; raises ``ValueError`` with what is wrong."""
    kind = KEYS[key].__origin__
    choices = get_args(kind)

    def read(text: str) -> Any:
        if key in _YAML:
            return _yaml_value(key, text)
        if choices and all(isinstance(c, str) for c in choices):
            if text not in choices:
                raise ValueError(_not_among(text, choices))
            return text
        if kind in (int, float) or int in choices:
            try:
                return float(text) if kind is float else int(text)
            except ValueError:
                expected = "a number" if kind is float else "a whole number"
                raise ValueError(f"expected {expected}, got {text!r}") from None
        if kind is bool:
            if text.lower() not in ("true", "false"):
                raise ValueError(f"expected true or false, got {text!r}")
            return text.lower() == "true"
        return text

    return read


def _yaml_value(key: str, text: str) -> Any:
    try:
        # indented, so that a list that begins at the margin belongs to the key
        document = read_document(f"{key}:\n" + indent(text, " "), "")
    except ContractError as error:
        line, _, said = str(error).removeprefix(":").partition(": ")
        raise ValueError(f"line {int(line) - 1}: {said}") from None
    return document.value[key] or ({} if key in _MAPPINGS else [])
