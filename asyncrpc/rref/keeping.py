"""The owner's side: values by id, and the requests that create them, fetch them, or call them.

A value stays until the machine frees it. A function that creates one reports here instead of to its
caller, who is told twice: as soon as the request is taken in, and when the function has ended.
"""

from __future__ import annotations

import asyncio
import sys
from collections.abc import Callable, Hashable
from functools import partial
from typing import TYPE_CHECKING, Any, NamedTuple

from asyncrpc.agent import HeldCall, Peer, Server, code_of
from asyncrpc.errors import RemoteProtocolError, RpcError, RRefCreationError
from asyncrpc.execution import ServedCall, Target, TargetKind, decode_failure, encode_failure
from asyncrpc.wire import Frame, MessageType, user_types

from .ids import IDS_SIZE, maker_of, number_of, unpack_pair
from .values import FreeValue, GlobalId, OwnerState, Row

if TYPE_CHECKING:
    from .context import RRefContext

__all__ = ("NOTHING", "Failure", "Keeper", "RRefRow")

_FETCHES = (int(MessageType.PYTHON_RREF_FETCH_CALL), int(MessageType.SCRIPT_RREF_FETCH_CALL))
_TIMED_OUT = (
    "RRef creation via rpc.remote() timed out, and it is possible that the RRef on the owner node "
    "does not exist: its function was told to stop"
)


NOTHING: Any = object()
"""Stands for a value that is not there."""


class Failure(NamedTuple):
    """What is kept in the place of a value whose function failed."""

    error: BaseException
    is_ours: bool
    """Whether the error is the agent's, not the function's."""
    function: str
    """What failed."""


class RRefRow(NamedTuple):
    """A value that is kept here for others, as `rref_debug` shows it."""

    id: str
    """Worker that made the id, and the how-manieth it was there."""
    type: str
    """Qualified name of the value's class; a state for what is no value yet."""
    size: int
    """Bytes of the object itself, with its buffer if it has one."""
    holders: tuple[str, ...]
    """Workers that hold references to it, one for each reference."""
    age: float
    """Seconds since the value was there, 0 for what is no value yet."""


