"""Payloads of CSV dead letters: read by what these say, whatever encoding their file has."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest
from apache_beam.utils.timestamp import MIN_TIMESTAMP
from millstream.schemas.arrow import PAYLOADS
from millstream.schemas.codes import Code
from millstream.schemas.contract import Contract, Field
from millstream.schemas.csv.options import CsvOptions
from millstream.schemas.csv.written import Written, written_by
from millstream.schemas.masking import NOT_SHOWN, Masking
from millstream.schemas.repairs.spec import RepairJob
from millstream.schemas.rules import Violation
from millstream.transforms.dead_letters import Origin, dead_letter_batch
from millstream.transforms.drift.letters import notice
from millstream.transforms.read.csv import CsvReader
from millstream.transforms.read.files import FileRange, match_files
from millstream.transforms.repair import Repair
from millstream.transforms.replay.decoders import Decoders

CONTRACT = Contract(
    "c",
    "1",
    "c",
    (
        Field("n", "integer"),
        Field("født", "string"),
        Field("mail", "string", classification="pii"),
    ),
)
TEXT = "n,født,mail\nabc,Ærlig,Ĭ@é\n"
ENCODINGS = ("utf-8", "utf-8-sig", "latin-1", "utf-16", "utf-16-le", "utf-16-be", "utf-32", "cp037")


def letter_of(path: Path, encoding: str, data: bytes) -> tuple[bytes, dict[str, str]]:
    """The payload of the first record that is refused, and what is said of it."""
    path.write_bytes(data)
    (file,) = match_files([str(path)])
    part = FileRange(file, 0, None)
    reader = CsvReader(CONTRACT, CsvOptions(encoding=encoding))
    piece = next(iter(reader.read(part)))
    refused = np.array(piece.decoded.refused)  # pyright: ignore
    (payload,) = piece.payloads(refused).to_pylist()  # pyright: ignore
    return payload, reader.attributes(part)


@pytest.fixture(params=[*ENCODINGS, "utf-16 with the other order of bytes"])
def letter(request, tmp_path) -> tuple[bytes, dict[str, str]]:
    encoding = request.param
    text = TEXT if encoding not in ("latin-1", "cp037") else TEXT.replace("Ĭ", "i")
    if encoding.endswith("bytes"):
        return letter_of(tmp_path / "a.csv", "utf-16", b"\xfe\xff" + text.encode("utf-16-be"))
    return letter_of(tmp_path / "a.csv", encoding, text.encode(encoding))


def decoded(decoders: Decoders, payload: bytes, said: Mapping[str, str]) -> pa.RecordBatch:
    batch = pa.RecordBatch.from_arrays(
        [
            pa.DictionaryArray.from_arrays(np.zeros(1, np.int32), ["s"]),
            pa.array([0]),
            pa.array([payload], pa.binary()),
        ],
        schema=PAYLOADS,
    )
    decoding = decoders.open(tuple(sorted(said.items())), Origin("parse"))
    [(_, found)] = [*decoding.put((batch, MIN_TIMESTAMP, None)), *decoding.drain()]
    return found.records


def test_letters_can_be_replayed_and_repaired(letter):
    entry = RepairJob(field="n", map={"abc": 5})
    repair = Repair(CONTRACT, (entry,))
    [record] = decoded(Decoders(CONTRACT, repair=repair), *letter).to_pylist()
    assert (record["n"], record["født"], record["mail"][1:]) == (5, "Ærlig", "@é")
    names = tuple(field.name for field in CONTRACT.fields)
    other = Contract("c", "2", "c", tuple(Field(name, "string") for name in names))
    [record] = decoded(Decoders(other), *letter).to_pylist()
    assert (record["n"], record["født"]) == ("abc", "Ærlig")


def test_drift_in_letters_is_found(letter):
    payload, said = letter
    letters = dead_letter_batch(
        pa.array(["s"]),
        pa.array(["7"]),
        pa.array([payload], pa.binary()),
        [Violation(0, "n", Code.TYPE, "wrong")],
        Origin("parse"),
        attributes=said,
    )
    drift = notice(letters, CONTRACT)
    assert drift is not None
    assert list(drift.places["type", "n"].seen) == ["string"]


def test_letters_are_shown_as_text_without_what_is_classified(letter):
    assert Masking(CONTRACT).payload(*letter) == "abc,Ærlig,***"


def test_what_is_not_of_its_encoding_is_refused_and_not_shown():
    said = {"format": "csv", "csv.options": '{"encoding":"utf-16-le"}', "csv.header": "n,født,mail"}
    payload = "1,a,b".encode("utf-16-le")[:-1]
    assert decoded(Decoders(CONTRACT), payload, said).num_rows == 0
    assert Masking(CONTRACT).payload(payload, said) == NOT_SHOWN
    with pytest.raises(UnicodeError):
        written_by(said).cells(payload)


def test_names_that_options_give():
    assert written_by({"csv.options": '{"header":["a","b"]}'}) == Written(
        CsvOptions(header=("a", "b")), ("a", "b")
    )
    with pytest.raises(ValueError, match="delimiter"):
        written_by({"csv.options": '{"delimiter":"xx"}'})
