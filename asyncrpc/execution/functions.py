"""How a callee finds the callable that a request names, whether it is allowed, how it is run.

The executor holds one `FunctionTable` per agent. `describe`, the caller's half, is in `naming`;
the rules of ``expose`` are in `exposure`. No event loop in here; `resolve` may import a module.
"""

from __future__ import annotations

import enum
import functools
import importlib
import inspect
import sys
from collections.abc import Callable, Sequence
from types import BuiltinFunctionType, FunctionType, MethodType
from typing import Any

from asyncrpc.errors import (
    Delivery,
    EncodingError,
    FunctionNotFoundError,
    PermissionDeniedError,
)
from asyncrpc.execution.exposure import Exposure
from asyncrpc.execution.naming import SCRIPT, FunctionRef, describe, split_name
from asyncrpc.execution.torch_functions import find_torch
from asyncrpc.functions import Mark, ScriptFunction, mark_of, scripts

__all__ = (
    "FunctionRef",
    "FunctionTable",
    "Target",
    "TargetKind",
    "describe",
)

# A peer can spell one function in endlessly many ways ("os:path.os.path…"): then start over.
_MAX_CACHED = 16_384

# A partial of a method of a partial …: nobody nests deeper, and a cycle must end.
_MAX_LAYERS = 32

_SHIP = "code is not shipped: define it in a module that both caller and callee can import"


class TargetKind(enum.Enum):
    """How a target is run."""

    ASYNC = "async"
    """``async def``: on the loop."""
    SYNC = "sync"
    """``def``, class or builtin: in the thread pool."""
    INLINE = "inline"
    """Marked with `inline`: on the loop, at once."""
    ASYNC_EXECUTION = "async_execution"
    """Marked with `async_execution`: returns an awaitable, which is awaited on the loop."""
    STREAM = "stream"
    """Async generator function."""
    DEFERRED = "deferred"
    """Takes the call itself and its arguments, and sees to it that something is run for it."""


class Target:
    """A callable of this worker, ready to be run."""

    __slots__ = ("function", "kind", "name")

    def __init__(self, kind: TargetKind, function: Callable[..., object], name: str) -> None:
        self.kind = kind
        self.function = function
        self.name = name

    def __repr__(self) -> str:
        return f"Target({self.kind.name}, {self.name!r})"


