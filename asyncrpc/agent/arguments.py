"""A call's arguments as users give them: any sequence, any mapping."""

from __future__ import annotations

from collections.abc import Mapping

__all__ = ("as_dict", "as_tuple")


def as_tuple(args: object) -> tuple[object, ...]:
    """Return positional arguments as a tuple, empty for ``None``."""
    if args is None:
        return ()
    if isinstance(args, (list, tuple)):
        return tuple(args)
    raise TypeError(
        f"args must be a tuple of arguments, as in args=(1, 2), got {type(args).__name__}"
    )


def as_dict(kwargs: object) -> dict[str, object]:
    """Return keyword arguments as a dict."""
    if isinstance(kwargs, Mapping) and all(isinstance(name, str) for name in kwargs):
        return dict(kwargs)
    raise TypeError(f"kwargs must be a dict with str keys, got {kwargs!r:.100}")
