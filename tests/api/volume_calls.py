"""Calls of the Block Storage API, and a worker with a host made of dicts, for its tests."""

from __future__ import annotations

import threading

from fake_host import FakeHost
from sqlalchemy import select

from web.models import Host
from web.reconcile.loop import Worker

VOLUME = "/volume/v3"


class Storage:
    """The API, and the loop with one fake host."""

    def __init__(self, cloud):
        self.cloud, self.host = cloud, FakeHost()
        self.worker = Worker(cloud.settings, cloud.database, run=self.host)

    def run(self, times: int = 3) -> None:
        """Let the loop look at every host, a few times."""
        for _ in range(times):
            with self.cloud.database.read() as session:
                ids = list(session.scalars(select(Host.id)))
            for host_id in ids:
                self.worker.run_once(host_id)

    def call(self, method: str, path: str, body=None, status: int = 200, **options):
        """The answer's body (None where it is empty); the status is checked."""
        answer = self.cloud.call(method, f"{VOLUME}{path}", body, **options)
        assert answer.status_code == status, answer.text
        return answer.get_json(silent=True)

    def create(self, run: bool = True, status: int = 202, **body) -> dict:
        """A volume that was asked for, and with ``run`` made."""
        made = self.call("POST", "/volumes", {"volume": {"size": 1, **body}}, status)
        if not run or status != 202:
            return made
        self.run()
        return self.show(made["volume"]["id"])

    def show(self, volume_id: str) -> dict:
        return self.call("GET", f"/volumes/{volume_id}")["volume"]

    def read_status(self, volume_id: str) -> str | None:
        """The volume's status; None where it is gone."""
        answer = self.cloud.get(f"{VOLUME}/volumes/{volume_id}")
        return None if answer.status_code == 404 else answer.get_json()["volume"]["status"]

    def run_meanwhile(self):
        """A thread that lets the loop run while a request waits for it."""
        thread = threading.Timer(0.3, self.run)
        thread.start()
        return thread
