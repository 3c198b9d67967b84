"""How workers find each other: records in a store, and where that store is.

Used by `runtime` at start-up. Nothing here talks to other workers.
"""

from __future__ import annotations

import contextlib
import dataclasses
import os
import socket
import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Self

import msgpack

from asyncrpc.errors import DuplicateNameError, RpcTimeoutError, StoreTimeoutError
from asyncrpc.identity import INCARNATION_BYTES, WorkerInfo
from asyncrpc.store import PrefixStore, Store, TCPStore, TCPStoreServer
from asyncrpc.transport import Address

__all__ = ("Record", "StoreLink", "join_static", "open_store", "record_key", "route_to", "scoped")

_CONFLICT = b"conflict:"
"""Start of what stands in place of a record when the group cannot come together."""


@dataclasses.dataclass(frozen=True, slots=True)
class Record:
    """What a worker publishes of itself.

    Args:
        info: name and id.
        incarnation: 16 bytes that tell this run of the worker from others.
        addresses: where it listens, best first.
        host: 16 bytes, equal for workers on one machine.
        liveness: where its liveness thread listens, ``None`` if it has none.
    """

    info: WorkerInfo
    incarnation: bytes
    addresses: tuple[Address, ...]
    host: bytes
    liveness: Address | None = None

    def encode(self) -> bytes:
        """Return the form in which it lies in the store."""
        return msgpack.packb(
            {
                "name": self.info.name,
                "id": self.info.id,
                "incarnation": self.incarnation,
                "addresses": [str(a) for a in self.addresses],
                "host": self.host,
                "liveness": str(self.liveness) if self.liveness else "",
            }
        )

    @classmethod
    def decode(cls, data: bytes) -> Self:
        """Read a record.

        Raises:
            ValueError: ``data`` is no record.
        """
        try:
            fields: dict[str, Any] = msgpack.unpackb(data)
            liveness = fields["liveness"]
            record = cls(
                WorkerInfo(fields["name"], fields["id"]),
                fields["incarnation"],
                tuple(Address.parse(a) for a in fields["addresses"]),
                fields["host"],
                Address.parse(liveness) if liveness else None,
            )
        except (KeyError, TypeError, msgpack.UnpackException) as error:
            raise ValueError(f"{data[:40]!r}… is no worker record: {error}") from error
        incarnation: object = record.incarnation
        if not isinstance(incarnation, bytes) or len(incarnation) != INCARNATION_BYTES:
            raise ValueError(f"the record of {record.info.name} has no incarnation")
        if not record.addresses:
            raise ValueError(f"the record of {record.info.name} has no address")
        return record


@dataclasses.dataclass(slots=True)
class StoreLink:
    """The store of a group, and what of it this worker must close."""

    store: Store
    where: str
    server: TCPStoreServer | None = None
    client: TCPStore | None = None
    file: Path | None = None

    async def retire(self) -> None:
        """Let nobody new find the store that is served here; who is connected may go on."""
        if self.file is not None:
            with contextlib.suppress(OSError):
                if self.file.read_text().strip() == self.where:  # else it is a newer store's
                    self.file.unlink()
            self.file = None
        if self.server is not None:
            await self.server.wait_unused(0.0)

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


async def open_store(
    init_method: str,
    *,
    rank: int | None,
    secret: bytes,
    run_id: str,
    timeout: float,
    environ: Mapping[str, str],
) -> StoreLink:
    """Reach the group's store, serving it where this worker has to.

    Args:
        init_method: ``env://``, ``tcp://host:port`` or ``file:///path``.
        rank: rank 0 serves ``tcp://``; without ranks whoever binds it.
        secret: shared secret, or empty.
        run_id: name of the run.
        timeout: seconds to reach it.
        environ: ``LAUNCHER_STORE``, else ``MASTER_ADDR`` and ``MASTER_PORT`` are read from it.

    Raises:
        ValueError: the place cannot be told from ``init_method`` and ``environ``.
        StoreConnectionError: nobody answered there in time.
        OSError: this worker should serve it and cannot bind the address.
    """
    if init_method.startswith("file:"):
        return await _open_by_file(
            Path(init_method.removeprefix("file://")), secret, run_id, timeout
        )
    address, may_serve = _store_address(init_method, environ)
    if may_serve and rank == 0:
        return await _serve(address.host, address.port, secret, run_id, timeout)
    if may_serve and rank is None:
        with contextlib.suppress(OSError):
            return await _serve(address.host, address.port, secret, run_id, timeout)
    client = await TCPStore.connect(
        address.host, address.port, timeout=timeout, secret=secret, run_id=run_id
    )
    return StoreLink(client, str(address), client=client)


