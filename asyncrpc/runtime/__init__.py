"""`RpcAgent`, the public face of an agent: its start and end, and every call as a method."""

from __future__ import annotations

from asyncrpc.runtime.agent import RpcAgent
from asyncrpc.runtime.messages import Message
from asyncrpc.runtime.metrics import Metrics, PeerMetrics

__all__ = ("Message", "Metrics", "PeerMetrics", "RpcAgent")
