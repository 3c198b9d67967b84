"""The walk that rebuilds values from unpacked msgpack data with marks in it.

Sans-IO; called by the codec for bodies that hold marks. Nothing a peer sends may raise anything
but RpcErrors: builders' own failures become `MalformedError` here.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, TypeAlias

from msgpack import unpackb

from asyncrpc.errors import EncodingError, RpcError

from .arrays import ARRAY_BUILDERS
from .budget import Budget
from .buffers import BUFFER_BUILDERS
from .classes import CLASS_BUILDERS
from .extensions import LEAF_DECODERS
from .pickling import PICKLE_BUILDERS
from .state import (
    CODE_MARK,
    CODE_NESTED,
    LEVELS_PER_BODY,
    Builder,
    BytesLike,
    DecodeState,
    Kind,
    MalformedError,
    Mark,
)
from .structures import STRUCTURE_BUILDERS

__all__ = ("decode_leaf", "decode_marked_item", "is_deeper", "rebuild")


class _Nested:
    """A container that was packed by itself."""

    __slots__ = ("body",)

    def __init__(self, body: bytes) -> None:
        self.body = body


_MARKS = {bytes((kind,)): Mark(kind) for kind in Kind}
_CONTAINER_HEADERS = bytes((*range(0x80, 0xA0), *range(0xDC, 0xE0)))
_SURE_LEVELS = 2  # args and kwargs, the arguments, what is in them
_CONTAINERS = frozenset((list, dict, _Nested, Mark))
_have_no_containers = _CONTAINERS.isdisjoint
_Node: TypeAlias = tuple[Any, Any, Any, int]
"""Container, key in it, the item there, levels from the root."""


def decode_leaf(code: int, data: bytes) -> object:
    """Decode an extension item of a body without marks.

    Raises:
        MalformedError: no such extension, or its data are wrong.
    """
    decode = LEAF_DECODERS.get(code)
    if decode is None:
        raise MalformedError(f"extension code {code} is not known here")
    return decode(data)


def decode_marked_item(code: int, data: bytes) -> object:
    """Decode an extension item of a body with marks.

    Raises:
        MalformedError: no such extension, or its data are wrong.
    """
    if code == CODE_MARK:
        found = _MARKS.get(data)
        if found is None:
            raise MalformedError(f"mark {data[:4].hex()} is not known")
        return found
    if code == CODE_NESTED:
        return _Nested(data)
    return decode_leaf(code, data)


def is_deeper(value: object, levels: int, body: BytesLike) -> bool:
    """Tell whether ``value``, of scalars, lists and dicts, has more than ``levels`` of the latter.

    Goes level by level, so that an item costs what C code costs; after the first levels, in
    which most values end, not at all if ``body`` holds too few headers of containers.
    """
    level: list[Any] = [value] if type(value) in _CONTAINERS else []
    for count in range(levels):
        below: list[Any] = []
        for container in level:
            items = container.values() if type(container) is dict else container
            if not _have_no_containers(map(type, items)):
                for item in items:
                    if type(item) in _CONTAINERS:
                        below.append(item)  # noqa: PERF401 -- a comprehension costs a frame
        if not below or (count == _SURE_LEVELS and _count_containers(body) <= levels):
            return False
        level = below
    return bool(level)


def _count_containers(body: BytesLike) -> int:
    """Return an upper bound of the lists and dicts in ``body``: payload bytes count as well."""
    return len(body) - len(bytes(body).translate(None, _CONTAINER_HEADERS))


def rebuild(
    state: DecodeState,
    root: object,
    levels: tuple[int, int],
    budget: Budget,
) -> object:
    """Replace every array that starts with a mark by the value it stands for.

    Args:
        state: of the message; its buffers are taken.
        root: fresh from msgpack; its lists and dicts are changed in place.
        levels: level of ``root`` and the highest level allowed.
        budget: pays for containers that were packed by themselves.

    Raises:
        MalformedError: a mark, its items or the nesting are wrong.
        EncodingError: a value cannot be rebuilt in this process.
        MessageTooLargeError: there is no memory for it.
    """
    holder = [root]
    marked = _find_marked(holder, levels, budget)
    # Last found first: children before parents, and in the order of the sender's walk.
    for target, key, node in reversed(marked):
        target[key] = _build(state, node)
    return holder[0]


def _find_marked(
    holder: list[Any], levels: tuple[int, int], budget: Budget
) -> list[tuple[Any, Any, list[Any]]]:
    first_level, max_level = levels
    marked: list[tuple[Any, Any, list[Any]]] = []
    stack: list[_Node] = [(holder, 0, holder[0], first_level)]
    while stack:
        target, key, node, level = stack.pop()
        cls = type(node)
        if cls not in _CONTAINERS:
            continue
        if cls is _Nested:
            node = target[key] = _unpack_nested(node, level, budget)
            cls = type(node)
        if level > max_level:
            raise MalformedError(f"nested deeper than max_nesting={max_level}")
        level += 1
        keys: Any
        if cls is list:
            keys = range(len(node))
            if node and type(node[0]) is Mark:
                marked.append((target, key, node))
                keys = range(1, len(node))
        elif cls is dict:
            if not _have_no_containers(map(type, node)):
                raise MalformedError("the key of a map is no scalar")
            keys = node
        else:
            raise MalformedError(f"mark {node.kind.name} is not the first item of an array")
        for at in keys:
            item = node[at]
            if type(item) in _CONTAINERS:
                stack.append((node, at, item, level))
    return marked


def _unpack_nested(nested: _Nested, level: int, budget: Budget) -> Any:
    if level % LEVELS_PER_BODY:
        raise MalformedError(f"a container at level {level} must not be packed by itself")
    budget.spend(nested.body)
    node = unpackb(
        nested.body,
        strict_map_key=False,
        ext_hook=decode_marked_item,
        unicode_errors="surrogatepass",
    )
    if type(node) is not list and type(node) is not dict:
        raise MalformedError("only a container may be packed by itself")
    return node


def _build(state: DecodeState, node: list[Any]) -> object:
    kind = node[0].kind
    try:
        return _BUILDERS[kind](state, node)
    except (RpcError, MalformedError, MemoryError):
        raise
    except Exception as error:  # whatever a peer's bytes make constructors say
        raise MalformedError(f"{kind.name} is wrong: {error}") from error


def _build_registered(state: DecodeState, node: list[Any]) -> object:
    _, name, value = node
    entry = state.policy.registry.by_name(name) if type(name) is str else None
    if entry is None:
        raise EncodingError(f"type {name!r} is not registered here")
    return _decode_by_user(entry.decode, name, value)


def _build_extension(state: DecodeState, node: list[Any]) -> object:
    _, code, value = node
    extension = state.policy.by_code.get(code) if type(code) is int else None
    if extension is None:
        raise MalformedError(f"extension {code!r} is not known here")
    return _decode_by_user(extension.decode, extension.cls.__qualname__, value)


def _decode_by_user(decode: Callable[[Any], object], name: str, value: object) -> object:
    try:
        return decode(value)
    except RpcError:
        raise
    except Exception as error:  # the user's code runs here
        raise EncodingError(f"a value of type {name!r} cannot be decoded: {error!r}") from error


_BUILDERS: dict[Kind, Builder] = {
    **STRUCTURE_BUILDERS,
    **BUFFER_BUILDERS,
    **CLASS_BUILDERS,
    **ARRAY_BUILDERS,
    **PICKLE_BUILDERS,
    Kind.REGISTERED: _build_registered,
    Kind.EXTENSION: _build_extension,
}
