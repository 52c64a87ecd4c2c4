"""How long users of a cloud wait, its memory at rest, and warm runs beside cold ones, against a cloud of ./stack.sh.

Medians; the aims are issue 4's. A floating address and a rule are timed by a ping every 20 ms from
this machine. `bench/foundation.py` has guests by hand and the API's rates, `bench/volumes.py` attachments by hand.

    bench/cloud.py [--rounds N]      as root, by /opt/kumo/client-venv/bin/python; leaves nothing behind
"""

from __future__ import annotations

import argparse
import contextlib
import os
import re
import statistics
import subprocess
import sys
import time
from pathlib import Path

import openstack

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT))

from bench.foundation import create_server, delete_server, wait_until_quiet  # noqa: E402
from bench.volumes import wait_status  # noqa: E402

OURS = re.compile(r"/opt/kumo|/usr/local/lib/kumo|/etc/kumo/|kumo-tgtd|dnsmasq.*kumo")
PING_S = 0.02


def read_memory() -> tuple[int, float]:
    """(processes, their PSS in MB) of what Kumo runs; libvirtd and the guests are not its own."""
    count, total = 0, 0
    for entry in Path("/proc").iterdir():
        if not entry.name.isdigit():
            continue
        with contextlib.suppress(OSError):
            line = (entry / "cmdline").read_bytes().replace(b"\0", b" ").decode(errors="replace")
            if not OURS.search(line) or "qemu-system" in line or "client-venv" in line:
                continue
            found = re.search(r"^Pss:\s+(\d+)", (entry / "smaps_rollup").read_text(), re.MULTILINE)
            count, total = count + 1, total + int(found[1])
    return count, total / 1024


def read_cpu_share(seconds: float) -> float:
    """Percent of one core that these processes use at rest."""

    def read() -> float:
        ticks = 0
        for entry in Path("/proc").iterdir():
            with contextlib.suppress(OSError):
                if entry.name.isdigit() and OURS.search((entry / "cmdline").read_bytes().replace(b"\0", b" ").decode()):
                    fields = (entry / "stat").read_text().rpartition(")")[2].split()
                    ticks += sum(map(int, fields[11:15]))  # its own and its ended children's
        return ticks / os.sysconf("SC_CLK_TCK")

    before, started = read(), time.monotonic()
    time.sleep(seconds)
    return 100 * (read() - before) / (time.monotonic() - started)


def wait_for_answer(address: str, seconds: float = 60) -> None:
    """Until a ping is answered."""
    command = ["ping", "-n", "-i", str(PING_S), "-c", str(int(seconds / PING_S)), address]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as ping:
        try:
            if not any("bytes from" in line for line in ping.stdout):
                raise SystemExit(f"{address} does not answer within {seconds} s")
        finally:
            ping.kill()


class Bench:
    """The cloud and what a server is made of there."""

    def __init__(self, cloud, rounds: int):
        self.cloud, self.rounds = cloud, rounds
        self.image = cloud.image.find_image("kumo-guest", ignore_missing=False)
        self.flavor = cloud.compute.find_flavor("m1.nano", ignore_missing=False)
        self.network = cloud.network.find_network("private", ignore_missing=False)
        self.public = cloud.network.find_network("public", ignore_missing=False)

    def measure_life(self) -> tuple[float, float]:
        """Median seconds of POST to ACTIVE, and of DELETE to gone."""
        made, gone = [], []
        for _ in range(self.rounds):
            wait_until_quiet()
            seconds, server = create_server(self.cloud, self.image, self.flavor, self.network)
            made.append(seconds)
            wait_until_quiet()
            started = time.perf_counter()
            self.cloud.compute.delete_server(server.id)
            while self.cloud.compute.find_server(server.id) is not None:
                time.sleep(0.05)
            gone.append(time.perf_counter() - started)
        return statistics.median(made), statistics.median(gone)

    def measure_ten(self, admin) -> float:
        """Seconds until ten servers that are posted at once are all ACTIVE; the project's quota is raised for it."""
        quota = f"/os-quota-sets/{self.cloud.current_project_id}"
        admin.compute.put(quota, json={"quota_set": {"instances": -1, "cores": -1, "ram": -1}})
        try:
            return self._measure_ten()
        finally:
            admin.compute.delete(quota)

    def _measure_ten(self) -> float:
        wait_until_quiet()
        started = time.perf_counter()
        servers = []
        try:
            for number in range(10):
                servers.append(
                    self.cloud.compute.create_server(
                        name=f"bench-{number}", image_id=self.image.id, flavor_id=self.flavor.id,
                        networks=[{"uuid": self.network.id}],
                    )
                )  # fmt: skip
            left = {server.id for server in servers}
            while left:
                states = {one.id: one.status for one in self.cloud.compute.servers()}
                left = {one for one in left if states.get(one) != "ACTIVE"}
                if any(states.get(one) == "ERROR" for one in left):
                    raise SystemExit("one of ten servers is in ERROR")
                if time.perf_counter() - started > 240:
                    raise SystemExit(f"{len(left)} of ten servers are not ACTIVE within 240 s")
                time.sleep(0.1)
            return time.perf_counter() - started
        finally:
            for server in servers:
                self.cloud.compute.delete_server(server.id)
            for server in servers:
                self.cloud.compute.wait_for_delete(server, interval=0.5, wait=120)

    def measure_network(self) -> tuple[float, float]:
        """Median seconds from a floating address, and from a rule, to the first answered ping of a guest that is up."""
        cloud = self.cloud
        group = cloud.network.create_security_group(name="bench")
        rule = {"security_group_id": group.id, "direction": "ingress", "protocol": "icmp"}
        server = cloud.compute.create_server(
            name="bench-network", image_id=self.image.id, flavor_id=self.flavor.id,
            networks=[{"uuid": self.network.id}], security_groups=[{"name": "bench"}],
        )  # fmt: skip
        floating = cloud.network.create_ip(floating_network_id=self.public.id)
        by_address, by_rule = [], []
        try:
            cloud.compute.wait_for_server(server, interval=0.5, wait=120)
            (port,) = cloud.network.ports(device_id=server.id)
            made = cloud.network.create_security_group_rule(**rule)
            cloud.network.update_ip(floating, port_id=port.id)
            wait_for_answer(floating.floating_ip_address, 120)  # the guest is up
            for _ in range(self.rounds):
                cloud.network.update_ip(floating, port_id=None)
                wait_until_quiet()
                started = time.perf_counter()
                cloud.network.update_ip(floating, port_id=port.id)
                wait_for_answer(floating.floating_ip_address)
                by_address.append(time.perf_counter() - started)
                cloud.network.delete_security_group_rule(made)
                wait_until_quiet()
                started = time.perf_counter()
                made = cloud.network.create_security_group_rule(**rule)
                wait_for_answer(floating.floating_ip_address)
                by_rule.append(time.perf_counter() - started)
        finally:
            cloud.network.delete_ip(floating)
            delete_server(cloud, server)
            cloud.network.delete_security_group(group)
        return statistics.median(by_address), statistics.median(by_rule)

    def measure_volume(self) -> float:
        """Median seconds of POST /volumes to available."""
        seconds = []
        for _ in range(self.rounds):
            wait_until_quiet()
            started = time.perf_counter()
            volume = self.cloud.block_storage.create_volume(size=1, name="bench")
            wait_status(self.cloud, volume, "available")
            seconds.append(time.perf_counter() - started)
            self.cloud.block_storage.delete_volume(volume.id)
            self.cloud.block_storage.wait_for_delete(volume, interval=0.2, wait=60)
        return statistics.median(seconds)


