"""Finds classes of `LogsSpecs` that other packages provide, by entry point.

Called by the command line, when a name was given.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial

from launcher.logs.layout import DefaultLogsSpecs, LogsSpecs

__all__ = ("get_logs_specs_class",)

_DEFAULT = "default"
_GROUPS = ("launcher.logs_specs", "torchrun.logs_specs")  # torch's for what has no other


def get_logs_specs_class(name: str | None) -> Callable[..., LogsSpecs]:
    """Return the class that a name stands for, or what makes one of torch's usable here.

    It is called with ``log_dir``, ``redirects``, ``tee`` and ``local_ranks_filter``, as
    `DefaultLogsSpecs` is.

    Args:
        name: of an entry point of the group ``launcher.logs_specs``, else of
            ``torchrun.logs_specs``; ``None`` or "default" for `DefaultLogsSpecs`.

    Raises:
        ValueError: there is none, or it cannot be loaded.
    """
    if name in (None, _DEFAULT):
        return DefaultLogsSpecs
    from importlib.metadata import entry_points  # noqa: PLC0415 -- slow, and rarely asked for

    for group in _GROUPS:
        for point in entry_points(group=group, name=name or ""):
            try:
                found: type = point.load()
            except Exception as error:
                raise ValueError(
                    f"logs_specs={name}: entry point {point.value} cannot be loaded: {error}"
                ) from error
            return found if issubclass(found, LogsSpecs) else _adapted(found)
    points = {point.name for group in _GROUPS for point in entry_points(group=group)}
    names = sorted(points - {_DEFAULT})  # torch's entry points have one of that name, too
    raise ValueError(f"logs_specs={name}: expected one of {', '.join([_DEFAULT, *names])}")


def _adapted(found: type) -> Callable[..., LogsSpecs]:
    from launcher.logs.foreign import ForeignLogsSpecs  # noqa: PLC0415 -- rarely needed

    return partial(ForeignLogsSpecs, found)
