"""`telling_progress`: says whom a node waits for while it joins a round.

On a terminal a line that is written anew, elsewhere a line of its own for each change. Called by
the agent; waits that are short are not worth a line.
"""

from __future__ import annotations

import asyncio
import logging
import sys
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager, suppress
from typing import TextIO

from launcher.errors import RendezvousError

__all__ = ("telling_progress",)

_TERMINAL_PERIOD = 1.0  # seconds: before the first look and between looks, where people watch
_PERIOD = 5.0  # seconds, where lines are kept
_CLEAR = "\r\x1b[K"  # begin of the line, and nothing after it

_log = logging.getLogger("launcher.agent")


@asynccontextmanager
async def telling_progress(
    ask: Callable[[], Awaitable[str]],
    stream: TextIO | None = None,
    sleep: Callable[[float], Awaitable[None]] = asyncio.sleep,
) -> AsyncIterator[None]:
    """Say how far a wait has come, until it is left as a context.

    Args:
        ask: returns what is to be said; "" for nothing.
        stream: where to, if it is a terminal; ``None``: stderr.
        sleep: waits some seconds.
    """
    stream = sys.stderr if stream is None else stream
    terminal = stream if stream is not None and _is_terminal(stream) else None
    task = asyncio.create_task(_tell(ask, terminal, sleep))
    try:
        yield
    finally:
        task.cancel()
        await asyncio.wait({task})
        if not task.cancelled() and (error := task.exception()) is not None:
            _log.debug("progress cannot be told: %s", error)


async def _tell(
    ask: Callable[[], Awaitable[str]],
    terminal: TextIO | None,
    sleep: Callable[[float], Awaitable[None]],
) -> None:
    told = ""
    try:
        while True:
            await sleep(_PERIOD if terminal is None else _TERMINAL_PERIOD)
            try:
                text = await ask()
            except RendezvousError:
                continue  # the wait itself will tell
            if text == told:
                continue
            told = text
            if terminal is not None:
                _write(terminal, f"{_CLEAR}{text}")
            elif text:
                _log.warning("%s", text)
    finally:
        if told and terminal is not None:
            _write(terminal, _CLEAR)


def _is_terminal(stream: TextIO) -> bool:
    try:
        return stream.isatty()
    except ValueError:  # closed
        return False


def _write(terminal: TextIO, text: str) -> None:
    with suppress(OSError, ValueError):  # it went away
        terminal.write(text)
        terminal.flush()
