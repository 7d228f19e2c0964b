"""Partition folders: each row in the folder that says its values, whoever reads, whatever fails."""

import datetime as dt
import errno
import pickle
from collections import Counter
from pathlib import Path
from urllib.parse import unquote

import duckdb
import pyarrow as pa
import pyarrow.dataset as ds
import pyarrow.parquet as pq
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from millstream.transforms.receipts import Receipt, content_digest
from millstream.transforms.storage import StorageError
from millstream.transforms.write import stage
from millstream.transforms.write.destination import DestinationError, Output, destination
from millstream.transforms.write.files import live_files
from millstream.transforms.write.manifests import read_manifest
from millstream.transforms.write.partitions import Partition, encode, parse_partitions, split
from millstream.transforms.write.stage import StagedFiles, stage_batches
from storage_support import crash_points
from write_support import commit, token

UTC = dt.UTC
HOSTILE = [
    "NO", "a/b", "..", ".", "", "=", "a=b", "%", "%2F", "ü", "漢 字", None, "x y", "+", "'", '"',
    "\n", "\x7f", "~", "a?b", "*", "[z]", "\\", "null", "NULL", "001", "a:b", "#", "\u2028", "&",
    "_x", "x" * 200, "NaN",
]  # fmt: skip


def table(**columns):
    return pa.RecordBatch.from_pydict(columns)


def write(folder, batches, query, form="parquet", run=None):
    run = run or token()
    to = Output("events", f"{form}:{folder}?{query}")
    commit(to, run, stage_batches(to, run, batches))
    return to


def folders(folder):
    """The partition folders that there are."""
    found = [p.relative_to(folder) for p in Path(folder).rglob("*") if p.is_dir()]
    return sorted(str(path) for path in found if path.parts[0] != "_millstream")


def parsed(name):
    """A folder's key and value, read by the rule and not by the code that wrote it."""
    key, _, value = name.partition("=")
    return key, None if value == "__HIVE_DEFAULT_PARTITION__" else unquote(value)


# ------------------------------------------------------------------------------ the URI


@pytest.mark.parametrize(
    ("query", "canonical", "target"),
    [
        ("partition_by=a", "partition_by=a", 256 << 20),
        ("partition_by=a, date(ts),hour(t)", "partition_by=a,date(ts),hour(t)", 256 << 20),
        ("target_size=128MB", "target_size=128000000", 128_000_000),
        ("target_size=1GiB&partition_by=a", "partition_by=a&target_size=1073741824", 1 << 30),
        ("target_size=256MiB", "", 256 << 20),
        ("partition_by=%C3%BC", "partition_by=%C3%BC", 256 << 20),
        ("target_size=5", "target_size=5", 5),
    ],
)
def test_good_queries(query, canonical, target):
    found = destination(f"csv:/data/x/?{query}", "events")
    assert found.uri == f"csv:/data/x?{canonical}".rstrip("?")
    assert found.home == "/data/x"
    assert found.layout is not None
    assert found.layout.target_bytes == target
    again = destination(found.uri, "events")
    assert (again, again.uri) == (found, found.uri)
    assert pickle.loads(pickle.dumps(found)) == found


@pytest.mark.parametrize(
    ("uri", "message"),
    [
        ("parquet:/x?partition=a", "parquet: no option 'partition'; did you mean 'partition_by'?"),
        ("parquet:/x?sort=a", "no option 'sort'; expected 'partition_by' or 'target_size'"),
        ("parquet:/x?partition_by=a&partition_by=b", "option 'partition_by' is there twice"),
        ("parquet:/x?partition_by=", "a column is missing"),
        ("parquet:/x?partition_by=a,,b", "a column is missing"),
        ("parquet:/x?partition_by=date()", "a column is missing"),
        ("parquet:/x?partition_by=dat(ts)", "no function dat; did you mean 'date'?"),
        ("parquet:/x?partition_by=year(ts)", "no function year; expected 'date' or 'hour'"),
        ("parquet:/x?partition_by=a,b,a", "a is there twice"),
        ("parquet:/x?partition_by=ts_date,date(ts)", "ts_date is there twice"),
        ("parquet:/x?partition_by=_source", "begins with '_' for a hidden one"),
        ("parquet:/x?target_size=256XB", "expected a size as 256MB or 128MiB, got '256XB'"),
        ("parquet:/x?target_size=0", "expected a size"),
        ("parquet:/x?target_size=-1MB", "expected a size"),
        ("parquet:?partition_by=a", "names no place; write parquet:DIRECTORY"),
    ],
)
def test_bad_queries(uri, message):
    with pytest.raises(DestinationError) as info:
        destination(uri)
    assert message in str(info.value)


