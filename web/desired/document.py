"""The host document's schema: the one contract between `web/` and `library/`.

`docs/host-document.md` is generated from it (`kumo document-schema`); golden tests check every built
document against it. A field that is added later gets a default, so that an older document stays valid.
"""

from __future__ import annotations

UUID = {"type": "string", "pattern": "^[0-9a-f]{8}(-[0-9a-f]{4}){3}-[0-9a-f]{12}$"}
MAC = {"type": "string", "pattern": "^([0-9a-f]{2}:){5}[0-9a-f]{2}$"}
ADDRESSES = {"type": "array", "items": {"type": "string"}}
PREFIXES = {"type": "array", "items": {"type": "string", "pattern": "/"}}
TEXT = {"type": "string"}
WHOLE = {"type": "integer"}
BOOL = {"type": "boolean"}


def _or_null(schema: dict) -> dict:
    return {"anyOf": [schema, {"type": "null"}]}


def _object(description: str, properties: dict, optional: tuple = ()) -> dict:
    return {
        "type": "object",
        "description": description,
        "properties": properties,
        "required": [name for name in properties if name not in optional],
        "additionalProperties": False,
    }


def _list(schema: dict) -> dict:
    return {"type": "array", "items": schema}


def _said(description: str, schema: dict) -> dict:
    return {**schema, "description": description}


