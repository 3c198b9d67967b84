"""`launcher.lostpeer`: exceptions, and groups of them, that only tell of the end of a worker."""

from __future__ import annotations

import traceback

import pytest

from asyncrpc import OwnerLostError, PeerLostError
from launcher.lostpeer import tells_of_lost_peer

LINES = 30  # that the launcher keeps


def raised(error: BaseException) -> BaseException:
    """Return an exception that has a traceback."""
    try:
        raise error
    except BaseException as caught:
        return caught


def shown(error: BaseException) -> str:
    """Return what Python shows of it."""
    return "".join(traceback.format_exception(raised(error)))


def group(*errors: BaseException) -> BaseException:
    """Return a group of exceptions with tracebacks."""
    return BaseExceptionGroup("unhandled errors in a TaskGroup", [raised(each) for each in errors])


def lost() -> PeerLostError:
    """Return what a worker gets that lost another."""
    return PeerLostError("f on worker0 was lost: it shut down without waiting")


def because_of(error: BaseException, cause: BaseException) -> BaseException:
    """Return an exception with its cause."""
    error.__cause__ = raised(cause)
    return error


CONSEQUENCES = {
    "one": lost(),
    "a group of one": group(lost()),
    "a group of several": group(lost(), OwnerLostError("gone"), lost()),
    "never raised": BaseExceptionGroup("x", [lost()]),
    "groups in groups": group(lost(), group(lost(), group(lost()))),
    "more than are shown": group(*(lost() for _ in range(20))),
    "with a cause": group(because_of(lost(), ValueError("x"))),
    "a group with a cause": because_of(group(lost()), ValueError("x")),
    "because of a group": because_of(lost(), group(ValueError("x"))),
}
OTHERS = {
    "one": ValueError("x"),
    "about one": ValueError("asyncrpc.errors.PeerLostError: x"),
    "a group with another": group(lost(), ValueError("x")),
    "a group with another first": group(ValueError("x"), lost()),
    "another in a group in a group": group(lost(), group(lost(), ValueError("x"))),
    "because of a lost peer": group(because_of(ValueError("x"), lost())),
    "another because of a group": because_of(ValueError("x"), group(lost())),
}


@pytest.mark.parametrize("name", CONSEQUENCES)
def test_a_lost_peer_is_seen_through_groups(name: str) -> None:
    """Also when the worker printed something before and after, and when the begin is cut off."""
    text = shown(CONSEQUENCES[name])
    end = "\n".join(text.splitlines()[-LINES:])

    assert tells_of_lost_peer(text)
    assert tells_of_lost_peer(end)
    assert tells_of_lost_peer(f"{shown(ValueError('logged'))}something\n{text}\na thread says x\n")


@pytest.mark.parametrize("name", OTHERS)
def test_what_else_failed_is_no_consequence(name: str) -> None:
    """One exception of a group is enough; and what was logged before does not count."""
    text = shown(OTHERS[name])

    assert not tells_of_lost_peer(text)
    assert not tells_of_lost_peer(f"{shown(group(lost()))}{text}")


def test_every_way_to_cut_a_group_is_told_by_what_is_left() -> None:
    """As long as one of its exceptions is whole."""
    lines = shown(group(lost(), group(lost()), lost())).splitlines()
    cut = ["\n".join(lines[start:]) for start in range(len(lines) - 2)]

    assert [text for text in cut if not tells_of_lost_peer(text)] == []
