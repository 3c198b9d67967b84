"""Networks that part, in one direction or both, and nodes that stand still: one world at a time."""

from __future__ import annotations

import json
import os
import re
import signal
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from launcher.testing import find_etcd
from tests.etcd import needs_etcd
from tests.launcher.distributed import Hosts, facts_of, finish, needs_hosts, world

SECONDS = float(os.environ.get("PARTITION_SECONDS", "3"))
"""How long what fails lasts."""

pytestmark = [pytest.mark.slow, pytest.mark.timeout(90 + 2 * SECONDS), needs_hosts]

in_soak = pytest.mark.skipif(SECONDS < 10, reason="takes long: make soak")

INTERVAL = 0.8
TTL = 3 * INTERVAL
NOTICE = 10.0
"""Seconds on top of what is promised; this machine may be busy."""

OPTIONS = (
    "--nnodes=1:2",
    f"--rdzv-conf=keep_alive_interval={INTERVAL},last_call_timeout=600",
)

WORKER = """
if "IGNORES" in os.environ:
    signal.signal(signal.SIGTERM, signal.SIG_IGN)
names = ("RANK", "WORLD_SIZE", "LAUNCHER_ROUND")
facts = {**{name: os.environ[name] for name in names}, "pid": os.getpid()}
facts["began"] = time.monotonic()
print(json.dumps(facts), flush=True)
while not os.path.exists("go"):
    with open(f"alive-{os.getpid()}.new", "w") as file:
        json.dump({**facts, "alive": time.monotonic()}, file)
    os.rename(file.name, f"alive-{os.getpid()}")
    time.sleep(0.01)
"""
"""Tells who it is, then writes again and again how long it has lived."""


@pytest.fixture
def hosts(tmp_path: Path) -> Iterator[Hosts]:
    """Return two hosts."""
    with Hosts(tmp_path, "left", "right") as made:
        yield made


def together(hosts: Hosts, **right: str) -> tuple[subprocess.Popen[str], ...]:
    """Start an agent on both hosts; the one on the left hosts the store.

    Args:
        hosts: two.
        right: variables of the agent on the right and its workers.
    """
    agents = (
        hosts.agent("left", *OPTIONS, script=WORKER),
        hosts.agent("right", *OPTIONS, script=WORKER, **right),
    )
    for agent in agents:
        assert world(facts_of(agent))[1:] == (2, 0)
    return agents


def lives(hosts: Hosts) -> list[dict[str, Any]]:
    """Return of every worker there was who it was and when it was seen alive last."""
    return [json.loads(path.read_text()) for path in hosts.folder.glob("alive-*[0-9]")]


def last_seen(hosts: Hosts, number: int, size: int = 2) -> float:
    """Return when any worker of a round of that many was seen alive last."""
    found = [life for life in lives(hosts) if world(life)[1:] == (size, number)]
    assert found
    return max(float(life["alive"]) for life in found)


def end_together(hosts: Hosts, agents: tuple[subprocess.Popen[str], ...]) -> list[str]:
    """Let both agents join one round, and end; return what they said."""
    facts = [facts_of(agent) for agent in agents]
    hosts.go()
    ends = [finish(agent) for agent in agents]

    assert sorted(world(fact)[:2] for fact in facts) == [(0, 2), (1, 2)]
    assert len({fact["LAUNCHER_ROUND"] for fact in facts}) == 1
    assert [status for status, _ in ends] == [0, 0]
    seats = [(life["LAUNCHER_ROUND"], life["RANK"]) for life in lives(hosts)]
    assert len(set(seats)) == len(seats), "no rank of a round is held twice"
    return [stderr for _, stderr in ends]


def test_the_side_without_the_store_stops_its_workers_and_joins_again(hosts: Hosts) -> None:
    """It has stopped them before the other side goes on without it, whatever they say to that."""
    agents = together(hosts, IGNORES="TERM")
    parted_at = time.monotonic()
    hosts.do(hosts.lab.partition(["left"], ["right"]))
    alone = facts_of(agents[0])
    time.sleep(max(0.0, parted_at + SECONDS - time.monotonic()))
    old_ended = last_seen(hosts, 0)
    hosts.do(hosts.lab.heal())
    _, right = end_together(hosts, agents)

    assert world(alone) == (0, 1, 1)
    assert old_ended < alone["began"], "there were two worlds"
    assert alone["began"] - parted_at < TTL + NOTICE
    assert re.search(
        r"left \(agent \d+\), which hosts the run's store at 10\.70\.0\.1:29400, does not answer; "
        r"stopping the workers here",
        right,
    )