class Keeper:
    """The values that one agent keeps.

    Args:
        context: of the agent.
    """

    def __init__(self, context: RRefContext) -> None:
        self._context = context
        self._agent = context.agent
        self._machine = context.machine
        self._values: dict[GlobalId, Any] = {}  # a `Failure` for a value that could not be made
        self._since: dict[GlobalId, float] = {}  # when it was there, on the agent's clock
        self._creations: dict[GlobalId, _Creation] = {}

    # -- values

    def keep(self, rref: GlobalId, value: object) -> None:
        """Keep a value, or a `Failure` in its place, until it is freed."""
        self._values[rref] = value
        self._since[rref] = self._agent.clock.time()

    def free(self, freed: FreeValue) -> None:
        """Drop a value."""
        self._values.pop(freed.rref, None)
        self._since.pop(freed.rref, None)

    def forget(self, waiting: Hashable) -> None:
        """Forget what waits for a value."""
        self._machine.fetch_withdrawn(waiting)
        self._context.perform()

    def find(self, rref: GlobalId) -> Any:
        """Return the value that is kept, or a `Failure`; `NOTHING` if it is not there yet."""
        return self._values.get(rref, NOTHING)

    def local_error(self, failure: Failure) -> BaseException:
        """Return a new exception for the error in a value's place, as a peer would get it."""
        codec = self._agent.codec
        encoded = encode_failure(
            failure.error,
            worker=self._agent.info.name,
            function=failure.function,
            codec=codec,
            registry=user_types,
            is_ours=failure.is_ours,
        )
        return decode_failure(encoded, codec)

    # -- requests

    def serve(self, server: Server, frame: Frame) -> None:
        """See `References.serve`."""
        call = server.take_in(frame)
        if call is None:
            return
        try:
            if frame[0] in _FETCHES:
                ids = unpack_pair(call.reference)
                value = self._values.get(ids[0], NOTHING)
                if value is not NOTHING:
                    self._give(call, value)
                else:
                    self._wait(call, ids, partial(self._give, call))
            else:
                self._create(server, call, frame)
        except ValueError as error:
            raise RemoteProtocolError(f"a request about a reference: {error}") from error

    def _wait(
        self, call: ServedCall, ids: tuple[GlobalId, GlobalId], use: Callable[[Any], None]
    ) -> None:
        """Do something with a value that is not there yet as soon as it is."""
        rref, fork = ids
        replier: Any = call.replier
        waiting = call.held = _ForValue(self, call, rref, use)
        self._machine.fetch(rref, fork, replier.peer.record.incarnation, waiting)
        self._context.perform()

    def _give(self, call: ServedCall, value: object) -> None:
        if value.__class__ is Failure:
            self._give_error(call, value)
        else:
            call.replier.succeed(call, value)

    def _give_error(self, call: ServedCall, failure: Any) -> None:
        replier: Any = call.replier
        call.target = Target(TargetKind.SYNC, callable, failure.function)
        if failure.is_ours and isinstance(failure.error, RpcError):
            replier.drop(call, failure.error)
        else:
            replier.fail(call, failure.error)

    # -- methods

    def method(self, name: str) -> Target:
        """See `References.method`."""
        return Target(TargetKind.DEFERRED, partial(self._call_method, name), f".{name}")

    def _call_method(
        self, name: str, call: ServedCall, args: tuple[object, ...], kwargs: dict[str, object]
    ) -> None:
        try:
            ids = unpack_pair(call.reference)
        except ValueError as error:
            call.replier.fail(call, error)
            return
        value = self._values.get(ids[0], NOTHING)
        if value is not NOTHING:
            self._start_method(call, name, args, kwargs, value)
        else:
            self._use_method(call, ids, name, args, kwargs)

    def _use_method(
        self,
        call: ServedCall,
        ids: tuple[GlobalId, GlobalId],
        name: str,
        args: tuple[object, ...],
        kwargs: dict[str, object],
    ) -> None:
        value = self._values.get(ids[0], NOTHING)
        if value is not NOTHING:
            self._start_method(call, name, args, kwargs, value)
        else:
            self._wait(call, ids, partial(self._start_method, call, name, args, kwargs))

    def _start_method(
        self,
        call: ServedCall,
        name: str,
        args: tuple[object, ...],
        kwargs: dict[str, object],
        value: object,
    ) -> None:
        if value.__class__ is Failure:
            self._give_error(call, value)
            return
        try:
            call.target = target = self._agent.functions.method(value, name)
        except RpcError as error:
            replier: Any = call.replier
            replier.drop(call, error)
        except Exception as error:  # noqa: BLE001 -- a property of the user's class may raise all
            call.replier.fail(call, error)
        else:
            self._start(call, target, args, kwargs)

    def _start(
        self, call: ServedCall, target: Target, args: tuple[object, ...], kwargs: dict[str, object]
    ) -> None:
        if isinstance(call.replier, _Creation):
            call.held = call.replier  # told of a cancel from here on, too
        self._agent.executor.start(call, target, args, kwargs)

    # -- creation

    def _create(self, server: Server, call: ServedCall, frame: Frame) -> None:
        """Make the place of a value, say so, and run the function that makes it."""
        rref, fork = unpack_pair(call.reference[:IDS_SIZE])
        behind = call.reference[IDS_SIZE:]
        of = unpack_pair(behind) if behind else None
        is_new = self._machine.created(rref, fork, server.peer.record.incarnation)
        self._context.perform()
        if not is_new:
            server.ended(call)
            server.confirm(call.ident, is_early=rref in self._creations)
            return
        creation = self._creations[rref] = _Creation(self, server, rref)
        call.replier = creation
        call.reply = 0  # the function goes on when the link breaks
        self._run(creation, call, frame, of)
        if rref in self._creations:
            server.confirm(call.ident, is_early=True)

    def _run(
        self,
        creation: _Creation,
        call: ServedCall,
        frame: Frame,
        of: tuple[GlobalId, GlobalId] | None,
    ) -> None:
        """Run the function of a creation, or the method of the value that it is made ``of``."""
        try:
            call.target = target = creation.server.resolve(frame[4])
            args, kwargs = self._agent.codec.decode_call(frame[7], frame[8])
        except RemoteProtocolError:
            raise
        except RpcError as error:
            self._context.arrived.clear()
            creation.drop(call, error)
            return
        if of is not None:
            start = partial(self._use_method, call, of, target.name[1:], args, kwargs)
        else:
            start = partial(self._start, call, target, args, kwargs)
        if self._context.arrived:
            HeldCall(creation, call, start, self._context).hold()
        else:
            start()

    def stopped(self, rref: GlobalId) -> None:
        """Fail what waits for a value whose function was told to stop."""
        self._machine.stopped(rref, _TIMED_OUT)
        self._context.perform()

    def settle(self, rref: GlobalId, call: ServedCall, value: object) -> None:
        """Keep what the function of a creation gave, and tell its creator that it ended.

        Not where that was told to stop: its creator knows, or finds out by its own clock.

        Args:
            rref: id of the value.
            call: ran the function.
            value: its result, or a `Failure`.
        """
        creation = self._creations.pop(rref)
        creation.server.ended(call)
        if isinstance(value, Failure):
            self._agent.tally.failed_served[code_of(value.error)] += 1
        self.keep(rref, value)
        self._machine.settled(rref, is_error=isinstance(value, Failure))
        self._context.perform()
        link: Any = creation.server
        if link.is_closed and link.peer.connection is not None:
            link = link.peer.connection.server
        if not link.is_closed and not call.is_cancelled:
            link.confirm(call.ident, is_early=False)

    # -- what is shown

    def rows(self) -> list[RRefRow]:
        """Return what is kept for others, or being made."""
        return [self._row(row) for row in self._machine.owner_rows()]

    def _row(self, row: Row) -> RRefRow:
        shown = self._values.get(row.rref, NOTHING)
        holders = tuple([self._context.name(worker) for worker in row.holders])
        name = f"{self._context.name(maker_of(row.rref))}/{number_of(row.rref)}"
        if shown is NOTHING:
            return RRefRow(name, row.state.value, 0, holders, 0.0)
        if isinstance(shown, Failure):
            shown = shown.error
        age = self._agent.clock.time() - self._since[row.rref]
        return RRefRow(name, type(shown).__qualname__, _size(shown), holders, age)

    def describe(self, row: Row) -> str:
        """Return a line about something that is held."""
        show = self._context.show
        names = ", ".join([self._context.name(worker) for worker in row.holders])
        if isinstance(row.state, OwnerState):
            return f"Leaking RRef {show(row.rref)}: its value is kept here for {names}"
        return f"Leaking RRef {show(row.rref)} with fork Id {show(row.id)}: held here, of {names}"


