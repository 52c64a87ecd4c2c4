"""The verbs on one guest: create, redefine, start, stop, reboot, remove. Each is safe to repeat half-way.

Owns ``servers/<id>/`` in the state directory and the domain of that name; decides nothing (``servers.py`` plans).
"""

from __future__ import annotations

import shutil
import time
from pathlib import Path

from . import (
    config_drive,
    disks,
    domain_xml,
    extra_disks,
    files,
    guest_volumes,
    images,
    libvirt_connection,
    probe,
)
from .core import state_path
from .deadlines import run_with_deadline
from .errors import KumoError
from .libvirt_connection import call, libvirt

STOP_WAIT_S = 2.0
REBOOT_WAIT_S = 3.0
PRESS_DEADLINE_S = 2.0


def build_directory(document: dict, server_id: str) -> Path:
    """Where a server's disk, state and console lie."""
    return state_path(document, "servers", server_id)


def build_kept(server: dict) -> dict:
    """The state of a new server: what was asked before it existed is done."""
    return {
        "reboot_done": server["reboot"]["wanted"],
        "start_done": server["start"]["wanted"],
        "off_by": "us" if server["power"] == "off" else None,
        "rebuild_done": server["rebuild"]["wanted"],
        "stopping_since": None,
        "pressed_at": None,
        "rebooting": None,
        "disk": None,
        "volume_errors": {},
        "move": None,
        "rescue": None,
        "password": None,
    }


def build_off(server: dict) -> dict:
    """What state.json holds of a guest that is off as wanted: a stop also ends a reboot under way."""
    done = build_kept(server)
    return {name: done[name] for name in ("reboot_done", "off_by", "stopping_since", "rebooting")}


def build_owned(document: dict, server: dict, nics: list[dict], kept: dict, virt_type: str | None) -> dict:
    """What the guest's definition has to say; without the parts that depend on a ``virt_type`` nobody knows yet."""
    owned = domain_xml.parse_owned(_build_tree(document, server, nics, kept, virt_type or "qemu"))
    return owned if virt_type else {name: owned[name] for name in owned if name not in ("type", "cpu")}


def read_kept(document: dict, server_id: str) -> dict | None:
    """state.json with every field; None where it is not there."""
    kept = files.read_json(build_directory(document, server_id) / "state.json")
    if not isinstance(kept, dict):
        return None
    empty = build_kept({"reboot": {"wanted": 0}, "start": {"wanted": 0}, "rebuild": {"wanted": 0}, "power": "on"})
    return {**empty, **kept}


def apply_create(document: dict, server: dict) -> None:
    """Directory, disk, state and definition: whatever of them is missing."""
    directory = build_directory(document, server["id"])
    kept = read_kept(document, server["id"])
    local = guest_volumes.has_local_root(server)
    made = kept or libvirt_connection.find_domain(server["id"]) is not None  # the last step of its making
    if made and local and not (directory / "disk").exists():
        raise KumoError(
            f"the disk of server {server['id']} is gone from {directory}; it is not made anew over lost data"
        )
    lost = extra_disks.find_lost(server, directory) if kept else []
    if lost:
        raise KumoError(f"{lost[0]} of server {server['id']} is gone from {directory}; it is not made anew")
    for path in (directory.parent, directory):
        path.mkdir(mode=0o711, parents=True, exist_ok=True)
    if kept is None:
        kept = {**build_kept(server), "disk": disks.apply_disk(document, server, directory) if local else None}
        extra_disks.apply_extra(server, directory)
        files.apply_json(directory / "state.json", kept)
    _define(document, server, kept)


def apply_redefine(document: dict, server: dict) -> None:
    """Bring the stored definition to the wanted one; a running guest takes it up when it next starts."""
    _define(document, server, _get_kept(document, server))


def apply_record(document: dict, server: dict, changes: dict) -> None:
    """Keep what was seen."""
    _store(document, server, changes)


def apply_start(document: dict, server: dict) -> None:
    """Start the guest; also ends a soft reboot that has got this far."""
    domain = _define(document, server, _get_kept(document, server))
    seen = libvirt_connection.read_state(domain)
    if seen and seen[0] == "crashed":
        destroy(domain)
    _start(document, server, domain)


def apply_stop(document: dict, server: dict) -> None:
    """Press the power button and wait a little; a later run looks again."""
    now = time.time()
    _store(document, server, {"off_by": "us", "stopping_since": now, "pressed_at": now, "rebooting": None})
    domain = _find(server)
    _press(domain, server)
    if libvirt_connection.wait_until_off(domain, STOP_WAIT_S):
        _store(document, server, build_off(server))


def apply_press(document: dict, server: dict) -> None:
    """Press the power button again: a guest that was booting did not hear it."""
    _store(document, server, {"pressed_at": time.time()})
    _press(_find(server), server)


