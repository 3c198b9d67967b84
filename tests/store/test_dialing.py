"""How long a store that is gone is tried again: while nobody listens, no longer than a moment."""

from __future__ import annotations

import asyncio
import errno
import math
from typing import Any

import pytest

from asyncrpc.store import StoreConnectionError
from asyncrpc.store.dialing import Credentials, Dialer
from asyncrpc.transport import Address

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
