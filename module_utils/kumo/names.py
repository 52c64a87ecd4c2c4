"""Names on a host, derived from UUIDs: what carries the prefix is Kumo's, what does not is never touched.

Linux limits an interface name to 15 bytes (IFNAMSIZ less the NUL), an iptables chain to 28.
"""

import hashlib

from .errors import KumoError

PREFIX = "kumo-"
METADATA_XMLNS = "https://kumo.cloud/xmlns/libvirt/1"


def _short(uuid: str) -> str:
    """The first 11 hexadecimal digits of a UUID: 44 bits, unique enough among one host's interfaces."""
    return uuid.replace("-", "")[:11]


def build_bridge_name(network_id: str) -> str:
    """The Linux bridge of a network."""
    return "kbr" + _short(network_id)


def build_tap_name(port_id: str) -> str:
    """The tap device of a guest's port, in the host's own namespace."""
    return "ktp" + _short(port_id)


def build_outer_veth_name(port_id: str) -> str:
    """The bridge's end of the pair that leads into a namespace."""
    return "kvo" + _short(port_id)


def build_inner_veth_name(port_id: str) -> str:
    """The namespace's end of the pair that leads to a bridge."""
    return "kvi" + _short(port_id)


def build_vxlan_name(network_id: str) -> str:
    """The VXLAN interface of a network."""
    return "kvx" + _short(network_id)


def build_namespace_name(kind: str, object_id: str) -> str:
    """The namespace of a router (``kind`` router) or of a network of its own (``kind`` network)."""
    return f"{PREFIX}{kind[0]}-{object_id}"


def build_chain_name(direction: str, port_id: str) -> str:
    """The iptables chain of a port: ``direction`` is i (to the guest), o (from it) or s (anti-spoofing).

    Of a network: u (at its uplink to other hosts).
    """
    return f"{PREFIX}{direction}{_short(port_id)}"


def build_domain_name(server_id: str) -> str:
    """The libvirt domain of a server."""
    return PREFIX + server_id


def build_vlan_name(network_id: str) -> str:
    """The VLAN subinterface of a network."""
    return "kvl" + _short(network_id)


def build_mac(object_id: str) -> str:
    """A MAC address that is the same on every host: fa:16:3e and 24 bits of the id's SHA-256."""
    digest = hashlib.sha256(object_id.encode()).hexdigest()
    return "fa:16:3e:" + ":".join(digest[i : i + 2] for i in (0, 2, 4))


def choose_bridge_name(network: dict, settings: dict) -> str:
    """The bridge that a network's ports hang on: its own, or for a flat network the physical network's."""
    segmentation = network["segmentation"]
    if segmentation["type"] != "flat":
        return build_bridge_name(network["id"])
    physical = settings["physical_networks"].get(segmentation["physical_network"])
    if physical is None:
        raise KumoError(
            f"network {network['id']}: segmentation.physical_network {segmentation['physical_network']!r} "
            "is not in settings.physical_networks"
        )
    return physical["bridge"]


def choose_home_namespace(network: dict) -> str | None:
    """The namespace that holds a network's gateway, DHCP and metadata; None for an external network."""
    home = network.get("home")
    return build_namespace_name(home["kind"], home["id"]) if home else None


def choose_home_interface(network: dict, routers: list[dict]) -> str | None:
    """The interface of a network within its home namespace; None where its router has no leg on it."""
    home = network.get("home")
    if not home:
        return None
    if home["kind"] == "network":
        return build_inner_veth_name(network["id"])
    for router in routers:
        if router["id"] == home["id"]:
            for interface in router.get("interfaces") or []:
                if interface["network"] == network["id"]:
                    return build_inner_veth_name(interface["port"])
    return None


def build_owner_tag(state_dir: str) -> str:
    """The alias of Kumo's links: whose they are, so that two state directories never prune each other's."""
    return f"kumo:{state_dir}"


def build_group_chain_name(group_id: str) -> str:
    """The iptables chain that lets a security group's members in, shared by all rules that name the group."""
    return f"{PREFIX}g{_short(group_id)}"
