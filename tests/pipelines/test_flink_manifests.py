"""The manifests for Flink: held against schemas, against each other, against millstream's own job
and flags, and, their configuration, against a real cluster."""

from __future__ import annotations

import re
import zipfile
from collections.abc import Iterator
from functools import cache
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import jsonschema
import pytest
import yaml
from millstream.pipelines import runners
from millstream.pipelines.job import load_job
from millstream.pipelines.job_parts import job_aggregates, job_contract, job_steps, job_triggers
from millstream.pipelines.runners import flink, job_server

from tests.services import flink as flink_service
from tests.services.flink import FLINK
from tests.services.serving import or_skip

FOLDER = Path(__file__).resolve().parents[2] / "templates" / "flink"
KUBERNETES = "1.30"
"""The version whose schemas the manifests are held against."""

Document = dict[str, Any]


@cache
def documents() -> dict[str, Document]:
    """Every document, by its file, kind and name."""
    found = {}
    for path in sorted(FOLDER.rglob("*.yaml")):
        for document in yaml.safe_load_all(path.read_text("utf-8")):
            meta = document["metadata"]
            name = meta.get("name") or meta["generateName"].rstrip("-")
            found[f"{path.relative_to(FOLDER)} {document['kind']} {name}"] = document
    return found


def of_kind(*kinds: str) -> list[Document]:
    return [document for document in documents().values() if document["kind"] in kinds]


OPERATOR = documents()["operator/cluster.yaml FlinkDeployment millstream-flink"]
SESSION = documents()["session/cluster.yaml ConfigMap millstream-flink-config"]


@pytest.mark.parametrize("name", [n for n in documents() if "FlinkDeployment" not in n])
def test_kubernetes_takes_them(name):
    if find_spec("kubernetes_validate") is None:
        pytest.skip("pip install kubernetes-validate")
    import kubernetes_validate  # pyright: ignore[reportMissingImports]

    kubernetes_validate.validate(documents()[name], KUBERNETES, strict=True)


_RESOURCE = {
    "type": "object",
    "properties": {"memory": {"type": "string"}, "cpu": {"type": "number"}},
    "required": ["memory", "cpu"],
    "additionalProperties": False,
}
_POD = {
    "type": "object",
    "properties": {"metadata": {"type": "object"}, "spec": {"required": ["containers"]}},
    "additionalProperties": False,
}
_MANAGER = {
    "type": "object",
    "properties": {
        "replicas": {"type": "integer"},
        "resource": _RESOURCE,
        "podTemplate": _POD,
    },
    "required": ["resource"],
    "additionalProperties": False,
}
FLINK_DEPLOYMENT = {
    "type": "object",
    "properties": {
        "image": {"type": "string"},
        "flinkVersion": {"enum": ["v1_19", "v1_20"]},
        "serviceAccount": {"type": "string"},
        "flinkConfiguration": {"type": "object", "additionalProperties": {"type": "string"}},
        "podTemplate": _POD,
        "jobManager": _MANAGER,
        "taskManager": _MANAGER,
    },
    "required": ["image", "flinkVersion", "serviceAccount", "jobManager", "taskManager"],
    "additionalProperties": False,
}
"""What is used of the operator's ``FlinkDeployment`` (v1beta1), and no more: without a job it is a
session cluster."""


def test_the_operator_takes_its_cluster():
    assert OPERATOR["apiVersion"] == "flink.apache.org/v1beta1"
    jsonschema.validate(OPERATOR["spec"], FLINK_DEPLOYMENT)
    in_common, of_workers = (
        {c["name"] for c in template["spec"]["containers"]}
        for template in (
            OPERATOR["spec"]["podTemplate"],
            OPERATOR["spec"]["taskManager"]["podTemplate"],
        )
    )
    assert in_common == {"flink-main-container"}, "the operator knows its own container so"
    assert of_workers == {"workers"}


# Pods


def pods() -> Iterator[tuple[str, Document]]:
    """The specification of every pod, the operator's templates put together as it does it."""
    for name, document in documents().items():
        if document["kind"] in ("Deployment", "Job"):
            yield name, document["spec"]["template"]["spec"]
    spec = OPERATOR["spec"]
    common, workers = spec["podTemplate"]["spec"], spec["taskManager"]["podTemplate"]["spec"]
    yield "operator", {**common, "containers": [*common["containers"], *workers["containers"]]}


