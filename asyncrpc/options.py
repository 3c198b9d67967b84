"""What can be set on an agent: `RpcOptions` and `Limits`, frozen and validated.

One declaration per option: environment, defaults and documentation all read it here.
"""

from __future__ import annotations

import dataclasses
import enum
import math
import sys
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from types import ModuleType
from typing import Final, Literal, TypeGuard

from asyncrpc.faults import FaultPlan
from asyncrpc.interception import Interceptor
from asyncrpc.retry import RetryPolicy, check_policy
from asyncrpc.transport import Address, TlsOptions

__all__ = (
    "UNSET",
    "FaultyRpcOptions",
    "Limits",
    "RpcOptions",
    "TlsOptions",
    "Unset",
    "check_timeout",
)


class Unset(enum.Enum):
    """The type of `UNSET`."""

    UNSET = "unset"

    def __repr__(self) -> str:
        return "UNSET"


UNSET: Final = Unset.UNSET
"""Stands for "not given", where ``None`` and 0 have a meaning."""

MAX_NESTING = 1000  # CPython's own recursion limit


def check_timeout(field: str, value: object) -> float:
    """Return a timeout in seconds as a float, 0 for none.

    Args:
        field: name of the argument, for the message.
        value: seconds, at least 0; 0 and ``None`` mean none.

    Raises:
        ValueError: ``value`` is negative, nan or no number.
    """
    if value is None:
        return 0.0
    if isinstance(value, bool) or not isinstance(value, (int, float)):
        raise ValueError(
            f"{field} must be a number of seconds, at least 0 (0 or None: none), got {value!r}"
        )
    try:
        seconds = float(value)
    except OverflowError:  # an int beyond the largest float
        seconds = math.inf if value > 0 else -math.inf
    if math.isnan(seconds) or seconds < 0:
        raise ValueError(f"{field} must be at least 0 seconds (0 or None: none), got {value!r}")
    return 0.0 if math.isinf(seconds) else seconds


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Limits:
    """Bounds on what one agent takes from and sends to its peers.

    Args:
        max_message_size: bytes of one message, buffers included.
        max_object_bytes: bytes of objects that one decoded body may become.
        max_nesting: levels of nested containers, 1 to 1000.
        max_inflight: calls out to one peer at once; further ones wait.
        max_queued: calls that may wait for one peer.
        max_connections: connections accepted at once.
        on_full: ``"wait"`` queues a call beyond ``max_inflight``, ``"error"`` fails it with
            `ResourceExhaustedError`.
        handshake_timeout: seconds for a new connection to authenticate.

    Raises:
        ValueError: a value breaks its rule; the message names field, value and rule.
    """

    max_message_size: int = 1 << 30
    max_object_bytes: int = 256 << 20
    max_nesting: int = 64
    max_inflight: int = 1024
    max_queued: int = 100_000
    max_connections: int = 4096
    on_full: Literal["wait", "error"] = "wait"
    handshake_timeout: float = 5.0

    def __post_init__(self) -> None:
        for field in ("max_message_size", "max_object_bytes", "max_inflight", "max_connections"):
            _check_int(field, getattr(self, field), 1)
        _check_int("max_queued", self.max_queued, 0)
        _check_int("max_nesting", self.max_nesting, 1, MAX_NESTING)
        if self.on_full not in ("wait", "error"):
            raise ValueError(f"on_full must be 'wait' or 'error', got {self.on_full!r}")
        _check_positive("handshake_timeout", self.handshake_timeout)


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class RpcOptions:
    """Settings of an agent.

    Args:
        rpc_timeout: seconds a call may take unless it says otherwise; 0 for no limit.
        num_worker_threads: threads that run plain ``def`` functions, at least 1.
        init_method: how workers find the store: ``env://``, ``tcp://host:port``, ``file:///path``
            or ``etcd://host:port,host:port/prefix``.
        listen: ``tcp://host:port``, ``tls://host:port`` or ``unix:///path`` to listen at; ``None``
            takes loopback, or the address of this host that reaches the store.
        secret: shared secret, at least 16 bytes, or the path of a file that holds it; ``None``
            takes ``$ASYNCRPC_SECRET_FILE`` or the per-user file; ``b""`` turns authentication off,
            on loopback and unix sockets and for exposed functions only.
        tls: certificates; with them every connection is TLS.
        expose: functions and modules that peers may call; ``None`` allows any importable callable.
        allow_pickle: whether values without an encoding of their own may travel as pickle; ``None``
            means yes unless ``expose`` is given.
        limits: bounds on messages, calls and connections.
        run_id: name of the run, mixed into the key; ``None`` takes ``$TORCHELASTIC_RUN_ID`` or "".
        heartbeat_interval: seconds between liveness checks of a silent peer.
        heartbeat_misses: checks without an answer after which a peer is lost, at least 1.
        init_timeout: seconds for `init_rpc` to find the whole group.
        faults: what is to go wrong, for tests and drills; ``None`` for nothing.
        device_maps: for each peer, by name, the device there to which torch tensors on a device
            here go, as in ``{"worker1": {"cuda:0": "cuda:1"}}``; results go by the map of the
            worker that returns them. Tensors in main memory need none; those on another device
            without a map are refused with `EncodingError`.
        check_leaks: whether a shutdown of either kind fails with `RRefLeakError` if references are
            still held when all calls have ended.
        allow_faults: whether ``$ASYNCRPC_FAULTS`` may hold a plan too, as text.
        interceptors: what surrounds the calls that are made and served, the first one outermost.
        busy_poll: seconds after traffic in which the loop looks for more instead of sleeping, so
            that calls one after the other need not wait for the system to wake a core. It keeps one
            busy meanwhile, but rests while other threads of the process are at work. 0 for never.
        shared_memory_threshold: bytes from which an array, tensor or bytes goes to workers on the
            same host through memory that both see, in messages of 256 KiB or more; received arrays
            are views of it, written to as any other. ``None`` for never.
        retry: the policy of calls that give none; ``None`` for no retries.
        retry_budget: retries per second that all calls of the agent may make together, in bursts of
            as many (at least one); beyond that calls fail with their last error, so that retries
            do not keep down what is down. ``None`` for no limit.

    Raises:
        ValueError: a value breaks its rule; the message names field, value and rule.
    """

    rpc_timeout: float = 60.0
    num_worker_threads: int = 16
    init_method: str = "env://"
    listen: str | None = None
    secret: bytes | Path | None = dataclasses.field(default=None, repr=False)  # not for logs
    tls: TlsOptions | None = None
    expose: Sequence[Callable[..., object] | ModuleType] | None = None
    allow_pickle: bool | None = None
    limits: Limits = dataclasses.field(default_factory=Limits)
    run_id: str | None = None
    heartbeat_interval: float = 2.0
    heartbeat_misses: int = 3
    init_timeout: float = 300.0
    faults: FaultPlan | None = None
    allow_faults: bool = False
    interceptors: Sequence[Interceptor] = ()
    retry: RetryPolicy | None = None
    retry_budget: float | None = None
    check_leaks: bool = False
    device_maps: Mapping[str, Mapping[str, str]] | None = None
    busy_poll: float = 0.0
    shared_memory_threshold: int | None = 1 << 20

    def __post_init__(self) -> None:
        object.__setattr__(self, "rpc_timeout", check_timeout("rpc_timeout", self.rpc_timeout))
        _check_int("num_worker_threads", self.num_worker_threads, 1)
        _check_int("heartbeat_misses", self.heartbeat_misses, 1)
        _check_positive("heartbeat_interval", self.heartbeat_interval)
        _check_positive("init_timeout", self.init_timeout)
        _check_span("busy_poll", self.busy_poll)
        _check_threshold("shared_memory_threshold", self.shared_memory_threshold)
        _check_init_method(self.init_method)
        if not isinstance(self.limits, Limits):
            raise ValueError(f"limits must be a Limits, got {self.limits!r}")
        _check_run_id(self.run_id)
        if self.faults is not None and not isinstance(self.faults, FaultPlan):
            raise ValueError(f"faults must be a FaultPlan or None, got {self.faults!r}")
        for field in ("allow_faults", "check_leaks"):
            if not isinstance(getattr(self, field), bool):  # 1 and 0 are equal to these
                raise ValueError(f"{field} must be True or False, got {getattr(self, field)!r}")
        if self.retry is not None:
            check_policy("retry", self.retry)
        if self.retry_budget is not None:
            _check_rate("retry_budget", self.retry_budget)
        if self.tls is not None and not isinstance(self.tls, TlsOptions):
            raise ValueError(f"tls must be TlsOptions or None, got {self.tls!r}")
        self._check_interceptors()
        self._check_device_maps()
        self._check_secret()
        self._check_expose()
        self._check_listen()

    def fault_plans(self) -> tuple[FaultPlan, ...]:
        """Return the plans that these options hold."""
        return () if self.faults is None else (self.faults,)

    def _check_device_maps(self) -> None:
        given: object = self.device_maps
        if given is None:
            return
        if not isinstance(given, Mapping):
            raise ValueError(f"device_maps must be a dict by worker name or None, got {given!r}")
        for name, devices in given.items():
            if not isinstance(name, str) or not isinstance(devices, Mapping):
                raise ValueError(
                    f"device_maps must map worker names to dicts of devices, got {name!r}: "
                    f"{devices!r}"
                )
            for here, there in devices.items():
                if not (isinstance(here, str) and isinstance(there, str) and here and there):
                    raise ValueError(
                        "device_maps must map devices to devices by their names, as "
                        f"'cuda:0', got {here!r}: {there!r} for {name!r}"
                    )
            if len(set(devices.values())) < len(devices):
                raise ValueError(
                    f"device_maps must map devices one to one, got {dict(devices)!r} for {name!r}"
                )

    def _check_interceptors(self) -> None:
        given: object = self.interceptors
        if not isinstance(given, (list, tuple)):
            raise ValueError(f"interceptors must be a list of Interceptor objects, got {given!r}")
        for item in given:
            if not isinstance(item, Interceptor):
                raise ValueError(f"interceptors must be Interceptor objects, got {item!r}")
        object.__setattr__(self, "interceptors", tuple(given))

    def _check_secret(self) -> None:
        if self.secret is not None and not isinstance(self.secret, (bytes, Path)):
            raise ValueError(
                f"secret must be bytes, a Path or None, got {type(self.secret).__name__}"
            )
        if isinstance(self.secret, bytes) and 0 < len(self.secret) < 16:
            raise ValueError(f"secret must have at least 16 bytes, got {len(self.secret)}")
        if self.secret == b"" and self.expose is None:
            raise ValueError('secret b"" turns authentication off and needs expose=[…], got None')

    def _check_expose(self) -> None:
        if self.allow_pickle is not None and not isinstance(self.allow_pickle, bool):
            raise ValueError(f"allow_pickle must be True, False or None, got {self.allow_pickle!r}")
        if self.expose is None:
            return
        try:
            items: tuple[object, ...] = tuple(self.expose)
        except TypeError:
            items = (self.expose,)
        for item in items:
            if not callable(item) and not isinstance(item, ModuleType):
                raise ValueError(f"expose must list functions and modules, got {item!r}")
        object.__setattr__(self, "expose", items)
        if self.allow_pickle:
            raise ValueError(
                "allow_pickle must not be True where expose is given: pickle runs code"
            )

    def _check_listen(self) -> None:
        if self.listen is None:
            return
        if not isinstance(self.listen, str):
            raise ValueError(f"listen must be an address string or None, got {self.listen!r}")
        address = _parsed("listen", self.listen)
        if address.scheme not in ("tcp", "tls", "unix"):
            raise ValueError(f"listen must be a tcp, tls or unix address, got {self.listen!r}")
        if address.scheme == "tls" and self.tls is None:
            raise ValueError(f"listen at {self.listen!r} needs tls=TlsOptions(…), got None")
        if self.secret == b"" and not address.is_local:
            raise ValueError(
                f'secret b"" needs a loopback or unix address to listen at, got {address}'
            )


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class FaultyRpcOptions(RpcOptions):
    """Settings of an agent that fails and delays messages: the reference's faulty agent.

    The same as ``faults=FaultPlan.from_messages(...)``; a plan in ``faults`` acts first.

    Args:
        num_fail_sends: how many first sends of each message of a listed type fail.
        messages_to_fail: names of the types.
        messages_to_delay: seconds by name of a type; the wait counts against the deadline.

    Raises:
        ValueError: a value breaks its rule; the message names field, value and rule.
    """

    num_fail_sends: int = 0
    messages_to_fail: Sequence[str] = ()
    messages_to_delay: Mapping[str, float] = dataclasses.field(default_factory=dict)

    def __post_init__(self) -> None:
        RpcOptions.__post_init__(self)
        names: object = self.messages_to_fail
        if isinstance(names, Iterable) and not isinstance(names, str):
            object.__setattr__(self, "messages_to_fail", tuple(names))  # an iterator is read once
        self.fault_plans()

    def fault_plans(self) -> tuple[FaultPlan, ...]:
        """Return the plans that these options hold."""
        plan = FaultPlan.from_messages(
            self.messages_to_fail, self.messages_to_delay, self.num_fail_sends
        )
        return (*RpcOptions.fault_plans(self), plan)


