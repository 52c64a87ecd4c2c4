"""Links, addresses and routes through iproute2: read as JSON, changed in batches.

iproute2 rather than pyroute2: importing pyroute2 takes 180 ms in each run, a dump by `ip -j` 4 ms and a batch
of changes 3 ms (measured on Debian 12). Knows no document; legs.py and networks.py say what is wanted.
"""

from __future__ import annotations

import ipaddress
import json

from .errors import KumoError
from .namespaces import run

UNKNOWN_MAC = "00:00:00:00:00:00"  # a VXLAN link's entry for every MAC that has none


def _argv(namespace: str | None, *words: str) -> list[str]:
    return ["ip", *(["-n", namespace] if namespace else []), *words]


def _is_automatic(address: str, mac: str) -> bool:
    """Whether the kernel gave itself this IPv6 address (link-local by EUI-64, RFC 4291 appendix A)."""
    return ipaddress.ip_address(address) == build_link_local(mac)


def build_link_local(mac: str) -> ipaddress.IPv6Address:
    """The link-local address that the kernel derives from a MAC."""
    octets = bytearray.fromhex(mac.replace(":", ""))
    octets[0] ^= 2
    return ipaddress.IPv6Address(b"\xfe\x80" + bytes(6) + bytes(octets[:3]) + b"\xff\xfe" + bytes(octets[3:]))


def parse_links(rows: list[dict]) -> dict[str, dict]:
    """`ip -j -d addr` as {name: {index, kind, mac, mtu, up, bridge, alias, parent, data, addresses}}.

    ``addresses`` are "address/prefix length", without what the kernel gives itself; ``data`` is of the kind.
    """
    links = {}
    for row in rows:
        if not row:
            continue
        info = row.get("linkinfo", {})
        mac = row.get("address", "")
        links[row["ifname"]] = {
            "index": row["ifindex"],
            "kind": info.get("info_kind", ""),
            "mac": mac,
            "mtu": row["mtu"],
            "up": "UP" in row["flags"],
            "bridge": row.get("master"),
            "alias": row.get("ifalias", ""),
            "parent": row.get("link"),
            "data": info.get("info_data", {}),
            "addresses": sorted(
                f"{a['local']}/{a['prefixlen']}"
                for a in row.get("addr_info", [])
                if "local" in a
                and not (a["family"] == "inet6" and mac.count(":") == 5 and _is_automatic(a["local"], mac))
            ),
        }
    return links


def read_links(namespace: str | None = None) -> dict[str, dict]:
    """What parse_links says of a namespace (None: this thread's)."""
    return parse_links(json.loads(run(_argv(namespace, "-j", "-d", "addr", "show")) or "[]"))


def parse_routes(rows: list[dict]) -> dict[str, str]:
    """`ip -j route` as {destination: gateway}: the static ones, for they are whose Kumo's are."""
    return {
        _destination(row["dst"], row.get("gateway", "")): row["gateway"]
        for row in rows
        if row.get("protocol") == "static" and "gateway" in row
    }


def _destination(text: str, gateway: str) -> str:
    if text == "default":
        return "::/0" if ":" in gateway else "0.0.0.0/0"
    return str(ipaddress.ip_network(text))


def read_routes(namespace: str) -> dict[str, str]:
    """{destination: gateway} of a namespace, IPv4 and IPv6."""
    routes = {}
    for family in ("-4", "-6"):
        routes.update(parse_routes(json.loads(run(_argv(namespace, family, "-j", "route", "show")) or "[]")))
    return routes


def parse_forwarding(rows: list[dict]) -> dict[str, dict]:
    """`bridge -j fdb` as {link: {flooding: [peers], tunnels: {mac: peer}, static: {mac: sticky}}}.

    ``flooding`` is where a VXLAN link sends what it knows no peer for; ``static`` are entries of the link's
    bridge that somebody wrote (a learnt one, and a link's own MAC, are neither).
    """
    found: dict[str, dict] = {}
    for row in rows:
        link = found.setdefault(row.get("ifname", ""), {"flooding": [], "tunnels": {}, "static": {}})
        if "dst" in row and row["mac"] == UNKNOWN_MAC:
            link["flooding"] = sorted([*link["flooding"], row["dst"]])
        elif "dst" in row:
            link["tunnels"][row["mac"]] = row["dst"]
        elif "master" in row and row.get("state") == "static":
            link["static"][row["mac"]] = "sticky" in row.get("flags", [])
    return found


def read_forwarding() -> dict[str, dict]:
    """What parse_forwarding says of this thread's namespace."""
    return parse_forwarding(json.loads(run(["bridge", "-j", "fdb", "show"]) or "[]"))


def parse_neighbours(rows: list[dict]) -> dict[str, dict[str, str]]:
    """`ip -j neigh` as {link: {address: mac}}: the permanent ones of single addresses."""
    found: dict[str, dict[str, str]] = {}
    for row in rows:
        if "PERMANENT" in row.get("state", []) and "lladdr" in row:
            found.setdefault(row["dev"], {})[row["dst"]] = row["lladdr"]
    return found


def read_neighbours(namespace: str) -> dict[str, dict[str, str]]:
    """{link: {address: mac}} of the permanent neighbours in a namespace, IPv4 and IPv6."""
    return parse_neighbours(json.loads(run(_argv(namespace, "-j", "neigh", "show", "nud", "permanent")) or "[]"))


def apply_batch(lines: list[str], namespace: str | None = None, program: str = "ip") -> None:
    """Give `ip -batch` (or `bridge -batch`) these lines; KumoError with the line it stopped at."""
    if not lines:
        return
    if any("\n" in line for line in lines):
        raise KumoError("a line for ip holds a newline")
    argv = [program, *(["-n", namespace] if namespace else []), "-batch", "-"]
    try:
        run(argv, "".join(line + "\n" for line in lines))
    except KumoError as error:
        place = str(error).rpartition("-:")[2]
        if place.isdigit() and 0 < int(place) <= len(lines):
            raise KumoError(f"{error} ({lines[int(place) - 1]})") from None
        raise


def parse_address(text: str, field: str) -> str:
    """``text`` in its canonical form, "address/prefix length"; KumoError names ``field``."""
    try:
        return str(ipaddress.ip_interface(text))
    except ValueError:
        raise KumoError(f"{field}: {text!r} is not an address with a prefix length") from None
