"""Volumes: made, and attached until the guest's kernel has them, beside the same by hand.

By hand: `truncate`; and `tgtadm` (target, unit, account, bind), `virsh secret-define`, `secret-set-value` and
`attach-device`. What Kumo may add to such a step once is a run that finds nothing to do. A part of `bench/run`.
"""

from __future__ import annotations

import base64
import contextlib
import datetime
import sqlite3
import statistics
import subprocess
import tempfile
import time
import uuid
from pathlib import Path

from .by_hand import VIRSH
from .cloud import Cloud, Missing, call, say, timed, wait_for, wait_status, wait_until_quiet
from .figures import Figure, format_quantity

KEY = "/var/lib/kumo/first-server/id_ed25519"  # of the key pair first-key, by stack.sh
CONTROL = "67"
PORTAL = "127.0.0.1:3260"
DEVICE = "vdb"


class Guest:
    """A server that is logged in to from this machine."""

    def __init__(self, cloud: Cloud):
        self.cloud, self.floating = cloud, None
        self.server = cloud.post_server(
            "bench-volumes", key_name="first-key", security_groups=[{"name": "ssh-and-ping"}]
        )

    def wait_until_there(self) -> None:
        """Until it answers ssh at a floating address."""
        network = self.cloud.sdk.network
        self.cloud.wait_until_active(self.server)
        port = next(iter(network.ports(device_id=self.server.id)))
        self.floating = network.create_ip(floating_network_id=self.cloud.public.id, port_id=port.id)
        wait_for(
            lambda: subprocess.run(self._argv("true"), capture_output=True, timeout=60).returncode == 0, "ssh", 120, 0.5
        )

    def _argv(self, command: str) -> list[str]:
        return [
            "ssh", "-i", KEY, "-o", "StrictHostKeyChecking=no", "-o", "UserKnownHostsFile=/dev/null",
            "-o", "LogLevel=ERROR", "-o", "ConnectTimeout=5", f"cirros@{self.floating.floating_ip_address}", command,
        ]  # fmt: skip

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
                raise Missing("the guest does not answer ssh")
            started = time.perf_counter()
            yield seconds
            if watcher.stdout.readline().strip() != "seen":
                raise Missing(f"the guest's kernel and {device}: nothing within 60 s")
            seconds.append(time.perf_counter() - started)
        finally:
            watcher.kill()
            watcher.wait()

    def remove(self) -> None:
        """Nothing is left of it."""
        if self.floating:
            self.cloud.sdk.network.delete_ip(self.floating)
        self.cloud.delete_server(self.server)


def tgtadm(mode: str, op: str, *words: str) -> str:
    """One command to the daemon of Kumo's exports."""
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


def measure_by_hand(guest: Guest, folder: Path, rounds: int) -> tuple[float, float]:
    """Median seconds of making a volume, and of attaching it until the guest has it."""
    made, attached = [], []
    for number in range(rounds):
        say(f"round {number + 1} of {rounds}: by hand")
        hand = ByHand(folder, f"kumo-{guest.server.id}")
        try:
            made.append(timed(hand.make))
            with guest.watching(DEVICE, there=True) as seconds:
                hand.attach(DEVICE)
            attached += seconds
            with guest.watching(DEVICE, there=False):
                call(*VIRSH, "detach-device", hand.domain, str(hand.xml), "--live")
        finally:
            hand.remove()
    return statistics.median(made), statistics.median(attached)


def measure_kumo(sdk, guest: Guest, rounds: int) -> tuple[float, float]:
    """Median seconds of POST /volumes to available, and of the attachment until the guest has it."""
    made, attached = [], []
    for number in range(rounds):
        say(f"round {number + 1} of {rounds}: by Kumo")
        wait_until_quiet()
        started = time.perf_counter()
        volume = sdk.block_storage.create_volume(size=1, name="bench-volumes")
        try:
            wait_status(sdk, volume, "available")
            made.append(time.perf_counter() - started)
            wait_until_quiet()
            with guest.watching(DEVICE, there=True) as seconds:
                sdk.compute.create_volume_attachment(guest.server, volume_id=volume.id)
            attached += seconds
            wait_status(sdk, volume, "in-use")
            sdk.compute.delete_volume_attachment(guest.server, volume.id)
            wait_status(sdk, volume, "available")
        finally:
            sdk.block_storage.delete_volume(volume.id)
            sdk.block_storage.wait_for_delete(volume, interval=0.2, wait=60)
    return statistics.median(made), statistics.median(attached)


def read_idle_runs(since: datetime.datetime, database: str = "/var/lib/kumo/kumo.db") -> float:
    """Median seconds of the cloud's runs since then that found nothing to do."""
    with contextlib.closing(sqlite3.connect(f"file:{database}?mode=ro", uri=True)) as connection:
        rows = connection.execute(
            "SELECT started_at, finished_at FROM runs WHERE state = 'succeeded' AND NOT changed AND started_at > ?",
            (since.strftime("%Y-%m-%d %H:%M:%S"),),
        ).fetchall()
    if not rows:
        raise Missing("no run of the cloud has found nothing to do meanwhile: is its database not SQLite?")
    times = [[datetime.datetime.fromisoformat(text) for text in row] for row in rows]
    return statistics.median((finished - started).total_seconds() for started, finished in times)


def measure(rounds: int) -> list[Figure]:
    """The part's figures."""
    cloud = Cloud()
    began = datetime.datetime.now(datetime.UTC)
    guest = Guest(cloud)
    try:
        guest.wait_until_there()
        with tempfile.TemporaryDirectory(prefix="bench-", dir="/var/lib/kumo") as folder:
            hand_made, hand_attached = measure_by_hand(guest, Path(folder), rounds)
        made, attached = measure_kumo(cloud.sdk, guest, rounds)
        run = read_idle_runs(began)
    finally:
        guest.remove()
    left_off = f"a run that finds nothing to do ({format_quantity(run, 's')}) left off"
    return [
        Figure("POST /volumes to available (`file`)", made, "s", "5.9 s", most=1.2),
        Figure(
            "the same beyond a run", made - run, "s", ratio=(made - run) / hand_made, ratio_most=1.5,
            of=f"by hand (truncate: {format_quantity(hand_made, 's')}); {left_off}",
        ),
        Figure(
            "a volume attached, until the guest's kernel has it", attached, "s",
            ratio=(attached - run) / hand_attached, ratio_most=1.5,
            of=f"by hand (tgtadm, virsh: {format_quantity(hand_attached, 's')}); {left_off}",
        ),
    ]  # fmt: skip
