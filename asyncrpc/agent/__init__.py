"""One worker among its peers: links, calls, membership and the end of the group."""

from __future__ import annotations

from asyncrpc.agent.agent import Agent, ControlHandler
from asyncrpc.agent.alternatives import call_any, call_hedged
from asyncrpc.agent.blocking import Blocked, Crossing, crossing, run_there
from asyncrpc.agent.calling import NOT_INITIALIZED
from asyncrpc.agent.chain import is_inside_interceptor
from asyncrpc.agent.collectives import Collectives
from asyncrpc.agent.connection import Connection
from asyncrpc.agent.contexts import CallContext, ContextScope
from asyncrpc.agent.drain import Drain
from asyncrpc.agent.intercepting import Interception
from asyncrpc.agent.monitoring import MemberEvent, Monitor
from asyncrpc.agent.peers import Peer, PeerState
from asyncrpc.agent.pending import Deadlines, RpcFuture
from asyncrpc.agent.references import HeldCall, References, Waiting
from asyncrpc.agent.request import Request
from asyncrpc.agent.retrying import RetriedFuture
from asyncrpc.agent.scope import WaitAll
from asyncrpc.agent.serving import Server
from asyncrpc.agent.starting import Started, Starter
from asyncrpc.agent.streaming import RpcStream
from asyncrpc.agent.tally import code_of
from asyncrpc.agent.traces import current_traceparent, traceparent

__all__ = (
    "NOT_INITIALIZED",
    "Agent",
    "Blocked",
    "CallContext",
    "Collectives",
    "Connection",
    "ContextScope",
    "ControlHandler",
    "Crossing",
    "Deadlines",
    "Drain",
    "HeldCall",
    "Interception",
    "MemberEvent",
    "Monitor",
    "Peer",
    "PeerState",
    "References",
    "Request",
    "RetriedFuture",
    "RpcFuture",
    "RpcStream",
    "Server",
    "Started",
    "Starter",
    "WaitAll",
    "Waiting",
    "call_any",
    "call_hedged",
    "code_of",
    "crossing",
    "current_traceparent",
    "is_inside_interceptor",
    "run_there",
    "traceparent",
)
