"""Codec: every value of the list comes back equal and of the same type."""

from __future__ import annotations

import array
import collections
import dataclasses
import datetime as dt
import decimal
import enum
import fractions
import math
import pathlib
import uuid
import zoneinfo
from typing import Any, Generic, NamedTuple, TypeVar

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from asyncrpc.identity import WorkerInfo
from asyncrpc.wire.codec import Codec


class Colour(enum.Enum):
    RED = "red"
    BLUE = (1, 2)
    CRIMSON = "red"  # noqa: PIE796 -- an alias is what is tested


class Level(enum.IntEnum):
    LOW = 1


class Word(enum.StrEnum):
    YES = "yes"


class Access(enum.Flag):
    READ = 1
    WRITE = 2


class Bits(enum.IntFlag):
    A = 1
    B = 2


@dataclasses.dataclass
class Point:
    x: Any
    y: Any = 0
    norm: Any = dataclasses.field(init=False, default=None)

    def __post_init__(self) -> None:
        self.norm = "post init ran"


@dataclasses.dataclass(frozen=True, slots=True)
class Frozen:
    name: str
    inner: Any = None


@dataclasses.dataclass(slots=True)
class Partial:
    a: int
    b: int = dataclasses.field(init=False)


class Pair(NamedTuple):
    left: Any
    right: Any = None


T = TypeVar("T")


@dataclasses.dataclass
class Holder(Generic[T]):
    item: T


class Outer:
    class Inner(NamedTuple):
        """Named by two names."""

        value: int


class MyInt(int):
    pass


class MyStr(str):
    __slots__ = ()


class MyList(list[Any]):
    pass


class AppError(Exception):
    def __init__(self, code: int, **details: object) -> None:
        super().__init__(f"failed with {code}")
        self.code = code
        self.details = details


class SubOSError(FileNotFoundError):
    pass


def in_order(item: object) -> str:
    """Return a text to sort the items of sets by: repr(), but for sets, whose order varies."""
    if isinstance(item, frozenset):
        return f"frozenset {sorted(map(in_order, item))}"
    if isinstance(item, tuple):
        return f"tuple {[in_order(part) for part in item]}"
    return repr(item)


def is_same(one: object, other: object) -> bool:
    """Tell whether both are equal and of the same types all the way down."""
    if type(one) is not type(other):
        return False
    if isinstance(one, float):
        return one == other or (math.isnan(one) and math.isnan(other))  # type: ignore[arg-type]  # a float
    if isinstance(one, complex):
        return is_same(one.real, other.real) and is_same(one.imag, other.imag)  # type: ignore[attr-defined]  # a complex
    if isinstance(one, decimal.Decimal):
        return str(one) == str(other)
    if isinstance(one, slice):
        return is_same(
            [one.start, one.stop, one.step],
            [other.start, other.stop, other.step],  # type: ignore[attr-defined]  # likewise
        )
    if isinstance(one, list | tuple):
        return len(one) == len(other) and all(map(is_same, one, other))  # type: ignore[arg-type, call-overload]  # likewise
    if isinstance(one, dict):
        return is_same(list(one.items()), list(other.items()))  # type: ignore[attr-defined]  # likewise
    if isinstance(one, set | frozenset):
        return is_same(sorted(one, key=in_order), sorted(other, key=in_order))  # type: ignore[call-overload]  # likewise
    if isinstance(one, BaseException):
        return (
            is_same(one.args, other.args)  # type: ignore[attr-defined]  # likewise
            and is_same(sorted(vars(one).items()), sorted(vars(other).items()))
            and is_same(one.__cause__, other.__cause__)  # type: ignore[attr-defined]  # likewise
        )
    if dataclasses.is_dataclass(one):
        return all(
            is_same(getattr(one, field.name), getattr(other, field.name))
            for field in dataclasses.fields(one)
        )
    return one == other


