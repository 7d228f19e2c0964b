"""Files behind ``scheme://``: Google Cloud Storage, S3, and all that Beam has a file system for.

``gs://`` and ``s3://`` go through their official clients (google-cloud-storage, boto3), since
Beam's file systems know neither the version of an object nor a write that refuses to overwrite.
The clients are made from Beam's pipeline options and the usual environment variables, so that they
ask the same place with the same credentials as Beam would. Any other scheme goes through Beam.

Nothing here names the path in what it raises: :func:`.storage.named` does.
"""

from __future__ import annotations

import errno
import io
import itertools
import os
import re
import tempfile
import threading
import time
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any, BinaryIO, NamedTuple, cast

CHANGED = "the file has changed since the run was planned; run again"

_BUFFER_BYTES = 8 << 20
"""How much is asked for at a time."""


class StoredFile(NamedTuple):
    """A file as it was when it was listed: its path, its size in bytes, and its version.

    ``version`` is a generation (``gs://``), an etag (``s3://``), else a time of change.
    """

    path: str
    size: int
    version: str


class Store(ABC):
    """One kind of place for files. All methods raise what their client raises; see ``reason``."""

    @abstractmethod
    def match(self, pattern: str) -> list[StoredFile]:
        """The files that a pattern matches; ``**/`` stands for any folders, or none."""

    @abstractmethod
    def files_in(self, folder: str, deep: bool) -> list[StoredFile]:
        """The files in a folder (``deep``: and below); none if it is missing."""

    @abstractmethod
    def find(self, path: str) -> StoredFile | None:
        """The file of this very name."""

    @abstractmethod
    def read(self, path: str) -> bytes:
        """All of a file."""

    @abstractmethod
    def open_read(self, file: StoredFile) -> BinaryIO:
        """A file object that reads this version, and no other."""

    @abstractmethod
    def open_write(self, path: str) -> BinaryIO:
        """A file object; the file is there once it is closed."""

    @abstractmethod
    def write(self, path: str, data: bytes) -> None:
        """Write a file in place of what is there."""

    @abstractmethod
    def create(self, path: str, data: bytes) -> bool:
        """Write a file unless there is one, as far as the store can tell; whether it did so."""

    @abstractmethod
    def move(self, file: StoredFile, target: str) -> bool:
        """Move a file to a free name; ``False``, and nothing done, if the name is taken."""

    @abstractmethod
    def delete(self, path: str) -> None:
        """Delete a file; it may be missing."""


def store_of(path: str) -> Store:
    """The store that a path of the form ``scheme://…`` lies in; one for each process.

    Raises:
        ModuleNotFoundError: its client is not installed. The message says how to install it.
    """
    scheme = path.partition("://")[0].lower()
    make = _STORES.get(scheme, _BeamFiles)
    options = _options()
    with _lock:
        held = _open.get(scheme)
        # A client must not be shared with a process that was forked.
        if held is None or held[0] is not options or held[1] != os.getpid():
            held = _open[scheme] = (options, os.getpid(), make(options))
        return held[2]


_lock = threading.Lock()
_open: dict[str, tuple[Any, int, Store]] = {}
_flags: list[str] | None = None


def use_options(flags: Sequence[str]) -> None:
    """Reach remote files by these flags (``--s3_endpoint_url=…``) before there is a pipeline.

    Costs nothing unless a remote file is used. A pipeline that is made later brings its own. What
    the flags say about S3 goes into this process's environment too: Beam's local runner tells its
    worker processes nothing of a pipeline's options.
    """
    global _flags
    with _lock:
        _flags = list(flags)
    for flag, following in itertools.zip_longest(flags, flags[1:], fillvalue=""):
        name, equals, value = flag.partition("=")
        if name in _ENVIRONMENT:
            os.environ[_ENVIRONMENT[name]] = value if equals else following


_ENVIRONMENT = {
    "--s3_access_key_id": "AWS_ACCESS_KEY_ID",
    "--s3_secret_access_key": "AWS_SECRET_ACCESS_KEY",
    "--s3_session_token": "AWS_SESSION_TOKEN",
    "--s3_endpoint_url": "AWS_ENDPOINT_URL_S3",
    "--s3_region_name": "AWS_DEFAULT_REGION",
}
"""Beam's flag → the variable by which boto3 asks for the same."""


