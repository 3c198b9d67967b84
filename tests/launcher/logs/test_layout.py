"""launcher.logs.layout: choices of streams, folders and paths."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from launcher.logs import DefaultLogsSpecs, LogsDest, Std, line_prefix, to_map

ENVS: dict[int, dict[str, str]] = {0: {"TORCHELASTIC_RUN_ID": "run7"}, 1: {}}


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("0", Std.NONE),
        ("1", Std.OUT),
        ("2", Std.ERR),
        ("3", Std.ALL),
        ("0:1", {0: Std.OUT}),
        ("0:1,1:1", {0: Std.OUT, 1: Std.OUT}),
        ("10:3,2:0", {10: Std.ALL, 2: Std.NONE}),
    ],
)
def test_std_from_str(text: str, expected: object) -> None:
    """One digit is for all workers, pairs are by local rank."""
    assert Std.from_str(text) == expected


@pytest.mark.parametrize(
    "text", ["", "4", "11", "0:1,", "0:1,1", "1,0:1", "0:4", "a:1", "1\n", "-1"]
)
def test_std_from_str_refuses(text: str) -> None:
    """Anything else is an error that shows the value."""
    with pytest.raises(ValueError, match="streams must be"):
        Std.from_str(text)


def test_a_destination_names_only_what_there_is() -> None:
    """As torch's, it may be made without anything."""
    assert LogsDest(stdouts={0: "x"}) == LogsDest({0: "x"}, {}, {}, {}, {}, "", "")


def test_to_map() -> None:
    """One choice is repeated, missing ranks get none, ranks out of range are dropped."""
    assert to_map(Std.OUT, 2) == {0: Std.OUT, 1: Std.OUT}
    assert to_map({1: Std.OUT}, 2) == {0: Std.NONE, 1: Std.OUT}
    assert to_map({0: Std.ERR, 5: Std.OUT}, 1) == {0: Std.ERR}


