"""Guests that move between hypervisors, as the unmodified client asks for it; in order."""

from __future__ import annotations

import itertools
import re
import subprocess
import time

import pytest
from cloud_lab import IMAGE, CommandFailed, wait_for

LIVE = "--os-compute-api-version 2.30 server migrate --live-migration"
PING_EVERY_S = 0.2


class Mover:
    """A guest with a floating address, a file on its disk and a volume; and where it has been."""

    def __init__(self, lab, tenant):
        self.lab, self.tenant, self.tag = lab, tenant, tenant.tag
        self.router, self.name, self.volume = f"router-{tenant.tag}", f"mover-{tenant.tag}", f"luggage-{tenant.tag}"
        self.one, self.two = lab.groups["hypervisors"][:2]
        self.id = self.floating = self.boot = self.sum = ""

    def guest(self, command: str) -> str:
        return self.lab.guest(self.name, self.tenant.network, command, self.tenant.key)

    def read_boot(self) -> str:
        """Which boot of the guest this is: the same for as long as it has not been off."""
        return self.guest("cat /proc/sys/kernel/random/boot_id").strip()

    def read_sums(self) -> str:
        return self.guest("md5sum <kept; sudo dd if=/dev/vdb bs=1M count=4 2>/dev/null | md5sum").strip()

    def read_status(self) -> str:
        return self.lab.ask(f"server show {self.name}")["status"]

    def wait_status(self, status: str, seconds: float = 240) -> None:
        def reached() -> bool:
            seen = self.read_status()
            assert seen != "ERROR" or status == "ERROR", self.lab.openstack(f"server show -c fault {self.name}")
            return seen == status

        wait_for(f"{self.name} to be {status}", reached, seconds, pause=1)

    def list_domains(self, host: str) -> list[str]:
        return self.lab.run(host, "virsh -c qemu:///system list --all --name", root=True).split()

    def is_here_alone(self, host: str) -> bool:
        """Whether the host has the guest, and no other has anything of it."""
        others = [other for other in (self.one, self.two) if other != host]
        for other in others:
            kept = self.lab.run(other, f"ls -d /var/lib/kumo/host/servers/{self.id} 2>/dev/null || true", root=True)
            if f"kumo-{self.id}" in self.list_domains(other) or kept:
                return False
        return f"kumo-{self.id}" in self.list_domains(host)

    def answers(self) -> bool:
        words = ["ping", "-c", "1", "-W", "1", self.floating]
        return subprocess.run(words, capture_output=True, check=False).returncode == 0

    def move_live(self, host: str) -> float:
        """Live migration to a host; the longest time for which its floating address did not answer, seconds."""
        words = ["ping", "-D", "-i", str(PING_EVERY_S), "-W", "1", self.floating]
        with subprocess.Popen(words, stdout=subprocess.PIPE, text=True) as ping:
            try:
                time.sleep(1)
                self.lab.openstack(f"{LIVE} --host {host} --wait {self.name}")
                wait_for(f"{self.name} on {host}", lambda: self.lab.find_host(self.name) == host, 120)
                time.sleep(2)
            finally:
                ping.terminate()
                said = ping.communicate(timeout=10)[0]
        times = [float(found) for found in re.findall(r"^\[(\d+\.\d+)\] \d+ bytes from", said, re.MULTILINE)]
        assert len(times) > 5, said
        return max(later - earlier for earlier, later in itertools.pairwise(times))


