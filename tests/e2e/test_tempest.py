"""OpenStack's own suite, unmodified, against the cloud of this machine: the part of it that tests/tempest/ci.txt names.

The whole: ``tests/tempest/run.py``.
"""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

FOLDER = Path(__file__).resolve().parents[1] / "tempest"


def test_what_ci_runs_of_tempest():
    """Every test that is named passes; at least as many as the list is long are run, so that none is lost by a name."""
    command = [sys.executable, str(FOLDER / "run.py"), "--list", str(FOLDER / "ci.txt")]
    done = subprocess.run(command, capture_output=True, text=True, timeout=900, check=False)
    told = "\n".join(line for line in done.stdout.splitlines() if line.startswith(("FAILED", "skipped")))
    assert done.returncode == 0, f"{told}\n{done.stdout[-1500:]}\n{done.stderr[-1500:]}"
    counted = done.stdout.splitlines()[-1]
    print(counted)
    patterns = [line for line in (FOLDER / "ci.txt").read_text().splitlines() if line and not line.startswith("#")]
    assert int(counted.split()[0]) >= len(patterns), counted
