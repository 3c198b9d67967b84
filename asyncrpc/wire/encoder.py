"""The walk that turns any value into plain msgpack data, extension items and marked arrays.

Sans-IO; called by the codec for whatever is more than a few scalars.

Theory of operation: msgpack keeps None, bool, int, float, str, small bytes, list and dict. All
else becomes an extension item (see extensions) or an array whose first item is a mark. The walk
goes depth first, in order, over copies of exactly those containers that hold something else,
without recursion; each container knows its parent, from which the path of an error is made.
Every `LEVELS_PER_BODY` levels a container is packed by itself, since msgpack's own stack is
limited.
"""

from __future__ import annotations

import sys
from collections.abc import Callable
from functools import partial
from itertools import chain
from typing import Any, TypeAlias

from msgpack import ExtType

from asyncrpc.errors import EncodingError, RpcError

from .arrays import find_array_encoder
from .buffers import BUFFER_ENCODERS
from .classes import find_class_encoder
from .extensions import LEAF_ENCODERS
from .paths import Link, find_circle, path_of
from .pickling import encode_by_pickle
from .registry import Registration
from .state import (
    CODE_NESTED,
    LARGE,
    LEVELS_PER_BODY,
    SCALARS,
    Encoder,
    EncodeState,
    Extension,
    ForbiddenError,
    Kind,
    Policy,
    UnencodableError,
    mark,
)
from .structures import STANDARD_ENCODERS, STRUCTURE_ENCODERS

__all__ = ("Walk", "is_plain", "make_encoders")

_TUPLE = mark(Kind.TUPLE)
_DICT = mark(Kind.DICT)
_REGISTERED = mark(Kind.REGISTERED)
_EXTENSION = mark(Kind.EXTENSION)

_are_scalars = SCALARS.issuperset
_FEW = 8  # items up to which a loop beats issuperset() and map()
_Item: TypeAlias = tuple[Any, Any, Any, Link]
"""Encoded container, key in it, the value there, link of that container."""


def is_plain(value: Any, levels: int) -> bool:
    """Tell whether msgpack may pack ``value`` as it is: scalars, small bytes, lists and dicts.

    Args:
        value: anything.
        levels: of lists and dicts to look into, from 0; a value with more of them is not plain.
    """
    cls = type(value)
    if cls is dict:
        for key in value:
            if type(key) not in SCALARS:
                return False
        items = value.values()
    elif cls is list:
        items = value
        if len(value) > _FEW and _are_scalars(map(type, value)):
            return levels > 0
    else:
        return cls in SCALARS or (cls is bytes and len(value) < LARGE)
    if levels < 1:
        return False
    for item in items:
        if type(item) not in SCALARS and not is_plain(item, levels - 1):
            return False
    return True


def make_encoders(policy: Policy) -> dict[type, Encoder]:
    """Return a codec's table of encoders, to which its walks add the classes they meet."""
    encoders: dict[type, Encoder] = {
        tuple: _encode_tuple,
        **STRUCTURE_ENCODERS,
        **BUFFER_ENCODERS,
    }
    for cls, extension in policy.by_class.items():
        encoders[cls] = partial(_encode_extension, extension)
    return encoders


