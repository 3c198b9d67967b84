"""Exceptions of served calls, to and from the wire.

Pure but for the codec that is passed in. `encode_failure` runs on the callee, `decode_failure` on
the caller. What the caller gets:

- an error of the framework (`FunctionNotFoundError`, a deadline that ran out on the callee): itself
  with its code and delivery;
- an error that the function raised: an instance of its class, if that is a builtin or its module
  is loaded here already, with args, attributes, notes, causes and contexts;
- `RemoteError` for what has no such class, does not read the same when rebuilt, or would be taken
  for the caller's own: `RpcError`, and every kind of `KeyboardInterrupt`, `SystemExit`,
  `GeneratorExit`, `StopIteration`, `StopAsyncIteration`, `CancelledError` and `TimeoutError`.
  Its ``type_name`` is the bare name of a builtin class, else ``module.qualname``.

``__cause__`` of each is a `RemoteTraceback` whose own ``__cause__`` is the original cause. In
causes and contexts, which nobody can catch by mistake, every loaded class is kept.

Theory of operation: the error, its causes, contexts and group members form a graph. It travels
as a flat list of plain dicts that refer to each other by index, so that shared and circular links
need no care on the way. Values are encoded one by one into bytes of their own, so that one that
cannot travel, or cannot be decoded here, costs its own text instead of the whole error.
"""

from __future__ import annotations

import contextlib
import sys
from asyncio import CancelledError
from collections.abc import Sequence
from concurrent.futures import CancelledError as BlockingCancelledError
from typing import Any, Protocol

from asyncrpc.errors import (
    Delivery,
    RemoteError,
    RemoteProtocolError,
    RemoteTraceback,
    RpcError,
    StatusCode,
)
from asyncrpc.execution.naming import public_module
from asyncrpc.execution.remote_traceback import MAX_CHAIN, cut, format_remote, safe_str
from asyncrpc.wire import rebuild_exception, split_exception

__all__ = ("RegisteredTypes", "ValueCodec", "decode_failure", "encode_failure")

# Bytes of encoded args and attributes that one failure carries; what is beyond travels as text.
_MAX_VALUES = 1 << 20

# What asyncio, a loop statement or the interpreter acts upon: raised by a callee, it must not
# cancel, end or time out anything of the caller.
_CONTROL_FLOW = (
    KeyboardInterrupt,
    SystemExit,
    GeneratorExit,
    StopIteration,
    StopAsyncIteration,
    CancelledError,
    BlockingCancelledError,
    TimeoutError,
)

_ASYNC_KINDS = ("coroutine", "async generator")
"""How the RuntimeError names what raised a `StopIteration`."""

# Values that every codec carries unchanged.
_PLAIN = frozenset({type(None), bool, int, float})

_CODES = {code.value: code for code in StatusCode}


class ValueCodec(Protocol):
    """What is needed of `asyncrpc.wire.Codec`."""

    def encode(self, value: object, path: str = ...) -> tuple[bytes, list[Any]]:
        """Return body and buffers of ``value``."""
        ...

    def decode(self, body: Any, buffers: Sequence[Any]) -> object:
        """Return the value."""
        ...


class RegisteredTypes(Protocol):
    """What is needed of `asyncrpc.wire.TypeRegistry`."""

    def by_class(self, cls: type) -> object | None:
        """Return something if exactly ``cls`` is registered, else ``None``."""
        ...


