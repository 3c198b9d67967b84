"""What tests of launched programs need around them."""

from __future__ import annotations

from launcher.testing.etcd import EtcdCluster, find_etcd
from launcher.testing.netlab import NetLab, missing_for_netlab

__all__ = ("EtcdCluster", "NetLab", "find_etcd", "missing_for_netlab")
