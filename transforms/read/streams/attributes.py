"""Values of transports as attributes of dead letters, which are text: nothing of them is lost."""

from __future__ import annotations

import base64
import datetime as dt

BASE64 = "_base64"
"""What the kind of an attribute ends with if its value is base64."""


def attribute(kind: str, value: bytes | str | None, name: str = "") -> tuple[str, str | None]:
    """One attribute; of several of a kind, each has a name of its own behind the kind.

    Bytes that are no UTF-8, and what has a NUL character, which not every table can hold, are told
    as base64. It is the kind that says so, for a name may end in anything.

    >>> attribute("kafka.header", b"red", "colour")
    ('kafka.header.colour', 'red')
    >>> attribute("kafka.key", bytes([0, 255]))
    ('kafka.key_base64', 'AP8=')
    """
    text = value if isinstance(value, str) or value is None else _text(value)
    if value is not None and (text is None or "\0" in text):
        data = value.encode() if isinstance(value, str) else value
        kind, text = kind + BASE64, base64.b64encode(data).decode()
    return f"{kind}.{name}" if name else kind, text


def moment(time: dt.datetime) -> str:
    """A time in UTC, to the millisecond."""
    utc = time.astimezone(dt.UTC).replace(tzinfo=None)
    return f"{utc.isoformat(timespec='milliseconds')}Z"


def _text(value: bytes) -> str | None:
    try:
        return value.decode()
    except UnicodeDecodeError:
        return None
