"""Where the agents of several nodes meet: the run's store, hosted by one of them or reached.

`Place` is what `dynamic` needs of it, `TcpPlace` the store of this package behind an endpoint that
all nodes were given. A node hosts it if it can listen there: names of hosts are not compared, since
they lie in containers. Made by the backends.
"""

from __future__ import annotations

import asyncio
import errno
import logging
import socket
from typing import Protocol, runtime_checkable

from asyncrpc.errors import AuthenticationError
from asyncrpc.store import Store, StoreConnectionError, TCPStore, TCPStoreServer
from asyncrpc.transport import SocketNetwork
from launcher.errors import RendezvousConnectionError
from launcher.rendezvous.endpoint import is_address, parse_endpoint
from launcher.rendezvous.reaching import reach

__all__ = ("HostedPlace", "LastingPlace", "Place", "SilentStoreError", "TcpPlace")

_BACKLOG = 1024
_GRACE = 0.75  # seconds that a node whose connection broke has to come back; see `Leader`
_RECONNECT = 1.0  # seconds to reach a store whose connection broke; its host may be dying
_FAREWELL = 1.0  # seconds for the others to hear that the store goes
_LOOK_AGAIN = 0.5  # seconds between two looks for a name
_IS_ELSEWHERE = (errno.EADDRINUSE, errno.EADDRNOTAVAIL)  # another one's, or another host's
_IS_SILENCE = (
    errno.ETIMEDOUT,
    errno.EHOSTUNREACH,
    errno.ENETUNREACH,
    errno.ENETDOWN,
    errno.EHOSTDOWN,
)

_logger = logging.getLogger("launcher.rendezvous")


class SilentStoreError(RendezvousConnectionError):
    """The run's store does not answer: it may go on without this node, and be back."""


class Place(Protocol):
    """A store that the agents of a run share."""

    is_host: bool
    """Whether it goes when this agent goes; known once it is open."""
    address: str
    """Where others reach this host; known once it is open."""
    url: str
    """Where workers find the store; known once it is open."""

    async def open(self, timeout: float) -> Store:
        """Reach the store.

        Args:
            timeout: seconds to try.

        Raises:
            RendezvousConnectionError: it cannot be reached; names endpoint and reason.
        """
        ...

    async def close(self) -> None:
        """Let go of the store, and tell the others first if it goes with us. Idempotent."""
        ...

    def lost(self, error: Exception, host: str) -> RendezvousConnectionError:
        """Say in the user's words that the store was lost; a `SilentStoreError` if it may be back.

        Args:
            error: how that showed.
            host: the node that hosts it, for people; empty: not known.
        """
        ...


@runtime_checkable
class HostedPlace(Place, Protocol):
    """A store that lies with one of the nodes, and can move to another one."""

    given: str
    """The endpoint that all nodes were given."""
    endpoint: str
    """Where the store is now."""

    async def offer(self) -> str:
        """Serve an empty store on this host, for the run's to move into; return its endpoint.

        Raises:
            RendezvousConnectionError: nothing can be listened at here.
        """
        ...

    async def reach(self, endpoint: str, timeout: float) -> TCPStore:
        """Connect to a store of the run at another endpoint, for the caller to close.

        Raises:
            StoreError: it cannot be reached.
            AuthenticationError: it is not this run's.
        """
        ...

    async def follow(self, endpoint: str, timeout: float) -> Store:
        """Connect to the store where it has moved to; from now on that is the store.

        Raises:
            RendezvousConnectionError: it cannot be reached.
        """
        ...

    async def settle(self) -> None:
        """Let go of the store that was followed from."""
        ...

    def contents(self) -> tuple[dict[str, bytes], dict[str, list[bytes]]]:
        """Return what the store has that hangs on no lease, values and queues; hosts only."""
        ...


@runtime_checkable
class LastingPlace(Place, Protocol):
    """A store that no agent hosts, and that outlives them all."""

    credentials: bytes
    """What workers need to be let in, as the content of a file; empty: nothing."""

    async def forget(self, kept: str) -> None:
        """Delete what the run has left in the store.

        Args:
            kept: the key that says how the run ended; it lasts for another minute.

        Raises:
            StoreError: the store was lost.
        """
        ...


