"""Instances of user classes by name and content: Enum, dataclass, NamedTuple, exceptions.

Sans-IO. A class travels as ``module:qualname`` and is looked up among the modules that are
loaded; only a codec that allows pickle imports a module for it. No ``__init__``,
``__post_init__`` or ``__setattr__`` of the class runs while an instance is rebuilt.
"""

from __future__ import annotations

import dataclasses
import enum
import functools
import importlib
import sys
from types import ModuleType
from typing import Any

from asyncrpc.errors import EncodingError

from .exceptions import rebuild_exception, split_exception
from .state import (
    Builder,
    DecodeState,
    Encoder,
    EncodeState,
    Kind,
    MalformedError,
    Policy,
    UnencodableError,
    mark,
)

__all__ = ("CLASS_BUILDERS", "find_class_encoder", "find_loaded", "name_of_class")

_ENUM = mark(Kind.ENUM)
_DATACLASS = mark(Kind.DATACLASS)
_NAMEDTUPLE = mark(Kind.NAMEDTUPLE)
_EXCEPTION = mark(Kind.EXCEPTION)
_HEAP_TYPE = 1 << 9  # Py_TPFLAGS_HEAPTYPE: set on classes made by a class statement
_PICKLE_HOOKS = (
    "__reduce__",
    "__reduce_ex__",
    "__getstate__",
    "__setstate__",
    "__getnewargs__",
    "__getnewargs_ex__",
)


def name_of_class(cls: type) -> str:
    """Return ``module:qualname``.

    Raises:
        UnencodableError: the class is not found under that name: it is local, or hidden.
    """
    name = f"{cls.__module__}:{cls.__qualname__}"
    module = sys.modules.get(cls.__module__)
    if module is None or find_loaded(module, cls.__qualname__) is not cls:
        raise UnencodableError(
            f"class {name} cannot be found by that name: it is local or was replaced, "
            "and code is not shipped"
        )
    return name


def find_loaded(module: object, qualname: str) -> object:
    """Return ``module.qualname`` without running code of the module, or ``None``."""
    found: object = module
    for part in qualname.split("."):
        if not isinstance(found, ModuleType | type):
            return None
        found = vars(found).get(part)
    return found


_ALIAS = "__orig_class__"
"""Where typing notes that an instance was made by ``Generic[int](...)``; only pickle carries it."""


def find_class_encoder(policy: Policy, cls: type) -> Encoder | None:
    """Return the encoder of a user class, or ``None`` if it is of no kind handled here.

    Raises:
        UnencodableError: it is of such a kind, but has no name.
    """
    if issubclass(cls, enum.Enum):
        return functools.partial(_encode_enum, name_of_class(cls))
    if issubclass(cls, BaseException):
        return functools.partial(_encode_exception, name_of_class(cls))
    if _is_namedtuple(cls):
        return functools.partial(_encode_namedtuple, name_of_class(cls))
    if _is_plain_dataclass(cls) and not (policy.allow_pickle and _defines_pickling(cls)):
        names = tuple(field.name for field in dataclasses.fields(cls))  # type: ignore[arg-type]  # checked
        return functools.partial(_encode_dataclass, name_of_class(cls), names)
    return None


def _is_namedtuple(cls: type) -> bool:
    fields = getattr(cls, "_fields", None)
    return issubclass(cls, tuple) and type(fields) is tuple and {str}.issuperset(map(type, fields))


def _is_plain_dataclass(cls: type) -> bool:
    bases = [base for base in cls.__mro__ if not base.__flags__ & _HEAP_TYPE]
    return dataclasses.is_dataclass(cls) and bases == [object]


def _defines_pickling(cls: type) -> bool:
    """Tell whether the class says itself how it pickles; that is then its way to travel."""
    for base in cls.__mro__[:-1]:
        for name in _PICKLE_HOOKS:
            hook = vars(base).get(name)
            if hook is not None and getattr(hook, "__module__", None) != "dataclasses":
                return True
    return False


def _find_class(state: DecodeState, reference: object) -> Any:
    name = state.names(reference)[0]
    found = state.classes.get(name)
    if found is None:
        found = state.classes[name] = _look_up(name, state.policy.allow_pickle)
    return found


def _look_up(name: str, may_import: bool) -> object:
    module_name, _, qualname = name.partition(":")
    module = sys.modules.get(module_name)
    if module is None and may_import:
        try:
            module = importlib.import_module(module_name)
        except Exception as error:
            raise EncodingError(
                f"module {module_name} of class {name} cannot be imported: {error}"
            ) from error
    if module is None:
        raise EncodingError(
            f"class {name} is not loaded here, and is not imported while pickle is off"
        )
    found = find_loaded(module, qualname)
    if not isinstance(found, type):
        raise EncodingError(f"class {name} does not exist here: code is not shipped")
    return found


def _encode_enum(name: str, state: EncodeState, value: enum.Enum) -> object:
    if value.name in type(value).__members__:
        return [_ENUM, state.refer(name), value.name]
    # Several bits of a Flag have no name of their own.
    return [_ENUM, state.refer(name), int(value.value)]


