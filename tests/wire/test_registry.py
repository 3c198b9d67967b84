"""TypeRegistry: user types by class and by name."""

from __future__ import annotations

from typing import Any

import pytest

from asyncrpc.errors import EncodingError
from asyncrpc.wire.codec import Codec
from asyncrpc.wire.registry import TypeRegistry


class Money:
    def __init__(self, amount: Any) -> None:
        self.amount = amount

    def __reduce__(self) -> Any:
        raise TypeError("never by pickle")


class Euro(Money):
    pass


def _amount(money: Money) -> object:
    return money.amount


def _make_registry() -> TypeRegistry:
    registry = TypeRegistry()
    registry.register(Money, "money", _amount, Money)
    return registry


@pytest.mark.parametrize("allow_pickle", [True, False])
def test_registered_type_travels(allow_pickle: bool) -> None:
    """Its encoded form may be any value, itself included."""
    codec = Codec(allow_pickle=allow_pickle, registry=_make_registry())

    decoded = codec.decode(*codec.encode([Money((1, {"inner": Money(2)}))]))[0]

    assert Money is type(decoded)
    assert 2 == decoded.amount[1]["inner"].amount


def test_registered_type_travels_inside_a_pickled_object() -> None:
    """Where it would not pickle by itself."""
    codec = Codec(registry=_make_registry())

    decoded = codec.decode(*codec.encode(Box(Money(5))))

    assert 5 == decoded.content.amount


class Box:
    def __init__(self, content: object) -> None:
        self.content = content


def test_only_exactly_the_class_is_encoded() -> None:
    """A subclass is another type."""
    with pytest.raises(EncodingError, match="Euro"):
        Codec(allow_pickle=False, registry=_make_registry()).encode(Euro(1))


def test_same_registration_twice_is_no_error() -> None:
    """A module that is imported again registers again."""
    registry = _make_registry()

    registry.register(Money, "money", _amount, Money)

    assert 1 == len(registry)


@pytest.mark.parametrize(
    ("cls", "name", "encode"),
    [(Money, "money", str), (Money, "cash", _amount), (Euro, "money", _amount)],
)
def test_class_and_name_are_unique(cls: type, name: str, encode: Any) -> None:
    """Another registration of either is refused, and changes nothing."""
    registry = _make_registry()

    with pytest.raises(ValueError, match="unique"):
        registry.register(cls, name, encode, Money)
    assert [(Money, "money")] == [(entry.cls, entry.name) for entry in registry]


def test_arguments_are_checked() -> None:
    """Each with its rule."""
    registry = TypeRegistry()

    with pytest.raises(TypeError, match="cls must be a class"):
        registry.register("Money", "money", str, str)  # type: ignore[arg-type]  # on purpose
    with pytest.raises(TypeError, match="decode must be callable"):
        registry.register(Money, "money", str, None)  # type: ignore[arg-type]  # on purpose
    for name in ("", "x" * 256, 5):
        with pytest.raises(ValueError, match="name must be"):
            registry.register(Money, name, str, str)  # type: ignore[arg-type]  # on purpose


@pytest.mark.parametrize("cls", [int, bool, type(None), complex, bytes, list, dict, set, slice])
def test_what_travels_by_itself_is_refused(cls: type) -> None:
    """It was accepted without effect: no instance ever got to the registered function."""
    registry = TypeRegistry()

    with pytest.raises(ValueError, match=f"does not travel by itself, got {cls.__name__}"):
        registry.register(cls, "mine", str, str)
    assert not len(registry)


@pytest.mark.parametrize("name", ["int", "object", "ValueError"])
def test_names_of_builtin_types_are_refused(name: str) -> None:
    """Nobody should read them as such on the wire."""
    with pytest.raises(ValueError, match=f"name must not be that of a builtin type, got '{name}'"):
        TypeRegistry().register(Money, name, _amount, Money)


def test_codec_notices_changes_of_its_registry() -> None:
    """Also for a class it has met before."""
    registry = TypeRegistry()
    codec = Codec(allow_pickle=False, registry=registry)
    for _ in range(2):
        with pytest.raises(EncodingError, match="register_type"):
            codec.encode(Money(1))
        registry.register(Money, "money", _amount, Money)
        body, buffers = codec.encode(Money(1))
        assert 1 == codec.decode(body, buffers).amount
        registry.unregister(Money)
        with pytest.raises(EncodingError, match="not registered here"):
            codec.decode(body, buffers)
    registry.register(Money, "money", _amount, Money)
    registry.reset()
    registry.unregister(Money)
    with pytest.raises(EncodingError, match="register_type"):
        codec.encode(Money(1))


def test_failures_of_user_functions_are_encoding_errors() -> None:
    """On either side, with the user's exception as the cause."""
    registry = TypeRegistry()

    def fail(_: object) -> object:
        raise KeyError("user bug")

    registry.register(Money, "money", _amount, fail)
    registry.register(Euro, "euro", fail, Euro)
    codec = Codec(registry=registry)

    with pytest.raises(EncodingError, match=r"args\[0\] .*user bug") as encoding:
        codec.encode_call((Euro(1),), {})
    with pytest.raises(EncodingError, match="'money' cannot be decoded") as decoding:
        codec.decode(*codec.encode(Money(1)))
    assert KeyError is type(encoding.value.__cause__) is type(decoding.value.__cause__)
