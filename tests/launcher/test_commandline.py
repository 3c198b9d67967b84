"""`launcher.commandline`: what a command line means, and the line that says why it has none."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from launcher.affinity import AffinityMode, NumaOptions
from launcher.commandline import parse
from launcher.errors import UsageError
from launcher.options import OPTIONS, Option
from launcher.target import Target


def refusal(argv: list[str], environ: dict[str, str] | None = None) -> str:
    """Return the text of the usage error of a command line."""
    with pytest.raises(UsageError) as caught:
        parse(argv, environ or {})
    return str(caught.value)


def test_the_script_ends_the_options() -> None:
    """What follows the script is the script's, options of ours and -- included."""
    launch = parse(["--nproc-per-node", "2", "a.py", "--nproc-per-node", "9", "--", "-m"], {})

    assert launch.config.nproc_per_node == 2
    assert launch.target == Target(name="a.py", args=("--nproc-per-node", "9", "--", "-m"))


def test_a_leading_double_dash_ends_the_options_too() -> None:
    """A script may have a name that looks like an option."""
    launch = parse(["--", "-m", "x"], {})

    assert launch.target == Target(name="-m", args=("x",))


def test_both_spellings_are_the_same_option() -> None:
    """Users of torchrun write either."""
    dashes = parse(["--max-restarts=4", "a.py"], {}).config.max_restarts
    underscores = parse(["--max_restarts", "4", "a.py"], {}).config.max_restarts

    assert (dashes, underscores) == (4, 4)


def test_defaults_are_torchruns_command_line_ones() -> None:
    """One worker, no restart, role default, a random run id later."""
    config = parse(["a.py"], {}).config

    assert (config.nproc_per_node, config.max_restarts, config.role, config.run_id) == (
        1,
        0,
        "default",
        "",
    )


def test_variables_stand_in_for_options_not_given() -> None:
    """PET_* is looked at for every option; the option wins."""
    environ = {"PET_NPROC_PER_NODE": "3", "PET_MAX_RESTARTS": "2", "PET_RDZV_ID": "run"}
    config = parse(["--nproc-per-node=4", "a.py"], environ).config

    assert (config.nproc_per_node, config.max_restarts, config.run_id) == (4, 2, "run")


def test_switches_are_set_by_their_variables() -> None:
    """A switch's variable takes words as well as digits."""
    launch = parse(["pkg.mod", "x"], {"PET_MODULE": "true", "PET_NO_PYTHON": "0"})

    assert launch.target == Target(name="pkg.mod", args=("x",), is_module=True)


def test_the_shutdown_timeout_is_option_else_variable_else_30() -> None:
    """Order: flag, PET_*, TORCH_ELASTIC_*, 30."""
    torch = {"TORCH_ELASTIC_SHUTDOWN_TIMEOUT": "7"}
    pet = {**torch, "PET_SHUTDOWN_TIMEOUT": "6"}

    timeouts = [
        parse(["--shutdown-timeout=5", "a.py"], pet).config.shutdown_timeout,
        parse(["a.py"], pet).config.shutdown_timeout,
        parse(["a.py"], torch).config.shutdown_timeout,
        parse(["a.py"], {}).config.shutdown_timeout,
    ]

    assert timeouts == [5.0, 6.0, 7.0, 30.0]


