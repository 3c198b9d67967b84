"""The caller's side: naming, encoding and sending calls, settling and timing them out.

The hot path is `Caller.call`: name the function, encode, make the future, push the deadline, and
append the frame to the link's batch. There is no coroutine, task, timer or closure per call.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from threading import get_ident
from types import FrameType
from typing import TYPE_CHECKING, Any

from asyncrpc.agent.ambient import Ambient, ambient, carried
from asyncrpc.agent.function_ids import PLAIN_TYPES, FunctionIds
from asyncrpc.agent.members import DESTINATIONS
from asyncrpc.agent.pending import Deadlines, RpcFuture
from asyncrpc.agent.references import HeldReply, entrust
from asyncrpc.agent.request import Request
from asyncrpc.agent.retrying import RetriedFuture
from asyncrpc.errors import (
    Delivery,
    MessageTooLargeError,
    NotInitializedError,
    RemoteProtocolError,
    ResourceExhaustedError,
    RpcError,
    RpcTimeoutError,
    StatusCode,
)
from asyncrpc.execution import ServedCall, current_call, decode_failure
from asyncrpc.options import UNSET, check_timeout
from asyncrpc.retry import RetryPolicy
from asyncrpc.wire import CALLS, CHUNK_SIZE, DEDUP, HEADER, Enclosure, HeaderMap, MessageType

if TYPE_CHECKING:
    from asyncrpc.agent.agent import Agent
    from asyncrpc.agent.peers import Peer

__all__ = ("Caller", "capped", "tie")

_PYTHON_CALL = int(MessageType.PYTHON_CALL)
_SCRIPT_CALL = int(MessageType.SCRIPT_CALL)
_NOTIFY = int(MessageType.NOTIFY)
_MAX_DEPTH = 255  # one byte of the header
pack_header = HEADER.pack
_LEAST = 1e-6  # seconds; 0 would mean no deadline

NOT_INITIALIZED = "RPC has not been initialized. Call asyncrpc.init_rpc first."


class Caller:
    """Sends one agent's calls and settles them.

    Args:
        agent: whose calls.
    """

    def __init__(self, agent: Agent) -> None:
        self._agent = agent
        self._loop = agent.loop
        self._thread = get_ident()
        self._now = agent.clock.time
        self._encode_call = agent.codec.encode_call
        self._encode_script = agent.script_codec.encode_call
        self.max_plain = min(CHUNK_SIZE, agent.options.limits.max_message_size + 1)
        """Bytes of arguments from which a call takes the path that looks at their size."""
        self._routes = agent.members.routes
        self.surrounding = ambient.get
        """Gives what surrounds a call made here, ``None`` for nothing."""
        self.timeout = agent.options.rpc_timeout
        """Default timeout of calls in seconds, 0 for none."""
        self.new_id = agent.tally.new_id
        """Gives ids of calls, in their order."""
        self.other_id = agent.tally.other_id
        """Gives ids of what is no new call of a user."""
        self.pending: dict[int, RpcFuture[Any]] = {}
        """Calls that are out, by id."""
        self._deadlines = Deadlines(agent.clock, self.pending, self._expire)
        self.functions = FunctionIds()
        """Ids of the functions that were called."""
        self._names = self.functions.names
        self._plain = self.functions.plain
        self._scripts = self.functions.scripts

    def call(
        self,
        to: object,
        func: object,
        args: Sequence[object] | None,
        kwargs: Mapping[str, object] | None,
        timeout: object,
        again: bool | RetryPolicy,
        site: FrameType,
    ) -> RpcFuture[Any]:
        """Start a call; see `asyncrpc.rpc_async`.

        Written out in one piece, since each Python call less is a measurable part of a call: what
        is not needed for a plain call to a connected peer is in the methods below.

        Args:
            to: destination.
            func: what to call.
            args: positional arguments.
            kwargs: keyword arguments.
            timeout: seconds, 0 or ``None`` for none, `UNSET` for the default.
            again: when it may be sent again: false for never, true when a link breaks, or by the
                policy.
            site: the frame in which the user called, for reports.
        """
        peer = self._routes.get(to) if to.__class__ in DESTINATIONS else None
        if peer is None or get_ident() != self._thread:
            peer = self.destination(to)
        if args.__class__ is not tuple:
            args = _as_tuple(args)
        named: Mapping[str, object] | None = _as_dict(kwargs) if kwargs else None
        kind, encode_call = _PYTHON_CALL, self._encode_call
        function = self._plain.get(func) if func.__class__ in PLAIN_TYPES else None
        if function is None:
            function, args, named = self.functions.identify(func, args, named)
            if function in self._scripts:
                kind, encode_call = _SCRIPT_CALL, self._encode_script
        seconds = self.timeout if timeout is UNSET else check_timeout("timeout", timeout)
        body, buffers = encode_call(args, named, peer)
        now = self._now()
        deadline = now + seconds if seconds else 0.0
        depth = 0
        served = current_call.get()
        if served is not None:
            depth = min(served.depth, _MAX_DEPTH)
            deadline = capped(deadline, served, now)

        future: RpcFuture[Any] = (RetriedFuture if again else RpcFuture)(loop=self._loop)
        future.call_id = call_id = self.new_id()
        future.owner = peer
        future.function = self._names[function]
        future.timeout = seconds
        future.deadline = deadline
        future.site = (site.f_code, site.f_lasti)
        future.is_user = True
        future.is_timed = False
        connection = peer.connection
        around = ambient.get()
        meta = b""
        if around is not None or (served is not None and served.headers is not None):
            meta = self.carried(peer, around, served)
        if served is not None and (served.is_cancelled or 0 < served.deadline <= now):
            _refuse(future, served)
            if isinstance(buffers, Enclosure):
                self._agent.references.take_back(buffers.enclosed, peer)
        elif (
            buffers
            or again
            or meta
            or connection is None
            or peer.queue
            or (peer.inflight >= peer.limit and not depth)
            or len(body) >= self.max_plain
            or connection.hook is not None
        ):
            self._call_slowly(peer, future, kind, function, body, buffers, depth, again, meta)
        else:
            # the short path: nothing waits, nothing is kept, one frame goes to the batch
            if function not in connection.announced:
                connection.announce(function, self.name_of(function))
            future.is_sent = future.counts = True
            peer.inflight += 1
            self.pending[call_id] = future
            remaining = deadline - now if deadline else 0.0
            connection.write(
                pack_header(len(body), kind, 0, depth, call_id, function, 0, remaining) + body
            )
        if 0 < deadline < self._deadlines.armed:
            self._deadlines.arm(deadline)
        if served is not None and served.task is None:
            tie(served, future)
        if around is not None and around.scope is not None:
            around.scope.add(future)
        return future

    def _call_slowly(
        self,
        peer: Peer,
        future: RpcFuture[Any],
        kind: int,
        function: int,
        body: bytes,
        buffers: Sequence[Any],
        depth: int,
        again: bool | RetryPolicy,
        meta: bytes,
    ) -> None:
        """Send a call that is large, carries more, may be sent again, or has to wait."""
        request = Request(
            kind, future.call_id, body, buffers, function=function, depth=depth,
            deadline=future.deadline, flags=DEDUP if again else 0, meta=meta,
        )  # fmt: skip
        future.is_sent = future.counts = False
        if not self._passes(peer, request, future):
            return
        if request.enclosed:
            entrust(self._agent.references, request.enclosed, peer, future)
        self.pending[future.call_id] = future
        if isinstance(future, RetriedFuture):
            policy = again if isinstance(again, RetryPolicy) else None
            self._agent.retrier.begin(future, request, policy)
        peer.submit(request, future, counts=True)

    def notify(
        self,
        to: object,
        func: object,
        args: Sequence[object] | None,
        kwargs: Mapping[str, object] | None,
    ) -> None:
        """Send a one-way call; see `asyncrpc.rpc_notify`."""
        peer, function, body, buffers = self.prepare(to, func, args, kwargs)
        served = current_call.get()
        depth = min(served.depth, _MAX_DEPTH) if served is not None else 0
        meta = self.carried(peer, ambient.get(), served)
        request = Request(
            _NOTIFY, self.new_id(), body, buffers, function=function, depth=depth, meta=meta
        )
        self._check(peer, request)
        peer.is_fenced = False
        if request.enclosed:
            self._agent.references.notified(request.call_id, request.enclosed, peer)
        peer.submit(request, None, counts=False)

    def request(
        self,
        peer: Peer,
        kind: MessageType,
        payload: object,
        timeout: float = 0.0,
        *,
        policy: RetryPolicy | None = None,
        is_lasting: bool = False,
        is_plain: bool = False,
    ) -> RpcFuture[Any]:
        """Send a control message; the future is its reply's payload.

        Args:
            peer: destination.
            kind: type of the message, for which the peer has a handler.
            payload: anything the codec takes.
            timeout: seconds, 0 for none.
            policy: when to send it again, without budget; the handler may then run more than once.
            is_lasting: send it again over the next link until it is answered; its handler may
                see it twice.
            is_plain: the payload is what `Codec.pack` takes.
        """
        codec = self._agent.codec
        body, buffers = (codec.pack(payload), []) if is_plain else codec.encode(payload, kind.name)
        deadline = self._now() + timeout if timeout else 0.0
        future: RpcFuture[Any] = (RetriedFuture if policy or is_lasting else RpcFuture)(
            loop=self._loop
        )
        future.call_id = self.other_id()
        future.owner = peer
        future.function = kind.name
        future.timeout = timeout
        future.deadline = deadline
        future.site = None
        future.is_sent = future.counts = future.is_user = future.is_timed = False
        request = Request(int(kind), future.call_id, body, buffers, deadline=deadline)
        self._check(peer, request)
        self.pending[future.call_id] = future
        if isinstance(future, RetriedFuture):
            self._agent.retrier.begin(future, request, policy)
        peer.submit(request, future, counts=False)
        if 0 < deadline < self._deadlines.armed:
            self._deadlines.arm(deadline)
        return future

    def carried(
        self,
        peer: Peer,
        around: Ambient | None,
        served: ServedCall | None,
        window: int = 0,
        reference: bytes = b"",
    ) -> bytes:
        """Return the header map of a call to ``peer``, empty for none."""
        is_alone = around is None and (served is None or served.headers is None)
        if is_alone and not (window or reference):
            return b""
        contexts = self._agent.contexts
        headers = carried(around, served, lambda context: contexts.is_reached(context, peer))
        return dataclasses.replace(headers, window=window, reference=reference).encode()

    def carried_about(self, peer: Peer, alone: bytes) -> bytes:
        """Return the header map of a call made here; ``alone`` holds nothing but a reference."""
        around, served = ambient.get(), current_call.get()
        if around is None and (served is None or served.headers is None):
            return alone
        reference = HeaderMap.find_reference(memoryview(alone))
        return self.carried(peer, around, served, reference=reference)

    def write_plain(
        self, future: RpcFuture[Any], peer: Peer, kind: int, function: int, depth: int,
        meta: bytes, body: bytes,
    ) -> bool:  # fmt: skip
        """Send a call that was begun, if it is small and nothing waits: see `call`.

        Returns:
            Whether it was sent.
        """
        connection = peer.connection
        if (
            connection is None
            or peer.queue
            or connection.hook is not None
            or (peer.inflight >= peer.limit and not depth)
            or len(meta) + len(body) >= self.max_plain
            or future.done()
        ):
            return False
        if function and function not in connection.announced:
            connection.announce(function, self.name_of(function))
        future.is_sent = future.counts = True
        peer.inflight += 1
        self.pending[future.call_id] = future
        size, left = len(meta) + len(body), 0.0
        if future.deadline:
            left = max(future.deadline - self._now(), _LEAST)
            if future.deadline < self._deadlines.armed:
                self._deadlines.arm(future.deadline)
        header = pack_header(size, kind, 0, depth, future.call_id, function, len(meta), left)
        connection.write(header + meta + body)
        return True

    def collect(self, future: RpcFuture[Any]) -> None:
        """Have the scope that is open here, if any, wait for a call: see `asyncrpc.wait_all`."""
        around = ambient.get()
        if around is not None and around.scope is not None:
            around.scope.add(future)

    def prepare(
        self,
        to: object,
        func: object,
        args: Sequence[object] | None,
        kwargs: Mapping[str, object] | None,
    ) -> tuple[Peer, int, bytes, Sequence[Any]]:
        """Return the destination, the function's id, and the encoded arguments with buffers."""
        peer = self.destination(to)
        function, args, kwargs = self.functions.identify(
            func, _as_tuple(args), _as_dict(kwargs) if kwargs else None
        )
        encode = self._encode_script if function in self._scripts else self._encode_call
        body, buffers = encode(args, kwargs, peer)
        return peer, function, body, buffers

    def begin(
        self, future: RpcFuture[Any], peer: Peer, function: int, site: FrameType
    ) -> tuple[int, float]:
        """Fill in a call without a timeout of its own; fail it if the call it serves is over.

        Returns:
            Its depth, and the deadline of the call that it serves, 0 for none.
        """
        future.call_id = self.new_id()
        future.owner = peer
        future.function = self._names[function]
        future.timeout = 0.0
        future.deadline = 0.0
        future.site = (site.f_code, site.f_lasti)
        future.is_user = True
        future.is_timed = future.is_sent = future.counts = False
        served = current_call.get()
        if served is None:
            return 0, 0.0
        now = self._now()
        future.deadline = capped(0.0, served, now)
        if served.is_cancelled or 0 < served.deadline <= now:
            _refuse(future, served)
        elif served.task is None:
            tie(served, future)
        return min(served.depth, _MAX_DEPTH), future.deadline

    def submit(self, peer: Peer, request: Request, future: RpcFuture[Any]) -> None:
        """Send a call that was begun, unless it has failed already."""
        if not future.done() and not self._passes(peer, request, future):
            return
        if request.enclosed:
            entrust(self._agent.references, request.enclosed, peer, future)
        if future.done():
            return
        self.pending[future.call_id] = future
        peer.submit(request, future, counts=True)
        if 0 < future.deadline < self._deadlines.armed:
            self._deadlines.arm(future.deadline)

    def put_back(self, future: RpcFuture[Any]) -> None:
        """Have a call pending again that was taken out, or under another id."""
        future.is_timed = False  # it is the newest entry now: see Deadlines
        self.pending[future.call_id] = future
        if 0 < future.deadline < self._deadlines.armed:
            self._deadlines.arm(future.deadline)

    def name_of(self, function: int) -> str:
        """Return the name that peers are told for one of this agent's function ids."""
        return self.functions.wire_name(function)

    def report_name(
        self, func: object, args: Sequence[object] | None, kwargs: Mapping[str, object] | None
    ) -> str:
        """Return the name by which reports know a function, if it can be called like this."""
        return self._names[self.functions.identify(func, _as_tuple(args), kwargs)[0]]

    def user_calls(self) -> list[RpcFuture[Any]]:
        """Return the calls of users that are out."""
        return [future for future in self.pending.values() if future.is_user]

    def close(self, error: RpcError) -> None:
        """Fail every call that is out with a copy of ``error``; time nothing any more."""
        self._deadlines.close()
        futures = tuple(self.pending.values())
        self.pending.clear()
        for future in futures:
            if not future.done():
                future.set_exception(type(error)(str(error), delivery=_delivery(future)))

    def give_up(self, error: RpcError) -> None:
        """Fail every call that is out with a copy of ``error``, and stop it where it runs."""
        for future in tuple(self.pending.values()):
            future.owner.withdraw(future)
            if not future.done():
                future.set_exception(type(error)(str(error), delivery=_delivery(future)))

    # -- replies and deadlines

    def settle_slowly(
        self, future: RpcFuture[Any], is_error: int, body: memoryview, buffers: Sequence[memoryview]
    ) -> bool:
        """Give a failure, or a reply with buffers or references, to the call that waits for it.

        Returns:
            Whether it could be read.
        """
        references = self._agent.references
        try:
            value = self._agent.codec.decode(body, buffers)
            if is_error:
                future.set_exception(decode_failure(value, codec=self._agent.codec))
            elif references.arrived:
                HeldReply(self, future, value, references).hold()
            else:
                future.set_result(value)
        except RpcError as error:
            references.arrived.clear()
            self.undecodable(future, error)
            return False
        return True

    def undecodable(self, future: RpcFuture[Any], error: RpcError) -> None:
        """Fail a call whose reply cannot be read; raises again what ends the link."""
        error.delivery = Delivery.EXECUTED
        future.set_exception(error)
        if isinstance(error, RemoteProtocolError):
            raise error

    def _expire(self, call_id: int) -> None:
        """Fail a call whose time is over, and stop it where it runs."""
        future = self.pending[call_id]
        peer: Any = future.owner
        is_linked = peer.connection is not None
        peer.withdraw(future)  # tells by is_sent whether the request ever left
        if future.done():
            return
        phase = "execute" if _may_have_run(future) else ("send" if is_linked else "connect")
        given = f"{future.timeout:g} s" if future.timeout else "the deadline of the call it serves"
        future.set_exception(
            RpcTimeoutError(
                f"RPC ran for more than set timeout ({given}) and will now be marked with an "
                f"error: {future.function} on {peer}, in phase {phase}",
                delivery=_delivery(future),
                phase=phase,
            )
        )

    # -- parts of a call

    def destination(self, to: object) -> Peer:
        """Return the worker that ``to`` names, if it may be called now and from this thread."""
        if get_ident() != self._thread:
            raise RuntimeError(
                "this must be called on the thread of the loop that ran init_rpc; "
                "from other threads use rpc_sync"
            )
        if self._agent.is_closed:
            raise NotInitializedError(NOT_INITIALIZED)
        return self._agent.members.destination(to)

    def _passes(self, peer: Peer, request: Request, future: RpcFuture[Any]) -> bool:
        """Whether a call may be sent; its future has the reason if not."""
        try:
            self._check(peer, request)
        except RpcError as error:
            future.set_exception(error)
            return False
        return True

    def _check(self, peer: Peer, request: Request) -> None:
        """Refuse what is too large, or would wait where nothing may wait."""
        try:
            self._check_limits(peer, request)
        except RpcError:
            if request.enclosed:
                self._agent.references.take_back(request.enclosed, peer)
            raise

    def _check_limits(self, peer: Peer, request: Request) -> None:
        limits = self._agent.options.limits
        if request.size > limits.max_message_size:
            name = self._names[request.function] or MessageType(request.kind).name
            raise MessageTooLargeError(
                f"the arguments of {name} have {request.size} bytes, above max_message_size "
                f"{limits.max_message_size}"
            )
        out = peer.inflight + peer.waiting - peer.stopping  # those that somebody waits for
        is_plain = request.kind in CALLS and not request.depth
        if is_plain and limits.on_full == "error" and out >= peer.limit:
            raise ResourceExhaustedError(
                f"{out} calls to {peer} are in flight, max_inflight is {peer.limit}"
            )
        if out >= peer.limit + limits.max_queued and (is_plain or peer.waiting):
            raise ResourceExhaustedError(
                f"{peer.waiting} calls wait for {peer}, max_queued is {limits.max_queued}"
            )


