"""`launcher.logs.foreign`: log specs that were written for torch."""

from __future__ import annotations

import enum
from pathlib import Path
from types import SimpleNamespace
from typing import Any

from launcher.logs import LogsDest, Std
from launcher.logs.foreign import ForeignLogsSpecs

ENVS: dict[int, dict[str, str]] = {0: {"TORCHELASTIC_RUN_ID": "run"}, 1: {}}


class Streams(enum.IntFlag):
    """Torch's `Std`, which is another type than ours."""

    NONE = 0
    OUT = 1
    ERR = 2
    ALL = 3


class Theirs:
    """What torch calls a `LogsSpecs`: no more than these."""

    def __init__(
        self,
        log_dir: str | None = None,
        redirects: Streams | dict[int, Streams] = Streams.NONE,
        tee: Streams | dict[int, Streams] = Streams.NONE,
        local_ranks_filter: set[int] | None = None,
    ) -> None:
        self.given = (log_dir, redirects, tee, local_ranks_filter)
        self._root: str | None = None

    @property
    def root_log_dir(self) -> str:
        """The folder, once there is one."""
        if self._root is None:
            raise ValueError("no folder yet")
        return self._root

    def reify(self, envs: dict[int, dict[str, str]]) -> Any:
        """Say where output goes."""
        self._root = "/logs"
        files = {rank: f"/logs/{rank}" for rank in envs}
        return SimpleNamespace(
            stdouts=files,
            stderrs=dict.fromkeys(envs, ""),
            tee_stdouts=files,
            tee_stderrs={},
            error_files={rank: f"/logs/{rank}.json" for rank in envs},
            filtered_stdout="/logs/out",
            filtered_stderr="",
        )


def test_it_is_given_what_torch_gives(tmp_path: Path) -> None:
    """Of its own types, by local rank too."""
    specs = ForeignLogsSpecs(Theirs, tmp_path, {1: Std.ERR}, Std.ALL, {0})
    plain = ForeignLogsSpecs(Theirs)

    assert specs._specs.given == (str(tmp_path), {1: Streams.ERR}, Streams.ALL, {0})
    assert {type(streams) for streams in (specs._specs.given[1][1], specs._specs.given[2])} == {
        Streams
    }
    assert plain._specs.given == (None, Streams.NONE, Streams.NONE, None)


def test_a_class_without_a_default_gets_ours() -> None:
    """There is no other to go by."""

    def make(**given: Any) -> Any:
        return SimpleNamespace(given=given)

    assert ForeignLogsSpecs(make, tee=Std.OUT)._specs.given["tee"] is Std.OUT


def test_it_says_where_output_goes() -> None:
    """In our words; before the first round torch's has no folder, and raises."""
    specs = ForeignLogsSpecs(Theirs)
    before = specs.root_log_dir
    dest = specs.reify(ENVS)

    assert (before, specs.root_log_dir, specs.temporary_dir) == (None, "/logs", None)
    assert dest == LogsDest(
        {0: "/logs/0", 1: "/logs/1"},
        {0: "", 1: ""},
        {0: "/logs/0", 1: "/logs/1"},
        {},
        {0: "/logs/0.json", 1: "/logs/1.json"},
        "/logs/out",
        "",
    )
    assert specs.for_run() is specs
    specs.tidy()
