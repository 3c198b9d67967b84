"""Groups of which some workers are processes of their own."""

from __future__ import annotations

import asyncio
import contextlib
import os
import signal
import sys
from collections.abc import AsyncIterator, Mapping
from pathlib import Path
from typing import Any, Self

from asyncrpc import RpcAgent, RpcOptions
from asyncrpc.store import TCPStoreServer

ROOT = Path(__file__).parents[2]
SCRIPT = Path(__file__).with_name("worker.py")
SECRET = b"a secret of the tests"


class Worker:
    """A process that runs ``worker.py``, or another script."""

    def __init__(self, process: asyncio.subprocess.Process) -> None:
        self.process = process

    @classmethod
    async def start(cls, environ: Mapping[str, str], script: Path = SCRIPT) -> Self:
        """Start it with these variables."""
        process = await asyncio.create_subprocess_exec(
            sys.executable,
            str(script),
            stdin=asyncio.subprocess.PIPE,
            stdout=asyncio.subprocess.PIPE,
            env={**os.environ, "PYTHONPATH": str(ROOT), "WORKER_LOOP": _loop_kind(), **environ},
        )
        return cls(process)

    async def line(self) -> str:
        """Return the next line of its output, empty at the end."""
        assert self.process.stdout is not None
        return (await self.process.stdout.readline()).decode().strip()

    async def tell(self, command: str) -> None:
        """Give it a command."""
        assert self.process.stdin is not None
        self.process.stdin.write(f"{command}\n".encode())
        await self.process.stdin.drain()

    def signal(self, number: int) -> None:
        """Send it a signal."""
        self.process.send_signal(number)

    async def end(self) -> None:
        """Kill it if it still runs, and wait for its end."""
        if self.process.returncode is None:
            with contextlib.suppress(ProcessLookupError):
                self.process.kill()
        assert self.process.stdin is not None
        assert self.process.stdout is not None
        await self.process.stdout.read()
        await self.process.wait()
        self.process.stdin.close()


def _loop_kind() -> str:
    return type(asyncio.get_running_loop()).__module__.split(".")[0]


@contextlib.asynccontextmanager
async def started(
    *environs: Mapping[str, str], script: Path = SCRIPT
) -> AsyncIterator[list[Worker]]:
    """Run worker processes for the body."""
    workers: list[Worker] = []
    try:
        for environ in environs:
            worker = await Worker.start(environ, script)
            workers.append(worker)  # one by one, so that none is forgotten when the next one fails
        yield workers
    finally:
        for worker in workers:
            if worker.process.returncode is None:
                with contextlib.suppress(ProcessLookupError):
                    worker.signal(signal.SIGCONT)
            await worker.end()


def write_secret(tmp_path: Path) -> Path:
    """Put the secret of the tests in a file as workers want it."""
    path = tmp_path / "secret"
    path.write_bytes(SECRET)
    path.chmod(0o600)
    return path


@contextlib.asynccontextmanager
async def dynamic_group(
    tmp_path: Path, others: int, **settings: Any
) -> AsyncIterator[tuple[RpcAgent, list[Worker], dict[str, str]]]:
    """Run ``worker0`` of a dynamic group here, ``others`` in processes, a store apart from both.

    The body gets the variables by which more can join; who is left is cut off after it.
    """
    async with TCPStoreServer(secret=SECRET) as server:
        environ = {
            "ASYNCRPC_SECRET_FILE": str(write_secret(tmp_path)),
            "LAUNCHER_STORE": f"tcp://{server.host}:{server.port}",
            "WORKER_OPTIONS": repr(settings),
        }
        agent = await RpcAgent.start(options=RpcOptions(**settings), environ=environ)
        try:
            names = [{**environ, "ASYNCRPC_NAME": f"worker{n + 1}"} for n in range(others)]
            async with started(*names) as workers:
                for worker in workers:
                    assert await worker.line() == "ready"
                yield agent, workers, environ
        finally:
            await agent.shutdown(graceful=False)


@contextlib.asynccontextmanager
async def mixed_group(
    tmp_path: Path, others: int, **settings: Any
) -> AsyncIterator[tuple[RpcAgent, list[Worker]]]:
    """Run ``worker0`` here and ``others`` more workers in processes of their own.

    The body has to shut down what it wants to end in order; the rest is cut off after it.
    """
    async with TCPStoreServer(secret=SECRET) as server:
        environ = {
            "ASYNCRPC_SECRET_FILE": str(write_secret(tmp_path)),
            "LAUNCHER_STORE": f"tcp://{server.host}:{server.port}",
            "WORLD_SIZE": str(others + 1),
            "WORKER_OPTIONS": repr(settings),
        }
        environs = [{**environ, "RANK": str(rank + 1)} for rank in range(others)]
        async with started(*environs) as workers:
            start = RpcAgent.start(options=RpcOptions(**settings), environ={**environ, "RANK": "0"})
            agent = await start
            for worker in workers:
                assert await worker.line() == "ready"
            try:
                yield agent, workers
            finally:
                await agent.shutdown(graceful=False)
