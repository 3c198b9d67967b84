"""What a launch is configured by: `LaunchConfig`, and the rules of its fields.

Values only: nothing here starts, opens or imports anything of the run. `cli` makes one of the
options of the command line (`options`); `api` and its users may build one directly.
"""

from __future__ import annotations

import math
import os
import signal
from collections.abc import Mapping, Sequence
from dataclasses import KW_ONLY, dataclass, field
from typing import TYPE_CHECKING

from launcher.rules import split_signals, to_address, to_seconds, to_signals

if TYPE_CHECKING:  # the names only: whoever sets the fields imports them
    from launcher.affinity import NumaOptions
    from launcher.logs import LogsSpecs

__all__ = (
    "DEFAULT_PREEMPT_NOTICE",
    "DEFAULT_RDZV_TIMEOUT",
    "DEFAULT_SHUTDOWN_TIMEOUT",
    "DEFAULT_SIGNALS",
    "HEALTH_PORT_VARIABLE",
    "SCHEDULER_VARIABLES",
    "SHUTDOWN_TIMEOUT_VARIABLE",
    "SIGNALS_TO_HANDLE_VARIABLE",
    "START_METHODS",
    "LaunchConfig",
    "has_scheduler",
    "resolve_shutdown_timeout",
)

DEFAULT_PREEMPT_NOTICE = 60.0  # what the clouds give at least, but for Google's and Azure's 30
DEFAULT_RDZV_TIMEOUT = 900  # seconds; torch's, of this class alone
DEFAULT_SHUTDOWN_TIMEOUT = 30.0  # torchrun's grace between the signal and SIGKILL
DEFAULT_SIGNALS = "SIGTERM,SIGINT,SIGHUP,SIGQUIT"
HEALTH_PORT_VARIABLE = "TORCHELASTIC_HEALTH_CHECK_PORT"
# Here, where every launch finds them: `launcher.environment` is loaded only if one is set. Who was
# started last comes first: mpirun starts its processes by Slurm and in Kubernetes, while Slurm
# itself also sets what MPI processes ask for by PMI.
SCHEDULER_VARIABLES = (
    ("OMPI_COMM_WORLD_RANK", "mpi"),
    ("MPI_LOCALRANKID", "mpi"),
    ("SLURM_JOB_ID", "slurm"),
    ("PMI_RANK", "mpi"),
    ("PMIX_RANK", "mpi"),
    ("JOB_COMPLETION_INDEX", "kubernetes"),
)
"""The variables that give schedulers away, with the names of their detectors."""
SHUTDOWN_TIMEOUT_VARIABLE = "TORCH_ELASTIC_SHUTDOWN_TIMEOUT"
SIGNALS_TO_HANDLE_VARIABLE = "TORCHELASTIC_SIGNALS_TO_HANDLE"
START_METHODS = ("spawn", "fork", "forkserver")
"""How a worker that runs a function comes to be."""


