"""The end of a worker: drain, then links, threads and store, whatever happens to the first.

`RpcAgent.shutdown` drives it. Whichever way it ends, all that the worker holds is closed.
"""

from __future__ import annotations

import asyncio
import gc
import os
import warnings
import weakref
from collections.abc import Callable

from asyncrpc.agent import Drain, Started
from asyncrpc.errors import RpcError, RRefLeakError, ShutdownTimeoutError, StatusCode
from asyncrpc.execution import current_call
from asyncrpc.runtime.persisting import finished

__all__ = ("Ending", "warn_if_forgotten")

_LINGER = 5.0  # seconds a served store waits for workers that are about to close theirs
_PATIENCE = 5.0  # seconds for functions in threads that nobody waits for any more


class Ending:
    """The one shutdown of one worker, however often it is asked for.

    Args:
        started: the worker.
    """

    def __init__(self, started: Started) -> None:
        self._started = started
        self._agent = started.agent
        self._drain = Drain(started.agent, started.roster.clear)
        self._ending: asyncio.Task[None] | None = None
        self._draining: asyncio.Task[None] | None = None
        self._is_hurried = False
        self._asker: asyncio.Task[object] | None = None  # may be a served call: not to be cancelled

    @property
    def is_over(self) -> bool:
        """Whether the worker has ended, and all that it held is closed."""
        return self._ending is not None and self._ending.done()

    async def run(self, graceful: bool, timeout: float) -> None:
        """End the worker; the second call waits for the first one's end.

        Args:
            graceful: wait for the end of all calls in the group; see `asyncrpc.shutdown`.
            timeout: seconds for the whole of it, 0 for no limit.

        Raises:
            RuntimeError: graceful, and awaited by a call that this worker serves.
        """
        if graceful and not self._agent.is_closed:
            self._refuse_to_wait_for_itself()
        is_first = self._ending is None
        if self._ending is None:
            self._asker = asyncio.current_task()
            self._ending = asyncio.create_task(
                self._shut_down(graceful, timeout),
                name=f"asyncrpc {self._agent.info.name}: shutdown",
            )
        elif not graceful:
            self._stop_draining()
        try:
            await asyncio.wait([self._ending])
        except asyncio.CancelledError:
            self._stop_draining()
            await finished(self._ending)
            raise
        if is_first:
            self._ending.result()

    def _refuse_to_wait_for_itself(self) -> None:
        call = current_call.get()
        if call is None or call.task is not asyncio.current_task():
            return  # a task of its own may wait for the call that started it
        if call.replier.agent is self._agent.facade:
            raise RuntimeError(
                f"a graceful shutdown waits for all calls, so for {call.target.name} that awaits "
                "it: start it as a task of its own and return, or pass graceful=False"
            )

    def _stop_draining(self) -> None:
        self._is_hurried = True
        if self._draining is not None:
            self._draining.cancel()

    async def _shut_down(self, graceful: bool, timeout: float) -> None:
        """Drain, then close everything, whatever happens to the first."""
        self._agent.retrier.stop()
        if self._agent.options.check_leaks:
            gc.collect()  # what is only waiting to be collected is no leak
        if not graceful:
            self._agent.references.note_leaks()
            await self._close("lost", "it shut down without waiting", 0.0)
            self._report_leaks()
            return
        now = self._agent.clock.time
        give_up = now() + timeout if timeout else None
        try:
            await self._drained(timeout)
        except ShutdownTimeoutError:
            await self._close("lost", "its graceful shutdown timed out", 0.0)
            raise
        except BaseException:
            await self._close("lost", "its shutdown was interrupted", 0.0)
            raise
        left = _PATIENCE if give_up is None else max(0.0, give_up - now())
        await self._close("left", "it shut down", min(left, _PATIENCE))
        self._report_leaks()

    def _report_leaks(self) -> None:
        leaks = self._agent.references.leaks
        if leaks:
            raise RRefLeakError(
                f"{len(leaks)} references were still held at the shutdown:\n" + "\n".join(leaks),
                leaks=leaks,
            )

    async def _drained(self, timeout: float) -> None:
        """Wait for the end of the group, unless `_stop_draining` ends the wait."""
        is_alone = self._started.roster.is_dynamic
        self._draining = asyncio.create_task(
            self._drain.leave(timeout) if is_alone else self._drain.run(timeout),
            name=f"asyncrpc {self._agent.info.name}: drain",
        )
        try:
            if self._is_hurried:  # before the first step of this task
                self._draining.cancel()
            await asyncio.wait([self._draining])
            if self._draining.cancelled():
                raise RpcError("the graceful shutdown was cut short", code=StatusCode.CANCELLED)
            self._draining.result()
        finally:
            self._draining.cancel()
            self._draining = None

    async def _close(self, goodbye: str, reason: str, patience: float) -> None:
        running = []
        started = self._started
        started.note_end()
        is_group_over = goodbye == "left" and not started.roster.is_dynamic
        try:
            if not is_group_over:
                await started.roster.leave(goodbye, reason)
            await self._agent.close(goodbye, reason, self._asker)
            await started.roster.close()
            running = await self._agent.executor.threads.close(patience)
        finally:
            if started.liveness is not None:
                started.liveness.close()
            # a group that goes on finds or serves another store, the sooner the better
            await started.link.close(min(patience, _LINGER) if is_group_over else 0.0)
        if running and goodbye == "left":
            names = ", ".join(f"{r.function} in {r.thread}" for r in running)
            raise ShutdownTimeoutError(
                f"functions still run in threads after shutdown: {names}", phase="threads"
            )


def warn_if_forgotten(agent: object, started: Started) -> Callable[[], object]:
    """Have a ResourceWarning say so when an agent, or the process, ends without a shutdown.

    Args:
        agent: what the user holds; not kept alive by this.
        started: its parts.

    Returns:
        To be called once it was shut down.
    """
    name = started.agent.info.name
    silence = None if started.liveness is None else started.liveness.close
    return weakref.finalize(agent, _forgotten, name, silence, os.getpid()).detach


def _forgotten(name: str, silence: Callable[[], None] | None, process: int) -> None:
    if os.getpid() != process:
        return  # in a fork of it, which has no worker
    if silence is not None:
        silence()  # or the liveness thread would say on and on that the worker lives
    warnings.warn(
        f"the RPC agent of {name} was not shut down: await asyncrpc.shutdown() before its loop "
        "ends, or use async with asyncrpc.init_rpc(...)",
        ResourceWarning,
        stacklevel=2,
    )
