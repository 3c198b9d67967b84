"""`EtcdLeaseKeeper`: renews a lease on etcd while the loop that should do so is blocked.

The counterpart of `asyncrpc.store.keeping`, driven by the same thread. That must not wait for an
answer over HTTP, so each renewal is a short thread of its own; while the loop does its part there
is none.
"""

from __future__ import annotations

import http.client
import json
import logging
import selectors
import threading
from contextlib import closing

from asyncrpc.store.etcd.gateway import Gateway
from asyncrpc.store.lease import Lease

__all__ = ("EtcdLeaseKeeper",)

_OVERDUE = 0.5  # of the lease's span without renewal; the loop renews after a third of it
_RENEWALS = 6  # in one span, once it is overdue
_LEAST_TIMEOUT = 0.5  # seconds for one member to answer

_log = logging.getLogger("asyncrpc.store")


class EtcdLeaseKeeper:
    """Renews one lease when its own loop does not.

    Args:
        gateway: to etcd; only its members and credentials are read.
        lease: which.

    Used by one thread only.
    """

    def __init__(self, gateway: Gateway, lease: Lease) -> None:
        self._gateway = gateway
        self._lease = lease
        self._pause = lease.ttl / _RENEWALS
        self._next = 0.0  # when to renew again
        self._renewing: threading.Thread | None = None

    def turn(self, selector: selectors.BaseSelector, now: float) -> float:  # noqa: ARG002 -- unused
        """Do what is due; see `LeaseKeeper.turn`."""
        overdue = self._lease.renewed + self._lease.ttl * _OVERDUE
        if now < overdue or self._lease.lost.is_set():
            return max(overdue - now, self._pause)
        if now >= self._next:
            self._next = now + self._pause
            if self._renewing is None or not self._renewing.is_alive():
                self._renewing = threading.Thread(
                    target=self._renew, name="asyncrpc-lease", daemon=True
                )
                self._renewing.start()
        return max(0.0, self._next - now)

    def ready(self, selector: selectors.BaseSelector) -> None:
        """Have no socket in the selector that could be ready."""

    def close(self, selector: selectors.BaseSelector) -> None:
        """Have nothing to close: a renewal ends by itself."""

    def _renew(self) -> None:
        for host, port in self._gateway.address.members:
            try:
                self._ask(host, port)
            except (OSError, http.client.HTTPException) as error:
                _log.debug("%r was not renewed by %s:%d: %s", self._lease, host, port, error)
            else:
                return

    def _ask(self, host: str, port: int) -> None:
        timeout = max(self._pause, _LEAST_TIMEOUT)
        context = self._gateway.ssl_context
        connection = (
            http.client.HTTPConnection(host, port, timeout=timeout)
            if context is None
            else http.client.HTTPSConnection(host, port, timeout=timeout, context=context)
        )
        token = self._gateway.token
        headers = {"Authorization": token} if token else {}
        with closing(connection):
            body = json.dumps({"ID": str(self._lease.id)})
            connection.request("POST", "/v3/lease/keepalive", body, headers)
            reply = connection.getresponse()
            if reply.status != http.client.OK:
                raise http.client.HTTPException(f"HTTP {reply.status}")
            reply.read()  # what it says the loop will hear for itself
