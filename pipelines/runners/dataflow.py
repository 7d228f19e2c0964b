"""Dataflow: what a job needs there, and what it cannot have; found before anything is submitted."""

from __future__ import annotations

import ast
import os
import re
from collections.abc import Iterator
from importlib.util import find_spec
from unicodedata import category

from ..job import JobError
from .flags import is_given, value, with_defaults

_GCP = ("google.cloud.dataflow", "google.cloud.storage")
"""What of the extra ``gcp`` Beam imports when it submits a job."""
_JOB_NAME = re.compile(r"[a-z]([-a-z0-9]{0,1022}[a-z0-9])?")
"""From the service's reference: projects.jobs, ``name``."""
_GCS = re.compile(r"gs://[a-z0-9][-_a-z0-9.]+[a-z0-9]/.*")
"""What Beam's ``PipelineOptionsValidator.validate_gcs_path`` takes for one."""
_LABELS = ("--label", "--labels")
_MOST_LABELS = 64
_KEY, _VALUE = range(1, 64), range(64)
"""How many characters the parts of a label have. From the reference too: ``labels``."""
_LAUNCHED = re.compile(r"/template_launches/[^/]+/job_object$")
_TEMPLATE = "MILLSTREAM_TEMPLATE"
"""The environment variable that our Flex Templates' image sets."""
_SHOWN = ("--s3_access_key_id", "--s3_secret_access_key", "--s3_session_token")
"""Options of Beam's that hold secrets."""
BRINGS_CODE = ("--sdk_container_image", "--setup_file", "--extra_package", "--extra_packages")
"""Flags by which modules come to workers that no index of packages has."""
BRINGS_PACKAGES = (*BRINGS_CODE, "--requirements_file")


def is_used(flags: list[str]) -> bool:
    """Whether a job is for Dataflow."""
    return value(flags, "--runner").rpartition(".")[2].lower() == "dataflowrunner"


def flags(flags: list[str]) -> list[str]:
    """The flags of a job, with what Dataflow needs; what is given stays as it is.

    - ``--no_save_main_session``: for a service, and for no other endpoint, Beam pickles all that
      ``__main__`` holds and stages it for workers to load, unless it is told not to
      (``SetupOptions._handle_load_main_session``). Nothing of ours is in there.

    Streaming Engine and the portable runner need not be asked for: Beam 2.77 has nothing else for
    Python (``_check_and_add_missing_options`` and ``…_streaming_options`` of its DataflowRunner).
    Nor need ``--sdk_location=container``: by default it stages no SDK (``Stager``).
    """
    given = is_given(flags, "--save_main_session")
    return flags if given else with_defaults(flags, ["--no_save_main_session"])


def check_flags(flags: list[str], streaming: bool) -> None:
    """See that the flags of a job are what Dataflow needs.

    Raises:
        JobError: they are not, or what submits jobs is not installed.
    """
    for problem in problems(flags, streaming):
        raise JobError(problem)


def problems(flags: list[str], streaming: bool) -> Iterator[str]:
    """What is wrong with the flags of a job, each in a sentence that says what to do."""
    if not all(map(_is_there, _GCP)):
        yield "DataflowRunner: install what it needs with: pip install 'millstream[gcp]'"
    for flag in ("--project", "--region"):
        if not value(flags, flag):
            yield f"{flag}: is not given, and Dataflow needs it"
    yield from _of_places(flags)
    yield from _of_names(flags, streaming)
    for flag in _SHOWN:
        if is_given(flags, flag):
            yield (
                f"{flag}: the options of a job are shown to all who may see it; leave it out, and "
                "say in the job's secrets where workers find AWS_ACCESS_KEY_ID and the rest"
            )
    if not any(is_given(flags, flag) for flag in BRINGS_PACKAGES):
        yield (
            "--sdk_container_image: is not given, and the image that Dataflow's workers have "
            "otherwise lacks millstream; name one that has it, or say --setup_file, "
            "--extra_package or --requirements_file"
        )
    template = value(flags, "--template_location")
    if template and not streaming and not is_flex_launch(flags):
        yield (
            "--template_location: what a batch job reads is fixed when it is launched, and a "
            "classic template would read that same input each time; use a Flex Template"
        )


def is_flex_launch(flags: list[str]) -> bool:
    """Whether this process is started by the launcher of a Flex Template.

    It passes ``--template_location=STAGING/template_launches/JOB/job_object``, takes the job that
    Beam leaves there, and submits it at once.
    """
    if os.environ.get(_TEMPLATE):
        return True
    return _LAUNCHED.search(value(flags, "--template_location")) is not None


def _of_places(flags: list[str]) -> Iterator[str]:
    """Without a usable one of the two Beam would make a bucket of its own."""
    given = [flag for flag in ("--temp_location", "--staging_location") if value(flags, flag)]
    if not given:
        yield "--temp_location: is not given; say where jobs are staged, as gs://BUCKET/FOLDER"
    for flag in given:
        if not _GCS.fullmatch(value(flags, flag)):
            yield f"{flag}: expected gs://BUCKET/FOLDER, got {value(flags, flag)!r}"


def _of_names(flags: list[str], streaming: bool) -> Iterator[str]:
    name = value(flags, "--job_name")
    if name and not _JOB_NAME.fullmatch(name):
        yield (
            f"--job_name: expected a-z, 0-9 and '-', first a letter and last none of '-', "
            f"got {name!r}"
        )
    if is_given(flags, "--update"):
        if not streaming:
            yield "--update: only a stream is replaced while it runs; leave it out"
        if not name:
            yield "--update: say with --job_name which job is replaced"
    elif is_given(flags, "--transform_name_mapping"):
        yield "--transform_name_mapping: is of use only with --update"
    yield from _of_labels(flags)


def _of_labels(flags: list[str]) -> Iterator[str]:
    labels: dict[str, str] = {}
    for text in _texts(flags, _LABELS):
        try:
            labels |= _label(text)
        except (SyntaxError, TypeError, ValueError):
            yield f"--labels: expected key=value, or a mapping as JSON, got {text!r}"
    if len(labels) > _MOST_LABELS:
        yield f"--labels: {len(labels)} labels, and a job has {_MOST_LABELS} at most"
    for key, text in labels.items():
        first = category(key[0]) in ("Ll", "Lo") if key else False
        if not first or not _is_word(key, _KEY) or not _is_word(text, _VALUE):
            yield (
                f"--labels: expected lower-case letters, digits, '_' and '-', of a key a letter "
                f"first, and at most 63 of them, got {key}={text}"
            )


def _label(text: str) -> dict[str, str]:
    """The labels that a flag gives, as Beam reads them (``apiclient.Job``)."""
    if "{" in text:
        return {key: str(said) for key, said in dict(ast.literal_eval(text.strip())).items()}
    key, _, said = text.partition("=")
    return {key: said}


def _is_word(text: str, lengths: range) -> bool:
    """Whether a text is of the letters that a label may have."""
    letters = all(c in "_-" or category(c) in ("Ll", "Lo") or category(c)[0] == "N" for c in text)
    return letters and len(text) in lengths and len(text.encode()) <= 128


def _texts(flags: list[str], names: tuple[str, ...]) -> Iterator[str]:
    """All values of flags that may be given several times."""
    for flag, following in zip(flags, [*flags[1:], ""], strict=True):
        name, is_with_value, text = flag.partition("=")
        if name in names:
            yield text if is_with_value else following


def _is_there(module: str) -> bool:
    try:
        return find_spec(module) is not None
    except ModuleNotFoundError:
        return False
