"""`Preemption`: the agent's part of going in order, see `launcher.preemption`.

From the signal that says that this node has to go, to the moment that its workers are ready for it.
"""

from __future__ import annotations

import asyncio
import logging
import os
import signal
from collections.abc import Iterable, Iterator
from contextlib import contextmanager, suppress

from asyncrpc.errors import StoreError
from launcher.errors import one_line
from launcher.logs import temporary_folder
from launcher.preemption import SOCKET_VARIABLE, NoticeServer
from launcher.process import IGNORED_VARIABLE, Guardian
from launcher.rendezvous import RendezvousInfo

__all__ = ("Preemption",)

_SHARE = 0.25  # of the notice, at most, that is kept for stopping workers and leaving the run

_SETTLING = 1.0  # seconds after which all nodes of a job have got the signal
_LAST_WORD = 1.0  # seconds to tell the others, also when the time is up

_logger = logging.getLogger("launcher.agent")


class Preemption:
    """What one node does when it is told that it has to go.

    Args:
        notice: seconds from the signal to the end of the node, above 0.
        grace: seconds between the signal that stops workers and SIGKILL.
        ignored: signals that end no worker: Slurm may send them to all processes of a step.
    """

    def __init__(self, notice: float, grace: float, ignored: Iterable[signal.Signals] = ()) -> None:
        self._notice = notice
        self._ignored = ",".join(str(int(number)) for number in ignored)
        self._settling = min(_SETTLING, notice * _SHARE)
        self.grace = min(grace, notice * _SHARE)
        """Seconds that workers have to stop in once they are ready."""
        self.is_given = False
        """Whether the signal has come."""
        self.variables: dict[str, str] = {}
        """What workers need in their environment, while they are served."""
        self._server: NoticeServer | None = None  # while they are, if that can be
        self._is_over = asyncio.Event()

    @contextmanager
    def serve(self, guardian: Guardian) -> Iterator[None]:
        """Serve the workers that want to know, as long as the context lasts.

        Args:
            guardian: removes the socket if this process cannot.
        """
        path = os.path.join(temporary_folder(os.environ), f"launcher_notice_{os.urandom(8).hex()}")
        guardian.remove_at_end(path)
        self.variables = {IGNORED_VARIABLE: self._ignored}
        try:
            self._server = NoticeServer(path, asyncio.get_running_loop())
            self.variables[SOCKET_VARIABLE] = path
        except OSError as error:  # some file systems know no sockets
            _logger.warning("workers will not hear when this node has to go: %s", one_line(error))
        try:
            yield
        finally:
            if self._server is not None:
                self._server.close()

    async def give(self, name: str, info: RendezvousInfo) -> None:
        """Tell the workers, and wait until all that want to know are ready, on other nodes too.

        A checkpoint may need the workers of all nodes that have to go: those that are ready stay
        until the others are. Time that is up ends all waiting.

        Args:
            name: of the signal.
            info: of the round.
        """
        if self._server is None:
            return
        count, seconds = self._server.count, self._notice - self.grace
        _logger.warning(
            "%s: this node has to go; workers prepare: %d, for %g s", name, count, seconds
        )
        deadline = asyncio.get_running_loop().time() + seconds
        left, _ = await asyncio.gather(self._server.give(seconds), _say(info, "going", deadline))
        if left:
            _logger.warning("not ready in time: %d of %d workers", left, max(count, left))
        if info.world_size > 1:
            await _say(info, "ready", deadline)
            await _wait_for_others(info, deadline - seconds + self._settling, deadline)

    def end(self) -> None:
        """Take note that the node leaves the run now, whatever `give` waits for."""
        self._is_over.set()

    async def over(self) -> None:
        """Wait until there is no notice under way."""
        if self.is_given:
            await self._is_over.wait()


async def _say(info: RendezvousInfo, what: str, deadline: float) -> None:
    """Tell the other nodes of the round; a store that is gone went with one that left."""
    if info.world_size == 1:
        return
    deadline = max(deadline, asyncio.get_running_loop().time() + _LAST_WORD)
    with suppress(StoreError, TimeoutError):
        async with asyncio.timeout_at(deadline):
            await info.store.set(f"{what}/{info.rank}", b"")


async def _wait_for_others(info: RendezvousInfo, settled_at: float, deadline: float) -> None:
    """Wait until the other nodes that have to go are ready, too."""
    with suppress(StoreError, TimeoutError):
        async with asyncio.timeout_at(deadline):
            await asyncio.sleep(settled_at - asyncio.get_running_loop().time())
            going = await info.store.list_keys("going/")
            await info.store.wait([key.replace("going", "ready", 1) for key in going], None)
