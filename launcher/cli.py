"""The command line: `parse` turns it into a launch, `main` carries the launch out.

`parse` is pure, but for the file that --config names. `main` turns outcomes into exit statuses: 0;
the root-cause worker's own, 128+N if signal N ended it; 2 for a usage error; 128+N when the
launcher itself was told to stop by signal N. Nothing slow is imported before it is known that there
is something to launch.
"""

from __future__ import annotations

import argparse
import math
import os
import sys
from collections.abc import Callable, Iterable, Mapping, Sequence
from contextlib import suppress
from typing import TYPE_CHECKING, Any, NamedTuple, NoReturn

from launcher.config import (
    LaunchConfig,
    resolve_shutdown_timeout,
)
from launcher.errors import (
    ChildFailedError,
    LauncherError,
    ProcessFailure,
    UsageError,
    one_line,
)
from launcher.options import OPTIONS, Option
from launcher.settings import Setting, resolve_settings, show_settings
from launcher.target import Target

if TYPE_CHECKING:
    from launcher.agent import RunResult
    from launcher.process import Guardian

__all__ = ("Launch", "main", "parse")

_FAILURE_STATUS = 1
_USAGE_STATUS = 2
_WIDTH = 100
_MASTER_PORT = 29500  # torchrun's
_COMMANDS = ("status", "logs", "stop")  # a script of such a name is given as ./status
_HELP_HINT = "python -m launcher --help lists the options"
_DESCRIPTION = """\
Start workers on this machine, watch over them, and start them all again when one fails.

Every worker learns who it is from its environment (RANK, WORLD_SIZE, LOCAL_RANK, MASTER_ADDR, ...):
scripts written for torchrun run unchanged, and asyncrpc.init_rpc() needs no arguments.
"""
_EPILOG = """\
Options may be written with underscores for dashes. The variable in brackets sets an option that is
not given; where neither is, the file counts that --config names, such as pyproject.toml. What
follows the script is handed to it unchanged.

exit status:
  0 when every worker succeeded; else that of the worker that failed first, 128+N if signal N ended
  it; 2 for a usage error; 128+N when the launcher itself was told to stop by signal N

commands, instead of a script (one of such a name is given as ./status):
  python -m launcher status [RUN] [--json]                  show the launches on this machine
  python -m launcher logs [RUN] [--rank RANK] [--follow]    show the log files of one
  python -m launcher stop [RUN]                             end one, as SIGTERM does

examples:
  python -m launcher --nproc-per-node 4 train.py --epochs 3
  python -m launcher --nproc-per-node auto -t 3 --log-dir logs -m package.train
  python -m launcher --nproc-per-node 2 --no-python bash -c 'echo rank $RANK of $WORLD_SIZE'
"""


class Launch(NamedTuple):
    """What a command line asks for."""

    config: LaunchConfig
    target: Target
    log_dir: str | None
    """Folder for the logs of the run; ``None``: none was named."""
    names: Mapping[str, str]
    """What the user set each field of the configuration by: an option or a variable."""


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
    found, unknown = _parser().parse_known_args(list(argv))
    if unknown not in ([], ["--"]):
        raise UsageError(f"unrecognized arguments: {' '.join(unknown)}", _HELP_HINT)
    arguments = vars(found)
    settings = resolve_settings({o.field: arguments[o.field] for o in OPTIONS}, environ)
    if arguments["print_config"]:
        _print_and_exit(show_settings(settings))
    names = {field: setting.name for field, setting in settings.items()}
    values = {option.field: _value(option, settings[option.field]) for option in OPTIONS}
    command: list[str] = arguments["command"] or []
    if command[:1] == ["--"]:
        command = command[1:]
    if not command:
        raise UsageError("script: expected the path of a script, none given", _HELP_HINT)
    exclusive = ("module", "no_python", "run_path")
    given = [names[field] for field in exclusive if values[field]]
    if len(given) > 1:
        raise UsageError(f"{', '.join(given)}: expected one of them, {len(given)} given")
    return Launch(
        config=_config(values, names, environ),
        target=Target(
            name=command[0],
            args=tuple(command[1:]),
            is_module=values["module"],
            is_python=not values["no_python"],
            is_inside=values["run_path"],
        ),
        log_dir=values["log_dir"],
        names={option.field: names[option.field] for option in OPTIONS if option.parse},
    )