class _ForValue:
    """A call that waits for the value it is about, under its own deadline."""

    def __init__(
        self, keeper: Keeper, call: ServedCall, rref: GlobalId, use: Callable[[Any], None]
    ) -> None:
        self._keeper = keeper
        self._call = call
        self._rref = rref
        self._use = use

    def run(self) -> None:
        """Go on: the value is there."""
        self._call.held = None
        value = self._keeper.find(self._rref)
        assert value is not NOTHING, "a value is kept before the machine is told"
        self._use(value)

    def fail(self, error: RpcError) -> None:
        """Fail: there is none, and there will be none."""
        self._call.held = None
        replier: Any = self._call.replier
        replier.drop(self._call, error)

    def withdraw(self) -> None:
        """Forget the call: cancelled, or its time is over."""
        self._call.held = None
        self._keeper.forget(self)
        self._call.replier.fail(self._call, asyncio.CancelledError())


class _Creation:
    """Takes the outcome of a function that makes a value: the replier of its call."""

    __slots__ = ("_keeper", "_rref", "agent", "caller", "server")

    def __init__(self, keeper: Keeper, server: Server, rref: GlobalId) -> None:
        self._keeper = keeper
        self._rref = rref
        self.server = server
        self.agent = server.agent
        self.caller = server.caller

    @property
    def peer(self) -> Peer:
        """The worker that asked for the value."""
        return self.server.peer

    def now(self) -> float:
        """See `Replier.now`."""
        return self.server.now()

    def succeed(self, call: ServedCall, value: object) -> None:
        """See `Replier.succeed`."""
        if call.is_cancelled:  # a function that did not heed it
            self.drop(call, RRefCreationError(_TIMED_OUT))
        else:
            self._keeper.settle(self._rref, call, value)

    def fail(self, call: ServedCall, error: BaseException) -> None:
        """See `Replier.fail`."""
        if call.is_cancelled:  # its creator gave up, or was lost before anybody else asked
            self.drop(call, RRefCreationError(_TIMED_OUT))
        else:
            self._settle(call, error, is_ours=False)

    def drop(self, call: ServedCall, error: RpcError) -> None:
        """Take an error of the agent's own as the outcome."""
        self._settle(call, error, is_ours=True)

    def withdraw(self) -> None:
        """See `Hold.withdraw`: whatever its function does now, there will be no value."""
        self._keeper.stopped(self._rref)

    def _settle(self, call: ServedCall, error: BaseException, *, is_ours: bool) -> None:
        failure = Failure(error, is_ours, call.target.name)
        self._keeper.settle(self._rref, call, failure)


def _size(value: Any) -> int:
    try:
        size = getattr(value, "nbytes", None)
        return size if isinstance(size, int) else sys.getsizeof(value)
    except Exception:  # noqa: BLE001 -- the user's class
        return 0
