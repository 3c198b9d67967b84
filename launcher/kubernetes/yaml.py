"""Plain values as YAML: as much of it as manifests need. Pure."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Mapping, Sequence

__all__ = ("Value", "to_yaml")

Value = "Mapping[str, Value] | Sequence[Value] | str | int | bool"
"""What a manifest consists of."""

# Plain where no reader of YAML could take it for anything but a text.
_PLAIN = re.compile(r"[A-Za-z/][A-Za-z0-9_./-]*")
_WORDS = frozenset({"true", "false", "yes", "no", "on", "off", "y", "n", "null"})


def to_yaml(value: Mapping[str, object]) -> str:
    """Return a mapping as a document of YAML, in the order it is given.

    Args:
        value: of texts, integers, truth values, lists and mappings; none of the latter empty.
    """
    return "".join(f"{line}\n" for line in _lines(value))


def _lines(value: object) -> Iterator[str]:
    if isinstance(value, Mapping):
        for key, item in value.items():
            yield from _entry(f"{_scalar(key)}:", item, "  ")
    else:
        assert isinstance(value, Sequence)
        for item in value:
            yield from _entry("-", item, "  ")


def _entry(head: str, item: object, indent: str) -> Iterator[str]:
    if not isinstance(item, Mapping | list | tuple):
        yield f"{head} {_scalar(item)}"
        return
    lines = _lines(item)
    if head == "-":
        yield f"- {next(lines)}"
    else:
        yield head
        if not isinstance(item, Mapping):
            indent = ""  # as kubectl prints lists
    yield from (f"{indent}{line}" for line in lines)


def _scalar(value: object) -> str:
    if isinstance(value, bool):
        return str(value).lower()
    if isinstance(value, int):
        return str(value)
    text = str(value)
    if _PLAIN.fullmatch(text) and text.lower() not in _WORDS:
        return text
    return json.dumps(text, ensure_ascii=False)  # JSON is YAML
