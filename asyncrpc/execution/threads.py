"""The threads in which a worker runs plain ``def`` functions.

Nothing else runs in them: no timer, no I/O, no ``async def``, so functions that block all of them
delay only each other. Used by the executor, one pool per agent, from the agent's loop. Threads are
daemons: one that never returns cannot keep the process alive.

Theory of operation: each thread has a mailbox for one item, which is put there directly while the
thread waits; items wait in the backlog only while every thread is busy. A thread says that it is
free before it hands over its outcome, so the loop never sees an outcome of a thread that looks
busy. What ends between two turns of the loop is delivered by one wake-up of the loop.
"""

from __future__ import annotations

import asyncio
import contextlib
import itertools
import threading
import time
from collections import deque
from collections.abc import Callable, Mapping
from contextvars import Context
from typing import NamedTuple

__all__ = ("OnDone", "Running", "ThreadPool")

OnDone = Callable[[object, BaseException | None], None]
"""Takes result and error of a function, on the loop; one of the two is ``None``."""


def _never() -> bool:
    return False


class Running(NamedTuple):
    """A function that a thread is running."""

    function: str
    """Its ``module:qualname``."""
    thread: str
    """Name of the thread."""
    since: float
    """When it started, on the pool's clock, in seconds."""


class ThreadPool:
    """A bounded set of daemon threads, started as needed and reused.

    Args:
        max_workers: most threads at a time, at least 1.
        name: start of the threads' names, for debuggers and reports.
        now: clock for `Running.since`, in seconds.

    Raises:
        ValueError: ``max_workers`` is less than 1.
    """

    def __init__(
        self,
        max_workers: int,
        name: str = "asyncrpc",
        *,
        now: Callable[[], float] = time.monotonic,
    ) -> None:
        if max_workers < 1:
            raise ValueError(f"max_workers must be at least 1, but got {max_workers}")
        self.max_workers = max_workers
        self._name = name
        self._now = now
        self._numbers = itertools.count()
        self._deliveries: _Deliveries | None = None  # of the loop that submitted last
        # Guards all of the following; held for a few instructions only.
        self._lock = threading.Lock()
        self._workers: set[_Worker] = set()
        self._idle: list[_Worker] = []  # the last to become idle is the next to run: its caches
        self._backlog: deque[_Item] = deque()  # not empty only while no thread is idle
        self._ended: list[_Worker] = []  # their threads are about to be gone
        self._watchers: list[Callable[[], None]] = []  # called in threads that end
        self._is_closed = False

    @property
    def size(self) -> int:
        """How many threads there are."""
        return len(self._workers)

    @property
    def idle(self) -> int:
        """How many of them have nothing to do."""
        return len(self._idle)

    @property
    def queued(self) -> int:
        """How many functions wait for a thread."""
        return len(self._backlog)

    @property
    def running(self) -> list[Running]:
        """What the threads are running, the oldest first."""
        with self._lock:
            found = [worker.running() for worker in self._workers]
        return sorted((entry for entry in found if entry), key=lambda entry: entry.since)

    def submit(
        self,
        loop: asyncio.AbstractEventLoop,
        context: Context,
        function: Callable[..., object],
        args: tuple[object, ...],
        kwargs: Mapping[str, object],
        on_done: OnDone,
        is_dropped: Callable[[], bool] = _never,
    ) -> None:
        """Run ``function`` in a thread, at once or when one is free; never blocks.

        Args:
            loop: the running loop, on which ``on_done`` is called.
            context: what the function runs in; it must not be entered elsewhere meanwhile.
            function: whatever it raises, `SystemExit` and `KeyboardInterrupt` included, goes to
                ``on_done``, and the thread lives on.
            args: its positional arguments.
            kwargs: its keyword arguments.
            on_done: takes the result and ``None``, or ``None`` and the error. Not called once
                ``loop`` is closed.
            is_dropped: asked in the thread that is about to begin; ``True`` ends the item with a
                `CancelledError` instead.

        Raises:
            RuntimeError: the pool is closed, or the process cannot start its first thread.
        """
        deliveries = self._deliveries
        if deliveries is None or deliveries.loop is not loop:
            deliveries = self._deliveries = _Deliveries(loop)
        item = _Item(deliveries, context, function, args, kwargs, on_done, is_dropped)
        with self._lock:
            if self._is_closed:
                raise self._closed_error()
            if self._idle:
                self._idle.pop().give(item)
                return
            if len(self._workers) >= self.max_workers:
                self._backlog.append(item)
                return
            worker = _Worker(self, f"{self._name}-{next(self._numbers)}", self._now)
            self._workers.add(worker)
        self._start(worker, item)

    async def close(self, timeout: float | None) -> list[Running]:
        """End the threads, waiting for the functions that run; may be called again.

        Functions that no thread has begun are dropped: their ``on_done`` gets a `RuntimeError`.

        Args:
            timeout: seconds to wait at most; ``None`` waits for ever.

        Returns:
            What still runs then. Its threads are left alone and end with their function.
        """
        with self._lock:
            self._is_closed = True
            dropped = list(self._backlog)
            self._backlog.clear()
            idle = list(self._idle)
            self._idle.clear()
        for item in dropped:
            item.deliveries.add(item.on_done, None, self._closed_error())
        for worker in idle:
            worker.give(None)
        for worker in idle:
            worker.join()  # it has nothing to do but to end
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(timeout):
                await self._wait_for_workers()
        for worker in self._ended:
            worker.join()
        self._ended.clear()
        if self._deliveries is not None:
            self._deliveries.flush()
        return self.running

    async def _wait_for_workers(self) -> None:
        loop = asyncio.get_running_loop()
        changed = asyncio.Event()

        def wake() -> None:
            with contextlib.suppress(RuntimeError):  # the loop was closed meanwhile
                loop.call_soon_threadsafe(changed.set)

        self._watchers.append(wake)
        try:
            while self._workers:
                changed.clear()
                await changed.wait()
        finally:
            self._watchers.remove(wake)

    def _start(self, worker: _Worker, item: _Item) -> None:
        worker.give(item)
        try:
            worker.start()
        except RuntimeError:  # the process or the machine has no room for another thread
            with self._lock:
                self._workers.discard(worker)
                if not self._workers:
                    raise
                if self._idle:
                    self._idle.pop().give(item)
                else:
                    self._backlog.append(item)

    def _closed_error(self) -> RuntimeError:
        return RuntimeError(f"thread pool {self._name!r} is closed")

    def take_next(self, worker: _Worker) -> bool:
        """Give ``worker`` an item that waits, or count it as idle; called in its thread.

        Returns:
            Whether the thread goes on; ``False`` once the pool is closed.
        """
        with self._lock:
            if self._is_closed:
                return False
            if self._backlog:
                worker.give(self._backlog.popleft())
            else:
                self._idle.append(worker)
        return True

    def leave(self, worker: _Worker) -> None:
        """Forget ``worker``; the last thing that its thread does."""
        with self._lock:
            self._workers.discard(worker)
            self._ended.append(worker)
            watchers = list(self._watchers)
        for watcher in watchers:
            watcher()


