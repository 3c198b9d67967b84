"""How workers find each other: what lies in the store of a group, and where that store is."""

from __future__ import annotations

from asyncrpc.discovery.joining import (
    GroupView,
    check_unique,
    claim,
    free_id,
    missing_error,
    missing_text,
    mixed_error,
    warn_others,
)
from asyncrpc.discovery.records import (
    OVER,
    WORKERS,
    Record,
    Verdict,
    decode_entry,
    find_entry,
    key_of,
    name_key,
    worker_key,
)
from asyncrpc.discovery.stores import StoreLink, StorePlace, route_to, scoped

__all__ = (
    "OVER",
    "WORKERS",
    "GroupView",
    "Record",
    "StoreLink",
    "StorePlace",
    "Verdict",
    "check_unique",
    "claim",
    "decode_entry",
    "find_entry",
    "free_id",
    "key_of",
    "missing_error",
    "missing_text",
    "mixed_error",
    "name_key",
    "route_to",
    "scoped",
    "warn_others",
    "worker_key",
)