# --------------------------------------------------------------------- looking at a schema


SCHEMA = pa.schema(
    [
        ("country", pa.dictionary(pa.int32(), pa.string())),
        ("n", pa.int64()),
        ("ok", pa.bool_()),
        ("day", pa.date32()),
        ("ts", pa.timestamp("us", "UTC")),
        ("x", pa.float64()),
        ("tags", pa.list_(pa.string())),
        ("t_hour", pa.string()),
        ("t", pa.timestamp("ms")),
    ]
)


@pytest.mark.parametrize("form", ["parquet", "jsonl", "csv", "avro"])
def test_a_schema_that_fits(form):
    destination(f"{form}:/x?partition_by=country,n,ok,day,date(ts),hour(ts)").check(SCHEMA)
    destination(f"{form}:/x").check(SCHEMA)


@pytest.mark.parametrize(
    ("partition_by", "message"),
    [
        ("county", "partition_by=county: no such column; did you mean 'country'?"),
        ("zzz", "partition_by=zzz: no such column; there are country, n, ok, day, ts, x, tags"),
        ("date(t_hou)", "partition_by=date(t_hou): no such column; did you mean 't_hour'?"),
        ("ts", "partition_by=ts: a folder for each instant; write date(ts) or hour(ts)"),
        ("x", "partition_by=x: x is double; strings, integers, booleans and dates can name"),
        ("tags", "tags is list<item: string>; strings"),
        ("date(day)", "partition_by=date(day): day is date32[day], not a time stamp"),
        ("hour(t)", "its folders would be called t_hour, as another column is"),
    ],
)
def test_columns_that_cannot_be_partitioned_by(partition_by, message):
    with pytest.raises(DestinationError) as info:
        destination(f"parquet:/x?partition_by={partition_by}").check(SCHEMA)
    assert message in str(info.value)


def test_something_must_be_left_for_the_files():
    with pytest.raises(DestinationError, match="names every column"):
        destination("parquet:/x?partition_by=a,b").check(
            pa.schema([("a", pa.int8()), ("b", pa.int8())])
        )
    destination("parquet:/x?partition_by=a,hour(b)").check(
        pa.schema([("a", pa.int8()), ("b", pa.timestamp("us"))])
    )


@pytest.mark.parametrize(
    ("form", "field", "message"),
    [
        ("jsonl", pa.field("d", pa.duration("s")), "jsonl: column 'd': Arrow type duration"),
        ("csv", pa.field("d", pa.duration("s")), "csv: column 'd': Arrow type duration"),
        ("avro", pa.field("a b", pa.int8()), "avro: column 'a b': Avro allows only"),
        ("parquet", pa.field("m", pa.month_day_nano_interval()), "parquet: Unhandled type"),
    ],
)
def test_what_a_format_cannot_hold_is_found_by_check(form, field, message):
    with pytest.raises(DestinationError) as info:
        destination(f"{form}:/x").check(pa.schema([field]))
    assert message in str(info.value)


def test_what_a_format_cannot_hold_may_name_folders():
    """A partition column is in no file: Avro need not like its name."""
    schema = pa.schema([("a b", pa.string()), ("n", pa.int8())])
    destination("avro:/x?partition_by=a b").check(schema)


# ------------------------------------------------------------------------------ splitting


KEYS = {
    "s": st.none() | st.sampled_from(["a", "b", "a/b", "", "é"]) | st.text(max_size=3),
    "n": st.none() | st.integers(-2, 2),
    "ok": st.none() | st.booleans(),
    "day": st.none() | st.dates(dt.date(1969, 12, 30), dt.date(1970, 1, 2)),
    "ts": st.none() | st.datetimes(dt.datetime(1969, 12, 30), dt.datetime(1970, 1, 2)),
}
WAYS = ["s", "n", "ok", "day", "date(ts)", "hour(ts)"]


def keyed(rows):
    return pa.RecordBatch.from_arrays(
        [
            pa.array([row["s"] for row in rows], pa.string()).dictionary_encode(),
            pa.array([row["n"] for row in rows], pa.int16()),
            pa.array([row["ok"] for row in rows], pa.bool_()),
            pa.array([row["day"] for row in rows], pa.date32()),
            pa.array([row["ts"] for row in rows], pa.timestamp("us", "UTC")),
            pa.array(range(len(rows))),
        ],
        ["s", "n", "ok", "day", "ts", "row"],
    )


