"""Fixtures of the tests of remote references."""

from __future__ import annotations

import pytest

from tests.rref import workers


@pytest.fixture(autouse=True)
def _clean_workers() -> None:
    workers.kept.clear()
    workers.gates.clear()
