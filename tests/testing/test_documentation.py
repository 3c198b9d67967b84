"""What the public names of `asyncrpc.testing` say about themselves is complete and true."""

from __future__ import annotations

import asyncio
import inspect
import re
import textwrap
from pathlib import Path
from typing import Any

import pytest

import asyncrpc as rpc
from asyncrpc import pytest_plugin, testing
from asyncrpc.store import TCPStore, TCPStoreServer

FIXTURES = ("chaos_proxy", "fault_plan", "rpc_cluster", "rpc_leak_check", "virtual_clock")
"""Second names of what is public under its own name."""

NAMES = tuple(name for name in testing.__all__ if name not in FIXTURES)
NAMESPACE = {
    "asyncio": asyncio,
    "rpc": rpc,
    "TCPStore": TCPStore,
    "TCPStoreServer": TCPStoreServer,
    **{name: getattr(testing, name) for name in NAMES},
}
"""What the examples take as imported."""


def example_of(name: str) -> Any:
    """Return the function that the docstring of a public name shows."""
    doc = inspect.getdoc(getattr(testing, name)) or ""
    found = re.findall(r"^Example:\n    ```python\n(.*?)^    ```$", doc, re.DOTALL | re.MULTILINE)
    assert 1 == len(found), f"{name} has no example"
    namespace = dict(NAMESPACE)
    exec(textwrap.dedent(found[0]), namespace)
    return namespace["main"]


def documented(thing: Any) -> set[str]:
    """Return the parameters that a docstring names."""
    doc = inspect.getdoc(thing) or ""
    arguments = re.search(r"^Args:\n((?:    .*\n?|\n)*)", doc, re.MULTILINE)
    names = re.findall(r"^    (\w+): ", arguments.group(1) if arguments else "", re.MULTILINE)
    return set(names)


def test_names_of_fixtures(request: pytest.FixtureRequest) -> None:
    """What a fixture of the plugin gives goes by the fixture's name, too."""
    for name in (*FIXTURES, "kv_store"):
        fixture = request.getfixturevalue(name)
        given = getattr(testing, name)

        assert fixture is given or type(fixture) is given
    assert {*FIXTURES, "kv_store"} == {name for name in pytest_plugin.__all__ if name.islower()}


@pytest.mark.parametrize("name", NAMES)
def test_sections(name: str) -> None:
    """A docstring names each parameter, and the errors where there are any to expect."""
    thing = getattr(testing, name)

    assert set(inspect.signature(thing).parameters) == documented(thing)
    assert "\nRaises:\n" in (inspect.getdoc(thing) or "") or issubclass(thing, BaseException)


@pytest.mark.parametrize(
    ("owner", "name"),
    [
        (owner, name)
        for owner in NAMES
        if inspect.isclass(getattr(testing, owner))
        for name, method in inspect.getmembers(getattr(testing, owner), inspect.isfunction)
        if not name.startswith("_") and method.__module__.startswith("asyncrpc.")
    ],
)
def test_methods(owner: str, name: str) -> None:
    """So does the docstring of each public method."""
    method = getattr(getattr(testing, owner), name)

    assert inspect.getdoc(method)
    assert set(inspect.signature(method).parameters) - {"self"} == documented(method)


@pytest.mark.asyncio
@pytest.mark.parametrize("name", NAMES)
async def test_examples(name: str, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """The example of a docstring works, on every loop."""
    secret = tmp_path / "secret"
    secret.write_bytes(bytes(32))
    secret.chmod(0o600)
    monkeypatch.setenv("ASYNCRPC_SECRET_FILE", str(secret))
    outcome = example_of(name)()
    if inspect.isawaitable(outcome):
        await outcome
