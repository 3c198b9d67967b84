"""Several agents on one machine: they form rounds, survive each other, and end together."""

from __future__ import annotations

import asyncio
import json
import re
import signal
import socket
import subprocess
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import psutil
import pytest

from launcher import ChildFailedError, LaunchConfig, elastic_launch, launch_agent
from launcher.errors import RendezvousClosedError
from tests.launcher.rendezvous.meeting import free_endpoint, free_port

pytestmark = [pytest.mark.slow, pytest.mark.timeout(60)]

Start = Callable[..., "subprocess.Popen[str]"]
Agent = Callable[..., "subprocess.Popen[str]"]

NOTICE = 10.0
"""Seconds for what takes less than two on an idle machine; this one may be busy."""

WORKER = """
    names = ("RANK", "WORLD_SIZE", "LOCAL_RANK", "LOCAL_WORLD_SIZE", "GROUP_RANK",
             "GROUP_WORLD_SIZE", "ROLE_NAME", "ROLE_RANK", "ROLE_WORLD_SIZE", "MASTER_ADDR",
             "MASTER_PORT", "LAUNCHER_ROUND", "LAUNCHER_STORE", "TORCHELASTIC_RESTART_COUNT")
    facts = {name: os.environ[name] for name in names}
    print(json.dumps({**facts, "pid": os.getpid()}), flush=True)
    round = facts["LAUNCHER_ROUND"]
    while not any(os.path.exists(name) for name in ("go", f"go{round}")):
        if os.path.exists(f"fail{round}.{facts['RANK']}"):
            sys.exit(7)
        if os.path.exists(f"lose{round}.{facts['RANK']}"):
            import asyncrpc
            raise asyncrpc.PeerLostError("it is gone")
        time.sleep(0.02)
"""
"""Tells who it is, then waits until it may end, or shall fail."""


@pytest.fixture(autouse=True)
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Keep the user's secret to itself in launches from this process."""
    monkeypatch.setenv("XDG_CONFIG_HOME", str(tmp_path / "config"))
    monkeypatch.setenv("OMP_NUM_THREADS", "1")
    monkeypatch.delenv("ASYNCRPC_SECRET_FILE", raising=False)


@pytest.fixture
def agent(script: Callable[[str], str], start: Start) -> Agent:
    """Return a function that starts an agent of one run, with the script of all tests here."""
    path = script(WORKER)
    endpoint = free_endpoint()

    def run(number: int, *options: str, **more: Any) -> subprocess.Popen[str]:
        where = f"--rdzv-endpoint={endpoint}" if "static" not in options else "--node-rank=0"
        given = [option for option in options if option != "static"]
        return start(where, f"--local-addr=127.0.0.{number}", *given, path, **more)

    return run


def facts_of(agent: subprocess.Popen[str], workers: int = 1) -> list[dict[str, str]]:
    """Wait for the workers of an agent's next round; return what they were told, by local rank."""
    assert agent.stdout is not None
    lines = [agent.stdout.readline() for _ in range(workers)]
    assert all(lines), agent.communicate()
    facts = [json.loads(line) for line in lines]
    return sorted(facts, key=lambda fact: int(fact["LOCAL_RANK"]))


def finish(agent: subprocess.Popen[str], timeout: float = 30.0) -> tuple[int, str]:
    """Wait for an agent; return its exit status and stderr."""
    _, stderr = agent.communicate(timeout=timeout)
    return agent.returncode, stderr


def told(fact: dict[str, str], *names: str) -> tuple[int, ...]:
    """Return some of the numbers that a worker was told."""
    return tuple(int(fact[name]) for name in names)


def world(fact: dict[str, str]) -> tuple[int, ...]:
    """Return a worker's rank, the size of its world, the round and the restarts so far."""
    return told(fact, "RANK", "WORLD_SIZE", "LAUNCHER_ROUND", "TORCHELASTIC_RESTART_COUNT")


