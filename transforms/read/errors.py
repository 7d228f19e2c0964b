"""What can be wrong with a source.

A source of a service raises this and :class:`Unavailable` alone: what its client raises is said
again in these words, ``from`` the client's own. Neither may hold a secret.
"""

from __future__ import annotations

from ..errors import Unavailable as Unavailable


class SourceError(ValueError):
    """A source that cannot be read as it is: a URI, an option, a missing right, a topic that is
    gone. The message says what to write or do instead; trying again would not help."""
