"""The agent: one worker's end of all its calls.

Puts the parts together: the caller's side, peers and their links, the executor of what comes in,
membership and the handlers of control messages. It deals in peers, calls and messages, never in
bytes. `runtime.RpcAgent` is the public face on top of it.
"""

from __future__ import annotations

import asyncio
import contextlib
import contextvars
import logging
from collections.abc import Callable, Coroutine, Sequence
from typing import Any, TypeVar

from asyncrpc.agent.accepting import Acceptor
from asyncrpc.agent.calling import Caller
from asyncrpc.agent.connection import Connection
from asyncrpc.agent.contexts import Contexts
from asyncrpc.agent.failure_detector import FailureDetector
from asyncrpc.agent.faulting import FaultInjector
from asyncrpc.agent.intercepting import Interception
from asyncrpc.agent.joint import JointCalls
from asyncrpc.agent.members import Members
from asyncrpc.agent.peers import Peer
from asyncrpc.agent.polling import Poller
from asyncrpc.agent.references import HeldMessage, References
from asyncrpc.agent.retrying import Retrier
from asyncrpc.agent.serving import Server
from asyncrpc.agent.sharing import POOL, features_of
from asyncrpc.agent.streaming import Streams
from asyncrpc.agent.tally import Tally
from asyncrpc.discovery import Record
from asyncrpc.errors import NotInitializedError, RemoteProtocolError, RpcError, StatusCode
from asyncrpc.execution import Executor, FunctionTable, Profiler, intercept_incoming
from asyncrpc.faults import FaultPlan
from asyncrpc.identity import WorkerInfo
from asyncrpc.observe import Clock
from asyncrpc.options import RpcOptions
from asyncrpc.transport import Address, Greeter, Network, Pool, Stream, memory_pair
from asyncrpc.wire import (
    CONTROL,
    REPLIES,
    Codec,
    Frame,
    Handshake,
    Hello,
    MessageType,
    Purpose,
    new_scratch,
)

__all__ = ("Agent", "ControlHandler")

_log = logging.getLogger("asyncrpc.agent")
_MOST = 2**32 - 1  # places in flight that the hello can tell
_MOST_BYTES = 2**64 - 1  # and of a message
# Seconds for what is being closed: last bytes of a link, clean-up of functions. Real ones whatever
# the clock is: a bound on the system and on user code, with nobody left to move another clock on.
_CLOSING = 1.0

T = TypeVar("T")

ControlHandler = Callable[[Peer, Any], "asyncio.Future[Any] | object"]
"""Handles one kind of control message: takes its sender and payload, returns the reply's payload
or a future of it."""


