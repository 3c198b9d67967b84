"""The signals that tell the launcher to stop, delivered through the event loop.

Handlers only hand the number over: nothing is raised in the middle of anything. Called by the api,
around a run, and by process contexts that nobody else handles signals for.
"""

from __future__ import annotations

import asyncio
import signal
import threading
import time
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from types import FrameType
from typing import Any, NamedTuple

__all__ = ("handle_signals", "hold_signals", "without_echo")

_ECHO = 0.1  # seconds; more than between two signals of one order, less than between two Ctrl-C


class _Handled(NamedTuple):
    """A signal that a loop handles for us."""

    before: Any
    """What handled it until then, in the terms of `signal.signal`; ``None``: not Python."""
    receivers: list[Callable[[int], None]]


# A signal has one handler per process; runs and contexts may be several at a time.
_handled: dict[tuple[asyncio.AbstractEventLoop, signal.Signals], _Handled] = {}
# Came before anybody handled them.
_held: set[int] = set()


def hold_signals(numbers: Iterable[signal.Signals]) -> None:
    """Keep signals that come before `handle_signals`, which hands them over then.

    By default they would end this process, or be lost to it where it is the first one of a
    container. For the main thread.

    Args:
        numbers: the signals; those that cannot be caught must not be among them.
    """
    for number in numbers:
        signal.signal(number, _hold)


def _hold(number: int, _frame: FrameType | None) -> None:
    _held.add(number)


@contextmanager
def handle_signals(
    numbers: Iterable[signal.Signals], receive: Callable[[int], None]
) -> Iterator[bool]:
    """Hand signals to `receive`, on the running loop, for as long as the context lasts.

    Several contexts at a time each receive them; after the last of them they are handled as before
    the first. A SIGHUP that was ignored from the start stays ignored:
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
    taken = [number for number in numbers if not _is_nohup(number)]
    for number in taken:
        _receivers(loop, number).append(receive)
        if number in _held:
            _held.discard(number)
            loop.call_soon(receive, int(number))
    try:
        yield True
    finally:
        for number in taken:
            _withdraw(loop, number, receive)


def without_echo(
    receive: Callable[[int], None], clock: Callable[[], float] = time.monotonic
) -> Callable[[int], None]:
    """Count a signal once that one order sends twice, as to the process and then to its group.

    Args:
        receive: called unless the same signal has come less than a tenth of a second before.
        clock: returns seconds.

    Returns:
        What is to be called with each signal's number.
    """
    counted: dict[int, float] = {}

    def receive_first(number: int) -> None:
        now = clock()
        if number in counted and now - counted[number] < _ECHO:
            return
        counted[number] = now
        receive(number)

    return receive_first


def _receivers(
    loop: asyncio.AbstractEventLoop, number: signal.Signals
) -> list[Callable[[int], None]]:
    """Return who receives a signal, handled by the loop from now on."""
    handled = _handled.get((loop, number))
    if handled is None:
        handled = _handled[loop, number] = _Handled(signal.getsignal(number), [])
        loop.add_signal_handler(number, _hand_over, handled.receivers, int(number))
    return handled.receivers


def _withdraw(
    loop: asyncio.AbstractEventLoop, number: signal.Signals, receive: Callable[[int], None]
) -> None:
    handled = _handled[loop, number]
    handled.receivers.remove(receive)
    if handled.receivers:
        return
    del _handled[loop, number]
    # The loop lets go of a signal to the system's default, which would end us if one came now.
    # Blocked in this thread alone; the launcher has no other by then.
    blocked = signal.pthread_sigmask(signal.SIG_BLOCK, {number})
    try:
        loop.remove_signal_handler(number)
        if handled.before is not None:
            signal.signal(number, handled.before)
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, blocked)


def _hand_over(receivers: list[Callable[[int], None]], number: int) -> None:
    for receive in tuple(receivers):
        receive(number)


def _is_nohup(number: signal.Signals) -> bool:
    return number is signal.SIGHUP and signal.getsignal(number) is signal.SIG_IGN
