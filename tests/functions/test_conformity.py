"""What an annotation lets pass: items of containers too, numbers as PEP 484 has them."""

# ruff: noqa: UP007, UP045 -- both spellings are tested

from __future__ import annotations

import collections.abc
import enum
import sys
import typing
from pathlib import Path
from typing import Annotated, Any, Literal, NewType, Optional, TypeVar, Union

import pytest

from asyncrpc.functions.conformity import conforms, describe_annotation

T = TypeVar("T")
B = TypeVar("B", bound=int)
Metres = NewType("Metres", float)


class Colour(enum.Enum):
    """A class of the user's."""

    RED = 1


class Sized(typing.Protocol):
    """A protocol that cannot be checked."""

    size: int


@pytest.mark.parametrize(
    ("value", "annotation"),
    [
        (1, int),
        (True, int),
        (1, float),
        (1.0, complex),
        ("a", str),
        (None, None),
        (None, Optional[int]),
        (3, Optional[int]),
        (3, int | str),
        ("a", Union[int, str]),
        ([1, 2], list[int]),
        ([], list[int]),
        ([1, "a"], list),
        ((1, "a"), tuple[int, str]),
        ((1, 2, 3), tuple[int, ...]),
        ((), tuple[()]),
        ({"a": [1.5]}, dict[str, list[float]]),
        ({1, 2}, set[int]),
        (frozenset("a"), frozenset[str]),
        ([1], collections.abc.Sequence[int]),
        ("abc", collections.abc.Sequence[str]),
        ({"a": 1}, collections.abc.Mapping[str, int]),
        ("r", Literal["r", "w"]),
        (Colour.RED, Colour),
        (Path("a"), Path),
        (1, Any),
        (1, object),
        (1, T),
        (1, B),
        (1.0, Metres),
        (1, Annotated[int, "positive"]),
        (1, Sized),
    ],
)
def test_passes(value: object, annotation: Any) -> None:
    """These fit."""
    assert conforms(value, annotation)


@pytest.mark.parametrize(
    ("value", "annotation"),
    [
        ("1", int),
        (1.0, int),
        (1j, float),
        (1, str),
        (1, None),
        ("a", Optional[int]),
        (1.5, int | str),
        ([1, "a"], list[int]),
        ((1,), list[int]),
        ((1, 2), tuple[int, str]),
        ((1,), tuple[int, str]),
        ((1, "a"), tuple[int, ...]),
        ({"a": ["b"]}, dict[str, list[float]]),
        ({1: 1}, dict[str, int]),
        ({"a"}, set[int]),
        ("x", Literal["r", "w"]),
        (True, Literal[1]),
        (1, Colour),
        ("a", B),
        ("a", Metres),
        ("a", Annotated[int, "positive"]),
    ],
)
def test_is_refused(value: object, annotation: Any) -> None:
    """These do not."""
    assert not conforms(value, annotation)


@pytest.mark.parametrize(
    ("annotation", "expected"),
    [
        (int, "int"),
        (list[int], "list[int]"),
        (Optional[int], "Optional[int]" if sys.version_info < (3, 14) else "int | None"),
        (int | None, "int | None"),
    ],
)
def test_is_shown_as_it_is_written(annotation: Any, expected: str) -> None:
    """Errors show an annotation as the user wrote it."""
    assert expected == describe_annotation(annotation)
