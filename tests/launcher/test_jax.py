"""JAX under two agents: processes on two nodes find each other by what their environment says."""

from __future__ import annotations

import os
import subprocess
from collections.abc import Callable

import pytest

from tests.examples.launched import ROOT, numbers_of
from tests.launcher.rendezvous.meeting import free_endpoint

pytest.importorskip("jax", reason="needs jax: pip install jax==0.10.2")

pytestmark = [
    pytest.mark.slow,
    pytest.mark.timeout(120),
    pytest.mark.skipif("TORCH_SOAK" not in os.environ, reason="long: make soak"),
]

Start = Callable[..., "subprocess.Popen[str]"]


def test_two_nodes_compute_as_one(start: Start) -> None:
    """The worker of rank 0 serves JAX's coordinator where the other node reaches it."""
    options = ["--nnodes=2", f"--rdzv-endpoint={free_endpoint()}"]
    example = str(ROOT / "examples" / "jax_mean.py")
    agents = [start(*options, example, env={"JAX_PLATFORMS": "cpu"}) for _ in range(2)]

    facts = []
    for agent in agents:
        stdout, stderr = agent.communicate(timeout=100)
        assert agent.returncode == 0, stderr
        facts += [numbers_of(line) for line in stdout.splitlines() if line[:7] == "process"]
    assert sorted(fact["process"] for fact in facts) == [0, 1]
    assert all(fact["difference"] < 1e-5 for fact in facts)
