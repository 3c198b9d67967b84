"""`launcher.settings`: which of flag, variable, file and default counts, and bad files."""

from __future__ import annotations

import sys
import tomllib
from importlib import metadata
from pathlib import Path

import pytest

from launcher.__main__ import main as entry
from launcher.cli import main
from launcher.commandline import parse
from launcher.errors import UsageError
from launcher.options import OPTIONS, options_table

README = Path(__file__).parents[2] / "README.md"


@pytest.fixture
def config(tmp_path: Path) -> Path:
    """Return a file that sets options of each kind."""
    path = tmp_path / "run.toml"
    path.write_text(
        """
        [tool.launcher]
        nproc_per_node = 4
        max_restarts = 2
        module = true
        shutdown_timeout = 2.5
        rdzv_id = "mine"
        local_ranks_filter = [0, 2]
        rdzv_conf = { join_timeout = 60, last_call_timeout = 5.5 }
        """
    )
    return path


def test_a_file_sets_what_neither_flag_nor_variable_does(config: Path) -> None:
    """Order: flag, variable, file, default."""
    environ = {"PET_CONFIG": str(config), "PET_MAX_RESTARTS": "7", "PET_NPROC_PER_NODE": "9"}
    launch = parse(["--nproc-per-node=5", "pkg"], environ)

    assert launch.config.nproc_per_node == 5
    assert launch.config.max_restarts == 7
    assert launch.config.run_id == "mine"
    assert launch.config.role == "default"
    assert launch.target.is_module


def test_values_are_what_their_texts_would_be(config: Path) -> None:
    """Numbers, truth values, lists and tables."""
    launch = parse([f"--config={config}", "pkg"], {})

    assert launch.config.nproc_per_node == 4
    assert launch.config.shutdown_timeout == 2.5
    assert launch.config.rdzv_configs["join_timeout"] == "60"
    assert launch.config.rdzv_configs["last_call_timeout"] == "5.5"


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "expected a table [tool.launcher]"),
        ("tool = 3", "expected a table [tool.launcher]"),
        ("[tool.launcher", "expected TOML: "),
        ("[tool.launcher]\nx = '\xff'", "expected TOML: "),
        ("[tool.launcher]\nnprocs = 1", "nprocs: expected the name of an option"),
        ("[tool.launcher]\nnproc-per-node = 1", "did you mean nproc_per_node?"),
        ("[tool.launcher]\nconfig = 'x'", "config: expected the name of an option"),
        ("[tool.launcher]\nrole = 1979-05-27", "role=datetime.date(1979, 5, 27): expected a text"),
        ("[tool.launcher]\nrole = [[1]]", "role=[[1]]: expected a text"),
    ],
)
def test_bad_files_are_named(tmp_path: Path, text: str, message: str) -> None:
    """And what is wrong with them, on one line."""
    path = tmp_path / "run.toml"
    path.write_text(text, encoding="latin-1")
    with pytest.raises(UsageError) as caught:
        parse(["a.py"], {"PET_CONFIG": str(path)})

    assert str(caught.value).startswith(f"PET_CONFIG={path}: ")
    assert message in str(caught.value)


def test_bad_values_are_named_by_file_and_key(tmp_path: Path) -> None:
    """As if they had been given by an option."""
    path = tmp_path / "run.toml"
    path.write_text("[tool.launcher]\nnproc_per_node = 0")
    with pytest.raises(UsageError) as caught:
        parse([f"--config={path}", "a.py"], {})

    assert str(caught.value).startswith(f"{path}: nproc_per_node=0: expected an integer, at least")


def test_the_configuration_is_printed_with_its_origins(
    config: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """No script is needed, and the output is a file for --config that means the same."""
    monkeypatch.setenv("PET_MAX_RESTARTS", "7")
    with pytest.raises(SystemExit) as caught:
        main([f"--config={config}", "--nproc-per-node=5", "--print-config"])
    shown = capsys.readouterr().out

    assert caught.value.code == 0
    lines = shown.splitlines()
    assert 'nproc_per_node = "5"  # --nproc-per-node' in lines
    assert 'max_restarts = "7"  # PET_MAX_RESTARTS' in lines
    assert f'rdzv_id = "mine"  # {config}' in lines
    assert 'role = "default"  # default' in lines
    assert "# restart_window is not set" in lines
    assert tomllib.loads(shown)["tool"]["launcher"]["nproc_per_node"] == "5"
    config.write_text(shown)
    assert parse([f"--config={config}", "pkg"], {}).config.max_restarts == 7


def test_the_version_is_that_of_the_distribution(capsys: pytest.CaptureFixture[str]) -> None:
    """The launcher has none of its own."""
    with pytest.raises(SystemExit) as caught:
        main(["--version"])

    assert (caught.value.code, capsys.readouterr().out) == (
        0,
        f"launcher {metadata.version('asyncrpc')}\n",
    )


def test_a_tree_that_is_not_installed_has_no_version(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """As its own test suite may run."""
    monkeypatch.setattr("launcher.arguments._DISTRIBUTION", "no-such-distribution")
    with pytest.raises(SystemExit):
        main(["--version"])

    assert capsys.readouterr().out == "launcher, of a source tree that is not installed\n"


def test_completion_knows_the_options(capsys: pytest.CaptureFixture[str]) -> None:
    """Of each option its spelling with dashes, at least."""
    pytest.importorskip("shtab", reason="needs shtab, of the extra test")
    with pytest.raises(SystemExit):
        main(["--print-completion", "bash"])
    shown = capsys.readouterr().out

    assert [o.name for o in OPTIONS if f"--{o.name}" not in shown] == []
    assert main(["--print-completion", "cmd"]) == 2
    assert capsys.readouterr().err.startswith(
        "launcher: --print-completion=cmd: expected one of bash"
    )


def test_completion_without_the_extra_says_what_to_install(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """On one line."""
    monkeypatch.setitem(sys.modules, "shtab", None)
    status = main(["--print-completion", "bash"])

    assert (status, capsys.readouterr().err) == (
        2,
        "launcher: --print-completion: expected the extra: pip install asyncrpc[completion]\n",
    )


def test_the_table_has_a_line_for_each_option() -> None:
    """It is the README's, once that has it."""
    lines = options_table().splitlines()
    head = lines[0]
    readme = README.read_text()

    assert len(lines) == len(OPTIONS) + 2
    assert {line.replace("\\|", "").count("|") for line in lines} == {5}
    assert head not in readme or options_table() in readme


def test_the_command_launcher_is_what_python_m_launcher_is() -> None:
    """Completion needs a command of one word."""
    project = tomllib.loads((README.parent / "pyproject.toml").read_text())["project"]

    assert project["scripts"] == {"launcher": f"{entry.__module__}:{entry.__name__}"}
