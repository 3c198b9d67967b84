"""Codec: what cannot travel is refused where it sits, with its path and the reason."""

from __future__ import annotations

import dataclasses
import enum
import sys
import threading
import types
from collections.abc import Sequence
from typing import Any, NamedTuple

import pytest

from asyncrpc.errors import EncodingError, RemoteProtocolError
from asyncrpc.wire.codec import Codec


@dataclasses.dataclass
class Holder:
    field: Any
    other: Any = None


class Named(NamedTuple):
    first: Any
    second: Any


class Box:
    """Travels by pickle only, whatever is in it."""

    def __init__(self, content: object) -> None:
        self.content = content


class Opaque:
    """Travels by pickle only."""

    def __init__(self, value: object = 0) -> None:
        self.value = value

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Opaque) and other.value == self.value

    __hash__ = None  # type: ignore[assignment]  # compared by value


class Broken:
    def __reduce__(self) -> Any:
        raise ZeroDivisionError("no way")


class FailsToLoad:
    def __reduce__(self) -> Any:
        return (_fail, ())


def _fail() -> None:
    raise ZeroDivisionError("not here")


@dataclasses.dataclass
class Guarded:
    """Says itself how it pickles, so pickle is its way to travel where it is allowed."""

    value: int
    lock: Any = None

    def __getstate__(self) -> dict[str, Any]:
        return {"value": self.value, "lock": None}


BAD = threading.Lock()


@pytest.mark.parametrize("allow_pickle", [True, False])
@pytest.mark.parametrize(
    ("args", "path"),
    [
        ((BAD,), "args[0]"),
        ((1, {"x": BAD}), "args[1]['x']"),
        (([1, (2, [BAD])],), "args[0][1][1][0]"),
        (({"a": {5: [None, BAD]}},), "args[0]['a'][5][1]"),
        (({(1, "a"): BAD},), "args[0][(1, 'a')]"),
        (({(1, BAD): 0},), "args[0][key (1, lock)][1]"),
        ((Holder(1, [BAD]),), "args[0].other[0]"),
        ((Named(1, {b"k": BAD}),), "args[0].second[b'k']"),
        ((ValueError("x", BAD),), "args[0].args[1]"),
        (({1.5: slice(BAD)},), "args[0][1.5]"),
    ],
)
def test_error_names_the_path_of_the_item(
    args: tuple[Any, ...], path: str, allow_pickle: bool
) -> None:
    """In every kind of container, as `path` and in the text; it is a TypeError."""
    codec = Codec(allow_pickle=allow_pickle)

    with pytest.raises(EncodingError) as caught:
        codec.encode_call(args, {})

    assert path == caught.value.path
    assert str(caught.value).startswith(f"{path} cannot be encoded: ")
    assert isinstance(caught.value, TypeError)


def test_path_of_a_keyword_and_of_a_result() -> None:
    """Keywords are named, and a value is called what the caller says."""
    with pytest.raises(EncodingError) as keyword:
        Codec().encode_call((), {"a": 1, "b": [BAD]})
    with pytest.raises(EncodingError) as result:
        Codec().encode([BAD], path="result")

    assert "kwargs['b'][0]" == keyword.value.path
    assert "result[0]" == result.value.path


def test_set_element_is_shown_in_the_path() -> None:
    """A set has no index."""
    with pytest.raises(EncodingError) as caught:
        Codec(allow_pickle=False).encode({Broken})

    assert "args{type}" == caught.value.path


def test_lambda_and_local_objects_are_refused() -> None:
    """Code is not shipped, and the message says so."""

    @dataclasses.dataclass
    class Local:
        x: int = 0

    class LocalEnum(enum.Enum):
        A = 1

    for bad in (lambda: 0, Local(), LocalEnum.A, Local, (x for x in "a")):
        for codec in (Codec(), Codec(allow_pickle=False)):
            with pytest.raises(EncodingError, match=r"args\[0\] cannot be encoded"):
                codec.encode_call((bad,), {})
    with pytest.raises(EncodingError, match="code is not shipped"):
        Codec().encode(lambda: 0)
    with pytest.raises(EncodingError, match="code is not shipped"):
        Codec(allow_pickle=False).encode(Local())


