"""`launcher.config`: each option's names and rule, and what a `LaunchConfig` refuses."""

from __future__ import annotations

import os

import pytest

from launcher.config import (
    OPTIONS,
    LaunchConfig,
    Option,
    resolve_shutdown_timeout,
    to_signals,
)


def option(name: str) -> Option:
    """Return the option of that name."""
    return next(option for option in OPTIONS if option.name == name)


def test_an_option_has_both_spellings_and_torchruns_variable() -> None:
    """Flag and variable follow from the one name that is declared."""
    nproc = option("nproc-per-node")

    assert nproc.flags == ("--nproc-per-node", "--nproc_per_node")
    assert nproc.variable == "PET_NPROC_PER_NODE"


def test_short_forms_are_torchruns() -> None:
    """-m, -r and -t mean what they mean to torchrun."""
    shorts = {flag: o.name for o in OPTIONS for flag in o.flags if not flag.startswith("--")}

    assert shorts == {"-m": "module", "-r": "redirects", "-t": "tee"}


def test_names_of_options_are_unique() -> None:
    """No flag belongs to two options."""
    flags = [flag for option in OPTIONS for flag in option.flags]

    assert len(set(flags)) == len(flags)


@pytest.mark.parametrize("option", OPTIONS, ids=lambda option: option.name)
def test_defaults_keep_their_own_rule(option: Option) -> None:
    """What is written as default can be parsed."""
    if option.default is not None:
        option.read(option.default)

    assert option.help[0].islower()


@pytest.mark.parametrize(
    ("name", "text", "expected"),
    [
        ("nproc-per-node", "3", 3),
        ("nproc-per-node", "auto", len(os.sched_getaffinity(0))),
        ("nproc-per-node", "cpu", len(os.sched_getaffinity(0))),
        ("nnodes", "1:1", (1, 1)),
        ("nnodes", "3", (3, 3)),
        ("nnodes", "1:4", (1, 4)),
        ("rdzv-conf", "", {}),
        ("rdzv-conf", "join_timeout=60, rank=1,", {"join_timeout": "60", "rank": "1"}),
        ("node-rank", "0", 0),
        ("expect-nodes", "2", 2),
        ("master-port", "29500", 29500),
        ("restart-window", "0.5", 0.5),
        ("max-restarts", "0", 0),
        ("shutdown-timeout", "0", 0.0),
        ("shutdown-timeout", "1.5", 1.5),
        ("local-ranks-filter", "2,0", frozenset({0, 2})),
        ("local-ranks-filter", "", frozenset()),
        ("signals-to-handle", "sigterm, INT", "SIGTERM,SIGINT"),
        ("standalone", "1", True),
        ("standalone", "true", True),
        ("standalone", "0", False),
    ],
)
def test_an_option_reads_what_its_rule_allows(name: str, text: str, expected: object) -> None:
    """Text becomes a value."""
    assert option(name).read(text) == expected


@pytest.mark.parametrize(
    ("name", "text", "rule"),
    [
        ("nproc-per-node", "0", "an integer, at least 1, or auto or cpu"),
        ("nproc-per-node", "-1", "an integer, at least 1"),
        ("nproc-per-node", "two", "an integer"),
        ("nproc-per-node", "1_0", "an integer"),
        ("nproc-per-node", "", "an integer"),
        ("nproc-per-node", "gpu", "auto or cpu"),
        ("nproc-per-node", "9" * 5000, "an integer"),
        ("nnodes", "0", "expected N or MIN:MAX"),
        ("nnodes", "2:1", "expected N or MIN:MAX"),
        ("nnodes", "1:", "expected N or MIN:MAX"),
        ("nnodes", "1:2:3", "expected N or MIN:MAX"),
        ("rdzv-conf", "join_timeout", "expected settings such as"),
        ("rdzv-conf", "=1", "expected settings such as"),
        ("rdzv-conf", "rank=", "expected settings such as"),
        ("master-port", "65536", "expected a port, from 1 to 65535"),
        ("restart-window", "0", "expected seconds, above 0"),
        ("max-restarts", "-1", "an integer, at least 0"),
        ("shutdown-timeout", "-1", "seconds, at least 0"),
        ("shutdown-timeout", "nan", "seconds, at least 0"),
        ("shutdown-timeout", "inf", "seconds, at least 0"),
        ("shutdown-timeout", "soon", "seconds, at least 0"),
        ("local-ranks-filter", "0,x", "local ranks"),
        ("signals-to-handle", "SIGBOGUS", "'SIGBOGUS' is none"),
        ("signals-to-handle", "SIGKILL", "SIGKILL cannot"),
        ("standalone", "maybe", "expected 1 or 0"),
        ("role", "", "a name"),
        ("role", "\udcff", "text in UTF-8"),
        ("rdzv-id", "\udcff", "text in UTF-8"),
        ("stdin", "-1", "an integer, at least 0"),
    ],
)
def test_an_option_says_what_it_expected(name: str, text: str, rule: str) -> None:
    """A text that breaks the rule is refused with the rule."""
    with pytest.raises(ValueError, match="expected") as caught:
        option(name).read(text)

    assert rule in str(caught.value)


def test_a_config_needs_only_nodes_and_workers() -> None:
    """The rest has torch's defaults, but for the backend."""
    config = LaunchConfig(1, 1, 2)

    assert (config.max_restarts, config.role) == (3, "default_role")
    assert (config.rdzv_backend, config.signals_to_handle) == (
        "tcp",
        "SIGTERM,SIGINT,SIGHUP,SIGQUIT",
    )