ROUTE = _object("A route.", {"destination": TEXT, "nexthop": TEXT})
SETTINGS = _object(
    "The host's settings.",
    {
        "state_dir": _said("Where the modules keep their files.", TEXT),
        "virt_type": _said("auto is probed by running a guest.", {"enum": ["auto", "kvm", "qemu"]}),
        "stop_timeout_s": _said("Seconds a guest gets to shut down before it is powered off.", WHOLE),
        "dns_domain": _said("Domain of the guests' names.", TEXT),
        "dns_servers": _said("Forwarders for guests; empty: the host's own.", ADDRESSES),
        "physical_networks": _said(
            "By name: the bridge, the host's addresses on it, whether it is masqueraded, the NIC under it.",
            {
                "type": "object",
                "additionalProperties": _object(
                    "A physical network.",
                    {"bridge": TEXT, "addresses": PREFIXES, "masquerade": BOOL, "interface": _or_null(TEXT)},
                    optional=("addresses", "masquerade", "interface"),
                ),
            },
        ),
        "image_cache_max_age_s": _said("Seconds after which a cached image that nothing uses goes; 0: never.", WHOLE),
        "image_cache_max_bytes": _said("Unused images go, the longest unused first, above it; 0: no bound.", WHOLE),
        "verify_images": _said("Read cached images whole: one whose bytes differ is fetched again.", BOOL),
        "hypervisor": _said("false: no guests here, and none of what they need.", BOOL),
        "tunnel_address": _said("The host's own address between hosts: where VXLAN packets for it go.", _or_null(TEXT)),
        "storage": _said(
            "A storage host's backend; null: no volumes here.",
            _or_null(
                _object(
                    "",
                    {
                        "backend": {"enum": ["file", "lvm"]},
                        "portal": _said("address:port that its iSCSI targets are reached at.", TEXT),
                        "directory": _said("Of the backend file.", TEXT),
                        "volume_group": _said("Of the backend lvm.", TEXT),
                        "thin_pool": _said("Of the backend lvm; kumo where it is not said.", TEXT),
                        "control_port": _said("tgtd's, where there is more than one.", WHOLE),
                        "max_percent": _said("No creation while the pool's data or metadata are fuller.", WHOLE),
                    },
                    optional=("directory", "volume_group", "thin_pool", "control_port", "max_percent"),
                )
            ),
        ),
    },
    optional=(
        "state_dir", "virt_type", "stop_timeout_s", "dns_domain", "dns_servers", "physical_networks", "hypervisor",
        "tunnel_address", "storage", "image_cache_max_age_s", "image_cache_max_bytes", "verify_images",
    ),
)  # fmt: skip
IMAGE = _object(
    "An image that guests of this host are made from, or that is kept here for them.",
    {
        "id": UUID,
        "checksum": _said("algorithm:hexadecimal digest of the file.", TEXT),
        "size": _said("Bytes of the file.", WHOLE),
        "disk_format": _said("qcow2, raw or iso; never guessed.", TEXT),
        "virtual_size": _said("Bytes of the disk in it.", WHOLE),
        "source": _said("{path: …} on the host, or {url: …, headers: {…}}.", {"type": "object"}),
        "fetch": _said("The host fetches it again where its copy is of a lower number.", WHOLE),
    },
    optional=("fetch",),
)
SUBNET = _object(
    "A subnet of a network.",
    {
        "id": UUID,
        "ip_version": {"enum": [4, 6]},
        "cidr": TEXT,
        "gateway_ip": _or_null(TEXT),
        "dhcp": BOOL,
        "dhcp_address": _said("The address DHCP is served from where there is no gateway.", _or_null(TEXT)),
        "dns_nameservers": ADDRESSES,
        "host_routes": _list(ROUTE),
        "ipv6_mode": _or_null({"enum": ["slaac", "dhcpv6-stateful", "dhcpv6-stateless"]}),
    },
)
DHCP_OPTION = _object("A DHCP option.", {"name": TEXT, "value": TEXT, "ip_version": {"enum": [4, 6]}})
RESERVATION = _object(
    "A DHCP reservation.",
    {"port": UUID, "mac": MAC, "addresses": ADDRESSES, "hostname": TEXT, "options": _list(DHCP_OPTION)},
)
ELSEWHERE = _object(
    "A port on another host: a permanent neighbour, and where its frames go.",
    {
        "port": UUID,
        "mac": MAC,
        "addresses": ADDRESSES,
        "tunnel": _said("The other host's tunnel address; null where no tunnel is needed.", _or_null(TEXT)),
    },
)
NETWORK = _object(
    "A network with a guest of this host, or joined to one by a router.",
    {
        "id": UUID,
        "project_id": TEXT,
        "mtu": WHOLE,
        "segmentation": _said(
            "{type: local}, {type: flat, physical_network}, {type: vlan, physical_network, id} or "
            "{type: vxlan, id, local, peers}.",
            {"type": "object", "required": ["type"]},
        ),
        "zone": _said("Conntrack zone, 1 to 65535.", WHOLE),
        "home": _said(
            "Whose namespace holds its gateway, DHCP and metadata; null for an external network.",
            _or_null(_object("", {"kind": {"enum": ["network", "router"]}, "id": UUID})),
        ),
        "subnets": _list(SUBNET),
        "reservations": _list(RESERVATION),
        "elsewhere": _said("Its ports on other hosts.", _list(ELSEWHERE)),
    },
    optional=("elsewhere",),
)
EXTERNAL = _object(
    "The leg on an external network.",
    {"port": UUID, "network": UUID, "mac": MAC, "addresses": PREFIXES, "gateways": ADDRESSES, "snat": BOOL},
)
ROUTER = _object(
    "A router on one of those networks.",
    {
        "id": UUID,
        "enabled": BOOL,
        "interfaces": _list(
            _object("A leg on a network.", {"port": UUID, "network": UUID, "mac": MAC, "addresses": PREFIXES})
        ),
        "external": _or_null(EXTERNAL),
        "routes": _list(ROUTE),
        "floating_ips": _list(
            _object(
                "A floating address.",
                {
                    "id": UUID,
                    "port": UUID,
                    "floating_address": TEXT,
                    "fixed_address": TEXT,
                    "follows": _said("The server that moves alive: the address is where that runs.", _or_null(UUID)),
                },
                optional=("follows",),
            )
        ),
    },
)
RULE = _object(
    "A rule: what is allowed.",
    {
        "id": UUID,
        "direction": {"enum": ["ingress", "egress"]},
        "ethertype": {"enum": ["IPv4", "IPv6"]},
        "protocol": _or_null(TEXT),
        "port_min": _said("Lowest port, or ICMP type.", _or_null(WHOLE)),
        "port_max": _said("Highest port, or ICMP code.", _or_null(WHOLE)),
        "remote_cidr": _or_null(TEXT),
        "remote_group": _or_null(UUID),
    },
)
GROUP = _object(
    "A security group of a port, or one that a rule names.",
    {
        "id": UUID,
        "rules": _list(RULE),
        "members": _said(
            "Addresses of its ports everywhere, where a rule names it.",
            _object("", {"IPv4": ADDRESSES, "IPv6": ADDRESSES}),
        ),
    },
)
PORT = _object(
    "The NIC of a guest on this host.",
    {
        "id": UUID,
        "network": UUID,
        "server": UUID,
        "mac": MAC,
        "addresses": ADDRESSES,
        "admin_state_up": BOOL,
        "port_security": BOOL,
        "security_groups": _list(UUID),
        "allowed_address_pairs": _list(_object("", {"mac": TEXT, "address": TEXT})),
        "tag": _said("Its role, in the guest's metadata.", TEXT),
    },
    optional=("tag",),
)
VOLUME = _object(
    "A volume of this storage host.",
    {
        "id": UUID,
        "project_id": TEXT,
        "wanted": _said("absent is the tombstone: wiped and removed.", {"enum": ["present", "absent"]}),
        "size_gb": _said("GiB; a larger one than before extends it.", WHOLE),
        "source": _said(
            "What it is made from, once; null: zeros.",
            _or_null(
                {
                    "anyOf": [
                        _object("", {"image": UUID}),
                        _object("", {"snapshot": UUID}),
                        _object("", {"volume": UUID}),
                    ]
                }
            ),
        ),
        "exports": _said(
            "One iSCSI target with credentials of its own for each attachment.",
            _list(_object("", {"id": UUID, "username": TEXT, "password": TEXT, "read_only": BOOL})),
        ),
        "reimage": _said(
            "Its content is to be made anew: the host's count converges to wanted. idle: nobody uses it, it may begin.",
            _object("", {"wanted": WHOLE, "image": UUID, "idle": BOOL}),
        ),
    },
    optional=("size_gb", "source", "exports", "reimage"),
)
SNAPSHOT = _object(
    "A snapshot of a volume of this storage host.",
    {
        "id": UUID,
        "volume": UUID,
        "wanted": {"enum": ["present", "absent"]},
        "size_gb": WHOLE,
        "resting": _said("True: its guests are off, and stay so until it is whole.", BOOL),
    },
    optional=("size_gb", "resting"),
)
ATTACHED = _object(
    "A volume of a guest, reached by QEMU's own iSCSI initiator.",
    {
        "attachment": UUID,
        "volume": UUID,
        "device": _said("vdb and so on.", TEXT),
        "boot_index": _said("0: the guest's root disk, and there is no local one.", _or_null(WHOLE)),
        "read_only": BOOL,
        "portal": TEXT,
        "iqn": TEXT,
        "lun": WHOLE,
        "username": TEXT,
        "password": TEXT,
        "size_gb": _said("A larger one than the guest sees makes its disk larger.", WHOLE),
        "tag": _said("Its role, in the guest's metadata.", TEXT),
    },
    optional=("tag",),
)
METADATA = _said("What the metadata service tells the guest.", {"type": "object", "required": ["uuid", "hostname"]})
# What a guest is made of beside its image, flavor and volumes; a guest without a field has none of it.
# pack_root.py reads this file alone, so the choices are here once more; a test compares them with models/hardware.py.
HARDWARE = {
    "disk_bus": {"enum": ["virtio", "scsi", "sata", "ide"]},
    "scsi_model": {"enum": ["virtio-scsi", "lsilogic"]},
    "cdrom_bus": {"enum": ["ide", "sata", "scsi"]},
    "vif_model": {"enum": ["virtio", "e1000", "e1000e", "rtl8139"]},
    "video_model": {"enum": ["vga", "virtio", "cirrus", "bochs", "none"]},
    "machine": {"enum": ["pc", "q35"]},
    "firmware": {"enum": ["bios", "uefi"]},
    "watchdog": {"enum": ["disabled", "reset", "poweroff", "pause", "none"]},
    "guest_agent": BOOL,
}
MADE_OF = {
    "iso": _said("Its image is an ISO: it boots from that, and its root disk begins empty.", BOOL),
    "ephemeral_gb": _said("Sizes of its ephemeral disks.", _list(WHOLE)),
    "ephemeral_formats": _said("Their file systems; ext4 unless it says so.", _list({"enum": ["ext4", "vfat"]})),
    "swap_mb": _said("Size of its swap disk.", WHOLE),
    "disk_tags": _said(
        "Roles of its own disks (root, ephemeral0 …, swap), in its metadata.",
        {"type": "object", "additionalProperties": TEXT},
    ),
    "config_drive": _said("Its metadata is on a CD-ROM labelled config-2, too.", BOOL),
    "injected": _said(
        "What the config drive alone holds.",
        _object(
            "",
            {
                "files": _list(_object("", {"path": TEXT, "contents": _said("Base 64.", TEXT)})),
                "admin_pass": _or_null(TEXT),
            },
        ),
    ),
    "hardware": _said(
        "Its virtual hardware, where it is not the first one named.",
        _object("", HARDWARE, optional=tuple(HARDWARE)),
    ),
}
QUESTIONS = {
    "diagnostics": _said("A user asked for its figures: answered once.", _or_null(_object("", {"wanted": WHOLE}))),
    "password": _said(
        "A new password of a user in the guest, set by its agent; there until the host has said how that went.",
        _or_null(_object("", {"wanted": WHOLE, "user": TEXT, "password": TEXT})),
    ),
}
SERVER = _object(
    "A guest.",
    {
        "id": UUID,
        "project_id": TEXT,
        "wanted": _said("absent is the tombstone: guest and disks are removed.", {"enum": ["present", "absent"]}),
        "name": TEXT,
        "power": _said(
            "paused: its CPUs stand still; suspended: off, with its memory on disk.",
            {"enum": ["on", "off", "paused", "suspended"]},
        ),
        "reboot": _said(
            "The host's reboot_done converges to wanted.",
            _object("", {"wanted": WHOLE, "type": {"enum": ["SOFT", "HARD"]}}),
        ),
        "start": _said("Likewise; a guest that shut itself down needs one.", _object("", {"wanted": WHOLE})),
        "rebuild": _said(
            "Likewise; its root disk is made anew from its image, and what was on it is lost.",
            _object("", {"wanted": WHOLE}),
        ),
        "stop": _object("How to stop it.", {"graceful": BOOL}),
        "vcpus": WHOLE,
        "memory_mb": WHOLE,
        "root_gb": _said("Size of the root disk in GiB; 0: the image's.", WHOLE),
        "image": _or_null(UUID),
        "ports": _said("Its NICs, in order.", _list(UUID)),
        "volumes": _said("Its volumes, by device.", _list(ATTACHED)),
        **MADE_OF,
        "console": _said(
            "A user asked for the console log: answered once.",
            _or_null(_object("", {"wanted": WHOLE, "lines": _or_null(WHOLE)})),
        ),
        **QUESTIONS,
        "metadata": METADATA,
        "posted_password": _said(
            "What the guest posted to the metadata service, encrypted; one of an older number is forgotten.",
            _object("", {"cleared": WHOLE, "text": TEXT}),
        ),
        "incoming": _said(
            "It comes from another host: room is made, nothing is started.",
            _object(
                "",
                {
                    "migration": UUID,
                    "kind": {"enum": ["live", "cold"]},
                    "offer": _said(
                        "Where its disk is offered (NBD over TLS).",
                        _or_null(
                            _object("", {"address": _or_null(TEXT), "port": _or_null(WHOLE), "name": _or_null(TEXT)})
                        ),
                    ),
                },
            ),
        ),
        "outgoing": _said(
            "It goes to another host.",
            _object(
                "",
                {
                    "migration": UUID,
                    "kind": {"enum": ["live", "cold"]},
                    "address": _said("The other host's tunnel address.", _or_null(TEXT)),
                    "abort": BOOL,
                    "force": _said("Complete it, at the price of a longer pause.", BOOL),
                },
            ),
        ),
        "held": _said("Its disk stays, its guest does not run: it is wanted elsewhere, or not yet again here.", BOOL),
        "backup": _said(
            "The disk as it was before a resize on this host.",
            _object("", {"id": UUID, "wanted": {"enum": ["kept", "dropped", "restored"]}}),
        ),
        "rescue": _said(
            "It boots from a fresh disk over this image, its own root disk comes second; null: from its own.",
            _or_null(_object("", {"image": UUID})),
        ),
        "snapshot": _said(
            "A copy of the root disk is wanted as an image.",
            _object(
                "",
                {
                    "image": UUID,
                    "attempt": _said("A failed one is made again where this is higher.", WHOLE),
                    "url": _said("Where its bytes are put, by HTTP.", TEXT),
                    "headers": _said("That go with them.", {"type": "object", "additionalProperties": TEXT}),
                },
            ),
        ),
    },
    optional=(
        "name", "power", "reboot", "start", "rebuild", "stop", "vcpus", "memory_mb", "root_gb", "image", "ports",
        "volumes", "console", "metadata", "posted_password", "incoming", "outgoing", "held", "backup", "rescue",
        "snapshot", *MADE_OF, *QUESTIONS,
    ),
)  # fmt: skip
SCHEMA = {
    "$schema": "https://json-schema.org/draft/2020-12/schema",
    "title": "Kumo host document",
    **_object(
        "All that one host is to be. All lists are sorted by id.",
        {
            "version": {"const": 1},
            "host": _said("The host's name.", TEXT),
            "generation": _said("Grows with every change; a host refuses an older one.", WHOLE),
            "fence": _said("Grows with every lease; a host refuses an older one.", WHOLE),
            "settings": SETTINGS,
            "images": _list(IMAGE),
            "networks": _list(NETWORK),
            "routers": _list(ROUTER),
            "security_groups": _list(GROUP),
            "ports": _list(PORT),
            "volumes": _list(VOLUME),
            "snapshots": _list(SNAPSHOT),
            "servers": _list(SERVER),
        },
        optional=(
            "host", "generation", "fence", "settings", "images", "networks", "routers", "security_groups", "ports",
            "volumes", "snapshots", "servers",
        ),
    ),
}  # fmt: skip