PODS = dict(pods())
CONTAINERS = [(f"{pod} {c['name']}", c) for pod, spec in PODS.items() for c in spec["containers"]]
IMAGE = re.compile(r"[\w./-]+:[\w.-]*\d[\w.-]*@sha256:[A-Z_]+_DIGEST")
"""A tag with a version, and the place of a digest, which whoever deploys puts in."""


@pytest.mark.parametrize("name", PODS)
def test_no_pod_runs_as_root(name):
    security = PODS[name]["securityContext"]
    assert security["runAsNonRoot"] is True
    assert security["runAsUser"] > 0
    assert security["seccompProfile"] == {"type": "RuntimeDefault"}


@pytest.mark.parametrize(("name", "container"), CONTAINERS)
def test_each_container_is_bounded_and_pinned(name, container):
    security = container["securityContext"]
    assert security["allowPrivilegeEscalation"] is False
    assert security["capabilities"] == {"drop": ["ALL"]}
    if container["name"] == "flink-main-container":  # image and memory are the operator's to give
        assert IMAGE.fullmatch(OPERATOR["spec"]["image"])
        return
    assert IMAGE.fullmatch(container["image"])
    assert container["resources"]["requests"].keys() == {"cpu", "memory"}
    assert "memory" in container["resources"]["limits"]
    if container["name"] != "launcher":  # which ends
        assert container["readinessProbe"]
        assert container["livenessProbe"]


@pytest.mark.parametrize(("name", "container"), CONTAINERS)
def test_secrets_come_from_a_secret(name, container):
    said = [variable.get("value", "") for variable in container.get("env", ())]
    said += [*container.get("args", ()), *container.get("command", ())]
    assert not re.search("passw|secret|token|://[^/]*:[^/]*@", " ".join(said), re.I)
    if container["name"] != "job-server":  # which reads and writes nothing
        assert container["envFrom"][0]["secretRef"]["name"] == "millstream-secrets"


# What belongs together


def test_each_service_has_its_pods():
    for service in of_kind("Service"):
        wanted = service["spec"]["selector"].items()
        (pod,) = (
            deployment["spec"]["template"]
            for deployment in of_kind("Deployment")
            if wanted <= deployment["spec"]["template"]["metadata"]["labels"].items()
        )
        ports = {p["containerPort"] for c in pod["spec"]["containers"] for p in c["ports"]}
        assert {port["port"] for port in service["spec"]["ports"]} <= ports


def test_both_kinds_of_cluster_are_configured_alike():
    operator, session = configuration(OPERATOR), configuration(SESSION)
    assert operator.items() <= session.items()
    left = session.keys() - operator.keys()
    apart = {"address", "port", "bind-host", "bind-address", "cluster-id"}
    assert {key.rpartition(".")[2] for key in left} <= apart


def configuration(document: Document) -> dict[str, Any]:
    """Flink's configuration of a cluster; the operator adds what memory a pod is to have."""
    if document is SESSION:
        found = yaml.safe_load(SESSION["data"]["config.yaml"])
    else:
        spec = document["spec"]
        found = {
            "jobmanager.memory.process.size": spec["jobManager"]["resource"]["memory"],
            "taskmanager.memory.process.size": spec["taskManager"]["resource"]["memory"],
            **spec["flinkConfiguration"],
        }
    return {key: str(value).lower() if value in (True, False) else str(value)
            for key, value in found.items()}  # fmt: skip


def test_a_session_has_the_memory_that_its_pods_have():
    said = configuration(SESSION)
    for deployment, key in (("", "jobmanager"), ("-workers", "taskmanager")):
        document = documents()[f"session/cluster.yaml Deployment millstream-flink{deployment}"]
        container = document["spec"]["template"]["spec"]["containers"][0]
        limit = container["resources"]["limits"]["memory"]
        assert limit == said[f"{key}.memory.process.size"].replace("g", "Gi")


# The launcher


@pytest.fixture
def launcher() -> list[str]:
    (container,) = PODS["launch-stream.yaml Job millstream-clicks"]["containers"]
    return container["args"]


