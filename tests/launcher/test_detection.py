"""`launcher.detection`: which options are taken from a scheduler, and what the user is told."""

from __future__ import annotations

import subprocess
import sys

import pytest

from launcher.cli import main
from launcher.commandline import Launch, parse
from launcher.config import LaunchConfig
from launcher.errors import UsageError
from tests.launcher.conftest import Start
from tests.launcher.environment.test_kubernetes import POD
from tests.launcher.environment.test_mpi import OPEN_MPI
from tests.launcher.environment.test_slurm import BATCH, TASK

TORCHS = {"timeout": 900}  # what every configuration has, and only the static backend goes by


def configured(*options: str, **variables: str) -> LaunchConfig:
    """Return the configuration of a launch by srun."""
    return parse([*options, "a.py"], {**TASK, **variables}).config


def test_a_task_of_srun_needs_no_options() -> None:
    """Nodes, rank, endpoint and run id are Slurm's; one line says so."""
    launch = parse(["a.py"], TASK)
    config = launch.config

    assert (config.min_nodes, config.max_nodes, config.run_id) == (2, 2, "123")
    assert config.rdzv_endpoint == "n09:20123"
    assert config.rdzv_configs == {**TORCHS, "rank": 1, "is_host": "0"}
    (note,) = launch.notes
    assert note == (
        "detected Slurm job 123: --preempt-signals=USR1 --nnodes=2 --rdzv-id=123 --node-rank=1 "
        "--rdzv-endpoint=n09:20123 --rdzv-conf=is_host=0 (--no-detect turns this off)"
    )


@pytest.mark.parametrize(
    ("argv", "environ"),
    [
        (["--no-detect"], TASK),
        ([], {**TASK, "PET_NO_DETECT": "1"}),
        (["--standalone"], TASK),
        (["--nnodes=1"], TASK),
        ([], {**TASK, "TORCHELASTIC_RUN_ID": "outer"}),
        ([], POD),
        ([], {**TASK, "SLURM_NNODES": "1", "SLURM_STEP_ID": str(0xFFFF_FFFB)}),
    ],
)
def test_a_launcher_may_be_alone_under_a_scheduler(
    argv: list[str], environ: dict[str, str]
) -> None:
    """If the user says so, in a worker of another launch, or in a pod that need not have peers."""
    config = parse([*argv, "a.py"], environ).config

    assert (config.min_nodes, config.max_nodes, config.run_id) == (1, 1, "")
    assert (config.rdzv_endpoint, config.rdzv_configs) == ("", TORCHS)


def test_explicit_options_win_one_by_one() -> None:
    """By flag or by variable; what is not given is still Slurm's."""
    config = configured("--nnodes=1:4", "--rdzv-id=mine", PET_NODE_RANK="3")

    assert (config.min_nodes, config.max_nodes, config.run_id) == (1, 4, "mine")
    assert (config.rdzv_endpoint, config.rdzv_configs["rank"]) == ("n09:20123", 3)


@pytest.mark.parametrize(
    ("options", "endpoint"),
    [
        (["--rdzv-endpoint=other:7"], "other:7"),
        (["--master-addr=other"], "other:29500"),
        (["--rdzv-backend=mine"], ""),
    ],
)
def test_an_explicit_place_to_meet_is_left_alone(options: list[str], endpoint: str) -> None:
    """Neither the place nor who hosts it is Slurm's then."""
    config = configured(*options)

    assert config.rdzv_endpoint == endpoint
    assert "is_host" not in config.rdzv_configs
    assert (config.max_nodes, config.rdzv_configs["rank"]) == (2, 1)


def test_torchs_variables_say_where_to_meet() -> None:
    """Scripts for torchrun set them; the port may be left to the job."""
    both = configured(MASTER_ADDR="head", MASTER_PORT="29500")
    host = configured(MASTER_ADDR="fd00::1")

    assert (both.rdzv_endpoint, both.rdzv_configs) == ("head:29500", {**TORCHS, "rank": 1})
    assert host.rdzv_endpoint == "[fd00::1]:20123"


def test_a_loopback_address_for_several_machines_is_told() -> None:
    """The classic mistake of such scripts."""
    notes = parse(["a.py"], {**TASK, "MASTER_ADDR": "127.0.0.1"}).notes

    assert "MASTER_ADDR=127.0.0.1 is another machine on each node" in notes


def test_settings_of_the_rendezvous_are_kept() -> None:
    """Who hosts the store is added to them, unless it is among them."""
    added = configured("--rdzv-conf=join_timeout=9")
    own = configured("--rdzv-conf=is_host=1")

    assert added.rdzv_configs == {**TORCHS, "join_timeout": "9", "rank": 1, "is_host": "0"}
    assert own.rdzv_configs == {**TORCHS, "rank": 1, "is_host": "1"}


