"""Ports and security groups of a host's document, from rows. Pure."""

from __future__ import annotations

import ipaddress
import socket

from .rows import Rows


def build_ports(rows: Rows) -> list[dict]:
    """The document's ``ports``: the NICs of guests on this host."""
    return [
        {
            "id": port.id,
            "network": port.network_id,
            "server": port.device_id,
            "mac": port.mac_address,
            "addresses": [row.address for row in port.addresses],
            "admin_state_up": port.admin_state_up,
            "port_security": port.port_security_enabled,
            "security_groups": sorted(group.id for group in port.security_groups),
            "allowed_address_pairs": [
                {"mac": pair.get("mac_address") or port.mac_address, "address": pair["ip_address"]}
                for pair in port.allowed_address_pairs
            ],
            **({"tag": port.device_tag} if port.device_tag else {}),
        }
        for port in rows.ports
    ]


def _split(addresses) -> dict[str, list[str]]:
    """The addresses by version, each once, in the order of their numbers: thousands, so the C library sorts IPv4's."""
    found = set(addresses)
    newer = {ipaddress.ip_address(address) for address in found if ":" in address}
    older = (address for address in found if ":" not in address)
    return {"IPv4": sorted(older, key=socket.inet_aton), "IPv6": [str(address) for address in sorted(newer)]}


def build_security_groups(rows: Rows) -> list[dict]:
    """The document's ``security_groups``: those of the ports, and the members of those that rules name."""
    documents = {
        group.id: {
            "id": group.id,
            "rules": [
                {
                    "id": rule.id,
                    "direction": rule.direction,
                    "ethertype": rule.ethertype,
                    "protocol": rule.protocol,
                    "port_min": rule.port_range_min,
                    "port_max": rule.port_range_max,
                    "remote_cidr": _normalize(rule.remote_ip_prefix),
                    "remote_group": rule.remote_group_id,
                }
                for rule in sorted(group.rules, key=lambda rule: rule.id)
            ],
            "members": _split(()),
        }
        for group in rows.groups
    }
    for group_id, addresses in rows.group_addresses.items():
        documents.setdefault(group_id, {"id": group_id, "rules": [], "members": {}})["members"] = _split(addresses)
    return [documents[group_id] for group_id in sorted(documents)]


def _normalize(prefix: str | None) -> str | None:
    """A range without host bits."""
    return str(ipaddress.ip_network(prefix, strict=False)) if prefix else None
