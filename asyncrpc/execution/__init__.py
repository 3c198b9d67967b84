"""The callee's side: from a request to its outcome."""

from __future__ import annotations

from asyncrpc.execution.context import (
    Replier,
    ServedCall,
    caller,
    current_call,
    detached,
    remaining,
)
from asyncrpc.execution.dedup import Memory, ReplyWindow
from asyncrpc.execution.executor import Executor
from asyncrpc.execution.functions import FunctionTable, Target, TargetKind
from asyncrpc.execution.intercepting import intercept_incoming
from asyncrpc.execution.naming import SCRIPT, FunctionRef, describe
from asyncrpc.execution.outcome import decode_failure, encode_failure
from asyncrpc.execution.profiling import Profiler
from asyncrpc.execution.streams import Outlet
from asyncrpc.execution.threads import OnDone, ThreadPool

__all__ = (
    "SCRIPT",
    "Executor",
    "FunctionRef",
    "FunctionTable",
    "Memory",
    "OnDone",
    "Outlet",
    "Profiler",
    "Replier",
    "ReplyWindow",
    "ServedCall",
    "Target",
    "TargetKind",
    "ThreadPool",
    "caller",
    "current_call",
    "decode_failure",
    "describe",
    "detached",
    "encode_failure",
    "intercept_incoming",
    "remaining",
)
