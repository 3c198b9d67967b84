"""One node of a run: the parts that launch its workers, put together from a configuration.

The run's secret, the rendezvous, the agent, the signals, and who may look on. Called by `cli` and
`api`; prints nothing.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import os
import time
from collections.abc import AsyncIterator, Callable, Iterator, Sequence
from dataclasses import replace
from signal import Signals

from asyncrpc.secret import NoUserSecretError, load_secret, run_secret
from launcher import events, metrics
from launcher.affinity import cpus_of_workers
from launcher.agent import LocalElasticAgent, RunResult, WorkerSpec, WorkerState, own_device
from launcher.config import LaunchConfig
from launcher.errors import SignalException, UsageError
from launcher.limits import check_workers
from launcher.logs import LogsSpecs
from launcher.process import Guardian
from launcher.rendezvous import RendezvousHandler, RendezvousParameters, get_rendezvous_handler
from launcher.rules import to_address, to_signals
from launcher.signals import handle_signals, without_echo

__all__ = ("Entrypoint", "run_agent")

_HEAD_START = 0.05  # seconds that workers are started in before the socket is made
_STORE_CONNECTIONS = 1  # of each worker that uses the run's store
_PIPES_OF_FUNCTION = 1  # for what it returns

Entrypoint = Callable[..., object] | str
"""What a worker runs: a function, or path or name of a program."""

_logger = logging.getLogger("launcher.node")


async def run_agent(
    config: LaunchConfig,
    entrypoint: Entrypoint,
    args: Sequence[object] = (),
    *,
    guardian: Guardian | None = None,
) -> RunResult:
    """Run this node's agent until the run is over; failed workers are part of the result.

    Args:
        config: how to launch.
        entrypoint: what each worker runs: path or name of a program, or a function.
        args: its arguments, without the program's own name.
        guardian: the process that is to start the workers, closed at the end; ``None``: a new one.

    Returns:
        How the run ended.

    Raises:
        UsageError: the configuration cannot be used; nothing was started.
        LauncherError: of another kind: the launch itself failed.
        OSError: the workers could not be started.
    """
    config = replace(config, run_id=config.run_id or _default_run_id(config))
    assert config.logs_specs is not None  # the config makes one
    logs_specs = config.logs_specs.for_run()
    _check(config, logs_specs, _PIPES_OF_FUNCTION if callable(entrypoint) else 0)
    secret = _run_secret(config)
    handler = _handler(config, secret)
    if config.metrics_cfg:
        metrics.initialize_metrics(metrics.MetricsConfig(dict(config.metrics_cfg)))
    agent = LocalElasticAgent(
        WorkerSpec(
            role=config.role,
            local_world_size=config.nproc_per_node,
            rdzv_handler=handler,
            entrypoint=entrypoint,
            args=tuple(args),
            max_restarts=config.max_restarts,
            restart_window=config.restart_window,
            restart_backoff=config.restart_backoff,
            local_addr=config.local_addr,
            numa_options=config.numa_options,
            duplicate_stdout_filters=config.duplicate_stdout_filters,
            duplicate_stderr_filters=config.duplicate_stderr_filters,
            virtual_local_rank=config.virtual_local_rank,
            torch_store=config.torch_store,
            event_log_handler=config.event_log_handler,
        ),
        logs_specs,
        log_line_prefix_template=config.log_line_prefix_template,
        shutdown_timeout=config.grace,
        secret=secret,
        signals_to_handle=config.signals_to_handle,
        preempt_signals=to_signals(config.preempt_signals),
        preempt_notice=config.preempt_notice,
        guardian=guardian,
        stdin=config.stdin_rank,
        start_method=config.start_method,
    )
    _warn_of_threads(config)
    with _handle_signals(agent, config) as is_handling:
        if not is_handling:
            _logger.info("signals are not handled: this is not the main thread")
        async with _health(agent, config), _control(agent, guardian):
            return await _run(agent, handler, config)


@contextlib.contextmanager
def _handle_signals(agent: LocalElasticAgent, config: LaunchConfig) -> Iterator[bool]:
    """Hand signals to the agent, each as what it means; yield whether they will come."""
    stopping = to_signals(config.signals_to_handle)
    announcing = to_signals(config.preempt_signals)

    def preempt(number: int) -> None:
        if not agent.preempt(number) and number in stopping:
            agent.receive_signal(number)

    at_once = [number for number in stopping if number not in announcing]
    with (
        handle_signals(at_once, without_echo(agent.receive_signal)) as is_handling,
        handle_signals(announcing, without_echo(preempt)),
        handle_signals(to_signals(config.forward_signals), agent.forward_signal),
    ):
        yield is_handling


@contextlib.asynccontextmanager
async def _health(agent: LocalElasticAgent, config: LaunchConfig) -> AsyncIterator[None]:
    """Serve the pages that show how the run is, if that is asked for."""
    if config.health_port is None:
        yield
        return
    from launcher.health import HealthServer, listen, status_routes  # noqa: PLC0415 -- if asked for

    host, port = to_address(config.health_port)
    try:
        listening = listen(host, port)
    except OSError as error:
        where = f"health_port={config.health_port}"
        raise UsageError(f"{where}: cannot listen there: {error.strerror}") from error
    async with HealthServer(listening, status_routes(agent.status)):
        yield


@contextlib.asynccontextmanager
async def _control(agent: LocalElasticAgent, guardian: Guardian | None) -> AsyncIterator[None]:
    """Let ``launcher status`` and ``launcher stop`` find this launch."""

    async def serve() -> None:
        await asyncio.sleep(_HEAD_START)
        from launcher.control import serve_control  # noqa: PLC0415 -- while the workers start

        def stop() -> None:
            agent.receive_signal(Signals.SIGTERM)

        remove_at_end = None if guardian is None else guardian.remove_at_end
        async with serve_control(agent.status, stop, remove_at_end):
            await asyncio.Event().wait()

    task = asyncio.create_task(serve())
    try:
        yield
    finally:
        task.cancel()
        await asyncio.wait({task})
        if not task.cancelled() and (error := task.exception()) is not None:
            _logger.warning("the launch could not be watched: %s", error)


async def _run(
    agent: LocalElasticAgent, handler: RendezvousHandler, config: LaunchConfig
) -> RunResult:
    """Run the agent, record the run's one event, and leave the rendezvous as its end demands."""
    begun_at = time.monotonic()
    is_stopped = False
    end, problem = "FAILED", ""
    try:
        result = await agent.run(config.role)
        is_stopped = result.state is WorkerState.STOPPED
    except BaseException as error:
        is_stopped = isinstance(error, SignalException)
        problem = f"{type(error).__name__}: {error}"
        raise
    else:
        if not is_stopped:
            end = "SUCCEEDED"  # of the agent: workers that failed are part of its result
        return result
    finally:
        _record_end(agent, config, end, problem, time.monotonic() - begun_at)
        # After a signal, the others may go on without this node.
        await (handler.close() if is_stopped else handler.shutdown())


