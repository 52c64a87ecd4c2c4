"""Arithmetic of a subnet: its range, gateway, pools, modes and routes. Pure; knows no rows and no request.

Source: Network API reference, "Subnets"; RFC 3021 for /31, RFC 4291 for IPv6. Next room: `subnets.py`.
"""

from __future__ import annotations

import ipaddress
from itertools import pairwise

from ...errors import BadRequest, Conflict

MODES = ("slaac", "dhcpv6-stateful", "dhcpv6-stateless")
NAMESERVERS_MOST = 5
HOST_ROUTES_MOST = 20


def wrong(reason: str) -> BadRequest:
    """The refusal of an input that does not fit the subnet."""
    return BadRequest(f"Invalid input for operation: {reason}.", kind="InvalidInput")


def parse_network(text: str, name: str) -> ipaddress.IPv4Network | ipaddress.IPv6Network:
    """The range without host bits; BadRequest naming the field where the text is none."""
    try:
        return ipaddress.ip_network(text, strict=False)
    except ValueError:
        raise BadRequest(f"Invalid input for {name}. Reason: {text!r} is no IP range.", kind="InvalidInput") from None


def parse_cidr(text: str, version: int) -> str:
    """The range of that IP version, host bits cleared; BadRequest where it can hold no guests."""
    network = parse_network(text, "cidr")
    if network.version != version:
        raise wrong(f"cidr '{text}' does not match the ip_version '{version}'")
    if network.prefixlen == 0:
        raise wrong(f"cidr '{text}': a prefix length of 0 is not supported for subnets")
    if network.is_multicast:
        raise wrong(f"cidr '{text}': multicast IP subnet is not supported")
    if network.is_loopback:
        raise wrong(f"cidr '{text}': loopback IP subnet is not supported")
    if network.is_link_local:
        raise wrong(f"cidr '{text}': link-local IP subnet is not supported")
    return str(network)


def find_bounds(cidr: str) -> tuple[int, int]:
    """The first and last address that ports may have, as numbers."""
    network = ipaddress.ip_network(cidr)
    first, last = int(network.network_address), int(network.broadcast_address)
    if network.num_addresses <= 2:
        return first, last
    return first + 1, last - (1 if network.version == 4 else 0)


def build_gateway(cidr: str) -> str | None:
    """The gateway's address where none was named: the first; none in a range of a single address."""
    network = ipaddress.ip_network(cidr)
    if network.num_addresses == 1:
        return None
    return show_address(find_bounds(cidr)[0], network.version)


def show_address(number: int, version: int) -> str:
    """The text of an address given as a number."""
    return str(ipaddress.IPv4Address(number) if version == 4 else ipaddress.IPv6Address(number))


def parse_gateway(text: str, cidr: str) -> str:
    """The gateway's address in its shortest form; BadRequest where no port of the subnet could have it."""
    address, network = ipaddress.ip_address(text), ipaddress.ip_network(cidr)
    if address.version != network.version:
        raise wrong(f"gateway_ip '{text}' does not match the ip_version '{network.version}'")
    first, last = find_bounds(cidr)
    if not first <= int(address) <= last:
        raise wrong(f"gateway_ip '{text}' is not valid on subnet {cidr}")
    return str(address)


def build_pools(cidr: str, gateway: str | None) -> list[dict]:
    """[{start, end}] of all addresses but the gateway's."""
    version = ipaddress.ip_network(cidr).version
    first, last = find_bounds(cidr)
    if gateway is None or not first <= int(ipaddress.ip_address(gateway)) <= last:
        spans = [(first, last)]
    else:
        at = int(ipaddress.ip_address(gateway))
        spans = [(first, at - 1), (at + 1, last)]
    return [{"start": show_address(a, version), "end": show_address(b, version)} for a, b in spans if a <= b]


