"""How the agents of a run meet: handlers by backend name, and what a round consists of."""

from launcher.errors import (
    RendezvousClosedError,
    RendezvousConnectionError,
    RendezvousError,
    RendezvousGracefulExitError,
    RendezvousStateError,
    RendezvousTimeoutError,
)
from launcher.rendezvous.base import (
    Change,
    Ending,
    Outcome,
    RendezvousHandler,
    RendezvousInfo,
    RendezvousParameters,
    RendezvousStoreInfo,
    Told,
    read_name,
)
from launcher.rendezvous.endpoint import free_port
from launcher.rendezvous.registry import get_rendezvous_handler, register, unregister

__all__ = (
    "Change",
    "Ending",
    "Outcome",
    "RendezvousClosedError",
    "RendezvousConnectionError",
    "RendezvousError",
    "RendezvousGracefulExitError",
    "RendezvousHandler",
    "RendezvousInfo",
    "RendezvousParameters",
    "RendezvousStateError",
    "RendezvousStoreInfo",
    "RendezvousTimeoutError",
    "Told",
    "free_port",
    "get_rendezvous_handler",
    "read_name",
    "register",
    "unregister",
)
