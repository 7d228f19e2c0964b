"""gs:// and s3:// on servers of our own: the laws of the façade, of the lock, and of reading."""

from __future__ import annotations

import errno
import os
import subprocess
import sys
import threading
import uuid
from collections.abc import Callable, Iterator
from typing import Any

import msgspec
import pytest
from millstream.transforms import object_stores, storage
from millstream.transforms.lock import Holder, Locked, RunLock
from millstream.transforms.read.files import (
    FileRange,
    NoFiles,
    chunks,
    file_ranges,
    match_files,
)
from millstream.transforms.storage import StorageError
from test_compression import PACK, TEXT
from test_lock import (  # noqa: F401  # these are tests, and what they ask for
    dead_pid,
    test_a_dead_process_of_this_host_holds_nothing,
    test_a_lease_of_another_host_stands,
    test_a_lease_that_ran_out_is_taken_over,
    test_a_live_process_of_this_host_stands,
    test_a_lock_that_was_overwritten_is_lost,
    test_a_second_run_can_wait,
    test_a_second_run_is_refused_and_told_by_whom,
    test_the_lease_is_renewed_while_the_block_runs,
    test_who_lost_the_lock_is_told,
)
from test_storage import (  # noqa: F401  # these are tests
    test_delete_folder,
    test_delete_what_is_missing,
    test_list_by_suffix_and_depth,
    test_missing_files_are_named,
    test_move_can_be_repeated,
    test_move_never_overwrites,
    test_move_of_nothing,
    test_move_onto_the_same_content_is_done,
    test_open_write_then_read,
    test_write_once_is_once,
    test_write_replace_replaces,
)

from tests.services import s3
from tests.services.object_stores import object_store

pytestmark = [pytest.mark.cloud, pytest.mark.service]

BUCKET = "bucket"


@pytest.fixture(scope="module")
def gcs_address() -> Iterator[str]:
    with object_store("gs", BUCKET) as address:
        yield address


@pytest.fixture(scope="module")
def s3_address() -> Iterator[str]:
    with object_store("s3", BUCKET) as address:
        yield address


@pytest.fixture(params=["gs", "s3"])
def base(request: pytest.FixtureRequest) -> str:
    """A folder of its own on each store."""
    request.getfixturevalue("gcs_address" if request.param == "gs" else "s3_address")
    return f"{request.param}://{BUCKET}/{uuid.uuid4().hex}/deep"


@pytest.fixture
def on_s3(s3_address: str) -> str:
    return f"s3://{BUCKET}/{uuid.uuid4().hex}"


@pytest.fixture
def on_gcs(gcs_address: str) -> str:
    return f"gs://{BUCKET}/{uuid.uuid4().hex}"


@pytest.fixture
def folder(base: str) -> str:
    return storage.join(base, "lock")


def client_of(path: str) -> Any:
    """boto3's client, for tests that break it."""
    store: Any = object_stores.store_of(path)
    return store._client


def answered(code: str, status: int) -> Exception:
    """What boto3 raises when S3 refuses."""
    from botocore.exceptions import ClientError  # pyright: ignore[reportMissingImports]

    answer: Any = {
        "Error": {"Code": code, "Message": f"AKIA0123 {s3.SECRET}"},
        "ResponseMetadata": {"HTTPStatusCode": status},
    }
    return ClientError(answer, "GetObject")


