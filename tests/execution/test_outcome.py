"""What becomes of an exception on its way from the callee's function to the caller."""

from __future__ import annotations

import asyncio
import concurrent.futures
import copy
import errno
import pickle
import re
import sys
import threading
import traceback
import types
from collections.abc import AsyncIterator, Callable
from typing import Any, NoReturn, Self, TypeVar

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from asyncrpc import errors
from asyncrpc.errors import (
    Delivery,
    EncodingError,
    FunctionNotFoundError,
    PeerLostError,
    RemoteError,
    RemoteProtocolError,
    RemoteTraceback,
    RpcError,
    RpcTimeoutError,
    StatusCode,
)
from asyncrpc.execution import remote_traceback
from asyncrpc.execution.outcome import decode_failure, encode_failure
from asyncrpc.wire import Codec, TypeRegistry

CODEC = Codec()

_E = TypeVar("_E", bound=BaseException)


class TwoArgumentsError(Exception):
    """Takes other arguments than those it passes on."""

    def __init__(self, code: int, reason: str) -> None:
        super().__init__(f"{code}: {reason}")
        self.code = code
        self.reason = reason


class NeverAgainError(Exception):
    """Does something when it is constructed."""

    constructed = 0

    def __init__(self, text: str) -> None:
        super().__init__(text)
        type(self).constructed += 1


class NewError(Exception):
    """Has a constructor that a rebuilding must not run either."""

    def __new__(cls, *, value: int) -> Self:
        error = super().__new__(cls)
        error.value = value
        return error

    def __init__(self, *, value: int) -> None:
        super().__init__()

    value: int

    def __str__(self) -> str:
        return f"value {self.value}"


class SlotError(Exception):
    """Keeps its data in slots."""

    __slots__ = ("never_set", "position")

    def __init__(self, position: int) -> None:
        super().__init__("at", position)
        self.position = position


class FieldError(OSError):
    """Has a property on top of a builtin's field, and a field of its own."""

    def __init__(self, path: str) -> None:
        super().__init__(errno.ENOENT, "not there", path)
        self.tries = 3

    @property
    def filename(self) -> str:
        raise RuntimeError("must not be read or set")


class MixedError(KeyError, ConnectionError):
    """Laid out like its second base."""


class HiddenError(Exception):
    """Says more than its arguments: what it says is not rebuilt."""

    def __str__(self) -> str:
        return f"{super().__str__()} in {threading.current_thread().name} {id(self)}"


class StrFailsError(Exception):
    """Cannot say what it is."""

    def __str__(self) -> str:
        raise ValueError("no")


class Stop(BaseException):
    """A user's own, no `Exception`."""


class MyTimeoutError(TimeoutError):
    """A user's own timeout."""


class MyRpcError(RpcError):
    """A user's own error below the package's root."""


class MyGroup(ExceptionGroup[Exception]):
    """A group of the user's own."""

    def __new__(cls, *, members: list[Exception]) -> Self:
        group = super().__new__(cls, "text", members)
        group.tag = "tag"
        return group

    def __init__(self, *, members: list[Exception]) -> None:
        del members

    tag: str


class Unpicklable:
    """Never travels."""

    def __reduce__(self) -> NoReturn:
        raise RuntimeError("not me")

    def __repr__(self) -> str:
        return "<unpicklable>"


class ReprFails(Unpicklable):
    """Has no text either."""

    def __repr__(self) -> str:
        raise RuntimeError("no")


class Undecodable:
    """Travels, but fails on arrival."""

    def __reduce__(self) -> tuple[Callable[[str], int], tuple[str]]:
        return int, ("no number",)

    def __repr__(self) -> str:
        return "<undecodable>"


def fail(error: BaseException) -> NoReturn:
    """Raise ``error``; this function is what a remote traceback shows."""
    raise error


def raised(error: _E, cause: BaseException | None = None) -> _E:
    """Return ``error`` as it looks to whoever caught it."""
    try:
        if cause is None:
            fail(error)
        raise error from cause
    except BaseException:
        return error


