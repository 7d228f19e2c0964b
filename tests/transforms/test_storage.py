"""The façade on files, on a local folder and through Beam's file systems."""

import errno
import os
import pickle
import sys
import threading

import pytest
from apache_beam.io.filesystem import BeamIOError, FileMetadata, FileSystem
from millstream.transforms import object_stores, storage
from millstream.transforms.storage import StorageError


class _Memory(FileSystem):
    """An object store: no folders, no conditional create, a rename that overwrites."""

    files: dict[str, bytes] = {}  # noqa: RUF012

    @classmethod
    def scheme(cls):
        return "memo"

    def join(self, basepath, *paths):
        raise AssertionError("the façade joins by itself")

    def split(self, path):
        return path.rsplit("/", 1)

    def mkdirs(self, path):
        raise AssertionError("object stores have no folders")

    def has_dirs(self):
        return False

    def _list(self, dir_or_prefix):
        for path, data in self.files.items():
            if path.startswith(dir_or_prefix):
                yield FileMetadata(path, len(data))

    def create(self, path, mime_type="", compression_type=None):
        import io

        files = self.files

        class Writer(io.BytesIO):
            def close(self):
                files[path] = self.getvalue()
                super().close()

        return Writer()

    def open(self, path, mime_type="", compression_type=None):
        import io

        if path not in self.files:
            raise BeamIOError(f"no object {path}")
        return io.BytesIO(self.files[path])

    def copy(self, source_file_names, destination_file_names):
        raise NotImplementedError

    def rename(self, source_file_names, destination_file_names):
        for source, target in zip(source_file_names, destination_file_names, strict=True):
            self.files[target] = self.files.pop(source)

    def exists(self, path):
        return path in self.files

    def size(self, path):
        return len(self.files[path])

    def last_updated(self, path):
        raise NotImplementedError

    def metadata(self, path):
        return FileMetadata(path, self.size(path))

    def delete(self, paths):
        for path in paths:
            del self.files[path]


@pytest.fixture(params=["local", "remote"])
def base(request, tmp_path):
    if request.param == "local":
        return str(tmp_path / "deep" / "er")
    _Memory.files.clear()
    return "memo://bucket/deep"


def test_write_once_is_once(base):
    path = storage.join(base, "x.json")
    assert storage.write_once(path, b"first")
    assert not storage.write_once(path, b"second")
    assert storage.read_bytes(path) == b"first"
    assert storage.list_files(base) == [path]


def test_write_replace_replaces(base):
    path = storage.join(base, "x.json")
    storage.write_replace(path, b"first")
    storage.write_replace(path, b"second")
    assert storage.read_bytes(path) == b"second"
    assert storage.size(path) == 6


def test_open_write_then_read(base):
    path = storage.join(base, "x")
    with storage.open_write(path) as file:
        file.write(b"a")
        file.write(b"b")
    with storage.open_read(path) as file:
        assert file.read() == b"ab"
    assert storage.exists(path)


def test_move_can_be_repeated(base):
    source, target = storage.join(base, "s"), storage.join(base, "further", "t")
    storage.write_once(source, b"data")
    storage.move(source, target)
    storage.move(source, target)
    assert not storage.exists(source)
    assert storage.read_bytes(target) == b"data"


def test_move_onto_the_same_content_is_done(base):
    source, target = storage.join(base, "s"), storage.join(base, "t")
    storage.write_once(source, b"data")
    storage.write_once(target, b"data")
    storage.move(source, target)
    assert storage.list_files(base) == [target]


def test_move_never_overwrites(base):
    source, target = storage.join(base, "s"), storage.join(base, "t")
    storage.write_once(source, b"data")
    storage.write_once(target, b"other data")
    with pytest.raises(StorageError, match="other content"):
        storage.move(source, target)
    assert storage.read_bytes(target) == b"other data"
    assert storage.read_bytes(source) == b"data"


def test_move_of_nothing(base):
    with pytest.raises(StorageError, match=r"cannot move .*: not found"):
        storage.move(storage.join(base, "s"), storage.join(base, "t"))


def test_delete_what_is_missing(base):
    storage.delete(storage.join(base, "x"))
    storage.delete_folder(storage.join(base, "folder"))


def test_delete_folder(base):
    for name in "ab":
        storage.write_once(storage.join(base, "f", name), name.encode())
    storage.delete_folder(storage.join(base, "f"))
    assert storage.list_files(base, deep=True) == []


def test_list_by_suffix_and_depth(base):
    for name in ("b.json", "a.json", "c.txt"):
        storage.write_once(storage.join(base, name), name.encode())
    storage.write_once(storage.join(base, "sub", "d.json"), b"d")
    top = [storage.join(base, "a.json"), storage.join(base, "b.json")]
    assert storage.list_files(base, ".json") == top
    assert storage.list_files(base, ".json", deep=True) == [
        *top, storage.join(base, "sub", "d.json"),
    ]  # fmt: skip
    assert storage.list_files(storage.join(base, "nowhere")) == []


def test_missing_files_are_named(base):
    path = storage.join(base, "x")
    for read in (storage.read_bytes, storage.size):
        with pytest.raises(StorageError) as info:
            read(path)
        assert path in str(info.value)
        assert isinstance(info.value, OSError)