def _options() -> Any:
    """The pipeline options that Beam's file systems use in this process."""
    global _flags
    from apache_beam.io.filesystems import FileSystems
    from apache_beam.options.pipeline_options import PipelineOptions

    with _lock:
        if _flags is not None or FileSystems._pipeline_options is None:
            FileSystems.set_options(PipelineOptions(_flags or []))
            _flags = None
        return FileSystems._pipeline_options


@contextmanager
def _needs(package: str, extra: str) -> Iterator[None]:
    try:
        yield
    except ImportError as exc:
        raise ModuleNotFoundError(
            f"needs {package}; install it with: pip install 'millstream[{extra}]'"
        ) from exc


def _split(path: str) -> tuple[str, str]:
    """Bucket and name."""
    bucket, _, name = path.partition("://")[2].partition("/")
    if not bucket:
        raise OSError("the path names no bucket")
    return bucket, name


class _Buckets(Store):
    """What the stores have in common whose files are objects in buckets, with names of any form."""

    scheme: str

    def match(self, pattern: str) -> list[StoredFile]:
        bucket, name = _split(pattern)
        prefix = re.split(r"[*?\[]", name, maxsplit=1)[0]
        wanted = _expression(name)
        deep = "/" in name[len(prefix) :] or "**" in name
        found = list(self._objects(bucket, prefix, deep))
        # A file of that very name goes before what the name means as a pattern.
        exact = [file for file in found if file.path == pattern]
        at = len(f"{self.scheme}://{bucket}/")
        return exact or [file for file in found if wanted.fullmatch(file.path[at:])]

    def files_in(self, folder: str, deep: bool) -> list[StoredFile]:
        bucket, name = _split(folder)
        return list(self._objects(bucket, f"{name}/" if name else "", deep))

    def _objects(self, bucket: str, prefix: str, deep: bool) -> Iterator[StoredFile]:
        """Objects by the beginning of their names; not ``deep``: with no further ``/`` in them."""
        for name, size, version in self._listed(bucket, prefix, "" if deep else "/"):
            if not name.endswith("/"):  # consoles make such an object to show an empty folder
                yield StoredFile(f"{self.scheme}://{bucket}/{name}", size, version)

    @abstractmethod
    def _listed(self, bucket: str, prefix: str, delimiter: str) -> Iterator[tuple[str, int, str]]:
        """Name, size and version of objects."""


def _expression(pattern: str) -> re.Pattern[str]:
    """A regular expression for a pattern with ``*``, ``**``, ``?`` and ``[..]``."""
    return re.compile("".join(map(_token_expression, _TOKENS.findall(pattern))), re.DOTALL)


_TOKENS = re.compile(r"(?:(?<=/)|^)\*\*/|\*+|\?|\[!?\]?[^\]/]*\]|.", re.DOTALL)
_MEANINGS = {"*": "[^/]*", "?": "[^/]", "**/": "(?:.*/)?"}


def _token_expression(token: str) -> str:
    if token in _MEANINGS:
        return _MEANINGS[token]
    if token.startswith("**"):
        return ".*"
    if token.startswith("[") and len(token) > 1:
        inner = re.sub(r"([\\\[^&|~])", r"\\\1", token[1:-1].removeprefix("!"))
        return f"(?!/)[{'^' if token[1] == '!' else ''}{inner}]"
    return re.escape(token)