def carry(
    error: BaseException, *, is_ours: bool = False, registry: TypeRegistry | None = None
) -> Any:
    """Send ``error`` through the codec, as a reply would."""
    codec = Codec(registry=registry)
    payload = encode_failure(
        error,
        worker="worker1",
        function="mod:func",
        codec=codec,
        registry=registry,
        is_ours=is_ours,
    )
    return decode_failure(codec.decode(*codec.encode(payload)), codec)


# --- class, text, args, attributes


@pytest.mark.parametrize(
    "error",
    [
        ValueError("text"),
        ValueError(),
        ValueError("café C:\\users\nnew \x00 \U0001f600 \\n"),
        ValueError("lone \udc80 surrogate"),
        KeyError("key"),
        KeyError(("a", 1)),
        Exception(1, "two", None, 3.5, b"4", [5], {6: 7}, 2**100),
        AssertionError(),
        ZeroDivisionError("division by zero"),
        OSError("text only"),
        OSError(errno.ENOENT, "gone", "a.txt"),
        FileNotFoundError(errno.ENOENT, "gone", "a.txt", None, "b.txt"),
        BlockingIOError(errno.EAGAIN, "again", 7),
        ConnectionResetError(errno.ECONNRESET, "reset"),
        UnicodeDecodeError("utf-8", b"\xff", 0, 1, "invalid start byte"),
        UnicodeEncodeError("ascii", "é", 0, 1, "ordinal not in range"),
        UnicodeTranslateError("é", 0, 1, "no"),
        SyntaxError("bad", ("file.py", 1, 2, "text", 1, 3)),
        SyntaxError("bad"),
        ImportError("no", name="mod", path="/mod.py"),
        ModuleNotFoundError("no", name="mod"),
        NameError("no", name="variable"),
        AttributeError("no", name="attribute"),
        RecursionError("deep"),
        MemoryError(),
        TwoArgumentsError(3, "reason"),
        NewError(value=3),
        SlotError(4),
        MixedError(1, "mixed"),
        Stop("stop"),
        asyncio.IncompleteReadError(b"part", 10),
        asyncio.QueueEmpty(),
        concurrent.futures.BrokenExecutor("x"),
        RemoteTraceback("On worker2 in f"),
    ],
    ids=repr,
)
def test_error_arrives_as_itself(error: BaseException) -> None:
    """Class, text, args, fields and attributes are those of the original."""
    arrived = carry(raised(error))

    assert type(arrived) is type(error)
    assert (str(arrived), arrived.args) == (str(error), error.args)
    assert vars(arrived) == vars(error)
    for name in ("errno", "strerror", "filename", "filename2", "characters_written", "name"):
        assert getattr(arrived, name, None) == getattr(error, name, None)
    for name in ("path", "msg", "lineno", "end_offset", "object", "start", "reason", "position"):
        assert getattr(arrived, name, None) == getattr(error, name, None)


@pytest.mark.slow
@given(st.lists(st.text() | st.integers() | st.none() | st.floats(allow_nan=False), max_size=4))
def test_any_plain_arguments_arrive(args: list[object]) -> None:
    """Text is never reinterpreted, whatever is in it; other values keep value and type."""
    error = LookupError(*args)

    arrived = carry(error)

    assert (type(arrived), arrived.args, str(arrived)) == (LookupError, tuple(args), str(error))


def test_no_init_written_in_python_runs() -> None:
    """Rebuilding an exception does not construct it once more."""
    error = NeverAgainError("once")
    NeverAgainError.constructed = 0

    arrived = carry(error)

    assert (type(arrived), NeverAgainError.constructed) == (NeverAgainError, 0)


def test_fields_below_a_property_are_restored() -> None:
    """A builtin's field is set past what a subclass puts on top of it."""
    arrived = carry(raised(FieldError("a.txt")))

    assert type(arrived) is FieldError
    assert str(arrived) == "[Errno 2] not there: 'a.txt'"
    assert (arrived.tries, arrived.errno) == (3, errno.ENOENT)


def test_arrays_and_own_objects_arrive_as_attributes() -> None:
    """Attributes of any type that travels are kept."""
    error: Any = ValueError("x")
    error.array = np.arange(5000)
    error.position = slice(1, 2)

    arrived = carry(error)

    assert arrived.position == slice(1, 2)
    assert np.array_equal(arrived.array, np.arange(5000))


