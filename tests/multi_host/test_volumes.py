"""A volume of the storage host under guests of both hypervisors: what was written stays what it was; in order."""

from __future__ import annotations

import time

import pytest
from cloud_lab import wait_for

BYTES = "bs=1M count=8"


class Story:
    """The volume's way through these tests: its guests, and the checksum of what the first one wrote."""

    def __init__(self, lab, tenant):
        self.lab, self.tenant, self.tag = lab, tenant, tenant.tag
        self.volume, self.snapshot, self.copy = f"data-{self.tag}", f"snap-{self.tag}", f"copy-{self.tag}"
        self.storage = lab.groups["storage"][0]
        self.guests: list[str] = []
        self.sum = ""

    def guest(self, server: str, command: str) -> str:
        return self.lab.guest(server, self.tenant.network, command, self.tenant.key)

    def has_disk(self, server: str, device: str) -> bool:
        """Whether the guest's kernel has the disk ("vdb"), or has it in that size ("2097152 vdb", KiB)."""
        return f" {device} " in " ".join([*self.guest(server, "cat /proc/partitions").split(), ""])

    def read_sum(self, server: str, device: str = "vdb") -> str:
        return self.guest(server, f"sudo dd if=/dev/{device} {BYTES} 2>/dev/null | md5sum").split()[0]

    def wait_volume(self, name: str, status: str, seconds: float = 120) -> None:
        def reached() -> bool:
            seen = self.lab.ask(f"volume show {name}")["status"]
            assert not seen.startswith("error"), f"volume {name} is {seen}"
            return seen == status

        wait_for(f"volume {name} to be {status}", reached, seconds)

    def attach(self, server: str, name: str, device: str = "vdb") -> None:
        self.lab.openstack(f"server add volume {server} {name}")
        wait_for(f"{device} in {server}", lambda: self.has_disk(server, device), 120)
        self.wait_volume(name, "in-use")

    def detach(self, server: str, name: str) -> None:
        self.lab.openstack(f"server remove volume {server} {name}")
        self.wait_volume(name, "available")


@pytest.fixture(scope="module")
def story(lab, tenant) -> Story:
    made = Story(lab, tenant)
    yield made
    for server in made.guests:
        lab.openstack(f"server delete --wait {server}", code=None)
    for name in (made.copy, made.volume):
        shown = f"volume show -c status -f value {name}"
        wait_for(f"{name} to be free", lambda s=shown: lab.openstack(s, code=None).strip() != "detaching")
    lab.openstack(f"volume delete {made.copy}", code=None)
    lab.openstack(f"volume snapshot delete {made.snapshot}", code=None)
    wait_for("no snapshot", lambda: made.snapshot not in lab.openstack("volume snapshot list"), 120)
    lab.openstack(f"volume delete {made.volume}", code=None)


def test_a_guest_writes_to_a_volume_of_another_host(lab, tenant, story):
    for host in lab.groups["hypervisors"]:
        story.guests.append(tenant.create_server(f"disk-{host}", host, wait=False))
    lab.openstack(f"volume create --size 1 {story.volume}")
    story.wait_volume(story.volume, "available")
    for server in story.guests:
        wait_for(f"{server} to run", lambda s=server: lab.ask(f"server show {s}")["status"] == "ACTIVE", 240, pause=2)
        lab.wait_for_guest(server, tenant.network, tenant.key)
    first = story.guests[0]
    story.attach(first, story.volume)
    assert story.guest(first, f"sudo dd if=/dev/vdb {BYTES} 2>/dev/null | tr -d '\\0' | wc -c").strip() == "0"
    story.guest(first, f"sudo dd if=/dev/urandom of=/dev/vdb {BYTES} 2>/dev/null; sync")
    story.sum = story.read_sum(first)
    assert len(story.sum) == 32


def test_it_goes_to_the_guest_on_the_other_hypervisor(lab, story):
    first, second = story.guests
    story.detach(first, story.volume)
    assert not story.has_disk(first, "vdb")
    story.attach(second, story.volume)
    assert story.read_sum(second) == story.sum


