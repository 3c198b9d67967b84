"""launcher.process.guardian.messages: what agent and guardian say to each other."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from launcher.process.guardian.messages import (
    EXITED,
    Kind,
    MessageReader,
    decode_start,
    encode,
    encode_start,
)

STRINGS = st.binary(max_size=8).map(lambda data: data.replace(b"\0", b""))
NAMES = STRINGS.map(lambda data: b"N" + data.replace(b"=", b""))


@given(
    st.integers(0, 2**32 - 1),
    st.lists(STRINGS, min_size=1),
    st.dictionaries(NAMES, STRINGS),
    STRINGS,
    st.lists(st.integers(0, 1000), max_size=5),
    st.lists(st.integers(0, 1000), max_size=5),
)
def test_start_round_trip(
    worker: int,
    argv: list[bytes],
    env: dict[bytes, bytes],
    cwd: bytes,
    targets: list[int],
    cpus: list[int],
) -> None:
    """Empty strings, "=" in values and any number of descriptors arrive as they were."""
    ((kind, body),) = MessageReader().feed(encode_start(worker, argv, env, cwd, targets, cpus))

    assert kind == Kind.START
    assert decode_start(body) == (worker, tuple(targets), tuple(cpus), argv, env, cwd)


@given(st.integers(1, 50))
def test_messages_are_found_however_they_are_cut(size: int) -> None:
    """Byte-wise, whole or with a tail of the next: the same messages come out."""
    bodies = [EXITED.pack(number, -9, True, 1.5) for number in range(5)]
    data = b"".join(encode(Kind.EXITED, body) for body in bodies)
    reader = MessageReader()

    found = [
        message
        for start in range(0, len(data), size)
        for message in reader.feed(data[start : start + size])
    ]
    assert found == [(Kind.EXITED, body) for body in bodies]
