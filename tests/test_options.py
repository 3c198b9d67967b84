"""Every option is checked when it is given: a bad value is named with its field and the rule."""

from __future__ import annotations

import dataclasses
import decimal
import math
from typing import Any

import pytest

from asyncrpc import FaultyRpcOptions, Limits, RpcOptions

INTS = [
    *[(RpcOptions, field, 1) for field in ("num_worker_threads", "heartbeat_misses")],
    *[
        (Limits, field, 1)
        for field in ("max_message_size", "max_object_bytes", "max_inflight", "max_connections")
    ],
    (Limits, "max_queued", 0),
    (Limits, "max_nesting", 1),
]
"""Class, field and least value of the options that are counts."""

SPANS = [
    (RpcOptions, "heartbeat_interval"),
    (RpcOptions, "init_timeout"),
    (Limits, "handshake_timeout"),
]
"""Class and field of the options that are seconds and must end."""


@pytest.mark.parametrize(("cls", "field", "least"), INTS)
@pytest.mark.parametrize("value", [True, 1.0, math.nan, math.inf, "1", b"1", None, [1], 1j])
def test_counts_are_ints(cls: type, field: str, least: int, value: Any) -> None:
    """A count takes an int and nothing that is like one."""
    with pytest.raises(ValueError, match=f"^{field} must be an int ") as caught:
        cls(**{field: value})

    assert str(caught.value).endswith(f"got {value!r}")


@pytest.mark.parametrize(("cls", "field", "least"), INTS)
def test_counts_have_a_least_value(cls: type, field: str, least: int) -> None:
    """A count below its least value is refused, the least value is not, nor is a huge one."""
    for value in (least - 1, -(10**30)):
        with pytest.raises(ValueError, match=rf"^{field} must be an int .*{least}.*, got {value}$"):
            cls(**{field: value})
    cls(**{field: least})
    if field != "max_nesting":
        cls(**{field: 10**30})


@pytest.mark.parametrize(("cls", "field"), SPANS)
@pytest.mark.parametrize(
    "value",
    [
        *[True, "5", b"5", None, [5], 1j, decimal.Decimal(5), math.inf, 10**400, 0, 0.0],
        *[-1, -0.001, math.nan, -math.inf, -(10**400)],
    ],
)
def test_spans_are_numbers(cls: type, field: str, value: Any) -> None:
    """A span that must end takes a finite number above 0."""
    with pytest.raises(ValueError, match=f"^{field} must be .*above 0.*finite, got ") as caught:
        cls(**{field: value})

    assert repr(value)[:50] in str(caught.value)


@pytest.mark.parametrize("value", [-1, -0.001, math.nan, -math.inf, -(10**400)])
def test_timeout_of_calls_is_not_negative(value: Any) -> None:
    """A negative default timeout is refused, and so is nan."""
    with pytest.raises(ValueError, match=r"^rpc_timeout must be at least 0 seconds") as caught:
        RpcOptions(rpc_timeout=value)

    assert repr(value)[:50] in str(caught.value)


@pytest.mark.parametrize("value", [0, None, math.inf, 10**400])
def test_calls_without_limit(value: Any) -> None:
    """The default timeout of calls may be none."""
    assert 0.0 == RpcOptions(rpc_timeout=value).rpc_timeout


