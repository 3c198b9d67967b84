"""What a command line means: `parse` turns it into a `Launch`.

Pure, but for the file that --config names and what MPICH is asked: starts nothing. Called by `cli`,
which carries it out. Nothing slow is imported before it is known that there is something to launch.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any, NamedTuple

from launcher.arguments import HELP_HINT, make_parser, nearest_option, print_and_exit
from launcher.config import LaunchConfig, has_scheduler, resolve_shutdown_timeout
from launcher.errors import UsageError
from launcher.options import OPTIONS, Option
from launcher.rules import split_signals
from launcher.settings import Setting, resolve_settings, show_settings
from launcher.target import Target

if TYPE_CHECKING:
    from launcher.hosts import Fleet, Host

__all__ = ("Launch", "in_users_words", "parse")

_MASTER_PORT = 29500  # torchrun's
_OWN_BACKENDS = ("tcp", "c10d")  # which need no endpoint on one node
_KINDS = ("no_python", "run_path")  # of what is run, besides modules
_OF_ONE_NODE = ("standalone", "node_rank", "local_addr")
_PREFIX_VARIABLE = "TORCHELASTIC_LOG_LINE_PREFIX_TEMPLATE"  # torchrun's, who has no option for it
_NEAR = ("hosts", "ssh", "config", "environment", "no-detect")  # options for this host alone


class Launch(NamedTuple):
    """What a command line asks for."""

    config: LaunchConfig
    target: Target
    log_dir: str | None
    """Folder for the logs of the run; ``None``: none was named."""
    names: Mapping[str, str]
    """What the user set each field of the configuration by: an option or a variable."""
    notes: tuple[str, ...] = ()
    """Lines about what a scheduler says, for the user."""
    fleet: Fleet | None = None
    """Where to launch instead of here; ``None``: here."""
    of_one_node: tuple[str, ...] = ()
    """What the user has set that can be true of one node only, in his words."""
    requeue: str = ""
    """The command that has the scheduler start the job again; empty: there is none."""


def parse(argv: Sequence[str], environ: Mapping[str, str]) -> Launch:
    """Turn a command line into a launch: looks at no file but that of --config, starts nothing.

    Args:
        argv: the arguments, without the program's own name.
        environ: the variables that stand in for options not given.

    Returns:
        The launch.

    Raises:
        UsageError: an option or variable breaks its rule.
        SystemExit: something was asked for, such as help, and has been printed.
    """
    found, unknown = make_parser().parse_known_args(list(argv))
    if unknown not in ([], ["--"]):
        meant = f", did you mean {near}?" if (near := nearest_option(unknown)) else ""
        raise UsageError(f"unrecognized arguments: {' '.join(unknown)}{meant}", HELP_HINT)
    arguments = vars(found)
    settings = resolve_settings({o.field: arguments[o.field] for o in OPTIONS}, environ)
    notes: tuple[str, ...] = ()
    requeue = ""
    is_asked = settings["environment"].text is not None or has_scheduler(environ)
    if is_asked and not settings["hosts"].text:  # who names hosts needs no scheduler's
        from launcher.detection import detect_settings  # noqa: PLC0415 -- only for clusters
        from launcher.pmi import with_job  # noqa: PLC0415 -- likewise

        settings, notes, requeue = detect_settings(settings, environ, with_job)
    if arguments["print_config"]:
        print_and_exit(show_settings(settings))
    names = {field: setting.name for field, setting in settings.items()}
    values = {option.field: _value(option, settings[option.field]) for option in OPTIONS}
    command: list[str] = arguments["command"] or []
    if command[:1] == ["--"]:
        command = command[1:]
    if not command:
        raise UsageError("script: expected the path of a script, none given", HELP_HINT)
    if values["module"] and (field := next((f for f in _KINDS if values[f]), "")):
        raise UsageError(f"{names['module']}, {names[field]}: expected one of them, 2 given")
    of_one_node = tuple(
        names[field]
        for field in _OF_ONE_NODE
        if values[field] is not None and values[field] is not False
    )
    return Launch(
        config=_config(values, names, environ),
        target=Target(
            name=command[0],
            args=tuple(command[1:]),
            is_module=values["module"],
            is_python=values["run_path"] or not values["no_python"],
            is_inside=values["run_path"],
        ),
        log_dir=values["log_dir"],
        names={option.field: names[option.field] for option in OPTIONS if option.parse},
        fleet=_fleet(values, settings, command, of_one_node) if values["hosts"] else None,
        notes=(*notes, *_unused(values, names)),
        of_one_node=of_one_node,
        requeue=requeue,
    )


def _fleet(
    values: Mapping[str, Any],
    settings: Mapping[str, Setting],
    command: Sequence[str],
    of_one_node: Sequence[str],
) -> Fleet:
    """Return what is to be launched on other hosts, and with which options there."""
    from launcher.hosts import Fleet  # noqa: PLC0415 -- only for several hosts

    hosts: tuple[Host, ...] = values["hosts"]
    where = f"{settings['hosts'].name}={settings['hosts'].text}"
    for name in of_one_node:
        raise UsageError(f"{name}: expected without {where}")
    is_counted = any(host.workers is not None for host in hosts)
    if is_counted and not settings["nproc_per_node"].is_default:
        name = settings["nproc_per_node"].name
        raise UsageError(f"{name}: expected without {where}, which says how many workers")
    nodes = settings["nnodes"]
    min_nodes, max_nodes = (len(hosts),) * 2 if nodes.is_default else values["nnodes"]
    if max_nodes > len(hosts):
        raise UsageError(f"{nodes.name}={nodes.text}: expected at most {len(hosts)}, as {where}")
    return Fleet(
        hosts=hosts,
        options=tuple(_passed_on(settings)),
        command=tuple(command),
        min_nodes=min_nodes,
        ssh=values["ssh"],
        has_endpoint=bool(values["rdzv_endpoint"]) or _has_master(values),
    )


def _passed_on(settings: Mapping[str, Setting]) -> Iterator[str]:
    """Return what the user has set, as options for the launcher on another host."""
    for option in OPTIONS:
        setting = settings[option.field]
        if setting.is_default or setting.text is None or option.name in _NEAR:
            continue
        if option.parse is not None:
            yield f"--{option.name}={setting.text}"
        elif option.read(setting.text):
            yield f"--{option.name}"


def in_users_words(message: str, names: Mapping[str, str]) -> str:
    """Let a message about a field, "field=value: rule", name what the user set it by.

    After the field may also come a part of it: "rdzv_conf join_timeout=x: rule".

    Args:
        message: about a field of the configuration, or about something else.
        names: what the user set each field by.

    Returns:
        The message, with the field replaced if it is one of `names`.
    """
    field = message.partition("=")[0].partition(":")[0].partition(" ")[0]
    rest = message[len(field) :]
    return names[field] + rest if field in names and rest[:1] in ("=", " ", ":") else message


def _value(option: Option, setting: Setting) -> Any:
    if setting.text is None:
        return False if option.parse is None else None
    return _read(setting.name, setting.text, option.read)


def _read(name: str, text: str, read: Any) -> Any:
    try:
        return read(text)
    except ValueError as error:
        raise UsageError(f"{name}={text}: {error}") from None


def _config(
    values: Mapping[str, Any], names: Mapping[str, str], environ: Mapping[str, str]
) -> LaunchConfig:
    from launcher.affinity import NumaOptions  # noqa: PLC0415 -- not needed for --help
    from launcher.logs import Std, get_logs_specs_class  # noqa: PLC0415 -- a launch loads what it needs, when it does

    streams = {
        field: _read(names[field], values[field], Std.from_str) for field in ("redirects", "tee")
    }
    _check_ranks(values, names, streams)
    if values["fold"] and values["logs_specs"] is not None:
        raise UsageError(f"{names['fold']}: expected without {names['logs_specs']}")
    min_nodes, max_nodes = values["nnodes"]
    try:
        return LaunchConfig(
            min_nodes,
            max_nodes,
            values["nproc_per_node"],
            logs_specs=get_logs_specs_class(values["logs_specs"])(
                log_dir=values["log_dir"],
                local_ranks_filter=values["local_ranks_filter"],
                **streams,
                **({"folds": True} if values["fold"] else {}),
            ),
            run_id=values["rdzv_id"],
            role=values["role"],
            **_rendezvous(values, names),
            max_restarts=values["max_restarts"],
            restart_window=values["restart_window"] or math.inf,
            restart_backoff=values["restart_backoff"],
            torch_store=values["torch_store"],
            local_addr=values["local_addr"],
            log_line_prefix_template=environ.get(_PREFIX_VARIABLE) or None,
            signals_to_handle=_known_signals(values["signals_to_handle"]),
            forward_signals=values["forward_signals"],
            preempt_signals=values["preempt_signals"],
            preempt_notice=values["preempt_notice"],
            shutdown_timeout=resolve_shutdown_timeout(values["shutdown_timeout"], environ),
            stdin=values["stdin"],
            start_method=values["start_method"],
            numa_options=NumaOptions(binding) if (binding := values["numa_binding"]) else None,
            virtual_local_rank=values["virtual_local_rank"],
            duplicate_stdout_filters=values["duplicate_stdout_filters"],
            duplicate_stderr_filters=values["duplicate_stderr_filters"],
            event_log_handler=values["event_log_handler"],
            health_port=values["health_port"],
            monitor_interval=values["monitor_interval"],
        )
    except NotADirectoryError:
        raise UsageError(
            f"{names['log_dir']}={values['log_dir']}: expected a folder, it is a file"
        ) from None
    except ValueError as error:
        raise UsageError(in_users_words(str(error), names)) from None


def _known_signals(names: str) -> str:
    return ",".join(number.name for number in split_signals(names)[0])


def _rendezvous(values: Mapping[str, Any], names: Mapping[str, str]) -> dict[str, Any]:
    """Return the fields that say how the nodes find each other."""
    _, max_nodes = values["nnodes"]
    if values["standalone"] and max_nodes > 1:
        raise UsageError(f"{names['nnodes']}={max_nodes}: expected one node with --standalone")
    backend, endpoint = values["rdzv_backend"], values["rdzv_endpoint"]
    rank = values["node_rank"]
    if values["standalone"]:
        backend, endpoint = (backend if backend in _OWN_BACKENDS else None), ""
    elif backend == "static" or _has_master(values):
        backend = "static"
        address = _bracketed(values["master_addr"] or "127.0.0.1")
        endpoint = endpoint or f"{address}:{values['master_port'] or _MASTER_PORT}"
        rank = values["rdzv_conf"].get("rank", 0) if rank is None else rank
    extra = {"rank": rank, "expect_nodes": values["expect_nodes"]}
    settings = {name: value for name, value in extra.items() if value is not None}
    return {
        "rdzv_backend": backend or _OWN_BACKENDS[0],
        "rdzv_endpoint": endpoint,
        "rdzv_configs": {**values["rdzv_conf"], **settings},
    }


def _has_master(values: Mapping[str, Any]) -> bool:
    """Return whether a master address or port selects the static backend."""
    return bool(_masters(values)) and _instead_of_master(values) in ("", "rdzv_endpoint")


def _masters(values: Mapping[str, Any]) -> list[str]:
    return [field for field in ("master_addr", "master_port") if values[field] is not None]


def _instead_of_master(values: Mapping[str, Any]) -> str:
    """Return which option says where nodes meet in place of a master; as torchrun has it."""
    given = {
        "standalone": values["standalone"],
        "rdzv_backend": values["rdzv_backend"] not in (None, "static"),
        "rdzv_endpoint": values["rdzv_endpoint"],
    }
    return next((field for field, is_given in given.items() if is_given), "")


def _unused(values: Mapping[str, Any], names: Mapping[str, str]) -> Iterator[str]:
    """Tell what is without effect, as it is for torchrun."""
    if values["run_path"] and values["no_python"]:
        yield f"{names['no_python']} is not used beside {names['run_path']}"
    for name in split_signals(values["signals_to_handle"])[1]:
        yield f"{names['signals_to_handle']}={name}: there is no such signal, passed over"
    masters = [names[field] for field in _masters(values)]
    other = _instead_of_master(values)
    if masters and other:
        are = "is" if len(masters) == 1 else "are"
        yield f"{' and '.join(masters)} {are} not used beside {names[other]}"


def _bracketed(host: str) -> str:
    return f"[{host}]" if ":" in host and not host.startswith("[") else host


def _check_ranks(
    values: Mapping[str, Any], names: Mapping[str, str], streams: Mapping[str, Any]
) -> None:
    """Refuse local ranks that no worker has: whoever names one expects something of it."""
    workers = values["nproc_per_node"]
    named = {
        **{field: choice for field, choice in streams.items() if isinstance(choice, dict)},
        "local_ranks_filter": values["local_ranks_filter"],
        "stdin": () if values["stdin"] is None else (values["stdin"],),
    }
    for field, ranks in named.items():
        if (rank := max(ranks, default=0)) >= workers:
            text = values[field] if isinstance(values[field], str) else _listed(ranks)
            raise UsageError(
                f"{names[field]}={text}: expected local ranks below "
                f"{names['nproc_per_node']}={workers}, there is no rank {rank}"
            )


def _listed(ranks: Iterable[int]) -> str:
    return ",".join(map(str, sorted(ranks)))