def test_paths_mean_the_same_everywhere(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """They are shown to commands in other folders, and stay when the program changes its own."""
    monkeypatch.chdir(tmp_path)
    specs = DefaultLogsSpecs("logs", redirects=Std.OUT)
    monkeypatch.chdir("/")
    dest = specs.reify(ENVS)

    assert dest.stdouts[0].startswith(f"{tmp_path}/logs/run7_")
    assert (specs.root_log_dir or "").startswith(f"{tmp_path}/logs/run7_")


def test_layout_of_a_log_dir(tmp_path: Path) -> None:
    """Files are in <log_dir>/<run_id>_<random>/attempt_<n>/<local_rank>/."""
    specs = DefaultLogsSpecs(tmp_path / "logs", redirects=Std.OUT, tee={1: Std.ERR})
    dest = specs.reify(ENVS)

    (run_dir,) = (tmp_path / "logs").iterdir()
    assert run_dir.name.startswith("run7_")
    assert specs.root_log_dir == str(run_dir)
    attempt = run_dir / "attempt_0"
    assert sorted(path.name for path in attempt.iterdir()) == ["0", "1"]
    assert dest.stdouts == {rank: str(attempt / str(rank) / "stdout.log") for rank in (0, 1)}
    assert dest.stderrs == {0: "", 1: str(attempt / "1" / "stderr.log")}
    assert dest.tee_stdouts == {}
    assert dest.tee_stderrs == {1: str(attempt / "1" / "stderr.log")}
    assert dest.error_files == {rank: str(attempt / str(rank) / "error.json") for rank in (0, 1)}


def test_each_round_has_its_own_folder(tmp_path: Path) -> None:
    """Rounds are counted from 0 whatever the restart count says, and none is deleted."""
    specs = DefaultLogsSpecs(tmp_path, redirects=Std.ALL)
    for number in range(3):
        dest = specs.reify({0: {"TORCHELASTIC_RESTART_COUNT": "0"}})
        Path(dest.stdouts[0]).write_text(str(number))

    (run_dir,) = tmp_path.iterdir()
    texts = {path.name: (path / "0" / "stdout.log").read_text() for path in run_dir.iterdir()}
    assert texts == {"attempt_0": "0", "attempt_1": "1", "attempt_2": "2"}


def test_run_id_with_slashes_stays_one_folder(tmp_path: Path) -> None:
    """A run id is a name, not a path."""
    DefaultLogsSpecs(tmp_path).reify({0: {"TORCHELASTIC_RUN_ID": "../a/b"}})

    (run_dir,) = tmp_path.iterdir()
    assert run_dir.name.startswith(".._a_b_")


def test_log_dir_that_is_a_file(tmp_path: Path) -> None:
    """It is refused at once, by name."""
    path = tmp_path / "file"
    path.touch()

    with pytest.raises(NotADirectoryError, match=str(path)):
        DefaultLogsSpecs(path)


def test_log_dir_below_a_file(tmp_path: Path) -> None:
    """It is refused when folders are made."""
    (tmp_path / "file").touch()

    with pytest.raises(NotADirectoryError):
        DefaultLogsSpecs(tmp_path / "file" / "logs").reify(ENVS)


@pytest.mark.parametrize("name", ["redirects", "tee"])
@pytest.mark.parametrize("value", ["3", 4, -1, None, {0: "1"}, {"0": Std.OUT}, {-1: Std.OUT}])
def test_what_is_no_choice_of_streams_is_refused(name: str, value: object) -> None:
    """When it is given, not when the first worker starts; numbers are as good as their names."""
    with pytest.raises(ValueError, match=rf"^{name}=.*: expected Std, or Std by local rank"):
        DefaultLogsSpecs(os.devnull, **{name: value})  # type: ignore[arg-type]  # that is the point

    DefaultLogsSpecs(os.devnull, **{name: 3})  # type: ignore[arg-type]
    DefaultLogsSpecs(os.devnull, **{name: {0: 1}})  # type: ignore[arg-type]


def test_dev_null_keeps_no_file() -> None:
    """Redirected output is thrown away, teed output only shown, errors are not recorded."""
    specs = DefaultLogsSpecs(os.devnull, redirects={0: Std.OUT}, tee={1: Std.OUT})
    dest = specs.reify(ENVS)

    assert dest.stdouts == {0: os.devnull, 1: ""}
    assert dest.tee_stdouts == {1: ""}
    assert dest.stderrs == {0: "", 1: ""}
    assert dest.error_files == {0: "", 1: ""}
    assert specs.root_log_dir is None


def test_without_log_dir_tee_keeps_no_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Teed output is only shown; redirected output and error files go to a temporary folder."""
    monkeypatch.setenv("TMPDIR", str(tmp_path))
    dest = DefaultLogsSpecs(redirects={0: Std.OUT}, tee={1: Std.OUT}).reify(ENVS)

    assert dest.stdouts[0].startswith(str(tmp_path))
    assert dest.error_files[1].startswith(str(tmp_path))
    assert dest.stdouts[1] == ""
    assert dest.tee_stdouts == {1: ""}


def test_tidy_removes_a_temporary_folder_without_content(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Only folders are removed, and only those that we made up ourselves."""
    monkeypatch.setenv("TMPDIR", str(tmp_path))
    specs = DefaultLogsSpecs()
    specs.reify(ENVS)
    specs.tidy()

    assert list(tmp_path.iterdir()) == []


def test_a_folder_that_was_tidied_is_made_anew(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Under another name, for its owner alone again, and rounds are counted on."""
    monkeypatch.setenv("TMPDIR", str(tmp_path))
    specs = DefaultLogsSpecs()
    specs.reify(ENVS)
    first = specs.temporary_dir
    specs.tidy()
    again = Path(specs.reify(ENVS).error_files[0])

    assert specs.temporary_dir not in (None, first)
    assert Path(specs.temporary_dir or "").stat().st_mode & 0o777 == 0o700
    assert again.parts[-3:-1] == ("attempt_1", "0")


def test_each_run_has_its_own_folder(tmp_path: Path) -> None:
    """The first one is the object's own, so that its owner finds it there."""
    specs = DefaultLogsSpecs(tmp_path)
    first, second = specs.for_run(), specs.for_run()
    paths = [Path(run.reify(ENVS).error_files[0]) for run in (first, second)]

    assert first is specs
    assert {path.parts[-3] for path in paths} == {"attempt_0"}
    assert paths[0].parents[2] != paths[1].parents[2]


def test_tidy_keeps_error_files(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A folder with content stays, and so does the next round's."""
    monkeypatch.setenv("TMPDIR", str(tmp_path))
    specs = DefaultLogsSpecs()
    error_file = Path(specs.reify(ENVS).error_files[0])
    error_file.touch()
    specs.tidy()
    specs.reify(ENVS)

    assert error_file.exists()
    assert (error_file.parents[2] / "attempt_1" / "0").is_dir()


def test_tidy_leaves_the_users_folder_alone(tmp_path: Path) -> None:
    """What is in --log-dir is never removed."""
    specs = DefaultLogsSpecs(tmp_path)
    specs.reify(ENVS)
    specs.tidy()

    assert Path(specs.root_log_dir or "", "attempt_0", "0").is_dir()


def test_local_ranks_filter_silences_the_others(tmp_path: Path) -> None:
    """Other ranks' teed streams only go to their files, and the rest to nowhere."""
    specs = DefaultLogsSpecs(tmp_path, tee=Std.OUT, local_ranks_filter={0})
    dest = specs.reify(ENVS)

    assert set(dest.tee_stdouts) == {0}
    assert dest.stdouts[1].endswith("stdout.log")
    assert dest.stderrs == {0: "", 1: os.devnull}


def test_line_prefix() -> None:
    """The default has role and local rank; a template may name all three, other $ are kept."""
    assert line_prefix(None, role_name="trainer", rank=5, local_rank=1) == "[trainer1]:"
    template = "${role_name}/${rank}/${local_rank} $x: "
    assert line_prefix(template, role_name="t", rank=5, local_rank=1) == "t/5/1 $x: "
