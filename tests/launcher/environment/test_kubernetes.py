"""`launcher.environment.kubernetes`: what the variables of an Indexed Job's pod say."""

from __future__ import annotations

import pytest

from launcher.environment import Environment
from launcher.environment.kubernetes import detect

POD = {"JOB_COMPLETION_INDEX": "11", "HOSTNAME": "train-11", "KUBERNETES_SERVICE_HOST": "10.0.0.1"}


def found(environ: dict[str, str]) -> Environment:
    """Return what is detected."""
    environment = detect(environ)
    assert environment is not None
    return environment


def test_a_pod_of_an_indexed_job_is_a_node() -> None:
    """The first pod hosts the store, at the name that a Service called as the Job gives it."""
    expected = Environment(
        source="Kubernetes Job train",
        node_rank=11,
        run_id="train",
        host="train-0.train",
        port=29400,
        is_host=False,
        preempt_signals="TERM",
    )

    assert found(POD) == expected
    assert found({**POD, "JOB_COMPLETION_INDEX": "0", "HOSTNAME": "train-0"}).is_host


def test_a_pod_knows_its_own_address_if_it_is_told() -> None:
    """The downward API does."""
    assert found({**POD, "POD_IP": "10.1.2.3"}).local_addr == "10.1.2.3"


def test_the_service_may_have_another_name() -> None:
    """Those who write their Job by hand say it; so does the Job, where hosts are not called so."""
    assert found({**POD, "LAUNCHER_SERVICE": "peers"}).host == "train-0.peers"
    assert found({**POD, "HOSTNAME": "box", "LAUNCHER_JOB": "job"}).host == "job-0.job"


def test_a_pod_that_knows_no_name_says_only_its_index() -> None:
    """Where to meet has to be given then."""
    environment = found({"JOB_COMPLETION_INDEX": "3"})

    assert (environment.node_rank, environment.host, environment.run_id) == (3, "", "")


def test_a_pod_of_a_jobset_is_a_node_of_its_job() -> None:
    """Its Service is called as the JobSet; an attempt of the whole set is a run of its own."""
    environment = found(
        {
            "JOB_COMPLETION_INDEX": "1",
            "HOSTNAME": "set-node-0-1",
            "JOBSET_NAME": "set",
            "JOBSET_RESTART_ATTEMPT": "2",
        }
    )

    assert environment.host == "set-node-0-0.set"
    assert (environment.run_id, environment.restart_attempt) == ("set-node-0-2", 2)


def test_other_pods_are_nothing_special() -> None:
    """A launcher in a plain pod is alone."""
    assert detect({"HOSTNAME": "train-11", "KUBERNETES_SERVICE_HOST": "10.0.0.1"}) is None


def test_an_index_that_makes_no_sense_is_named() -> None:
    """Whoever set it sees which."""
    with pytest.raises(ValueError, match=r"^JOB_COMPLETION_INDEX=x: expected an integer"):
        detect({**POD, "JOB_COMPLETION_INDEX": "x"})