class _Gcs(_Buckets):
    scheme = "gs"

    def __init__(self, options: Any) -> None:
        with _needs("google-cloud-storage", "gcp"):
            import google.auth  # pyright: ignore[reportMissingImports]
            from apache_beam.io.gcp.gcsio import create_storage_client
            from google.cloud.storage.retry import DEFAULT_RETRY  # pyright: ignore[reportMissingImports]

        try:
            known = not os.environ.get("STORAGE_EMULATOR_HOST") and bool(google.auth.default())
        except google.auth.exceptions.DefaultCredentialsError:
            known = False  # Beam would try again for 20 seconds, and then ask anonymously too
        self._client = create_storage_client(options, use_credentials=known)
        self._retry = DEFAULT_RETRY

    def find(self, path: str) -> StoredFile | None:
        bucket, name = _split(path)
        blob = self._client.bucket(bucket).get_blob(name)
        return blob and StoredFile(path, blob.size, str(blob.generation))

    def read(self, path: str) -> bytes:
        return self._blob(path).download_as_bytes(raw_download=True)

    def open_read(self, file: StoredFile) -> BinaryIO:
        # In a bucket that keeps old versions this one can be read even if there is a newer one.
        blob = self._blob(file.path, int(file.version))
        with self._gone_is(CHANGED):
            blob.reload()
        if str(blob.generation) != file.version:
            raise OSError(CHANGED)
        return cast(BinaryIO, blob.open("rb", chunk_size=_BUFFER_BYTES, raw_download=True))

    def open_write(self, path: str) -> BinaryIO:
        blob = self._blob(path)
        return cast(
            BinaryIO,
            blob.open(
                "wb",
                chunk_size=_BUFFER_BYTES,
                content_type=_CONTENT_TYPE,
                ignore_flush=True,
                retry=self._retry,
            ),
        )

    def write(self, path: str, data: bytes) -> None:
        self._upload(path, data, None)

    def create(self, path: str, data: bytes) -> bool:
        with _taken() as taken:
            self._upload(path, data, 0)
        return not taken

    def _upload(self, path: str, data: bytes, generation: int | None) -> None:
        with self._gone_is(_NO_BUCKET):
            self._blob(path).upload_from_string(
                data,
                content_type=_CONTENT_TYPE,
                if_generation_match=generation,
                retry=self._retry,
            )

    def move(self, file: StoredFile, target: str) -> bool:
        source, copy = self._blob(file.path), self._blob(target)
        options = {"if_generation_match": 0, "retry": self._retry}
        with _taken() as taken:
            token, _, _ = copy.rewrite(source, **options)
            while token:
                token, _, _ = copy.rewrite(source, token=token, **options)
        if taken:
            return False
        _refuse_short(file, copy.size)
        self.delete(file.path)
        return True

    def delete(self, path: str) -> None:
        try:
            self._blob(path).delete(retry=self._retry)
        except Exception as exc:
            if _status(exc) != 404:
                raise

    def _listed(self, bucket: str, prefix: str, delimiter: str) -> Iterator[tuple[str, int, str]]:
        with self._gone_is(_NO_BUCKET):
            for blob in self._client.list_blobs(
                bucket,
                prefix=prefix,
                delimiter=delimiter or None,
                fields="items(name,size,generation),nextPageToken",
            ):
                yield blob.name, blob.size, str(blob.generation)

    def _blob(self, path: str, generation: int | None = None) -> Any:
        bucket, name = _split(path)
        return self._client.bucket(bucket).blob(name, generation=generation)

    @contextmanager
    def _gone_is(self, words: str) -> Iterator[None]:
        """What it means that something is not found."""
        try:
            yield
        except Exception as exc:
            if _status(exc) == 404:
                raise OSError(words) from exc
            raise


@contextmanager
def _taken() -> Iterator[list[Exception]]:
    """Gives a list that holds something afterwards if a condition was not met."""
    found: list[Exception] = []
    try:
        yield found
    except Exception as exc:
        if _status(exc) != 412:
            raise
        found.append(exc)


_CONTENT_TYPE = "application/octet-stream"


_NO_BUCKET = "there is no such bucket"


def _refuse_short(file: StoredFile, copied: int) -> None:
    if copied != file.size:
        raise OSError(f"{copied} of {file.size} bytes were copied")


