"""A store on etcd's v3 API, by its JSON gateway.

`store` is the front; `values`, `waits`, `queues` and `barriers` are its operations, over `core`,
which is `gateway` (HTTP), `writer` (transactions that happen once), `lane` (their order) and `hub`
(what happens meanwhile).
"""

from __future__ import annotations

from asyncrpc.store.etcd.address import (
    CREDENTIALS_VARIABLE,
    EtcdAddress,
    EtcdCredentials,
    parse_members,
)
from asyncrpc.store.etcd.store import EtcdStore

__all__ = (
    "CREDENTIALS_VARIABLE",
    "EtcdAddress",
    "EtcdCredentials",
    "EtcdStore",
    "parse_members",
)
