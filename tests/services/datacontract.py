"""datacontract-cli, which makes the same quality checks by SQL: in a venv of its own.

``python -m tests.services.datacontract`` makes it in ``.datacontract`` of the checkout; where that
cannot be had, it says why and exits 1, and tests that hold our verdicts against its are skipped.
"""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

CHECKOUT = Path(__file__).resolve().parents[2]

_VERSION = "1.2.8"
_BUILD_SECONDS = 600
_TEST_SECONDS = 120

_SCRIPT = """
import json, logging, sys
logging.disable()
from datacontract.data_contract import DataContract
run = DataContract(data_contract_file=sys.argv[1]).test()
if any(c.type == "lint" and c.result == "failed" for c in run.checks):
    sys.exit(str(run.checks))
print(json.dumps([
    {"field": c.field, "type": c.type, "result": str(getattr(c.result, "value", c.result)),
     "value": (c.diagnostics or {}).get("value"), "reason": c.reason}
    for c in run.checks if c.category == "quality"
], default=str))
"""


class NoDatacontract(Exception):
    """It cannot be had here. The message says why."""


class Verdict(NamedTuple):
    """How it says that a check ended (``passed``, ``failed``, …), and what it measured."""

    field: str | None
    type: str
    result: str
    value: object
    reason: str | None


def why_not() -> str:
    """Why it cannot be run here, and what to do; empty if it can."""
    return "" if _is_built() else "it is not there; run: python -m tests.services.datacontract"


def verdicts(contract: Path) -> list[Verdict]:
    """How it says that the quality checks of a contract end, in the order of the document.

    Raises:
        NoDatacontract: it fails.
    """
    command = [_folder() / "bin" / "python", "-c", _SCRIPT, contract]
    try:
        done = subprocess.run(
            command, capture_output=True, text=True, timeout=_TEST_SECONDS, check=True
        )
    except (OSError, subprocess.SubprocessError) as error:
        said = getattr(error, "stderr", None) or ""
        raise NoDatacontract(f"{error}\n{said[-2000:]}") from error
    return [Verdict(**found) for found in json.loads(done.stdout.splitlines()[-1])]


def build() -> None:
    """Make it in the checkout.

    Raises:
        NoDatacontract: a package is missing.
    """
    shutil.rmtree(_folder(), ignore_errors=True)
    _run([sys.executable, "-m", "venv", _folder()])
    pip = [_folder() / "bin" / "python", "-m", "pip", "install", "-q"]
    _run([*pip, "--disable-pip-version-check", f"datacontract-cli[duckdb]=={_VERSION}"])
    (_folder() / "built").touch()  # the last thing


def _is_built() -> bool:
    return (_folder() / "built").exists()


def _folder() -> Path:
    return CHECKOUT / ".datacontract" / _VERSION


def _run(command: Sequence[str | Path]) -> None:
    try:
        subprocess.run(command, timeout=_BUILD_SECONDS, check=True)
    except (OSError, subprocess.SubprocessError) as error:
        raise NoDatacontract(str(error)) from error


if __name__ == "__main__":
    try:
        if not _is_built():
            build()
    except NoDatacontract as error:
        sys.exit(f"datacontract-cli cannot be had here: {error}")
