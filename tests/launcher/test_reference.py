"""What torch's own launcher tests ask for (its api_test), with real processes and our backends."""

from __future__ import annotations

import asyncio
import os
import sys
from pathlib import Path

import pytest

from launcher import ChildFailedError, LaunchConfig, elastic_launch
from tests.launcher import functions
from tests.launcher.rendezvous.meeting import free_port

pytestmark = [pytest.mark.slow, pytest.mark.asyncio]

SCRIPT = """
import os, sys
NAMES = (
    "LOCAL_RANK RANK GROUP_RANK ROLE_RANK ROLE_NAME LOCAL_WORLD_SIZE WORLD_SIZE ROLE_WORLD_SIZE "
    "MASTER_ADDR MASTER_PORT TORCHELASTIC_RESTART_COUNT TORCHELASTIC_MAX_RESTARTS "
    "TORCHELASTIC_RUN_ID TORCHELASTIC_ERROR_FILE OMP_NUM_THREADS"
)
missing = [name for name in NAMES.split() if name not in os.environ]
assert not missing, missing
assert os.environ["TEST_SENTINEL_PARENT"] == "FOOBAR"
if "--fail" in sys.argv:
    raise RuntimeError("asked to fail")
open(os.path.join(sys.argv[1], os.environ["RANK"]), "w").close()
"""


@pytest.fixture(autouse=True)
def surroundings(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Set what the workers must inherit; keep secrets and temporary files to ourselves."""
    for name in [*os.environ]:
        if name.startswith("PET_"):
            monkeypatch.delenv(name)
    monkeypatch.setenv("TEST_SENTINEL_PARENT", "FOOBAR")
    monkeypatch.setenv("OMP_NUM_THREADS", "1")
    monkeypatch.setenv("XDG_CONFIG_HOME", str(tmp_path / "config"))
    monkeypatch.delenv("ASYNCRPC_SECRET_FILE", raising=False)


@pytest.fixture
def script(tmp_path: Path) -> str:
    """Return the path of the test script."""
    path = tmp_path / "script.py"
    path.write_text(SCRIPT)
    return str(path)


@pytest.fixture
def touched(tmp_path: Path) -> Path:
    """Return the folder that workers leave their ranks in."""
    folder = tmp_path / "touched"
    folder.mkdir()
    return folder


@pytest.fixture
def port() -> int:
    """Return a free port of loopback."""
    return free_port()


def ranks(folder: Path) -> set[int]:
    """Return who was there."""
    return {int(path.name) for path in folder.iterdir()}


async def test_a_python_script(script: str, touched: Path) -> None:
    """Four workers find everything in their environment."""
    config = LaunchConfig(1, 1, 4, max_restarts=0)
    await elastic_launch(config, sys.executable).launch("-u", script, str(touched))

    assert ranks(touched) == {0, 1, 2, 3}


async def test_a_python_script_told_its_local_rank(tmp_path: Path, touched: Path) -> None:
    """As older scripts are, by an argument; each worker has its own."""
    path = tmp_path / "older.py"
    path.write_text(
        "import os, sys\n"
        "assert sys.argv[2] == '--local-rank=' + os.environ['LOCAL_RANK']\n"
        "open(os.path.join(sys.argv[1], os.environ['RANK']), 'w').close()\n"
    )
    command = f"exec {sys.executable} -u {path} {touched} --local-rank=$LOCAL_RANK"
    await elastic_launch(LaunchConfig(1, 1, 4, max_restarts=0), "sh").launch("-c", command)

    assert ranks(touched) == {0, 1, 2, 3}


async def test_a_shell_script(tmp_path: Path, touched: Path) -> None:
    """Any executable file is an entrypoint."""
    path = tmp_path / "script.sh"
    path.write_text("#!/bin/sh\ntouch $1/$RANK\n")
    path.chmod(0o755)
    await elastic_launch(LaunchConfig(1, 1, 4, max_restarts=0), str(path)).launch(str(touched))

    assert ranks(touched) == {0, 1, 2, 3}


async def test_a_sum_over_the_static_backend(port: int) -> None:
    """Workers meet at MASTER_ADDR:MASTER_PORT, where the first of them hosts a store."""
    config = LaunchConfig(
        1,
        1,
        4,
        rdzv_backend="static",
        rdzv_endpoint=f"127.0.0.1:{port}",
        rdzv_configs={"rank": 0},
        max_restarts=0,
    )

    assert await elastic_launch(config, functions.sum_of_ranks).launch() == dict.fromkeys(
        range(4), 6
    )


def between(nodes: int, port: int, run_id: str, **conf: object) -> LaunchConfig:
    """Return how one of several agents launches four workers."""
    return LaunchConfig(
        1,
        nodes,
        4,
        run_id=run_id,
        rdzv_endpoint=f"127.0.0.1:{port}",
        rdzv_configs=conf,
        max_restarts=0,
    )


async def test_fewer_nodes_than_there_may_be(port: int, script: str, touched: Path) -> None:
    """One agent of at most two runs alone once the last call is over."""
    config = between(2, port, "alone", last_call_timeout=0.5)
    await elastic_launch(config, sys.executable).launch("-u", script, str(touched))

    assert ranks(touched) == {0, 1, 2, 3}


async def test_two_agents(port: int, script: str, touched: Path) -> None:
    """They merge into one world of eight."""
    config = between(2, port, "both", last_call_timeout=15)
    launches = (
        elastic_launch(config, sys.executable).launch("-u", script, str(touched)) for _ in range(2)
    )
    first, second = await asyncio.gather(*launches)

    assert ranks(touched) == set(range(8))
    assert {*first, *second} == set(range(8))
    assert len(first) == len(second) == 4


async def test_a_worker_that_raises(script: str, touched: Path) -> None:
    """The error names the script, and is keyed by global rank."""
    config = LaunchConfig(1, 1, 2, max_restarts=0)
    with pytest.raises(ChildFailedError) as caught:
        await elastic_launch(config, sys.executable).launch("-u", script, str(touched), "--fail")

    assert caught.value.name == script
    rank, failure = caught.value.get_first_failure()
    assert failure.stderr_tail[-1] == "RuntimeError: asked to fail"
    assert rank in (0, 1)
    assert ranks(touched) == set()
