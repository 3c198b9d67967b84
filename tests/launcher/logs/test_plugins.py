"""launcher.logs.plugins: log specs of other packages, by name."""

from __future__ import annotations

from pathlib import Path

import pytest

from launcher.logs import DefaultLogsSpecs, get_logs_specs_class


@pytest.fixture(autouse=True)
def package(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Install a package with entry points of both groups."""
    info = tmp_path / "plugged-1.0.dist-info"
    info.mkdir()
    (info / "METADATA").write_text("Metadata-Version: 2.1\nName: plugged\nVersion: 1.0\n")
    (info / "entry_points.txt").write_text(
        "[launcher.logs_specs]\nmine = plugged:Mine\nbroken = plugged:Nothing\n"
        "[torchrun.logs_specs]\nmine = plugged:Nothing\ntheirs = plugged:Theirs\n"
    )
    (tmp_path / "plugged.py").write_text(
        "from launcher.logs import DefaultLogsSpecs\n"
        "class Mine(DefaultLogsSpecs): ...\nclass Theirs(DefaultLogsSpecs): ...\n"
    )
    monkeypatch.syspath_prepend(tmp_path)


@pytest.mark.parametrize("name", [None, "default"])
def test_the_default(name: str | None) -> None:
    """Needs no entry point."""
    assert get_logs_specs_class(name) is DefaultLogsSpecs


@pytest.mark.parametrize(("name", "expected"), [("mine", "Mine"), ("theirs", "Theirs")])
def test_a_class_by_name(name: str, expected: str) -> None:
    """Ours goes before torch's of the same name."""
    found = get_logs_specs_class(name)

    assert isinstance(found, type)
    assert found.__name__ == expected


def test_a_class_that_cannot_be_loaded() -> None:
    """The entry point is named."""
    with pytest.raises(ValueError, match="logs_specs=broken: entry point plugged:Nothing cannot"):
        get_logs_specs_class("broken")


def test_an_unknown_name() -> None:
    """The names that there are, are listed."""
    with pytest.raises(ValueError, match="logs_specs=x: expected one of default, broken, mine"):
        get_logs_specs_class("x")
