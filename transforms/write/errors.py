"""What can be wrong with a destination, and with a commit to it.

A destination raises these and ``StorageError`` alone: what its client raises is said again in these
words, ``from`` the client's own. None of them may hold a secret.
"""

from __future__ import annotations

from ..errors import Unavailable as Unavailable


class DestinationError(ValueError):
    """A destination that cannot be used as it is: a URI, an option, a table that does not fit, a
    missing right. The message says what to write or do instead; trying again would not help."""


class CommitConflict(RuntimeError):
    """A token under which other content is committed already."""


class Taken(Exception):
    """The token was committed by someone else while we were at it. For destinations to raise;
    :class:`.tables.TableDestination` looks again at what is held."""
