"""Prism, Beam's portable local runner: found, or built from Beam's own sources with Go.

``python -m tests.services.prism`` builds it into ``.prism`` of the checkout, of the very version of
the apache-beam that is installed. Where it cannot, it says why and exits 1; tests that need Prism
are skipped then.
"""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
from collections.abc import Iterator
from importlib.metadata import version
from pathlib import Path

MODULE = "github.com/apache/beam/sdks/v2"
CHECKOUT = Path(__file__).resolve().parents[2]

_BUILD_SECONDS = 1200
_ASK_SECONDS = 30


class NoPrism(Exception):
    """Prism cannot be had here. The message says why."""


def wanted_version() -> str:
    """The version of Prism that goes with the installed Beam, as Go writes it."""
    return f"v{version('apache-beam')}"


def prism_location() -> str | None:
    """The path of a Prism of the wanted version, or ``None``: see :func:`why_not`."""
    return next((str(path) for path in _places() if _is_wanted(path)), None)


def why_not() -> str:
    """Why :func:`prism_location` finds nothing, and what to do."""
    if shutil.which("go") is None:
        return "Prism is not there, and Go, which builds it, is not installed"
    return f"Prism {wanted_version()} is not built; run: python -m tests.services.prism"


def build() -> str:
    """Build Prism into the checkout; gives its path.

    Raises:
        NoPrism: Go is missing, or cannot build it.
    """
    go = shutil.which("go")
    if go is None:
        raise NoPrism("Go is not installed")
    command = [go, "install", f"{MODULE}/go/cmd/prism@{wanted_version()}"]
    environment = {**os.environ, "GOBIN": str(_folder())}
    try:
        subprocess.run(command, env=environment, cwd="/", timeout=_BUILD_SECONDS, check=True)
    except (OSError, subprocess.SubprocessError) as error:
        raise NoPrism(str(error)) from error
    return str(_folder() / "prism")


def _folder() -> Path:
    return CHECKOUT / ".prism" / wanted_version()


def _places() -> Iterator[Path]:
    yield _folder() / "prism"
    if found := shutil.which("prism"):
        yield Path(found)
    if gopath := _go("env", "GOPATH").strip():
        yield Path(gopath) / "bin" / "prism"


def _is_wanted(path: Path) -> bool:
    if not os.access(path, os.X_OK):
        return False
    if path.parent == _folder():  # put there by build
        return True
    module = re.search(rf"^\s+mod\s+{re.escape(MODULE)}\s+(\S+)", _go("version", "-m", path), re.M)
    return module is not None and module[1] == wanted_version()


def _go(*arguments: str | Path) -> str:
    """What a ``go`` command prints; nothing if there is no Go, or it fails."""
    try:
        done = subprocess.run(
            ["go", *arguments], capture_output=True, text=True, timeout=_ASK_SECONDS
        )
    except (OSError, subprocess.SubprocessError):
        return ""
    return done.stdout if done.returncode == 0 else ""


def main() -> int:
    if found := prism_location():
        print(f"prism: {found}")
        return 0
    print(f"prism: building {wanted_version()} from source; this takes some minutes", flush=True)
    try:
        print(f"prism: {build()}")
    except NoPrism as error:
        print(f"prism: not built: {error}; tests that need it will be skipped", file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
