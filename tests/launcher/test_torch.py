"""Real jobs of torch under the launcher: unmodified scripts, on the CPU, over gloo."""

from __future__ import annotations

import json
import subprocess
from collections.abc import Callable
from pathlib import Path

import pytest

from launcher import LaunchConfig, elastic_launch
from tests.launcher.rendezvous.meeting import free_endpoint, free_port

pytest.importorskip("torch", reason="needs torch: pip install torch==2.13.0")

pytestmark = [pytest.mark.slow, pytest.mark.timeout(120)]

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
