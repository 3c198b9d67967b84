"""Everything else: pickle protocol 5 with out-of-band buffers, where pickle is allowed.

Sans-IO. Registered classes and the codec's extensions keep their own way of travelling when
they sit inside a pickled object.
"""

from __future__ import annotations

import copyreg
import functools
import io
import pickle
from collections.abc import Callable
from typing import Any

from asyncrpc.errors import EncodingError, RpcError

from .buffers import get_data, put_data
from .state import (
    LARGE,
    Builder,
    DecodeState,
    EncodeState,
    Kind,
    MalformedError,
    Policy,
    UnencodableError,
    mark,
)

__all__ = ("PICKLE_BUILDERS", "encode_by_pickle", "rebuild_extension", "rebuild_registered")

_PICKLE = mark(Kind.PICKLE)


def rebuild_extension(code: int, value: object) -> object:
    """Stand in a pickle for the codec's own function of this name, which knows its classes."""
    raise RuntimeError(f"extension {code} ({type(value).__name__}) was unpickled outside a codec")


def rebuild_registered(name: str, value: object) -> object:
    """Stand in a pickle for the codec's own function of this name, which knows its classes."""
    raise RuntimeError(f"type {name!r} ({type(value).__name__}) was unpickled outside a codec")


def encode_by_pickle(state: EncodeState, value: object) -> object:
    """Encode any picklable object.

    Raises:
        UnencodableError: pickle, or code of the object that pickle runs, refuses it.
    """
    first = len(state.buffers)

    def take_out(buffer: pickle.PickleBuffer) -> bool:
        try:
            view = buffer.raw()
        except BufferError:
            return True  # not contiguous: pickle copies it into the stream
        if view.nbytes < LARGE:
            return True
        state.put_buffer(view)
        return False

    stream = io.BytesIO()
    pickler = pickle.Pickler(stream, protocol=5, buffer_callback=take_out)
    table = _dispatch_table(state)
    if table is not None:
        pickler.dispatch_table = table
    try:
        pickler.dump(value)
    except RpcError:  # an extension's, in its own words
        raise
    except Exception as error:  # the object's own code runs here
        del state.buffers[first:]
        raise UnencodableError(_explain(value, error)) from error
    last = len(state.buffers)
    return [_PICKLE, put_data(state, stream.getvalue()), *range(first, last)]


def _explain(value: object, error: Exception) -> str:
    reason = str(error) or type(error).__name__
    is_name_missing = isinstance(error, pickle.PicklingError | AttributeError)
    hint = " (functions and classes travel by name, code is not shipped)" * is_name_missing
    return (
        f"a value of type {type(value).__module__}.{type(value).__qualname__} "
        f"cannot be pickled: {reason}{hint}"
    )


def _dispatch_table(state: EncodeState) -> dict[type, Callable[[Any], Any]] | None:
    """Return how pickle treats registered classes and extensions, or ``None`` for the default."""
    policy = state.policy
    if not policy.by_class and not len(policy.registry):
        return None
    table: dict[type, Callable[[Any], Any]] = dict(copyreg.dispatch_table)
    for entry in policy.registry:
        table[entry.cls] = functools.partial(_reduce, rebuild_registered, entry.name, entry.encode)
    for cls, extension in policy.by_class.items():
        table[cls] = functools.partial(
            _reduce, rebuild_extension, extension.code, functools.partial(state.extend, extension)
        )
    return table


def _reduce(
    rebuild: Callable[..., object],
    name: object,
    encode: Callable[[Any], object],
    value: object,
) -> tuple[Callable[..., object], tuple[object, object]]:
    return rebuild, (name, encode(value))


class _Unpickler(pickle.Unpickler):
    """Knows the codec's classes, and says that code is not shipped where a name is missing."""

    def __init__(self, stream: io.BytesIO, buffers: list[Any], policy: Policy) -> None:
        super().__init__(stream, buffers=buffers)
        self._policy = policy

    def find_class(self, module: str, name: str) -> Any:
        if module == __name__ and name == "rebuild_extension":
            return self._rebuild_extension
        if module == __name__ and name == "rebuild_registered":
            return self._rebuild_registered
        try:
            return super().find_class(module, name)
        except (AttributeError, ImportError) as error:
            raise EncodingError(
                f"{module}.{name} is not found here: code is not shipped, "
                f"the module must be importable on both sides ({error})"
            ) from error

    def _rebuild_extension(self, code: int, value: object) -> object:
        extension = self._policy.by_code.get(code)
        if extension is None:
            raise MalformedError(f"extension {code!r} is not known")
        return extension.decode(value)

    def _rebuild_registered(self, name: str, value: object) -> object:
        entry = self._policy.registry.by_name(name)
        if entry is None:
            raise EncodingError(f"type {name!r} is not registered here")
        return entry.decode(value)


def _build_pickle(state: DecodeState, node: list[Any]) -> object:
    if not state.policy.allow_pickle:
        # an honest peer may have pickle on: the call fails, not the link
        raise EncodingError("a value came as a pickle, and pickle is off here")
    data = get_data(state, node[1])
    buffers = [state.take_buffer(index) for index in node[2:]]
    unpickler = _Unpickler(io.BytesIO(data), buffers, state.policy)
    try:
        return unpickler.load()
    except (RpcError, MalformedError, MemoryError):
        raise
    except (pickle.UnpicklingError, EOFError) as error:
        raise MalformedError(f"a pickle is broken: {error}") from error
    except Exception as error:  # the object's own code runs here
        raise EncodingError(f"a pickled value cannot be rebuilt here: {error!r}") from error


PICKLE_BUILDERS: dict[Kind, Builder] = {Kind.PICKLE: _build_pickle}