def expected_value(row, way):
    match way:
        case "date(ts)":
            return row["ts"] and row["ts"].date().isoformat()
        case "hour(ts)":
            return row["ts"] and row["ts"].isoformat(timespec="hours")
        case "ok":
            return None if row["ok"] is None else str(row["ok"]).lower()
        case "day":
            return row["day"] and row["day"].isoformat()
    return None if row[way] is None else str(row[way])


@given(
    st.lists(st.fixed_dictionaries(KEYS), min_size=1, max_size=20),
    st.lists(st.sampled_from(WAYS), min_size=1, max_size=3, unique=True),
)
def test_split_is_as_a_loop_over_rows(rows, ways):
    partitions = parse_partitions(",".join(ways))
    expected = {}
    for i, row in enumerate(rows):
        expected.setdefault(tuple(expected_value(row, way) for way in ways), []).append(i)
    found = {}
    for folder, piece in split(keyed(rows), partitions):
        names, values = zip(*map(parsed, folder.split("/")), strict=True)
        assert names == tuple(partition.key for partition in partitions)
        assert values not in found
        found[values] = piece["row"].to_pylist()
        assert piece.to_pylist() == keyed(rows).take(found[values]).to_pylist()
    assert found == expected


@given(st.text())
def test_an_encoded_value_is_one_part_of_a_path(text):
    found = encode(text)
    assert unquote(found) == text
    assert not set(found) & set('/\\=:*?"<>|#')
    assert all(c.isprintable() or not c.isascii() for c in found)


def test_a_string_that_says_null_is_no_null():
    null = "__HIVE_DEFAULT_PARTITION__"
    (name,) = Partition("k").names(pa.array([null]))
    assert name != f"k={null}"
    assert parsed(name) == ("k", null)
    assert Partition("k").names(pa.array([None], pa.string())) == [f"k={null}"]


def test_a_piece_does_not_keep_the_batch_in_memory():
    batch = table(k=["a"] * 1000 + ["b"], s=["x" * 100] * 1001)
    small = dict(split(batch, parse_partitions("k")))["k=b"]
    assert small.get_total_buffer_size() < 1000


# ------------------------------------------------------------------------- written and read


def test_readers_read_the_table(tmp_path):
    batch = table(n=list(range(len(HOSTILE))), k=pa.array(HOSTILE, pa.string()))
    write(tmp_path, [batch], "partition_by=k")
    expected = dict(enumerate(HOSTILE))
    keys = ds.partitioning(pa.schema([("k", pa.string())]), flavor="hive")
    found = ds.dataset(str(tmp_path), partitioning=keys, format="parquet").to_table()
    assert dict(zip(*(found[name].to_pylist() for name in "nk"), strict=True)) == expected
    query = f"""select n, k from read_parquet('{tmp_path}/k=*/*.parquet',
        hive_partitioning=true, hive_types={{k: varchar}})"""
    assert dict(duckdb.execute(query).fetchall()) == expected


@pytest.mark.parametrize("form", ["parquet", "csv", "jsonl", "avro"])
def test_several_partitions_in_each_format(tmp_path, form):
    when = dt.datetime(2026, 11, 24, 13, 59, 59, tzinfo=UTC)
    batch = table(
        country=["NO", "DE", "NO", None],
        ts=pa.array([when, when, None, when], pa.timestamp("us", "UTC")),
        n=[1, 2, 3, 4],
    )
    to = write(tmp_path, [batch, batch], "partition_by=country,hour(ts)", form)
    assert [Path(path).parent.relative_to(tmp_path) for path in sorted(live_files(to.uri))] == [
        Path("country=DE/ts_hour=2026-11-24T13"),
        Path("country=NO/ts_hour=2026-11-24T13"),
        Path("country=NO/ts_hour=__HIVE_DEFAULT_PARTITION__"),
        Path("country=__HIVE_DEFAULT_PARTITION__/ts_hour=2026-11-24T13"),
    ]
    reader = {"parquet": "read_parquet", "csv": "read_csv", "jsonl": "read_json"}.get(form)
    if reader:
        found = duckdb.execute(
            f"select country, ts_hour, epoch(ts)::bigint, n from {reader}("
            f"'{tmp_path}/*/*/*.{form}', hive_partitioning=true, hive_types_autocast=false)"
        ).fetchall()
        second, hour = int(when.timestamp()), "2026-11-24T13"
        assert Counter(found) == Counter(
            2 * [("NO", hour, second, 1), ("DE", hour, second, 2), ("NO", None, None, 3),
                 (None, hour, second, 4)]
        )  # fmt: skip


