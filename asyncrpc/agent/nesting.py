"""Calls that are made while another one is served: they end with it, and have no more time."""

from __future__ import annotations

from typing import Any

from asyncrpc.agent.pending import RpcFuture
from asyncrpc.errors import Delivery, RpcError, RpcTimeoutError, StatusCode
from asyncrpc.execution import ServedCall

__all__ = ("LEAST", "capped", "refuse", "tie")

LEAST = 1e-6
"""Seconds that a call has at least: 0 would mean no deadline."""


def refuse(future: RpcFuture[Any], served: ServedCall) -> None:
    """Fail a nested call that is made after the end of the one it serves, unsent."""
    future.is_sent = future.counts = False
    text = f"{future.function} on {future.owner} was not sent: the call that it serves, "
    text += f"{served.target.name}, was cancelled or is over"
    if served.deadline and not served.is_cancelled:
        future.fail(RpcTimeoutError(text, delivery=Delivery.NOT_SENT, phase="send"))
    else:
        future.fail(RpcError(text, code=StatusCode.CANCELLED))


def capped(deadline: float, served: ServedCall, now: float) -> float:
    """Return the earlier of a deadline and that of the call being served."""
    if served.deadline and (not deadline or served.deadline < deadline):
        return max(served.deadline, now + LEAST)
    return deadline


def tie(served: ServedCall, future: RpcFuture[Any]) -> None:
    """End a nested call when the ``def`` that made it is cancelled: no task does it."""
    if served.nested is None:
        served.nested = set()
    served.nested.add(future)
    future.add_done_callback(served.nested.discard)