def test_ranks_run_through_nodes_of_different_sizes_and_roles(agent: Agent, tmp_path: Path) -> None:
    """Each node brings its own number of workers in its own role; all know of one place."""
    one = agent(
        1, "--nnodes=2", "--nproc-per-node=2", "--role=trainer", env={"OMP_NUM_THREADS": "1"}
    )
    two = agent(2, "--nnodes=2", "--nproc-per-node=1", "--role=reader")
    facts = facts_of(one, 2) + facts_of(two)
    (tmp_path / "go").touch()

    assert [finish(one), finish(two)] == [(0, ""), (0, "")]
    ranks = (
        "RANK",
        "WORLD_SIZE",
        "LOCAL_RANK",
        "LOCAL_WORLD_SIZE",
        "GROUP_RANK",
        "GROUP_WORLD_SIZE",
    )
    assert [told(fact, *ranks) for fact in facts] == [
        (0, 3, 0, 2, 0, 2),
        (1, 3, 1, 2, 0, 2),
        (2, 3, 0, 1, 1, 2),
    ]
    assert [(f["ROLE_NAME"], *told(f, "ROLE_RANK", "ROLE_WORLD_SIZE")) for f in facts] == [
        ("trainer", 0, 2),
        ("trainer", 1, 2),
        ("reader", 0, 1),
    ]
    assert {fact["MASTER_ADDR"] for fact in facts} == {"127.0.0.1"}
    assert len({fact["MASTER_PORT"] for fact in facts}) == 1
    assert len({fact["LAUNCHER_STORE"] for fact in facts}) == 1


def test_survivors_go_on_and_newcomers_join(agent: Agent, tmp_path: Path) -> None:
    """Kill -9 of one agent costs one round and no restart; so does the one that replaces it."""
    one = agent(1, "--nnodes=1:2", "--rdzv-conf=last_call_timeout=600")
    wait_for_host(one)
    two = agent(2, "--nnodes=1:2")
    assert [world(*facts_of(one)), world(*facts_of(two))] == [(0, 2, 0, 0), (1, 2, 0, 0)]
    killed_at = time.monotonic()
    two.kill()
    alone = facts_of(one)[0]
    took = time.monotonic() - killed_at
    three = agent(3, "--nnodes=1:2")
    together = facts_of(one)[0], facts_of(three)[0]
    (tmp_path / "go").touch()
    status, stderr = finish(one)

    assert world(alone) == (0, 1, 1, 0)
    assert took < NOTICE
    assert [world(fact) for fact in together] == [(0, 2, 2, 0), (1, 2, 2, 0)]
    assert len({fact["MASTER_PORT"] for fact in (alone, *together)}) == 2
    assert (status, finish(three)) == (0, (0, ""))
    assert re.search(r"127\.0\.0\.2 \(agent \d+\) was lost; stopping the workers", stderr)
    assert "starting all workers again, on 1 node\n" in stderr
    assert re.search(r"127\.0\.0\.3 \(agent \d+\) joined; stopping the workers", stderr)


def test_the_run_ends_with_the_host_of_its_store(agent: Agent) -> None:
    """The others stop their workers and name it."""
    one = agent(1, "--nnodes=2")
    wait_for_host(one)
    two = agent(2, "--nnodes=2")
    facts_of(one)
    pid = int(facts_of(two)[0]["pid"])
    one.kill()
    killed_at = time.monotonic()
    status, stderr = finish(two)

    assert time.monotonic() - killed_at < NOTICE
    assert status == 1
    assert re.search(r"127\.0\.0\.1 \(agent \d+\), which hosts the run's store at", stderr)
    assert stderr.count("\n") == 1
    assert not psutil.pid_exists(pid)


def test_below_the_minimum_workers_stop_and_a_replacement_is_waited_for(agent: Agent) -> None:
    """Then the node gives up, naming the one that was lost."""
    one = agent(1, "--nnodes=2", "--rdzv-conf=join_timeout=3")
    wait_for_host(one)
    two = agent(2, "--nnodes=2")
    worker = psutil.Process(int(facts_of(one)[0]["pid"]))
    facts_of(two)
    two.kill()
    worker.wait(timeout=NOTICE)
    assert one.poll() is None, "it waits for a replacement"
    status, stderr = finish(one)

    assert status == 1
    assert re.search(
        r"no round within join_timeout=3 s: 1 of at least 2 nodes came \(127\.0\.0\.1 \(agent "
        r"\d+\)\); 127\.0\.0\.2 \(agent \d+\) was lost\n",
        stderr,
    )