def _refuse(future: RpcFuture[Any], served: ServedCall) -> None:
    """Fail a nested call that is made after the end of the one it serves, unsent."""
    future.is_sent = future.counts = False
    text = f"{future.function} on {future.owner} was not sent: the call that it serves, "
    text += f"{served.target.name}, was cancelled or is over"
    if served.deadline and not served.is_cancelled:
        future.set_exception(RpcTimeoutError(text, delivery=Delivery.NOT_SENT, phase="send"))
    else:
        future.set_exception(RpcError(text, code=StatusCode.CANCELLED))


def capped(deadline: float, served: ServedCall, now: float) -> float:
    """Return the earlier of a deadline and that of the call being served."""
    if served.deadline and (not deadline or served.deadline < deadline):
        return max(served.deadline, now + _LEAST)
    return deadline


def tie(served: ServedCall, future: RpcFuture[Any]) -> None:
    """End a nested call when the ``def`` that made it is cancelled: no task does it."""
    if served.nested is None:
        served.nested = set()
    served.nested.add(future)
    future.add_done_callback(served.nested.discard)


def _delivery(future: RpcFuture[Any]) -> Delivery:
    return Delivery.UNKNOWN if _may_have_run(future) else Delivery.NOT_SENT


def _may_have_run(future: RpcFuture[Any]) -> bool:
    return future.is_sent or future.may_have_run


def _as_tuple(args: object) -> tuple[object, ...]:
    if args is None:
        return ()
    if isinstance(args, (list, tuple)):
        return tuple(args)
    raise TypeError(f"args must be a tuple of arguments, got {type(args).__name__}")


def _as_dict(kwargs: object) -> dict[str, object]:
    if isinstance(kwargs, Mapping) and all(isinstance(name, str) for name in kwargs):
        return dict(kwargs)
    raise TypeError(f"kwargs must be a dict with str keys, got {kwargs!r:.100}")
