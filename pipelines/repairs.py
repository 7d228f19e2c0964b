"""The repairs that a job declares: seen to before the run, and what the run makes of them."""

from __future__ import annotations

from typing import TYPE_CHECKING
from urllib.parse import parse_qs

import msgspec

if TYPE_CHECKING:
    from ..schemas.contract import Contract
    from ..transforms.repair import Repair
    from .job import Job, Places


def job_repair(job: Job, contract: Contract, places: Places) -> Repair | None:
    """What a job tries on records that break the contract; ``None`` if nothing.

    Raises:
        JobError: a repair cannot work, or not on what the job reads.
    """
    if not job.repairs:
        return None
    from ..schemas.arrow import REPAIRED
    from ..schemas.repairs.repairs import Repairs
    from ..schemas.repairs.spec import RepairError
    from ..transforms.repair import Repair

    if any(field.name == REPAIRED for field in contract.fields):
        said = f"the contract has a field {REPAIRED}, which would say what was repaired"
        raise places.error(("repairs",), said)
    _see_format(job, places)
    try:
        Repairs(contract, job.repairs)
    except RepairError as error:
        at = ("repairs", error.entry, error.key) if error.key else ("repairs", error.entry)
        raise places.error(at, str(error)) from None
    return Repair(contract, tuple(job.repairs), job.unknown_mode)


def repair_settings(job: Job) -> dict[str, str]:
    """What a plan says of repairs: nothing, where there are none."""
    if not job.repairs:
        return {}
    return {"repairs": msgspec.json.encode(job.repairs, order="sorted").decode()}


def _see_format(job: Job, places: Places) -> None:
    if job.stream and parse_qs(job.stream.partition("?")[2]).get("format") == ["avro"]:
        said = "Avro messages of a stream cannot be repaired: JSON messages and files can"
        raise places.error(("repairs",), said)
    if job.format == "csv":
        from ..schemas.csv.written import Written

        if Written(job.csv, ()).transcodes:
            said = f"CSV in {job.csv.encoding} cannot be repaired: in UTF-8, or any encoding in "
            raise places.error(("repairs",), said + "which ASCII is as it is, it can")
