"""Module-level calls that any of several workers may answer: hedged ones, and any-of routing."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterable, Mapping, Sequence
from random import Random
from typing import Any

from asyncrpc.agent import RpcFuture
from asyncrpc.api.process import current_agent
from asyncrpc.identity import WorkerInfo
from asyncrpc.options import UNSET, Unset

__all__ = ("rpc_any", "rpc_hedged")


def rpc_hedged(
    workers: Iterable[str | int | WorkerInfo],
    func: Callable[..., Any] | str,
    args: Sequence[object] | None = None,
    kwargs: Mapping[str, object] | None = None,
    timeout: float | None | Unset = UNSET,
    *,
    delay: float,
) -> RpcFuture[Any]:
    """Call a function on the first worker, and on the next ones too if it does not answer soon.

    The first result wins, and the other calls are cancelled. For functions that may run on several
    workers at once. A worker that cannot be reached or is lost makes way for the next one at once;
    what the function itself raises is the outcome.

    Args:
        workers: destinations, in the order in which they are asked; each is asked once.
        func: as for `rpc_async`, and so on.
        args: likewise.
        kwargs: likewise.
        timeout: seconds for all of it.
        delay: seconds without an answer after which the next worker is asked, 0 or more.

    Returns:
        A future of the first result; cancelling it cancels all that is out. If all fail, it has the
        error of the last one, with notes on the others.

    Raises:
        ValueError: ``workers`` is empty or no list, ``delay`` is negative, nan or no number.
        UnknownWorkerError: one of the workers was never in the group.

        The other errors are those of `rpc_async`.
    """
    site = sys._getframe(1)
    return current_agent().call_hedged(workers, func, args, kwargs, timeout, delay, site)


def rpc_any(
    workers: Iterable[str | int | WorkerInfo],
    func: Callable[..., Any] | str,
    args: Sequence[object] | None = None,
    kwargs: Mapping[str, object] | None = None,
    timeout: float | None | Unset = UNSET,
    *,
    idempotent: bool = False,
    random: Random | None = None,
) -> RpcFuture[Any]:
    """Call a function on that one of several workers to which the fewest calls of ours are out.

    If the call was not sent to it, or it refused it unheard, the next one is called.

    Args:
        workers: destinations.
        func: as for `rpc_async`, and so on.
        args: likewise.
        kwargs: likewise.
        timeout: seconds for all of it.
        idempotent: the function may run twice: the next worker is called also after a failure that
            leaves open whether it ran.
        random: chooses among workers with equally few calls; ``None`` for one of its own.

    Returns:
        A future of the result. If all fail, it has the error of the last one, with notes on the
        others.

    Raises:
        ValueError: ``workers`` is empty or no list.
        UnknownWorkerError: one of the workers was never in the group.

        The other errors are those of `rpc_async`.
    """
    site = sys._getframe(1)
    return current_agent().call_any(workers, func, args, kwargs, timeout, idempotent, random, site)