def parse_pools(pools: list[dict], cidr: str) -> list[dict]:
    """The pools in order and in their shortest form; BadRequest or Conflict where one is wrong or two overlap."""
    network = ipaddress.ip_network(cidr)
    first, last = find_bounds(cidr)
    spans = []
    for pool in pools:
        start, end = ipaddress.ip_address(pool["start"]), ipaddress.ip_address(pool["end"])
        shown = f"{pool['start']}-{pool['end']}"
        if start.version != network.version or end.version != network.version or end < start:
            raise BadRequest(f"The allocation pool {shown} is not valid.", kind="InvalidAllocationPool")
        if int(start) < first or int(end) > last:
            raise BadRequest(
                f"The allocation pool {shown} spans beyond the subnet cidr {cidr}.", kind="OutOfBoundsAllocationPool"
            )
        spans.append((int(start), int(end)))
    spans.sort()
    for before, after in pairwise(spans):
        if after[0] <= before[1]:
            starts = [show_address(span[0], network.version) for span in (before, after)]
            raise Conflict(
                f"Found overlapping allocation pools for subnet {cidr}: those from {starts[0]} and {starts[1]}.",
                kind="OverlappingAllocationPools",
            )
    return [{"start": show_address(a, network.version), "end": show_address(b, network.version)} for a, b in spans]


def check_gateway_outside(gateway: str | None, pools: list[dict]) -> None:
    """Conflict where a pool holds the gateway's address."""
    if gateway is None:
        return
    at = ipaddress.ip_address(gateway)
    for pool in pools:
        if ipaddress.ip_address(pool["start"]) <= at <= ipaddress.ip_address(pool["end"]):
            raise Conflict(
                f"Gateway ip {gateway} conflicts with allocation pool {pool['start']}-{pool['end']}.",
                kind="GatewayConflictWithAllocationPools",
            )


def check_modes(version: int, dhcp: bool, cidr: str, ra_mode: str | None, address_mode: str | None) -> None:
    """BadRequest where the IPv6 modes do not fit each other or the subnet."""
    if ra_mode is None and address_mode is None:
        return
    if version == 4:
        raise wrong("ipv6_ra_mode and ipv6_address_mode are not valid when ip_version is 4")
    if not dhcp:
        raise wrong("ipv6_ra_mode or ipv6_address_mode cannot be set when enable_dhcp is set to False")
    if ra_mode and address_mode and ra_mode != address_mode:
        raise wrong(f"ipv6_ra_mode set to '{ra_mode}' with ipv6_address_mode set to '{address_mode}' is not valid")
    if (address_mode or ra_mode) != "dhcpv6-stateful" and ipaddress.ip_network(cidr).prefixlen != 64:
        raise wrong(f"cidr '{cidr}': the prefix length must be 64 where guests form their addresses")


def parse_nameservers(servers: list[str], version: int) -> list[str]:
    """The resolvers in their order; BadRequest where one is there twice or of the other IP version."""
    if len(servers) > NAMESERVERS_MOST:
        raise BadRequest(
            f"Unable to complete operation: the number of dns_nameservers exceeds {NAMESERVERS_MOST}.",
            kind="DNSNameServersExhausted",
        )
    found = [ipaddress.ip_address(server) for server in servers]
    for server in found:
        if server.version != version:
            raise wrong(f"dns_nameservers '{server}' does not match the ip_version '{version}'")
    if len(set(found)) != len(found):
        raise BadRequest("Invalid input for dns_nameservers. Reason: Duplicate nameserver.", kind="InvalidInput")
    return [str(server) for server in found]


def parse_routes(routes: list[dict], version: int | None, most: int, name: str) -> list[dict]:
    """[{destination, nexthop}] in a canonical form, each once; ``name`` is the field a BadRequest names."""
    if len(routes) > most:
        kind = "HostRoutesExhausted" if name == "host_routes" else "RoutesExhausted"
        raise BadRequest(f"Unable to complete operation: the number of {name} exceeds {most}.", kind=kind)
    found = []
    for route in routes:
        destination = parse_network(route["destination"], name)
        nexthop = ipaddress.ip_address(route["nexthop"])
        if destination.version != nexthop.version:
            raise wrong(f"{name}: nexthop {nexthop} does not match the IP version of {destination}")
        if version is not None and destination.version != version:
            raise wrong(f"{name}: '{destination}' does not match the ip_version '{version}'")
        found.append({"destination": str(destination), "nexthop": str(nexthop)})
    if len({tuple(route.values()) for route in found}) != len(found):
        raise BadRequest(f"Invalid input for {name}. Reason: Duplicate route.", kind="InvalidInput")
    return found


def overlaps(one: str, other: str) -> bool:
    """Whether two ranges share an address."""
    first, second = ipaddress.ip_network(one), ipaddress.ip_network(other)
    return first.version == second.version and first.overlaps(second)
