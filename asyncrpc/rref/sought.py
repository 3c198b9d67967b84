"""References to values on workers that are being looked up, and messages that wait for that.

Calls to an unknown worker wait in a peer that stands for it, whose id means nothing to others. So
a message with a reference to a value there waits as well, to whomever it goes.
"""

from __future__ import annotations

from typing import TYPE_CHECKING
from weakref import WeakSet

from asyncrpc.agent import Request, Waiting
from asyncrpc.errors import RRefCreationError

from .ids import pack_fork
from .values import Worker

if TYPE_CHECKING:
    from .reference import RRef

__all__ = ("Sought",)


class Sought:
    """What one agent has of the owners that it looks up, by the ids of their stand-ins."""

    __slots__ = ("_references", "_waiting")

    def __init__(self) -> None:
        self._references: dict[Worker, WeakSet[RRef]] = {}
        self._waiting: dict[Worker, list[tuple[Request, Waiting]]] = {}
        # Stand-in -> messages that enclose references to its values; it is in `_references`.

    def __len__(self) -> int:
        return len(self._references)

    def begin(self, stand_in: Worker) -> None:
        """Expect references to values of a worker that is being looked up."""
        self._references.setdefault(stand_in, WeakSet())

    def add(self, owner: Worker, rref: RRef) -> None:
        """Have a reference told who its owner is, unless that is known."""
        if owner in self._references:
            self._references[owner].add(rref)

    def lacks(self, request: Request) -> Worker | None:
        """Return a stand-in among the owners of what a message encloses, if there is one."""
        for fork in request.enclosed:
            if fork.owner in self._references:
                return fork.owner  # type: ignore[no-any-return]  # a Fork, which the agent knows not
        return None

    def hold(self, request: Request, waiting: Waiting) -> bool:
        """Have ``waiting`` run or fail once the owner that a message lacks is known.

        Returns:
            Whether it lacks one.
        """
        stand_in = self.lacks(request) if self._references else None
        if stand_in is not None:
            self._waiting.setdefault(stand_in, []).append((request, waiting))
        return stand_in is not None

    def found(self, stand_in: Worker, owner: Worker) -> None:
        """Tell references and messages who the owner is."""
        for rref in self._references.pop(stand_in, ()):
            rref._owner = owner
        for request, waiting in self._waiting.pop(stand_in, ()):
            _readdress(request, stand_in, owner)
            waiting.run()

    def unfound(self, stand_in: Worker, reason: str) -> None:
        """Learn that there is no such worker: what waits fails."""
        self._references.pop(stand_in, None)
        for _, waiting in self._waiting.pop(stand_in, ()):
            waiting.fail(RRefCreationError(reason))


def _readdress(request: Request, stand_in: Worker, owner: Worker) -> None:
    enclosed = []
    for fork in request.enclosed:
        new = fork._replace(owner=owner) if fork.owner == stand_in else fork
        request.replace(pack_fork(fork), pack_fork(new))
        enclosed.append(new)
    request.enclosed = enclosed
