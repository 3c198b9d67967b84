"""Reaching a store's server: one authenticated stream, tried until it stands or time is up.

Used by `client`, for the first connection and for each one after it broke.
"""

from __future__ import annotations

import asyncio
import errno
import math
import os
import random
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from asyncrpc.errors import (
    AuthenticationError,
    Delivery,
    RemoteProtocolError,
    StoreConnectionError,
)
from asyncrpc.identity import new_incarnation
from asyncrpc.secret import load_secret, run_digest, run_key
from asyncrpc.transport import Address, Greeter, Network, Stream
from asyncrpc.wire import Handshake, Hello, Purpose

__all__ = ("Credentials", "Dialer")

_FIRST_DELAY = 0.01  # seconds: a server started at the same time is there in a moment
_MAX_DELAY = 0.5
_ATTEMPT_TIMEOUT = 5.0
_LEAST = 0.02  # seconds left for one more attempt: a shorter one would hide why the others failed
_PROTOCOL_ERRORS = 3  # after which the peer is taken for something else than a store


@dataclass(frozen=True, slots=True)
class Credentials:
    """What proves a member of a run: key, and digest of the run id."""

    key: bytes
    run_id: bytes
    is_open: bool

    @classmethod
    def load(cls, secret: bytes | Path | None, run_id: str | None) -> Credentials:
        """Find the secret and the run id as API "Security" says.

        Raises:
            ValueError: the secret breaks its rule.
            TypeError: the run id is no str.
        """
        if run_id is None:
            run_id = os.environ.get("TORCHELASTIC_RUN_ID", "")
        if not isinstance(run_id, str):
            raise TypeError(f"run_id must be a str or None, got {type(run_id).__name__}")
        found = load_secret(secret, os.environ)
        return cls(run_key(found, run_id), run_digest(run_id), not found)

    def check_address(self, address: Address) -> None:
        """Refuse to leave this machine without a secret.

        Raises:
            ValueError: there is no secret and others could reach the address.
        """
        if self.is_open and not address.is_local:
            raise ValueError(
                f"secret must not be empty for {address}: without one only loopback is allowed"
            )

    def handshake(self, *, is_client: bool, incarnation: bytes) -> Handshake:
        """Return one side of the exchange that opens a connection."""
        hello = Hello(
            purpose=Purpose.STORE,
            run_id=self.run_id,
            incarnation=incarnation,
            host=bytes(16),  # stores share no memory
        )
        return Handshake(key=self.key, hello=hello, is_client=is_client)


class Dialer:
    """Opens streams to one server.

    Args:
        network: opens the streams.
        address: of the server.
        credentials: of this side.
        jitter: gives numbers from 0 to 1 that spread the attempts of many clients.
    """

    def __init__(
        self,
        network: Network,
        address: Address,
        credentials: Credentials,
        *,
        jitter: Callable[[], float] = random.random,
    ) -> None:
        self.address = address
        self._network = network
        self._credentials = credentials
        self._incarnation = new_incarnation()
        self._jitter = jitter

    async def dial(self, timeout: float, refused_timeout: float) -> tuple[Stream, bytes, bytes]:
        """Try until the server lets us in.

        Args:
            timeout: seconds to try, above 0; infinity for no limit.
            refused_timeout: seconds to try while each answer is that nobody listens there.

        Returns:
            The stream, paused; the incarnation of the server; bytes it sent already.

        Raises:
            AuthenticationError: at once, when the server does not know our secret or run.
            StoreConnectionError: time is up, or something else than a store listens there.
        """
        loop = asyncio.get_running_loop()
        start = loop.time()
        attempts = protocol_errors = 0
        give_up = start + timeout
        refused_until = math.inf  # given up then, if nothing but refusals comes from here on
        while True:
            attempts += 1
            try:
                remaining = max(start + timeout - loop.time(), _LEAST)
                return await self._attempt(min(_ATTEMPT_TIMEOUT, remaining))
            except AuthenticationError:
                raise
            except (OSError, RemoteProtocolError) as error:
                last = error
            # Of a stream that merely closed the delivery is UNKNOWN: that may have been the net.
            protocol_errors += (
                isinstance(last, RemoteProtocolError) and last.delivery is Delivery.NOT_SENT
            )
            if _errno(last) != errno.ECONNREFUSED:
                refused_until = math.inf
            elif refused_until == math.inf:
                # a server that dies may reset a connection or two before nobody listens any more
                refused_until = loop.time() + refused_timeout
            delay = min(_FIRST_DELAY * 2 ** min(attempts - 1, 10), _MAX_DELAY)
            delay *= 0.5 + self._jitter() / 2
            is_over = loop.time() + delay + _LEAST >= min(give_up, refused_until)
            if is_over or protocol_errors >= _PROTOCOL_ERRORS:
                raise self._failure(last, attempts, loop.time() - start) from last
            await asyncio.sleep(delay)

    def make_handshake(self) -> Handshake:
        """Return this side's machine for one connection."""
        return self._credentials.handshake(is_client=True, incarnation=self._incarnation)

    async def _attempt(self, timeout: float) -> tuple[Stream, bytes, bytes]:
        handshake = self.make_handshake()
        greeter = Greeter(handshake)
        stream = await self._network.connect(self.address, greeter, timeout=timeout)
        try:
            hello = await greeter.greet(stream, timeout)
        except TimeoutError as error:
            raise TimeoutError(f"{error}; something else may listen there") from error
        return stream, hello.incarnation, handshake.leftover

    def _failure(self, last: Exception, attempts: int, span: float) -> StoreConnectionError:
        number = _errno(last)
        tries = "1 attempt" if attempts == 1 else f"{attempts} attempts"
        name = f" [{errno.errorcode.get(number, number)}]" if number else ""
        return StoreConnectionError(
            f"cannot reach the store at {self.address}: {tries} in {span:.1f} s, "
            f"the last failed with{name} {last}",
            delivery=Delivery.NOT_SENT,
            attempts=attempts,
            errno=number,
        )


def _errno(error: BaseException) -> int | None:
    while True:
        number = getattr(error, "errno", None)
        if isinstance(number, int):
            return number
        if error.__cause__ is None:
            return None
        error = error.__cause__
