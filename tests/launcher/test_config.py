"""`launcher.config`: what a `LaunchConfig` refuses, and how its fields are read."""

from __future__ import annotations

from dataclasses import fields

import pytest

from launcher.config import LaunchConfig, resolve_shutdown_timeout
from launcher.logs import DefaultLogsSpecs


def test_a_config_needs_only_nodes_and_workers() -> None:
    """The rest has torch's defaults, but for the backend."""
    config = LaunchConfig(1, 1, 2)

    assert (config.max_restarts, config.role) == (3, "default_role")
    assert (config.rdzv_backend, config.signals_to_handle) == (
        "tcp",
        "SIGTERM,SIGINT,SIGHUP,SIGQUIT",
    )


@pytest.mark.parametrize(
    ("given", "text"),
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
        ({"signals_to_handle": "SIGKILL"}, "signals_to_handle=SIGKILL: expected signals that can"),
        ({"forward_signals": "SIGX"}, "forward_signals=SIGX: expected names of signals"),
    ],
)
def test_a_config_names_the_field_it_refuses(given: dict[str, object], text: str) -> None:
    """Field, value and rule are in the message."""
    with pytest.raises(ValueError) as caught:
        LaunchConfig(**{"min_nodes": 1, "max_nodes": 1, "nproc_per_node": 1, **given})  # type: ignore[arg-type]  # of any kind

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


def test_names_of_no_signals_are_passed_over(caplog: pytest.LogCaptureFixture) -> None:
    """With a warning, as torch does; of the options that are ours alone they are refused."""
    config = LaunchConfig(1, 1, 1, signals_to_handle="SIGTERM,SIGX,usr1")

    assert config.signals_to_handle == "SIGTERM,SIGUSR1"
    assert caplog.messages == ["signals_to_handle=SIGX: there is no such signal, passed over"]


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


# torch 2.13's fields in torch's order, with what reading them gives; the backend alone differs.
TORCHS = {
    "logs_specs": None,
    "run_id": "",
    "role": "default_role",
    "rdzv_endpoint": "",
    "rdzv_backend": "tcp",
    "rdzv_configs": {"timeout": 900},
    "rdzv_timeout": -1,
    "max_restarts": 3,
    "monitor_interval": 0.1,
    "start_method": "spawn",
    "log_line_prefix_template": None,
    "metrics_cfg": {},
    "local_addr": None,
    "event_log_handler": "null",
    "numa_options": None,
    "signals_to_handle": "SIGTERM,SIGINT,SIGHUP,SIGQUIT",
    "duplicate_stdout_filters": None,
    "duplicate_stderr_filters": None,
    "virtual_local_rank": False,
    "shutdown_timeout": 30.0,
}


def test_torchs_fields_come_first_with_torchs_defaults() -> None:
    """In torch's order, so that a program that gives them by position need not be changed."""
    config = LaunchConfig(1, 1, 1)
    names = [each.name for each in fields(config)]

    assert names[3 : len(TORCHS) + 3] == [*TORCHS]
    assert isinstance(config.logs_specs, DefaultLogsSpecs)
    assert {name: getattr(config, name) for name in TORCHS} == {
        **TORCHS,
        "logs_specs": config.logs_specs,
    }
    assert LaunchConfig(1, 1, 1, config.logs_specs, *[*TORCHS.values()][1:]) == config  # type: ignore[arg-type]  # of any kind


def test_the_older_name_of_the_timeout() -> None:
    """It is a setting like the others, which a program may also give itself."""
    assert LaunchConfig(1, 1, 1, rdzv_timeout=7).rdzv_configs == {"timeout": 7}
    assert LaunchConfig(1, 1, 1, rdzv_configs={"timeout": 8}).rdzv_configs == {"timeout": 8}


def test_an_unknown_start_method_is_refused() -> None:
    """Field, value and rule."""
    with pytest.raises(ValueError, match=r"^start_method='x': expected one of spawn, fork"):
        LaunchConfig(1, 1, 1, start_method="x")


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
