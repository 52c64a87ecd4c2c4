"""Ports and their addresses, and the groups they begin with: what the network and the compute API both need.

Owns the choice of a MAC and of addresses, and quotas of network objects. Works in the caller's
transaction and writes rows only; an address taken by two transactions at once violates a unique key,
and the pipeline runs the loser again. Checks no permission beyond what a project may do on a network
that is not its own. Next rooms: `models/networks.py`, `models/reach.py`.
"""

from __future__ import annotations

import ipaddress
import secrets
from collections.abc import Iterable

from sqlalchemy import func, select, update
from sqlalchemy.orm import Session

from .errors import BadRequest, Conflict, Forbidden, NotFound, OverQuota
from .models import (
    Address,
    FloatingIP,
    Network,
    Port,
    Project,
    Router,
    SecurityGroup,
    SecurityGroupRule,
    Subnet,
    read_limit,
)
from .models.networks import COMPUTE, GATEWAYS, ROUTER_INTERFACE
from .models.reach import touch_port

COUNTED = {
    "network": Network,
    "subnet": Subnet,
    "port": Port,
    "router": Router,
    "floatingip": FloatingIP,
    "security_group": SecurityGroup,
    "security_group_rule": SecurityGroupRule,
}
MAC_BASE = "fa:16:3e"
MAC_TRIES = 64
SLAAC_MODES = ("slaac", "dhcpv6-stateless")
FIXED_IPS_MOST = 5  # Neutron's max_fixed_ips_per_port


def count_used(session: Session, project_id: str, resource: str) -> int:
    """How many of ``resource`` (a key of COUNTED) the project has."""
    model = COUNTED[resource]
    return session.scalar(select(func.count()).select_from(model).where(model.project_id == project_id))


def check_quota(session: Session, project_id: str, resource: str) -> None:
    """OverQuota where the project may have no further ``resource``; its creations wait for each other from here on."""
    session.execute(select(Project.id).where(Project.id == project_id).with_for_update())
    limit = read_limit(session, project_id, resource)
    if limit != -1 and count_used(session, project_id, resource) >= limit:
        raise OverQuota(f"Quota exceeded for resources: ['{resource}'].")


def check_fixed_ip_quota(session: Session, port: Port, more: int) -> None:
    """OverQuota where the project may not have ``more`` addresses on ports of its own."""
    limit = read_limit(session, port.project_id, "fixed_ips")
    if limit == -1:
        return
    session.execute(select(Project.id).where(Project.id == port.project_id).with_for_update())
    if count_fixed_ips(session, port.project_id) + more > limit:
        raise OverQuota("Quota exceeded for resources: ['fixed_ips'].")


def count_fixed_ips(session: Session, project_id: str) -> int:
    """How many addresses the project's ports have, but for those of the network's own."""
    owned = select(func.count()).select_from(Address).join(Port, Port.id == Address.port_id)
    return session.scalar(owned.where(Port.project_id == project_id, Port.device_owner.not_like("network:%")))


def choose_address(pools: list[dict], taken: set[int], version: int) -> str | None:
    """The lowest address of ``pools`` ([{start, end}]) that is not in ``taken`` (as numbers); None: all are."""
    kind = ipaddress.IPv4Address if version == 4 else ipaddress.IPv6Address
    for pool in sorted(pools, key=lambda pool: int(kind(pool["start"]))):
        number, last = int(kind(pool["start"])), int(kind(pool["end"]))
        while number in taken and number <= last:  # at most len(taken) steps
            number += 1
        if number <= last:
            return str(kind(number))
    return None


def build_slaac_address(cidr: str, mac: str) -> str:
    """The address a guest with that MAC forms by itself in the IPv6 prefix (RFC 4291, appendix A)."""
    octets = [int(part, 16) for part in mac.split(":")]
    octets = [octets[0] ^ 2, *octets[1:3], 0xFF, 0xFE, *octets[3:]]
    network = ipaddress.IPv6Network(cidr)
    return str(network.network_address + int.from_bytes(bytes(octets), "big"))