@pytest.mark.parametrize(
    ("argv", "environ", "texts"),
    [
        ([], {}, ["script"]),
        (["--"], {}, ["script"]),
        (["--nproc-per-node", "0", "a.py"], {}, ["--nproc-per-node=0", "at least 1"]),
        (["--nproc_per_node", "x", "a.py"], {}, ["--nproc-per-node=x", "at least 1"]),
        (["--nproc-per-node"], {}, ["--nproc-per-node", "argument"]),
        (["--nnodes", "2:1", "a.py"], {}, ["--nnodes=2:1", "N or MIN:MAX"]),
        (["--nnodes=2", "--standalone", "a.py"], {}, ["--nnodes=2", "one node", "--standalone"]),
        (["--bogus", "a.py"], {}, ["--bogus"]),
        (["--standalone=yes", "a.py"], {}, ["--standalone", "expected no value", "'yes'"]),
        (["--nproc", "2", "a.py"], {}, ["--nproc"]),
        (["-t", "4", "a.py"], {}, ["--tee=4"]),
        (["--stdin", "1", "a.py"], {}, ["--stdin=1", "--nproc-per-node=1", "no rank 1"]),
        (["-t", "5:3", "a.py"], {"PET_NPROC_PER_NODE": "2"}, ["PET_NPROC_PER_NODE=2", "no rank 5"]),
        (["-r", "0:9", "a.py"], {}, ["--redirects=0:9"]),
        (["--module", "--no-python", "a"], {}, ["--module", "--no-python"]),
        (["a.py"], {"PET_MAX_RESTARTS": "-1"}, ["PET_MAX_RESTARTS=-1", "at least 0"]),
        (["a.py"], {"PET_STANDALONE": "maybe"}, ["PET_STANDALONE=maybe", "1 or 0"]),
        (
            ["a.py"],
            {"TORCH_ELASTIC_SHUTDOWN_TIMEOUT": "-3"},
            ["TORCH_ELASTIC_SHUTDOWN_TIMEOUT=-3", "at least 0"],
        ),
    ],
)
def test_a_usage_error_names_option_value_and_rule(
    argv: list[str], environ: dict[str, str], texts: list[str]
) -> None:
    """Whoever reads it knows what to change."""
    message = refusal(argv, environ)

    assert [text for text in texts if text not in message] == []


INTEGER = "expected an integer, at least 0"
BAD = {
    "config": ("expected", ("", "/no/such.toml", os.path.abspath(__file__))),
    "nnodes": ("expected N or MIN:MAX", ("", "0", "-1", "nan", "x", "2:1", ":2", "1:2:3")),
    "nproc-per-node": (
        "expected an integer, at least 1, or auto or cpu",
        ("", "0", "-1", "nan", "1.5", "1_0", "gpu"),
    ),
    "rdzv-backend": ("expected a name", ("",)),
    "rdzv-endpoint": ("", ()),  # the backend knows the rule: see the end-to-end tests
    "rdzv-conf": ("expected settings such as", ("x", "=1", "join_timeout=")),
    "node-rank": (INTEGER, ("", "-1", "nan", "x")),
    "expect-nodes": ("expected an integer, at least 1", ("", "0", "-1", "nan", "x")),
    "master-addr": ("expected a name", ("",)),
    "hosts": ("expected hosts such as a:4,b:4", ("", ",", "a:0", "a:-1", "a:x", "-x:1", ":1")),
    "ssh": ("expected a program", ("", " ")),
    "master-port": ("expected a port", ("", "0", "-1", "nan", "x", "65536")),
    "torch-store": ("expected 1 or 0", ("2", "-1", "nan", "maybe")),
    "environment": ("expected", ("", "x")),
    "fold": ("expected 1 or 0", ("2", "-1", "nan", "maybe")),
    "no-detect": ("expected 1 or 0", ("2", "-1", "nan", "maybe")),
    "local-addr": ("expected a name", ("",)),
    "preempt-signals": ("expected", ("x", "9", "SIGUSR1,BOGUS", "SIGKILL")),
    "preempt-notice": ("expected seconds, above 0", ("", "0", "-1", "nan", "inf", "x")),
    "restart-backoff": ("expected seconds, at least 0", ("", "-1", "nan", "inf", "x")),
    "restart-window": ("expected seconds, above 0", ("", "0", "-1", "nan", "inf", "x")),
    "rdzv-id": ("expected text in UTF-8", ("\udcff",)),
    "role": ("expected a name", ("",)),
    "max-restarts": (INTEGER, ("", "-1", "nan", "1.5", "x", "9" * 5000)),
    "shutdown-timeout": ("expected seconds, at least 0", ("", "-1", "nan", "inf", "1e999", "x")),
    "signals-to-handle": ("expected", ("SIGTERM,SIGKILL", "SIGSTOP")),
    "forward-signals": ("expected", ("x", "9", "SIGUSR1,BOGUS", "SIGKILL", "SIGTERM")),
    "stdin": ("expected", ("", "-1", "nan", "x", "1")),
    "log-dir": ("expected a folder", ("", os.path.abspath(__file__))),
    "redirects": ("", ("", "4", "-1", "nan", "x", "0:9", "0:1,", "9:1")),
    "tee": ("", ("", "4", "-1", "nan", "x", "0:9", "0:1,", "5:3", "0:1,1:0")),
    "local-ranks-filter": ("expected local ranks", ("-1", "nan", "x", "0.5", "1", "0,7")),
    "standalone": ("expected 1 or 0", ("2", "-1", "nan", "maybe")),
    "module": ("expected 1 or 0", ("2", "-1", "nan", "maybe")),
    "no-python": ("expected 1 or 0", ("2", "-1", "nan", "maybe")),
    "run-path": ("expected 1 or 0", ("2", "-1", "nan", "maybe")),
    "start-method": ("expected one of spawn, fork, forkserver", ("", "x", "SPAWN")),
    "virtual-local-rank": ("expected 1 or 0", ("2", "-1", "nan", "maybe")),
    "duplicate-stdout-filters": ("", ()),  # any text is one to look for
    "duplicate-stderr-filters": ("", ()),
    "logs-specs": ("expected", ("", "x")),
    "numa-binding": ("expected one of node, socket", ("", "x", "NODE")),
    "monitor-interval": ("expected seconds, above 0", ("", "0", "-1", "nan", "x")),
    "health-port": ("expected [HOST:]PORT", ("", "0", "65536", "-1", "nan", "x", "::1:80", ":80")),
    "event-log-handler": ("expected a name", ("",)),
}
"""For each option, the rule as it is told, and texts that break it for one worker."""