def encode_failure(
    error: BaseException,
    *,
    worker: str,
    function: str,
    codec: ValueCodec,
    registry: RegisteredTypes | None = None,
    is_ours: bool = False,
) -> dict[str, object]:
    """Turn what a served call failed with into plain values.

    Args:
        error: the exception, with its traceback; it is not changed or kept.
        worker: name of the worker that served the call.
        function: name of the function, ``module:qualname``.
        codec: encodes args and attributes.
        registry: exceptions of these classes are encoded as what they are registered with.
        is_ours: whether the framework raised it, not the function: then an `RpcError` arrives as
            itself.

    Returns:
        Dicts, lists, str, bytes, int and ``None`` only, for the codec to encode as a whole.
    """
    graph = _collect(_as_raised(error))
    index = {id(member): number for number, member in enumerate(graph)}
    packer = _Packer(codec)
    entries = []
    for member in graph:
        entry = _encode_error(member, index, packer)
        if registry is not None and registry.by_class(type(member)) is not None:
            entry["whole"] = packer.pack(member, "the error")
        entries.append(entry)
    return {
        "worker": worker,
        "function": function,
        "ours": is_ours,
        "traceback": format_remote(error, worker, function),
        "errors": entries,
    }


def decode_failure(payload: object, codec: ValueCodec) -> BaseException:
    """Make the exception that the caller gets of what `encode_failure` returned.

    Args:
        payload: comes from a peer.
        codec: decodes args and attributes.

    Returns:
        The exception, without a traceback.

    Raises:
        RemoteProtocolError: ``payload`` is not of that form.
    """
    try:
        return _Decoder(payload, codec).decode()
    except (KeyError, IndexError, TypeError, ValueError, AttributeError) as error:
        raise RemoteProtocolError(f"malformed failure in a reply: {error!r}") from error


def _as_raised(error: BaseException) -> BaseException:
    """Return what the code of an ``async def`` raised where Python made a RuntimeError of it.

    Source: PEP 479.
    """
    cause = error.__cause__
    if type(error) is not RuntimeError or not isinstance(
        cause, (StopIteration, StopAsyncIteration)
    ):
        return error
    texts = [f"{kind} raised {type(cause).__name__}" for kind in _ASYNC_KINDS]
    return cause if str(error) in texts else error


def _collect(error: BaseException) -> list[BaseException]:
    """Return ``error``, its causes, contexts and group members, the nearest ones first."""
    graph = [error]
    seen = {id(error)}
    for member in graph:  # grows meanwhile
        following = [member.__cause__, member.__context__]
        if isinstance(member, BaseExceptionGroup):
            following.extend(member.exceptions)
        for other in following:
            if other is not None and id(other) not in seen and len(graph) < MAX_CHAIN:
                seen.add(id(other))
                graph.append(other)
    return graph


def _encode_error(
    error: BaseException,
    index: dict[int, int],
    packer: _Packer,
) -> dict[str, object]:
    args, fields, state = split_exception(error)
    fields.pop("obj", None)  # what an attribute was looked up on is any object
    state.pop("__notes__", None)
    kind = type(error)
    notes = [cut(safe_str(note)) for note in _notes(error)]
    entry: dict[str, object] = {
        "module": public_module(str(kind.__module__)),
        "qualname": kind.__qualname__,
        "text": cut(safe_str(error)),
        "cause": index.get(id(error.__cause__)),
        "context": index.get(id(error.__context__)),
        "suppress": error.__suppress_context__,
        "notes": notes,
    }
    if isinstance(error, RpcError):
        state.pop("code", None)
        state.pop("delivery", None)
        entry["code"] = error.code.value
        entry["delivery"] = error.delivery.value
    if isinstance(error, BaseExceptionGroup):
        members = (index.get(id(member)) for member in error.exceptions)
        entry["group"] = [number for number in members if number is not None]
        args = (error.message,)
    packer.left_out = []
    entry["args"] = [packer.pack(value, f"args[{at}]") for at, value in enumerate(args)]
    for part, values in (("fields", fields), ("state", state)):
        entry[part] = {str(name): packer.pack(value, str(name)) for name, value in values.items()}
    if packer.left_out:
        entry["cut"] = True
        entry["notes"] = [*notes, f"too large to arrive whole: {', '.join(packer.left_out)}"]
    return entry


def _notes(error: BaseException) -> Sequence[object]:
    notes = getattr(error, "__notes__", ())
    return notes if isinstance(notes, (list, tuple)) else (notes,)


