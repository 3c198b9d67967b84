"""What a rendezvous is: how the agents of a run agree on a round, and what they agree on.

Values, the handler's interface and its errors. Backends implement `RendezvousHandler` and announce
themselves to the registry; the agent sees nothing else of them.
"""

from __future__ import annotations

import asyncio
import math
import time
from abc import ABC, abstractmethod
from collections.abc import Awaitable, Callable, Generator, Mapping
from typing import TYPE_CHECKING, NamedTuple

if TYPE_CHECKING:  # the name only: a backend that has a store has imported it
    from asyncrpc.store import Store

__all__ = (
    "Change",
    "Ending",
    "Outcome",
    "RendezvousHandler",
    "RendezvousInfo",
    "RendezvousParameters",
    "RendezvousStoreInfo",
    "Told",
    "read_name",
)

_MONITOR_INTERVAL = 0.1  # seconds; torchrun's


class RendezvousStoreInfo(NamedTuple):
    """Where rank 0 of a round serves what its workers meet at."""

    master_addr: str
    master_port: int
    """Free when the round began; whoever is rank 0 may listen on it."""


class _RoundFacts(NamedTuple):
    store: Store | Callable[[], Store]
    """The store, or what opens it at its first call and returns the same one each time."""
    rank: int
    """This agent's group rank, from 0."""
    world_size: int
    """Agents in the round, at least 1."""
    bootstrap_store_info: RendezvousStoreInfo
    round: int = 0
    """Rounds of the run before this one."""
    store_url: str = ""
    """Where workers find the run's store, ``tcp://host:port`` or ``etcd://host:port,…/prefix``.

    Its keys outlive rounds. Empty: there is none for them.
    """
    restarts: int = 0
    """Restarts of the run because of failures so far, the same number on every node."""


class RendezvousInfo(_RoundFacts):
    """What the agents of a round agreed on; torch's fields come first, in torch's order."""

    __slots__ = ()

    @property
    def store(self) -> Store:
        """The agents' own store of this round, empty at its begin; opened when asked for."""
        store = self[0]
        return store() if callable(store) else store


class Outcome(NamedTuple):
    """How the workers of one node ended a round."""

    failure: str = ""
    """What failed, for people; empty: all succeeded."""
    exitcode: int = 0
    """Exit status of what failed."""
    max_restarts: int = 0
    """How often failures may restart the run."""
    restart_window: float = math.inf
    """Seconds after which a restart no longer counts."""


class Change(NamedTuple):
    """The round is over, and the next one is to be joined."""

    reason: str
    """Why, for people."""
    within: float = math.inf
    """Seconds after which no worker may run any more: the others go on without this node then."""


class Ending(NamedTuple):
    """The run is over."""

    is_success: bool
    reason: str = ""
    """Why it did not succeed, for people."""
    exitcode: int = 0
    """Exit status of what failed, if workers did."""


class RendezvousParameters:
    """How to make a rendezvous handler; torch's class.

    Args:
        backend: the name it is registered under.
        endpoint: ``host[:port]`` of the run's store; empty: the backend's default.
        run_id: name of the run.
        min_nodes: agents needed for a round, at least 1.
        max_nodes: agents at most, not below `min_nodes`.
        local_addr: where other nodes reach this one; ``None``: what the run's store is reached
            from.
        alike: settings of the launch that all nodes need to have the same, by name, besides
            `min_nodes` and `max_nodes`.
        secret: the run's secret, at least 16 bytes: who does not know it cannot join; ``None``:
            made of this user's secret and the run id. Not shown by repr.
        config: the backend's own settings, by name. Of these a password is not shown by repr.

    Raises:
        ValueError: a field breaks its rule; names field, value and rule.
    """

    def __init__(
        self,
        backend: str,
        endpoint: str,
        run_id: str,
        min_nodes: int,
        max_nodes: int,
        local_addr: str | None = None,
        *,
        alike: Mapping[str, str] | None = None,
        secret: bytes | None = None,
        **config: object,
    ) -> None:
        if not backend:
            raise ValueError("backend='': expected the name of a rendezvous backend")
        if min_nodes < 1:
            raise ValueError(f"min_nodes={min_nodes}: expected at least 1")
        if max_nodes < min_nodes:
            raise ValueError(f"max_nodes={max_nodes}: expected at least min_nodes, {min_nodes}")
        self.backend = backend
        self.endpoint = endpoint
        self.run_id = run_id
        self.min_nodes = min_nodes
        self.max_nodes = max_nodes
        self.local_addr = local_addr
        self.alike: Mapping[str, str] = alike or {}
        self.secret = secret
        self.config = config

    def __repr__(self) -> str:
        shown = {name: "***" if name == "password" else v for name, v in self.config.items()}
        return (
            f"RendezvousParameters({self.backend!r}, {self.endpoint!r}, {self.run_id!r}, "
            f"{self.min_nodes}, {self.max_nodes}, {self.local_addr!r}, **{shown!r})"
        )

    def get(self, key: str, default: object = None) -> object:
        """Return a setting as it was given, `default` if it was not."""
        return self.config.get(key, default)

    def get_as_bool(self, key: str, default: bool | None = None) -> bool | None:
        """Return a setting that is true or false, `default` if it was not given.

        Raises:
            ValueError: it is neither.
        """
        value = self.config.get(key, default)
        if value is None or isinstance(value, bool):
            return value
        lowered = str(value).strip().lower()
        if lowered in ("1", "true", "t", "yes", "y"):
            return True
        if lowered in ("0", "false", "f", "no", "n"):
            return False
        raise ValueError(f"rdzv_conf {key}={value}: expected 1 or 0 (or true, false, yes, no)")

    def get_as_int(self, key: str, default: int | None = None) -> int | None:
        """Return a setting that is an integer, `default` if it was not given.

        Raises:
            ValueError: it is none.
        """
        value = self.config.get(key, default)
        try:
            return None if value is None else int(str(value))
        except ValueError:
            raise ValueError(f"rdzv_conf {key}={value}: expected an integer") from None


