"""`RRef`: a reference to a value that lives on one worker, and may be passed to any other."""

from __future__ import annotations

import asyncio
import sys
from collections.abc import Callable, Generator
from threading import get_ident
from types import GenericAlias, TracebackType
from typing import TYPE_CHECKING, Any, ClassVar, NoReturn, Self, SupportsIndex

from asyncrpc.agent import NOT_INITIALIZED
from asyncrpc.errors import (
    NotInitializedError,
    RpcError,
    RRefDeletedError,
    StatusCode,
)
from asyncrpc.execution import current_call
from asyncrpc.identity import WorkerInfo
from asyncrpc.options import UNSET, Unset
from asyncrpc.wire import user_types

from .keeping import NOTHING, Failure
from .proxy import AsyncProxy, RemoteProxy, SyncProxy
from .values import Fork, GlobalId, Worker

if TYPE_CHECKING:
    from .context import RRefContext

__all__ = ("NO_PICKLE", "RRef")

NO_PICKLE = (
    "Can not pickle rref in python pickler, rref can only be pickled when using RPC: pass it in a "
    "call or return it from one"
)


@user_types.reserve
class RRef:
    """A reference to a value on its owner.

    Passed in a call or returned from one, it refers to the same value there; the value lives as
    long as anybody refers to it. ``await rref`` is ``await rref.to_here()``.

    Args:
        value: any value, which this worker keeps; `remote` makes references to others' values.

    Raises:
        NotInitializedError: no agent runs.
    """

    __slots__ = (
        "__weakref__",
        "_alone",
        "_context",
        "_fork",
        "_is_released",
        "_is_script",
        "_owner",
        "_rref",
    )

    __class_getitem__: ClassVar[Any] = classmethod(GenericAlias)
    """``RRef[int]`` in an annotation says what it refers to."""

    find_agent: ClassVar[Callable[[], Any] | None] = None
    """Gives the process's agent, if there is one; set where that is made."""

    _alone: bytes
    _context: RRefContext
    _fork: GlobalId
    _is_released: bool
    _is_script: bool
    _owner: Worker
    _rref: GlobalId

    def __init__(self, value: object) -> None:
        self._is_released = True  # until it is more than an empty shell
        served = current_call.get()
        if served is not None:
            agent = served.replier.agent
        elif RRef.find_agent is not None:
            agent = RRef.find_agent()
        else:
            raise NotInitializedError(NOT_INITIALIZED)
        context: RRefContext = agent.references
        self._take(context, context.run_on_loop(lambda: context.own(value)))

    def _take(self, context: RRefContext, handle: Fork) -> None:
        """Become the object of a handle, which counts it already."""
        self._context = context
        self._rref, self._fork, self._owner, _ = handle
        self._alone = b""  # the header map of a call about it, once there was one
        self._is_script = False
        self._is_released = False

    def __del__(self) -> None:
        if not self._is_released:
            self._context.dropped(self._fork)

    # -- what is known

    def is_owner(self) -> bool:
        """Whether this worker keeps the value."""
        return self._owner == self._context.agent.incarnation

    def owner(self) -> WorkerInfo:
        """Return the worker that keeps the value."""
        peer = self._context.peer(self._owner)
        if peer is None:
            raise RpcError(f"the owner of {self!r} is not known here", code=StatusCode.NOT_FOUND)
        return peer.info

    def owner_name(self) -> str:
        """Return the name of the worker that keeps the value."""
        return self.owner().name

    def confirmed_by_owner(self) -> bool:
        """Whether the owner keeps the value, or its place, for this reference."""
        return not self._is_released and self._context.machine.is_confirmed(self._fork)

    def __repr__(self) -> str:
        show = self._context.show
        if self.is_owner():
            return f"OwnerRRef({show(self._rref)})"
        return f"UserRRef(RRefId = {show(self._rref)}, ForkId = {show(self._fork)})"

    # -- the value

    def to_here(self, timeout: float | None | Unset = UNSET) -> asyncio.Future[Any]:
        """Get a copy of the value; on the owner the value itself.

        Args:
            timeout: seconds from now, 0 or ``None`` for no limit; left out: the default.

        Returns:
            A future: it starts at once. It fails with what the function that makes the value
            failed with, with `RpcTimeoutError`, or as below if that turns out only then.

        Raises:
            RRefCreationError: the value was not created, or nobody knows.
            RRefDeletedError: this reference was released, or the agent was shut down.
            OwnerLostError: the owner is gone.
        """
        context = self._context
        if get_ident() != context.thread:
            self._check_thread("await to_here()")
        return context.holder.fetch(self, timeout, sys._getframe(1))

    def __await__(self) -> Generator[Any, None, Any]:
        return self.to_here().__await__()

    def local_value(self) -> Any:
        """Return the value itself; only its owner has it.

        Threads other than the loop's wait until it is there.

        Raises:
            RpcError: this worker is not the owner, or, on the loop, the value is not there yet.
            RRefCreationError, RRefDeletedError: as for `to_here`.
        """
        self._usable()
        context = self._context
        if not self.is_owner():
            raise RpcError(
                f"For {self!r}, can't call localValue() on user {context.agent.info}. "
                f"Call it on owner {self.owner()}",
                code=StatusCode.INVALID_ARGUMENT,
            )
        context.machine.check(self._fork)
        value = context.keeper.find(self._rref)
        if isinstance(value, Failure):
            raise context.keeper.local_error(value)
        if value is not NOTHING:
            return value
        if get_ident() == context.thread:
            raise RpcError(
                f"the value of {self!r} is not there yet: await to_here() first",
                code=StatusCode.ABORTED,
            )
        return asyncio.run_coroutine_threadsafe(self._fetched(), context.agent.loop).result()

    async def _fetched(self) -> Any:
        return await self.to_here()

    # -- methods

    def rpc_async(self, timeout: float | None | Unset = UNSET) -> AsyncProxy:
        """Return a proxy: ``rref.rpc_async().method(…)`` calls it where the value is.

        One round trip, also while the value is still being made.

        Args:
            timeout: seconds for each call, as for `asyncrpc.rpc_async`.
        """
        return AsyncProxy(self, timeout)

    def rpc_sync(self, timeout: float | None | Unset = UNSET) -> SyncProxy:
        """Return a proxy whose methods block this thread, which must not be the loop's."""
        return SyncProxy(self, timeout)

    def remote(self, timeout: float | None | Unset = UNSET) -> RemoteProxy:
        """Return a proxy whose methods return an `RRef` to their result, on the same owner."""
        return RemoteProxy(self, timeout)

    # -- giving up

    async def release(self) -> None:
        """Give the reference up and wait until the owner knows. Idempotent.

        Raises:
            RpcTimeoutError: the owner did not answer in time; it will be told all the same.
        """
        if not self._is_released:
            self._is_released = True
            ending = self._context.release(self._fork, self._owner)
            if ending is not None:
                await ending

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        await self.release()

    # -- what must not be done

    def __reduce_ex__(self, protocol: SupportsIndex) -> NoReturn:
        raise TypeError(NO_PICKLE)

    def __copy__(self) -> NoReturn:
        raise TypeError("an RRef cannot be copied: pass the RRef itself around")

    def __deepcopy__(self, memo: object) -> NoReturn:
        raise TypeError("an RRef cannot be copied: pass the RRef itself around")

    # -- parts

    def _usable(self) -> Self:
        """Return this very object, unless it was released."""
        if self._is_released:
            raise RRefDeletedError(f"{self!r} has been deleted: it was released")
        return self

    def _check_thread(self, what: str) -> None:
        if get_ident() != self._context.thread:
            raise RuntimeError(f"{what} on the thread of the loop that ran init_rpc")
