"""One worker among its peers: links, calls, membership and the end of the group."""

from __future__ import annotations

from asyncrpc.agent.agent import Agent, ControlHandler
from asyncrpc.agent.calling import NOT_INITIALIZED
from asyncrpc.agent.collectives import Collectives
from asyncrpc.agent.drain import Drain
from asyncrpc.agent.liveness import LivenessThread
from asyncrpc.agent.peers import Peer, PeerState
from asyncrpc.agent.pending import RpcFuture
from asyncrpc.agent.scope import WaitAll

__all__ = (
    "NOT_INITIALIZED",
    "Agent",
    "Collectives",
    "ControlHandler",
    "Drain",
    "LivenessThread",
    "Peer",
    "PeerState",
    "RpcFuture",
    "WaitAll",
)