class Agent:
    """One worker among its peers.

    Args:
        info: this worker.
        incarnation: 16 bytes that name this run of it.
        host: 16 bytes, equal for workers on one machine.
        key: 32 bytes, the run's key.
        run_id: SHA-256 of the run id, 32 bytes.
        options: settings.
        network: opens links and the listener.
        clock: the time, and the timers behind all deadlines.
        codec: values to and from the wire.
        executor: runs what peers call.
        facade: what `current_agent` gives inside a served call.
        references: the remote references in its messages.
        faults: plans of what is to go wrong.
    """

    def __init__(
        self,
        *,
        info: WorkerInfo,
        incarnation: bytes,
        host: bytes,
        key: bytes,
        run_id: bytes,
        options: RpcOptions,
        network: Network,
        clock: Clock,
        codec: Codec,
        executor: Executor,
        facade: object,
        references: References,
        faults: Sequence[FaultPlan] = (),
    ) -> None:
        self.info = info
        self.incarnation = incarnation
        self.host = host
        self.options = options
        self.network = network
        self.clock = clock
        self.codec = codec
        self.script_codec = codec.without_pickle()
        """For the arguments and results of script functions."""
        self.executor = executor
        self.facade = facade
        self.references = references
        self.loop = asyncio.get_running_loop()
        self.functions = FunctionTable(options.expose, worker=info.name)
        self.tally = Tally()
        self.members = Members(self)
        self.retrier = Retrier(self)
        self.caller = Caller(self)
        self.pending = self.caller.pending
        self.joint = JointCalls(self)
        self.streams = Streams(self)
        self.detector = FailureDetector(self)
        self.scratch = new_scratch()
        """Where small frames arrive, of all links."""
        self.servers: set[Server] = set()
        """The callee's sides of all links."""
        self.handlers: dict[int, ControlHandler] = {}
        """Handlers of control messages, by type."""
        self.contexts = Contexts(self)
        self.fault_hook = FaultInjector(self, faults) if faults else None
        self.poller: Poller | None = None
        if options.busy_poll:
            self.poller = Poller(self.loop, options.busy_poll, executor.threads)
        self.is_closed = False
        self.is_leaving = False
        """Whether it takes in no new links, since it is about to leave a group that goes on."""
        self.served = 0
        """Calls taken in since the start."""
        self._key = key
        self._run_id = run_id
        self._tasks: set[asyncio.Task[Any]] = set()
        self._acceptor = Acceptor(self)
        self.pool = Pool(POOL)
        self.profiler: Profiler | None = None
        """Measures the functions that are served, while that is switched on."""
        self.chains: set[asyncio.Task[Any]] = set()
        """Tasks of interceptors around calls that are out."""
        self.interception: Interception | None = None
        if options.interceptors:
            self.interception = Interception(self, options.interceptors)
            intercept_incoming(executor, options.interceptors)
        self.idle_waiters: list[asyncio.Future[None]] = []
        references.attach(self)

    # -- life

    async def listen(self, address: Address) -> Address:
        """Accept links at ``address``; return where that really is."""
        return await self._acceptor.listen(address)

    def start(self, records: Sequence[Record]) -> None:
        """Take the group's records, one of them this worker's own, into use."""
        self.members.add(records)
        self._connect_to_self()
        self.detector.start()

    def _connect_to_self(self) -> None:
        """Give calls to oneself the same path as others, over a link in memory."""
        me = self.members.route(self.info.name)
        greeter = Greeter(self.make_handshake(is_client=True))  # stands in until attach() below
        near, far = memory_pair(greeter, greeter)
        connection = Connection(self, me, near, None)
        near.attach(connection)
        far.attach(Connection(self, Peer(self, me.record), far, None))
        me.opened(connection)

    def spawn(self, coroutine: Coroutine[Any, Any, T], name: str) -> asyncio.Task[T]:
        """Run a task of the agent's own, outside of any call's context; it ends with the agent."""
        task = self.loop.create_task(
            coroutine, name=f"asyncrpc {self.info.name}: {name}", context=contextvars.Context()
        )
        self._tasks.add(task)
        task.add_done_callback(self._task_done)
        return task

    def _task_done(self, task: asyncio.Task[Any]) -> None:
        self._tasks.discard(task)
        if not task.cancelled() and task.exception() is not None:
            _log.error("%s failed", task.get_name(), exc_info=task.exception())

    async def close(
        self, goodbye: str, reason: str, asker: asyncio.Task[object] | None = None
    ) -> None:
        """Say goodbye, close links, listener and tasks; calls that are out fail. Idempotent.

        Args:
            goodbye: ``"left"`` or ``"lost"``, which is how peers record the end.
            reason: what they give as its reason.
            asker: the task that wants it; a call that is served in it is not cancelled.
        """
        if self.is_closed:
            return
        self.is_closed = True
        self.members.routes.clear()  # so that calls hear of it
        self.members.end_monitors()
        self.detector.stop()
        if self.poller is not None:
            self.poller.stop()
        await self._acceptor.close()
        links = self.connections()
        for link in links:
            link.upkeep.goaway(goodbye, reason)
            link.stream.close()
        for server in tuple(self.servers):
            server.release(asker)
            server.close(everything=True)
        self.references.close()
        over = NotInitializedError("the RPC agent was shut down during the call")
        self.caller.close(over)
        self.joint.close(over)
        for peer in self.members.all():
            peer.drop_waiting("the RPC agent was shut down")
        tasks = tuple(self._tasks)
        for task in tasks:
            task.cancel()
        if tasks:
            await asyncio.wait(tasks)
        await self._end_calls()
        self.executor.close()
        await asyncio.gather(*[_wait_closed(link.stream) for link in links])

    async def _end_calls(self) -> None:
        """Give the functions that were cancelled a moment to clean up."""
        calls = [call for server in self.servers for call in server.calls.values()]
        tasks = [call.task for call in calls if call.task is not None and not call.task.done()]
        tasks += [task for task in self.chains if not task.done()]
        if tasks:
            await asyncio.wait(tasks, timeout=_CLOSING)

    def connections(self) -> list[Connection]:
        """Return the open links, the one to itself included."""
        return [p.connection for p in self.members.all() if p.connection is not None]

    def profile(self, enabled: bool) -> None:
        """Measure served functions, or forget what was measured and do so no more."""
        if enabled and self.profiler is None:
            self.profiler = Profiler(self.executor, self.clock.time)
            self.profiler.start()
        elif not enabled and self.profiler is not None:
            self.profiler.stop()
            self.profiler = None

    # -- partition

    def partition(self, peers: Sequence[Peer]) -> None:
        """Lose all that goes to and comes from these workers until `heal`."""
        if self.fault_hook is None:
            self.fault_hook = FaultInjector(self)
        self.fault_hook.partition(peers)

    def heal(self) -> None:
        """End all partitions."""
        hook = self.fault_hook
        if hook is not None and hook.heal():
            self.fault_hook = None
            for connection in self.connections():
                connection.hook = None

    def is_cut_off(self, name: str) -> bool:
        """Whether a worker is out of reach because of a partition."""
        return self.fault_hook is not None and self.fault_hook.is_cut_off(name)

    # -- links in

    def make_handshake(
        self,
        *,
        is_client: bool,
        flags: int = 0,
        purpose: Purpose = Purpose.RPC,
        authorize: Callable[[Hello], str | None] | None = None,
    ) -> Handshake:
        """Return the machine for one new connection."""
        hello = Hello(
            purpose=purpose,
            run_id=self._run_id,
            incarnation=self.incarnation,
            host=self.host,
            name=self.info.name,
            worker_id=self.info.id,
            flags=flags,
            features=features_of(self.options.shared_memory_threshold),
            max_inflight=min(self.options.limits.max_inflight, _MOST),
            max_message_size=min(self.options.limits.max_message_size, _MOST_BYTES),
        )
        return Handshake(key=self._key, hello=hello, is_client=is_client, authorize=authorize)

    def make_server(self, connection: Connection) -> Server:
        """Return the callee's side for a new link."""
        server = Server(self, connection)
        self.servers.add(server)
        return server

    # -- control messages

    def handle_control(self, connection: Connection, frame: Frame) -> None:
        """Give a control message to its handler; answer with what that returns."""
        handler = self.handlers.get(frame[0])
        kind, call_id = frame[0], frame[3]
        if handler is None and REPLIES.get(kind):
            text = f"{self.info.name} takes no {MessageType(kind).name} messages"
            connection.server.refuse(kind, call_id, RpcError(text, code=StatusCode.NOT_FOUND))
            return
        if handler is None:
            raise RemoteProtocolError(f"unexpected message type {kind:#x}")
        payload = self.codec.decode(frame[7], frame[8])
        if self.references.arrived:
            self.references.hold(HeldMessage(self, connection, kind, call_id, payload))
        else:
            self.take_control(connection, kind, call_id, payload)

    def take_control(
        self, connection: Connection, kind: int, call_id: int, payload: object
    ) -> None:
        """Handle the payload of a control message, once all references in it are confirmed."""
        try:
            result = self.handlers[kind](connection.peer, payload)
        except RpcError:
            raise
        except Exception as error:
            text = f"{MessageType(kind).name} message makes no sense: {error}"
            if kind not in CONTROL:
                raise RemoteProtocolError(text) from error
            # a user may have made it by hand; others' messages on this link are not to suffer
            refusal = RpcError(text, code=StatusCode.INVALID_ARGUMENT)
            connection.server.refuse(kind, call_id, refusal)
            return
        if isinstance(result, asyncio.Future):
            result.add_done_callback(lambda done: _answer_later(connection, kind, call_id, done))
        else:
            connection.server.answer(kind, call_id, result)

    # -- being idle, for the end of the group

    @property
    def is_idle(self) -> bool:
        """Whether no user call is out or served here, and nothing large is on its way out."""
        return not (
            self.joint.unfinished()
            or any(server.calls for server in self.servers)
            or any(not c.is_idle for c in self.connections())
            or any(peer.queue for peer in self.members.all())
            or not self.references.is_quiet
        )

    @property
    def is_computing(self) -> bool:
        """Whether a plain function runs in a thread that does not wait for a call of its own."""
        return any(
            call.is_in_thread and not call.is_done and not call.nested
            for server in self.servers
            for call in server.calls.values()
        )

    def became_idle(self) -> None:
        """Learn that a link has nothing more to serve or to send."""
        waiters, self.idle_waiters = self.idle_waiters, []
        for waiter in waiters:
            if not waiter.done():
                waiter.set_result(None)

    def busy_with(self) -> tuple[str, ...]:
        """Return the names of the workers whose calls are served here or that have one of ours."""
        busy = {str(call.owner) for call in self.caller.user_calls()}
        busy |= {server.caller.name for server in self.servers if server.calls}
        return tuple(sorted(busy))

    async def wait_idle(self) -> None:
        """Wait until no call is out or served here, and all that was sent has arrived."""
        while True:
            while not self.is_idle:
                if calls := self.joint.unfinished():
                    await asyncio.wait(calls)
                else:
                    waiter: asyncio.Future[None] = self.loop.create_future()
                    self.idle_waiters.append(waiter)
                    await waiter
            loose = [p for p in self.members.all() if not p.is_fenced]
            if not loose:
                return
            await asyncio.gather(*[p.fence() for p in loose])


def _answer_later(
    connection: Connection, kind: int, call_id: int, done: asyncio.Future[object]
) -> None:
    if done.cancelled():
        return
    error = done.exception()
    if error is None:
        connection.server.answer(kind, call_id, done.result())
    else:
        connection.server.refuse(kind, call_id, error)


async def _wait_closed(stream: Stream) -> None:
    """Give the system a moment to take the last bytes, then cut the link."""
    with contextlib.suppress(TimeoutError):
        async with asyncio.timeout(_CLOSING):
            await stream.wait_closed()
            return
    stream.abort()
    await stream.wait_closed()
