"""Which scheduler a launcher runs under, and what it says: `detect`.

The package's own detectors are known by the variables that give their schedulers away; those of
other packages, entry points of the group ``launcher.environment``, are loaded only by name.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from importlib import import_module
from typing import cast

from launcher.config import SCHEDULER_VARIABLES
from launcher.environment.base import Environment

__all__ = ("Detector", "detect")

Detector = Callable[[Mapping[str, str]], Environment | None]
"""Says what the scheduler tells by these variables; ``None`` if it has not started this process.

Raises `ValueError`, naming variable, value and rule, if they make no sense.
"""

_GROUP = "launcher.environment"
_BUILT_IN = {
    "slurm": "launcher.environment.slurm",
    "mpi": "launcher.environment.mpi",
    "kubernetes": "launcher.environment.kubernetes",
}


def detect(environ: Mapping[str, str], name: str | None = None) -> Environment | None:
    """Find out what a scheduler says about this launcher.

    Args:
        environ: the variables of this process.
        name: which scheduler to ask: ``slurm``, ``mpi``, ``kubernetes``, or an entry point of the
            group ``launcher.environment``; ``None``: the one that started this process.

    Returns:
        What it says; ``None`` if none has started this process.

    Raises:
        ValueError: its variables make no sense; or there is no detector of that name, it cannot be
            loaded, or its scheduler did not start this process.
    """
    if name is None:
        marked = [scheduler for mark, scheduler in SCHEDULER_VARIABLES if mark in environ]
        found = (_load(scheduler)(environ) for scheduler in marked)
        return next((environment for environment in found if environment is not None), None)
    environment = _load(name)(environ)
    if environment is None:
        raise ValueError(f"environment={name}: expected a process that it has started")
    return environment


def _load(name: str) -> Detector:
    if name in _BUILT_IN:
        return cast("Detector", import_module(_BUILT_IN[name]).detect)
    from importlib.metadata import entry_points  # noqa: PLC0415 -- slow, and rarely asked for

    for point in entry_points(group=_GROUP, name=name):
        try:
            return cast("Detector", point.load())
        except Exception as error:
            raise ValueError(
                f"environment={name}: entry point {point.value} cannot be loaded: {error}"
            ) from error
    names = sorted({*_BUILT_IN, *(point.name for point in entry_points(group=_GROUP))})
    raise ValueError(f"environment={name}: expected one of {', '.join(names)}")
