"""`launcher.limits`: a number of workers that cannot work is refused, any other is not."""

from __future__ import annotations

import errno
import os
import resource
from pathlib import Path

import pytest

from launcher import limits
from launcher.limits import check_workers, explain_shortage

PIPES = 3  # descriptors for each worker


def allow(monkeypatch: pytest.MonkeyPatch, *, files: int = -1, processes: int = -1) -> None:
    """Let the system seem to have these limits, and no others; -1 for none."""
    given = {resource.RLIMIT_NOFILE: files, resource.RLIMIT_NPROC: processes}
    monkeypatch.setattr(resource, "getrlimit", lambda which: (given[which], given[which]))
    monkeypatch.setattr(limits, "_CGROUPS", "/nowhere")
    monkeypatch.setattr(os, "getuid", lambda: 1000)


def most(workers: int) -> int:
    """Return how many workers a refusal of so many says would do."""
    with pytest.raises(ValueError, match=f"nproc_per_node={workers}: expected at most") as caught:
        check_workers(workers, PIPES)
    return int(str(caught.value).split("at most ")[1].partition(",")[0])


@pytest.mark.parametrize("files", [64, 100, 256, 1024, 100_000])
def test_as_many_as_are_said_to_fit_are_let_through(
    files: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """And not one more: the number in the message can be used."""
    allow(monkeypatch, files=files)
    fitting = most(files)
    check_workers(fitting, PIPES)

    assert 0 < fitting < files / PIPES
    assert most(fitting + 1) == fitting


def test_the_limit_of_processes_counts(monkeypatch: pytest.MonkeyPatch) -> None:
    """It is named with its value; the launcher's own processes are part of it."""
    allow(monkeypatch, processes=50)

    with pytest.raises(ValueError, match=r"at most 48, the limit of processes .ulimit -u. is 50"):
        check_workers(49, PIPES)
    check_workers(48, PIPES)


def test_root_is_not_held_to_the_limit_of_processes(monkeypatch: pytest.MonkeyPatch) -> None:
    """The kernel lets it have more."""
    allow(monkeypatch, processes=50)
    monkeypatch.setattr(os, "getuid", lambda: 0)

    check_workers(60, PIPES)


def test_a_control_group_counts_with_what_runs_in_it(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """Containers limit processes this way, of version 1 or 2."""
    allow(monkeypatch)
    monkeypatch.setattr(limits, "_CGROUPS", str(tmp_path))
    for folder in (tmp_path, tmp_path / "pids"):
        folder.mkdir(exist_ok=True)
        (folder / "pids.max").write_text("30\n")
        (folder / "pids.current").write_text("10\n")

    with pytest.raises(ValueError, match=r"at most 18, the control group's .*/pids.max is 30"):
        check_workers(19, PIPES)
    check_workers(18, PIPES)


def test_the_kernels_own_limit_counts(monkeypatch: pytest.MonkeyPatch) -> None:
    """Nobody has more process ids than there are."""
    allow(monkeypatch)

    with pytest.raises(ValueError, match=r"the system's kernel.(threads-max|pid_max) is"):
        check_workers(9_999_999, PIPES)


def test_no_limit_refuses_nobody(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """A control group may say "max"."""
    allow(monkeypatch)
    monkeypatch.setattr(limits, "_CGROUPS", str(tmp_path))
    (tmp_path / "pids.max").write_text("max\n")

    check_workers(1000, PIPES)


def test_a_shortage_is_told_from_other_errors() -> None:
    """Only what the system has run out of is explained."""
    full = explain_shortage(OSError(errno.EMFILE, "Too many open files"))

    assert full == "Too many open files; the system has no more open files for us (ulimit -n)"
    assert explain_shortage(FileNotFoundError(errno.ENOENT, "gone")) is None
