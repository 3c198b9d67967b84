"""What every `Store` must do, as checks that run against any implementation.

For the tests of our stores and for whoever writes one. A check takes a `Connect`: a coroutine
function that returns a new client of one store, empty at first; it raises `ConformanceError`
with the rule that was broken. Checks use only keys below ``conformance/``, few seconds and the
store's own time; those that wait on a lease are `SLOW_STORE_CHECKS`.
"""

from __future__ import annotations

from asyncrpc.testing.conformance import clients, leases, queues, values, waits, watches
from asyncrpc.testing.conformance.checking import ConformanceError, Connect, StoreCheck

__all__ = ("SLOW_STORE_CHECKS", "STORE_CHECKS", "ConformanceError", "Connect", "StoreCheck")

STORE_CHECKS: tuple[StoreCheck, ...] = (
    *values.CHECKS,
    *waits.CHECKS,
    *queues.CHECKS,
    *watches.CHECKS,
    *leases.CHECKS,
    *clients.CHECKS,
)
"""Every rule that can be checked at once."""

SLOW_STORE_CHECKS: tuple[StoreCheck, ...] = leases.SLOW_CHECKS
"""Rules about time: each takes up to a second."""
