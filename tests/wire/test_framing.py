"""Frames and the reader: what arrives, however the bytes are cut, and what a bad peer can do."""

from __future__ import annotations

import math
import random
from collections.abc import Callable, Iterable, Iterator
from typing import NamedTuple

import pytest
from hypothesis import given
from hypothesis import strategies as st

from asyncrpc.errors import MessageTooLargeError, RemoteProtocolError
from asyncrpc.wire import (
    ABORT,
    BUFFERS,
    CHUNK_SIZE,
    DEDUP,
    FIRST,
    HEADER,
    Frame,
    FrameReader,
    MessageType,
    Transfer,
    encode_frame,
    new_scratch,
)
from asyncrpc.wire.frame import MAX_BUFFERS, MAX_FRAME

CALL = int(MessageType.PYTHON_CALL)
CHUNK = int(MessageType.CHUNK)
LIMIT = 1 << 30


class Got(NamedTuple):
    """A frame whose views were copied while they were valid."""

    kind: int
    call: int
    body: bytes
    flags: int = 0
    depth: int = 0
    function: int = 0
    remaining: float = 0.0
    meta: bytes = b""
    buffers: tuple[bytes, ...] = ()


def keep(frame: Frame) -> Got:
    """Copy a frame."""
    kind, flags, depth, call, function, remaining, meta, body, buffers = frame
    return Got(
        kind=kind,
        call=call,
        body=bytes(body),
        flags=flags & ~BUFFERS,
        depth=depth,
        function=function,
        remaining=remaining,
        meta=bytes(meta or b""),
        buffers=tuple(map(bytes, buffers)),
    )


def encode(got: Got) -> bytes:
    """Return the frame that is read as ``got``."""
    return encode_frame(
        got.kind,
        got.call,
        got.body,
        flags=got.flags,
        depth=got.depth,
        function=got.function,
        remaining=got.remaining,
        meta=got.meta,
        buffers=[memoryview(buffer) for buffer in got.buffers],
    )


def feed(reader: FrameReader, data: bytes, sizes: Iterable[int] = ()) -> list[Got]:
    """Let the reader receive ``data`` in reads of at most ``sizes`` bytes, then as it likes."""
    found: list[Got] = []
    view = memoryview(data)
    cuts = iter(sizes)
    while view:
        room = reader.get_buffer()
        count = min(len(view), len(room), next(cuts, len(view)))
        room[:count] = view[:count]
        found += map(keep, reader.received(count))
        view = view[count:]
    return found


def read(data: bytes, sizes: Iterable[int] = ()) -> list[Got]:
    """Return the frames in ``data``."""
    return feed(FrameReader(max_message_size=LIMIT), data, sizes)


def ones() -> Iterator[int]:
    """Cut into single bytes."""
    while True:
        yield 1


def transfer_of(
    *sections: bytes | memoryview, call: int = 7, ident: int = 1, kind: int = CALL
) -> Transfer:
    """Return a transfer of a message without a map and with these sections after it."""
    transfer = Transfer(HEADER.pack(0, kind, 0, 0, call, 0, 0, 0.0), (b"", *sections), call=call)
    transfer.ident = ident
    return transfer


def chunks_of(transfer: Transfer) -> list[bytes]:
    """Return all frames of a transfer."""
    chunks = []
    while (parts := transfer.next_chunk()) is not None:
        chunks.append(b"".join(parts))
    return chunks


def describe(*lengths: int, ident: int = 1, header: bytes | None = None) -> bytes:
    """Return the first chunk of a transfer that announces sections of these lengths."""
    payload = HEADER.pack(0, CALL, 0, 0, 7, 0, 0, 0.0) if header is None else header
    payload += b"".join(length.to_bytes(8, "little") for length in lengths)
    return HEADER.pack(len(payload), CHUNK, FIRST, 0, ident, 0, 0, 0.0) + payload


def chunk(data: bytes, ident: int = 1) -> bytes:
    """Return a following chunk."""
    return HEADER.pack(len(data), CHUNK, 0, 0, ident, 0, 0, 0.0) + data


