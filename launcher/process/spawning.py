"""Starting the workers of a context: a few at a time, until all of them run.

Called by the contexts, which say what a worker is; the guardian becomes its parent.
"""

from __future__ import annotations

import asyncio
import os
import sys
from collections.abc import Collection, Mapping, MutableMapping, Sequence
from typing import TYPE_CHECKING

from launcher.errors import ERROR_FILE_VARIABLE
from launcher.limits import MAX_STARTING, explain_shortage

if TYPE_CHECKING:
    from launcher.logs import WorkerOutput
    from launcher.process.base import ProcessContext
    from launcher.process.guardian import GuardedProcess, Guardian

__all__ = ("spawn_workers",)


async def spawn_workers(
    context: ProcessContext,
    guardian: Guardian,
    output: WorkerOutput,
    cpus: Sequence[Collection[int]],
    stdin: int | None,
    processes: MutableMapping[int, GuardedProcess],
) -> None:
    """Start all workers; what runs when one of them cannot be started is the caller's to end.

    Args:
        context: says what they are.
        guardian: their parent.
        output: takes what they write.
        cpus: processors of each.
        stdin: local rank of the worker that gets our standard input; ``None`` for none.
        processes: each worker is put there as it starts, by local rank.

    Raises:
        OSError: a program is missing or cannot be executed.
        ValueError: an argument or variable cannot be given to a process.
        GuardianError: the guardian is gone.
    """
    nothing = os.open(os.devnull, os.O_RDONLY)
    heir = None if sys.__stdin__ is None else stdin  # closed: 0 may be anybody's
    turns = asyncio.Semaphore(MAX_STARTING)

    async def start(rank: int) -> None:
        async with turns:
            descriptors = {0: 0 if rank == heir else nothing}
            processes[rank] = await _spawn(context, guardian, output, cpus[rank], rank, descriptors)

    try:
        async with asyncio.TaskGroup() as group:
            for rank in range(context.nprocs):
                group.create_task(start(rank))
    except BaseExceptionGroup as errors:
        raise errors.exceptions[0] from None
    finally:
        os.close(nothing)


async def _spawn(
    context: ProcessContext,
    guardian: Guardian,
    output: WorkerOutput,
    cpus: Collection[int],
    rank: int,
    descriptors: Mapping[int, int],
) -> GuardedProcess:
    env = {**os.environ, **context.envs[rank], ERROR_FILE_VARIABLE: context.error_files[rank]}
    try:
        opened = {**descriptors, **output.open(rank), **context.open(rank)}
        return await guardian.spawn(
            context.command_line(rank), env, opened, _current_folder(), cpus
        )
    except OSError as error:
        if (why := explain_shortage(error)) is None:
            raise
        what = f"worker {rank} of {context.nprocs} could not be started: {why}"
        raise OSError(error.errno, what) from error
    finally:
        output.hand_over(rank)
        context.hand_over(rank)


def _current_folder() -> str:
    """Return the folder to start workers in; "" for our own if it was deleted."""
    try:
        return os.getcwd()
    except FileNotFoundError:
        return ""
