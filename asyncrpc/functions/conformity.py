"""Whether a value is what an annotation says: the type checks of script functions.

Pure. Knows the annotations that say something about values that travel; one that it does not
know (a protocol, a type variable without a bound) lets every value pass.
"""

from __future__ import annotations

import collections.abc
import types
import typing
from typing import Any

__all__ = ("conforms", "describe_annotation")

# What a number annotation also takes: PEP 484, "The numeric tower".
_NUMBERS = {float: (float, int), complex: (complex, float, int)}
_ITEMS = (list, set, frozenset, collections.abc.Sequence, collections.abc.Set)


def conforms(value: object, annotation: Any) -> bool:
    """Return whether ``value`` fits ``annotation``, items of containers included."""
    if annotation is Any or annotation is object or isinstance(annotation, typing.TypeVar):
        bound = getattr(annotation, "__bound__", None)
        return bound is None or conforms(value, bound)
    if annotation is None:
        return value is None
    if isinstance(annotation, type) and not isinstance(annotation, types.GenericAlias):
        return _is_instance(value, _NUMBERS.get(annotation, annotation))
    origin, arguments = typing.get_origin(annotation), typing.get_args(annotation)
    if origin is None:
        inner = getattr(annotation, "__supertype__", Any)  # of a NewType
        return inner is Any or conforms(value, inner)
    if origin in (typing.Union, types.UnionType):
        return any(conforms(value, argument) for argument in arguments)
    if origin is typing.Literal:
        return any(type(value) is type(allowed) and value == allowed for allowed in arguments)
    if origin is typing.Annotated:
        return conforms(value, arguments[0])
    return _is_instance(value, origin) and _items_conform(value, origin, arguments)


def _is_instance(value: object, cls: Any) -> bool:
    try:
        return isinstance(value, cls)
    except TypeError:  # a protocol that says nothing at run time
        return True


def _items_conform(value: Any, origin: Any, arguments: tuple[Any, ...]) -> bool:
    if origin is tuple:
        if len(arguments) == 2 and arguments[1] is ...:
            return all(conforms(item, arguments[0]) for item in value)
        return len(value) == len(arguments) and all(map(conforms, value, arguments))
    if isinstance(value, (str, bytes, bytearray)):
        return True  # a sequence of its own kind; its items are what they are
    if issubclass(origin, collections.abc.Mapping):
        key, item = arguments
        return all(conforms(k, key) and conforms(v, item) for k, v in value.items())
    if issubclass(origin, _ITEMS):
        return all(conforms(item, arguments[0]) for item in value)
    return True


def describe_annotation(annotation: Any) -> str:
    """Return how a user writes an annotation."""
    if isinstance(annotation, type) and not isinstance(annotation, types.GenericAlias):
        return annotation.__qualname__
    return str(annotation).replace("typing.", "")
