"""Memory that two sides see: what is put in is shown, and nothing else can be made to be."""

from __future__ import annotations

import gc
import mmap
import os
import struct
import subprocess
import sys
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest

from asyncrpc.transport import IS_POSSIBLE, Arena, Pool, Window

pytestmark = pytest.mark.skipif(not IS_POSSIBLE, reason="needs memfd of the system")

PAGE = mmap.PAGESIZE
SIZE = 8 << 20
OFFER = struct.Struct("<QQQ16s")


@pytest.fixture
def arena() -> Iterator[Arena]:
    """Memory for buffers of a page or more."""
    made = Arena(SIZE, PAGE, Pool(SIZE * 2))
    yield made
    made.close()


def put(arena: Arena, data: bytes) -> int:
    """Put a buffer in and hand it over."""
    place = arena.take(len(data))
    assert place is not None
    assert arena.put(place, memoryview(data))
    arena.hand_over(place)
    return place


class Told:
    """Counts how often a window says that it has something."""

    def __init__(self) -> None:
        self.times = 0

    def __call__(self) -> None:
        self.times += 1


def test_buffers_are_seen(arena: Arena) -> None:
    """Each buffer is shown as it was put in, where nothing else lies, and may be written to."""
    window = Window(arena.offer, Told())
    contents = [bytes([n]) * (PAGE * n + n) for n in range(1, 5)]
    places = [put(arena, content) for content in contents]
    views = [window.show(p, len(c)) for p, c in zip(places, contents, strict=True)]
    views[0][:] = b"x" * len(views[0])

    assert contents[1:] == [bytes(view) for view in views[1:]]
    assert not views[0].readonly
    assert "B" == views[0].format
    assert 4 == arena.taken


def test_small_and_superfluous_buffers_have_no_place(arena: Arena) -> None:
    """What is below the threshold stays out, and what finds no room."""
    assert arena.take(PAGE - 1) is None
    assert arena.take(SIZE + 1) is None
    assert arena.take(SIZE) is not None
    assert arena.take(PAGE) is None


def test_pieces(arena: Arena) -> None:
    """A buffer may be put in piece by piece, whatever else is put in meanwhile."""
    first, second = arena.take(3 * PAGE), arena.take(3 << 20)
    assert first is not None
    assert second is not None
    arena.put(second + PAGE, memoryview(b"c" * ((3 << 20) - PAGE)))
    arena.put(first, memoryview(b"a" * PAGE))
    arena.put(second, memoryview(b"b" * PAGE))
    arena.put(first + PAGE, memoryview(b"d" * 2 * PAGE))
    window = Window(arena.offer, Told())

    assert b"a" * PAGE + b"d" * 2 * PAGE == bytes(window.show(first, 3 * PAGE))
    assert b"b" * PAGE + b"c" * PAGE == bytes(window.show(second, 2 * PAGE))


def test_release(arena: Arena) -> None:
    """A place is given back when the last thing is gone that was made of it without a copy."""
    told = Told()
    window = Window(arena.offer, told)
    places = [put(arena, bytes(2 * PAGE)) for _ in range(3)]
    first, second, third = [window.show(place, 2 * PAGE) for place in places]
    part = first[5:10].cast("B", (5,))
    del first, second
    gc.collect()

    assert 1 == told.times
    assert [places[1]] == window.take_released()
    del part
    thread = threading.Thread(target=third.release)  # wherever that is
    thread.start()
    thread.join()
    del third
    gc.collect()
    assert 2 == told.times
    assert [places[0], places[2]] == window.take_released()
    for place in places:
        arena.acknowledge(place)
    assert 0 == arena.taken