class Walk:
    """One walk over one message.

    Args:
        policy: of the codec.
        encoders: of the codec, see `make_encoders`; grows.
        max_nesting: levels of containers a value may have.
        pack: packs plain data into bytes.
        to: destination of the message, for extensions.
    """

    __slots__ = ("_encoders", "_max_nesting", "_pack", "_stack", "is_marked", "state")

    def __init__(
        self,
        policy: Policy,
        encoders: dict[type, Encoder],
        max_nesting: int,
        pack: Callable[[object], bytes],
        to: object = None,
    ) -> None:
        self.state = EncodeState(policy, to)
        self.is_marked = False
        """Whether the outcome holds marks, so that it must be walked again to decode it."""
        self._encoders = encoders
        self._max_nesting = max_nesting
        self._pack = pack
        self._stack: list[_Item] = []

    def add(self, value: object, path: str) -> list[Any]:
        """Put ``value`` on the walk; last added, first walked.

        Returns:
            A list whose one item is ``value``, and after the walk what stands for it.
        """
        holder = [value]
        self._stack.append((holder, 0, value, (None, path, None, None, 0)))
        return holder

    def add_items(self, values: Any, encoded: Any, path: str) -> None:
        """Put the items of a list or dict on the walk, as if the container were none.

        Args:
            values: list or dict.
            encoded: a copy of it, which gets what stands for the items.
            path: what errors call the container.
        """
        link = ((None, path, None, None, 0), 0, values, encoded, 0)
        for at in reversed(values if type(values) is dict else range(len(values))):
            if type(values[at]) not in SCALARS:
                self._stack.append((encoded, at, values[at], link))

    def run(self) -> None:
        """Encode all that was added.

        Raises:
            EncodingError: an item cannot travel, or sits too deep; ``path`` says where. What
                extensions enclosed so far was taken back.
        """
        try:
            self._walk()
        except BaseException:
            self.take_back()
            raise

    def take_back(self) -> None:
        """Have extensions take back what they enclosed."""
        state = self.state
        if state.enclosed:
            for extension in state.policy.by_class.values():
                extension.undo(state.enclosed, state.to)

    def _walk(self) -> None:
        stack = self._stack
        encoders = self._encoders
        state = self.state
        watched_depth = min(self._max_nesting + 1, LEVELS_PER_BODY)
        nested: list[tuple[Any, Any]] = []
        while stack:
            target, key, value, parent = stack.pop()
            cls = type(value)
            new: Any
            if cls is list:
                new = value if _are_scalars(map(type, value)) else value[:]
            elif cls is dict:
                new = _convert_dict(value)
            elif cls in SCALARS:
                continue
            else:
                try:
                    new = (encoders.get(cls) or self._find_encoder(cls))(state, value)
                except UnencodableError as error:
                    raise self._error(str(error), value, parent, key) from error.__cause__
                except RpcError:
                    raise
                except Exception as error:  # properties and methods of the user's class run here
                    reason = f"{type(error).__name__}: {error}"
                    raise self._error(reason, value, parent, key) from error
            if new is not value:
                target[key] = new
            new_cls = type(new)
            if new_cls is not list and new_cls is not dict:
                continue
            depth = parent[4] + 1
            if depth >= watched_depth:
                self._check_depth(depth, value, parent, key)
                if new is not value and depth % LEVELS_PER_BODY == 0:
                    nested.append((target, key))
            if new is value:
                continue  # nothing in it but scalars: packed as it is
            link = (parent, key, value, new, depth)
            # One level only: what is looked at here and not plain is looked at again.
            levels = int(depth + 1 < watched_depth)
            keys: Any
            if new_cls is dict:
                keys = reversed(new)
            elif cls is list:
                keys = range(len(new) - 1, -1, -1)
            else:
                self.is_marked = True
                keys = range(len(new) - 1, 0, -1)
            for at in keys:  # from the last one, so that the first one is popped first
                item = new[at]
                if type(item) not in SCALARS and not is_plain(item, levels):
                    stack.append((new, at, item, link))
        self._pack_nested(nested)

    def _pack_nested(self, nested: list[tuple[Any, Any]]) -> None:
        """Replace the containers found too deep for one body, the deepest first."""
        for target, key in reversed(nested):
            target[key] = ExtType(CODE_NESTED, self._pack(target[key]))
            self.is_marked = True

    def _check_depth(self, depth: int, item: object, parent: Link, key: Any) -> None:
        if depth <= self._max_nesting:
            return
        circle = find_circle(parent, key, item)
        if circle is not None:
            parent, key, item = circle
            raise self._error("it contains itself", item, parent, key)
        raise self._error(
            f"it is nested deeper than max_nesting={self._max_nesting}", item, parent, key
        )

    def _error(self, reason: str, item: object, parent: Link, key: Any) -> EncodingError:
        path = path_of(self.state, parent, key, item)
        return EncodingError(f"{path} cannot be encoded: {reason}", path=path)

    def _find_encoder(self, cls: type) -> Encoder:
        """Find out how instances of ``cls`` travel, and remember it.

        Raises:
            UnencodableError: they do not.
        """
        encode = _find_encoder(self.state.policy, cls)
        self._encoders[cls] = encode
        return encode


def _convert_dict(value: Any) -> Any:
    if not _are_scalars(map(type, value)):
        return [_DICT, *chain.from_iterable(value.items())]
    return value if _are_scalars(map(type, value.values())) else value.copy()


def _encode_tuple(_: EncodeState, value: tuple[Any, ...]) -> object:
    return [_TUPLE, *value]


def _find_encoder(policy: Policy, cls: type) -> Encoder:
    entry = policy.registry.by_class(cls)
    if entry is not None:
        return partial(_encode_registered, entry)
    for module, name, encode_leaf in LEAF_ENCODERS:
        if _is_standard(cls, module, name):
            return partial(_encode_leaf, encode_leaf)
    for module, name, encode in STANDARD_ENCODERS:
        if _is_standard(cls, module, name):
            return encode
    if policy.allow_pickle:
        return _find_encoder_or_pickle(policy, cls)
    found = find_array_encoder(cls) or find_class_encoder(policy, cls)
    if found is not None:
        return found
    raise UnencodableError(
        f"values of type {cls.__module__}.{cls.__qualname__} do not travel while pickle is off; "
        "register_type adds a type"
    )


def _find_encoder_or_pickle(policy: Policy, cls: type) -> Encoder:
    try:
        found = find_array_encoder(cls) or find_class_encoder(policy, cls)
    except UnencodableError:
        return encode_by_pickle  # a class without a name may say itself how it pickles
    return encode_by_pickle if found is None else partial(_encode_or_pickle, found)


def _is_standard(cls: type, module: str, name: str) -> bool:
    return cls.__name__ == name and getattr(sys.modules.get(module), name, None) is cls


def _encode_leaf(encode: Callable[[Any], ExtType], _: EncodeState, value: object) -> object:
    return encode(value)


def _encode_or_pickle(encode: Encoder, state: EncodeState, value: object) -> object:
    """Encode by ``encode``, and what it refuses (an array of objects, say) by pickle."""
    try:
        return encode(state, value)
    except ForbiddenError:
        raise
    except UnencodableError:
        return encode_by_pickle(state, value)


def _encode_registered(entry: Registration, _: EncodeState, value: object) -> object:
    return [_REGISTERED, entry.name, entry.encode(value)]


def _encode_extension(extension: Extension, state: EncodeState, value: object) -> object:
    return [_EXTENSION, extension.code, state.extend(extension, value)]
