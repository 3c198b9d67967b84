"""Launching workers from a program: `launch_agent`, `elastic_launch`, and what they give back.

Called by users; what they get done is done by `node`.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import sys
from collections.abc import AsyncIterator, Mapping, Sequence
from signal import Signals
from typing import NamedTuple

from launcher.agent import RunResult
from launcher.config import LaunchConfig
from launcher.errors import ChildFailedError, RendezvousClosedError, SignalException
from launcher.node import Entrypoint, run_agent

__all__ = (
    "LaunchConfig",
    "LaunchResult",
    "elastic_launch",
    "get_entrypoint_name",
    "launch_agent",
)


class LaunchResult(NamedTuple):
    """How a run ended, worker by worker; every mapping is keyed by global rank."""

    values: Mapping[int, object]
    """What each worker returned; ``None`` from a command. Empty unless all succeeded."""
    exit_codes: Mapping[int, int]
    """Exit statuses in the last round; -N when signal N ended the worker."""
    log_paths: Mapping[int, Mapping[str, str]]
    """Files of the last round: by ``stdout``, ``stderr`` and ``error``, those that were asked
    for."""


class elastic_launch:  # noqa: N801 -- torch's name
    """A launch that is set up and can be called with the workers' arguments.

    Args:
        config: how to launch.
        entrypoint: what each worker runs: path or name of a program, or a function.
    """

    def __init__(self, config: LaunchConfig, entrypoint: Entrypoint) -> None:
        self._config = config
        self._entrypoint = entrypoint

    def __call__(self, *args: object) -> dict[int, object]:
        """Launch, and block until the run is over; from any thread that runs no loop.

        Args:
            args: arguments of the program or function, the same for each worker.

        Returns:
            What each worker returned, by global rank; ``None`` from a command.

        Raises:
            RuntimeError: this thread runs an event loop; await `launch` there.
            ChildFailedError: workers failed, and so did the restarts allowed.
            SignalException: a signal stopped the run.
            UsageError: the configuration cannot be used; nothing was started.
            LauncherError: of another kind: the launch itself failed.
            OSError: the workers could not be started.
        """
        if _is_loop_running():
            raise RuntimeError("elastic_launch blocks: in an event loop, await its launch method")
        return asyncio.run(self.launch(*args))

    async def launch(self, *args: object) -> dict[int, object]:
        """Launch, and wait until the run is over; see `__call__`."""
        return await launch_agent(self._config, self._entrypoint, args)

    async def run(self, *args: object) -> LaunchResult:
        """Launch, and say how each worker ended, also when some failed.

        Args:
            args: arguments of the program or function, the same for each worker.

        Returns:
            Values, exit statuses and log files.

        Raises:
            SignalException: a signal stopped the run.
            UsageError: the configuration cannot be used; nothing was started.
            LauncherError: of another kind: the launch itself failed.
            OSError: the workers could not be started.
        """
        result = await run_agent(self._config, self._entrypoint, args)
        _raise_if_stopped(result)
        return LaunchResult(
            values=result.return_values,
            exit_codes=result.exit_codes,
            log_paths=result.log_paths,
        )

    @contextlib.asynccontextmanager
    async def running(self, *args: object) -> AsyncIterator[asyncio.Task[LaunchResult]]:
        """Launch for the time of a block; what still runs at its end is stopped in order.

        Args:
            args: arguments of the program or function, the same for each worker.

        Yields:
            The task of `run`: await it for the result, or do something else meanwhile.

        Raises:
            LauncherError: the launch itself failed, and nobody awaited the task; or another error
                of `run`.

        Example:
            ```python
            async def main():
                async with elastic_launch(config, train).running() as run:
                    await asyncio.wait([run], timeout=600)  # and no longer
            ```
        """
        run = asyncio.create_task(self.run(*args))
        try:
            yield run
        except BaseException:
            run.cancel()
            await asyncio.gather(run, return_exceptions=True)
            raise
        if not run.done():
            run.cancel()
            await asyncio.wait([run])
        if not run.cancelled():
            run.result()


async def launch_agent(
    config: LaunchConfig, entrypoint: Entrypoint, args: Sequence[object] = ()
) -> dict[int, object]:
    """Launch this node's workers, and wait until the run is over.

    Args:
        config: how to launch.
        entrypoint: what each worker runs: path or name of a program, or a function.
        args: its arguments, without the program's own name.

    Returns:
        What each worker of this node returned, by global rank; ``None`` from a command.

    Raises:
        ChildFailedError: workers failed, and so did the restarts allowed.
        RendezvousClosedError: the run failed on another node, or was ended there.
        SignalException: a signal stopped the run.
        UsageError: the configuration cannot be used; nothing was started.
        LauncherError: of another kind: the launch itself failed.
        OSError: the workers could not be started.
    """
    result = await run_agent(config, entrypoint, args)
    _raise_if_stopped(result)
    if result.elsewhere is not None:
        _, reason, exitcode = result.elsewhere
        raise RendezvousClosedError(f"run failed on another node: {reason}", reason, exitcode)
    if result.is_failed():
        raise ChildFailedError(get_entrypoint_name(entrypoint, args), result.failures)
    return dict(result.return_values)


def get_entrypoint_name(entrypoint: Entrypoint | None, args: Sequence[object]) -> str:
    """Name what is run, for people.

    Args:
        entrypoint: a function, or path or name of a program; ``None``: nothing.
        args: its arguments.

    Returns:
        The function's name, or the program; for this Python, its first argument that is no option,
        else "".
    """
    if callable(entrypoint):
        return getattr(entrypoint, "__name__", repr(entrypoint))
    if entrypoint == sys.executable:
        return next((arg for arg in map(str, args) if not arg.startswith("-")), "")
    return entrypoint or ""


def _is_loop_running() -> bool:
    try:
        asyncio.get_running_loop()
    except RuntimeError:
        return False
    return True


def _raise_if_stopped(result: RunResult) -> None:
    if result.signal is not None:
        number = Signals(result.signal)
        if result.is_preempted:
            raise SignalException("this node has to go, and has left the run", number)
        raise SignalException(f"process {os.getpid()} got signal {number.name}", number)
