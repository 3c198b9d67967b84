"""What a launch is configured by: the options of the command line, and `LaunchConfig`.

Every option is declared once, in `OPTIONS`: flag, environment variable, rule, default and help all
come from there. Values only: nothing here starts, opens or imports anything of the run. `cli`
turns options into a `LaunchConfig`; `api` and its users may build one directly.
"""

from __future__ import annotations

import math
import os
import signal
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, NamedTuple

if TYPE_CHECKING:  # the names only: whoever sets the fields imports them
    from launcher.affinity import NumaOptions
    from launcher.logs import LogsSpecs

__all__ = (
    "DEFAULT_SHUTDOWN_TIMEOUT",
    "DEFAULT_SIGNALS",
    "OPTIONS",
    "SHUTDOWN_TIMEOUT_VARIABLE",
    "SIGNALS_TO_HANDLE_VARIABLE",
    "START_METHODS",
    "LaunchConfig",
    "Option",
    "resolve_shutdown_timeout",
    "to_signals",
)

DEFAULT_SHUTDOWN_TIMEOUT = 30.0  # torchrun's grace between the signal and SIGKILL
DEFAULT_SIGNALS = "SIGTERM,SIGINT,SIGHUP,SIGQUIT"
SHUTDOWN_TIMEOUT_VARIABLE = "TORCH_ELASTIC_SHUTDOWN_TIMEOUT"
SIGNALS_TO_HANDLE_VARIABLE = "TORCHELASTIC_SIGNALS_TO_HANDLE"
START_METHODS = ("spawn", "fork", "forkserver")
"""How a worker that runs a function comes to be."""
_LAST_PORT = 65535
_SHORT_FORMS = {"module": "-m", "redirects": "-r", "tee": "-t"}


class Option(NamedTuple):
    """One option of the command line, under all its names.

    Args:
        name: the flag's name with dashes, without the leading two: ``nproc-per-node``.
        help: what it does, one sentence or two, lower case.
        parse: turns the text of flag or variable into a value; raises `ValueError` saying what it
            expected. ``None`` makes the option a switch that takes no value.
        default: the text parsed when neither flag nor variable is given; ``None`` means unset.
        metavar: what the help shows for the value.
    """

    name: str
    help: str
    parse: Callable[[str], object] | None = str
    default: str | None = None
    metavar: str = "VALUE"

    @property
    def field(self) -> str:
        """The name of the value in programs and configuration: ``nproc_per_node``."""
        return self.name.replace("-", "_")

    @property
    def variable(self) -> str:
        """The environment variable that sets it, torchrun's: ``PET_NPROC_PER_NODE``."""
        return "PET_" + self.field.upper()

    @property
    def flags(self) -> tuple[str, ...]:
        """Every spelling of the flag, the short form first."""
        short = (_SHORT_FORMS[self.name],) if self.name in _SHORT_FORMS else ()
        spellings = dict.fromkeys((f"--{self.name}", f"--{self.field}"))
        return (*short, *spellings)

    def read(self, text: str) -> object:
        """Turn the text of the flag or the variable into the option's value.

        Args:
            text: as the user wrote it; for a switch, the text of its variable.

        Returns:
            The value.

        Raises:
            ValueError: the text breaks the option's rule; the message says what was expected.
        """
        return _switch(text) if self.parse is None else self.parse(text)