def test_a_node_of_another_run_is_told_so(agent: Agent, tmp_path: Path) -> None:
    """It found the endpoint, but not its run."""
    one = agent(1, "--nnodes=1:2", "--rdzv-id=a", "--expect-nodes=1")
    facts_of(one)
    status, stderr = finish(agent(2, "--nnodes=1:2", "--rdzv-id=b"))
    (tmp_path / "go").touch()

    assert finish(one)[0] == 0
    assert status == 1
    assert "another run" in stderr
    assert "rdzv_id is 'b'" in stderr


@pytest.mark.parametrize(
    ("one", "two", "text"),
    [
        ("--nnodes=1:3", "--nnodes=2:3", "--nnodes=2:3: expected 1:3"),
        ("--max-restarts=3", "--max-restarts=4", "--max-restarts=4: expected 3"),
    ],
)
def test_a_node_with_other_settings_is_refused(
    agent: Agent, tmp_path: Path, one: str, two: str, text: str
) -> None:
    """Both values are shown, and who has the other one; the run goes on."""
    first = agent(1, "--nnodes=1:3", "--expect-nodes=1", one)
    facts_of(first)
    status, stderr = finish(agent(2, "--nnodes=1:3", two))
    (tmp_path / "go").touch()

    assert finish(first) == (0, "")
    assert status == 1
    assert re.fullmatch(
        rf"launcher: {text}, which 127\.0\.0\.1 \(agent \d+\) was launched with: all nodes of a "
        r"run need the same\n",
        stderr,
    )


def test_a_node_that_is_told_to_stop_leaves_at_once(agent: Agent, tmp_path: Path) -> None:
    """The others need not wait for its lease, nor for its workers."""
    one = agent(1, "--nnodes=1:2", "--rdzv-conf=last_call_timeout=600")
    wait_for_host(one)
    two = agent(2, "--nnodes=1:2")
    facts_of(one)
    facts_of(two)
    two.send_signal(signal.SIGTERM)
    alone = facts_of(one)[0]
    (tmp_path / "go").touch()
    status, stderr = finish(one)

    assert finish(two) == (128 + signal.SIGTERM, "")
    assert (status, world(alone)) == (0, (0, 1, 1, 0))
    assert re.search(r"127\.0\.0\.2 \(agent \d+\) left; stopping", stderr)


def test_the_run_ends_when_the_host_of_its_store_is_told_to_stop(agent: Agent) -> None:
    """It says so before it goes."""
    one = agent(1, "--nnodes=2")
    wait_for_host(one)
    two = agent(2, "--nnodes=2")
    facts_of(one)
    facts_of(two)
    one.send_signal(signal.SIGTERM)

    assert finish(one) == (128 + signal.SIGTERM, "")
    status, stderr = finish(two)
    assert status == 1
    assert re.search(
        r"127\.0\.0\.1 \(agent \d+\), which hosts the run's store, was stopped", stderr
    )


def test_the_next_node_takes_over_the_store_of_a_host_that_is_told_to_stop(
    agent: Agent, tmp_path: Path
) -> None:
    """The others form a round around it; who comes to the first endpoint finds its way to them."""
    quick = "--rdzv-conf=keep_alive_interval=0.5,last_call_timeout=600"
    one = agent(1, "--nnodes=1:3", "--expect-nodes=3", quick)
    wait_for_host(one)
    two, three = (agent(number, "--nnodes=1:3", "--expect-nodes=3", quick) for number in (2, 3))
    first = facts_of(one)[0], facts_of(two)[0], facts_of(three)[0]
    one.send_signal(signal.SIGTERM)
    again = facts_of(two)[0], facts_of(three)[0]
    assert finish(one) == (128 + signal.SIGTERM, "")
    four = agent(4, "--nnodes=1:3", quick)
    together = facts_of(two)[0], facts_of(three)[0], facts_of(four)[0]
    (tmp_path / "go").touch()
    ends = [finish(each) for each in (two, three, four)]

    assert [told(fact, "WORLD_SIZE", "LAUNCHER_ROUND") for fact in first] == [(3, 0)] * 3
    assert [world(fact) for fact in again] == [(1, 2, 1, 0), (0, 2, 1, 0)], "1 is kept, 2 cannot be"
    assert sorted(world(fact) for fact in together) == [(rank, 3, 2, 0) for rank in range(3)]
    stores = [{fact["LAUNCHER_STORE"] for fact in facts} for facts in (first, again, together)]
    assert [len(store) for store in stores] == [1, 1, 1]
    assert stores[0] != stores[1] == stores[2]
    assert [status for status, _ in ends] == [0, 0, 0]
    said = ends[0][1] + ends[1][1]
    assert re.search(r"127\.0\.0\.1 \(agent \d+\) left; stopping the workers", said)
    where = re.escape(stores[1].pop().removeprefix("tcp://"))
    assert len(re.findall(f"now hosts the run's store: --rdzv-endpoint={where} ", said)) == 1


