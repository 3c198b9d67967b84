"""Values to bytes and back: msgpack, extension items, and large buffers out of band.

Sans-IO: no asyncio, socket, ssl, logging or clock. Called by whoever makes or reads messages.

Theory of operation: a body is either plain msgpack, in which only whole-value extension items
may occur (a Decimal, say), or byte 0xC1, which msgpack never uses, and then the msgpack array
``[names, root]``, in which arrays may start with a mark. Plain bodies are unpacked and done;
marked ones are walked once more. Arguments that are all scalars are packed without a walk.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any, NoReturn, TypeAlias

from msgpack import Packer, unpackb

from asyncrpc.errors import EncodingError, MessageTooLargeError, RemoteProtocolError, RpcError

from .budget import Budget, uncounted_length
from .decoder import decode_leaf, decode_marked_item, is_deeper, rebuild
from .encoder import Walk, is_plain, make_encoders
from .extensions import encode_big_int
from .registry import TypeRegistry
from .state import (
    LARGE,
    SCALARS,
    BytesLike,
    DecodeState,
    Enclosure,
    Extension,
    MalformedError,
    Place,
    Policy,
)

__all__ = ("Codec", "Hook")

MAX_NESTING = 1000  # what API.md allows; the interpreter's own recursion limit is of that order
_MARKED = 0xC1
_BIN = 0xC4  # msgpack's header of up to 255 bytes
_SHORT = 255
_are_names = frozenset((str,)).issuperset
_MARKED_PREFIX = bytes((_MARKED,))
_CALL_LEVELS = 1  # the list around all arguments
_PLAIN_LEVELS = 8  # values nested deeper are walked even if msgpack could pack them as they are
_KEPT_PACKER = 1 << 20  # a Packer never gives back memory: one that packed more is dropped

Hook: TypeAlias = tuple[
    type,
    int,
    Callable[[Any, object], tuple[object, object]],
    Callable[[Any], object],
    Callable[[Sequence[Any], object], None],
]
"""Class, code, encode, decode, undo: see `Codec`."""


class Codec:
    """Encodes and decodes the payloads of messages; one per agent, any thread may use it.

    Args:
        allow_pickle: whether values of types not known here travel as pickles, and whether
            pickles are loaded; without it they raise.
        registry: user types; ``None`` is an empty one.
        max_nesting: levels of containers, 1 to 1000, on either side.
        max_object_bytes: estimate of the memory a decoded body may take, from 1.
        hooks: (class, code, encode, decode, undo) of classes that a layer above makes travel, as
            `state.Extension` says; codes are unique, 0 to 65535.
        place: gives the device of a destination to which a tensor on a device of this side goes,
            by torch's names of both, or ``None``; ``None`` for no such map.

    Raises:
        ValueError: a number is out of its range, or two hooks have one class or code.
    """

    __slots__ = (
        "_encoders",
        "_give_packer",
        "_given",
        "_max_nesting",
        "_max_object_bytes",
        "_plain_levels",
        "_policy",
        "_registry_version",
        "_shallow",
        "_short",
        "_strict",
        "_take_packer",
        "_uncounted",
    )

    def __init__(
        self,
        allow_pickle: bool = True,
        registry: TypeRegistry | None = None,
        max_nesting: int = 64,
        max_object_bytes: int = 256 << 20,
        hooks: Iterable[Hook] = (),
        place: Place | None = None,
    ) -> None:
        if not 1 <= max_nesting <= MAX_NESTING:
            raise ValueError(f"max_nesting must be from 1 to {MAX_NESTING}, got {max_nesting}")
        if max_object_bytes < 1:
            raise ValueError(f"max_object_bytes must be at least 1, got {max_object_bytes}")
        self._max_nesting = max_nesting
        self._max_object_bytes = max_object_bytes
        self._plain_levels = min(_PLAIN_LEVELS, max_nesting)
        self._uncounted = uncounted_length(max_object_bytes)
        self._shallow = min(max_nesting, self._uncounted)  # bytes: a level takes one at least
        registry = TypeRegistry() if registry is None else registry
        hooks = tuple(hooks)
        self._given = (registry, max_nesting, max_object_bytes, hooks, place)
        self._policy = _make_policy(allow_pickle, registry, hooks, self._travels_lightly, place)
        self._encoders = make_encoders(self._policy)
        self._registry_version = self._policy.registry.version
        self._strict: list[Callable[[object], bytes]] = [_new_strict_packer()]
        self._short = min(max_nesting, _SHORT)
        packers: list[Callable[[object], bytes]] = [_new_packer()]
        # The one Packer is taken out while in use: what runs meanwhile (the ``__del__`` of a
        # collected object, another thread) makes its own.
        self._take_packer = packers.pop
        self._give_packer = packers.append

    def without_pickle(self) -> Codec:
        """Return a codec of the same types and limits that neither makes nor loads pickles."""
        if not self._policy.allow_pickle:
            return self
        return Codec(False, *self._given)

    def encode(
        self, value: object, path: str = "args", to: object = None
    ) -> tuple[bytes, list[BytesLike]]:
        """Encode one value.

        Args:
            value: anything that travels.
            path: what errors call the value.
            to: destination, which hooks are told; ``None`` if the value is not part of a call.

        Returns:
            The body, and the buffers out of band: C-contiguous, of bytes, not copied; they must
            stay unchanged until sent. An `Enclosure` if hooks made something for this message.

        Raises:
            EncodingError: an item cannot travel; ``path`` says where it sits. Encoding stopped
                there, and hooks took back what they made.
        """
        try:  # the C code says whether a value is plain: see _new_strict_packer
            pack = self._strict.pop()
            body = pack(value)
            self._strict.append(pack)
            if len(body) <= self._short and _BIN not in body:
                return body, []
        except Exception:  # noqa: BLE001, S110 -- said properly by the full way below
            pass
        if not self._strict:
            self._strict.append(_new_strict_packer())
        if is_plain(value, self._plain_levels):
            return self.pack(value), []
        walk = self._start_walk(to)
        holder = walk.add(value, path)
        walk.run()
        return self._finish(walk, holder[0])

    def decode(self, body: BytesLike, buffers: Sequence[BytesLike] = ()) -> Any:
        """Decode what `encode` made.

        Args:
            body: not kept.
            buffers: in the order of `encode`; arrays become views of writable ones.

        Raises:
            RemoteProtocolError: the input was not made by `encode`, or holds a pickle where
                pickle is off.
            MessageTooLargeError: the value would take more than ``max_object_bytes``.
            EncodingError: a class or zone is not known in this process, or user code that
                rebuilds a value failed.
        """
        if len(body) <= self._shallow and not buffers:
            try:  # a short body of an ordinary value: cannot nest too deep, nor become too large
                if body[0] != _MARKED:
                    return unpackb(  # keywords, not a partial: that is slower
                        body,
                        strict_map_key=False,
                        ext_hook=decode_leaf,
                        unicode_errors="surrogatepass",
                    )
            except Exception:  # noqa: BLE001, S110 -- said properly by the full way below
                pass
        return self._decode(body, buffers, 0)

    def encode_call(
        self, args: tuple[object, ...], kwargs: Mapping[str, object] | None, to: object = None
    ) -> tuple[bytes, list[BytesLike]]:
        """Encode the arguments of a call; paths are ``args[1]`` and ``kwargs['name']``.

        Args and result are those of `encode`.

        Raises:
            EncodingError: as for `encode`.
        """
        if not kwargs:
            try:  # as in encode()
                pack = self._strict.pop()
                body = pack([*args, None])
                self._strict.append(pack)
                if len(body) <= self._short and _BIN not in body:
                    return body, []
            except Exception:  # noqa: BLE001, S110 -- said properly by the full way below
                pass
            if not self._strict:
                self._strict.append(_new_strict_packer())
        for value in args:
            if type(value) not in SCALARS and not is_plain(value, self._plain_levels):
                return self._encode_call_by_walk(args, kwargs or {}, to)
        if kwargs:
            if not (_are_names(map(type, kwargs)) and is_plain(kwargs, self._plain_levels)):
                return self._encode_call_by_walk(args, kwargs, to)
            return self.pack((*args, *kwargs.values(), list(kwargs))), []
        return self.pack((*args, None)), []

    def _encode_call_by_walk(
        self, args: tuple[object, ...], kwargs: Mapping[str, object], to: object
    ) -> tuple[bytes, list[BytesLike]]:
        walk = self._start_walk(to)
        new_kwargs: dict[str, object] = {}
        if kwargs:
            named = {_exact_name(name): value for name, value in kwargs.items()}
            new_kwargs = named.copy()
            walk.add_items(named, new_kwargs, "kwargs")
        new_args = list(args)
        walk.add_items(new_args.copy(), new_args, "args")
        walk.run()
        return self._finish(walk, [*new_args, *new_kwargs.values(), list(new_kwargs) or None])

    def decode_call(
        self, body: BytesLike, buffers: Sequence[BytesLike] = ()
    ) -> tuple[tuple[Any, ...], dict[str, Any]]:
        """Decode what `encode_call` made, into positional and keyword arguments.

        They are one list, the cheapest there is: positional arguments, keyword arguments, and the
        list of the names of the latter, or nil if there are none.

        Raises:
            RemoteProtocolError, MessageTooLargeError, EncodingError: as for `decode`.
        """
        call = None
        if len(body) <= self._shallow and not buffers:
            try:  # as in decode()
                if body[0] != _MARKED:
                    call = unpackb(
                        body,
                        strict_map_key=False,
                        ext_hook=decode_leaf,
                        unicode_errors="surrogatepass",
                    )
            except Exception:  # noqa: BLE001, S110 -- said properly by the full way below
                pass
        if call is None:
            call = self._decode(body, buffers, _CALL_LEVELS)
        if type(call) is list and call:
            names = call.pop()
            if names is None:
                return tuple(call), {}
            first = len(call) - len(names) if type(names) is list else -1
            if first >= 0 and _are_names(map(type, names)):
                kwargs = dict(zip(names, call[first:], strict=True))
                if len(kwargs) == len(names):
                    return tuple(call[:first]), kwargs
        raise RemoteProtocolError("the body of a call must be [*args, *kwargs, names of kwargs]")

    def _start_walk(self, to: object) -> Walk:
        version = self._policy.registry.version
        if version != self._registry_version:
            self._encoders = make_encoders(self._policy)
            self._registry_version = version
        return Walk(self._policy, self._encoders, self._max_nesting, self.pack, to)

    def _finish(self, walk: Walk, root: object) -> tuple[bytes, list[BytesLike]]:
        if not walk.is_marked:
            return self.pack(root), []
        state = walk.state
        try:
            body = _MARKED_PREFIX + self.pack((state.references, root))
        except BaseException:
            walk.take_back()
            raise
        buffers = Enclosure(state.buffers, state.enclosed) if state.enclosed else state.buffers
        return body, buffers

    def _travels_lightly(self, value: object) -> bool:
        """Try to encode ``value`` without pickle, hooks or another trial inside it."""
        policy = self._policy._replace(
            allow_pickle=False, by_class={}, travels_lightly=lambda _: False
        )
        walk = Walk(policy, make_encoders(policy), self._max_nesting, self.pack)
        holder = walk.add(value, "")
        try:
            walk.run()
            body, buffers = self._finish(walk, holder[0])
        except RpcError:
            return False
        return not buffers and len(body) < LARGE

    def pack(self, tree: object) -> bytes:
        """Encode plain values without a look at them; tuples arrive as lists."""
        try:
            pack = self._take_packer()
        except IndexError:
            pack = _new_packer()
        try:
            body = pack(tree)
        except UnicodeEncodeError:
            # Lone surrogates, as in file names that are not UTF-8. Slower, so not the default.
            body = _new_packer(unicode_errors="surrogatepass")(tree)
        except ValueError as error:
            raise EncodingError(f"the value is too large for one message: {error}") from error
        if len(body) <= _KEPT_PACKER:
            self._give_packer(pack)
        return body

    def _decode(self, body: BytesLike, buffers: Sequence[BytesLike], outer_levels: int) -> Any:
        """Decode, and let nothing out but RpcErrors: the bytes are a peer's."""
        try:
            if len(body) > self._uncounted:
                Budget(self._max_object_bytes).check(body)
            if body[0] == _MARKED:
                return self._decode_marked(memoryview(body)[1:], buffers, outer_levels)
            value = unpackb(
                body, strict_map_key=False, ext_hook=decode_leaf, unicode_errors="surrogatepass"
            )
            max_levels = self._max_nesting + outer_levels
            if buffers or (len(body) > max_levels and is_deeper(value, max_levels, body)):
                self._refuse_plain(len(buffers))
        except RpcError:
            raise
        except MalformedError as error:
            raise RemoteProtocolError(f"a message cannot be decoded: {error}") from error
        except MemoryError as error:
            raise MessageTooLargeError("there is no memory for a message") from error
        except Exception as error:  # whatever msgpack makes of hostile bytes
            raise RemoteProtocolError(f"a message cannot be decoded: {error!r}") from error
        return value

    def _refuse_plain(self, buffers: int) -> NoReturn:
        if buffers:
            raise MalformedError(f"{buffers} buffers came with a body that refers to none")
        raise MalformedError(f"nested deeper than max_nesting={self._max_nesting}")

    def _decode_marked(
        self,
        body: memoryview,
        buffers: Sequence[BytesLike],
        outer_levels: int,
    ) -> Any:
        state = DecodeState(self._policy, buffers)
        state.references, root = unpackb(
            body, strict_map_key=False, ext_hook=decode_marked_item, unicode_errors="surrogatepass"
        )
        levels = (1 - outer_levels, self._max_nesting)
        value = rebuild(state, root, levels, Budget(self._max_object_bytes))
        state.check_all_taken()
        return value


