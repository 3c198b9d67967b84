"""One worker among its peers: links, calls, membership and the end of the group."""

from __future__ import annotations

from asyncrpc.agent.agent import Agent, ControlHandler
from asyncrpc.agent.alternatives import call_any, call_hedged
from asyncrpc.agent.blocking import Blocked
from asyncrpc.agent.calling import NOT_INITIALIZED
from asyncrpc.agent.collectives import Collectives
from asyncrpc.agent.contexts import CallContext, ContextScope
from asyncrpc.agent.drain import Drain
from asyncrpc.agent.peers import Peer, PeerState
from asyncrpc.agent.pending import RpcFuture
from asyncrpc.agent.scope import WaitAll
from asyncrpc.agent.starting import Started, Starter
from asyncrpc.agent.streaming import RpcStream
from asyncrpc.agent.traces import current_traceparent, traceparent

__all__ = (
    "NOT_INITIALIZED",
    "Agent",
    "Blocked",
    "CallContext",
    "Collectives",
    "ContextScope",
    "ControlHandler",
    "Drain",
    "Peer",
    "PeerState",
    "RpcFuture",
    "RpcStream",
    "Started",
    "Starter",
    "WaitAll",
    "call_any",
    "call_hedged",
    "current_traceparent",
    "traceparent",
)
