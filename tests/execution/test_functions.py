"""How callables are named on the caller, found on the callee, and kept from being found."""

from __future__ import annotations

import asyncio
import datetime as dt
import functools
import inspect
import math
import operator
import os
import subprocess
import sys
import types
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from asyncrpc import functions
from asyncrpc.errors import (
    Delivery,
    EncodingError,
    FunctionNotFoundError,
    PermissionDeniedError,
)
from asyncrpc.execution import naming
from asyncrpc.execution.functions import (
    FunctionTable,
    TargetKind,
    describe,
)
from tests.execution import sample_functions as sample

HERE = sample.__name__


@pytest.mark.parametrize(
    ("func", "name"),
    [
        (sample.add, f"{HERE}:add"),
        (sample.add_async, f"{HERE}:add_async"),
        (sample.wrapped, f"{HERE}:wrapped"),
        (sample.cached, f"{HERE}:cached"),
        (sample.Counter, f"{HERE}:Counter"),
        (sample.Counter.Part, f"{HERE}:Counter.Part"),
        (sample.Counter.make, f"{HERE}:Counter.make"),
        (sample.BigCounter.make, f"{HERE}:BigCounter.make"),
        (sample.Counter.double, f"{HERE}:Counter.double"),
        (sample.BigCounter.double, f"{HERE}:Counter.double"),
        (sample.Counter.increment, f"{HERE}:Counter.increment"),
        (min, "builtins:min"),
        (int, "builtins:int"),
        (math.sqrt, "math:sqrt"),
        (operator.add, "_operator:add"),
        (str.upper, "builtins:str.upper"),
        (dict.fromkeys, "builtins:dict.fromkeys"),
        (dt.datetime.now, "datetime:datetime.now"),
        (f"{HERE}:Counter.make", f"{HERE}:Counter.make"),
    ],
)
def test_named_callables_travel_as_their_name(func: object, name: str) -> None:
    """A callable that its module and qualified name lead back to travels as these alone."""
    reference = describe(func)

    assert (name, (), {}) == (reference.name, reference.args, reference.kwargs)


@pytest.mark.parametrize(
    "func", [sample.add, sample.Counter, sample.Counter.make, min, math.sqrt, dict.fromkeys]
)
def test_what_is_named_is_found(func: Callable[..., object]) -> None:
    """The callee finds the callable that the caller named."""
    assert func == FunctionTable().resolve(describe(func).name).function


def test_bound_method_is_named_by_the_class_of_its_instance() -> None:
    """A bound method travels as function and instance, so an override is the one that runs."""
    counter = sample.BigCounter(1)
    inherited = describe(counter.increment_async)

    reference = describe(counter.increment)

    assert (f"{HERE}:BigCounter.increment", (counter,)) == (reference.name, reference.args)
    assert f"{HERE}:BigCounter.increment_async" == inherited.name


def test_method_bound_through_super_keeps_its_own_function() -> None:
    """`super().method` names the base class' function, not the override."""
    counter = sample.BigCounter(1)

    reference = describe(counter.plain())

    assert (f"{HERE}:Counter.increment", (counter,)) == (reference.name, reference.args)


def test_builtin_bound_methods_travel_with_their_instance() -> None:
    """`"x".upper` is `str.upper` of "x"."""
    assert [
        (reference.name, reference.args)
        for reference in (describe("x".upper), describe("x".__add__))
    ] == [("builtins:str.upper", ("x",)), ("builtins:str.__add__", ("x",))]


def test_partials_are_taken_apart() -> None:
    """A partial travels as its function and arguments; outer keywords win, methods come first."""
    counter = sample.Counter()
    inner = functools.partial(counter.increment, by=2)

    reference = describe(functools.partial(inner, by=3))
    nested = describe(functools.partial(functools.partial(sample.add, 1), 2))

    assert (f"{HERE}:Counter.increment", (counter,), {"by": 3}) == (
        reference.name,
        reference.args,
        reference.kwargs,
    )
    assert (f"{HERE}:add", (1, 2)) == (nested.name, nested.args)