class TcpPlace:
    """A store at an endpoint, hosted by whoever can listen there.

    Args:
        host: name or address that all nodes were given.
        port: that all nodes were given, 1 to 65535.
        secret: of the run.
        run_id: of the run; a store of another one is refused.
        local_addr: where others reach this host; ``None``: found out.
        is_host: whether to host it; ``None``: if this host has the address.
        read_timeout: seconds that the store may take to answer.
    """

    def __init__(
        self,
        host: str,
        port: int,
        secret: bytes,
        run_id: str,
        *,
        local_addr: str | None = None,
        is_host: bool | None = None,
        read_timeout: float = 60.0,
    ) -> None:
        self._host = "127.0.0.1" if host == "localhost" else host
        self._port = port
        self._secret = secret
        self._run_id = run_id
        self._wants_host = is_host
        self._read_timeout = read_timeout
        self._servers: list[TCPStoreServer] = []  # the last one is offered, or the run's
        self._client: TCPStore | None = None
        self._former: TCPStore | None = None  # of the store before it moved
        self._was_open = False
        self._offered = ""  # endpoint of the last of the servers, if it is for the run to move to
        self._own_host = ""  # where this node reaches its own store, if it hosts it
        self.address = local_addr or ""
        self.is_host = False
        self.given = self.endpoint = _endpoint(self._host, port)
        self.url = f"tcp://{self.endpoint}"

    async def open(self, timeout: float) -> Store:
        """Host the store or connect to it; see `Place.open`.

        Who has lost it must not begin another one for the same run, and only connects.
        """
        deadline = asyncio.get_running_loop().time() + timeout
        if not self._wants_host:
            await self._know_name(deadline)
        if self._wants_host is not False and not self._was_open:
            await self._try_to_host()
        try:
            self._client = await reach(self._connect, self.endpoint, deadline, self._read_timeout)
        except AuthenticationError as error:
            raise RendezvousConnectionError(
                f"rdzv_endpoint={self.endpoint}: the store there is not this run's: {error}; "
                f"this node's rdzv_id is {self._run_id!r}"
            ) from error
        except StoreConnectionError as error:
            raise RendezvousConnectionError(
                f"rdzv_endpoint={self.endpoint}: {error}; if its host has left the run, the others "
                "have said where they meet now"
            ) from error
        self._was_open = True
        if not self.address:
            # Others know the host of the store by the name they were given; a name may stand for
            # a loopback address in this host's own tables.
            self.address = self._host if self.is_host else self._client.local_host
        return self._client

    async def close(self) -> None:
        """Close what was opened; see `Place.close`."""
        await self.settle()
        client, self._client = self._client, None
        if client is not None:
            await client.close()
        servers, self._servers = self._servers, []
        await asyncio.gather(*(server.wait_unused(_FAREWELL) for server in servers))
        for server in servers:
            await server.close()

    def lost(self, error: Exception, host: str) -> RendezvousConnectionError:
        """Say that the store was lost; see `Place.lost`."""
        who = f"{host}, which" if host else "the node that"
        where = f"{who} hosts the run's store at {self.endpoint}"
        if _is_silence(error):
            return SilentStoreError(f"{where}, does not answer")
        return RendezvousConnectionError(f"{where}, was lost: {error}")

    async def offer(self) -> str:
        """Serve an empty store here; see `HostedPlace.offer`."""
        family = socket.AF_INET6 if ":" in self.address else socket.AF_INET
        try:
            listening = socket.create_server((self.address, 0), family=family, backlog=_BACKLOG)
        except OSError:  # the address is how others see this host, not one of its own
            try:
                listening = socket.create_server(("", 0), family=family, backlog=_BACKLOG)
            except OSError as error:
                raise RendezvousConnectionError(f"nothing can be listened at: {error}") from error
        _, port = await self._serve(listening)
        self._offered = _endpoint(self.address, port)
        return self._offered

    async def reach(self, endpoint: str, timeout: float) -> TCPStore:
        """Connect to another store of the run; see `HostedPlace.reach`."""
        host, port = parse_endpoint(endpoint, 0)
        return await TCPStore.connect(
            host, port, timeout, self._secret, run_id=self._run_id, reconnect_timeout=_RECONNECT
        )

    async def follow(self, endpoint: str, timeout: float) -> Store:
        """Go where the store has moved to; see `HostedPlace.follow`."""
        try:
            store = await self.reach(endpoint, timeout)
        except (StoreConnectionError, AuthenticationError) as error:
            raise RendezvousConnectionError(
                f"the run's store has moved from {self.endpoint} to {endpoint}: {error}"
            ) from error
        self._former, self._client = self._client, store
        self.endpoint, self.url = endpoint, f"tcp://{endpoint}"
        self.is_host = endpoint == self._offered
        return store

    async def settle(self) -> None:
        """Let go of the store that was followed from; see `HostedPlace.settle`."""
        former, self._former = self._former, None
        if former is not None:
            await former.close()

    def contents(self) -> tuple[dict[str, bytes], dict[str, list[bytes]]]:
        """Return what the store has; see `HostedPlace.contents`."""
        return self._servers[-1].contents()

    async def _connect(self, timeout: float) -> TCPStore:
        return await TCPStore.connect(
            self._own_host or self._host,
            self._port,
            timeout,
            self._secret,
            run_id=self._run_id,
            reconnect_timeout=_RECONNECT,
        )

    async def _know_name(self, deadline: float) -> None:
        """Wait until the endpoint's name is known: those of pods come to be, some time later.

        Raises:
            RendezvousConnectionError: it is not known by the deadline.
        """
        loop = asyncio.get_running_loop()
        is_told = False
        while not is_address(self._host):
            try:
                await asyncio.to_thread(socket.getaddrinfo, self._host, self._port)
            except socket.gaierror as error:
                left = deadline - loop.time()
                if left <= _LOOK_AGAIN:
                    raise RendezvousConnectionError(
                        f"rdzv_endpoint={self.given}: {self._host} is not known: {error.strerror}"
                    ) from error
                if not is_told:
                    told = "rdzv_endpoint=%s: %s is not known yet; trying for %.0f s"
                    _logger.warning(told, self.given, self._host, left)
                is_told = True
                await asyncio.sleep(_LOOK_AGAIN)
            else:
                return

    async def _try_to_host(self) -> None:
        try:
            listening = await asyncio.to_thread(self._listen)  # which may ask for a name
        except OSError as error:
            if self._wants_host is None and error.errno in (*_IS_ELSEWHERE, None):
                return
            why = (error.strerror or str(error)).partition(" (while")[0]
            advice = "; name another port, on every node" * (error.errno == errno.EADDRINUSE)
            raise RendezvousConnectionError(
                f"rdzv_endpoint={self.endpoint}: cannot listen there: {why}{advice}"
            ) from error
        host, _ = await self._serve(listening)
        self._own_host = _own_host(listening, host)
        self.is_host = True

    async def _serve(self, listening: socket.socket) -> tuple[str, int]:
        """Serve an empty store on a socket; return where it listens."""
        host, port = listening.getsockname()[:2]
        listening.setblocking(False)
        network = SocketNetwork(listening=listening)
        server = TCPStoreServer(
            host, port, self._secret, run_id=self._run_id, network=network, grace=_GRACE
        )
        try:
            await server.start()
        except BaseException:
            listening.close()
            raise
        self._servers.append(server)
        return host, port

    def _listen(self) -> socket.socket:
        """Listen at the endpoint.

        Raises:
            OSError: its name is not known, this host does not have the address, or something
                listens there already.
        """
        try:
            found = socket.getaddrinfo(
                self._host, self._port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE
            )
        except socket.gaierror as error:
            if self._wants_host and socket.has_dualstack_ipv6():
                # The name is for the others, and may need this host to be up to be known.
                return socket.create_server(
                    ("", self._port),
                    family=socket.AF_INET6,
                    backlog=_BACKLOG,
                    dualstack_ipv6=True,
                )
            raise OSError(None, f"{self._host} is not known: {error.strerror}") from error
        family, _, _, _, address = found[0]
        if not self._wants_host:
            _check_local(family, address[0])
        if not is_address(self._host):
            # What the name means here may not be where the others look for it.
            address = ("", self._port)
        return socket.create_server((str(address[0]), self._port), family=family, backlog=_BACKLOG)


def _is_silence(error: BaseException | None) -> bool:
    while error is not None:
        if isinstance(error, TimeoutError) or getattr(error, "errno", None) in _IS_SILENCE:
            return True
        error = error.__cause__
    return False


def _endpoint(host: str, port: int) -> str:
    return f"[{host}]:{port}" if ":" in host else f"{host}:{port}"


def _own_host(listening: socket.socket, host: str) -> str:
    """Return where this host reaches a socket of its own."""
    is_ipv6 = listening.family == socket.AF_INET6
    if is_ipv6 and not listening.getsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY):
        return "127.0.0.1"  # which is there also where IPv6 has no addresses
    return {"0.0.0.0": "127.0.0.1", "::": "::1"}.get(host, host)  # noqa: S104 -- not bound


def _check_local(family: int, address: str | int) -> None:
    with socket.socket(family) as probe:
        probe.bind((str(address), 0))
