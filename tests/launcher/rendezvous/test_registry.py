"""`launcher.rendezvous`: handlers by name, and what their parameters refuse."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator

import pytest

from launcher.rendezvous import (
    RendezvousHandler,
    RendezvousParameters,
    Told,
    get_rendezvous_handler,
    register,
    unregister,
)
from launcher.rendezvous.tcp import TcpRendezvous

SECRET = b"s" * 32


def parameters(backend: str, endpoint: str = "") -> RendezvousParameters:
    """Return the parameters of a run on one node."""
    return RendezvousParameters(backend, endpoint, "run", 1, 1, secret=SECRET)


@pytest.fixture
def smoke() -> Iterator[str]:
    """Return a name that is free before and after the test."""
    yield "smoke"
    unregister("smoke")


def make(parameters: RendezvousParameters) -> RendezvousHandler:
    """Make a handler under whatever name."""
    return TcpRendezvous(parameters)


@pytest.mark.parametrize("backend", ["tcp", "c10d"])
def test_the_tcp_backend_has_torchruns_name_too(backend: str) -> None:
    """Either name gives its handler, which answers to the name it was asked by."""
    handler = get_rendezvous_handler(parameters(backend))

    assert (handler.get_backend(), handler.get_run_id()) == (backend, "run")


def test_a_registered_backend_is_found(smoke: str) -> None:
    """Registering it again changes nothing."""
    register(smoke, make)
    register(backend=smoke, creator=make)

    handler = get_rendezvous_handler(params=parameters(smoke))

    assert (handler.get_run_id(), handler.use_agent_store) == ("run", False)


def test_a_handler_answers_to_the_name_it_was_registered_by(smoke: str) -> None:
    """Else logs would name a backend that nobody asked for."""
    register(smoke, lambda given: make(parameters("tcp", given.endpoint)))

    with pytest.raises(RuntimeError, match="rdzv_backend='smoke': its handler calls itself 'tcp'"):
        get_rendezvous_handler(parameters(smoke))


@pytest.mark.asyncio
async def test_what_a_handler_tells_may_be_awaited() -> None:
    """All its methods are coroutines by contract; torch's users call these two plainly."""
    handler = get_rendezvous_handler(parameters("tcp"))
    backend, run_id = handler.get_backend(), handler.get_run_id()

    assert isinstance(backend, Told)
    assert isinstance(run_id, Told)
    assert (await backend, await run_id) == ("tcp", "run")


def test_a_handler_may_tell_its_name_by_coroutine_functions(smoke: str) -> None:
    """Which wait for nothing: the name is looked at where it is registered."""

    class Patient(TcpRendezvous):
        async def get_backend(self) -> str:  # type: ignore[override]  # may be awaited
            return smoke

    class Late(TcpRendezvous):
        async def get_backend(self) -> str:  # type: ignore[override]  # may be awaited
            await asyncio.sleep(0)
            return smoke

    register(smoke, Patient)
    assert isinstance(get_rendezvous_handler(parameters(smoke)), Patient)
    unregister(smoke)
    register(smoke, Late)
    with pytest.raises(TypeError, match=r"get_backend and get_run_id .* cannot wait for anything"):
        get_rendezvous_handler(parameters(smoke))


def test_an_unknown_backend_is_refused() -> None:
    """The text lists those there are."""
    known = "c10d, etcd, etcd-v2, static, tcp"
    with pytest.raises(ValueError, match=f"rdzv_backend='smoke': expected one of {known}"):
        get_rendezvous_handler(parameters("smoke"))


def test_names_belong_to_one_factory(smoke: str) -> None:
    """Neither a built-in name nor another's can be taken, and no name is not one."""
    register(smoke, make)

    for name in ("tcp", "c10d", "static", smoke):
        with pytest.raises(ValueError, match="expected a name that is not taken"):
            register(name, get_rendezvous_handler)
    with pytest.raises(ValueError, match="expected a name"):
        register("", make)


@pytest.mark.parametrize(
    ("backend", "nodes", "text"),
    [
        ("", (1, 1), "backend='': expected the name"),
        ("tcp", (0, 1), "min_nodes=0: expected at least 1"),
        ("tcp", (2, 1), "max_nodes=1: expected at least min_nodes, 2"),
    ],
)
def test_parameters_name_the_field_they_refuse(
    backend: str, nodes: tuple[int, int], text: str
) -> None:
    """Field, value and rule are in the message."""
    with pytest.raises(ValueError, match=text):
        RendezvousParameters(backend, "", "run", *nodes)


def test_parameters_are_torchs() -> None:
    """Settings by name, of any type that a command line or a program writes them in."""
    given = RendezvousParameters(
        "tcp", "", "run", 1, 2, "10.0.0.1", yes="true", no=False, number="7", text="x"
    )

    assert (given.local_addr, given.get("text"), given.get("none", 3)) == ("10.0.0.1", "x", 3)
    assert (given.get_as_bool("yes"), given.get_as_bool("no")) == (True, False)
    assert (given.get_as_int("number"), given.get_as_int("none", 3)) == (7, 3)
    assert (given.get_as_bool("none"), given.get_as_bool("none", True)) == (None, True)
    with pytest.raises(ValueError, match="rdzv_conf text=x: expected an integer"):
        given.get_as_int("text")
    with pytest.raises(ValueError, match="rdzv_conf text=x: expected 1 or 0"):
        given.get_as_bool("text")


def test_parameters_hide_the_secret() -> None:
    """A config that is logged gives nothing away."""
    assert "ssss" not in repr(parameters("tcp"))
    given = RendezvousParameters("etcd", "h:1", "run", 1, 1, user="u", password="hunter2")
    assert repr(given).endswith("**{'user': 'u', 'password': '***'})")
