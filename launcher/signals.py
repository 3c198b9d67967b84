"""The signals that tell the launcher to stop, delivered through the event loop.

Handlers only hand the number over: nothing is raised in the middle of anything. Called by the api,
around a run.
"""

from __future__ import annotations

import asyncio
import signal
import threading
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager

__all__ = ("handle_signals",)


@contextmanager
def handle_signals(
    numbers: Iterable[signal.Signals], receive: Callable[[int], None]
) -> Iterator[bool]:
    """Hand signals to `receive`, on the running loop, for as long as the context lasts.

    Afterwards they are handled as before. A SIGHUP that was ignored from the start stays ignored:
    that is what `nohup` asks for.

    Args:
        numbers: the signals; those that cannot be caught must not be among them.
        receive: called on the loop with the signal's number; must not block or raise.

    Yields:
        Whether signals will come: only the main thread's loop can have them.
    """
    if threading.current_thread() is not threading.main_thread():
        yield False
        return
    loop = asyncio.get_running_loop()
    before = {number: signal.getsignal(number) for number in numbers if not _is_nohup(number)}
    for number in before:
        loop.add_signal_handler(number, receive, int(number))
    try:
        yield True
    finally:
        for number, handler in before.items():
            loop.remove_signal_handler(number)
            if handler is not None:  # it was Python's to begin with
                signal.signal(number, handler)


def _is_nohup(number: signal.Signals) -> bool:
    return number is signal.SIGHUP and signal.getsignal(number) is signal.SIG_IGN