@pytest.mark.parametrize(
    ("field", "value", "rule"),
    [
        ("rpc_timeout", "5", "number of seconds"),
        ("rpc_timeout", True, "number of seconds"),
        ("init_method", "http://x", "env://, tcp://"),
        ("init_method", "tcp://nohost", "host and a port"),
        ("init_method", "tcp://h:0", "must name a port"),
        ("init_method", "file://relative", "file:///path"),
        ("init_method", "file:///", "file:///path"),
        ("init_method", "file:///folder/", "file:///path"),
        ("init_method", "file:///a\0b", "file:///path"),
        ("init_method", "env://x", "env://"),
        ("init_method", b"env://", "env://"),
        ("listen", 5, "address string"),
        ("listen", "nonsense", "tcp://host:port"),
        ("listen", "memory://x", "tcp, tls or unix"),
        ("listen", "tls://127.0.0.1:0", "needs tls"),
        ("listen", "tcp://127.0.0.1:70000", "0 to 65535"),
        ("listen", "unix://relative", "absolute path"),
        ("secret", b"short", "at least 16 bytes"),
        ("secret", "text", "bytes, a Path or None"),
        ("secret", bytearray(32), "bytes, a Path or None"),
        ("secret", b"", "needs expose"),
        ("tls", "cert.pem", "TlsOptions"),
        ("expose", [1], "functions and modules"),
        ("expose", 5, "functions and modules"),
        ("expose", "math:sqrt", "functions and modules"),
        ("allow_pickle", "yes", "True, False or None"),
        ("allow_pickle", 1, "True, False or None"),
        ("allow_pickle", 0, "True, False or None"),
        ("allow_pickle", [], "True, False or None"),
        ("limits", {"max_inflight": 1}, "must be a Limits"),
        ("run_id", 5, "a str"),
        ("run_id", "\ud800", "UTF-8"),
        ("faults", "plan", "FaultPlan"),
        ("allow_faults", 1, "True or False"),
        *[
            ("shared_memory_threshold", value, "an int of at least 1 byte, or None")
            for value in (0, -1, True, 1.0, "1MiB", math.inf)
        ],
        ("busy_poll", -1e-6, "at least 0"),
        ("busy_poll", math.inf, "finite number of seconds"),
        ("busy_poll", 10**400, "finite number of seconds"),
        ("busy_poll", math.nan, "finite number of seconds"),
        ("busy_poll", True, "finite number of seconds"),
        ("busy_poll", None, "finite number of seconds"),
        ("busy_poll", "1", "finite number of seconds"),
    ],
)
def test_bad_option(field: str, value: Any, rule: str) -> None:
    """A bad option is a ValueError that names field, value and rule."""
    with pytest.raises(ValueError, match=field) as caught:
        RpcOptions(**{field: value})

    assert rule in str(caught.value)
    assert field in {"secret", "expose"} or repr(value) in str(caught.value)


@pytest.mark.parametrize(
    ("field", "value", "rule"),
    [
        ("max_nesting", 1001, "from 1 to 1000"),
        ("on_full", "drop", "'wait' or 'error'"),
        ("on_full", [], "'wait' or 'error'"),
        ("on_full", None, "'wait' or 'error'"),
    ],
)
def test_bad_limit(field: str, value: Any, rule: str) -> None:
    """A bad limit is a ValueError that names field, value and rule."""
    with pytest.raises(ValueError, match=field) as caught:
        Limits(**{field: value})

    assert rule in str(caught.value)
    assert repr(value) in str(caught.value)


@pytest.mark.parametrize(
    ("cls", "field"),
    [
        (cls, field.name)
        for cls in (RpcOptions, Limits, FaultyRpcOptions)
        for field in dataclasses.fields(cls)
        if cls is not FaultyRpcOptions or field.name not in RpcOptions.__dataclass_fields__
    ],
)
def test_no_option_is_taken_on_trust(cls: type, field: str) -> None:
    """What can be no value of any option is refused by each of them, by name."""
    with pytest.raises(ValueError, match=rf"\b{field}\b"):
        cls(**{field: object()})


@pytest.mark.parametrize(
    ("value", "text"),
    [
        (["worker1"], "must be a dict by worker name or None, got"),
        (
            {"worker1": "cuda:0"},
            "must map worker names to dicts of devices, got 'worker1': 'cuda:0'",
        ),
        ({1: {"cuda:0": "cuda:1"}}, "must map worker names to dicts of devices, got 1"),
        ({"worker1": {"cuda:0": 1}}, "must map devices to devices by their names"),
        ({"worker1": {"": "cuda:1"}}, "must map devices to devices by their names"),
        ({"worker1": {"cuda:0": "cuda:1", "cuda:1": "cuda:1"}}, "must map devices one to one"),
    ],
)
def test_device_maps(value: Any, text: str) -> None:
    """Names of workers, then of devices, one to one."""
    with pytest.raises(ValueError, match=f"^device_maps {text}"):
        RpcOptions(device_maps=value)
    RpcOptions(device_maps={"worker1": {"cuda:0": "cuda:1"}, "worker2": {}})


@pytest.mark.parametrize("cls", [RpcOptions, FaultyRpcOptions])
def test_secret_is_not_shown(cls: type[RpcOptions]) -> None:
    """Options are printed and logged; their secret is not."""
    options = cls(secret=b"hidden, 16 bytes")

    assert "hidden" not in f"{options} {options!r}"
    assert options.secret == b"hidden, 16 bytes"
