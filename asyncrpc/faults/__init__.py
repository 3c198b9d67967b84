"""What may go wrong on purpose: plans of faults as values, with a seed and a log."""

from __future__ import annotations

from asyncrpc.faults.plan import Fault, FaultEvent, FaultPlan
from asyncrpc.faults.text import parse_plan

__all__ = ("Fault", "FaultEvent", "FaultPlan", "parse_plan")
