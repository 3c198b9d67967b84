"""The holder's side: values created on other workers, fetched from them, and called there."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping, Sequence
from types import FrameType
from typing import TYPE_CHECKING, Any, TypeAlias

from asyncrpc.agent import Peer, RpcFuture
from asyncrpc.errors import (
    Delivery,
    RpcError,
    RpcTimeoutError,
    UnknownWorkerError,
)
from asyncrpc.execution import current_call
from asyncrpc.options import UNSET, check_timeout
from asyncrpc.wire import HEADER, HeaderMap, MessageType

from .futures import FAILED, CreationFuture, ReferenceFuture
from .keeping import NOTHING, Failure
from .values import Fork, GlobalId

if TYPE_CHECKING:
    from .context import RRefContext
    from .reference import RRef

__all__ = ("Encoded", "Holder")

Encoded: TypeAlias = tuple[bytes, Sequence[Any]]
"""Body and buffers of encoded arguments."""

_PYTHON_CALL = int(MessageType.PYTHON_CALL)
_PYTHON_REMOTE_CALL = int(MessageType.PYTHON_REMOTE_CALL)
_SCRIPT_REMOTE_CALL = int(MessageType.SCRIPT_REMOTE_CALL)
_PYTHON_FETCH = int(MessageType.PYTHON_RREF_FETCH_CALL)
_SCRIPT_FETCH = int(MessageType.SCRIPT_RREF_FETCH_CALL)
_NO_ARGUMENTS: Encoded = (b"\xc0", ())
pack_header = HEADER.pack


class Holder:
    """What one agent asks of the owners of values.

    Args:
        context: of the agent.
    """

    def __init__(self, context: RRefContext) -> None:
        self._context = context
        self._agent = context.agent
        self._machine = context.machine
        self._me = context.agent.incarnation
        self._caller = caller = context.agent.caller
        self._loop = context.agent.loop
        self._now = context.agent.clock.time
        self._names = caller.functions.names
        self._methods: dict[str, int] = {}  # ids of the methods that were called
        self._encode_call = context.agent.codec.encode_call

    # -- creation

    def create(
        self,
        to: object,
        func: object,
        args: Sequence[object] | None,
        kwargs: Mapping[str, object] | None,
        timeout: object,
        site: FrameType,
    ) -> tuple[Fork, bool]:
        """Have a function make a value; see `asyncrpc.remote`.

        Returns:
            The handle, and whether the function is a script function.
        """
        caller = self._caller
        seconds = caller.timeout if timeout is UNSET else self._seconds(timeout)
        peer, function, body, buffers = caller.prepare(to, func, args, kwargs)
        is_script = function in caller.functions.scripts
        encoded = (body, buffers)
        return self._start_creation(peer, function, encoded, seconds, None, site), is_script

    def create_by_method(
        self,
        rref: RRef,
        name: str,
        args: tuple[object, ...],
        kwargs: Mapping[str, object],
        timeout: object,
        site: FrameType,
    ) -> Fork:
        """Have a method of a value make another one on the same worker; return its handle."""
        seconds = self._seconds(timeout)
        peer = self._use(rref)
        function = self._agent.caller.functions.method(name)
        encoded = self._agent.codec.encode_call(args, kwargs, peer)
        return self._start_creation(peer, function, encoded, seconds, rref, site)

    def _start_creation(
        self,
        peer: Peer,
        function: int,
        encoded: Encoded,
        seconds: float,
        of: RRef | None,
        site: FrameType,
    ) -> Fork:
        handle = self._context.begin(peer)
        try:
            self.send_creation(handle, peer, function, encoded, seconds, of, site)
        except RpcError:
            self._machine.creation_failed(handle.fork, FAILED, is_unsent=True)
            self._machine.release([handle.fork])
            self._context.perform()
            raise
        return handle

    def send_creation(
        self,
        handle: Fork,
        peer: Peer,
        function: int,
        encoded: Encoded,
        seconds: float,
        of: RRef | None,
        site: FrameType,
    ) -> RpcFuture[Any]:
        """Ask for a value that ``handle`` is to refer to; return what is done once it is made."""
        future = CreationFuture(loop=self._loop)
        future.context = self._context
        future.fork = handle.fork
        future.rref = of
        is_script = function in self._caller.functions.scripts
        kind = _SCRIPT_REMOTE_CALL if is_script else _PYTHON_REMOTE_CALL
        reference = handle.rref + handle.fork
        if of is not None:
            reference += of._rref + of._fork
        alone = HeaderMap.encode_reference(reference)
        self._send(future, peer, kind, function, encoded, seconds, alone, True, site)
        return future

    # -- fetches and methods

    def fetch(self, rref: RRef, timeout: object, site: FrameType) -> asyncio.Future[Any]:
        """Get a copy of a value, or here the value itself; see `RRef.to_here`."""
        seconds = self._caller.timeout if timeout is UNSET else self._seconds(timeout)
        if rref._owner == self._me:
            return self._fetch_here(rref, seconds)
        peer = self._use(rref)
        kind = _SCRIPT_FETCH if rref._is_script else _PYTHON_FETCH
        future = ReferenceFuture(loop=self._loop)
        future.rref = rref
        alone = rref._alone or _alone(rref)
        self._send(future, peer, kind, 0, _NO_ARGUMENTS, seconds, alone, True, site)
        return future

    def call_method(
        self,
        rref: RRef,
        name: str,
        args: tuple[object, ...],
        kwargs: Mapping[str, object],
        timeout: object,
        site: FrameType,
    ) -> RpcFuture[Any]:
        """Call a method of a value where it is; see `Proxy`."""
        seconds = self._caller.timeout if timeout is UNSET else self._seconds(timeout)
        peer = self._use(rref)
        function = self._methods.get(name)
        if function is None:
            function = self._methods[name] = self._caller.functions.method(name)
        encoded = self._encode_call(args, kwargs, peer)
        future = ReferenceFuture(loop=self._loop)
        future.rref = rref
        alone = rref._alone or _alone(rref)
        self._send(future, peer, _PYTHON_CALL, function, encoded, seconds, alone, False, site)
        return future

    def _send(
        self,
        future: ReferenceFuture,
        peer: Peer,
        kind: int,
        function: int,
        encoded: Encoded,
        seconds: float,
        alone: bytes,
        idempotent: bool,
        site: FrameType,
    ) -> None:
        """Send a call about a reference: in one piece like `Caller.call`, if nothing is special."""
        caller, connection = self._caller, peer.connection
        body, buffers = encoded
        size = len(alone) + len(body)
        future.was_sent = False
        future.is_idempotent = idempotent
        if (
            buffers
            or connection is None
            or connection.hook is not None
            or peer.queue
            or peer.inflight >= peer.limit
            or size >= caller.max_plain
            or (function and function not in connection.announced)
            or current_call.get() is not None
            or caller.surrounding() is not None
        ):
            self._send_slowly(future, peer, kind, function, encoded, seconds, alone, site)
            return
        future.call_id = call_id = caller.new_id()
        future.owner = peer
        future.function = self._names[function] or "to_here"
        future.timeout = seconds
        future.deadline = deadline = self._now() + seconds if seconds else 0.0
        future.site = (site.f_code, site.f_lasti)
        future.is_user = future.is_sent = future.counts = True
        future.is_timed = False
        future.parts = (kind, function, 0, alone, body, buffers)
        peer.inflight += 1
        caller.pending[call_id] = future
        if 0 < deadline < caller.deadlines.armed:
            caller.deadlines.arm(deadline)
        header = pack_header(size, kind, 0, 0, call_id, function, len(alone), seconds)
        connection.write(header + alone + body)

    def _send_slowly(
        self,
        future: ReferenceFuture,
        peer: Peer,
        kind: int,
        function: int,
        encoded: Encoded,
        seconds: float,
        alone: bytes,
        site: FrameType,
    ) -> None:
        caller = self._caller
        depth, deadline = caller.begin(future, peer, function, site)
        future.function = future.function or "to_here"
        future.timeout = seconds
        if seconds:
            own = self._agent.clock.time() + seconds
            future.deadline = min(own, deadline) if deadline else own
        meta = caller.carried_about(peer, alone)
        body, buffers = encoded
        future.parts = (kind, function, depth, meta, body, buffers)
        if buffers or not caller.write_plain(future, peer, kind, function, depth, meta, body):
            caller.submit(peer, future.message(), future)
        if kind == _PYTHON_CALL:
            caller.collect(future)

    def _fetch_here(self, rref: RRef, seconds: float) -> asyncio.Future[Any]:
        """Wait for a value that is kept here."""
        self._machine.check(rref._usable()._fork)
        future: asyncio.Future[Any] = self._agent.loop.create_future()
        waiting = _HereFuture(self._context, rref._rref, future)
        if self._context.keeper.find(rref._rref) is not NOTHING:
            waiting.run()
        else:
            waiting.start(seconds)
        return future

    # -- parts

    def _use(self, rref: RRef) -> Peer:
        """Return the owner, or raise why the reference cannot be used."""
        if rref._is_released:
            rref._usable()
        self._machine.use(rref._fork)
        peer = self._context.peer(rref._owner)
        if peer is None:
            raise UnknownWorkerError(
                f"{self._agent.info} could not find destination {rref._owner.hex()}: the owner of "
                "an RRef is not known here"
            )
        return peer

    def _seconds(self, timeout: object) -> float:
        return self._caller.timeout if timeout is UNSET else check_timeout("timeout", timeout)


class _HereFuture:
    """A wait for a value that is kept here and not made yet."""

    def __init__(self, context: RRefContext, rref: GlobalId, future: asyncio.Future[Any]) -> None:
        self._context = context
        self._rref = rref
        self._future = future

    def start(self, seconds: float) -> None:
        """Wait, that long at most."""
        context, rref = self._context, self._rref
        self._future.add_done_callback(lambda _: context.keeper.forget(self))
        if seconds:
            clock = context.agent.clock
            timer = clock.call_at(clock.time() + seconds, self._expire, seconds)
            self._future.add_done_callback(lambda _: timer.cancel())
        context.machine.fetch(rref, rref, context.machine.me, self)
        context.perform()

    def run(self) -> None:
        """Give the value itself, or its error."""
        value = self._context.keeper.find(self._rref)
        assert value is not NOTHING, "a value is kept before the machine is told"
        if self._future.done():
            return
        if isinstance(value, Failure):
            self._future.set_exception(self._context.keeper.local_error(value))
        else:
            self._future.set_result(value)

    def fail(self, error: RpcError) -> None:
        """See `agent.Waiting.fail`."""
        if not self._future.done():
            self._future.set_exception(error)

    def _expire(self, seconds: float) -> None:
        if not self._future.done():
            self._future.set_exception(
                RpcTimeoutError(
                    f"RPC ran for more than set timeout ({seconds:g} s) and will now be marked "
                    f"with an error: to_here on {self._context.agent.info.name}",
                    delivery=Delivery.UNKNOWN,
                    phase="execute",
                )
            )


def _alone(rref: RRef) -> bytes:
    """Return the header map of a call about a reference that carries nothing else."""
    if not rref._alone:
        rref._alone = HeaderMap.encode_reference(rref._rref + rref._fork)
    return rref._alone
