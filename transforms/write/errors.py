"""What can be wrong with a destination, and with a commit to it."""


class DestinationError(ValueError):
    """A destination URI that cannot be used. The message says what to write instead."""


class CommitConflict(RuntimeError):
    """A token under which other content is committed already."""
