"""`launcher.config`: what a `LaunchConfig` refuses, and how its fields are read."""

from __future__ import annotations

import pytest

from launcher.config import LaunchConfig, resolve_shutdown_timeout


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
        ({"monitor_interval": 0.0}, "monitor_interval=0.0: expected seconds above 0"),
        ({"restart_backoff": -1.0}, "restart_backoff=-1.0: expected seconds from 0"),
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


def test_a_forwarded_signal_has_no_other_meaning() -> None:
    """Workers would be told of it twice, in two ways."""
    with pytest.raises(ValueError) as stops:
        LaunchConfig(1, 1, 1, forward_signals="USR1,TERM")
    with pytest.raises(ValueError) as announces:
        LaunchConfig(1, 1, 1, forward_signals="USR1", preempt_signals="USR1")

    rule = "expected none that stop the run, such as SIGTERM"
    assert str(stops.value) == f"forward_signals=USR1,TERM: {rule}"
    rule = "expected none that are in preempt_signals, such as SIGUSR1"
    assert str(announces.value) == f"forward_signals=USR1: {rule}"


@pytest.mark.parametrize("notice", [0.0, -1.0, float("inf"), float("nan")])
def test_a_notice_has_some_seconds(notice: float) -> None:
    """Else there would be nothing to prepare in."""
    with pytest.raises(ValueError, match=r"^preempt_notice=.*: expected seconds above 0"):
        LaunchConfig(1, 1, 1, preempt_notice=notice)


def test_a_notice_may_be_a_signal_that_stops_the_run() -> None:
    """The second one stops it then."""
    assert LaunchConfig(1, 1, 1, preempt_signals="TERM").preempt_signals == "TERM"


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


def test_the_health_port_is_the_fields_else_the_variables(monkeypatch: pytest.MonkeyPatch) -> None:
    """And a mistake names which of them it is in."""
    assert LaunchConfig(1, 1, 1).health_port is None
    monkeypatch.setenv("TORCHELASTIC_HEALTH_CHECK_PORT", "80")
    assert LaunchConfig(1, 1, 1).health_port == "80"
    assert LaunchConfig(1, 1, 1, health_port="81").health_port == "81"
    monkeypatch.setenv("TORCHELASTIC_HEALTH_CHECK_PORT", "x")
    with pytest.raises(ValueError, match=r"^TORCHELASTIC_HEALTH_CHECK_PORT=x: expected"):
        LaunchConfig(1, 1, 1)
    with pytest.raises(ValueError, match=r"^health_port=y: expected"):
        LaunchConfig(1, 1, 1, health_port="y")
