"""What an agent counts as it goes: failures and the bytes of its links.

Nothing is counted on the way of a call that succeeds; how many calls there were is known from the
ids that were given out.
"""

from __future__ import annotations

import itertools
from collections import Counter
from typing import TYPE_CHECKING

from asyncrpc.errors import RpcError, StatusCode

if TYPE_CHECKING:
    from asyncrpc.agent.connection import Connection

__all__ = ("Tally", "code_of")


class Tally:
    """The counts of one agent."""

    def __init__(self) -> None:
        self._ids = itertools.count(1)
        self.new_id = self._ids.__next__
        """Gives ids of calls, in their order."""
        self._others = 0  # ids that are not of a new call
        self.failed: Counter[StatusCode] = Counter()
        """Calls made that failed, by code; calls that were cancelled among them."""
        self.failed_served: Counter[StatusCode] = Counter()
        """Calls served that failed, by code; those that were refused among them."""
        self._links: set[Connection] = set()
        self._received = 0
        self._sent = 0  # of links that are closed

    @property
    def made(self) -> int:
        """Calls made: all that users called, or fetched by a reference."""
        # next() would use up an id, and this may be called from any thread
        following = int(repr(self._ids).removeprefix("count(").removesuffix(")"))
        return following - 1 - self._others

    def other_id(self) -> int:
        """Return an id for what is no new call of a user."""
        self._others += 1
        return self.new_id()

    # -- bytes

    def opened(self, link: Connection) -> None:
        """Count the bytes of a link from now on."""
        self._links.add(link)

    def closed(self, link: Connection) -> None:
        """Keep what a link that is closed had counted."""
        if link in self._links:
            self._received += link.received
            self._sent += link.stream.sent
            self._links.remove(link)

    @property
    def received(self) -> int:
        """Bytes received over all links to others, ever."""
        return self._received + sum([link.received for link in tuple(self._links)])

    @property
    def sent(self) -> int:
        """Bytes sent over all links to others, ever."""
        return self._sent + sum([link.stream.sent for link in tuple(self._links)])


def code_of(error: BaseException) -> StatusCode:
    """Return the code of a failure; what is no error of ours is the function's own."""
    return error.code if isinstance(error, RpcError) else StatusCode.INTERNAL
