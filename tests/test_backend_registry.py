"""Backends are found by name or by their options, can be added, and wrong ones are refused."""

from __future__ import annotations

import copy
import pickle
from collections.abc import Iterator
from types import SimpleNamespace
from typing import Any

import pytest

import asyncrpc as rpc
from asyncrpc import backend_registry
from asyncrpc.backend_registry import (
    BackendType,
    backend_registered,
    construct_rpc_backend_options,
    register_backend,
)

SECRET = b"x" * 16


@pytest.fixture
def no_new_backends(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """What a test registers is gone after it."""
    with monkeypatch.context() as patch:
        patch.setattr(backend_registry, "_registered", dict(backend_registry._registered))
        yield


async def start(**arguments: Any) -> Any:
    """Start a group of one worker."""
    store = rpc.store.MemoryStore()
    return await rpc.RpcAgent.start("a", rank=0, world_size=1, store=store, **arguments)


def test_built_in() -> None:
    """There are two, which print and compare as members of an enum do."""
    assert ["ASYNCIO", "FAULTY_ASYNCIO"] == [backend.name for backend in BackendType]
    assert 2 == len(BackendType)
    assert {backend.name: backend for backend in BackendType} == dict(BackendType.__members__)
    assert rpc.BackendType.ASYNCIO is BackendType["ASYNCIO"]
    assert "BackendType.ASYNCIO" == repr(BackendType.ASYNCIO) == str(BackendType.ASYNCIO)
    assert BackendType.ASYNCIO != BackendType.FAULTY_ASYNCIO
    assert len({BackendType.ASYNCIO, BackendType.FAULTY_ASYNCIO, BackendType.ASYNCIO}) == 2
    assert backend_registered("FAULTY_ASYNCIO")
    assert not backend_registered("NOPE")


def test_members_stay_themselves() -> None:
    """Copies of a member are the member."""
    member = BackendType.FAULTY_ASYNCIO

    assert member is pickle.loads(pickle.dumps(member))
    assert member is copy.deepcopy(member)


def test_unknown_names() -> None:
    """An unknown name says which there are."""
    with pytest.raises(AttributeError, match="has no member NOPE, only ASYNCIO, FAULTY_ASYNCIO"):
        _ = BackendType.NOPE
    with pytest.raises(KeyError, match="NOPE"):
        _ = BackendType["NOPE"]


def test_options() -> None:
    """Options are made by the backend they are for."""
    plain = construct_rpc_backend_options(BackendType.ASYNCIO, rpc_timeout=5)
    faulty = construct_rpc_backend_options(BackendType.FAULTY_ASYNCIO, num_fail_sends=3)

    assert rpc.RpcOptions(rpc_timeout=5) == plain
    assert rpc.FaultyRpcOptions(num_fail_sends=3) == faulty
    with pytest.raises(TypeError, match="num_fail_sends"):
        construct_rpc_backend_options(BackendType.ASYNCIO, num_fail_sends=3)
    with pytest.raises(TypeError, match="Argument backend must be a member of BackendType"):
        construct_rpc_backend_options("ASYNCIO")  # type: ignore[arg-type]


@pytest.mark.asyncio
@pytest.mark.parametrize("name", ["ASYNCIO", "FAULTY_ASYNCIO"])
async def test_backend_by_name(name: str) -> None:
    """The backend decides what the options are when none are given."""
    given = construct_rpc_backend_options(BackendType[name], secret=SECRET)
    agents = [await start(backend=BackendType[name], options=given)]
    agents.append(await start(options=given))
    kinds = [type(agent.options) for agent in agents]
    for agent in agents:
        await agent.shutdown()

    assert [BackendType[name].construct_options] * 2 == kinds


@pytest.mark.asyncio
async def test_backend_by_its_options() -> None:
    """Options of the faulty backend start that one, and it fails what it is told to."""
    options = rpc.FaultyRpcOptions(
        num_fail_sends=1, messages_to_fail=["PYTHON_CALL"], secret=SECRET
    )
    agent = await start(options=options)
    with pytest.raises(rpc.InjectedFaultError):
        await agent.rpc_async("a", min, args=(1, 2))
    await agent.shutdown()


@pytest.mark.asyncio
@pytest.mark.parametrize(
    ("backend", "options", "text"),
    [
        ("ASYNCIO", None, "Argument backend must be a member of BackendType, got 'ASYNCIO'"),
        (BackendType, None, "Argument backend must be a member of BackendType"),
        (None, SimpleNamespace(), "Could not infer backend for options"),
        (None, {}, "Could not infer backend for options"),
        (
            BackendType.ASYNCIO,
            rpc.FaultyRpcOptions(),
            "options of BackendType.ASYNCIO must be RpcOptions, got FaultyRpcOptions",
        ),
        (
            BackendType.FAULTY_ASYNCIO,
            rpc.RpcOptions(),
            "options of BackendType.FAULTY_ASYNCIO must be FaultyRpcOptions, got RpcOptions",
        ),
        (BackendType.ASYNCIO, SimpleNamespace(), "Could not infer backend for options"),
    ],
)
async def test_wrong_types(backend: Any, options: Any, text: str) -> None:
    """Backend and options that are none, or do not belong together, are refused."""
    with pytest.raises(TypeError, match=text):
        await start(backend=backend, options=options)
    with pytest.raises(TypeError, match=text):
        await rpc.init_rpc("a", backend, rank=0, world_size=1, options=options)


@pytest.mark.asyncio
@pytest.mark.usefixtures("no_new_backends")
async def test_a_new_backend() -> None:
    """A backend that is registered is used; its name is taken then."""
    seen: list[Any] = []

    async def init(**arguments: Any) -> Any:
        seen.append(arguments)
        options = rpc.RpcOptions(secret=SECRET, rpc_timeout=arguments["options"]["rpc_timeout"])
        return await start(options=options)

    backend = register_backend("MINE", dict, init)
    options = construct_rpc_backend_options(BackendType.MINE, rpc_timeout=7)
    store = rpc.store.MemoryStore()
    async with rpc.init_rpc("b", backend, rank=0, world_size=1, options=options, store=store) as a:
        result = a.get_rpc_timeout(), await rpc.rpc_async("a", min, args=(1, 2))
    with pytest.raises(RuntimeError, match="RPC backend MINE: already registered"):
        register_backend("MINE", dict, init)

    assert (7, 1) == result
    assert [{"name": "b", "rank": 0, "world_size": 1, "options": options, "store": store}] == seen
    assert backend_registered("MINE")
    assert backend is BackendType.MINE
    assert backend in set(BackendType)


@pytest.mark.usefixtures("no_new_backends")
@pytest.mark.parametrize(
    ("arguments", "text"),
    [
        (("my backend", dict, print), "name must be an identifier"),
        (("_mine", dict, print), "name must be an identifier"),
        ((3, dict, print), "name must be an identifier"),
        (("MINE", None, print), "construct_options must be callable"),
        (("MINE", dict, 3), "init must be callable"),
        (("ASYNCIO", dict, print), "RPC backend ASYNCIO: already registered"),
        (("name", dict, print), "RPC backend name: already registered"),
    ],
)
def test_bad_backends(arguments: Any, text: str) -> None:
    """What cannot be a backend is not registered."""
    with pytest.raises((ValueError, RuntimeError), match=text):
        register_backend(*arguments)
