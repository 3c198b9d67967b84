"""`launcher.environment.slurm`: what the variables of Slurm say."""

from __future__ import annotations

import pytest

from launcher.environment import Environment
from launcher.environment.slurm import detect

# What Slurm 22.05 sets for the second task of `sbatch -N2`, `srun --ntasks-per-node=1`.
TASK = {
    "SLURM_CPUS_ON_NODE": "4",
    "SLURM_JOB_ID": "123",
    "SLURM_JOB_NODELIST": "n[08-11]",
    "SLURM_JOB_NUM_NODES": "4",
    "SLURM_LAUNCH_NODE_IPADDR": "192.0.2.1",
    "SLURM_LOCALID": "0",
    "SLURM_NNODES": "2",
    "SLURM_NODEID": "1",
    "SLURM_NTASKS": "2",
    "SLURM_PROCID": "1",
    "SLURM_STEP_ID": "0",
    "SLURM_STEP_NODELIST": "n[09-10]",
    "SLURM_STEP_NUM_NODES": "2",
    "SLURM_STEP_NUM_TASKS": "2",
    "SLURM_STEP_TASKS_PER_NODE": "1(x2)",
    "SLURM_TASKS_PER_NODE": "1(x2)",
}
BATCH = {name: text for name, text in TASK.items() if "STEP" not in name}


def found(environ: dict[str, str]) -> Environment:
    """Return what is detected."""
    environment = detect(environ)
    assert environment is not None
    return environment


def test_a_task_of_srun_is_a_node() -> None:
    """Rank and count are the step's, its first host is where all meet."""
    expected = Environment(
        source="Slurm job 123",
        node_rank=1,
        node_count=2,
        run_id="123",
        host="n09",
        port=20123,
        is_host=False,
        preempt_signals="USR1",
        requeue="scontrol requeue 123",
        nproc_hint=4,
    )

    assert found(TASK) == expected
    assert found({**TASK, "SLURM_NODEID": "0", "SLURM_PROCID": "0"}) == expected._replace(
        node_rank=0, is_host=True
    )


def test_nothing_is_said_outside_of_jobs() -> None:
    """Slurm's other variables are set by users, too."""
    assert detect({"SLURM_CONF": "/etc/slurm.conf", "SLURM_NNODES": "2"}) is None


def test_each_step_and_each_attempt_is_a_run_of_its_own() -> None:
    """Launchers must not meet what is left of another step, or of the attempt before."""
    step = found({**TASK, "SLURM_STEP_ID": "3"})
    again = found({**TASK, "SLURM_RESTART_COUNT": "2"})

    assert (step.run_id, step.port != found(TASK).port) == ("123.3", True)
    assert (again.run_id, again.restart_attempt) == ("123-2", 2)


@pytest.mark.parametrize(
    "environ",
    [
        BATCH,
        {**BATCH, "SLURM_STEP_ID": str(0xFFFF_FFFA)},
        {"SLURM_JOB_ID": "123", "SLURM_NNODES": "2"},  # a shell of salloc
    ],
)
def test_without_srun_a_launcher_is_alone(environ: dict[str, str]) -> None:
    """Nobody would come, and the user is told what is missing."""
    environment = found(environ)

    assert (environment.node_count, environment.host) == (1, "")
    assert "has 2 nodes" in environment.warning
    assert "srun --ntasks-per-node=1" in environment.warning
    assert found({**environ, "SLURM_NNODES": "1"}).warning == ""


def test_several_tasks_on_a_node_are_a_mistake_most_likely() -> None:
    """Each is a node of the run all the same, and whoever has the address hosts the store."""
    tasks = {
        "SLURM_STEP_NUM_TASKS": "6",
        "SLURM_STEP_TASKS_PER_NODE": "2,4",
        "SLURM_PROCID": "5",
    }
    environment = found({**TASK, **tasks})

    assert (environment.node_rank, environment.node_count, environment.is_host) == (5, 6, None)
    assert "4 launchers on one node" in environment.warning
    assert "--ntasks-per-node=1 and --nproc-per-node=4" in environment.warning


@pytest.mark.parametrize(
    ("variables", "workers"),
    [
        ({"SLURM_GPUS_ON_NODE": "8", "SLURM_CPUS_PER_TASK": "2"}, 8),
        ({"SLURM_CPUS_PER_TASK": "2"}, 2),
        ({}, 4),
    ],
)
def test_workers_fit_what_the_node_was_given(variables: dict[str, str], workers: int) -> None:
    """One for each GPU, else for each processor."""
    assert found({**TASK, **variables}).nproc_hint == workers


@pytest.mark.parametrize(
    ("variables", "message"),
    [
        ({"SLURM_JOB_ID": "x"}, "SLURM_JOB_ID=x: expected an integer, at least 1"),
        ({"SLURM_NODEID": "-1"}, "SLURM_NODEID=-1: expected an integer, at least 0"),
        ({"SLURM_NODEID": "2"}, "SLURM_NODEID=2: expected below SLURM_STEP_NUM_TASKS=2"),
        ({"SLURM_STEP_NODELIST": "n[1"}, "SLURM_STEP_NODELIST: host list 'n[1': expected names"),
        ({"SLURM_STEP_NODELIST": "n1"}, "SLURM_STEP_NODELIST=n1: expected 2 hosts"),
        ({"SLURM_STEP_NODELIST": ""}, "SLURM_STEP_NODELIST=: expected 2 hosts"),
        ({"SLURM_RESTART_COUNT": "٣"}, "SLURM_RESTART_COUNT=٣: expected an integer"),
    ],
)
def test_variables_that_make_no_sense_are_named(variables: dict[str, str], message: str) -> None:
    """Whoever set them sees which."""
    with pytest.raises(ValueError) as caught:
        detect({**TASK, **variables})

    assert str(caught.value).startswith(message)


def test_a_missing_variable_is_named() -> None:
    """A step without a count of tasks is no step."""
    with pytest.raises(ValueError, match=r"^SLURM_STEP_NUM_TASKS is not set: expected an integer"):
        detect({name: text for name, text in TASK.items() if name != "SLURM_STEP_NUM_TASKS"})
