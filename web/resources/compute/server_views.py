"""A server as the API shows it, and what is read for that: hosts, addresses, groups, in four queries for any number.

Source: Compute API reference, "Servers (servers)", "Show Server Details". Changes nothing.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable
from dataclasses import dataclass, field
from datetime import datetime

from sqlalchemy import select

from ...fields import field as one
from ...fields import since
from ...http import Context
from ...models import (
    Address,
    FloatingIP,
    Host,
    Network,
    Port,
    PortSecurityGroup,
    SecurityGroup,
    Server,
    VolumeAttachment,
    now,
)
from ...models.hardware import read_devices
from ...policy import rule
from ...scheduler import is_up
from ...server_groups import read_group_ids

EXTENDED = rule("compute:servers:show:extended", "role:admin")
PROGRESSING = ("ACTIVE", "BUILD")
DOMAIN_PREFIX = "kumo-"  # module_utils/kumo/names.py names the libvirt domain

# Fields of a view by the version that brought them; those of `trim` in every answer about a server.
VIEW_FIELDS = {
    "locked": one({}, since("2.9")),
    "host_status": one({}, since("2.16")),
    "description": one({}, since("2.19")),
    "tags": one({}, since("2.26")),
    "trusted_image_certificates": one({}, since("2.63")),
    "server_groups": one({}, since("2.71")),
    "locked_reason": one({}, since("2.73")),
    "OS-EXT-SRV-ATTR:reservation_id": one({}, since("2.3")),
    "OS-EXT-SRV-ATTR:launch_index": one({}, since("2.3")),
    "OS-EXT-SRV-ATTR:hostname": one({}, since("2.3")),
    "OS-EXT-SRV-ATTR:kernel_id": one({}, since("2.3")),
    "OS-EXT-SRV-ATTR:ramdisk_id": one({}, since("2.3")),
    "OS-EXT-SRV-ATTR:root_device_name": one({}, since("2.3")),
    "OS-EXT-SRV-ATTR:user_data": one({}, since("2.3")),
    "pinned_availability_zone": one({}, since("2.96")),
}


@dataclass
class Nic:
    """A port of a server: its network's name, and (fixed address, its floating address or None)."""

    port_id: str
    network_id: str
    network_name: str
    mac: str
    addresses: list[tuple[str, str, str | None]] = field(default_factory=list)  # subnet id, fixed, floating


@dataclass
class Shown:
    """A server with all that its view needs."""

    server: Server
    host: Host | None
    nics: list[Nic]
    groups: list[str]
    extended: bool
    host_up: bool = False
    volumes: list[dict] = field(default_factory=list)
    group_id: str | None = None  # the server group


def show_time(at: datetime | None) -> str | None:
    """The API's usual time: UTC, whole seconds, Z."""
    return None if at is None else at.isoformat()[:19] + "Z"


def show_fine_time(at: datetime | None) -> str | None:
    """The time of `OS-SRV-USG` and actions: UTC, microseconds, no zone."""
    return None if at is None else at.isoformat(timespec="microseconds")[:26]


def read_nics(session, server_ids: Iterable[str]) -> dict[str, list[Nic]]:
    """The ports of each server, in the order of its NICs, in two queries."""
    ids = list(server_ids)
    found: dict[str, list[Nic]] = {}
    if not ids:
        return found
    floating = {
        (port_id, fixed): address
        for port_id, fixed, address in session.execute(
            select(FloatingIP.port_id, FloatingIP.fixed_address, FloatingIP.address)
            .join(Port, Port.id == FloatingIP.port_id)
            .where(Port.device_id.in_(ids))
        )
    }
    rows = session.execute(
        select(
            Port.device_id,
            Port.id,
            Port.network_id,
            Network.name,
            Port.mac_address,
            Address.subnet_id,
            Address.address,
        )
        .join(Network, Network.id == Port.network_id)
        .outerjoin(Address, Address.port_id == Port.id)
        .where(Port.device_id.in_(ids))
        .order_by(Port.device_id, Port.device_index, Port.id, Address.id)
    )
    for device_id, port_id, network_id, name, mac, subnet_id, address in rows:
        nics = found.setdefault(device_id, [])
        if not nics or nics[-1].port_id != port_id:
            nics.append(Nic(port_id, network_id, name, mac))
        if address is not None:
            nics[-1].addresses.append((subnet_id, address, floating.get((port_id, address))))
    return found