def _type_of(schema: dict) -> str:
    if "enum" in schema:
        return " or ".join(f"`{value}`" for value in schema["enum"])
    if "const" in schema:
        return f"`{schema['const']}`"
    if "anyOf" in schema:
        return " or ".join(_type_of(option) for option in schema["anyOf"])
    if schema.get("type") == "array":
        return f"list of {_type_of(schema['items'])}"
    return schema.get("type", "any")


def _rows(schema: dict, path: str) -> list[str]:
    lines = []
    for name, one in schema.get("properties", {}).items():
        needed = "yes" if name in schema.get("required", []) else ""
        lines.append(f"| `{path}{name}` | {_type_of(one)} | {needed} | {one.get('description', '')} |")
        for inner in [one, *one.get("anyOf", [])]:
            if inner.get("type") == "object":
                lines += _rows(inner, f"{path}{name}.")
                if isinstance(inner.get("additionalProperties"), dict):
                    lines += _rows(inner["additionalProperties"], f"{path}{name}.NAME.")
            elif inner.get("type") == "array":
                lines += _rows(inner["items"], f"{path}{name}[].")
    return lines


def build_reference() -> str:
    """docs/host-document.md: every field of the document."""
    head = [
        "# The host document",
        "",
        "Generated from `web/desired/document.py` by `kumo document-schema`; a test compares them. How to write one",
        "by hand: `inventories/example/host_vars/`.",
        "",
        "| field | type | required | meaning |",
        "|---|---|---|---|",
    ]
    return "\n".join([*head, *_rows(SCHEMA, "")]) + "\n"
