"""Ctrl-C in a program whose loop runs in another thread than the main one."""

from __future__ import annotations

import asyncio
import signal
import threading
import time
from typing import Any

import pytest

from asyncrpc.testing import cluster
from tests.agent import targets


@pytest.mark.slow
def test_interrupted_rpc_sync() -> None:
    """Ctrl-C in a thread that waits in rpc_sync cancels the call and raises there."""
    ready = threading.Event()
    stop = threading.Event()
    agents: list[Any] = []

    async def serve() -> None:
        async with cluster(2) as group:
            agents.extend(group)
            ready.set()
            while not stop.is_set():
                await asyncio.sleep(0.01)

    def interrupt() -> None:
        while agents[1].debug_info()["agent.server_active_async_calls"] == "0":
            time.sleep(0.005)
        signal.pthread_kill(threading.main_thread().ident or 0, signal.SIGINT)

    targets.log.clear()
    thread = threading.Thread(target=lambda: asyncio.run(serve()))
    thread.start()
    ready.wait(5)
    threading.Thread(target=interrupt).start()
    try:
        with pytest.raises(KeyboardInterrupt):
            agents[0].rpc_sync("worker1", targets.sleep, args=(1000,))
        deadline = time.monotonic() + 5
        while targets.log != ["cancelled"] and time.monotonic() < deadline:
            time.sleep(0.005)
    finally:
        stop.set()
        thread.join()

    assert ["cancelled"] == targets.log