@pytest.mark.parametrize(
    ("code", "words"),
    [
        (errno.ENOSPC, "the disk is full"),
        (errno.EACCES, "permission denied"),
        (errno.EROFS, "read-only"),
        (errno.ETIMEDOUT, os.strerror(errno.ETIMEDOUT)),
    ],
)
def test_what_happened_is_said(code, words):
    with (
        pytest.raises(StorageError, match=f"cannot write /x: .*{words}") as info,
        storage.named("/x", "write"),
    ):
        raise OSError(code, os.strerror(code))
    assert info.value.errno == code
    assert info.value.path == "/x"
    assert str(pickle.loads(pickle.dumps(info.value))) == str(info.value)


def test_a_file_in_the_way(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(StorageError, match=r"cannot write .*/file/x: a file of that name is there"):
        storage.write_once(str(tmp_path / "file" / "x"), b"")
    with pytest.raises(StorageError, match=r"cannot write .*/a/x: a part of the path is a file"):
        storage.write_once(str(tmp_path / "file" / "a" / "x"), b"")


def test_an_unknown_scheme_says_what_to_install():
    with pytest.raises(StorageError, match=r"cannot read nope://x/y: .*apache-beam"):
        storage.read_bytes("nope://x/y")


@pytest.mark.parametrize(
    ("path", "module", "words"),
    [
        ("gs://b/x", "google.auth", r"needs google-cloud-storage; .* 'millstream\[gcp\]'"),
        ("s3://b/x", "boto3", r"needs boto3; .* 'millstream\[s3\]'"),
    ],
)
def test_a_store_whose_client_is_not_there_says_what_to_install(monkeypatch, path, module, words):
    monkeypatch.setitem(sys.modules, module, None)
    monkeypatch.setattr(object_stores, "_open", {})
    for action in (storage.read_bytes, storage.list_files, storage.exists):
        with pytest.raises(StorageError, match=rf"cannot [\w ]+ {path}: {words}"):
            action(path)


class _Answer(Exception):
    """What boto3 raises, as far as it is looked at."""

    def __init__(self, status):
        self.response = {"ResponseMetadata": {"HTTPStatusCode": status}}


@pytest.mark.parametrize(
    ("answers", "said", "conditions"),
    [
        ([], True, ["*"]),
        ([412], False, ["*"]),
        ([409, 409], True, ["*", "*", "*"]),  # another writer was at it, and gave up
        ([409, 412], False, ["*", "*"]),
        ([501], True, ["*", None]),  # a store that knows no condition
        ([403], 403, ["*"]),
        ([409] * 9, 409, ["*"] * 5),
    ],
)
def test_a_conditional_write(monkeypatch, answers, said, conditions):
    monkeypatch.setattr(object_stores.time, "sleep", lambda seconds: None)
    asked = []

    def write(Key, IfNoneMatch=None):
        assert Key == "x"
        asked.append(IfNoneMatch)
        if answers:
            raise _Answer(answers.pop(0))

    try:
        found = object_stores._where_free(write, Key="x")
    except _Answer as error:
        found = error.response["ResponseMetadata"]["HTTPStatusCode"]
    assert (found, asked) == (said, conditions)


@pytest.mark.parametrize(
    ("flags", "found"),
    [
        ([], {}),
        (["--runner=X", "--streaming"], {}),
        (
            ["--s3_endpoint_url=http://h:1/?a=b", "--s3_access_key_id", "k", "--s3_region_name"],
            {"AWS_ENDPOINT_URL_S3": "http://h:1/?a=b", "AWS_ACCESS_KEY_ID": "k",
             "AWS_DEFAULT_REGION": ""},
        ),
    ],
)  # fmt: skip
def test_worker_processes_learn_of_s3_by_the_environment(monkeypatch, flags, found):
    monkeypatch.setattr(os, "environ", {})
    monkeypatch.setattr(object_stores, "_flags", None)
    storage.use_options(flags)
    assert os.environ == found


def test_options_reach_beams_file_systems_before_there_is_a_pipeline(monkeypatch):
    from apache_beam.io.filesystems import FileSystems
    from apache_beam.options.pipeline_options import S3Options

    monkeypatch.setattr(FileSystems, "_pipeline_options", None)
    monkeypatch.setattr(object_stores, "_flags", None)
    monkeypatch.setattr(object_stores, "_open", {})
    made = []
    monkeypatch.setitem(
        object_stores._STORES, "s3", lambda options: made.append(options.view_as(S3Options)) or made
    )
    storage.use_options(["--s3_api_version=1", "--runner=X"])
    object_stores.store_of("s3://b/x")
    object_stores.store_of("s3://b/y")
    storage.use_options(["--s3_api_version=2"])
    object_stores.store_of("s3://b/x")
    assert [options.s3_api_version for options in made] == ["1", "2"]


def test_a_failed_write_leaves_nothing(tmp_path, monkeypatch):
    def full(handle):
        raise OSError(errno.ENOSPC, "no space")

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(StorageError, match=r"cannot write .*: the disk is full"):
        storage.write_once(str(tmp_path / "x"), b"data")
    assert not list(tmp_path.iterdir())


def test_of_many_writers_one_is_told_yes(tmp_path):
    path = str(tmp_path / "x")
    barrier = threading.Barrier(8)
    won = []

    def write(number):
        barrier.wait()
        if storage.write_once(path, b"%d" % number):
            won.append(number)

    threads = [threading.Thread(target=write, args=(n,)) for n in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert [b"%d" % n for n in won] == [storage.read_bytes(path)]


def test_absolute(monkeypatch, tmp_path):
    monkeypatch.chdir(tmp_path)
    assert storage.absolute("x") == str(tmp_path / "x")
    assert storage.absolute("gs://b/x/") == "gs://b/x"