class _Packer:
    """Encodes single values, within one budget of bytes for all of them.

    A packed value is ``[value]`` as it is, ``[body, buffers, text]``, or ``[None, text]`` where
    only the text of its repr travels. Of a str beyond the budget its middle is left out.

    Attributes:
        left_out: what did not fit into the budget, in words.
    """

    def __init__(self, codec: ValueCodec) -> None:
        self._codec = codec
        self._budget = _MAX_VALUES
        self.left_out: list[str] = []

    def pack(self, value: object, name: str) -> list[object]:
        """Return the packed form of ``value``, which people know as ``name``."""
        if type(value) in _PLAIN:
            return [value]
        if type(value) is str:
            return [self._fitted(value, name)]
        try:
            body, buffers = self._codec.encode(value)
        except Exception:  # noqa: BLE001 -- pickling runs the value's own code
            return [None, cut(_safe_repr(value))]
        size = len(body) + sum(memoryview(buffer).nbytes for buffer in buffers)
        if size > self._budget:
            self.left_out.append(f"{name} ({size} bytes, only its repr is here)")
            return [None, cut(_safe_repr(value))]
        self._budget -= size
        return [bytes(body), [bytes(buffer) for buffer in buffers], cut(_safe_repr(value))]

    def _fitted(self, text: str, name: str) -> str:
        if len(text) > self._budget:
            self.left_out.append(f"{name} ({len(text)} characters)")
            return cut(text)
        self._budget -= len(text)
        return text


def _safe_repr(value: object) -> str:
    try:
        return repr(value)
    except Exception:  # noqa: BLE001 -- the user's __repr__
        return f"<{type(value).__qualname__} object, repr failed>"


