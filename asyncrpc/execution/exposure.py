"""Which callables a worker lets its peers call when ``expose`` is given.

Pure look-up in modules that are loaded already: nothing is imported, and no attribute of an
instance is ever read, so a name such as ``os:path.sys.exit`` leads nowhere. `FunctionTable`
calls it and turns its `PermissionError` and `AttributeError` into the package's own.

What is exposed:

- a listed function, builtin, static method or class method: itself;
- a listed class: itself, its public methods (``__call__`` included) and the public classes nested
  in it, as far as they are defined in its own body or in that of a base class which is exposed too;
- a listed module: its public functions and classes (with their methods, as above), as far as they
  are defined in it or named in its ``__all__``.

Public means that no part of the name starts with an underscore.
"""

from __future__ import annotations

import inspect
from collections.abc import Iterable, Sequence
from types import ModuleType
from typing import Any

from asyncrpc.execution.naming import describe, public_module, split_name

__all__ = ("Exposure",)


class Exposure:
    """The callables, classes and modules of one ``expose`` option.

    Args:
        entries: functions, classes and modules.

    Raises:
        ValueError: an entry cannot be exposed: it is no callable and no module, or it is a bound
            method or a `functools.partial`, whose bound arguments come from the caller.
    """

    def __init__(self, entries: Sequence[object]) -> None:
        if isinstance(entries, (str, bytes, ModuleType)) or not isinstance(entries, Iterable):
            raise _refusal(entries)
        self._modules: dict[str, ModuleType] = {}
        self._callables: dict[str, object] = {}
        for entry in entries:
            if isinstance(entry, ModuleType):
                self._modules[public_module(entry.__name__)] = entry
            else:
                self._callables[_listed_name(entry)] = entry

    def find(self, name: str) -> object:
        """Return the callable that ``name`` stands for.

        Args:
            name: ``module:qualname``, of valid form.

        Raises:
            PermissionError: it is not exposed, or may not exist: both look the same from outside.
            AttributeError: a listed module has nothing of that name.
        """
        module, path = split_name(name)
        for length in range(len(path), 0, -1):
            listed = self._callables.get(f"{module}:{'.'.join(path[:length])}")
            if listed is not None:
                return self._member(listed, path[length:])
        if any(not _is_public(part) for part in path):
            raise PermissionError(name)
        return self._member(self._module_member(module, path[0]), path[1:])

    def allows(self, name: str, function: object) -> bool:
        """Whether a script function is listed itself, or defined in a listed module.

        Args:
            name: what it is registered as.
            function: what the registry has under that name.
        """
        if self._callables.get(name) is function:
            return True
        attribute = getattr(function, "__name__", "_")
        return _is_public(attribute) and any(
            vars(module).get(attribute) is function
            and _belongs_to_module(function, attribute, module)
            for module in self._modules.values()
        )

    def _module_member(self, module: str, attribute: str) -> object:
        """Return a callable of a listed module, also under the name of its defining module."""
        listed = self._modules.get(module)
        if listed is not None:
            found = vars(listed).get(attribute)
            if found is None:
                raise AttributeError(attribute)
            if callable(found) and _belongs_to_module(found, attribute, listed):
                return found
            raise PermissionError(attribute)
        for candidate in self._modules.values():
            found = vars(candidate).get(attribute)
            if (
                callable(found)
                and getattr(found, "__module__", None) == module
                and _belongs_to_module(found, attribute, candidate)
            ):
                return found
        raise PermissionError(attribute)

    def _member(self, found: object, path: Sequence[str]) -> object:
        """Walk from an exposed callable down through exposed classes."""
        for attribute in path:
            if not isinstance(found, type) or not _is_public(attribute):
                raise PermissionError(attribute)
            if not self._has_method(found, attribute):
                raise PermissionError(attribute)
            # The attribute was seen in the body of a class: this only binds it.
            found = getattr(found, attribute)
        return found

    def _has_method(self, cls: type, attribute: str) -> bool:
        for base in cls.__mro__:
            if attribute in vars(base):
                is_exposed = base is cls or self._is_exposed_class(base)
                return is_exposed and _is_defined_in_class(vars(base)[attribute], base)
        return False

    def allows_method(self, cls: type, name: str) -> bool:
        """Whether peers may call a method of an instance of ``cls`` that they refer to."""
        return _is_public(name) and self._is_exposed_class(cls) and self._has_method(cls, name)

    def _is_exposed_class(self, cls: type) -> bool:
        if any(cls is listed for listed in self._callables.values()):
            return True
        module = self._modules.get(public_module(cls.__module__))
        return module is not None and all(_is_public(part) for part in cls.__qualname__.split("."))


def _listed_name(entry: object) -> str:
    if isinstance(entry, str):
        raise _refusal(entry)
    try:
        reference = describe(entry)
    except TypeError as error:  # EncodingError is one
        raise _refusal(entry, f": {error}") from error
    if reference.args or reference.kwargs:
        raise _refusal(entry, "; list the function or class itself")
    return reference.name


def _refusal(entry: object, detail: str = "") -> ValueError:
    return ValueError(
        f"expose must list module-level functions, classes and modules, but got {entry!r}{detail}"
    )


def _is_public(part: str) -> bool:
    # A callable instance travels as its class' __call__, so that one is part of the interface.
    return not part.startswith("_") or part == "__call__"


def _belongs_to_module(found: object, attribute: str, module: ModuleType) -> bool:
    """Whether the module defines it or says in ``__all__`` that it is its own."""
    if isinstance(found, ModuleType):
        return False
    if attribute in getattr(module, "__all__", ()):
        return True
    is_definition = inspect.isroutine(found) or isinstance(found, type) or _is_wrapper(found)
    return is_definition and getattr(found, "__module__", None) == module.__name__


def _is_wrapper(found: Any) -> bool:
    """Whether it stands for a function, as what ``functools.lru_cache`` returns does."""
    return hasattr(found, "__wrapped__") and hasattr(found, "__qualname__")


def _is_defined_in_class(member: Any, cls: type) -> bool:
    if isinstance(member, (staticmethod, classmethod)):
        return _is_defined_in_class(member.__func__, cls)
    if not callable(member):
        return False
    if getattr(member, "__objclass__", None) is cls:  # a method of a class written in C
        return True
    if isinstance(member, type):
        return member.__qualname__ == f"{cls.__qualname__}.{member.__name__}"
    is_definition = inspect.isroutine(member) or _is_wrapper(member)
    return is_definition and getattr(member, "__module__", None) == cls.__module__