@dataclass(frozen=True, slots=True)
class LaunchConfig:
    """How to launch one group of workers; torch's fields come first, in torch's order.

    Args:
        min_nodes: nodes needed to run, at least 1.
        max_nodes: nodes at most, not below `min_nodes`.
        nproc_per_node: workers on this node, at least 1.
        logs_specs: where output goes; ``None``: through the launcher, no files. Reading the field
            gives the `DefaultLogsSpecs` made of that.
        run_id: name of the run, the same on every node; empty: a random one for one node, "none"
            for several.
        role: what the workers are, handed to them as ``ROLE_NAME``.
        rdzv_endpoint: ``host[:port]`` of the run's store, the same on every node: the node that
            can listen there does; of etcd: its members, with commas; empty, for one node: a free
            port of loopback.
        rdzv_backend: how nodes find each other: ``tcp`` (or ``c10d``), ``etcd``, ``static``, or a
            registered name.
        rdzv_configs: settings of the backend by name, such as ``join_timeout``. Reading the field
            gives torch's ``timeout`` of 900 s too, which the static backend goes by.
        rdzv_timeout: torch's older name of the setting ``timeout`` in `rdzv_configs`, seconds;
            -1: not set.
        max_restarts: how often the run may be restarted after failures, on all nodes together.
        monitor_interval: accepted for torch's callers: what happens is heard of, not polled for.
        start_method: how workers that run a function are started: ``spawn``, ``fork`` or
            ``forkserver``.
        log_line_prefix_template: prefix of teed lines, with ``${role_name}``, ``${rank}`` and
            ``${local_rank}`` filled in; ``None``: ``[role<local rank>]:``.
        metrics_cfg: handed to `launcher.metrics.initialize_metrics`, which does nothing by itself.
        local_addr: where other nodes reach this one; ``None``: found out.
        event_log_handler: where events of the run go: ``null``, ``console`` (JSON lines on stderr),
            ``file:PATH`` (JSON lines at its end), or the name of a handler given to
            `launcher.events.register_handler`.
        numa_options: which processors each worker may use; ``None``: all.
        signals_to_handle: comma list of the signals that stop the run in order; names of none are
            passed over with a warning.
        duplicate_stdout_filters: texts; lines of the workers' stdout with any of them are copied to
            one file of the round, ``filtered_stdout.log``; ``None``: none.
        duplicate_stderr_filters: the same for stderr.
        virtual_local_rank: whether every worker has ``LOCAL_RANK=0``, and in
            ``CUDA_VISIBLE_DEVICES`` its own device only.
        shutdown_timeout: seconds between the first signal to the workers and SIGKILL, from 0
            (SIGKILL at once); ``None``: ``$TORCH_ELASTIC_SHUTDOWN_TIMEOUT``, else 30. Reading the
            field gives the resolved number.
        restart_window: seconds after which a restart no longer counts, above 0.
        restart_backoff: seconds before the first restart, from 0; twice as long for each further
            one, a minute at most.
        torch_store: whether the agent of group rank 0 serves a store for torch's clients at
            MASTER_ADDR:MASTER_PORT, a fresh one in each round, instead of leaving the port to the
            worker of rank 0.
        forward_signals: comma list of signals that are passed on to the workers and stop nothing;
            none of `signals_to_handle`.
        preempt_signals: comma list of signals that say that this node has to go: workers hear of it
            by `launcher.preemption`, then the node leaves the run. One of `signals_to_handle` among
            them stops the run when it comes again.
        preempt_notice: seconds from such a signal to the end of the node, above 0.
        stdin: local rank of the worker that gets the launcher's standard input; ``None``: 0 if
            there is one worker only, else nobody.
        health_port: ``[HOST:]PORT`` where ``/healthz``, ``/status`` and ``/metrics`` are served by
            HTTP, on loopback unless HOST says where; ``None``:
            ``$TORCHELASTIC_HEALTH_CHECK_PORT``, else they are not served. Reading the field gives
            what was resolved.

    Raises:
        ValueError: a field breaks its rule; names field, value and rule.
    """

    min_nodes: int
    max_nodes: int
    nproc_per_node: int
    logs_specs: LogsSpecs | None = None
    run_id: str = ""
    role: str = "default_role"
    rdzv_endpoint: str = ""
    rdzv_backend: str = "tcp"
    rdzv_configs: Mapping[str, object] = field(default_factory=dict)
    rdzv_timeout: int = -1
    max_restarts: int = 3
    monitor_interval: float = 0.1
    start_method: str = "spawn"
    log_line_prefix_template: str | None = None
    metrics_cfg: Mapping[str, str] = field(default_factory=dict)
    local_addr: str | None = None
    event_log_handler: str = "null"
    numa_options: NumaOptions | None = None
    signals_to_handle: str = DEFAULT_SIGNALS
    duplicate_stdout_filters: Sequence[str] | None = None
    duplicate_stderr_filters: Sequence[str] | None = None
    virtual_local_rank: bool = False
    shutdown_timeout: float | None = None
    _: KW_ONLY
    restart_window: float = math.inf
    restart_backoff: float = 0.0
    torch_store: bool = False
    forward_signals: str = ""
    preempt_signals: str = ""
    preempt_notice: float = DEFAULT_PREEMPT_NOTICE
    stdin: int | None = None
    health_port: str | None = None

    def __post_init__(self) -> None:
        _check("min_nodes", self.min_nodes, at_least=1)
        _check("max_nodes", self.max_nodes, at_least=1)
        _check("nproc_per_node", self.nproc_per_node, at_least=1)
        _check("max_restarts", self.max_restarts, at_least=0)
        if self.max_nodes < self.min_nodes:
            raise ValueError(
                f"max_nodes={self.max_nodes}: expected at least min_nodes, {self.min_nodes}"
            )
        if not self.monitor_interval > 0:
            raise ValueError(f"monitor_interval={self.monitor_interval}: expected seconds above 0")
        if not self.restart_window > 0:
            raise ValueError(f"restart_window={self.restart_window}: expected seconds above 0")
        if not 0 <= self.restart_backoff < math.inf:
            raise ValueError(f"restart_backoff={self.restart_backoff}: expected seconds from 0")
        if not 0 < self.preempt_notice < math.inf:
            raise ValueError(f"preempt_notice={self.preempt_notice}: expected seconds above 0")
        if self.stdin is not None:
            _check("stdin", self.stdin, at_least=0)
            if self.stdin >= self.nproc_per_node:
                raise ValueError(
                    f"stdin={self.stdin}: expected a local rank below "
                    f"nproc_per_node={self.nproc_per_node}"
                )
        settings: dict[str, object] = {"timeout": DEFAULT_RDZV_TIMEOUT, **self.rdzv_configs}
        if self.rdzv_timeout != -1:
            settings["timeout"] = self.rdzv_timeout
        object.__setattr__(self, "rdzv_configs", settings)
        if self.logs_specs is None:
            from launcher.logs import DefaultLogsSpecs  # noqa: PLC0415 -- the command line has its own

            object.__setattr__(self, "logs_specs", DefaultLogsSpecs())
        if self.start_method not in START_METHODS:
            methods = ", ".join(START_METHODS)
            raise ValueError(f"start_method={self.start_method!r}: expected one of {methods}")
        if not self.role:
            raise ValueError("role='': expected a name")
        if not self.rdzv_backend:
            raise ValueError("rdzv_backend='': expected the name of a backend")
        self._check_signals()
        if self.health_port is None and (text := os.environ.get(HEALTH_PORT_VARIABLE)):
            object.__setattr__(self, "health_port", text)
            _check_address(HEALTH_PORT_VARIABLE, text)
        elif self.health_port is not None:
            _check_address("health_port", self.health_port)
        object.__setattr__(
            self, "shutdown_timeout", resolve_shutdown_timeout(self.shutdown_timeout, os.environ)
        )

    def _check_signals(self) -> None:
        self._pass_over_unknown_signals()
        stopping = self._signals("signals_to_handle")
        forwarded = self._signals("forward_signals")
        announcing = self._signals("preempt_signals")
        for others, what in ((stopping, "stop the run"), (announcing, "are in preempt_signals")):
            if both := others.intersection(forwarded):
                shown = ", ".join(sorted(number.name for number in both))
                raise ValueError(
                    f"forward_signals={self.forward_signals}: expected none that {what}, "
                    f"such as {shown}"
                )

    def _pass_over_unknown_signals(self) -> None:
        """Handle those that there are, and warn of the others, as torch does."""
        try:
            found, unknown = split_signals(self.signals_to_handle)
        except ValueError as error:
            raise ValueError(f"signals_to_handle={self.signals_to_handle}: {error}") from None
        if unknown:
            import logging  # noqa: PLC0415 -- slow, and few configurations have such names

            for name in unknown:
                logging.getLogger("launcher.config").warning(
                    "signals_to_handle=%s: there is no such signal, passed over", name
                )
            names = ",".join(number.name for number in found)
            object.__setattr__(self, "signals_to_handle", names)

    def _signals(self, name: str) -> frozenset[signal.Signals]:
        names: str = getattr(self, name)
        try:
            return frozenset(to_signals(names))
        except ValueError as error:
            raise ValueError(f"{name}={names}: {error}") from None

    @property
    def stdin_rank(self) -> int | None:
        """The local rank that `stdin` comes to."""
        return 0 if self.stdin is None and self.nproc_per_node == 1 else self.stdin

    @property
    def grace(self) -> float:
        """`shutdown_timeout` as the number it was resolved to, seconds."""
        assert self.shutdown_timeout is not None
        return self.shutdown_timeout