def test_failure_inside_pickle_is_an_encoding_error() -> None:
    """The object's own exception is the cause."""
    with pytest.raises(EncodingError, match="no way") as caught:
        Codec().encode([Broken()])

    assert isinstance(caught.value.__cause__, ZeroDivisionError)


def test_without_pickle_other_types_are_refused() -> None:
    """Functions, objects and subclasses of builtins."""

    class MyInt(int):
        pass

    for bad in (print, Opaque(), MyInt(3), object(), Ellipsis, sys):
        with pytest.raises(EncodingError, match="register_type adds a type"):
            Codec(allow_pickle=False).encode(bad)


@pytest.mark.parametrize("max_nesting", [64, 1000])
def test_self_reference_is_refused(max_nesting: int) -> None:
    """In lists, dicts, objects, and by way of others; never an endless walk."""
    loop: list[Any] = [1]
    loop.append(loop)
    wide: list[Any] = []
    wide.extend([wide] * 10)
    table: dict[str, Any] = {}
    table["me"] = (1, [table])
    holder = Holder(1)
    holder.field = {"back": holder}
    error = ValueError()
    error.args = (error,)
    for value in (loop, wide, table, holder, error):
        for inside, path in ((value, "args[1]"), ({"x": [value]}, "args[1]['x'][0]")):
            with pytest.raises(EncodingError, match="contains itself") as caught:
                Codec(max_nesting=max_nesting).encode_call((0, inside), {})
            assert path == caught.value.path  # not that of the level at which the walk gave up


def test_shared_members_are_no_self_reference() -> None:
    """The same list twice is sent twice."""
    shared = [1, (2,)]

    codec = Codec()

    assert [shared, [shared]] == codec.decode(*codec.encode([shared, [shared]]))


@pytest.mark.parametrize("levels", [1, 64, 700])
def test_value_nested_too_deep_is_refused(levels: int) -> None:
    """One level more than `max_nesting`, of lists of scalars or of objects."""
    for wrap in (lambda x: [x], lambda x: (x,), lambda x: {"k": x}, Holder):
        value: Any = 1
        for _ in range(levels):
            value = wrap(value)
        codec = Codec(max_nesting=levels)
        codec.encode(value)
        with pytest.raises(EncodingError, match=f"deeper than max_nesting={levels}"):
            codec.encode(wrap(value))
        with pytest.raises(EncodingError, match="deeper than max_nesting"):
            codec.encode([(1,), wrap(value)])


def test_codec_works_after_an_error() -> None:
    """Nothing of a failed message is left in the next one."""
    codec = Codec()
    for bad in ([2**70, b"x" * 5000, BAD], {1: BAD}, ["\ud800", BAD]):
        with pytest.raises(EncodingError):
            codec.encode_call((bad,), {})

    assert (b"\x92\x01\xc0", []) == codec.encode_call((1,), {})


def test_extension_is_encoded_in_order_and_not_after_a_failure() -> None:
    """What runs before the item that fails ran in the order of the walk; nothing after it."""
    seen: list[object] = []

    def encode(value: Any, to: object) -> tuple[object, object]:
        seen.append(value.value)
        return value.value, (value.value, to)

    def undo(enclosed: Sequence[object], to: object) -> None:
        undone.append((list(enclosed), to))

    undone: list[object] = []
    codec = Codec(hooks=[(Opaque, 1, encode, Opaque, undo)])
    value = [Opaque(1), {"a": Opaque(2), "b": (Opaque(3),)}, Holder(Opaque(4)), Opaque(5)]
    assert value == codec.decode(*codec.encode(value))
    assert [1, 2, 3, 4, 5] == seen

    seen.clear()
    with pytest.raises(EncodingError):
        codec.encode_call(
            (Opaque(1), [Opaque(2), BAD, Opaque(3)], Opaque(4)), {"x": Opaque(5)}, "there"
        )
    assert [1, 2] == seen
    assert [([(1, "there"), (2, "there")], "there")] == undone