@pytest.mark.parametrize("option", OPTIONS, ids=lambda option: option.name)
def test_every_option_refuses_bad_texts_by_the_name_they_came_under(option: Option) -> None:
    """Both spellings name the option, the variable names itself; then value and rule."""
    rule, texts = BAD[option.name]
    flags = [] if option.parse is None else [f for f in option.flags if f.startswith("--")]
    refusals = [
        (f"--{option.name}={text}: ", refusal([f"{flag}={text}", "a.py"]))
        for flag in flags
        for text in texts
    ]
    refusals += [
        (f"{option.variable}={text}: ", refusal(["a.py"], {option.variable: text}))
        for text in texts
    ]

    assert [got for start, got in refusals if not got.startswith(start + rule)] == []


def test_a_log_dir_that_is_a_file_is_refused(tmp_path: Path) -> None:
    """The variable is named if that is what was set."""
    path = tmp_path / "file"
    path.touch()

    assert refusal(["a.py"], {"PET_LOG_DIR": str(path)}) == (
        f"PET_LOG_DIR={path}: expected a folder, it is a file"
    )


def test_a_mistyped_option_is_told_before_a_missing_script() -> None:
    """What it swallowed may be the script."""
    assert refusal(["--bogus"]) == "unrecognized arguments: --bogus"


@pytest.mark.parametrize(
    ("given", "meant"),
    [
        (["--maxrestarts", "1", "a.py"], "--max-restarts"),
        (["--max_restart=1", "a.py"], "--max-restarts"),
        (["--nproc", "2", "a.py"], "--nproc-per-node"),
        (["--Rdzv-Endpont", "a", "a.py"], "--rdzv-endpoint"),
        (["--print-confg", "a.py"], "--print-config"),
    ],
)
def test_a_mistyped_option_is_told_with_the_one_that_was_meant(
    given: list[str], meant: str
) -> None:
    """Spelt wrongly, or cut off, which is refused: another option may begin like that one day."""
    assert refusal(given) == f"unrecognized arguments: {given[0]}, did you mean {meant}?"


@pytest.mark.parametrize(
    ("argv", "expected", "note"),
    [
        (
            ["--master-port=1", "--rdzv-endpoint=a:1"],
            ("static", "a:1"),
            "--master-port is not used beside --rdzv-endpoint",
        ),
        (
            ["--master-addr=b", "--master-port=1", "--rdzv-backend=c10d", "--rdzv-endpoint=a"],
            ("c10d", "a"),
            "--master-addr and --master-port are not used beside --rdzv-backend",
        ),
        (
            ["--no-python", "--run-path"],
            ("tcp", ""),
            "--no-python is not used beside --run-path",
        ),
        (
            ["--signals-to-handle=SIGTERM,BOGUS"],
            ("tcp", ""),
            "--signals-to-handle=BOGUS: there is no such signal, passed over",
        ),
        (
            ["--master-port=1", "--standalone"],
            ("tcp", ""),
            "--master-port is not used beside --standalone",
        ),
    ],
)
def test_options_are_passed_over_where_torchrun_does(
    argv: list[str], expected: tuple[str, str], note: str
) -> None:
    """Its scripts often have all of them; the user is told what counts."""
    launch = parse([*argv, "a.py"], {})

    assert (launch.config.rdzv_backend, launch.config.rdzv_endpoint) == expected
    assert launch.notes == (note,)


