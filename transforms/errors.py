"""What can be wrong with a service, whether it is read from or written to."""

from __future__ import annotations


class Unavailable(ConnectionError):
    """A service that does not answer, or cannot serve just now: trying again may help."""
