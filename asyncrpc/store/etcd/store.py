"""`EtcdStore`: a store on etcd, which outlives every process that uses it."""

from __future__ import annotations

import asyncio
import math
import os
import secrets
import warnings
from collections.abc import Callable, Coroutine
from types import TracebackType
from typing import Any, Literal, Self

from asyncrpc.errors import Delivery, StoreConnectionError, StoreError, StoreTimeoutError
from asyncrpc.store.arguments import check_integer, check_key, check_span, check_timeout
from asyncrpc.store.commands import (
    NO_VERSION,
    Add,
    Append,
    Barrier,
    Check,
    Command,
    CompareSet,
    DeleteKey,
    Get,
    ListKeys,
    MultiGet,
    MultiSet,
    NumKeys,
    QueueLen,
    QueuePop,
    QueuePush,
    Set,
    Snapshot,
    StoreEvent,
    Wait,
)
from asyncrpc.store.etcd.address import EtcdAddress, EtcdCredentials
from asyncrpc.store.etcd.barriers import Barriers
from asyncrpc.store.etcd.core import Core
from asyncrpc.store.etcd.gateway import Gateway
from asyncrpc.store.etcd.keeper import EtcdLeaseKeeper
from asyncrpc.store.etcd.keys import Layout, version_at
from asyncrpc.store.etcd.lane import Turn
from asyncrpc.store.etcd.messages import prefix_end, read_prefix
from asyncrpc.store.etcd.queues import Queues
from asyncrpc.store.etcd.refusals import RefusedError
from asyncrpc.store.etcd.stream import Happened, WatchStream
from asyncrpc.store.etcd.values import Values
from asyncrpc.store.etcd.waits import Waits
from asyncrpc.store.failures import closed_error, unanswered_error
from asyncrpc.store.keeping import Keeper
from asyncrpc.store.lease import Lease
from asyncrpc.store.operations import Operations
from asyncrpc.store.watch import Feed, Watch

__all__ = ("EtcdStore",)

_MAX_VALUE = 1 << 20  # bytes; etcd takes requests of 1.5 MiB, and a value is one of several parts
_PATIENCE = 30.0  # seconds for a cluster to elect a leader, or to be started anew
_SLACK = 1.0  # seconds past a deadline before an answer is no longer awaited
_TICK = 5.0  # seconds between looks at whether the member that watches come from still answers
_FAREWELL = 2.0  # seconds to take back what a client has left in etcd

Plain = Callable[[Any], Coroutine[Any, Any, Any]]
Waiting = Callable[[Any, Turn, float], Coroutine[Any, Any, Any]]