def test_places_in_use_are_not_shown_again(arena: Arena) -> None:
    """A place that was not acknowledged belongs to one buffer, and one acknowledged to the next."""
    window = Window(arena.offer, Told())
    place = put(arena, bytes(PAGE))
    view = window.show(place, PAGE)
    with pytest.raises(ValueError, match="has not been released"):
        window.show(place, PAGE)
    del view
    with pytest.raises(ValueError, match="has not been released"):
        window.show(place, PAGE)  # the sender was not told yet
    window.take_released()
    assert PAGE == len(window.show(place, PAGE))


@pytest.mark.parametrize(
    ("place", "length"),
    [
        (0, 1),
        (PAGE - 1, 2),
        (PAGE, SIZE + 1),
        (SIZE + PAGE, 1),
        (1 << 63, 1),
        (PAGE, 0),
        (PAGE, 1 << 63),
    ],
)
def test_no_place_outside(arena: Arena, place: int, length: int) -> None:
    """Only what lies within the buffers' part can be shown."""
    with pytest.raises(ValueError, match="do not lie in"):
        Window(arena.offer, Told()).show(place, length)


def test_only_what_was_handed_over_is_acknowledged(arena: Arena) -> None:
    """A place on which a buffer is still being put, or none ever was, cannot be acknowledged."""
    place = arena.take(PAGE)
    assert place is not None
    for wrong in (place, place + 1, 0):
        with pytest.raises(KeyError):
            arena.acknowledge(wrong)
    arena.hand_over(place)
    arena.acknowledge(place)
    with pytest.raises(KeyError):
        arena.acknowledge(place)


def test_what_is_shown_outlives_both_ends(arena: Arena) -> None:
    """Whoever has a buffer keeps it when the link is gone; nobody is told of its end then."""
    told = Told()
    window = Window(arena.offer, told)
    view = window.show(put(arena, b"y" * PAGE), PAGE)
    window.close()
    arena.close()
    arena.close()

    assert b"y" * PAGE == bytes(view)
    assert "memfd:asyncrpc" in Path("/proc/self/maps").read_text()
    del view
    assert "memfd:asyncrpc" not in Path("/proc/self/maps").read_text()
    assert 0 == told.times


MIB = 1 << 20


def test_pool() -> None:
    """Arenas of one pool take no more pages than it has; closed ones give theirs back."""
    pool = Pool(5 * MIB)
    first, second = Arena(SIZE, PAGE, pool), Arena(SIZE, PAGE, pool)
    place = first.take(3 * MIB - PAGE)
    assert place is not None
    assert first.put(place, memoryview(bytes(3 * MIB - PAGE)))
    place = second.take(4 * MIB)
    assert place is not None
    assert second.put(place, memoryview(bytes(MIB)))
    assert not second.put(place + MIB, memoryview(bytes(MIB)))
    first.close()
    assert second.put(place + MIB, memoryview(bytes(MIB)))
    assert 2 * MIB == pool.left
    second.close()
    assert 5 * MIB == pool.left


def test_unused_pages_are_given_back() -> None:
    """An arena without buffers gives its pages back block by block, and gets new ones later."""
    pool = Pool(SIZE * 2)
    arena = Arena(SIZE, PAGE, pool)
    window = Window(arena.offer, Told())
    place = put(arena, b"z" * 4 * MIB)
    left = pool.left

    assert not arena.shrink()  # the receiver has it
    window.show(place, PAGE)
    arena.acknowledge(*window.take_released())
    blocks = 0
    while arena.shrink():
        blocks += 1
    assert 4 == blocks
    assert left + 4 * MIB == pool.left
    assert resident(arena) <= MIB
    place = put(arena, b"again" * MIB)
    assert b"again" * MIB == bytes(window.show(place, 5 * MIB))
    arena.close()


def test_kept_buffers_keep_no_more_than_themselves() -> None:
    """What is seen after the end does not hold the rest of the memory."""
    arena = Arena(SIZE, PAGE, Pool(SIZE * 2))
    window = Window(arena.offer, Told())
    put(arena, b"a" * 2 * MIB)
    view = window.show(put(arena, b"b" * PAGE), PAGE)
    put(arena, b"c" * 2 * MIB)
    for place in (PAGE, PAGE + 2 * MIB + PAGE):
        window.show(place, 2 * MIB)
    for place in window.take_released():
        arena.acknowledge(place)
    copy = os.dup(arena._fd)
    arena.close()

    assert os.fstat(copy).st_blocks * 512 <= 2 * PAGE
    assert b"b" * PAGE == bytes(view)
    os.close(copy)