# As the account that runs are made by: this host's document in check mode, which finds nothing to do.
RUNS = """
import statistics, sys, time
from sqlalchemy import select
from web.desired import build_document, read_rows
from web.models import Database, Host
from web.reconcile.run import run_host, scrub_environment
from web.settings import load_settings
scrub_environment()
settings = load_settings("/etc/kumo/kumo.conf")
with Database(settings.database.url).read() as session:
    host = session.scalar(select(Host))
    document = build_document(read_rows(session, host), settings, host.fence)
for warm in (True, False):
    settings.worker.warm, seconds = warm, []
    for _ in range(int(sys.argv[1])):
        started = time.perf_counter()
        outcome = run_host(settings, host.name, dict(host.connection), document, check=True)
        seconds.append(time.perf_counter() - started)
        assert outcome.ok, outcome.error
    print(statistics.median(seconds))
"""


def measure_runs(rounds: int) -> tuple[float, float]:
    """Median seconds of a run that finds nothing to do: forked from the warm Ansible, and by the plain executable."""
    command = ["runuser", "-u", "kumo", "--", "/opt/kumo/venv/bin/python", "-c", RUNS, str(rounds)]
    printed = subprocess.run(command, capture_output=True, text=True, check=True, cwd="/opt/kumo/src", timeout=300)
    warm, cold = map(float, printed.stdout.split())
    return warm, cold


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--cloud", default="kumo")
    parser.add_argument("--admin-cloud", default="kumo-admin")
    args = parser.parse_args()
    bench = Bench(openstack.connect(cloud=args.cloud), args.rounds)
    wait_until_quiet()
    processes, megabytes = read_memory()
    share = read_cpu_share(20)
    made, gone = bench.measure_life()
    ten = bench.measure_ten(openstack.connect(cloud=args.admin_cloud))
    by_address, by_rule = bench.measure_network()
    volume = bench.measure_volume()
    warm, cold = measure_runs(args.rounds)
    print(f"processes at rest                           {processes:8d}     (aim: 12 at most)")
    print(f"their memory (PSS)                          {megabytes:8.0f} MB  (aim: 250 at most)")
    print(f"their share of one core at rest             {share:8.1f} %   (aim: 1 at most)")
    print(f"POST /servers to ACTIVE, image cached       {made:8.2f} s   (aim: 2.0)")
    print(f"DELETE to gone                              {gone:8.2f} s   (aim: 1.2)")
    print(f"ten servers posted at once, all ACTIVE      {ten:8.2f} s   (aim: 12)")
    print(f"security group rule to traffic              {by_rule:8.2f} s   (aim: 0.6)")
    print(f"floating address to traffic                 {by_address:8.2f} s   (aim: 0.9)")
    print(f"volume create to available                  {volume:8.2f} s   (aim: 1.2)")
    print(f"a run that finds nothing to do, warm        {warm:8.2f} s")
    print(f"the same, cold                              {cold:8.2f} s   ratio {warm / cold:.2f}   (aim: 0.22)")
    return 0


if __name__ == "__main__":
    sys.exit(main())