def at_once(count: int, action: Callable[[int], Any]) -> list[Any]:
    """What each of so many threads gave or raised, that all started at the same moment."""
    barrier = threading.Barrier(count)
    results: list[Any] = [None] * count

    def run(number: int) -> None:
        barrier.wait()
        try:
            results[number] = action(number)
        except Exception as error:
            results[number] = error

    threads = [threading.Thread(target=run, args=(n,)) for n in range(count)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(60)
    return results


# ---------------------------------------------------------------------------------- writing


@pytest.mark.parametrize("size", [0, 1, (8 << 20) + 1, (17 << 20) + 5])
def test_files_of_any_size(base, size):
    data = os.urandom(1 << 16) * (size // (1 << 16) + 1)
    path = storage.join(base, "x")
    with storage.named(path, "write"), storage.open_write(path) as file:
        for start in range(0, size, 1 << 20):
            file.write(memoryview(data)[start : min(start + (1 << 20), size)])
    assert storage.size(path) == size
    assert storage.read_bytes(path) == data[:size]
    with storage.open_read(path) as file:
        assert file.read() == data[:size]
        assert file.seek(size // 2) == size // 2
        assert file.read(10) == data[size // 2 : min(size // 2 + 10, size)]
    storage.move(path, storage.join(base, "y"))
    # By ranges: moto keeps the checksum of the parts for the whole, when it copies an object.
    with storage.open_read(storage.join(base, "y")) as file:
        assert file.read(size + 1) == data[:size]


def test_what_was_not_finished_is_not_there(base):
    path = storage.join(base, "x")

    def interrupted() -> None:
        with storage.open_write(path) as file:
            file.write(b"data")
            raise RuntimeError

    with pytest.raises(RuntimeError):
        interrupted()
    assert not storage.exists(path)


def test_names_of_any_form(base):
    """Characters that mean something in a URL, in a pattern, or nothing at all."""
    for name in ("a b", "[x]*?", "ü/ö.json", "100%", "a+b&c=d#e", "..x"):
        path = storage.join(base, name)
        assert storage.write_once(path, b"1")
        assert not storage.write_once(path, b"2")
        storage.move(path, f"{path}.moved")
        assert storage.read_bytes(f"{path}.moved") == b"1"
        assert storage.list_files(storage.join(base, *name.split("/")[:-1])) == [f"{path}.moved"]
        storage.delete(f"{path}.moved")
        assert storage.list_files(base, deep=True) == []


def test_a_folder_is_no_beginning_of_a_name(base):
    storage.write_once(storage.join(base, "run1", "x"), b"1")
    storage.write_once(storage.join(base, "run10", "x"), b"2")
    assert storage.list_files(storage.join(base, "run1")) == [storage.join(base, "run1", "x")]
    storage.delete_folder(storage.join(base, "run1"))
    assert storage.list_files(base, deep=True) == [storage.join(base, "run10", "x")]


def test_the_object_by_which_a_console_shows_a_folder_is_no_file(base):
    storage.write_replace(f"{base}/", b"")
    storage.write_replace(f"{base}/x", b"1")
    assert storage.list_files(base) == [f"{base}/x"]
    assert [file.path for file in storage.match_remote(f"{base}/**")] == [f"{base}/x"]


def test_of_many_writers_one_is_told_yes(on_s3):
    for round_ in range(5):
        path = storage.join(on_s3, str(round_))
        won = at_once(8, lambda n, path=path: storage.write_once(path, b"%d" % n))
        assert sorted(won) == [False] * 7 + [True]
        assert storage.read_bytes(path) == b"%d" % won.index(True)


def test_a_writer_that_looked_before_the_other_wrote(on_s3, monkeypatch):
    """The condition decides, not the look before."""
    path = storage.join(on_s3, "x")
    storage.write_once(path, b"first")
    monkeypatch.setattr(object_stores._S3, "find", lambda self, path: None)
    assert not storage.write_once(path, b"second")
    assert storage.read_bytes(path) == b"first"


def test_a_writer_that_lost_the_answer_sees_that_it_was_first(base, monkeypatch):
    """A client asks again by itself, and is then refused by what it has written."""
    path = storage.join(base, "x")
    kind = object_stores._S3 if path.startswith("s3") else object_stores._Gcs
    create = kind.create
    monkeypatch.setattr(kind, "create", lambda *arguments: create(*arguments) and False)
    assert storage.write_once(path, b"first")


def test_s3_is_told_the_condition_of_a_move(on_s3, monkeypatch):
    """moto ignores it for copies, so that what is sent is all that can be seen here."""
    client = client_of(on_s3)
    copy_object = client.copy_object
    sent: list[str] = []

    def recorded(**asked: str) -> Any:
        sent.append(asked["IfNoneMatch"])
        return copy_object(**asked)

    monkeypatch.setattr(client, "copy_object", recorded)
    storage.write_once(f"{on_s3}/x", b"1")
    storage.move(f"{on_s3}/x", f"{on_s3}/y")
    assert sent == ["*"]


def test_a_mover_that_looked_before_the_other_moved(on_s3, monkeypatch):
    """The condition decides, not the look before."""
    one, other, target = (storage.join(on_s3, name) for name in "abt")
    storage.write_once(one, b"1")
    storage.write_once(other, b"2")
    storage.move(one, target)
    find = object_stores._S3.find
    looks = [None]

    def too_early(self: Any, path: str) -> Any:
        return looks.pop() if looks and path == target else find(self, path)

    def refused(**asked: str) -> None:
        raise answered("PreconditionFailed", 412)

    monkeypatch.setattr(object_stores._S3, "find", too_early)
    monkeypatch.setattr(client_of(on_s3), "copy_object", refused)
    with pytest.raises(StorageError, match="other content"):
        storage.move(other, target)
    assert not looks
    assert storage.read_bytes(target) == b"1"
    assert storage.read_bytes(other) == b"2"


def test_google_is_told_the_condition(on_gcs, monkeypatch):
    """The emulator ignores it, so that what is sent is all that can be seen here."""
    import requests

    sent: list[tuple[str, str]] = []
    request = requests.Session.request

    def recorded(self: Any, method: str, url: str, *args: Any, **kwargs: Any) -> Any:
        sent.append((method, url))
        return request(self, method, url, *args, **kwargs)

    monkeypatch.setattr(requests.Session, "request", recorded)
    storage.write_once(f"{on_gcs}/x", b"1")
    assert [url for _, url in sent if "/upload/" in url and "ifGenerationMatch=0" in url]
    sent.clear()
    storage.move(f"{on_gcs}/x", f"{on_gcs}/y")
    assert [url for _, url in sent if "/rewriteTo/" in url and "ifGenerationMatch=0" in url]
    sent.clear()
    storage.write_replace(f"{on_gcs}/y", b"2")
    assert sent
    assert not [url for _, url in sent if "ifGenerationMatch" in url]


def test_google_refuses_and_that_is_understood(on_gcs, monkeypatch):
    from google.api_core.exceptions import (  # pyright: ignore[reportMissingImports]
        PreconditionFailed,
    )
    from google.cloud.storage import Blob  # pyright: ignore[reportMissingImports]

    def refused(self: Any, *arguments: Any, **options: Any) -> Any:
        raise PreconditionFailed("conditionNotMet")

    storage.write_once(f"{on_gcs}/x", b"1")
    storage.write_once(f"{on_gcs}/taken", b"2")
    monkeypatch.setattr(Blob, "upload_from_string", refused)
    monkeypatch.setattr(Blob, "rewrite", refused)
    store = object_stores.store_of(on_gcs)
    assert not store.create(f"{on_gcs}/taken", b"1")
    [file] = storage.match_remote(f"{on_gcs}/x")
    assert not store.move(file, f"{on_gcs}/taken")
    assert storage.exists(f"{on_gcs}/x")


# --------------------------------------------------------------------------------- the lock


def test_of_racing_runs_one_gets_the_lock(on_s3):
    for round_ in range(3):
        folder = storage.join(on_s3, str(round_))
        results = at_once(6, lambda n, folder=folder: RunLock(folder, f"r{n}").acquire())
        assert [type(r) for r in results if r is not None] == [Locked] * 5
        [path] = storage.list_files(folder)
        holder = msgspec.json.decode(storage.read_bytes(path), type=Holder)
        assert holder.run_id == f"r{results.index(None)}"


# ---------------------------------------------------------------------------------- reading

NAMES = (
    "a.jsonl", "b.jsonl.gz", "c.txt", "_SUCCESS", ".hidden.jsonl", "_staged.jsonl", "[x].jsonl",
    "2026/d.jsonl", "2026/11/e.jsonl", "2026/_temporary/f.jsonl", "2026/.trash/g.jsonl",
    "_logs/h.jsonl",
)  # fmt: skip
PATTERNS = (
    "*.jsonl", "*", "[ab].jsonl*", "[!a].jsonl", "[a-c].*", "[x].jsonl", "?.jsonl", "**/*.jsonl",
    "*/*.jsonl", "2026/**", "2026/**/*.jsonl", "2026/*", "**", "_SUCCESS", "_*.jsonl", ".h*.jsonl",
    "_logs/*.jsonl", "*/_temporary/*", "2026/.trash/*", "a.jsonl", "*.csv", "gone.jsonl",
    "gone/*.jsonl", "2026", "2026/d*", "*l", "[a.jsonl",
)  # fmt: skip


@pytest.fixture(scope="module")
def trees(tmp_path_factory, gcs_address, s3_address) -> list[str]:
    """The same files in a local folder and on each store."""
    local = str(tmp_path_factory.mktemp("tree"))
    bases = [local, f"gs://{BUCKET}/tree", f"s3://{BUCKET}/tree"]
    for base in bases:
        for name in NAMES:
            storage.write_once(storage.join(base, name), b"{}\n")
        storage.write_once(storage.join(f"{base}2", "a.jsonl"), b"")  # shares their beginning
    return bases


@pytest.mark.parametrize("pattern", PATTERNS)
def test_a_pattern_matches_what_it_would_match_in_a_folder(trees, pattern):
    local, *remote = (
        [
            file.source.removeprefix(base)
            for file in match_files([storage.join(base, pattern)], allow_none=True)
        ]
        for base in trees
    )
    assert remote == [local, local]


def test_two_stars_within_a_name_go_deep(trees):
    """As Beam and Google's own tools read it; a local ``**.jsonl`` stays in its folder."""
    for base in trees[1:]:
        found = match_files([f"{base}/**.jsonl"])
        assert [file.source.removeprefix(f"{base}/") for file in found] == [
            "2026/11/e.jsonl", "2026/d.jsonl", "[x].jsonl", "a.jsonl",
        ]  # fmt: skip


def test_a_bad_pattern_is_named(base):
    with pytest.raises(StorageError, match=r"cannot match .*\[z-a\]: bad character range"):
        match_files([f"{base}/[z-a]"])


@pytest.mark.parametrize("codec", ["", *PACK])
def test_ranges_and_compressed_files(base, codec):
    path = storage.join(base, "x")
    storage.write_replace(path, PACK[codec](TEXT) if codec else TEXT)
    [file] = match_files([path])
    assert file.size == storage.size(path)
    parts = file_ranges([file], codec or "none", range_bytes=100)
    assert len(parts) == (1 if codec else 5)
    for part in parts:
        assert b"".join(chunks(part, 64)) == TEXT[max(part.start - 1, 0) :]


def test_the_version_tells_what_was_written_anew(base):
    path = storage.join(base, "x")
    versions = set()
    for data in (b"a\n", b"b\n", b"c\n"):
        storage.write_replace(path, data)
        [file] = match_files([path])
        [same] = match_files([f"{base}/*"])
        assert file == same
        versions.add(file.version)
    assert len(versions) == 3


def test_a_file_that_has_changed_is_refused(base):
    path = storage.join(base, "x")
    storage.write_replace(path, b"a\nb\n")
    [file] = match_files([path])
    for data in (b"c\nd\n", b"a\nb\nc\n"):
        storage.write_replace(path, data)
        with pytest.raises(StorageError, match=f"cannot read {path}: .*has changed since the run"):
            list(chunks(FileRange(file, 0, file.size)))
    storage.delete(path)
    with pytest.raises(StorageError, match=f"cannot read {path}: (not found|.*has changed)"):
        list(chunks(FileRange(file, 0, file.size)))


def test_a_file_that_changes_while_it_is_read(on_s3, monkeypatch):
    """Every range is asked for on the condition that it is of the same version."""
    monkeypatch.setattr(object_stores, "_BUFFER_BYTES", 100)
    path = storage.join(on_s3, "x")
    storage.write_replace(path, TEXT)
    [file] = match_files([path])
    pieces = chunks(FileRange(file, 0, file.size), 100)
    assert next(pieces) == TEXT[:100]
    storage.write_replace(path, TEXT.upper())
    with pytest.raises(StorageError, match="has changed since the run was planned; run again"):
        list(pieces)


def test_an_answer_that_breaks_off_is_asked_for_again(on_s3, monkeypatch):
    from botocore.exceptions import (  # pyright: ignore[reportMissingImports]
        IncompleteReadError,
        ReadTimeoutError,
    )

    path = storage.join(on_s3, "x")
    storage.write_replace(path, TEXT)
    failures = [
        IncompleteReadError(actual_bytes=1, expected_bytes=2),
        ReadTimeoutError(endpoint_url="http://x"),
    ]
    client = client_of(path)
    get_object = client.get_object

    class Broken:
        def read(self) -> bytes:
            raise failures.pop()

    monkeypatch.setattr(
        client,
        "get_object",
        lambda **asked: {"Body": Broken()} if failures else get_object(**asked),
    )
    with storage.open_read(path) as file:
        assert file.read() == TEXT
    failures += [IncompleteReadError(actual_bytes=1, expected_bytes=2)] * 9
    with pytest.raises(StorageError, match="cannot read"):
        storage.read_bytes(path)


# ----------------------------------------------------------------------------------- errors


@pytest.mark.parametrize("scheme", ["gs", "s3"])
def test_a_bucket_that_is_not_there(request, scheme):
    request.getfixturevalue("gcs_address" if scheme == "gs" else "s3_address")
    path = f"{scheme}://nowhere/x"

    def write() -> None:
        with storage.named(path, "write"), storage.open_write(path) as file:
            file.write(b"data")

    for action in (
        lambda: match_files([path]),
        lambda: match_files([f"{path}*"]),
        lambda: storage.list_files(path),
        lambda: storage.write_once(path, b""),
        lambda: storage.write_replace(path, b""),
        write,
    ):
        with pytest.raises(StorageError, match=r"^cannot \w+ \S+: there is no such bucket$"):
            action()
    with pytest.raises(StorageError, match=r"cannot read .*: (not found|there is no such bucket)"):
        storage.read_bytes(path)


def test_a_bucket_that_is_not_named(base):
    scheme = base.partition("://")[0]
    with pytest.raises(StorageError, match=r"cannot list .*: the path names no bucket"):
        storage.list_files(f"{scheme}:///x")
    with pytest.raises(NoFiles):
        match_files([f"{base}/x"])


CODE = """
import sys
from millstream.transforms import storage
storage.use_options(sys.argv[2:])
try:
    print(storage.list_files(sys.argv[1]))
except storage.StorageError as error:
    print(error)
"""


def listed(path: str, *flags: str, **variables: str) -> str:
    """What a process of its own says that lists a folder; it knows no more than it is told."""
    bare = {
        name: value
        for name, value in os.environ.items()
        if not name.startswith(("AWS_", "GOOGLE_", "STORAGE_"))
    }
    nothing = {
        "AWS_EC2_METADATA_DISABLED": "true",
        "AWS_CONFIG_FILE": os.devnull,
        "AWS_SHARED_CREDENTIALS_FILE": os.devnull,
        "CLOUDSDK_CONFIG": os.devnull,
        "NO_GCE_CHECK": "true",
    }
    done = subprocess.run(
        [sys.executable, "-c", CODE, path, *flags],
        env={**bare, **nothing, **variables},
        capture_output=True,
        text=True,
        timeout=60,
        check=True,
    )
    assert s3.SECRET not in done.stdout + done.stderr
    return done.stdout.strip()


def test_flags_say_where_the_store_is(s3_address, on_s3):
    storage.write_once(f"{on_s3}/x", b"")
    for flags in (
        [f"--s3_endpoint_url={s3_address}", "--s3_access_key_id=k"],
        ["--s3_endpoint_url", s3_address, "--s3_access_key_id", "k", "--runner=X"],
    ):
        said = listed(on_s3, *flags, f"--s3_secret_access_key={s3.SECRET}")
        assert said == f"['{on_s3}/x']"


def test_no_credentials(s3_address):
    said = listed("s3://bucket/x", AWS_ENDPOINT_URL=s3_address)
    assert said == "cannot list s3://bucket/x: no credentials were found"


def test_a_server_that_is_not_there():
    said = listed("s3://bucket/x", **s3.environment("http://user:pass@127.0.0.1:9"))
    assert said.startswith("cannot list s3://bucket/x: Could not connect to the endpoint URL")
    assert "pass" not in said


def test_what_the_stores_say_is_put_in_words():
    from google.api_core import exceptions as google  # pyright: ignore[reportMissingImports]

    refused = "the store does not accept the credentials"
    for error, words, code in (
        (answered("AccessDenied", 403), "the store denies the permission", errno.EACCES),
        (answered("403", 403), "the store denies the permission", errno.EACCES),
        (answered("InvalidAccessKeyId", 403), f"{refused} (InvalidAccessKeyId)", None),
        (answered("SignatureDoesNotMatch", 403), f"{refused} (SignatureDoesNotMatch)", None),
        (answered("ExpiredToken", 400), f"{refused} (ExpiredToken)", None),
        (answered("NoSuchKey", 404), "not found", errno.ENOENT),
        (google.Forbidden("a@b does not have storage.objects.get"), "denies", errno.EACCES),
        (google.Unauthorized("Anonymous caller"), "no credentials were found", errno.EACCES),
        (google.NotFound("No such object: b/x"), "not found", errno.ENOENT),
        (google.NotFound("The specified bucket does not exist."), "no such bucket", errno.ENOENT),
        (google.ServiceUnavailable("try\n again"), "503 try again", None),
    ):
        said, number = object_stores.reason(error)
        assert words in said
        assert number == code
        assert s3.SECRET not in said


def test_a_client_is_made_once(base):
    store = object_stores.store_of(base)
    assert all(found is store for found in at_once(4, lambda n: object_stores.store_of(base)))
