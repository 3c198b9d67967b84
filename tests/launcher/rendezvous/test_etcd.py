"""`launcher.rendezvous.etcd`: how the backend is set up, and what is left of a run."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from asyncrpc.errors import StatusCode
from asyncrpc.store import EtcdAddress, EtcdStore, StoreConnectionError, StoreError
from launcher.errors import RendezvousConnectionError
from launcher.rendezvous import (
    Ending,
    Outcome,
    RendezvousHandler,
    RendezvousParameters,
    get_rendezvous_handler,
)
from launcher.rendezvous.dynamic import DynamicRendezvous
from launcher.rendezvous.etcd import EtcdPlace
from launcher.rendezvous.place import SilentStoreError
from tests.etcd import etcd, needs_etcd, new_url
from tests.launcher.rendezvous.meeting import free_endpoint

__all__ = ("etcd", "new_url")


def handler_of(
    endpoint: str = "h:1", run_id: str = "run", backend: str = "etcd", **config: Any
) -> RendezvousHandler:
    """Make a handler of a run on one node or two."""
    return get_rendezvous_handler(
        RendezvousParameters(backend, endpoint, run_id, 1, 2, secret=b"s" * 32, **config)
    )


def place_of(handler: RendezvousHandler) -> EtcdPlace:
    """Return where a handler meets others."""
    assert isinstance(handler, DynamicRendezvous)
    place = handler._place
    assert isinstance(place, EtcdPlace)
    return place


@pytest.mark.parametrize("backend", ["etcd", "etcd-v2"])
def test_it_answers_to_both_of_torchruns_names(backend: str) -> None:
    """The version of etcd's API is no matter of the user's."""
    assert handler_of(backend=backend).get_backend() == backend


@pytest.mark.parametrize(
    ("prefix", "run_id", "url"),
    [
        ({}, "run", "etcd://a:1,b:2379/asyncrpc/run"),
        ({"prefix": "/jobs/x/"}, "a/b c", "etcd://a:1,b:2379/jobs/x/a%2Fb%20c"),
        ({"etcd_prefix": "jobs"}, "run", "etcd://a:1,b:2379/jobs/run"),
        ({"prefix": "/"}, "run", "etcd://a:1,b:2379/run"),
    ],
)
def test_a_run_lies_under_its_id(prefix: dict[str, str], run_id: str, url: str) -> None:
    """No run lies within another one, whatever its id."""
    place = place_of(handler_of("a:1,b", run_id, **prefix))

    assert place.url == url
    assert str(EtcdAddress.parse(url)) == url


@pytest.mark.parametrize(
    ("endpoint", "config", "problem"),
    [
        ("", {}, "rdzv_endpoint=: expected host:port of etcd's members, as a comma list"),
        ("a:b", {}, "rdzv_endpoint=a:b: etcd member must be host:port"),
        ("a:1,", {}, "rdzv_endpoint=a:1,: etcd member must be host:port"),
        ("a:1", {"usr": "x"}, "rdzv_conf usr: there is no such setting, did you mean user?"),
        ("a:1", {"user": "x"}, "rdzv_conf password=: expected one, as user is given"),
        ("a:1", {"protocol": "ftp"}, "rdzv_conf protocol=ftp: expected http or https"),
        ("a:1", {"ca_cert": "/none"}, "rdzv_conf cacert=/none: No such file or directory"),
        ("a:1", {"is_host": "1"}, "rdzv_conf is_host=1: expected without it, no node hosts etcd"),
        ("a:1", {"join_timeout": "0"}, "rdzv_conf join_timeout=0: expected seconds, above 0"),
    ],
)
def test_wrong_settings_are_named(endpoint: str, config: dict[str, str], problem: str) -> None:
    """With value and rule; nothing is opened."""
    with pytest.raises(ValueError) as caught:
        handler_of(endpoint, **config)

    assert str(caught.value).startswith(problem)


def test_credentials_come_from_settings_and_from_a_file(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The settings say it on top of the file; workers get all of it, or nothing."""
    monkeypatch.delenv("ASYNCRPC_STORE_CREDENTIALS", raising=False)
    assert handler_of().store_credentials() == b""
    path = tmp_path / "credentials"
    path.write_text('{"user": "u", "password": "p"}')
    path.chmod(0o600)
    monkeypatch.setenv("ASYNCRPC_STORE_CREDENTIALS", str(path))

    found = json.loads(handler_of(password="q").store_credentials())
    assert found == {"user": "u", "password": "q"}
    assert "'q'" not in repr(place_of(handler_of(password="q"))._credentials)


def test_a_file_of_credentials_is_named_by_the_variable_that_says_where(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """No option has named it."""
    monkeypatch.setenv("ASYNCRPC_STORE_CREDENTIALS", str(tmp_path / "missing"))
    expected = r"\$ASYNCRPC_STORE_CREDENTIALS: credentials .*missing: No such file"
    with pytest.raises(ValueError, match=f"^{expected}"):
        handler_of()


def test_an_etcd_that_falls_silent_may_be_back() -> None:
    """One that shuts this node out is not worth waiting for."""
    place = place_of(handler_of("a:1,b:2"))
    silent = [place.lost(error, "") for error in (TimeoutError(), StoreConnectionError("x"))]
    denied = place.lost(StoreError("no", code=StatusCode.PERMISSION_DENIED), "")

    assert [type(error) for error in silent] == [SilentStoreError] * 2
    assert {str(error) for error in silent} == {"etcd at a:1,b:2 does not answer"}
    assert type(denied) is RendezvousConnectionError
    assert str(denied) == "rdzv_endpoint=a:1,b:2: no"


@pytest.mark.asyncio
async def test_an_etcd_that_is_not_there_is_named() -> None:
    """With all of its members and the last reason."""
    endpoint = free_endpoint()
    handler = handler_of(endpoint, join_timeout=0.2)
    with pytest.raises(RendezvousConnectionError) as caught:
        await handler.next_rendezvous()
    await handler.close()

    assert str(caught.value).startswith(f"rdzv_endpoint={endpoint}: cannot reach the store at ")
    assert str(caught.value).endswith("Connection refused")


@needs_etcd
@pytest.mark.slow
@pytest.mark.asyncio
async def test_only_how_it_ended_is_left_of_a_run(new_url: Callable[[], str]) -> None:
    """For a while; not what its workers have put there, nor what they have not taken."""
    address = EtcdAddress.parse(new_url())
    handlers = [
        handler_of(address.authority, "done", prefix=address.prefix, last_call_timeout=60)
        for _ in range(2)
    ]
    infos = await asyncio.gather(*(handler.next_rendezvous() for handler in handlers))
    async with await EtcdStore.connect(infos[0].store_url) as workers:
        await workers.set("result", "42")
        await workers.queue_push("jobs", "1")
        await infos[0].store.set("key", "value")
    for handler in handlers:
        await handler.report(Outcome())
    ends = await asyncio.gather(*(handler.round_over() for handler in handlers))
    await handlers[0].close()
    async with await EtcdStore.connect(infos[0].store_url) as store:
        before = await store.check(["result", "jobs"])
        await handlers[1].close()
        left = await store.list_keys()
        queued = await store.queue_len("jobs")

    assert ends == [Ending(is_success=True)] * 2
    assert before, "the last one goes last"
    assert (left, queued) == (["launcher/shared/record"], 0)
