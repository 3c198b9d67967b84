"""`--hosts`: nodes of a run on hosts that are reached by ssh."""

from __future__ import annotations

import json
import os
import re
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import psutil
import pytest

from tests.launcher.distributed import Hosts, needs_hosts

SSHD = shutil.which("sshd") or "/usr/sbin/sshd"

pytestmark = [
    pytest.mark.slow,
    pytest.mark.timeout(60),
    needs_hosts,
    pytest.mark.skipif(
        not os.path.exists(SSHD), reason="needs the program sshd of the package openssh-server"
    ),
    pytest.mark.skipif(
        shutil.which("ssh") is None, reason="needs the program ssh of the package openssh-client"
    ),
]

SERVER = """
Port 22
ListenAddress {address}
HostKey {folder}/host-key
AuthorizedKeysFile {folder}/client-key.pub
PidFile none
StrictModes no
UsePAM no
PermitRootLogin yes
PasswordAuthentication no
KbdInteractiveAuthentication no
"""

CLIENT = """
IdentityFile {folder}/client-key
IdentitiesOnly yes
UserKnownHostsFile {folder}/known
StrictHostKeyChecking accept-new
LogLevel ERROR
Host a
  HostName 10.70.0.2
Host b
  HostName 10.70.0.3
Host stranger
  HostName 10.70.0.2
  User stranger
Host nowhere
  HostName 10.70.0.2
  Port 9
"""

WORKER = """
names = ("RANK", "WORLD_SIZE", "LOCAL_RANK", "GROUP_RANK", "MASTER_ADDR")
host = os.uname().nodename
print(json.dumps({**{name: os.environ[name] for name in names}, "host": host,
                  "pid": os.getpid(), "args": sys.argv[1:]}), flush=True)
while not os.path.exists("go"):
    if os.path.exists(f"fail-{os.environ['RANK']}"):
        sys.exit(7)
    time.sleep(0.02)
"""


class Fleet(Hosts):
    """Hosts a and b with a server of ssh each, and one that launches on them."""

    def launch(self, *options: str, script: str = WORKER) -> subprocess.Popen[str]:
        """Start the launcher on the near host."""
        path = self.folder / "worker.py"
        path.write_text("import json, os, signal, sys, time\n" + script)
        ssh = f"--ssh=ssh -F {self.folder}/client.conf"
        return self.start("near", "-m", "launcher", ssh, *options, str(path), "x", "--y z")


@pytest.fixture
def fleet(tmp_path: Path) -> Iterator[Fleet]:
    """Return hosts with servers of their own, keys of their own, and nothing of this machine's."""
    for name in ("host-key", "client-key"):
        subprocess.run(
            ["ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-f", str(tmp_path / name)], check=True
        )
    (tmp_path / "client.conf").write_text(CLIENT.format(folder=tmp_path))
    os.makedirs("/run/sshd", exist_ok=True)
    with Fleet(tmp_path, "near", "a", "b") as made:
        for host in ("a", "b"):
            path = tmp_path / f"sshd-{host}.conf"
            path.write_text(SERVER.format(folder=tmp_path, address=made.lab.address(host)))
            made.run(host, SSHD, "-D", "-e", "-f", str(path))
            made.wait_for_port(host, 22)
        yield made


def facts_of(launch: subprocess.Popen[str], workers: int) -> list[dict[str, str]]:
    """Return what workers were told, by rank."""
    assert launch.stdout is not None
    lines = [launch.stdout.readline() for _ in range(workers)]
    assert all(lines), launch.communicate()
    return sorted((json.loads(line) for line in lines), key=lambda fact: int(fact["RANK"]))


def wait_gone(facts: list[dict[str, str]]) -> None:
    """Wait until no worker is left."""
    deadline = time.monotonic() + 15
    while any(psutil.pid_exists(int(fact["pid"])) for fact in facts):
        assert time.monotonic() < deadline
        time.sleep(0.02)


def test_a_node_runs_on_each_host(fleet: Fleet) -> None:
    """With its own number of workers, in the order given; what they print comes here."""
    launch = fleet.launch("--hosts=b:1,a:2", "--max-restarts=1")
    facts = facts_of(launch, 3)
    fleet.go()
    stdout, stderr = launch.communicate(timeout=30)

    assert (launch.returncode, stdout, stderr) == (0, "", "")
    assert [(f["host"], f["RANK"], f["LOCAL_RANK"], f["WORLD_SIZE"]) for f in facts] == [
        ("b", "0", "0", "3"),
        ("a", "1", "0", "3"),
        ("a", "2", "1", "3"),
    ]
    assert {fact["MASTER_ADDR"] for fact in facts} == {"10.70.0.3"}
    assert {tuple(fact["args"]) for fact in facts} == {("x", "--y z")}