def test_callable_instance_travels_by_value() -> None:
    """A callable instance is `__call__` of its class with the instance as first argument."""
    for instance in (sample.adder, sample.async_adder, sample.Unhashable(1)):
        reference = describe(instance)

        assert f"{HERE}:{type(instance).__qualname__}.__call__" == reference.name
        assert instance is reference.args[0]


def test_main_functions_are_those_of_the_callees_main(monkeypatch: pytest.MonkeyPatch) -> None:
    """A function of the main module is `__main__:f`, also in a child that spawn started."""
    for name in ("__main__", "__mp_main__"):
        module = types.ModuleType(name)
        exec("def f(): pass", vars(module))
        monkeypatch.setitem(sys.modules, name, module)

        assert describe(module.f).name == "__main__:f"


def _local_class_instance() -> object:
    class Local:
        def method(self) -> None:
            pass

        def __call__(self) -> None:
            pass

    return Local()


def _local_function() -> Callable[[], None]:
    def f() -> None:
        pass

    return f


@pytest.mark.parametrize(
    ("func", "reason"),
    [
        (lambda: None, "lambda"),
        (_local_function(), "local to a function"),
        (_local_class_instance(), "local to a function"),
        (type(_local_class_instance()), "local to a function"),
        (_local_class_instance().method, "local to a function"),  # type: ignore[attr-defined]
        (functools.partial(lambda: None), "lambda"),
        (inspect.unwrap(sample.wrapped), "nothing or something else"),
        (types.NoneType, "nothing or something else"),
        (types.MethodType(_local_function(), 3), "local to a function"),
        (types.MethodType(sample.add, sample.Counter), "nothing or something else"),
    ],
)
def test_what_has_no_name_is_refused_at_the_call(func: object, reason: str) -> None:
    """What looking up its name would not give back raises at the call and says why."""
    with pytest.raises(EncodingError, match=reason) as caught:
        describe(func)

    assert (caught.value.path, caught.value.delivery) == ("func", Delivery.NOT_SENT)
    assert "can import" in str(caught.value)


@pytest.mark.parametrize("func", [3, None, math, [min]])
def test_what_is_not_callable_is_a_type_error(func: object) -> None:
    """Anything that cannot be called raises `TypeError` at the call."""
    with pytest.raises(TypeError, match="function should be callable, but got"):
        describe(func)


def test_a_coroutine_is_not_called_a_function() -> None:
    """Who calls the function instead of naming it is told so, and hears of no lost coroutine."""
    coroutine = asyncio.sleep(0)
    with pytest.raises(TypeError, match="give the function itself, and its arguments in args"):
        describe(coroutine)

    assert inspect.CORO_CLOSED == inspect.getcoroutinestate(coroutine)


@pytest.mark.parametrize(
    "name", ["", ":min", "math:", "math:sqrt:x", "a..b:c", "a:b..c", "a:<lambda>", "a: b"]
)
def test_malformed_names_are_refused_on_both_sides(name: str) -> None:
    """A name string that is not `module:qualname` raises at the call and at the callee."""
    with pytest.raises(EncodingError, match="'module:qualname'"):
        describe(name)
    with pytest.raises(FunctionNotFoundError, match="'module:qualname'"):
        FunctionTable().resolve(name)


def test_a_name_without_a_module_is_that_of_a_script_function() -> None:
    """It may be known to the callee alone; where it is not, nothing is imported for it."""
    reference = describe("min")

    assert ("min", True, None) == (reference.name, reference.is_script, reference.check)
    with pytest.raises(FunctionNotFoundError, match="no script function 'min' is registered"):
        FunctionTable().resolve(naming.SCRIPT + "min")


def test_memo_is_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    """Naming endless new functions does not keep them all alive."""
    monkeypatch.setattr(naming, "_MAX_KNOWN", 4)
    monkeypatch.setattr(naming, "_known", {})

    for func in (min, max, abs, len, sum, any, all, int, str, sample.add):
        describe(func)

    assert len(naming._known) <= 4


