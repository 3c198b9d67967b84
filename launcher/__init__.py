"""Starts workers, watches over them, restarts them: torchrun's work without torch.

The names below are loaded when first used, so that the command line starts at once.

PYTEST_DONT_REWRITE: as the package has a plugin, pytest would warn if it is imported already.
"""

from __future__ import annotations

TYPE_CHECKING = False  # the typing module would delay the moment that signals are handled
if TYPE_CHECKING:
    from launcher.api import (
        LaunchResult,
        elastic_launch,
        get_entrypoint_name,
        launch_agent,
    )
    from launcher.config import LaunchConfig
    from launcher.errors import (
        ChildFailedError,
        LauncherError,
        SignalException,
        UsageError,
    )

__all__ = (
    "ChildFailedError",
    "LaunchConfig",
    "LaunchResult",
    "LauncherError",
    "SignalException",
    "UsageError",
    "elastic_launch",
    "get_entrypoint_name",
    "launch_agent",
)

_HOMES = {
    "ChildFailedError": "launcher.errors",
    "LaunchConfig": "launcher.config",
    "LauncherError": "launcher.errors",
    "SignalException": "launcher.errors",
    "UsageError": "launcher.errors",
}


def __getattr__(name: str) -> object:
    """Load a public name; see PEP 562."""
    if name not in __all__:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    from importlib import import_module  # noqa: PLC0415 -- only when something is used

    value = getattr(import_module(_HOMES.get(name, "launcher.api")), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    """List the public names, loaded or not."""
    return sorted({*globals(), *__all__})
