"""A server as libvirt's domain XML, built as a tree; and what of a domain's XML is Kumo's to compare.

Pure. ``build_domain`` makes the tree, ``parse_owned`` takes either ours or libvirt's own (which has
addresses, aliases and defaults added) and returns the same small mapping where they agree.
Source: https://libvirt.org/formatdomain.html. Next room: ``guests.py``, which defines and starts it.
"""

from __future__ import annotations

import re
from pathlib import Path
from xml.etree import ElementTree

from . import domain_disks, names
from .errors import KumoError

EMULATOR = "/usr/bin/qemu-system-x86_64"
# The default, pc, takes hot-plugged disks and NICs without ports prepared beforehand; its firmware is the fastest under
# TCG. libvirt says which version of it a guest has: the kind is what counts here.
MACHINE_OF = {"pc-i440fx": "pc", "pc-q35": "q35"}
UEFI_CODE, UEFI_VARIABLES = "/usr/share/OVMF/OVMF_CODE_4M.fd", "/usr/share/OVMF/OVMF_VARS_4M.fd"
AGENT = "org.qemu.guest_agent.0"
ElementTree.register_namespace("kumo", names.METADATA_XMLNS)


def build_domain(
    server: dict, nics: list[dict], directory: Path, base: dict | None, virt_type: str, rescue: dict | None = None
) -> ElementTree.Element:
    """The tree of a server: ``nics`` as build_nics gives them, ``base`` {path, driver} its image.

    Without a ``base`` the root disk is the volume among ``server["volumes"]`` that says so. With ``rescue``, a base as
    well, the guest boots from a disk over that, and its own root disk comes after it.
    """
    domain = ElementTree.Element("domain", type=virt_type)
    _add(domain, "name", text=names.build_domain_name(server["id"]))
    _add(domain, "uuid", text=server["id"])
    metadata = _add(_add(domain, "metadata"), f"{{{names.METADATA_XMLNS}}}server", id=server["id"])
    _add(metadata, f"{{{names.METADATA_XMLNS}}}project", id=server["project_id"])
    _add(domain, "memory", text=str(server["memory_mb"] * 1024), unit="KiB")
    _add(domain, "currentMemory", text=str(server["memory_mb"] * 1024), unit="KiB")
    _add(domain, "vcpu", text=str(server["vcpus"]), placement="static")
    hardware = server["hardware"]
    _add_system(domain, server, directory, iso=server["iso"] and base is not None and rescue is None)
    features = _add(domain, "features")
    _add(features, "acpi")
    _add(features, "apic")
    _add_cpu(domain, virt_type)
    _add(domain, "clock", offset="utc")
    _add(domain, "on_poweroff", text="destroy")
    _add(domain, "on_reboot", text="restart")
    _add(domain, "on_crash", text="destroy")
    devices = _add(domain, "devices")
    _add(devices, "emulator", text=EMULATOR)
    cdroms = domain_disks.build_cdroms(server, directory, base)
    devices.extend(domain_disks.build_controllers(server, bool(cdroms)))
    volumes = sorted(server.get("volumes") or [], key=lambda one: one["boot_index"] != 0)
    roots = [volume for volume in volumes if volume["boot_index"] == 0]
    devices.extend(map(build_volume_disk, roots))
    devices.extend(domain_disks.build_disks(server, directory, base, rescue))
    devices.extend(map(build_volume_disk, volumes[len(roots) :]))
    devices.extend(cdroms)
    for nic in nics:
        devices.append(build_interface(nic))
    _add(devices, "controller", type="usb", model="none")
    for kind in ("serial", "console"):
        # Port 0: the kernel chooses one at each start, on whichever host that is (consoles.py reads which). QEMU takes
        # one client at a time; virtlogd writes the log whether there is one or not.
        port = _add(devices, kind, type="tcp")
        _add(port, "source", mode="bind", host="127.0.0.1", service="0", tls="no")
        _add(port, "protocol", type="raw")
        _add(port, "log", file=str(directory / "console.log"), append="on")
        _add(port, "target", **({"type": "serial"} if kind == "console" else {}), port="0")
    _add(devices, "input", type="keyboard", bus="ps2")
    _add(
        _add(devices, "graphics", type="vnc", port="-1", autoport="yes"), "listen", type="address", address="127.0.0.1"
    )
    _add(_add(devices, "video"), "model", type=hardware["video_model"])
    if hardware["watchdog"] != "disabled":
        _add(devices, "watchdog", model="i6300esb", action=hardware["watchdog"])
    if hardware["guest_agent"]:
        _add(_add(devices, "channel", type="unix"), "target", type="virtio", name=AGENT)
    _add(devices, "memballoon", model="virtio")
    rng = _add(devices, "rng", model="virtio")
    _add(rng, "backend", text="/dev/urandom", model="random")
    return domain


