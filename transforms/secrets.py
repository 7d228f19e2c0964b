"""Secrets by reference: a job says where they are kept, and never what they are.

A job that runs elsewhere needs passwords and keys there. Its graph, its flags and its job file hold
references alone; this process and each worker's ask for what they stand for, and put it where all
clients look: into the environment. So it comes into no plan, no log and no list of processes.

A reference is the name of a version in Google's Secret Manager
(``projects/P/secrets/S/versions/V``), the ARN of a secret in AWS's Secrets Manager, or the path of
a file, local or ``scheme://``.
"""

from __future__ import annotations

import os
import re
from collections.abc import Callable, Mapping
from contextlib import suppress

import msgspec

FLAG = "--millstream_secrets"
"""The pipeline option in which references reach workers."""


class SecretError(ValueError):
    """A secret that cannot be had. The message names its variable and where it was looked for, and
    never holds any of it."""


class SecretFile(msgspec.Struct, forbid_unknown_fields=True, frozen=True):
    """A secret that clients read from a file, which is made of it; the variable holds its path."""

    file: str


References = Mapping[str, str | SecretFile]
"""Name of an environment variable → where its value is kept."""

_VARIABLE = re.compile(r"[A-Za-z_][A-Za-z0-9_]*")
_GOOGLE = re.compile(r"projects/[^/]+/secrets/[^/]+/versions/[^/]+")
_AWS = "arn:aws"
_ARN = re.compile(r"arn:aws[a-z-]*:secretsmanager:[a-z0-9-]+:\d*:secret:.+")
_STORES = ("gs", "s3", "azfs", "hdfs")
"""Schemes of files elsewhere: ours, and those that Beam has file systems for."""

_folder = ""
"""Where this process keeps the files that it has made."""


def install(references: References) -> None:
    """Put what references stand for into this process's environment, before any client is made.

    Raises:
        SecretError: one cannot be had, or a name cannot be that of a variable.
    """
    for name, reference in references.items():
        if not _VARIABLE.fullmatch(name):
            raise SecretError(f"{name!r} cannot be the name of an environment variable")
        if isinstance(reference, SecretFile):
            os.environ[name] = _as_file(name, _looked_up(name, reference.file))
        else:
            os.environ[name] = _as_text(name, _looked_up(name, reference))


def is_path(reference: str) -> bool:
    """Whether a reference is that of a file, and of no service."""
    return not _GOOGLE.fullmatch(reference) and not reference.startswith(_AWS)


def forget() -> None:
    """Delete the files that :func:`install` has made."""
    global _folder
    if _folder:
        import shutil

        shutil.rmtree(_folder, ignore_errors=True)
        _folder = ""


def encode(references: References) -> str:
    """The references as the value of :data:`FLAG`."""
    return msgspec.json.encode(references).decode()


def decode(text: str) -> References:
    """The references in a value of :data:`FLAG`."""
    return msgspec.json.decode(text, type=dict[str, str | SecretFile])


def _as_text(name: str, secret: bytes) -> str:
    with suppress(UnicodeDecodeError):
        text = secret.decode().removesuffix("\n")  # as editors and mounted files end
        if "\0" not in text:
            return text
    said = "the secret is no text, which alone a variable can hold; say {file: …}"
    raise SecretError(f"{name}: {said}")


def _as_file(name: str, secret: bytes) -> str:
    import tempfile

    global _folder
    _folder = _folder or tempfile.mkdtemp(prefix="millstream-")  # which nobody else may look into
    path = os.path.join(_folder, name)
    with open(os.open(path, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600), "wb") as file:
        file.write(secret)
    return path


def _looked_up(name: str, reference: str) -> bytes:
    if not _is_reference(reference):  # it may be the secret itself, put where its place belongs
        said = "there is no file of the name that is given; expected the path of a file, local or "
        said += "gs:// or s3://, or projects/P/secrets/S/versions/V, or the ARN of a secret, and "
        raise SecretError(f"{name}: {said}never the secret itself")
    try:
        return _lookup(reference)(reference)
    except ImportError as error:
        extra = "s3" if reference.startswith(_AWS) else "gcp"
        said = f"needs {error.name}; install it with: pip install 'millstream[{extra}]'"
        raise SecretError(f"{name}: {reference}: {said}") from error
    except Exception as error:  # of three services, each with errors of its own
        raise SecretError(f"{name}: {reference}: cannot be had: {error}") from error


def _is_reference(text: str) -> bool:
    """Whether a text can be repeated: it names a place, and holds no password, as URLs may."""
    if not is_path(text):
        return _GOOGLE.fullmatch(text) is not None or _ARN.fullmatch(text) is not None
    scheme, remote, place = text.partition("://")
    if remote:
        return scheme.lower() in _STORES and "@" not in place.partition("/")[0]
    return os.path.lexists(text)


def _lookup(reference: str) -> Callable[[str], bytes]:
    if _GOOGLE.fullmatch(reference):
        return _from_google
    return _from_aws if reference.startswith(_AWS) else _from_file


def _from_file(path: str) -> bytes:
    from . import storage

    return storage.read_bytes(path)


def _from_google(reference: str) -> bytes:
    from google.cloud import secretmanager  # pyright: ignore[reportAttributeAccessIssue]

    client = secretmanager.SecretManagerServiceClient()
    return client.access_secret_version(name=reference).payload.data


def _from_aws(reference: str) -> bytes:
    import boto3  # pyright: ignore[reportMissingImports]

    client = boto3.client("secretsmanager", region_name=reference.split(":")[3])
    found = client.get_secret_value(SecretId=reference)
    return found["SecretBinary"] if "SecretBinary" in found else found["SecretString"].encode()
