"""`launcher.process.guardian.spawn`: what the guardian says when it cannot start a worker."""

from __future__ import annotations

import errno
import os

import pytest

from launcher.process.guardian.spawn import execute, spawn


@pytest.mark.parametrize(
    ("call", "number"),
    [("fork", errno.EAGAIN), ("fork", errno.ENOMEM), ("pipe", errno.EMFILE)],
)
def test_a_shortage_is_an_answer_and_leaks_nothing(
    call: str, number: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The guardian lives on: it looks after the workers that run already."""

    def fail() -> None:
        raise OSError(number, os.strerror(number))

    before = os.listdir("/proc/self/fd")
    monkeypatch.setattr(os, call, fail)

    assert spawn([b"true"], {}, b"", {}, execute) == (0, number, False)
    assert os.listdir("/proc/self/fd") == before