@pytest.fixture(scope="module")
def mover(lab, tenant) -> Mover:
    made = Mover(lab, tenant)
    lab.openstack(f"router create --external-gateway public {made.router}")
    lab.openstack(f"router add subnet {made.router} sub-{tenant.tag}")
    lab.openstack(f"volume create --size 1 {made.volume}")
    made.name = tenant.create_server("mover", made.one)
    made.id = lab.ask(f"server show {made.name}")["id"]
    lab.wait_for_guest(made.name, tenant.network, tenant.key)
    made.floating = lab.ask("floating ip create public")["floating_ip_address"]
    lab.openstack(f"server add floating ip {made.name} {made.floating}")
    lab.openstack(f"server add volume {made.name} {made.volume}")
    wait_for("the volume", lambda: "vdb" in made.guest("cat /proc/partitions"), 120)
    made.guest("dd if=/dev/urandom of=kept bs=64k count=16 2>/dev/null")
    made.guest("sudo dd if=/dev/urandom of=/dev/vdb bs=1M count=4 2>/dev/null; sync")
    made.boot, made.sum = made.read_boot(), made.read_sums()
    wait_for("the floating address", made.answers, 60)
    yield made
    lab.openstack(f"server delete --wait {made.name}", code=None)
    lab.openstack(f"floating ip delete {made.floating}", code=None)
    shown = f"volume show -c status -f value {made.volume}"
    wait_for("the volume to be free", lambda: lab.openstack(shown, code=None).strip() in ("available", ""), 120)
    lab.openstack(f"volume delete {made.volume}", code=None)
    remove = f"router remove subnet {made.router} sub-{made.tag}"
    wait_for("the router to be free", lambda: not lab.openstack(remove, code=None), 60, pause=2)
    lab.openstack(f"router delete {made.router}", code=None)


@pytest.mark.ci
def test_it_moves_alive_with_its_disk_volume_and_addresses(mover):
    lost_s = mover.move_live(mover.two)
    assert mover.read_status() == "ACTIVE"
    assert mover.read_boot() == mover.boot, "it never was off"
    assert mover.read_sums() == mover.sum
    wait_for("nothing left at the source", lambda: mover.is_here_alone(mover.two), 60)
    wait_for("the floating address", mover.answers, 30)
    print(f"longest silence of the floating address: {lost_s:.2f} s")
    assert lost_s <= 1.0 + PING_EVERY_S
    rows = mover.lab.ask("--os-compute-api-version 2.59 server migration list")
    names = ("Source Node", "Dest Node", "Status")
    ours = [[row[name] for name in names] for row in rows if row["Server UUID"] == mover.id]
    assert ours == [[mover.one, mover.two, "completed"]]


def test_s13_a_soft_reboot_after_the_move_has_the_same_devices(mover):
    mover.lab.openstack(f"server reboot --soft {mover.name}")
    mover.wait_status("ACTIVE")
    mover.lab.wait_for_guest(mover.name, mover.tenant.network, mover.tenant.key)
    assert mover.read_boot() != mover.boot
    assert mover.read_sums() == mover.sum
    mover.boot = mover.read_boot()


def test_a_move_that_fails_leaves_it_running(mover):
    """The destination's libvirtd takes no guests from others: the guest goes on, and the migration says why."""
    mover.lab.run(mover.one, "systemctl stop libvirtd-tls.socket libvirtd.service", root=True, code=None)
    try:
        mover.lab.openstack(f"{LIVE} --host {mover.one} {mover.name}", code=None)
        wait_for("the migration to end", lambda: mover.read_status() != "MIGRATING", 240, pause=2)
        assert mover.read_status() == "ACTIVE"
        assert mover.lab.find_host(mover.name) == mover.two
        assert mover.read_boot() == mover.boot
        assert "unable to connect" in mover.lab.kumo("logs errors")
    finally:
        mover.lab.run(mover.one, "systemctl stop libvirtd.service; systemctl start libvirtd-tls.socket", root=True)
    wait_for("the host to be seen again", lambda: is_up(mover.lab, mover.one), 120, pause=2)


def is_up(lab, host: str) -> bool:
    rows = lab.ask("compute service list")
    return any(row["Host"] == host and row["State"] == "up" and row["Status"] == "enabled" for row in rows)


def test_a_host_that_cannot_take_it_is_refused(mover):
    with pytest.raises(CommandFailed) as refusal:
        mover.lab.openstack(f"{LIVE} --host nowhere {mover.name}")
    assert "nowhere" in refusal.value.output
    assert mover.read_status() == "ACTIVE"


