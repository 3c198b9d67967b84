"""Where the agents of a run keep what they share, in the run's store.

Constants, for `membership` and `handover`. Keys without our prefix are the workers'.
"""

from __future__ import annotations

__all__ = ("HEIR", "HOST", "LEADER", "NODES", "OFFERS", "PREFIX", "RECORD", "SHARED", "TERMS")

PREFIX = "launcher"
"""Of all keys here; the prefix of a `PrefixStore`."""
SHARED = "shared/"
"""What every agent follows."""
RECORD = "shared/record"
LEADER = "shared/leader"
"""Id of the node that leads; hangs on its lease."""
HOST = "shared/host"
"""Label of the node that the store goes with."""
HEIR = "shared/heir"
"""Id of the node that is asked to take over the store."""
TERMS = "terms"
"""Settings that all nodes need to have alike."""
NODES = "nodes/"
"""Before the id of a node: what it announces; hangs on its lease."""
OFFERS = "offers/"
"""Before the id of an heir: endpoint of the empty store that it serves."""
