"""Start-up is a feature: what importing asyncrpc and showing the launcher's help may cost."""

from __future__ import annotations

import contextlib
import os
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator

import pytest

pytestmark = [pytest.mark.slow, pytest.mark.timeout(120)]

RUNS = 7
USUAL = 0.06
"""Seconds that a process which imports asyncio takes on an idle machine of today."""

HEAVY = ("aiohttp", "matplotlib", "numpy", "rich", "torch")


def wall(environ: dict[str, str], *arguments: str) -> float:
    """Return the seconds a Python process with these arguments takes."""
    start = time.perf_counter()
    command = [sys.executable, *arguments]
    subprocess.run(command, check=True, stdout=subprocess.DEVNULL, env=environ)
    return time.perf_counter() - start


@contextlib.contextmanager
def with_bytecode() -> Iterator[dict[str, str]]:
    """Give an environment with a cache of bytecode, as users have from their second run on."""
    environ = {k: v for k, v in os.environ.items() if k != "PYTHONDONTWRITEBYTECODE"}
    with tempfile.TemporaryDirectory() as folder:
        yield {**environ, "PYTHONPYCACHEPREFIX": folder}


def over_asyncio(*arguments: str) -> float:
    """Return how much longer than `import asyncio` a process takes, in seconds.

    The two are run in turn, so that a busy machine slows both down, and the quieter half of the
    runs is compared: other load only ever adds. The budgets hold where `import asyncio` takes
    `USUAL` seconds or less; where it takes longer, the result is scaled down to that.
    """
    bare, full = [], []
    with with_bytecode() as environ:
        wall(environ, *arguments)
        for _ in range(RUNS):
            bare.append(wall(environ, "-c", "import asyncio"))
            full.append(wall(environ, *arguments))
    quiet = RUNS // 2 + 1
    base = statistics.median(sorted(bare)[:quiet])
    return (statistics.median(sorted(full)[:quiet]) - base) * min(1.0, USUAL / base)


def modules_after(code: str) -> set[str]:
    """Return the top-level modules that are loaded after running the code."""
    code += "; import sys; sys.stderr.write(' '.join(sys.modules))"
    run = subprocess.run([sys.executable, "-c", code], check=True, capture_output=True, text=True)
    return {name.partition(".")[0] for name in run.stderr.split()}


def test_importing_asyncrpc_is_quick() -> None:
    """`import asyncrpc` takes at most 60 ms over bare asyncio."""
    assert over_asyncio("-c", "import asyncrpc") <= 0.060


def test_the_public_names_are_quick() -> None:
    """Loading everything a first program uses stays within 200 ms over bare asyncio."""
    names = "init_rpc, rpc_async, run, RpcOptions, WorkerInfo, RpcError"

    assert over_asyncio("-c", f"from asyncrpc import {names}") <= 0.200


def test_the_launchers_help_is_quick() -> None:
    """`python -m launcher --help` takes at most 100 ms over bare asyncio."""
    assert over_asyncio("-m", "launcher", "--help") <= 0.100


@pytest.mark.parametrize(
    "code",
    [
        "import asyncrpc; asyncrpc.init_rpc; asyncrpc.store",
        "import launcher, launcher.cli, launcher.api",
    ],
)
def test_nothing_heavy_is_loaded(code: str) -> None:
    """Neither package loads a heavy one before it is used."""
    assert modules_after(code).intersection(HEAVY) == set()