def test_it_moves_cold_and_back(mover):
    lab = mover.lab
    lab.openstack(f"--os-compute-api-version 2.56 server migrate --host {mover.one} --wait {mover.name}")
    assert mover.read_status() == "VERIFY_RESIZE"
    lab.wait_for_guest(mover.name, mover.tenant.network, mover.tenant.key)
    assert lab.find_host(mover.name) == mover.one
    assert mover.read_sums() == mover.sum
    lab.openstack(f"server migration revert {mover.name}")
    mover.wait_status("ACTIVE")
    lab.wait_for_guest(mover.name, mover.tenant.network, mover.tenant.key)
    wait_for("nothing left there", lambda: mover.is_here_alone(mover.two), 120)
    assert mover.read_sums() == mover.sum


def test_swap_is_made_anew_where_a_guest_comes_to(mover):
    """A guest with a swap disk migrates while it is off, and has one of the same size there that it can use."""
    lab, flavor, name = mover.lab, f"swap-{mover.tag}", f"swapper-{mover.tag}"
    lab.openstack(f"flavor create --ram 192 --disk 1 --swap 64 --vcpus 1 {flavor}")
    try:
        mover.tenant.create_server("swapper", mover.one, more=f"--flavor {flavor}")
        lab.openstack(f"server migrate --wait {name}")
        assert lab.find_host(name) == mover.two
        lab.wait_for_guest(name, mover.tenant.network, mover.tenant.key)
        command = "sudo swapon /dev/vdb && grep -c vdb /proc/swaps && sudo swapoff /dev/vdb"
        assert lab.guest(name, mover.tenant.network, command, mover.tenant.key).strip() == "1"
        lab.openstack(f"server migration confirm {name}")
    finally:
        lab.openstack(f"server delete --wait {name}", code=None)
        lab.openstack(f"flavor delete {flavor}", code=None)


def test_it_grows_on_its_way(mover):
    lab, larger = mover.lab, f"larger-{mover.tag}"
    lab.openstack(f"flavor create --ram 256 --disk 2 --vcpus 1 {larger}")
    try:
        lab.openstack(f"server resize --flavor {larger} --wait {mover.name}")
        assert mover.read_status() == "VERIFY_RESIZE"
        lab.wait_for_guest(mover.name, mover.tenant.network, mover.tenant.key)
        assert int(mover.guest("grep MemTotal /proc/meminfo").split()[1]) > 200_000
        assert "2097152 vda" in " ".join(mover.guest("cat /proc/partitions").split())
        assert mover.read_sums() == mover.sum
        lab.openstack(f"server resize confirm {mover.name}")
        mover.wait_status("ACTIVE")
        host = lab.find_host(mover.name)
        wait_for("nothing left elsewhere", lambda: mover.is_here_alone(host), 120)
        assert mover.read_sums() == mover.sum
        wait_for("the floating address", mover.answers, 30)
        mover.boot = mover.read_boot()
    finally:
        lab.openstack(f"flavor delete {larger}", code=None)


def test_a_drained_host_has_no_guest_and_none_was_stopped(mover):
    lab, host = mover.lab, mover.lab.find_host(mover.name)
    plan = lab.kumo(f"host drain {host} --plan")
    assert mover.name in plan or mover.id in plan
    assert lab.find_host(mover.name) == host, "a plan moves nothing"
    try:
        lab.kumo(f"host drain {host} --wait", timeout=400)
        assert lab.find_host(mover.name) != host
        assert mover.read_boot() == mover.boot
        assert mover.read_sums() == mover.sum
        assert not [name for name in mover.list_domains(host) if name.startswith("kumo-")]
        lab.kumo(f"host drain {host} --wait")  # twice is once
    finally:
        lab.kumo(f"host enable {host}")


