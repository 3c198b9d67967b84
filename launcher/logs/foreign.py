"""`ForeignLogsSpecs`: log specs written for torch, behind our interface.

Made for classes of other packages that are none of ours, see `plugins`. Nothing of torch is known
here but the names of its arguments and fields.
"""

from __future__ import annotations

import inspect
import os
from collections.abc import Callable, Iterable, Mapping
from dataclasses import fields
from typing import Any

from launcher.logs.layout import LogsDest, LogsSpecs, Std

__all__ = ("ForeignLogsSpecs",)


class ForeignLogsSpecs(LogsSpecs):
    """What the user wants logged, by a class that torch's launcher would take.

    Args:
        make: that class.
        log_dir: folder for files; ``None`` for none that the user has named.
        redirects: streams written to files and not shown.
        tee: streams shown with a prefix on each line, and written to files.
        local_ranks_filter: the only local ranks whose output is shown; ``None`` or empty for all.
    """

    def __init__(
        self,
        make: Callable[..., Any],
        log_dir: str | os.PathLike[str] | None = None,
        redirects: Std | Mapping[int, Std] = Std.NONE,
        tee: Std | Mapping[int, Std] = Std.NONE,
        local_ranks_filter: Iterable[int] | None = None,
    ) -> None:
        self._specs = make(
            log_dir=None if log_dir is None else os.fspath(log_dir),
            redirects=_theirs(make, "redirects", redirects),
            tee=_theirs(make, "tee", tee),
            local_ranks_filter=set(local_ranks_filter or ()) or None,
        )

    @property
    def root_log_dir(self) -> str | None:
        """The folder of this run's logs, as far as it is known by now."""
        try:
            return str(self._specs.root_log_dir)
        except Exception:  # noqa: BLE001 -- torch's raises before the first round
            return None

    def reify(self, envs: Mapping[int, Mapping[str, str]]) -> LogsDest:
        """Make the folders of the next round and return its paths."""
        dest = self._specs.reify({rank: dict(env) for rank, env in envs.items()})
        names = (each.name for each in fields(LogsDest))
        return LogsDest(**{name: getattr(dest, name) for name in names if hasattr(dest, name)})


def _theirs(make: Callable[..., Any], argument: str, value: Std | Mapping[int, Std]) -> Any:
    """Return streams as the class names them: in the type of its argument's default."""
    parameter = inspect.signature(make).parameters.get(argument)
    kind = Std if parameter is None else type(parameter.default)
    if not issubclass(kind, int):
        kind = Std
    if isinstance(value, Mapping):
        return {rank: kind(int(choice)) for rank, choice in value.items()}
    return kind(int(value))
