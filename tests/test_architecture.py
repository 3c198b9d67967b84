"""The layout holds: who imports whom, front doors, pure cores, module state, size of files.

All imports count, wherever they stand: those inside functions run all the same, and those under
TYPE_CHECKING say that a reader of the one module must know the other. A module in a lower row that
needs the type of something above it takes a Protocol instead.
"""

from __future__ import annotations

import ast
from collections.abc import Iterator, Sequence
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]

ROWS: dict[str, Sequence[str]] = {
    "asyncrpc": (
        "errors",
        "identity retry secret functions",
        "observe interception",
        "wire",
        "faults",
        "transport",
        "options",
        "store",
        "execution discovery",
        "agent",
        "rref waiting",
        "backend_registry tracing",
        "runtime",
        "api prometheus",
        "testing",
        "pytest_plugin",
        "__init__",
    ),
    "launcher": (
        "lostpeer",
        "errors",
        "signals target limits affinity logs init hosts rules pmi",
        "config",
        "events metrics options",
        "environment rendezvous",
        "process timer health preemption",
        "agent report control settings arguments",
        "node",
        "api commands detection ssh",
        "commandline",
        "kubernetes",
        "testing cli",
        "__init__ __main__ remote",
    ),
}
"""Package -> rows of parts from the ground up; a part may import those of earlier rows."""

RANKS = {
    (package, part): rank
    for package, rows in ROWS.items()
    for rank, row in enumerate(rows)
    for part in row.split()
}

PURE = (
    "asyncrpc.errors",
    "asyncrpc.identity",
    "asyncrpc.retry",
    "asyncrpc.wire",
    "asyncrpc.store.commands",
    "asyncrpc.store.table",
    "asyncrpc.rref.lifecycle",
    "launcher.agent.state",
    "launcher.environment",
    "launcher.detection",
    "launcher.kubernetes.manifest",
    "launcher.kubernetes.yaml",
    "launcher.rendezvous.attendance",
    "launcher.rendezvous.state",
)
"""Modules and folders that take values and `now` and return values."""

IMPURE = frozenset(
    {
        "anyio",
        "asyncio",
        "logging",
        "multiprocessing",
        "select",
        "selectors",
        "socket",
        "ssl",
        "subprocess",
        "threading",
        "time",
        "uvloop",
    }
)

HEAVY = frozenset(
    [
        "aiohttp",
        "etcd",
        "jax",
        "matplotlib",
        "numpy",
        "opentelemetry",
        "prometheus_client",
        "rich",
        "torch",
    ]
)
"""Never imported before they are used."""

STATEFUL = {
    "asyncrpc.backend_registry": {"_registered"},
    "asyncrpc.execution.naming": {"_known"},  # a memo
    "asyncrpc.functions.scripting": {"scripts"},  # the registry of `script`
    "asyncrpc.agent.starting": {"_ends"},  # which start of this process it is
    "launcher.events": {"_handlers"},
    "launcher.metrics": {"_handlers"},
    "launcher.preemption.client": {"_notices"},  # the one notice of this process
    "launcher.rendezvous.registry": {"_registered"},
    "launcher.signals": {"_handled", "_held"},  # what the process itself has one of
}
"""Module -> the names of module-level state it may change; anything else is a constant."""

WALL_CLOCK = {
    "launcher.errors",
    "launcher.events",
    "launcher.metrics",
    "launcher.process.errorfile",
    "launcher.timer.client",  # torch's format of messages: both ends are on one machine
    "launcher.timer.server",
}
"""Modules that may write down the time of day, for people to read."""

MUTATORS = frozenset(
    {
        "add",
        "append",
        "appendleft",
        "clear",
        "difference_update",
        "discard",
        "extend",
        "insert",
        "pop",
        "popitem",
        "popleft",
        "remove",
        "setdefault",
        "sort",
        "update",
    }
)


def modules(*packages: str) -> list[str]:
    """Return the dotted names of all modules of the packages; a folder's own is `….__init__`."""
    return [
        ".".join(path.relative_to(ROOT).with_suffix("").parts)
        for package in packages
        for path in sorted((ROOT / package).rglob("*.py"))
    ]


def parse(module: str) -> ast.Module:
    """Return the syntax tree of a module of the project."""
    return ast.parse(ROOT.joinpath(*module.split(".")).with_suffix(".py").read_text())


