"""Agents that meet in a real etcd: no node's death ends the run, nor that of etcd's leader."""

from __future__ import annotations

import json
import os
import re
import signal
import stat
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import psutil
import pytest
import trustme

from launcher.testing import EtcdCluster
from tests.etcd import etcd, needs_etcd
from tests.launcher.test_nodes import (
    NOTICE,
    WORKER,
    Agent,
    Start,
    facts_of,
    finish,
    wait_for_line,
    world,
)

__all__ = ("etcd",)

ROUNDS = int(os.environ.get("ETCD_ROUNDS", "1"))
"""How often etcd is harmed while one run lasts."""

pytestmark = [pytest.mark.slow, pytest.mark.timeout(90 + 20 * ROUNDS), needs_etcd]

ALIVE = "keep_alive_interval=1,keep_alive_max_attempt=2"
"""Settings with which a dead node is missed as soon as etcd can tell."""


@pytest.fixture
def meet(script: Callable[[str], str], start: Start, tmp_path: Path) -> Callable[..., Agent]:
    """Return a function that gives what starts an agent of one run, on some etcd."""
    path = script(WORKER)

    def at(cluster: EtcdCluster, *more: str, run_id: str = tmp_path.name) -> Agent:
        def run(number: int, *options: str, conf: str = ALIVE, **popen: Any) -> Any:
            return start(
                "--rdzv-backend=etcd",
                f"--rdzv-endpoint={cluster.endpoint}",
                f"--rdzv-id={run_id}",
                f"--rdzv-conf={conf}",
                f"--local-addr=127.0.0.{number}",
                f"--node-rank={number - 1}",
                *more,
                *options,
                path,
                **popen,
            )

        return run

    return at


def test_survivors_go_on_whichever_node_dies(
    etcd: EtcdCluster, meet: Callable[..., Agent], tmp_path: Path
) -> None:
    """Kill -9 of the first node costs one round and no restart; so does its replacement."""
    agent = meet(etcd, "--nnodes=1:2", "--expect-nodes=2")
    one, two = agent(1), agent(2)
    first = facts_of(one)[0], facts_of(two)[0]
    killed_at = time.monotonic()
    one.kill()
    alone = facts_of(two)[0]
    took = time.monotonic() - killed_at
    three = agent(1)
    together = facts_of(three)[0], facts_of(two)[0]
    (tmp_path / "go").touch()
    status, stderr = finish(two)

    assert [world(fact) for fact in first] == [(0, 2, 0, 0), (1, 2, 0, 0)]
    assert world(alone) == (0, 1, 1, 0)
    assert took < NOTICE
    assert [world(fact) for fact in together] == [(0, 2, 2, 0), (1, 2, 2, 0)]
    facts = (*first, alone, *together)
    assert {fact["LAUNCHER_STORE"] for fact in facts} == {etcd.url(f"asyncrpc/{tmp_path.name}")}
    assert {fact["MASTER_ADDR"] for fact in (*first, *together)} == {"127.0.0.1"}
    assert alone["MASTER_ADDR"] == "127.0.0.2"
    assert (status, finish(three)) == (0, (0, ""))
    assert re.search(r"127\.0\.0\.1 \(agent \d+\) was lost; stopping the workers", stderr)


def test_spares_and_late_nodes_hear_how_it_ended(
    etcd: EtcdCluster, meet: Callable[..., Agent], tmp_path: Path
) -> None:
    """A node that leaves is replaced at once; who was not needed, or comes too late, goes."""
    agent = meet(etcd, "--nnodes=2")
    one, two = agent(1), agent(2)
    facts_of(one)
    facts_of(two)
    spare = agent(3, "--node-rank=1")
    wait_for_line(spare, "this node is a spare")
    two.send_signal(signal.SIGTERM)
    again = facts_of(one)[0], facts_of(spare)[0]
    idle = agent(4, "--node-rank=1")
    wait_for_line(idle, "this node is a spare")
    (tmp_path / "go").touch()

    assert finish(two) == (128 + signal.SIGTERM, "")
    assert [world(fact) for fact in again] == [(0, 2, 1, 0), (1, 2, 1, 0)]
    assert finish(one)[0] == finish(spare)[0] == 0
    finished = f"launcher: run {tmp_path.name} is finished\n"
    assert finish(idle) == (0, finished)
    assert finish(agent(5, "--node-rank=1")) == (0, finished)


