"""How long a store that is gone is tried again: while nobody listens, no longer than a moment."""

from __future__ import annotations

import asyncio
import errno
import math
from typing import Any

import pytest

from asyncrpc.store import StoreConnectionError
from asyncrpc.store.dialing import Credentials, Dialer
from asyncrpc.transport import Address, SocketNetwork

pytestmark = pytest.mark.asyncio


class Failing:
    """A network on which each attempt fails as it is told, the last way for ever."""

    def __init__(self, *errors: OSError) -> None:
        self.errors = list(errors)

    async def connect(self, *_: object, **__: object) -> Any:
        raise self.errors.pop(0) if len(self.errors) > 1 else self.errors[0]


REFUSED = ConnectionRefusedError(errno.ECONNREFUSED, "connection refused")
RESET = ConnectionResetError(errno.ECONNRESET, "connection reset by peer")


@pytest.mark.parametrize("errors", [(REFUSED,), (RESET, REFUSED), (REFUSED, RESET, REFUSED)])
async def test_nobody_listens(errors: tuple[OSError, ...]) -> None:
    """Refusals end the attempts soon, also when a dying server had reset some before."""
    credentials = Credentials.load(b"a secret of the tests", "")
    network: Any = Failing(*errors)
    dialer = Dialer(network, Address("tcp", "127.0.0.1", 1), credentials)
    async with asyncio.timeout(5):
        with pytest.raises(StoreConnectionError, match="ECONNREFUSED"):
            await dialer.dial(math.inf, 0.05)


async def test_something_that_says_nothing() -> None:
    """It may be anything, and one attempt at it may take all the time."""

    async def listen(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.read()
        writer.close()

    credentials = Credentials.load(b"a secret of the tests", "")
    server = await asyncio.start_server(listen, "127.0.0.1", 0)
    port = server.sockets[0].getsockname()[1]
    dialer = Dialer(SocketNetwork(), Address("tcp", "127.0.0.1", port), credentials)
    async with server, asyncio.timeout(5):
        with pytest.raises(StoreConnectionError) as caught:
            await dialer.dial(0.2, math.inf)

    assert ": 1 attempt in 0.2 s, the last failed with" in str(caught.value)
    assert "did not finish the handshake in 0.2 s; something else may listen there" in str(
        caught.value
    )
