"""How payloads and messages are shown to people: one place for all that may not be seen by all."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from typing import Any

from ...schemas.masking import MASK, TECHNICAL, Masking
from ..encryption import EncryptionError, Keys, is_encrypted, key_id, opened

Pairs = Sequence[Mapping[str, Any]]
"""Attributes, or violations, of a letter."""
NOT_HELD = "(its bytes are not held)"
NOT_SHOWN = "(not shown)"
FOREIGN = "(not shown: it is not millstream's, and may hold values)"
_GOT = re.compile(r", got .*", re.DOTALL)
LONGEST = 120
"""Characters of a payload in a list."""
_CONTROLS = re.compile(r"[\x00-\x1f\x7f-\x9f\u2028\u2029]")
_WIDTH = 16


@dataclass(frozen=True)
class Showing:
    """What of letters people get to see.

    Without ``masking`` nobody knows which fields are classified, and no value is shown. Payloads
    that are encrypted are decrypted by ``keys``, to be masked; where nothing of them is classified,
    it is they as a whole that are not for everybody. With ``reveal`` all is shown as it is.
    """

    masking: Masking | None = None
    keys: Keys | None = None
    reveal: bool = False

    def hides(self, attributes: Pairs | None) -> bool:
        """Whether a payload with these attributes is not shown as it is."""
        if self.reveal:
            return False
        return self.masking is None or self.masking.hides or is_encrypted(attributes)

    def payload(self, payload: bytes | None, attributes: Pairs | None) -> bytes:
        """A payload as it is shown, which may be text about it."""
        if payload is None:
            return NOT_HELD.encode()
        try:
            plain, pairs = self.opened(payload, attributes)
        except EncryptionError as error:
            return f"(encrypted: {error})".encode()
        if not self.hides(attributes):
            return plain
        if self.masking is None or not self.masking.hides:
            return NOT_SHOWN.encode()
        said = {pair["key"]: pair["value"] for pair in pairs or () if pair["value"] is not None}
        return self.masking.payload(plain, said).encode()

    def opened(self, payload: bytes, attributes: Pairs | None) -> tuple[bytes, Pairs | None]:
        """A payload and attributes as they were before they were encrypted, if they are.

        Raises:
            EncryptionError: there is no key for them.
        """
        if not is_encrypted(attributes):
            return payload, attributes
        assert attributes is not None
        if self.keys is None:
            said = f"name the variable that holds the key {key_id(attributes)}"
            raise EncryptionError(f"{said} with --encrypt_dead_letters")
        return self.keys.decrypt(payload, attributes), opened(attributes, self.keys)

    def attributes(self, attributes: Pairs | None) -> list[tuple[str, str]]:
        """Names and values; those that are encrypted only where all is shown."""
        pairs = attributes or ()
        if self.reveal and self.keys is not None and is_encrypted(pairs):
            with suppress(EncryptionError):  # which is said in the payload's place
                pairs = opened(pairs, self.keys) or ()
        return [(pair["key"], self._attribute(pair["key"], pair["value"])) for pair in pairs]

    def _attribute(self, name: str, value: str | None) -> str:
        if value is None or self.reveal:
            return str(value)
        if self.masking is None:
            return value if name in TECHNICAL else NOT_SHOWN
        return self.masking.attribute(name, value)

    def violations(self, letter: Mapping[str, Any]) -> list[tuple[str, str, str]]:
        """Code, field and message of each of a letter's violations."""
        return [
            (v["code"], v["field"], self._said(letter, v["field"], v["message"]))
            for v in letter["violations"] or ()
        ]

    def message(self, letter: Mapping[str, Any]) -> str | None:
        """Why a letter is one."""
        if not self._is_guarded:
            return letter["errorMessage"]
        lines = [
            f"{field}: {message}" if field else message
            for _, field, message in self.violations(letter)
        ]
        return "; ".join(lines) or (letter["errorMessage"] and FOREIGN)

    def event_time(self, letter: Mapping[str, Any]) -> Any:
        """When what is told of happened: a field's value, as the payload has it."""
        moment = letter["event_time"]
        if moment is None or self.reveal or self.masking is None:
            return moment
        return MASK if self.masking.hides_event_time else moment

    def stacktrace(self, text: str) -> str:
        """The stack of an error, which millstream never keeps."""
        return FOREIGN if self._is_guarded else text

    @property
    def _is_guarded(self) -> bool:
        return not self.reveal and (self.masking is None or self.masking.hides)

    def _said(self, letter: Mapping[str, Any], field: str, message: str | None) -> str:
        if message is None or not self._is_guarded:
            return message or ""
        if letter["contract_id"] is None:
            return FOREIGN
        # It may have been written when the field was not yet classified.
        if self.masking is None or (field and self.masking.is_hidden(field)):
            return _GOT.sub(", got a value not shown", message)
        return message


def shown(payload: bytes | None, longest: int = LONGEST) -> str:
    """A payload in one line: text, in which what no terminal should get is escaped; ``…`` at the
    end of what is longer."""
    if payload is None:
        return NOT_HELD
    text = payload[: longest * 4].decode("utf-8", "backslashreplace")
    line = _CONTROLS.sub(_escaped, text)
    return line if len(line) <= longest and len(payload) <= longest * 4 else f"{line[:longest]}…"


def shown_whole(payload: bytes | None) -> str:
    """A payload in all its length: its text, or, if it is none, its bytes as ``hexdump -C`` has
    them."""
    if payload is None:
        return NOT_HELD
    try:
        text = payload.decode()
    except UnicodeDecodeError:
        return hexdump(payload)
    return hexdump(payload) if _CONTROLS.search(re.sub(r"[\t\r\n]", "", text)) else text


def hexdump(data: bytes) -> str:
    """Bytes as hexadecimal numbers and ASCII, sixteen a line, each with its offset.

    >>> print(hexdump(b"A\\xff"))
    00000000  41 ff                                             |A.|
    """
    lines = []
    for at in range(0, len(data), _WIDTH):
        piece = data[at : at + _WIDTH]
        numbers = " ".join(f"{byte:02x}" for byte in piece)
        text = "".join(chr(byte) if 0x20 <= byte < 0x7F else "." for byte in piece)
        lines.append(f"{at:08x}  {numbers:<{3 * _WIDTH - 1}}   |{text}|")
    return "\n".join(lines)


def _escaped(found: re.Match[str]) -> str:
    return repr(found[0])[1:-1]
