"""A real Slurm of two nodes on this machine, in namespaces: `SlurmCluster`.

Takes what `hosts` takes, and the packages slurmctld, slurmd and slurm-client.
"""

from __future__ import annotations

import os
import shutil
import subprocess
import time
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from types import TracebackType
from typing import Any, Self

import pytest

from tests.launcher.conftest import ROOT
from tests.launcher.hosts import Network

NODES = ("n1", "n2")
_PROGRAMS = {"slurmctld": "slurmctld", "slurmd": "slurmd", "srun": "slurm-client"}
# What PMIx keeps for a task is called alike on all nodes, which share this machine's files.
_OWN_FOLDER = 'mkdir "$1"; mount --bind "$1" "$2"; shift 2; exec "$@"'
# The controller is on the first node. No accounts, no passwords, no control groups: it is ours.
_CONFIGURATION = """
ClusterName=ci
SlurmctldHost=n1
SlurmUser=root
SlurmdUser=root
AuthType=auth/none
CredType=cred/none
MpiDefault=none
ProctrackType=proctrack/linuxproc
TaskPlugin=task/none
SwitchType=switch/none
SelectType=select/cons_tres
SelectTypeParameters=CR_Core
JobAcctGatherType=jobacct_gather/none
StateSaveLocation={folder}/state
SlurmdSpoolDir={folder}/spool/%n
SlurmctldPidFile={folder}/slurmctld.pid
SlurmdPidFile={folder}/slurmd.%n.pid
SlurmdParameters=config_overrides
ReturnToService=2
KillWait=10
SchedulerParameters=sched_interval=1,batch_sched_delay=0
NodeName=n1 NodeHostname=n1 CPUs=2
NodeName=n2 NodeHostname=n2 CPUs=2
PartitionName=p Nodes=n[1-2] Default=YES MaxTime=10 State=UP
"""


class SlurmCluster:
    """Two nodes and a controller, from entering it as a context to leaving it.

    Args:
        folder: for all its files.
    """

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._configuration = folder / "slurm.conf"
        self._pmix = folder / "pmix"
        self.network = Network(folder)
        self._daemons: list[subprocess.Popen[bytes]] = []
        self._started: list[subprocess.Popen[str]] = []
        self.environ = {
            **{k: v for k, v in os.environ.items() if not k.startswith(("PET_", "OMP_"))},
            "SLURM_CONF": str(self._configuration),
            "SLURM_PMIX_TMPDIR": str(self._pmix),
            "PYTHONPATH": str(ROOT),
            "XDG_CONFIG_HOME": str(folder / "config"),
            "TMPDIR": str(folder),  # for what is left where Slurm kills the guardian, too
        }

    def __enter__(self) -> Self:
        for program, package in _PROGRAMS.items():
            if shutil.which(program) is None:
                pytest.skip(f"needs the program {program}, of the package {package}")
        self.network.__enter__()
        try:
            self._start()
        except BaseException:
            self.__exit__(None, None, None)
            raise
        return self

    def __exit__(
        self,
        exc_type: type[BaseException] | None,
        exc: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self.network.__exit__(exc_type, exc, traceback)  # which ends everything that runs there
        for daemon in self._daemons:
            daemon.wait(timeout=10)
        for process in self._started:
            process.communicate(timeout=10)

    def run(self, *argv: str, **options: Any) -> str:
        """Run one of Slurm's commands on the first node, and return what it prints."""
        return self.network.hosts["n1"].run(*argv, env=self.environ, **options)

    def start(self, *argv: str, **variables: str) -> subprocess.Popen[str]:
        """Start one of Slurm's commands on the first node.

        Args:
            argv: the command.
            variables: set on top of the environment.
        """
        process = subprocess.Popen(
            self.network.hosts["n1"].command(*argv),
            env={**self.environ, **variables},
            cwd=self._folder,
            text=True,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
        )
        self._started.append(process)
        return process

    def start_again(self, job: str) -> None:
        """Have a job that was requeued start soon: Slurm itself waits for two minutes.

        Args:
            job: its id.
        """
        # Not now: the nodes refuse what looks no younger than the attempt that they have ended.
        self.run("scontrol", "update", f"JobId={job}", "StartTime=now+3")

    def restore(self) -> None:
        """Cancel all jobs, and wait until both nodes are free again."""
        self.run("scancel", "--user=root")
        with suppress(subprocess.CalledProcessError):  # it was not down
            for node in NODES:
                update = ("scontrol", "update", f"NodeName={node}", "State=RESUME")
                self.run(*update, stderr=subprocess.DEVNULL)
        self.wait_until(self._is_up)

    def wait_until(self, is_so: Callable[[], bool], timeout: float = 30) -> None:
        """Wait until something is so.

        Raises:
            TimeoutError: it was not in time; shows the nodes, the jobs and the controller's log.
        """
        deadline = time.monotonic() + timeout
        while not is_so():
            if time.monotonic() > deadline:
                log = (self._folder / "slurmctld.log").read_text()[-2000:]
                raise TimeoutError(f"{self.run('sinfo', '-N')}\n{self.run('squeue')}\n{log}")
            time.sleep(0.05)

    def _start(self) -> None:
        for name in ("state", "pmix", *(f"spool/{node}" for node in NODES)):
            (self._folder / name).mkdir(parents=True)
        self._configuration.write_text(_CONFIGURATION.format(folder=self._folder))
        if _version() >= 24:  # it needs control groups unless it is told; 22 would not understand
            (self._folder / "cgroup.conf").write_text("CgroupPlugin=disabled\n")
        for node in NODES:
            self.network.add(node)
        addresses = {node: self.network.hosts[node].address for node in NODES}
        for node in NODES:
            self.network.know(node, addresses)
        self._daemon("n1", "slurmctld")
        for node in NODES:
            self._daemon(node, "slurmd", "-N", node)
        self.wait_until(self._is_up)

    def _is_up(self) -> bool:
        try:
            return self.run("sinfo", "-h", "-o", "%t %D", stderr=subprocess.DEVNULL) == "idle 2\n"
        except subprocess.CalledProcessError:
            return False  # the controller does not answer yet

    def _daemon(self, node: str, program: str, *options: str) -> None:
        with (self._folder / f"{program}.log").open("ab") as log:
            own = ("sh", "-c", _OWN_FOLDER, "-", f"{self._pmix}-{program}-{node}", self._pmix)
            command = self.network.hosts[node].command(
                *own, program, "-D", "-f", self._configuration, *options
            )
            self._daemons.append(
                subprocess.Popen(
                    command,
                    cwd=self._folder,
                    env=self.environ,
                    stdin=subprocess.DEVNULL,
                    stdout=log,
                    stderr=log,
                )
            )


def _version() -> int:
    """Return the year of Slurm's release: it says "slurm 24.11.5"."""
    told = subprocess.run(["slurmd", "-V"], capture_output=True, text=True, check=True, timeout=10)
    return int(told.stdout.split()[1].partition(".")[0])
