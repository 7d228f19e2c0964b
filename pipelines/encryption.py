"""The keys of a job: of its dead letters, and of what people see of classified fields."""

from __future__ import annotations

import os
import re
from typing import TYPE_CHECKING

from .job import Job, Places

if TYPE_CHECKING:
    from ..transforms.encryption import Keys

_VARIABLE = re.compile(r"[A-Za-z_][A-Za-z0-9_]*")
_ENCRYPT, _MASK = "encrypt_dead_letters", "mask_key"


def check_secret_keys(job: Job, places: Places) -> None:
    """See that the keys of dead letters can be used, and that of hashes.

    Raises:
        JobError: they cannot; the message holds none of them.
    """
    letter_keys(job.encrypt_dead_letters, places)
    mask_key(job.mask_key, places)


def letter_keys(variable: str | None, places: Places) -> Keys | None:
    """The keys that dead letters are encrypted with.

    Raises:
        JobError: they cannot be used.
    """
    if variable is None:
        return None
    from ..transforms.encryption import EncryptionError, keys_of

    _check_name(_ENCRYPT, variable, places)
    try:
        return keys_of(variable)
    except EncryptionError as error:
        raise places.error((_ENCRYPT,), str(error)) from None


def mask_key(variable: str | None, places: Places) -> bytes | None:
    """The secret of the hashes that stand in the place of values.

    Raises:
        JobError: it cannot be used.
    """
    if variable is None:
        return None
    from ..schemas.masking import SHORTEST_KEY

    _check_name(_MASK, variable, places)
    key = os.fsencode(os.environ.get(variable, ""))
    if len(key) < SHORTEST_KEY:
        said = f"{variable}: expected a secret of at least {SHORTEST_KEY} bytes, as openssl rand "
        said += "-hex 32 makes it"
        said += f"; it has {len(key)}" if key else "; the environment variable is not set"
        raise places.error((_MASK,), said)
    return key


def _check_name(key: str, variable: str, places: Places) -> None:
    if not _VARIABLE.fullmatch(variable):  # it may be the key itself, and is not repeated
        said = "expected the name of an environment variable, which holds the secret"
        raise places.error((key,), said)