def imports(tree: ast.AST, module: str) -> Iterator[tuple[str, tuple[str, ...]]]:
    """Yield (module imported, names taken from it) for each import in the tree."""
    for node in ast.walk(tree):
        match node:
            case ast.Import(names=names):
                yield from ((alias.name, ()) for alias in names)
            case ast.ImportFrom(module=source, names=names, level=level):
                base = module.split(".")[:-level] if level else []
                path = ".".join([*base, *([source] if source else [])])
                yield path, tuple(alias.name for alias in names)
            case ast.Call(func=function, args=[ast.Constant(value=str(name)), *_]):
                if ast.unparse(function) in ("importlib.import_module", "import_module"):
                    yield name, ()


def part_of(module: str) -> tuple[str, str]:
    """Return package and part: ("asyncrpc", "wire") for "asyncrpc.wire.codec"."""
    package, _, rest = module.partition(".")
    return package, rest.split(".")[0] or "__init__"


def is_project(module: str) -> bool:
    """Return whether the module belongs to one of the two packages."""
    return module.split(".", maxsplit=1)[0] in ROWS


def targets(tree: ast.AST, module: str) -> Iterator[str]:
    """Yield the dotted project modules that a module imports, submodules taken by name too."""
    for source, names in imports(tree, module):
        if is_project(source):
            below = [name for name in names if is_module(f"{source}.{name}")]
            yield from (f"{source}.{name}" for name in below)
            if len(below) < len(names) or not names:
                yield source


def is_module(module: str) -> bool:
    """Return whether the dotted name is a module or a folder of the project."""
    path = ROOT.joinpath(*module.split("."))
    return path.is_dir() or path.with_suffix(".py").is_file()


def wrong_edges(tree: ast.AST, module: str) -> list[str]:
    """Return what is wrong with the imports of a module, one line each."""
    package, part = part_of(module)
    wrong = []
    for target in targets(tree, module):
        its_package, its_part = part_of(target)
        if (its_package, its_part) == (package, part):
            continue
        if (its_package, its_part) not in RANKS:
            wrong.append(f"{target} is in no row")
        elif its_package != package:
            if package == "asyncrpc":
                wrong.append(f"{target}: asyncrpc knows nothing of the launcher")
        elif RANKS[its_package, its_part] >= RANKS[package, part]:
            wrong.append(f"{target} is not below {package}.{part}")
        if target.count(".") > 1:
            wrong.append(f"{target} bypasses the front door {its_package}.{its_part}")
    return wrong


def bound_names(tree: ast.Module) -> set[str]:
    """Return the names assigned at module level."""
    found = set()
    for node in tree.body:
        for target in node.targets if isinstance(node, ast.Assign) else ():
            found |= {name.id for name in ast.walk(target) if isinstance(name, ast.Name)}
        if isinstance(node, ast.AnnAssign) and isinstance(node.target, ast.Name):
            found.add(node.target.id)
    return found


def changed_names(tree: ast.Module) -> set[str]:
    """Return the module-level names that functions rebind, or whose value they change."""
    bound = bound_names(tree)
    changed = set()
    functions = [n for n in ast.walk(tree) if isinstance(n, ast.FunctionDef | ast.AsyncFunctionDef)]
    for function in functions:
        local = {
            node.id
            for node in ast.walk(function)
            if isinstance(node, ast.Name) and isinstance(node.ctx, ast.Store)
        } | {argument.arg for argument in ast.walk(function) if isinstance(argument, ast.arg)}
        for node in ast.walk(function):
            match node:
                case ast.Global(names=names):
                    changed |= set(names)
                case ast.Call(func=ast.Attribute(value=ast.Name(id=name), attr=verb)):
                    changed |= {name} - local if verb in MUTATORS else set()
                case ast.Subscript(value=ast.Name(id=name), ctx=ast.Store() | ast.Del()):
                    changed |= {name} - local
    return changed & bound


@pytest.mark.parametrize("module", modules(*ROWS))
def test_imports_point_downwards_and_go_through_front_doors(module: str) -> None:
    """A module imports from earlier rows only, and from other folders only their front door."""
    assert part_of(module) in RANKS, "the part stands in no row"

    assert wrong_edges(parse(module), module) == []


@pytest.mark.parametrize("module", modules(*ROWS))
def test_private_names_stay_in_their_module(module: str) -> None:
    """No module imports a `_name` of another."""
    taken = [
        f"{source}.{name}"
        for source, names in imports(parse(module), module)
        if is_project(source)
        for name in names
        if name.startswith("_") and not is_module(f"{source}.{name}")
    ]

    assert taken == []


