"""Shows files that others are writing, line by line: torch's `TailLog`.

For users with files of their own. The launcher does not follow files: its workers' output passes
through it, and is in the files besides.
"""

from __future__ import annotations

import logging
import os
import threading
from collections.abc import Callable, Mapping
from contextlib import ExitStack
from typing import IO, Self, TextIO

__all__ = ("TailLog",)

_log = logging.getLogger("launcher.logs")


class TailLog:
    """Copies lines from files to one place while they are written, in a thread.

    Only whole lines are copied, until `stop`; files that do not exist yet are waited for.

    Args:
        name: for the thread, and the default prefixes.
        log_files: paths by local rank.
        dst: where lines go: a text stream, or the path of a file that is made.
        log_line_prefixes: text before each line, by local rank; ``None``, and for ranks that are
            missing: "[<name><local rank>]:".
        interval_sec: seconds between looks at the files.
        log_line_filter: says which lines are copied; ``None`` for all.
    """

    def __init__(
        self,
        name: str,
        log_files: Mapping[int, str],
        dst: TextIO | str,
        log_line_prefixes: Mapping[int, str] | None = None,
        interval_sec: float = 0.1,
        log_line_filter: Callable[[str], bool] | None = None,
    ) -> None:
        defaults = {rank: f"[{name}{rank}]:" for rank in log_files}
        self._prefixes = {**defaults, **(log_line_prefixes or {})}
        self._paths = dict(log_files)
        self._dst = dst
        self._interval = interval_sec
        self._filter = log_line_filter
        self._is_stopping = threading.Event()
        self._thread = threading.Thread(target=self._run, name=f"tail of {name}", daemon=True)
        # Of the thread alone:
        self._files: dict[int, IO[str]] = {}
        self._unfinished = dict.fromkeys(log_files, "")

    def start(self) -> Self:
        """Begin to follow the files, if there are any."""
        if self._paths:
            self._thread.start()
        return self

    def stop(self) -> None:
        """Copy what is there by now, unfinished lines included, and end. Idempotent."""
        self._is_stopping.set()
        if self._thread.is_alive():
            self._thread.join()

    def stopped(self) -> bool:
        """Return whether `stop` was called."""
        return self._is_stopping.is_set()

    def _run(self) -> None:
        try:
            with ExitStack() as opened:
                dst = self._dst
                if isinstance(dst, str | os.PathLike):
                    dst = opened.enter_context(open(dst, "w", encoding="utf-8"))
                self._follow(dst, opened)
        except Exception:  # noqa: BLE001 -- nobody waits for the thread, and the workers are not to blame
            _log.exception("error in a tail of %s", ", ".join(self._paths.values()))

    def _follow(self, dst: TextIO, opened: ExitStack) -> None:
        is_last = False
        while not is_last:
            is_last = self._is_stopping.wait(self._interval)
            for rank, path in self._paths.items():
                if rank not in self._files and os.path.exists(path):
                    file = open(path, encoding="utf-8", errors="replace", newline="")  # noqa: SIM115 -- entered below
                    self._files[rank] = opened.enter_context(file)
                if rank in self._files:
                    self._copy(rank, self._files[rank].read(), dst, is_last=is_last)
            dst.flush()

    def _copy(self, rank: int, text: str, dst: TextIO, *, is_last: bool) -> None:
        lines = (self._unfinished[rank] + text).splitlines(keepends=True)
        self._unfinished[rank] = ""
        if lines and not is_last and not lines[-1].endswith(("\n", "\r")):
            self._unfinished[rank] = lines.pop()
        prefix = self._prefixes[rank]
        dst.writelines(
            prefix + line for line in lines if self._filter is None or self._filter(line)
        )
