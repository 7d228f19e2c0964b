"""Records of dead letters, read again; and the letters that they become once more."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Sequence
from functools import lru_cache
from typing import Any, NamedTuple

import apache_beam as beam
import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from apache_beam.pvalue import TaggedOutput
from apache_beam.transforms.window import GlobalWindow
from apache_beam.utils.timestamp import MIN_TIMESTAMP

from ...schemas.arrow import PAYLOAD, PAYLOADS, WATERMARK_FIELD
from ...schemas.dead_letters import AGGREGATE, REACHED, SAYING
from ..coder import RecordBatchCoder  # registers it  # noqa: F401
from ..dead_letters import Origin, with_attributes
from ..encryption import Pairs, decrypted_payloads, is_encrypted, keys_of, opened
from ..parse import with_identity
from ..stage_result import StageResult
from ..tallies import DEAD_LETTERS, TALLIES, Tally, count_sources
from .decoders import Decoders, Said
from .frozen import FrozenLetters, read_frozen
from .reached import farthest

_BATCH_ROWS = 20_000


class ReadLetters(beam.PTransform):
    """Read the records of dead letters: ``pipeline`` → ``StageResult``, with tallies.

    Sources and positions are those that the records have always had, so that what fails again has
    the same id. Records are judged by the contract as it is now.

    Args:
        payload: keep each record's bytes beside it.
        origin: what letters of what fails again have in common.
        late_for: read the letters alone that were late for this aggregate.
        keys: the environment variable, of the worker, with the keys of letters that are encrypted.
        watermark: records have the column of their watermarks, without one, so that none is late:
            steps of jobs that go on take batches of such columns.
    """

    def __init__(
        self,
        letters: FrozenLetters,
        decoders: Decoders,
        origin: Origin,
        *,
        payload: bool = True,
        late_for: str = "",
        keys: str = "",
        watermark: bool = False,
    ) -> None:
        super().__init__()
        self._paths = letters.paths
        origin = origin._replace(stage="parse")
        self._read = _ReadFrozen(decoders, origin, payload, late_for, keys, watermark)

    def expand(self, pbegin: Any) -> StageResult:
        outputs = (
            pbegin
            | "Files" >> beam.Create(self._paths, reshuffle=False)
            | "Spread" >> beam.Reshuffle()
            | "Decode" >> beam.ParDo(self._read).with_outputs(DEAD_LETTERS, TALLIES, main="records")
        )
        return StageResult.of(outputs, tallies=True)


class _ReadFrozen(beam.DoFn):
    def __init__(
        self,
        decoders: Decoders,
        origin: Origin,
        payload: bool,
        late_for: str,
        keys: str,
        watermark: bool,
    ) -> None:
        self._decoders = decoders
        self._origin = origin
        self._payload = payload
        self._late_for = late_for
        self._keys = keys
        self._watermark = watermark

    def process(self, path: str) -> Iterator[Any]:
        letters = read_frozen(path)
        if self._late_for:
            letters = letters.filter(pa.array(_late_for(letters, self._late_for)))
        read = Counter(pc.fill_null(letters["source"], "").to_pylist())
        for said, rows in _by_what_they_say(letters).items():
            decoding = self._decoders.open(said, self._origin)
            for batch in _payloads(letters.take(pa.array(rows)), self._keys):
                task = (batch, MIN_TIMESTAMP, GlobalWindow())
                for (given, *_), decoded in decoding.put(task):
                    yield from self._outputs(given, decoded)
            for (given, *_), decoded in decoding.drain():
                yield from self._outputs(given, decoded)
        for source, count in read.items():
            yield TaggedOutput(TALLIES, Tally(source, "read", count, self._late_for))

    def _outputs(self, batch: pa.RecordBatch, decoded: Any) -> Iterator[Any]:
        if decoded.records.num_rows:
            identity = batch if self._payload else batch.drop_columns([PAYLOAD])
            if self._watermark:
                none = pa.nulls(batch.num_rows, WATERMARK_FIELD.type)
                identity = identity.append_column(WATERMARK_FIELD, none)
            yield with_identity(decoded, identity)
        if decoded.letters is not None:
            yield TaggedOutput(DEAD_LETTERS, decoded.letters)


class FailedAgain(NamedTuple):
    """That the records of these letters, by their ids, are dead letters again."""

    ids: tuple[str, ...]


FAILED = "failed"
"""Tag of the output that carries :class:`FailedAgain`."""


class NextAttempt(beam.DoFn):
    """Dead letters of a replay as what they are: a further attempt of letters that were there.

    Batches of dead letters → the same, with ``attempt`` and ``replay_of`` (the run that wrote the
    letter which was replayed), and with attributes that the letter before had; beside them which
    these are.

    Args:
        keys: the environment variable, of the worker, with the keys of letters that are encrypted.
    """

    def __init__(self, letters: FrozenLetters, keys: str = "") -> None:
        self._paths = letters.paths
        self._keys = keys

    def setup(self) -> None:
        self._known = KnownLetters(self._paths, self._keys)

    def process(self, batch: pa.RecordBatch) -> Iterator[Any]:
        yield self._known.next_attempt(batch)
        yield TaggedOutput(FAILED, FailedAgain(tuple(batch.column("id").to_pylist())))


class StillLate(beam.DoFn):
    """Dead letters of records that were late for an aggregate, and still are not in it: late ones.

    Batches of dead letters → the same, which name the aggregate; beside them tallies of it.
    """

    def __init__(self, aggregate: str) -> None:
        self._aggregate = aggregate

    def process(self, batch: pa.RecordBatch) -> Iterator[Any]:
        place = batch.schema.get_field_index("attributes")
        own = {"key": AGGREGATE, "value": self._aggregate}
        said = [[*(pairs or ()), own] for pairs in batch.column(place).to_pylist()]
        field = batch.schema.field(place)
        yield batch.set_column(place, field, pa.array(said, field.type))
        for source, rows in count_sources(batch, "source").items():
            yield TaggedOutput(TALLIES, Tally(source, "late", rows, self._aggregate))


class KnownLetters:
    """Which letters a replay reads, and which attempts they are.

    Args:
        keys: the environment variable with the keys of letters that are encrypted.
    """

    def __init__(self, paths: Sequence[str], keys: str = "") -> None:
        columns = ["id", "attempt", "run_id", "stage"]
        tables = [read_frozen(path, columns) for path in paths]
        self._letters = pa.concat_tables(tables).combine_chunks()
        self._paths = paths
        self._ends = np.cumsum([len(table) for table in tables])
        self._keys = keys

    def __iter__(self) -> Iterator[tuple[str, int]]:
        attempts = pc.fill_null(self._letters["attempt"], 0)
        return zip(self._letters["id"].to_pylist(), attempts.to_pylist(), strict=True)

    def next_attempt(self, batch: pa.RecordBatch) -> pa.RecordBatch:
        """Dead letters with the numbers of their attempts, whose they were before, and what was
        known of them and is not said any more: what their messages carried, how they are read, how
        far they have come.

        Raises:
            EncryptionError: a letter before was encrypted, and its key is missing.
        """
        rows = pc.index_in(batch.column("id"), self._letters["id"])
        attempts = pc.add(pc.fill_null(self._letters["attempt"], 0).take(rows), 1)
        runs = self._letters["run_id"].take(rows)
        for name, column in (("attempt", attempts), ("replay_of", runs)):
            place = batch.schema.get_field_index(name)
            field = batch.schema.field(name)
            column = column.combine_chunks() if isinstance(column, pa.ChunkedArray) else column
            batch = batch.set_column(place, field, column.cast(field.type))
        known = self._attributes(rows.to_numpy())
        said = batch.column("attributes").to_pylist()
        more = [self._carried(*pairs) for pairs in zip(known, said, strict=True)]
        before = self._letters["stage"].take(rows).to_pylist()
        now = batch.column("stage").to_pylist()
        for i, stages in enumerate(zip(before, known, now, strict=True)):
            if stage := farthest(*stages):
                more[i].append((REACHED, stage))
        return with_attributes(batch, more) if any(more) else batch

    def _attributes(self, rows: np.ndarray) -> list[Pairs | None]:
        """What letters say of themselves; of one file at a time, since it can be long."""
        found: list[Pairs | None] = [None] * len(rows)
        files = np.searchsorted(self._ends, rows, "right")
        for file in np.unique(files).tolist():
            places = np.flatnonzero(files == file)
            column = _attributes_of(self._paths[file])
            first = int(self._ends[file]) - len(column)
            for place, row in zip(places.tolist(), (rows[places] - first).tolist(), strict=True):
                found[place] = column[row].as_py()
        return found

    def _carried(self, known: Pairs | None, said: Pairs | None) -> list[tuple[str, str | None]]:
        """What a letter takes over from the one before."""
        known = known or ()
        if is_encrypted(said) or (is_encrypted(known) and not self._keys):
            known = [pair for pair in known if pair["key"] in SAYING]
        elif is_encrypted(known):
            known = opened(known, keys_of(self._keys)) or ()
        # Which aggregate a record was late for is said where it is late again.
        held = {AGGREGATE, REACHED, *(pair["key"] for pair in said or ())}
        return [(pair["key"], pair["value"]) for pair in known if pair["key"] not in held]


@lru_cache(maxsize=2)
def _attributes_of(path: str) -> pa.ChunkedArray:
    return read_frozen(path, ["attributes"])["attributes"]


def _late_for(letters: pa.Table, aggregate: str) -> list[bool]:
    wanted = {"key": AGGREGATE, "value": aggregate}
    return [wanted in (attributes or ()) for attributes in letters["attributes"].to_pylist()]


def _by_what_they_say(letters: pa.Table) -> dict[Said, list[int]]:
    """Rows by what their attributes say of how payloads are read."""
    found: dict[Said, list[int]] = {}
    keys = pc.struct_field(pc.list_flatten(letters["attributes"]), "key")
    if not pc.any(pc.is_in(keys, pa.array(SAYING))).as_py():
        return {(): list(range(len(letters)))} if len(letters) else {}
    for row, attributes in enumerate(letters["attributes"].to_pylist()):
        pairs = {a["key"]: a["value"] for a in attributes or () if a["key"] in SAYING}
        found.setdefault(tuple(sorted(pairs.items())), []).append(row)
    return found


def _payloads(letters: pa.Table, keys: str = "") -> Iterator[pa.RecordBatch]:
    """Batches of payloads, each of one source, decrypted when it is their turn.

    Args:
        keys: the environment variable with the keys of those that are encrypted.

    Raises:
        EncryptionError: one cannot be decrypted.
    """
    sources = pc.fill_null(letters["source"], "").combine_chunks().dictionary_encode()
    codes = sources.indices.to_numpy(zero_copy_only=False)
    for code, source in enumerate(sources.dictionary.to_pylist()):
        ours = letters.filter(pa.array(codes == code))
        columns = [
            pa.DictionaryArray.from_arrays(np.zeros(len(ours), np.int32), [source]),
            _positions(ours["position"].combine_chunks()),
            ours["payloadBytes"].combine_chunks(),
        ]
        whole = pa.RecordBatch.from_arrays(columns, schema=PAYLOADS)
        attributes = ours["attributes"].combine_chunks()
        for begin in range(0, len(ours), _BATCH_ROWS):
            batch = whole.slice(begin, _BATCH_ROWS)
            yield _opened(batch, attributes.slice(begin, _BATCH_ROWS), keys) if keys else batch


def _opened(batch: pa.RecordBatch, attributes: pa.Array, keys: str) -> pa.RecordBatch:
    payloads = decrypted_payloads(batch.column(PAYLOAD), attributes, keys_of(keys))
    return batch.set_column(batch.schema.get_field_index(PAYLOAD), PAYLOAD, payloads)


def _positions(texts: pa.Array) -> pa.Array:
    numeric = pc.match_substring_regex(texts, r"^[0-9]{1,18}$")
    return pc.if_else(pc.fill_null(numeric, False), texts, None).cast(pa.int64())
