"""Unix sockets: the file, who may use it, and when it is replaced or removed."""

from __future__ import annotations

import os
import socket
import stat
from pathlib import Path

import pytest

from asyncrpc.transport import Address, SocketNetwork
from tests.transport.links import TIMEOUT, Recorder, recorder, serving

pytestmark = pytest.mark.asyncio


@pytest.fixture
def path(tmp_path: Path) -> Path:
    """Return where the socket goes."""
    return tmp_path / "socket"


@pytest.fixture
def address(path: Path) -> Address:
    """Return its address."""
    return Address.parse(f"unix://{path}")


def listen_on(path: Path, backlog: int | None = 10) -> socket.socket:
    """Return a socket bound to ``path`` by somebody else; with ``None`` it does not listen."""
    sock = socket.socket(socket.AF_UNIX)
    sock.bind(str(path))
    if backlog is not None:
        sock.listen(backlog)
    return sock


async def test_file_is_its_owners_alone(address: Address, path: Path) -> None:
    """Only its owner may connect, whatever the umask."""
    before = os.umask(0)
    try:
        async with serving(SocketNetwork(), address):
            mode = path.stat().st_mode

            assert stat.S_ISSOCK(mode)
            assert stat.S_IMODE(mode) == 0o600
    finally:
        os.umask(before)


async def test_file_is_removed_at_close(address: Address, path: Path) -> None:
    """Nothing is left at the path, and streams live on."""
    async with serving(SocketNetwork(), address) as server:
        near, far = await server.pair()
        await server.listener.close()

        assert not path.exists()
        near.write(b"x")
        assert await recorder(far).received(1) == b"x"
        near.abort()


async def test_stale_file_is_replaced(address: Address, path: Path) -> None:
    """The socket of a process that died does not stand in the way."""
    listen_on(path).close()
    assert path.exists()

    async with serving(SocketNetwork(), address) as server:
        near, _ = await server.pair()
        near.abort()


async def test_served_file_is_not_stolen(address: Address, path: Path) -> None:
    """A socket that somebody listens on is in use."""
    with listen_on(path) as other:
        with pytest.raises(OSError, match=f"cannot listen on {address}: address already in use"):
            await SocketNetwork().listen(address, lambda _: Recorder(), max_connections=1)

        with socket.socket(socket.AF_UNIX) as client:
            client.connect(str(path))
            other.accept()[0].close()


async def test_busy_file_is_not_stolen(address: Address, path: Path) -> None:
    """Nor is one whose queue is full, and asking does not block."""
    with listen_on(path, backlog=0), socket.socket(socket.AF_UNIX) as client:
        client.connect(str(path))
        with pytest.raises(OSError, match="address already in use"):
            await SocketNetwork().listen(address, lambda _: Recorder(), max_connections=1)

        assert path.exists()


@pytest.mark.skipif(
    os.geteuid() == 0, reason="needs a user who is not root, who may connect anywhere"
)
async def test_forbidden_file_is_not_stolen(address: Address, path: Path) -> None:
    """Nor is one that this user may not ask."""
    with listen_on(path):
        path.chmod(0)
        with pytest.raises(OSError, match="address already in use"):
            await SocketNetwork().listen(address, lambda _: Recorder(), max_connections=1)


async def test_socket_of_another_type_is_not_stolen(address: Address, path: Path) -> None:
    """A datagram socket is in use too."""
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as other:
        other.bind(str(path))
        with pytest.raises(OSError, match="address already in use"):
            await SocketNetwork().listen(address, lambda _: Recorder(), max_connections=1)


async def test_other_files_are_not_touched(address: Address, path: Path) -> None:
    """Something that is no socket is left alone."""
    path.write_text("precious")
    with pytest.raises(OSError, match=f"cannot listen on {address}: address already in use"):
        await SocketNetwork().listen(address, lambda _: Recorder(), max_connections=1)

    assert path.read_text() == "precious"


async def test_successors_file_is_not_removed(address: Address, path: Path) -> None:
    """Close leaves a socket that somebody else put in the place of ours."""
    async with serving(SocketNetwork(), address) as server:
        path.unlink()
        with listen_on(path):
            await server.listener.close()

            assert path.exists()


async def test_file_that_vanished(address: Address, path: Path) -> None:
    """Close does not mind that somebody removed the file."""
    async with serving(SocketNetwork(), address):
        path.unlink()


async def test_missing_directory(tmp_path: Path) -> None:
    """A path that cannot be made is named."""
    address = Address.parse(f"unix://{tmp_path}/none/socket")
    with pytest.raises(OSError, match=f"cannot listen on {address}: no such file or directory"):
        await SocketNetwork().listen(address, lambda _: Recorder(), max_connections=1)


async def test_nobody_there(address: Address, path: Path) -> None:
    """A missing file and one that nobody serves refuse, by name."""
    with pytest.raises(ConnectionError, match=f"{address}: no such file") as missing:
        await SocketNetwork().connect(address, Recorder(), timeout=TIMEOUT)
    listen_on(path).close()
    with pytest.raises(ConnectionError, match=f"{address}: connection refused") as stale:
        await SocketNetwork().connect(address, Recorder(), timeout=TIMEOUT)

    assert isinstance(missing.value.__cause__, FileNotFoundError)
    assert isinstance(stale.value.__cause__, ConnectionRefusedError)


async def test_names(address: Address) -> None:
    """The opened end knows where it went; the accepted one where it is."""
    async with serving(SocketNetwork(), address) as server:
        near, far = await server.pair()

        assert near.peer == str(address)
        assert far.local == address.path
        near.abort()
