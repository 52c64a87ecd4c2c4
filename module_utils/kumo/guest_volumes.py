"""Volumes in guests: QEMU's own iSCSI initiator, no block device of the host. Plugged in, out, and made larger.

The CHAP password reaches QEMU through a libvirt secret that lives only while a guest is started or a disk is
plugged in (what a run leaves that is killed then, the next one drops): it is in no definition, argument, file or log.
A target is one attachment's alone (``exports.py``), so what answers under its name cannot be another volume. Next
rooms: ``domain_xml.py``, ``guests.py``.
"""

from __future__ import annotations

import contextlib
import re

from . import domain_xml, libvirt_connection, names
from .core import UUID
from .errors import KumoError
from .libvirt_connection import call, libvirt

GIB = 1 << 30
DEVICE = re.compile(r"vd[a-z]{1,2}")
PORTAL = re.compile(r"(\[[0-9a-fA-F:]+\]|[0-9A-Za-z.-]+):(\d{1,5})")
TARGET = re.compile(r"[0-9a-z.:-]{1,223}")


def parse_volumes(rows: list, server_id: str) -> list[dict]:
    """The document's ``volumes`` of a server, checked; KumoError names the field that is wrong."""
    parsed = []
    for index, row in enumerate(rows):
        where = f"server {server_id}: volumes[{index}]"
        for name, pattern in (("attachment", UUID), ("volume", UUID), ("device", DEVICE), ("portal", PORTAL),
                              ("iqn", TARGET)):  # fmt: skip
            if not isinstance(row.get(name), str) or not pattern.fullmatch(row[name]):
                raise KumoError(f"{where}.{name} is {row.get(name)!r}, which it cannot be")
        if not isinstance(row.get("size_gb"), int) or row["size_gb"] < 1 or not row.get("password"):
            raise KumoError(f"{where}: size_gb and password are needed")
        parsed.append({"boot_index": None, "read_only": False, "lun": 1, "username": "", **row})
    return parsed


def has_local_root(server: dict) -> bool:
    """Whether the guest's root disk is a file of this host, not a volume."""
    return not any(volume["boot_index"] == 0 for volume in server["volumes"])


def find_live(domain, text: str) -> dict[str, dict]:
    """{attachment id: {device, size}} of a running guest's volumes; size 0 where nobody knows it."""
    found = {}
    for attachment, device in domain_xml.parse_volumes(domain_xml.parse_xml(text)).items():
        size = 0
        with contextlib.suppress(libvirt.libvirtError):
            size = domain.blockInfo(device)[0]
        found[attachment] = {"device": device, "size": size}
    return found


def plan_live(wanted: list[dict], live: dict[str, dict] | None) -> list[tuple]:
    """(verb, args, before, after) of what is plugged in, out or made larger (``live`` is None where nothing runs)."""
    if live is None:
        return []
    verbs: list[tuple] = []
    known = {volume["attachment"]: volume for volume in wanted}
    for attachment, seen in sorted(live.items()):
        if attachment not in known:
            verbs.append(("detach_volume", {"attachment": attachment}, f"volume at {seen['device']}\n", ""))
    for attachment, volume in known.items():
        if attachment not in live:
            text = f"volume {volume['volume']} at {volume['device']}\n"
            verbs.append(("attach_volume", {"attachment": attachment}, "", text))
        elif 0 < live[attachment]["size"] < volume["size_gb"] * GIB:
            texts = (f"{live[attachment]['size']} bytes\n", f"{volume['size_gb'] * GIB} bytes\n")
            verbs.append(("resize_volume", {"attachment": attachment}, *texts))
    return verbs


@contextlib.contextmanager
def secrets(volumes: list[dict], owner: str):
    """The volumes' passwords, known to libvirt while the block runs."""
    connection, made = libvirt_connection.connect(), []
    try:
        for volume in volumes:
            text = domain_xml.build_secret(volume["attachment"], owner)
            sentence = f"the secret of attachment {volume['attachment']} cannot be kept"
            secret = call(sentence, connection.secretDefineXML, text)
            made.append(secret)
            call(sentence, secret.setValue, volume["password"].encode(), 0)
        yield
    finally:
        for secret in made:
            with contextlib.suppress(libvirt.libvirtError):
                secret.undefine()


def read_secrets(connection, owner: str) -> list[str]:
    """The attachments whose passwords libvirt knows now from runs of this state directory."""
    found = []
    for secret in call("the secrets of this host cannot be listed", connection.listAllSecrets):
        with contextlib.suppress(libvirt.libvirtError):  # gone meanwhile
            tree = domain_xml.parse_xml(secret.XMLDesc())
            usage = tree.findtext("usage/target") or ""
            if tree.findtext("description") == owner and usage.startswith(names.PREFIX):
                found.append(usage.removeprefix(names.PREFIX))
    return sorted(found)


def apply_keep(volumes: list[dict], owner: str) -> None:
    """Let libvirt know the volumes' passwords until apply_drop: a guest comes that has them in its definition."""
    connection = libvirt_connection.connect()
    for volume in volumes:
        sentence = f"the secret of attachment {volume['attachment']} cannot be kept"
        secret = call(sentence, connection.secretDefineXML, domain_xml.build_secret(volume["attachment"], owner))
        call(sentence, secret.setValue, volume["password"].encode(), 0)


def apply_drop(attachments: list[str]) -> None:
    """libvirt forgets these passwords; no error for one that it has forgotten already."""
    connection = libvirt_connection.connect()
    for attachment in attachments:
        with contextlib.suppress(libvirt.libvirtError):
            connection.secretLookupByUUIDString(attachment).undefine()


def choose(server: dict, attachment: str) -> dict:
    """The server's volume of that attachment."""
    return next(volume for volume in server["volumes"] if volume["attachment"] == attachment)


def apply_attach(domain, server: dict, attachment: str, owner: str) -> None:
    """Plug a volume into the running guest (its stored definition has it already)."""
    volume = choose(server, attachment)
    text = domain_xml.build_text(domain_xml.build_volume_disk(volume))
    sentence = f"volume {volume['volume']} cannot be plugged into server {server['id']}"
    with secrets([volume], owner):
        call(sentence, domain.attachDeviceFlags, text, libvirt.VIR_DOMAIN_AFFECT_LIVE)


def apply_detach(domain, server: dict, attachment: str, owner: str) -> None:
    """Ask the running guest to let go of a volume: it does so when it likes, and is asked again by later runs."""
    live = libvirt_connection.read_xml(domain, inactive=False)
    if not live:
        return
    for disk in domain_xml.parse_xml(live).findall("devices/disk"):
        if domain_xml.parse_attachment(disk) == attachment:
            try:
                domain.detachDeviceFlags(domain_xml.build_text(disk), libvirt.VIR_DOMAIN_AFFECT_LIVE)
            except libvirt.libvirtError as error:
                if "already" in str(error) or error.get_error_code() == libvirt.VIR_ERR_OPERATION_TIMEOUT:
                    return  # it was asked before, and has not answered yet
                raise KumoError(f"a volume cannot be unplugged from server {server['id']}: {error}") from None


def apply_resize(domain, server: dict, attachment: str, owner: str) -> None:
    """Tell the running guest how large its volume is now."""
    volume = choose(server, attachment)
    flags = libvirt.VIR_DOMAIN_BLOCK_RESIZE_BYTES
    sentence = f"volume {volume['volume']} of server {server['id']} cannot be made larger in the guest"
    call(sentence, domain.blockResize, volume["device"], volume["size_gb"] * GIB, flags)