def test_dates_are_read_as_dates(tmp_path):
    batch = table(day=[dt.date(2026, 11, 24), dt.date(2026, 11, 25)], n=[1, 2])
    write(tmp_path, [batch], "partition_by=day")
    keys = ds.partitioning(pa.schema([("day", pa.date32())]), flavor="hive")
    found = ds.dataset(str(tmp_path), partitioning=keys, format="parquet").to_table()
    assert found.select(["day", "n"]).sort_by("n").to_pylist() == batch.to_pylist()
    query = f"select day, n from read_parquet('{tmp_path}/*/*.parquet') order by n"
    assert duckdb.execute(query).fetchall() == [tuple(row.values()) for row in batch.to_pylist()]


def test_no_glob_over_partitions_finds_states_or_staged_files(tmp_path):
    to = Output("sums", f"parquet:{tmp_path}?partition_by=k,n", "aggregates")
    states = StagedFiles(to, token(), "states")
    states.write(table(k=["x"], n=[1], rows=[5]))
    receipts = stage_batches(to, token(), [table(k=["x", "y"], n=[1, 1], v=[1, 2])])
    receipts += states.close()
    assert not list(tmp_path.rglob("*.parquet"))
    assert [r.folder for r in receipts] == ["k=x/n=1", "k=y/n=1", ""]
    commit(to, token(), receipts)
    assert sorted(map(str, tmp_path.rglob("*.parquet"))) == sorted(live_files(to.uri))
    (path,) = live_files(to.uri, "states")
    assert pq.read_table(path, partitioning=None).to_pylist() == [{"k": "x", "n": 1, "rows": 5}]


def test_a_value_that_is_too_long_for_a_folder_is_named(tmp_path):
    files = StagedFiles(Output("e", f"parquet:{tmp_path}?partition_by=k"), token())
    with pytest.raises(StorageError) as info:
        files.write(table(k=["ü" * 127], n=[1]))
    assert info.value.errno == errno.ENAMETOOLONG
    assert "cannot partition by k: the value 'üüü" in str(info.value)
    assert "of 256 bytes, and 255 are allowed; give the field a maxLength" in str(info.value)
    files.write(table(k=["ü" * 126 + "a"], n=[1]))
    (receipt,) = files.close()
    assert len(receipt.folder.encode()) == 255


def test_a_batch_without_the_column_is_refused(tmp_path):
    files = StagedFiles(Output("e", f"parquet:{tmp_path}?partition_by=k"), token())
    files.write(table(k=["a"], n=[1]))
    with pytest.raises(DestinationError, match="partition_by=k: no such column"):
        files.write(table(n=[1]))
    files.abandon()
    assert not list(tmp_path.rglob("*.staged"))


# --------------------------------------------------------------------------- many partitions


def numbered(values):
    return table(
        k=[f"k{v}" for v in values], n=values, _source=pa.array(["s"] * len(values))
    )  # fmt: skip


@settings(max_examples=40)
@given(
    st.lists(st.lists(st.integers(0, 9), min_size=1, max_size=12), min_size=1, max_size=6),
    st.integers(1, 4), st.sampled_from([0, 5_000, 50_000, 1 << 20]),
)  # fmt: skip
def test_every_row_is_in_its_partition_whatever_is_held(tmp_path_factory, batches, files, held):
    folder = tmp_path_factory.mktemp("many")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(stage, "OPEN_FILES", files)
        patch.setattr(stage, "GATHERED_BYTES", held)
        staged = StagedFiles(
            Output("e", f"parquet:{folder}?partition_by=k"), token(), dropped=("_source",)
        )
        for values in batches:
            staged.write(numbered(values))
            assert len(staged._open) <= files
            assert staged._held() <= held
        receipts = staged.close()
    found = Counter()
    for receipt in receipts:
        rows = pq.read_table(receipt.path, partitioning=None)
        assert rows.schema.names == ["n"]
        assert (receipt.rows, receipt.sources) == (len(rows), {"s": len(rows)})
        found.update((receipt.folder, n) for n in rows["n"].to_pylist())
    assert found == Counter((f"k=k{v}", v) for values in batches for v in values)
    if held == 1 << 20:
        assert len(receipts) == len({receipt.folder for receipt in receipts})


