"""Where a subscription begins that nothing has been read of."""

from __future__ import annotations

import datetime as dt

from .client import Subscription
from .inputs import PubsubInput


def check(input: PubsubInput, *, is_new: bool) -> None:
    """See that a subscription can be read; and if nothing has been committed of it yet, have it
    begin where the input says.

    Raises:
        SourceError: there is no such subscription, or we are not let in.
        Unavailable: the service does not answer.
    """
    client = Subscription(input)
    try:
        if is_new and input.start == "latest":
            client.seek(dt.datetime.now(dt.UTC))
        elif is_new and isinstance(input.start, dt.datetime):
            client.seek(input.start)
        else:
            client.check()
    finally:
        client.close()
