"""Errors that every store words alike. Pure."""

from __future__ import annotations

from collections.abc import Iterable

from asyncrpc.errors import Delivery, StoreConnectionError, StoreError, StoreTimeoutError
from asyncrpc.store.commands import Barrier, Command

__all__ = (
    "barrier_error",
    "closed_error",
    "fresh_error",
    "lost_error",
    "mismatch_error",
    "missing_error",
    "unanswered_error",
)

_MAX_NAMED = 16  # keys an error names, as the reference does


def barrier_error(command: Barrier, arrived: int) -> StoreTimeoutError:
    """Return the error of a barrier that did not open in time.

    Args:
        command: who gives up.
        arrived: how many had arrived, the one who gives up among them.
    """
    return StoreTimeoutError(
        f"barrier {command.key!r} timed out after {command.timeout:g} s: "
        f"{arrived} of {command.world_size} arrived",
        keys=(command.key,),
    )


def mismatch_error(command: Barrier, expected: int) -> StoreError:
    """Return the error of a barrier at which others wait for another number."""
    return StoreError(
        f"barrier {command.key!r} is being waited on with world_size {expected}, "
        f"got {command.world_size}"
    )


def missing_error(keys: Iterable[str], timeout: float) -> StoreTimeoutError:
    """Return the error of keys that did not appear in time.

    Args:
        keys: that are missing, each perhaps more than once.
        timeout: seconds that were waited.
    """
    missing = tuple(dict.fromkeys(keys))
    named = ", ".join(missing[:_MAX_NAMED])
    if len(missing) > _MAX_NAMED:
        named += f" and {len(missing) - _MAX_NAMED} more"
    return StoreTimeoutError(
        f"wait timed out after {timeout:g} s, missing keys: {named}", keys=missing
    )


def unanswered_error(command: Command, store: str, state: str) -> StoreTimeoutError:
    """Return the error of a request that a store has not answered in time.

    Args:
        command: what was asked.
        store: its address.
        state: what it does instead.
    """
    keys = getattr(command, "keys", None) or [getattr(command, "key", "")]
    return StoreTimeoutError(
        f"{type(command).__name__.lower()} timed out: the store at {store} {state}, "
        f"keys: {', '.join(keys[:_MAX_NAMED])}",
        keys=tuple(keys),
        delivery=Delivery.UNKNOWN,
    )


def closed_error(store: str) -> StoreConnectionError:
    """Return the error of what is asked of a client that was closed, or was waiting then.

    Args:
        store: its address.
    """
    return StoreConnectionError(
        f"the client of the store at {store} was closed", delivery=Delivery.NOT_SENT
    )


def lost_error(store: str, reason: str) -> StoreConnectionError:
    """Return the error of a connection that is gone.

    Args:
        store: its address.
        reason: why it is gone.
    """
    return StoreConnectionError(f"store at {store} lost: {reason}")


def fresh_error(error: Exception) -> Exception:
    """Return a new error for a later call, so that tracebacks do not pile up in one."""
    fresh = type(error)(str(error))
    if isinstance(fresh, StoreConnectionError):
        fresh.delivery = Delivery.NOT_SENT
    fresh.__cause__ = error.__cause__
    return fresh
