"""The outlet of a client: what leaves when and together, what stays without a connection."""

from __future__ import annotations

import asyncio
from typing import cast

import pytest

from asyncrpc.store.codec import FrameReader, decode_requests
from asyncrpc.store.commands import Command, DeleteKey, NumKeys, Set
from asyncrpc.store.outlet import Outlet
from asyncrpc.transport import Stream

pytestmark = pytest.mark.asyncio


class Sink:
    """In place of a stream: keeps each frame."""

    def __init__(self) -> None:
        self.frames: list[list[tuple[int, Command]]] = []

    def write_now(self, data: bytes) -> None:
        self.frames.append(decode_requests(FrameReader(1 << 23).feed(data)))

    def numbers(self) -> list[list[int]]:
        """Return the numbers of the requests by frame."""
        return [[number for number, _ in frame] for frame in self.frames]


def make() -> tuple[Outlet, Sink]:
    """Return an outlet with a connection."""
    outlet, sink = Outlet(), Sink()
    outlet.stream = cast("Stream", sink)
    return outlet, sink


async def test_requests_of_one_turn_share_a_frame() -> None:
    """What is posted in one turn of the loop leaves together, in order, at its end."""
    outlet, sink = make()
    outlet.post(1, NumKeys())
    outlet.post(2, DeleteKey("k"))
    assert sink.frames == []
    await asyncio.sleep(0)
    outlet.post(3, NumKeys())
    await asyncio.sleep(0)

    assert sink.frames == [[(1, NumKeys()), (2, DeleteKey("k"))], [(3, NumKeys())]]


async def test_a_full_batch_leaves_before_the_turn_ends() -> None:
    """512 requests, or values of 1 MiB, wait for nothing; so does what may carry much."""
    outlet, sink = make()
    for number in range(1, 514):
        outlet.post(number, NumKeys())
    assert sink.numbers() == [[*range(1, 513)]]
    outlet.post(600, Set("k", bytes(1 << 20), 0), 1 << 20)
    assert sink.numbers()[1:] == [[513, 600]]
    outlet.post_large(601, NumKeys())

    assert sink.numbers()[2:] == [[601]]


async def test_without_a_connection_all_stays() -> None:
    """What was not sent is known, can be withdrawn, and is handed out in order."""
    outlet, sink = make()
    outlet.stream = None
    for number in (1, 2, 3):
        outlet.post(number, NumKeys())
    await asyncio.sleep(0)
    outlet.flush()
    outlet.withdraw(2)

    assert outlet.unsent() == {1, 3}
    assert outlet.take_unsent() == [(1, NumKeys()), (3, NumKeys())]
    assert outlet.unsent() == set()
    assert sink.frames == []
