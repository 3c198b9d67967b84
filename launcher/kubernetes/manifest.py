"""What a launch is in Kubernetes: a headless Service and an Indexed Job, or a JobSet. Pure.

One pod is one node of the run. Pods find the first one by its name, and each other by what the
launchers tell them, so no pod needs rights at the API server; what a launcher takes from its pod's
environment is in `launcher.environment.kubernetes`.

Source: kubernetes.io/docs/concepts/workloads/controllers/job ("Indexed", "Backoff limit per index",
"Pod failure policy"), jobset.sigs.k8s.io/docs/concepts.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import NamedTuple

from launcher.kubernetes.yaml import to_yaml

__all__ = ("Deployment", "render")

_PORT = 29400  # of the run's store, in the first pod
_SECRET_FOLDER = "/run/asyncrpc"  # noqa: S105 -- where it is mounted
_USER = 1000  # not root, which no part of this needs; the secret is readable for its group
_CONTAINER = "launcher"
_NODES = "node"  # the job of a JobSet
_REQUEUE_STATUS, _USAGE_STATUS = 85, 2
_RESERVE = 5  # seconds of the grace for the launcher itself to end
_LABELS = "jobset.sigs.k8s.io"


class Deployment(NamedTuple):
    """A launch as it is to be in Kubernetes."""

    name: str
    """Of the Job or JobSet, and of all that belongs to it; a label of DNS."""
    image: str
    """Has Python, these packages and the user's program."""
    command: Sequence[str]
    """The launcher's arguments: options, script and its arguments."""
    min_nodes: int
    """Pods needed to run."""
    max_nodes: int
    """Pods at most: as many are started."""
    secret: str
    """Name of the Secret whose key ``secret`` the launchers share."""
    namespace: str = ""
    """Where all that is; empty: where it is applied."""
    grace: int = 60
    """Seconds from a pod's SIGTERM to SIGKILL."""
    retries: int = 3
    """How often a pod that failed is started again; of a JobSet, how often all are."""
    is_jobset: bool = False
    """Whether it is a JobSet."""

    @property
    def notice(self) -> int:
        """Seconds that a launcher is told it has from the notice to its end."""
        return self.grace - _RESERVE


def render(deployment: Deployment) -> str:
    """Return the manifest of a launch, for ``kubectl apply -f -``.

    Args:
        deployment: as checked by the command.
    """
    documents = [_jobset(deployment)] if deployment.is_jobset else _job(deployment)
    return _head(deployment) + "---\n".join(map(to_yaml, documents))


def _head(deployment: Deployment) -> str:
    where = f" -n {deployment.namespace}" if deployment.namespace else ""
    return (
        "# Once before, for all launches that share the secret:\n"
        f"#   head -c 32 /dev/urandom | kubectl create secret{where} generic {deployment.secret} "
        "--from-file=secret=/dev/stdin\n"
    )


def _job(deployment: Deployment) -> list[Mapping[str, object]]:
    name = deployment.name
    service = {
        "apiVersion": "v1",
        "kind": "Service",
        "metadata": _metadata(deployment),
        "spec": {
            "clusterIP": "None",
            # The first pod is to be found by those that wait for it to get ready.
            "publishNotReadyAddresses": True,
            "selector": {"batch.kubernetes.io/job-name": name},
            "ports": [{"name": "store", "port": _PORT}],
        },
    }
    job = {
        "apiVersion": "batch/v1",
        "kind": "Job",
        "metadata": _metadata(deployment),
        "spec": {
            **_job_spec(deployment, _environment(deployment, name)),
            "backoffLimitPerIndex": deployment.retries,
            "maxFailedIndexes": deployment.max_nodes - deployment.min_nodes,
        },
    }
    return [service, job]


def _jobset(deployment: Deployment) -> Mapping[str, object]:
    name = deployment.name
    own = {
        "JOBSET_NAME": name,
        "JOBSET_RESTART_ATTEMPT": f"metadata.labels['{_LABELS}/restart-attempt']",
    }
    job = {"name": _NODES, "replicas": 1}
    spec = _job_spec(deployment, _environment(deployment, f"{name}-{_NODES}-0", own))
    return {
        "apiVersion": "jobset.x-k8s.io/v1alpha2",
        "kind": "JobSet",
        "metadata": _metadata(deployment),
        "spec": {
            "network": {
                "enableDNSHostnames": True,
                "subdomain": name,
                "publishNotReadyAddresses": True,
            },
            "failurePolicy": {"maxRestarts": deployment.retries},
            "replicatedJobs": [{**job, "template": {"spec": {**spec, "backoffLimit": 0}}}],
        },
    }


def _metadata(deployment: Deployment) -> Mapping[str, object]:
    where = {"namespace": deployment.namespace} if deployment.namespace else {}
    return {"name": deployment.name, **where}


def _job_spec(
    deployment: Deployment, environment: Sequence[Mapping[str, object]]
) -> dict[str, object]:
    return {
        "completionMode": "Indexed",
        "completions": deployment.max_nodes,
        "parallelism": deployment.max_nodes,
        "podFailurePolicy": {"rules": _failure_rules()},
        "template": {"spec": _pod(deployment, environment)},
    }


def _failure_rules() -> Sequence[Mapping[str, object]]:
    def on_exit(action: str, status: int) -> Mapping[str, object]:
        codes = {"containerName": _CONTAINER, "operator": "In", "values": [status]}
        return {"action": action, "onExitCodes": codes}

    evicted = [{"type": "DisruptionTarget", "status": "True"}]
    return [
        on_exit("FailJob", _USAGE_STATUS),  # which no retry would mend
        on_exit("Ignore", _REQUEUE_STATUS),
        {"action": "Ignore", "onPodConditions": evicted},
    ]


def _pod(
    deployment: Deployment, environment: Sequence[Mapping[str, object]]
) -> Mapping[str, object]:
    named = {} if deployment.is_jobset else {"subdomain": deployment.name}
    return {
        **named,
        "restartPolicy": "Never",  # the Job makes new pods, and counts them
        "automountServiceAccountToken": False,
        "terminationGracePeriodSeconds": deployment.grace,
        "securityContext": {"runAsNonRoot": True, "runAsUser": _USER, "fsGroup": _USER},
        "containers": [
            {
                "name": _CONTAINER,
                "image": deployment.image,
                "command": ["python", "-m", "launcher"],
                # Kubernetes replaces $(NAME), and takes $$ for $.
                "args": [argument.replace("$", "$$") for argument in deployment.command],
                "env": list(environment),
                "ports": [{"name": "store", "containerPort": _PORT}],
                "volumeMounts": [{"name": "secret", "mountPath": _SECRET_FOLDER, "readOnly": True}],
            }
        ],
        "volumes": [
            {"name": "secret", "secret": {"secretName": deployment.secret, "defaultMode": 0o440}}
        ],
    }


def _environment(
    deployment: Deployment, job: str, own: Mapping[str, str] | None = None
) -> list[Mapping[str, object]]:
    texts = {
        "ASYNCRPC_SECRET_FILE": f"{_SECRET_FOLDER}/secret",
        "LAUNCHER_JOB": job,
        "LAUNCHER_SERVICE": deployment.name,
        "PET_PREEMPT_NOTICE": str(deployment.notice),
        "POD_IP": "status.podIP",
        **(own or {}),
    }
    return [{"name": name, **_value(text)} for name, text in texts.items()]


def _value(text: str) -> Mapping[str, object]:
    """Return a text, or where in its own pod it is to be read."""
    if text.startswith(("status.", "metadata.")):
        return {"valueFrom": {"fieldRef": {"fieldPath": text}}}
    return {"value": text}
