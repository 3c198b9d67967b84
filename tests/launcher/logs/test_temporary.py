"""launcher.logs.temporary: where temporary files go."""

from __future__ import annotations

from pathlib import Path

import pytest

from launcher.logs import temporary, temporary_folder


@pytest.mark.parametrize("name", ["TMPDIR", "TEMP", "TMP"])
def test_variables_name_the_folder(tmp_path: Path, name: str) -> None:
    """Those of the tempfile module."""
    assert temporary_folder({name: str(tmp_path)}) == str(tmp_path)


def test_what_cannot_be_used_is_passed_over(tmp_path: Path) -> None:
    """A file, a folder that is not there, an empty name."""
    file = tmp_path / "file"
    file.touch()
    environ = {"TMPDIR": str(file), "TEMP": "", "TMP": str(tmp_path)}

    assert temporary_folder(environ) == str(tmp_path)
    assert temporary_folder({"TMPDIR": str(tmp_path / "none")}) == "/tmp"


def test_without_any_the_error_names_those_tried(monkeypatch: pytest.MonkeyPatch) -> None:
    """So that the user can make one of them."""
    monkeypatch.setattr(temporary, "_FOLDERS", ("/nowhere",))

    with pytest.raises(FileNotFoundError, match="written to: /dev/null, /nowhere"):
        temporary_folder({"TMPDIR": "/dev/null"})
