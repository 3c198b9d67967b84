"""Metrics: named numbers of a program, and where they go; torch's names.

A metric belongs to a group, and each group has a handler: by default one that drops everything,
so that what nobody looks at costs next to nothing. Called by users, in workers as well.
"""

from __future__ import annotations

import functools
import inspect
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any, NamedTuple, ParamSpec, Protocol, TypeVar, cast, overload

__all__ = (
    "ConsoleMetricHandler",
    "MetricData",
    "MetricHandler",
    "MetricsConfig",
    "NullMetricHandler",
    "configure",
    "initialize_metrics",
    "prof",
    "put_metric",
)

_P = ParamSpec("_P")
_R = TypeVar("_R")

DEFAULT_GROUP = "torchelastic"  # torch's


class MetricData(NamedTuple):
    """One value of a metric."""

    timestamp: int
    """When, seconds of the wall clock."""
    group_name: str
    name: str
    value: float


class MetricHandler(Protocol):
    """Takes the metrics of the groups that it was given to `configure` for."""

    def emit(self, metric_data: MetricData) -> None:
        """Take in one value.

        Args:
            metric_data: the value and what it is of.
        """
        ...


class ConsoleMetricHandler:
    """Prints each value as a line on stdout: ``[1700000000][group]: name=value``."""

    def emit(self, metric_data: MetricData) -> None:
        """Print one value."""
        timestamp, group, name, value = metric_data
        print(f"[{timestamp}][{group}]: {name}={value}")  # noqa: T201 -- its purpose


class NullMetricHandler:
    """Drops everything."""

    def emit(self, metric_data: MetricData) -> None:
        """Drop one value."""


_handlers: dict[str | None, MetricHandler] = {None: NullMetricHandler()}  # None: all other groups


def configure(handler: MetricHandler, group: str | None = None) -> None:
    """Say where metrics go from now on.

    Args:
        handler: takes the values.
        group: whose; ``None``: of all groups that have no handler of their own.
    """
    _handlers[group] = handler


class MetricsConfig:
    """Settings of a program's metrics; torch's class.

    Args:
        params: settings by name, whatever they mean to those who read them; ``None``: none.
    """

    __slots__ = ("params",)

    def __init__(self, params: dict[str, str] | None = None) -> None:
        self.params = {} if params is None else params


def initialize_metrics(cfg: MetricsConfig | None = None) -> None:
    """Set metrics up at the start of a launch that has a ``metrics_cfg``; torch's hook.

    Does nothing, as torch's: whoever has handlers of their own replaces it, or calls `configure`.

    Args:
        cfg: the settings of the launch.
    """


def put_metric(metric_name: str, metric_value: float, metric_group: str = DEFAULT_GROUP) -> None:
    """Give one value to the handler of its group.

    Args:
        metric_name: what the value is of.
        metric_value: the value, in the unit that the name tells.
        metric_group: the group of the metric.
    """
    handler = _handlers.get(metric_group) or _handlers[None]
    handler.emit(MetricData(int(time.time()), metric_group, metric_name, metric_value))


@overload
def prof(fn: Callable[_P, _R], group: str = ...) -> Callable[_P, _R]: ...


@overload
def prof(fn: None = None, group: str = ...) -> Callable[[Callable[_P, _R]], Callable[_P, _R]]: ...


def prof(
    fn: Callable[_P, _R] | None = None, group: str = DEFAULT_GROUP
) -> Callable[_P, _R] | Callable[[Callable[_P, _R]], Callable[_P, _R]]:
    """Measure each call of a function or coroutine function; for ``@prof`` and ``@prof(group=)``.

    Puts ``<name>.success`` or ``<name>.failure``, each 1, and ``<name>.duration.ms``, milliseconds
    until the call returned or raised.

    Args:
        fn: the function; ``None``: the one that the result decorates.
        group: the group of the metrics.

    Returns:
        What is to be called in its place.
    """
    if fn is None:
        return lambda fn: prof(fn, group)
    name = fn.__name__
    if inspect.iscoroutinefunction(fn):

        @functools.wraps(fn)
        async def measure_async(*args: _P.args, **kwargs: _P.kwargs) -> Any:
            with _measured(name, group):
                return await fn(*args, **kwargs)

        return cast("Callable[_P, _R]", measure_async)

    @functools.wraps(fn)
    def measure(*args: _P.args, **kwargs: _P.kwargs) -> _R:
        with _measured(name, group):
            return fn(*args, **kwargs)

    return measure


@contextmanager
def _measured(name: str, group: str) -> Iterator[None]:
    begun_at = time.monotonic()
    outcome = "failure"
    try:
        yield
        outcome = "success"
    finally:
        put_metric(f"{name}.{outcome}", 1, group)
        put_metric(f"{name}.duration.ms", int((time.monotonic() - begun_at) * 1000), group)
