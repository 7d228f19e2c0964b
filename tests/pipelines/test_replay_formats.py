"""Records come back from any stage: of CSV and Avro though their file be gone, and of jobs that
remember keys though their own be among them."""

from __future__ import annotations

from pathlib import Path

import pytest
from millstream.pipelines import exit_codes

from tests.pipelines.clicks import rows_of
from tests.pipelines.test_formats import COMPRESSIONS, CONTRACT, FORMS, JOB, Outcome, orders
from tests.pipelines.test_replay import Job

pytestmark = pytest.mark.slow

BROKEN, MENDED = "CAST(id AS INTEGER)", "length(id)"
STEPS = "steps:\n- sql: SELECT *, {} AS n FROM records\n"
GOING_ON = "until: now\nlate: jsonl:out/late\n"


class Orders(Job):
    """The orders' job, with a step that fails on every record until it is mended."""

    @classmethod
    def of(cls, path: Path, name: str, more: str = "") -> Orders:
        path.mkdir()
        (path / "orders.odcs.yaml").write_text(CONTRACT)
        (path / "job.yaml").write_text(JOB + f"input: {name}\n" + STEPS.format(BROKEN) + more)
        packed, encode = FORMS[name]
        (path / name).write_bytes(COMPRESSIONS[packed](encode(orders(400))))
        return cls(path)

    def mend(self) -> None:
        self.change("job.yaml", BROKEN, MENDED)

    def change(self, file: str, old: str, new: str) -> None:
        text = (self.path / file).read_text()
        assert old in text
        (self.path / file).write_text(text.replace(old, new))


@pytest.mark.parametrize("name", ["orders.csv", "orders.csv.gz", "deflate.avro"])
@pytest.mark.parametrize("more", ["", GOING_ON])
def test_what_a_step_refused(tmp_path, name, more):
    clean = Orders.of(tmp_path / "clean", name, more)
    clean.mend()
    clean.ingest()
    wanted = Outcome(clean.path)

    job = Orders.of(tmp_path / "job", name, more)
    job.ingest()
    (job.path / name).unlink()
    assert not Outcome(job.path).records
    job.replay()  # where all fail again
    assert not Outcome(job.path).records
    job.mend()
    done = job.replay()
    assert done.code == exit_codes.OK
    found = Outcome(job.path)
    assert sum(wanted.records.values()) > 300
    assert (found.records, found.hourly) == (wanted.records, wanted.hourly)


def test_what_deduplication_has_kept_is_no_duplicate_of_itself(tmp_path):
    """Its key is remembered since it was kept, however often and wherever it fails after that."""
    more = GOING_ON + "deduplicate: horizon\nhorizon: 48h\n"
    clean = Orders.of(tmp_path / "clean", "orders.jsonl", more)
    clean.mend()
    clean.ingest()
    wanted = Outcome(clean.path)

    job = Orders.of(tmp_path / "job", "orders.jsonl", more)
    job.ingest()
    job.replay()  # where all fail in the step again
    job.change("orders.odcs.yaml", "maximum: 99", "maximum: 1")
    job.replay()  # and now most by the contract
    job.change("orders.odcs.yaml", "maximum: 1", "maximum: 99")
    job.mend()
    job.replay()
    found = Outcome(job.path)
    assert sum(wanted.records.values()) > 300
    assert (found.records, found.hourly) == (wanted.records, wanted.hourly)
    assert not any(row["duplicate"] for row in rows_of(f"jsonl:{job.path}/out/ledger"))
