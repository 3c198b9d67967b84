"""Agents on two hosts with a network between them, as far as one machine can tell."""

from __future__ import annotations

import re
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.launcher.distributed import Hosts, facts_of, finish, labels, needs_hosts, world

pytestmark = [pytest.mark.slow, pytest.mark.timeout(60), needs_hosts]


@pytest.fixture
def hosts(tmp_path: Path) -> Iterator[Hosts]:
    """Return two hosts whose names nobody can look up."""
    with Hosts(tmp_path, "left", "right") as made:
        yield made


def test_hosts_find_each_other(hosts: Hosts) -> None:
    """The one that has the address hosts the store; its workers' place is where others reach it."""
    two = hosts.agent("right", "--nnodes=2", "--node-rank=1")
    one = hosts.agent("left", "--nnodes=2", "--node-rank=0")
    facts = facts_of(one), facts_of(two)
    hosts.go()

    assert [world(fact) for fact in facts] == [(0, 2, 0), (1, 2, 0)]
    assert {fact["MASTER_ADDR"] for fact in facts} == {"10.70.0.1"}
    assert {fact["LAUNCHER_STORE"] for fact in facts} == {"tcp://10.70.0.1:29400"}
    assert [finish(one), finish(two)] == [(0, ""), (0, "")]


def test_rank_0_is_reached_where_it_reached_the_store_from(hosts: Hosts) -> None:
    """Nobody has to tell a host its own address; its name is only for people."""
    one = hosts.agent("left", "--nnodes=2", "--node-rank=1")
    two = hosts.agent("right", "--nnodes=2", "--node-rank=0", script=LISTEN)
    masters = {facts_of(one)["MASTER_ADDR"], facts_of(two)["MASTER_ADDR"]}
    reached = hosts.start("left", "-c", REACH, str(hosts.folder / "listens")).communicate()[0]
    hosts.go()

    assert masters == {"10.70.0.2"}
    assert reached == "reached\n"
    assert [finish(one), finish(two)] == [(0, ""), (0, "")]


def test_torchs_store_is_reached_from_the_other_host(hosts: Hosts) -> None:
    """The agent of rank 0 serves it before workers start, where others reach its host only."""
    options = ("--nnodes=2", "--torch-store", "--node-rank")
    two = hosts.agent("right", *options, "0", script=COUNT)
    one = hosts.agent("left", *options, "1", script=COUNT)
    facts = facts_of(two), facts_of(one)
    hosts.go()

    assert {fact["MASTER_ADDR"] for fact in facts} == {"10.70.0.2"}
    assert sorted(fact["count"] for fact in facts) == [1, 2]
    assert [fact["loopback"] for fact in facts] == [False, False]
    assert [finish(two), finish(one)] == [(0, ""), (0, "")]


COUNT = """
import socket, struct
where = os.environ["MASTER_ADDR"], int(os.environ["MASTER_PORT"])
with socket.create_connection(where) as client:
    key = b"/n"
    client.sendall(struct.pack("<BI", 0, 0x3C85F7CE))
    client.sendall(struct.pack("<BQ", 4, len(key)) + key + struct.pack("<q", 1))
    count, = struct.unpack("<q", client.recv(8, socket.MSG_WAITALL))
with socket.socket() as probe:
    loopback = probe.connect_ex(("127.0.0.1", where[1])) == 0
facts = {"MASTER_ADDR": where[0], "count": count, "loopback": loopback}
print(json.dumps(facts), flush=True)
while not os.path.exists("go"):
    time.sleep(0.02)
"""
"""Counts itself in torch's store, in torch's dialect, and looks whether it is on loopback too."""

LISTEN = """
import socket
print(json.dumps({name: os.environ[name] for name in ("MASTER_ADDR", "RANK")}), flush=True)
if os.environ["RANK"] == "0":
    where = os.environ["MASTER_ADDR"], int(os.environ["MASTER_PORT"])
    with socket.create_server(where) as server:
        with open("listens.new", "w") as file:
            json.dump(where, file)
        os.rename("listens.new", "listens")
        server.accept()
while not os.path.exists("go"):
    time.sleep(0.02)
"""
"""Tells where rank 0 is, and listens there."""

REACH = """
import json, os, socket, sys, time
for _ in range(500):
    if os.path.exists(sys.argv[1]):
        break
    time.sleep(0.02)
socket.create_connection(json.load(open(sys.argv[1])), timeout=5).close()
print("reached")
"""


def test_a_network_of_ipv6_only_is_enough(tmp_path: Path) -> None:
    """Addresses are told bare, endpoints in brackets."""
    with Hosts(tmp_path, "left", "right", ipv4=False) as hosts:
        where = f"--rdzv-endpoint=[{hosts.lab.address('left', ipv6=True)}]:29400"
        two = hosts.agent("right", "--nnodes=2", where, "--node-rank=0")
        one = hosts.agent("left", "--nnodes=2", where, "--node-rank=1")
        facts = facts_of(two), facts_of(one)
        hosts.go()

        assert [world(fact) for fact in facts] == [(0, 2, 0), (1, 2, 0)]
        assert {fact["MASTER_ADDR"] for fact in facts} == {"fd70::2"}
        assert {fact["LAUNCHER_STORE"] for fact in facts} == {"tcp://[fd70::1]:29400"}
        assert re.fullmatch(r"\[fd70::2\]:\d+", facts[0]["JAX_COORDINATOR_ADDRESS"])
        assert [finish(one), finish(two)] == [(0, ""), (0, "")]


def test_the_store_passes_to_another_host(hosts: Hosts) -> None:
    """It is reached there by the address that the others know that host by."""
    options = ("--nnodes=1:2", "--rdzv-conf=last_call_timeout=600")
    one, two = hosts.agent("left", *options), hosts.agent("right", *options)
    facts_of(one)
    facts_of(two)
    leave(one)
    alone = facts_of(two)
    hosts.go()
    status, stderr = finish(two)

    assert (world(alone), status) == ((0, 1, 1), 0)
    assert re.fullmatch(r"tcp://10\.70\.0\.2:\d+", alone["LAUNCHER_STORE"])
    assert labels(stderr) == ["left"]


def test_connections_that_break_cost_nothing(hosts: Hosts) -> None:
    """The node comes back before it is missed, and the round goes on."""
    one = hosts.agent("left", "--nnodes=1:2", "--expect-nodes=2")
    two = hosts.agent("right", "--nnodes=1:2", "--expect-nodes=2")
    first = facts_of(one), facts_of(two)
    for host, peer in (("left", "right"), ("right", "left")) * 2:
        hosts.do(hosts.lab.kill_connections(host, peer))
        time.sleep(0.5)
    hosts.go()

    assert [world(fact)[1:] for fact in first] == [(2, 0), (2, 0)]
    for agent in (one, two):
        stdout, stderr = agent.communicate(timeout=30)
        assert (agent.returncode, stdout, stderr) == (0, "", "")


def leave(agent: subprocess.Popen[str]) -> None:
    """Tell the launcher of an agent to stop, not the programs around it."""
    agent.terminate()
    assert finish(agent)[0] == 143