def test_auto_is_what_the_node_was_given() -> None:
    """Not what the machine has."""
    assert configured("--nproc-per-node=auto").nproc_per_node == 4
    assert configured("--nproc-per-node=3").nproc_per_node == 3


def test_pods_are_nodes_once_their_number_is_known() -> None:
    """No variable tells it."""
    config = parse(["--nnodes=12", "a.py"], {**POD, "POD_IP": "10.1.2.3"}).config

    assert (config.max_nodes, config.run_id, config.rdzv_configs["rank"]) == (12, "train", 11)
    assert (config.rdzv_endpoint, config.local_addr) == ("train-0.train:29400", "10.1.2.3")


def test_what_looks_wrong_is_told() -> None:
    """Also where nothing is taken."""
    notes = parse(["a.py"], BATCH).notes

    assert notes[0].startswith("detected Slurm job 123: --preempt-signals=USR1 (")
    assert notes[1].startswith("Slurm job 123 has 2 nodes, this launcher runs on one")


@pytest.mark.parametrize(
    ("options", "signals"),
    [
        ([], "SIGUSR1"),
        (["--preempt-signals=USR2,TERM"], "SIGUSR2,SIGTERM"),
        (["--preempt-signals="], ""),
        (["--forward-signals=SIGUSR1"], ""),
        (["--signals-to-handle=TERM,usr1"], ""),
    ],
)
def test_a_notice_is_what_the_scheduler_sends(options: list[str], signals: str) -> None:
    """Unless the user has given the signal another meaning."""
    assert configured(*options).preempt_signals == signals


def test_the_way_to_be_started_again_is_the_schedulers() -> None:
    """Slurm has a command for it."""
    assert parse(["a.py"], TASK).requeue == "scontrol requeue 123"
    assert parse(["a.py"], {}).requeue == ""


def refusal(argv: list[str], environ: dict[str, str]) -> UsageError:
    """Return the usage error of a command line."""
    with pytest.raises(UsageError) as caught:
        parse([*argv, "a.py"], environ)
    return caught.value


def test_variables_that_make_no_sense_are_a_usage_error() -> None:
    """With the way out."""
    error = refusal([], {**TASK, "SLURM_NODEID": "x"})

    assert str(error) == "SLURM_NODEID=x: expected an integer, at least 0"
    assert error.hint == "--no-detect asks no scheduler"


def test_a_scheduler_can_be_named() -> None:
    """It must have started the process; mistakes name what the user wrote."""
    launch: Launch = parse(["--environment=slurm", "a.py"], {**OPEN_MPI, **TASK})
    unknown = refusal(["--environment=pbs"], {})
    absent = refusal([], {"PET_ENVIRONMENT": "slurm"})

    assert launch.config.run_id == "123"
    assert str(unknown) == "--environment=pbs: expected one of kubernetes, mpi, slurm"
    assert str(absent) == "PET_ENVIRONMENT=slurm: expected a process that it has started"


def test_a_bad_switch_is_refused_under_a_scheduler_too() -> None:
    """It is not mistaken for off."""
    assert str(refusal([], {**TASK, "PET_NO_DETECT": "perhaps"})).startswith("PET_NO_DETECT=perh")


@pytest.mark.slow
def test_a_rank_beyond_the_users_nodes_is_refused(start: Start) -> None:
    """A launch of two nodes in a job of four is a contradiction, which names both."""
    nodes = {"SLURM_STEP_NUM_NODES": "4", "SLURM_STEP_NUM_TASKS": "4"}
    listed = {"SLURM_STEP_NODELIST": "n[1-4]", "SLURM_NODEID": "3"}
    launcher = start("--nnodes=2", __file__, env={**TASK, **nodes, **listed})
    _, stderr = launcher.communicate(timeout=20)

    assert launcher.returncode == 2
    assert "Slurm job 123: --node-rank=3: expected below --nnodes (max_nodes), 2" in stderr


def test_the_configuration_shows_what_is_detected(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """With its origin, as for any other."""
    for name, text in TASK.items():
        monkeypatch.setenv(name, text)
    with pytest.raises(SystemExit):
        main(["--print-config", "a.py"])

    assert 'nnodes = "2"  # Slurm job 123\n' in capsys.readouterr().out


def test_nothing_is_loaded_without_a_scheduler() -> None:
    """Most launches pay nothing for this."""
    code = "from launcher.commandline import parse; parse(['a.py'], {}); import sys; "
    code += "print([name for name in sys.modules if 'environment' in name or 'detection' in name])"
    shown = subprocess.run([sys.executable, "-c", code], check=True, capture_output=True, text=True)

    assert shown.stdout == "[]\n"
