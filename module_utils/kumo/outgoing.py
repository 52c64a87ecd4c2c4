"""The side that a guest leaves: libvirt moves a running one, an offer shows the disk of one that is off.

Both ways are TLS with certificates of the cloud's own CA, on the address between hosts only. A running guest goes
peer to peer: a task of its own only asks, libvirtd does it, and goes on where that task is killed. An offer is
QEMU's storage daemon, read-only, with the bytes of the disks' files: the destination takes them as they are
(``incoming.py``), the root disk a layer over the same image, so that only what the guest has written goes over the
wire. Decides nothing
(``moves.py`` plans).
"""

from __future__ import annotations

import ipaddress
import json
import os
import socket
import time
from pathlib import Path

from . import guests, libvirt_connection, moves, names, routers, tasks
from .errors import KumoError
from .libvirt_connection import libvirt

# This host's certificate and key and the cloud's CA (roles/hypervisor/tasks/pki.yml).
CERTIFICATES = "/etc/pki/qemu/kumo"
OFFER_PORTS = range(49216, 49280)  # beside libvirt's own 49152 to 49215
OFFER_WAIT_S = 5.0
SEND_WAIT_S = 1.0
FORCED_DOWNTIME_MS = 60_000
ERROR_BYTES = 500


def check_certificates() -> None:
    """KumoError where this host was not prepared for moves."""
    if not Path(CERTIFICATES, "server-key.pem").exists():
        raise KumoError(f"this host has no certificate of the cloud in {CERTIFICATES}; run `kumo host prepare` for it")


def build_credentials(end: str) -> str:
    """QEMU's object of the host's credentials, for the ``client`` or ``server`` end; the peer is always checked."""
    return f"tls-creds-x509,id=tls,dir={CERTIFICATES},endpoint={end},verify-peer=yes"


def build_send(server: dict) -> list[str]:
    """virsh's words that move a running guest: its local disks are copied, its volumes are reached from there.

    CD-ROMs are not: the destination has the ISO in its own cache of images.
    """
    address = ipaddress.ip_address(server["outgoing"]["address"])
    host = f"[{address}]" if address.version == 6 else str(address)
    # Writes of the guest wait for the other host, so that the copy ends however much is written; memory that changes
    # faster than it is sent slows the guest down.
    storage = ["--copy-storage-inc", "--copy-storage-synchronous-writes", "--migrate-disks"]
    disks = [row["target"] for row in moves.build_disks(server)]
    storage = [*storage, ",".join(disks)] if disks else []
    return [
        "virsh", "-q", "-c", libvirt_connection.URI, "migrate", "--live", "--p2p", "--persistent", "--undefinesource",
        "--tls", "--auto-converge", "--abort-on-error", *storage, "--migrateuri", f"tcp://{host}",
        "--listen-address", str(address), names.build_domain_name(server["id"]),
        f"qemu+tls://{host}/system?pkipath={CERTIFICATES}",
    ]  # fmt: skip


def apply_send(document: dict, server: dict) -> None:
    """Begin to move the running guest; later runs look how far it is."""
    try:
        check_certificates()
    except KumoError as error:
        guests.note_failure(document, server["id"], str(error), moves.build_move(server, "out"))
        return
    guests.store(document, server["id"], {"move": moves.build_move(server, "out")})
    command = build_send(server)

    def send(progress):
        with tasks.running_child(command) as child:
            errors = child.communicate()[1][-ERROR_BYTES:].decode(errors="replace").strip()
        if child.returncode:
            raise KumoError(errors.removeprefix("error: ") or f"virsh migrate ended with {child.returncode}")
        routers.apply_following(document, server["id"])

    tasks.apply_start(document, moves.SEND, server["id"], send)
    tasks.wait(document, moves.SEND, server["id"], time.monotonic() + SEND_WAIT_S)


def apply_abort(document: dict, server: dict) -> None:
    """Ask libvirt to call the move off; the guest goes on here."""
    domain = libvirt_connection.find_domain(server["id"])
    if domain is None:
        return
    try:
        domain.abortJob()
    except libvirt.libvirtError as error:
        if error.get_error_code() not in (libvirt.VIR_ERR_OPERATION_INVALID, libvirt.VIR_ERR_NO_DOMAIN):
            raise KumoError(f"the move of server {server['id']} cannot be called off: {error}") from None


def apply_force(document: dict, server: dict) -> None:
    """Let the guest pause for as long as the rest of its memory takes."""
    domain = libvirt_connection.find_domain(server["id"])
    if domain is None:
        return
    try:
        domain.migrateSetMaxDowntime(FORCED_DOWNTIME_MS, 0)
    except libvirt.libvirtError as error:
        if error.get_error_code() == libvirt.VIR_ERR_OPERATION_INVALID:
            return  # not begun yet, or over: the next run looks again
        raise KumoError(f"the move of server {server['id']} cannot be forced: {error}") from None
    move = guests.read_kept(document, server["id"])["move"]
    guests.store(document, server["id"], {"move": {**move, "forced": True}})


