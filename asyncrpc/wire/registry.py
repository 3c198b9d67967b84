"""User types that travel: name, encode and decode of every class given to `register_type`.

Values only. The codec looks classes up while it encodes and names while it decodes.
"""

from __future__ import annotations

import builtins
from collections.abc import Callable, Iterator
from typing import Any, NamedTuple, TypeVar

from asyncrpc.identity import WorkerInfo

__all__ = ("Registration", "TypeRegistry", "register_type", "user_types")

MAX_NAME_LENGTH = 255  # a name is repeated in every message that uses it
_NATIVE = frozenset((
    type(None), bool, int, float, complex, str, bytes, bytearray, memoryview, list, tuple, dict,
    set, frozenset, range, slice, WorkerInfo,
))  # fmt: skip
"""Classes whose instances travel as what they are, before anybody looks into the registry."""

_C = TypeVar("_C", bound=type)


class Registration(NamedTuple):
    """One registered class."""

    cls: type
    """Instances of exactly this class are encoded; subclasses are not."""
    name: str
    """What travels instead of the class."""
    encode: Callable[[Any], object]
    """Turns an instance into any value that travels."""
    decode: Callable[[Any], object]
    """Turns that value into an instance again."""


class TypeRegistry:
    """Registered classes by class and by name; both are unique."""

    __slots__ = ("_by_class", "_by_name", "_reserved", "version")

    def __init__(self) -> None:
        self._by_class: dict[type, Registration] = {}
        self._by_name: dict[str, Registration] = {}
        self._reserved = set(_NATIVE)
        """Classes that are refused: native ones, and those of extensions."""
        self.version = 0
        """Changes with every change: what a codec remembered about classes is then stale."""

    def reserve(self, cls: _C) -> _C:
        """Refuse ``cls`` from now on, whose instances an `Extension` of every codec takes."""
        self._reserved.add(cls)
        return cls

    def register(
        self,
        cls: type,
        name: str,
        encode: Callable[[Any], object],
        decode: Callable[[Any], object],
    ) -> None:
        """Make instances of exactly ``cls`` travel; the same registration twice is no error.

        Args:
            cls: a class that does not travel natively.
            name: 1 to 255 characters, not the name of a builtin type, the same on both sides.
            encode: turns an instance into any value that travels.
            decode: turns that value into an instance again.

        Raises:
            TypeError: ``cls`` is no class, or ``encode`` or ``decode`` cannot be called.
            ValueError: the class travels by itself, the name breaks its rule, or the class or the
                name is registered with something else.
        """
        _check_arguments(cls, name, encode, decode)
        if cls in self._reserved:
            raise ValueError(
                f"cls must be a class that does not travel by itself, got {cls.__qualname__}: its "
                "instances never get to a registered encode"
            )
        new = Registration(cls, name, encode, decode)
        for old in (self._by_class.get(cls), self._by_name.get(name)):
            if old is not None and old != new:
                raise ValueError(
                    f"cls {cls.__qualname__} cannot be registered as {name!r}: "
                    f"{old.cls.__qualname__} is registered as {old.name!r}, "
                    "and both class and name must be unique"
                )
        self._by_class[cls] = new
        self._by_name[name] = new
        self.version += 1

    def unregister(self, cls: type) -> None:
        """Forget ``cls``; a class that is not registered is no error."""
        old = self._by_class.pop(cls, None)
        if old is not None:
            del self._by_name[old.name]
            self.version += 1

    def reset(self) -> None:
        """Forget every class."""
        self._by_class.clear()
        self._by_name.clear()
        self.version += 1

    def by_class(self, cls: type) -> Registration | None:
        """Return the registration of exactly ``cls``, or ``None``."""
        return self._by_class.get(cls)

    def by_name(self, name: str) -> Registration | None:
        """Return the registration that travels as ``name``, or ``None``."""
        return self._by_name.get(name)

    def __iter__(self) -> Iterator[Registration]:
        return iter(tuple(self._by_class.values()))

    def __len__(self) -> int:
        return len(self._by_class)


user_types = TypeRegistry()
"""The classes that `register_type` was given in this process; every agent's codec reads it."""


def register_type(
    cls: type,
    name: str,
    encode: Callable[[Any], object],
    decode: Callable[[Any], object],
) -> None:
    """Make instances of a class travel, pickle or not; both sides must register it.

    It acts on agents that run already, too. An exception class that is registered arrives as
    itself even where its module is not loaded.

    Args:
        cls: a class; instances of exactly this class are encoded, subclasses are not.
        name: 1 to 255 characters, not the name of a builtin type: what travels in the class's
            place, the same on both sides.
        encode: turns an instance into any value that travels; may return the same buffers.
        decode: turns that value into an instance again.

    Raises:
        TypeError: ``cls`` is no class, or ``encode`` or ``decode`` cannot be called.
        ValueError: the class travels by itself (``int``, ``list``, ``RRef``, …), the name breaks
            its rule, or the class or the name is registered with something else; the same
            registration twice is no error.
    """
    user_types.register(cls, name, encode, decode)


def _check_arguments(cls: object, name: object, encode: object, decode: object) -> None:
    if not isinstance(cls, type):
        raise TypeError(f"cls must be a class, got {cls!r}")
    if not isinstance(name, str) or not 1 <= len(name) <= MAX_NAME_LENGTH:
        raise ValueError(f"name must be a str of 1 to {MAX_NAME_LENGTH} characters, got {name!r}")
    if isinstance(vars(builtins).get(name), type):
        raise ValueError(f"name must not be that of a builtin type, got {name!r}")
    for label, function in (("encode", encode), ("decode", decode)):
        if not callable(function):
            raise TypeError(f"{label} must be callable, got {function!r}")
