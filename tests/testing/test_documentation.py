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
from asyncrpc import testing
from asyncrpc.store import TCPStore, TCPStoreServer

NAMESPACE = {
    "asyncio": asyncio,
    "rpc": rpc,
    "TCPStore": TCPStore,
    "TCPStoreServer": TCPStoreServer,
    **{name: getattr(testing, name) for name in testing.__all__},
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


@pytest.mark.parametrize("name", testing.__all__)
def test_sections(name: str) -> None:
    """A docstring names each parameter, and the errors where there are any to expect."""
    thing = getattr(testing, name)

    assert set(inspect.signature(thing).parameters) == documented(thing)
    assert "\nRaises:\n" in (inspect.getdoc(thing) or "") or issubclass(thing, BaseException)


@pytest.mark.parametrize(
    ("owner", "name"),
    [
        (owner, name)
        for owner in testing.__all__
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
@pytest.mark.parametrize("name", testing.__all__)
async def test_examples(name: str, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """The example of a docstring works, on every loop."""
    secret = tmp_path / "secret"
    secret.write_bytes(bytes(32))
    secret.chmod(0o600)
    monkeypatch.setenv("ASYNCRPC_SECRET_FILE", str(secret))
    outcome = example_of(name)()
    if inspect.isawaitable(outcome):
        await outcome