def read_job(domain) -> dict:
    """How far libvirt is with moving a guest away, in the Compute API's names; empty where it does no such thing."""
    try:
        stats = domain.jobStats()
    except libvirt.libvirtError:
        return {}
    ours = stats.get("operation", libvirt.VIR_DOMAIN_JOB_OPERATION_MIGRATION_OUT)
    return moves.build_job_progress(stats) if ours == libvirt.VIR_DOMAIN_JOB_OPERATION_MIGRATION_OUT else {}


def apply_offer(document: dict, server: dict) -> None:
    """Offer the disks of a guest that is off, for as long as the document says so; one without any is ready."""
    move = moves.build_move(server, "out")
    directory = guests.build_directory(document, server["id"])
    disks = [directory / row["file"] for row in moves.build_copied(server)]
    if not disks:
        guests.store(document, server["id"], {"move": move})
        return
    try:
        check_certificates()
        for disk in disks:
            if not disk.exists():
                raise KumoError(f"{disk.name} of server {server['id']} is gone from {directory}")
        address = document["settings"]["tunnel_address"]
        port = choose_port(address)
    except KumoError as error:
        guests.note_failure(document, server["id"], str(error), move)
        return
    guests.store(document, server["id"], {"move": {**move, "port": port}})
    command = build_offer(address, port, server["outgoing"]["migration"], disks)

    def offer(progress):
        with tasks.running_child(command) as child:
            errors = child.communicate()[1][-ERROR_BYTES:].decode(errors="replace").strip()
        raise KumoError(errors or f"qemu-storage-daemon ended with {child.returncode}")

    tasks.apply_forget(document, moves.OFFER, server["id"])
    tasks.apply_start(document, moves.OFFER, server["id"], offer)
    _wait_for_offer(document, server["id"], address, port)


def build_name(migration: str, file: str) -> str:
    """The name that a disk is offered under; the root disk's is the migration's id."""
    return migration if file == "disk" else f"{migration}.{file}"


def build_offer(address: str, port: int, migration: str, disks: list[Path]) -> list[str]:
    """The storage daemon's words that show files' bytes to hosts of this cloud: nobody looks for a format in them."""
    words = ["qemu-storage-daemon", "--object", build_credentials("server")]
    words += ["--nbd-server", f"addr.type=inet,addr.host={address},addr.port={port},tls-creds=tls"]
    for number, disk in enumerate(disks):
        node = {"driver": "file", "node-name": f"disk{number}", "filename": str(disk), "read-only": True}
        words += ["--blockdev", json.dumps(node)]
        export = f"type=nbd,id=export{number},node-name=disk{number},name={build_name(migration, disk.name)}"
        words += ["--export", export]
    return words


def choose_port(address: str) -> int:
    """A port of the address that nobody listens on."""
    family = socket.AF_INET6 if ":" in address else socket.AF_INET
    start = os.getpid() % len(OFFER_PORTS)
    for offset in range(len(OFFER_PORTS)):
        port = OFFER_PORTS[(start + offset) % len(OFFER_PORTS)]
        with socket.socket(family) as probe:
            probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            try:
                probe.bind((address, port))
            except OSError as error:
                if error.errno == 98:  # EADDRINUSE
                    continue
                raise KumoError(f"this host cannot listen on {address}: {error.strerror}") from None
            return port
    raise KumoError(f"all ports from {OFFER_PORTS[0]} to {OFFER_PORTS[-1]} of {address} are taken")


def _wait_for_offer(document: dict, server_id: str, address: str, port: int) -> None:
    until = time.monotonic() + OFFER_WAIT_S
    while time.monotonic() < until:
        record = tasks.read_tasks(document, moves.OFFER).get(tasks.build_task_id(moves.OFFER, server_id))
        if record is None or record["state"] != "running":
            error = (record or {}).get("error") or "it ended"
            tasks.apply_forget(document, moves.OFFER, server_id)
            raise KumoError(f"the disk of server {server_id} cannot be offered: {error}")
        try:
            with socket.create_connection((address, port), timeout=1):
                return
        except OSError:
            time.sleep(0.05)
    raise KumoError(f"the disk of server {server_id} is not offered after {OFFER_WAIT_S} s")


def apply_hold(document: dict, server: dict) -> None:
    """Cut the power of a guest that is wanted elsewhere; what state.json counts stays as it is."""
    domain = libvirt_connection.find_domain(server["id"])
    if domain is not None:
        guests.destroy(domain)
    guests.store(document, server["id"], {"off_by": "us"})


def apply_end_task(document: dict, server: dict, kind: str) -> None:
    """End a task that the document no longer wants."""
    tasks.apply_end(document, kind, server["id"])


def apply_note_failure(document: dict, server: dict, kind: str, error: str) -> None:
    """What went wrong with this side's part stays known; the task's record goes."""
    if server["backup"]:
        begun = moves.build_backup_move(server)
    else:
        begun = moves.build_move(server, "in" if server["incoming"] else "out")
    guests.note_failure(document, server["id"], error, begun)
    tasks.apply_forget(document, kind, server["id"])
