"""How long a call that waits for a reply takes to fail when its server is killed or stopped.

The other load of the clients of `async_load` and `blocking_load`: `run_load` takes it if the spec
names a signal. It gives no figure if the call has not failed within `spec["patience"]` seconds;
calls have no timeout of their own here, since that would be all there is to measure.
"""

from __future__ import annotations

import asyncio
import os
import sys
import threading
from collections.abc import Awaitable, Callable
from queue import Empty, SimpleQueue
from time import perf_counter, sleep

__all__ = ("lose_awaited", "lose_blocking")

_ON_ITS_WAY = 0.3  # seconds after which a call is at the server


async def lose_awaited(
    hang: Callable[[], Awaitable[object]], spec: dict[str, object]
) -> dict[str, float]:
    """Call what never answers, send the signal to the server, and wait for the call to fail."""

    async def call() -> None:
        await hang()

    waiting = asyncio.ensure_future(call())
    await asyncio.wait([waiting], timeout=_ON_ITS_WAY)
    if waiting.done():
        raise ValueError(f"the call ended before its server did: {waiting.exception()}")
    start = _send_signal(spec)
    await asyncio.wait([waiting], timeout=_patience(spec))
    elapsed = perf_counter() - start
    if not waiting.done():
        waiting.cancel()
        return {}
    return _noticed(elapsed, waiting.exception())


def lose_blocking(
    start_hang: Callable[[], Callable[[], object]], spec: dict[str, object]
) -> dict[str, float]:
    """Do the same with a call whose result is waited for in a thread."""
    ends: SimpleQueue[tuple[float, Exception | None]] = SimpleQueue()

    def wait(result: Callable[[], object]) -> None:
        try:
            result()
        except Exception as error:
            ends.put((perf_counter(), error))
        else:
            ends.put((perf_counter(), None))

    threading.Thread(target=wait, args=(start_hang(),), daemon=True).start()
    sleep(_ON_ITS_WAY)
    if not ends.empty():
        raise ValueError(f"the call ended before its server did: {ends.get()[1]}")
    start = _send_signal(spec)
    try:
        end, error = ends.get(timeout=_patience(spec))
    except Empty:
        return {}
    return _noticed(end - start, error)


def _patience(spec: dict[str, object]) -> float:
    seconds: float = spec["patience"]  # type: ignore[assignment]  # json's float
    return seconds


def _send_signal(spec: dict[str, object]) -> float:
    """Send it and return when."""
    start = perf_counter()
    os.kill(int(spec["server_pid"]), int(spec["signal"]))  # type: ignore[call-overload]  # json's int
    return start


def _noticed(seconds: float, error: BaseException | None) -> dict[str, float]:
    if error is None:
        raise ValueError("the call that never answers was answered")
    print(f"{type(error).__name__}: {error}"[:200], file=sys.stderr, flush=True)
    return {"noticed_s": seconds}
