"""What tests of launched programs need around them."""

from __future__ import annotations

from launcher.testing.etcd import EtcdCluster, find_etcd

__all__ = ("EtcdCluster", "find_etcd")