@given(st.text())
def test_a_name_from_a_peer_is_found_or_refused(name: str) -> None:
    """Whatever a peer sends as a name, nothing but the two documented errors comes of it."""
    for table in (FunctionTable(), FunctionTable([sample])):
        with pytest.raises((FunctionNotFoundError, PermissionDeniedError)):
            table.resolve(name)


# --- kinds


@pytest.mark.parametrize(
    ("qualname", "kind"),
    [
        ("add", TargetKind.SYNC),
        ("Counter", TargetKind.SYNC),
        ("Counter.make", TargetKind.SYNC),
        ("Counter.increment", TargetKind.SYNC),
        ("add_five", TargetKind.SYNC),
        ("adder", TargetKind.SYNC),
        ("cached", TargetKind.SYNC),
        ("system", TargetKind.SYNC),
        ("add_async", TargetKind.ASYNC),
        ("add_five_async", TargetKind.ASYNC),
        ("async_adder", TargetKind.ASYNC),
        ("AsyncAdder.__call__", TargetKind.ASYNC),
        ("Counter.increment_async", TargetKind.ASYNC),
        ("count", TargetKind.STREAM),
        ("add_inline", TargetKind.INLINE),
        ("Counter.inline_outside", TargetKind.INLINE),
        ("add_later", TargetKind.ASYNC_EXECUTION),
        ("Counter.later_static", TargetKind.ASYNC_EXECUTION),
        ("Counter.later_class", TargetKind.ASYNC_EXECUTION),
    ],
)
def test_kind_is_that_of_the_code_that_runs(qualname: str, kind: TargetKind) -> None:
    """Partials, methods, instances and decorators are looked through for how to run a target."""
    target = FunctionTable().resolve(f"{HERE}:{qualname}")

    assert (kind, f"{HERE}:{qualname}") == (target.kind, target.name)
    assert kind.name in repr(target)


def test_a_decorator_that_wraps_keeps_the_mark() -> None:
    """`functools.wraps` around a marked function leaves it marked, a subclass is not marked."""

    @functions.inline
    class Base:
        pass

    class Derived(Base):
        pass

    assert functions.Mark.INLINE is functions.mark_of(sample.logged(sample.add_inline))
    assert functions.Mark.INLINE is functions.mark_of(Base)
    assert functions.mark_of(Derived) is None


@pytest.mark.parametrize("decorator", [functions.inline, functions.async_execution])
def test_what_cannot_carry_a_mark_is_refused(decorator: Callable[[object], object]) -> None:
    """Marking a builtin raises `TypeError` where it is written."""
    with pytest.raises(TypeError, match="marks functions written in Python"):
        decorator(math.sqrt)


# --- finding


@pytest.fixture
def module_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """A folder from which modules can be imported, forgotten afterwards."""
    before = set(sys.modules)
    monkeypatch.syspath_prepend(tmp_path)
    yield tmp_path
    for name in set(sys.modules) - before:
        del sys.modules[name]


def test_target_is_looked_up_once_until_cleared(monkeypatch: pytest.MonkeyPatch) -> None:
    """The second look-up gives the same target; `clear` makes the table look again."""
    table = FunctionTable()
    first = table.resolve(f"{HERE}:add")
    monkeypatch.setattr(sample, "add", min)

    again = table.resolve(f"{HERE}:add")
    table.clear()

    assert first is again
    assert min is table.resolve(f"{HERE}:add").function


def test_module_is_imported_when_needed(module_folder: Path) -> None:
    """A module that is not loaded yet is imported."""
    (module_folder / "fresh_module.py").write_text("def f(): return 7\n")
    table = FunctionTable()

    was_there = "fresh_module" in sys.modules
    target = table.resolve("fresh_module:f")

    assert (was_there, target.function()) == (False, 7)


