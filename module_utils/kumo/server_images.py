"""A guest's root disk as an image: a copy of one moment, made on this host and sent to the image service.

Owns ``servers/<id>/snapshot.qcow2`` and ``servers/<id>/snapshot.json``: {image, attempt, way: job|file, state:
copying|uploading|uploaded|failed, error}. The copy of a guest that runs is libvirt's backup job: as the disk would be
were the power cut at its beginning. While the task runs only it writes the record. ``plan_`` and ``report_`` are pure.
Next rooms: ``servers.py``, which calls them; ``tasks.py``.
"""

from __future__ import annotations

import os
import time
import urllib.error
import urllib.request
from pathlib import Path

from . import (
    domain_xml,
    files,
    guest_volumes,
    guests,
    image_fetch,
    image_formats,
    libvirt_connection,
    names,
    power,
    tasks,
)
from .errors import KumoError
from .libvirt_connection import call, libvirt

KIND = "snapshot"
BEGIN_WAIT_S = 1.0
LOOK_EVERY_S = 0.2
TIMEOUT_S = 120  # of one answer of the image service, which writes all to its disk before the last one
ERROR_BYTES = 500
SETTLED = ("running", "paused", "shutoff", "crashed", "suspended")
OFF = ("shutoff", "crashed")
STARTS = {"start", "reboot_hard", "rescue_soft"}
POWER_VERBS = STARTS | {
    "create", "stop", "press_power_button", "destroy", "reboot_soft", "pause", "resume", "suspend", "discard", "rescue",
    "unrescue",
}  # fmt: skip
# virDomainJobType: https://libvirt.org/html/libvirt-libvirt-domain.html
JOB_NONE, JOB_COMPLETED, JOB_OPERATION_BACKUP = "0", "3", "9"


def read_record(directory: Path) -> dict | None:
    """What is known here of a copy, done or under way."""
    record = files.read_json(directory / "snapshot.json")
    return record if isinstance(record, dict) else None


def plan_end(row: dict, seen: dict) -> list[tuple]:
    """What is left of a copy that nobody wants any more goes."""
    if row.get("snapshot") or not (seen["snapshot"] or KIND in seen["tasks"]):
        return []
    return [("end_snapshot", {}, "a copy of the disk for an image\n", "")]


def plan_snapshot(server: dict, seen: dict, steps: list[tuple]) -> list[tuple]:
    """The verbs that lead to the wanted copy; ``steps`` are those of the guest's power in this run."""
    order, record, task = server["snapshot"], seen["snapshot"], seen["tasks"].get(KIND)
    if not order:
        return []
    planned = {step[0] for step in steps}
    if is_of(order, record):
        copying = record["state"] == "copying" and record["way"] == "file" and task and task["state"] == "running"
        if copying and planned & STARTS:
            error = "the guest was started while its disk was copied"
            return [("fail_snapshot", {"error": error}, "the disk is copied\n", f"failed: {error}\n")]
        return []
    if planned & POWER_VERBS or seen["state"] not in SETTLED or power.is_saving(seen):
        return []  # pending: first the guest's power is as wanted
    if server["power"] == "off" and seen["state"] not in OFF:
        return []  # it was asked to shut down, and is still writing what it had in memory
    return [("begin_snapshot", {}, "", f"a copy of the disk for image {order['image']}\n")]


def is_of(order: dict, record: dict | None) -> bool:
    """Whether the record is of this very attempt."""
    return record is not None and all(record.get(name) == order[name] for name in ("image", "attempt"))


def report_snapshot(row: dict, seen: dict) -> dict | None:
    """{image, attempt, state: waiting|copying|uploading|uploaded|failed, progress, error}; None: none is wanted."""
    order, record, task = row.get("snapshot"), seen["snapshot"], seen["tasks"].get(KIND)
    if not order:
        return None
    report = {"image": order["image"], "attempt": order["attempt"], "state": "waiting", "progress": 0.0, "error": None}
    if not is_of(order, record):
        return report
    report |= {"state": record["state"], "error": record.get("error")}
    if record["state"] in ("copying", "uploading"):
        if task and task["state"] == "running":
            report["progress"] = task["progress"]
        else:
            report |= {"state": "failed", "error": (task or {}).get("error") or tasks.INTERRUPTED}
    return report


def is_pending(report: dict | None) -> bool:
    """Whether a later run has to look again soon."""
    return report is not None and report["state"] in ("waiting", "copying", "uploading")


def check_order(order: dict) -> None:
    """KumoError where a document's order for a copy cannot be carried out at all."""
    url = order.get("url")
    if not isinstance(url, str) or not url.startswith(("http://", "https://")):
        raise KumoError("snapshot.url must be an http or https url")


