"""Prism, Beam's local runner of streams: found, never fetched."""

from __future__ import annotations

import os
import shutil
import subprocess
from importlib.metadata import version

from ..job import JobError
from .flags import is_given, value

_MODULE = "github.com/apache/beam/sdks/v2/go/cmd/prism"
_ASK_SECONDS = 10


def located(flags: list[str]) -> list[str]:
    """The flags, with the Prism that is on ``PATH`` if they name none.

    Raises:
        JobError: there is none, and Beam would download one; or what is named cannot be run.
    """
    if is_given(flags, "--job_endpoint"):  # one that runs already
        return flags
    place = value(flags, "--prism_location")
    if place:
        if "://" not in place and not (os.path.isfile(place) and os.access(place, os.X_OK)):
            raise JobError(f"--prism_location: there is no Prism that can be run at {place}")
        return flags
    found = shutil.which("prism")
    if found and _is_prism(found):
        return [*flags, f"--prism_location={found}"]
    raise JobError(
        "PrismRunner: there is no Prism on PATH, and Beam would download one: say "
        f"--prism_location=PATH; Go builds it: go install {_MODULE}@v{version('apache-beam')}"
    )


def _is_prism(program: str) -> bool:
    """Whether it is Beam's: other programs have that name too."""
    try:
        done = subprocess.run(
            [program, "-help"], capture_output=True, text=True, timeout=_ASK_SECONDS
        )
    except (OSError, subprocess.SubprocessError):
        return False
    return "job_port" in done.stdout + done.stderr