def travel(value: object, codec: Codec | None = None) -> Any:
    """Encode and decode, the buffers as writable memory of the receiver's own."""
    codec = codec or Codec(allow_pickle=False)
    body, buffers = codec.encode(value)
    return codec.decode(body, [memoryview(bytearray(buffer)) for buffer in buffers])


PARIS = zoneinfo.ZoneInfo("Europe/Paris")
VALUES = [
    None,
    True,
    False,
    0,
    -1,
    2**63 - 1,
    -(2**63),
    2**64 - 1,
    2**64,
    -(2**63) - 1,
    2**5000,
    0.0,
    -0.0,
    math.nan,
    math.inf,
    -math.inf,
    "",
    "naïve \N{SNOWMAN} \0",
    "\ud800 lone surrogate",
    "x" * 100_000,
    b"",
    b"x" * 4095,
    b"x" * 4096,
    b"x" * 100_000,
    bytearray(),
    bytearray(b"abc"),
    bytearray(100_000),
    memoryview(b""),
    memoryview(b"abc"),
    memoryview(bytearray(b"abc")),
    memoryview(bytes(100_000)),
    memoryview(b"abcdef")[::2],
    memoryview(array.array("i", [1, 2, 3])),
    memoryview(bytes(range(12))).cast("B", (3, 4)),
    memoryview(array.array("d", [1.5] * 10_000)),
    [],
    (),
    {},
    set(),
    frozenset(),
    [1, [2, (3, [4])]],
    (1, (2,), ()),
    {"a": 1, 2: "b", None: 3.5, True: [1]},
    {(1, 2): "t", frozenset({1}): "f", b"k": "b", "s": {1: (2,)}},
    {b"x" * 5000: 1},
    {2**70: 1, 1.5: 2},
    {uuid.UUID(int=5): 1, decimal.Decimal("1.0"): 2, Colour.RED: 3, memoryview(b"k"): 4},
    {1, "a", (1, 2)},
    frozenset({frozenset(), 1.5}),
    complex(1, -2),
    complex(math.nan, math.inf),
    range(5),
    range(10, -(2**70), -3),
    slice(None),
    slice(1, "x", (2, 3)),
    dt.date(2024, 2, 29),
    dt.date.min,
    dt.datetime.max,  # noqa: DTZ901 -- naive values are tested, too
    dt.datetime(2024, 10, 27, 2, 30, fold=1),  # noqa: DTZ001 -- likewise
    dt.datetime(2024, 10, 27, 2, 30, 1, 5, tzinfo=PARIS, fold=1),
    dt.datetime(2024, 1, 1, tzinfo=dt.UTC),
    dt.datetime(2024, 1, 1, tzinfo=dt.timezone(dt.timedelta(hours=-3), "X")),
    dt.time(1, 2, 3, 4),
    dt.time(1, 2, fold=1, tzinfo=dt.UTC),
    dt.timedelta(days=-1, microseconds=7),
    dt.timedelta.max,
    dt.UTC,
    dt.timezone(dt.timedelta(minutes=90)),
    PARIS,
    decimal.Decimal("1.500"),
    decimal.Decimal("-0"),
    decimal.Decimal("sNaN123"),
    decimal.Decimal("-Infinity"),
    decimal.Decimal((1, (1, 2, 3), -99999)),
    fractions.Fraction(-(2**80), 3),
    uuid.UUID(int=2**127),
    pathlib.Path("/tmp/x"),
    pathlib.PurePosixPath("a/../b"),
    pathlib.PureWindowsPath("C:/x/y"),
    pathlib.Path("bad\udcff"),
    pathlib.Path(),
    Colour.RED,
    Colour.CRIMSON,
    Colour.BLUE,
    Level.LOW,
    Word.YES,
    Access.READ,
    Access.READ | Access.WRITE,
    Access(0),
    Bits.A | Bits.B,
    Bits(64),
    Point(1, [2, (3,)]),
    Frozen("a", Frozen("b", {1: (2,)})),
    Pair(1, (2, [3])),
    Pair(Pair(1)),
    Outer.Inner(3),
    WorkerInfo("worker1", 7),
    ValueError(),
    ValueError("a", (1, 2)),
    KeyError("k"),
    AppError(5, why="x"),
    StopIteration(3),
    SystemExit(4),
    ImportError("m", name="n", path="p"),
    UnicodeDecodeError("utf-8", b"\xff", 0, 1, "bad"),
    UnicodeEncodeError("ascii", "\xff", 0, 1, "bad"),
    ExceptionGroup("g", [ValueError(1), OSError(2, "x")]),
    BaseExceptionGroup("g", [KeyboardInterrupt(), TypeError("t")]),
    SyntaxError("m", ("f.py", 3, 4, "text", 5, 6)),
    SubOSError(2, "no", "f"),
    [Point(1), Point(2), Colour.RED, (Colour.RED, [bytearray(5)])],
]


