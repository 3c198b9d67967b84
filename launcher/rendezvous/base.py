"""What a rendezvous is: how the agents of a run agree on a round, and what they agree on.

Values, the handler's interface and its errors. Backends implement `RendezvousHandler` and announce
themselves to the registry; the agent sees nothing else of them.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, NamedTuple

if TYPE_CHECKING:  # the name only: a backend that has a store has imported it
    from asyncrpc.store import Store

__all__ = (
    "RendezvousHandler",
    "RendezvousInfo",
    "RendezvousParameters",
    "RendezvousStoreInfo",
)


class RendezvousStoreInfo(NamedTuple):
    """Where rank 0 of a round serves what its workers meet at."""

    master_addr: str
    master_port: int
    """Free when the round began; whoever is rank 0 may listen on it."""


class RendezvousInfo(NamedTuple):
    """What the agents of a round agreed on."""

    rank: int
    """This agent's group rank, from 0."""
    world_size: int
    """Agents in the round, at least 1."""
    bootstrap_store_info: RendezvousStoreInfo
    round: int
    """Rounds of the run before this one."""
    store_url: str
    """Where workers find the run's store, ``tcp://host:port``; its keys outlive rounds."""
    open_store: Callable[[], Store]
    """Returns `store`, the same one each time; opened by the first call."""

    @property
    def store(self) -> Store:
        """The agents' own store of this round, empty at its begin; opened when asked for."""
        return self.open_store()


@dataclass(frozen=True, slots=True)
class RendezvousParameters:
    """How to make a rendezvous handler.

    Args:
        backend: the name it is registered under.
        endpoint: ``host[:port]`` of the run's store; empty: the backend's default.
        run_id: name of the run.
        min_nodes: agents needed for a round, at least 1.
        max_nodes: agents at most, not below `min_nodes`.
        secret: the run's secret, at least 16 bytes: who does not know it cannot join; ``None``:
            made of this user's secret and the run id. Not shown by repr.
        config: the backend's own settings, by name.

    Raises:
        ValueError: a field breaks its rule; names field, value and rule.
    """

    backend: str
    endpoint: str
    run_id: str
    min_nodes: int
    max_nodes: int
    secret: bytes | None = field(default=None, repr=False, kw_only=True)
    config: Mapping[str, str] = field(default_factory=dict, kw_only=True)

    def __post_init__(self) -> None:
        if not self.backend:
            raise ValueError("backend='': expected the name of a rendezvous backend")
        if self.min_nodes < 1:
            raise ValueError(f"min_nodes={self.min_nodes}: expected at least 1")
        if self.max_nodes < self.min_nodes:
            raise ValueError(
                f"max_nodes={self.max_nodes}: expected at least min_nodes, {self.min_nodes}"
            )


class RendezvousHandler(ABC):
    """How one agent takes part in the rounds of a run."""

    @abstractmethod
    def get_backend(self) -> str:
        """Name the backend."""

    @abstractmethod
    def get_run_id(self) -> str:
        """Name the run."""

    @abstractmethod
    async def next_rendezvous(self) -> RendezvousInfo:
        """Join the next round and wait until it is complete.

        Returns:
            What the agents of the round agreed on.

        Raises:
            RendezvousClosedError: the run is over.
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

    async def close(self) -> None:  # noqa: B027 -- holding nothing is a sound default
        """Release what the handler holds and leave the run open to the others; may be repeated.

        Called instead of `shutdown` when a signal stopped this agent.
        """