def test_a_snapshot_holds_what_was_there(lab, story):
    first, second = story.guests
    story.detach(second, story.volume)
    lab.openstack(f"volume snapshot create --volume {story.volume} {story.snapshot}")
    wait_for("the snapshot", lambda: lab.ask(f"volume snapshot show {story.snapshot}")["status"] == "available", 120)
    story.attach(second, story.volume)
    story.guest(second, f"sudo dd if=/dev/zero of=/dev/vdb {BYTES} 2>/dev/null; sync")
    assert story.read_sum(second) != story.sum
    lab.openstack(f"volume create --snapshot {story.snapshot} {story.copy}")
    story.wait_volume(story.copy, "available")
    story.attach(first, story.copy)
    assert story.read_sum(first) == story.sum


def test_it_grows_under_its_guest(lab, story):
    first = story.guests[0]
    lab.openstack(f"--os-volume-api-version 3.42 volume set --size 2 {story.copy}")
    wait_for("2 GiB in the guest", lambda: story.has_disk(first, "2097152 vdb"))
    assert story.read_sum(first) == story.sum
    story.guest(first, "sudo dd if=/dev/urandom of=/dev/vdb bs=1M seek=1500 count=1 2>/dev/null; sync")


def test_it_is_there_after_guests_and_storage_host_have_restarted(lab, tenant, story):
    boots = lab.run(story.storage, "cat /proc/stat | grep btime; stat -c %Y /proc/1", root=True)
    lab.run(story.storage, "systemctl reboot", root=True, code=None)
    time.sleep(2)

    def is_back() -> bool:
        said = lab.run(story.storage, "systemctl is-active kumo-tgtd; stat -c %Y /proc/1", root=True, code=None)
        return said.startswith("active") and said.split()[-1] not in boots.split()

    wait_for("the storage host", is_back, 180, pause=1)
    for server in story.guests:
        lab.openstack(f"server reboot --hard {server}")
    for server in story.guests:
        wait_for(f"{server} to run", lambda s=server: lab.ask(f"server show {s}")["status"] == "ACTIVE", 240, pause=2)
        lab.wait_for_guest(server, tenant.network, tenant.key)
    assert story.read_sum(story.guests[0]) == story.sum
    assert story.has_disk(story.guests[0], "2097152 vdb")
    assert story.has_disk(story.guests[1], "vdb")


def test_a_guest_boots_from_a_volume_and_takes_it_along(lab, tenant, story):
    """An image becomes a volume on the storage host; it goes with its server where that was asked."""
    name = f"root-{story.tag}"
    lab.openstack(
        f"server create --image kumo-guest --flavor m1.micro --network {tenant.network} --key-name key-{story.tag} "
        f"--security-group {tenant.group} --availability-zone nova:{lab.groups['hypervisors'][1]} "
        f"--boot-from-volume 1 --wait {name}"
    )
    story.guests.append(name)
    lab.wait_for_guest(name, tenant.network, tenant.key)
    volume = lab.ask(f"server volume list {name}")[0]
    assert volume["Device"] == "/dev/vda"
    assert "iscsi" in lab.run(
        lab.groups["hypervisors"][1],
        f"virsh -c qemu:///system dumpxml kumo-{lab.ask(f'server show {name}')['id']} | grep protocol",
        root=True,
    )
    lab.openstack(f"server delete --wait {name}")
    story.wait_volume(volume["Volume ID"], "available")  # the client did not ask for it to go along
    lab.openstack(f"volume delete {volume['Volume ID']}")


def test_what_is_deleted_leaves_nothing(lab, story):
    lab.openstack(f"server delete --wait {' '.join(story.guests[:2])}")
    for name in (story.volume, story.copy):
        story.wait_volume(name, "available")
    lab.openstack(f"volume delete {story.copy}")
    lab.openstack(f"volume snapshot delete {story.snapshot}")
    wait_for("no snapshot", lambda: story.snapshot not in lab.openstack("volume snapshot list"), 120)
    lab.openstack(f"volume delete {story.volume}")
    wait_for("no volume", lambda: story.tag not in lab.openstack("volume list"), 120)
    shown = lab.run(story.storage, "tgtadm -C 67 --lld iscsi --mode target --op show", root=True)
    assert "cloud.kumo" not in shown
    kept = "ls -A /var/lib/kumo/host/volumes; lvs --noheadings -o lv_name 2>/dev/null | grep kumo- || true"
    assert lab.run(story.storage, kept, root=True).split() == []
    for host in lab.groups["hypervisors"]:
        assert "iscsi" not in lab.run(host, "virsh -c qemu:///system secret-list", root=True)