@pytest.mark.parametrize("value", VALUES, ids=lambda value: type(value).__name__)
def test_value_comes_back_equal_and_of_the_same_type(value: object) -> None:
    """Each listed value keeps value and type, without pickle, alone and inside containers."""
    assert is_same(value, travel(value))
    assert is_same([value], travel([value]))
    assert is_same({"k": (value,)}, travel({"k": (value,)}))
    assert is_same(value, travel(value, Codec(allow_pickle=True)))


@pytest.mark.parametrize("value", VALUES, ids=lambda value: type(value).__name__)
def test_value_as_argument_comes_back(value: object) -> None:
    """`encode_call` and `decode_call` keep it as positional and as keyword argument."""
    codec = Codec(allow_pickle=False)

    body, buffers = codec.encode_call((1, value), {"name": value})
    args, kwargs = codec.decode_call(body, [bytearray(buffer) for buffer in buffers])

    assert is_same((1, value), args)
    assert is_same({"name": value}, kwargs)


LEAVES = st.one_of(
    st.none(),
    st.booleans(),
    st.integers(),
    st.integers(min_value=-(2**200), max_value=2**200),
    st.floats(),
    st.text(st.characters(), max_size=40),
    st.binary(max_size=40),
    st.binary(max_size=40).map(bytearray),
    st.binary(max_size=40).map(lambda data: memoryview(data)),  # noqa: PLW0108 -- mypy cannot map the class
    st.sampled_from([b"x" * 5000, bytearray(5000)]),
    st.complex_numbers(),
    st.decimals(),
    st.fractions(),
    st.uuids(),
    st.dates(),
    st.times(timezones=st.sampled_from([None, dt.UTC])),
    st.datetimes(timezones=st.sampled_from([None, dt.UTC, PARIS])),
    st.timedeltas(),
    st.sampled_from([*Colour, *Level, *Word, *Access, Bits.A | Bits.B]),
    st.builds(pathlib.PurePosixPath, st.text("ab/.", max_size=6)),
    st.builds(range, st.integers(), st.integers(), st.integers(min_value=1)),
)
KEYS = st.one_of(
    st.none(),
    st.booleans(),
    st.integers(),
    st.floats(allow_nan=False),
    st.text(max_size=5),
    st.binary(max_size=5),
    st.tuples(st.integers(), st.text(max_size=3)),
    st.frozensets(st.integers(), max_size=3),
    st.uuids(),
    st.dates(),
    st.sampled_from(list(Colour)),
)


def _containers(inner: st.SearchStrategy[Any]) -> st.SearchStrategy[Any]:
    return st.one_of(
        st.lists(inner, max_size=5),
        st.lists(inner, max_size=5).map(tuple),
        st.dictionaries(KEYS, inner, max_size=4),
        st.sets(KEYS, max_size=4),
        st.frozensets(KEYS, max_size=4),
        st.builds(slice, inner, inner),
        st.builds(Point, inner, inner),
        st.builds(Frozen, st.text(max_size=3), inner),
        st.builds(Pair, inner, inner),
        st.lists(inner, max_size=3).map(lambda args: ValueError(*args)),
        st.integers(0, 9).map(lambda code: AppError(code, x=(code,))),
    )