def test_a_failure_ends_all_and_gives_its_status(fleet: Fleet) -> None:
    """With the report of the host it happened on."""
    (fleet.folder / "fail-1").touch()
    launch = fleet.launch("--hosts=a,b")
    _, stderr = launch.communicate(timeout=30)

    assert launch.returncode == 7
    assert re.search(r"worker\.py FAILED", stderr)
    assert re.search(r"host +: b", stderr)


def test_a_signal_stops_all_hosts(fleet: Fleet) -> None:
    """It is passed on, and the status says so."""
    launch = fleet.launch("--hosts=a:1,b:1")
    facts = facts_of(launch, 2)
    launch.send_signal(signal.SIGINT)
    launch.communicate(timeout=30)

    assert launch.returncode == 128 + signal.SIGINT
    wait_gone(facts)


def test_a_notice_reaches_all_hosts(fleet: Fleet) -> None:
    """It stops nothing here: the nodes go in order, and their status asks to be started again."""
    prepare = "from launcher.preemption import on_preempt\n"
    prepare += "on_preempt(lambda left: print('saved', flush=True))\n"
    launch = fleet.launch("--hosts=a:1,b:1", "--preempt-signals=TERM", script=prepare + WORKER)
    facts = facts_of(launch, 2)
    launch.send_signal(signal.SIGTERM)
    stdout, _ = launch.communicate(timeout=30)

    assert (launch.returncode, stdout.splitlines()) == (85, ["saved", "saved"])
    wait_gone(facts)


def test_a_signal_ends_the_wait_for_hosts(fleet: Fleet) -> None:
    """Nothing was launched, and nothing is left."""
    slow = f"--ssh=sh -c 'touch {fleet.folder}/begun; exec sleep 60'"
    launch = fleet.start("near", "-m", "launcher", slow, "--hosts=a,b", "x.py")
    deadline = time.monotonic() + 15
    while not (fleet.folder / "begun").exists():
        assert time.monotonic() < deadline
        time.sleep(0.02)
    launch.send_signal(signal.SIGINT)

    assert launch.communicate(timeout=15) == ("", "")
    assert launch.returncode == 128 + signal.SIGINT
    assert not fleet.do(fleet.lab.processes("near"))


def test_nothing_is_left_when_the_launcher_dies(fleet: Fleet) -> None:
    """The far sides notice, whatever killed it."""
    launch = fleet.launch("--hosts=a:1,b:1")
    facts = facts_of(launch, 2)
    launch.kill()

    wait_gone(facts)


def test_who_is_left_without_enough_others_ends_too(fleet: Fleet) -> None:
    """Nobody could start a replacement; the host that was lost is named."""
    launch = fleet.launch("--hosts=a:1,b:1")
    facts = facts_of(launch, 2)
    for pid in fleet.do(fleet.lab.processes("b")):
        if "launcher.remote" in " ".join(psutil.Process(pid).cmdline()):
            os.kill(pid, signal.SIGKILL)
    _, stderr = launch.communicate(timeout=40)

    assert launch.returncode == 1
    assert "launcher: host b was lost: " in stderr
    assert re.search(r"b \(agent \d+\) was lost; stopping the workers", stderr)
    wait_gone(facts)


def test_hosts_that_cannot_be_used_are_told(fleet: Fleet) -> None:
    """All at once, before anything is started."""
    launch = fleet.launch("--hosts=a,stranger,nowhere")
    stdout, stderr = launch.communicate(timeout=30)

    assert (launch.returncode, stdout) == (1, "")
    assert re.fullmatch(
        r"launcher: host stranger: cannot be reached by ssh: .*Permission denied \(publickey\)\.; "
        r"host nowhere: cannot be reached by ssh: ssh: connect to host 10\.70\.0\.2 port 9: .*\n",
        stderr,
    )


def test_a_host_without_python_or_launcher_is_told(fleet: Fleet) -> None:
    """By name, with what to do."""
    bare = fleet.folder / "python"
    bare.write_text(f'#!/bin/sh\nexec {sys.executable} -I -S "$@"\n')
    bare.chmod(0o755)
    options = ("-m", "launcher", f"--ssh=ssh -F {fleet.folder}/client.conf", "--hosts=a", "x.py")
    launches = [
        fleet.start("near", *options, PYTHON_EXEC=python)
        for python in ("/nowhere/python", str(bare))
    ]
    said = [launch.communicate(timeout=30)[1] for launch in launches]

    assert [launch.returncode for launch in launches] == [1, 1]
    assert said[0].startswith("launcher: host a: there is no /nowhere/python; $PYTHON_EXEC names")
    assert said[1].startswith(f"launcher: host a: {bare} has no launcher there: ")
