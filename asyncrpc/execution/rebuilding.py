"""Take exceptions apart into plain parts, and make them again without running their ``__init__``.

Pure: no codec, no event loop, no imports of modules. `outcome` calls it on both sides. A class
written in Python may demand other arguments than ``args`` holds, or do things when constructed;
so only the builtin class it is laid out like is asked to construct, and the rest is restored.
"""

from __future__ import annotations

import builtins
import contextlib
import sys
from collections.abc import Mapping, Sequence
from types import GetSetDescriptorType, MemberDescriptorType
from typing import Any

__all__ = ("Parts", "find_class", "rebuild", "rebuild_group", "take_apart")

# Fields that hold no data of the error: `obj` is what an attribute was looked up on, any object.
_OMITTED_FIELDS = frozenset({"obj", "exceptions", "message"})

_NOTES = "__notes__"

# What an error is made of: positional arguments, fields of builtin classes, own attributes.
Parts = tuple[tuple[object, ...], dict[str, object], dict[str, object]]
"""``(args, fields, state)``: as `rebuild` takes them."""


def take_apart(error: BaseException) -> Parts:
    """Return what makes up ``error`` apart from its class, chain, notes and traceback.

    Returns:
        ``args``; the fields that its builtin classes keep outside of the instance dict, ``None``
        values and ``AttributeError.obj`` left out; the instance dict with the values of
        ``__slots__``. A group's ``args`` are its message alone.
    """
    fields: dict[str, object] = {}
    state: dict[str, object] = {}
    for base in type(error).__mro__:
        if base is BaseException:
            break
        into = fields if _is_builtin(base) else state
        for name, descriptor in vars(base).items():
            if name in into or not isinstance(descriptor, _kinds(base)):
                continue
            with contextlib.suppress(Exception):  # a slot or field that was never set
                into[name] = descriptor.__get__(error)
    state.update(vars(error))
    state.pop(_NOTES, None)
    fields = {
        name: value
        for name, value in fields.items()
        if value is not None and name not in _OMITTED_FIELDS
    }
    args = (error.message,) if isinstance(error, BaseExceptionGroup) else error.args
    return args, fields, state


def find_class(module: str, qualname: str) -> type[BaseException] | None:
    """Return the exception class of that name if its module is loaded; import nothing.

    Args:
        module: module name, from a peer.
        qualname: qualified name of the class, from a peer.
    """
    loaded = sys.modules.get(module)
    first, *rest = qualname.split(".")
    # Not getattr: a module's own __getattr__ may import what it is asked for.
    found = None if loaded is None else vars(loaded).get(first)
    for name in rest:
        found = vars(found).get(name) if isinstance(found, type) else None
    if isinstance(found, type) and issubclass(found, BaseException):
        return found
    return None


def rebuild(
    cls: type[BaseException],
    args: Sequence[object],
    fields: Mapping[str, object],
    state: Mapping[str, object],
) -> BaseException:
    """Make an instance of ``cls`` of the parts that `take_apart` gave.

    Raises:
        TypeError: ``cls`` cannot be constructed this way.
    """
    error: BaseException = _layout(cls).__new__(cls, *args)
    if type(error) is not cls:
        raise TypeError(f"constructing {cls.__qualname__} gave {type(error).__qualname__}")
    initializer: Any = next(base for base in cls.__mro__ if _is_builtin(base))
    # Some builtins insist on arguments that a subclass never gave them; `args` is kept anyway.
    with contextlib.suppress(Exception):
        initializer.__init__(error, *args)
    error.args = tuple(args)
    _restore(error, fields, state)
    return error


def rebuild_group(
    cls: type[BaseExceptionGroup[BaseException]],
    message: object,
    exceptions: Sequence[BaseException],
    state: Mapping[str, object],
) -> BaseException:
    """Make a group of ``exceptions``, which are rebuilt already.

    Raises:
        TypeError: ``cls`` cannot hold them or be constructed this way.
        ValueError: ``exceptions`` is empty.
    """
    # Of errors only, BaseExceptionGroup makes itself an ExceptionGroup, as Python has it.
    constructor: Any = BaseExceptionGroup
    error: BaseException = constructor.__new__(cls, message, list(exceptions))
    _restore(error, {}, state)
    return error


def _restore(
    error: BaseException, fields: Mapping[str, object], state: Mapping[str, object]
) -> None:
    for name, value in fields.items():
        descriptor = _descriptor(type(error), name, builtin=True)
        if descriptor is not None:
            with contextlib.suppress(Exception):  # read-only, or of another type here
                descriptor.__set__(error, value)
    for name, value in state.items():
        descriptor = _descriptor(type(error), name, builtin=False)
        if descriptor is None:
            vars(error)[name] = value
        else:
            descriptor.__set__(error, value)


def _descriptor(
    cls: type, name: str, *, builtin: bool
) -> MemberDescriptorType | GetSetDescriptorType | None:
    """Return the descriptor of a field, past any property of the same name on top of it."""
    for base in cls.__mro__:
        if base is BaseException:
            return None
        descriptor = vars(base).get(name)
        if _is_builtin(base) is builtin and isinstance(descriptor, _kinds(base)):
            return descriptor
    return None


def _kinds(base: type) -> tuple[type[MemberDescriptorType], ...] | tuple[Any, ...]:
    # A class written in Python has get-set descriptors too, for its dict and weak references.
    if _is_builtin(base):
        return (MemberDescriptorType, GetSetDescriptorType)
    return (MemberDescriptorType,)


def _is_builtin(cls: type) -> bool:
    return vars(builtins).get(cls.__name__) is cls


def _layout(cls: type) -> Any:
    """Return the builtin class whose memory layout ``cls`` has; only its ``__new__`` is safe."""
    base: Any = cls
    while not _is_builtin(base):
        base = base.__base__
    return base
