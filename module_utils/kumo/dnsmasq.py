"""The files of one network's dnsmasq: pure, a network in, texts out; and the leases it wrote, parsed.

Whatever a user gave (names, options) is reduced to what one line may hold: nothing here can add a line or a
field (security case 35). Next: dhcp.py, which runs the daemon.
"""

from __future__ import annotations

import ipaddress
import re

LEASE_TIME = "24h"
LEASES_MAX = 16384
RA_INTERVAL_S = 60
RA_LIFETIME_S = 1800
_OPTION_NAME = re.compile(r"[A-Za-z0-9-]{1,64}")
_OPTION_VALUE = re.compile(r"[ -~]{1,255}")


def build_hostname(text: str | None, address: str) -> str:
    """A label of letters, digits and hyphens (RFC 1123 section 2.1); "host-10-0-0-5" where nothing is left."""
    label = re.sub(r"[^a-z0-9-]+", "-", (text or "").lower()).strip("-")[:63].strip("-")
    return label or "host-" + re.sub(r"[^a-z0-9]+", "-", address).strip("-")


def build_domain(text: str) -> str:
    """A domain of such labels; "kumo.internal" where nothing is left."""
    labels = [re.sub(r"[^a-z0-9-]+", "", label.lower()).strip("-")[:63] for label in str(text).split(".")]
    return ".".join(label for label in labels if label) or "kumo.internal"


def list_served(network: dict) -> list[dict]:
    """The subnets that dnsmasq answers for: DHCP is on, and for IPv6 a mode is chosen."""
    return [s for s in network["subnets"] if s.get("dhcp") and (s["ip_version"] == 4 or s.get("ipv6_mode"))]


def _tag(prefix: str, uuid: str) -> str:
    return prefix + uuid.replace("-", "")[:11]


def _choose_own(subnet: dict, held: list[str]) -> str | None:
    """The address of the home namespace in a subnet."""
    cidr = ipaddress.ip_network(subnet["cidr"])
    for address in held:
        if ipaddress.ip_interface(address).ip in cidr:
            return str(ipaddress.ip_interface(address).ip)
    return None


def build_config(network: dict, settings: dict, interface: str, held: list[str], account: dict, folder: str) -> str:
    """dnsmasq's configuration; ``held`` are the home namespace's addresses "a/length" on ``interface``.

    ``account`` is {user, group}: dnsmasq leaves root after it has opened its sockets and lease file. Only
    static ranges: an address that is not reserved is never handed out.
    """
    domain = build_domain(settings["dns_domain"])
    served = list_served(network)
    lines = [
        f"interface={interface}",
        "bind-interfaces",
        "except-interface=lo",
        f"user={account['user']}",
        f"group={account['group']}",
        f"pid-file={folder}/pid",
        f"dhcp-leasefile={folder}/leases",
        f"dhcp-hostsfile={folder}/hosts",
        f"dhcp-optsfile={folder}/opts",
        f"dhcp-lease-max={LEASES_MAX}",
        "dhcp-authoritative",
        "dhcp-ignore-clid",
        "quiet-dhcp",
        "quiet-dhcp6",
        "quiet-ra",
        "no-hosts",
        "domain-needed",
        "bogus-priv",
        f"domain={domain}",
        f"local=/{domain}/",
    ]
    servers = [str(ipaddress.ip_address(server)) for server in settings["dns_servers"]]
    lines += ["no-resolv", *(f"server={server}" for server in servers)] if servers else []
    for subnet in served:
        cidr = ipaddress.ip_network(subnet["cidr"])
        head = f"dhcp-range=set:{_tag('s', subnet['id'])},{cidr.network_address}"
        if subnet["ip_version"] == 4:
            lines.append(f"{head},static,{cidr.netmask},{LEASE_TIME}")
        else:
            mode = {"slaac": "ra-only", "dhcpv6-stateless": "ra-stateless", "dhcpv6-stateful": "static"}
            lines.append(f"{head},{mode[subnet['ipv6_mode']]},{cidr.prefixlen},{LEASE_TIME}")
    six = [subnet for subnet in served if subnet["ip_version"] == 6]
    if six:
        # A namespace that routes nowhere announces prefixes, but not itself as a router (RFC 4861 section 6.2.3).
        routes = network["home"]["kind"] == "router" and any(
            subnet.get("gateway_ip") and _choose_own(subnet, held) == subnet["gateway_ip"] for subnet in six
        )
        lifetime = RA_LIFETIME_S if routes else 0
        lines += ["enable-ra", f"ra-param={interface},mtu:{network['mtu']},{RA_INTERVAL_S},{lifetime}"]
    return "".join(line + "\n" for line in lines)


