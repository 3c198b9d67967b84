"""Real jobs of torch under the launcher: unmodified scripts, on the CPU, over gloo."""

from __future__ import annotations

import itertools
import json
import os
import signal
import subprocess
import textwrap
from collections.abc import Callable
from pathlib import Path

import psutil
import pytest

from launcher import LaunchConfig, elastic_launch
from tests.examples.launched import ROOT, numbers_of
from tests.launcher.distributed import Hosts, needs_hosts
from tests.launcher.rendezvous.meeting import free_endpoint, free_port

pytest.importorskip("torch", reason="needs torch: pip install torch==2.13.0")

pytestmark = [pytest.mark.slow, pytest.mark.timeout(180)]

long = pytest.mark.skipif("TORCH_SOAK" not in os.environ, reason="long: make soak")

Start = Callable[..., "subprocess.Popen[str]"]

SUM = """
    import torch, torch.distributed as dist

    dist.init_process_group("gloo")
    total = torch.tensor([dist.get_rank()])
    dist.all_reduce(total)
    dist.barrier()
    print(json.dumps([total.item(), os.environ["TORCHELASTIC_USE_AGENT_STORE"]]), flush=True)
    dist.destroy_process_group()
"""
"""What torch's own manual begins with."""


SHARDED = """
    import torch, torch.distributed as dist
    from torch import nn
    from torch.distributed.fsdp import FullyShardedDataParallel, fully_shard

    dist.init_process_group("gloo")
    rank, world_size = dist.get_rank(), dist.get_world_size()

    def network():
        torch.manual_seed(0)
        return nn.Sequential(nn.Linear(8, 16), nn.ReLU(), nn.Linear(16, 1))

    def sharded():
        layers = network()
        for layer in (layers[0], layers[2]):
            fully_shard(layer)
        return fully_shard(layers)

    def train(network, share):
        optimizer = torch.optim.SGD(network.parameters(), lr=0.1)
        torch.manual_seed(1)
        losses = []
        for _ in range(5):
            inputs = share(torch.randn(16, 8))
            loss = (network(inputs) - inputs.sum(1, keepdim=True)).square().mean()
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            dist.all_reduce(loss)
            losses.append(loss.item() / world_size)
        return losses

    def own(tensor):
        return tensor.chunk(world_size)[rank]

    def plain(tensor):
        return tensor

    try:
        FullyShardedDataParallel(network())
    except RuntimeError as error:
        refusal = str(error)
    shards = sharded()
    facts = {
        "alone": train(network(), plain),
        "sharded": train(shards, own),
        "older": train(FullyShardedDataParallel(network(), device_id=torch.device("cpu")), own),
        "sizes": [weights.to_local().numel() for weights in shards.parameters()],
        "refusal": refusal,
    }
    print(json.dumps(facts), flush=True)
    dist.barrier()
    # Shards keep the group beyond destroy_process_group. Its threads may then want Python when the
    # interpreter has gone, and torch aborts the process.
    os._exit(0)
"""
"""Trains one network on all the data, and twice with parts of it on each worker."""


GROUPS = """
    import torch, torch.distributed as dist

    rank, world_size = int(os.environ["RANK"]), int(os.environ["WORLD_SIZE"])
    place = os.environ["MASTER_ADDR"], int(os.environ["MASTER_PORT"])
    serves = rank == 0 and os.environ["TORCHELASTIC_USE_AGENT_STORE"] == "False"
    store = dist.TCPStore(*place, world_size, is_master=serves)
    for number in range(20):
        own = dist.PrefixStore(f"group{number}", store)
        dist.init_process_group("gloo", store=own, rank=rank, world_size=world_size)
        total = torch.tensor([rank + number])
        dist.all_reduce(total)
        assert total.item() == 1 + 2 * number
        if rank == number % world_size:
            time.sleep(0.02)  # the other one begins anew before this one has ended
        dist.destroy_process_group()
    print("done", flush=True)
    store.barrier("end", world_size)
"""
"""Groups one after the other, as the README advises."""


@pytest.fixture(autouse=True)
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Keep the user's secret to itself in launches from this process."""
    monkeypatch.setenv("XDG_CONFIG_HOME", str(tmp_path / "config"))
    monkeypatch.setenv("OMP_NUM_THREADS", "1")
    monkeypatch.delenv("ASYNCRPC_SECRET_FILE", raising=False)


def output(process: subprocess.Popen[str]) -> str:
    """Wait for a launcher to succeed; return what its workers printed."""
    stdout, stderr = process.communicate(timeout=100)
    assert process.returncode == 0, stderr
    return stdout


def test_a_sum_over_the_static_backend() -> None:
    """Functions of torch meet at the endpoint that the user named, through their environment."""
    from tests.launcher import torch_jobs

    config = LaunchConfig(
        1,
        1,
        4,
        rdzv_backend="static",
        rdzv_endpoint=f"127.0.0.1:{free_port()}",
        rdzv_configs={"rank": 0},
        max_restarts=0,
    )

    assert elastic_launch(config, torch_jobs.sum_of_ranks)() == dict.fromkeys(range(4), 6)


