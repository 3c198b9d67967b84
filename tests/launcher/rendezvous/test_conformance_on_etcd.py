"""A rendezvous on a real etcd passes the conformance suite of all rendezvous of several nodes."""

from __future__ import annotations

from functools import partial

import pytest

from launcher.testing import EtcdCluster
from tests.etcd import etcd, needs_etcd, on_one_loop
from tests.launcher.rendezvous import test_conformance as suite
from tests.launcher.rendezvous.meeting import meet_on_etcd

__all__ = ("etcd",)

pytestmark = [*on_one_loop, needs_etcd]

globals().update({name: test for name, test in vars(suite).items() if name.startswith("test_")})


@pytest.fixture
def meet(etcd: EtcdCluster) -> suite.Meet:
    """Return what opens a place in an etcd."""
    return partial(meet_on_etcd, etcd)