def main(argv: Sequence[str] | None = None) -> int:
    """Launch what the command line asks for, and wait until it is over.

    Args:
        argv: the arguments without the program's name; ``None``: those of this process.

    Returns:
        The exit status.
    """
    names: Mapping[str, str] = {}
    argv = sys.argv[1:] if argv is None else argv
    try:
        if argv and argv[0] in _COMMANDS:
            from launcher.commands import run_command  # noqa: PLC0415 -- not for a launch

            return run_command(argv[0], argv[1:])
        launch = parse(argv, os.environ)
        names = launch.names
        launch.target.check(os.environ)
        _prepare_log_dir(launch)
        return _run(launch)
    except UsageError as error:
        _print(f"launcher: {_in_users_words(one_line(error), names)}")
        if error.hint:
            _print(f"hint: {error.hint}")
        return _USAGE_STATUS
    except (LauncherError, OSError) as error:
        _print(f"launcher: {_in_users_words(one_line(error), names)}")
        return _FAILURE_STATUS


class _HelpFormatter(argparse.RawDescriptionHelpFormatter):
    """Shows one spelling of each option; the other differs by underscores only."""

    def __init__(self, prog: str) -> None:
        # Left to itself, argparse loads shutil to ask for the width, once per option.
        super().__init__(prog, width=_WIDTH)

    def _format_action_invocation(self, action: argparse.Action) -> str:
        shown = [flag for flag in action.option_strings if "_" not in flag]
        if not shown:
            return super()._format_action_invocation(action)
        value = f" {action.metavar}" if action.nargs != 0 else ""
        return ", ".join(shown) + value


class _Parser(argparse.ArgumentParser):
    """Reports errors as ours do: one line, without the usage block."""

    def error(self, message: str) -> NoReturn:
        text = message.removeprefix("argument ")
        raise UsageError(
            text.replace("ignored explicit argument", "expected no value, got", 1), _HELP_HINT
        )


def _parser() -> argparse.ArgumentParser:
    parser = _Parser(
        prog="python -m launcher",
        usage="python -m launcher [options] script [args ...]",
        description=_DESCRIPTION,
        epilog=_EPILOG,
        formatter_class=_HelpFormatter,
        allow_abbrev=False,  # an abbreviation breaks when an option is added
    )
    for option in OPTIONS:
        shown = f" (default: {option.default})" if option.default else ""
        text = f"{option.help}{shown} [{option.variable}]"
        extra: dict[str, Any] = {"metavar": option.metavar}
        if option.parse is None:
            extra = {"action": "store_const", "const": "1"}
        parser.add_argument(
            *option.flags, dest=option.field, default=None, help=text.replace("%", "%%"), **extra
        )
    _add_questions(parser)
    command = parser.add_argument(
        "command",
        nargs=argparse.PARSER,  # one word, then everything after it, options and -- included
        metavar="script",
        help="what every worker runs: a Python script, or a module or program by -m, --no-python",
    )
    command.required = False  # `parse` misses it, so that a mistyped option is told first
    return parser


def _add_questions(parser: argparse.ArgumentParser) -> None:
    """Add the options that print something instead of launching."""
    parser.add_argument(
        "--print-config",
        "--print_config",
        action="store_true",
        help="print what each option is set to and by what, as a file for --config, and exit",
    )
    parser.add_argument(
        "--print-completion",
        "--print_completion",
        action=_PrintCompletion,
        metavar="SHELL",
        help="print a completion script for bash, zsh or tcsh, and exit; needs the extra "
        "asyncrpc[completion]",
    )