def test_restarts_are_counted_for_all_nodes(
    etcd: EtcdCluster, meet: Callable[..., Agent], tmp_path: Path
) -> None:
    """Until the budget is spent; who comes later hears of the failure."""
    agent = meet(etcd, "--nnodes=2", "--max-restarts=1")
    one, two = agent(1), agent(2)
    first = facts_of(one) + facts_of(two)
    (tmp_path / "fail0.1").touch()
    second = facts_of(one) + facts_of(two)
    (tmp_path / "fail1.0").touch()

    assert [finish(one)[0], finish(two)[0]] == [7, 7]
    assert [world(fact) for fact in first] == [(0, 2, 0, 0), (1, 2, 0, 0)]
    assert [world(fact) for fact in second] == [(0, 2, 1, 1), (1, 2, 1, 1)]
    status, stderr = finish(agent(1))
    assert status == 1
    assert f"run {tmp_path.name} is finished: rank 0 (pid " in stderr


def test_a_silent_node_is_fenced(
    etcd: EtcdCluster, meet: Callable[..., Agent], tmp_path: Path
) -> None:
    """It is lost when its lease has lapsed; awake again, it stops what it ran and joins."""
    agent = meet(etcd, "--nnodes=1:2", "--expect-nodes=2")
    one, two = agent(1), agent(2)
    facts_of(one)
    worker = psutil.Process(int(facts_of(two)[0]["pid"]))
    two.send_signal(signal.SIGSTOP)
    stopped_at = time.monotonic()
    alone = facts_of(one)[0]
    took = time.monotonic() - stopped_at
    two.send_signal(signal.SIGCONT)
    together = facts_of(one)[0], facts_of(two)[0]
    gone = not worker.is_running()
    (tmp_path / "go").touch()

    assert (world(alone), took < NOTICE) == ((0, 1, 1, 0), True)
    assert gone, "its old worker"
    assert [world(fact)[:2] for fact in together] == [(0, 2), (1, 2)]
    assert together[0]["LAUNCHER_ROUND"] == together[1]["LAUNCHER_ROUND"]
    assert finish(one)[0] == finish(two)[0] == 0


@pytest.fixture
def three() -> Iterator[EtcdCluster]:
    """Give an etcd of three members."""
    with EtcdCluster(3) as cluster:
        yield cluster


def test_a_run_outlives_the_leader_and_a_pause_of_all_of_etcd(
    three: EtcdCluster, meet: Callable[..., Agent], tmp_path: Path
) -> None:
    """Its round goes on, and what happens afterwards is noticed as ever."""
    agent = meet(three, "--nnodes=1:2", "--expect-nodes=2")
    conf = "keep_alive_interval=5"  # so long as the lease lives, nobody takes its node for lost
    one, two = agent(1, conf=conf), agent(2, conf=conf)
    workers = [psutil.Process(int(facts_of(each)[0]["pid"])) for each in (one, two)]
    for _ in range(ROUNDS):
        three.kill(three.leader())
        time.sleep(1.0)
        three.kill_all()
        time.sleep(3.0)
        three.start_all()
        three.wait_until_ready()
    assert [each.poll() for each in (one, two)] == [None, None]
    assert all(worker.is_running() for worker in workers)
    two.send_signal(signal.SIGTERM)
    alone = facts_of(one)[0]
    (tmp_path / "go").touch()

    assert world(alone) == (0, 1, 1, 0), "the first round lasted until now"
    assert finish(one)[0] == 0
    assert finish(two)[0] == 128 + signal.SIGTERM


