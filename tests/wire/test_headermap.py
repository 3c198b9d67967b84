"""The header map: what rides beside a call's arguments comes back equal, and nothing else does."""

from __future__ import annotations

import contextlib
import dataclasses
from typing import Any

import msgpack
import pytest
from hypothesis import given
from hypothesis import strategies as st

from asyncrpc.errors import RemoteProtocolError
from asyncrpc.wire import HeaderMap


def test_nothing_in_it_costs_nothing() -> None:
    """A call without any of it has no map at all."""
    assert b"" == HeaderMap().encode()


@given(
    st.integers(0, 1000),
    st.text(max_size=40),
    st.text(max_size=60),
    st.dictionaries(st.text(max_size=10), st.text(max_size=20), max_size=5),
)
def test_comes_back_equal(attempt: int, context: str, trace: str, metadata: dict[str, str]) -> None:
    """What was put in is read out."""
    headers = HeaderMap(attempt=attempt, context=context, trace=trace, metadata=metadata)
    data = headers.encode()

    assert not data or headers == HeaderMap.decode(memoryview(data))


def test_keys_of_later_versions_are_passed_over() -> None:
    """An entry that is not known here does no harm."""
    data = msgpack.packb({1: 2, 99: "later"})

    assert HeaderMap(attempt=2) == HeaderMap.decode(memoryview(data))


@pytest.mark.parametrize(
    "value",
    [
        7,
        [],
        {1: "2"},
        {2: 3},
        {2: "c" * 256},
        {3: None},
        {3: "t" * 256},
        {4: {"a": 1}},
        {4: []},
        {4: {1: "a"}},
        {4: {"a": "b" * 20_000}},
        {6: "r"},
        {6: bytes(256)},
    ],
)
def test_nonsense_ends_the_link(value: Any) -> None:
    """A peer's bytes raise a protocol error and nothing else."""
    with pytest.raises(RemoteProtocolError, match="header map makes no sense"):
        HeaderMap.decode(memoryview(msgpack.packb(value)))


@given(st.binary(max_size=64))
def test_any_bytes_give_a_map_or_a_protocol_error(data: bytes) -> None:
    """Whatever a peer sends, no other error comes out."""
    with contextlib.suppress(RemoteProtocolError):
        HeaderMap.decode(memoryview(data))


@pytest.mark.parametrize(
    "metadata", [{"a": 1}, {1: "a"}, {str(i): "" for i in range(129)}, {"a": "b" * 20_000}]
)
def test_metadata_has_a_size(metadata: Any) -> None:
    """What a caller's interceptor puts in is checked before it is sent."""
    with pytest.raises(ValueError, match="metadata"):
        HeaderMap(metadata=metadata).encode()


def test_the_largest_metadata_leave_room_for_all_the_rest() -> None:
    """What was let in can be sent, whatever rides beside it, and again with a count of attempts."""
    size = 16 * 1024 - len(msgpack.packb({"a": "b" * 10_000})) + 10_000
    full = HeaderMap(
        metadata={"a": "b" * size}, context="c" * 255, trace="t" * 255, reference=bytes(255),
        window=2**20, attempt=2**40,
    )  # fmt: skip
    too_large = dataclasses.replace(full, metadata={"a": "b" * (size + 1)})

    assert full == HeaderMap.decode(memoryview(full.encode()))
    with pytest.raises(ValueError, match="metadata"):
        too_large.encode()


@pytest.mark.parametrize("size", [48, 96])
def test_reference_alone(size: int) -> None:
    """The map of a call about a reference is written and read without a detour, and is a map."""
    reference = bytes(range(size))
    data = HeaderMap.encode_reference(reference)

    assert HeaderMap(reference=reference).encode() == data
    assert HeaderMap(reference=reference) == HeaderMap.decode(memoryview(data))
    assert HeaderMap.find_reference(memoryview(data)) == reference
    more = HeaderMap(reference=reference, trace="t").encode()
    assert HeaderMap.find_reference(memoryview(more)) == b""
    for broken in (data[:-1], data + b"x"):
        assert HeaderMap.find_reference(memoryview(broken)) == b""
        with pytest.raises(RemoteProtocolError):
            HeaderMap.decode(memoryview(broken))