ANYTHING = st.recursive(LEAVES, _containers, max_leaves=25)


@pytest.mark.slow
@settings(max_examples=400, deadline=None)
@given(ANYTHING)
def test_any_nesting_of_values_comes_back(value: object) -> None:
    """Whatever is built from the list travels, whether pickle is on or off."""
    assert is_same(value, travel(value))
    assert is_same(value, travel(value, Codec(allow_pickle=True)))


@pytest.mark.slow
@settings(max_examples=200, deadline=None)
@given(
    st.lists(ANYTHING, max_size=4).map(tuple),
    st.dictionaries(st.text(max_size=5), ANYTHING, max_size=3),
)
def test_any_call_comes_back(args: tuple[object, ...], kwargs: dict[str, object]) -> None:
    """Arguments of any value travel."""
    codec = Codec(allow_pickle=False)

    body, buffers = codec.encode_call(args, kwargs)
    decoded = codec.decode_call(body, [bytearray(buffer) for buffer in buffers])

    assert is_same((args, kwargs), decoded)


def test_encoding_leaves_the_value_alone() -> None:
    """The walk copies what it changes."""
    value = {"a": [1, (2, [3])], "b": {(1,): [bytearray(b"x")]}}
    copy = {"a": [1, (2, [3])], "b": {(1,): [bytearray(b"x")]}}

    Codec().encode(value)

    assert is_same(copy, value)


@pytest.mark.parametrize(
    "value",
    [
        MyInt(5),
        MyStr("x"),
        MyList([1, 2]),
        collections.OrderedDict(a=1),
        collections.Counter("abca"),
        collections.deque([1, 2]),
        collections.defaultdict(list, {1: [2]}),
    ],
    ids=lambda value: type(value).__name__,
)
def test_subclass_of_a_builtin_keeps_its_type(value: object) -> None:
    """It never collapses to the builtin: pickled where allowed."""
    decoded = travel([value], Codec(allow_pickle=True))

    assert type(value) is type(decoded[0])
    assert value == decoded[0]


def test_dataclass_is_rebuilt_without_its_init() -> None:
    """Fields are set as they were, `__post_init__` does not run, unset slots stay unset."""
    point = Point(1, 2)
    point.norm = 3
    point.extra = "not a field"  # type: ignore[attr-defined]  # on purpose

    decoded = travel(point)
    partial = travel(Partial(1))

    assert {"x": 1, "y": 2, "norm": 3, "extra": "not a field"} == vars(decoded)
    assert (1, False) == (partial.a, hasattr(partial, "b"))


@pytest.mark.parametrize("allow_pickle", [True, False])
def test_generic_dataclass_travels_however_it_was_made(allow_pickle: bool) -> None:
    """Where pickle is off without typing's note about it, which says nothing of the value."""
    holder = Holder[int](3)

    decoded = travel(holder, Codec(allow_pickle=allow_pickle))

    assert type(decoded) is Holder
    assert holder == decoded
    assert allow_pickle == hasattr(decoded, "__orig_class__")


def test_exception_keeps_attributes_notes_and_cause() -> None:
    """Without running its `__init__`; the traceback stays behind."""
    error = AppError(7, why="x")
    error.add_note("seen")
    error.__cause__ = OSError(2, "no", "file")

    decoded = travel(error)

    assert (7, {"why": "x"}, ["seen"]) == (decoded.code, decoded.details, decoded.__notes__)
    assert "failed with 7" == str(decoded)
    assert ("file", FileNotFoundError) == (
        decoded.__cause__.filename,
        type(decoded.__cause__),
    )
    assert decoded.__suppress_context__


