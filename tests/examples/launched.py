"""What the tests of the examples share: running one as its docstring says, and reading numbers."""

from __future__ import annotations

import re
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path

ROOT = Path(__file__).parents[2]


def run_example(
    name: str,
    *arguments: str,
    workers: int = 4,
    timeout: float = 60,
    status: int = 0,
    environment: Mapping[str, str] | None = None,
) -> subprocess.CompletedProcess[str]:
    """Run ``examples/name`` under the launcher; return what it printed, and require its status."""
    command = [sys.executable, "-m", "launcher", "--standalone", f"--nproc-per-node={workers}"]
    run = subprocess.run(
        [*command, f"examples/{name}", *arguments],
        check=False,
        cwd=ROOT,
        env=environment,
        capture_output=True,
        text=True,
        timeout=timeout,
    )
    assert run.returncode == status, f"{run.stdout}\n{run.stderr}"
    return run


def numbers_of(output: str) -> dict[str, float]:
    """Return the numbers that are printed as ``name: number``, alone or between commas."""
    pairs = re.findall(r"([\w/ ]+): (-?[\d,.]*\d)", output)
    return {name.strip(): float(number.replace(",", "")) for name, number in pairs}