def is_usable(subnet: Subnet, address: str) -> bool:
    """Whether a port may have the address: in the subnet, and neither its network nor its broadcast address."""
    value, network = ipaddress.ip_address(address), ipaddress.ip_network(subnet.cidr)
    if value.version != network.version or value not in network:
        return False
    if network.num_addresses <= 2:
        return True
    return value != network.network_address and (network.version == 6 or value != network.broadcast_address)


def read_default_group(session: Session, project_id: str) -> SecurityGroup:
    """The project's group ``default``, made where it is missing: all egress, ingress from its own members."""
    group = session.scalar(select(SecurityGroup).where(SecurityGroup.default_for == project_id))
    if group is not None:
        return group
    group = SecurityGroup(
        project_id=project_id, name="default", description="Default security group", default_for=project_id
    )
    session.add(group)
    session.flush()
    for direction, remote in (("egress", None), ("ingress", group.id)):
        for ethertype in ("IPv4", "IPv6"):
            rule = SecurityGroupRule(
                project_id=project_id,
                security_group_id=group.id,
                direction=direction,
                ethertype=ethertype,
                remote_group_id=remote,
            )
            session.add(rule)
    session.flush()
    session.refresh(group, ["rules"])
    return group


def allocate_port(
    session: Session,
    settings,
    *,
    network: Network,
    project_id: str,
    name: str = "",
    description: str = "",
    mac_address: str | None = None,
    fixed_ips: list[dict] | None = None,
    device_id: str = "",
    device_owner: str = "",
    device_index: int = 0,
    host_id: str | None = None,
    security_group_ids: list[str] | None = None,
    delete_with_device: bool = False,
    privileged: bool = False,
    request_id: str | None = None,
    **attributes,
) -> Port:
    """A new port with its addresses, and every host told that it is there.

    ``fixed_ips`` is [{subnet_id?, ip_address?}]; None: one address of each IP version that the network
    has, and one in each subnet where guests form it themselves; [] no address. ``security_group_ids``
    None: the default group (none where port security is off, or the port is the network's own).
    ``privileged`` (an admin, or the service itself) may choose addresses and MACs on networks of others,
    use external ones and groups of others. ``attributes`` are further columns of `Port`. Ports of no
    project ("", the network's own) count against no quota.

    Raises OverQuota, Forbidden, BadRequest (InvalidIpForNetwork, InvalidIpForSubnet, InvalidInput),
    Conflict (IpAddressInUse, IpAddressGenerationFailure, MacAddressInUse), NotFound (SecurityGroupNotFound).
    """
    own = device_owner.startswith("network:")
    if not privileged:
        check_foreign_use(network, project_id, fixed_ips, mac_address)
    if project_id and not own:
        check_quota(session, project_id, "port")
    session.execute(select(Network.id).where(Network.id == network.id).with_for_update())
    attributes.setdefault("port_security_enabled", network.port_security_enabled and not own)
    if security_group_ids is None:
        secured = attributes["port_security_enabled"]
        groups = [read_default_group(session, project_id)] if secured and not own and project_id else []
    else:
        groups = read_groups(session, project_id, security_group_ids, privileged)
    port = Port(
        project_id=project_id,
        name=name,
        description=description,
        network_id=network.id,
        mac_address=choose_mac(session, network.id, mac_address),
        device_id=device_id,
        device_owner=device_owner,
        device_index=device_index,
        host_id=host_id,
        delete_with_device=delete_with_device,
        security_groups=groups,
        **attributes,
    )
    session.add(port)
    session.flush()
    allocate_addresses(session, port, fixed_ips)
    touch_port(session, port, request_id)
    return port


def check_foreign_use(
    network: Network, project_id: str, fixed_ips: list[dict] | None = None, mac_address: str | None = None
) -> None:
    """Forbidden where a project asks too much of a network that is another's (Neutron's default policy)."""
    if network.project_id == project_id:
        return
    if not network.shared:
        if network.external:
            raise Forbidden(f"It is not allowed to create an interface on external network {network.id}")
        raise NotFound(f"Network {network.id} could not be found.", kind="NetworkNotFound")
    if mac_address is not None:
        raise Forbidden("Only the network's owner may choose the mac_address of a port on it.")
    if any(fixed.get("ip_address") for fixed in fixed_ips or []):
        raise Forbidden("Only the network's owner may choose the ip_address of a port on it.")


