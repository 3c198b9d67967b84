"""Every exception of asyncrpc, its status code and what it says about delivery.

Imported by every other module; imports nothing of the package.

Tree::

    RpcError(RuntimeError)              .code (StatusCode)  .delivery (Delivery)
    ├── RpcTimeoutError                 also TimeoutError; .phase
    │   └── ShutdownTimeoutError        .phase, .workers
    ├── NotInitializedError
    ├── AlreadyInitializedError
    ├── DuplicateNameError
    ├── UnknownWorkerError
    ├── PeerLostError                   also ConnectionError
    ├── AuthenticationError             also ConnectionError
    ├── PermissionDeniedError
    ├── FunctionNotFoundError
    ├── EncodingError                   also TypeError; .path
    ├── MessageTooLargeError
    ├── ResourceExhaustedError
    ├── RetriesExhaustedError           .attempts; the last error is the cause
    ├── InjectedFaultError
    ├── RRefCreationError
    ├── RRefDeletedError
    ├── OwnerLostError
    ├── RRefLeakError                   .leaks
    ├── RemoteProtocolError             also ConnectionError: a peer's bytes broke the protocol
    ├── RemoteError                     .type_name
    └── StoreError
        ├── StoreTimeoutError           also TimeoutError; .keys
        ├── StoreConnectionError        also ConnectionError
        └── QueueEmptyError
"""

from __future__ import annotations

import enum
from typing import Any

__all__ = (
    "AlreadyInitializedError",
    "AuthenticationError",
    "Delivery",
    "DuplicateNameError",
    "EncodingError",
    "FunctionNotFoundError",
    "InjectedFaultError",
    "MessageTooLargeError",
    "NotInitializedError",
    "OwnerLostError",
    "PeerLostError",
    "PermissionDeniedError",
    "QueueEmptyError",
    "RRefCreationError",
    "RRefDeletedError",
    "RRefLeakError",
    "RemoteError",
    "RemoteProtocolError",
    "RemoteTraceback",
    "ResourceExhaustedError",
    "RetriesExhaustedError",
    "RpcError",
    "RpcTimeoutError",
    "ShutdownTimeoutError",
    "StatusCode",
    "StoreConnectionError",
    "StoreError",
    "StoreTimeoutError",
    "UnknownWorkerError",
)


class StatusCode(enum.Enum):
    """What kind of outcome a call had; the names are gRPC's where it has one."""

    OK = 0
    CANCELLED = 1
    INVALID_ARGUMENT = 3
    DEADLINE_EXCEEDED = 4
    NOT_FOUND = 5
    ALREADY_EXISTS = 6
    PERMISSION_DENIED = 7
    RESOURCE_EXHAUSTED = 8
    ABORTED = 10
    INTERNAL = 13
    UNAVAILABLE = 14
    DATA_LOSS = 15
    UNAUTHENTICATED = 16
    OWNER_LOST = 32


class Delivery(enum.Enum):
    """Whether the function of a failed call may have run."""

    NOT_SENT = "not sent"
    """It did not run: the request was never handed over, or the callee refused it unrun."""
    UNKNOWN = "unknown"
    """It may have run: the request went out and no reply came back."""
    EXECUTED = "executed"
    """It ran, to its end or to its failure, and the callee answered."""


class RpcError(RuntimeError):
    """Root of all errors of asyncrpc.

    Args:
        message: what happened, naming field, value and expectation.
        code: status code; ``None`` takes the class's own.
        delivery: whether the function may have run; ``None`` takes the class's own.
        attributes: data of the subclass, set as attributes and kept by pickle.
    """

    code: StatusCode = StatusCode.INTERNAL
    delivery: Delivery = Delivery.NOT_SENT

    def __init__(
        self,
        message: str = "",
        *,
        code: StatusCode | None = None,
        delivery: Delivery | None = None,
        **attributes: Any,
    ) -> None:
        super().__init__(message)
        if code is not None:
            self.code = code
        if delivery is not None:
            self.delivery = delivery
        for name, value in attributes.items():
            setattr(self, name, value)

    # BaseException's own reduce keeps ``args`` and ``__dict__``, so every subclass that
    # takes only a message positionally pickles with its attributes.


class RpcTimeoutError(RpcError, TimeoutError):
    """A call ran out of time; ``phase`` is ``connect``, ``send``, ``execute`` or ``reply``."""

    code = StatusCode.DEADLINE_EXCEEDED
    delivery = Delivery.UNKNOWN
    phase: str = "reply"


class ShutdownTimeoutError(RpcTimeoutError):
    """A shutdown ran out of time in ``phase``, waiting for ``workers`` (names)."""

    delivery = Delivery.NOT_SENT
    phase = "drain"
    workers: tuple[str, ...] = ()


