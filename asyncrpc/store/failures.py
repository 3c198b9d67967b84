"""Errors of waiting that every store words alike. Pure."""

from __future__ import annotations

from collections.abc import Iterable

from asyncrpc.errors import StoreError, StoreTimeoutError
from asyncrpc.store.commands import Barrier

__all__ = ("barrier_error", "mismatch_error", "missing_error")

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