@pytest.mark.parametrize(
    ("name", "text"),
    [
        ("no_such_module_anywhere:f", "no module 'no_such_module_anywhere'"),
        ("os.nothing.at_all:f", "no module 'os.nothing.at_all'"),
        (f"{HERE}:nothing", f"no function 'nothing' in module '{HERE}'"),
        (f"{HERE}:Counter.nothing", f"no function 'Counter.nothing' in module '{HERE}'"),
    ],
)
def test_missing_function_says_that_code_is_not_shipped(name: str, text: str) -> None:
    """A missing function names worker, module and attribute, and how code gets to a callee."""
    with pytest.raises(FunctionNotFoundError, match="code is not shipped: define it") as caught:
        FunctionTable(worker="worker1").resolve(name)

    assert text in str(caught.value)
    assert "'worker1'" in str(caught.value)
    assert Delivery.EXECUTED is caught.value.delivery


@pytest.mark.parametrize(
    ("code", "text"),
    [
        ("import no_such_module_anywhere", "failed with ModuleNotFoundError"),
        ("raise ValueError('broken')", "failed with ValueError: broken"),
        ("def f(:", "failed with SyntaxError"),
        ("import sys; sys.exit(3)", "failed with SystemExit: 3"),
    ],
)
def test_module_that_fails_to_import_says_why(module_folder: Path, code: str, text: str) -> None:
    """A module whose own code fails at import is not found, with its error as reason and cause."""
    (module_folder / "broken_module.py").write_text(code)

    with pytest.raises(FunctionNotFoundError, match=text) as caught:
        FunctionTable().resolve("broken_module:f")

    assert caught.value.__cause__ is not None


def test_what_is_found_must_be_callable() -> None:
    """A name that leads to something else than a callable is not found."""
    with pytest.raises(FunctionNotFoundError, match="is no function but int"):
        FunctionTable().resolve(f"{HERE}:number")


def test_table_of_targets_is_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    """Endless spellings of one function do not fill the memory."""
    monkeypatch.setattr("asyncrpc.execution.functions._MAX_CACHED", 3)
    table = FunctionTable()

    for depth in range(10):
        table.resolve("os:" + "path.os." * depth + "getpid")

    assert len(table._targets) <= 3


# --- expose


def _resolve(expose: list[object], name: str) -> Any:
    return FunctionTable(expose, worker="worker1").resolve(name).function


@pytest.mark.parametrize(
    ("expose", "name", "found"),
    [
        ([sample.add], f"{HERE}:add", sample.add),
        ([min], "builtins:min", min),
        ([sample.Counter.make], f"{HERE}:Counter.make", sample.Counter.make),
        ([sample.Counter.double], f"{HERE}:Counter.double", sample.Counter.double),
        ([sample.Counter.increment], f"{HERE}:Counter.increment", sample.Counter.increment),
        ([sample.Counter], f"{HERE}:Counter", sample.Counter),
        ([sample.Counter], f"{HERE}:Counter.increment", sample.Counter.increment),
        ([sample.Counter], f"{HERE}:Counter.make", sample.Counter.make),
        ([sample.Counter], f"{HERE}:Counter.Part", sample.Counter.Part),
        ([sample.Counter], f"{HERE}:Counter.Part.size", sample.Counter.Part.size),
        ([sample.Adder], f"{HERE}:Adder.__call__", sample.Adder.__call__),
        ([sample], f"{HERE}:add", sample.add),
        ([sample], f"{HERE}:cached", sample.cached),
        ([sample], f"{HERE}:wrapped", sample.wrapped),
        ([sample], f"{HERE}:Counter.double", sample.Counter.double),
        ([sample], f"{HERE}:BigCounter.increment_async", sample.BigCounter.increment_async),
        ([sample], f"{HERE}:getpid", os.getpid),
        ([sample], "posix:getpid", os.getpid),
        ([math], "math:sqrt", math.sqrt),
        ([operator], "_operator:add", operator.add),
        ([bytes], "builtins:bytes.upper", bytes.upper),
        ([sample._hidden], f"{HERE}:_hidden", sample._hidden),
    ],
)
def test_exposed_callables_are_found(expose: list[object], name: str, found: object) -> None:
    """What is listed, or defined in what is listed, can be called."""
    assert found == _resolve(expose, name)


