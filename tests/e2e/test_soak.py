"""Hours of use, squeezed: servers made, used and deleted, several at a time; nothing on this machine has grown.

The rows, and the worker's own objects, are looked at in tests/api/test_soak.py, where time can be played. Here are the
processes that users have, with real guests: their number, memory, descriptors and threads, and what guests left.
"""

from __future__ import annotations

import os
import re
import subprocess
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import openstack as sdk
from client import find_pids, wait_for

WARM_UP, LIVES, AT_ONCE = 4, 16, 4
SETTLED_S = 90
API_THREADS = 8  # controller_api_threads
GROWTH = 1.06  # of memory: what allocators keep is not the same twice
FOLDERS = ("/var/lib/kumo/host", "/var/lib/kumo/runs", "/run/kumo", "/var/lib/libvirt/qemu", "/etc/libvirt/qemu")


def live(cloud, parts: dict, public: str, number: int) -> None:
    """One server's life: made, given a volume and an address, rebooted, and deleted with all it had."""
    server = cloud.compute.create_server(name=f"soak-{number}", **parts)
    cloud.compute.wait_for_server(server, interval=0.3, wait=120)
    volume = cloud.block_storage.create_volume(size=1, name=f"soak-{number}")
    cloud.block_storage.wait_for_status(volume, "available", interval=0.3, wait=60)
    cloud.compute.create_volume_attachment(server.id, volume_id=volume.id)
    cloud.block_storage.wait_for_status(volume, "in-use", interval=0.3, wait=60)
    port = next(iter(cloud.network.ports(device_id=server.id)))
    address = cloud.network.create_ip(floating_network_id=public, port_id=port.id) if number % 2 else None
    cloud.compute.reboot_server(server.id, "HARD")
    cloud.compute.wait_for_server(server, interval=0.3, wait=120)
    cloud.compute.delete_server(server.id)
    cloud.compute.wait_for_delete(server, interval=0.3, wait=120)
    if address:
        cloud.network.delete_ip(address)
    cloud.block_storage.wait_for_status(volume, "available", interval=0.3, wait=60)
    cloud.block_storage.delete_volume(volume.id)
    cloud.block_storage.wait_for_delete(volume, interval=0.3, wait=60)


def live_many(cloud, parts: dict, public: str, numbers: range) -> None:
    with ThreadPoolExecutor(AT_ONCE) as pool:
        for done in [pool.submit(live, cloud, parts, public, number) for number in numbers]:
            done.result()


def read_state() -> dict:
    """What must be the same again, by name."""
    pids = {
        name: sorted(find_pids(*patterns))
        for name, patterns in {
            "serve": ("/opt/kumo/venv/bin/kumo", "serve"),
            "worker": ("/opt/kumo/venv/bin/kumo", "worker"),
            "warm": ("web.reconcile.warm",),
            "metadata": ("kumo_metadata", "/var/lib/kumo/host"),
            "tgtd": ("tgtd", "-C", "67"),
            "dnsmasq": ("dnsmasq", "/var/lib/kumo/host/"),
            "qemu": ("qemu-system", "/var/lib/kumo/host/"),
        }.items()
    }
    found: dict = {"processes": {name: len(ids) for name, ids in pids.items()}}
    ours = [pid for name in ("serve", "worker", "warm", "metadata", "tgtd") for pid in pids[name]]
    found["descriptors"] = {pid: len(os.listdir(f"/proc/{pid}/fd")) for pid in ours}
    # A process of the API begins its threads one by one, as they are needed, up to `[api] threads`: that is no growth.
    least = dict.fromkeys(pids["serve"], API_THREADS + 1)
    found["threads"] = {pid: max(len(os.listdir(f"/proc/{pid}/task")), least.get(pid, 0)) for pid in ours}
    found["memory"] = sum(
        int(re.search(r"^Pss:\s+(\d+)", Path(f"/proc/{pid}/smaps_rollup").read_text(), re.MULTILINE)[1]) for pid in ours
    )
    found["files"] = sorted(str(path) for folder in FOLDERS for path in Path(folder).rglob("*") if path.is_file())
    rules = subprocess.run(["iptables-save"], capture_output=True, text=True, check=True).stdout
    found["rules"] = sorted(re.sub(r"\[\d+:\d+\]", "", line) for line in rules.splitlines() if line[:1] in "-:")
    found["links"] = sorted(os.listdir("/sys/class/net"))
    found["namespaces"] = sorted(os.listdir("/run/netns"))
    return found


def read_quiet_state() -> dict | None:
    """What must be the same again, where no run is under way: one that the sweep begins has processes of its own."""

    def is_quiet() -> bool:
        return not find_pids("ansible-playbook", "apply_host") and not list(Path("/var/lib/kumo/runs").iterdir())

    if not is_quiet():
        return None
    try:
        found = read_state()
    except FileNotFoundError:  # a process that has ended just now
        return None
    return found if is_quiet() else None


def find_growth(before: dict, after: dict) -> list[str]:
    """A sentence for each thing that is not as it was, or more than it was."""
    grown = []
    for name in ("processes", "files", "rules", "links", "namespaces"):
        old, new = ([*one[name].items()] if name == "processes" else one[name] for one in (before, after))
        if old != new:
            grown.append(
                f"{name}: new {[one for one in new if one not in old]}, gone {[x for x in old if x not in new]}"
            )
    for name in ("descriptors", "threads"):
        if after[name].keys() != before[name].keys() or sum(after[name].values()) > sum(before[name].values()):
            grown.append(f"{name}: {before[name]}, then {after[name]}")
    if after["memory"] > before["memory"] * GROWTH:
        grown.append(f"memory: {before['memory']} KB, then {after['memory']} KB")
    return grown


def test_nothing_grows():
    cloud = sdk.connect(cloud="kumo")
    parts = {
        "image_id": cloud.image.find_image("kumo-guest", ignore_missing=False).id,
        "flavor_id": cloud.compute.find_flavor("m1.nano", ignore_missing=False).id,
        "networks": [{"uuid": cloud.network.find_network("private", ignore_missing=False).id}],
    }
    public = cloud.network.find_network("public", ignore_missing=False).id
    live_many(cloud, parts, public, range(WARM_UP))
    before = wait_for("no run under way", read_quiet_state, 60)
    live_many(cloud, parts, public, range(WARM_UP, WARM_UP + LIVES))
    deadline = time.monotonic() + SETTLED_S
    while grown := find_growth(before, wait_for("no run under way", read_quiet_state, 60)):
        assert time.monotonic() < deadline, "\n".join(grown)
        time.sleep(3)