def test_files_of_partitions_roll_at_their_target_size(tmp_path):
    to = Output("e", f"parquet:{tmp_path}?partition_by=k&target_size=1B")
    files = StagedFiles(to, token())
    for _ in range(3):
        files.write(numbered([1, 2]))
    assert Counter(r.folder for r in files.close()) == {"k=k1": 3, "k=k2": 3}


def test_a_failed_bundle_leaves_nothing(tmp_path, monkeypatch):
    monkeypatch.setattr(stage, "GATHERED_BYTES", 0)
    monkeypatch.setattr(stage, "OPEN_FILES", 2)
    files = StagedFiles(Output("e", f"parquet:{tmp_path}?partition_by=k"), token())
    files.write(numbered([1, 2, 3, 4]))
    assert len(list(tmp_path.rglob("*.staged"))) == 4
    files.abandon()
    assert not list(tmp_path.rglob("*.staged"))
    assert files.close() == []


# ------------------------------------------------------------------------------- committing


def rows(to):
    """What a reader by manifest sees, with its folder's values."""
    found = []
    for path in live_files(to.uri):
        folder = Path(path).parent.name
        found += [(folder, n) for n in pq.read_table(path, partitioning=None)["n"].to_pylist()]
    return sorted(found)


def test_the_folder_is_content(tmp_path):
    """The same files in other folders are other rows."""
    one, other = (
        Receipt(output="e", path="p", rows=1, bytes=1, sha256="1" * 64, folder=folder)
        for folder in ("k=a", "k=b")
    )
    assert content_digest([one]) != content_digest([other])
    assert content_digest([one, other]) == content_digest([other, one])


def test_equal_files_in_two_partitions_are_both_kept(tmp_path):
    to = write(tmp_path, [table(k=["a", "b"], n=[1, 1])], "partition_by=k")
    assert rows(to) == [("k=a", 1), ("k=b", 1)]


def test_replacing_removes_folders_that_are_empty(tmp_path):
    query = "partition_by=k,n2"
    first = [table(k=["a", "b"], n2=[1, 2], n=[1, 2])]
    write(tmp_path, first, query, run=token("r1", "a"))
    write(tmp_path, [table(k=["c"], n2=[1], n=[9])], query, run=token("r2"))
    to = write(tmp_path, [table(k=["b"], n2=[3], n=[3])], query, run=token("r1", "b"))
    assert folders(tmp_path) == ["k=b", "k=b/n2=3", "k=c", "k=c/n2=1"]
    assert rows(to) == [("n2=1", 9), ("n2=3", 3)]


@pytest.mark.slow
def test_every_crash_can_be_mended(tmp_path_factory):
    """A commit that replaces other partitions, beside another run, interrupted anywhere."""

    def prepare():
        to = Output("e", f"parquet:{tmp_path_factory.mktemp('crash')}?partition_by=k")
        commit(to, token("r0"), stage_batches(to, token("r0"), [table(k=["a"], n=[0])]))
        old, new = token("r1", "a"), token("r1", "b")
        commit(to, old, stage_batches(to, old, [table(k=["a", "b"], n=[1, 1])]))
        return to, stage_batches(to, new, [table(k=["b", "c", None], n=[1, 2, 1])])

    def action(state):
        to, receipts = state
        commit(to, token("r1", "b"), receipts)

    null = "k=__HIVE_DEFAULT_PARTITION__"
    old = [("k=a", 0), ("k=a", 1), ("k=b", 1)]
    new = sorted([("k=a", 0), ("k=b", 1), ("k=c", 2), (null, 1)])
    points = 0
    for to, receipts in crash_points(action, prepare):
        points += 1
        assert rows(to) in (old, new)
        action((to, receipts))
        assert rows(to) == new
        home = Path(to.destination.home)
        assert sorted(map(str, home.rglob("*.parquet"))) == sorted(live_files(to.uri))
        assert folders(home) == sorted(["k=a", "k=b", "k=c", null])
        assert not list(Path(to.destination.staging).iterdir())
    assert points > 20


def test_receipts_and_manifests_of_before_are_read(tmp_path):
    """Those that know no folder."""
    import msgspec

    old = b'{"output":"e","path":"p","rows":1,"bytes":1,"sha256":"0"}'
    assert msgspec.json.decode(old, type=Receipt).folder == ""
    write(tmp_path, [table(k=["a"], n=[1])], "")
    to = write(tmp_path, [table(k=["a"], n=[2])], "partition_by=k", run=token("r2"))
    assert rows(to) == [("k=a", 2), (tmp_path.name, 1)]
    assert len(read_manifest(str(tmp_path)).entries) == 2