def read_groups(session: Session, project_id: str, ids: Iterable[str], privileged: bool = False) -> list[SecurityGroup]:
    """The security groups of these ids that the project may use, each once; NotFound names one that is not there."""
    groups = []
    for group_id in dict.fromkeys(ids):
        group = session.get(SecurityGroup, group_id)
        if group is None or (group.project_id != project_id and not privileged):
            raise NotFound(f"Security group {group_id} does not exist", kind="SecurityGroupNotFound")
        groups.append(group)
    return groups


def choose_mac(session: Session, network_id: str, wanted: str | None = None) -> str:
    """``wanted`` in small letters or a random MAC that no port of the network has; Conflict where it is in use."""

    def is_used(mac: str) -> bool:
        used = select(Port.id).where(Port.network_id == network_id, Port.mac_address == mac)
        return session.execute(used).first() is not None

    if wanted is not None:
        mac = wanted.lower()
        if is_used(mac):
            raise Conflict(
                f"Unable to complete operation for network {network_id}. The mac address {mac} is in use.",
                kind="MacAddressInUse",
            )
        return mac
    for _ in range(MAC_TRIES):
        mac = MAC_BASE + "".join(f":{octet:02x}" for octet in secrets.token_bytes(3))
        if not is_used(mac):
            return mac
    raise Conflict("Unable to generate unique mac on network.", kind="MacAddressGenerationFailure")


def allocate_addresses(session: Session, port: Port, fixed_ips: list[dict] | None) -> None:
    """Bring the port's addresses to ``fixed_ips`` (as in `allocate_port`); those it has already stay.

    Addresses without an ``ip_address`` keep one that the port has in that subnet, else get a free one.
    """
    subnets = list(
        session.scalars(
            select(Subnet)
            .where(Subnet.network_id == port.network_id)
            .order_by(Subnet.ip_version, Subnet.created_at, Subnet.id)
        )
    )
    if fixed_ips is None:
        wanted = _choose_subnets(session, port, subnets)
    else:
        wanted = [_place(session, port, subnets, fixed) for fixed in fixed_ips]
        if len(wanted) > FIXED_IPS_MOST:
            raise BadRequest(
                "Invalid input for fixed_ips. Reason: Exceeded maximum amount of fixed ips per port: "
                f"{FIXED_IPS_MOST}.",
                kind="InvalidInput",
            )
        named = [address for _, address in wanted if address is not None]
        if len(named) != len(set(named)):
            raise BadRequest("Invalid input for fixed_ips. Reason: Duplicate IP address.", kind="InvalidInput")
    left = list(port.addresses)
    new = []
    for subnet, address in sorted(wanted, key=lambda pair: pair[1] is None):  # chosen ones first
        kept = next((a for a in left if a.subnet_id == subnet.id and address in (None, a.address)), None)
        if kept is None:
            new.append((subnet, address))
        else:
            left.remove(kept)
    for gone in left:
        port.addresses.remove(gone)
    session.flush()
    if new and port.project_id and not port.device_owner.startswith("network:"):
        check_fixed_ip_quota(session, port, len(new))
    for subnet, address in new:
        taken = _read_taken(session, subnet)
        if address is None and _forms_own(subnet, port):
            address = build_slaac_address(subnet.cidr, port.mac_address)
        if address is None:
            address = choose_address(subnet.allocation_pools, taken, subnet.ip_version)
            if address is None:
                raise Conflict(
                    f"No more IP addresses available on network {port.network_id}.", kind="IpAddressGenerationFailure"
                )
        elif int(ipaddress.ip_address(address)) in taken:
            raise Conflict(
                f"Unable to complete operation for network {port.network_id}. The IP address {address} is in use.",
                kind="IpAddressInUse",
            )
        port.addresses.append(Address(subnet_id=subnet.id, address=address))
        session.flush()


def _forms_own(subnet: Subnet, port: Port) -> bool:
    routing = port.device_owner in (ROUTER_INTERFACE, *GATEWAYS)
    return subnet.ipv6_address_mode in SLAAC_MODES and not routing