def pattern(size: int, seed: int = 1) -> bytes:
    """Return bytes in which a shift or a mix-up shows."""
    period = bytes((index * seed + index // 251) % 256 for index in range(4 * 251))
    return (period * (size // len(period) + 1))[:size]


FRAMES = [
    Got(CALL, 1, b""),
    Got(CALL, 2, b"small", depth=3, function=9, remaining=1.5),
    Got(int(MessageType.PYTHON_RET), 2**64 - 1, pattern(300), flags=DEDUP, meta=b"\x81\xa1a\x01"),
    Got(CALL, 3, b"body", buffers=(b"one", b"", pattern(5000))),
    Got(CALL, 4, b"", meta=b"map", buffers=(pattern(40_000, 3), b"x")),
    Got(CALL, 5, pattern(100_000, 5)),
    Got(CALL, 6, pattern(CHUNK_SIZE - 1, 7)),
    Got(CALL, 7, b"last"),
]


@pytest.mark.parametrize("got", FRAMES, ids=range(len(FRAMES)))
def test_frame_arrives_whole(got: Got) -> None:
    """One frame alone is read as it was written."""
    assert read(encode(got)) == [got]


def test_frames_fed_whole() -> None:
    """Frames back to back are read in order, whatever their size."""
    assert read(b"".join(map(encode, FRAMES))) == FRAMES


def test_frames_fed_bytewise() -> None:
    """A byte at a time is enough."""
    some = [FRAMES[index] for index in (0, 1, 2, 3, 7)]

    assert read(b"".join(map(encode, some)), ones()) == some


def test_frames_with_a_tail() -> None:
    """Every cut of two frames gives the first as soon as it is complete, and loses nothing."""
    first, second = Got(CALL, 1, pattern(50)), Got(CALL, 2, pattern(200, 3), meta=b"m")
    data = encode(first) + encode(second)
    for cut in range(1, len(data)):
        reader = FrameReader(max_message_size=LIMIT)

        assert feed(reader, data[:cut]) == [first] * (cut >= len(encode(first)))
        assert feed(reader, data[cut:]) == [first] * (cut < len(encode(first))) + [second]


@pytest.mark.slow
@given(st.data())
def test_frames_in_random_cuts(data: st.DataObject) -> None:
    """Any mix of frames, cut anywhere, is read as it was written."""
    blobs = st.integers(0, 20_000).map(pattern)
    gots = data.draw(
        st.lists(
            st.builds(
                Got,
                kind=st.sampled_from([CALL, int(MessageType.PING), 0xFFFF]),
                call=st.integers(0, 2**64 - 1),
                body=blobs,
                flags=st.sampled_from([0, DEDUP]),
                depth=st.integers(0, 255),
                function=st.integers(0, 2**32 - 1),
                remaining=st.floats(0, allow_infinity=True),
                meta=st.binary(max_size=30),
                buffers=st.lists(blobs, max_size=4).map(tuple),
            ),
            max_size=8,
        )
    )
    sizes = data.draw(st.lists(st.integers(1, 9000), max_size=60))

    assert read(b"".join(map(encode, gots)), sizes) == gots


@pytest.mark.parametrize("size", [1, 7, 31, 32, 33, 100, 5000, 70_000])
def test_frames_handled_by_the_caller(size: int) -> None:
    """A caller may take whole frames from the front itself while no frame has begun."""
    plain = [Got(CALL, index, pattern(index)) for index in range(60)]
    expected = [*plain[:30], *FRAMES, *plain[30:]]
    data = b"".join(map(encode, expected))
    reader = FrameReader(max_message_size=LIMIT)
    found: list[Got] = []
    taken = 0
    while data:
        room = reader.get_buffer()
        count = min(size, len(data), len(room))
        room[:count] = data[:count]
        data = data[count:]
        handled = 0
        while reader.is_between and count - handled >= HEADER.size:
            header = HEADER.unpack_from(reader.view, handled)
            length, kind, flags, depth, call, function, meta, remaining = header
            body = handled + HEADER.size
            if body + length > count or flags or meta:
                break
            handled = body + length
            content = reader.view[body:handled]
            found.append(keep((kind, 0, depth, call, function, remaining, None, content, ())))
            taken += 1
        if handled < count:
            found += map(keep, reader.received(count, handled))

    assert expected == found
    assert (taken > 0) == (size >= HEADER.size)


@pytest.mark.parametrize("seed", range(30))
def test_readers_share_the_scratch_memory(seed: int) -> None:
    """Two streams in random cuts through one scratch memory, and neither loses to the other."""
    choose = random.Random(seed)
    scratch = new_scratch()
    streams = []
    for number in (1, 2):
        sizes = [choose.choice((0, 10, 500, 20_000)) for _ in range(choose.randint(1, 6))]
        frames = [Got(CALL, index, pattern(size, number)) for index, size in enumerate(sizes)]
        large = transfer_of(b"body", pattern(300_000, number))
        whole = b"".join([*map(encode, frames), *chunks_of(large), *map(encode, frames)])
        reader = FrameReader(max_message_size=LIMIT, scratch=scratch)
        streams.append((reader, frames, whole, [0], list[Got]()))
    while any(at[0] < len(whole) for _, _, whole, at, _ in streams):
        for reader, _, whole, at, found in streams:
            most = choose.choice((1, 30, 5_000, 70_000, 1 << 20))
            found.extend(feed_once(reader, whole, at, most))
            scratch[:] = bytes(scratch.nbytes)

    for number, (_, frames, _, _, found) in enumerate(streams, start=1):
        assert frames == found[: len(frames)] == found[len(frames) + 1 :]
        assert (bytes(pattern(300_000, number)),) == found[len(frames)].buffers


def feed_once(reader: FrameReader, whole: bytes, at: list[int], most: int) -> list[Got]:
    """Let the reader receive once at most ``most`` bytes of those that are left."""
    if at[0] == len(whole):
        return []
    room = reader.get_buffer()
    count = min(len(whole) - at[0], len(room), most)
    room[:count] = whole[at[0] : at[0] + count]
    at[0] += count
    return [keep(frame) for frame in reader.received(count)]


@pytest.mark.parametrize(("kind", "answers"), [(MessageType.PYTHON_RET, True), (CALL, False)])
def test_a_reply_on_its_way_in(kind: int, answers: bool) -> None:
    """A reader knows the calls whose large replies have begun to come; requests are none."""
    reader = FrameReader(max_message_size=LIMIT)
    first, *others = chunks_of(transfer_of(b"x" * (1 << 20), call=7, kind=int(kind)))
    feed(reader, first)
    seen = [reader.answers(7), reader.answers(8)]
    feed(reader, b"".join(others))
    seen.append(reader.answers(7))

    assert [answers, False, False] == seen


def test_a_reader_between_frames_has_no_memory_of_its_own() -> None:
    """Idle peers cost no scratch memory; what stops within a frame does."""
    scratch = new_scratch()
    reader = FrameReader(max_message_size=LIMIT, scratch=scratch)
    one = encode(Got(CALL, 1, b"x" * 10))
    feed(reader, one * 3)
    idle = reader.view
    feed(reader, one[:-1])

    assert idle is scratch
    assert reader.view is not scratch
    assert [Got(CALL, 1, b"x" * 10)] == feed(reader, one[-1:])


def test_views_survive_the_rest_of_their_read() -> None:
    """A partial frame behind a whole one does not overwrite it before the next call."""
    first, second = Got(CALL, 1, pattern(40)), Got(CALL, 2, pattern(4000, 3))
    data = encode(first) + encode(second)[:3000]
    reader = FrameReader(max_message_size=LIMIT)
    reader.get_buffer()[: len(data)] = data

    (frame,) = reader.received(len(data))

    assert keep(frame) == first
    assert feed(reader, encode(second)[3000:]) == [second]


def test_buffers_may_be_kept() -> None:
    """Body and buffers of a frame with buffers have memory of their own, and it is writable."""
    data = encode(Got(CALL, 1, b"body", buffers=(b"abc", b"de")))
    reader = FrameReader(max_message_size=LIMIT)
    reader.get_buffer()[: len(data)] = data
    (frame,) = reader.received(len(data))

    feed(reader, encode(Got(CALL, 2, b"\xff" * 500)))

    assert [bytes(buffer) for buffer in frame[8]] == [b"abc", b"de"]
    assert [buffer.readonly for buffer in frame[8]] == [False, False]


def test_room_is_never_empty() -> None:
    """Frames of every size up to the scratch memory's leave room for more."""
    reader = FrameReader(max_message_size=LIMIT)
    for size in (0, 1, 8191, 8192, 8193, 65_503, 65_504, 65_505, 65_536, 70_000):
        got = Got(CALL, size, pattern(size))

        assert feed(reader, encode(got)) == [got]
        assert len(reader.get_buffer()) > 0


# --- transfers


def test_transfer_of_many_sections() -> None:
    """Map, body and buffers arrive as they are, empty ones too, none in the middle of another."""
    sections = (b"", pattern(3), b"", b"", pattern(CHUNK_SIZE, 3), pattern(CHUNK_SIZE + 1, 7), b"")
    header = HEADER.pack(0, CALL, DEDUP, 4, 11, 12, 0, 2.5)

    chunks = chunks_of(Transfer(header, (b"map", *sections), call=11))

    assert read(b"".join(chunks)) == [Got(CALL, 11, b"", DEDUP, 4, 12, 2.5, b"map", sections[1:])]
    assert max(map(len, chunks)) == CHUNK_SIZE + HEADER.size


def test_transfer_of_empty_sections() -> None:
    """A transfer without any byte is over with its description."""
    assert read(b"".join(chunks_of(transfer_of(b"", b"")))) == [Got(CALL, 7, b"", buffers=(b"",))]


def test_transfer_bytewise() -> None:
    """Chunks may arrive a byte at a time."""
    sections = (b"body", b"", pattern(30))

    assert read(b"".join(chunks_of(transfer_of(*sections))), ones()) == [
        Got(CALL, 7, b"body", buffers=(b"", pattern(30)))
    ]


@pytest.mark.slow
@given(st.data())
def test_interleaved_transfers(data: st.DataObject) -> None:
    """Chunks of several transfers, small frames between them, any cuts: all arrive."""
    expected, queues = [], []
    for ident in range(data.draw(st.integers(1, 5))):
        sizes = data.draw(st.lists(st.sampled_from([0, 1, 77, 5000, CHUNK_SIZE + 5]), max_size=3))
        sections = [pattern(size, ident + 1) for size in sizes]
        expected.append(Got(CALL, ident, b"body", buffers=tuple(sections)))
        queues.append(chunks_of(transfer_of(b"body", *sections, call=ident, ident=ident)))
    small = Got(int(MessageType.PING), 99, b"ping")
    stream = []
    while queues:
        queue = data.draw(st.sampled_from(queues))
        stream.append(queue.pop(0))
        if data.draw(st.booleans()):
            stream.append(encode(small))
            expected.append(small)
        queues = [queue for queue in queues if queue]
    cuts = data.draw(st.lists(st.integers(1, 100_000), max_size=30))

    assert sorted(read(b"".join(stream), cuts)) == sorted(expected)


def test_small_frames_overtake_a_transfer() -> None:
    """A small frame between two chunks is there before the transfer is."""
    first, *rest = chunks_of(transfer_of(pattern(2 * CHUNK_SIZE)))
    small = Got(CALL, 1, b"small")

    got = read(first + rest[0] + encode(small) + b"".join(rest[1:]))

    assert [frame.call for frame in got] == [1, 7]


def test_large_sections_are_not_copied() -> None:
    """What arrives is the memory that was allocated, and each section was allocated once."""
    memories: list[bytearray] = []

    def allocate(size: int) -> bytearray:
        memories.append(bytearray(size))
        return memories[-1]

    body, buffer = pattern(10), pattern(3 * CHUNK_SIZE, 3)
    reader = FrameReader(max_message_size=LIMIT, allocate=allocate)
    frames: list[Frame] = []
    view = memoryview(b"".join(chunks_of(transfer_of(body, buffer))))
    while view:
        room = reader.get_buffer()
        count = min(len(view), len(room))
        room[:count] = view[:count]
        frames += reader.received(count)
        view = view[count:]

    (frame,) = frames
    assert [len(memory) for memory in memories] == [len(body), len(buffer)]
    assert frame[8][0].obj is memories[1]
    assert memories[1] == buffer


def test_chunks_are_received_in_place() -> None:
    """After a chunk only a header is asked for; then the room is the chunk's own place."""
    first, second, third = chunks_of(transfer_of(pattern(CHUNK_SIZE + 500)))
    reader = FrameReader(max_message_size=LIMIT)

    feed(reader, first)
    rooms = [len(reader.get_buffer())]
    feed(reader, second[: HEADER.size])
    rooms.append(len(reader.get_buffer()))
    feed(reader, second[HEADER.size :])
    rooms.append(len(reader.get_buffer()))
    feed(reader, third[: HEADER.size])
    rooms.append(len(reader.get_buffer()))

    assert rooms == [HEADER.size, CHUNK_SIZE, HEADER.size, 500]


def test_parts_are_not_copied_on_the_way_out() -> None:
    """A chunk's payload is a view of the section."""
    section = bytearray(pattern(CHUNK_SIZE + 1))
    transfer = transfer_of(memoryview(section))
    transfer.next_chunk()

    parts = transfer.next_chunk()

    assert parts is not None
    assert isinstance(parts[1], memoryview)
    assert parts[1].obj is section


def test_transfer_says_how_far_it_is() -> None:
    """It is started with the first chunk and finished with the last, before the closing None."""
    transfer = transfer_of(pattern(CHUNK_SIZE + 1))
    seen = [(transfer.is_started, transfer.is_finished)]
    while transfer.next_chunk() is not None:
        seen.append((transfer.is_started, transfer.is_finished))

    assert seen == [(False, False), (True, False), (True, False), (True, True)]


def test_aborted_transfer_is_dropped() -> None:
    """After an abort nothing comes of the transfer and its id is free again."""
    transfer = transfer_of(pattern(CHUNK_SIZE + 1))
    first, second, _ = chunks_of(transfer)
    again = chunks_of(transfer_of(pattern(9)))

    got = read(first + second + transfer.abort_frame() + b"".join(again))

    assert got == [Got(CALL, 7, pattern(9))]


def test_abort_of_what_is_complete_is_ignored() -> None:
    """The sender may not know yet that its last chunk is out."""
    transfer = transfer_of(pattern(9))

    got = read(b"".join(chunks_of(transfer)) + transfer.abort_frame() + encode(FRAMES[1]))

    assert got == [Got(CALL, 7, pattern(9)), FRAMES[1]]


def test_message_of_very_many_buffers() -> None:
    """The description may be longer than a frame; one buffer more is refused at the sender."""
    count = MAX_FRAME // 8 + 1
    got = read(b"".join(chunks_of(transfer_of(b"body", *[b""] * count))))

    assert got == [Got(CALL, 7, b"body", buffers=(b"",) * count)]
    with pytest.raises(MessageTooLargeError, match=f"expected at most {MAX_BUFFERS}"):
        transfer_of(b"body", *[b""] * (MAX_BUFFERS + 1))


# --- hostile peers


def spy(limit: int) -> tuple[FrameReader, list[int]]:
    """Return a reader and the list of what it allocates for sections."""
    sizes: list[int] = []

    def allocate(size: int) -> bytearray:
        sizes.append(size)
        return bytearray(size)

    return FrameReader(max_message_size=limit, allocate=allocate), sizes


GOOD = HEADER.pack(0, CALL, 0, 0, 7, 0, 0, 0.0)


@pytest.mark.parametrize(
    ("data", "message"),
    [
        (HEADER.pack(2**32 - 1, CALL, 0, 0, 1, 0, 0, 0.0), "damaged: length 4294967295"),
        (HEADER.pack(MAX_FRAME + 1, CALL, 0, 0, 1, 0, 0, 0.0), "damaged: length"),
        (HEADER.pack(MAX_FRAME + 1, CHUNK, 0, 0, 1, 0, 0, 0.0), "damaged: length"),
        (HEADER.pack(2**32 - 1, CHUNK, FIRST, 0, 1, 0, 0, 0.0), "damaged: length"),
        (HEADER.pack(0, CALL, 0, 0, 1, 0, 0, math.nan), "damaged: nan seconds"),
        (HEADER.pack(0, CALL, 0, 0, 1, 0, 0, -1.0), "damaged: -1.0 seconds"),
        (HEADER.pack(0, CALL, 0, 0, 1, 0, 0, -math.inf), "damaged: -inf seconds"),
        (b"GET / HTTP/1.1\r\nHost: localhost:1\r\n\r\n", "damaged"),
        (HEADER.pack(3, CALL, 0, 0, 1, 0, 4, 0.0) + b"abc", "map is longer"),
        (HEADER.pack(0, CALL, 0, 0, 1, 0, 2**32 - 1, 0.0), "map is longer"),
        (HEADER.pack(3, CALL, BUFFERS, 0, 1, 0, 0, 0.0) + b"abc", "ends within its buffer"),
        (
            HEADER.pack(4, CALL, BUFFERS, 0, 1, 0, 0, 0.0) + b"\xff" * 4,
            "announces 4294967295 buffers",
        ),
        (HEADER.pack(4, CALL, BUFFERS, 0, 1, 0, 0, 0.0) + b"\1\0\0\0", "announces 1 buffers"),
        (
            HEADER.pack(13, CALL, BUFFERS, 0, 1, 0, 0, 0.0) + b"\1\0\0\0\2" + b"\0" * 7 + b"x",
            "buffers are longer",
        ),
        (
            HEADER.pack(12, CALL, BUFFERS, 0, 1, 0, 0, 0.0) + b"\1\0\0\0" + b"\xff" * 8,
            "buffers are longer",
        ),
        (chunk(b"x", ident=5), "unknown transfer 5"),
        (chunk(b"", ident=5), "unknown transfer 5"),
        (HEADER.pack(1, CHUNK, ABORT, 0, 1, 0, 0, 0.0) + b"x", "abort of transfer 1 carries"),
        (HEADER.pack(0, CHUNK, FIRST, 0, 1, 0, 0, 0.0), "first chunk of a transfer has 0"),
        (describe(), "first chunk of a transfer has 32"),
        (describe(3), "first chunk of a transfer has 40"),
        (describe(1, 2, header=GOOD + b"\0"), "first chunk of a transfer has 49"),
        (
            describe(1, 2, header=HEADER.pack(0, CHUNK, 0, 0, 7, 0, 0, 0.0)),
            "first chunk of a transfer is damaged",
        ),
        (
            describe(1, 2, header=HEADER.pack(0, CALL, 0, 0, 7, 0, 0, math.nan)),
            "first chunk of a transfer is damaged",
        ),
        (describe(1, 2) + describe(1, 2), "transfer 1 is open already"),
        (describe(1, 2) + chunk(b""), "chunk of 0 bytes"),
        (describe(1, 2) + chunk(b"ab"), "crosses the end of its section"),
        (describe(1, 2) + chunk(b"a") + chunk(b"abc"), "crosses the end of its section"),
        (describe(1, 2) + chunk(b"a") + chunk(b"ab") + chunk(b"c"), "unknown transfer 1"),
    ],
)
def test_damaged_bytes(data: bytes, message: str) -> None:
    """Bytes that are no frames are refused, saying what is wrong, and nothing is allocated."""
    for sizes in (iter(()), ones()):
        reader, allocated = spy(LIMIT)
        with pytest.raises(RemoteProtocolError, match=message):
            feed(reader, data, sizes)

        assert sum(allocated) <= 3


@pytest.mark.parametrize("lengths", [(1, 100), (0, 101), (0, 50, 51), (2**64 - 1, 2**64 - 1)])
def test_message_above_the_limit(lengths: tuple[int, ...]) -> None:
    """An announced message above max_message_size is refused before memory is taken for it."""
    reader, allocated = spy(100)
    with pytest.raises(MessageTooLargeError, match="above max_message_size 100"):
        feed(reader, describe(*lengths))

    assert allocated == []


def test_message_at_the_limit() -> None:
    """The limit itself is allowed."""
    reader, _ = spy(100)

    assert len(feed(reader, describe(1, 99) + chunk(b"a") + chunk(b"b" * 99))) == 1


def test_memory_is_not_taken_on_announcement() -> None:
    """Many transfers that announce much and send little reserve one message in all."""
    reader, allocated = spy(1 << 20)
    for ident in range(64):
        feed(reader, describe(0, 1 << 20, ident=ident))
        assert allocated == []
    for ident in range(64):
        feed(reader, chunk(b"x", ident=ident))

    assert sorted(allocated) == [1] * 63 + [1 << 20]


def test_reserved_memory_is_given_back() -> None:
    """Completed and aborted transfers make room for those after them."""
    reader, allocated = spy(1000)
    for ident in range(5):
        feed(reader, describe(0, 1000, ident=ident) + chunk(b"x" * 400, ident=ident))
        if ident % 2:
            feed(reader, chunk(b"y" * 600, ident=ident))
        else:
            feed(reader, HEADER.pack(0, CHUNK, ABORT, 0, ident, 0, 0, 0.0))

    assert allocated == [1000] * 5


def test_sections_beyond_the_reserve_arrive_too() -> None:
    """What was collected in pieces is joined: whole and writable."""
    reader, allocated = spy(100)
    feed(reader, describe(0, 100, ident=1) + chunk(b"a" * 99, ident=1))
    feed(reader, describe(0, 100, ident=2) + chunk(b"b" * 60, ident=2))

    got = feed(reader, chunk(b"c" * 40, ident=2) + chunk(b"a", ident=1))

    assert [frame.body for frame in got] == [b"b" * 60 + b"c" * 40, b"a" * 100]
    assert allocated == [100, 60, 40, 100]


def test_memory_that_cannot_be_had() -> None:
    """A message within the limit that the machine cannot hold is the sender's fault too."""

    def allocate(size: int) -> bytearray:
        raise MemoryError

    reader = FrameReader(max_message_size=LIMIT, allocate=allocate)
    with pytest.raises(MessageTooLargeError, match="no memory for a message part of 100 bytes"):
        feed(reader, describe(0, 100) + chunk(b"x"))


def test_too_many_transfers() -> None:
    """The number of transfers open at once is bounded."""
    data = b"".join(describe(0, 1, ident=ident) for ident in range(4096))
    reader, _ = spy(LIMIT)

    assert feed(reader, data) == []
    with pytest.raises(RemoteProtocolError, match="more than 4096 transfers"):
        feed(reader, describe(0, 1, ident=4096))


def survive(reader: FrameReader, data: bytes) -> None:
    """Feed bytes that may raise what a peer's bytes may raise, and nothing else."""
    try:
        feed(reader, data)
    except (RemoteProtocolError, MessageTooLargeError):
        return


@given(st.binary(max_size=2000))
def test_random_garbage(data: bytes) -> None:
    """Garbage raises a protocol error or nothing, and takes no more memory than was sent."""
    reader, allocated = spy(10_000)

    survive(reader, data)
    assert sum(allocated) <= len(data)


def frame_like(draw: Callable[..., int]) -> bytes:
    """Return a header whose fields are likely ones, and some bytes."""
    kind = draw(st.sampled_from([CHUNK, CHUNK, CALL, 0]))
    flags = draw(st.sampled_from([0, BUFFERS, FIRST, ABORT, FIRST | ABORT]))
    if kind == CHUNK and flags == FIRST:
        return describe(*draw(st.lists(st.sampled_from([0, 1, 9, 500, 20_000]), max_size=4)),  # type: ignore[misc]
                        ident=draw(st.integers(0, 2)))  # fmt: skip
    size = draw(st.sampled_from([0, 0, 1, 4, 9, 12, 500]))
    length = size if draw(st.booleans()) else draw(st.integers(0, 600))
    meta = draw(st.sampled_from([0, 0, 0, 1, 600]))
    ident = draw(st.integers(0, 2))
    return (
        HEADER.pack(length, kind, flags, 0, ident, 0, meta, 0.0)
        + bytes([draw(st.integers(0, 2))]).ljust(size, b"\0")[:size]
    )


@pytest.mark.slow
@given(st.data())
def test_likely_garbage(data: st.DataObject) -> None:
    """So do frames with fields that lie about each other; memory stays within the reserve."""
    reader, allocated = spy(10_000)
    stream = b"".join(frame_like(data.draw) for _ in range(data.draw(st.integers(1, 12))))

    survive(reader, stream)
    assert sum(allocated) <= 10_000 + 2 * len(stream)
