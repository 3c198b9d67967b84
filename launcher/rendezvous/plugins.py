"""Finds rendezvous backends that other packages provide, by entry point.

Called by the registry, for a name that neither the package nor `register` knows.
"""

from __future__ import annotations

from importlib.metadata import EntryPoint, entry_points
from typing import Any

__all__ = ("find_backend", "list_backends")

_GROUP = "launcher.rendezvous"
_TORCHS = "torchrun.handlers"  # for what has no other; loaded only by name, as it may load torch


def find_backend(name: str) -> Any:
    """Return what makes the handlers of a backend; ``None``: nobody provides it.

    Args:
        name: of an entry point of the group ``launcher.rendezvous``, which is what makes them, else
            of ``torchrun.handlers``, which is a function that returns that, as for torch.

    Raises:
        ValueError: it cannot be loaded.
    """
    for point in entry_points(group=_GROUP, name=name):
        return _load(point)
    for point in entry_points(group=_TORCHS, name=name):
        return _load(point, is_called=True)
    return None


def list_backends() -> set[str]:
    """Return the names of all backends that other packages provide."""
    return {point.name for group in (_GROUP, _TORCHS) for point in entry_points(group=group)}


def _load(point: EntryPoint, *, is_called: bool = False) -> Any:
    try:
        found = point.load()
        return found() if is_called else found
    except Exception as error:
        raise ValueError(
            f"rdzv_backend={point.name}: entry point {point.value} cannot be loaded: {error}"
        ) from error