@pytest.mark.parametrize("wrap", [lambda v: v, Holder, Box])
def test_what_extensions_enclose_comes_with_the_buffers(wrap: Any) -> None:
    """Whoever sends the message learns of it by a look at the buffers, and knows what to undo."""
    codec = Codec(hooks=[(Opaque, 1, lambda v, to: (v.value, (v.value, to)), Opaque, forget)])
    body, buffers = codec.encode_call((wrap(Opaque(1)), [Opaque(2)]), {}, "there")
    _, result = codec.encode(wrap(Opaque(3)), "result", "back")
    _, plain = codec.encode_call(([1, (2,)],), {}, "there")

    assert buffers
    assert ([], [(1, "there"), (2, "there")]) == (list(buffers), buffers.enclosed)  # type: ignore[attr-defined]
    assert [(3, "back")] == result.enclosed  # type: ignore[attr-defined]
    assert not plain
    assert 2 == codec.decode_call(body, buffers)[0][1][0].value


def test_pack() -> None:
    """The agents' own messages are packed as they are; tuples arrive as lists."""
    codec = Codec()

    assert [[b"id", 1], []] == codec.decode(codec.pack(((b"id", 1), ())))


def forget(enclosed: Sequence[object], to: object) -> None:
    """Have nothing to take back."""


def test_rpc_error_of_an_extension_is_raised_as_it_is() -> None:
    """A reference that cannot be passed on says so in its own words."""

    def refuse(_: object, to: object) -> tuple[object, object]:
        raise RemoteProtocolError("mine")

    codec = Codec(hooks=[(Opaque, 1, refuse, Opaque, forget)])
    for value in (Opaque(), Holder(Opaque()), Box(Opaque())):
        with pytest.raises(RemoteProtocolError) as caught:
            codec.encode([value])
        assert str(caught.value) == "mine"  # Python 3.14's pickle adds notes


def test_extension_travels_inside_a_pickled_object() -> None:
    """Its own encoding is used there, too, and never its pickling."""
    codec = Codec(
        hooks=[(threading.Event, 9, lambda _, to: ("event", to), lambda text: [text], forget)]
    )

    decoded = codec.decode(*codec.encode(Opaque({"deep": threading.Event()})))

    assert {"deep": ["event"]} == decoded.value


def test_hooks_must_differ() -> None:
    """Two for one class or one code cannot be told apart."""
    hook: Any = (Opaque, 1, str, str, forget)

    with pytest.raises(ValueError, match="different"):
        Codec(hooks=[hook, (Holder, *hook[1:])])
    with pytest.raises(ValueError, match="different"):
        Codec(hooks=[hook, (Opaque, 2, *hook[2:])])


@pytest.mark.parametrize(
    "arguments",
    [{"max_nesting": 0}, {"max_nesting": 1001}, {"max_object_bytes": 0}],
)
def test_limits_out_of_range_are_refused(arguments: dict[str, int]) -> None:
    """The message names the field."""
    with pytest.raises(ValueError, match=next(iter(arguments))):
        Codec(**arguments)  # type: ignore[arg-type]  # ints only


def test_pickle_is_used_for_the_rest() -> None:
    """Any picklable object, functions by name, large members out of band."""
    codec = Codec()
    value = {"f": print, "o": Opaque(bytearray(10_000)), "c": Opaque, "p": Opaque(b"y" * 10_000)}

    body, buffers = codec.encode(value)

    assert value == codec.decode(body, [bytearray(buffer) for buffer in buffers])
    assert 1000 > len(body)


