"""What goes wrong with Delta tables and the stores that they lie in, said in our words.

deltalake has few kinds of errors, and says in a text, with colours for a terminal, what a store
answered. Texts can quote rows and signed addresses: both are cut out.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from contextlib import contextmanager

import pyarrow as pa
from deltalake.exceptions import CommitFailedError, DeltaError, SchemaMismatchError

from ....schemas.keys import KeyColumnError
from ...storage import StorageError
from ..errors import DestinationError, Unavailable

_FINAL = (
    (
        r"loading credentials|metadata\.google\.internal|169\.254\.169\.254|no credentials",
        "no credentials were found; set those of the store (AWS_ACCESS_KEY_ID and "
        "AWS_SECRET_ACCESS_KEY, GOOGLE_APPLICATION_CREDENTIALS, …) in the environment",
    ),
    (
        r"InvalidAccessKeyId|SignatureDoesNotMatch|ExpiredToken|InvalidToken|401 Unauthorized",
        "the store does not accept the credentials of the environment",
    ),
    (r"AccessDenied|Permission denied|403 Forbidden", "no permission to read or write there"),
    (r"NoSuchBucket|bucket does not exist|Bucket .* not found", "there is no such bucket"),
    (r"No space left|os error 28\b", "the disk is full"),
    (r"quota exceeded|os error 122\b", "the disk quota is used up"),
)
"""What a text holds → what to say of it. Trying again would not help."""
_PASSING = re.compile(
    r"error sending request|connect error|connection (refused|reset|closed)|timed out|broken pipe|"
    r"429 Too Many|500 Internal|502 Bad|503 S|504 Gateway|SlowDown|InternalError",
    re.IGNORECASE,
)


@contextmanager
def explained(place: str) -> Iterator[None]:
    """Raise what the block raises in our words, as far as a user can cause it.

    Raises:
        DestinationError: trying again would not help.
        Unavailable: it may.
    """
    try:
        yield
    except (StorageError, Unavailable):
        raise
    except (DeltaError, OSError, KeyColumnError, pa.ArrowInvalid) as error:
        kind, said = _explanation(error)
        raise kind(f"{place}: {said}") from (None if _QUOTING in str(error) else error)


def _explanation(error: Exception) -> tuple[type[Exception], str]:
    text = _plain(str(error))
    if isinstance(error, CommitFailedError):
        return Unavailable, f"somebody else changes the table just now ({text[:300]})"
    for pattern, said in _FINAL:
        if re.search(pattern, text, re.IGNORECASE):
            return DestinationError, said
    if _PASSING.search(text):
        return Unavailable, f"the store does not answer ({_short(text)})"
    if isinstance(error, SchemaMismatchError):
        return DestinationError, f"the table does not take the rows: {text[:300]}"
    return DestinationError, text[:300]


_QUOTING = "Preview of invalid data"
"""What comes before rows that deltalake quotes."""
_ARROWS = re.compile(r"\s*(\x1b\[\d+m)?↳(\x1b\[0m)?")
_ADDRESS = re.compile(r"(\w+://[^/\s]*@?)([^\s?]*)(\?\S*)?")


def _plain(text: str) -> str:
    """The text in one line, without rows, colours, and what addresses hold besides a path."""
    text = text.split(_QUOTING, 1)[0]
    text = _ADDRESS.sub(lambda found: re.sub(r"//.*@", "//", found[1]) + found[2], text)
    return " ".join(_ARROWS.sub(": ", text).split())


def _short(text: str) -> str:
    """The first and the last of the errors that led to each other."""
    parts = text.split(": ")
    return ": ".join(dict.fromkeys((parts[0][:150], parts[-1][:150]))) if parts[1:] else text[:300]