def read_group_names(session, server_ids: Iterable[str]) -> dict[str, list[str]]:
    """The names of the security groups of each server's ports, each once, in one query."""
    ids = list(server_ids)
    found: dict[str, list[str]] = {}
    if ids:
        rows = session.execute(
            select(Port.device_id, SecurityGroup.name, SecurityGroup.id)
            .join(PortSecurityGroup, PortSecurityGroup.port_id == Port.id)
            .join(SecurityGroup, SecurityGroup.id == PortSecurityGroup.security_group_id)
            .where(Port.device_id.in_(ids))
            .distinct()
            .order_by(SecurityGroup.name, SecurityGroup.id)
        )
        for device_id, name, _ in rows:
            found.setdefault(device_id, []).append(name)
    return found


def read_volumes(session, server_ids: list[str]) -> dict[str, list[dict]]:
    """{server id: [{id, delete_on_termination}]} of the volumes that are wanted in the servers, one query."""
    found: dict[str, list[dict]] = {}
    rows = session.execute(
        select(VolumeAttachment.server_id, VolumeAttachment.volume_id, VolumeAttachment.delete_with_server)
        .where(VolumeAttachment.server_id.in_(server_ids))
        .order_by(VolumeAttachment.device)
    )
    for server_id, volume_id, goes in rows:
        found.setdefault(server_id, []).append({"id": volume_id, "delete_on_termination": goes})
    return found


def read_shown(ctx: Context, servers: list[Server]) -> list[Shown]:
    """The servers with all that their views need, in six queries."""
    ids = [server.id for server in servers]
    nics = read_nics(ctx.session, ids)
    groups = read_group_names(ctx.session, ids)
    volumes = read_volumes(ctx.session, ids)
    server_groups = read_group_ids(ctx.session, ids)
    host_ids = {server.host_id for server in servers if server.host_id}
    hosts = {host.id: host for host in ctx.session.scalars(select(Host).where(Host.id.in_(host_ids)))}
    extended = ctx.allows(EXTENDED)
    at, sweep_s = now(), ctx.settings.worker.sweep_s
    up = {host.id: is_up(host.observed_at, host.forced_down, at, sweep_s) for host in hosts.values()}
    return [
        Shown(
            server,
            hosts.get(server.host_id),
            nics.get(server.id, []),
            groups.get(server.id, []),
            extended,
            up.get(server.host_id, False),
            volumes.get(server.id, []),
            server_groups.get(server.id),
        )
        for server in servers
    ]


def build_links(ctx: Context, kind: str, object_id: str) -> list[dict]:
    """The self and bookmark links of an object, ``kind`` being its plural in paths."""
    path = f"/{kind}/{object_id}"
    return [{"rel": "self", "href": ctx.url(path)}, build_bookmark(ctx, kind, object_id)]


def build_bookmark(ctx: Context, kind: str, object_id: str) -> dict:
    """The unversioned link of an object."""
    return {"rel": "bookmark", "href": ctx.url(f"/{kind}/{object_id}", versioned=False)}


def build_host_hash(server: Server, host: Host | None) -> str:
    """The host as a project may know it: the same text for the same host, another one for other projects."""
    return "" if host is None else hashlib.sha224((server.project_id + host.name).encode()).hexdigest()


def build_addresses(nics: list[Nic]) -> dict[str, list[dict]]:
    """{network's name: [fixed and floating addresses]}."""
    found: dict[str, list[dict]] = {}
    for nic in nics:
        listed = found.setdefault(nic.network_name, [])
        for _, fixed, floating in nic.addresses:
            for kind, address in (("fixed", fixed), ("floating", floating)):
                if address is not None:
                    listed.append(
                        {
                            "version": 6 if ":" in address else 4,
                            "addr": address,
                            "OS-EXT-IPS:type": kind,
                            "OS-EXT-IPS-MAC:mac_addr": nic.mac,
                        }
                    )
    return found


def _build_flavor(ctx: Context, server: Server) -> dict:
    if ctx.version < (2, 47):
        return {"id": server.flavor_id, "links": [build_bookmark(ctx, "flavors", server.flavor_id)]}
    flavor = server.flavor
    return {
        "vcpus": flavor["vcpus"],
        "ram": flavor["ram_mb"],
        "disk": flavor["disk_gb"],
        "ephemeral": flavor.get("ephemeral_gb", 0),
        "swap": flavor.get("swap_mb", 0),
        "original_name": flavor["name"],
        "extra_specs": flavor.get("extra_specs", {}),
    }


def _build_fault(shown: Shown) -> dict:
    server = shown.server
    fault = {"code": server.fault_code or 500, "created": show_time(server.fault_at), "message": server.fault_message}
    if server.fault_details and (shown.extended or fault["code"] != 500):
        fault["details"] = server.fault_details
    return fault


