"""A fault plan as one line of text, as ``$ASYNCRPC_FAULTS`` holds it.

Items between semicolons: ``seed=7``, or a rule ``MESSAGE: kind=value@percent%``. ``MESSAGE`` is a
message type or ``*`` for any, with ``>worker`` (out to it), ``<worker`` (in from it) or ``<`` (in
from anybody) behind it. The value is the number of times, or for ``delay`` and ``reorder`` the
seconds; it and the percentage may be left out::

    seed=7; PYTHON_CALL: fail=3; *: delay=0.02@10%; PYTHON_RET<worker1: drop@5%
"""

from __future__ import annotations

import re
from typing import cast

from asyncrpc.faults.plan import Fault, FaultKind, FaultPlan

__all__ = ("parse_plan",)

_RULE = re.compile(
    r"(?P<message>\*|\w+)\s*(?:(?P<way>[<>])\s*(?P<peer>[\w:-]*))?\s*:\s*"
    r"(?P<kind>\w+)\s*(?:=\s*(?P<value>[-+.\w]+?))?\s*(?:@\s*(?P<percent>[-+.\w]+)\s*%)?",
    re.ASCII,
)
_IN_SECONDS = ("delay", "reorder")


def parse_plan(text: str) -> FaultPlan:
    """Return the plan that a text describes.

    Args:
        text: in the format of the module's docstring.

    Raises:
        ValueError: an item cannot be read or breaks a rule of `Fault`; the message shows it.
    """
    rules: list[Fault] = []
    seed = 0
    for item in filter(None, map(str.strip, text.split(";"))):
        try:
            if item.startswith("seed="):
                seed = int(item.removeprefix("seed="))
            else:
                rules.append(_parse_rule(item))
        except ValueError as error:
            raise ValueError(f"fault plan item {item!r}: {error}") from error
    return FaultPlan(rules, seed)


def _parse_rule(item: str) -> Fault:
    match = _RULE.fullmatch(item)
    if match is None:
        raise ValueError("must read 'seed=N' or 'MESSAGE[<|>worker]: kind[=value][@percent%]'")
    kind, value, percent = match["kind"], match["value"], match["percent"]
    in_seconds = kind in _IN_SECONDS
    return Fault(
        cast("FaultKind", kind),  # Fault refuses any other
        message=None if match["message"] == "*" else match["message"],
        peer=match["peer"] or None,
        direction="in" if match["way"] == "<" else "out",
        times=int(value) if value and not in_seconds else None,
        probability=float(percent) / 100 if percent else 1.0,
        delay=float(value) if value and in_seconds else 0.0,
    )