async def join_static(
    store: Store, record: Record, world_size: int, timeout: float, where: str
) -> list[Record]:
    """Publish ``record`` and return all records of the group once every worker has published.

    Args:
        store: scoped to this group.
        record: this worker's; its id is its rank.
        world_size: number of workers.
        timeout: seconds to wait for the others.
        where: the store's address, for messages; empty where it has none.

    Raises:
        DuplicateNameError: two workers have one name or rank.
        RpcTimeoutError: not all came in time; the message names the ranks that are missing.
    """
    keys = [record_key(rank) for rank in range(world_size)]
    mine = record.encode()
    held = await store.compare_set(keys[record.info.id], b"", mine)
    if held != mine:
        raise await _conflict(store, keys, record, held)
    try:
        await store.wait(keys, timeout)
    except StoreTimeoutError as error:
        missing = [str(rank) for rank, key in enumerate(keys) if not await store.check([key])]
        place = f" at the store {where}" if where else ""
        raise RpcTimeoutError(
            f"only {world_size - len(missing)} of {world_size} workers came within {timeout:g} s"
            f"{place}; missing rank {', '.join(missing)}",
            phase="connect",
        ) from error
    found = await store.multi_get(keys)
    for data in found:
        if data.startswith(_CONFLICT):
            raise DuplicateNameError(data.removeprefix(_CONFLICT).decode())
    records = [Record.decode(data) for data in found]
    _check_unique(records)
    return records


async def _conflict(
    store: Store, keys: Sequence[str], record: Record, held: bytes
) -> DuplicateNameError:
    """Tell everybody who waits for this group that two workers have one rank."""
    if held.startswith(_CONFLICT):
        return DuplicateNameError(held.removeprefix(_CONFLICT).decode())
    rank = record.info.id
    error = DuplicateNameError(
        f"RPC worker id {rank} is not unique: {Record.decode(held).info.name} has it, and so has "
        f"{record.info.name}"
    )
    note = _CONFLICT + str(error).encode()
    await store.set(keys[rank], note)
    for key in keys:  # they wait for these
        await store.compare_set(key, b"", note)
    return error


def _check_unique(records: Sequence[Record]) -> None:
    seen: dict[str, Record] = {}
    for record in records:
        other = seen.setdefault(record.info.name, record)
        if other is not record:
            raise DuplicateNameError(
                f"RPC worker name {record.info.name} is not unique. Workers {other.info.id} and "
                f"{record.info.id} share the same name."
            )


def record_key(rank: int) -> str:
    """Return the key of a worker's record."""
    return f"worker/{rank}"


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


async def _serve(host: str, port: int, secret: bytes, run_id: str, timeout: float) -> StoreLink:
    server = TCPStoreServer(host, port, secret=secret, run_id=run_id)
    await server.start()
    try:
        client = await TCPStore.connect(
            server.host, server.port, timeout=timeout, secret=secret, run_id=run_id
        )
    except BaseException:
        await server.close()
        raise
    return StoreLink(client, f"tcp://{server.host}:{server.port}", server, client)


async def _open_by_file(path: Path, secret: bytes, run_id: str, timeout: float) -> StoreLink:
    """Use the store whose address a file holds; serve one and write the file if nobody does."""
    import fcntl  # noqa: PLC0415 -- not on every system, and used only here

    lock = os.open(f"{path}.lock", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    try:
        await _flock(lock, fcntl.LOCK_EX, timeout)
        link = await _read_file(path, secret, run_id)
        if link is not None:
            return link
        link = await _serve("127.0.0.1", 0, secret, run_id, timeout)
        link.file = path
        _write_file(path, link.where)
        return link
    finally:
        os.close(lock)


async def _flock(descriptor: int, operation: int, timeout: float) -> None:
    import asyncio  # noqa: PLC0415 -- kept beside its only use
    import fcntl  # noqa: PLC0415 -- as above

    async with asyncio.timeout(timeout):
        while True:
            try:
                fcntl.flock(descriptor, operation | fcntl.LOCK_NB)
            except BlockingIOError:
                await asyncio.sleep(0.01)
            else:
                return


async def _read_file(path: Path, secret: bytes, run_id: str) -> StoreLink | None:
    try:
        address = Address.parse(path.read_text().strip())  # noqa: ASYNC240 -- one short line
        client = await TCPStore.connect(
            address.host, address.port, timeout=1.0, secret=secret, run_id=run_id
        )
    except (FileNotFoundError, ValueError, ConnectionError, TimeoutError):
        return None  # no file, or one that was left behind
    return StoreLink(client, str(address), client=client)


def _write_file(path: Path, text: str) -> None:
    descriptor, name = tempfile.mkstemp(dir=path.parent, prefix=path.name)
    with os.fdopen(descriptor, "w") as file:
        file.write(text + "\n")
    os.replace(name, path)


def scoped(store: Store, run_id: str, environ: Mapping[str, str], count: int) -> Store:
    """Return the part of a store that belongs to one group of one round of one run."""
    return PrefixStore(f"asyncrpc/{run_id}/{environ.get('LAUNCHER_ROUND', '0')}/{count}", store)