def test_a_variable_is_named_in_what_is_passed_over() -> None:
    """As it is in errors."""
    notes = parse(["--standalone", "a.py"], {"PET_MASTER_PORT": "1"}).notes

    assert notes == ("PET_MASTER_PORT is not used beside --standalone",)
    assert parse(["--master-port=1", "a.py"], {}).notes == ()


def test_lines_are_folded_by_the_launchers_own_log_specs() -> None:
    """Of others nobody knows whether they can."""
    specs = parse(["--fold", "a.py"], {}).config.logs_specs

    assert specs is not None
    assert specs.reify({}).folds
    assert refusal(["--fold", "--logs-specs=x", "a.py"]) == "--fold: expected without --logs-specs"


def test_the_prefix_of_lines_is_torchruns_variable() -> None:
    """Torchrun has no option for it."""
    name = "TORCHELASTIC_LOG_LINE_PREFIX_TEMPLATE"

    assert parse(["a.py"], {name: "<${rank}>"}).config.log_line_prefix_template == "<${rank}>"
    assert parse(["a.py"], {name: ""}).config.log_line_prefix_template is None


@pytest.mark.parametrize(
    ("argv", "expected"),
    [
        ([], ("tcp", "", {})),
        (["--rdzv-backend=c10d", "--rdzv-endpoint=a"], ("c10d", "a", {})),
        (["--master-port=1234"], ("static", "127.0.0.1:1234", {"rank": 0})),
        (
            ["--nnodes=2", "--master-addr=::1", "--node-rank=1"],
            ("static", "[::1]:29500", {"rank": 1}),
        ),
        (
            ["--nnodes=2", "--rdzv-backend=static", "--rdzv-endpoint=a:1", "--rdzv-conf=rank=1"],
            ("static", "a:1", {"rank": "1"}),
        ),
        (
            ["--nnodes=1:4", "--rdzv-endpoint=a", "--expect-nodes=3", "--rdzv-conf=timeout=9"],
            ("tcp", "a", {"timeout": "9", "expect_nodes": 3}),
        ),
        (["--standalone", "--rdzv-endpoint=a"], ("tcp", "", {})),
        (["--standalone", "--rdzv-backend=c10d"], ("c10d", "", {})),
        (["--standalone", "--rdzv-backend=static", "--node-rank=0"], ("tcp", "", {"rank": 0})),
        (["--standalone", "--rdzv-backend=etcd", "--rdzv-endpoint=a"], ("tcp", "", {})),
    ],
)
def test_how_nodes_find_each_other(
    argv: list[str], expected: tuple[str, str, dict[str, object]]
) -> None:
    """A master address selects the static backend; ranks and counts are settings of a backend."""
    config = parse([*argv, "a.py"], {}).config
    backend, endpoint, settings = expected

    assert (config.rdzv_backend, config.rdzv_endpoint) == (backend, endpoint)
    assert config.rdzv_configs == {"timeout": 900, **settings}


def test_options_of_logs_and_processors() -> None:
    """They come to the fields of the same names; ,, in a list of texts is a comma."""
    argv = ["--duplicate-stdout-filters", "a,b,,c", "--numa-binding=exclusive", "a.py"]
    config = parse([*argv], {"PET_VIRTUAL_LOCAL_RANK": "1", "PET_EVENT_LOG_HANDLER": "x"}).config

    assert config.duplicate_stdout_filters == ("a", "b,c")
    assert not config.duplicate_stderr_filters
    assert config.numa_options == NumaOptions(AffinityMode.EXCLUSIVE)
    assert config.virtual_local_rank
    assert not config.torch_store
    assert parse(["--torch-store", "a.py"], {}).config.torch_store
    assert parse(["a.py"], {"PET_TORCH_STORE": "1"}).config.torch_store
    assert config.event_log_handler == "x"


@pytest.mark.parametrize(
    ("option", "text"),
    [
        ("numa-binding", "--numa-binding=x: expected one of node, socket, exclusive, core-complex"),
        ("logs-specs", "--logs-specs=x: expected one of default"),
    ],
)
def test_unknown_names_are_refused(option: str, text: str) -> None:
    """With those that there are."""
    assert refusal([f"--{option}=x", "a.py"]).startswith(text)
