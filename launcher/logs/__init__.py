"""Worker output: where it goes, and how it gets there line by line."""

from launcher.logs.layout import DefaultLogsSpecs, LogsDest, LogsSpecs, Std, line_prefix, to_map
from launcher.logs.lines import LineAssembler
from launcher.logs.plugins import get_logs_specs_class
from launcher.logs.tee import WorkerOutput
from launcher.logs.temporary import temporary_folder

TYPE_CHECKING = False  # below: loaded when first used, since the launcher itself needs neither
if TYPE_CHECKING:
    from launcher.logs.folding import show_ranks
    from launcher.logs.redirection import redirect
    from launcher.logs.taillog import TailLog

__all__ = (
    "DefaultLogsSpecs",
    "LineAssembler",
    "LogsDest",
    "LogsSpecs",
    "Std",
    "TailLog",
    "WorkerOutput",
    "get_logs_specs_class",
    "line_prefix",
    "redirect",
    "show_ranks",
    "temporary_folder",
    "to_map",
)

_HOMES = {
    "TailLog": "launcher.logs.taillog",
    "redirect": "launcher.logs.redirection",
    "show_ranks": "launcher.logs.folding",
}


def __getattr__(name: str) -> object:
    """Load a public name; see PEP 562."""
    if name not in _HOMES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    from importlib import import_module  # noqa: PLC0415 -- only when something is used

    value = getattr(import_module(_HOMES[name]), name)
    globals()[name] = value
    return value