def test_object_of_an_attribute_error_stays() -> None:
    """The object an attribute was missing on is not sent: it can be anything."""
    thing: Any = Unpicklable()
    try:
        _ = thing.nothing
    except AttributeError as error:
        arrived = carry(error)

    assert type(arrived) is AttributeError
    assert (arrived.name, arrived.obj) == ("nothing", None)


@pytest.mark.parametrize("value", [Unpicklable(), Undecodable()])
def test_values_that_cannot_travel_arrive_as_their_repr(value: object) -> None:
    """One bad argument or attribute costs its own value, not the error."""
    error: Any = ValueError(value)
    error.attribute = value

    arrived = carry(error)

    assert (type(arrived), arrived.args) == (ValueError, (repr(value),))
    assert arrived.attribute == repr(value)


def test_repr_that_fails_is_replaced() -> None:
    """Even a value that cannot be printed does not get in the way."""
    error: Any = ValueError("x")
    error.attribute = ReprFails()

    assert carry(error).attribute == "<ReprFails object, repr failed>"


def test_notes_are_kept() -> None:
    """Notes arrive in order; what is no str arrives as its str."""
    error = ValueError("x")
    error.add_note("first\nline")
    error.add_note("café")
    error.__notes__.append(3)  # type: ignore[arg-type]  # nothing forbids it

    assert carry(error).__notes__ == ["first\nline", "café", "3"]


def test_registered_class_travels_through_its_own_functions() -> None:
    """A registered exception class is encoded and decoded by what it was registered with."""
    registry = TypeRegistry()
    registry.register(
        TwoArgumentsError,
        "two",
        lambda error: [error.code, error.reason],
        lambda parts: TwoArgumentsError(*parts),
    )
    error: Any = TwoArgumentsError(3, "reason")
    error.add_note("note")
    error.extra = 1

    arrived = carry(raised(error, KeyError("cause")), registry=registry)

    assert (type(arrived), arrived.code, arrived.reason) == (TwoArgumentsError, 3, "reason")
    assert not hasattr(arrived, "extra")
    assert (arrived.__notes__, repr(arrived.__cause__.__cause__)) == (["note"], "KeyError('cause')")


# --- RemoteError


