"""Several API and worker processes over PostgreSQL and a broker, all of them real, on loopback, in a test's folders.

Hosts are three storage hosts on this machine, each with a state directory of its own: real Ansible, the real module,
real volumes. No API process shares a folder with a worker, as if they were on other machines: what reaches a worker at
once came through the broker. Processes end with the test's, even where it is killed.
"""

from __future__ import annotations

import contextlib
import os
import shutil
import sys
import tempfile
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).resolve().parent))
sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "host" / "volumes"))

from distributed_lab import Cloud, PostgreSQL, RabbitMQ, Redis
from storage_lab import running_tgtd

BROKERS = {"rabbitmq": RabbitMQ, "redis": Redis}


@contextlib.contextmanager
def running_cloud(name: str):
    """A cloud with two API processes and three workers; each test leaves it whole."""
    for left in Path("/tmp").glob("kumo-distributed-*"):
        if not Path("/proc", left.name.split("-")[2]).exists():
            shutil.rmtree(left)
    with contextlib.ExitStack() as stack:
        folder = Path(tempfile.mkdtemp(prefix=f"kumo-distributed-{os.getpid()}-", dir="/tmp"))
        stack.callback(shutil.rmtree, folder)
        folder.chmod(0o755)  # PostgreSQL runs as its own user
        control, portal = stack.enter_context(running_tgtd())
        database = stack.enter_context(contextlib.closing(PostgreSQL(folder / "postgresql")))
        broker = stack.enter_context(contextlib.closing(BROKERS[name](folder / "broker")))
        made = Cloud(folder, database, broker, {"backend": "file", "portal": portal, "control_port": control})
        stack.enter_context(contextlib.closing(made))
        made.begin()
        yield made


@pytest.fixture(scope="module", params=list(BROKERS))
def each_cloud(request):
    """One with each broker."""
    with running_cloud(request.param) as made:
        yield made


@pytest.fixture(scope="module")
def cloud():
    with running_cloud("rabbitmq") as made:
        yield made