def test_a_sum_over_the_agents_store(script: Callable[[str], str], start: Start) -> None:
    """Two agents with two workers each: none of these hosts the store they meet in."""
    path = script(SUM)
    options = ["--nnodes=2", f"--rdzv-endpoint={free_endpoint()}", "--nproc-per-node=2"]
    agents = [start(*options, "--torch-store", path) for _ in range(2)]

    found = [json.loads(line) for agent in agents for line in output(agent).splitlines()]

    assert found == [[6, "True"]] * 4


@needs_hosts
@pytest.mark.parametrize(
    ("ipv4", "store"),
    [
        pytest.param(True, [], id="ipv4"),
        pytest.param(False, [], id="ipv6", marks=long),
        pytest.param(True, ["--torch-store"], id="ipv4-store-of-the-agents", marks=long),
        pytest.param(False, ["--torch-store"], id="ipv6-store-of-the-agents", marks=long),
    ],
)
def test_hosts_without_known_names(tmp_path: Path, ipv4: bool, store: list[str]) -> None:
    """Gloo would listen on loopback there, if it was not told better."""
    with Hosts(tmp_path, "left", "right", ipv4=ipv4) as hosts:
        address = hosts.lab.address("left", ipv6=not ipv4)
        where = f"--rdzv-endpoint={address}:29400" if ipv4 else f"--rdzv-endpoint=[{address}]:29400"
        agents = [
            hosts.agent(host, "--nnodes=2", where, *store, script=textwrap.dedent(SUM))
            for host in hosts.lab.hosts
        ]
        found = [json.loads(output(agent)) for agent in agents]

    assert [total for total, _ in found] == [1, 1]


@pytest.mark.parametrize(
    "store",
    [
        pytest.param(["--torch-store"], id="store-of-the-agents"),
        pytest.param([], id="store-of-rank-0", marks=long),
    ],
)
def test_twenty_groups_follow_each_other(
    script: Callable[[str], str], start: Start, store: list[str]
) -> None:
    """In parts of one store; in the store as it is torch's second group fails."""
    assert output(start("--nproc-per-node=2", *store, script(GROUPS))) == "done\n" * 2


@pytest.mark.parametrize(
    "store",
    [
        pytest.param([], id="store-of-rank-0"),
        pytest.param(["--torch-store"], id="store-of-the-agents", marks=long),
    ],
)
def test_sharded_training_of_two_nodes(
    script: Callable[[str], str], start: Start, store: list[str]
) -> None:
    """Parameters in parts learn as whole ones do."""
    path = script(SHARDED)
    options = ["--nnodes=2", f"--rdzv-endpoint={free_endpoint()}", *store]
    agents = [start(*options, path) for _ in range(2)]

    for agent in agents:
        facts = json.loads(output(agent))
        assert facts["sharded"] == pytest.approx(facts["alone"], rel=1e-4)
        assert facts["older"] == pytest.approx(facts["alone"], rel=1e-4)
        assert facts["sizes"] == [64, 8, 16, 1] or facts["sizes"] == [64, 8, 0, 0]
        # FSDP1 looks for an accelerator, unless it is told not to.
        assert "FSDP needs a non-CPU accelerator device" in facts["refusal"]


@pytest.mark.parametrize(
    "store",
    [
        pytest.param(["--torch-store"], id="store-of-the-agents"),
        pytest.param([], id="store-of-rank-0", marks=long),
    ],
)
def test_training_goes_on(tmp_path: Path, start: Start, store: list[str]) -> None:
    """Through a node that joins, a worker that is killed, and the end of the run."""
    example, kept = str(ROOT / "examples" / "train_digits.py"), str(tmp_path / "digits.pt")
    task = [example, "--images=1024", f"--checkpoint={kept}"]
    options = ["--nnodes=1:2", f"--rdzv-endpoint={free_endpoint()}", "--max-restarts=1"]
    options += ["--rdzv-conf=last_call_timeout=0.1", *store]
    seen: list[dict[str, float]] = []

    def follow(agent: subprocess.Popen[str], name: str, value: int) -> None:
        assert agent.stdout is not None
        while not seen or seen[-1][name] != value:
            line = agent.stdout.readline()
            assert line, agent.communicate()
            seen.append(numbers_of(line))

    first = start(*options, *task, "--epochs=100000")
    follow(first, "workers", 1)
    second = start(*options, *task, "--epochs=100000")
    follow(first, "workers", 2)
    os.kill(worker_of(second), signal.SIGKILL)
    follow(first, "restarts", 1)
    for agent in (first, second):
        agent.send_signal(signal.SIGTERM)
    rest, _ = first.communicate(timeout=60)
    second.communicate(timeout=60)
    assert [128 + signal.SIGTERM] * 2 == [first.returncode, second.returncode]
    seen += map(numbers_of, rest.splitlines())
    done = int(seen[-1]["epoch"])
    last = start(*task, f"--epochs={done + 4}")
    seen += map(numbers_of, output(last).splitlines())

    epochs = [int(line["epoch"]) for line in seen]
    # One may be kept that its worker did not live to tell of.
    assert {after - before for before, after in itertools.pairwise(epochs)} <= {1, 2}
    assert epochs[-1] == done + 3
    assert seen[-1]["accuracy"] > 0.9


def worker_of(agent: subprocess.Popen[str]) -> int:
    """Return the process id of an agent's worker."""
    processes = psutil.Process(agent.pid).children(recursive=True)
    [pid] = [p.pid for p in processes if any(a.endswith("digits.py") for a in p.cmdline())]
    return int(pid)
