"""The store itself, without I/O or clock; see `table`.

Parts, from the ground up: what waits (`waiting`, `requests`), what changed (`changes`), leases
(`leasing`), keys and queues with all that hangs on them (`content`), and the commands by what they
are about (`values`, `queues`, `barriers`, `watches`). `table` puts them together.
"""

from __future__ import annotations

from asyncrpc.store.table.content import DEFAULT_MAX_VALUE, MAX_KEY
from asyncrpc.store.table.requests import BEHIND, PENDING, Pending
from asyncrpc.store.table.table import DEFAULT_GRACE, Table
from asyncrpc.store.table.values import integer_of

__all__ = (
    "BEHIND",
    "DEFAULT_GRACE",
    "DEFAULT_MAX_VALUE",
    "MAX_KEY",
    "PENDING",
    "Pending",
    "Table",
    "integer_of",
)
