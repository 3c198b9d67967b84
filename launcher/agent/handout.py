"""What the workers of a run are handed: secrets in files, sockets, and the facts that name them.

Called by the agent, around a run.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from typing import TYPE_CHECKING

from launcher.agent.group import WorkerSpec
from launcher.agent.secretfile import secret_file
from launcher.agent.variables import RunFacts
from launcher.process import Guardian
from launcher.rendezvous import read_name

if TYPE_CHECKING:  # the name only: most runs have none
    from launcher.agent.preemption import Preemption

__all__ = ("handed_out",)

_CREDENTIALS_VARIABLE = "ASYNCRPC_STORE_CREDENTIALS"  # which asyncrpc's store on etcd reads


@contextmanager
def handed_out(
    spec: WorkerSpec,
    guardian: Guardian,
    secret: bytes,
    signals_to_handle: str,
    preemption: Preemption | None,
) -> Iterator[RunFacts]:
    """Keep what workers read, for as long as the context lasts.

    Args:
        spec: of the workers.
        guardian: removes the files if this process cannot.
        secret: the run's secret, at least 16 bytes.
        signals_to_handle: comma list of the signals that stop the run in order.
        preemption: what lets workers know that the node has to go; ``None``: nothing.

    Yields:
        What all workers of all rounds are told alike.

    Raises:
        OSError: a file or socket cannot be made; names it.
    """
    with ExitStack() as files:

        def kept(content: bytes) -> str:
            path = files.enter_context(secret_file(content))
            guardian.remove_at_end(path)
            return path

        secret_path = kept(secret)
        extra: dict[str, str] = {}
        if credentials := spec.rdzv_handler.store_credentials():
            extra[_CREDENTIALS_VARIABLE] = kept(credentials)
        if preemption is not None:
            files.enter_context(preemption.serve(guardian))
            extra |= preemption.variables
        yield RunFacts(
            run_id=read_name(spec.rdzv_handler.get_run_id()),
            role=spec.role,
            max_restarts=spec.max_restarts,
            secret_file=secret_path,
            signals_to_handle=signals_to_handle,
            virtual_local_rank=spec.virtual_local_rank,
            extra=extra,
            torch_store=spec.torch_store or spec.rdzv_handler.use_agent_store,
        )