def test_builtin_exception_keeps_its_fields() -> None:
    """State that lives outside args comes along; an object that is not small is left out."""
    small = travel(AttributeError("m", name="n", obj=[1]))
    large = travel(AttributeError("m", name="n", obj=lambda: 0))
    undefined = travel(NameError("m", name="n"))

    assert ("n", [1]) == (small.name, small.obj)
    assert ("n", None) == (large.name, large.obj)
    assert "n" == undefined.name


def test_exception_whose_args_were_replaced_comes_back() -> None:
    """Args that the builtin base would refuse are kept all the same."""
    error = UnicodeDecodeError("utf-8", b"\xff", 0, 1, "bad")
    error.args = ("other",)

    decoded = travel(error)

    assert (("other",), "bad") == (decoded.args, decoded.reason)


def test_memoryview_keeps_whether_it_can_be_written() -> None:
    """Small or large, from either kind of receive buffer."""
    for size in (3, 5000):
        for make, is_readonly in ((bytes, True), (bytearray, False)):
            view = memoryview(make(size))
            codec = Codec()
            body, buffers = codec.encode(view)
            for receive in (bytes, bytearray):
                decoded = codec.decode(body, [receive(buffer) for buffer in buffers])
                assert is_readonly == decoded.readonly


def test_small_scalars_are_plain_msgpack() -> None:
    """The fast path adds nothing to what msgpack makes of the arguments."""
    body, buffers = Codec().encode_call((1, "a", b"x"), {"k": None})

    assert (b"\x95\x01\xa1a\xc4\x01x\xc0\x91\xa1k", []) == (body, buffers)


def test_names_of_classes_travel_once() -> None:
    """A list of many instances repeats no class name."""
    body, _ = Codec().encode([Frozen("a") for _ in range(100)])

    assert 1 == body.count(b"Frozen")


def test_codec_can_be_used_while_it_encodes() -> None:
    """An object that encodes by the same codec while it is pickled harms nothing."""
    codec = Codec()
    Reentrant.codec = codec

    body, buffers = codec.encode([2**70, Reentrant(), (1,), Reentrant()])

    assert [2**70, "inner", (1,), "inner"] == codec.decode(body, buffers)


class Reentrant:
    codec: Codec

    def __reduce__(self) -> Any:
        body, buffers = self.codec.encode(("inner", 2**80))
        return (str, (self.codec.decode(body, buffers)[0],))


def test_names_of_keywords_may_be_subclasses_of_str() -> None:
    """Python takes them; they arrive as str."""
    codec = Codec()

    body, buffers = codec.encode_call((), {MyStr("name"): 1})

    assert ((), {"name": 1}) == codec.decode_call(body, buffers)
    assert str is type(next(iter(codec.decode_call(body, buffers)[1])))


@pytest.mark.parametrize("levels", [64, 1000])
def test_nesting_up_to_the_limit_travels(levels: int) -> None:
    """Lists, dicts, tuples and objects alike, also beyond msgpack's own limit."""
    codec = Codec(allow_pickle=False, max_nesting=levels)
    for wrap in (lambda x: [x], lambda x: {"k": x}, lambda x: (x,), lambda x: [x, 1], Pair):
        value: Any = 1
        for _ in range(levels - 1):
            value = wrap(value)
        body, buffers = codec.encode([value])
        decoded = codec.decode(body, buffers)[0]
        for _ in range(levels - 1):
            assert type(value) is type(decoded)
            value, decoded = next(iter(_items(value))), next(iter(_items(decoded)))
        assert 1 == decoded


def _items(value: Any) -> Any:
    return value.values() if type(value) is dict else value


def test_call_may_nest_as_deep_as_a_value() -> None:
    """The levels around the arguments are not the user's."""
    codec = Codec(max_nesting=3)

    body, buffers = codec.encode_call(([[["x"]]],), {"k": (((1,),),)})

    assert (([[["x"]]],), {"k": (((1,),),)}) == codec.decode_call(body, buffers)
