"""The caller's side: naming, encoding and sending calls; their ends are in `settling`.

The hot path is `Caller.call`: name the function, encode, make the future, push the deadline, and
append the frame to the link's batch. There is no coroutine, task, timer or closure per call.
"""

from __future__ import annotations

import dataclasses
from asyncio import _get_running_loop as running_loop
from collections.abc import Mapping, Sequence
from threading import get_ident
from types import FrameType
from typing import TYPE_CHECKING, Any

from asyncrpc.agent.ambient import Ambient, ambient, carried
from asyncrpc.agent.arguments import as_dict, as_tuple
from asyncrpc.agent.bounds import check_bounds
from asyncrpc.agent.function_ids import PLAIN_TYPES, FunctionIds
from asyncrpc.agent.members import DESTINATIONS
from asyncrpc.agent.nesting import LEAST, capped, refuse, tie
from asyncrpc.agent.pending import RpcFuture
from asyncrpc.agent.references import entrust
from asyncrpc.agent.request import Request
from asyncrpc.agent.retrying import RetriedFuture
from asyncrpc.agent.settling import Settling
from asyncrpc.errors import NotInitializedError, RpcError
from asyncrpc.execution import ServedCall, current_call
from asyncrpc.options import UNSET, check_timeout
from asyncrpc.retry import RetryPolicy
from asyncrpc.wire import CHUNK_SIZE, DEDUP, HEADER, Enclosure, HeaderMap, MessageType

if TYPE_CHECKING:
    from asyncrpc.agent.agent import Agent
    from asyncrpc.agent.peers import Peer

__all__ = ("NOT_INITIALIZED", "Caller")

_PYTHON_CALL = int(MessageType.PYTHON_CALL)
_SCRIPT_CALL = int(MessageType.SCRIPT_CALL)
_NOTIFY = int(MessageType.NOTIFY)
_MAX_DEPTH = 255  # one byte of the header
pack_header = HEADER.pack
# bound once: a method of what is imported is looked up slowly
get_served = current_call.get
get_around = ambient.get

NOT_INITIALIZED = "RPC has not been initialized. Call asyncrpc.init_rpc first."


class Caller(Settling):
    """Sends one agent's calls and settles them.

    Args:
        agent: whose calls.
    """

    def __init__(self, agent: Agent) -> None:
        super().__init__(agent)
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
        is_on_loop = running_loop() is self._loop
        peer = self._routes.get(to) if is_on_loop and to.__class__ in DESTINATIONS else None
        if peer is None:
            peer = self.destination(to)
        if args.__class__ is not tuple:
            args = as_tuple(args)
        named: Mapping[str, object] | None = as_dict(kwargs) if kwargs else None
        kind, encode_call = _PYTHON_CALL, self._encode_call
        function = self._plain.get(func) if func.__class__ in PLAIN_TYPES else None
        if function is None:
            function, args, named = self.functions.identify(func, args, named)
            if function in self._scripts:
                kind, encode_call = _SCRIPT_CALL, self._encode_script
        seconds = self.timeout if timeout is UNSET else check_timeout("timeout", timeout)
        body, buffers = encode_call(args, named, peer)
        read_clock = self._now  # a local first, as below: calling an attribute is slower
        now = read_clock()
        deadline = now + seconds if seconds else 0.0
        depth = 0
        served = get_served()
        if served is not None:
            depth = min(served.depth, _MAX_DEPTH)
            deadline = capped(deadline, served, now)

        future: RpcFuture[Any]
        if is_on_loop and not again:
            future = RpcFuture()  # finds the loop itself at half the price
        else:
            future = (RetriedFuture if again else RpcFuture)(loop=self._loop)
        new_id = self.new_id
        future.call_id = call_id = new_id()
        future.owner = peer
        future.function = self._names[function]
        future.timeout = seconds
        future.deadline = deadline
        future.site = (site.f_code, site.f_lasti)
        future.is_user = True
        future.is_timed = False
        connection = peer.connection
        around = get_around()
        meta = b""
        if around is not None or (served is not None and served.headers is not None):
            meta = self.carried(peer, around, served)
        if served is not None and (served.is_cancelled or 0 < served.deadline <= now):
            refuse(future, served)
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
            write = connection.write
            write(pack_header(len(body), kind, 0, depth, call_id, function, 0, remaining) + body)
        if 0.0 < deadline < self.deadlines.armed:
            self.deadlines.arm(deadline)
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
        policy = again if isinstance(again, RetryPolicy) else None
        if isinstance(future, RetriedFuture):
            self._agent.retrier.begin(future, request, policy)
            if request.enclosed and policy is not None:
                self._agent.retrier.entrust(future, request.enclosed)
        if request.enclosed and policy is None:
            entrust(self._agent.references, request.enclosed, peer, future)
        self.pending[future.call_id] = future
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
        check_bounds(self._agent, peer, request, self._names[request.function])
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
        future: RpcFuture[Any] | None = None,
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
            future: takes the answer; ``None`` to have one made.
        """
        codec = self._agent.codec
        body, buffers = (
            (codec.pack(payload), []) if is_plain else codec.encode(payload, kind.name, peer)
        )
        deadline = self._now() + timeout if timeout else 0.0
        if future is None:
            cls = RetriedFuture if policy or is_lasting else RpcFuture
            future = cls(loop=self._loop)
        future.call_id = self.other_id()
        future.owner = peer
        future.function = kind.name
        future.timeout = timeout
        future.deadline = deadline
        future.site = None
        future.is_sent = future.counts = future.is_user = future.is_timed = False
        request = Request(int(kind), future.call_id, body, buffers, deadline=deadline)
        check_bounds(self._agent, peer, request, self._names[request.function])
        if request.enclosed:
            entrust(self._agent.references, request.enclosed, peer, future)
        self.pending[future.call_id] = future
        if isinstance(future, RetriedFuture) and (policy or is_lasting):
            self._agent.retrier.begin(future, request, policy)
        peer.submit(request, future, counts=False)
        if 0 < deadline < self.deadlines.armed:
            self.deadlines.arm(deadline)
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
            left = max(future.deadline - self._now(), LEAST)
            if future.deadline < self.deadlines.armed:
                self.deadlines.arm(future.deadline)
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
        peer = self._routes.get(to) if to.__class__ in DESTINATIONS else None
        if peer is None or get_ident() != self._thread:
            peer = self.destination(to)
        if args.__class__ is not tuple:
            args = as_tuple(args)
        kwargs = as_dict(kwargs) if kwargs else None
        function = self._plain.get(func) if func.__class__ in PLAIN_TYPES else None
        if function is None:
            function, args, kwargs = self.functions.identify(func, args, kwargs)
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
            refuse(future, served)
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
        if 0 < future.deadline < self.deadlines.armed:
            self.deadlines.arm(future.deadline)

    def name_of(self, function: int) -> str:
        """Return the name that peers are told for one of this agent's function ids."""
        return self.functions.wire_name(function)

    def report_name(
        self, func: object, args: Sequence[object] | None, kwargs: Mapping[str, object] | None
    ) -> str:
        """Return the name by which reports know a function, if it can be called like this."""
        return self._names[self.functions.identify(func, as_tuple(args), kwargs)[0]]

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
            check_bounds(self._agent, peer, request, self._names[request.function])
        except RpcError as error:
            future.fail(error)
            return False
        return True
