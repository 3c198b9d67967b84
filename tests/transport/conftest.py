"""Links of every kind, and certificates for those that need them."""

from __future__ import annotations

from collections.abc import AsyncIterator
from pathlib import Path

import pytest
import pytest_asyncio
import trustme

from asyncrpc.transport import Address, Network, TlsOptions
from tests.transport.links import KINDS, Server, identity, network_of, serving


@pytest.fixture(scope="session")
def authority() -> trustme.CA:
    """Return an authority of our own."""
    return trustme.CA()


@pytest.fixture(scope="session")
def member(tmp_path_factory: pytest.TempPathFactory, authority: trustme.CA) -> TlsOptions:
    """Return options with a certificate for 127.0.0.1 and worker.test."""
    directory = tmp_path_factory.mktemp("tls") / "member"
    return identity(directory, authority, "127.0.0.1", "worker.test")


@pytest.fixture(params=KINDS)
def place(
    request: pytest.FixtureRequest, tmp_path: Path, member: TlsOptions
) -> tuple[Network, Address]:
    """Return a network and an address to listen on, of each kind in turn."""
    return network_of(request.param, tmp_path, member)


@pytest_asyncio.fixture
async def server(place: tuple[Network, Address]) -> AsyncIterator[Server]:
    """Return a server of each kind in turn."""
    async with serving(*place) as server:
        yield server
