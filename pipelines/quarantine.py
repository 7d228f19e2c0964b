"""Where rows go that a gate keeps back, and where they are found."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from ..schemas.quality.checks import Check
    from ..transforms.write.destination import Output
    from ..transforms.write.files import FilesDestination
    from .gates import QualityJob
    from .job import Job, Places


def quarantine_places(
    said: QualityJob,
    check: Check,
    outputs: Sequence[Output],
    places: Places,
    *,
    going_on: bool,
) -> dict[str, str]:
    """Where the rows of outputs go instead: a folder each, as files of the format they are staged
    in.

    Raises:
        JobError: that is not said, or cannot be.
    """
    from ..transforms.write.formats import BRIEF

    at = ("quality", "quarantine")
    if not said.quarantine:
        wanted = f"{check.name} ({check.place}) would be quarantined: say where to, as "
        raise places.error(("quality",), wanted + "quarantine: parquet:DIR")
    ours = [output for output in outputs if output.kind in ("records", "aggregates")]
    if going_on and any(output.kind == "aggregates" for output in ours):
        said_ = "open windows would carry quarantined records on: say fail or warn"
        raise places.error(("quality",), said_)
    to = _quarantine_folder(said.quarantine, places)
    found = {}
    for output in ours:
        format = output.destination.format
        format = "parquet" if format == BRIEF else format
        if format != to.format:
            wanted = f"output {output.name!r} is staged as {format}: say {format}:DIR"
            raise places.error(at, wanted)
        found[output.name] = _quarantine_of(to, output)
    return found


def quarantine_outputs(job: Job, outputs: Sequence[Output], places: Places) -> list[Output]:
    """Where quarantined rows of a job's outputs are, if it names a place for them.

    Raises:
        JobError: that cannot be one.
    """
    from ..transforms.quality.gate import quarantine_name
    from ..transforms.write.destination import Output

    if job.quality is None or not job.quality.quarantine:
        return []
    to = _quarantine_folder(job.quality.quarantine, places)
    return [
        Output(quarantine_name(output.name), _quarantine_of(to, output), "side")
        for output in outputs
        if output.kind in ("records", "aggregates")
    ]


def _quarantine_folder(uri: str, places: Places) -> FilesDestination:
    from ..transforms.write.destination import DestinationError, destination
    from ..transforms.write.files import FilesDestination

    at = ("quality", "quarantine")
    try:
        to = destination(uri, "quarantine")
    except DestinationError as error:
        raise places.error(at, str(error)) from None
    if not isinstance(to, FilesDestination):
        raise places.error(at, "expected a folder of files, as parquet:DIR")
    return to


def _quarantine_of(to: FilesDestination, output: Output) -> str:
    """The folder of an output's own rows."""
    from ..transforms import storage

    return f"{to.format}:{storage.join(to.home, output.name)}"
