"""Servers: list, show, create, update. Writes what is wanted; the loop makes it so.

Source: Compute API reference, "Servers (servers)". What a request refers to is checked in
`server_requests.py`, room is found in `placement.py`, views are in `server_views.py`, the actions in
`server_actions.py`, deletion in `server_deletions.py`. Handlers see the newest form of a request.
"""

from __future__ import annotations

import secrets
import string

from sqlalchemy import select

from ...allocation import allocate_port
from ...fields import (
    BASE64,
    BOOL,
    DESCRIPTION,
    IPV4,
    IPV6,
    METADATA,
    NAME,
    OBJECT,
    UUID,
    field,
    items,
    mapping,
    nullable,
    one_of,
    since,
    text,
    until,
    whole,
)
from ...http import Context
from ...models import Host, Network, Server, ServerGroupMember, new_uuid, now, touch
from ...models.networks import COMPUTE
from ...models.reach import touch_port
from ...paging import Page, read_page
from ...policy import MEMBER, READER, rule
from ...reconcile.status import refresh_status
from ...router_legs import sync_router_legs
from ...routes import Reply, Route
from ...scheduler import NoValidHost
from .block_devices import read_block_devices, store_volumes
from .device_tags import TAG as DEVICE_TAG
from .device_tags import check_tags
from .placement import build_demand, check_server_quota, place
from .scheduler_hints import OUTER, check_member_quota, read_hints
from .server_filters import SORT_COLUMNS, build_conditions, build_sort_query
from .server_hardware import choose_password, read_made_of
from .server_requests import (
    Nic,
    build_hostname,
    check_metadata,
    check_unsupported,
    invalid,
    normalize_address,
    read_flavor,
    read_groups,
    read_key,
    read_nics,
    read_zone,
)
from .server_requests import check_user_data as check_data
from .server_rows import begin_operation, find_server, find_server_to_change, mark_changed, record_action
from .server_views import (
    VIEW_FIELDS,
    Shown,
    build_links,
    read_shown,
    view_detailed,
    view_listed,
    view_shown,
    view_updated,
)

TAG = {"type": "string", "minLength": 1, "maxLength": 60, "pattern": "^[^,/]*$"}
LABEL = r"[a-zA-Z0-9]([a-zA-Z0-9-]*[a-zA-Z0-9])?"
HOSTNAME = {"type": "string", "minLength": 2, "maxLength": 63, "pattern": rf"^{LABEL}\Z"}
FQDN = {"type": "string", "minLength": 2, "maxLength": 255, "pattern": rf"^{LABEL}(\.{LABEL})*\Z"}
NETWORK = mapping({"uuid": UUID, "port": nullable(UUID), "fixed_ip": {"anyOf": [IPV4, IPV6]}, "tag": DEVICE_TAG})
FIELDS = {
    "name": field(NAME, required=True),
    "flavorRef": field({"type": ["string", "integer"], "minLength": 1, "maxLength": 255}, required=True),
    "imageRef": field({"anyOf": [UUID, one_of("")]}),
    "networks": field({"anyOf": [items(NETWORK, 32), one_of("auto", "none")]}, required=True),
    "security_groups": field(items(mapping({"name": text(255, 1)}, ("name",)), 64)),
    "key_name": field(nullable(text(255, 1))),
    "user_data": field(nullable(BASE64)),
    "metadata": field(METADATA),
    "availability_zone": field(nullable(text(255, 1))),
    "min_count": field(whole(1)),
    "max_count": field(whole(1)),
    "return_reservation_id": field(BOOL),
    "config_drive": field(nullable(BOOL)),
    "block_device_mapping": field(items(OBJECT, 32)),
    "block_device_mapping_v2": field(items(OBJECT, 32)),
    "OS-DCF:diskConfig": field(one_of("AUTO", "MANUAL")),
    "accessIPv4": field(IPV4),
    "accessIPv6": field(IPV6),
    "adminPass": field(text(255), secret=True),
    "personality": field(items(OBJECT, 255), until("2.56"), secret=True),
    "description": field(DESCRIPTION, since("2.19")),
    "tags": field(items(TAG, 50, unique=True), since("2.52")),
    "trusted_image_certificates": field(nullable(items(text(255, 1), 50)), since("2.63")),
    "host": field(text(255, 1), since("2.74")),
    "hypervisor_hostname": field(text(255, 1), since("2.74")),
    "hostname": field(HOSTNAME, since("2.90")),
}
FIELDS_2_1 = {**FIELDS, "networks": field(items(NETWORK, 32))}
FIELDS_2_94 = {**FIELDS, "hostname": field(FQDN)}
UPDATE_FIELDS = {
    "name": field(NAME),
    "OS-DCF:diskConfig": field(one_of("AUTO", "MANUAL")),
    "accessIPv4": field({"anyOf": [IPV4, one_of("", None)]}),
    "accessIPv6": field({"anyOf": [IPV6, one_of("", None)]}),
    "description": field(DESCRIPTION, since("2.19")),
    "hostname": field(HOSTNAME, since("2.90")),
}
UPDATE_FIELDS_2_94 = {**UPDATE_FIELDS, "hostname": field(FQDN)}