def build_nics(document: dict, server: dict) -> list[dict]:
    """[{port, network, groups, mac, bridge, tap, mtu, link}] in NIC order; KumoError names what is missing."""
    ports = {port["id"]: port for port in document["ports"]}
    networks = {network["id"]: network for network in document["networks"]}
    nics = []
    for port_id in server["ports"]:
        port = ports.get(port_id)
        if port is None:
            raise KumoError(f"server {server['id']}: port {port_id} is not among the document's ports")
        if port.get("network") not in networks:
            raise KumoError(f"port {port_id}: network {port.get('network')} is not among the document's networks")
        if not re.fullmatch(r"[0-9a-fA-F]{2}(:[0-9a-fA-F]{2}){5}", str(port.get("mac"))):
            raise KumoError(f"port {port_id}: mac is {port.get('mac')!r}; it must be six pairs of hexadecimal digits")
        nics.append(
            {
                "port": port_id,
                "network": port["network"],
                "groups": list(port.get("security_groups") or []),
                "mac": port["mac"].lower(),
                "bridge": names.build_bridge_name(port["network"]),
                "tap": names.build_tap_name(port_id),
                "mtu": int(networks[port["network"]].get("mtu") or 1500),
                "link": "up" if port.get("admin_state_up", True) else "down",
                "model": server["hardware"]["vif_model"],
            }
        )
    return nics


def build_interface(nic: dict) -> ElementTree.Element:
    """One NIC's element, for the domain or for attaching it to a running guest."""
    interface = ElementTree.Element("interface", type="bridge")
    _add(interface, "mac", address=nic["mac"])
    _add(interface, "source", bridge=nic["bridge"])
    _add(interface, "target", dev=nic["tap"])
    _add(interface, "model", type=nic["model"])
    _add(interface, "mtu", size=str(nic["mtu"]))
    _add(interface, "link", state=nic["link"])
    return interface


def build_volume_disk(volume: dict) -> ElementTree.Element:
    """One volume's element, for the domain or for attaching it to a running guest."""
    disk = ElementTree.Element("disk", type="network", device="disk")
    _add(disk, "driver", name="qemu", type="raw", cache="none", discard="unmap")
    source = _add(disk, "source", protocol="iscsi", name=f"{volume['iqn']}/{volume['lun']}")
    address, _, port = volume["portal"].rpartition(":")
    _add(source, "host", name=address.strip("[]"), port=port)
    auth = _add(source, "auth", username=volume["username"])
    _add(auth, "secret", type="iscsi", uuid=volume["attachment"])
    _add(disk, "target", dev=volume["device"], bus="virtio")
    if volume["read_only"]:
        _add(disk, "readonly")
    _add(disk, "serial", text=volume["volume"])
    return disk


def build_secret(attachment: str, owner: str) -> str:
    """The XML of an attachment's secret: in memory only, and never told to anybody but QEMU.

    ``owner`` is the state directory whose runs made it: one that was killed leaves it to the next.
    """
    secret = ElementTree.Element("secret", ephemeral="yes", private="yes")
    _add(secret, "description", text=owner)
    _add(secret, "uuid", text=attachment)
    _add(_add(secret, "usage", type="iscsi"), "target", text=f"{names.PREFIX}{attachment}")
    return build_text(secret)


def parse_attachment(disk: ElementTree.Element) -> str | None:
    """The attachment that a disk is of; None where it is no volume."""
    return _get(disk, "source/auth/secret", "uuid") if disk.get("type") == "network" else None


def parse_volumes(domain: ElementTree.Element) -> dict[str, str]:
    """{attachment id: device} of a domain's disks that are volumes."""
    found = {parse_attachment(disk): _get(disk, "target", "dev") for disk in domain.findall("devices/disk")}
    return {attachment: device for attachment, device in found.items() if attachment}


def build_text(element: ElementTree.Element) -> str:
    """The XML text of a tree."""
    return ElementTree.tostring(element, encoding="unicode")


def parse_xml(text: str) -> ElementTree.Element:
    """The tree of an XML text; entities and document types are refused (security case 31)."""
    if "<!DOCTYPE" in text or "<!ENTITY" in text:
        raise KumoError("XML with a document type is refused")
    return ElementTree.fromstring(text)