def _build_enum(state: DecodeState, node: list[Any]) -> object:
    _, reference, item = node
    cls = _find_class(state, reference)
    if not issubclass(cls, enum.Enum):
        raise MalformedError(f"{cls.__qualname__} is no Enum")
    if type(item) is int and issubclass(cls, enum.Flag):
        return cls(item)
    if item not in cls.__members__:
        raise EncodingError(f"{cls.__qualname__} has no member {item!r} here")
    return cls[item]


def _encode_namedtuple(name: str, state: EncodeState, value: tuple[Any, ...]) -> object:
    fields: tuple[str, ...] = value._fields  # type: ignore[attr-defined]  # find_class_encoder checked
    node = [_NAMEDTUPLE, state.refer(name, *fields), *value]
    if getattr(value, "__dict__", None):
        node.append(dict(vars(value)))
    return node


def _build_namedtuple(state: DecodeState, node: list[Any]) -> object:
    cls = _find_class(state, node[1])
    names = state.names(node[1])[1:]
    if not _is_namedtuple(cls):
        raise MalformedError(f"{cls.__qualname__} is no NamedTuple")
    if list(cls._fields) != names:
        raise EncodingError(
            f"fields of {cls.__qualname__} are {list(cls._fields)} here but {names} at the sender"
        )
    values, others = _split_values(node, len(names))
    instance = tuple.__new__(cls, values)
    if others:
        vars(instance).update(others)
    return instance


def _encode_dataclass(
    name: str, fields: tuple[str, ...], state: EncodeState, value: object
) -> object:
    present = [field for field in fields if hasattr(value, field)]
    node = [_DATACLASS, state.refer(name, *present)]
    node += [getattr(value, field) for field in present]
    others = {
        key: item for key, item in getattr(value, "__dict__", {}).items() if key not in fields
    }
    if not state.policy.allow_pickle:
        others.pop(_ALIAS, None)
    if others:
        node.append(others)
    return node


def _build_dataclass(state: DecodeState, node: list[Any]) -> object:
    cls = _find_class(state, node[1])
    names = state.names(node[1])[1:]
    if not _is_plain_dataclass(cls):
        raise MalformedError(f"{cls.__qualname__} is no dataclass of its own")
    known = {field.name for field in dataclasses.fields(cls)}
    if not known.issuperset(names):
        raise EncodingError(
            f"dataclass {cls.__qualname__} has no field {sorted(set(names) - known)} here"
        )
    values, others = _split_values(node, len(names))
    instance = object.__new__(cls)
    for name, value in zip(names, values, strict=True):
        _set_field(instance, name, value)
    if others:
        vars(instance).update(others)
    return instance


def _split_values(node: list[Any], count: int) -> tuple[list[Any], dict[str, Any]]:
    """Split into ``count`` fields and the instance's other attributes, if any were sent."""
    values = node[2:]
    if len(values) == count:
        return values, {}
    if len(values) != count + 1:
        raise MalformedError(f"an instance has {len(values)} values for {count} fields")
    return values[:-1], _as_attributes(values[-1])


def _set_field(instance: object, name: str, value: object) -> None:
    slot = getattr(type(instance), name, None)
    if hasattr(instance, "__dict__") and not hasattr(slot, "__set__"):
        instance.__dict__[name] = value
    else:
        object.__setattr__(instance, name, value)


def _as_attributes(item: object) -> dict[str, Any]:
    if type(item) is not dict or not {str}.issuperset(map(type, item)):
        raise MalformedError("attributes must be a dict with str keys")
    return item


def _encode_exception(name: str, state: EncodeState, value: BaseException) -> object:
    parts = split_exception(value)
    # The object that lacks an attribute may be anything, and is no part of what went wrong.
    if "obj" in parts.fields and not state.policy.travels_lightly(parts.fields["obj"]):
        del parts.fields["obj"]
    return [
        _EXCEPTION,
        state.refer(name),
        parts.args,
        parts.fields,
        parts.attributes,
        value.__cause__,
        value.__suppress_context__,
    ]


def _build_exception(state: DecodeState, node: list[Any]) -> object:
    _, reference, args, fields, attributes, cause, is_context_hidden = node
    cls = _find_class(state, reference)
    if not issubclass(cls, BaseException):
        raise MalformedError(f"{cls.__qualname__} is no exception")
    if type(args) is not tuple:
        raise MalformedError("args of an exception must be a tuple")
    instance = rebuild_exception(cls, args, _as_attributes(fields), _as_attributes(attributes))
    instance.__cause__ = cause
    instance.__suppress_context__ = bool(is_context_hidden)
    return instance


CLASS_BUILDERS: dict[Kind, Builder] = {
    Kind.ENUM: _build_enum,
    Kind.NAMEDTUPLE: _build_namedtuple,
    Kind.DATACLASS: _build_dataclass,
    Kind.EXCEPTION: _build_exception,
}