def resident(arena: Arena) -> int:
    """Return how much memory an arena takes from the system."""
    return os.fstat(arena._fd).st_blocks * 512


def test_no_memory(arena: Arena, monkeypatch: pytest.MonkeyPatch) -> None:
    """Where the system has no pages, that is an answer and not the signal that a write would be."""

    def refuse(*_: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "posix_fallocate", refuse)
    place = arena.take(2 << 20)
    assert place is not None
    assert not arena.put(place + (1 << 20), memoryview(bytes(PAGE)))
    with pytest.raises(OSError, match="No space"):
        Arena(SIZE, PAGE, Pool(SIZE))  # and leaves no descriptor: the fixtures of every test look


@pytest.mark.parametrize("offer", [b"", bytes(39), bytes(41), OFFER.pack(1, 1, PAGE, b"")])
def test_offers_without_sense(offer: bytes) -> None:
    """An offer that no arena makes is refused as such."""
    with pytest.raises(ValueError, match="offer of"):
        Window(offer, Told())


def test_offers_of_something_else(arena: Arena, tmp_path: Path) -> None:
    """A descriptor that is not the memory that was meant is refused, whatever it is."""
    pid, fd, size, token = OFFER.unpack(arena.offer)
    plain = os.memfd_create("plain")  # may be shrunk while it is read
    os.ftruncate(plain, size)
    os.pwrite(plain, token, 0)
    (tmp_path / "file").write_bytes(token)
    os.truncate(tmp_path / "file", size)
    others = [plain, os.open(tmp_path / "file", os.O_RDWR), *os.pipe(), os.open("/", os.O_RDONLY)]
    offers = [OFFER.pack(pid, other, size, token) for other in others]
    offers += [
        OFFER.pack(pid, fd, size, bytes(16)),
        OFFER.pack(pid, fd, size - PAGE, token),
        OFFER.pack(pid, fd, size + PAGE, token),
        OFFER.pack(pid, 1 << 40, size, token),
        OFFER.pack(1 << 40, fd, size, token),
    ]
    for offer in offers:
        with pytest.raises(OSError, match=r"/proc/|memory|Invalid argument"):
            Window(offer, Told())
    for other in others:
        os.close(other)
    Window(arena.offer, Told()).close()


def test_it_cannot_be_shrunk(arena: Arena) -> None:
    """The other side cannot take away pages that are about to be read: an access would be fatal."""
    _, fd, size, _ = OFFER.unpack(arena.offer)
    for other in (size - PAGE, 0, size + PAGE):
        with pytest.raises(PermissionError):
            os.ftruncate(fd, other)


def test_another_process_sees_it(arena: Arena) -> None:
    """A process of the same user sees the memory, writes to it, and leaves nothing behind."""
    place = put(arena, b"from here" + bytes(PAGE))
    program = (
        "import sys; from asyncrpc.transport import Window\n"
        "view = Window(bytes.fromhex(sys.argv[1]), lambda: None).show(int(sys.argv[2]), 9)\n"
        "print(bytes(view).decode()); view[:] = b'and there'"
    )
    command = [sys.executable, "-c", program, arena.offer.hex(), str(place)]
    environ = {**os.environ, "PYTHONPATH": str(Path(__file__).parents[2])}
    done = subprocess.run(command, env=environ, capture_output=True, text=True, check=True)

    assert "from here\n" == done.stdout
    assert b"and there" == bytes(arena._view[place : place + 9])
    assert not [name for name in os.listdir("/dev/shm") if "asyncrpc" in name]
