"""`Writer`: transactions of one client that are carried out once, however often they are sent.

Theory of operation: a client has a lease of its own, its session, and on it a key with the number
of its last write. Each write is a transaction that demands a lower number there and leaves its own.
Sent again when nobody knows what became of it, it is refused if it had been carried out; and a copy
that was held up somewhere is refused once a later write of the client has been carried out. So an
operation may be cancelled at any point: `undo` tells whether it came too late, and makes good.
"""

from __future__ import annotations

import itertools
import secrets
from collections.abc import Sequence
from typing import Any, NamedTuple

from asyncrpc.errors import Delivery, StoreConnectionError
from asyncrpc.store.etcd.gateway import Gateway
from asyncrpc.store.etcd.keys import Layout
from asyncrpc.store.etcd.messages import (
    SESSION,
    flatten,
    put,
    read,
    revision_of,
    rows_of,
    txn,
    value_below,
    value_is,
)
from asyncrpc.store.lease import Lease, LeaseHost

__all__ = ("SESSION_TTL", "Writer", "Written")

SESSION_TTL = 10.0
"""Seconds after which what a silent client waits for is withdrawn."""

Json = dict[str, Any]


class Written(NamedTuple):
    """What became of a write."""

    is_done: bool
    """Whether all that it demanded did hold."""
    revision: int
    """Of the store then; that of the write, or later, if `responses` is empty."""
    responses: list[tuple[str, Json]]
    """Kind and content for each operation done; empty if it turned out to be done before."""


class _Session(NamedTuple):
    lease: Lease
    name: str
    marker: bytes


class Writer:
    """Carries out the writes of one client, one at a time.

    Args:
        gateway: to etcd.
        layout: of the store.
        host: makes the session's lease.
    """

    def __init__(self, gateway: Gateway, layout: Layout, host: LeaseHost) -> None:
        self._gateway = gateway
        self._layout = layout
        self._host = host
        self._numbers = itertools.count(1)
        self._session: _Session | None = None  # None before the first write, and once lapsed
        self.number = 0
        """Of the write that is being sent or was sent last; 0 before it is."""

    async def write(
        self, compare: Sequence[Json], success: Sequence[Json], failure: Sequence[Json] = ()
    ) -> Written:
        """Carry out a transaction, once.

        Args:
            compare: what is demanded.
            success: what is done if it holds.
            failure: what is read if it does not.

        Raises:
            RefusedError: etcd has not carried it out; says why.
            StoreConnectionError: no member answered in time; says whether it may have run.
        """
        while True:
            self.number = 0
            session = await self._begin()
            self.number = next(self._numbers)
            mark = b"%016x" % self.number
            body = txn(
                [value_below(session.marker, mark), *compare],
                [*_bound(success, session), put(session.marker, mark, keeps_lease=True)],
                [read(session.marker), *failure],
            )
            reply = await self._gateway.call("/v3/kv/txn", body["request_txn"])
            responses = list(flatten(reply.fields.get("responses", ())))
            revision = revision_of(reply.fields)
            if reply.fields.get("succeeded"):
                return Written(True, revision, responses[:-1])
            markers = rows_of(responses[0][1])
            if markers and markers[0].value == mark:
                return Written(True, revision, [])
            if markers:
                return Written(False, revision, responses[1:])
            session.lease.abandon()
            self._session = None
            if reply.may_have_run:
                raise StoreConnectionError(
                    f"store at {self._gateway} lost: this client was silent for too long, and it "
                    "is not known what became of a write",
                    delivery=Delivery.UNKNOWN,
                )

    async def undo(self, number: int, success: Sequence[Json], always: Sequence[Json] = ()) -> None:
        """Make good a write that was cancelled; nothing was written since.

        Args:
            number: of the write.
            success: what is done if it had been carried out; if it had not, it never will be.
            always: what is done in any case.
        """
        session = self._session
        if session is None:
            return
        mark = put(session.marker, b"%016x" % next(self._numbers), keeps_lease=True)
        body = txn(
            [value_is(session.marker, b"%016x" % number)],
            [*success, *always, mark],
            [*always, mark],
        )
        await self._gateway.call("/v3/kv/txn", body["request_txn"])

    async def close(self) -> None:
        """End the session, and with it all that this client waits for."""
        session, self._session = self._session, None
        if session is not None:
            await session.lease.__aexit__(None, None, None)

    async def _begin(self) -> _Session:
        if self._session is None or self._session.lease.lost.is_set():
            if self._session is not None:
                self._session.lease.abandon()
            lease = Lease(self._host, SESSION_TTL)
            await lease.__aenter__()
            name = secrets.token_hex(8)
            marker = self._layout.writer(name)
            first = put(marker, b"", lease.id)["request_put"]
            try:
                await self._gateway.call("/v3/kv/put", first)
            except BaseException:
                lease.abandon()
                raise
            self._session = _Session(lease, name, marker)
        return self._session


def _bound(operations: Sequence[Json], session: _Session) -> list[Json]:
    """Return operations with the session's lease where they leave that open."""
    found = list(operations)
    for index, operation in enumerate(found):
        fields = operation.get("request_put", {})
        if fields.get("lease") == str(SESSION):
            found[index] = {"request_put": {**fields, "lease": str(session.lease.id)}}
    return found