def _make_policy(
    allow_pickle: bool,
    registry: TypeRegistry,
    hooks: Iterable[Hook],
    travels_lightly: Callable[[object], bool],
    place: Place | None,
) -> Policy:
    extensions = [Extension(*hook) for hook in hooks]
    by_class = {extension.cls: extension for extension in extensions}
    by_code = {extension.code: extension for extension in extensions}
    if not len(by_class) == len(by_code) == len(extensions):
        raise ValueError("hooks must have different classes and different codes")
    place = place or _place_nowhere
    return Policy(allow_pickle, registry, by_class, by_code, travels_lightly, place)


def _place_nowhere(_to: object, _device: str) -> None:
    """Have no map of devices."""


def _new_packer(unicode_errors: str | None = None) -> Callable[[object], bytes]:
    pack: Callable[[object], bytes]
    pack = Packer(default=encode_big_int, unicode_errors=unicode_errors).pack
    return pack


def _new_strict_packer() -> Callable[[object], bytes]:
    """Return a pack() that takes exact types only, and raises for all others.

    With it the C code tells whether a value is plain, but for two things: bytearray and memoryview
    pass as bytes, which the byte 0xC4 in a short body betrays (or may, by chance); and nesting,
    which takes a byte a level, so that a body of no more bytes than levels allowed is within.
    """
    pack: Callable[[object], bytes]
    pack = Packer(strict_types=True, default=_refuse).pack
    return pack


def _refuse(value: object) -> NoReturn:
    raise TypeError(type(value))


def _exact_name(name: object) -> str:
    """Return a keyword as an exact str: Python takes instances of subclasses, too."""
    if not isinstance(name, str):
        raise EncodingError(f"kwargs must have str keys, got {name!r}", path="kwargs")
    return str.__str__(name)