def _check_init_method(value: object) -> None:
    if isinstance(value, str) and value.startswith("tcp://"):
        if not _parsed("init_method", value).port:
            raise ValueError(
                f"init_method must name a port, the same for all workers, got {value!r}"
            )
        return
    is_file = isinstance(value, str) and value.startswith("file:///") and "\0" not in value
    if value == "env://" or (is_file and str(value).rpartition("/")[2]):
        return
    # which members and which prefix is for the store to read
    if isinstance(value, str) and value.startswith("etcd://") and value[7:].partition("/")[0]:
        return
    raise ValueError(
        "init_method must be env://, tcp://host:port, file:///path or "
        f"etcd://host:port/prefix, got {value!r}"
    )


def _check_run_id(value: object) -> None:
    if value is None:
        return
    if not isinstance(value, str):
        raise ValueError(f"run_id must be a str or None, got {value!r}")
    try:
        value.encode()
    except UnicodeEncodeError as error:
        raise ValueError(f"run_id must be text that UTF-8 can encode, got {value!r}") from error


def _parsed(field: str, value: str) -> Address:
    try:
        return Address.parse(value)
    except ValueError as error:
        raise ValueError(f"{field}: {error}") from None


def _check_int(field: str, value: object, least: int, most: int | None = None) -> None:
    if type(value) is not int or value < least or (most is not None and value > most):
        rule = f"at least {least}" if most is None else f"from {least} to {most}"
        raise ValueError(f"{field} must be an int {rule}, got {value!r}")


def _check_positive(field: str, value: object) -> None:
    if not _is_finite(value) or value <= 0:
        raise ValueError(f"{field} must be a number of seconds, above 0 and finite, got {value!r}")


def _check_span(field: str, value: object) -> None:
    if not _is_finite(value) or value < 0:
        raise ValueError(f"{field} must be a finite number of seconds, at least 0, got {value!r}")


def _check_threshold(field: str, value: object) -> None:
    if value is not None and (type(value) is not int or value < 1):
        raise ValueError(f"{field} must be an int of at least 1 byte, or None, got {value!r}")


def _check_rate(field: str, value: object) -> None:
    if not _is_finite(value) or value <= 0:
        raise ValueError(f"{field} must be a number above 0, per second, or None, got {value!r}")


def _is_finite(value: object) -> TypeGuard[float]:
    """Whether a value is a number that a float can hold; an int may be too large for that."""
    if isinstance(value, bool) or not isinstance(value, (int, float)):
        return False
    return abs(value) <= sys.float_info.max
