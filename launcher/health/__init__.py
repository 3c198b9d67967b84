"""What can be asked about a run while it goes on: its status, by HTTP."""

from launcher.health.http import Response
from launcher.health.server import HealthServer, Routes, listen
from launcher.health.status import RunStatus, WorkerStatus, status_routes

__all__ = (
    "HealthServer",
    "Response",
    "Routes",
    "RunStatus",
    "WorkerStatus",
    "listen",
    "status_routes",
)
