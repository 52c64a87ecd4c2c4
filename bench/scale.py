"""A hundred hosts and five thousand servers on one machine, with hosts that are played: what the control plane costs.

FOR SCALE ONLY: what stands for a host is a function at the module's boundary. It waits as long as a real run takes,
then answers that everything is as the document asks; no Ansible, no ssh, no host. Everything else is real: rows,
documents, leases, the worker and its threads, an API process and requests to it.

    .venv/bin/python bench/scale.py [--hosts 100] [--servers 5000] [--rate 20] [--run-s 0.5] [--no-requests]
        [--database URL]

Printed: how large a host's document is and what it takes to build; a sweep with nothing to change (all hosts are due at
once), its time, CPU, memory and statements per run; the time from a request to the start of its run while requests come
at a steady rate.
"""

from __future__ import annotations

import argparse
import gc
import json
import os
import random
import resource
import signal
import statistics
import subprocess
import sys
import tempfile
import threading
import time
import urllib.request
from pathlib import Path

from sqlalchemy import event, func, select

ROOT = Path(__file__).resolve().parent.parent
sys.path[:0] = [str(ROOT)]

from bench.rows import find_port, wait_until_served  # noqa: E402
from web.auth import TokenKeys, issue_token  # noqa: E402
from web.bootstrap import apply_bootstrap  # noqa: E402
from web.desired import build_document, read_rows  # noqa: E402
from web.migrations import upgrade  # noqa: E402
from web.models import (  # noqa: E402
    Address,
    Database,
    Host,
    HostRequest,
    Image,
    Network,
    Port,
    PortSecurityGroup,
    Project,
    Run,
    SecurityGroup,
    SecurityGroupRule,
    Server,
    Subnet,
    User,
    new_uuid,
    now,
)
from web.reconcile.loop import Worker  # noqa: E402
from web.reconcile.run import Outcome  # noqa: E402
from web.reconcile.status import refresh_status  # noqa: E402
from web.settings import load_settings  # noqa: E402

TENANTS = 50
FLAVOR = {
    "name": "m1.tiny", "vcpus": 1, "ram_mb": 64, "disk_gb": 1, "ephemeral_gb": 0, "swap_mb": 0, "extra_specs": {},
}  # fmt: skip


class PlayedHost:
    """For scale only: every host at once, each of which is always as its document asks."""

    def __init__(self, seconds: float):
        self.seconds = seconds

    def __call__(self, settings, name, connection, document, cancelled=None) -> Outcome:
        time.sleep(self.seconds)
        servers = {
            one["id"]: {
                "state": "running" if one["power"] == "on" else "shutoff",
                "reason": "booted",
                "reboot_done": one["reboot"]["wanted"],
                "start_done": one["start"]["wanted"],
                "console": None,
                "volumes": [],
            }
            for one in document["servers"]
        }
        observed = {
            "generation": document["generation"],
            "host": {"vcpus": 64, "memory_mb": 262144, "disk_gb": 4000},
            "servers": servers,
            "ports": {port["id"]: {"state": "active"} for port in document["ports"]},
            "routers": {}, "floating_ips": {}, "moves": {}, "exports": {}, "volumes": {}, "snapshots": {},
            "orphans": {"domains": [], "disks": []},
            "tasks": [],
        }  # fmt: skip
        objects = {"servers": {key: {"ok": True, "error": None} for key in servers}}
        result = {"changed": False, "actions": [], "objects": objects, "pending": False, "observed": observed}
        return Outcome(ok=True, result=result)


def fill(settings, database: Database, hosts: int, servers: int) -> tuple[str, list[str]]:
    """Rows as if all had been made and seen: (a token of the admin, the servers' ids).

    Tenants' servers are spread over all hosts, so that each network reaches every host.
    """
    with database.write.begin() as session:
        apply_bootstrap(session, settings, {"admin": "bench", "demo": "bench"}, hypervisor=False)
        session.flush()
        admin = session.scalar(select(User).where(User.name == "admin"))
        project = session.scalar(select(Project).where(Project.name == "admin"))
        image = Image(
            name="image", status="active", project_id=project.id, disk_format="qcow2", size=1 << 20,
            virtual_size=1 << 30, os_hash_algo="sha512", os_hash_value="0",
        )  # fmt: skip
        rows = [
            Host(
                name=f"host{number:03}", roles=["hypervisor"], connection={"ansible_host": f"192.0.2.{number}"},
                settings={"tunnel_address": f"10.255.{number // 250}.{1 + number % 250}"}, observed_at=now(),
                observed_generation=1, next_run_at=now(),
            )
            for number in range(hosts)
        ]  # fmt: skip
        session.add_all([image, *rows])
        session.flush()
        tenants = [_fill_tenant(session, number) for number in range(TENANTS)]
        ids = [_fill_server(session, admin, image, rows, tenants, number) for number in range(servers)]
        keys = TokenKeys(settings.identity.key_dir)
        token, _ = issue_token(session, keys, admin.id, "project", project.id, ["password"], 86400)
    return token, ids