@dataclass(frozen=True, slots=True, kw_only=True)
class LaunchConfig:
    """How to launch one group of workers; torch's fields, those that act.

    Args:
        min_nodes: nodes needed to run, at least 1.
        max_nodes: nodes at most, not below `min_nodes`.
        nproc_per_node: workers on this node, at least 1.
        logs_specs: where output goes; ``None``: through the launcher, no files.
        run_id: name of the run, the same on every node; empty: a random one for one node, "none"
            for several.
        role: what the workers are, handed to them as ``ROLE_NAME``.
        rdzv_backend: how nodes find each other: ``tcp`` (or ``c10d``), ``static``, or a registered
            name.
        rdzv_endpoint: ``host[:port]`` of the run's store, the same on every node: the node that
            can listen there does; empty, for one node: a free port of loopback.
        rdzv_configs: settings of the backend by name, such as ``join_timeout``.
        max_restarts: how often the run may be restarted after failures, on all nodes together.
        restart_window: seconds after which a restart no longer counts, above 0.
        local_addr: where other nodes reach this one; ``None``: found out.
        log_line_prefix_template: prefix of teed lines, with ``${role_name}``, ``${rank}`` and
            ``${local_rank}`` filled in; ``None``: ``[role<local rank>]:``.
        signals_to_handle: comma list of the signals that stop the run in order.
        shutdown_timeout: seconds between the first signal to the workers and SIGKILL, from 0
            (SIGKILL at once); ``None``: ``$TORCH_ELASTIC_SHUTDOWN_TIMEOUT``, else 30. Reading the
            field gives the resolved number.
        stdin: local rank of the worker that gets the launcher's standard input; ``None``: 0 if
            there is one worker only, else nobody.
        start_method: how workers that run a function are started: ``spawn``, ``fork`` or
            ``forkserver``.
        numa_options: which processors each worker may use; ``None``: all.
        virtual_local_rank: whether every worker has ``LOCAL_RANK=0``, and in
            ``CUDA_VISIBLE_DEVICES`` its own device only.
        duplicate_stdout_filters: texts; lines of the workers' stdout with any of them are copied to
            one file of the round, ``filtered_stdout.log``; ``None``: none.
        duplicate_stderr_filters: the same for stderr.
        rdzv_timeout: torch's older name of the setting ``timeout`` in `rdzv_configs`, seconds;
            -1: not set.
        metrics_cfg: accepted empty, for torch's callers: this version emits no metrics.
        monitor_interval: accepted for torch's callers: what happens is heard of, not polled for.
        event_log_handler: where events of the run go: ``null``, ``console`` (JSON lines on stderr),
            or the name of a handler given to `launcher.events.register_handler`.

    Raises:
        ValueError: a field breaks its rule; names field, value and rule.
    """

    min_nodes: int = field(kw_only=False)
    max_nodes: int = field(kw_only=False)
    nproc_per_node: int = field(kw_only=False)
    logs_specs: LogsSpecs | None = None
    run_id: str = ""
    role: str = "default_role"
    rdzv_backend: str = "tcp"
    rdzv_endpoint: str = ""
    rdzv_configs: Mapping[str, object] = field(default_factory=dict)
    max_restarts: int = 3
    restart_window: float = math.inf
    local_addr: str | None = None
    log_line_prefix_template: str | None = None
    signals_to_handle: str = DEFAULT_SIGNALS
    shutdown_timeout: float | None = None
    stdin: int | None = None
    rdzv_timeout: int = -1
    metrics_cfg: Mapping[str, str] = field(default_factory=dict)
    start_method: str = "spawn"
    numa_options: NumaOptions | None = None
    virtual_local_rank: bool = False
    duplicate_stdout_filters: Sequence[str] | None = None
    duplicate_stderr_filters: Sequence[str] | None = None
    monitor_interval: float = 0.1
    event_log_handler: str = "null"

    def __post_init__(self) -> None:
        _check("min_nodes", self.min_nodes, at_least=1)
        _check("max_nodes", self.max_nodes, at_least=1)
        _check("nproc_per_node", self.nproc_per_node, at_least=1)
        _check("max_restarts", self.max_restarts, at_least=0)
        if self.max_nodes < self.min_nodes:
            raise ValueError(
                f"max_nodes={self.max_nodes}: expected at least min_nodes, {self.min_nodes}"
            )
        if not self.restart_window > 0:
            raise ValueError(f"restart_window={self.restart_window}: expected seconds above 0")
        if self.stdin is not None:
            _check("stdin", self.stdin, at_least=0)
            if self.stdin >= self.nproc_per_node:
                raise ValueError(
                    f"stdin={self.stdin}: expected a local rank below "
                    f"nproc_per_node={self.nproc_per_node}"
                )
        if self.metrics_cfg:
            raise ValueError(f"metrics_cfg={self.metrics_cfg}: expected {{}}, there are no metrics")
        if self.rdzv_timeout != -1:
            settings = {**self.rdzv_configs, "timeout": self.rdzv_timeout}
            object.__setattr__(self, "rdzv_configs", settings)
        if self.start_method not in START_METHODS:
            methods = ", ".join(START_METHODS)
            raise ValueError(f"start_method={self.start_method!r}: expected one of {methods}")
        if not self.role:
            raise ValueError("role='': expected a name")
        if not self.rdzv_backend:
            raise ValueError("rdzv_backend='': expected the name of a backend")
        try:
            to_signals(self.signals_to_handle)
        except ValueError as error:
            raise ValueError(f"signals_to_handle={self.signals_to_handle}: {error}") from None
        object.__setattr__(
            self, "shutdown_timeout", resolve_shutdown_timeout(self.shutdown_timeout, os.environ)
        )

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
        return _seconds(text)
    except ValueError as error:
        raise ValueError(f"{SHUTDOWN_TIMEOUT_VARIABLE}={text}: {error}") from None


