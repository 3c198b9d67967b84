"""torch's own script functions and builtins, which count as script functions where torch is loaded.

A `torch.jit.ScriptFunction` is named by the qualified name that torch gives it, a builtin such as
``torch.add`` by its operator's. Nothing is imported for a name: the module of a ScriptFunction, and
torch for a builtin, must be loaded on the callee.

Source: torch.jit's schemas; `_find_builtin` and `_jit_get_schemas_for_operator` are what torch's
own RPC asks.
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from types import BuiltinFunctionType
from typing import Any

__all__ = ("TorchScript", "find_torch", "torch_script")

_SCRIPT_PREFIX = "__torch__."


@dataclass(frozen=True, slots=True)
class TorchScript:
    """A torch function that counts as a script function.

    Args:
        name: what travels.
        schemas: what it takes: one for each overload.
    """

    name: str
    schemas: tuple[Any, ...]

    def check(self, args: tuple[Any, ...], kwargs: Mapping[str, Any]) -> None:
        """Check arguments against the schemas.

        Raises:
            TypeError: no overload takes them; says why the only one, or the last, does not.
        """
        problem = "it has no schema"
        for schema in self.schemas:
            found = _mismatch(schema, args, kwargs)
            if found is None:
                return
            problem = found
        count = len(self.schemas)
        which = str(self.schemas[0]) if count == 1 else f"{self.name} ({count} overloads)"
        raise TypeError(f"torch function {which}: {problem}")


def torch_script(func: object) -> TorchScript | None:
    """Return how a torch function travels as a script function, ``None`` if it is none."""
    torch = sys.modules.get("torch")
    if torch is None:
        return None
    if isinstance(func, torch.jit.ScriptFunction):
        return TorchScript(func.qualified_name, (func.schema,))
    # torch counts functions of the math module among its builtins: those are plain ones here
    if not isinstance(func, BuiltinFunctionType) or getattr(torch, func.__name__, 0) is not func:
        return None
    operator = torch.jit._builtins._find_builtin(func)
    if operator is None:
        return None
    schemas = torch._C._jit_get_schemas_for_operator(operator)
    return TorchScript(operator, tuple(schemas))


def find_torch(name: str) -> Callable[..., Any] | None:
    """Return the torch function behind a name, ``None`` if there is none here."""
    torch = sys.modules.get("torch")
    if torch is None:
        return None
    if name.startswith(_SCRIPT_PREFIX):
        module, _, attribute = name.removeprefix(_SCRIPT_PREFIX).rpartition(".")
        found = getattr(sys.modules.get(module or "__main__"), attribute, None)
        is_it = isinstance(found, torch.jit.ScriptFunction) and found.qualified_name == name
        return found if is_it else None
    namespace, colons, operator = name.partition("::")
    if not colons or not operator.isidentifier() or namespace != "aten":
        return None
    return getattr(torch.ops.aten, operator, None)


def _mismatch(schema: Any, args: tuple[Any, ...], kwargs: Mapping[str, Any]) -> str | None:
    """Return why a schema does not take the arguments, ``None`` if it does."""
    expected = list(schema.arguments)
    positional = [argument for argument in expected if not argument.kwarg_only]
    if len(args) > len(positional):
        return f"takes {len(positional)} positional arguments but {len(args)} were given"
    given = dict(zip([argument.name for argument in positional], args, strict=False))
    for name, value in kwargs.items():
        if name in given:
            return f"got two values for argument {name!r}"
        if all(argument.name != name for argument in expected):
            return f"got an unexpected keyword argument {name!r}"
        given[name] = value
    for argument in expected:
        if argument.name in given:
            if not _fits(given[argument.name], argument.type):
                kind = type(given[argument.name]).__qualname__
                return f"argument {argument.name!r} must be {argument.type}, got {kind}"
        elif not argument.has_default_value():
            return f"missing a required argument: {argument.name!r}"
    return None


def _fits(value: object, expected: Any) -> bool:
    torch = sys.modules["torch"]
    inferred = torch._C._jit_try_infer_type(value)
    if not inferred.success():
        return False
    if inferred.type().isSubtypeOf(expected):
        return True
    # what torch converts: an int to a float, a number to a Scalar, a number to a Tensor
    kind = str(expected).removeprefix("Optional[").removesuffix("]")
    if isinstance(value, (bool, int, float, complex)):
        is_complex = isinstance(value, complex)
        return kind in ("number", "Scalar") or (kind in ("float", "Tensor") and not is_complex)
    return value == [] and kind.startswith("List[")