class EtcdStore(Operations):
    """A store on etcd 3.4 or later; made by `connect`. Needs the extra ``etcd``.

    An async context manager. See `asyncrpc.store.Store` for the operations. Belongs to the loop it
    was made in. What differs from a store of ours:

    * It outlives its clients, and goes on while a majority of etcd's members lives.
    * A lease lasts for whole seconds, at least 2, and is not shortened when its holder dies. So a
      dead client is missed in barriers and queues for up to 10 seconds.
    * Versions are comparable among watches of the same prefix; `snapshot`'s are among all.
    * A value has at most 1 MiB, and so have all values of a `multi_set` together.
    * `delete` events also stand for leases that lapsed.
    * Each who waits at a barrier hears of all others: 256 clients cost etcd, and them together,
      about 3 s of processor time each, and twice as many four times that.
    """

    @classmethod
    async def connect(
        cls,
        url: str,
        timeout: float | None = 300.0,
        credentials: EtcdCredentials | None = None,
        *,
        patience: float = _PATIENCE,
        max_value: int = _MAX_VALUE,
    ) -> Self:
        """Connect to an etcd, trying until one of its members is there.

        Args:
            url: ``etcd://host:port,host:port/prefix``: any members, and under which prefix the
                keys of this store lie.
            timeout: seconds for connecting, and for operations that are given none; ``None`` for
                no limit.
            credentials: user, password, certificates; ``None``: of the file that
                ``$ASYNCRPC_STORE_CREDENTIALS`` names, if it is set.
            patience: seconds that operations and watches try again when no member answers.
            max_value: largest value, in bytes, that is taken at the call; etcd has its own.

        Raises:
            StoreConnectionError: no member could be reached in time; says why the last one failed.
            StoreError: the extra ``etcd`` is not installed, or the server is too old.
            AuthenticationError: user or password are wrong.
            ValueError: an argument breaks its rule.
        """
        if credentials is None:
            credentials = EtcdCredentials.of_environment(os.environ)
        check_span(patience, "patience")
        check_integer(max_value, "max_value", 1)
        limit = check_timeout(timeout)
        gateway = Gateway(EtcdAddress.parse(url), credentials, patience)
        probe = read_prefix(Layout(gateway.address.prefix).root, count_only=True)
        await gateway.open(probe, limit)
        return cls(gateway, timeout, patience, max_value)

    def __init__(
        self, gateway: Gateway, timeout: float | None, patience: float, max_value: int
    ) -> None:
        super().__init__(timeout, max_value, None)
        self._gateway = gateway
        self._core = Core(gateway, Layout(gateway.address.prefix), self, patience)
        self._is_closed = False
        self._watches = 0  # that stand
        self._values = values = Values(self._core, max_value)
        queues = Queues(self._core)
        waits, barriers = Waits(self._core), Barriers(self._core)
        self._plain: dict[type[Command], Plain] = {
            Set: values.set,
            Add: values.add,
            CompareSet: values.compare_set,
            Check: values.check,
            DeleteKey: values.delete_key,
            NumKeys: values.num_keys,
            Append: values.append,
            MultiSet: values.multi_set,
            ListKeys: values.list_keys,
            QueuePush: queues.push,
            QueueLen: queues.length,
            Snapshot: values.snapshot,
        }
        self._waiting: dict[type[Command], Waiting] = {
            Get: waits.get,
            Wait: waits.wait,
            MultiGet: waits.multi_get,
            QueuePop: queues.pop,
            Barrier: barriers.barrier,
        }
        self._core.spawn(self._tick())

    def __repr__(self) -> str:
        return f"<EtcdStore {self._gateway.address}>"

    def __del__(self) -> None:
        if getattr(self, "_is_closed", True) is False:
            warnings.warn(f"unclosed {self!r}", ResourceWarning, stacklevel=2, source=self)

    @property
    def address(self) -> EtcdAddress:
        """Where the store is."""
        return self._gateway.address

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self,
        exc_type: type[BaseException] | None,
        exc: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        await self.close()

    async def close(self) -> None:
        """Withdraw what this client waits for, and close; what waits fails. Idempotent.

        Leases that were not left lapse after their span.
        """
        if not self._is_closed:
            self._is_closed = True
            await self._core.close(self._closed(), _FAREWELL)

    async def _call(
        self,
        command: Command,
        timeout: float | None = None,
        size: int = 0,  # noqa: ARG002 -- etcd has a limit of its own, and says so
    ) -> Any:
        if self._is_closed:
            raise self._closed()
        seconds = self._timeout if timeout is None else timeout
        turn = self._core.lane.join()
        deadline = asyncio.get_running_loop().time() + seconds
        limit = None if deadline == math.inf else deadline + _SLACK
        try:
            async with asyncio.timeout_at(limit) as scope, turn:
                plain = self._plain.get(type(command))
                if plain is not None:
                    return await plain(command)
                return await self._waiting[type(command)](command, turn, deadline)
        except StoreConnectionError:
            raise
        except StoreError as error:  # etcd's own word
            error.delivery = Delivery.EXECUTED
            raise
        except TimeoutError:
            if not scope.expired():
                raise
            raise unanswered_error(command, str(self._gateway), "does not answer") from None
        finally:
            turn.leave()

    def _closed(self) -> StoreConnectionError:
        return closed_error(str(self._gateway))

    # Watches

    def _watch(self, prefix: str, since: int) -> Watch:
        feed = Feed(prefix)
        if self._is_closed:
            feed.end(self._closed())
            return Watch(feed, _nothing)
        following = self._core.spawn(self._follow(feed, since, self._core.lane.join()))
        return Watch(feed, lambda: _cancel(following))

    async def _follow(self, feed: Feed, since: int, turn: Turn) -> None:
        """Feed a watch until it ends."""
        try:
            async with turn:
                revision = await self._core.revision()
            self._watches += 1
            try:
                await self._feed(feed, since, revision)
            finally:
                self._watches -= 1
        except StoreError as error:
            feed.end(error)
        except asyncio.CancelledError:
            feed.end(self._closed())  # if nobody has ended it, then we are closing
            raise
        finally:
            turn.leave()

    async def _feed(self, feed: Feed, since: int, revision: int) -> None:
        version = version_at(revision) if since == NO_VERSION else since
        if version > version_at(revision):
            raise StoreError(
                f"version {version} is not of this store, which is at version "
                f"{version_at(revision)}"
            )
        layout = self._core.layout
        start = layout.value(feed.prefix)

        def take(event: Happened) -> None:
            kind: Literal["put", "delete"] = "put" if event.is_put else "delete"
            key = layout.key(event.row.key)
            if not feed.put(StoreEvent(kind, key, event.row.value, event.version)):
                raise feed.error or self._closed()

        def compacted(upto: int) -> None:
            raise StoreError(
                f"version {feed.version if feed.version != NO_VERSION else version} is too old to "
                f"resume a watch: the store keeps events after version {version_at(upto)}"
            )

        stream = WatchStream(self._gateway, start, prefix_end(start), version, take, compacted)
        await stream.run(self._core.patience)

    async def _tick(self) -> None:
        """Ask for something while anybody watches: a member that went silent is left then."""
        while True:
            await asyncio.sleep(_TICK)
            if self._watches or self._core.hub.is_listening:
                try:
                    await self._core.revision()
                except StoreError:
                    continue  # the watches say so themselves

    async def clear(self, kept: str, ttl: float) -> None:
        """Delete all there is but one key, which vanishes later.

        Args:
            kept: that key; it may be absent.
            ttl: seconds for which it stays.

        Raises:
            StoreError: the store was lost.
        """
        lease = self.lease(ttl)
        await lease.__aenter__()
        try:
            async with self._core.lane.join():
                await self._values.clear(check_key(kept, "kept"), lease.id)
        finally:
            lease.abandon()

    # Leases

    async def grant_lease(self, lease: Lease) -> None:
        """Make a lease."""
        body = {"ID": str(lease.id), "TTL": str(max(math.ceil(lease.ttl), 1))}
        try:
            await self._gateway.call("/v3/lease/grant", body)
        except RefusedError as error:
            if "already exists" not in str(error):  # a second try, after a first that did it
                raise

    async def renew_lease(self, lease: Lease) -> bool:
        """Renew a lease, saying whether it was alive."""
        try:
            reply = await self._gateway.call(
                "/v3/lease/keepalive", {"ID": str(lease.id)}, lease.ttl
            )
        except StoreConnectionError as error:
            # Without a leader no lease lapses, so it may still be there when there is one again.
            if self._is_closed:
                raise
            raise StoreTimeoutError(str(error)) from error
        return int(reply.fields.get("TTL", 0)) > 0

    async def revoke_lease(self, lease: Lease) -> None:
        """End a lease."""
        await self._gateway.call("/v3/lease/revoke", {"ID": str(lease.id)}, lease.ttl)

    def make_keeper(self, lease: Lease) -> Keeper:
        """Return what renews a lease from a thread while the loop is blocked."""
        return EtcdLeaseKeeper(self._gateway, lease)

    def _arrival_token(self) -> bytes:
        return secrets.token_bytes(8)


def _nothing() -> None:
    pass


def _cancel(task: asyncio.Task[object]) -> None:
    task.cancel()