def to_signals(names: str) -> tuple[signal.Signals, ...]:
    """Turn a comma list of signal names into signals, each once, in the order given.

    Args:
        names: such as ``SIGTERM,SIGINT``; the ``SIG`` may be left out; empty: none.

    Returns:
        The signals.

    Raises:
        ValueError: a name is no signal, or one that cannot be caught.
    """
    found: dict[signal.Signals, None] = {}
    for raw in names.split(","):
        name = raw.strip().upper()
        if not name:
            continue
        try:
            number = signal.Signals[name if name.startswith("SIG") else f"SIG{name}"]
        except KeyError:
            raise ValueError(f"expected names of signals, {raw.strip()!r} is none") from None
        if number in (signal.SIGKILL, signal.SIGSTOP):
            raise ValueError(f"expected signals that can be caught, {number.name} cannot")
        found[number] = None
    return tuple(found)


def _check(name: str, value: object, *, at_least: int) -> None:
    if type(value) is not int or value < at_least:
        raise ValueError(f"{name}={value!r}: expected an integer, at least {at_least}")


def _switch(text: str) -> bool:
    # torchrun takes 0 and 1 alone, and fails on `PET_STANDALONE=true` with a traceback.
    lowered = text.strip().lower()
    if lowered in ("1", "true", "t", "yes", "y", "on"):
        return True
    if lowered in ("", "0", "false", "f", "no", "n", "off"):
        return False
    raise ValueError("expected 1 or 0 (or true, false, yes, no)")


def _integer(text: str, at_least: int) -> int:
    # `str.isdecimal` takes other scripts' digits and `int` takes underscores: neither is meant.
    if text.isascii() and text.isdigit() and len(text) < 10 and int(text) >= at_least:
        return int(text)
    raise ValueError(f"expected an integer, at least {at_least}")


def _from_zero(text: str) -> int:
    return _integer(text, 0)


def _from_one(text: str) -> int:
    return _integer(text, 1)


def _seconds(text: str) -> float:
    try:
        value = float(text)
    except ValueError:
        value = -1.0
    if math.isfinite(value) and value >= 0:
        return value
    raise ValueError("expected seconds, at least 0")


def _workers(text: str) -> int:
    if text in ("auto", "cpu"):
        return len(os.sched_getaffinity(0))
    try:
        return _integer(text, 1)
    except ValueError:
        raise ValueError("expected an integer, at least 1, or auto or cpu") from None


