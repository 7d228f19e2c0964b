"""What Google's errors mean for who reads or writes."""

from __future__ import annotations

from google.api_core import exceptions  # pyright: ignore[reportMissingImports]
from google.auth import exceptions as auth_exceptions  # pyright: ignore[reportMissingImports]

from ..errors import Unavailable

FAILURES = (exceptions.GoogleAPIError, auth_exceptions.GoogleAuthError)
"""All that the clients raise."""
PASSING = (
    exceptions.Aborted,
    exceptions.Cancelled,
    exceptions.DeadlineExceeded,
    exceptions.InternalServerError,
    exceptions.ResourceExhausted,
    exceptions.ServiceUnavailable,
    exceptions.TooManyRequests,
    exceptions.Unknown,
)
"""Errors that the client tries again after, and so do we."""


def explained(
    error: Exception, place: str, mistake: type[ValueError], *, what: str, role: str
) -> Exception:
    """The error to raise in place of the client's.

    Args:
        mistake: what is raised where trying again does not help.
        what: what there has to be: a topic, a subscription.
        role: which role of Google's has the permission.
    """
    said = _said(error)
    passing = (*PASSING, exceptions.RetryError, auth_exceptions.TransportError)
    refused = (exceptions.Unauthenticated, auth_exceptions.GoogleAuthError)
    # gRPC makes one kind of error of all that happens while it asks for a token.
    if "RefreshError" in said or (isinstance(error, refused) and not isinstance(error, passing)):
        return mistake(
            f"{place}: no credentials that Google accepts were found; run gcloud auth "
            "application-default login, or set GOOGLE_APPLICATION_CREDENTIALS to a key's file"
        )
    if isinstance(error, passing):
        return Unavailable(f"{place} cannot be reached, or cannot serve just now: {said}")
    if isinstance(error, exceptions.PermissionDenied):
        return mistake(f"{place}: no permission ({role} has it): {said}")
    if isinstance(error, exceptions.NotFound):
        return mistake(f"{place}: there is no such {what}: {said}")
    return mistake(f"{place}: {said}")


def _said(error: Exception) -> str:
    """What the service said, without what the client adds for programmers."""
    cause = getattr(error, "cause", None) or error
    text = getattr(cause, "message", None) or str(cause)
    return " ".join(str(text).split())[:300] or type(cause).__name__
