"""Hosts made of dicts between which guests move, a worker for them, and what must hold after every run."""

from __future__ import annotations

import contextlib
import struct

from compute_cloud import COMPUTE, add_image, read_server
from fake_host import FakeHost
from sqlalchemy import select

from web.capacity import read_host_usage
from web.models import Host, Migration, ServerAction, now
from web.reconcile.loop import Worker

VERSION = "2.96"
FACTS = {
    "vcpus": 8,
    "memory_mb": 16384,
    "disk_gb": 100,
    "virt_type": "qemu",
    "hypervisor_version": 7002022,
    "cpu_info": {"arch": "x86_64", "vendor": "AMD", "model": "EPYC", "features": ["aes", "avx"]},
}
STORAGE = {"storage": {"backend": "file", "total_gb": 100, "snapshot_in_use": False}}


def build_qcow2(text: str, size: int = 1 << 30) -> bytes:
    """What inspectors take for a qcow2 image of that size without backing file; QEMU's interop/qcow2.rst."""
    rest = (3, 0, 0, 16, size, 0, 2, 196608, 65536, 1, 0, 0, 0, 0, 0, 4, 104)
    return (b"QFI\xfb" + struct.pack(">IQIIQIIQQIIQQQQII", *rest)).ljust(1024, b"\0") + text.encode()