class _S3(_Buckets):
    scheme = "s3"

    def __init__(self, options: Any) -> None:
        with _needs("boto3", "s3"):
            # Beam's module can be imported without it.
            import boto3  # noqa: F401  # pyright: ignore[reportMissingImports]
            from apache_beam.io.aws.clients.s3.boto3_client import Client

        self._client = Client(options).client

    def find(self, path: str) -> StoredFile | None:
        try:
            head = self._client.head_object(**_at(path))
        except Exception as exc:
            if _status(exc) == 404:
                return None
            raise
        return StoredFile(path, head["ContentLength"], head["ETag"])

    def read(self, path: str) -> bytes:
        return _body(self._client.get_object, **_at(path))

    def open_read(self, file: StoredFile) -> BinaryIO:
        from apache_beam.io.filesystemio import DownloaderStream

        ranges = cast(Any, _S3Ranges(self._client, file))
        stream = DownloaderStream(ranges, _BUFFER_BYTES)
        return cast(BinaryIO, io.BufferedReader(stream, _BUFFER_BYTES))

    def open_write(self, path: str) -> BinaryIO:
        def upload(file: BinaryIO) -> None:
            at = _at(path)
            self._client.upload_fileobj(file, at["Bucket"], at["Key"])

        return cast(BinaryIO, _Upload(upload))

    def write(self, path: str, data: bytes) -> None:
        self._client.put_object(**_at(path), Body=data)

    def create(self, path: str, data: bytes) -> bool:
        return _where_free(self._client.put_object, **_at(path), Body=data)

    def move(self, file: StoredFile, target: str) -> bool:
        copied = _where_free(
            self._client.copy_object,
            **_at(target),
            CopySource=_at(file.path),
        )
        if not copied:
            return False
        copy = self.find(target)
        _refuse_short(file, copy.size if copy else 0)
        self.delete(file.path)
        return True

    def delete(self, path: str) -> None:
        self._client.delete_object(**_at(path))

    def _listed(self, bucket: str, prefix: str, delimiter: str) -> Iterator[tuple[str, int, str]]:
        asked = {"Bucket": bucket, "Prefix": prefix}
        if delimiter:
            asked["Delimiter"] = delimiter
        for page in self._client.get_paginator("list_objects_v2").paginate(**asked):
            for found in page.get("Contents", ()):
                yield found["Key"], found["Size"], found["ETag"]


def _at(path: str) -> dict[str, str]:
    bucket, name = _split(path)
    return {"Bucket": bucket, "Key": name}


def _where_free(call: Callable[..., Any], **arguments: Any) -> bool:
    """Call what writes to a key on the condition that the key is free; whether it was.

    A store that knows no such condition is asked without it.
    """
    for attempt in range(_ATTEMPTS):
        try:
            call(**arguments, IfNoneMatch="*")
            return True
        except Exception as exc:
            match _status(exc):
                case 412:
                    return False
                case 409 if attempt < _ATTEMPTS - 1:  # someone else is writing to it just now
                    time.sleep(0.1 * 2**attempt)
                case 501:
                    break
                case _:
                    raise
    call(**arguments)
    return True


_ATTEMPTS = 5


def _body(get_object: Callable[..., Any], **asked: str) -> bytes:
    """The body of an answer, asked for again if it breaks off: the client itself tries again only
    until an answer begins."""
    from botocore.exceptions import (  # pyright: ignore[reportMissingImports]
        HTTPClientError,
        IncompleteReadError,
    )

    for _ in range(_ATTEMPTS - 1):
        try:
            return get_object(**asked)["Body"].read()
        except (HTTPClientError, IncompleteReadError):
            continue
    return get_object(**asked)["Body"].read()


class _S3Ranges:
    """An object's bytes by ranges, as Beam's ``DownloaderStream`` asks for them."""

    def __init__(self, client: Any, file: StoredFile) -> None:
        self._client, self._file = client, file
        self.size = file.size

    def get_range(self, start: int, end: int) -> bytes:
        asked = {**_at(self._file.path), "Range": f"bytes={start}-{end - 1}"}
        try:
            return _body(self._client.get_object, **asked, IfMatch=self._file.version)
        except Exception as exc:
            if _status(exc) == 412:
                raise OSError(CHANGED) from exc
            raise


class _Upload:
    """A file object that is uploaded when it is closed, by a client that takes whole files.

    What is large waits on the local disk. After an exception in a ``with`` block nothing is
    uploaded.
    """

    def __init__(self, upload: Callable[[BinaryIO], None]) -> None:
        self._upload = upload
        self._file = tempfile.SpooledTemporaryFile(max_size=_BUFFER_BYTES)  # noqa: SIM115

    def write(self, data: Any) -> int:
        return self._file.write(data)

    def flush(self) -> None:
        pass

    def close(self) -> None:
        if not self._file.closed:
            with self._file:
                self._file.seek(0)
                self._upload(cast(BinaryIO, self._file))

    def __enter__(self) -> _Upload:
        return self

    def __exit__(self, kind: Any, error: Any, trace: Any) -> None:
        if kind is None:
            self.close()
        else:
            self._file.close()