def _nodes(text: str) -> tuple[int, int]:
    low, colon, high = text.partition(":")
    try:
        least = _integer(low, 1)
        most = _integer(high, least) if colon else least
    except ValueError:
        raise ValueError(
            "expected N or MIN:MAX, from 1, MIN not above MAX, such as 2 or 1:4"
        ) from None
    return least, most


def _settings(text: str) -> dict[str, object]:
    found: dict[str, object] = {}
    for part in text.split(","):
        name, equals, value = part.partition("=")
        if part.strip() and not (equals and name.strip() and value.strip()):
            raise ValueError("expected settings such as join_timeout=60,last_call_timeout=5")
        if part.strip():
            found[name.strip()] = value.strip()
    return found


def _span(text: str) -> float:
    try:
        value = _seconds(text)
    except ValueError:
        value = 0.0
    if value > 0:
        return value
    raise ValueError("expected seconds, above 0")


def _port(text: str) -> int:
    try:
        if (port := _integer(text, 1)) <= _LAST_PORT:
            return port
    except ValueError:
        pass
    raise ValueError(f"expected a port, from 1 to {_LAST_PORT}")


def _ranks(text: str) -> frozenset[int]:
    try:
        return frozenset(_integer(part.strip(), 0) for part in text.split(",") if part.strip())
    except ValueError:
        raise ValueError("expected local ranks separated by commas, such as 0,2") from None


def _signals(text: str) -> str:
    return ",".join(number.name for number in to_signals(text))


def _text(text: str) -> str:
    try:
        text.encode()
    except UnicodeEncodeError:
        raise ValueError("expected text in UTF-8") from None
    return text


def _name(text: str) -> str:
    if text:
        return _text(text)
    raise ValueError("expected a name")


def _texts(text: str) -> tuple[str, ...]:
    # torch's: a comma that is meant is written twice.
    parts = text.replace(",,", "\0").split(",")
    return tuple(part.replace("\0", ",") for part in parts if part)


def _one_of(*names: str) -> Callable[[str], str]:
    def parse(text: str) -> str:
        if text in names:
            return text
        raise ValueError(f"expected one of {', '.join(names)}")

    return parse


def _folder(text: str) -> str:
    if text:
        return text  # bytes of any kind: `os.fsencode` knows them
    raise ValueError("expected a folder")


