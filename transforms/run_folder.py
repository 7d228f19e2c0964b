"""The folder of one plan of a run: notes that have to outlive a crash."""

from __future__ import annotations

from dataclasses import dataclass

from . import storage
from .dead_letters import Origin
from .plan import checked_name


@dataclass(frozen=True)
class RunFolder:
    """The folder of one plan of a run, for what has to outlive a crash.

    ``origin`` is what the run's dead letters have in common; ``keys`` names the environment
    variable with the keys that they are encrypted with, if they are. All methods raise
    ``StorageError`` when a file cannot be read or written.
    """

    path: str
    origin: Origin
    keys: str = ""

    def remember(self, name: str, value: str) -> str:
        """Write a note once; gives what stands under the name, which may be an earlier note."""
        path = self._note(name)
        if storage.write_once(path, value.encode()):
            return value
        return storage.read_bytes(path).decode()

    def recall(self, name: str) -> str | None:
        """What was remembered under a name."""
        path = self._note(name)
        return storage.read_bytes(path).decode() if storage.exists(path) else None

    def _note(self, name: str) -> str:
        return storage.join(self.path, f"{checked_name(name, 'name of a note')}.note")