@pytest.mark.parametrize(
    "module", [m for m in modules(*ROWS) if any(f"{m}.".startswith(f"{p}.") for p in PURE)]
)
def test_pure_cores_know_no_loop_socket_or_clock(module: str) -> None:
    """Values in, values out: nothing that waits, talks or tells the time."""
    used = {source.split(".")[0] for source, _ in imports(parse(module), module)}

    assert used & IMPURE == set()


@pytest.mark.parametrize("module", modules(*ROWS))
def test_heavy_packages_are_imported_when_used(module: str) -> None:
    """No module imports one of them at its top level."""
    tree = parse(module)
    top = ast.Module([n for n in tree.body if isinstance(n, ast.Import | ast.ImportFrom)], [])
    used = {source.split(".")[0] for source, _ in imports(top, module)}

    assert used & HEAVY == set()


@pytest.mark.parametrize("module", modules(*ROWS))
def test_logic_asks_no_wall_clock(module: str) -> None:
    """`time.time` and `datetime.now` jump; deadlines and order use the monotonic clock."""
    calls = {
        ast.unparse(node.func) for node in ast.walk(parse(module)) if isinstance(node, ast.Call)
    }
    clocks = {
        "time.time",
        "time.time_ns",
        "datetime.now",
        "datetime.utcnow",
        "datetime.datetime.now",
    }

    assert module in WALL_CLOCK or calls & clocks == set()


@pytest.mark.parametrize("module", modules(*ROWS))
def test_only_named_registries_hold_module_state(module: str) -> None:
    """What functions of a module change at its top level is listed in STATEFUL."""
    assert changed_names(parse(module)) <= STATEFUL.get(module, set())


@pytest.mark.parametrize("module", modules(*ROWS))
def test_modules_open_with_a_docstring_and_list_their_names_in_a_tuple(module: str) -> None:
    """A module says what it is; `__all__`, where there is one, is a tuple."""
    tree = parse(module)
    lists = [
        node.value
        for node in tree.body
        if isinstance(node, ast.Assign) and ast.unparse(node.targets[0]) == "__all__"
    ]

    assert ast.get_docstring(tree)
    assert all(isinstance(value, ast.Tuple) for value in lists)


@pytest.mark.parametrize("module", modules(*ROWS, "examples", "benchmarks"))
def test_files_hold_one_concept(module: str) -> None:
    """600 lines are never exceeded, and no file is called after not knowing where things belong."""
    path = ROOT.joinpath(*module.split(".")).with_suffix(".py")

    assert len(path.read_text().splitlines()) <= 600
    assert path.stem not in {"common", "helpers", "misc", "util", "utils"}


@pytest.mark.parametrize(
    ("module", "source", "expected"),
    [
        ("asyncrpc.wire.codec", "import asyncio, asyncrpc.errors", []),
        ("asyncrpc.api", "from asyncrpc.wire import Codec", []),
        ("launcher.api", "from asyncrpc.store import TCPStore", []),
        ("asyncrpc.store.table", "def f():\n from asyncrpc.store.commands import Set", []),
        (
            "asyncrpc.wire.codec",
            "def f():\n    from asyncrpc import store",
            ["asyncrpc.store is not below asyncrpc.wire"],
        ),
        (
            "asyncrpc.transport",
            "if TYPE_CHECKING:\n    import asyncrpc.options",
            ["asyncrpc.options is not below asyncrpc.transport"],
        ),
        (
            "asyncrpc.agent.calls",
            "from ..wire.codec import Codec",
            ["asyncrpc.wire.codec bypasses the front door asyncrpc.wire"],
        ),
        (
            "asyncrpc.api",
            "import importlib\nimportlib.import_module('launcher')",
            ["launcher: asyncrpc knows nothing of the launcher"],
        ),
        ("asyncrpc.api", "from asyncrpc import nowhere", ["asyncrpc is not below asyncrpc.api"]),
        ("asyncrpc.api", "import asyncrpc.nowhere", ["asyncrpc.nowhere is in no row"]),
    ],
)
def test_the_reader_finds_wrong_edges(module: str, source: str, expected: list[str]) -> None:
    """Each kind of import is seen, and each kind of wrong edge is named."""
    assert wrong_edges(ast.parse(source), module) == expected


def test_the_reader_finds_module_state() -> None:
    """Rebinding, changing by method and by item are seen; locals and constants are not taken."""
    source = """
A = B = C = D = E = {}
def change(e=None):
    global A
    A = 1
    B.update(x=1)
    C["x"] = 1
    E = D
    E["x"] = D.get("x")
"""

    assert changed_names(ast.parse(source)) == {"A", "B", "C"}