def test_class_of_an_unknown_module_is_remote_and_nothing_is_imported(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """A class whose module is not loaded here becomes `RemoteError`, without importing it."""
    module = types.ModuleType("only_on_callee")
    monkeypatch.setitem(sys.modules, module.__name__, module)
    exec("class Broken(Exception):\n  pass", vars(module))
    payload = encode_failure(
        module.Broken("text", 2), worker="worker1", function="mod:func", codec=CODEC
    )
    monkeypatch.delitem(sys.modules, module.__name__)

    arrived = decode_failure(payload, CODEC)

    assert isinstance(arrived, RemoteError)
    assert (arrived.type_name, arrived.args) == ("only_on_callee.Broken", ("text", 2))
    assert str(arrived) == "only_on_callee.Broken: ('text', 2)"
    assert arrived.delivery is Delivery.EXECUTED
    assert module.__name__ not in sys.modules


def test_module_level_getattr_is_not_asked(monkeypatch: pytest.MonkeyPatch) -> None:
    """A module that imports lazily is not made to do so by a peer."""
    module: Any = types.ModuleType("lazy_module")
    module.__getattr__ = lambda _name: ValueError
    monkeypatch.setitem(sys.modules, module.__name__, module)
    payload: Any = encode_failure(ValueError("x"), worker="w", function="f", codec=CODEC)
    payload["errors"][0]["module"] = module.__name__

    assert type(decode_failure(payload, CODEC)) is RemoteError


def local_error() -> Exception:
    """Return an error of a class that nobody else can find."""

    class LocalError(Exception):
        pass

    return LocalError("local")


@pytest.mark.parametrize(
    "error",
    [local_error(), HiddenError("a"), StrFailsError("b")],
    ids=lambda error: type(error).__name__,
)
def test_what_would_not_read_the_same_is_remote(error: Exception) -> None:
    """An error that cannot be rebuilt to the same text arrives with the original text."""
    arrived = carry(error)

    assert type(arrived) is RemoteError
    assert arrived.type_name == f"{type(error).__module__}.{type(error).__qualname__}".removeprefix(
        "builtins."
    )
    try:
        text = str(error)
    except ValueError:
        text = "<StrFailsError str() failed>"
    assert arrived.text == remote_traceback.cut(text)
    assert str(arrived) == f"{arrived.type_name}: {arrived.text}"


@pytest.mark.parametrize(
    ("error", "type_name"),
    [
        (KeyboardInterrupt("x"), "KeyboardInterrupt"),
        (SystemExit(3), "SystemExit"),
        (GeneratorExit(), "GeneratorExit"),
        (StopIteration(1), "StopIteration"),
        (StopAsyncIteration(), "StopAsyncIteration"),
        (asyncio.CancelledError("msg"), "asyncio.exceptions.CancelledError"),
        (concurrent.futures.CancelledError(), "concurrent.futures._base.CancelledError"),
        (TimeoutError("t"), "TimeoutError"),
        (MyTimeoutError("t"), f"{__name__}.MyTimeoutError"),
    ],
    ids=repr,
)
def test_control_flow_is_remote(error: BaseException, type_name: str) -> None:
    """What the caller's own loop or statements would act upon arrives as `RemoteError`."""
    arrived = carry(raised(error))

    assert type(arrived) is RemoteError
    assert (arrived.type_name, arrived.args) == (type_name, error.args)
    assert not isinstance(arrived, (TimeoutError, asyncio.CancelledError))
    assert (arrived.code, arrived.delivery) == (StatusCode.INTERNAL, Delivery.EXECUTED)


async def stop() -> None:
    """Raise what an `async def` may not raise."""
    raise StopIteration(3)


async def stop_items() -> AsyncIterator[int]:
    """Give one item, then raise what an async generator may not raise."""
    yield 1
    raise StopAsyncIteration(3)


@pytest.mark.asyncio
async def test_what_python_turned_into_a_runtime_error_is_named_as_raised() -> None:
    """PEP 479 does not hide from the caller what the callee's code raised."""
    try:
        await stop()
    except RuntimeError as error:
        stopped = carry(error)
    try:
        async for _ in stop_items():
            pass
    except RuntimeError as error:
        ended = carry(error)
    own = carry(raised(RuntimeError("coroutine raised StopIteration")))

    assert isinstance(stopped, RemoteError)
    assert ("StopIteration", (3,)) == (stopped.type_name, stopped.args)
    assert isinstance(ended, RemoteError)
    assert ("StopAsyncIteration", (3,)) == (ended.type_name, ended.args)
    assert type(own) is RuntimeError


@pytest.mark.parametrize(
    "error",
    [
        PeerLostError("lost"),
        RpcTimeoutError("late", phase="execute"),
        FunctionNotFoundError("f"),
        MyRpcError("mine", code=StatusCode.DATA_LOSS),
        RemoteError("made by hand"),
    ],
    ids=repr,
)
def test_rpc_error_of_user_code_is_remote(error: RpcError) -> None:
    """A failed call of the callee's own is not taken for a failure of the caller's call."""
    arrived = carry(raised(error))

    assert type(arrived) is RemoteError
    assert arrived.type_name == f"{type(error).__module__}.{type(error).__qualname__}"
    assert (arrived.code, arrived.delivery) == (error.code, Delivery.EXECUTED)
    assert (arrived.text, arrived.args) == (str(error), error.args)


def test_remote_error_keeps_its_origin_over_hops() -> None:
    """A `RemoteError` that passes through a worker still names the class at its origin."""
    first = carry(raised(TimeoutError("t")))

    second = carry(raised(first))

    assert (type(second), second.type_name, second.args) == (RemoteError, "TimeoutError", ("t",))
    assert str(second) == "TimeoutError: t"
    assert second.delivery is Delivery.EXECUTED
    assert type(second.__cause__.__cause__) is RemoteTraceback


def test_remote_error_can_be_copied_and_pickled() -> None:
    """What arrives can be handed on by the caller's own means."""
    arrived = carry(TimeoutError("a", 2))

    for again in (copy.copy(arrived), pickle.loads(pickle.dumps(arrived))):
        assert (again.type_name, again.args, str(again)) == (
            "TimeoutError",
            ("a", 2),
            str(arrived),
        )


# --- errors of the framework


@pytest.mark.parametrize(
    "error",
    [
        FunctionNotFoundError("no such function", delivery=Delivery.EXECUTED),
        errors.PermissionDeniedError("no"),
        errors.ResourceExhaustedError("full"),
        errors.MessageTooLargeError("big"),
        RemoteProtocolError("broken"),
        EncodingError("result cannot travel", path="result[0]", delivery=Delivery.EXECUTED),
        RpcTimeoutError("late", phase="execute", delivery=Delivery.EXECUTED),
        RpcError("other", code=StatusCode.ABORTED),
    ],
    ids=repr,
)
def test_errors_of_the_framework_arrive_as_themselves(error: RpcError) -> None:
    """What the callee's framework raised keeps class, text, code, delivery and attributes."""
    arrived = carry(error, is_ours=True)

    assert type(arrived) is type(error)
    assert (str(arrived), arrived.code, arrived.delivery) == (
        str(error),
        error.code,
        error.delivery,
    )
    assert vars(arrived) == vars(error)


# --- chain and traceback


def test_cause_is_a_remote_traceback_over_the_original_cause() -> None:
    """`__cause__` shows worker, function and traceback; its own cause is the original one."""
    cause = raised(KeyError("inner"))

    arrived = carry(raised(TwoArgumentsError(1, "outer"), cause))

    shown = str(arrived.__cause__)
    assert isinstance(arrived.__cause__, RemoteTraceback)
    assert shown.startswith("On worker1 in mod:func\n\nTraceback (most recent call last):\n")
    assert "in fail\n" in shown
    assert shown.endswith(f"{__name__}.TwoArgumentsError: 1: outer\n")
    assert "KeyError: 'inner'\n\nThe above exception was the direct cause" in shown
    assert repr(arrived.__cause__.__cause__) == "KeyError('inner')"
    assert shown in "".join(traceback.format_exception(arrived))


def test_contexts_and_suppression_are_kept() -> None:
    """Implicit contexts arrive, and `from None` further down stays in force."""
    try:
        try:
            fail(KeyError("first"))
        except KeyError:
            try:
                raise LookupError("second") from None
            except LookupError:
                fail(ValueError("third"))
    except ValueError as error:
        arrived = carry(error)

    assert repr(arrived.__context__) == "LookupError('second')"
    assert arrived.__cause__.__cause__ is None
    assert arrived.__context__.__suppress_context__
    assert repr(arrived.__context__.__context__) == "KeyError('first')"
    assert "KeyError" not in str(arrived.__cause__)
    assert "During handling of the above exception" in str(arrived.__cause__)


def test_causes_keep_classes_that_cannot_be_caught_there() -> None:
    """In the chain, control-flow errors and errors of the framework are what they were."""
    lost = raised(PeerLostError("lost"), raised(TimeoutError("t")))

    arrived = carry(raised(ValueError("x"), lost))

    cause = arrived.__cause__.__cause__
    assert (type(cause), cause.delivery) == (PeerLostError, Delivery.UNKNOWN)
    assert type(cause.__cause__) is TimeoutError


def test_circles_and_shared_links_end() -> None:
    """A chain that bites its tail arrives without the link that closes it."""
    first, second = ValueError("first"), ValueError("second")
    first.__cause__, second.__context__ = second, first
    second.__cause__ = second

    arrived = carry(first)

    other = arrived.__cause__.__cause__
    assert (str(arrived), str(other)) == ("first", "second")
    assert (other.__context__, other.__cause__) == (None, None)
    traceback.format_exception(arrived)


def test_long_chains_are_bounded() -> None:
    """Of an endless chain the nearest hundred arrive."""
    error = ValueError(0)
    for number in range(1, 300):
        following = ValueError(number)
        following.__context__ = error
        error = following

    arrived = carry(error)

    length = 0
    link: BaseException | None = arrived
    while link is not None:
        length, link = length + 1, link.__context__
    assert length == remote_traceback.MAX_CHAIN


def test_long_texts_are_bounded() -> None:
    """Traceback, notes and text are cut in the middle, and say so."""
    error = ValueError("x" * 200_000)
    error.add_note("y" * 200_000)

    arrived = carry(raised(error))

    assert str(arrived) == "x" * 200_000
    assert len(arrived.__notes__[0]) < remote_traceback.MAX_TEXT + 100
    assert len(str(arrived.__cause__)) < remote_traceback.MAX_TEXT + 100
    assert "characters left out]" in str(arrived.__cause__)


class Wordy(Exception):
    """Its text is in an attribute."""

    def __init__(self, words: str) -> None:
        super().__init__(len(words))
        self.words = words

    def __str__(self) -> str:
        return self.words


@pytest.mark.parametrize("kind", [ValueError, KeyError, Wordy])
def test_very_long_texts_are_cut(kind: type[Exception]) -> None:
    """Beyond the budget of all values: the class stays, and a note says how much there was."""
    arrived = carry(raised(kind("a" + "x" * 5_000_000 + "z")))

    assert kind is type(arrived)
    assert len(str(arrived)) < remote_traceback.MAX_TEXT + 100
    assert "[4934466 characters left out]" in str(arrived)
    assert str(arrived).strip("'").startswith("axx")
    assert str(arrived).strip("'").endswith("xxz")
    (note,) = arrived.__notes__
    where = "words" if kind is Wordy else "args[0]"
    assert f"too large to arrive whole: {where} (5000002 characters)" == note


def test_very_large_values_are_named() -> None:
    """The class stays, the value is the text of its repr, and a note says so."""
    arrived = carry(raised(ValueError(bytes(2_000_000), 3)))

    assert ValueError is type(arrived)
    assert 3 == arrived.args[1]
    assert arrived.args[0].startswith("b'\\x00")
    assert re.search(r"args\[0\] \(20000\d\d bytes, only its repr is here\)", arrived.__notes__[0])


def test_values_share_one_budget() -> None:
    """An error that carries a lot of data arrives without what is too much."""
    error = ValueError("x")
    for name in "abc":
        setattr(error, name, bytes(600_000))

    arrived = carry(error)

    assert [type(getattr(arrived, name)) for name in "abc"] == [bytes, str, str]
    assert [["b (6000", "c (6000"]] == [
        re.findall(r"\w \(6000", note) for note in arrived.__notes__
    ]


def test_hops_do_not_repeat_the_text_of_earlier_hops() -> None:
    """Over many workers each remote traceback shows its own part, and causes lead back."""
    error = ValueError("x")
    for _ in range(12):
        error = carry(raised(error))

    links = []
    link = error.__cause__
    while link is not None:
        links.append(link)
        link = link.__cause__
    assert [str(link).count("On worker1 in mod:func") for link in links] == [1] * 12


def run_as(path: str, source: str, **names: object) -> Any:
    """Return the function ``run`` of a source that seems to be the file ``path``."""
    scope: dict[str, Any] = dict(names)
    exec(compile(source, path, "exec"), scope)
    return scope["run"]


def shown_of(function: Any, *args: object) -> str:
    """Return the remote traceback of what a function raises, started by the machinery."""
    start = run_as(
        "/own/folder/executor.py",
        "def run(f, *a):\n  try: f(*a)\n  except BaseException as error: return error\n",
    )
    return str(carry(start(function, *args)).__cause__)


@pytest.fixture
def own_folder(monkeypatch: pytest.MonkeyPatch) -> None:
    """Take /own/folder for that of the package, /lib for that of the standard library."""
    monkeypatch.setattr(remote_traceback, "_OWN_FOLDER", "/own/folder/")
    monkeypatch.setattr(remote_traceback, "_LIBRARY", "/lib/")
    monkeypatch.setattr(remote_traceback, "_ADDED", ("/lib/site-packages",))


CALL = "def run(f, *a):\n  return f(*a)\n"


@pytest.mark.usefixtures("own_folder")
def test_frames_of_the_machinery_are_left_out() -> None:
    """The remote traceback starts with the user's function, not with what called it."""
    shown = shown_of(fail, ValueError("x"))

    assert "executor.py" not in shown
    assert "in fail\n" in shown


@pytest.mark.usefixtures("own_folder")
def test_frames_of_nested_calls_are_left_out() -> None:
    """Between and behind users' frames nothing of the package shows, nor what it called."""
    library = run_as("/lib/concurrent.py", CALL)
    api = run_as("/own/folder/api.py", "def run(f, *a):\n  return inner(f, *a)\n", inner=library)
    user = run_as("/user/code.py", CALL)
    shown = shown_of(user, api, user, api, fail, ValueError("x"))

    assert 2 == shown.count("code.py")
    assert "in fail\n" in shown
    assert "/own/" not in shown
    assert "/lib/" not in shown


@pytest.mark.usefixtures("own_folder")
@pytest.mark.parametrize("path", ["/lib/json.py", "/lib/site-packages/numpy.py"])
def test_frames_of_what_users_call_are_kept(path: str) -> None:
    """A served function of the standard library shows, and so does what a user called."""
    called = run_as(path, CALL)
    direct = shown_of(called, fail, ValueError("x"))
    below = shown_of(run_as("/user/code.py", CALL), called, fail, ValueError("x"))

    assert (1, 1) == (direct.count(path), below.count(path))


@pytest.mark.usefixtures("own_folder")
def test_added_packages_are_users() -> None:
    """An added package that is called back from within shows, unlike the standard library."""
    api = run_as("/own/folder/api.py", CALL)
    added = run_as("/lib/site-packages/numpy.py", CALL)
    shown = shown_of(run_as("/user/code.py", CALL), api, added, fail, ValueError("x"))

    assert ["code.py", "numpy.py"] == [n for n in ("code.py", "api.py", "numpy.py") if n in shown]


@pytest.mark.usefixtures("own_folder")
@pytest.mark.parametrize("how", ["raise KeyError('outer') from error", "raise KeyError('outer')"])
def test_causes_within_the_machinery_are_left_out(how: str) -> None:
    """What the package raised and translated is not shown; what a user raised below it is."""
    source = f"def run(f, *a):\n  try: f(*a)\n  except Exception as error: {how}\n"
    translate = run_as("/own/folder/codec.py", source)
    low = run_as("/lib/pickle.py", "def run(e):\n  raise e\n")
    user = run_as("/user/code.py", CALL)
    ours = shown_of(user, translate, low, ValueError("low"))
    theirs = shown_of(user, translate, translate, user, fail, ValueError("low"))

    assert "low" not in ours
    assert ours.endswith("KeyError: 'outer'\n")
    assert (2, 1) == (theirs.count("code.py"), theirs.count("KeyError: 'outer'"))
    assert theirs.index("ValueError: low") < theirs.index("KeyError: 'outer'")
    assert "/own/" not in ours + theirs


@pytest.mark.usefixtures("own_folder")
def test_members_of_a_group_show_users_frames() -> None:
    """The frames of the package are left out of each member of a group, too."""
    source = (
        "def run(f, *a):\n"
        "  try: f(*a)\n"
        "  except Exception as error: raise ExceptionGroup('g', [error]) from None\n"
    )
    api = run_as("/own/folder/api.py", CALL)
    shown = shown_of(run_as("/user/group.py", source), api, fail, ValueError("x"))

    assert "group.py" in shown
    assert "in fail\n" in shown
    assert "/own/" not in shown


def test_callee_keeps_its_error() -> None:
    """Encoding does not change the exception, which others may hold."""
    error = raised(ValueError("x"), KeyError("y"))
    before = (error.__traceback__, error.__cause__, vars(error).copy())

    carry(error)

    assert (error.__traceback__, error.__cause__, vars(error)) == before


# --- groups


def test_groups_arrive_with_their_members() -> None:
    """Members are rebuilt with their own members, causes and notes."""
    inner = ExceptionGroup("inner", [KeyError("a"), raised(TwoArgumentsError(1, "b"), KeyError())])

    arrived = carry(raised(ExceptionGroup("outer", [ValueError("c"), inner])))

    assert type(arrived) is ExceptionGroup
    assert str(arrived) == "outer (2 sub-exceptions)"
    member, group = arrived.exceptions
    assert (repr(member), str(group)) == ("ValueError('c')", "inner (2 sub-exceptions)")
    assert type(group.exceptions[1].__cause__) is KeyError


def test_group_classes_keep_their_attributes() -> None:
    """A group class of the user's own is rebuilt without its constructor."""
    arrived = carry(MyGroup(members=[ValueError("a")]))

    assert (type(arrived), arrived.tag, arrived.message) == (MyGroup, "tag", "text")


def test_control_flow_in_a_group_is_remote() -> None:
    """`except*` of the caller does not meet a `KeyboardInterrupt` of the callee."""
    arrived = carry(BaseExceptionGroup("g", [ValueError("a"), KeyboardInterrupt("b")]))

    assert type(arrived) is ExceptionGroup
    assert [type(member) for member in arrived.exceptions] == [ValueError, RemoteError]


# --- hostile payloads


@pytest.mark.parametrize(
    "change",
    [
        lambda payload: None,
        lambda payload: [],
        lambda payload: {},
        lambda payload: payload | {"errors": []},
        lambda payload: payload | {"errors": {}},
        lambda payload: payload | {"errors": [{}]},
        lambda payload: payload | {"errors": [3]},
        lambda payload: payload | {"errors": payload["errors"] * 101},
        *(
            lambda payload, name=name, value=value: (
                payload | {"errors": [payload["errors"][0] | {name: value}]}
            )
            for name, value in (
                ("cause", 7),
                ("context", "x"),
                ("args", 3),
                ("args", [[]]),
                ("args", [[1, 2, 3, 4]]),
                ("notes", [3]),
                ("qualname", 3),
                ("fields", []),
                ("state", [1]),
                ("group", [5]),
                ("group", [[]]),
            )
        ),
    ],
)
def test_malformed_payload_is_a_protocol_error(change: Callable[[Any], Any]) -> None:
    """A peer's malformed failure raises `RemoteProtocolError` and nothing else."""
    payload = encode_failure(ValueError("x"), worker="w", function="f", codec=CODEC)

    with pytest.raises(RemoteProtocolError, match="malformed failure"):
        decode_failure(change(payload), CODEC)


def test_group_that_contains_itself_ends() -> None:
    """A group cannot hold itself, whatever a peer says."""
    payload: Any = encode_failure(
        ExceptionGroup("g", [ValueError("x")]), worker="w", function="f", codec=CODEC
    )
    payload["errors"][0]["group"] = [0]

    arrived = decode_failure(payload, CODEC)

    assert (type(arrived), str(arrived)) == (RemoteError, "ExceptionGroup: g (1 sub-exception)")


@pytest.mark.parametrize("name", ["int", "exec", "object", "__import__", "nothing", "", "a.b"])
def test_only_exception_classes_are_rebuilt(name: str) -> None:
    """A peer cannot make the caller construct anything but an exception."""
    payload: Any = encode_failure(ValueError("x"), worker="w", function="f", codec=CODEC)
    payload["errors"][0]["qualname"] = name

    arrived: Any = decode_failure(payload, CODEC)

    assert (type(arrived), arrived.type_name) == (RemoteError, name)


json = st.recursive(
    st.none() | st.booleans() | st.integers(-3, 3) | st.text(max_size=3) | st.binary(max_size=3),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=3), inner),
    max_leaves=5,
)
ENTRY_KEYS = ("cause", "context", "suppress", "notes", "args", "fields", "state", "group", "whole")


@pytest.mark.slow
@given(st.lists(st.dictionaries(st.sampled_from(ENTRY_KEYS), json), min_size=1, max_size=3))
def test_any_payload_gives_an_exception_or_a_protocol_error(changes: list[dict[str, Any]]) -> None:
    """Whatever the entries hold, decoding ends with an exception or `RemoteProtocolError`."""
    payload: Any = encode_failure(ValueError("x"), worker="w", function="f", codec=CODEC)
    entry = payload["errors"][0]
    payload["errors"] = [entry | change for change in changes]

    try:
        arrived = decode_failure(payload, CODEC)
    except RemoteProtocolError:
        return

    assert isinstance(arrived, BaseException)