def _read_page(ctx: Context) -> Page:
    return read_page(
        ctx.session,
        select(Server).where(*build_conditions(ctx)),
        build_sort_query(ctx.query, ctx.version),
        columns=SORT_COLUMNS,
        identity=Server.id,
        default=[("created_at", "desc")],
        maximum=ctx.settings.api.max_limit,
    )


def index(ctx: Context) -> Page:
    return _read_page(ctx)


def detail(ctx: Context) -> Page:
    page = _read_page(ctx)
    page.rows = read_shown(ctx, page.rows)
    return page


def show(ctx: Context, server_id: str) -> Shown:
    return read_shown(ctx, [find_server(ctx, server_id)])[0]


def create(ctx: Context) -> Reply | dict:
    """Servers that are wanted, each on the host chosen for it; one that fits nowhere is an ERROR with its reason."""
    body = ctx.body
    check_unsupported(body)
    check_tags(ctx, body)
    least, most = _read_counts(body)
    flavor = read_flavor(ctx, body["flavorRef"])
    devices = read_block_devices(ctx, body, flavor, most)
    image = devices.image
    made_of = read_made_of(ctx, body, flavor, devices)
    key = read_key(ctx, body.get("key_name"))
    user_data = check_data(body.get("user_data"))
    metadata = check_metadata(ctx, body.get("metadata", {}))
    zone, forced_host = read_zone(ctx, body.get("availability_zone"))
    groups = read_groups(ctx, body.get("security_groups"))
    nics = read_nics(ctx, body.get("networks"), most)
    hints = read_hints(ctx)
    count = check_server_quota(ctx, flavor, least, most)
    if hints.group is not None:
        count = check_member_quota(ctx, hints.group, least, count)
    wanted = {nic.network.id for nic in nics}
    ctx.session.execute(select(Network.id).where(Network.id.in_(wanted)).order_by(Network.id).with_for_update())
    demand = build_demand(flavor, image, zone, forced_host, made_of["disks"].get("gb", 0))
    hosts = place(ctx, demand, count, hints)
    reservation_id = "r-" + "".join(secrets.choice(string.ascii_lowercase + string.digits) for _ in range(8))
    common = {
        "project_id": ctx.project_id,
        "user_id": ctx.token.user_id,
        "reservation_id": reservation_id,
        "description": body.get("description"),
        "flavor_id": flavor.id,
        "flavor": {
            "name": flavor.name,
            "vcpus": flavor.vcpus,
            "ram_mb": flavor.ram_mb,
            "disk_gb": flavor.disk_gb,
            "ephemeral_gb": flavor.ephemeral_gb,
            "swap_mb": flavor.swap_mb,
            "extra_specs": dict(flavor.extra_specs),
        },
        "image_id": image.id if image is not None else None,
        **made_of,
        "key_name": key.name if key else None,
        "key_type": key.type if key else None,
        "key_data": key.public_key if key else None,
        "user_data": user_data,
        "metadata_": metadata,
        "tags": sorted(body.get("tags", [])),
        "disk_config": body.get("OS-DCF:diskConfig", "MANUAL"),
        "availability_zone": zone,
        "access_ipv4": normalize_address(body.get("accessIPv4")),
        "access_ipv6": normalize_address(body.get("accessIPv6")),
    }
    servers = []
    for number, host in enumerate(hosts):
        suffix = f"-{number + 1}" if most > 1 else ""
        server_id = new_uuid()
        name = f"{body['name'][: 255 - len(suffix)]}{suffix}"
        if body.get("hostname"):
            hostname = f"{body['hostname']}{suffix}"
        else:
            hostname = build_hostname(name, server_id)
        server = Server(id=server_id, name=name, hostname=hostname, launch_index=number, **common)
        _store_placed(ctx, server, host, nics, groups)
        if hints.group is not None:
            ctx.session.add(ServerGroupMember(server_id=server.id, group_id=hints.group.id))
        if server.host_id is not None:
            store_volumes(ctx, server, devices.volumes)
        servers.append(server)
    sync_router_legs(ctx.session, ctx.settings, wanted, request_id=ctx.request_id)
    if body.get("return_reservation_id"):
        return Reply({"reservation_id": reservation_id}, 202)
    first = servers[0]
    view = {
        "id": first.id,
        "links": build_links(ctx, "servers", first.id),
        "OS-DCF:diskConfig": first.disk_config,
        "security_groups": [{"name": group.name} for group in groups] if groups else [{"name": "default"}],
    }
    view["adminPass"] = made_of["injected"].get("admin_pass") or choose_password(body)
    return Reply({"server": view}, 202, {"Location": ctx.url(f"/servers/{first.id}")})


