"""Tagged devices of a guest as its metadata lists them: which NIC or disk has which role, and where the guest finds it.

Tags are a port's, a volume's, or (``disk_tags``) those of a guest's own disks. Buses and addresses are libvirt's, from
the guest's definition: known once that is there. All but ``read_places`` is pure. Source: Nova user guide, "Metadata",
device tags; https://libvirt.org/formatdomain.html. Next rooms: ``metadata.py``, ``config_drive.py``.
"""

from __future__ import annotations

from . import domain_xml, guest_hardware, libvirt_connection
from .errors import KumoError

OWN_DISKS = {"root": "disk", "swap": guest_hardware.SWAP}
NOWHERE = {"bus": "none", "address": "none"}


def list_tagged(document: dict, row: dict, ports: dict[str, dict] | None = None) -> list[dict]:
    """[{type, tag, mac}] and [{type, tag, target, serial}] of a server's row; ``ports`` by id saves a look for each."""
    if ports is None:
        ports = {port["id"]: port for port in document["ports"]}
    mine = [ports[port] for port in row.get("ports") or [] if port in ports]
    found: list[dict] = [
        {"type": "nic", "tag": port["tag"], "mac": str(port["mac"]).lower()} for port in mine if port.get("tag")
    ]
    found += [
        {"type": "disk", "tag": volume["tag"], "target": volume["device"], "serial": volume["volume"]}
        for volume in row.get("volumes") or []
        if volume.get("tag")
    ]
    targets = _build_targets(row) if row.get("disk_tags") else {}
    for name, tag in sorted((row.get("disk_tags") or {}).items()):
        if name in targets:
            found.append({"type": "disk", "tag": tag, "target": targets[name], "serial": None})
    return found


def _build_targets(row: dict) -> dict[str, str]:
    """{"root", "ephemeral0" …, "swap": vda …} of a guest's own disks."""
    shape = {"id": row["id"], "ephemeral_gb": row.get("ephemeral_gb") or [], "swap_mb": row.get("swap_mb") or 0}
    shape["hardware"] = guest_hardware.parse_hardware(row.get("hardware") or {}, row["id"])
    targets = {one["file"]: one["target"] for one in guest_hardware.build_local_disks(shape, True)}
    names = {f"ephemeral{number}": guest_hardware.build_ephemeral_name(number) for number in range(len(targets))}
    return {name: targets[file] for name, file in {**OWN_DISKS, **names}.items() if file in targets}


def read_places(document: dict) -> dict[str, dict]:
    """{server id: what parse_places gives} of the document's servers that have a tag; nothing of those not defined."""
    ports = {port["id"]: port for port in document["ports"]}
    found = {}
    for row in document["servers"]:
        try:
            tagged = row.get("wanted", "present") == "present" and list_tagged(document, row, ports)
        except (KumoError, TypeError, KeyError, AttributeError, ValueError):
            continue  # a bad row is told of where its metadata is built
        if tagged:
            places = read_places_of(row["id"])
            if places:
                found[row["id"]] = places
    return found


def read_places_of(server_id: str) -> dict:
    """The places of one guest's devices; a running guest's are those that it has now."""
    try:
        domain = libvirt_connection.find_domain(server_id)
        text = libvirt_connection.read_xml(domain, inactive=False) if domain is not None else None
    except KumoError:
        return {}  # without libvirt no guest sees its metadata either
    return parse_places(domain_xml.parse_xml(text)) if text else {}


def parse_places(domain) -> dict[str, dict]:
    """{MAC or target: {bus, address}} of a domain's NICs and disks."""
    found = {}
    for nic in domain.findall("devices/interface"):
        found[nic.find("mac").get("address")] = _parse_place(nic, None)
    for disk in domain.findall("devices/disk"):
        target = disk.find("target")
        found[target.get("dev")] = _parse_place(disk, target.get("bus"))
    return found


def _parse_place(device, bus: str | None) -> dict:
    address = device.find("address")
    kind = address.get("type") if address is not None else None
    if kind == "pci":
        part = {name: int(address.get(name) or "0", 0) for name in ("domain", "bus", "slot", "function")}
        text = f"{part['domain']:04x}:{part['bus']:02x}:{part['slot']:02x}.{part['function']:x}"
        return {"bus": "pci", "address": text}
    if kind == "drive" and bus in ("scsi", "ide"):
        names = ("controller", "bus", "target", "unit") if bus == "scsi" else ("bus", "unit")
        return {"bus": bus, "address": ":".join(address.get(name) or "0" for name in names)}
    return dict(NOWHERE)


def build_devices(document: dict, row: dict, places: dict, ports: dict[str, dict] | None = None) -> list[dict]:
    """``devices`` of meta_data.json, NICs first."""
    devices = []
    for one in list_tagged(document, row, ports):
        device = {"type": one["type"], **places.get(one.get("mac") or one.get("target"), NOWHERE), "tags": [one["tag"]]}
        if one["type"] == "nic":
            device["mac"] = one["mac"]
        else:
            device["path"] = f"/dev/{one['target']}"
            if one["serial"]:
                device["serial"] = one["serial"]
        devices.append(device)
    return devices
