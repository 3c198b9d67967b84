"""`launcher.kubernetes.manifest`: golden files, the schemas of Kubernetes, and what must hold."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import pytest

from launcher.commandline import parse
from launcher.kubernetes import Deployment, render

yaml = pytest.importorskip("yaml", reason="needs PyYAML, of the extra test")

GOLDEN = Path(__file__).parent / "golden"
VERSIONS = ("1.29.0", "1.33.0", "1.37.0")
JOB = Deployment(
    name="train",
    image="registry.example.org/train:1.2",
    command=("--nnodes=2:4", "--nproc-per-node", "auto", "train.py", "--name", "a b $HOME"),
    min_nodes=2,
    max_nodes=4,
    secret="train-asyncrpc",
)
DEPLOYMENTS = {
    "job": JOB,
    "jobset": JOB._replace(is_jobset=True, namespace="research", grace=120, retries=0),
}


def documents(deployment: Deployment) -> list[dict[str, Any]]:
    """Return what is rendered, read."""
    return list(yaml.safe_load_all(render(deployment)))


@pytest.mark.parametrize("name", DEPLOYMENTS)
def test_the_manifest_is_the_golden_one(name: str) -> None:
    """A change of it is seen; UPDATE_GOLDEN=1 takes it over."""
    path = GOLDEN / f"{name}.yaml"
    text = render(DEPLOYMENTS[name])
    if os.environ.get("UPDATE_GOLDEN"):
        path.write_text(text)

    assert text == path.read_text()


@pytest.mark.slow
@pytest.mark.parametrize("version", VERSIONS)
def test_kubernetes_takes_it(version: str) -> None:
    """Strictly: a field that it does not know is a mistake. Of a JobSet, the Job that it makes."""
    validate = pytest.importorskip(
        "kubernetes_validate", reason="needs kubernetes-validate, of the extra test"
    ).validate
    (jobset,) = documents(DEPLOYMENTS["jobset"])
    template = jobset["spec"]["replicatedJobs"][0]["template"]
    made = {"apiVersion": "batch/v1", "kind": "Job", "metadata": {"name": "a"}, **template}
    for document in (*documents(JOB), made):
        validate(document, version, strict=True)


@pytest.mark.slow
def test_the_schemas_find_mistakes() -> None:
    """Else they would prove nothing."""
    validation = pytest.importorskip("kubernetes_validate", reason="needs kubernetes-validate")
    _, job = documents(JOB)
    job["spec"]["completion"] = 4
    with pytest.raises(validation.ValidationError):
        validation.validate(job, VERSIONS[-1], strict=True)


def container(job: dict[str, Any]) -> dict[str, Any]:
    """Return the one container of a job's pods."""
    (found,) = job["template"]["spec"]["containers"]
    found["env"] = {entry["name"]: entry.get("value") for entry in found["env"]}
    return dict(found)


def launched(pod: dict[str, Any], index: int, address: str) -> Any:
    """Return the configuration that a pod's launcher comes to, as Kubernetes starts it."""
    environ = {**pod["env"], "JOB_COMPLETION_INDEX": str(index), "POD_IP": address}
    environ["JOBSET_RESTART_ATTEMPT"] = "0"
    args = [argument.replace("$$", "$") for argument in pod["args"]]
    return parse(args, {name: text for name, text in environ.items() if text is not None})


@pytest.mark.parametrize(
    ("name", "job", "endpoint"),
    [
        ("job", "train", "train-0.train:29400"),
        ("jobset", "train-node-0", "train-node-0-0.train:29400"),
    ],
)
def test_the_launchers_find_each_other(name: str, job: str, endpoint: str) -> None:
    """What the manifest sets is what the detector needs: both sides, put together."""
    *_, document = documents(DEPLOYMENTS[name])
    spec = document["spec"]
    if name == "jobset":
        assert spec["network"]["subdomain"] == "train"
        spec = spec["replicatedJobs"][0]["template"]["spec"]
    pod = container(spec)
    launch = launched(pod, 3, "10.1.2.3")
    config = launch.config

    assert (config.min_nodes, config.max_nodes, config.run_id) == (2, 4, job)
    assert config.rdzv_endpoint == endpoint
    assert config.rdzv_configs == {"timeout": 900, "rank": 3, "is_host": "0"}
    assert (config.local_addr, config.preempt_signals) == ("10.1.2.3", "SIGTERM")
    assert launch.target.args == ("--name", "a b $HOME")


def test_the_launcher_is_done_before_the_pod_is_killed() -> None:
    """The notice is shorter than the grace; an option for it wins."""
    _, document = documents(JOB._replace(grace=300))
    pod = container(document["spec"])
    own = {**pod, "args": ["--preempt-notice=20", *pod["args"]]}

    assert document["spec"]["template"]["spec"]["terminationGracePeriodSeconds"] == 300
    assert launched(pod, 0, "10.1.2.3").config.preempt_notice == 295
    assert launched(own, 0, "10.1.2.3").config.preempt_notice == 20


def test_the_service_finds_the_pods_before_they_are_ready() -> None:
    """They wait for each other to get ready."""
    service, job = documents(JOB)

    assert service["spec"]["clusterIP"] == "None"
    assert service["spec"]["publishNotReadyAddresses"] is True
    assert service["spec"]["selector"] == {"batch.kubernetes.io/job-name": job["metadata"]["name"]}
    assert job["spec"]["template"]["spec"]["subdomain"] == service["metadata"]["name"]


def test_pods_that_had_to_go_do_not_count_as_failed() -> None:
    """Nor do those whose node went; a usage error ends the job, since it would come again."""
    _, job = documents(JOB)
    rules = job["spec"]["podFailurePolicy"]["rules"]
    by_status = {rule["onExitCodes"]["values"][0]: rule["action"] for rule in rules[:2]}

    assert by_status == {2: "FailJob", 85: "Ignore"}
    assert rules[2] == {
        "action": "Ignore",
        "onPodConditions": [{"type": "DisruptionTarget", "status": "True"}],
    }
    assert (job["spec"]["backoffLimitPerIndex"], job["spec"]["maxFailedIndexes"]) == (3, 2)


def test_the_secret_is_a_file_that_others_cannot_read() -> None:
    """It is made beforehand, and the manifest says how."""
    _, job = documents(JOB)
    (volume,) = job["spec"]["template"]["spec"]["volumes"]

    assert volume["secret"] == {"secretName": "train-asyncrpc", "defaultMode": 0o440}
    assert "kubectl create secret generic train-asyncrpc --from-file=secret=" in render(JOB)
    assert "create secret -n research generic" in render(DEPLOYMENTS["jobset"])
