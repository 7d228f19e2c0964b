"""Jobs that go to Dataflow: their files on a bucket of our own, and the service one of our own."""

from __future__ import annotations

import base64
import bz2
import os
import re
import signal
import subprocess
import sys
import uuid
from collections.abc import Iterator, Mapping
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

from apache_beam.portability import common_urns
from apache_beam.portability.api import beam_runner_api_pb2
from millstream.transforms import storage

from tests.pipelines.clicks import Done, JobFolder
from tests.pipelines.coders import coder_in_words
from tests.services import dataflow
from tests.services.dataflow import Dataflow, Json

BUCKET = "bucket"
IMAGE = "europe-docker.pkg.dev/project-one/images/millstream:0.1.0"
STREAM = "generate://?rate=2000&broken=0.02&disorder=1s"
LATE = "late: jsonl:warehouse/late\ndisorder: 1s\n"
ONCE = "deduplicate: horizon\nhorizon: 36h\nduplicates: parquet:warehouse/duplicates\n"
STEPS = "steps: [{sql: \"SELECT * FROM records WHERE page <> '/nowhere'\"}]\n"


@dataclass(frozen=True)
class DataflowJob:
    """The example's job, whose every file but contract and job file lies in a folder of a bucket.

    Attributes:
        place: a local folder of its own.
        base: the folder of the bucket.
        folder: contract and job file.
        environment: what the process has in its environment besides.
    """

    place: Path
    base: str
    folder: JobFolder
    service: Dataflow
    environment: dict[str, str] = field(default_factory=dict)

    @classmethod
    def make(
        cls, place: Path, service: Dataflow, *, stream: str = "", lines: str = ""
    ) -> DataflowJob:
        """
        Args:
            stream: what is read in place of files.
            lines: what the job file says besides.
        """
        base = f"gs://{BUCKET}/{uuid.uuid4().hex}"
        folder = JobFolder.make(place / "job")
        job = cls(place, base, folder, service, dataflow.environment(place / "site"))
        text = Path(folder.job).read_text("utf-8") + lines
        if stream:
            text = re.sub(r"(?m)^input: .*", f"input: {stream}", text)
            text = text.replace("{fixed: 1m}", "{fixed: 2s}")
        job.write(re.sub(r"\b(events|warehouse)/", rf"{base}/\1/", text))
        return job

    def write(self, text: str) -> None:
        """Write another job file."""
        Path(self.folder.job).write_text(text, "utf-8")

    @property
    def text(self) -> str:
        """What the job file says."""
        return Path(self.folder.job).read_text("utf-8")

    def put(self, name: str, data: bytes) -> None:
        """Add an input file."""
        storage.write_replace(f"{self.base}/events/{name}", data)

    def flags(self) -> list[str]:
        """What a job on Dataflow has to say at least, and where the service is."""
        return [
            "--runner=DataflowRunner",
            "--project=project-one",
            "--region=europe-west1",
            f"--temp_location={self.base}/temp",
            f"--staging_location={self.base}/staging",
            f"--sdk_container_image={IMAGE}",
            f"--dataflow_endpoint={self.service.address}",
        ]

    def command(self, *arguments: str) -> list[str]:
        """The command line, as a list for a process."""
        module = [sys.executable, "-m", "millstream.pipelines.cli", "ingest"]
        return [*module, "--job", self.folder.job, *self.flags(), *arguments]

    def variables(self, more: Mapping[str, str] | None = None) -> dict[str, str]:
        """The process's environment."""
        return {**os.environ, **self.environment, "PYTHONFAULTHANDLER": "1", **(more or {})}

    def ingest(self, *arguments: str, **variables: str) -> Done:
        """Run the command line to its end."""
        done = subprocess.run(
            self.command(*arguments),
            env=self.variables(variables),
            capture_output=True,
            text=True,
            timeout=120,
            cwd=self.place,
        )
        return Done(done.returncode, done.stdout, done.stderr)

    def start(self, *arguments: str) -> subprocess.Popen[str]:
        """Begin to run the command line."""
        return subprocess.Popen(
            self.command(*arguments),
            env=self.variables(),
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            cwd=self.place,
            preexec_fn=_hear_interrupts,
        )

    def submitted(self, *arguments: str) -> Submitted:
        """Submit the job; what the service got."""
        before = len(self.service.jobs)
        done = self.ingest("--no_wait", *arguments)
        assert done.code == 0, done.err
        assert len(self.service.jobs) == before + 1
        return Submitted(self.service.last, done)

    def staged(self) -> dict[str, bytes]:
        """The name of each file that was staged, and what is in it."""
        files = storage.match_remote(f"{self.base}/staging/**")
        return {f.path.rpartition("/")[2]: storage.read_bytes(f.path) for f in files}


def _hear_interrupts() -> None:
    """What is started in the background ignores Ctrl-C, and so does what it starts."""
    signal.signal(signal.SIGINT, signal.SIG_DFL)


class Submitted:
    """A job as the service got it: the job's own JSON, and the pipeline that it names."""

    def __init__(self, job: Json, done: Done) -> None:
        self.job = job
        self.done = done
        self.options: Json = job["environment"]["sdkPipelineOptions"]["options"]
        data = storage.read_bytes(self.options["pipelineUrl"])
        self.pipeline = beam_runner_api_pb2.Pipeline.FromString(data)

    @property
    def pool(self) -> Json:
        """The pool of workers that is asked for."""
        (pool,) = self.job["environment"]["workerPools"]
        return pool

    @property
    def steps(self) -> list[str]:
        """The names of all steps but the one that holds them all."""
        transforms = self.pipeline.components.transforms.items()
        roots = set(self.pipeline.root_transform_ids)
        return sorted(t.unique_name for key, t in transforms if key not in roots)

    def coders(self) -> dict[str, str]:
        """Step and tag of what flows → its coder in words."""
        parts = self.pipeline.components
        flows = parts.pcollections
        return {
            f"{transform.unique_name}[{tag}]": coder_in_words(parts, flows[key].coder_id)
            for transform in parts.transforms.values()
            if not transform.subtransforms
            for tag, key in transform.outputs.items()
        }

    def payloads(self) -> Iterator[tuple[str, bytes]]:
        """All bytes of the pipeline in which objects may be pickled."""
        parts = self.pipeline.components
        for transform in parts.transforms.values():
            yield transform.unique_name, transform.spec.payload
        for kind in (parts.coders, parts.windowing_strategies):
            for key, part in kind.items():
                yield key, part.SerializeToString()


def artifacts(pipeline: Any) -> dict[str, str]:
    """What workers are to install or to find: names of files → where they are."""
    found = {}
    for environment in pipeline.components.environments.values():
        for part in environment.dependencies:
            assert part.type_urn == common_urns.artifact_types.URL.urn
            url = beam_runner_api_pb2.ArtifactUrlPayload.FromString(part.type_payload).url
            found[urlsplit(url).path.rpartition("/")[2]] = url
    return found


def unpickled_bytes(payload: bytes) -> bytes:
    """A payload, and what is pickled in it, as Beam packs that: bz2 in base64."""
    found = [payload]
    for packed in _BASE64.findall(payload):
        with suppress(ValueError, OSError):
            found.append(bz2.decompress(base64.b64decode(packed[: len(packed) // 4 * 4])))
    return b"\n".join(found)


_BASE64 = re.compile(rb"QlpoO[A-Za-z0-9+/]+={0,2}")
"""bz2's first bytes in base64, ``BZh9``, and what follows."""
