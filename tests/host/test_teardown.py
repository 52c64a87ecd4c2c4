"""What unstack.sh looks for on this machine before it ends anything."""

from __future__ import annotations

import importlib.util
import subprocess
import time
from pathlib import Path

import pytest

SCRIPT = Path(__file__).resolve().parents[2] / "scripts/teardown.py"
CONTAINER = ["unshare", "--pid", "--fork", "--kill-child", "--mount-proc"]


def read_processes() -> dict[int, dict]:
    spec = importlib.util.spec_from_file_location("teardown", SCRIPT)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module.read_processes()


@pytest.mark.parametrize(("before", "seen"), [([], 1), (CONTAINER, 0)])
def test_what_runs_in_a_container_is_another_machine_s(before, seen):
    """A service of Kumo in a PID namespace of its own, as in a container, is left alone; one beside it is found."""
    name = f"kumo-test-{seen}"
    words = ["sh", "-c", f"KUMO_SERVICE={name} exec sleep 30"]
    with subprocess.Popen([*before, *words]) as child:
        try:
            time.sleep(1)
            listed = subprocess.run(["pgrep", "-f", "^sleep 30$"], capture_output=True, text=True, check=True)
            assert listed.stdout.split(), "it is visible from here"
            assert sum(row["service"] == name for row in read_processes().values()) == seen
        finally:
            child.kill()
