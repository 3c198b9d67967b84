"""Pods of an Indexed Job, as far as one machine can tell: hosts whose launcher is process 1.

Skipped where no namespaces can be made, see `hosts`.
"""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from tests.launcher.conftest import ROOT
from tests.launcher.hosts import Network

soak = pytest.mark.skipif(
    "CLUSTER_SOAK" not in os.environ, reason="run by make soak (CLUSTER_SOAK=1)"
)
pytestmark = [pytest.mark.slow, pytest.mark.timeout(90)]

JOB, SERVICE = "train", "train"
ENDPOINT = f"{JOB}-0.{SERVICE}"
WORKER = """
    from launcher.preemption import on_preempt
    names = ("RANK", "WORLD_SIZE", "MASTER_ADDR", "LAUNCHER_ROUND", "TORCHELASTIC_RUN_ID")
    print(json.dumps([os.environ[name] for name in names]), flush=True)
    on_preempt(lambda left: print(json.dumps(["saved", round(left)]), flush=True))
    while not os.path.exists("go"):
        time.sleep(0.02)
"""


class Pods:
    """The pods of one Job, as the manifest of ``k8s render`` has Kubernetes make them.

    Args:
        network: where they are.
        folder: shared by them: a script and the secret.
        path: of the script.
    """

    def __init__(self, network: Network, folder: Path, path: str) -> None:
        self._network = network
        self._folder = folder
        self._path = path
        self.running: dict[int, subprocess.Popen[str]] = {}
        (folder / "secret").write_bytes(os.urandom(32))
        (folder / "secret").chmod(0o440)

    def start(self, index: int, *options: str) -> subprocess.Popen[str]:
        """Start a pod, with a new address; it knows no name but its own."""
        host = self._network.add(f"{JOB}-{index}")
        environ = {
            "PATH": os.environ["PATH"],
            "PYTHONPATH": str(ROOT),
            "ASYNCRPC_SECRET_FILE": str(self._folder / "secret"),
            "JOB_COMPLETION_INDEX": str(index),
            "LAUNCHER_JOB": JOB,
            "LAUNCHER_SERVICE": SERVICE,
            "PET_PREEMPT_NOTICE": "20",
            "POD_IP": host.address,
            "TMPDIR": str(self._folder),
        }
        launcher = (sys.executable, "-m", "launcher", *options, self._path)
        self.running[index] = subprocess.Popen(
            host.command(*launcher, is_pod=True),
            env=environ,
            cwd=self._folder,
            text=True,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
        )
        return self.running[index]

    def publish(self) -> None:
        """Let all pods know where the first one is, as a DNS server does some time later."""
        first = self._network.hosts[f"{JOB}-0"]
        for host in self._network.hosts.values():
            self._network.know(host.name, {host.name: host.address, ENDPOINT: first.address})

    def first_process(self, index: int) -> int:
        """Return the id that process 1 of a pod has out here."""
        unshare = self.running[index].pid
        children = Path(f"/proc/{unshare}/task/{unshare}/children")
        deadline = time.monotonic() + 10
        while not (found := children.read_text().split()):
            assert time.monotonic() < deadline
            time.sleep(0.01)
        return int(found[0])

    def delete(self, index: int) -> tuple[int, list[object], str]:
        """Have a pod end, as Kubernetes does; return its exit status, its lines and stderr."""
        os.kill(self.first_process(index), signal.SIGTERM)
        return self.finish(index)

    def finish(self, index: int) -> tuple[int, list[object], str]:
        """Wait for a pod and take it away; return its exit status, further lines and stderr."""
        stdout, stderr = self.running[index].communicate(timeout=40)
        self._network.remove(f"{JOB}-{index}")
        status = self.running.pop(index).returncode
        return status, [json.loads(line) for line in stdout.splitlines()], stderr


@pytest.fixture
def pods(script: Callable[[str], str], tmp_path: Path) -> Iterator[Pods]:
    """Return a Job's pods; those that are left are taken away."""
    path = script(WORKER)
    with Network(tmp_path, "10.76.0") as network:
        pods = Pods(network, tmp_path, path)
        try:
            yield pods
        finally:
            for name in tuple(network.hosts):
                network.remove(name)
            for pod in pods.running.values():
                pod.communicate(timeout=10)


def told(pod: subprocess.Popen[str]) -> list[str]:
    """Wait for what a pod's worker tells, and return it."""
    assert pod.stdout is not None
    line = pod.stdout.readline()
    assert line, pod.stderr.read() if pod.stderr else ""
    facts: list[str] = json.loads(line)
    return facts