def find_free_subnet(session: Session, network_id: str, version: int) -> Subnet | None:
    """The network's first subnet of that IP version with a free address in its pools."""
    subnets = session.scalars(
        select(Subnet)
        .where(Subnet.network_id == network_id, Subnet.ip_version == version)
        .order_by(Subnet.created_at, Subnet.id)
    )
    free = (s for s in subnets if choose_address(s.allocation_pools, _read_taken(session, s), version) is not None)
    return next(free, None)


def _read_taken(session: Session, subnet: Subnet) -> set[int]:
    used = session.scalars(select(Address.address).where(Address.subnet_id == subnet.id))
    return {int(ipaddress.ip_address(text)) for text in used}


def _choose_subnets(session: Session, port: Port, subnets: list[Subnet]) -> list[tuple[Subnet, None]]:
    """One subnet of each IP version that has a free address, and all where guests form theirs."""
    chosen: list[tuple[Subnet, None]] = [(subnet, None) for subnet in subnets if _forms_own(subnet, port)]
    for version in (4, 6):
        offered = [s for s in subnets if s.ip_version == version and not _forms_own(s, port)]
        for subnet in offered:
            if choose_address(subnet.allocation_pools, _read_taken(session, subnet), version) is not None:
                chosen.append((subnet, None))
                break
        else:
            if offered:
                raise Conflict(
                    f"No more IP addresses available on network {port.network_id}.", kind="IpAddressGenerationFailure"
                )
    return sorted(chosen, key=lambda pair: pair[0].ip_version)


def _place(session: Session, port: Port, subnets: list[Subnet], fixed: dict) -> tuple[Subnet, str | None]:
    """(subnet, address or None) of one wanted fixed address; BadRequest where it does not fit the network."""
    address = fixed.get("ip_address")
    if address is not None:
        address = str(ipaddress.ip_address(address))
    if fixed.get("subnet_id"):
        subnet = next((s for s in subnets if s.id == fixed["subnet_id"]), None)
        if subnet is None:
            raise BadRequest(
                f"Invalid input for operation: Failed to create port on network {port.network_id}, because "
                f"fixed_ips included invalid subnet {fixed['subnet_id']}.",
                kind="InvalidInput",
            )
        if address is not None and not is_usable(subnet, address):
            raise BadRequest(
                f"IP address {address} is not a valid IP for the specified subnet.", kind="InvalidIpForSubnet"
            )
        _check_not_gateway(port, subnet, address)
        return subnet, address
    if address is None:
        raise BadRequest(
            "Invalid input for operation: IP allocation requires subnet_id or ip_address.", kind="InvalidInput"
        )
    subnet = next((s for s in subnets if is_usable(s, address)), None)
    if subnet is None:
        raise BadRequest(
            f"IP address {address} is not a valid IP for any of the subnets on the specified network.",
            kind="InvalidIpForNetwork",
        )
    _check_not_gateway(port, subnet, address)
    return subnet, address


def _check_not_gateway(port: Port, subnet: Subnet, address: str | None) -> None:
    # the network's own namespace holds the gateway address where no router does
    if address is not None and address == subnet.gateway_ip and port.device_owner.startswith(COMPUTE):
        raise Conflict(
            f"Unable to complete operation for network {port.network_id}. The IP address {address} is in use.",
            kind="IpAddressInUse",
        )


def release_port(session: Session, port: Port, request_id: str | None = None) -> None:
    """The port and its addresses are free again at once, floating addresses on it unbound; every host is told."""
    touch_port(session, port, request_id)
    session.execute(
        update(FloatingIP)
        .where(FloatingIP.port_id == port.id)
        .values(port_id=None, fixed_address=None, router_id=None, observed_state=None)
        .execution_options(synchronize_session="fetch")
    )
    session.delete(port)
    session.flush()


def end_port_use(session: Session, port: Port, request_id: str | None = None) -> None:
    """The port's server has let go of it: it is released where it was made for the server, else free for another."""
    if port.delete_with_device:
        release_port(session, port, request_id)
        return
    touch_port(session, port, request_id)
    port.device_id, port.device_owner, port.host_id = "", "", None
    port.device_tag = port.detached_at = port.observed_state = None
