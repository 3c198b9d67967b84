"""How a callable is named, so that another process can find it: ``module:qualname``.

Used on the caller, at the call. Code is never shipped: a callable can be named if looking up its
module and qualified name gives it back; what is bound to it (the instance of a method, the
arguments of a partial) travels by value, in front of the call's own arguments.
"""

from __future__ import annotations

import functools
import sys
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from types import (
    BuiltinFunctionType,
    CoroutineType,
    FunctionType,
    MethodDescriptorType,
    MethodType,
    MethodWrapperType,
    WrapperDescriptorType,
)
from typing import Any

from asyncrpc.errors import EncodingError
from asyncrpc.execution.torch_functions import torch_script
from asyncrpc.functions import script_of, scripts

__all__ = ("SCRIPT", "Check", "FunctionRef", "describe", "public_module", "split_name")

SCRIPT = "@"
"""Begins the names of script functions on the wire, where others have a module's name."""

# Enough for every function a program calls; a program that makes functions on the fly starts over.
_MAX_KNOWN = 4096

# What is a definition, not an instance of a class that happens to be callable.
_DEFINITIONS = (
    FunctionType,
    BuiltinFunctionType,
    MethodType,
    MethodDescriptorType,
    MethodWrapperType,
    WrapperDescriptorType,
    type,
)

_WHERE = "define it at the top level of a module that both caller and callee can import"


Check = Callable[[tuple[Any, ...], Mapping[str, Any]], None]
"""Takes a call's arguments; raises TypeError if the function does not take them."""


@dataclass(frozen=True, slots=True)
class FunctionRef:
    """What travels for a callable. Shared between calls: not to be changed."""

    name: str
    """``module:qualname``."""
    args: tuple[object, ...] = ()
    """Positional arguments that come before those of the call."""
    kwargs: dict[str, object] = field(default_factory=dict)
    """Keyword arguments that those of the call override."""
    is_script: bool = False
    """Whether ``name`` is that of a script function, which the callee looks up in its registry."""
    check: Check | None = None
    """Checks the arguments of a script function that is known here."""


# A memo, not state: id of a callable -> (that callable, its reference). Keyed by id because the
# hash and equality of a user's object cannot be trusted; the callable is kept alive with it, so no
# other one can get its id.
_known: dict[int, tuple[object, FunctionRef]] = {}


def describe(func: object) -> FunctionRef:
    """Name ``func`` for the callee.

    Args:
        func: a module-level function, class, builtin, bound method, class or static method,
            `functools.partial`, callable instance, or a string: ``module:qualname`` or the name
            of a script function, which may be known to the callee alone.

    Returns:
        The reference; for a plain function after one dict look-up.

    Raises:
        EncodingError: it cannot be found by name (a lambda, a local function, a function that
            was replaced in its module), or the string is not of that form. Nothing was sent.
        TypeError: it is not callable.
    """
    known = _known.get(id(func))
    if known is not None:
        return known[1]
    if isinstance(func, str):
        return _describe_name(func)
    if not callable(func):
        raise _not_callable(func)
    if isinstance(func, functools.partial) and type(func).__call__ is functools.partial.__call__:
        return _describe_partial(func)
    if isinstance(func, MethodType):
        return _describe_bound(func, func.__self__)
    script = script_of(func) or torch_script(func)
    if script is not None:
        return _remember(func, FunctionRef(script.name, is_script=True, check=script.check))
    name = _global_name(func)
    if name is not None:
        return _remember(func, FunctionRef(name))
    if isinstance(func, (BuiltinFunctionType, MethodWrapperType)) and func.__self__ is not None:
        return _describe_bound(func, func.__self__)
    if isinstance(func, _DEFINITIONS):
        raise _cannot_travel(func)
    return FunctionRef(f"{_class_name(type(func), func)}.__call__", (func,))


def _describe_name(name: str) -> FunctionRef:
    script = scripts.get(name)
    if script is not None:
        return FunctionRef(name, is_script=True, check=script.check)
    if ":" not in name and name.isprintable() and name:
        return FunctionRef(name, is_script=True)
    split_name(name)
    return FunctionRef(name)


