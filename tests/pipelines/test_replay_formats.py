"""Records of CSV and Avro files come back from any stage, though their file be gone."""

from __future__ import annotations

from pathlib import Path

import pytest
from millstream.pipelines import exit_codes

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
        job = Path(self.job)
        job.write_text(job.read_text().replace(BROKEN, MENDED))


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