def resolve_shutdown_timeout(value: float | None, environ: Mapping[str, str]) -> float:
    """Find the seconds between the first signal to the workers and SIGKILL.

    Args:
        value: the one given, seconds from 0; ``None`` asks `environ`.
        environ: where ``TORCH_ELASTIC_SHUTDOWN_TIMEOUT`` is looked up.

    Returns:
        The value, else the variable's, else 30.

    Raises:
        ValueError: either is negative or no number; names it.
    """
    if value is not None:
        if isinstance(value, bool) or not isinstance(value, int | float):
            raise ValueError(f"shutdown_timeout={value!r}: expected seconds, at least 0")
        if not (math.isfinite(value) and value >= 0):
            raise ValueError(f"shutdown_timeout={value}: expected seconds, at least 0")
        return float(value)
    text = environ.get(SHUTDOWN_TIMEOUT_VARIABLE)
    if text is None:
        return DEFAULT_SHUTDOWN_TIMEOUT
    try:
        return to_seconds(text)
    except ValueError as error:
        raise ValueError(f"{SHUTDOWN_TIMEOUT_VARIABLE}={text}: {error}") from None


def has_scheduler(environ: Mapping[str, str]) -> bool:
    """Say whether a scheduler may have started this process.

    Args:
        environ: the variables of this process.
    """
    return any(variable in environ for variable, _ in SCHEDULER_VARIABLES)


def _check_address(name: str, text: object) -> None:
    try:
        to_address(str(text))
    except ValueError as error:
        raise ValueError(f"{name}={text}: {error}") from None


def _check(name: str, value: object, *, at_least: int) -> None:
    if type(value) is not int or value < at_least:
        raise ValueError(f"{name}={value!r}: expected an integer, at least {at_least}")
