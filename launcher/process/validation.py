"""What the arguments of a context must be. Pure; called by the contexts."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

__all__ = ("check_texts", "validate_full_rank")


def validate_full_rank(mapping: Mapping[int, object], nprocs: int, what: str) -> None:
    """Check that a mapping has exactly the local ranks 0 to ``nprocs`` - 1.

    Args:
        mapping: anything by local rank.
        nprocs: number of workers.
        what: name of the argument, for the message.

    Raises:
        RuntimeError: it has not, or there are no workers.
    """
    expected = set(range(nprocs))
    if set(mapping) != expected or not expected:
        raise RuntimeError(
            f"{what} must have the local ranks {sorted(expected)}, got {sorted(mapping)}"
        )


def check_texts(filters: Sequence[str] | None) -> Sequence[str]:
    """Return the texts to look for in lines; an empty one would be in every line.

    Args:
        filters: as they were given; ``None`` for none.

    Raises:
        ValueError: it is one text.
    """
    if isinstance(filters, str):
        raise ValueError(f"filters={filters!r}: expected a list of texts")
    return tuple(text for text in filters or () if text)
