"""The etcd backend: the agents meet in an etcd, so that no node's death ends the run.

Made by the registry for ``etcd`` and ``etcd-v2``, which is torchrun's name for the better of its
two; both use etcd's v3 API. Everything of a run lies under ``/prefix/run id/`` and is gone a minute
after the run has ended.
"""

from __future__ import annotations

import asyncio
import os
from collections.abc import Mapping
from dataclasses import asdict
from typing import Final
from urllib.parse import quote

from asyncrpc.discovery import route_to
from asyncrpc.errors import AuthenticationError, StatusCode
from asyncrpc.store import (
    CREDENTIALS_VARIABLE,
    EtcdAddress,
    EtcdCredentials,
    EtcdStore,
    Store,
    StoreError,
    parse_members,
)
from launcher.errors import RendezvousConnectionError
from launcher.rendezvous.base import RendezvousHandler, RendezvousParameters
from launcher.rendezvous.dynamic import DynamicRendezvous
from launcher.rendezvous.place import SilentStoreError
from launcher.rendezvous.reaching import reach
from launcher.rendezvous.settings import read_settings

__all__ = ("EtcdPlace", "create_handler")

_DEFAULT_PREFIX = "asyncrpc"
_REMEMBERED = 60.0  # seconds that late nodes of an ended run are told so
_REMEMBERED_UNNAMED = 5.0  # likewise, of one without a name: the next such run is another one
_UNNAMED = "none"  # what several nodes call a run that nobody has named
_FINAL = (StatusCode.PERMISSION_DENIED, StatusCode.UNAUTHENTICATED)  # nothing to wait for
_CREDENTIALS = ("user", "password", "cacert", "cert", "key", "protocol")
_ALIASES: Final = {  # torchrun's names
    "etcd_prefix": "prefix",
    "ca_cert": "cacert",
    "ssl_cert": "cert",
    "ssl_cert_key": "key",
}


class EtcdPlace:
    """A store in an etcd, which no agent hosts.

    Args:
        address: of the run's store.
        credentials: that etcd asks for.
        endpoint: of etcd, as the user gave it.
        local_addr: where others reach this host; ``None``: found out.
        read_timeout: seconds that the store may take to answer.
    """

    is_host = False

    def __init__(
        self,
        address: EtcdAddress,
        credentials: EtcdCredentials,
        endpoint: str,
        *,
        local_addr: str | None = None,
        read_timeout: float = 60.0,
    ) -> None:
        self.address = local_addr or ""
        self.url = str(address)
        self.credentials = credentials.dump() if credentials != EtcdCredentials() else b""
        self._members = address.members
        self._credentials = credentials
        self._endpoint = endpoint
        is_named = not address.prefix.endswith(f"/{_UNNAMED}")
        self._memory = _REMEMBERED if is_named else _REMEMBERED_UNNAMED
        self._read_timeout = read_timeout
        self._store: EtcdStore | None = None

    async def open(self, timeout: float) -> Store:
        """Reach the store; see `Place.open`."""
        deadline = asyncio.get_running_loop().time() + timeout
        try:
            self._store = await reach(self._connect, self._endpoint, deadline, self._read_timeout)
        except (AuthenticationError, StoreError, ValueError) as error:
            raise RendezvousConnectionError(f"rdzv_endpoint={self._endpoint}: {error}") from error
        if not self.address:
            self.address = route_to(*self._members[0])
        return self._store

    async def _connect(self, timeout: float) -> EtcdStore:
        return await EtcdStore.connect(self.url, timeout, self._credentials)

    async def close(self) -> None:
        """Let go of the store, which stays; see `Place.close`."""
        store, self._store = self._store, None
        if store is not None:
            await store.close()

    async def forget(self, kept: str) -> None:
        """Delete what the run has left in the store; see `LastingPlace.forget`."""
        if self._store is not None:
            await self._store.clear(kept, self._memory)

    def lost(self, error: Exception, host: str) -> RendezvousConnectionError:  # noqa: ARG002 -- none
        """Say that the store was lost; see `Place.lost`."""
        if getattr(error, "code", None) in _FINAL:
            return RendezvousConnectionError(f"rdzv_endpoint={self._endpoint}: {error}")
        return SilentStoreError(f"etcd at {self._endpoint} does not answer")


def create_handler(parameters: RendezvousParameters) -> RendezvousHandler:
    """Make the handler of a run.

    Args:
        parameters: of the run; the endpoint is a comma list of etcd's members, the settings are
            those of every backend and ``user``, ``password``, ``cacert``, ``cert``, ``key``,
            ``protocol`` and ``prefix``.

    Raises:
        ValueError: endpoint or settings break their rule.
    """
    given = {_ALIASES.get(name, name): str(v) for name, v in parameters.config.items()}
    settings = read_settings(parameters, (*_CREDENTIALS, "prefix", *_ALIASES))
    if settings.is_host is not None:
        raise ValueError(
            f"rdzv_conf is_host={int(settings.is_host)}: expected without it, no node hosts etcd"
        )
    place = EtcdPlace(
        _address(parameters, given.get("prefix", _DEFAULT_PREFIX)),
        _credentials(given),
        parameters.endpoint,
        local_addr=parameters.local_addr,
        read_timeout=settings.read_timeout,
    )
    return DynamicRendezvous(parameters, settings, place)


def _address(parameters: RendezvousParameters, prefix: str) -> EtcdAddress:
    endpoint = parameters.endpoint
    if not endpoint:
        raise ValueError("rdzv_endpoint=: expected host:port of etcd's members, as a comma list")
    try:
        members = parse_members(endpoint)
    except ValueError as error:
        raise ValueError(f"rdzv_endpoint={endpoint}: {error}") from None
    stem = prefix.strip("/")
    # A run id may hold slashes; none is to lie within another run.
    run = quote(parameters.run_id, safe="")
    return EtcdAddress(members, f"{stem}/{run}" if stem else run)


def _credentials(given: Mapping[str, str]) -> EtcdCredentials:
    """Return what the settings say on top of the file that the environment names."""
    try:
        known = asdict(EtcdCredentials.of_environment(os.environ))
    except ValueError as error:
        raise ValueError(f"${CREDENTIALS_VARIABLE}: {error}") from None
    try:
        credentials = EtcdCredentials(**known | {n: given[n] for n in _CREDENTIALS if n in given})
        credentials.make_context()  # a file that is missing is found out before anything starts
    except ValueError as error:
        raise ValueError(f"rdzv_conf {error}") from None
    return credentials
