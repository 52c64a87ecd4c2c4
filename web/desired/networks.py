"""Networks and routers of a host's document, from rows. Pure."""

from __future__ import annotations

import netaddr

from ..models.networks import GATEWAYS, ROUTER_INTERFACE
from ..models.reach import join_ties
from .rows import FarPort, Rows


def choose_homes(rows: Rows) -> dict[str, str]:
    """{network id: router id}: the oldest router that holds a subnet's gateway address; none: the network itself."""
    gateways = {
        (subnet.id, subnet.gateway_ip)
        for subnets in rows.subnets.values()
        for subnet in subnets
        if subnet.gateway_ip is not None
    }
    ages = {router.id: (router.created_at, router.id) for router in rows.routers}
    homes: dict[str, str] = {}
    for port in sorted(rows.router_ports, key=lambda port: ages.get(port.device_id, (port.created_at, port.device_id))):
        holds_gateway = any((row.subnet_id, row.address) in gateways for row in port.addresses)
        if port.device_owner == ROUTER_INTERFACE and port.device_id in ages and holds_gateway:
            homes.setdefault(port.network_id, port.device_id)
    return homes


def choose_peers(rows: Rows) -> dict[str, list[str]]:
    """{network id: tunnel addresses of the other hosts that have it}: with a guest on it, or behind its routers."""
    ties = {(p.network_id, p.device_id) for p in rows.router_ports if p.device_owner == ROUTER_INTERFACE}
    joined = join_ties(ties)
    tunnels = {host_id: netaddr.IPAddress(address) for host_id, address in rows.tunnel_addresses.items()}
    ordered = [(str(address), host_id) for host_id, address in sorted(tunnels.items(), key=lambda item: item[1])]
    peers = {}
    for network in rows.networks:
        hosts = set().union(*(rows.far_hosts.get(one, set()) for one in joined.get(network.id, {network.id})))
        peers[network.id] = list(dict.fromkeys(address for address, host_id in ordered if host_id in hosts))
    return peers


def _segmentation(network, rows: Rows, peers: list[str]) -> dict:
    if network.network_type in ("flat", "vlan"):
        one = {"type": network.network_type, "physical_network": network.physical_network}
        return one if network.network_type == "flat" else {**one, "id": network.segmentation_id}
    if network.network_type == "vxlan":
        local = (rows.host.settings or {}).get("tunnel_address")
        return {"type": "vxlan", "id": network.segmentation_id, "local": local, "peers": peers}
    return {"type": "local"}


def _build_elsewhere(network, rows: Rows, far_ports: list[FarPort]) -> list[dict]:
    """The document's ``elsewhere``: a port that moves has no tunnel, so that its frames go to all hosts."""
    if network.external:
        return []
    by_tunnel = network.network_type == "vxlan"
    return [
        {
            "port": port.id,
            "mac": port.mac_address,
            "addresses": port.addresses,
            "tunnel": rows.tunnel_addresses.get(port.host_id)
            if by_tunnel and port.device_id not in rows.moving
            else None,
        }
        for port in far_ports
    ]


def _ipv6_mode(subnet) -> str | None:
    return subnet.ipv6_ra_mode or subnet.ipv6_address_mode if subnet.ip_version == 6 else None


def build_networks(rows: Rows) -> list[dict]:
    """The document's ``networks``."""
    homes = choose_homes(rows)
    dhcp = {row.subnet_id: row.address for port in rows.dhcp_ports for row in port.addresses}
    hostnames = {server.id: server.hostname for server in rows.servers}
    peers = choose_peers(rows)
    far_ports: dict[str, list[FarPort]] = {}
    for port in rows.far_ports:
        far_ports.setdefault(port.network_id, []).append(port)
    documents = []
    for network in rows.networks:
        home = {"kind": "network", "id": network.id}
        if network.external:
            home = None
        elif network.id in homes:
            home = {"kind": "router", "id": homes[network.id]}
        documents.append(
            {
                "id": network.id,
                "project_id": network.project_id,
                "mtu": network.mtu,
                "segmentation": _segmentation(network, rows, peers[network.id]),
                "zone": network.zone,
                "home": home,
                "subnets": [
                    {
                        "id": subnet.id,
                        "ip_version": subnet.ip_version,
                        "cidr": subnet.cidr,
                        "gateway_ip": subnet.gateway_ip,
                        "dhcp": subnet.enable_dhcp,
                        "dhcp_address": dhcp.get(subnet.id) if subnet.gateway_ip is None else None,
                        "dns_nameservers": list(subnet.dns_nameservers),
                        "host_routes": list(subnet.host_routes),
                        "ipv6_mode": _ipv6_mode(subnet),
                    }
                    for subnet in rows.subnets.get(network.id, [])
                ],
                "reservations": [
                    {
                        "port": port.id,
                        "mac": port.mac_address,
                        "addresses": [row.address for row in port.addresses],
                        "hostname": port.dns_name or hostnames.get(port.device_id, ""),
                        "options": [
                            {"name": one["opt_name"], "value": one["opt_value"], "ip_version": one.get("ip_version", 4)}
                            for one in port.extra_dhcp_opts
                        ],
                    }
                    for port in rows.ports
                    if port.network_id == network.id
                ],
                "elsewhere": _build_elsewhere(network, rows, far_ports.get(network.id, [])),
            }
        )
    return documents


def _prefixed(port, subnets) -> list[str]:
    sizes = {subnet.id: netaddr.IPNetwork(subnet.cidr).prefixlen for subnet in subnets}
    return [f"{row.address}/{sizes[row.subnet_id]}" for row in port.addresses if row.subnet_id in sizes]


def build_routers(rows: Rows) -> list[dict]:
    """The document's ``routers``."""
    documents = []
    for router in rows.routers:
        own = [port for port in rows.router_ports if port.device_id == router.id]
        external = None
        for port in own:
            if port.device_owner in GATEWAYS:
                subnets = rows.subnets.get(port.network_id, [])
                used = {row.subnet_id for row in port.addresses}
                external = {
                    "port": port.id,
                    "network": port.network_id,
                    "mac": port.mac_address,
                    "addresses": _prefixed(port, subnets),
                    "gateways": [s.gateway_ip for s in subnets if s.id in used and s.gateway_ip],
                    "snat": router.enable_snat,
                }
        documents.append(
            {
                "id": router.id,
                "enabled": router.admin_state_up,
                "interfaces": [
                    {
                        "port": port.id,
                        "network": port.network_id,
                        "mac": port.mac_address,
                        "addresses": _prefixed(port, rows.subnets.get(port.network_id, [])),
                    }
                    for port in own
                    if port.device_owner == ROUTER_INTERFACE
                ],
                "external": external,
                "routes": list(router.routes),
                "floating_ips": [
                    {
                        "id": row.id,
                        "port": row.port_id,
                        "floating_address": row.address,
                        "fixed_address": row.fixed_address,
                        "follows": rows.following.get(row.port_id),
                    }
                    for row in rows.floating_ips
                    if row.router_id == router.id and router.gateway_network_id == row.network_id
                ],
            }
        )
    return documents
