"""Where an item sits in a value: ``args[1]['x'].field``, worked out only when it is needed.

Values only. The encoder's walk keeps a chain of links from each container to the root.
"""

from __future__ import annotations

from itertools import islice
from typing import Any, TypeAlias

from .state import EncodeState, Kind

__all__ = ("Link", "find_circle", "path_of")

_SHOWN = 40  # characters or digits of a key that a path shows
_SHOWN_ITEMS = 4  # of a tuple that is a key
_EXCEPTION_PARTS = ("", "", ".args", "", ".__dict__", ".__cause__", "")


Link: TypeAlias = tuple[Any, Any, Any, Any, int]
"""One container on the way from the root to an item: the link of its parent, where it sits in
its parent's encoded form, the container as the user gave it, the list or dict that stands for
it, and its level. At the root: ``(None, path, None, None, level)``. A plain tuple, since one is
made for every container that is walked."""


def path_of(state: EncodeState, parent: Link, key: Any, item: object) -> str:
    """Return the path of ``item``, which sits at ``key`` of ``parent``'s encoded form."""
    steps: list[str] = []
    while parent[0] is not None:
        grandparent, parent_key, original, encoded, _ = parent
        steps.append(_step(state, original, encoded, key, item))
        parent, key, item = grandparent, parent_key, original
    return str(parent[1]) + "".join(reversed(steps))


def find_circle(parent: Link, key: Any, item: object) -> tuple[Link, Any, object] | None:
    """Return parent, key and value of the outermost one, from ``item`` up, that holds itself."""
    seen: set[int] = set()
    found = None
    while True:
        if id(item) in seen:
            found = parent, key, item
        seen.add(id(item))
        if parent[0] is None:
            return found
        parent, key, item, _, _ = parent


def _step(state: EncodeState, original: object, encoded: Any, key: Any, item: object) -> str:
    if type(original) is list:
        return f"[{key}]"
    if type(encoded) is dict:
        return f"[{_show(key)}]"
    kind = encoded[0].data[0]
    index = key - 1
    if kind == Kind.TUPLE:
        return f"[{index}]"
    if kind == Kind.DICT:
        key = next(islice(original, index // 2, None))  # type: ignore[call-overload]  # a dict
        return f"[{_show(key)}]" if index % 2 else f"[key {_show(key)}]"
    if kind in (Kind.SET, Kind.FROZENSET):
        return f"{{{_show(item)}}}"
    if kind == Kind.NDARRAY:
        return ".flat"  # an array of objects: the items follow, in one list
    if kind in (Kind.DATACLASS, Kind.NAMEDTUPLE):
        names = state.references[encoded[1]]
        return f".{names[index]}" if index < len(names) else ".__dict__"
    return _EXCEPTION_PARTS[key] if kind == Kind.EXCEPTION else ""


def _show(key: object) -> str:
    if type(key) is str or type(key) is bytes:
        return repr(key[:_SHOWN])
    if type(key) is int:
        return repr(key) if key.bit_length() <= _SHOWN else "int"
    if key is None or type(key) is bool or type(key) is float:
        return repr(key)
    if type(key) is tuple and len(key) <= _SHOWN_ITEMS:
        return f"({', '.join(map(_show, key))})"
    return type(key).__name__
