"""Where an item sits in a value: ``args[1]['x'].field``, worked out only when it is needed.

Values only. The encoder's walk keeps a chain of links from each container to the root.
"""

from __future__ import annotations

from typing import Any, NamedTuple, TypeAlias

from .state import EncodeState, Kind

__all__ = ("Link", "LinkOrRoot", "holds_itself", "path_of")

_SHOWN = 40  # characters or digits of a key that a path shows
_EXCEPTION_PARTS = ("", "", ".args", "", ".__dict__", ".__cause__", "")


class Link(NamedTuple):
    """One container on the way from the root to an item."""

    parent: LinkOrRoot
    key: Any
    """Where the container sits in its parent's encoded form."""
    original: object
    """The container as the user gave it."""
    encoded: Any
    """The list or dict that stands for it."""
    depth: int
    """Levels from the root; 1 for the root itself."""


LinkOrRoot: TypeAlias = Link | str
"""A container, or the path of the root."""


def path_of(state: EncodeState, parent: LinkOrRoot, key: Any, item: object) -> str:
    """Return the path of ``item``, which sits at ``key`` of ``parent``'s encoded form."""
    steps: list[str] = []
    while not isinstance(parent, str):
        steps.append(_step(state, parent.original, parent.encoded, key, item))
        item = parent.original
        key = parent.key
        parent = parent.parent
    return parent + "".join(reversed(steps))


def holds_itself(link: LinkOrRoot, item: object) -> bool:
    """Tell whether ``item``, or a container around it, is among its own containers."""
    seen = {id(item)}
    while not isinstance(link, str):
        if id(link.original) in seen:
            return True
        seen.add(id(link.original))
        link = link.parent
    return False


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
        return f"[{_show(encoded[key - 1])}]" if index % 2 else f"[key {_show(item)}]"
    if kind in (Kind.SET, Kind.FROZENSET):
        return f"{{{_show(item)}}}"
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
    return type(key).__name__