def test_spares_take_over_and_end_in_peace(agent: Agent, tmp_path: Path) -> None:
    """The third node waits, gets the rank of the one that dies; the fourth is never needed."""
    one = agent(1, "--nnodes=2")
    wait_for_host(one)
    two = agent(2, "--nnodes=2")
    facts_of(one)
    facts_of(two)
    three = agent(3, "--nnodes=2")
    wait_for_line(three, "this node is a spare")
    four = agent(4, "--nnodes=2")
    wait_for_line(four, "this node is a spare")
    two.kill()
    assert [world(*facts_of(one)), world(*facts_of(three))] == [(0, 2, 1, 0), (1, 2, 1, 0)]
    (tmp_path / "go").touch()

    assert finish(one)[0] == finish(three)[0] == 0
    assert finish(four) == (0, "launcher: run none is finished\n")


def test_a_failure_restarts_all_nodes_until_the_budget_is_spent(
    agent: Agent, tmp_path: Path
) -> None:
    """The count is the run's; the last failure gives every node its exit status."""
    one = agent(1, "--nnodes=2", "--max-restarts=1")
    wait_for_host(one)
    two = agent(2, "--nnodes=2", "--max-restarts=1")
    first = facts_of(one) + facts_of(two)
    (tmp_path / "fail0.1").touch()
    second = facts_of(one) + facts_of(two)
    (tmp_path / "fail1.0").touch()
    ends = finish(one), finish(two)

    assert [world(fact) for fact in first] == [(0, 2, 0, 0), (1, 2, 0, 0)]
    assert [world(fact) for fact in second] == [(0, 2, 1, 1), (1, 2, 1, 1)]
    assert [status for status, _ in ends] == [7, 7]
    assert "rank 1 (pid" in ends[0][1]
    assert "starting all workers again, restart 1 of 1 (0 left)" in ends[0][1]
    assert "restart 1 of 1 (0 left)" in ends[1][1]
    assert re.search(
        r"run failed on another node: rank 0 \(pid \d+\) exited with status 7 on 127\.0\.0\.1 ",
        ends[1][1],
    )


def test_a_node_that_lost_a_peer_lets_another_report_first(agent: Agent, tmp_path: Path) -> None:
    """Who fails by itself is blamed on all nodes; who lost a peer, if nobody else fails."""
    one = agent(1, "--nnodes=2", "--max-restarts=1")
    wait_for_host(one)
    two = agent(2, "--nnodes=2", "--max-restarts=1")
    facts_of(one), facts_of(two)
    (tmp_path / "lose0.1").touch()
    facts_of(one)
    victim = psutil.Process(int(facts_of(two)[0]["pid"]))
    (tmp_path / "lose1.1").touch()
    victim.wait(timeout=NOTICE)
    (tmp_path / "fail1.0").touch()
    ends = finish(one), finish(two)

    assert [status for status, _ in ends] == [7, 7]
    assert re.search(r"rank 1 \(pid \d+\) exited with status 1 .*restart 1 of 1", ends[0][1])
    assert "First to fail: rank 0 " in ends[0][1]
    assert re.search(
        r"run failed on another node: rank 0 \(pid \d+\) exited with status 7", ends[1][1]
    )