def build_hosts(network: dict) -> str:
    """dnsmasq's reservations, one line per MAC and subnet; addresses that guests make themselves are left out.

    A tag only where the port has options of its own: `can_reload`.
    """
    subnets = [
        (ipaddress.ip_network(subnet["cidr"]), subnet)
        for subnet in list_served(network)
        if subnet["ip_version"] == 4 or subnet["ipv6_mode"] == "dhcpv6-stateful"
    ]
    lines = []
    for row in sorted(network.get("reservations") or [], key=lambda row: row["port"]):
        mac = row["mac"].lower()
        if not re.fullmatch(r"([0-9a-f]{2}:){5}[0-9a-f]{2}", mac):
            continue
        given = [ipaddress.ip_address(address) for address in row["addresses"]]
        name = build_hostname(row.get("hostname"), str(given[0]) if given else "")
        tag = [f"set:{_tag('p', row['port'])}"] if _build_own_options(row) else []
        for cidr, _ in subnets:
            # dnsmasq takes one address per MAC and subnet; a port's further ones are for its guest to set.
            address = next((address for address in given if address in cidr), None)
            if address is not None:
                text = f"[{address}]" if address.version == 6 else str(address)
                lines.append(",".join([mac, *tag, text, name]))
    return "".join(line + "\n" for line in lines)


def parse_hosts(text: str) -> list[list[str]]:
    """[[mac, address]] of build_hosts' text."""
    rows = [line.split(",") for line in text.splitlines()]
    return [[row[0], row[-2].strip("[]")] for row in rows if len(row) in (3, 4)]


def can_reload(hosts: str) -> bool:
    """Whether a dnsmasq that has read these reservations may be told by SIGHUP to read them again.

    Up to 2.90 at least it dies of that once it has given a tagged host a lease: it frees the tag with what answering
    has chained to it on the stack.
    """
    return ",set:" not in hosts


def build_opts(network: dict, settings: dict, held: list[str]) -> str:
    """dnsmasq's options: per subnet router, resolver and routes (RFC 3442), the MTU, and ports' own ones."""
    lines = [f"option:mtu,{network['mtu']}"]
    for subnet in list_served(network):
        tag = "tag:" + _tag("s", subnet["id"])
        own = _choose_own(subnet, held)
        resolvers = [str(ipaddress.ip_address(a)) for a in subnet.get("dns_nameservers") or []] or (
            [own] if own else []
        )
        if subnet["ip_version"] == 6:
            if resolvers:
                lines.append(f"{tag},option6:dns-server,{','.join(f'[{address}]' for address in resolvers)}")
            lines.append(f"{tag},option6:domain-search,{build_domain(settings['dns_domain'])}")
            continue
        gateway = subnet.get("gateway_ip")
        lines.append(f"{tag},option:router" + (f",{gateway}" if gateway else ""))
        if resolvers:
            lines.append(f"{tag},option:dns-server,{','.join(resolvers)}")
        routes = _build_routes(subnet, own)
        if routes:
            text = ",".join(f"{destination},{nexthop}" for destination, nexthop in routes)
            # 249 is what Windows asks for; clients that know 121 ignore option 3, so 121 has the default route too.
            lines += [f"{tag},option:classless-static-route,{text}", f"{tag},249,{text}"]
    for row in sorted(network.get("reservations") or [], key=lambda row: row["port"]):
        lines += _build_own_options(row)
    return "".join(line + "\n" for line in lines)


def _build_routes(subnet: dict, own: str | None) -> list[tuple[str, str]]:
    gateway = subnet.get("gateway_ip")
    routes = [
        (str(ipaddress.ip_network(row["destination"])), str(ipaddress.ip_address(row["nexthop"])))
        for row in subnet.get("host_routes") or []
    ]
    if own and own != gateway:
        routes.insert(0, ("169.254.169.254/32", own))
    if routes and gateway:
        routes.append(("0.0.0.0/0", gateway))
    return routes


def _build_own_options(row: dict) -> list[str]:
    """A port's extra DHCP options {name, value, ip_version}; what could be more than one option is left out."""
    lines = []
    for option in row.get("options") or []:
        name, value = str(option.get("name", "")), str(option.get("value", ""))
        if _OPTION_NAME.fullmatch(name) and _OPTION_VALUE.fullmatch(value):
            kind = "option6" if option.get("ip_version") == 6 else "option"
            known = name if name.isdigit() and kind == "option" else f"{kind}:{name}"
            lines.append(f"tag:{_tag('p', row['port'])},{known},{value}")
    return lines


def parse_leases(text: str) -> list[list[str]]:
    """[[mac, address]] of a lease file; for IPv6, where it has a DUID and no MAC, the MAC is ''."""
    leases, six = [], False
    for line in text.splitlines():
        fields = line.split()
        if fields[:1] == ["duid"]:
            six = True
        elif len(fields) >= 4:
            leases.append(["" if six else fields[1].lower(), fields[2]])
    return leases


def list_stale(leases: list[list[str]], reservations: list[list[str]]) -> list[str]:
    """Addresses whose lease has no reservation any more: they would keep the address from its next owner."""
    pairs = {tuple(row) for row in reservations}
    addresses = {address for _, address in reservations}
    return sorted(a for mac, a in leases if ((mac, a) not in pairs if mac else a not in addresses))


def build_leases(text: str, stale: list[str]) -> str:
    """A lease file's text without the leases of ``stale``."""
    kept = [line for line in text.splitlines() if len(line.split()) < 4 or line.split()[2] not in stale]
    return "".join(line + "\n" for line in kept)