def split_name(name: str) -> tuple[str, list[str]]:
    """Split ``module:qualname`` into the module and the parts of the qualified name.

    Raises:
        EncodingError: ``name`` is not of that form.
    """
    module, colon, qualname = name.partition(":")
    path = qualname.split(".")
    if colon and all(module.split(".")) and all(part.isidentifier() for part in path):
        return module, path
    raise EncodingError(
        f"function name must have the form 'module:qualname', but got {name[:200]!r}", path="func"
    )


def public_module(module: str) -> str:
    """Return the name by which other processes know a module."""
    # A child of multiprocessing's "spawn" knows the main module by both names, others by one.
    return "__main__" if module == "__mp_main__" else module


def _describe_partial(func: functools.partial[object]) -> FunctionRef:
    inner = describe(func.func)
    return FunctionRef(
        inner.name,
        inner.args + func.args,
        {**inner.kwargs, **func.keywords},
        inner.is_script,
        inner.check,
    )


def _describe_bound(
    func: MethodType | BuiltinFunctionType | MethodWrapperType, owner: object
) -> FunctionRef:
    """Name a method through the class of what it is bound to, so that overrides are found."""
    attribute = getattr(func, "__name__", "")
    if isinstance(owner, type):
        if getattr(owner, attribute, None) == func:
            return FunctionRef(f"{_class_name(owner, func)}.{attribute}")
        raise _cannot_travel(func)
    function = getattr(func, "__func__", None)
    found = getattr(type(owner), attribute, None)
    if callable(found) and (function is None or found is function):
        return FunctionRef(f"{_class_name(type(owner), func)}.{attribute}", (owner,))
    # Bound by hand or through super(): the class would give another one.
    name = _global_name(function)
    if name is None:
        raise _cannot_travel(func)
    return FunctionRef(name, (owner,))


def _global_name(func: object) -> str | None:
    """Return ``module:qualname`` if looking that up gives ``func`` back."""
    # The methods of classes written in C have no module but that of their class.
    module = getattr(getattr(func, "__objclass__", func), "__module__", None)
    qualname = getattr(func, "__qualname__", None) or getattr(func, "__name__", None)
    if not isinstance(module, str) or not isinstance(qualname, str):
        return None
    found: object = sys.modules.get(module)
    try:
        for part in qualname.split("."):
            found = getattr(found, part)
    except Exception:  # noqa: BLE001 -- a module's or metaclass' __getattr__ may raise anything
        return None
    if found is not func:
        return None
    return f"{public_module(module)}:{qualname}"


def _class_name(cls: type, func: object) -> str:
    known = _known.get(id(cls))
    if known is not None:
        return known[1].name
    name = _global_name(cls)
    if name is None:
        raise _cannot_travel(func)
    return _remember(cls, FunctionRef(name)).name


def _remember(func: object, reference: FunctionRef) -> FunctionRef:
    if len(_known) >= _MAX_KNOWN:
        _known.clear()
    _known[id(func)] = (func, reference)
    return reference


def _not_callable(func: object) -> TypeError:
    text = f"function should be callable, but got {type(func).__qualname__}: {func!r}"
    if isinstance(func, CoroutineType):
        func.close()  # one that never ran would warn
        text += "; give the function itself, and its arguments in args"
    return TypeError(text)


def _cannot_travel(func: object) -> EncodingError:
    owner = func if hasattr(func, "__qualname__") else type(func)
    qualname = str(getattr(owner, "__qualname__", owner))
    module = getattr(owner, "__module__", None)
    if qualname.endswith("<lambda>"):
        reason = "a lambda has no name there"
    elif "<locals>" in qualname:
        reason = "it is local to a function"
    else:
        reason = "looking its name up gives nothing or something else"
    return EncodingError(
        f"cannot call {qualname!r} of module {module!r} on another worker: {reason}; {_WHERE}",
        path="func",
    )