class _PrintCompletion(argparse.Action):
    """Prints the completion of a shell as soon as it is met, as help does."""

    def __call__(
        self,
        parser: argparse.ArgumentParser,
        _namespace: argparse.Namespace,
        values: Any,
        _option: str | None = None,
    ) -> NoReturn:
        try:
            import shtab  # noqa: PLC0415 -- an extra
        except ImportError:
            raise UsageError(
                "--print-completion: expected the extra: pip install asyncrpc[completion]"
            ) from None
        if values not in shtab.SUPPORTED_SHELLS:
            shells = ", ".join(shtab.SUPPORTED_SHELLS)
            raise UsageError(f"--print-completion={values}: expected one of {shells}")
        parser.prog = "launcher"
        _print_and_exit(shtab.complete(parser, values))


def _print_and_exit(text: str) -> NoReturn:
    print(text)  # noqa: T201 -- a command line talks
    raise SystemExit(0)


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
            ),
            run_id=values["rdzv_id"],
            role=values["role"],
            **_rendezvous(values, names),
            max_restarts=values["max_restarts"],
            restart_window=values["restart_window"] or math.inf,
            restart_backoff=values["restart_backoff"],
            local_addr=values["local_addr"],
            signals_to_handle=values["signals_to_handle"],
            forward_signals=values["forward_signals"],
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
        raise UsageError(_in_users_words(str(error), names)) from None


def _rendezvous(values: Mapping[str, Any], names: Mapping[str, str]) -> dict[str, Any]:
    """Return the fields that say how the nodes find each other."""
    _check_rendezvous(values, names)
    backend, endpoint = values["rdzv_backend"], values["rdzv_endpoint"]
    rank = values["node_rank"]
    if _has_master(values) or backend == "static":
        backend = "static"
        address = _bracketed(values["master_addr"] or "127.0.0.1")
        endpoint = endpoint or f"{address}:{values['master_port'] or _MASTER_PORT}"
        rank = values["rdzv_conf"].get("rank", 0) if rank is None else rank
    extra = {"rank": rank, "expect_nodes": values["expect_nodes"]}
    settings = {name: value for name, value in extra.items() if value is not None}
    return {
        "rdzv_backend": backend or "tcp",
        "rdzv_endpoint": "" if values["standalone"] else endpoint,
        "rdzv_configs": {**values["rdzv_conf"], **settings},
    }


def _check_rendezvous(values: Mapping[str, Any], names: Mapping[str, str]) -> None:
    """Refuse options of which one would be without effect."""
    _, max_nodes = values["nnodes"]
    if values["standalone"] and max_nodes > 1:
        raise UsageError(f"{names['nnodes']}={max_nodes}: expected one node with --standalone")
    if not _has_master(values):
        return
    master = names["master_addr" if values["master_addr"] is not None else "master_port"]
    backend = values["rdzv_backend"]
    others = {
        "standalone": values["standalone"],
        "rdzv_backend": backend not in (None, "static"),
        "rdzv_endpoint": values["rdzv_endpoint"],
    }
    for field, is_given in others.items():
        if is_given:
            raise UsageError(f"{master}: expected without {names[field]}: it selects static")


def _has_master(values: Mapping[str, Any]) -> bool:
    return values["master_addr"] is not None or values["master_port"] is not None


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


def _in_users_words(message: str, names: Mapping[str, str]) -> str:
    """Let a message about a field, "field=value: rule", name what the user set it by.

    After the field may also come a part of it: "rdzv_conf join_timeout=x: rule".
    """
    field = message.partition("=")[0].partition(":")[0].partition(" ")[0]
    rest = message[len(field) :]
    return names[field] + rest if field in names and rest[:1] in ("=", " ", ":") else message