class _Item(NamedTuple):
    """A function to run, and where its outcome goes."""

    deliveries: _Deliveries
    context: Context
    function: Callable[..., object]
    args: tuple[object, ...]
    kwargs: Mapping[str, object]
    on_done: OnDone
    is_dropped: Callable[[], bool]


class _Worker:
    """One thread and its mailbox."""

    __slots__ = ("_current", "_has_mail", "_item", "_now", "_pool", "_thread")

    def __init__(self, pool: ThreadPool, name: str, now: Callable[[], float]) -> None:
        self._pool = pool
        self._now = now
        self._thread = threading.Thread(target=self._run, name=name, daemon=True)
        self._item: _Item | None = None  # the mailbox; None in it ends the thread
        self._has_mail = threading.Lock()  # free once for each item given
        self._has_mail.acquire()
        self._current: tuple[Callable[..., object], float] | None = None

    def start(self) -> None:
        self._thread.start()

    def join(self) -> None:
        self._thread.join()

    def give(self, item: _Item | None) -> None:
        """Put ``item`` into the empty mailbox."""
        self._item = item
        self._has_mail.release()

    def running(self) -> Running | None:
        current = self._current
        if current is None:
            return None
        function, since = current
        return Running(_name_of(function), self._thread.name, since)

    def _run(self) -> None:
        goes_on = True
        while goes_on:
            self._has_mail.acquire()
            item, self._item = self._item, None
            if item is None:
                break
            goes_on = self._serve(item)
            del item  # a waiting thread must not keep arguments alive
        self._pool.leave(self)

    def _serve(self, item: _Item) -> bool:
        result: object = None
        error: BaseException | None = None
        self._current = (item.function, self._now())
        try:
            if item.is_dropped():
                raise asyncio.CancelledError
            result = item.context.run(item.function, *item.args, **item.kwargs)
        except BaseException as raised:  # noqa: BLE001 -- user code; its caller gets it
            error = raised
        self._current = None
        goes_on = self._pool.take_next(self)
        try:
            item.deliveries.add(item.on_done, result, error)
        finally:
            del error  # it refers to this frame
        return goes_on


class _Deliveries:
    """Outcomes on their way from threads to one loop."""

    __slots__ = ("_done", "_is_scheduled", "loop")

    def __init__(self, loop: asyncio.AbstractEventLoop) -> None:
        self.loop = loop
        self._done: deque[tuple[OnDone, object, BaseException | None]] = deque()
        # Set before a flush is scheduled, reset by it before it looks: whoever appends and then
        # finds it set knows that the flush is still to look.
        self._is_scheduled = False

    def add(self, on_done: OnDone, result: object, error: BaseException | None) -> None:
        """Deliver an outcome on the loop; from any thread."""
        self._done.append((on_done, result, error))
        if not self._is_scheduled:
            self._is_scheduled = True
            try:
                self.loop.call_soon_threadsafe(self.flush)
            except RuntimeError:  # the loop is closed, and with it all that waited for this
                self._done.clear()

    def flush(self) -> None:
        """Deliver what has arrived; on the loop."""
        self._is_scheduled = False
        try:
            for _ in range(len(self._done)):
                self._deliver(*self._done.popleft())
        finally:
            if self._done and not self._is_scheduled:  # an interrupt left some behind
                self._is_scheduled = True
                self.loop.call_soon(self.flush)

    def _deliver(self, on_done: OnDone, result: object, error: BaseException | None) -> None:
        try:
            on_done(result, error)
        except Exception as problem:  # noqa: BLE001 -- one callback must not stop the others
            self.loop.call_exception_handler(
                {
                    "message": f"delivering the outcome of a thread to {on_done!r} failed",
                    "exception": problem,
                }
            )


def _name_of(function: Callable[..., object]) -> str:
    owner = function if hasattr(function, "__qualname__") else type(function)
    return f"{owner.__module__}:{getattr(owner, '__qualname__', owner)}"
