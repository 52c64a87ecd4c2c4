"""The parts of a port that are lists or names: address pairs, DHCP options, its name in DNS. Pure.

Source: Network API reference, "Ports", and RFC 1123 for names. What is accepted here reaches dnsmasq's
and the firewall's files on hosts, so nothing may hold a line break. Next room: `ports.py`.
"""

from __future__ import annotations

import ipaddress

from ...errors import BadRequest, Conflict
from ...fields import IP, MAC, UUID, field, items, mapping, nullable, one_of

PAIRS_MOST = 10
NO_CONTROL = {"type": "string", "minLength": 1, "maxLength": 255, "pattern": r"^[^\x00-\x1f\x7f]+$"}
PAIR = mapping({"ip_address": {"type": "string", "maxLength": 64}, "mac_address": MAC}, required=("ip_address",))
OPTION = mapping(
    {
        "opt_name": {"type": "string", "maxLength": 64, "pattern": r"^[a-zA-Z0-9][a-zA-Z0-9-]*$"},
        "opt_value": nullable(NO_CONTROL),
        "ip_version": one_of(4, 6, "4", "6"),
    },
    required=("opt_name",),
)
DNS_NAME = {
    "type": "string",
    "maxLength": 63,
    "pattern": r"^$|^[a-zA-Z0-9]([a-zA-Z0-9-]*[a-zA-Z0-9])?$",
}
FIELDS = {
    "fixed_ips": field(nullable(items(mapping({"subnet_id": UUID, "ip_address": IP}), 100))),
    "allowed_address_pairs": field(nullable(items(PAIR, PAIRS_MOST))),
    "extra_dhcp_opts": field(nullable(items(OPTION, 20))),
    "dns_name": field(DNS_NAME),
}


def parse_pairs(pairs: list[dict] | None, mac: str, port_security: bool) -> list[dict]:
    """[{ip_address, mac_address}], the port's MAC where none is named; BadRequest or Conflict where they do not fit."""
    found = []
    for pair in pairs or []:
        text = pair["ip_address"]
        try:
            address = ipaddress.ip_network(text, strict=False) if "/" in text else ipaddress.ip_address(text)
        except ValueError:
            raise BadRequest(
                f"Invalid input for allowed_address_pairs. Reason: {text!r} is no IP address.", kind="InvalidInput"
            ) from None
        found.append({"ip_address": str(address), "mac_address": pair.get("mac_address", mac).lower()})
    if found and not port_security:
        raise Conflict(
            "Port Security must be enabled in order to have allowed address pairs on a port.",
            kind="AddressPairAndPortSecurityRequired",
        )
    if len({tuple(pair.values()) for pair in found}) != len(found):
        raise BadRequest("Request contains duplicate address pair.", kind="DuplicateAddressPairInRequest")
    return found


def parse_dhcp_options(options: list[dict] | None, before: list[dict] = ()) -> list[dict]:
    """``before`` with the options merged in by name and IP version; one without a value is removed."""
    merged = {(one["opt_name"], one["ip_version"]): one["opt_value"] for one in before}
    for option in options or []:
        key = (option["opt_name"], int(option.get("ip_version", 4)))
        merged[key] = option.get("opt_value")
    return [
        {"opt_name": name, "opt_value": value, "ip_version": version}
        for (name, version), value in sorted(merged.items())
        if value is not None
    ]


def build_dns_assignment(name: str, addresses: list[str], domain: str) -> list[dict]:
    """What DNS says of the port: a name of its own, else one made of each address."""
    domain = domain.rstrip(".")
    found = []
    for address in addresses:
        host = name or "host-" + address.replace(".", "-").replace(":", "-")
        found.append({"ip_address": address, "hostname": host, "fqdn": f"{host}.{domain}." if domain else f"{host}."})
    return found