class Told(str):
    """What handlers tell of themselves: a text, as torch's do, that may be awaited as well."""

    __slots__ = ()

    def __await__(self) -> Generator[None, None, str]:
        """Return the text; nothing is waited for."""
        yield from ()
        return str(self)


def read_name(told: str | Awaitable[str]) -> str:
    """Return what a handler tells, whether its method is a plain one or a coroutine function.

    Args:
        told: what the method returned.

    Raises:
        TypeError: it waits for something: a name is known from the start.
    """
    if isinstance(told, str):
        return told
    steps = told.__await__()
    try:
        next(steps)
    except StopIteration as end:
        return str(end.value)
    steps.close()
    raise TypeError("get_backend and get_run_id of a rendezvous handler cannot wait for anything")


class RendezvousHandler(ABC):
    """How one agent takes part in the rounds of a run.

    What is abstract is all that a backend must have; it is then asked again and again whether
    nodes wait, and restarts are counted for each node by itself. A backend that knows better also
    has `report` and `round_over`.
    """

    _ended: asyncio.Future[Change | Ending] | None = None  # what `report` decided, until told
    _restarted: tuple[float, ...] = ()  # when the restarts were that `report` allowed

    @property
    def use_agent_store(self) -> bool:
        """Whether `store` is what MASTER_ADDR:MASTER_PORT leads to; torch's, False here too.

        ``--torch-store`` serves one there whatever the backend is.
        """
        return False

    @abstractmethod
    def get_backend(self) -> str | Awaitable[str]:
        """Name the backend; like the next one, a coroutine function or, as torch's, a plain one.

        What the package's own handlers return is a text that may be awaited.
        """

    @abstractmethod
    def get_run_id(self) -> str | Awaitable[str]:
        """Name the run."""

    @abstractmethod
    async def next_rendezvous(self) -> RendezvousInfo:
        """Join the next round and wait until it is complete.

        Returns:
            What the agents of the round agreed on.

        Raises:
            RendezvousClosedError: the run is over.
            RendezvousGracefulExitError: the run is over and has succeeded, without this node.
            RendezvousTimeoutError: too few nodes came in time; names who is missing.
            RendezvousConnectionError: the place they meet at cannot be reached, or the address it
                is to be served on is taken.
        """

    @abstractmethod
    async def is_closed(self) -> bool:
        """Say whether the run is over, for every agent."""

    @abstractmethod
    async def set_closed(self) -> None:
        """Declare the run over, for every agent."""

    @abstractmethod
    async def num_nodes_waiting(self) -> int:
        """Count the nodes that wait for the next round."""

    @abstractmethod
    async def shutdown(self) -> bool:
        """End the run and release what the handler holds; harmless when repeated.

        Returns:
            Whether everything was released in order.
        """

    async def report(self, outcome: Outcome) -> None:
        """Tell the others how this node's workers ended the round; `round_over` has the answer.

        Args:
            outcome: none of the workers runs any more.
        """
        self._decision().set_result(self._decide(outcome))

    async def round_over(self) -> Change | Ending:
        """Wait until the round that was joined last cannot go on.

        Returns:
            What follows.

        Raises:
            RendezvousConnectionError: the place where agents meet was lost.
        """
        decision = self._decision()
        while not decision.done():
            await asyncio.wait({decision}, timeout=_MONITOR_INTERVAL)
            if not decision.done() and await self.num_nodes_waiting() > 0:
                return Change("other nodes wait to join")
        self._ended = None
        return decision.result()

    def alive_until(self) -> float:
        """Return until when the others wait for this node, should it say nothing from now on.

        Returns:
            Seconds of ``time.monotonic``; then none of its workers may run. Infinite: for ever.
        """
        return math.inf

    def store_credentials(self) -> bytes:
        """Return what the workers need to be let into the run's store beside the run's secret.

        Returns:
            Content of the file that ``ASYNCRPC_STORE_CREDENTIALS`` names to them; empty: nothing.
        """
        return b""

    async def missing(self) -> tuple[str, ...]:
        """Name the nodes of the round whose workers have not all ended, for people."""
        return ()

    async def progress(self) -> str:
        """Say how far `next_rendezvous` has come, for people; "" if that is not known."""
        return ""

    async def leave(self) -> None:  # noqa: B027 -- alone there is nobody to tell
        """Tell the others at once that this node goes; `close` follows."""

    async def close(self) -> None:  # noqa: B027 -- holding nothing is a sound default
        """Release what the handler holds and leave the run open to the others; may be repeated.

        Called instead of `shutdown` when a signal stopped this agent.
        """

    def _decision(self) -> asyncio.Future[Change | Ending]:
        if self._ended is None:
            self._ended = asyncio.get_running_loop().create_future()
        return self._ended

    def _decide(self, outcome: Outcome) -> Change | Ending:
        if not outcome.failure:
            return Ending(is_success=True)
        now = time.monotonic()
        spent = sum(now - at < outcome.restart_window for at in self._restarted)
        if spent >= outcome.max_restarts:
            return Ending(is_success=False, exitcode=outcome.exitcode)
        self._restarted = (*self._restarted, now)
        return Change(outcome.failure)

    @property
    def restarts(self) -> int:
        """Restarts because of failures that `report` allowed."""
        return len(self._restarted)
