"""Floating addresses that go with a guest that moves alive: each is where its guest runs, on both hosts at once.

A row of ``routers[].floating_ips`` with ``follows`` counts only on the host where that server runs. What says so is
libvirt, asked anew by each run; and so that no address waits for a run, a task of the move takes it (``incoming.py``)
or lets it go (``outgoing.py``) the moment the guest has come or gone, by the plan of the last document. A task that is
killed is made good by the next run. Decides nothing else of routers (``routers.py``).
"""

from __future__ import annotations

import subprocess
import time
from pathlib import Path

from . import files, libvirt_connection, names, tasks
from .core import state_path
from .errors import KumoError

ARRIVE = "arrive"
WAIT_S = 24 * 3600
POLL_S = 0.05
LISTING_S = 10
AT_REST_S = 1.0  # between two looks while nothing was heard of the guest


def list_followed(document: dict) -> set[str]:
    """Ids of the servers that addresses of this document follow."""
    rows = [row for router in document["routers"] for row in router.get("floating_ips") or []]
    return {row["follows"] for row in rows if row.get("follows")}


def read_running() -> set[str] | None:
    """Ids of the servers that run on this host; None where libvirtd does not say.

    By virsh: a task is a fork, and libvirt's connections do not outlive one.
    """
    command = ["virsh", "-q", "-r", "-c", libvirt_connection.URI, "list", "--name", "--state-running"]
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=LISTING_S, check=False)
    except (OSError, subprocess.TimeoutExpired):
        return None
    if done.returncode:
        return None
    found = [line.strip() for line in done.stdout.splitlines()]
    return {name[len(names.PREFIX) :] for name in found if name.startswith(names.PREFIX)}


def choose_row(router: dict, running: set[str] | None, pairs: dict[str, str]) -> dict:
    """The router with those floating addresses that lead from here now.

    ``pairs`` are those that it translates; where nobody knows what runs, they stay as they are.
    """

    def leads(row: dict) -> bool:
        if not row.get("follows"):
            return True
        return row["floating_address"] in pairs if running is None else row["follows"] in running

    rows = router.get("floating_ips") or []
    return {**router, "floating_ips": [row for row in rows if leads(row)]}


def build_note(document: dict, router: dict) -> dict | None:
    """What a task needs to know of a router whose addresses follow a guest: a document of that router alone."""
    if not any(row.get("follows") for row in router.get("floating_ips") or []):
        return None
    joined = {leg["network"] for leg in [*(router.get("interfaces") or []), router.get("external")] if leg}
    settings = {name: document["settings"].get(name) for name in ("state_dir", "physical_networks")}
    wanted = ("id", "mtu", "segmentation", "home", "subnets")
    networks = [
        {name: network.get(name) for name in wanted} for network in document["networks"] if network["id"] in joined
    ]
    return {"settings": settings, "networks": networks, "routers": [router]}


def build_note_path(document: dict, router_id: str) -> Path:
    """Where a router's note is."""
    return state_path(document, "routers", f"{router_id}.following")


def read_note(document: dict, router_id: str) -> dict | None:
    """A router's note; None where none of its addresses follows a guest."""
    return files.read_json(build_note_path(document, router_id))


def apply_note(document: dict, router_id: str, note: dict | None) -> None:
    """Keep a router's note, or remove it."""
    if note is None:
        build_note_path(document, router_id).unlink(missing_ok=True)
    else:
        files.apply_json(build_note_path(document, router_id), note)


def read_notes(document: dict, server_id: str) -> list[dict]:
    """The notes of all routers that have an address that follows a server."""
    directory = state_path(document, "routers")
    notes = [files.read_json(path) for path in sorted(directory.glob("*.following"))] if directory.is_dir() else []
    return [note for note in notes if note and server_id in list_followed(note)]


def _count_heard(taps: list[str]) -> int:
    """Frames that a guest has sent by its taps; 0 where there are none."""
    return sum(int(files.read_text(Path("/sys/class/net", tap, "statistics/rx_packets")).strip() or 0) for tap in taps)


def apply_watch(document: dict, server: dict, take) -> None:
    """Start the task that calls ``take(document, server id)`` once the guest runs here, if addresses follow it."""
    if server["id"] not in list_followed(document):
        return
    taps = [names.build_tap_name(port) for port in server.get("ports") or []]
    server_id = server["id"]

    def watch(progress) -> None:
        until, asked = time.monotonic() + WAIT_S, 0.0
        while time.monotonic() < until:
            # QEMU announces a guest that has come; asking libvirt costs a process, so that is the sign to ask.
            pause = POLL_S if _count_heard(taps) else AT_REST_S
            if time.monotonic() - asked >= pause:
                if server_id in (read_running() or ()):
                    take(document, server_id)
                    return
                asked = time.monotonic()
            time.sleep(POLL_S)
        raise KumoError(f"server {server_id} did not come within {WAIT_S // 3600} hours")

    tasks.apply_forget(document, ARRIVE, server_id)
    tasks.apply_start(document, ARRIVE, server_id, watch)
