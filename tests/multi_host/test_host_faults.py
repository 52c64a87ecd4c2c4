"""What befalls hosts, done to real ones: ssh cut, daemons killed, rules flushed, disk full, a reboot, the clock.

After each the cloud is as it was asked to be, by itself and within a stated time; what the API says meanwhile is so,
and a guest that had nothing to do with it has not noticed.
"""

from __future__ import annotations

import re

import pytest
import yaml
from cloud_lab import CommandFailed, wait_for

SWEEP_S = 60  # `[worker] sweep_s`: how long an untouched host may go unseen
REPAIR_S = SWEEP_S + 60  # a sweep, and a run or two under emulation
BACK_OFF_S = 60 + 60  # the longest pause between tries, and a run


class Faulted:
    """A hypervisor that something befalls, and a server on it."""

    def __init__(self, lab, tenant, host: str):
        self.lab, self.tenant, self.host = lab, tenant, host
        self.server = tenant.create_server("steady", host)
        lab.wait_for_guest(self.server, tenant.network, tenant.key)
        self.id = self.show()["id"]
        self.pid = self.read_pid()
        self.namespace = lab.find_namespace(tenant.network)

    def show(self, server: str | None = None) -> dict:
        return self.lab.ask(f"server show {server or self.server}")

    def root(self, command: str, **options) -> str:
        return self.lab.run(self.host, command, root=True, **options)

    def read_pid(self) -> str:
        """Of the guest's QEMU; empty: it does not run."""
        return self.root(f"cat /run/libvirt/qemu/kumo-{self.id}.pid", code=None, both=False).strip()

    def hostname(self, **options) -> str:
        return self.lab.guest(self.server, self.tenant.network, "hostname", self.tenant.key, **options).strip()

    def read_error(self) -> str:
        """What `kumo host show` says is wrong with the host; empty: nothing."""
        return yaml.safe_load(self.lab.kumo(f"host show {self.host}"))["error"] or ""

    def is_idle(self, server: str, status: str) -> bool:
        shown = self.show(server)
        return shown["status"] == status and shown["OS-EXT-STS:task_state"] is None

    def wait_idle(self, server: str, status: str, seconds: float = REPAIR_S) -> None:
        wait_for(f"{server} to be {status}", lambda: self.is_idle(server, status), seconds, pause=1)

    def is_undisturbed(self) -> bool:
        """The steady guest's QEMU is the one that it was, and somebody can log in."""
        return self.read_pid() == self.pid and self.hostname() == self.server


@pytest.fixture(scope="module")
def faulted(lab, tenant) -> Faulted:
    return Faulted(lab, tenant, lab.groups["hypervisors"][-1])


def test_ssh_is_cut(faulted):
    """Nothing is lost and nothing is said that is not so; what was asked meanwhile is done once the host is back."""
    lab, host = faulted.lab, faulted.host
    other = faulted.tenant.create_server("other", host)
    source = lab.hosts[lab.controller].address
    rule = f"INPUT -p tcp --dport 22 -s {source} -j DROP"
    faulted.root(f"iptables -w -I {rule}")
    try:
        lab.openstack(f"server stop {other}")
        wait_for("the host's error", faulted.read_error, 120, pause=2)
        shown = faulted.show(other)
        assert (shown["status"], shown["OS-EXT-STS:task_state"]) == ("ACTIVE", "powering-off")
        assert faulted.show()["status"] == "ACTIVE"
        lab.openstack(f"server delete {other}")
        assert faulted.show(other)["OS-EXT-STS:task_state"] == "deleting"
    finally:
        faulted.root(f"iptables -w -D {rule}")
    wait_for("it to be gone", lambda: other not in lab.openstack("server list -f value -c Name"), BACK_OFF_S, pause=2)
    wait_for("no error any more", lambda: not faulted.read_error(), 60, pause=1)
    assert faulted.is_undisturbed()


def test_libvirtd_is_killed(faulted):
    lab = faulted.lab
    other = faulted.tenant.create_server("killed", faulted.host)
    faulted.root("kill -9 $(cat /run/libvirtd.pid)")
    lab.openstack(f"server stop {other}")
    faulted.wait_idle(other, "SHUTOFF")
    units = "systemctl list-units --plain --no-legend --state=active 'libvirtd*' | cut -d ' ' -f 1"
    units = " ".join(
        sorted(faulted.root(units).split())
    )  # the sockets first: one is for guests that come from other hosts
    faulted.root(f"systemctl stop {units}")
    try:
        lab.openstack(f"server start {other}")
        wait_for("the host's error", faulted.read_error, REPAIR_S, pause=2)
        assert "libvirt" in faulted.read_error()
        assert faulted.show(other)["status"] == "SHUTOFF"
        assert faulted.show()["status"] == "ACTIVE", "nobody knows of anything else"
    finally:
        faulted.root(f"systemctl start {units}")
    faulted.wait_idle(other, "ACTIVE", BACK_OFF_S)
    lab.openstack(f"server delete --wait {other}")
    assert faulted.is_undisturbed()


