"""Exceptions taken apart and rebuilt without running an ``__init__`` written in Python.

Sans-IO. Used for exceptions that travel as values, and by whoever sends the failure of a call.
A class written in Python may demand other arguments than ``args`` holds, or do things when
constructed; so only its builtin bases are asked to construct, and the rest is put back.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Mapping
from types import GetSetDescriptorType, MemberDescriptorType
from typing import Any, NamedTuple, TypeAlias, TypeVar

__all__ = ("ExceptionParts", "rebuild_exception", "split_exception")

_E = TypeVar("_E", bound=BaseException)
_HEAP_TYPE = 1 << 9  # Py_TPFLAGS_HEAPTYPE: set on classes made by a class statement
_ARGS: Any = vars(BaseException)["args"]  # past any property of the same name
_Descriptor: TypeAlias = MemberDescriptorType | GetSetDescriptorType


class ExceptionParts(NamedTuple):
    """All of an exception but its class, cause, context and traceback."""

    args: tuple[Any, ...]
    fields: dict[str, Any]
    """State of the builtin bases, as ``filename`` of an `OSError`; unset ones are left out."""
    attributes: dict[str, Any]
    """The instance's ``__dict__``, notes included, and the values of its ``__slots__``."""


def split_exception(error: BaseException) -> ExceptionParts:
    """Return what `rebuild_exception` needs besides the class."""
    fields: dict[str, Any] = {}
    attributes: dict[str, Any] = {}
    for base in _bases(type(error)):
        into = fields if _is_builtin(base) else attributes
        for name, descriptor in _descriptors(base):
            # AttributeError, or TypeError from UnicodeError: never set.
            with contextlib.suppress(AttributeError, TypeError):
                into.setdefault(name, descriptor.__get__(error))
    fields = {name: value for name, value in fields.items() if value is not None}
    return ExceptionParts(_ARGS.__get__(error), fields, attributes | vars(error))


def rebuild_exception(
    cls: type[_E],
    args: tuple[Any, ...],
    fields: Mapping[str, Any],
    attributes: Mapping[str, Any],
) -> _E:
    """Return an instance of ``cls`` whose Python-level ``__init__`` did not run.

    The builtin bases are given ``args``; then their own fields, the slots and the instance dict
    are restored. Names in ``fields`` that the bases do not have are ignored.

    Raises:
        TypeError: the builtin bases cannot make an instance of ``cls`` from ``args``.
        ValueError: the same, from an `ExceptionGroup` without exceptions.
    """
    # With several builtin bases only the one whose memory layout the class has can make it, while
    # the first one is asked to initialise it, as the class itself would.
    layout: Any = cls
    while not _is_builtin(layout):
        layout = layout.__base__
    error: _E = layout.__new__(cls, *args)
    first: Any = next(base for base in cls.__mro__ if _is_builtin(base))
    # Fails where args were replaced since the sender's instance was made; the fields say the rest.
    with contextlib.suppress(TypeError, ValueError):
        first.__init__(error, *args)
    _ARGS.__set__(error, args)
    for base in _bases(cls):
        for name, descriptor in _descriptors(base):
            values = fields if _is_builtin(base) else attributes
            # Read-only, or a field that has another type in another version of Python.
            with contextlib.suppress(KeyError, AttributeError, TypeError, ValueError):
                descriptor.__set__(error, values[name])
    slots = {
        name for base in _bases(cls) if not _is_builtin(base) for name, _ in _descriptors(base)
    }
    vars(error).update({name: value for name, value in attributes.items() if name not in slots})
    return error


def _bases(cls: type) -> Iterator[type]:
    """Yield the classes that can add state to what `BaseException` has."""
    for base in cls.__mro__:
        if base is BaseException:
            return
        if base is not BaseExceptionGroup:  # message and members are in its args
            yield base


def _descriptors(base: type) -> Iterator[tuple[str, _Descriptor]]:
    """Yield name and descriptor of the state kept outside of ``args`` and ``__dict__``."""
    # Get-sets of a class written in Python are those of its dict and its weak references.
    kinds: Any = _Descriptor if _is_builtin(base) else MemberDescriptorType
    for name, descriptor in vars(base).items():
        if isinstance(descriptor, kinds):
            yield name, descriptor


def _is_builtin(cls: type) -> bool:
    return not cls.__flags__ & _HEAP_TYPE