def test_who_is_done_waits_for_the_others(agent: Agent, tmp_path: Path) -> None:
    """And takes part again if the round is formed anew."""
    one = agent(1, "--nnodes=1:2", "--rdzv-conf=last_call_timeout=600")
    wait_for_host(one)
    two = agent(2, "--nnodes=1:2")
    worker = psutil.Process(int(facts_of(one)[0]["pid"]))
    slow = facts_of(two)
    psutil.Process(int(slow[0]["pid"])).suspend()
    (tmp_path / "go0").touch()
    worker.wait(timeout=NOTICE)
    assert one.poll() is None
    two.kill()
    again = facts_of(one)[0]
    (tmp_path / "go1").touch()

    assert world(again) == (0, 1, 1, 0)
    status, stderr = finish(one)
    assert status == 0
    assert re.search(r"127\.0\.0\.2 \(agent \d+\) was lost; the workers here were done", stderr)


def test_static_nodes_have_the_ranks_and_the_place_they_were_given(
    start: Start, script: Callable[[str], str], tmp_path: Path
) -> None:
    """MASTER_PORT is the user's, in every round; the agents meet next to it."""
    path = script(WORKER)
    port = free_port()
    options = ("--nnodes=2", f"--master-port={port}", "--max-restarts=1", "--master-addr=127.0.0.1")
    two = start(*options, "--node-rank=1", path)
    one = start(*options, "--node-rank=0", path)
    first = facts_of(one) + facts_of(two)
    (tmp_path / "fail0.0").touch()
    (tmp_path / "fail0.1").touch()
    second = facts_of(one) + facts_of(two)
    (tmp_path / "go").touch()

    assert [world(fact) for fact in first] == [(0, 2, 0, 0), (1, 2, 0, 0)]
    assert [world(fact) for fact in second] == [(0, 2, 1, 1), (1, 2, 1, 1)]
    assert {(f["MASTER_ADDR"], f["MASTER_PORT"]) for f in first + second} == {
        ("127.0.0.1", str(port))
    }
    assert finish(one)[0] == finish(two)[0] == 0


@pytest.mark.parametrize("nodes", [1, 2])
def test_a_master_port_in_use_is_named(
    start: Start, script: Callable[[str], str], nodes: int
) -> None:
    """Workers would fail there later, and not say why."""
    path = script("")
    port = free_port()
    with socket.create_server(("127.0.0.1", port)):
        status, stderr = finish(start(f"--master-port={port}", f"--nnodes={nodes}", path))

    assert status == 1
    assert stderr == (
        f"launcher: --master-port={port}: something listens at 127.0.0.1:{port} already\n"
    )


@pytest.mark.parametrize(
    ("options", "text"),
    [
        (["--nnodes=2"], "--rdzv-endpoint=: expected host[:port], the same on every node"),
        (["--nnodes=2", "--rdzv-endpoint=127.0.0.1:0"], "expected a port that every node knows"),
        (
            ["--rdzv-conf=join_timout=1"],
            "--rdzv-conf join_timout: there is no such setting, did you mean join_timeout?",
        ),
        (
            ["--rdzv-conf=secret=x"],
            "--rdzv-conf secret: there is no such setting, expected one of",
        ),
        (
            ["--rdzv-conf=join_timeout=0"],
            "--rdzv-conf join_timeout=0: expected seconds, above 0",
        ),
        (
            ["--nnodes=2", "--rdzv-endpoint=127.0.0.1:1", "--node-rank=2"],
            "--node-rank=2: expected below --nnodes (max_nodes), 2",
        ),
        (
            ["--nnodes=2", "--rdzv-endpoint=127.0.0.1:1", "--expect-nodes=3"],
            "--expect-nodes=3: expected within --nnodes (min_nodes to max_nodes), 2 to 2",
        ),
        (
            ["--rdzv-backend=bogus"],
            "--rdzv-backend='bogus': expected one of c10d, etcd, etcd-v2, static, tcp",
        ),
    ],
)
def test_a_rendezvous_that_cannot_be_starts_nothing(
    start: Start, script: Callable[[str], str], options: list[str], text: str
) -> None:
    """One line, which names what to change."""
    status, stderr = finish(start(*options, script("print('started')")))

    assert status == 2
    assert stderr.startswith(f"launcher: {text}"[: len(stderr)]) or text in stderr
    assert stderr.count("\n") == 1