def apply_begin(document: dict, server: dict) -> None:
    """Start the copy and its upload, a task; later runs look how far it is."""
    order, directory = server["snapshot"], guests.build_directory(document, server["id"])
    apply_end(document, server)
    domain = libvirt_connection.find_domain(server["id"])
    lives = domain is not None and bool(call("the guest cannot be looked at", domain.isActive))
    record = {"image": order["image"], "attempt": order["attempt"], "way": "job" if lives else "file"}
    record |= {"state": "copying", "error": None}
    try:
        check_order(order)
        if not guest_volumes.has_local_root(server):
            raise KumoError("the guest has no disk on this host")
        _check_room(directory)
        device = _find_device(domain, directory) if lives else None
    except KumoError as error:
        _store(directory, {**record, "state": "failed", "error": str(error)})
        return
    _store(directory, record)

    def make(progress):
        _make(server["id"], order, record, device, directory, progress)

    tasks.apply_start(document, KIND, server["id"], make)
    tasks.wait(document, KIND, server["id"], time.monotonic() + BEGIN_WAIT_S)


def apply_end(document: dict, server: dict) -> None:
    """Nothing of a copy is left here: no task, no job of libvirt's, no file. The record is the last to go."""
    _apply_stop(document, server["id"])
    (guests.build_directory(document, server["id"]) / "snapshot.json").unlink(missing_ok=True)


def apply_fail(document: dict, server: dict, error: str) -> None:
    """The attempt under way has failed, and its files are gone."""
    directory = guests.build_directory(document, server["id"])
    record = read_record(directory)
    _apply_stop(document, server["id"])
    _store(directory, {**record, "state": "failed", "error": error})


def _apply_stop(document: dict, server_id: str) -> None:
    tasks.apply_end(document, KIND, server_id)
    domain = libvirt_connection.find_domain(server_id)
    if domain is not None and is_backup(domain):
        try:
            domain.abortJob()
        except libvirt.libvirtError as error:
            if error.get_error_code() not in (libvirt.VIR_ERR_OPERATION_INVALID, libvirt.VIR_ERR_NO_DOMAIN):
                raise KumoError(f"the copy of server {server_id}'s disk cannot be called off: {error}") from None
        until = time.monotonic() + 5  # the job ends a little later; its file may go only then
        while is_backup(domain) and time.monotonic() < until:
            time.sleep(0.05)
    directory = guests.build_directory(document, server_id)
    for name in ("snapshot.qcow2", "snapshot.xml"):
        (directory / name).unlink(missing_ok=True)


def is_backup(domain) -> bool:
    """Whether libvirt's job on the guest is a backup, and no move."""
    try:
        stats = domain.jobStats()
    except libvirt.libvirtError:
        return False
    return bool(stats.get("type")) and stats.get("operation") == int(JOB_OPERATION_BACKUP)


def _store(directory: Path, record: dict) -> None:
    files.apply_json(directory / "snapshot.json", record)


def _check_room(directory: Path) -> None:
    """KumoError where what is in the disk and in its image may not fit here once more."""
    disk = directory / "disk"
    try:
        with open(disk, "rb") as stream:
            below = image_formats.parse_overlay(stream.read(image_formats.HEAD_BYTES))["backing"]
        used = sum(Path(one).stat().st_blocks * 512 for one in (disk, below) if one)
    except FileNotFoundError as error:
        raise KumoError(f"{error.filename} is gone from this host") from None
    room = os.statvfs(directory)
    free = room.f_bavail * room.f_frsize
    if free < used:
        raise KumoError(f"this host has {free} bytes free; a copy of the disk may take {used}")


def _find_device(domain, directory: Path) -> str:
    """The name libvirt has for the root disk of a guest that lives."""
    text = libvirt_connection.read_xml(domain, inactive=False)
    for disk in domain_xml.parse_xml(text).findall("devices/disk") if text else []:
        source = disk.find("source")
        if source is not None and source.get("file") == str(directory / "disk"):
            return disk.find("target").get("dev")
    raise KumoError(f"the guest does not have {directory}/disk")


def _make(server_id: str, order: dict, record: dict, device: str | None, directory: Path, progress) -> None:
    """The task: copy, upload; how it ended is in the record. The copy is the first half of its progress."""
    target = directory / "snapshot.qcow2"
    try:
        if record["way"] == "job":
            _copy_by_job(server_id, device, target, lambda done, total: progress(done, 2 * total))
        else:
            _copy_file(directory / "disk", target, lambda done, total: progress(done, 2 * total))
        image_formats.read_virtual_size(target, "qcow2")  # whole by itself: nothing lies below it
        _store(directory, {**record, "state": "uploading"})
        send(order, target, lambda done, total: progress(total + done, 2 * total))
        ended = {**record, "state": "uploaded"}
    except KumoError as error:
        ended = {**record, "state": "failed", "error": str(error)}
    except OSError as error:
        ended = {**record, "state": "failed", "error": f"{error.strerror or error} ({error.filename or directory})"}
    finally:
        target.unlink(missing_ok=True)
    _store(directory, ended)


