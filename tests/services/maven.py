"""Java programs from Maven's central repository: kept in a folder of the checkout, once fetched."""

from __future__ import annotations

import shutil
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

CHECKOUT = Path(__file__).resolve().parents[2]

QUICK = ("-XX:TieredStopAtLevel=1", "-XX:+UseSerialGC")
"""Options of Java's that halve what it takes to start a program, and to run it for a minute."""
_SECONDS = 300
"""How long Maven may take for each thing that it is asked for."""


class NoProgram(Exception):
    """A program cannot be had here. The message says why."""


@dataclass(frozen=True)
class Program:
    """A program, its version, the folder of the checkout that it is kept in, and the module of
    this package that fetches it."""

    name: str
    version: str
    folder: str
    module: str

    @property
    def home(self) -> Path:
        """Where it is, or would be."""
        return CHECKOUT / self.folder / self.version

    def why_not(self) -> str:
        """Why it cannot be run here, and what to do; empty if it can."""
        if shutil.which("java") is None:
            return f"Java, which {self.name} needs, is not installed"
        if self.home.is_dir():
            return ""
        if shutil.which("mvn") is None:
            return f"{self.name} is not there, and Maven, which fetches it, is not installed"
        return f"{self.name} {self.version} is not fetched; run: python -m {self.module}"

    @contextmanager
    def fetching(self) -> Iterator[Path]:
        """A new folder, which becomes :attr:`home` if the block ends well."""
        self.home.parent.mkdir(exist_ok=True)
        folder = Path(tempfile.mkdtemp(prefix=".new-", dir=self.home.parent))
        try:
            yield folder
            folder.rename(self.home)
        finally:
            shutil.rmtree(folder, ignore_errors=True)


def maven(arguments: Sequence[str], folder: Path) -> None:
    """Run Maven in a folder.

    Raises:
        NoProgram: there is none, or it fails.
    """
    program = shutil.which("mvn")
    if program is None:
        raise NoProgram("Maven is not installed")
    try:
        done = subprocess.run(
            [program, "-q", "-B", *arguments], cwd=folder, timeout=_SECONDS,
            stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True,
        )  # fmt: skip
    except (OSError, subprocess.SubprocessError) as error:
        raise NoProgram(str(error)) from error
    if done.returncode:
        raise NoProgram(done.stdout.strip().partition("\n")[0] or "Maven fails")


def main(program: Program, fetch: Callable[[], None]) -> int:
    """Fetch a program, if it is not there: what its module does when it is run."""
    if not program.home.is_dir():
        print(f"{program.name}: fetching {program.version}", flush=True)
        try:
            fetch()
        except NoProgram as error:
            said = f"not fetched: {error}; tests that need it will be skipped"
            print(f"{program.name}: {said}", file=sys.stderr)
            return 1
    print(f"{program.name}: {program.home}")
    return 0
