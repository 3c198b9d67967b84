"""Exceptions taken apart and put together again without their ``__init__``."""

from __future__ import annotations

import errno
from typing import Any, Self

import pytest

from asyncrpc.errors import (
    Delivery,
    EncodingError,
    PeerLostError,
    RpcTimeoutError,
    StoreConnectionError,
)
from asyncrpc.wire import rebuild_exception, split_exception


class SlotError(Exception):
    """Keeps its data in slots, one of which is never set."""

    __slots__ = ("never_set", "position")

    def __init__(self, position: int) -> None:
        super().__init__("at")
        self.position = position


class OverlaidError(OSError):
    """Has properties on top of what its base keeps."""

    @property
    def filename(self) -> str:
        raise RuntimeError("must not be read")

    @property
    def args(self) -> Any:  # type: ignore[override]  # the point of it
        raise RuntimeError("must not be read")


class MixedError(KeyError, ConnectionError):
    """Is laid out like its second base and initialised by its first."""


class NewError(Exception):
    """Has a constructor that takes other arguments."""

    def __new__(cls, *, value: int) -> Self:
        error = super().__new__(cls)
        error.value = value
        return error

    def __init__(self, *, value: int) -> None:
        raise RuntimeError("must not run")

    value: int


@pytest.mark.parametrize(
    "error",
    [
        ValueError("a", 1),
        PeerLostError("lost", delivery=Delivery.NOT_SENT),
        RpcTimeoutError("late", phase="send"),
        StoreConnectionError("gone"),
        EncodingError("no", path="args[0]"),
        FileNotFoundError(errno.ENOENT, "gone", "a", None, "b"),
        BlockingIOError(errno.EAGAIN, "again", 7),
        UnicodeDecodeError("utf-8", b"\xff", 0, 1, "bad"),
        SyntaxError("bad", ("file.py", 1, 2, "text", 1, 3)),
        ImportError("no", name="mod", path="/mod.py"),
        StopIteration(3),
        SystemExit(4),
        SlotError(3),
        OverlaidError(errno.ENOENT, "gone", "a"),
        MixedError(1, "mixed"),
        NewError.__new__(NewError, value=5),
        ExceptionGroup("two", [ValueError(1), KeyError(2)]),
    ],
    ids=lambda error: type(error).__name__,
)
def test_parts_make_the_same_exception(error: BaseException) -> None:
    """Rebuilt from its parts, an exception has the same class, text and parts."""
    parts = split_exception(error)

    rebuilt = rebuild_exception(type(error), *parts)

    assert type(rebuilt) is type(error)
    assert split_exception(rebuilt) == parts
    assert list(vars(rebuilt)) == list(vars(error))
    assert str(rebuilt) == str(error)


def test_replaced_args_are_kept() -> None:
    """What the builtin base would refuse as arguments is restored as `args` all the same."""
    error = UnicodeDecodeError("utf-8", b"\xff", 0, 1, "bad")
    error.args = ("own",)

    rebuilt = rebuild_exception(UnicodeDecodeError, *split_exception(error))

    assert (rebuilt.args, str(rebuilt)) == (("own",), str(error))


def test_unknown_fields_are_ignored() -> None:
    """A field that this version of Python does not have, or not so, is left out."""
    rebuilt = rebuild_exception(
        BlockingIOError, (errno.EAGAIN, "again"), {"new": 1, "characters_written": "x"}, {}
    )

    assert not hasattr(rebuilt, "new")
    assert not hasattr(rebuilt, "characters_written")


def test_what_cannot_be_made_raises() -> None:
    """Arguments that the builtin base cannot do without are its error."""
    with pytest.raises((TypeError, ValueError)):
        rebuild_exception(ExceptionGroup, ("empty", []), {}, {})