def _read_counts(body: dict) -> tuple[int, int]:
    least = body.get("min_count", 1)
    most = body.get("max_count", least)
    if least > most:
        raise invalid("min_count", least, "min_count must be <= max_count")
    return least, most


def _store_placed(ctx: Context, server: Server, host: str | NoValidHost, nics: list[Nic], groups) -> None:
    """Write the server with its ports on the host chosen, or with the fault that says why there is none."""
    server.host_id = None if isinstance(host, NoValidHost) else host
    ctx.session.add(server)
    ctx.session.flush()
    record_action(ctx, server, "create", finished=server.host_id is None)
    if isinstance(host, NoValidHost):
        server.fault_code, server.fault_message, server.fault_details = 500, str(host), host.details
        server.fault_at = now()
        refresh_status(server)
        return
    zone = _read_zone_of(ctx, host)
    for position, nic in enumerate(nics):
        if nic.port is not None:
            _bind_port(ctx, server, nic, position, zone)
        else:
            allocate_port(
                ctx.session,
                ctx.settings,
                network=nic.network,
                project_id=server.project_id,
                fixed_ips=[{"ip_address": nic.fixed_ip}] if nic.fixed_ip else None,
                device_id=server.id,
                device_owner=COMPUTE + zone,
                device_index=position,
                device_tag=nic.tag,
                host_id=server.host_id,
                security_group_ids=[group.id for group in groups] if groups else None,
                delete_with_device=True,
                dns_name=server.hostname.split(".")[0],
                privileged=True,  # `server_requests.read_nics` has checked what this caller may use
                request_id=ctx.request_id,
            )
    begin_operation(ctx, server, "build")
    refresh_status(server)
    touch(ctx.session, server.host_id, ctx.request_id)


def _read_zone_of(ctx: Context, host_id: str) -> str:
    return ctx.session.get(Host, host_id).zone


def _bind_port(ctx: Context, server: Server, nic: Nic, position: int, zone: str) -> None:
    port = nic.port
    port.device_id, port.device_owner = server.id, COMPUTE + zone
    port.device_index, port.host_id = position, server.host_id
    port.dns_name = port.dns_name or server.hostname.split(".")[0]
    port.device_tag, port.observed_state = nic.tag, None
    ctx.session.flush()
    touch_port(ctx.session, port, ctx.request_id)


def update(ctx: Context, server_id: str) -> Shown:
    """Names and addresses to show; a new host name reaches the guest's metadata."""
    body = ctx.body
    server = find_server_to_change(ctx, server_id, "update")
    server.name = body.get("name", server.name)
    server.description = body.get("description", server.description)
    server.hostname = body.get("hostname", server.hostname)
    server.disk_config = body.get("OS-DCF:diskConfig", server.disk_config)
    for name, column in (("accessIPv4", "access_ipv4"), ("accessIPv6", "access_ipv6")):
        if name in body:
            setattr(server, column, normalize_address(body[name]))
    mark_changed(ctx, server)
    ctx.session.flush()
    return read_shown(ctx, [server])[0]


def view_created(ctx: Context, view: dict) -> dict:
    return view


LIST = rule("compute:servers:index", READER)
DETAIL = rule("compute:servers:detail", READER)
SHOW = rule("compute:servers:show", READER)
CREATE = rule("compute:servers:create", MEMBER)
UPDATE = rule("compute:servers:update", MEMBER)


def _create_route(fields: dict, **bounds) -> Route:
    return Route("POST", "/servers", CREATE, fields, create, view_created, 202, key="server", outer=OUTER, **bounds)


def _update_route(fields: dict, **bounds) -> Route:
    path, options = "/servers/{server_id}", {"key": "server", "view_fields": VIEW_FIELDS, **bounds}
    return Route("PUT", path, UPDATE, fields, update, view_updated, **options)


ROUTES = [
    Route("GET", "/servers", LIST, None, index, view_listed, key="servers"),
    Route("GET", "/servers/detail", DETAIL, None, detail, view_detailed, key="servers", view_fields=VIEW_FIELDS),
    Route("GET", "/servers/{server_id}", SHOW, None, show, view_shown, key="server", view_fields=VIEW_FIELDS),
    _create_route(FIELDS_2_1, until="2.36"),
    _create_route(FIELDS, since="2.37", until="2.93"),
    _create_route(FIELDS_2_94, since="2.94"),
    _update_route(UPDATE_FIELDS, until="2.93"),
    _update_route(UPDATE_FIELDS_2_94, since="2.94"),
]
