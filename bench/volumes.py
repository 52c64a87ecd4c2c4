"""What Kumo adds to making and attaching a volume by hand, in one run, against a cloud made by ./stack.sh.

Side by side, medians: POST /volumes to available against `truncate`; the attachment until the guest's kernel has
the disk against `tgtadm` (target, unit, account, bind), `virsh secret-define`, `secret-set-value` and
`attach-device`; and a run of Ansible that finds nothing to do, which is what Kumo may add to a step once.

    bench/volumes.py [--rounds N]      as root, by /opt/kumo/client-venv/bin/python; leaves nothing behind
"""

from __future__ import annotations

import argparse
import base64
import contextlib
import datetime
import sqlite3
import statistics
import subprocess
import sys
import tempfile
import time
import uuid
from pathlib import Path

import openstack

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT))

from bench.foundation import call, delete_server, timed, wait_until_quiet  # noqa: E402

KEY = "/var/lib/kumo/first-server/id_ed25519"
CONTROL = "67"
PORTAL = "127.0.0.1:3260"
VIRSH = ("virsh", "-q", "-c", "qemu:///system")


class Guest:
    """A server that is logged in to from this machine."""

    def __init__(self, cloud, key: str):
        self.cloud, self.key = cloud, key
        image = cloud.image.find_image("kumo-guest", ignore_missing=False)
        flavor = cloud.compute.find_flavor("m1.nano", ignore_missing=False)
        network = cloud.network.find_network("private", ignore_missing=False)
        public = cloud.network.find_network("public", ignore_missing=False)
        self.server = cloud.compute.create_server(
            name="bench-volumes", image_id=image.id, flavor_id=flavor.id, networks=[{"uuid": network.id}],
            key_name="first-key", security_groups=[{"name": "ssh-and-ping"}],
        )  # fmt: skip
        cloud.compute.wait_for_server(self.server, interval=0.5, wait=120)
        port = next(iter(cloud.network.ports(device_id=self.server.id)))
        self.floating = cloud.network.create_ip(floating_network_id=public.id, port_id=port.id)
        deadline = time.monotonic() + 120
        while self.ssh("true").returncode != 0:
            if time.monotonic() > deadline:
                raise SystemExit("the guest does not answer ssh within 120 s")
            time.sleep(0.5)

    def _argv(self, command: str) -> list[str]:
        return [
            "ssh", "-i", self.key, "-o", "StrictHostKeyChecking=no", "-o", "UserKnownHostsFile=/dev/null",
            "-o", "LogLevel=ERROR", "-o", "ConnectTimeout=5", f"cirros@{self.floating.floating_ip_address}", command,
        ]  # fmt: skip

    def ssh(self, command: str):
        return subprocess.run(self._argv(command), capture_output=True, text=True, timeout=60)

    @contextlib.contextmanager
    def watching(self, device: str, there: bool):
        """The seconds, in a list, from the block's begin until the guest's kernel has (or has lost) the disk."""
        wanted = "0" if there else "1"
        look = f"grep -q {device} /proc/partitions; [ $? = {wanted} ] && break"
        loop = f"echo ready; n=0; while [ $n -lt 1200 ]; do {look}; n=$((n+1)); sleep 0.05; done; echo seen"
        watcher = subprocess.Popen(self._argv(loop), stdout=subprocess.PIPE, text=True)
        seconds: list[float] = []
        try:
            if watcher.stdout.readline().strip() != "ready":
                raise SystemExit("the guest does not answer ssh")
            started = time.perf_counter()
            yield seconds
            if watcher.stdout.readline().strip() != "seen":
                raise SystemExit(f"the guest's kernel and {device}: nothing within 60 s")
            seconds.append(time.perf_counter() - started)
        finally:
            watcher.kill()
            watcher.wait()

    def remove(self) -> None:
        self.cloud.network.delete_ip(self.floating)
        delete_server(self.cloud, self.server)


def wait_status(cloud, volume, status: str) -> None:
    deadline = time.monotonic() + 120
    while time.monotonic() < deadline:
        seen = cloud.block_storage.get_volume(volume.id)
        if seen.status == status:
            return
        if seen.status.startswith("error"):
            raise SystemExit(f"volume {volume.id} is {seen.status}")
        time.sleep(0.05)
    raise SystemExit(f"volume {volume.id} is not {status} within 120 s")


def tgtadm(mode: str, op: str, *words: str) -> str:
    return call("tgtadm", "-C", CONTROL, "--lld", "iscsi", "--mode", mode, "--op", op, *words)


