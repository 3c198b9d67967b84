"""`launcher.signals`: signals come through the loop, and the handlers go again."""

from __future__ import annotations

import asyncio
import os
import signal
import threading
from collections.abc import Iterator
from types import FrameType

import pytest

from launcher.signals import handle_signals, hold_signals, without_echo

pytestmark = pytest.mark.asyncio


@pytest.fixture(autouse=True)
def dispositions() -> Iterator[None]:
    """Put back what the test changes."""
    numbers = (signal.SIGUSR1, signal.SIGHUP)
    before = [signal.getsignal(number) for number in numbers]
    yield
    for number, handler in zip(numbers, before, strict=True):
        signal.signal(number, handler)


async def test_a_signal_is_handed_over() -> None:
    """The receiver is called on the loop, with the number."""
    received: asyncio.Queue[int] = asyncio.Queue()
    with handle_signals([signal.SIGUSR1], received.put_nowait) as is_handling:
        os.kill(os.getpid(), signal.SIGUSR1)

        assert is_handling
        assert await received.get() == signal.SIGUSR1


async def test_a_signal_that_comes_early_is_handed_over_once() -> None:
    """It waits for the first who handles it; others had nothing to do with it."""
    received: asyncio.Queue[int] = asyncio.Queue()
    hold_signals([signal.SIGUSR1])
    for _ in range(2):
        os.kill(os.getpid(), signal.SIGUSR1)
    with handle_signals([signal.SIGHUP], received.put_nowait):
        await asyncio.sleep(0)
    with handle_signals([signal.SIGUSR1], received.put_nowait):
        assert await received.get() == signal.SIGUSR1
        await asyncio.sleep(0)
    with handle_signals([signal.SIGUSR1], received.put_nowait):
        await asyncio.sleep(0)

    assert received.empty()


async def test_handlers_are_put_back() -> None:
    """Afterwards the signal means what it meant before."""

    def own(number: int, frame: FrameType | None) -> None:
        """Stand for a handler of the program's."""

    for before in (own, signal.SIG_DFL):
        signal.signal(signal.SIGUSR1, before)
        with handle_signals([signal.SIGUSR1], lambda number: None):
            pass

        assert signal.getsignal(signal.SIGUSR1) is before


async def test_a_signal_in_the_middle_of_putting_back_is_not_fatal(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """The loop lets go of it to the default, by which the process would die."""
    received: list[int] = []
    signal.signal(signal.SIGUSR1, lambda number, _: received.append(number))
    loop = asyncio.get_running_loop()
    let_go = loop.remove_signal_handler

    def remove(number: int) -> bool:
        removed = let_go(number)
        signal.raise_signal(signal.SIGUSR1)  # to this thread; others do not block it
        return removed

    monkeypatch.setattr(loop, "remove_signal_handler", remove)
    with handle_signals([signal.SIGUSR1], lambda number: None):
        pass

    assert received == [signal.SIGUSR1]


@pytest.mark.parametrize("first_to_leave", [0, 1])
async def test_several_receive_the_same_signal(first_to_leave: int) -> None:
    """Each as long as its context lasts, in whatever order they end; then all is as before."""
    before = signal.getsignal(signal.SIGUSR1)
    queues: list[asyncio.Queue[int]] = [asyncio.Queue(), asyncio.Queue()]
    contexts = [handle_signals([signal.SIGUSR1], queue.put_nowait) for queue in queues]
    for context in contexts:
        context.__enter__()
    os.kill(os.getpid(), signal.SIGUSR1)
    for queue in queues:
        await queue.get()
    contexts.pop(first_to_leave).__exit__(None, None, None)
    left, gone = queues[1 - first_to_leave], queues[first_to_leave]
    os.kill(os.getpid(), signal.SIGUSR1)
    await left.get()
    contexts[0].__exit__(None, None, None)

    assert gone.empty()
    assert signal.getsignal(signal.SIGUSR1) is before


async def test_an_ignored_sighup_stays_ignored() -> None:
    """That is what nohup asks for."""
    signal.signal(signal.SIGHUP, signal.SIG_IGN)
    received: list[int] = []
    with handle_signals([signal.SIGHUP], received.append):
        os.kill(os.getpid(), signal.SIGHUP)
        await asyncio.sleep(0)

    assert received == []
    assert signal.getsignal(signal.SIGHUP) is signal.SIG_IGN


async def test_another_thread_gets_no_signals() -> None:
    """Only the main thread's loop can; the caller is told."""
    told: list[bool] = []

    async def main() -> None:
        with handle_signals([signal.SIGUSR1], lambda number: None) as is_handling:
            told.append(is_handling)

    thread = threading.Thread(target=lambda: asyncio.run(main()))
    thread.start()
    await asyncio.to_thread(thread.join, 10)

    assert told == [False]


async def test_what_one_order_sends_twice_counts_once() -> None:
    """`timeout` signals its child and then the group; who means it a second time takes longer."""
    sent = [(0.0, 15), (0.02, 15), (0.04, 2), (0.08, 15), (0.12, 15), (0.13, 2), (0.16, 2)]
    times = iter([at for at, _ in sent])
    received: list[int] = []
    receive = without_echo(received.append, lambda: next(times))
    counted: list[tuple[float, int]] = []
    for at, number in sent:
        receive(number)
        if len(received) > len(counted):
            counted.append((at, number))

    assert counted == [(0.0, 15), (0.04, 2), (0.12, 15), (0.16, 2)]