@pytest.mark.parametrize(
    ("fields", "text"),
    [
        ({"min_nodes": 0}, "min_nodes=0: expected an integer, at least 1"),
        ({"min_nodes": 2, "max_nodes": 1}, "max_nodes=1: expected at least min_nodes, 2"),
        ({"restart_window": 0.0}, "restart_window=0.0: expected seconds above 0"),
        ({"nproc_per_node": 0}, "nproc_per_node=0: expected an integer, at least 1"),
        ({"nproc_per_node": True}, "nproc_per_node=True: expected an integer"),
        ({"nproc_per_node": "2"}, "nproc_per_node='2': expected an integer"),
        ({"max_restarts": -1}, "max_restarts=-1: expected an integer, at least 0"),
        ({"role": ""}, "role='': expected a name"),
        ({"rdzv_backend": ""}, "rdzv_backend='': expected the name of a backend"),
        ({"shutdown_timeout": -0.1}, "shutdown_timeout=-0.1: expected seconds, at least 0"),
        ({"shutdown_timeout": "5"}, "shutdown_timeout='5': expected seconds, at least 0"),
        ({"signals_to_handle": "SIGX"}, "signals_to_handle=SIGX: expected names of signals"),
    ],
)
def test_a_config_names_the_field_it_refuses(fields: dict[str, object], text: str) -> None:
    """Field, value and rule are in the message."""
    with pytest.raises(ValueError) as caught:
        LaunchConfig(**{"min_nodes": 1, "max_nodes": 1, "nproc_per_node": 1, **fields})  # type: ignore[arg-type]

    assert text in str(caught.value)


@pytest.mark.parametrize(
    ("value", "environ", "expected"),
    [
        (None, {}, 30.0),
        (None, {"TORCH_ELASTIC_SHUTDOWN_TIMEOUT": "7"}, 7.0),
        (5, {"TORCH_ELASTIC_SHUTDOWN_TIMEOUT": "7"}, 5.0),
        (0, {"TORCH_ELASTIC_SHUTDOWN_TIMEOUT": "7"}, 0.0),
    ],
)
def test_the_shutdown_timeout_is_argument_else_variable_else_30(
    value: float | None, environ: dict[str, str], expected: float
) -> None:
    """The argument wins even when it is 0."""
    assert resolve_shutdown_timeout(value, environ) == expected


def test_a_bad_shutdown_timeout_variable_is_named() -> None:
    """The user is told which variable to mend."""
    with pytest.raises(ValueError, match="TORCH_ELASTIC_SHUTDOWN_TIMEOUT=-1: expected seconds"):
        resolve_shutdown_timeout(None, {"TORCH_ELASTIC_SHUTDOWN_TIMEOUT": "-1"})


def test_a_config_resolves_its_shutdown_timeout(monkeypatch: pytest.MonkeyPatch) -> None:
    """Reading the field gives the number that will be used."""
    monkeypatch.setenv("TORCH_ELASTIC_SHUTDOWN_TIMEOUT", "4")

    assert LaunchConfig(1, 1, 1).shutdown_timeout == 4.0


def test_signals_are_taken_once_each_in_order() -> None:
    """The prefix may be missing, names may repeat, none is fine."""
    names = [number.name for number in to_signals("SIGUSR1,TERM,SIGUSR1")]

    assert names == ["SIGUSR1", "SIGTERM"]
    assert to_signals("") == ()


@pytest.mark.parametrize(("workers", "given", "rank"), [(1, None, 0), (2, None, None), (2, 1, 1)])
def test_one_worker_has_the_standard_input(
    workers: int, given: int | None, rank: int | None
) -> None:
    """The one asked for, else the only one."""
    assert LaunchConfig(1, 1, workers, stdin=given).stdin_rank == rank


def test_every_field_of_torch_is_accepted_with_its_default() -> None:
    """But the backend; a program that names them all need not be changed."""
    config = LaunchConfig(
        min_nodes=1,
        max_nodes=1,
        nproc_per_node=1,
        logs_specs=None,
        run_id="",
        role="default_role",
        rdzv_endpoint="",
        rdzv_backend="tcp",
        rdzv_configs={},
        rdzv_timeout=-1,
        max_restarts=3,
        monitor_interval=0.1,
        start_method="spawn",
        log_line_prefix_template=None,
        metrics_cfg={},
        local_addr=None,
        event_log_handler="null",
        numa_options=None,
        signals_to_handle="SIGTERM,SIGINT,SIGHUP,SIGQUIT",
        duplicate_stdout_filters=None,
        duplicate_stderr_filters=None,
        virtual_local_rank=False,
        shutdown_timeout=None,
    )

    assert config == LaunchConfig(1, 1, 1)


def test_the_older_name_of_the_timeout() -> None:
    """It is a setting like the others."""
    assert LaunchConfig(1, 1, 1, rdzv_timeout=7).rdzv_configs == {"timeout": 7}


@pytest.mark.parametrize(("field", "value"), [("start_method", "x"), ("metrics_cfg", {"a": "b"})])
def test_what_cannot_be_done_is_refused(field: str, value: object) -> None:
    """Field, value and rule."""
    with pytest.raises(ValueError, match=f"^{field}=.*: expected "):
        LaunchConfig(1, 1, 1, **{field: value})  # type: ignore[arg-type]
