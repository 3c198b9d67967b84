"""Where a group's store is: how a worker reaches it, and who serves it.

Used by `agent.starting`. Nothing here talks to other workers.
"""

from __future__ import annotations

import asyncio
import contextlib
import dataclasses
import logging
import os
import socket
import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING

from asyncrpc.observe import Clock, reminding
from asyncrpc.store import PrefixStore, Store, TCPStore, TCPStoreServer
from asyncrpc.transport import Address

if TYPE_CHECKING:  # loaded only for a group that has one
    from asyncrpc.store import EtcdStore

__all__ = ("StoreLink", "StorePlace", "route_to", "scoped")

_log = logging.getLogger("asyncrpc.discovery")

_RECONNECT = 60.0  # seconds a broken connection is tried again; one second where nobody listens
_ETCD = "etcd://"
_FILE_TIMEOUT = 1.0  # seconds for the server whose address a file holds


@dataclasses.dataclass(slots=True)
class StoreLink:
    """The store of a group, and what of it this worker must close.

    Args:
        store: a client, or what the user gave.
        where: its address, empty where it has none.
        server: the server, if it is served here.
        client: the client, if it was opened here.
        file: where its address was written, if that was done here.
        place: how it was reached; ``None`` for a store that the user gave.
    """

    store: Store
    where: str
    server: TCPStoreServer | None = None
    client: TCPStore | EtcdStore | None = None
    file: Path | None = None
    place: StorePlace | None = None

    @property
    def address(self) -> Address | None:
        """Where a server of the store listens, the first of several; ``None`` where none does."""
        if not self.where.startswith(_ETCD):
            return Address.parse(self.where) if self.where else None
        from asyncrpc.store import EtcdAddress  # noqa: PLC0415 -- it has been loaded

        return Address("tcp", *EtcdAddress.parse(self.where).members[0])

    async def reopen(self, timeout: float) -> bool:
        """Reach the store anew, or serve it where the one who did is gone.

        Returns:
            Whether there is another store now: an empty one, whose keys have to be put anew.

        Raises:
            StoreConnectionError: there is none yet.
        """
        if self.place is None:
            return False
        fresh = await self.place.open(timeout)
        await self.close()
        for field in dataclasses.fields(self):
            setattr(self, field.name, getattr(fresh, field.name))
        return True

    async def retire(self) -> None:
        """Let nobody new find the store that is served here; who is connected may go on."""
        if self.file is not None:
            with contextlib.suppress(OSError):
                if self.file.read_text().strip() == self.where:  # else it is a newer store's
                    self.file.unlink()
            self.file = None
        if self.server is not None:
            await self.server.wait_unused(0.0)

    async def stay_open(self, seconds: float) -> None:
        """Leave a store that is served here open for others to find, for a while."""
        if self.server is not None:
            await asyncio.sleep(seconds)

    async def close(self, linger: float = 0.0) -> None:
        """Close what was opened here; a served store first waits for the others to let go.

        Args:
            linger: seconds to wait for other clients to disconnect.
        """
        await self.retire()
        if self.client is not None:
            await self.client.close()
        if self.server is not None:
            if linger > 0:
                await self.server.wait_unused(linger)
            await self.server.close()


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class StorePlace:
    """Where a group's store is to be found, or to be served.

    Args:
        init_method: ``env://``, ``tcp://host:port``, ``file:///path`` or ``etcd://…``.
        rank: rank 0 serves ``tcp://``; ``None``: whoever binds it.
        secret: shared secret, or empty.
        run_id: name of the run.
        environ: ``LAUNCHER_STORE``, else ``MASTER_ADDR`` and ``MASTER_PORT`` are read from it.
        clock: by which it is told that a store does not answer.
    """

    init_method: str
    rank: int | None
    secret: bytes
    run_id: str
    environ: Mapping[str, str]
    clock: Clock

    async def open(self, timeout: float) -> StoreLink:
        """Reach the store, serving it where this worker has to.

        Args:
            timeout: seconds to reach it.

        Raises:
            ValueError: the place cannot be told from ``init_method`` and ``environ``.
            StoreConnectionError: nobody answered there in time.
            OSError: this worker should serve it and cannot bind the address.
        """
        if self.init_method.startswith("file:"):
            path = Path(self.init_method.removeprefix("file://"))
            link = await self._open_by_file(path, timeout)
        elif url := self._etcd_url():
            link = await self._open_etcd(url, timeout)
        else:
            link = await self._open_by_address(timeout)
        link.place = self
        return link

    def _etcd_url(self) -> str:
        served = self.environ.get("LAUNCHER_STORE", "") if self.init_method == "env://" else ""
        url = served or self.init_method
        return url if url.startswith(_ETCD) else ""

    async def _open_etcd(self, url: str, timeout: float) -> StoreLink:
        from asyncrpc.store import EtcdCredentials, EtcdStore  # noqa: PLC0415 -- for etcd only

        credentials = EtcdCredentials.of_environment(self.environ)
        client = await EtcdStore.connect(url, timeout, credentials)
        return StoreLink(client, str(client.address), client=client)

    async def _open_by_address(self, timeout: float) -> StoreLink:
        address, may_serve = _store_address(self.init_method, self.environ)
        if may_serve and self.rank == 0:
            return await self._serve(address.host, address.port, timeout)
        if may_serve and self.rank is None:
            with contextlib.suppress(OSError):
                return await self._serve(address.host, address.port, timeout)
        is_first = may_serve and self.rank is not None
        server = "; the worker of rank 0 serves it" if is_first else ""

        async def tell(seconds: float) -> None:
            _log.warning("no store answers at %s for %.0f s now%s", address, seconds, server)

        async with reminding(self.clock, tell):
            client = await self._connect(address.host, address.port, timeout)
        return StoreLink(client, str(address), client=client)

    async def _connect(self, host: str, port: int, timeout: float) -> TCPStore:
        return await TCPStore.connect(
            host,
            port,
            timeout=timeout,
            secret=self.secret,
            run_id=self.run_id,
            reconnect_timeout=_RECONNECT,
        )

    async def _serve(self, host: str, port: int, timeout: float) -> StoreLink:
        server = TCPStoreServer(host, port, secret=self.secret, run_id=self.run_id)
        await server.start()
        try:
            client = await self._connect(server.host, server.port, timeout)
        except BaseException:
            await server.close()
            raise
        return StoreLink(client, f"tcp://{server.host}:{server.port}", server, client)

    async def _open_by_file(self, path: Path, timeout: float) -> StoreLink:
        """Use the store whose address a file holds; serve one and write the file if nobody does."""
        import fcntl  # noqa: PLC0415 -- not on every system, and used only here

        try:
            lock = os.open(f"{path}.lock", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        except FileNotFoundError:
            raise ValueError(
                f"init_method must name a file in a folder that exists, got {self.init_method!r}"
            ) from None
        try:
            await _flock(lock, fcntl.LOCK_EX, timeout)
            link = await self._read_file(path, timeout)
            if link is not None:
                return link
            link = await self._serve("127.0.0.1", 0, timeout)
            link.file = path
            _write_file(path, link.where)
            return link
        finally:
            os.close(lock)

    async def _read_file(self, path: Path, timeout: float) -> StoreLink | None:
        try:
            address = Address.parse(path.read_text().strip())  # noqa: ASYNC240 -- one short line
            async with asyncio.timeout(_FILE_TIMEOUT):
                client = await self._connect(address.host, address.port, timeout)
        except (FileNotFoundError, ValueError, ConnectionError, TimeoutError):
            return None  # no file, or one that was left behind
        return StoreLink(client, str(address), client=client)


def route_to(host: str, port: int) -> str:
    """Return the address of this machine from which ``host`` is reached; nothing is sent."""
    try:
        family, kind, protocol, _, target = socket.getaddrinfo(
            host, port or 1, type=socket.SOCK_DGRAM
        )[0]
        with socket.socket(family, kind, protocol) as probe:
            probe.connect(target)
            return str(probe.getsockname()[0])
    except OSError:
        return "127.0.0.1"


def _store_address(init_method: str, environ: Mapping[str, str]) -> tuple[Address, bool]:
    """Return where the store is, and whether a worker has to serve it."""
    if init_method.startswith("tcp:"):
        return Address.parse(init_method), True
    if served := environ.get("LAUNCHER_STORE"):
        return Address.parse(served), False
    host, port = environ.get("MASTER_ADDR"), environ.get("MASTER_PORT")
    if not host or not port:
        raise ValueError(
            "init_method env:// needs LAUNCHER_STORE, or MASTER_ADDR and MASTER_PORT, in the "
            "environment: start the script with python -m launcher, or pass "
            'options=RpcOptions(init_method="tcp://host:port")'
        )
    shown = f"[{host}]" if ":" in host else host
    try:
        return Address.parse(f"tcp://{shown}:{port}"), True
    except ValueError as error:
        raise ValueError(f"MASTER_ADDR={host!r}, MASTER_PORT={port!r}: {error}") from error


async def _flock(descriptor: int, operation: int, timeout: float) -> None:
    import fcntl  # noqa: PLC0415 -- as above

    async with asyncio.timeout(timeout):
        while True:
            try:
                fcntl.flock(descriptor, operation | fcntl.LOCK_NB)
            except BlockingIOError:
                await asyncio.sleep(0.01)
            else:
                return


def _write_file(path: Path, text: str) -> None:
    descriptor, name = tempfile.mkstemp(dir=path.parent, prefix=path.name)
    with os.fdopen(descriptor, "w") as file:
        file.write(text + "\n")
    os.replace(name, path)


def scoped(store: Store, run_id: str, environ: Mapping[str, str], count: int) -> Store:
    """Return the part of a store that belongs to one group of one round of one run."""
    return PrefixStore(f"asyncrpc/{run_id}/{environ.get('LAUNCHER_ROUND', '0')}/{count}", store)