class _BeamFiles(Store):
    """A scheme that Beam knows and we do not: no versions, no conditional write."""

    def __init__(self, options: Any) -> None:
        from apache_beam.io.filesystem import CompressionTypes
        from apache_beam.io.filesystems import FileSystems

        self._files = FileSystems
        self._as_is = {"compression_type": CompressionTypes.UNCOMPRESSED}

    def match(self, pattern: str) -> list[StoredFile]:
        return [
            StoredFile(m.path, m.size_in_bytes, str(m.last_updated_in_seconds))
            for m in self._files.match([pattern])[0].metadata_list
        ]

    def files_in(self, folder: str, deep: bool) -> list[StoredFile]:
        return self.match(f"{folder.rstrip('/')}/{'**' if deep else '*'}")

    def find(self, path: str) -> StoredFile | None:
        return next(iter(self.match(path)), None) if self._files.exists(path) else None

    def read(self, path: str) -> bytes:
        with self._files.open(path, **self._as_is) as file:
            return file.read()

    def open_read(self, file: StoredFile) -> BinaryIO:
        return self._files.open(file.path, **self._as_is)

    def open_write(self, path: str) -> BinaryIO:
        return self._files.create(path, **self._as_is)

    def write(self, path: str, data: bytes) -> None:
        with self.open_write(path) as file:
            file.write(data)

    def create(self, path: str, data: bytes) -> bool:
        self.write(path, data)
        return True

    def move(self, file: StoredFile, target: str) -> bool:
        self._files.rename([file.path], [target])
        return True

    def delete(self, path: str) -> None:
        if self._files.exists(path):
            self._files.delete([path])


_STORES: dict[str, Callable[[Any], Store]] = {"gs": _Gcs, "s3": _S3}


def reason(error: Exception) -> tuple[str, int | None]:
    """What a client's exception means, in few words, and its ``errno`` if it has one.

    No two clouds share an exception, and few of theirs derive from OSError: they are told apart by
    the status and the code that the store answered with. Credentials are never part of it.
    """
    code, status = _code(error), _status(error)
    if code in _CREDENTIALS or type(error).__name__ in _CREDENTIALS:
        return f"the store does not accept the credentials ({code or type(error).__name__})", None
    if status == 401 or type(error).__name__ in _NO_CREDENTIALS:
        return "no credentials were found", errno.EACCES
    if status == 403:
        return "the store denies the permission", errno.EACCES
    if status == 404:
        upload = (
            type(error).__name__ == "InvalidResponse"
        )  # of which only the bucket can be missing
        if upload or code == "NoSuchBucket" or "bucket does not exist" in str(error):
            return _NO_BUCKET, errno.ENOENT
        return "not found", errno.ENOENT
    said = " ".join(str(error).split()) or type(error).__name__
    return _USERINFO.sub("//", said)[:500], None


_CREDENTIALS = {
    *("InvalidAccessKeyId", "SignatureDoesNotMatch", "ExpiredToken", "InvalidToken"),
    *("TokenRefreshRequired", "RefreshError"),
}
_NO_CREDENTIALS = {"NoCredentialsError", "DefaultCredentialsError"}
_USERINFO = re.compile(r"//[^/\s@]*@")


def _status(error: Exception) -> int | None:
    """The HTTP status of an answer that became an exception: of botocore, of Google, of Beam."""
    response = getattr(error, "response", None)
    if isinstance(response, dict):
        return response.get("ResponseMetadata", {}).get("HTTPStatusCode")
    code = getattr(error, "code", None) or getattr(response, "status_code", None)
    return int(code) if isinstance(code, int) else None


def _code(error: Exception) -> str:
    response = getattr(error, "response", None)
    return response.get("Error", {}).get("Code", "") if isinstance(response, dict) else ""
