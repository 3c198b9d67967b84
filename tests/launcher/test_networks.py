"""Agents on two hosts with a wire between them, as far as one machine can tell: network namespaces.

Skipped where they cannot be made: they take a privileged user, and the program `ip`.
"""

from __future__ import annotations

import json
import os
import re
import shutil
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from tests.launcher.conftest import ROOT

pytestmark = [pytest.mark.slow, pytest.mark.timeout(60)]

HOSTS = ("10.77.0.1", "10.77.0.2")
Launch = Callable[..., "subprocess.Popen[str]"]

WORKER = """
    facts = [os.environ[name] for name in ("RANK", "WORLD_SIZE", "LAUNCHER_ROUND", "MASTER_ADDR",
                                           "LAUNCHER_STORE")]
    print(json.dumps(facts), flush=True)
    while not os.path.exists("go"):
        time.sleep(0.02)
"""


def ip(*args: str) -> None:
    """Run `ip`."""
    subprocess.run(["ip", *args], check=True, capture_output=True, timeout=10)


@pytest.fixture
def hosts(tmp_path: Path) -> Iterator[tuple[str, str]]:
    """Return the names of two network namespaces with a wire between them."""
    names = (f"one-{tmp_path.name[-20:]}", f"two-{tmp_path.name[-20:]}")
    if shutil.which("ip") is None:
        pytest.skip("needs the program ip")
    try:
        ip("netns", "add", names[0])
    except subprocess.CalledProcessError as error:
        pytest.skip(f"network namespaces cannot be made here: {error.stderr!r}")
    try:
        ip("netns", "add", names[1])
        ip(
            "link",
            "add",
            "wire",
            "netns",
            names[0],
            "type",
            "veth",
            "peer",
            "wire",
            "netns",
            names[1],
        )
        for name, address in zip(names, HOSTS, strict=True):
            ip("-n", name, "addr", "add", f"{address}/24", "dev", "wire")
            ip("-n", name, "link", "set", "lo", "up")
            ip("-n", name, "link", "set", "wire", "up")
        yield names
    finally:
        for name in names:
            subprocess.run(["ip", "netns", "del", name], check=False, timeout=10)


@pytest.fixture
def launch(
    hosts: tuple[str, str], script: Callable[[str], str], tmp_path: Path
) -> Iterator[Launch]:
    """Return a function that starts an agent on one of the hosts."""
    path = script(WORKER)
    started: list[subprocess.Popen[str]] = []

    def run(number: int, *options: str) -> subprocess.Popen[str]:
        there = ("ip", "netns", "exec", hosts[number], sys.executable, "-m", "launcher")
        process = subprocess.Popen(
            [*there, f"--rdzv-endpoint={HOSTS[0]}", *options, path],
            text=True,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            cwd=tmp_path,
            env={
                **os.environ,
                "PYTHONPATH": str(ROOT),
                "XDG_CONFIG_HOME": str(tmp_path / "config"),
            },
        )
        started.append(process)
        return process

    yield run
    for process in started:
        if process.poll() is None:
            process.send_signal(signal.SIGTERM)
        process.communicate(timeout=20)


def facts_of(agent: subprocess.Popen[str]) -> list[str]:
    """Wait for an agent's worker, and return what it was told."""
    assert agent.stdout is not None
    facts: list[str] = json.loads(agent.stdout.readline())
    return facts


def finish(agent: subprocess.Popen[str]) -> tuple[int, str]:
    """Wait for an agent; return its exit status and stderr."""
    _, stderr = agent.communicate(timeout=30)
    return agent.returncode, stderr


def test_hosts_find_each_other(launch: Launch, tmp_path: Path) -> None:
    """The one that has the address hosts the store; its workers' place is where others reach it."""
    two, one = launch(1, "--nnodes=2", "--node-rank=1"), launch(0, "--nnodes=2", "--node-rank=0")
    facts = facts_of(one), facts_of(two)
    (tmp_path / "go").touch()

    store = f"tcp://{HOSTS[0]}:29400"
    assert facts == (["0", "2", "0", HOSTS[0], store], ["1", "2", "0", HOSTS[0], store])
    assert [finish(one), finish(two)] == [(0, ""), (0, "")]


def test_rank_0_is_reached_where_it_reached_the_store_from(launch: Launch, tmp_path: Path) -> None:
    """Nobody has to tell a host its own address."""
    one, two = launch(0, "--nnodes=2", "--node-rank=1"), launch(1, "--nnodes=2", "--node-rank=0")
    masters = {facts_of(one)[3], facts_of(two)[3]}
    (tmp_path / "go").touch()

    assert masters == {HOSTS[1]}
    assert [finish(one), finish(two)] == [(0, ""), (0, "")]


def test_a_wire_that_breaks_leaves_the_host_of_the_store(
    launch: Launch, hosts: tuple[str, str], tmp_path: Path
) -> None:
    """It goes on alone; the other ends, naming whom it lost."""
    silence = "--rdzv-conf=keep_alive_interval=0.4,last_call_timeout=600"
    one, two = (launch(number, "--nnodes=1:2", silence) for number in (0, 1))
    facts_of(one)
    facts_of(two)
    ip("-n", hosts[1], "link", "set", "wire", "down")
    alone = facts_of(one)
    status, stderr = finish(two)
    (tmp_path / "go").touch()

    assert alone[:3] == ["0", "1", "1"]
    assert status == 1
    assert re.search(r"which hosts the run's store at 10\.77\.0\.1:29400, was lost", stderr)
    assert finish(one)[0] == 0
