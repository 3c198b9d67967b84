"""Workers with TLS: no link without, and a stranger is told from a worker that died."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator
from pathlib import Path

import pytest
import trustme

import asyncrpc as rpc
from asyncrpc.store import MemoryStore
from tests.agent import targets
from tests.transport.links import identity

pytestmark = pytest.mark.asyncio

SECRET = b"a secret of the tests"


@pytest.fixture(scope="module")
def authority() -> trustme.CA:
    """Return an authority of our own."""
    return trustme.CA()


@contextlib.asynccontextmanager
async def pair(*settings: rpc.TlsOptions | None) -> AsyncIterator[list[rpc.RpcAgent]]:
    """Run two workers on sockets, each with its own TLS settings."""
    store = MemoryStore()
    starts = [
        rpc.RpcAgent.start(
            f"worker{rank}",
            rank=rank,
            world_size=2,
            store=store,
            options=rpc.RpcOptions(secret=SECRET, tls=tls, init_timeout=10, heartbeat_interval=0.2),
            environ={},
        )
        for rank, tls in enumerate(settings)
    ]
    agents = await asyncio.gather(*starts)
    try:
        yield agents
    finally:
        await asyncio.gather(*[agent.shutdown(graceful=False) for agent in agents])


async def refused(agent: rpc.RpcAgent, to: str) -> str:
    """Call, and return why the peer is not talked to."""
    with pytest.raises(rpc.AuthenticationError) as caught:
        await agent.rpc_async(to, targets.who, timeout=10)
    return str(caught.value)


async def test_members_of_one_authority(tmp_path: Path, authority: trustme.CA) -> None:
    """Workers with certificates of one authority call each other."""
    tls = [identity(tmp_path / name, authority, "127.0.0.1") for name in "ab"]
    async with pair(*tls) as (a, b):
        answers = [
            await a.rpc_async("worker1", targets.who),
            await b.rpc_async("worker0", targets.who),
        ]

    assert [("worker1", "worker0"), ("worker0", "worker1")] == answers


async def test_no_plain_link_from_a_worker_with_tls(tmp_path: Path, authority: trustme.CA) -> None:
    """A record with a plain address does not lead a worker with TLS to speak without."""
    async with pair(identity(tmp_path / "a", authority, "127.0.0.1"), None) as (a, b):
        why = await refused(a, "worker1")
        links = a.debug_info()["agent.connections"]
        with pytest.raises(rpc.PeerLostError, match="needs tls options"):
            await b.rpc_async("worker0", targets.who)

    assert "listens without TLS" in why
    assert "0" == links


async def test_server_of_another_authority(tmp_path: Path, authority: trustme.CA) -> None:
    """A certificate that cannot be traced is no proof of death: nobody is declared lost."""
    asyncio.get_running_loop().set_exception_handler(lambda *_: None)  # the server's loop logs it
    stranger = identity(tmp_path / "b", trustme.CA(), "127.0.0.1", trusted=authority)
    async with pair(identity(tmp_path / "a", authority, "127.0.0.1"), stranger) as (a, _):
        why = await refused(a, "worker1")
        members = [info.name for info in a.get_worker_infos()]

    assert "certificate verify failed" in why
    assert ["worker0", "worker1"] == members


async def test_client_of_another_authority(tmp_path: Path, authority: trustme.CA) -> None:
    """A worker whose own certificate is not accepted does not take the others for dead."""
    asyncio.get_running_loop().set_exception_handler(lambda *_: None)  # the server's loop logs it
    stranger = identity(tmp_path / "b", trustme.CA(), "127.0.0.1", trusted=authority)
    async with pair(identity(tmp_path / "a", authority, "127.0.0.1"), stranger) as (_, b):
        why = await refused(b, "worker0")
        members = [info.name for info in b.get_worker_infos()]

    assert "closed the connection during the handshake" in why
    assert "may not trust this worker's certificate" in why
    assert ["worker0", "worker1"] == members