def test_a_dead_hosts_guest_comes_back_elsewhere_and_never_twice(mover):
    """The host is cut off, fenced, its guest evacuated; when it comes back it lets go of what is another's now."""
    lab, host = mover.lab, mover.lab.find_host(mover.name)
    other = next(name for name in (mover.one, mover.two) if name != host)
    with pytest.raises(CommandFailed) as refusal:
        lab.openstack(f"--os-compute-api-version 2.29 server evacuate --host {other} {mover.name}")
    assert "still in use" in refusal.value.output
    link = lab.lab.lab_interface(lab.hosts[host], 0)
    subprocess.run(["ip", "link", "set", "dev", link, "down"], check=True)
    try:
        lab.openstack(f"--os-compute-api-version 2.11 compute service set --down {host} nova-compute")
        lab.openstack(f"--os-compute-api-version 2.29 server evacuate --host {other} {mover.name}")
        wait_for("it elsewhere", lambda: lab.find_host(mover.name) == other, 300, pause=2)
        mover.wait_status("ACTIVE")
        lab.wait_for_guest(mover.name, mover.tenant.network, mover.tenant.key)
        volume = mover.guest("sudo dd if=/dev/vdb bs=1M count=4 2>/dev/null | md5sum").strip()
        assert volume == mover.sum.splitlines()[1].strip(), "the volume is what it was"
        wait_for("the floating address", mover.answers, 60)
    finally:
        subprocess.run(["ip", "link", "set", "dev", link, "up"], check=True)
        lab.openstack(f"--os-compute-api-version 2.11 compute service set --up {host} nova-compute")
    wait_for("the old guest to be gone", lambda: mover.is_here_alone(other), 240, pause=2)
    wait_for("the host to be up", lambda: is_up(lab, host), 120, pause=2)


def test_its_other_disks_move_with_it(lab, tenant):
    """A guest with an ephemeral disk and swap, alive and cold: its file is still there; and back, as it was."""
    one, two = lab.groups["hypervisors"][:2]
    flavor, name = f"roomy-{tenant.tag}", f"roomy-{tenant.tag}"
    lab.openstack(f"flavor create --ram 192 --disk 1 --vcpus 1 --ephemeral 1 --swap 64 {flavor}")
    where = f"--availability-zone nova:{one} --security-group {tenant.group} --key-name key-{tenant.tag}"
    lab.openstack(f"server create --image {IMAGE} --flavor {flavor} --network {tenant.network} {where} --wait {name}")
    guest = Mover(lab, tenant)
    guest.name, guest.id = name, lab.ask(f"server show {name}")["id"]
    mount = "sudo mkdir -p /mnt/e; mountpoint -q /mnt/e || sudo mount -t ext4 /dev/vdb /mnt/e"
    try:
        lab.wait_for_guest(name, tenant.network, tenant.key)
        guest.guest(f"{mount}; sudo dd if=/dev/urandom of=/mnt/e/kept bs=64k count=16 2>/dev/null; sync")
        kept, boot = guest.guest("sudo md5sum /mnt/e/kept").strip(), guest.read_boot()
        guest.guest("sudo swapon /dev/vdc")
        lab.openstack(f"{LIVE} --host {two} --wait {name}")
        wait_for(f"{name} on {two}", lambda: lab.find_host(name) == two, 120)
        assert guest.read_boot() == boot, "it never was off"
        assert "/dev/vdc" in guest.guest("cat /proc/swaps")
        assert guest.guest("sudo sh -c 'echo 3 >/proc/sys/vm/drop_caches'; sudo md5sum /mnt/e/kept").strip() == kept
        wait_for("nothing left at the source", lambda: guest.is_here_alone(two), 60)

        lab.openstack(f"--os-compute-api-version 2.56 server migrate --host {one} --wait {name}")
        assert guest.read_status() == "VERIFY_RESIZE"
        lab.wait_for_guest(name, tenant.network, tenant.key)
        assert guest.guest(f"{mount}; sudo md5sum /mnt/e/kept").strip() == kept
        guest.guest("sudo swapon /dev/vdc; sudo rm /mnt/e/kept; sync")
        lab.openstack(f"server migration revert {name}")
        guest.wait_status("ACTIVE")
        lab.wait_for_guest(name, tenant.network, tenant.key)
        assert guest.guest(f"{mount}; sudo md5sum /mnt/e/kept").strip() == kept, "as it was where it came from"
    finally:
        lab.openstack(f"server delete --wait {name}", code=None)
        lab.openstack(f"flavor delete {flavor}", code=None)
