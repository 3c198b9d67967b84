"""How the workers of a context ended. Values only; made by the contexts."""

from __future__ import annotations

from dataclasses import dataclass, field

from launcher.errors import ProcessFailure

__all__ = ("RunProcsResult",)


@dataclass(slots=True)
class RunProcsResult:
    """How the workers of a context ended."""

    return_values: dict[int, object] = field(default_factory=dict)
    """What each returned, by local rank; ``None`` for a command; empty after a failure."""
    failures: dict[int, ProcessFailure] = field(default_factory=dict)
    """Those that did not end with 0, by local rank, those stopped by us included."""
    stdouts: dict[int, str] = field(default_factory=dict)
    """File with the stdout of each; "" for none."""
    stderrs: dict[int, str] = field(default_factory=dict)
    """File with the stderr of each; "" for none."""
    exit_codes: dict[int, int] = field(default_factory=dict, compare=False)
    """Exit status of each, ``-N`` for signal N; those of workers that we stopped included."""

    def is_failed(self) -> bool:
        """Return whether any worker failed."""
        return bool(self.failures)
