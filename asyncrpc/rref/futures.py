"""Calls about references that are out: what a failure means, and what the machine is told."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from asyncrpc.agent import Peer, Request, RpcFuture
from asyncrpc.errors import Delivery, OwnerLostError, PeerLostError, UnknownWorkerError

from .values import GlobalId

if TYPE_CHECKING:
    from .context import RRefContext
    from .reference import RRef

__all__ = ("FAILED", "CreationFuture", "ReferenceFuture")

FAILED = (
    "RRef creation via rpc.remote() timed out, and it is possible that the RRef on the owner node "
    "does not exist"
)
"""Text of every error of a creation."""
_set_result = asyncio.Future.set_result  # without the detour of super()


class ReferenceFuture(RpcFuture[Any]):
    """A call to an owner: when that is gone for good, so is the value.

    Attributes:
        parts: what is sent: type, function, depth, header map, body, buffers.
        is_idempotent: whether it is sent again when its link breaks.
        rref: whose value it is about; kept until the call is over, so that it is not deleted
            before the call comes.
        was_sent: whether it was, over a link before the present one.
    """

    __slots__ = ("is_idempotent", "parts", "rref", "was_sent")

    parts: tuple[int, int, int, bytes, bytes, Sequence[Any]]
    is_idempotent: bool
    rref: RRef | None
    was_sent: bool

    @property
    def may_have_run(self) -> bool:  # type: ignore[override]  # constant for other calls
        """Whether it may have reached the owner over a link that broke."""
        return self.was_sent

    def send_again(self) -> Request | None:
        """See `RpcFuture.send_again`."""
        self.was_sent = True
        return self.message() if self.is_idempotent else None

    def message(self) -> Request:
        """Return the request."""
        kind, function, depth, meta, body, buffers = self.parts
        return Request(
            kind, self.call_id, body, buffers, function=function, depth=depth,
            deadline=self.deadline, meta=meta,
        )  # fmt: skip

    def succeed(self, result: Any) -> None:
        """Take the reply."""
        self.rref = None
        _set_result(self, result)

    def cancel(self, msg: Any | None = None) -> bool:
        """See `RpcFuture.cancel`."""
        self.rref = None
        return super().cancel(msg)

    def fail(self, error: Any) -> None:
        """Fail, with the loss of the value if its owner is gone."""
        self.rref = None
        if self.was_sent and getattr(error, "delivery", None) is Delivery.NOT_SENT:
            error.delivery = Delivery.UNKNOWN
        if isinstance(error, (PeerLostError, UnknownWorkerError)) and _is_gone(self.owner):
            error = OwnerLostError(f"the owner was lost: {error}", delivery=error.delivery)
        super().fail(error)


class CreationFuture(ReferenceFuture):
    """The request that creates a value: what becomes of it, the machine is told at once.

    The owner knows a request by its id of the value, so it may come again over another link.
    """

    __slots__ = ("context", "fork")

    context: RRefContext
    fork: GlobalId

    def accepted(self) -> None:
        """See `RpcFuture.accepted`."""
        self.is_idempotent = False  # it has come: another link need not take it again
        self.rref = None
        self._confirm()

    def succeed(self, result: None) -> None:
        """Learn that the function has ended."""
        self.rref = None
        _set_result(self, result)
        self._confirm()

    def cancel(self, msg: Any | None = None) -> bool:
        """Fail the creation, too: nobody would learn any more what becomes of it."""
        is_cancelled = super().cancel(msg)
        if is_cancelled:
            text = f"{FAILED}: the call that made it was cancelled"
            self.context.machine.creation_failed(self.fork, text, is_unsent=not self.is_sent)
            self.context.perform()
        return is_cancelled

    def fail(self, error: Any) -> None:
        """Fail, unless the function goes on all the same."""
        if not self.is_idempotent and isinstance(error, PeerLostError) and not _is_gone(self.owner):
            self.succeed(None)  # the link broke; the function goes on, and its owner times it
            return
        super().fail(error)
        self.exception()  # seen: who uses the reference is told
        delivery = getattr(error, "delivery", Delivery.UNKNOWN)
        self.context.machine.creation_failed(
            self.fork, f"{FAILED}: {error}", is_unsent=delivery is Delivery.NOT_SENT
        )
        self.context.perform()

    def _confirm(self) -> None:
        self.context.machine.creation_confirmed(self.fork)
        self.context.perform()


def _is_gone(peer: object) -> bool:
    return isinstance(peer, Peer) and not peer.is_present
