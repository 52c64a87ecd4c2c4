"""What a service of supervisor's looks for before it starts: processes of this machine, and no container's."""

from __future__ import annotations

import importlib.util
import os
import shutil
import subprocess
import time
from pathlib import Path

import pytest

SOURCE = Path(__file__).resolve().parents[2] / "roles/services/files/kumo_exec.py"
NAME = "kumo-test-service-start"


@pytest.fixture
def kumo_exec():
    spec = importlib.util.spec_from_file_location("kumo_exec", SOURCE)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.fixture
def daemon(tmp_path):
    """An executable of the test's own."""
    return shutil.copy("/bin/sleep", tmp_path / "daemon")


def start(*command: str) -> subprocess.Popen:
    return subprocess.Popen(command, env={"PATH": os.environ["PATH"], "KUMO_SERVICE": NAME})


@pytest.mark.parametrize("container", [False, True])
def test_a_daemon_of_this_machine_is_seen_and_a_containers_is_not(kumo_exec, daemon, container):
    inside = ("unshare", "--pid", "--fork", "--kill-child") if container else ()
    process = start(*inside, daemon, "60")
    try:
        deadline = time.monotonic() + 10
        while not (exes := [one for one in Path("/proc").glob("[0-9]*/exe") if read_link(one) == daemon]):
            assert time.monotonic() < deadline
            time.sleep(0.05)
        pids = [] if container else [process.pid]
        assert kumo_exec.read_running(str(daemon)) == pids
        assert kumo_exec.read_left_overs(NAME, b"daemon") == pids + ([process.pid] if container else [])
        assert len(exes) == 1
    finally:
        process.kill()
        process.wait()


def read_link(path: Path) -> Path | None:
    try:
        return Path(os.readlink(path))
    except OSError:
        return None
