"""Workers that run a program."""

from __future__ import annotations

from collections.abc import Sequence

from launcher.process.base import ProcessContext

__all__ = ("CommandContext",)


class CommandContext(ProcessContext):
    """Workers that each run the entrypoint, a program, with their own arguments."""

    def command_line(self, local_rank: int) -> Sequence[str]:
        """Return program and arguments of a worker."""
        return (str(self.entrypoint), *map(str, self.args[local_rank]))