OPTIONS: tuple[Option, ...] = (
    Option(
        name="nnodes",
        help="number of nodes, N or MIN:MAX: the run goes on while there are MIN, and grows to MAX",
        parse=_nodes,
        default="1",
        metavar="N",
    ),
    Option(
        name="nproc-per-node",
        help="workers on this node: a number, or auto or cpu for one per usable processor",
        parse=_workers,
        default="1",
        metavar="N",
    ),
    Option(
        name="standalone",
        help="run on this node alone, with a store on a free port (what one node does anyway)",
        parse=None,
    ),
    Option(
        name="rdzv-backend",
        help="how nodes find each other: tcp (or c10d), static, or a registered name; default: "
        "static if --master-addr or --master-port is given, else tcp",
        parse=_name,
        metavar="NAME",
    ),
    Option(
        name="rdzv-endpoint",
        help="host[:port] of the run's store, the same on every node; the node that can listen "
        "there hosts it; default for one node: a free port of loopback",
        default="",
        metavar="ADDRESS",
    ),
    Option(
        name="rdzv-id",
        help="name of the run, the same on every node; default: a random one for one node, else "
        "none",
        parse=_text,
        default="",
        metavar="ID",
    ),
    Option(
        name="rdzv-conf",
        help="settings such as join_timeout=60,last_call_timeout=5,join_debounce=0.3",
        parse=_settings,
        default="",
        metavar="SETTINGS",
    ),
    Option(
        name="node-rank",
        help="rank of this node, kept in every round of that many nodes; default: by host name, "
        "0 with static",
        parse=_from_zero,
        metavar="RANK",
    ),
    Option(
        name="expect-nodes",
        help="number of nodes that the first round waits for and no longer; default: the MAX of "
        "--nnodes",
        parse=_from_one,
        metavar="N",
    ),
    Option(
        name="master-addr",
        help="where rank 0 of the workers listens; selects static; default: 127.0.0.1",
        parse=_name,
        metavar="HOST",
    ),
    Option(
        name="master-port",
        help="the port it listens on; several nodes meet at the next one; default: 29500",
        parse=_port,
        metavar="PORT",
    ),
    Option(
        name="local-addr",
        help="where other nodes reach this one; default: the address it reaches the store from",
        parse=_name,
        metavar="HOST",
    ),
    Option("role", "what the workers are; they read it as ROLE_NAME", _name, "default", "NAME"),
    Option(
        name="max-restarts",
        help="how often the run may be restarted after failures, on all nodes together",
        parse=_from_zero,
        default="0",
        metavar="N",
    ),
    Option(
        name="restart-window",
        help="seconds after which a restart no longer counts; default: it always counts",
        parse=_span,
        metavar="SECONDS",
    ),
    Option(
        name="shutdown-timeout",
        help="seconds between the signal that stops the workers and SIGKILL; 0 kills at once; "
        "default: $TORCH_ELASTIC_SHUTDOWN_TIMEOUT, else 30",
        parse=_seconds,
        metavar="SECONDS",
    ),
    Option(
        name="signals-to-handle",
        help="signals that stop the run in order, forwarded to the workers",
        parse=_signals,
        default=DEFAULT_SIGNALS,
        metavar="NAMES",
    ),
    Option(
        name="stdin",
        help="local rank that gets the launcher's standard input; default: 0 if it is the only one",
        parse=_from_zero,
        metavar="RANK",
    ),
    Option(name="module", help="run a module, as `python -m` does", parse=None),
    Option(name="no-python", help="run a program, not a Python script", parse=None),
    Option(
        name="log-dir",
        help="directory for the logs of the run; /dev/null keeps none",
        parse=_folder,
        metavar="DIR",
    ),
    Option(
        name="redirects",
        help="write output to files instead of the console: 0 none, 1 stdout, 2 stderr, 3 both, "
        "for all workers or by local rank, such as 0:3,1:2",
        default="0",
        metavar="STD",
    ),
    Option(
        name="tee",
        help="prefix output on the console and write it to files as well; values as for -r",
        default="0",
        metavar="STD",
    ),
    Option(
        name="local-ranks-filter",
        help="local ranks whose output reaches the console, such as 0,2; default: all",
        parse=_ranks,
        default="",
        metavar="RANKS",
    ),
    Option(
        name="duplicate-stdout-filters",
        help="copy lines of stdout with any of these texts, separated by commas, to one "
        "filtered_stdout.log for all workers; ,, is a comma",
        parse=_texts,
        default="",
        metavar="TEXTS",
    ),
    Option(
        name="duplicate-stderr-filters",
        help="the same for stderr and filtered_stderr.log",
        parse=_texts,
        default="",
        metavar="TEXTS",
    ),
    Option(
        name="logs-specs",
        help="what decides where logs go: an entry point of the group launcher.logs_specs",
        parse=_name,
        metavar="NAME",
    ),
    Option(
        name="numa-binding",
        help="bind workers to processors: node, socket, exclusive or core-complex",
        parse=_one_of("node", "socket", "exclusive", "core-complex"),
        metavar="MODE",
    ),
    Option(
        name="virtual-local-rank",
        help="give every worker LOCAL_RANK=0, and in CUDA_VISIBLE_DEVICES its own device only",
        parse=None,
    ),
    Option(
        name="event-log-handler",
        help="where events of the run go: null, console (JSON lines on stderr) or a registered "
        "handler",
        parse=_name,
        default="null",
        metavar="NAME",
    ),
)
