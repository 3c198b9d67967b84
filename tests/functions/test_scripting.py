"""`script`: what it takes, what it refuses, how arguments are checked."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import pytest

from asyncrpc.functions import script, script_of, scripts


@pytest.fixture(autouse=True)
def _forget() -> Iterator[None]:
    before = {function.name for function in scripts}
    yield
    for function in scripts:
        if function.name not in before:
            scripts.discard(function.name)


def make() -> Callable[..., Any]:
    """Return a function that is not registered yet."""

    def add(a: int, b: float = 2, *rest: str, flag: bool = False, **more: list[int]) -> float:
        return a + b

    return add


def test_registers_and_hands_back() -> None:
    """The function is called as before; the name is its place unless one is given."""
    plain, named = make(), make()

    assert script(plain) is plain
    assert script(name="sum")(named) is named
    assert 3 == plain(1)
    assert plain is scripts.get(f"{__name__}:make.<locals>.add").function  # type: ignore[union-attr]  # it was registered above
    assert "sum" == script_of(named).name  # type: ignore[union-attr]  # likewise


@pytest.mark.parametrize(
    ("args", "kwargs"),
    [
        ((1,), {}),
        ((1, 2), {}),
        ((1, 2.5), {"flag": True}),
        ((1, 2, "a", "b"), {"x": [1], "y": []}),
        ((), {"a": 1, "b": 2}),
    ],
)
def test_takes(args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
    """Defaults fill in, keywords and varying arguments are checked one by one."""
    script_of(script(make())).check(args, kwargs)  # type: ignore[union-attr]  # it is one


@pytest.mark.parametrize(
    ("args", "kwargs", "text"),
    [
        ((), {}, "missing a required argument: 'a'"),
        (("1",), {}, r"argument 'a' must be int, got str: '1'"),
        ((1, "2"), {}, r"argument 'b' must be float, got str"),
        ((1, 2, 3), {}, r"argument 'rest' must be str, got int"),
        ((1,), {"flag": 3}, r"argument 'flag' must be bool, got int"),
        ((1,), {"more": ["a"]}, r"argument 'more' must be list\[int\], got list"),
        ((1,), {"a": 1}, "multiple values for argument 'a'"),
    ],
)
def test_refuses(args: tuple[Any, ...], kwargs: dict[str, Any], text: str) -> None:
    """What does not fit is a TypeError that names function and argument."""
    with pytest.raises(TypeError, match=text) as caught:
        script_of(script(make())).check(args, kwargs)  # type: ignore[union-attr]  # it is one

    assert "make.<locals>.add" in str(caught.value)


def test_too_many() -> None:
    """A function without varying arguments takes no more than it has."""

    @script(name="two")
    def two(a: int, b: int) -> int:
        return a + b

    with pytest.raises(TypeError, match="too many positional arguments"):
        script_of(two).check((1, 2, 3), {})  # type: ignore[union-attr]  # it is one
    with pytest.raises(TypeError, match="unexpected keyword argument 'c'"):
        script_of(two).check((1, 2), {"c": 3})  # type: ignore[union-attr]  # it is one


def test_annotations_may_name_what_comes_later() -> None:
    """They are read at the first call; one that names nothing is said then."""

    @script(name="names nothing")
    def later(a: Missing) -> None:  # type: ignore[name-defined]  # noqa: F821 -- the point of the test
        """Do nothing."""

    with pytest.raises(TypeError, match="function names nothing: name 'Missing'"):
        script_of(later).check((1,), {})  # type: ignore[union-attr]  # it is one


def test_bad_use() -> None:
    """Untyped parameters, other things than functions, bad and taken names."""
    with pytest.raises(TypeError, match="'a' has no annotation"):
        script(eval("lambda a: a"))
    with pytest.raises(TypeError, match="functions written in Python, got <built-in"):
        script(min)
    with pytest.raises(ValueError, match="name must be a str of 1 to 255 characters, got ''"):
        script(name="")
    script(name="taken")(make())

    def other(a: int) -> int:
        return a

    with pytest.raises(ValueError, match="script name 'taken' is taken by"):
        script(name="taken")(other)
    script(name="taken")(make())  # defined anew in the same place
