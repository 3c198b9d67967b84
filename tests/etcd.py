"""A real etcd for tests: how they get one, and where they find nothing of another test."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterator

import pytest

from launcher.testing import EtcdCluster, find_etcd

__all__ = ("etcd", "needs_etcd", "new_url", "on_one_loop")

needs_etcd = pytest.mark.skipif(
    not find_etcd(), reason="needs the program etcd, of the package etcd-server"
)

on_one_loop = [pytest.mark.asyncio(loop_factories=["uvloop"]), pytest.mark.slow]
"""Marks of tests that wait for etcd most of the time: it makes no difference in which loop."""

_numbers = itertools.count()


@pytest.fixture(scope="module")
def etcd() -> Iterator[EtcdCluster]:
    """Give an etcd of one member, which all tests of a module share."""
    with EtcdCluster() as cluster:
        yield cluster


@pytest.fixture
def new_url(etcd: EtcdCluster) -> Callable[[], str]:
    """Return a function that gives the URL of a store with nothing in it."""
    return lambda: etcd.url(f"test{next(_numbers)}")