def told_of_two(pod: subprocess.Popen[str]) -> list[str]:
    """Wait until a pod's worker is one of two."""
    while (facts := told(pod))[1] != "2":
        pass
    return facts


def addresses(pods: Pods) -> dict[int, str]:
    """Return where the pods are."""
    hosts = pods._network.hosts
    return {int(name.rpartition("-")[2]): host.address for name, host in hosts.items()}


def test_pods_find_each_other_once_the_first_has_a_name(pods: Pods, tmp_path: Path) -> None:
    """Nothing is known of each other at the start; workers are told an address, not a name."""
    one, zero = pods.start(1, "--nnodes=2"), pods.start(0, "--nnodes=2")
    where = addresses(pods)
    # The first one serves the store, without knowing itself by that name.
    command = (
        "python3",
        "-c",
        f"import socket; socket.create_connection(('{where[0]}', 29400), 5)",
    )
    prober = pods._network.hosts["train-1"]
    deadline = time.monotonic() + 15
    while subprocess.run(prober.command(*command), check=False, capture_output=True).returncode:
        assert time.monotonic() < deadline
    assert one.stderr is not None
    while f"{ENDPOINT} is not known yet" not in (line := one.stderr.readline()):
        assert line
    pods.publish()
    facts = told(zero), told(one)
    (tmp_path / "go").touch()
    ends = pods.finish(0), pods.finish(1)

    assert facts == (["0", "2", where[0], "0", JOB], ["1", "2", where[0], "0", JOB])
    assert [status for status, _, _ in ends] == [0, 0], ends
    assert f"{ENDPOINT} is not known yet" not in ends[0][2]


@pytest.mark.parametrize(("gone", "nodes"), [(0, "1:2"), pytest.param(1, "2", marks=soak)])
def test_a_pod_is_made_anew_at_another_address(
    pods: Pods, tmp_path: Path, gone: int, nodes: str
) -> None:
    """The old one leaves in order, also if it is the first; the new one takes its place."""
    options = (f"--nnodes={nodes}", "--rdzv-conf=keep_alive_interval=0.5")
    started = [pods.start(index, *options) for index in (0, 1)]
    pods.publish()
    for pod in started:
        told(pod)
    status, lines, stderr = pods.delete(gone)
    again = pods.start(gone, *options)
    pods.publish()
    facts = [told_of_two(again), told_of_two(pods.running[1 - gone])]
    (tmp_path / "go").touch()
    ends = pods.finish(0), pods.finish(1)

    assert (status, lines) == (85, [["saved", 15]]), stderr
    assert sorted(fact[0] for fact in facts) == ["0", "1"]
    assert facts[0][2:] == facts[1][2:]
    assert [status for status, _, _ in ends] == [0, 0], ends


def test_the_first_process_takes_orphans_and_passes_signals_on(pods: Pods, tmp_path: Path) -> None:
    """What others leave behind in the pod does not pile up, and its end is the launcher's."""
    pod = pods.start(0)
    told(pod)
    first = pods.first_process(0)
    enter = ["nsenter", f"--target={first}", "--pid", "sh", "-c", "sleep 0 & sleep 0 &"]
    subprocess.run(enter, check=True, timeout=10)
    children = Path(f"/proc/{first}/task/{first}/children")
    deadline = time.monotonic() + 10
    while len(children.read_text().split()) > 1:
        assert time.monotonic() < deadline
        time.sleep(0.02)
    left = [Path(f"/proc/{pid}/cmdline").read_bytes() for pid in children.read_text().split()]
    (tmp_path / "go").touch()
    status, _, _ = pods.finish(0)

    assert b"launcher" in left[0]
    assert status == 0


def test_a_pod_that_has_to_go_at_once_goes(pods: Pods) -> None:
    """Nobody kills it for not having seen the notice, which came before there were workers."""
    pod = pods.start(0)
    assert pod.stderr is not None
    while "detected Kubernetes Job train" not in (line := pod.stderr.readline()):
        assert line

    assert pods.delete(0)[0] == 85


def test_a_failure_is_the_pods_exit_status(pods: Pods, tmp_path: Path) -> None:
    """Kubernetes judges by it."""
    (tmp_path / "worker.py").write_text("import sys; sys.exit(7)")
    pods.start(0)

    assert pods.finish(0)[0] == 7
