"""The module-level calls: each acts on `current_agent`."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any

from asyncrpc.agent import CallContext, ContextScope, RpcFuture, RpcStream, WaitAll
from asyncrpc.api.process import current_agent, not_initialized, this_process
from asyncrpc.execution import current_call
from asyncrpc.identity import WorkerInfo
from asyncrpc.options import UNSET, Unset, check_timeout
from asyncrpc.retry import RetryPolicy, check_again
from asyncrpc.rref import RRef

__all__ = (
    "all_gather",
    "barrier",
    "context",
    "current_context",
    "remote",
    "rpc_async",
    "rpc_notify",
    "rpc_stream",
    "rpc_sync",
    "wait_all",
)


get_served = current_call.get  # bound once: an imported variable's method is looked up slowly


def rpc_async(
    to: str | int | WorkerInfo,
    func: Callable[..., Any] | str,
    args: Sequence[object] | None = None,
    kwargs: Mapping[str, object] | None = None,
    timeout: float | None | Unset = UNSET,
    *,
    retry: RetryPolicy | None = None,
    idempotent: bool = False,
) -> RpcFuture[Any]:
    """Call a function on another worker; it starts at once, await the result when needed.

    Args:
        to: name, id or `WorkerInfo` of the destination.
        func: a module-level function, class, bound method (the instance travels by value), class or
            static method, builtin, `functools.partial`, or a name ``module:qualname``. ``async
            def`` runs on the callee's loop, ``def`` in its threads.
        args: positional arguments.
        kwargs: keyword arguments.
        timeout: seconds from now to the reply, above 0; 0 or ``None`` for no limit; left out: the
            default, `get_rpc_timeout`. Never longer than the deadline of the call being served.
        retry: when to send the call again after a failure; the callee recognises it and runs the
            function once. It keeps the reply until that has arrived, of each caller at most 4096
            replies and 64 MiB, each for 300 s; an attempt that comes later fails, UNKNOWN. The
            arguments must stay unchanged until the call is done. ``None`` takes ``options.retry``.
        idempotent: the function may run twice: if the link breaks, the call is sent again at once.

    Returns:
        A future of the result; cancelling it, or the task that awaits it, cancels the callee.

    Raises:
        NotInitializedError: no agent runs.
        ValueError: ``to`` is no destination, ``timeout`` is negative, nan or no number, ``retry``
            is no policy, or ``idempotent`` no bool.
        UnknownWorkerError: the group has no such worker, or it left.
        PeerLostError: the worker was lost.
        EncodingError: the function or an argument cannot travel; names the argument.

        All of these are NOT_SENT. Other errors come through the future: what the function raised
        (EXECUTED), `RpcTimeoutError`, `PeerLostError`, `RetriesExhaustedError` and others that say
        whether it may have run; `MessageTooLargeError` if the arguments exceed
        ``limits.max_message_size``, and `ResourceExhaustedError` if too many calls wait, or are out
        with ``on_full="error"``.
    """
    served = get_served()
    agent: Any = this_process.agent if served is None else served.replier.agent
    if agent is None:
        raise not_initialized()
    site = sys._getframe(1)
    is_plain = retry is None and idempotent is False
    again = False if is_plain else check_again(retry, idempotent)
    call = agent.call  # a local first: calling an attribute is slower
    return call(to, func, args, kwargs, timeout, again, site)  # type: ignore[no-any-return]  # an RpcAgent


def rpc_sync(
    to: str | int | WorkerInfo,
    func: Callable[..., Any] | str,
    args: Sequence[object] | None = None,
    kwargs: Mapping[str, object] | None = None,
    timeout: float | None | Unset = UNSET,
    *,
    retry: RetryPolicy | None = None,
    idempotent: bool = False,
) -> Any:
    """Call a function on another worker and block this thread until it answers.

    Args and errors are those of `rpc_async`; the result or error is that of the call.

    Raises:
        RuntimeError: called on the loop's own thread, which it would block for ever.
    """
    return current_agent().rpc_sync(
        to, func, args, kwargs, timeout, retry=retry, idempotent=idempotent
    )


def rpc_notify(
    to: str | int | WorkerInfo,
    func: Callable[..., Any] | str,
    args: Sequence[object] | None = None,
    kwargs: Mapping[str, object] | None = None,
) -> None:
    """Call a function on another worker without waiting: an error is logged there.

    Args and errors at the call are those of `rpc_async`.
    """
    current_agent().rpc_notify(to, func, args, kwargs)


def rpc_stream(
    to: str | int | WorkerInfo,
    func: Callable[..., Any] | str,
    args: Sequence[object] | None = None,
    kwargs: Mapping[str, object] | None = None,
    timeout: float | None | Unset = UNSET,
    *,
    window: int = 64,
) -> RpcStream[Any]:
    """Iterate over an async generator function on another worker; it starts at once.

    The producer runs as far ahead as ``window`` items that were not read. Closing the stream closes
    the generator, so that its ``finally`` runs: by `RpcStream.aclose`, by leaving ``async with``,
    by cancelling who waits for an item, or by dropping the last reference to it (so also by
    ``break`` out of an ``async for`` over an unnamed stream).

    Args:
        to: name, id or `WorkerInfo` of the destination.
        func: an async generator function, or its name.
        args: positional arguments.
        kwargs: keyword arguments.
        timeout: seconds to wait for each item, above 0; 0 or ``None`` for no limit; left out: the
            default, `get_rpc_timeout`. Never longer than the deadline of the call being served.
        window: items that may be unread, 1 to 1,048,576.

    Returns:
        An async iterator, and async context manager that closes it. Items that came before an error
        are given first; each error is raised once, then the stream is over.

    Raises:
        ValueError: ``window`` or ``timeout`` breaks its rule.

        The other errors at the call are those of `rpc_async`; those while iterating too.
    """
    agent = current_agent()
    seconds = agent.get_rpc_timeout() if timeout is UNSET else check_timeout("timeout", timeout)
    return agent.open_stream(to, func, args, kwargs, seconds, window, sys._getframe(1))


def context() -> ContextScope:
    """Return an async context manager whose calls share a `CallContext`.

    It rides on every call that is made inside, by this task and by tasks that it starts, nested
    calls included. Each worker that such a call reaches has a ``state`` dict of its own for it,
    which `current_context` gives. On exit all of them drop their state; that is told again until
    it is answered (up to 20 times), and waited for as long as the default timeout of calls.

    Returns:
        The manager; entering it gives this worker's `CallContext`.

    Raises:
        NotInitializedError: no agent runs.
    """
    return current_agent().context()


def current_context() -> CallContext | None:
    """Return the `CallContext` of what runs here, ``None`` outside of any.

    It is the innermost that was opened here, else that of the call being served.

    Raises:
        NotInitializedError: no agent runs.
    """
    return current_agent().current_context()


def remote(
    to: str | int | WorkerInfo,
    func: Callable[..., Any] | str,
    args: Sequence[object] | None = None,
    kwargs: Mapping[str, object] | None = None,
    timeout: float | None | Unset = UNSET,
) -> RRef:
    """Have a function make a value on another worker, and refer to it; returns at once.

    Args:
        to: name, id or `WorkerInfo` of the worker that is to own the value.
        func: what makes it, as for `rpc_async`; a class makes an instance.
        args: positional arguments.
        kwargs: keyword arguments.
        timeout: seconds from now to the function's end, 0 or ``None`` for no limit; left out: the
            default. A function that takes longer is stopped.

    Returns:
        The reference. Whatever goes wrong from now on, the function's own errors included, is
        raised where it is used.

    Raises:
        What `rpc_async` raises at the call.
    """
    served = current_call.get()
    agent: Any = this_process.agent if served is None else served.replier.agent
    if agent is None:
        raise not_initialized()
    rref: RRef = agent.create(to, func, args, kwargs, timeout, sys._getframe(1))
    return rref


def wait_all() -> WaitAll:
    """Return a scope that waits, on exit, for the calls that this task starts inside.

    The first failure is raised at once; an error of the body is raised in its place.
    """
    return WaitAll()


async def all_gather(
    obj: object,
    worker_names: Iterable[str] | None = None,
    timeout: float | None | Unset = UNSET,
) -> dict[str, Any]:
    """Exchange one object per worker; every worker of the set must call it.

    The n-th `all_gather` of a worker over a set meets the n-th of the others, and no other; those
    of `barrier` are counted apart. One that any worker gave up, because its time was over or it
    was cancelled, has failed for all: those who wait hear of it at once, and those who come later
    when they come. All of them meet again in the next one.

    Args:
        obj: this worker's object.
        worker_names: the set, this worker included; ``None`` for all live members.
        timeout: seconds, 0 or ``None`` for no limit; left out: the default.

    Returns:
        Every worker's object by name, the same on all of them.

    Raises:
        RpcTimeoutError: not all took part in the time that this worker, or another one, gave it;
            names who is missing, and where they are instead, as far as that is known.
        RpcError: another worker gave up for another reason (ABORTED).
        PeerLostError: a worker of the set was lost.
        UnknownWorkerError: the set names a worker that is not in the group.
    """
    return await current_agent().all_gather(obj, worker_names, timeout)


async def barrier(
    worker_names: Iterable[str] | None = None, timeout: float | None | Unset = UNSET
) -> None:
    """Wait until every worker of the set has come here; args and errors as `all_gather`."""
    await current_agent().barrier(worker_names, timeout)
