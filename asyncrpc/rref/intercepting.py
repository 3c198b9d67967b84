"""The holder's side with interceptors: they surround `remote` and the methods of proxies."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Mapping, Sequence
from types import FrameType
from typing import TYPE_CHECKING, Any

from asyncrpc.agent import Interception, Peer, RpcFuture, is_inside_interceptor
from asyncrpc.interception import OutgoingCall

from .futures import FAILED
from .holding import Encoded, Holder
from .values import Fork

if TYPE_CHECKING:
    from .context import RRefContext
    from .reference import RRef

__all__ = ("InterceptedHolder",)


class InterceptedHolder(Holder):
    """A holder whose calls go through the agent's interceptors.

    A reference is there at once, whatever they do before its value is asked for.

    Args:
        context: of the agent.
        interception: of the agent.
    """

    def __init__(self, context: RRefContext, interception: Interception) -> None:
        super().__init__(context)
        self._interception = interception

    def create(
        self,
        to: object,
        func: object,
        args: Sequence[object] | None,
        kwargs: Mapping[str, object] | None,
        timeout: object,
        site: FrameType,
    ) -> tuple[Fork, bool]:
        """See `Holder.create`; the destination stays, whatever interceptors set."""
        if is_inside_interceptor():
            return super().create(to, func, args, kwargs, timeout, site)
        caller = self._agent.caller
        call, deadline = self._interception.call("remote", to, func, args, kwargs, timeout)
        peer = caller.destination(to)
        function, *_ = caller.functions.identify(func, call.args, call.kwargs)
        is_script = function in caller.functions.scripts

        def encode(changed: OutgoingCall) -> tuple[int, Encoded]:
            _, function, body, buffers = caller.prepare(to, func, changed.args, changed.kwargs)
            return function, (body, buffers)

        handle = self._create_later(call, deadline, peer, encode, lambda: None, site)
        return handle, is_script

    def create_by_method(
        self,
        rref: RRef,
        name: str,
        args: tuple[object, ...],
        kwargs: Mapping[str, object],
        timeout: object,
        site: FrameType,
    ) -> Fork:
        """See `Holder.create_by_method`."""
        if is_inside_interceptor():
            return super().create_by_method(rref, name, args, kwargs, timeout, site)
        peer = self._use(rref)
        call, deadline = self._interception.method_call("remote", peer, name, args, kwargs, timeout)

        def encode(changed: OutgoingCall) -> tuple[int, Encoded]:
            function = self._agent.caller.functions.method(name)
            return function, self._agent.codec.encode_call(changed.args, changed.kwargs, peer)

        def of() -> RRef:
            self._use(rref)
            return rref  # so it lives until then

        return self._create_later(call, deadline, peer, encode, of, site)

    def _create_later(
        self,
        call: OutgoingCall,
        deadline: float,
        peer: Peer,
        encode: Callable[[OutgoingCall], tuple[int, Encoded]],
        of: Callable[[], RRef | None],
        site: FrameType,
    ) -> Fork:
        """Return the handle of a value that interceptors let be asked for."""
        handle = self._context.begin(peer)
        made: list[RpcFuture[Any]] = []

        def start(changed: OutgoingCall, limit: float) -> RpcFuture[Any]:
            if made:
                raise RuntimeError("an interceptor can proceed with a remote call once only")
            function, encoded = encode(changed)
            future = self.send_creation(handle, peer, function, encoded, limit, of(), site)
            made.append(future)
            return future

        def over(outcome: asyncio.Future[Any]) -> None:
            error = None if outcome.cancelled() else outcome.exception()
            if error is not None or outcome.cancelled():
                text = f"{FAILED}: {error or 'it was cancelled'}"
                self._machine.creation_failed(handle.fork, text, is_unsent=not made)
                self._context.perform()

        self._interception.begin(call, deadline, site, start).add_done_callback(over)
        return handle

    def call_method(
        self,
        rref: RRef,
        name: str,
        args: tuple[object, ...],
        kwargs: Mapping[str, object],
        timeout: object,
        site: FrameType,
    ) -> RpcFuture[Any]:
        """See `Holder.call_method`."""
        if is_inside_interceptor():
            return super().call_method(rref, name, args, kwargs, timeout, site)
        peer = self._use(rref)
        call, deadline = self._interception.method_call("call", peer, name, args, kwargs, timeout)

        def start(changed: OutgoingCall, limit: float) -> RpcFuture[Any]:
            args, kwargs = changed.args, changed.kwargs
            return Holder.call_method(self, rref, name, args, kwargs, limit, site)

        future = self._interception.begin(call, deadline, site, start)
        self._agent.joint.surround(future)
        return future