def test_the_launcher_s_addresses_are_services(launcher):
    services = {
        f"{service['metadata']['name']}:{port['port']}"
        for service in of_kind("Service")
        for port in service["spec"]["ports"]
    }
    # The operator makes a service of the cluster's name and "-rest".
    assert f"{OPERATOR['metadata']['name']}-rest:8081" in services
    assert runners.taken(launcher, "--job_endpoint")[0] in services
    assert runners.taken(launcher, "--flink_master")[0] in services
    pool = runners.taken(launcher, "--environment_config")[0]
    ports = {
        port["containerPort"]
        for name, container in CONTAINERS
        if name.endswith(" workers")
        for port in container["ports"]
    }
    assert pool == f"localhost:{ports.pop()}"
    assert not ports


def test_the_launcher_s_flags_are_right(launcher):
    beam = [flag for flag in launcher if not re.match("--(job|no_wait|log_format)(=|$)", flag)]
    flags = runners.chosen(beam)
    runners.refuse_unknown(flags, [])
    assert job_server.kind_of(flags) == "flink"
    flink.check_flags(flags, streaming=True)
    added = flink.flags(flags, streaming=True)[len(flags) :]
    assert added == ["--finish_bundle_before_checkpointing"]
    slots = int(configuration(OPERATOR)["taskmanager.numberOfTaskSlots"])
    assert runners.taken(flags, "--sdk_worker_parallelism")[0] == str(slots)
    workers = OPERATOR["spec"]["taskManager"]["replicas"]
    assert int(runners.taken(flags, "--parallelism")[0]) <= workers * slots


def test_the_launcher_s_job_is_right(tmp_path):
    for name, text in of_kind("ConfigMap")[0]["data"].items():
        (tmp_path / name).write_text(text, "utf-8")
    job, places = load_job(str(tmp_path / "job.yaml"), {})
    contract = job_contract(job)
    steps = job_steps(job, contract, places)
    aggregates = job_aggregates(job, steps.contract, places)
    assert job_triggers(job, aggregates, True, places).keys() == {"page_views"}


# On a cluster


@pytest.fixture(scope="module")
def cluster() -> Iterator[flink_service.Flink]:
    """A cluster that is configured as the manifests say, but for stores and Kubernetes."""
    said = configuration(OPERATOR)
    ours = {k: v for k, v in said.items() if not k.startswith(("high-availability", "kubernetes"))}
    with or_skip("flink", flink_service.why_not, lambda: flink_service.running(ours)) as flink:
        yield flink


@pytest.mark.service
@pytest.mark.slow
def test_flink_knows_each_key_of_the_configuration(cluster):
    """Flink itself says nothing of a key that it does not know. Its keys are constants in the
    classes of its options, each after its length."""
    wanted = set(configuration(SESSION))
    archive = next((FLINK.home / "pyflink" / "lib").glob("flink-dist-*.jar"))
    with zipfile.ZipFile(archive) as classes:
        texts = [classes.read(n) for n in classes.namelist() if n.endswith("Options.class")]
    known = {
        key
        for key in wanted
        if any(len(key).to_bytes(2, "big") + key.encode() in text for text in texts)
    }
    assert wanted == known


@pytest.mark.service
@pytest.mark.slow
def test_the_configuration_is_what_a_cluster_has(cluster):
    (manager,) = cluster.ask("/taskmanagers")["taskmanagers"]
    memory = cluster.ask(f"/taskmanagers/{manager['id']}")["memoryConfiguration"]
    assert manager["slotsNumber"] == 2
    assert memory["totalProcessMemory"] == 4 << 30
    assert memory["managedMemory"] == 1 << 30
    assert memory["networkMemory"] == 512 << 20
    flags = [f"--flink_master={cluster.rest}", "--parallelism=2"]
    assert flink.too_small(flags, streaming=False) == []


@pytest.mark.service
@pytest.mark.slow
def test_a_job_is_stopped_with_a_savepoint_and_goes_on_from_it(cluster):
    """The steps of an upgrade, as the README has them."""
    job = cluster.submit("upgrade")
    found = cluster.ask(f"/jobs/{job}/checkpoints/config")
    assert found["state_backend"] == "EmbeddedRocksDBStateBackend"
    assert found["unaligned_checkpoints"] is False
    savepoint = cluster.stop(job)
    again = cluster.submit("upgrade", settings={"execution.savepoint.path": savepoint})
    restored = cluster.ask(f"/jobs/{again}/checkpoints")["latest"]["restored"]
    assert restored["external_path"] == savepoint
    flink.cancel([f"--flink_master={cluster.rest}", "--job_name=upgrade"])
    assert cluster.state(again) == "CANCELED"
