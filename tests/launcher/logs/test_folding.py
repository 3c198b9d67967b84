"""`launcher.logs.folding`: lines that several workers write are shown once, none is lost."""

from __future__ import annotations

import asyncio
import math
import random
from collections import defaultdict

import pytest

from launcher.logs import show_ranks
from launcher.logs.console import Console
from launcher.logs.folding import FoldingConsole, LineFolder
from launcher.logs.writer import Writer


def test_equal_lines_are_held_together_for_a_moment() -> None:
    """Also when a rank is behind the others, or writes a line twice."""
    folder: LineFolder[str] = LineFolder(window=1.0)
    for rank, line, now in ((0, "a", 0.0), (0, "b", 0.1), (1, "a", 0.2), (1, "a", 0.3)):
        folder.add(rank, line, now)
    early = [*folder.take(0.9)]
    due = folder.due
    first = [*folder.take(1.0)]

    assert (early, due) == ([], 1.0)
    assert first == [("a", [0, 1])]
    assert [*folder.take(1.3)] == [("b", [0]), ("a", [1])]
    assert folder.due is None


def test_a_line_that_comes_late_is_one_of_its_own() -> None:
    """The others have been shown."""
    folder: LineFolder[str] = LineFolder(window=1.0)
    folder.add(0, "a", 0.0)
    first = [*folder.take(1.0)]
    folder.add(1, "a", 1.1)

    assert first == [("a", [0])]
    assert [*folder.take(math.inf)] == [("a", [1])]


def test_there_is_a_limit_to_what_is_held() -> None:
    """The oldest are let go early."""
    folder: LineFolder[int] = LineFolder(window=1.0, most=3)
    for line in range(5):
        folder.add(0, line, 0.0)

    assert [line for line, _ in folder.take(0.0)] == [0, 1]


@pytest.mark.parametrize("seed", range(50))
def test_each_rank_has_its_lines_in_its_order(seed: int) -> None:
    """Whatever is folded, and however they come in between each other."""
    chance = random.Random(seed)
    folder: LineFolder[str] = LineFolder(window=1.0, most=20)
    written: dict[int, list[str]] = defaultdict(list)
    shown: dict[int, list[str]] = defaultdict(list)
    for step in range(300):
        rank, line = chance.randrange(4), chance.choice("abc")
        written[rank].append(line)
        folder.add(rank, line, step / 10)
        for taken, ranks in folder.take(step / 10):
            assert len({*ranks}) == len(ranks)
            for each in ranks:
                shown[each].append(taken)
    for taken, ranks in folder.take(math.inf):
        for each in ranks:
            shown[each].append(taken)

    assert shown == written


def test_ranks_for_people() -> None:
    """Runs are short."""
    assert show_ranks([0, 1, 2, 5, 7, 8]) == "0-2, 5, 7-8"


class Kept(Writer):
    """Keeps what it is given to write."""

    def __init__(self) -> None:
        super().__init__(lambda: None)
        self.texts: list[tuple[int, bytes]] = []

    def write(self, fd: int, data: bytes) -> None:
        """Keep it."""
        self.texts.append((fd, data))


def show(console: Console, rank: int, data: bytes, *, fd: int = 1, prefix: str = "") -> None:
    """Show what a worker has written, which may be no whole line."""
    owner = (rank, fd) if prefix else rank
    console.show(fd, owner, data, prefix.encode(), is_whole=data.endswith((b"\n", b"\r")))


@pytest.mark.asyncio
async def test_a_console_says_whose_a_line_is() -> None:
    """With the prefix of the first, and before the end of the line, whatever that is."""
    kept = Kept()
    console = FoldingConsole(kept)
    for rank in (2, 0, 1):
        show(console, rank, b"same\r\nprogress\r", prefix=f"[{rank}]:")
        show(console, rank, b"same\n", fd=2)
    show(console, 3, b"other\n")
    console.flush()

    assert kept.texts == [
        (1, b"[0]:same [3 workers: 0-2]\r\n"),
        (1, b"[0]:progress [3 workers: 0-2]\r"),
        (2, b"same [3 workers: 0-2]\n"),
        (1, b"other\n"),
    ]


@pytest.mark.asyncio
async def test_an_unfinished_line_is_shown_at_once_and_goes_on() -> None:
    """What came before it is shown before it."""
    kept = Kept()
    console = FoldingConsole(kept)
    show(console, 0, b"first\n")
    show(console, 0, b"name? ")
    show(console, 0, b"me\n")

    assert b"".join(text for _, text in kept.texts) == b"first\nname? me\n"


@pytest.mark.asyncio
async def test_a_console_shows_lines_by_itself() -> None:
    """Nobody has to write more for it."""
    kept = Kept()
    console = FoldingConsole(kept)
    show(console, 0, b"a\n")
    async with asyncio.timeout(5):
        while not kept.texts:
            await asyncio.sleep(0.01)

    assert kept.texts == [(1, b"a\n")]