class _Decoder:
    """Rebuilds one failure; only `RemoteError` where a class is missing or does not fit."""

    def __init__(self, payload: Any, codec: ValueCodec) -> None:
        self._codec = codec
        self._worker = str(payload["worker"])
        self._function = str(payload["function"])
        self._traceback = str(payload["traceback"])
        self._is_ours = bool(payload["ours"])
        self._entries: list[dict[str, Any]] = payload["errors"]
        if not isinstance(self._entries, list) or not 0 < len(self._entries) <= MAX_CHAIN:
            raise ValueError(f"errors must be a list of 1 to {MAX_CHAIN} entries")
        self._built: dict[int, BaseException | None] = {}
        self._catchable = self._find_catchable()

    def decode(self) -> BaseException:
        """Return the root of the graph, all of it linked."""
        root = self._build(0)
        assert root is not None  # only a member that contains itself is None
        remote = RemoteTraceback(self._traceback)
        for number, entry in enumerate(self._entries):
            error = self._build(number)
            if error is None:
                continue
            context, cause = self._linked(entry["context"]), self._linked(entry["cause"])
            if context is not None and not _leads_to(context, error):
                error.__context__ = context
            if cause is not None and not _leads_to(cause, error):
                error.__cause__ = cause
            error.__suppress_context__ = bool(entry["suppress"])
        remote.__cause__ = root.__cause__
        root.__cause__ = remote
        return root

    def _find_catchable(self) -> set[int]:
        """Return what an ``except`` or ``except*`` of the caller would meet: root and members."""
        found = {0}
        pending = [0]
        while pending:
            for number in self._entries[pending.pop()].get("group", ()):
                if number not in found:
                    found.add(number)
                    pending.append(number)
        return found

    def _linked(self, number: int | None) -> BaseException | None:
        return None if number is None else self._build(number)

    def _build(self, number: int) -> BaseException | None:
        """Return error ``number`` without its links; ``None`` while it is being built."""
        if number in self._built:
            return self._built[number]
        entry = self._entries[number]
        self._built[number] = None
        args = tuple(self._unpack(packed) for packed in entry["args"])
        error = self._rebuilt(number, entry, args)
        if error is None:
            error = RemoteError(
                *args,
                type_name=_type_name(entry),
                text=str(entry["text"]),
                code=_CODES.get(entry.get("code", StatusCode.INTERNAL.value)),
            )
        for note in entry["notes"]:
            error.add_note(note)
        self._built[number] = error
        return error

    def _rebuilt(
        self, number: int, entry: dict[str, Any], args: tuple[object, ...]
    ) -> BaseException | None:
        """Return an instance of the error's own class, ``None`` if that cannot or must not be."""
        cls = _find_class(entry["module"], entry["qualname"])
        whole = self._unpack(entry["whole"]) if "whole" in entry else None
        if isinstance(whole, BaseException):
            cls = type(whole)
        if cls is None or (number in self._catchable and not self._is_allowed(cls, entry)):
            return None
        members = [self._build(member) for member in entry.get("group", ())]
        fields = {name: self._unpack(packed) for name, packed in entry["fields"].items()}
        state = {name: self._unpack(packed) for name, packed in entry["state"].items()}
        with contextlib.suppress(Exception):  # the class decides what it takes, then its __str__
            if isinstance(whole, BaseException):
                return whole
            if issubclass(cls, BaseExceptionGroup):
                # Of nothing but errors, BaseExceptionGroup makes itself an ExceptionGroup.
                args = (args[0], [member for member in members if member is not None])
            error: BaseException = rebuild_exception(cls, args, fields, state)
            if isinstance(error, RpcError):
                is_answer = isinstance(error, RemoteError) and number in self._catchable
                _restore_status(error, entry, Delivery.EXECUTED if is_answer else None)
            if cut(str(error)) == entry["text"] or entry.get("cut"):
                return error
        return None

    def _is_allowed(self, cls: type[BaseException], entry: dict[str, Any]) -> bool:
        if issubclass(cls, RpcError):
            # One that says what failed says so still after another hop.
            return self._is_ours or (cls is RemoteError and "type_name" in entry["state"])
        return not issubclass(cls, _CONTROL_FLOW)

    def _unpack(self, packed: Any) -> object:
        if len(packed) == 1:
            return packed[0]
        if len(packed) == 2:
            return packed[1]
        body, buffers, text = packed
        try:
            return self._codec.decode(body, buffers)
        except Exception:  # noqa: BLE001 -- unpickling runs the value's own code
            return text


def _restore_status(error: RpcError, entry: dict[str, Any], delivery: Delivery | None) -> None:
    code = _CODES[entry["code"]]
    delivery = delivery or Delivery(entry["delivery"])
    # Only what differs from the class, so that a rebuilt error has the attributes of a fresh one.
    if code is not error.code:
        error.code = code
    if delivery is not error.delivery:
        error.delivery = delivery


def _find_class(module: str, qualname: str) -> type[BaseException] | None:
    """Return the exception class of that name if its module is loaded; import nothing."""
    loaded = sys.modules.get(module)
    first, *rest = qualname.split(".")
    # Not getattr: a module's own __getattr__ may import what it is asked for.
    found = None if loaded is None else vars(loaded).get(first)
    for name in rest:
        found = vars(found).get(name) if isinstance(found, type) else None
    return found if isinstance(found, type) and issubclass(found, BaseException) else None


def _type_name(entry: dict[str, Any]) -> str:
    module, qualname = str(entry["module"]), str(entry["qualname"])
    return qualname if module == "builtins" else f"{module}.{qualname}"


def _leads_to(start: BaseException, goal: BaseException) -> bool:
    """Whether causes and contexts of ``start`` lead to ``goal``: a link back would be a circle."""
    pending, seen = [start], {id(start)}
    while pending:
        error = pending.pop()
        if error is goal:
            return True
        for following in (error.__cause__, error.__context__):
            if following is not None and id(following) not in seen:
                seen.add(id(following))
                pending.append(following)
    return False