def build_backup(device: str, target: Path) -> str:
    """libvirt's definition of a backup of the root disk, and of no other, into a file of its own."""
    root = domain_xml.ElementTree.Element("domainbackup", mode="push")
    disk = domain_xml.ElementTree.SubElement(
        domain_xml.ElementTree.SubElement(root, "disks"), "disk", name=device, type="file"
    )
    domain_xml.ElementTree.SubElement(disk, "driver", type="qcow2")
    domain_xml.ElementTree.SubElement(disk, "target", file=str(target))
    return domain_xml.build_text(root)


def _virsh(*words: str) -> str:
    with tasks.running_child(["virsh", "-q", "-c", libvirt_connection.URI, *words]) as child:
        output, errors = child.communicate()
    if child.returncode:
        said = errors[-ERROR_BYTES:].decode(errors="replace").strip().removeprefix("error: ")
        raise KumoError(f"the disk cannot be copied: {said or f'virsh {words[0]} ended with {child.returncode}'}")
    return output.decode(errors="replace")


def parse_job(text: str) -> dict[str, str]:
    """``virsh domjobinfo --rawstats`` as a mapping; ``type`` is virDomainJobType's number."""
    pairs = (line.partition(":") for line in text.splitlines() if ":" in line)
    found = {name.strip(): value.strip() for name, _, value in pairs}
    found["type"] = found.pop("Job type", JOB_NONE)
    return found


def _copy_by_job(server_id: str, device: str, target: Path, progress) -> None:
    """The disk of a guest that lives, as of now; libvirtd does it, and goes on where this task is killed."""
    name, order = names.build_domain_name(server_id), target.with_name("snapshot.xml")
    files.apply_text(order, build_backup(device, target))
    try:
        _virsh("backup-begin", name, str(order))
    finally:
        order.unlink(missing_ok=True)
    while True:
        job = parse_job(_virsh("domjobinfo", name, "--rawstats"))
        if job["type"] == JOB_NONE:
            break
        if job.get("disk_total", "0") != "0":
            progress(int(job["disk_processed"]), int(job["disk_total"]))
        time.sleep(LOOK_EVERY_S)
    job = parse_job(_virsh("domjobinfo", name, "--rawstats", "--completed", "--keep-completed"))
    if job["type"] != JOB_COMPLETED or job.get("operation") != JOB_OPERATION_BACKUP:
        raise KumoError(f"the disk could not be copied: {job.get('errmsg') or 'the guest ended meanwhile'}")


def _copy_file(disk: Path, target: Path, progress) -> None:
    """The disk of a guest that is off, with what lies below it, as one file."""
    total = max(1, disk.stat().st_blocks * 512)
    os.close(os.open(target, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600))  # nobody else's from its first byte on
    with tasks.running_child(["qemu-img", "convert", "-f", "qcow2", "-O", "qcow2", str(disk), str(target)]) as child:
        while child.poll() is None:
            time.sleep(LOOK_EVERY_S / 2)
            if target.exists():
                progress(min(total, target.stat().st_blocks * 512), total)
        errors = child.stderr.read()[-ERROR_BYTES:].decode(errors="replace").strip()
    if child.returncode:
        raise KumoError(f"the disk could not be copied: {errors or child.returncode}")


def send(order: dict, path: Path, progress) -> None:
    """The file's bytes to the address of the order, by HTTP PUT; KumoError with what was answered."""
    shown = image_fetch.build_shown_url(order["url"])
    total = path.stat().st_size
    with open(path, "rb") as stream:
        request = urllib.request.Request(order["url"], data=_read_chunks(stream, total, progress), method="PUT")
        for name, value in (order.get("headers") or {}).items():
            request.add_header(name, value)
        request.add_header("Content-Type", "application/octet-stream")
        request.add_header("Accept", "application/json")
        request.add_header("Content-Length", str(total))
        try:
            with urllib.request.urlopen(request, timeout=TIMEOUT_S):
                return
        except urllib.error.HTTPError as error:
            said = error.read(ERROR_BYTES).decode(errors="replace")
            raise KumoError(f"{shown} answered {error.code} {error.reason}: {said}") from None
        except (urllib.error.URLError, TimeoutError, ConnectionError) as error:
            raise KumoError(f"{shown} took no image: {getattr(error, 'reason', error)}") from None


def _read_chunks(stream, total: int, progress):
    done = 0
    while chunk := stream.read(image_fetch.CHUNK):
        yield chunk
        done += len(chunk)
        progress(done, total)