RPC_WORKER = """
    import asyncio, stat
    import asyncrpc as rpc

    async def main():
        path = os.environ["ASYNCRPC_STORE_CREDENTIALS"]
        async with rpc.init_rpc() as agent:
            other = "worker1" if agent.info.name == "worker0" else "worker0"
            total = await rpc.rpc_async(other, sum, args=([1, 2],))
        print(json.dumps({"total": total, "path": path, "mode": os.stat(path).st_mode,
                          "store": os.environ["LAUNCHER_STORE"]}), flush=True)

    rpc.run(main())
"""


def test_workers_meet_in_an_etcd_that_asks_for_a_password(
    start: Start, script: Callable[[str], str], tmp_path: Path
) -> None:
    """They get it in a file that nobody else can read, which is gone in the end."""
    path = script(RPC_WORKER)
    with EtcdCluster() as cluster:
        cluster.demand_password("root", "hunter2")
        where = ("--nnodes=2", "--rdzv-backend=etcd", f"--rdzv-endpoint={cluster.endpoint}")
        options = (*where, "--rdzv-conf=user=root,password=hunter2,prefix=jobs", "--rdzv-id=a/b")
        agents = [start(*options, path) for _ in range(2)]
        outputs = [agent.communicate(timeout=30) for agent in agents]
        refused = finish(start(*where, "--rdzv-conf=user=root,password=x", path))

    assert [agent.returncode for agent in agents] == [0, 0]
    assert [stderr for _, stderr in outputs] == ["", ""]
    facts: list[dict[str, Any]] = [json.loads(stdout) for stdout, _ in outputs]
    assert [fact["total"] for fact in facts] == [3, 3]
    assert {fact["store"] for fact in facts} == {f"etcd://{cluster.endpoint}/jobs/a%2Fb"}
    assert {stat.S_IMODE(fact["mode"]) for fact in facts} == {0o600}
    assert not any(os.path.exists(fact["path"]) for fact in facts)
    assert refused[0] == 1
    assert "does not accept user 'root': " in refused[1]
    assert "hunter2" not in refused[1]
    assert refused[1].count("\n") == 1


def test_workers_meet_in_an_etcd_that_asks_for_a_certificate(
    start: Start, script: Callable[[str], str], tmp_path: Path
) -> None:
    """They are given the paths; a node without one ends at once, with the reason."""
    path, authority = script(RPC_WORKER), trustme.CA()
    authority.cert_pem.write_to_path(str(tmp_path / "ca"))
    for name in ("127.0.0.1", "node"):
        identity = authority.issue_cert(name)
        identity.cert_chain_pems[0].write_to_path(str(tmp_path / name))
        identity.private_key_pem.write_to_path(str(tmp_path / f"{name}.key"))
    files = {n: str(tmp_path / n) for n in ("127.0.0.1", "127.0.0.1.key", "ca")}
    tls = {"cert": files["127.0.0.1"], "key": files["127.0.0.1.key"], "cacert": files["ca"]}
    with EtcdCluster(tls=tls) as cluster:
        where = ("--nnodes=2", "--rdzv-backend=etcd", f"--rdzv-endpoint={cluster.endpoint}")
        own = f"--rdzv-conf=cacert={tmp_path}/ca,cert={tmp_path}/node,key={tmp_path}/node.key"
        agents = [start(*where, own, "--rdzv-id=tls", path) for _ in range(2)]
        outputs = [agent.communicate(timeout=30) for agent in agents]
        refused = finish(start(*where, f"--rdzv-conf=cacert={tmp_path}/ca", path))

    assert [agent.returncode for agent in agents] == [0, 0], outputs
    assert [json.loads(stdout)["total"] for stdout, _ in outputs] == [3, 3]
    assert refused[0] == 1
    assert re.search(r"the last failed with .*(bad certificate|certificate required)", refused[1])
