"""What the tests of the process layer share: guardians, workers, and looking at processes."""

from __future__ import annotations

import os
import sys
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator

import pytest
import pytest_asyncio

from launcher.logs import DefaultLogsSpecs, LogsSpecs
from launcher.process import Guardian, ProcessContext, start_processes
from launcher.process.guardian import GuardedProcess

Spawn = Callable[..., Awaitable[GuardedProcess]]
Start = Callable[..., Awaitable[ProcessContext]]


@pytest_asyncio.fixture
async def guardian() -> AsyncIterator[Guardian]:
    """Return a guardian that is closed at the end."""
    guardian = Guardian.start()
    yield guardian
    await guardian.close()


@pytest.fixture
def null() -> Iterator[int]:
    """Return a descriptor of /dev/null."""
    fd = os.open(os.devnull, os.O_RDWR)
    yield fd
    os.close(fd)


@pytest.fixture
def spawn(guardian: Guardian, null: int) -> Spawn:
    """Return a function that starts a program whose output is thrown away."""

    async def spawn(*argv: str, stdout: int = null, cwd: str = "") -> GuardedProcess:
        descriptors = {0: null, 1: stdout, 2: null}
        return await guardian.spawn(argv, dict(os.environ), descriptors, cwd)

    return spawn


@pytest_asyncio.fixture
async def start() -> AsyncIterator[Start]:
    """Return a function that starts one shell (or Python) script for each argument."""
    contexts: list[ProcessContext] = []

    async def start(
        *scripts: str,
        python: bool = False,
        logs_specs: LogsSpecs | None = None,
        envs: dict[int, dict[str, str]] | None = None,
        **options: object,
    ) -> ProcessContext:
        context = await start_processes(
            "default",
            sys.executable if python else "sh",
            {rank: ("-c", script) for rank, script in enumerate(scripts)},
            envs or {rank: {} for rank in range(len(scripts))},
            logs_specs or DefaultLogsSpecs(os.devnull),
            **options,  # type: ignore[arg-type]  # passed through as given
        )
        contexts.append(context)
        return context

    yield start
    for context in contexts:
        await context.close(timeout=0)