def test_newcomers_that_come_together_cost_one_round(agent: Agent, tmp_path: Path) -> None:
    """The round goes on until nobody else has come for a while."""
    debounce = "--rdzv-conf=join_debounce=2.5"
    one = agent(1, "--nnodes=1:4", "--expect-nodes=1", debounce)
    alone = facts_of(one)[0]
    two, three = (agent(number, "--nnodes=1:4", debounce) for number in (2, 3))
    together = [facts_of(each)[0] for each in (one, two, three)]
    (tmp_path / "go").touch()

    assert [finish(each)[0] for each in (one, two, three)] == [0, 0, 0]
    assert world(alone) == (0, 1, 0, 0)
    assert sorted(world(fact) for fact in together) == [(rank, 3, 1, 0) for rank in range(3)]


def test_a_node_that_comes_after_all_have_gone_hears_that_nobody_is_there(
    agent: Agent, tmp_path: Path
) -> None:
    """What the run has come to went with its store: the node can only wait for its nodes."""
    (tmp_path / "go").touch()
    first = agent(1, "--nnodes=1:2", "--expect-nodes=1")
    assert finish(first)[0] == 0
    late = agent(2, "--nnodes=1:2", "--rdzv-conf=join_timeout=1,is_host=0")
    status, stderr = finish(late)

    assert status == 1
    assert re.search(
        r"cannot reach the store at .* refused; if its host has left the run, the others have said "
        r"where they meet now\n",
        stderr,
    )


def test_a_silent_node_is_lost_and_may_come_back(agent: Agent, tmp_path: Path) -> None:
    """After three signs of life that it missed; by then its workers are gone, though it cannot act.

    The launcher alone is stopped here, not what it started.
    """
    alive = "--rdzv-conf=keep_alive_interval=0.4,last_call_timeout=600"
    one = agent(1, "--nnodes=1:2", alive)
    wait_for_host(one)
    two = agent(2, "--nnodes=1:2", alive)
    facts_of(one)
    worker = psutil.Process(int(facts_of(two)[0]["pid"]))
    two.send_signal(signal.SIGSTOP)
    alone = facts_of(one)[0]
    fenced = worker.status() if worker.is_running() else psutil.STATUS_ZOMBIE
    two.send_signal(signal.SIGCONT)
    together = facts_of(one)[0], facts_of(two)[0]
    gone = not worker.is_running()
    (tmp_path / "go").touch()

    assert world(alone) == (0, 1, 1, 0)
    assert fenced == psutil.STATUS_ZOMBIE, "it ran on beside the new world"
    assert sorted(world(fact)[:2] for fact in together) == [(0, 2), (1, 2)]
    assert together[0]["LAUNCHER_ROUND"] == together[1]["LAUNCHER_ROUND"]
    assert gone
    assert finish(one)[0] == finish(two)[0] == 0


def test_a_silent_host_of_the_store_is_waited_for(agent: Agent) -> None:
    """Without workers, since it may go on without this node; and not for ever."""
    alive = "--rdzv-conf=keep_alive_interval=0.4,join_timeout=3"
    one = agent(1, "--nnodes=2", alive)
    wait_for_host(one)
    two = agent(2, "--nnodes=2", alive)
    facts_of(one)
    worker = psutil.Process(int(facts_of(two)[0]["pid"]))
    one.send_signal(signal.SIGSTOP)
    worker.wait(timeout=NOTICE)
    assert two.poll() is None, "it waits for the store"
    status, stderr = finish(two)
    one.kill()

    assert status == 1
    silent = (
        r"127\.0\.0\.1 \(agent \d+\), which hosts the run's store at 127\.0\.0\.1:\d+, does not"
    )
    assert re.search(silent + " answer; stopping the workers here", stderr)
    assert re.search(r"launcher: .*cannot reach the store at", stderr)


@pytest.mark.parametrize("options", [["--nnodes=2"], ["--nnodes=1:2"]])
def test_a_signal_ends_the_wait_for_other_nodes(agent: Agent, options: list[str]) -> None:
    """Nothing was started, and nothing is left."""
    one = agent(1, *options)
    wait_for_host(one)
    one.send_signal(signal.SIGINT)

    assert finish(one) == (128 + signal.SIGINT, "")


def test_launches_of_several_nodes_return_their_own_values() -> None:
    """Two launches make one world; each has the values of its node, by global rank."""
    found = asyncio.run(launch_two())

    assert sorted(found, key=min) == [dict.fromkeys(range(4)), dict.fromkeys(range(4, 8))]