class ByHand:
    """The steps that a person takes, one process each, with the credentials that Kumo would make."""

    def __init__(self, folder: Path, domain: str):
        self.folder, self.domain, self.uuid = folder, domain, str(uuid.uuid4())
        self.path = folder / f"{self.uuid}.raw"
        self.iqn, self.tid = f"iqn.2026-11.bench:{self.uuid}", "9900"
        self.xml = folder / "disk.xml"

    def make(self) -> None:
        call("truncate", "-s", "1G", str(self.path))

    def attach(self, device: str) -> None:
        user, password = f"u{self.uuid[:8]}", f"p{self.uuid.replace('-', '')[:14]}"
        tgtadm("target", "new", "--tid", self.tid, "--targetname", self.iqn)
        tgtadm("logicalunit", "new", "--tid", self.tid, "--lun", "1", "--backing-store", str(self.path))
        tgtadm("account", "new", "--user", user, "--password", password)
        tgtadm("account", "bind", "--tid", self.tid, "--user", user)
        tgtadm("target", "bind", "--tid", self.tid, "--initiator-address", "ALL")
        secret = self.folder / "secret.xml"
        secret.write_text(
            f"<secret ephemeral='yes' private='yes'><uuid>{self.uuid}</uuid>"
            f"<usage type='iscsi'><target>bench-{self.uuid}</target></usage></secret>"
        )
        call(*VIRSH, "secret-define", str(secret))
        value = self.folder / "value"
        value.write_text(base64.b64encode(password.encode()).decode())
        call(*VIRSH, "secret-set-value", self.uuid, "--file", str(value))
        host, _, port = PORTAL.partition(":")
        self.xml.write_text(
            f"<disk type='network' device='disk'><driver name='qemu' type='raw' cache='none'/>"
            f"<source protocol='iscsi' name='{self.iqn}/1'><host name='{host}' port='{port}'/>"
            f"<auth username='{user}'><secret type='iscsi' uuid='{self.uuid}'/></auth></source>"
            f"<target dev='{device}' bus='virtio'/></disk>"
        )
        call(*VIRSH, "attach-device", self.domain, str(self.xml), "--live")

    def remove(self) -> None:
        for step in (
            lambda: call(*VIRSH, "secret-undefine", self.uuid),
            lambda: tgtadm("target", "delete", "--tid", self.tid, "--force"),
            lambda: tgtadm("account", "delete", "--user", f"u{self.uuid[:8]}"),
        ):
            with contextlib.suppress(subprocess.CalledProcessError):
                step()
        self.path.unlink(missing_ok=True)


def measure_by_hand(guest: Guest, folder: Path, rounds: int, device: str) -> tuple[float, float]:
    """Median seconds of making a volume, and of attaching it until the guest has it."""
    made, attached = [], []
    for _ in range(rounds):
        hand = ByHand(folder, f"kumo-{guest.server.id}")
        try:
            made.append(timed(hand.make))
            with guest.watching(device, there=True) as seconds:
                hand.attach(device)
            attached += seconds
            with guest.watching(device, there=False):
                call(*VIRSH, "detach-device", hand.domain, str(hand.xml), "--live")
        finally:
            hand.remove()
    return statistics.median(made), statistics.median(attached)


def measure_kumo(cloud, guest: Guest, rounds: int, device: str) -> tuple[float, float]:
    """Median seconds of POST /volumes to available, and of the attachment until the guest has it."""
    made, attached = [], []
    for _ in range(rounds):
        wait_until_quiet()
        started = time.perf_counter()
        volume = cloud.block_storage.create_volume(size=1, name="bench-volumes")
        try:
            wait_status(cloud, volume, "available")
            made.append(time.perf_counter() - started)
            wait_until_quiet()
            with guest.watching(device, there=True) as seconds:
                cloud.compute.create_volume_attachment(guest.server, volume_id=volume.id)
            attached += seconds
            wait_status(cloud, volume, "in-use")
            cloud.compute.delete_volume_attachment(guest.server, volume.id)
            wait_status(cloud, volume, "available")
        finally:
            cloud.block_storage.delete_volume(volume.id)
            cloud.block_storage.wait_for_delete(volume, interval=0.2, wait=60)
    return statistics.median(made), statistics.median(attached)


def read_idle_runs(since: datetime.datetime, database: str = "/var/lib/kumo/kumo.db") -> float:
    """Median seconds of the cloud's runs since then that found nothing to do."""
    with contextlib.closing(sqlite3.connect(f"file:{database}?mode=ro", uri=True)) as connection:
        rows = connection.execute(
            "SELECT started_at, finished_at FROM runs WHERE state = 'succeeded' AND NOT changed AND started_at > ?",
            (since.strftime("%Y-%m-%d %H:%M:%S"),),
        ).fetchall()
    if not rows:
        raise SystemExit("no run of the cloud has found nothing to do meanwhile: is its database not SQLite?")
    times = [[datetime.datetime.fromisoformat(text) for text in row] for row in rows]
    return statistics.median((finished - started).total_seconds() for started, finished in times)


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--cloud", default="kumo")
    parser.add_argument("--key", default=KEY, help="the private key of the key pair first-key")
    args = parser.parse_args()
    cloud = openstack.connect(cloud=args.cloud)
    began = datetime.datetime.now(datetime.UTC)
    guest = Guest(cloud, args.key)
    try:
        with tempfile.TemporaryDirectory(dir="/var/lib/kumo") as folder:
            hand_made, hand_attached = measure_by_hand(guest, Path(folder), args.rounds, "vdb")
        made, attached = measure_kumo(cloud, guest, args.rounds, "vdb")
        run = read_idle_runs(began)
    finally:
        guest.remove()
    print(f"(r) a run that finds nothing to do                   {run:6.2f} s")
    for title, hand, ours in (
        ("volume made, by hand (truncate)", hand_made, made),
        ("attached, by hand (tgtadm, virsh)", hand_attached, attached),
    ):
        print(f"(h) {title:<48} {hand:6.2f} s")
        print(f"(k) the same by Kumo's API                           {ours:6.2f} s")
        print(f"    (k - r) / h                                      {(ours - run) / hand:6.2f}   (aim: 1.50 at most)")
    return 0


if __name__ == "__main__":
    sys.exit(main())