def parse_owned(domain: ElementTree.Element) -> dict:
    """The parts of a domain that Kumo decides, normalised: equal for our tree and for libvirt's copy of it."""
    metadata = domain.find(f"metadata/{{{names.METADATA_XMLNS}}}server")
    project = metadata.find(f"{{{names.METADATA_XMLNS}}}project") if metadata is not None else None
    cpu = domain.find("cpu")
    machine = _get(domain, "os/type", "machine")
    return {
        "type": domain.get("type"),
        "name": domain.findtext("name"),
        "uuid": domain.findtext("uuid"),
        "server": metadata.get("id") if metadata is not None else None,
        "project": project.get("id") if project is not None else None,
        "memory_kib": int(domain.findtext("memory") or 0),
        "vcpus": int(domain.findtext("vcpu") or 0),
        "machine": MACHINE_OF.get((machine or "").rpartition("-")[0], machine),
        "firmware": domain.findtext("os/loader"),
        "boot": [boot.get("dev") for boot in domain.findall("os/boot")],
        "cpu": [cpu.get("mode"), cpu.findtext("model")] if cpu is not None else None,
        "acpi": domain.find("features/acpi") is not None,
        "events": [domain.findtext(f"on_{name}") for name in ("poweroff", "reboot", "crash")],
        "disks": [_parse_disk(disk) for disk in domain.findall("devices/disk")],
        "nics": [_parse_nic(nic) for nic in domain.findall("devices/interface")],
        "console": _get(domain, "devices/serial/log", "file"),
        "serial": [_get(domain, "devices/serial", "type"), _get(domain, "devices/serial/source", "host")],
        "vnc": _get(domain, "devices/graphics[@type='vnc']/listen", "address"),
        "video": _get(domain, "devices/video/model", "type"),
        "scsi": _get(domain, "devices/controller[@type='scsi']", "model"),
        "watchdog": _get(domain, "devices/watchdog[@model='i6300esb']", "action"),
        "agent": domain.find(f"devices/channel/target[@name='{AGENT}']") is not None,
        "rng": domain.findtext("devices/rng/backend"),
        "balloon": _get(domain, "devices/memballoon", "model"),
    }


def parse_live_nics(text: str) -> list[dict]:
    """[{mac, bridge, tap, mtu, link}] of a running guest's XML."""
    return [_parse_nic(nic) for nic in parse_xml(text).findall("devices/interface")]


def _parse_disk(disk: ElementTree.Element) -> dict:
    if disk.get("type") == "network":
        return {
            "attachment": parse_attachment(disk),
            "name": _get(disk, "source", "name"),
            "host": _get(disk, "source/host", "name"),
            "port": _get(disk, "source/host", "port"),
            "user": _get(disk, "source/auth", "username"),
            "target": _get(disk, "target", "dev"),
            "driver": _get(disk, "driver", "type"),
            "read_only": disk.find("readonly") is not None,
            "serial": disk.findtext("serial"),
        }
    return {
        "device": disk.get("device"),
        "driver": _get(disk, "driver", "type"),
        "file": _get(disk, "source", "file"),
        "target": _get(disk, "target", "dev"),
        "bus": _get(disk, "target", "bus"),
        "base": _get(disk, "backingStore/source", "file"),
        "base_driver": _get(disk, "backingStore/format", "type"),
    }


def _parse_nic(nic: ElementTree.Element) -> dict:
    return {
        "mac": _get(nic, "mac", "address"),
        "bridge": _get(nic, "source", "bridge"),
        "tap": _get(nic, "target", "dev"),
        "model": _get(nic, "model", "type"),
        "mtu": int(_get(nic, "mtu", "size") or 0),
        "link": _get(nic, "link", "state") or "up",
    }


def _add_cpu(domain: ElementTree.Element, virt_type: str) -> None:
    if virt_type == "kvm":
        _add(domain, "cpu", mode="host-model", check="partial")
    else:
        _add(domain, "cpu", mode="maximum", check="none")


def _add_system(domain: ElementTree.Element, server: dict, directory: Path, iso: bool) -> None:
    system = _add(domain, "os")
    _add(system, "type", text="hvm", arch="x86_64", machine=server["hardware"]["machine"])
    if server["hardware"]["firmware"] == "uefi":
        _add(system, "loader", text=UEFI_CODE, readonly="yes", type="pflash")
        _add(system, "nvram", text=str(directory / "nvram"), template=UEFI_VARIABLES)
    # An ISO comes before the disk that is installed from it, at every start: its own menu says what then.
    for device in ("cdrom", "hd") if iso else ("hd",):
        _add(system, "boot", dev=device)


def _add(parent: ElementTree.Element, tag: str, /, text: str | None = None, **attributes: str) -> ElementTree.Element:
    child = ElementTree.SubElement(parent, tag, attributes)
    child.text = text
    return child


def _get(element: ElementTree.Element, path: str, attribute: str) -> str | None:
    found = element.find(path)
    return found.get(attribute) if found is not None else None