def test_dnsmasq_is_killed_and_rules_are_flushed(faulted):
    """By another tool, all at once; the sweep finds and repairs it. Meanwhile `kumo drift` says what is amiss."""

    def read_rules() -> list[str]:
        """Kumo's rules, without counters."""
        text = faulted.root("iptables-save; ip6tables-save")
        text += faulted.root(f"ip netns exec {faulted.namespace} iptables-save")
        lines = [re.sub(r"\[\d+:\d+\]", "", line) for line in text.splitlines()]
        return sorted(line for line in lines if "kumo" in line)

    def find_dnsmasq() -> set[str]:
        found = faulted.root(f"ip netns pids {faulted.namespace}").split()
        names = {pid: faulted.root(f"cat /proc/{pid}/comm", code=None).strip() for pid in found}
        return {pid for pid, name in names.items() if name == "dnsmasq"}

    before, serving = read_rules(), find_dnsmasq()
    assert before, "no rule of Kumo's was found"
    assert len(serving) == 1, "one serves DHCP, whatever befell the host before"
    tables = [f"{binary} -t {table}" for binary in ("iptables", "ip6tables") for table in ("filter", "nat")]
    flush = "; ".join(f"{command} -F" for command in tables)
    faulted.root(f"{flush}; kill -9 {' '.join(serving)}")
    faulted.root(f"ip netns exec {faulted.namespace} iptables -t nat -F")
    assert read_rules() != before
    wait_for("Kumo's rules", lambda: read_rules() == before, REPAIR_S, pause=2)
    wait_for("dnsmasq", lambda: find_dnsmasq() and not find_dnsmasq() & serving, REPAIR_S, pause=2)
    assert faulted.is_undisturbed()


def test_the_disk_is_full(lab, tenant, faulted):
    """In a host's state directory there is no room: a sentence that says so; with room again it goes on by itself."""
    host = faulted.host
    folder = "/var/lib/kumo/host"
    faulted.root(f"mkdir -p {folder}/servers && mount -t tmpfs -o size=40k,mode=711 tmpfs {folder}/servers")
    try:
        # The guest that runs has its files open; the run sees them gone, and makes none anew over lost data.
        full = tenant.create_server("full", host, wait=False)
        wait_for("a fault", lambda: faulted.show(full)["status"] == "ERROR", 240, pause=2)
        assert re.search(r"[Nn]o space|full|room", str(faulted.show(full)["fault"])), faulted.show(full)["fault"]
    finally:
        faulted.root(f"umount -l {folder}/servers")
    faulted.wait_idle(full, "ACTIVE", BACK_OFF_S + 60)
    lab.openstack(f"server delete --wait {full}")
    faulted.wait_idle(faulted.server, "ACTIVE", BACK_OFF_S)
    assert faulted.is_undisturbed()


def test_the_host_is_rebooted(lab, faulted):
    """Its guests come back by themselves, with their disks, addresses and rules."""
    lab.guest(faulted.server, faulted.tenant.network, "echo kept >kept && sync", faulted.tenant.key)
    boot = faulted.root("cut -d ' ' -f 22 /proc/1/stat")
    faulted.root("systemctl reboot", code=None)

    def has_rebooted() -> bool:
        try:
            return lab.run(faulted.host, "cut -d ' ' -f 22 /proc/1/stat", timeout=15, shared=False) != boot
        except (CommandFailed, OSError, TimeoutError):
            return False

    wait_for("another boot", has_rebooted, 180, pause=1)
    wait_for("another QEMU", lambda: faulted.read_pid() not in ("", faulted.pid), BACK_OFF_S + 60, pause=2)
    lab.wait_for_guest(faulted.server, faulted.tenant.network, faulted.tenant.key, 240)
    assert lab.guest(faulted.server, faulted.tenant.network, "cat kept", faulted.tenant.key).strip() == "kept"
    faulted.wait_idle(faulted.server, "ACTIVE")


def test_a_hosts_clock_jumps(lab):
    """Forth and back by a day, on a host whose clock is its own: what is asked of it is done all the same."""
    host = next(name for name in lab.groups["storage"] if lab.hosts[name].kind == "machine")
    made = []
    try:
        for step in ("+ 1 day", "- 1 day"):
            lab.run(host, f"date --set \"$(date '+%F %T') {step}\"", root=True)
            name = f"clock-{len(made)}"
            lab.openstack(f"volume create --size 1 {name}")
            made.append(name)
            wait_for(f"{name}", lambda n=name: lab.ask(f"volume show {n}")["status"] == "available", 240, pause=2)
    finally:
        lab.openstack(f"volume delete {' '.join(made)}")
    wait_for("them to be gone", lambda: "clock-" not in lab.openstack("volume list -f value -c Name"), 240, pause=2)
    assert yaml.safe_load(lab.kumo(f"host show {host}"))["error"] is None