def apply_destroy(document: dict, server: dict) -> None:
    """Cut the power."""
    _store(document, server, {"off_by": "us"})
    destroy(_find(server))
    _store(document, server, build_off(server))


def apply_reboot_soft(document: dict, server: dict) -> None:
    """Press the power button; start again where the guest is off soon, else in a later run."""
    now = time.time()
    _store(document, server, {"rebooting": {"to": server["reboot"]["wanted"], "since": now}, "pressed_at": now})
    domain = _find(server)
    _press(domain, server)
    if libvirt_connection.wait_until_off(domain, REBOOT_WAIT_S):
        apply_start(document, server)


def apply_reboot_hard(document: dict, server: dict) -> None:
    """Cut the power, take up the newest definition, start."""
    _store(document, server, {"rebooting": {"to": server["reboot"]["wanted"], "since": time.time()}})
    destroy(_find(server))
    apply_start(document, server)


def apply_attach_port(document: dict, server: dict, nic: dict) -> None:
    """Plug a NIC into the running guest (its stored definition has it already)."""
    text = domain_xml.build_text(domain_xml.build_interface(nic))
    sentence = f"port {nic['port']} cannot be plugged into server {server['id']}"
    call(sentence, _find(server).attachDeviceFlags, text, libvirt.VIR_DOMAIN_AFFECT_LIVE)


def apply_detach_port(document: dict, server: dict, mac: str) -> None:
    """Ask the running guest to let go of a NIC."""
    domain = _find(server)
    live = libvirt_connection.read_xml(domain, inactive=False)
    for nic in domain_xml.parse_xml(live).findall("devices/interface") if live else []:
        if nic.find("mac").get("address") == mac:
            sentence = f"NIC {mac} cannot be unplugged from server {server['id']}"
            call(sentence, domain.detachDeviceFlags, domain_xml.build_text(nic), libvirt.VIR_DOMAIN_AFFECT_LIVE)


def apply_update_port(document: dict, server: dict, nic: dict) -> None:
    """Set the link of a running guest's NIC."""
    domain = _find(server)
    live = libvirt_connection.read_xml(domain, inactive=False)
    for found in domain_xml.parse_xml(live).findall("devices/interface") if live else []:
        if found.find("mac").get("address") == nic["mac"]:
            link = found.find("link")
            if link is None:
                link = domain_xml.ElementTree.SubElement(found, "link")
            link.set("state", nic["link"])
            sentence = f"port {nic['port']} of server {server['id']} cannot be changed"
            call(sentence, domain.updateDeviceFlags, domain_xml.build_text(found), libvirt.VIR_DOMAIN_AFFECT_LIVE)


def apply_attach_volume(document: dict, server: dict, attachment: str) -> None:
    """Plug a volume in; what goes wrong is the attachment's error, and the guest goes on without."""
    _note_volume(document, server, attachment, guest_volumes.apply_attach)


def apply_detach_volume(document: dict, server: dict, attachment: str) -> None:
    """Ask the guest to let go of a volume."""
    _note_volume(document, server, attachment, guest_volumes.apply_detach)


def apply_resize_volume(document: dict, server: dict, attachment: str) -> None:
    """Tell the guest how large its volume is now."""
    _note_volume(document, server, attachment, guest_volumes.apply_resize)


def _note_volume(document: dict, server: dict, attachment: str, apply) -> None:
    errors = dict(_get_kept(document, server)["volume_errors"])
    before = dict(errors)
    try:
        apply(_find(server), server, attachment, document["settings"]["state_dir"])
        errors.pop(attachment, None)
    except KumoError as error:
        errors[attachment] = str(error)
    if errors != before:
        _store(document, server, {"volume_errors": errors})


def apply_remove(document: dict, server_id: str) -> None:
    """Guest, definition and files; nothing is an error for being gone already."""
    domain = libvirt_connection.find_domain(server_id)
    if domain is not None:
        destroy(domain)
        flags = libvirt.VIR_DOMAIN_UNDEFINE_MANAGED_SAVE | libvirt.VIR_DOMAIN_UNDEFINE_SNAPSHOTS_METADATA
        flags |= libvirt.VIR_DOMAIN_UNDEFINE_NVRAM | libvirt.VIR_DOMAIN_UNDEFINE_CHECKPOINTS_METADATA
        try:
            domain.undefineFlags(flags)
        except libvirt.libvirtError as error:
            if error.get_error_code() != libvirt.VIR_ERR_NO_DOMAIN:
                raise KumoError(f"server {server_id} cannot be undefined: {error}") from None
    directory = build_directory(document, server_id)
    try:
        shutil.rmtree(directory)
    except FileNotFoundError:
        return
    except OSError as error:
        raise KumoError(f"{directory} cannot be removed: {error.strerror}") from None