class NotInitializedError(RpcError):
    """No agent runs in this process, or the one that did was shut down."""

    code = StatusCode.ABORTED


class AlreadyInitializedError(RpcError):
    """`init_rpc` was called while an agent runs in this process."""

    code = StatusCode.ALREADY_EXISTS


class DuplicateNameError(RpcError):
    """Two live workers of one group have the same name or id."""

    code = StatusCode.ALREADY_EXISTS


class UnknownWorkerError(RpcError):
    """The destination is no member of the group, or has left it."""

    code = StatusCode.NOT_FOUND


class PeerLostError(RpcError, ConnectionError):
    """The destination died, or the connection to it broke while the call was out."""

    code = StatusCode.UNAVAILABLE
    delivery = Delivery.UNKNOWN


class AuthenticationError(RpcError, ConnectionError):
    """The other side does not know this run's secret, or belongs to another run."""

    code = StatusCode.UNAUTHENTICATED


class PermissionDeniedError(RpcError):
    """The callee does not expose the function to its callers."""

    code = StatusCode.PERMISSION_DENIED


class FunctionNotFoundError(RpcError):
    """The callee has no function of that name."""

    code = StatusCode.NOT_FOUND


class EncodingError(RpcError, TypeError):
    """A value cannot travel; ``path`` says where it sits, as in ``args[1]['x']``."""

    code = StatusCode.INVALID_ARGUMENT
    path: str = ""


class MessageTooLargeError(RpcError):
    """A message exceeds ``Limits.max_message_size`` or its object budget."""

    code = StatusCode.RESOURCE_EXHAUSTED


class ResourceExhaustedError(RpcError):
    """A limit of `Limits` was reached: calls in flight, queue, connections."""

    code = StatusCode.RESOURCE_EXHAUSTED


class RetriesExhaustedError(RpcError):
    """Every attempt that a retry policy allows failed; ``attempts`` is how many there were."""

    code = StatusCode.UNAVAILABLE
    delivery = Delivery.UNKNOWN
    attempts: int = 0


class InjectedFaultError(RpcError):
    """A fault plan failed the message at the send."""

    code = StatusCode.UNAVAILABLE


class RRefCreationError(RpcError):
    """The remote reference's value was not created, or nobody knows whether it was."""

    code = StatusCode.ABORTED
    delivery = Delivery.UNKNOWN


class RRefDeletedError(RpcError):
    """The remote reference was released, or its group was shut down."""

    code = StatusCode.ABORTED


class OwnerLostError(RpcError):
    """The worker that owned the remote reference's value died or was restarted."""

    code = StatusCode.OWNER_LOST


class RRefLeakError(RpcError):
    """Remote references were still held at a shutdown that checks; ``leaks`` lists them."""

    code = StatusCode.ABORTED
    leaks: tuple[str, ...] = ()


class RemoteProtocolError(RpcError, ConnectionError):
    """A peer's bytes break the protocol; the connection they came on is closed."""

    code = StatusCode.DATA_LOSS
    delivery = Delivery.UNKNOWN


class RemoteError(RpcError):
    """The callee's function failed with something that cannot or must not be rebuilt here.

    ``type_name`` is the qualified name of its class there (the bare name of a builtin), ``args``
    are its arguments, ``text`` is what ``str()`` of it gave there.
    """

    delivery = Delivery.EXECUTED
    type_name: str = ""
    text: str = ""

    def __init__(
        self,
        *args: object,
        code: StatusCode | None = None,
        delivery: Delivery | None = None,
        **attributes: Any,
    ) -> None:
        super().__init__(code=code, delivery=delivery, **attributes)
        self.args = args

    def __str__(self) -> str:
        return ": ".join(part for part in (self.type_name, self.text) if part) or super().__str__()


class RemoteTraceback(Exception):  # noqa: N818 -- not raised: it is shown as the cause of one
    """Shows worker, function and traceback of an exception that was raised elsewhere."""

    def __str__(self) -> str:
        return str(self.args[0]) if self.args else ""


class StoreError(RpcError):
    """An operation on the key-value store failed."""

    code = StatusCode.ABORTED


class StoreTimeoutError(StoreError, TimeoutError):
    """Keys did not appear in time; ``keys`` are those still missing."""

    code = StatusCode.DEADLINE_EXCEEDED
    keys: tuple[str, ...] = ()


class StoreConnectionError(StoreError, ConnectionError):
    """The store cannot be reached, or the connection to it broke."""

    code = StatusCode.UNAVAILABLE
    delivery = Delivery.UNKNOWN


class QueueEmptyError(StoreError):
    """A non-blocking pop found the queue empty."""

    code = StatusCode.NOT_FOUND