def _prepare_log_dir(launch: Launch) -> None:
    """Make the folder for logs now, when nothing has been started in vain."""
    path = launch.log_dir
    if path is None or path == os.devnull:
        return
    name = launch.names["log_dir"]
    try:
        os.makedirs(path, exist_ok=True)
    except (OSError, ValueError) as error:
        why = getattr(error, "strerror", None) or error
        raise UsageError(f"{name}={path}: expected a folder that can be made: {why}") from None
    if not os.access(path, os.W_OK | os.X_OK):
        raise UsageError(f"{name}={path}: expected a folder that can be written to")


def _run(launch: Launch) -> int:
    import asyncio  # noqa: PLC0415 -- slow: not for --help and mistakes

    with asyncio.Runner() as runner:
        guardian = runner.run(_start_guardian())  # it boots while we import the rest
        import launcher.api  # noqa: F401, PLC0415 -- not on the loop, which it would block
        from launcher.limits import raise_open_files  # noqa: PLC0415 -- a launch loads what it needs, when it does

        raise_open_files()  # now that the guardian has the limit that its workers are to keep

        return runner.run(_supervise(launch, guardian))


async def _start_guardian() -> Guardian:
    from launcher.process import Guardian  # noqa: PLC0415 -- a launch loads what it needs, when it does

    return Guardian.start(inherits=True)


async def _supervise(launch: Launch, guardian: Guardian) -> int:
    """Run the agent, report failures, and return the exit status."""
    from launcher.api import run_agent  # noqa: PLC0415 -- a launch loads what it needs, when it does

    try:
        _show_warnings()
        program, args = _entrypoint(launch.target)
        result = await run_agent(launch.config, program, args, guardian=guardian)
    finally:
        await guardian.close()
    # A signal that was also sent to the workers is no failure of theirs.
    failures = {
        rank: failure
        for rank, failure in result.failures.items()
        if result.signal is None
        or not (failure.stopped_by_us or failure.exitcode == -result.signal)
    }
    if failures:
        _print(_report(launch, result, failures))
    if result.signal is not None:
        return 128 + result.signal
    if result.elsewhere is not None:
        _print(f"launcher: run failed on another node: {result.elsewhere.reason}")
        return _status(result.elsewhere.exitcode)
    if not failures:
        return 0
    _, root = ChildFailedError(launch.target.name, failures).get_first_failure()
    return _status(root.exitcode)


def _entrypoint(target: Target) -> tuple[Callable[..., object] | str, tuple[str, ...]]:
    """Return what workers run, and its arguments."""
    if not target.is_inside:
        return target.command(os.environ)
    from launcher.process import run_script  # noqa: PLC0415 -- only then

    return run_script, (target.name, *target.args)


def _status(exitcode: int) -> int:
    """Return our exit status for that of a worker; 0 stands for a failure without one."""
    return exitcode if exitcode > 0 else 128 - exitcode if exitcode < 0 else _FAILURE_STATUS


def _report(launch: Launch, result: RunResult, failures: Mapping[int, ProcessFailure]) -> str:
    from launcher.report import failure_report  # noqa: PLC0415 -- most runs do not fail

    return failure_report(
        launch.target.name,
        failures,
        host=os.uname().nodename,
        restarts=result.restarts,
        max_restarts=launch.config.max_restarts,
        log_dir=result.log_dir,
        log_paths=result.log_paths,
    )


def _show_warnings() -> None:
    import logging  # noqa: PLC0415 -- comes with asyncio

    levels = logging.getLevelNamesMapping()
    handler = logging.StreamHandler()
    handler.setFormatter(logging.Formatter("launcher: %(message)s"))
    logger = logging.getLogger("launcher")
    logger.addHandler(handler)
    logger.setLevel(levels.get(os.environ.get("LOGLEVEL", "").upper(), logging.WARNING))


def _print(text: str) -> None:
    if sys.stderr is None:  # closed; print would turn to stdout
        return
    with suppress(OSError):  # nobody reads it any more
        print(text, file=sys.stderr, flush=True)  # noqa: T201 -- a command line talks
