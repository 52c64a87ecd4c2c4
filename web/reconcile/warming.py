"""Keeps the warm ansible-playbook of a worker alive: started with the environment of a run, again when it has ended.

Runs do without it where it is not there (`warm_client.py`). Next room: `warm.py`, the process itself.
"""

from __future__ import annotations

import logging
import subprocess
import sys
import time
from pathlib import Path

from .run import build_runner_environment, find_warm_socket

LOG = logging.getLogger("kumo.worker")
PACKAGES = Path(__file__).resolve().parents[2]
AGAIN_S = 30.0
END_S = 5.0


class Warming:
    """The process and its restarts; ``ensure`` is cheap and may be called at any time by one thread."""

    def __init__(self, settings):
        self.settings = settings
        self.process: subprocess.Popen | None = None
        self.started_at = -AGAIN_S

    def ensure(self) -> None:
        """Start the process where it does not run; not more often than every AGAIN_S seconds."""
        if find_warm_socket(self.settings) is None or (self.process and self.process.poll() is None):
            return
        if time.monotonic() - self.started_at < AGAIN_S:
            return
        if self.process is not None:
            LOG.warning(
                "the warm ansible-playbook has ended with %s; runs are cold until it is back", self.process.returncode
            )
        self.started_at = time.monotonic()
        command = [sys.executable, "-m", "web.reconcile.warm", find_warm_socket(self.settings)]
        try:
            self.process = subprocess.Popen(
                command, env=build_runner_environment(self.settings), cwd=PACKAGES, stdin=subprocess.DEVNULL
            )
        except OSError as error:
            LOG.warning("the warm ansible-playbook cannot be started, runs are cold: %s", error)

    def end(self) -> None:
        """End the process and what it runs."""
        if self.process is None:
            return
        self.process.terminate()
        try:
            self.process.wait(END_S)
        except subprocess.TimeoutExpired:
            self.process.kill()
            self.process.wait()