class Hosts:
    """Hypervisors a, b and c, each played by a FakeHost; and with ``storage`` s, which has the volumes.

    a is the cloud's first host under its new name.
    """

    def __init__(self, cloud, names=("a", "b", "c"), storage: bool = False):
        names = (*names, "s") if storage else names
        self.cloud = cloud
        self.fakes = {name: FakeHost() for name in names}
        for fake in self.fakes.values():
            fake.put = self.put_image
        for name, fake in self.fakes.items():
            fake.peers = [other for key, other in self.fakes.items() if key != name]
        with cloud.database.write.begin() as session:
            first = session.scalar(select(Host))
            first.name, first.settings = names[0], {"tunnel_address": "192.0.2.1"}
            first.roles = ["hypervisor"]
            first.observed = {"host": FACTS}
            for number, name in enumerate(names[1:], 2):
                session.add(
                    Host(
                        name=name,
                        roles=["storage"] if name == "s" else ["hypervisor"],
                        settings={"tunnel_address": f"192.0.2.{number}"},
                        observed={"host": {**FACTS, **(STORAGE if name == "s" else {})}},
                        observed_at=now(),
                    )
                )
        self.worker = self.make_worker()
        self.image = add_image(cloud)

    def make_worker(self) -> Worker:
        def run(settings, name, connection, document, cancelled=None):
            return self.fakes[name](settings, name, connection, document)

        return Worker(self.cloud.settings, self.cloud.database, run=run)

    def put_image(self, order: dict, text: str) -> int:
        """As a host puts an image: a qcow2 header, and behind it what its disk says."""
        path = order["url"].removeprefix(self.cloud.settings.api.hosts_url)
        headers = {**order["headers"], "Content-Type": "application/octet-stream"}
        return self.cloud.call("PUT", path, build_qcow2(text), user=None, headers=headers).status_code

    def read_hosts(self) -> dict[str, Host]:
        with self.cloud.database.read() as session:
            return {host.name: host for host in session.scalars(select(Host).order_by(Host.name))}

    def set_host(self, name: str, **columns) -> None:
        with self.cloud.database.write.begin() as session:
            host = session.scalar(select(Host).where(Host.name == name))
            for column, value in columns.items():
                setattr(host, column, value)

    def turn(self, *names: str) -> None:
        """One run against each host (by default all), and what must hold after any run."""
        hosts = self.read_hosts()
        for name in names or self.fakes:
            self.worker.run_once(hosts[name].id)
            self.check()

    def settle(self, most: int = 14) -> None:
        """Run whatever is due until nothing is, or ``most`` rounds."""
        for _ in range(most):
            hosts = self.read_hosts().values()
            due = [one.name for one in hosts if one.observed_generation != one.generation or one.observed_pending]
            if not due:
                return
            self.turn(*due)

    def check(self) -> None:
        """No guest runs twice, and none that is wanted has lost its disk."""
        for key in {key for fake in self.fakes.values() for key in fake.state}:
            running = [name for name, fake in self.fakes.items() if fake.state.get(key, {}).get("state") == "running"]
            assert len(running) <= 1, f"{key} runs on {running}"
            server = read_server(self.cloud, key)
            if server.deleted_at is None and server.built_at is not None:
                assert any(key in fake.disks for fake in self.fakes.values()), f"the disk of {key} is lost"

    def call(self, method: str, path: str, body=None, status: int = 200):
        """What the API answers to an admin's request, which has that status."""
        answer = self.cloud.call(method, path, body, user="admin", version=VERSION if COMPUTE in path else None)
        assert answer.status_code == status, answer.text
        return answer.get_json(silent=True)

    def boot(self, **fields) -> str:
        """The id of a new server that runs on host a."""
        body = {"name": "web1", "flavorRef": "1", "imageRef": self.image, "networks": "none", "host": "a"} | fields
        answer = self.cloud.post(f"{COMPUTE}/servers", {"server": body}, user="admin", version=VERSION)
        assert answer.status_code == 202, answer.text
        server_id = answer.json["server"]["id"]
        self.settle()
        self.settle()
        assert read_server(self.cloud, server_id).status == "ACTIVE"
        self.fakes["a"].disks[server_id] = "what the guest wrote"
        return server_id

    def act(self, server_id: str, name: str, body=None, user: str = "admin", version: str = VERSION, expected=None):
        """Ask for an action; ``expected`` is the status, by default one that is no refusal."""
        answer = self.cloud.post(f"{COMPUTE}/servers/{server_id}/action", {name: body}, user=user, version=version)
        if expected is None:
            assert answer.status_code in (200, 202, 204), answer.text
        else:
            assert answer.status_code == expected, answer.text
        return answer

    def live(self, server_id: str, host: str | None = "b", **options):
        return self.act(server_id, "os-migrateLive", {"host": host, "block_migration": "auto"}, **options)

    def show(self, server_id: str) -> dict:
        answer = self.cloud.get(f"{COMPUTE}/servers/{server_id}", user="admin", version=VERSION)
        assert answer.status_code == 200, answer.text
        return answer.json["server"]

    def where(self, server_id: str) -> tuple[str, str, str | None]:
        """(host, status, task state) that the API shows."""
        view = self.show(server_id)
        return view["OS-EXT-SRV-ATTR:host"], view["status"], view["OS-EXT-STS:task_state"]

    def read_usage(self) -> dict[str, dict]:
        """{host: what its guests use}, by the hosts' names; without hosts that nothing uses."""
        names = {host.id: name for name, host in self.read_hosts().items()}
        with self.cloud.database.read() as session:
            usage = read_host_usage(session)
        return {names[key]: used for key, used in usage.items() if any(used.values())}

    def restart(self) -> None:
        """Another worker takes over, in the middle of a run of each host: what those saw is lost."""
        self.worker.pool.shutdown()
        for name, fake in self.fakes.items():

            def die(document):
                raise RuntimeError("killed")

            fake.before = die
            host_id = self.read_hosts()[name].id
            with contextlib.suppress(RuntimeError):
                self.worker.run_once(host_id)
            fake.before = lambda document: None
            self.set_host(name, lease_owner="gone:1:1", lease_expires_at=now())
        self.worker = self.make_worker()
        self.worker.recover()

    def read_move(self, server_id: str) -> Migration:
        with self.cloud.database.read() as session:
            statement = select(Migration).where(Migration.server_id == server_id).order_by(Migration.id.desc())
            return session.scalars(statement).first()

    def read_actions(self, server_id: str) -> list[tuple[str, bool, str | None]]:
        """[(action, finished, message)] of the server, the oldest first."""
        with self.cloud.database.read() as session:
            statement = select(ServerAction).where(ServerAction.server_id == server_id).order_by(ServerAction.id)
            return [(row.action, row.finished_at is not None, row.message) for row in session.scalars(statement)]