VERBS = {
    "create": apply_create,
    "redefine": apply_redefine,
    "record": apply_record,
    "start": apply_start,
    "stop": apply_stop,
    "press_power_button": apply_press,
    "destroy": apply_destroy,
    "reboot_soft": apply_reboot_soft,
    "reboot_hard": apply_reboot_hard,
    "attach_port": apply_attach_port,
    "detach_port": apply_detach_port,
    "update_port": apply_update_port,
    "attach_volume": apply_attach_volume,
    "detach_volume": apply_detach_volume,
    "resize_volume": apply_resize_volume,
}


def _build_tree(document: dict, server: dict, nics: list[dict], kept: dict, virt_type: str):
    if not guest_volumes.has_local_root(server):
        return domain_xml.build_domain(server, nics, build_directory(document, server["id"]), None, virt_type)
    below = kept["disk"] or {"image": server["image"], "driver": "qcow2"}
    base = {"path": str(images.build_image_path(document, below["image"])), "driver": below["driver"]}
    rescue = kept.get("rescue")
    if rescue:
        rescue = {"path": str(images.build_image_path(document, rescue["image"])), "driver": rescue["driver"]}
    return domain_xml.build_domain(server, nics, build_directory(document, server["id"]), base, virt_type, rescue)


def _define(document: dict, server: dict, kept: dict):
    """The server's domain, defined as wanted (anew only where it differs)."""
    nics = domain_xml.build_nics(document, server)
    tree = _build_tree(document, server, nics, kept, probe.choose_virt_type(document))
    domain = libvirt_connection.find_domain(server["id"])
    text = libvirt_connection.read_xml(domain, inactive=True) if domain is not None else None
    if text and domain_xml.parse_owned(domain_xml.parse_xml(text)) == domain_xml.parse_owned(tree):
        return domain
    sentence = f"server {server['id']} cannot be defined"
    return call(sentence, libvirt_connection.connect().defineXML, domain_xml.build_text(tree))


def _start(document: dict, server: dict, domain) -> None:
    _check_firmware(server)
    config_drive.apply_drive(document, server, build_directory(document, server["id"]))
    try:
        with guest_volumes.secrets(server["volumes"], document["settings"]["state_dir"]):
            domain.create()
    except libvirt.libvirtError as error:
        seen = libvirt_connection.read_state(domain)
        if not seen or seen[0] != "running":  # somebody else may have started it meanwhile: that is as wanted
            raise KumoError(f"server {server['id']} cannot be started: {error}") from None
    kept = build_kept(server)
    for name in ("disk", "volume_errors", "move", "rescue", "rebuild_done", "password"):
        del kept[name]
    _store(document, server, kept)


def _check_firmware(server: dict) -> None:
    if server["hardware"]["firmware"] == "uefi" and not Path(domain_xml.UEFI_CODE).exists():
        raise KumoError(f"server {server['id']} needs UEFI (package ovmf), which is not installed on this host")


def _press(domain, server: dict) -> None:
    button = libvirt.VIR_DOMAIN_SHUTDOWN_ACPI_POWER_BTN
    try:
        # A QEMU that hangs answers no monitor command for a minute: the power is cut when its time is over.
        run_with_deadline(PRESS_DEADLINE_S, "no answer", lambda: domain.shutdownFlags(button))
    except KumoError:
        return
    except libvirt.libvirtError as error:
        if error.get_error_code() != libvirt.VIR_ERR_OPERATION_INVALID:  # it is off already
            raise KumoError(f"server {server['id']} cannot be asked to shut down: {error}") from None


def destroy(domain) -> None:
    """Cut a guest's power; nothing is an error for being off already."""
    try:
        domain.destroy()
    except libvirt.libvirtError as error:
        if error.get_error_code() not in (libvirt.VIR_ERR_OPERATION_INVALID, libvirt.VIR_ERR_NO_DOMAIN):
            raise KumoError(f"{domain.name()} cannot be destroyed: {error}") from None


def _find(server: dict):
    domain = libvirt_connection.find_domain(server["id"])
    if domain is None:
        raise KumoError(f"server {server['id']} is not defined on this host any more")
    return domain


def _get_kept(document: dict, server: dict) -> dict:
    kept = read_kept(document, server["id"])
    if kept is None:
        raise KumoError(f"state.json of server {server['id']} is gone from {build_directory(document, server['id'])}")
    return kept


def _store(document: dict, server: dict, changes: dict) -> None:
    store(document, server["id"], changes)


def store(document: dict, server_id: str, changes: dict) -> None:
    """Change fields of a guest's state.json."""
    kept = {**_get_kept(document, {"id": server_id}), **changes}
    files.apply_json(build_directory(document, server_id) / "state.json", kept)


def note_failure(document: dict, server_id: str, error: str, move: dict | None = None) -> None:
    """This host's part in a move (``move``, else the one under way) has failed: told in ``observed.moves``."""
    kept = _get_kept(document, {"id": server_id})
    current = kept["move"]
    if move is not None and not (current and current["migration"] == move["migration"]):
        current = move
    store(document, server_id, {"move": {**current, "state": "failed", "error": error}})