def _fill_tenant(session, number: int) -> tuple[str, Network, Subnet, SecurityGroup]:
    project_id = new_uuid().replace("-", "")
    network = Network(
        project_id=project_id, name="private", zone=10 + number, network_type="vxlan", segmentation_id=100 + number
    )
    group = SecurityGroup(project_id=project_id, name="default", default_for=project_id)
    session.add_all([network, group])
    session.flush()
    subnet = Subnet(
        project_id=project_id, network_id=network.id, ip_version=4, cidr="10.0.0.0/16", gateway_ip="10.0.0.1",
        allocation_pools=[{"start": "10.0.0.2", "end": "10.0.255.254"}],
    )  # fmt: skip
    rule = {"project_id": project_id, "security_group_id": group.id, "direction": "ingress"}
    session.add_all(
        [
            subnet,
            SecurityGroupRule(**rule, remote_group_id=group.id),
            SecurityGroupRule(**rule, protocol="tcp", port_range_min=22, port_range_max=22),
        ]
    )
    session.flush()
    return project_id, network, subnet, group


def _fill_server(session, admin: User, image: Image, hosts: list[Host], tenants: list, number: int) -> str:
    project_id, network, subnet, group = tenants[number // len(hosts) % TENANTS]
    host = hosts[number % len(hosts)]
    server = Server(
        project_id=project_id, user_id=admin.id, reservation_id="r-bench", name=f"s{number}", hostname=f"s{number}",
        flavor_id="1", image_id=image.id, host_id=host.id, observed_state="running", built_at=now(), power="on",
        flavor=FLAVOR, reboot_wanted=0, observed_reboot_done=0, start_wanted=0, observed_start_done=0,
    )  # fmt: skip
    session.add(server)
    session.flush()
    refresh_status(server)
    port = Port(
        project_id=project_id, network_id=network.id, device_id=server.id, device_owner="compute:nova", host_id=host.id,
        mac_address=f"fa:16:3e:{number >> 16 & 255:02x}:{number >> 8 & 255:02x}:{number & 255:02x}",
        delete_with_device=True, observed_state="active",
    )  # fmt: skip
    session.add(port)
    session.flush()
    session.add(Address(port_id=port.id, subnet_id=subnet.id, address=f"10.0.{1 + number // 250}.{1 + number % 250}"))
    session.add(PortSecurityGroup(port_id=port.id, security_group_id=group.id))
    return server.id


def count_queries(database: Database) -> list[int]:
    """A list of one number, which grows with each statement."""
    seen = [0]

    @event.listens_for(database.engine, "before_cursor_execute")
    def count(*_):
        seen[0] += 1

    return seen


def read_cpu() -> float:
    used = resource.getrusage(resource.RUSAGE_SELF)
    return used.ru_utime + used.ru_stime


def read_memory_mb() -> float:
    for line in Path("/proc/self/smaps_rollup").read_text().splitlines():
        if line.startswith("Pss:"):
            return int(line.split()[1]) / 1024
    raise RuntimeError("no Pss in smaps_rollup")


def measure_documents(settings, database: Database) -> tuple[float, float, int]:
    """(CPU ms to read a host's rows, to build its document; its size in KB as JSON), medians of ten hosts."""
    reads, builds, sizes = [], [], []
    with database.read() as session:
        hosts = session.scalars(select(Host).order_by(Host.name).limit(10)).all()
    for one in hosts:
        with database.read() as session:
            host = session.get(Host, one.id)
            began = time.process_time()
            rows = read_rows(session, host)
            between = time.process_time()
            document = build_document(rows, settings, host.fence)
            reads.append((between - began) * 1000)
            builds.append((time.process_time() - between) * 1000)
            sizes.append(len(json.dumps(document)) // 1024)
    return statistics.median(reads), statistics.median(builds), int(statistics.median(sizes))


class Work:
    """The worker in this process, in a thread, with hosts that are played."""

    def __init__(self, settings, run_s: float):
        settings.worker.warm = False
        self.worker = Worker(settings, run=PlayedHost(run_s))
        self.thread = threading.Thread(target=self._work, name="loop", daemon=True)

    def _work(self) -> None:
        while not self.worker.stopping.is_set():
            self.worker._wait(self.worker.step())

    def start(self) -> None:
        self.worker.listen()
        self.thread.start()

    def stop(self) -> None:
        self.worker.stop()
        self.thread.join()
        self.worker.pool.shutdown()


def wait_for_runs(database: Database, number: int, seconds: float) -> None:
    until = time.monotonic() + seconds
    while time.monotonic() < until:
        with database.read() as session:
            if session.scalar(select(func.count()).where(Run.state == "succeeded")) >= number:
                return
        time.sleep(0.2)
    raise SystemExit(f"bench/scale.py: fewer than {number} runs in {seconds} s")


def ask_steadily(port: int, token: str, ids: list[str], rate: float, seconds: float) -> tuple[int, list[float]]:
    """(requests that were refused, seconds that each took to be answered) of reboots at ``rate`` a second."""
    chance, answers, refused, threads = random.Random(7), [], [0], []

    def ask(server_id: str) -> None:
        body = json.dumps({"reboot": {"type": "HARD"}}).encode()
        asked = urllib.request.Request(
            f"http://127.0.0.1:{port}/compute/v2.1/servers/{server_id}/action",
            body, {"Content-Type": "application/json", "X-Auth-Token": token}, method="POST",
        )  # fmt: skip
        began = time.perf_counter()
        try:
            urllib.request.urlopen(asked, timeout=60).close()
        except OSError:
            refused[0] += 1
        answers.append(time.perf_counter() - began)

    began = time.monotonic()
    for number, server_id in enumerate(chance.sample(ids, min(len(ids), int(rate * seconds)))):
        time.sleep(max(0.0, began + number / rate - time.monotonic()))
        threads.append(threading.Thread(target=ask, args=(server_id,)))
        threads[-1].start()
    for thread in threads:
        thread.join()
    return refused[0], answers


def read_waits(database: Database) -> list[float]:
    """Seconds from each request to the start of the run that carried it."""
    with database.read() as session:
        rows = session.execute(
            select(HostRequest.created_at, Run.started_at).join(Run, Run.id == HostRequest.run_id)
        ).all()
    return sorted((started - created).total_seconds() for created, started in rows)


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--hosts", type=int, default=100)
    parser.add_argument("--servers", type=int, default=5000)
    parser.add_argument("--rate", type=float, default=20, help="requests a second (default: %(default)s)")
    parser.add_argument("--seconds", type=float, default=30, help="for so long (default: %(default)s)")
    parser.add_argument("--run-s", type=float, default=0.5, help="what a run takes on a host (default: %(default)s)")
    parser.add_argument("--parallel", type=int, default=8, help="[worker] parallel_runs (default: %(default)s)")
    parser.add_argument("--no-requests", action="store_true", help="end after the sweep: CPU only, on a busy machine")
    parser.add_argument("--database", help="SQLAlchemy URL of an empty database (default: SQLite)")
    args = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="kumo-scale-") as folder:
        measure(args, Path(folder))
    return 0


def measure(args, folder: Path) -> None:
    port = find_port()
    config = folder / "kumo.conf"
    config.write_text(
        f"[kumo]\nstate_dir = {folder}\nrun_dir = {folder}\nlog_dir =\n[policy]\nfile =\n"
        f"[database]\nurl = {args.database or f'sqlite:///{folder}/kumo.db'}\n"
        f"[api]\nlisten = 127.0.0.1:{port}\nworkers = 1\nthreads = 8\n"
        f"[identity]\nkey_dir = {folder}/keys\npassword_rounds = 4\n"
        f"[worker]\nparallel_runs = {args.parallel}\nsweep_s = 3600\n"
    )
    settings = load_settings(str(config))
    upgrade(settings.database.url)
    database = Database(settings.database.url)
    began = time.monotonic()
    token, ids = fill(settings, database, args.hosts, args.servers)
    print(
        f"{args.hosts} hosts, {args.servers} servers, {TENANTS} networks; rows made in {time.monotonic() - began:.0f} s"
    )
    reads, builds, size = measure_documents(settings, database)
    print(f"a host's document: rows read in {reads:.1f} ms of CPU, built in {builds:.1f} ms, {size} KB")

    gc.collect()
    gc.freeze()  # as a worker does when it begins
    work = Work(settings, args.run_s)
    seen, cpu, began = count_queries(work.worker.database), read_cpu(), time.monotonic()
    work.start()
    wait_for_runs(database, args.hosts, 600)
    took, cpu = time.monotonic() - began, read_cpu() - cpu
    ideal = args.hosts / args.parallel * args.run_s
    print(
        f"a sweep with nothing to change: {took:.1f} s (hosts alone, {args.parallel} at a time: {ideal:.1f} s; "
        f"ratio {took / ideal:.2f}), CPU {cpu / args.hosts * 1000:.0f} ms and {seen[0] / args.hosts:.0f} statements "
        f"a run, worker's memory {read_memory_mb():.0f} MB"
    )
    if args.no_requests:
        work.stop()
        return
    api = subprocess.Popen(
        [sys.executable, "-m", "web.cli", "--config", str(config), "serve"],
        cwd=ROOT, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, env={**os.environ, "PYTHONPATH": str(ROOT)},
    )  # fmt: skip
    try:
        wait_until_served(port)
        refused, answers = ask_steadily(port, token, ids, args.rate, args.seconds)
        time.sleep(10)
    finally:
        api.send_signal(signal.SIGTERM)
        api.wait(timeout=30)
        work.stop()
    waits = read_waits(database)
    print(
        f"{len(answers)} requests at {args.rate:g} a second: answered in {statistics.median(answers) * 1000:.0f} ms "
        f"(p99 {sorted(answers)[int(len(answers) * 0.99)] * 1000:.0f} ms), {refused} refused; request to start of run "
        f"{statistics.median(waits):.2f} s (p95 {waits[int(len(waits) * 0.95)]:.2f} s), {len(waits)} carried"
    )


if __name__ == "__main__":
    sys.exit(main())
