"""asyncio-native RPC between named workers.

The public names, each loaded when first used: importing a part does not import the rest.

PYTEST_DONT_REWRITE: as the package has a plugin, pytest would warn if it is imported already.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from asyncrpc import backend_registry as backend_registry
    from asyncrpc import functions as functions
    from asyncrpc import prometheus as prometheus
    from asyncrpc import tracing as tracing
    from asyncrpc.agent import CallContext as CallContext
    from asyncrpc.agent import MemberEvent as MemberEvent
    from asyncrpc.agent import RpcFuture as RpcFuture
    from asyncrpc.agent import RpcStream as RpcStream
    from asyncrpc.agent import current_traceparent as current_traceparent
    from asyncrpc.agent import traceparent as traceparent
    from asyncrpc.api import BlockingAgent as BlockingAgent
    from asyncrpc.api import all_gather as all_gather
    from asyncrpc.api import barrier as barrier
    from asyncrpc.api import blocking_portal as blocking_portal
    from asyncrpc.api import context as context
    from asyncrpc.api import current_agent as current_agent
    from asyncrpc.api import current_context as current_context
    from asyncrpc.api import debug_info as debug_info
    from asyncrpc.api import enable_profiling as enable_profiling
    from asyncrpc.api import get_rpc_timeout as get_rpc_timeout
    from asyncrpc.api import get_worker_info as get_worker_info
    from asyncrpc.api import get_worker_infos as get_worker_infos
    from asyncrpc.api import heal as heal
    from asyncrpc.api import init_rpc as init_rpc
    from asyncrpc.api import metrics as metrics
    from asyncrpc.api import monitor as monitor
    from asyncrpc.api import partition as partition
    from asyncrpc.api import remote as remote
    from asyncrpc.api import rpc_any as rpc_any
    from asyncrpc.api import rpc_async as rpc_async
    from asyncrpc.api import rpc_hedged as rpc_hedged
    from asyncrpc.api import rpc_notify as rpc_notify
    from asyncrpc.api import rpc_stream as rpc_stream
    from asyncrpc.api import rpc_sync as rpc_sync
    from asyncrpc.api import rref_debug as rref_debug
    from asyncrpc.api import run as run
    from asyncrpc.api import set_rpc_timeout as set_rpc_timeout
    from asyncrpc.api import shutdown as shutdown
    from asyncrpc.api import wait_all as wait_all
    from asyncrpc.backend_registry import BackendType as BackendType
    from asyncrpc.errors import AlreadyInitializedError as AlreadyInitializedError
    from asyncrpc.errors import AuthenticationError as AuthenticationError
    from asyncrpc.errors import Delivery as Delivery
    from asyncrpc.errors import DuplicateNameError as DuplicateNameError
    from asyncrpc.errors import EncodingError as EncodingError
    from asyncrpc.errors import FunctionNotFoundError as FunctionNotFoundError
    from asyncrpc.errors import InjectedFaultError as InjectedFaultError
    from asyncrpc.errors import MessageTooLargeError as MessageTooLargeError
    from asyncrpc.errors import NotInitializedError as NotInitializedError
    from asyncrpc.errors import OwnerLostError as OwnerLostError
    from asyncrpc.errors import PeerLostError as PeerLostError
    from asyncrpc.errors import PermissionDeniedError as PermissionDeniedError
    from asyncrpc.errors import RemoteError as RemoteError
    from asyncrpc.errors import RemoteProtocolError as RemoteProtocolError
    from asyncrpc.errors import RemoteTraceback as RemoteTraceback
    from asyncrpc.errors import ResourceExhaustedError as ResourceExhaustedError
    from asyncrpc.errors import RetriesExhaustedError as RetriesExhaustedError
    from asyncrpc.errors import RpcError as RpcError
    from asyncrpc.errors import RpcTimeoutError as RpcTimeoutError
    from asyncrpc.errors import RRefCreationError as RRefCreationError
    from asyncrpc.errors import RRefDeletedError as RRefDeletedError
    from asyncrpc.errors import RRefLeakError as RRefLeakError
    from asyncrpc.errors import ShutdownTimeoutError as ShutdownTimeoutError
    from asyncrpc.errors import StatusCode as StatusCode
    from asyncrpc.errors import UnknownWorkerError as UnknownWorkerError
    from asyncrpc.execution import caller as caller
    from asyncrpc.execution import detached as detached
    from asyncrpc.execution import remaining as remaining
    from asyncrpc.faults import Fault as Fault
    from asyncrpc.faults import FaultPlan as FaultPlan
    from asyncrpc.functions import inline as inline
    from asyncrpc.functions import script as script
    from asyncrpc.identity import WorkerInfo as WorkerInfo
    from asyncrpc.interception import IncomingCall as IncomingCall
    from asyncrpc.interception import Interceptor as Interceptor
    from asyncrpc.interception import OutgoingCall as OutgoingCall
    from asyncrpc.options import UNSET as UNSET
    from asyncrpc.options import FaultyRpcOptions as FaultyRpcOptions
    from asyncrpc.options import Limits as Limits
    from asyncrpc.options import RpcOptions as RpcOptions
    from asyncrpc.options import TlsOptions as TlsOptions
    from asyncrpc.retry import RetryPolicy as RetryPolicy
    from asyncrpc.rref import RRef as RRef
    from asyncrpc.rref import RRefRow as RRefRow
    from asyncrpc.runtime import Metrics as Metrics
    from asyncrpc.runtime import PeerMetrics as PeerMetrics
    from asyncrpc.runtime import RpcAgent as RpcAgent
    from asyncrpc.wire import MessageType as MessageType
    from asyncrpc.wire import register_type as register_type

_HOMES = {
    "agent": "CallContext MemberEvent RpcFuture RpcStream current_traceparent traceparent",
    "api": (
        "BlockingAgent all_gather barrier blocking_portal context current_agent current_context "
        "debug_info enable_profiling get_rpc_timeout get_worker_info get_worker_infos heal "
        "init_rpc metrics monitor partition remote rpc_any rpc_async rpc_hedged rpc_notify "
        "rpc_stream rpc_sync rref_debug run set_rpc_timeout shutdown wait_all"
    ),
    "backend_registry": "BackendType",
    "errors": (
        "AlreadyInitializedError AuthenticationError Delivery DuplicateNameError EncodingError "
        "FunctionNotFoundError InjectedFaultError MessageTooLargeError NotInitializedError "
        "OwnerLostError PeerLostError PermissionDeniedError RRefCreationError RRefDeletedError "
        "RRefLeakError RemoteError RemoteProtocolError RemoteTraceback ResourceExhaustedError "
        "RetriesExhaustedError RpcError RpcTimeoutError ShutdownTimeoutError StatusCode "
        "UnknownWorkerError"
    ),
    "execution": "caller detached remaining",
    "faults": "Fault FaultPlan",
    "functions": "inline script",
    "identity": "WorkerInfo",
    "interception": "IncomingCall Interceptor OutgoingCall",
    "options": "UNSET FaultyRpcOptions Limits RpcOptions TlsOptions",
    "retry": "RetryPolicy",
    "rref": "RRef RRefRow",
    "runtime": "Metrics PeerMetrics RpcAgent",
    "wire": "MessageType register_type",
}
_MODULES = ("backend_registry", "functions", "prometheus", "store", "testing", "tracing")
_MODULE_OF = {name: module for module, names in _HOMES.items() for name in names.split()}

__all__ = (*sorted(_MODULE_OF), *_MODULES)  # noqa: PLE0604 -- strings, taken from the table above


def __getattr__(name: str) -> Any:
    """Import the module of a public name and keep the name here."""
    from importlib import import_module  # noqa: PLC0415 -- nothing is imported before it is used

    if name in _MODULES:
        return import_module(f"asyncrpc.{name}")
    module = _MODULE_OF.get(name)
    if module is None:
        raise AttributeError(f"module 'asyncrpc' has no attribute {name!r}")
    value = getattr(import_module(f"asyncrpc.{module}"), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