def _record_end(
    agent: LocalElasticAgent, config: LaunchConfig, state: str, problem: str, duration: float
) -> None:
    metadata: dict[str, events.Fact] = {
        "run_id": config.run_id,
        "group_rank": agent.get_worker_group().group_rank,
        "role": config.role,
        "hostname": os.uname().nodename,
        "total_run_time": round(duration, 3),
        "rdzv_backend": config.rdzv_backend,
        "raw_error": problem or None,
    }
    event = events.status_event(state, events.EventSource.AGENT, metadata)
    events.record(event, config.event_log_handler)


def _default_run_id(config: LaunchConfig) -> str:
    # Several nodes have to call it the same without having met; torchrun's name.
    return os.urandom(8).hex() if config.max_nodes == 1 else "none"


def _check(config: LaunchConfig, logs_specs: LogsSpecs, pipes: int) -> None:
    """Refuse what is certain to fail, before anything is started."""
    descriptors = logs_specs.descriptors_per_worker + _STORE_CONNECTIONS + pipes
    try:
        check_workers(config.nproc_per_node, descriptors)
        events.check_destination(config.event_log_handler)
        cpus_of_workers(config.numa_options, config.nproc_per_node)
        if config.virtual_local_rank:
            own_device(os.environ, config.nproc_per_node - 1)
    except ValueError as error:
        raise UsageError(str(error)) from error


def _run_secret(config: LaunchConfig) -> bytes:
    try:
        return run_secret(_common_secret(config), config.run_id)
    except ValueError as error:
        raise UsageError(str(error)) from error


def _common_secret(config: LaunchConfig) -> bytes:
    """Return what the agents of the run share."""
    try:
        return load_secret(None, os.environ)
    except NoUserSecretError as error:
        if config.max_nodes > 1:
            raise
        # The only agent need not share anything: containers often have no home folder.
        _logger.info("%s; this run has a secret of its own", error)
        return os.urandom(32)


def _handler(config: LaunchConfig, secret: bytes) -> RendezvousHandler:
    alike = {
        "max_restarts": str(config.max_restarts),
        "torch_store": str(int(config.torch_store)),
    }
    try:
        parameters = RendezvousParameters(
            config.rdzv_backend,
            config.rdzv_endpoint,
            config.run_id,
            config.min_nodes,
            config.max_nodes,
            config.local_addr,
            alike=alike,
            secret=secret,
        )
        parameters.config.update(config.rdzv_configs)  # whatever their names are
        return get_rendezvous_handler(parameters)
    except ValueError as error:
        raise UsageError(str(error)) from error


def _warn_of_threads(config: LaunchConfig) -> None:
    if config.nproc_per_node > 1 and "OMP_NUM_THREADS" not in os.environ:
        _logger.warning(
            "OMP_NUM_THREADS=1 is set for each of the %d workers, so that they do not fight for "
            "processors; set it yourself to tune",
            config.nproc_per_node,
        )