def _choose_host_status(shown: Shown) -> str:
    if shown.host is None:
        return ""
    if not shown.host.enabled:
        return "MAINTENANCE"
    if shown.host.forced_down:
        return "DOWN"
    return "UP" if shown.host_up else "UNKNOWN"


def view_listed(ctx: Context, server: Server) -> dict:
    return {"id": server.id, "name": server.name, "links": build_links(ctx, "servers", server.id)}


def view_basic(ctx: Context, shown: Shown) -> dict:
    """What an answer to an update says until 2.74."""
    server = shown.server
    view = {
        "id": server.id,
        "name": server.name,
        "status": server.status,
        "tenant_id": server.project_id,
        "user_id": server.user_id,
        "metadata": server.metadata_,
        "hostId": build_host_hash(server, shown.host),
        "image": "",
        "flavor": _build_flavor(ctx, server),
        "created": show_time(server.created_at),
        "updated": show_time(server.updated_at),
        "addresses": build_addresses(shown.nics),
        "accessIPv4": server.access_ipv4 or "",
        "accessIPv6": server.access_ipv6 or "",
        "links": build_links(ctx, "servers", server.id),
        "OS-DCF:diskConfig": server.disk_config,
        "locked": server.locked,
        "locked_reason": server.locked_reason if server.locked else None,
        "description": server.description,
        "tags": sorted(server.tags),
        "trusted_image_certificates": None,
        "server_groups": [shown.group_id] if shown.group_id else [],
    }
    if server.image_id:
        view["image"] = {"id": server.image_id, "links": [build_bookmark(ctx, "images", server.image_id)]}
    if server.status in PROGRESSING:
        view["progress"] = 0
    if server.status in ("ERROR", "DELETED") and server.fault_message is not None:
        view["fault"] = _build_fault(shown)
    return view


def view_shown(ctx: Context, shown: Shown) -> dict:
    server, host = shown.server, shown.host
    zone = host.zone if host else server.availability_zone or ""
    view = {
        **view_basic(ctx, shown),
        "config_drive": "True" if server.config_drive else "",
        "key_name": server.key_name,
        "OS-EXT-AZ:availability_zone": zone,
        "OS-EXT-STS:task_state": server.task_state,
        "OS-EXT-STS:vm_state": server.vm_state,
        "OS-EXT-STS:power_state": server.power_state,
        "OS-SRV-USG:launched_at": show_fine_time(server.built_at),
        "OS-SRV-USG:terminated_at": show_fine_time(server.gone_at),
        "os-extended-volumes:volumes_attached": [
            one if ctx.version >= (2, 3) else {"id": one["id"]} for one in shown.volumes
        ],
        "pinned_availability_zone": server.availability_zone,
    }
    if shown.groups:  # left out where there is none, as in the reference
        view["security_groups"] = [{"name": name} for name in shown.groups]
    if shown.extended or ctx.version >= (2, 90):
        view["OS-EXT-SRV-ATTR:hostname"] = server.hostname
    if shown.extended:
        name = host.name if host else None
        view |= {
            "OS-EXT-SRV-ATTR:host": name,
            "OS-EXT-SRV-ATTR:hypervisor_hostname": name,
            "OS-EXT-SRV-ATTR:instance_name": DOMAIN_PREFIX + server.id,
            "OS-EXT-SRV-ATTR:reservation_id": server.reservation_id,
            "OS-EXT-SRV-ATTR:launch_index": server.launch_index,
            "OS-EXT-SRV-ATTR:kernel_id": "",
            "OS-EXT-SRV-ATTR:ramdisk_id": "",
            "OS-EXT-SRV-ATTR:root_device_name": f"/dev/{read_devices(server)['root']}",
            "OS-EXT-SRV-ATTR:user_data": server.user_data,
            "host_status": _choose_host_status(shown),
        }
    return view


def view_detailed(ctx: Context, shown: Shown) -> dict:
    """An entry of a list: without the groups of servers, which only single servers show."""
    view = view_shown(ctx, shown)
    del view["server_groups"]
    return view


def view_updated(ctx: Context, shown: Shown) -> dict:
    """Until 2.74 less than showing one, also of each address."""
    if ctx.version >= (2, 75):
        return view_shown(ctx, shown)
    view = view_basic(ctx, shown)
    for addresses in view["addresses"].values():
        addresses[:] = [{name: address[name] for name in ("version", "addr")} for address in addresses]
    return view
