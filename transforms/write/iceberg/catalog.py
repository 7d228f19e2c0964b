"""Opening a catalog by its name, and saying in our words what goes wrong with Iceberg.

The name is one of pyiceberg's configuration: ``.pyiceberg.yaml``, or environment variables such as
``PYICEBERG_CATALOG__NAME__URI``. Addresses and secrets are there, and nowhere else.
"""

from __future__ import annotations

import errno
from collections.abc import Iterator
from contextlib import contextmanager

from pyiceberg.catalog import Catalog, load_catalog
from pyiceberg.exceptions import NoSuchNamespaceError
from pyiceberg.utils.config import Config

from ....schemas.problems import did_you_mean, list_names
from ...storage import StorageError
from ..errors import DestinationError, Unavailable

_ALWAYS = {"snapshot-loading-mode": "all"}
"""Of a REST catalog: tokens are held by old snapshots too."""


@contextmanager
def opened(name: str, place: str) -> Iterator[Catalog]:
    """A catalog; what fails while the block lasts is raised in our words.

    Args:
        place: what the message begins with.

    Raises:
        DestinationError: there is no such catalog, or it refuses what is done.
        Unavailable: it does not answer, or cannot serve just now.
    """
    with explained(place), _load(name, place) as catalog:
        yield catalog


def _load(name: str, place: str) -> Catalog:
    # Read anew: pyiceberg's own copy is of the time when it was imported.
    config = Config()
    found = config.get_catalog_config(name)
    if found is None:
        known = config.get_known_catalogs()
        hint = did_you_mean(name, known) or (f"; it has {list_names(known)}" if known else "")
        variable = f"PYICEBERG_CATALOG__{name.upper().replace('-', '_')}__URI"
        raise DestinationError(
            f"{place}: pyiceberg's configuration has no catalog {name!r}{hint}. "
            f"Name it in .pyiceberg.yaml, or set {variable}"
        )
    try:
        return load_catalog(name, **{**found, **_ALWAYS})  # type: ignore[arg-type]
    except Exception as error:
        if not _MISCONFIGURED.intersection(_kinds(error)):
            raise
        # Neither the message nor the error itself: both may quote an address with a password.
        raise DestinationError(
            f"{place}: pyiceberg cannot make a catalog of what its configuration says of {name!r}; "
            "look at its uri and type"
        ) from None


def check_namespace(catalog: Catalog, target: str, place: str) -> None:
    """See whether the namespace of a table is there.

    Raises:
        DestinationError: it is not.
    """
    namespace = target.rpartition(".")[0]
    try:
        there = catalog.namespace_exists(namespace)
    except NoSuchNamespaceError:
        there = False
    if not there:
        raise DestinationError(
            f"{place}: the catalog has no namespace {namespace!r}; make it with: "
            f"pyiceberg --catalog {catalog.name} create namespace {namespace}"
        )


@contextmanager
def explained(place: str) -> Iterator[None]:
    """Raise what the block raises in our words, as far as a user can cause it."""
    try:
        yield
    except StorageError:
        raise
    except Exception as error:
        said = _explanation(error)
        if said is None:
            raise
        raise said[0](f"{place}: {said[1]}") from error


def _kinds(error: Exception) -> list[str]:
    """Package and name of the error's class and of those that it derives from."""
    return [f"{kind.__module__.partition('.')[0]}.{kind.__name__}" for kind in type(error).__mro__]


_MISCONFIGURED = {"builtins.ValueError", "sqlalchemy.ArgumentError"}
_BUSY = {
    "pyiceberg.AuthorizationExpiredError",
    "pyiceberg.CommitFailedException",
    "pyiceberg.CommitStateUnknownException",
    "pyiceberg.ServerError",
    "pyiceberg.ServiceUnavailableError",
    "pyiceberg.TooManyRequestsError",
    "pyiceberg.WaitingForLockException",
    "requests.ChunkedEncodingError",
    "requests.ConnectionError",
    "requests.Timeout",
    "botocore.HTTPClientError",
    "botocore.ConnectionError",
    "thrift.TTransportException",
    "builtins.ConnectionError",
    "builtins.TimeoutError",
}
"""What may pass. Only some of the packages are installed."""
_FINAL = {
    "requests.SSLError",
    "pyiceberg.NotInstalledError",
    "pyiceberg.NoSuchNamespaceError",
    "pyiceberg.NoSuchPropertyException",
    "pyiceberg.ResolveError",
    "pyiceberg.RESTError",
    "pyiceberg.SignError",
    "pyiceberg.ValidationError",
    "pyiceberg.DynamoDbError",
    "requests.RequestException",
    "botocore.BotoCoreError",
    "botocore.ClientError",
    "builtins.NotImplementedError",
    "builtins.ModuleNotFoundError",
}
"""What does not pass."""


def _explanation(error: Exception) -> tuple[type[Exception], str] | None:
    """The kind of our error, and what it says; ``None`` for what no user can cause."""
    if isinstance(error, DestinationError | Unavailable):
        return None
    for name in _kinds(error):
        if name in _FINAL:
            return DestinationError, _first_line(error)
        if name in _BUSY:
            return Unavailable, f"it does not answer, or is busy: {_first_line(error)}"
        if name == "sqlalchemy.DBAPIError":
            return _of_database(_first_line(error.orig))  # type: ignore[attr-defined]
    if isinstance(error, OSError):
        return _of_storage(error)
    return None


_DATABASE_BUSY = (
    "locked", "busy", "could not connect", "connection refused", "connection reset", "timeout",
    "timed out", "server closed", "starting up", "shutting down", "too many", "could not translate",
    "deadlock", "could not serialize",
)  # fmt: skip


def _of_database(said: str) -> tuple[type[Exception], str]:
    """What an SQL catalog's database says, of which only the text tells what it means."""
    if any(words in said.lower() for words in _DATABASE_BUSY):
        return Unavailable, f"the catalog's database does not answer, or is busy: {said}"
    return DestinationError, f"the catalog's database refuses: {said}"


_STORE_BUSY = (
    "NETWORK_CONNECTION", "REQUEST_TIMEOUT", "SERVICE_UNAVAILABLE", "INTERNAL_FAILURE", "SLOW_DOWN",
    "THROTTLING", "HTTP status 5", "curlCode", "timed out",
)  # fmt: skip
_PASSING = {errno.EINTR, errno.EAGAIN, errno.EIO, errno.ENETDOWN, errno.ENETUNREACH}


def _of_storage(error: OSError) -> tuple[type[Exception], str]:
    """What the warehouse's store says; Arrow knows of S3 alone what its text tells."""
    said = _first_line(error)
    if error.errno in _PASSING or any(words in said for words in _STORE_BUSY):
        return Unavailable, f"the warehouse does not answer, or is busy: {said}"
    return DestinationError, f"the warehouse refuses: {said}"


def _first_line(error: object) -> str:
    return str(error).strip().split("\n", 1)[0] or type(error).__name__