async def launch_two() -> list[dict[int, object]]:
    """Launch on two nodes, both of this process."""
    config = LaunchConfig(
        1, 2, 4, rdzv_endpoint=free_endpoint(), rdzv_configs={"last_call_timeout": 600}
    )
    return await asyncio.gather(*(launch_agent(config, "sh", ("-c", "exit 0")) for _ in range(2)))


def test_one_node_of_two_runs_after_the_last_call() -> None:
    """It need not be alone for ever."""
    config = LaunchConfig(
        1, 2, 4, rdzv_endpoint=free_endpoint(), rdzv_configs={"last_call_timeout": 0.1}
    )
    found = elastic_launch(config, "sh")("-c", "exit $(( WORLD_SIZE - 4 ))")

    assert found == dict.fromkeys(range(4))


def test_a_run_that_failed_on_another_node_is_an_error() -> None:
    """The node whose workers failed has their failure, the others the words for it."""
    config = LaunchConfig(2, 2, 1, rdzv_endpoint=free_endpoint(), max_restarts=0)
    script = '[ "$RANK" = 0 ] && exit 3; sleep 60'

    async def launch() -> list[object]:
        return await asyncio.gather(
            *(launch_agent(config, "sh", ("-c", script)) for _ in range(2)), return_exceptions=True
        )

    errors = {type(error): error for error in asyncio.run(launch())}

    assert set(errors) == {ChildFailedError, RendezvousClosedError}
    assert "rank 0 (pid" in str(errors[RendezvousClosedError])
    assert "exited with status 3" in str(errors[RendezvousClosedError])
    assert getattr(errors[RendezvousClosedError], "exitcode", None) == 3


def test_workers_of_a_static_run_meet_where_they_are_told(
    start: Start, script: Callable[[str], str]
) -> None:
    """Rank 0 listens at MASTER_ADDR and MASTER_PORT, the others find it there."""
    path = script(
        """
        import socket
        rank, size = int(os.environ["RANK"]), int(os.environ["WORLD_SIZE"])
        master = os.environ["MASTER_ADDR"], int(os.environ["MASTER_PORT"])
        if rank == 0:
            with socket.create_server(master) as server:
                others = [server.accept()[0] for _ in range(size - 1)]
            total = sum(other.recv(1)[0] for other in others)
            for other in others:
                other.sendall(bytes([total]))
        else:
            deadline = time.monotonic() + 10
            while True:
                try:
                    mine = socket.create_connection(master, timeout=10)
                    break
                except ConnectionRefusedError:
                    assert time.monotonic() < deadline
                    time.sleep(0.02)
            mine.sendall(bytes([rank]))
            total = mine.recv(1)[0]
        print(total, flush=True)
        """
    )
    endpoint = free_endpoint()
    process = start(
        "--rdzv-backend=static", f"--rdzv-endpoint={endpoint}", "--nproc-per-node=4", path
    )
    stdout, _ = process.communicate(timeout=30)

    assert (process.returncode, stdout.split()) == (0, ["6"] * 4)


def wait_for_host(agent: subprocess.Popen[str]) -> None:
    """Wait until an agent listens, so that it is the one that hosts the store."""
    deadline = time.monotonic() + NOTICE
    while True:
        process = psutil.Process(agent.pid)
        if any(c.status == psutil.CONN_LISTEN for c in process.net_connections("tcp")):
            return
        assert time.monotonic() < deadline
        assert agent.poll() is None, agent.communicate()
        time.sleep(0.02)


def wait_for_line(agent: subprocess.Popen[str], text: str) -> None:
    """Wait until an agent says something."""
    assert agent.stderr is not None
    line = agent.stderr.readline()
    assert text in line, line


def test_a_node_that_waits_says_for_whom(agent: Agent, tmp_path: Path) -> None:
    """By number, or by rank where ranks were given."""
    one = agent(1, "--nnodes=3", "--node-rank=0", "--rdzv-conf=join_timeout=9")
    two = agent(2, "--nnodes=3", "--node-rank=2", "--rdzv-conf=join_timeout=9")
    _, stderr = finish(one)
    finish(two)

    line = r"launcher: 2/3 nodes joined: 127.0.0.1 \(agent \d+\), 127.0.0.2 \(agent \d+\); "
    assert re.search(line + "waiting for node rank 1\n", stderr), stderr