class FunctionTable:
    """The callables of one worker, by the names that requests carry.

    A name is looked up once; a function that is replaced in its module later is not noticed
    until `clear`.

    Args:
        expose: functions, classes and modules that peers may call, as `Exposure` says;
            ``None`` lets them call everything that can be imported.
        worker: this worker's name, for the texts of errors.

    Raises:
        ValueError: ``expose`` lists something that cannot be exposed.
    """

    def __init__(self, expose: Sequence[object] | None = None, *, worker: str = "") -> None:
        self._worker = worker
        self._exposure = None if expose is None else Exposure(expose)
        self._targets: dict[str, Target] = {}
        self._kinds: dict[object, TargetKind] = {}  # of methods, by their functions

    def method(self, value: object, name: str) -> Target:
        """Find a method of a value that peers refer to; instances are looked into, too.

        Raises:
            AttributeError: there is no such attribute.
            TypeError: it cannot be called.
            PermissionDeniedError: ``expose`` lists neither the value's class nor, where the method
                is inherited, the class that defines it; or the method is private.
        """
        if self._exposure is None:
            function = getattr(value, name)
        else:
            function = self._exposed_method(self._exposure, value, name)
        if not callable(function):
            raise TypeError(f"{type(value).__qualname__}.{name} is no method but {function!r:.100}")
        full_name = f"{type(value).__qualname__}.{name}"
        return Target(self._kind_of_method(function), function, full_name)

    def _exposed_method(self, exposure: Exposure, value: object, name: str) -> object:
        if not exposure.allows_method(type(value), name):
            raise self._denied(f"{type(value).__module__}:{type(value).__qualname__}.{name}")
        found = inspect.getattr_static(type(value), name)  # never what the instance has instead
        bind = getattr(found, "__get__", None)
        return found if bind is None else bind(value, type(value))

    def _kind_of_method(self, function: object) -> TargetKind:
        inner = getattr(function, "__func__", None)
        kind = self._kinds.get(inner)
        if kind is None:
            kind = _kind_of(function)
            if isinstance(inner, FunctionType):
                if len(self._kinds) >= _MAX_CACHED:
                    self._kinds.clear()
                self._kinds[inner] = kind
        return kind

    def resolve(self, name: str) -> Target:
        """Find the callable named ``name``, importing its module unless ``expose`` is given.

        Args:
            name: ``module:qualname``, as `describe` made it, or `SCRIPT` and the name of a script
                function; it comes from a peer.

        Returns:
            The target, from the table if it was asked for before.

        Raises:
            FunctionNotFoundError: there is no such module or attribute, the module cannot be
                imported, the attribute cannot be called, or the name has another form.
            PermissionDeniedError: ``expose`` does not list it.
        """
        target = self._targets.get(name)
        return self._look_up(name) if target is None else target

    def clear(self) -> None:
        """Forget what was looked up, after functions were replaced in their modules."""
        self._targets.clear()

    def _look_up(self, name: str) -> Target:
        if len(self._targets) >= _MAX_CACHED:
            self._targets.clear()
        if name.startswith(SCRIPT):
            target = self._script(name.removeprefix(SCRIPT))
        else:
            function = self._function(name)
            target = Target(_kind_of(function), function, name)
        self._targets[name] = target
        return target

    def _script(self, name: str) -> Target:
        """Find a script function in the registry, or torch's; nothing is imported for it."""
        script = scripts.get(name)
        function = find_torch(name) if script is None else script.function
        if function is None:
            raise self._not_found(
                f"no script function {name!r} is registered here: its module must be imported on "
                "the callee first"
            )
        if self._exposure is not None and not self._exposure.allows(name, function):
            raise self._denied(name)
        kind = _kind_of(function)
        return Target(kind, function if script is None else _checked(script), name)

    def _function(self, name: str) -> Callable[..., object]:
        try:
            module, path = split_name(name)
        except EncodingError as error:
            raise self._not_found(str(error)) from None
        if self._exposure is None:
            function = self._import(module, path)
        else:
            function = self._find_exposed(self._exposure, name)
        if not callable(function):
            raise self._not_found(f"{name!r} is no function but {type(function).__qualname__}")
        return function

    def _find_exposed(self, exposure: Exposure, name: str) -> object:
        try:
            return exposure.find(name)
        except PermissionError:
            raise self._denied(name) from None
        except AttributeError:
            raise self._not_found(f"no function {name!r}; {_SHIP}") from None

    def _import(self, module: str, path: Sequence[str]) -> object:
        found: object = sys.modules.get(module)
        if found is None:
            found = self._import_module(module)
        try:
            for part in path:
                found = getattr(found, part)
        except AttributeError:
            raise self._not_found(
                f"no function {'.'.join(path)!r} in module {module!r}; {_SHIP}"
            ) from None
        return found

    def _import_module(self, module: str) -> object:
        try:
            return importlib.import_module(module)
        except ModuleNotFoundError as error:
            if error.name is not None and f"{module}.".startswith(f"{error.name}."):
                raise self._not_found(f"no module {module!r}; {_SHIP}") from None
            raise self._import_failed(module, error) from error
        except (Exception, SystemExit) as error:  # the module's own code runs: anything goes
            raise self._import_failed(module, error) from error

    def _import_failed(self, module: str, error: BaseException) -> FunctionNotFoundError:
        return self._not_found(
            f"importing module {module!r} failed with {type(error).__qualname__}: {error}"
        )

    def _denied(self, name: str) -> PermissionDeniedError:
        return PermissionDeniedError(
            f"worker {self._worker!r} does not expose {name!r} to its callers",
            delivery=Delivery.EXECUTED,
        )

    def _not_found(self, text: str) -> FunctionNotFoundError:
        return FunctionNotFoundError(
            f"function not found on worker {self._worker!r}: {text}", delivery=Delivery.EXECUTED
        )


def _checked(script: ScriptFunction) -> Callable[..., object]:
    """Return a script function that checks its arguments: its caller may not know its types."""

    def run(*args: Any, **kwargs: Any) -> object:
        script.check(args, kwargs)
        return script.function(*args, **kwargs)

    return run


def _kind_of(function: object) -> TargetKind:
    """Look through partials, methods and callable instances for what will really run."""
    mark: Mark | None = None
    for _ in range(_MAX_LAYERS):
        if inspect.iscoroutinefunction(function):
            return TargetKind.ASYNC
        if inspect.isasyncgenfunction(function):
            return TargetKind.STREAM
        mark = mark or mark_of(function)
        inner = _inner(function)
        if inner is None:
            break
        function = inner
    if mark is Mark.INLINE:
        return TargetKind.INLINE
    return TargetKind.ASYNC_EXECUTION if mark is Mark.ASYNC_EXECUTION else TargetKind.SYNC


def _inner(function: object) -> object | None:
    if isinstance(function, functools.partial):
        return function.func
    if isinstance(function, (MethodType, staticmethod, classmethod)):
        return function.__func__
    if isinstance(function, (FunctionType, BuiltinFunctionType, type)):
        return None
    call = getattr(type(function), "__call__", None)  # noqa: B004 -- the function is wanted
    return call if isinstance(call, (FunctionType, MethodType)) else None
