"""Servers shelved, offloaded and unshelved: off with their disk kept as an image, off their host, and back on one.

What is wanted is written; hosts make it so (`web/shelving.py`). A server without a place is told in its action, not by
the answer, as the reference has it. Source: Compute API reference, "Shelve Server (shelve Action)", "Shelf-Offload
(Remove) Server (shelveOffload Action)", "Unshelve (Restore) Shelved Server (unshelve Action)".
"""

from __future__ import annotations

from dataclasses import replace
from types import SimpleNamespace

from sqlalchemy import select

from ...capacity import build_offer, read_candidates, read_hosts, read_local_gb
from ...errors import BadRequest, Conflict, Forbidden
from ...fields import field, nullable, since, text
from ...http import Context
from ...image_quotas import check_image_quota
from ...models import Host, Image, Server, finish_actions
from ...move_scheduler import Wish, describe
from ...moves import read_open_of_server
from ...policy import ADMIN, MEMBER, rule
from ...routes import Route
from ...scheduler import NoValidHost, choose_host
from ...server_groups import read_company_of
from ...server_images import begin_server_image
from ...shelving import return_to_host
from .placement import build_demand
from .server_images import build_image_of, is_volume_backed
from .server_rows import (
    begin_operation,
    check_placed,
    find_server,
    find_server_to_change,
    find_server_to_move,
    mark_changed,
    record_action,
)

SUFFIX = "-shelved"
ZONE = text(255, 1)
FIELDS_2_77 = {"availability_zone": field(ZONE)}
FIELDS_2_91 = {"availability_zone": field(nullable(ZONE)), "host": field(text(255, 1), since("2.91"))}


def shelve(ctx: Context, server_id: str) -> None:
    """The guest is shut down, its disk becomes an image; with `[compute] shelved_offload_time_s` = 0 it leaves its host
    at once, as a guest on a volume always does, which needs no image."""
    on_volume = is_volume_backed(ctx, find_server(ctx, server_id))
    if not on_volume:
        # The project's row is held before the host's, as whoever places guests does it.
        check_image_quota(ctx.session, find_server(ctx, server_id).project_id)
    server = find_server_to_change(ctx, server_id, "shelve")
    check_placed(server)
    at_once = on_volume or ctx.settings.compute.shelved_offload_time_s == 0
    server.shelve, server.stop_graceful = "offloaded" if at_once else "shelved", True
    begin_operation(ctx, server, "shelve")
    if not on_volume:
        server.operation_deadline = None  # the image has one, which begins anew with all that is sent of it
        name = f"{server.name[: 255 - len(SUFFIX)]}{SUFFIX}"
        image = build_image_of(ctx, server, name, server.project_id, {}, {"image_type": "snapshot"})
        server.shelved_image_id = image.id
        begin_server_image(ctx.session, server, image)
    record_action(ctx, server, "shelve")
    mark_changed(ctx, server)


def shelve_offload(ctx: Context, server_id: str) -> None:
    """What the host still has of a shelved server goes, and the host's room with it."""
    server = find_server_to_change(ctx, server_id, "shelve_offload")
    server.shelve = "offloaded"
    begin_operation(ctx, server, "shelveOffload")
    record_action(ctx, server, "shelveOffload")
    mark_changed(ctx, server)


def unshelve(ctx: Context, server_id: str) -> None:
    """It runs again: where it is, or made of its image on a host that is chosen for it now."""
    body = ctx.body
    if "host" in body and not ctx.allows(UNSHELVE_TO_HOST):
        raise Forbidden(f"Policy doesn't allow {UNSHELVE_TO_HOST} to be performed.")
    server = find_server_to_move(ctx, server_id, "unshelve")
    if body and server.offloaded_at is None:
        raise Conflict(
            "Specifying an availability zone or a host when unshelving instance "
            f'"{server.id}" with status "{server.vm_state}" is not supported. The instance status must be '
            "SHELVED_OFFLOADED."
        )
    _apply_place(ctx, server)
    record_action(ctx, server, "unshelve")
    try:
        dest = None if server.offloaded_at is None else _choose(ctx, server)
    except NoValidHost as refusal:
        ctx.session.flush()
        finish_actions(ctx.session, server.id, f"Error: {describe(refusal, Wish(host=body.get('host')))}")
        return
    server.power = "on"
    server.start_wanted += 1
    begin_operation(ctx, server, "unshelve")
    if dest is None:
        server.shelve = None
    else:
        return_to_host(ctx.session, ctx.settings, server, dest, ctx.request_id)
    mark_changed(ctx, server)


def _apply_place(ctx: Context, server: Server) -> None:
    """The zone that was asked for is the server's from now on (null: any); the host named must be in it."""
    body = ctx.body
    if "availability_zone" in body:
        zone = body["availability_zone"]
        if zone is not None and ctx.session.scalar(select(Host.id).where(Host.zone == zone).limit(1)) is None:
            raise BadRequest("The requested availability zone is not available")
        server.availability_zone = zone
    if "host" in body:
        host = ctx.session.scalar(select(Host).where(Host.name == body["host"]))
        if host is None or "hypervisor" not in host.roles:
            raise BadRequest(f"Compute host {body['host']} could not be found.")
        if server.availability_zone is not None and host.zone != server.availability_zone:
            raise Conflict(f'Host "{host.name}" is not in the availability zone "{server.availability_zone}".')


def _choose(ctx: Context, server: Server) -> str:
    """The id of a host for the server; NoValidHost, or Conflict where there is nothing to make it of any more."""
    image = None
    if server.shelved_image_id is not None:
        image = ctx.session.get(Image, server.shelved_image_id)
        if image is None or image.deleted_at is not None or image.status != "active":
            raise Conflict(
                f"Unshelve of instance {server.id} attempted but the image {server.shelved_image_id} cannot be found: "
                "reactivate it where it is deactivated; where it was deleted, the instance can only be deleted."
            )
    hosts = read_hosts(ctx.session)
    left = "an earlier move of this server has not ended there yet"
    moves = read_open_of_server(ctx.session, server.id)
    busy = {host_id for one in moves for host_id in (one.source_host_id, one.dest_host_id)} - {None}
    sizes = {name: server.flavor[name] for name in ("vcpus", "ram_mb", "disk_gb")}
    host = ctx.body.get("host")
    demand = build_demand(SimpleNamespace(**sizes), image, server.availability_zone, host, read_local_gb(server))
    demand = replace(
        demand, enabled_only=True, avoid=dict.fromkeys(busy, left), company=read_company_of(ctx.session, server)
    )
    return choose_host(read_candidates(ctx.session, ctx.settings, hosts), demand, build_offer(ctx.settings))


PATH = "/servers/{server_id}/action"
SHELVE = rule("compute:servers:shelve", MEMBER)
OFFLOAD = rule("compute:servers:shelve_offload", ADMIN)
UNSHELVE = rule("compute:servers:unshelve", MEMBER)
UNSHELVE_TO_HOST = rule("compute:servers:unshelve_to_host", "role:admin")
ROUTES = [
    Route("POST", PATH, SHELVE, None, shelve, None, 202, action="shelve"),
    Route("POST", PATH, OFFLOAD, None, shelve_offload, None, 202, action="shelveOffload"),
    Route("POST", PATH, UNSHELVE, None, unshelve, None, 202, action="unshelve", until="2.76"),
    Route("POST", PATH, UNSHELVE, FIELDS_2_77, unshelve, None, 202, action="unshelve", since="2.77", until="2.90"),
    Route("POST", PATH, UNSHELVE, FIELDS_2_91, unshelve, None, 202, action="unshelve", since="2.91"),
]