def test_class_that_says_how_it_pickles_is_pickled_where_allowed() -> None:
    """And goes by its fields otherwise."""
    codec = Codec()

    assert Guarded(3) == codec.decode(*codec.encode(Guarded(3, BAD)))
    with pytest.raises(EncodingError, match=r"args.lock"):
        Codec(allow_pickle=False).encode(Guarded(3, BAD))


def test_pickle_is_never_loaded_where_it_is_off() -> None:
    """It is a protocol error, whatever is in it."""
    body, buffers = Codec().encode([Opaque(), FailsToLoad()])

    with pytest.raises(EncodingError, match="pickle is off"):
        Codec(allow_pickle=False).decode(body, buffers)


def test_failure_while_unpickling_is_an_encoding_error() -> None:
    """The call fails; the connection is not to blame."""
    codec = Codec()
    body, buffers = codec.encode(FailsToLoad())

    with pytest.raises(EncodingError, match="not here"):
        codec.decode(body, buffers)


def _make_module(name: str) -> types.ModuleType:
    module = types.ModuleType(name)
    source = """
import dataclasses, enum
from typing import NamedTuple

@dataclasses.dataclass
class Data:
    x: int

class Plain:
    pass

class Choice(enum.Enum):
    A = 1

class Tuple(NamedTuple):
    x: int

class Failure(Exception):
    pass
"""
    sys.modules[name] = module
    exec(source, vars(module))
    return module


@pytest.mark.parametrize("kind", ["Data", "Choice", "Tuple", "Failure", "Plain"])
def test_class_unknown_to_the_receiver_is_an_encoding_error(kind: str) -> None:
    """The module is not loaded, or has no such class: the message says which."""
    module = _make_module("only_at_the_sender")
    value = module.Choice.A if kind == "Choice" else getattr(module, kind)(*[1] * (kind != "Plain"))
    codec = Codec()
    body, buffers = codec.encode([value])
    try:
        delattr(module, kind)
        with pytest.raises(EncodingError, match="code is not shipped"):
            codec.decode(body, buffers)
    finally:
        del sys.modules["only_at_the_sender"]
    with pytest.raises(EncodingError, match="only_at_the_sender"):
        codec.decode(body, buffers)
    if kind != "Plain":
        with pytest.raises(EncodingError, match="not loaded here"):
            Codec(allow_pickle=False).decode(body, buffers)


def test_module_is_imported_only_where_pickle_is_allowed(
    tmp_path: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Pickle off: what is not loaded is not loaded for a peer."""
    (tmp_path / "codec_probe.py").write_text("import enum\nclass E(enum.Enum):\n    A = 1\n")
    monkeypatch.syspath_prepend(tmp_path)
    import codec_probe  # type: ignore[import-not-found]

    body, buffers = Codec().encode(codec_probe.E.A)
    monkeypatch.delitem(sys.modules, "codec_probe")

    with pytest.raises(EncodingError, match="not loaded here"):
        Codec(allow_pickle=False).decode(body, buffers)
    assert "codec_probe" not in sys.modules
    assert "A" == Codec().decode(body, buffers).name
    monkeypatch.delitem(sys.modules, "codec_probe")


def test_class_of_another_kind_is_not_instantiated() -> None:
    """A peer cannot have any loaded class made by naming it as a dataclass."""
    body, _ = Codec().encode(Holder(1))
    forged = body.replace(b"Holder", b"Opaque")

    with pytest.raises(RemoteProtocolError, match="no dataclass"):
        Codec(allow_pickle=False).decode(forged)


def test_field_unknown_to_the_receiver_is_an_encoding_error() -> None:
    """Both sides must have the same class."""
    body, _ = Codec().encode(Holder(1))
    named, _ = Codec().encode(Named(1, 2))

    with pytest.raises(EncodingError, match="no field"):
        Codec().decode(body.replace(b"other", b"__x__"))
    with pytest.raises(EncodingError, match="at the sender"):
        Codec().decode(named.replace(b"second", b"__xx__"))
