"""Which run is which commit of a job that goes on: numbered files, each written once.

Beside the run store's folders, ``_millstream/chain/<sequence>.json`` names the run that was the
first to be ready as the commit of that number.
"""

from __future__ import annotations

import msgspec

from . import storage
from .plan import Token

LINK_FORMAT = "millstream.link/1"


class Link(msgspec.Struct, frozen=True, kw_only=True):
    """Which plan is the commit of a number."""

    format: str = LINK_FORMAT
    token: str


class Links:
    """The links of a run store's home. Picklable.

    All methods raise ``StorageError`` when a file cannot be read or written.
    """

    def __init__(self, home: str) -> None:
        self._folder = storage.join(home, "_millstream", "chain")

    def newest(self) -> tuple[int, Token] | None:
        """The number and the token of the newest commit; ``None`` if there is none yet."""
        paths = self._paths()
        return (_number(paths[-1]), self._read(paths[-1])) if paths else None

    def claim(self, number: int, token: Token) -> Token:
        """Make a token the commit of a number; gives the one that is it."""
        path = storage.join(self._folder, f"{number:010d}.json")
        if storage.write_once(path, msgspec.json.encode(Link(token=str(token)))):
            return token
        return self._read(path)

    def older(self, keep: int) -> list[tuple[int, Token]]:
        """All links but the newest, of which so many are kept."""
        return [(_number(path), self._read(path)) for path in self._paths()[:-keep]]

    def delete(self, number: int) -> None:
        """Delete the link of a number."""
        storage.delete(storage.join(self._folder, f"{number:010d}.json"))

    def _paths(self) -> list[str]:
        return storage.list_files(self._folder, ".json")

    def _read(self, path: str) -> Token:
        try:
            link = msgspec.json.decode(storage.read_bytes(path), type=Link)
        except msgspec.DecodeError as exc:
            raise storage.StorageError(f"cannot read {path}: {exc}", path) from exc
        if link.format != LINK_FORMAT:
            raise storage.StorageError(f"cannot read {path}: format {link.format!r}", path)
        return Token.parse(link.token)


def _number(path: str) -> int:
    return int(path.rpartition("/")[2].removesuffix(".json"))