@pytest.mark.parametrize(("source", "target"), [("left", "right"), ("right", "left")])
def test_a_cut_in_one_direction_is_a_partition(hosts: Hosts, source: str, target: str) -> None:
    """Whichever it is, both sides notice within the time of three signs of life."""
    agents = together(hosts)
    cut_at = time.monotonic()
    hosts.do(hosts.lab.cut(source, target))
    alone = facts_of(agents[0])
    old_ended = last_seen(hosts, 0)
    hosts.do(hosts.lab.heal())
    end_together(hosts, agents)

    assert world(alone) == (0, 1, 1)
    assert old_ended < alone["began"]
    assert alone["began"] - cut_at < TTL + NOTICE


@needs_etcd
@pytest.mark.parametrize("is_one_way", [False, pytest.param(True, marks=in_soak)])
def test_a_node_that_is_cut_off_from_etcd_stops_and_joins_again(
    tmp_path: Path, is_one_way: bool
) -> None:
    """Also where it still reaches the other nodes: its lease lapses, and they go on without it."""
    with Hosts(tmp_path, "store", "left", "right") as hosts:
        agents = on_etcd(hosts, IGNORES="TERM")
        parted_at = time.monotonic()
        if is_one_way:  # it hears etcd, which does not hear it
            hosts.do(hosts.lab.cut("right", "store"))
        else:
            hosts.do(hosts.lab.partition(["right"], ["store"]))
        alone = facts_of(agents[0])
        time.sleep(max(0.0, parted_at + SECONDS - time.monotonic()))
        old_ended = last_seen(hosts, 0)
        hosts.do(hosts.lab.heal())
        end_together(hosts, agents)

        assert world(alone) == (0, 1, 1)
        assert old_ended < alone["began"], "there were two worlds"
        assert alone["began"] - parted_at < TTL + NOTICE


def on_etcd(hosts: Hosts, **right: str) -> tuple[subprocess.Popen[str], ...]:
    """Start a real etcd on the first host, and an agent on each of the others.

    Args:
        hosts: three.
        right: variables of the agent on the right and its workers.
    """
    address = hosts.lab.address("store")
    clients = f"http://{address}:2379"
    urls = (f"--listen-client-urls={clients}", f"--advertise-client-urls={clients}")
    etcd = (find_etcd(), f"--data-dir={hosts.folder}/etcd", *urls, "--unsafe-no-fsync")
    hosts.run("store", "sh", "-c", 'exec "$@" 2>etcd.log', "-", *etcd)
    hosts.wait_for_port("store", 2379)
    where = ("--rdzv-backend=etcd", f"--rdzv-endpoint={address}:2379", "--rdzv-id=parted")
    agents = (
        hosts.agent("left", *OPTIONS, *where, "--node-rank=0", script=WORKER),
        hosts.agent("right", *OPTIONS, *where, "--node-rank=1", script=WORKER, **right),
    )
    for agent in agents:
        assert world(facts_of(agent))[1:] == (2, 0)
    return agents


@pytest.mark.parametrize("host", [pytest.param("left", marks=in_soak), "right"])
def test_a_node_that_stood_still_is_fenced(hosts: Hosts, host: str) -> None:
    """Its workers belong to a world that is over: they are stopped, and it joins the next one."""
    agents = together(hosts)
    hosts.signal(host, signal.SIGSTOP)
    stopped_at = time.monotonic()
    if host == "right":
        assert world(facts_of(agents[0])) == (0, 1, 1)
    time.sleep(max(0.0, stopped_at + SECONDS - time.monotonic()))
    hosts.signal(host, signal.SIGCONT)
    end_together(hosts, agents)

    newest = max(world(life)[2] for life in lives(hosts))
    began = [life["began"] for life in lives(hosts) if world(life)[2] == newest]
    assert last_seen(hosts, 0) < min(began)