@pytest.mark.parametrize(
    ("expose", "name"),
    [
        ([], f"{HERE}:add"),
        ([sample.add], f"{HERE}:add_async"),
        ([sample.add], f"{HERE}:add.__globals__"),
        ([sample.add], f"{HERE}:add.__call__"),
        ([sample.add], "os:system"),
        ([sample.add], "no_such_module_anywhere:f"),
        ([sample.Counter.make], f"{HERE}:Counter"),
        ([sample.Counter], f"{HERE}:Counter.run"),
        ([sample.Counter], f"{HERE}:Counter.environ"),
        ([sample.Counter], f"{HERE}:Counter.environ.clear"),
        ([sample.Counter], f"{HERE}:Counter.step"),
        ([sample.Counter], f"{HERE}:Counter.nothing"),
        ([sample.Counter], f"{HERE}:Counter._private"),
        ([sample.Counter], f"{HERE}:Counter.__init__"),
        ([sample.Counter], f"{HERE}:Counter.__call__"),
        ([sample.Counter], f"{HERE}:Counter.mro"),
        ([sample.Counter], f"{HERE}:Counter.increment.__globals__"),
        ([sample.BigCounter], f"{HERE}:BigCounter.double"),
        ([sample], f"{HERE}:_hidden"),
        ([sample], f"{HERE}:os.system"),
        ([sample], f"{HERE}:os"),
        ([sample], f"{HERE}:system"),
        ([sample], f"{HERE}:functools.partial"),
        ([sample], f"{HERE}:inline"),
        ([sample], f"{HERE}:number"),
        ([sample], f"{HERE}:adder"),
        ([sample], f"{HERE}:__builtins__.eval"),
        ([sample], "os:path.sys.exit"),
        ([sample], "asyncio:sys.exit"),
        ([sample], "posix:system"),
        ([sample], "builtins:eval"),
    ],
)
def test_all_else_is_refused(expose: list[object], name: str) -> None:
    """What is not exposed is refused, with function and worker named, and nothing is imported."""
    before = set(sys.modules)

    with pytest.raises(PermissionDeniedError) as caught:
        _resolve(expose, name)

    assert f"worker 'worker1' does not expose {name!r} to its callers" == str(caught.value)
    assert Delivery.EXECUTED is caught.value.delivery
    assert before == set(sys.modules)


def test_misspelt_function_of_a_listed_module_is_not_found() -> None:
    """In a module that is exposed as a whole, a missing name is said to be missing."""
    with pytest.raises(FunctionNotFoundError, match=f"no function '{HERE}:ad'"):
        _resolve([sample], f"{HERE}:ad")


@pytest.mark.parametrize(
    "expose",
    [
        [3],
        ["os:system"],
        [lambda: None],
        [sample.Counter().increment],
        [functools.partial(os.system, "true")],
        [sample.adder],
        "os",
        os,
        3,
    ],
)
def test_what_cannot_be_exposed_is_a_value_error(expose: Any) -> None:
    """Entries that would expose more or less than they seem to are refused at the start."""
    with pytest.raises(ValueError, match="expose must list module-level functions"):
        FunctionTable(expose)


def test_names_work_across_processes() -> None:
    """What one process names, a fresh one finds: the names hold nothing of this process."""
    code = (
        "import sys; from asyncrpc.execution.functions import FunctionTable;"
        "print(*(FunctionTable().resolve(name).kind.name for name in sys.argv[1:]))"
    )
    names = [describe(func).name for func in (sample.add, sample.Counter.make, sample.add_async)]

    output = subprocess.run(
        [sys.executable, "-c", code, *names],
        capture_output=True,
        check=True,
        text=True,
        env={**os.environ, "PYTHONPATH": os.pathsep.join(p for p in sys.path if p)},
    ).stdout

    assert output.strip() == "SYNC SYNC ASYNC"
