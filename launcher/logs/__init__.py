"""Worker output: where it goes, and how it gets there line by line."""

from launcher.logs.layout import DefaultLogsSpecs, LogsDest, LogsSpecs, Std, line_prefix, to_map
from launcher.logs.tee import WorkerOutput
from launcher.logs.temporary import temporary_folder

__all__ = (
    "DefaultLogsSpecs",
    "LogsDest",
    "LogsSpecs",
    "Std",
    "WorkerOutput",
    "line_prefix",
    "temporary_folder",
    "to_map",
)
